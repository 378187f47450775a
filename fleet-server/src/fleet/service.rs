//! The fleet as the rest of the server sees it.

use super::Parts;
use super::artifact::{Artifact, ArtifactError, Artifacts, ChunkError, ChunkStore};
use super::carousel::Limits;
use super::director::{Assigned, Assignments, Director, DirectorError, Validity};
use super::hub::{Control, Hub, Measurement, run_telemetry};
use super::mqtt::{Aborted, Connection, MqttEndpoint};
use super::news::{NEWS_MAX, News};
use super::outbox::{Outbox, Ready};
use super::publisher::{Imported, Publisher, PublisherError};
use super::records::{Latest, Presence, Records};
use super::sender::{self, Ticks};
use super::session::Session;
use super::store::{StoreError, now, now_ms};
use sedge_protocol::BundleDigest;
use sedge_protocol::id::{BundleName, ComponentName, Generation, Principal, ProjectId, RequestId, RolloutId};
use sedge_protocol::message::{Action, Command, Message as _, MessageError, V1, Verdict};
use sedge_protocol::time::UnixSeconds;
use sedge_protocol::topic::{DeviceTopic, Topic};
use sedge_protocol::uptane::Assignment;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sqlx::SqlitePool;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::{Semaphore, SemaphorePermit, broadcast, mpsc};

/// How long a command is worth carrying out.
const COMMAND_VALID_MS: u64 = 10 * 60 * 1000;
/// Measurements that wait for a slow listener before it misses some.
const TELEMETRY_MAX: usize = 4096;
const CONTROL_MAX: usize = 1024;
/// Uploads at once; each may take its full size on the disk.
const UPLOADS_MAX: usize = 2;

/// Why something is not done.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum FleetError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Publisher(#[from] PublisherError),
    #[error(transparent)]
    Director(#[from] DirectorError),
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[error(transparent)]
    Chunks(#[from] ChunkError),
    /// A directory cannot be made.
    #[error("the directory {} cannot be made", path.display())]
    Directory { path: PathBuf, source: io::Error },
    /// The bundle is released, and nobody has uploaded it.
    #[error("project `{project}`: bundle {digest} is not uploaded; upload it before it is assigned")]
    NotUploaded { project: ProjectId, digest: BundleDigest },
    /// The bundle has another name.
    #[error("bundle {digest} is `{found}` and not `{named}`")]
    OtherBundle { digest: BundleDigest, named: BundleName, found: BundleName },
    /// The device runs, or is to run, another generation.
    #[error("device `{device}` is at generation {found}; a verdict on {generation} would be void")]
    OtherGeneration { device: Principal, generation: Generation, found: Generation },
    /// The command is no message.
    #[error("the command for `{device}` cannot be written")]
    Command { device: Principal, source: MessageError },
    /// The fleet is being stopped.
    #[error("the server is stopping; repeat when it is back")]
    Stopping,
}

/// Bounds and dates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FleetLimits {
    /// Largest upload.
    pub upload_bytes_max: u64,
    /// How chunks are paced.
    pub carousel: Limits,
    /// How long the director's signatures are valid.
    pub validity: Validity,
}

impl Default for FleetLimits {
    fn default() -> Self {
        Self { upload_bytes_max: 4 << 30, carousel: Limits::default(), validity: Validity::default() }
    }
}

/// What the fleet needs.
#[derive(Debug)]
pub struct FleetContext {
    /// A database with all migrations.
    pub pool: SqlitePool,
    /// Where keys (`keys/`), chunks (`artifacts/`) and uploads (`uploads/`) lie.
    pub data_directory: PathBuf,
    /// The broker.
    pub broker: MqttEndpoint,
    /// Bounds and dates.
    pub limits: FleetLimits,
}

/// First roots of a project, which enrolment pins.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct FirstRoots {
    pub publisher: Vec<u8>,
    pub director: Vec<u8>,
}

/// What a component is to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Desire {
    /// Name of the bundle.
    pub bundle: BundleName,
    /// The bundle.
    pub digest: BundleDigest,
    /// Settings of the component, without fractions.
    #[serde(default)]
    pub settings: Map<String, Value>,
    /// The rollout it is part of.
    #[serde(default)]
    pub rollout: Option<RolloutId>,
    /// From when on it is no longer valid.
    #[serde(default)]
    pub not_after: Option<UnixSeconds>,
    /// Only if this is the present generation.
    #[serde(default)]
    pub expected_generation: Option<Generation>,
}

