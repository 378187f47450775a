//! The control plane's loop: what arrives becomes events of deployments, and their effects are performed.
//!
//! Every decision is made elsewhere: by [`Deployment`] for a component, [`Updater`] for what may run, [`Download`] and
//! [`Outbox`] for what is sent. This file only connects them, and keeps their rules: a record is on the medium before
//! anything after it is done; when that fails, the rest is dropped, the component's work is ended, and its machine is
//! restored from the journal, as after power loss. If power dies anywhere here, [`Control::open`] finds the journals.

mod command;
mod component;
mod incoming;
mod perform;
mod report;
mod status;
#[cfg(test)]
mod tests;

pub use status::{ComponentStatus, StatusFile};

use crate::clock::Clock;
use crate::config::Config;
use crate::disk::Disk;
use crate::fetch::Fetch;
use crate::identity::Identity;
use crate::journal::JournalError;
use crate::logs::LogRing;
use crate::outbox::{Class, Outbox, OutboxError};
use crate::plane::{Addressed, Command as PlaneCommand, Happening};
use crate::slots::Slots;
use crate::transport::{HandOverError, LineEvent, Outgoing, Qos, Token, Transport};
use crate::update::{UpdateStoreError, Updater};
use component::Component;
use sedge_protocol::deployment::{Answer, Event, Ticket};
use sedge_protocol::id::{BootId, ComponentName, Generation, Principal, RequestId};
use sedge_protocol::message::{Birth, Capabilities, Desired, ErrorCode, Message as _, Status, Telemetry, V1};
use sedge_protocol::topic::{DeviceTopic, Topic, device_filter};
use sedge_protocol::{BundleDigest, Sha256Digest};
use sedge_runtime::VerifiedBundle;
use sedge_runtime::bundle::Trust;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

/// Token of messages that nobody waits for.
const UNTRACKED: Token = Token(u64::MAX);
/// Seconds after which telemetry is of no use any more.
const TELEMETRY_EXPIRY_S: u32 = 7 * 24 * 3600;
/// Between two looks at what no event brings: unsynced telemetry, windows, unanswered reports.
const HOUSEKEEPING_MS: u64 = 5_000;

