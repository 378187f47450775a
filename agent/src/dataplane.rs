//! The data plane: sources, workers and sinks of every component, behind the messages of [`crate::plane`].
//!
//! One task per component ([`component`]); they share nothing. All channels are bounded: a source is asked only when
//! there is room, and of what is told to the control plane only telemetry is ever dropped. The control plane must go on
//! reading happenings while it gives commands.

mod component;
pub mod config;
pub mod feedback;
mod flow;
mod health;
mod intake;
mod keeper;
mod place;
mod recent;
mod shadow;
mod tally;

use crate::endpoint::{self, HttpError};
use crate::plane::{Addressed, Command, Happening};
use crate::sink::{Board, FileSink, FileSinkError};
use crate::source::Source;
use crate::worker::{Caches, WorkerProgram};
use component::{Component, Parts};
use config::{Config, SinkConfig};
use feedback::{FEEDBACK_MAX, Listeners};
use sedge_protocol::deployment::Answer;
use sedge_protocol::id::{BootId, ComponentName, Principal};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Commands that wait for the data plane, and for one component.
const COMMANDS_MAX: usize = 64;
/// Happenings that wait for the control plane; half of them may be telemetry.
const HAPPENINGS_MAX: usize = 512;
/// Characters of the boot's name in the names of predictions, which have at most 128.
const BOOT_CHARS_MAX: usize = 24;

/// Who this device is, for telemetry and the names of predictions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The device.
    pub dev: Principal,
    /// This start of the agent.
    pub boot: BootId,
}

/// What the data plane is started with.
pub struct Setup {
    /// What the device's owner set.
    pub config: Config,
    /// How workers are started.
    pub program: WorkerProgram,
    /// What is kept of what workers make of bundles.
    pub caches: Caches,
    /// Who this device is.
    pub identity: Identity,
    /// Sources that others have made, by component and name: those of kind `mqtt`, and whatever else.
    pub sources: HashMap<(ComponentName, String), Box<dyn Source>>,
}

/// The running data plane. When `commands` is dropped, all workers are stopped and `happenings` ends.
#[derive(Debug)]
pub struct DataPlane {
    /// What it is asked.
    pub commands: mpsc::Sender<Addressed<Command>>,
    /// What it tells.
    pub happenings: mpsc::Receiver<Addressed<Happening>>,
    /// What is known of each component right now.
    pub board: Arc<Board>,
    /// Where the HTTP endpoint listens, if there is one.
    pub http: Option<SocketAddr>,
}