/// What is known of a device.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceView {
    /// Its name.
    pub device: Principal,
    /// Its latest status.
    pub presence: Option<Presence>,
    /// Number of its desired state; 0 before the first.
    pub generation: Generation,
    /// What it is to run.
    pub desired: Assignments,
    /// What it has reported.
    pub reported: BTreeMap<ComponentName, Latest>,
}

/// The fleet. It works until it is dropped.
#[derive(Debug)]
pub struct Fleet {
    pub(super) parts: Arc<Parts>,
    control: mpsc::Sender<Control>,
    uploads: PathBuf,
    uploading: Semaphore,
    limits: FleetLimits,
    _tasks: Vec<Aborted>,
}

fn directory(path: PathBuf) -> Result<PathBuf, FleetError> {
    match std::fs::create_dir_all(&path) {
        Ok(()) => Ok(path),
        Err(source) => Err(FleetError::Directory { path, source }),
    }
}

impl Fleet {
    /// Opens what is stored, checks that every project's keys are there, and begins to speak with the broker, which may
    /// come later.
    ///
    /// # Errors
    /// [`FleetError`] when keys, directories or the database cannot be used.
    pub async fn start(context: FleetContext) -> Result<Self, FleetError> {
        let FleetContext { pool, data_directory, broker, limits } = context;
        let uploads = directory(data_directory.join("uploads"))?;
        let chunks = ChunkStore::local(&directory(data_directory.join("artifacts"))?)?;
        let mut session = Session::default();
        let records = Records::new(pool.clone());
        for (device, Presence { status, json, .. }) in records.presences(None).await? {
            session.resume(device, &status, json);
        }
        let parts = Arc::new(Parts {
            publisher: Publisher::new(pool.clone()),
            director: Director::new(pool.clone(), &data_directory.join("keys"), limits.validity),
            artifacts: Artifacts::new(pool, chunks),
            records,
            outbox: Outbox::new(limits.carousel),
            ticks: Ticks::start(),
            session: Mutex::new(session),
            telemetry: broadcast::channel(TELEMETRY_MAX).0,
            news: broadcast::channel(NEWS_MAX).0,
        });
        for project in parts.publisher.projects().await? {
            parts.director.create(&project, now()).await?;
            parts.director.renew_root(&project, now()).await?;
        }
        let (control, controls) = mpsc::channel(CONTROL_MAX);
        let main = Connection::open(&broker, "server:main");
        let telemetry = Connection::open(&broker, "server:main/telemetry");
        let tasks = vec![
            Aborted::spawn(sender::run(Arc::clone(&parts), main.client.clone(), main.link.clone())),
            Aborted::spawn(Hub::new(Arc::clone(&parts)).run(main, controls)),
            Aborted::spawn(run_telemetry(Arc::clone(&parts), telemetry)),
        ];
        let uploading = Semaphore::new(UPLOADS_MAX);
        Ok(Self { parts, control, uploads, uploading, limits, _tasks: tasks })
    }

    /// Begins a project with the publisher's first root, and makes its director. The same again changes nothing.
    ///
    /// # Errors
    /// [`FleetError`] for a root that is not signed by itself, or another than the project has.
    pub async fn create_project(&self, project: &ProjectId, first_root: &[u8]) -> Result<FirstRoots, FleetError> {
        self.parts.publisher.create(project, first_root).await?;
        self.parts.director.create(project, now()).await?;
        self.first_roots(project).await
    }

    /// The first roots that devices of a project pin.
    ///
    /// # Errors
    /// [`PublisherError::NoProject`].
    pub async fn first_roots(&self, project: &ProjectId) -> Result<FirstRoots, FleetError> {
        let publisher = self.parts.publisher.first_root(project).await?;
        let director = self.parts.director.root(project, Some(1)).await?;
        let director = director.ok_or_else(|| DirectorError::NoProject { project: project.clone() })?;
        Ok(FirstRoots { publisher, director })
    }

    /// Takes a file that the publisher signed.
    ///
    /// # Errors
    /// [`PublisherError`] with the reason that a device would have.
    pub async fn import(&self, project: &ProjectId, name: &str, file: &[u8]) -> Result<Imported, FleetError> {
        let imported = self.parts.publisher.import(project, name, file, now()).await?;
        if imported.new && imported.complete {
            self.tell(Control::PublisherChanged(project.clone())).await?;
        }
        Ok(imported)
    }