/// Why the control plane could not start.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// A journal.
    #[error("the journal of a component")]
    Journal(#[from] JournalError),
    /// The outbox.
    #[error("the outbox")]
    Outbox(#[from] OutboxError),
    /// Update metadata.
    #[error("update metadata")]
    Updates(#[from] UpdateStoreError),
    /// The state directory.
    #[error("the state directory cannot be read")]
    Disk(#[from] std::io::Error),
}

/// Something that somebody at the device wants.
#[derive(Debug)]
pub enum Local {
    /// Back to the bundle from before. The answer says why not.
    RollBack {
        /// Which component.
        component: ComponentName,
        /// Where the answer goes.
        answer: oneshot::Sender<Result<(), String>>,
    },
    /// How the device fares.
    Status {
        /// Where the answer goes.
        answer: oneshot::Sender<StatusFile>,
    },
}

/// Checks a staged bundle against digest and length; says what is wrong with it.
pub type Verify = Arc<dyn Fn(&Path, BundleDigest, u64) -> Result<(), String> + Send + Sync>;

/// What the control plane works with.
pub struct Parts {
    /// The configuration.
    pub config: Config,
    /// Who this device is.
    pub identity: Identity,
    /// This start of the agent.
    pub boot: BootId,
    /// Where state is kept.
    pub disk: Arc<dyn Disk>,
    /// Shared with TLS.
    pub clock: Clock,
    /// Commands to the data plane.
    pub plane: mpsc::Sender<Addressed<PlaneCommand>>,
    /// What the data plane tells.
    pub happenings: mpsc::Receiver<Addressed<Happening>>,
    /// Wishes of somebody at the device.
    pub local: mpsc::Receiver<Local>,
    /// The log, for the server's questions.
    pub logs: LogRing,
    /// Usually [`verify_bundle`].
    pub verify: Verify,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Parts({})", self.identity.principal)
    }
}

/// Opens the bundle, which hashes every byte of it.
///
/// # Errors
/// What is wrong with it.
pub fn verify_bundle(path: &Path, digest: BundleDigest, length_bytes: u64) -> Result<(), String> {
    let found = std::fs::metadata(path).map_err(|e| e.to_string())?.len();
    if found != length_bytes {
        return Err(format!("E_DIGEST_MISMATCH: {found} bytes, and signed are {length_bytes}"));
    }
    VerifiedBundle::open(path, &Trust::Digest(digest)).map(drop).map_err(|e| crate::error::chain(&e))
}

/// A new start of the agent.
pub fn boot_id() -> BootId {
    let number = getrandom::u64().unwrap_or_default();
    // Sixteen hex digits are a name.
    format!("{number:016x}").parse().unwrap_or_else(|e| unreachable!("{e}"))
}

/// What is published on the status topic.
pub fn status_message(device: &Principal, status: &Status) -> Outgoing {
    Outgoing {
        topic: Topic::Device(device.clone(), DeviceTopic::Status),
        // A birth or will of bounded texts is always valid.
        payload: status.to_cbor().unwrap_or_default(),
        qos: Qos::AtLeastOnce,
        retain: true,
        expiry_s: None,
    }
}

/// The birth of a connection; its will is [`Status::will_of`] it.
pub fn birth(boot: &BootId, connection: u64, clock: &Clock) -> Birth {
    Birth {
        v: V1,
        ts_ms: clock.ts_ms(),
        clock_synced: clock.is_plausible(),
        boot: boot.clone(),
        seq: connection,
        agent_version: env!("CARGO_PKG_VERSION").parse().unwrap_or(sedge_protocol::Version::new(0, 0, 0)),
        target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        capabilities: Capabilities {
            protocol_version: 1,
            journal_version: sedge_protocol::deployment::record::FORMAT.into(),
            worker_version: 1,
            features: Vec::new(),
        },
    }
}

struct Line {
    packet_bytes_max: usize,
    in_flight_max: usize,
}

/// The control plane.
pub struct Control<T> {
    config: Config,
    device: Principal,
    boot: BootId,
    disk: Arc<dyn Disk>,
    clock: Clock,
    transport: T,
    plane: mpsc::Sender<Addressed<PlaneCommand>>,
    happenings: mpsc::Receiver<Addressed<Happening>>,
    local: mpsc::Receiver<Local>,
    logs: LogRing,
    verify: Verify,
    /// Answers of work that runs beside the loop.
    answers: mpsc::Receiver<(ComponentName, Ticket, Answer)>,
    answer_to: mpsc::Sender<(ComponentName, Ticket, Answer)>,
    components: BTreeMap<ComponentName, Component>,
    slots: Slots,
    updater: Updater,
    fetch: Option<Fetch>,
    outbox: Outbox,
    line: Option<Line>,
    connection: u64,
    /// The last desired state that was authorised or refused.
    desired: Option<(Generation, Sha256Digest)>,
    refused: Option<(Sha256Digest, ErrorCode)>,
    /// To be looked at again: the disk did not let it be.
    desired_again: Option<Box<Desired>>,
    commands_seen: VecDeque<RequestId>,
    /// What the data plane last said of each component.
    health: BTreeMap<ComponentName, sedge_protocol::message::ComponentHealth>,
    health_due_ms: u64,
    housekeeping_due_ms: u64,
    telemetry_seq: u64,
    window_open: bool,
    status_changed: bool,
}

impl<T> std::fmt::Debug for Control<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Control({})", self.device)
    }
}

enum Woken {
    Line(LineEvent),
    Happening(ComponentName, Happening),
    Answer(ComponentName, Ticket, Answer),
    Local(Local),
    Time,
    Stop,
}

impl<T: Transport> Control<T> {
    /// Opens everything below the state directory, and brings every component back to where it was.
    ///
    /// # Errors
    /// [`ControlError`] when state exists and cannot be read.
    pub fn open(parts: Parts, transport: T) -> Result<Self, ControlError> {
        let Parts { config, identity, boot, disk, clock, plane, happenings, local, logs, verify } = parts;
        let state_dir = config.state_dir.clone();
        disk.create_dir(&state_dir)?;
        let (answer_to, answers) = mpsc::channel(64);
        let mut control = Self {
            device: identity.principal.clone(),
            updater: Updater::open(disk.clone(), &state_dir, &identity, &clock)?,
            outbox: Outbox::open(disk.clone(), &state_dir, config.outbox.clone())?,
            slots: Slots::new(disk.clone(), &state_dir),
            config,
            boot,
            disk,
            clock,
            transport,
            plane,
            happenings,
            local,
            logs,
            verify,
            answers,
            answer_to,
            components: BTreeMap::new(),
            fetch: None,
            line: None,
            connection: 0,
            desired: None,
            refused: None,
            desired_again: None,
            commands_seen: VecDeque::new(),
            health: BTreeMap::new(),
            health_due_ms: 0,
            housekeeping_due_ms: 0,
            telemetry_seq: 0,
            window_open: false,
            status_changed: true,
        };
        for name in control.disk.list(&state_dir.join("journal"))? {
            let component = name.strip_suffix(".journal").and_then(|name| name.parse().ok());
            if let Some(component) = component {
                control.add(component)?;
            }
        }
        Ok(control)
    }

