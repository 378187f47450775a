//! The running agent: everything of this crate, connected.
//!
//! What always holds: one agent per state directory (a lock says so). If power dies here, nothing is lost that the parts
//! have not lost: this module keeps nothing.

use crate::clock::Clock;
use crate::config::Config;
use crate::control::{self, Control, ControlError, Parts};
use crate::dataplane::config::{MqttSourceConfig, SourceConfig};
use crate::dataplane::{self, DataPlane, DataPlaneError, Setup};
use crate::disk::{Disk, FileSystem};
use crate::http::{self, HttpError};
use crate::identity::{IdentityError, IdentityStore};
use crate::local;
use crate::logs::LogRing;
use crate::renewal;
use crate::site_mqtt::{NeedsTls, SiteBroker, SiteLogin, SiteSamples, collect};
use crate::source::{Incoming, Source, feed, now_ms};
use crate::tls::{self, TlsError};
use crate::transport::mqtt::{Mqtt, MqttConfig};
use crate::worker::WorkerProgram;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sedge_protocol::id::{BootId, ComponentName, Principal};
use sedge_protocol::message::Status;
use std::collections::HashMap;
use std::fs::{File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Local questions that wait for the control plane.
const LOCAL_MAX: usize = 8;

/// Why the agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// The state directory.
    #[error("the state directory {} cannot be used", path.display())]
    StateDir {
        /// Which.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Another agent is there.
    #[error("another agent runs with the state directory {}; stop it first", .0.display())]
    Locked(PathBuf),
    /// The device has no identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// TLS towards the broker.
    #[error("TLS towards the broker")]
    Tls(#[from] TlsError),
    /// The broker's address is none.
    #[error("the broker's address")]
    Broker(#[from] HttpError),
    /// A source of a broker on the site.
    #[error("component {component}, source {name}: {problem}")]
    SiteSource {
        /// Which component.
        component: ComponentName,
        /// Which source.
        name: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// Sources, sinks or the HTTP endpoint.
    #[error("the data plane")]
    DataPlane(#[from] DataPlaneError),
    /// State on the disk.
    #[error("the control plane")]
    Control(#[from] ControlError),
}

/// Holds the state directory for one agent until it is dropped.
#[derive(Debug)]
pub struct StateLock(#[allow(dead_code, reason = "the lock goes with the file")] File);

impl StateLock {
    /// Makes the directory where it is missing, closed to other users, and takes its lock.
    ///
    /// # Errors
    /// [`ProgramError::Locked`] while another agent runs with it.
    pub fn take(state_dir: &Path) -> Result<Self, ProgramError> {
        let failed = |source| ProgramError::StateDir { path: state_dir.to_owned(), source };
        FileSystem.create_dir(state_dir).map_err(failed)?;
        // Somebody may have made it before, as open as directories are.
        std::fs::set_permissions(state_dir, Permissions::from_mode(0o700)).map_err(failed)?;
        let file = File::options().create(true).truncate(false).write(true).open(state_dir.join("lock"));
        let file = file.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(ProgramError::Locked(state_dir.to_owned())),
            Err(TryLockError::Error(e)) => Err(failed(e)),
        }
    }
}

/// Runs the agent until `stop` is ready.
///
/// # Errors
/// [`ProgramError`] when something that it needs is not there. What fails later is retried.
pub async fn run(
    config: Config,
    worker: WorkerProgram,
    logs: LogRing,
    stop: impl Future<Output = ()>,
) -> Result<(), ProgramError> {
    let _lock = StateLock::take(&config.state_dir)?;
    let disk: Arc<dyn Disk> = Arc::new(FileSystem);
    let clock = Clock::default();
    let store = IdentityStore::new(disk.clone(), &config.state_dir);
    let identity = store.load()?;
    clock.learn(identity.time);
    let boot = control::boot_id();
    let device = identity.principal.clone();
    tracing::info!(%device, %boot, version = env!("CARGO_PKG_VERSION"), "the agent starts");

    let sources = site_sources(&config, &device, &clock)?;
    let line = open_line(&config, &store, &boot, &clock)?;
    let renewed_tls = line.tls_handle();
    let DataPlane { commands, happenings, http, .. } = DataPlane::start(Setup {
        config: config.data_plane(),
        program: worker,
        caches: config.caches(),
        identity: dataplane::Identity { dev: device, boot: boot.clone() },
        sources,
    })
    .await?;
    if let Some(address) = http {
        tracing::info!(%address, "results, health and metrics over HTTP");
    }

    let (ask, local) = mpsc::channel(LOCAL_MAX);
    let state_dir = config.state_dir.clone();
    let failed = |source| ProgramError::StateDir { path: state_dir.clone(), source };
    let desk = local::listen(&state_dir, ask, logs.clone()).map_err(failed)?;
    let parts = Parts {
        config,
        identity,
        boot,
        disk,
        clock: clock.clone(),
        plane: commands,
        happenings,
        local,
        logs,
        verify: Arc::new(control::verify_bundle),
    };
    let mut control = Control::open(parts, line)?;
    let renewal = renewal::keep(&store, &clock, |identity| {
        let device = store.key().map(|key| (identity.certificate_der(), key.private_der()));
        let tls = device
            .map_err(|e| e.to_string())
            .and_then(|device| tls::client(identity.authority_der(), Some(device), &clock).map_err(|e| e.to_string()));
        match tls {
            Ok(tls) => renewed_tls.set(tls),
            Err(e) => tracing::error!(error = e, "the renewed certificate is used after the next start"),
        }
    });
    let ended = tokio::select! {
        ended = control.run(stop) => ended,
        () = renewal => Ok(()),
    };
    desk.abort();
    tracing::info!("the agent stops");
    Ok(ended?)
}

fn open_line(config: &Config, store: &IdentityStore, boot: &BootId, clock: &Clock) -> Result<Mqtt, ProgramError> {
    let identity = store.load()?;
    let device = (identity.certificate_der(), store.key()?.private_der());
    let tls = tls::client(identity.authority_der(), Some(device), clock)?;
    let (host, port) = http::host_port(config.broker.as_deref().unwrap_or(&identity.broker))?;
    let (device, boot, clock) = (identity.principal, boot.clone(), clock.clone());
    let options = MqttConfig::tls(host, port, &device, tls);
    let will = move |connection| {
        control::status_message(&device, &Status::will_of(&control::birth(&boot, connection, &clock)))
    };
    Ok(Mqtt::start(options, Box::new(will)))
}

type Sources = HashMap<(ComponentName, String), Box<dyn Source>>;

/// Sources of brokers on the site, which need a connection each.
fn site_sources(config: &Config, device: &Principal, clock: &Clock) -> Result<Sources, ProgramError> {
    let mut sources = Sources::new();
    for (component, component_config) in &config.component {
        for (name, source) in &component_config.source {
            let SourceConfig::Mqtt(mqtt) = source else { continue };
            let place =
                |problem| ProgramError::SiteSource { component: component.clone(), name: name.clone(), problem };
            // Names of a broker's clients must differ, also between devices that share a broker.
            let client_id = format!("{}/{component}/{name}", device.device);
            let broker = site_broker(mqtt, client_id, clock).map_err(place)?;
            let samples = collect(broker).map_err(|e: NeedsTls| place(e.to_string()))?;
            let source = take_in(samples, mqtt.samples_max, format!("{component}/{name}"));
            sources.insert((component.clone(), name.clone()), source);
        }
    }
    Ok(sources)
}

fn site_broker(mqtt: &MqttSourceConfig, client_id: String, clock: &Clock) -> Result<SiteBroker, String> {
    let expected = || format!("`{}` is no address; expected mqtt://host:port or mqtts://host:port", mqtt.url);
    let (secure, address) = match mqtt.url.split_once("://").ok_or_else(expected)? {
        ("mqtt", address) => (false, address),
        ("mqtts", address) => (true, address),
        _ => return Err(expected()),
    };
    let (host, port) = http::host_port(address).map_err(|_| expected())?;
    let tls = match (&mqtt.ca, secure) {
        (Some(ca), true) => {
            let unreadable =
                |e: rustls::pki_types::pem::Error| format!("`ca`: {} is no certificate: {e}", ca.display());
            let authority = CertificateDer::from_pem_file(ca).map_err(unreadable)?;
            Some(tls::client(authority, None, clock).map_err(|e| e.to_string())?)
        }
        (None, true) => return Err("`ca` is missing: the file of the authority that mqtts:// is to trust".to_owned()),
        (Some(_), false) => return Err("`ca` needs mqtts://".to_owned()),
        (None, false) => None,
    };
    let login = match &mqtt.login {
        Some(login) => {
            let unreadable = |e| format!("`login.password_file`: {}: {e}", login.password_file.display());
            let password = std::fs::read_to_string(&login.password_file).map_err(unreadable)?;
            Some(SiteLogin { name: login.name.clone(), password: password.trim_end_matches('\n').to_owned() })
        }
        None => None,
    };
    Ok(SiteBroker { host: host.to_owned(), port, tls, login, client_id, filter: mqtt.topic.clone() })
}

fn take_in(mut samples: SiteSamples, samples_max: usize, place: String) -> Box<dyn Source> {
    let (feed, source) = feed(samples_max);
    tokio::spawn(async move {
        let mut told = 0;
        while let Some((topic, data)) = samples.next().await {
            feed.push_or_drop(Incoming { ts_ms: now_ms(), name: topic, data, label: None });
            let dropped = feed.dropped() + samples.dropped();
            // Once for each power of two, so that a flood does not fill the log.
            if dropped > 0 && dropped.ilog2() >= told {
                told = dropped.ilog2() + 1;
                tracing::warn!(source = place, dropped, "samples come faster than they are answered");
            }
        }
    });
    Box::new(source)
}