/// Why the data plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum DataPlaneError {
    /// A source can't be opened.
    #[error("component {component}, source {name}")]
    Source {
        /// Which component.
        component: ComponentName,
        /// Which source.
        name: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A source that nobody made.
    #[error("component {component}, source {name}: sources of kind `mqtt` are not available here")]
    NoSource {
        /// Which component.
        component: ComponentName,
        /// Which source.
        name: String,
    },
    /// A sink can't be opened.
    #[error("component {component}, sink {name}")]
    Sink {
        /// Which component.
        component: ComponentName,
        /// Which sink.
        name: String,
        /// What is wrong.
        #[source]
        source: FileSinkError,
    },
    /// The HTTP endpoint can't be started.
    #[error(transparent)]
    Http(#[from] HttpError),
}

enum SinkHandle {
    File(FileSink),
    Telemetry,
}

impl Identity {
    fn prediction_id(&self, component: &ComponentName, seq: u64) -> String {
        let boot = self.boot.as_str();
        // Names are ASCII.
        format!("{component}-{}-{seq}", &boot[..boot.len().min(BOOT_CHARS_MAX)])
    }

    /// The number of the sample that a prediction of this boot is about.
    fn seq_of(&self, component: &ComponentName, id: &str) -> Option<u64> {
        let sample = id.split('/').next()?;
        let seq = sample.rsplit('-').next()?.parse().ok()?;
        (self.prediction_id(component, seq) == sample).then_some(seq)
    }
}

impl DataPlane {
    /// Opens sources and sinks, and starts a task for each component. No worker is started before a command says so.
    ///
    /// # Errors
    /// [`DataPlaneError`] naming what can't be opened.
    pub async fn start(setup: Setup) -> Result<Self, DataPlaneError> {
        let Setup { config, program, caches, identity, mut sources } = setup;
        let board = Arc::new(Board::default());
        let (tell, happenings) = mpsc::channel(HAPPENINGS_MAX);
        let mut components = BTreeMap::new();
        let mut tasks = Vec::new();
        let mut listeners = Listeners::default();
        let labels = config.http.is_some_and(|http| http.labels);
        for (name, config) in config.component {
            let made_here = config.source.keys().cloned();
            let made = sources.keys().filter(|(component, _)| *component == name).map(|(_, source)| source.clone());
            // A place for each: one that has no sample keeps its place while it waits for one.
            let places = made_here.chain(made).collect::<BTreeSet<_>>().len();
            let (taken, samples) = mpsc::channel(places.max(1));
            for (source_name, source_config) in &config.source {
                let made = sources.remove(&(name.clone(), source_name.clone()));
                let failed =
                    |source| DataPlaneError::Source { component: name.clone(), name: source_name.clone(), source };
                let source = match made {
                    Some(source) => Some(source),
                    None => intake::open(source_config).map_err(failed)?,
                };
                let missing = || DataPlaneError::NoSource { component: name.clone(), name: source_name.clone() };
                tasks.push((name.clone(), source_name.clone(), source.ok_or_else(missing)?, taken.clone()));
            }
            for (_, source_name) in sources.keys().filter(|(c, _)| *c == name).cloned().collect::<Vec<_>>() {
                if let Some(source) = sources.remove(&(name.clone(), source_name.clone())) {
                    tasks.push((name.clone(), source_name, source, taken.clone()));
                }
            }
            let sinks = config.sink.iter().map(|(sink, c)| open_sink(&name, sink, c)).collect::<Result<_, _>>()?;
            let (give, commands) = mpsc::channel(COMMANDS_MAX);
            // Without anybody who may tell right answers the channel is closed, and the component keeps nothing for them.
            let (told, feedback) = mpsc::channel(FEEDBACK_MAX);
            if labels {
                listeners.0.insert(name.clone(), told);
            }
            board.announce(&name);
            let (program, caches, identity) = (program.clone(), caches.clone(), identity.clone());
            let (happenings, board) = (tell.clone(), board.clone());
            let parts = Parts {
                name: name.clone(),
                config,
                program,
                caches,
                identity,
                commands,
                samples,
                feedback,
                sinks,
                happenings,
                board,
            };
            components.insert(name, (give, parts));
        }
        let http = match &config.http {
            Some(config) => Some(endpoint::start(config, board.clone(), listeners).await?),
            None => None,
        };
        // Nothing runs before everything could be opened.
        for (component, name, source, taken) in tasks {
            intake::run(component, name.into(), source, taken);
        }
        let components = components.into_iter().map(|(name, (give, parts))| {
            tokio::spawn(Component::new(parts).run());
            (name, give)
        });
        let components: HashMap<_, _> = components.collect();
        let (commands, given) = mpsc::channel(COMMANDS_MAX);
        tokio::spawn(distribute(given, components, tell));
        Ok(Self { commands, happenings, board, http })
    }
}

fn open_sink(component: &ComponentName, name: &str, config: &SinkConfig) -> Result<SinkHandle, DataPlaneError> {
    match config {
        SinkConfig::Mqtt {} => Ok(SinkHandle::Telemetry),
        SinkConfig::File { path, bytes_max, files_max } => FileSink::open(path.clone(), *bytes_max, *files_max)
            .map(SinkHandle::File)
            .map_err(|source| DataPlaneError::Sink { component: component.clone(), name: name.to_owned(), source }),
    }
}

async fn distribute(
    mut given: mpsc::Receiver<Addressed<Command>>,
    components: HashMap<ComponentName, mpsc::Sender<Command>>,
    tell: mpsc::Sender<Addressed<Happening>>,
) {
    while let Some((component, command)) = given.recv().await {
        if let Some(give) = components.get(&component) {
            // It ends only with this task, or when the control plane is gone.
            let _ = give.send(command).await;
        } else if let Some(ticket) = command.ticket() {
            let detail = format!("component {component} is not in this device's configuration");
            let answer = Answer::WorkerFailed { detail };
            let _ = tell.send((component, Happening::Answer { ticket, answer })).await;
        }
    }
}