    /// Runs until `stop` is ready, then leaves in good order.
    ///
    /// # Errors
    /// None yet; what fails is retried.
    pub async fn run(&mut self, stop: impl Future<Output = ()>) -> Result<(), ControlError> {
        let mut stop = std::pin::pin!(stop);
        let names: Vec<ComponentName> = self.components.keys().cloned().collect();
        for name in names {
            self.boot(&name);
        }
        loop {
            self.after_events();
            let wake = self.clock.instant_at(self.wake_ms());
            let woken = tokio::select! {
                biased;
                () = &mut stop => Woken::Stop,
                Some((component, ticket, answer)) = self.answers.recv() => Woken::Answer(component, ticket, answer),
                Some((component, happening)) = self.happenings.recv() => Woken::Happening(component, happening),
                Some(local) = self.local.recv() => Woken::Local(local),
                event = self.transport.next() => Woken::Line(event),
                () = tokio::time::sleep_until(wake) => Woken::Time,
            };
            match woken {
                Woken::Stop => break,
                Woken::Answer(component, ticket, answer) => self.answered(&component, ticket, answer),
                Woken::Happening(component, happening) => self.happened(&component, happening),
                Woken::Local(local) => self.asked(local),
                Woken::Line(event) => self.line_event(event),
                Woken::Time => self.time_passed(),
            }
        }
        self.outbox.flush();
        self.write_status();
        let last = Status::will_of(&birth(&self.boot, self.connection, &self.clock));
        self.transport.close(Some(status_message(&self.device, &last))).await;
        Ok(())
    }

    fn now_ms(&self) -> u64 {
        self.clock.elapsed_ms()
    }

    fn wake_ms(&self) -> u64 {
        let up = self.line.is_some();
        let fetch = self.fetch.as_ref().filter(|_| up).map(Fetch::due_ms);
        let components = self.components.values().filter_map(|component| component.wake_ms(up));
        components.chain(fetch).chain([self.health_due_ms, self.housekeeping_due_ms]).min().unwrap_or(0)
    }

    fn time_passed(&mut self) {
        let now_ms = self.now_ms();
        let names: Vec<ComponentName> = self.components.keys().cloned().collect();
        for name in names {
            let Some(component) = self.components.get(&name) else { continue };
            if component.is_parked() {
                if component.wake_ms(false).is_some_and(|due| due <= now_ms) {
                    self.restore(&name);
                }
            } else if component.deadline_ms().is_some_and(|due| due <= now_ms) {
                self.event(&name, Event::Deadline);
            }
        }
        if self.housekeeping_due_ms <= now_ms {
            self.housekeeping_due_ms = now_ms + HOUSEKEEPING_MS;
            self.outbox.send_again(now_ms);
            self.outbox.flush();
            self.check_window();
            if let Some(desired) = self.desired_again.take() {
                self.desired(*desired);
            }
        }
        if self.health_due_ms <= now_ms {
            self.health_due_ms = now_ms + u64::from(self.config.health_interval_s) * 1000;
            self.push_health();
        }
    }

    /// After every event: what became due is sent.
    fn after_events(&mut self) {
        self.tick();
        self.pump();
        if std::mem::take(&mut self.status_changed) {
            self.write_status();
        }
    }

    /// Asks for documents and chunks that are due.
    fn tick(&mut self) {
        let Some(Line { packet_bytes_max, .. }) = self.line else { return };
        let now_ms = self.now_ms();
        if let Some(fetch) = self.fetch.as_mut().filter(|fetch| fetch.due_ms() <= now_ms)
            && let Ok(bytes) = fetch.ask(now_ms, packet_bytes_max).to_cbor()
        {
            self.send(DeviceTopic::Request, bytes);
        }
        let names: Vec<ComponentName> = self.components.keys().cloned().collect();
        for name in names {
            let Some(component) = self.components.get_mut(&name) else { continue };
            let Some(download) = &mut component.download else { continue };
            let steps = download.tick(&self.slots, now_ms, packet_bytes_max);
            self.download_steps(&name, steps);
        }
    }