    async fn tell(&self, control: Control) -> Result<(), FleetError> {
        self.control.send(control).await.map_err(|_| FleetError::Stopping)
    }

    /// Takes a packed bundle that the publisher has released. Whether it was new.
    ///
    /// # Errors
    /// [`ArtifactError`].
    pub async fn add_bundle(&self, project: &ProjectId, file: File) -> Result<(Artifact, bool), FleetError> {
        let publisher = self.parts.publisher.trusted(project, now()).await?;
        Ok(self.parts.artifacts.add(project, file, &publisher, now()).await?)
    }

    /// Where uploads are put until they are taken, and how large one may be.
    pub fn uploads(&self) -> (&Path, u64) {
        (&self.uploads, self.limits.upload_bytes_max)
    }

    /// Leave to upload, for as long as it is held; none while enough others do.
    pub fn may_upload(&self) -> Option<SemaphorePermit<'_>> {
        self.uploading.try_acquire().ok()
    }

    /// The bundles of a project.
    ///
    /// # Errors
    /// [`PublisherError::NoProject`].
    pub async fn bundles(&self, project: &ProjectId) -> Result<Vec<Artifact>, FleetError> {
        self.parts.publisher.first_root(project).await?;
        Ok(self.parts.artifacts.list(project).await?)
    }

    /// Says what a component of a device is to run: the next generation.
    ///
    /// # Errors
    /// [`FleetError`] when the device would refuse it or could not fetch it.
    pub async fn desire(
        &self,
        device: &Principal,
        component: &ComponentName,
        desire: &Desire,
        actor: &str,
    ) -> Result<Generation, FleetError> {
        let (project, digest) = (&device.project, desire.digest);
        let publisher = self.parts.publisher.trusted(project, now()).await?;
        let released = Publisher::released(project, &publisher, &desire.bundle, digest, now())?;
        let not_uploaded = || FleetError::NotUploaded { project: project.clone(), digest };
        let artifact = self.parts.artifacts.get(project, digest).await?.ok_or_else(not_uploaded)?;
        if artifact.name != desire.bundle {
            let (named, found) = (desire.bundle.clone(), artifact.name);
            return Err(FleetError::OtherBundle { digest, named, found });
        }
        let (wanted, of) = (desire.clone(), component.clone());
        let change = move |assignments: &mut Assignments| {
            let floor = assignments.get(&of).map_or(Generation(0), |before| before.assignment.floor);
            let assignment = Assignment {
                kind: released.release.kind,
                bundle: wanted.bundle.clone(),
                settings: wanted.settings.clone(),
                floor,
                rollout: wanted.rollout.clone(),
                not_after: wanted.not_after,
            };
            let manifest_bytes = released.manifest_bytes;
            assignments.insert(of.clone(), Assigned { digest, manifest_bytes, assignment });
        };
        let by = (component, desire.rollout.as_ref());
        self.assign(device, by, desire.expected_generation, actor, change).await
    }

    /// Lets a component run nothing.
    ///
    /// # Errors
    /// [`FleetError`].
    pub async fn remove(
        &self,
        device: &Principal,
        component: &ComponentName,
        actor: &str,
    ) -> Result<Generation, FleetError> {
        let of = component.clone();
        self.assign(device, (component, None), None, actor, move |assignments| drop(assignments.remove(&of))).await
    }

    /// Lets a component run again what it ran before, or at `to`: the next generation, which names the older bundle.
    ///
    /// # Errors
    /// [`DirectorError::NoEarlier`] when there is none that may be gone back to.
    pub async fn roll_back(
        &self,
        device: &Principal,
        component: &ComponentName,
        to: Option<Generation>,
        actor: &str,
    ) -> Result<Generation, FleetError> {
        let earlier = self.parts.director.earlier(device, component, to).await?;
        let of = component.clone();
        let change = move |assignments: &mut Assignments| drop(assignments.insert(of.clone(), earlier.clone()));
        self.assign(device, (component, None), None, actor, change).await
    }

    /// Changes what a device is to run, and lets it and everybody else know. Whoever asks may go away meanwhile: what is
    /// stored is also said.
    pub(super) async fn assign(
        &self,
        device: &Principal,
        (component, by): (&ComponentName, Option<&RolloutId>),
        expected: Option<Generation>,
        actor: &str,
        change: impl Fn(&mut Assignments) + Send + Sync + 'static,
    ) -> Result<Generation, FleetError> {
        let (parts, control) = (Arc::clone(&self.parts), self.control.clone());
        let (device, component, by, actor) = (device.clone(), component.clone(), by.cloned(), actor.to_owned());
        let assigning = tokio::spawn(async move {
            let project = &device.project;
            let publisher = parts.publisher.trusted(project, now()).await?;
            let no_project = || PublisherError::NoProject { project: project.clone() };
            let versions = parts.publisher.versions(project).await?.ok_or_else(no_project)?;
            let trusted = (&publisher, versions);
            let generation = parts.director.assign(&device, expected, trusted, &actor, now(), change).await?;
            tracing::info!(%device, %generation, actor, "a device is to run something else");
            parts.tell_news(News::Desired { device: device.clone(), component, generation, by });
            control.send(Control::DesiredChanged(device)).await.map_err(|_| FleetError::Stopping)?;
            Ok(generation)
        });
        assigning.await.map_err(|_| FleetError::Stopping)?
    }

    /// Everything that is known of a device. One that nobody has heard of has nothing.
    ///
    /// # Errors
    /// [`PublisherError::NoProject`].
    pub async fn device(&self, device: &Principal) -> Result<DeviceView, FleetError> {
        self.parts.publisher.first_root(&device.project).await?;
        let state = self.parts.director.state(device).await?;
        let (generation, desired) = state.map(|state| (state.generation, state.assignments)).unwrap_or_default();
        Ok(DeviceView {
            device: device.clone(),
            presence: self.parts.records.presence(device).await?,
            generation,
            desired,
            reported: self.parts.records.reported(device).await?,
        })
    }

    /// The devices of a project that have ever been heard of, with their latest status.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn devices(&self, project: &ProjectId) -> Result<Vec<(Principal, Presence)>, FleetError> {
        Ok(self.parts.records.presences(Some((project, None))).await?)
    }

    /// What devices said of themselves.
    pub fn records(&self) -> &Records {
        &self.parts.records
    }

    /// What is news of devices, after it was stored. Who is slow misses some, and then looks at what is stored.
    pub fn news(&self) -> broadcast::Receiver<News> {
        self.parts.news.subscribe()
    }

    /// Measurements as they arrive. Who is slow misses some.
    pub fn telemetry(&self) -> broadcast::Receiver<Measurement> {
        self.parts.telemetry.subscribe()
    }

    /// Ends the probation of a version that is held until the server's verdict.
    ///
    /// # Errors
    /// [`FleetError::OtherGeneration`] when the device is to run another generation by now.
    pub async fn verdict(
        &self,
        device: &Principal,
        component: &ComponentName,
        generation: Generation,
        verdict: Verdict,
    ) -> Result<RequestId, FleetError> {
        let found = self.parts.director.state(device).await?.map_or(Generation(0), |state| state.generation);
        if found < generation {
            return Err(FleetError::OtherGeneration { device: device.clone(), generation, found });
        }
        self.command(device, Action::Verdict { component: component.clone(), generation, verdict }).await
    }

    /// Tells a device to do something. It says how that went in an event that names the request.
    ///
    /// # Errors
    /// [`FleetError::Command`] for an action that is no message.
    pub async fn command(&self, device: &Principal, action: Action) -> Result<RequestId, FleetError> {
        let mut random = [0; 12];
        // A number that occurs twice would only make the second command be ignored.
        let _filled = getrandom::fill(&mut random);
        let id: String = random.iter().map(|b| format!("{b:02x}")).collect();
        let wrong = |e: sedge_protocol::id::ParseIdError| StoreError::foreign("name a command", e);
        let request: RequestId = id.parse().map_err(wrong)?;
        let command = Command { v: V1, request: request.clone(), not_after_ts_ms: now_ms() + COMMAND_VALID_MS, action };
        let failed = |source| FleetError::Command { device: device.clone(), source };
        let json = self.parts.session().speaks_json(device);
        let payload =
            if json { command.to_json().map(String::into_bytes) } else { command.to_cbor() }.map_err(failed)?;
        let topic = Topic::Device(device.clone(), DeviceTopic::Command);
        self.tell(Control::Send(Box::new(Ready { topic, payload, json }))).await?;
        Ok(request)
    }
}