    /// Hands over what waits in the outbox, as much as the broker takes.
    fn pump(&mut self) {
        let Some(Line { in_flight_max, .. }) = self.line else { return };
        let now_ms = self.now_ms();
        while let room @ 1.. = in_flight_max.saturating_sub(self.outbox.in_flight()) {
            let due = self.outbox.due(room);
            if due.is_empty() {
                return;
            }
            for message in due {
                let expiry_s = (message.class == Class::Telemetry).then_some(TELEMETRY_EXPIRY_S);
                let (topic, payload) = (message.topic, message.payload);
                let outgoing = Outgoing { topic, payload, qos: Qos::AtLeastOnce, retain: false, expiry_s };
                match self.transport.publish(Token(message.id), outgoing) {
                    Ok(()) => self.outbox.sent(message.id, now_ms),
                    Err(HandOverError::Down | HandOverError::Full) => return,
                    Err(e @ HandOverError::TooLong { .. }) => {
                        warn!(error = %e, "a message is not sent on this connection");
                        self.outbox.unsendable(message.id);
                    }
                }
            }
        }
    }

    /// Publishes what is asked again when it is lost.
    fn send(&mut self, topic: DeviceTopic, payload: Vec<u8>) {
        let topic = Topic::Device(self.device.clone(), topic);
        let outgoing = Outgoing { topic, payload, qos: Qos::AtLeastOnce, retain: false, expiry_s: Some(60) };
        if let Err(e) = self.transport.publish(UNTRACKED, outgoing) {
            tracing::debug!(error = %e, "not sent; it is tried again");
        }
    }

    fn line_event(&mut self, event: LineEvent) {
        match event {
            LineEvent::Up { connection, packet_bytes_max, in_flight_max, session_present } => {
                info!(connection, session_present, device = %self.device, "the line is up");
                self.line = Some(Line { packet_bytes_max, in_flight_max });
                self.connection = connection;
                self.line_up();
            }
            LineEvent::Down { reason } => {
                info!(reason, "the line is down");
                self.line = None;
                self.outbox.line_down();
                self.status_changed = true;
            }
            LineEvent::Incoming { topic, payload } => self.incoming(&topic, &payload),
            LineEvent::Delivered(UNTRACKED) | LineEvent::Refused { token: UNTRACKED, .. } => {}
            LineEvent::Delivered(Token(id)) => self.outbox.delivered(id),
            LineEvent::Refused { token: Token(id), reason } => {
                warn!(id, reason, "the broker refuses a message");
                self.outbox.unsendable(id);
            }
        }
    }

    /// Whatever the broker has kept of the session: subscribe, say that the device is there, and replay.
    fn line_up(&mut self) {
        let subscribed = self.transport.subscribe(&[device_filter(&self.device)]);
        let birth = Status::Online(birth(&self.boot, self.connection, &self.clock));
        let said = self.transport.publish(UNTRACKED, status_message(&self.device, &birth));
        if let Err(e) = subscribed.and(said) {
            warn!(error = %e, "the connection takes nothing; it will be made again");
        }
        self.outbox.line_down();
        if let Some(fetch) = &mut self.fetch {
            fetch.line_up();
        }
        let names: Vec<ComponentName> = self.components.keys().cloned().collect();
        for name in names {
            let download = self.components.get_mut(&name).and_then(|component| component.download.as_mut());
            if let Some(steps) = download.map(|download| download.line_up()) {
                self.download_steps(&name, steps);
            }
        }
        self.check_window();
        self.status_changed = true;
    }

    /// Downloads may run once there was a connection, and within their window. A break of the line closes nothing: they
    /// go on by themselves.
    fn check_window(&mut self) {
        let open = self.connection > 0 && self.config.download.open_at(self.clock.deployment_now().unix_s);
        if open != self.window_open {
            self.window_open = open;
            let names: Vec<ComponentName> = self.components.keys().cloned().collect();
            names.iter().for_each(|name| self.event(name, window_event(open)));
        }
    }

    fn happened(&mut self, name: &ComponentName, happening: Happening) {
        match happening {
            Happening::Answer { ticket, answer } => self.answered(name, ticket, answer),
            Happening::HealthOk { slot } => self.event(name, Event::HealthOk { slot }),
            Happening::HealthBad { slot, reason } => self.event(name, Event::HealthBad { slot, reason }),
            Happening::WorkerDied { slot } => self.event(name, Event::WorkerDied { slot }),
            Happening::Telemetry(Telemetry::Health(health)) => self.health.extend(health.components),
            Happening::Telemetry(telemetry) => self.push_telemetry(name.as_str(), &telemetry),
        }
    }
}

fn window_event(open: bool) -> Event {
    if open { Event::DownloadWindowOpen } else { Event::DownloadWindowClosed }
}
