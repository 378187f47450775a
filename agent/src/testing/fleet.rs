//! A fleet server and a data plane that do what a test says, with real update metadata.

use super::broker::{Broker, Packet, Peer};
use crate::clock::Clock;
use crate::config::Config;
use crate::control::{Control, Local, Parts, StatusFile, Verify, birth, boot_id, status_message};
use crate::disk::{Disk, FileSystem};
use crate::fetch::request_id;
use crate::identity::Identity;
use crate::logs::LogRing;
use crate::plane::{Addressed, Command, Happening};
use crate::transport::mqtt::{Mqtt, MqttConfig};
use sedge_protocol::cbor::Bytes;
use sedge_protocol::deployment::{Answer, ShadowVerdict, Slot};
use sedge_protocol::id::{ComponentName, Generation, Principal};
use sedge_protocol::message::{
    self, Ack, Action, Chunk, ChunkEncoding, ChunkEntry, ChunkIndex, ComponentHealth, Desired, DirectorMetadata,
    Document, ErrorCode, Event, EventBody, Failure, Health, Message as _, MetadataRequest, PublisherVersions, Reply,
    Reported, Repository, Status, Telemetry, V1, Want, segments,
};
use sedge_protocol::signature::SecretKey;
use sedge_protocol::time::UnixSeconds;
use sedge_protocol::tuf::sign::{RootBuilder, sign};
use sedge_protocol::tuf::{MetaFile, Role, Snapshot, Targets, Timestamp};
use sedge_protocol::uptane::{Assignment, Kind, Release, assign, director_targets, release};
use sedge_protocol::{BundleDigest, Sha256Digest};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// 2027-01-15.
pub(crate) const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
pub(crate) const LATER: UnixSeconds = UnixSeconds(1_900_000_000);
/// How much faster than real time the device's clock runs.
const SPEED: u32 = 20;

pub(crate) fn device() -> Principal {
    "acme:cam-7".parse().expect("name")
}

pub(crate) fn camera() -> ComponentName {
    "camera".parse().expect("name")
}

/// A bundle of a test: bytes, and their digest in place of a manifest's.
pub(crate) fn bundle(n: u8) -> Vec<u8> {
    let mut seed = u64::from(n) + 1;
    let mut noise = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 56) as u8
    };
    // Half of it compresses.
    (0..300_000).map(|i| if i < 150_000 { n } else { noise() }).collect()
}

pub(crate) fn digest(n: u8) -> BundleDigest {
    BundleDigest(Sha256Digest::of(&bundle(n)))
}

pub(crate) fn verify() -> Verify {
    Arc::new(|path: &Path, digest: BundleDigest, length: u64| {
        let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
        let right = bytes.len() as u64 == length && BundleDigest(Sha256Digest::of(&bytes)) == digest;
        if right { Ok(()) } else { Err("E_DIGEST_MISMATCH: not what was signed".to_owned()) }
    })
}

fn chunks(n: u8) -> Vec<(ChunkEntry, Vec<u8>)> {
    let entry = |content: &[u8]| {
        let packed = zstd::bulk::compress(content, 3).expect("compressed");
        let stored = if packed.len() < content.len() { packed } else { content.to_vec() };
        let (length_bytes, stored_bytes) = (content.len() as u32, stored.len() as u32);
        (ChunkEntry { sha256: Sha256Digest::of(content), length_bytes, stored_bytes }, stored)
    };
    bundle(n).chunks(16 * 1024).map(entry).collect()
}

pub(crate) fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

pub(crate) fn root(key: &SecretKey, expires: UnixSeconds) -> Vec<u8> {
    let mut root = RootBuilder::first(expires);
    for role in [Role::Root, Role::Timestamp, Role::Snapshot, Role::Targets] {
        root = root.trust(&role, &key.public());
    }
    sign(&root.build().expect("root"), &[key]).expect("signed")
}

/// Timestamp, snapshot and targets of one version.
pub(crate) fn files(key: &SecretKey, targets: &Targets, expires: UnixSeconds) -> [Vec<u8>; 3] {
    let version = targets.header.version;
    let file = sign(targets, &[key]).expect("signed");
    let meta = BTreeMap::from([("targets.json".to_owned(), MetaFile::of(version, &file))]);
    let snapshot = sign(&Snapshot::new(version, LATER, meta), &[key]).expect("signed");
    let mut timestamp = Timestamp::new(version, expires, MetaFile::of(version, &snapshot));
    timestamp.sedge_issued = Some(NOW);
    [sign(&timestamp, &[key]).expect("signed"), snapshot, file]
}

/// A publisher that has released bundles 1 to 9.
pub(crate) fn publisher_targets() -> Targets {
    let mut targets = Targets::new(1, LATER);
    for n in 1..=9 {
        let version = format!("{n}.0.0").parse().expect("version");
        let bytes = bundle(n).len() as u64;
        let name = "digits".parse().expect("name");
        let new = Release { name, version, kind: Kind::Model, floor: None, bytes };
        release(&mut targets, digest(n), 700, &new).expect("released");
    }
    targets
}

/// A director that assigns bundle `n` in this generation.
pub(crate) fn assigned(generation: u64, n: u8) -> Targets {
    let mut targets = director_targets(&device(), Generation(generation), LATER);
    let settings = serde_json::json!({ "threshold": "0.5", "deployment": { "probation_s": 4 } });
    let assignment = Assignment {
        kind: Kind::Model,
        bundle: "digits".parse().expect("name"),
        settings: settings.as_object().cloned().expect("object"),
        floor: Generation(0),
        rollout: Some("rollout-1".parse().expect("name")),
        not_after: None,
    };
    assign(&mut targets, &camera(), digest(n), 700, &assignment).expect("assigned");
    targets
}

pub(crate) fn desired_of(generation: u64, [timestamp, snapshot, targets]: [Vec<u8>; 3]) -> Desired {
    let director = DirectorMetadata {
        root_version: 1,
        timestamp: Bytes(timestamp),
        snapshot: Bytes(snapshot),
        targets: Bytes(targets),
    };
    let publisher =
        PublisherVersions { root_version: 1, timestamp_version: 1, snapshot_version: 1, targets_version: 1 };
    Desired::new(Generation(generation), director, publisher)
}

pub(crate) fn desired(generation: u64, n: u8) -> Desired {
    desired_of(generation, files(&key(2), &assigned(generation, n), LATER))
}

/// What the server has seen and does.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) reports: Vec<Reported>,
    pub(crate) events: Vec<Event>,
    pub(crate) births: Vec<Status>,
    pub(crate) wanted: Vec<Vec<u32>>,
    pub(crate) heartbeats: Vec<Health>,
}

pub(crate) struct Rules {
    pub(crate) desired: Option<Vec<u8>>,
    pub(crate) acknowledges: bool,
    /// Chunks sent before the line is dropped, once.
    pub(crate) cut_after_chunks: Option<u32>,
    /// Every chunk but these is corrupted.
    pub(crate) corrupt: bool,
    /// Each n-th chunk is lost.
    pub(crate) lose_each: u32,
    pub(crate) publisher: [Vec<u8>; 3],
}

pub(crate) struct Server {
    pub(crate) port: u16,
    pub(crate) rules: Arc<Mutex<Rules>>,
    pub(crate) seen: Arc<Mutex<Seen>>,
    changed: watch::Sender<u64>,
    inject: mpsc::UnboundedSender<(String, Vec<u8>)>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn topic(of: &str) -> String {
    format!("sedge/1/d/{}/{of}", device())
}

struct Session {
    rules: Arc<Mutex<Rules>>,
    seen: Arc<Mutex<Seen>>,
    changed: watch::Sender<u64>,
    sent_chunks: u32,
    bundles: BTreeMap<BundleDigest, u8>,
}

impl Server {
    pub(crate) async fn new() -> Self {
        let broker = Broker::new().await;
        let port = broker.port;
        let rules = Arc::new(Mutex::new(Rules {
            desired: None,
            acknowledges: true,
            cut_after_chunks: None,
            corrupt: false,
            lose_each: u32::MAX,
            publisher: files(&key(1), &publisher_targets(), LATER),
        }));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (changed, _) = watch::channel(0);
        let (inject, mut injected) = mpsc::unbounded_channel();
        let mut session = Session {
            rules: rules.clone(),
            seen: seen.clone(),
            changed: changed.clone(),
            sent_chunks: 0,
            bundles: (1..=9).map(|n| (digest(n), n)).collect(),
        };
        let task = tokio::spawn(async move {
            loop {
                let mut peer = broker.accept_patiently().await;
                peer.connack(false, &[]).await;
                session.serve(peer, &mut injected).await;
            }
        });
        Self { port, rules, seen, changed, inject, task }
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut Rules)) {
        change(&mut self.rules.lock().expect("rules"));
    }

    /// From now on this is desired; a device that is connected hears of it at once.
    pub(crate) fn desire(&self, desired: &Desired) {
        let bytes = desired.to_cbor().expect("CBOR");
        self.set(|rules| rules.desired = Some(bytes.clone()));
        self.send("in/s", bytes);
    }

    pub(crate) fn send(&self, of: &str, payload: Vec<u8>) {
        self.inject.send((topic(of), payload)).expect("the server runs");
    }

    pub(crate) async fn until(&self, what: &str, mut holds: impl FnMut(&Seen) -> bool) {
        let mut changes = self.changed.subscribe();
        let waited = timeout(PATIENCE, async {
            while !holds(&self.seen.lock().expect("seen")) {
                changes.changed().await.expect("the server runs");
            }
        });
        if waited.await.is_err() {
            let seen = self.seen.lock().expect("seen");
            let reports: Vec<_> = seen.reports.iter().map(|r| (r.generation.0, &r.components)).collect();
            panic!("waited in vain until {what}: {reports:#?}");
        }
    }

    /// Waits until the device has dealt with all that was sent to it: it answers a command that comes after.
    pub(crate) async fn settled(&self) {
        let request = request_id();
        let action = Action::Unknown;
        let command = message::Command { v: V1, request: request.clone(), not_after_ts_ms: u64::MAX, action };
        let command = command.to_cbor().expect("CBOR");
        let mut sent_to = None;
        let mut answered = false;
        while !answered {
            // A broker would send it again to a device that has connected anew.
            self.until("it answers a command", |seen| {
                let answers =
                    |e: &Event| matches!(&e.body, EventBody::CommandResult { request: of, .. } if *of == request);
                answered = seen.events.iter().any(answers);
                answered || sent_to.replace(seen.births.len()) != Some(seen.births.len())
            })
            .await;
            if !answered {
                self.send("in/c", command.clone());
            }
        }
    }

    /// Waits for a report of this generation in this state; gives its failure.
    pub(crate) async fn reported(&self, generation: u64, state: &str) -> Option<Failure> {
        let mut failure = None;
        self.until(&format!("generation {generation} is {state}"), |seen| {
            let of = seen.reports.iter().filter(|report| report.generation.0 == generation);
            let found = of.flat_map(|r| r.components.values()).find(|c| c.state.as_str() == state);
            failure = found.and_then(|c| c.error.clone());
            found.is_some()
        })
        .await;
        failure
    }
}

impl Session {
    fn note(&self, act: impl FnOnce(&mut Seen)) {
        act(&mut self.seen.lock().expect("seen"));
        self.changed.send_modify(|n| *n += 1);
    }

    fn rule<R>(&self, ask: impl FnOnce(&Rules) -> R) -> R {
        ask(&self.rules.lock().expect("rules"))
    }

    async fn serve(&mut self, mut peer: Peer, injected: &mut mpsc::UnboundedReceiver<(String, Vec<u8>)>) {
        let mut id = 0u16;
        loop {
            tokio::select! {
                more = peer.readable() => if !more { return },
                Some((topic, payload)) = injected.recv() => {
                    id = id % 60_000 + 1;
                    peer.send(&topic, &payload, id).await;
                    continue;
                }
            }
            let Some(packet) = peer.next().await else { return };
            let Packet::Publish { topic, payload, id: acked, .. } = packet else {
                peer.answer(packet).await;
                continue;
            };
            if acked != 0 {
                peer.puback(acked, 0).await;
            }
            for (topic, payload) in self.take(&topic, &payload) {
                let chunk = topic.ends_with("/in/chunk");
                if chunk {
                    self.sent_chunks += 1;
                    if self.sent_chunks.is_multiple_of(self.rule(|rules| rules.lose_each)) {
                        continue;
                    }
                }
                id = id % 60_000 + 1;
                peer.send(&topic, &payload, if chunk { 0 } else { id }).await;
                if chunk && self.rule(|rules| rules.cut_after_chunks) == Some(self.sent_chunks) {
                    self.rules.lock().expect("rules").cut_after_chunks = None;
                    self.note(|_| ());
                    return;
                }
            }
        }
    }

    fn take(&mut self, from: &str, payload: &[u8]) -> Vec<(String, Vec<u8>)> {
        let level = from.rsplit_once(&format!("{}/", device())).map_or("", |(_, level)| level);
        let ack = |ack: Ack| match self.rule(|rules| rules.acknowledges) {
            true => vec![(topic("in/ack"), ack.to_cbor().expect("CBOR"))],
            false => Vec::new(),
        };
        match level {
            "s" => {
                let status = Status::from_cbor(payload).expect("a status");
                let online = matches!(status, Status::Online(_));
                self.note(|seen| seen.births.push(status));
                let desired = self.rule(|rules| rules.desired.clone()).filter(|_| online);
                desired.map(|bytes| (topic("in/s"), bytes)).into_iter().collect()
            }
            "r" => {
                let report = Reported::from_cbor(payload).expect("a report");
                let seq = report.seq;
                self.note(|seen| seen.reports.push(report));
                ack(Ack { reported_seq: Some(seq), ..Ack::default() })
            }
            "e" => {
                let event = Event::from_cbor(payload).expect("an event");
                let id = event.id.clone();
                self.note(|seen| seen.events.push(event));
                ack(Ack { events: vec![id], ..Ack::default() })
            }
            "q" => self.document(&MetadataRequest::from_cbor(payload).expect("a request")),
            "want" => self.want(&Want::from_cbor(payload).expect("a want")),
            _ => {
                if let Telemetry::Health(health) = Telemetry::from_cbor(payload).expect("telemetry") {
                    self.note(|seen| seen.heartbeats.push(health));
                }
                Vec::new()
            }
        }
    }

    fn document(&self, request: &MetadataRequest) -> Vec<(String, Vec<u8>)> {
        let bytes = match &request.document {
            Document::Metadata { repository: Repository::Publisher, role, .. } => {
                let n = ["timestamp", "snapshot", "targets"].iter().position(|word| *word == role.as_str());
                n.map(|n| self.rule(|rules| rules.publisher[n].clone()))
            }
            Document::Metadata { .. } => None,
            Document::ChunkIndex { bundle } => self.bundles.get(bundle).map(|n| {
                let entries: Vec<ChunkEntry> = chunks(*n).into_iter().map(|(entry, _)| entry).collect();
                ChunkIndex::new(*bundle, bundle.0, &entries).to_cbor().expect("CBOR")
            }),
        };
        let Some(bytes) = bytes else {
            let error = Failure::new(ErrorCode::NotFound, "no such document");
            let reply = Reply { v: V1, request: request.request.clone(), error, retry_after_s: None };
            return vec![(topic("in/q"), reply.to_cbor().expect("CBOR"))];
        };
        let parts = segments(&request.request, &request.document, &bytes, 700).expect("segments");
        parts.into_iter().map(|part| (topic("in/meta"), part.to_cbor().expect("CBOR"))).collect()
    }

    fn want(&mut self, want: &Want) -> Vec<(String, Vec<u8>)> {
        let missing: Vec<u32> = want.missing().collect();
        self.note(|seen| seen.wanted.push(missing.clone()));
        let all = self.bundles.get(&want.bundle).map(|n| chunks(*n)).unwrap_or_default();
        let corrupt = self.rule(|rules| rules.corrupt);
        let send = missing.into_iter().take(want.credit_chunks.into()).map(|index| {
            let (entry, mut data) = all[index as usize].clone();
            if corrupt {
                data[0] ^= 1;
            }
            let encoding = entry.encoding();
            assert!(matches!(encoding, ChunkEncoding::None | ChunkEncoding::Zstd));
            let chunk = Chunk { v: V1, bundle: want.bundle, index, encoding, key_id: None, data: Bytes(data) };
            (topic("in/chunk"), chunk.to_cbor().expect("CBOR"))
        });
        send.collect()
    }
}

/// What the data plane was told and does.
#[derive(Default)]
pub(crate) struct PlaneState {
    pub(crate) serving: Option<BundleDigest>,
    workers: BTreeMap<Slot, BundleDigest>,
    pub(crate) stopped: Vec<Slot>,
    /// Bundles whose golden samples come out wrong.
    pub(crate) wrong: BTreeSet<BundleDigest>,
    /// Bundles that were ever led samples to.
    pub(crate) served: BTreeSet<BundleDigest>,
}

async fn plane(
    state: Arc<Mutex<PlaneState>>,
    mut commands: mpsc::Receiver<Addressed<Command>>,
    happenings: mpsc::Sender<Addressed<Happening>>,
) {
    while let Some((component, command)) = commands.recv().await {
        let said = plane_does(&mut state.lock().expect("state"), command);
        for happening in said {
            if happenings.send((component.clone(), happening)).await.is_err() {
                return;
            }
        }
    }
}

/// What the data plane tells before it says that a worker took over.
fn counters(running: BundleDigest) -> Happening {
    let component = ComponentHealth {
        running,
        samples: 0,
        errors: 0,
        dropped: 0,
        worker_restarts: 0,
        memory_bytes: 0,
        latency_p50_us: None,
        latency_p95_us: None,
        latency_p99_us: None,
        confidence_mean: None,
        labels_late: 0,
        serving: None,
        past: Vec::new(),
    };
    Happening::Telemetry(Telemetry::Health(Health {
        v: V1,
        ts_ms: 0,
        dev: device(),
        boot: boot_id(),
        seq: 0,
        uptime_s: 0,
        window_s: 0,
        disk_free_bytes: 0,
        outbox_messages: 0,
        outbox_dropped: 0,
        temperature_c: None,
        components: BTreeMap::from([(camera(), component)]),
    }))
}

fn plane_does(state: &mut PlaneState, command: Command) -> Vec<Happening> {
    let answer = |ticket, answer| vec![Happening::Answer { ticket, answer }];
    match command {
        Command::StartWorker { ticket, slot, bundle, digest, settings } => {
            assert_eq!(settings, serde_json::json!({ "threshold": "0.5" }));
            assert_eq!(BundleDigest(Sha256Digest::of(&std::fs::read(bundle).expect("staged"))), digest);
            state.workers.insert(slot, digest);
            answer(ticket, Answer::WorkerReady)
        }
        Command::RunGolden { ticket, slot } => match state.workers.get(&slot) {
            Some(digest) if state.wrong.contains(digest) => {
                answer(ticket, Answer::GoldenFailed { detail: "sample 3 is off".to_owned() })
            }
            _ => answer(ticket, Answer::GoldenPassed),
        },
        Command::BeginShadow { ticket, limits, .. } => {
            let samples = limits.samples_min;
            answer(ticket, Answer::Shadow(ShadowVerdict { samples, ..ShadowVerdict::default() }))
        }
        Command::TakeOver { ticket, slot } => {
            state.serving = state.workers.get(&slot).copied();
            state.served.extend(state.serving);
            state.serving.map(counters).into_iter().chain(answer(ticket, Answer::TookOver)).collect()
        }
        Command::Serve { ticket, slot, bundle, digest, .. } => {
            assert_eq!(BundleDigest(Sha256Digest::of(&std::fs::read(bundle).expect("committed"))), digest);
            state.workers.insert(slot, digest);
            state.serving = Some(digest);
            state.served.insert(digest);
            [counters(digest)].into_iter().chain(answer(ticket, Answer::TookOver)).collect()
        }
        Command::StopWorker { slot } => {
            state.workers.remove(&slot);
            state.stopped.push(slot);
            Vec::new()
        }
        Command::WatchHealth { slot } => vec![Happening::HealthOk { slot }],
        Command::HoldSamples { .. } => Vec::new(),
    }
}

/// A device: a state directory, and an agent that runs or not.
pub(crate) struct Device {
    pub(crate) dir: TempDir,
    pub(crate) clock_date: UnixSeconds,
    pub(crate) plane: Arc<Mutex<PlaneState>>,
    port: u16,
    running: Option<Running>,
}

struct Running {
    tasks: Vec<JoinHandle<()>>,
    stop: oneshot::Sender<()>,
    local: mpsc::Sender<Local>,
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("directory");
    for entry in std::fs::read_dir(from).expect("list") {
        let (from, to) = entry.map(|e| (e.path(), to.join(e.file_name()))).expect("entry");
        if from.is_dir() {
            copy_dir(&from, &to);
        } else {
            std::fs::copy(from, to).expect("copied");
        }
    }
}

impl Device {
    pub(crate) fn new(server: &Server) -> Self {
        let dir = tempfile::tempdir().expect("directory");
        Self { dir, clock_date: NOW, plane: Arc::default(), port: server.port, running: None }
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Another device with the same state and data plane.
    pub(crate) fn copy(&self, server: &Server) -> Self {
        let copy = Self::new(server);
        copy_dir(&self.state_dir(), &copy.state_dir());
        copy.plane.lock().expect("plane").wrong = self.plane.lock().expect("plane").wrong.clone();
        copy
    }

    pub(crate) fn start(&mut self) {
        self.start_with(Arc::new(FileSystem));
    }

    pub(crate) fn start_with(&mut self, disk: Arc<dyn Disk>) {
        let clock = Clock::fast(SPEED, self.clock_date);
        // Longer than any test: heartbeats are those that something gives cause for.
        let mut config = Config::parse("health_interval_s = 86400").expect("fine");
        config.state_dir = self.state_dir();
        let identity = Identity {
            principal: device(),
            broker: String::new(),
            server: String::new(),
            certificate: Bytes::default(),
            authority: Bytes::default(),
            publisher_root: Bytes(root(&key(1), LATER)),
            director_root: Bytes(root(&key(2), LATER)),
            time: UnixSeconds(0),
        };
        let boot = boot_id();
        let mut mqtt = MqttConfig::plaintext(self.port, &device());
        mqtt.pace.backoff_first = Duration::from_millis(5);
        mqtt.pace.backoff_max = Duration::from_millis(20);
        let (will_boot, will_clock) = (boot.clone(), clock.clone());
        let line = Mqtt::start(
            mqtt,
            Box::new(move |n| status_message(&device(), &Status::will_of(&birth(&will_boot, n, &will_clock)))),
        );
        let (plane_in, commands) = mpsc::channel(256);
        let (happenings_in, happenings) = mpsc::channel(256);
        let (local, local_out) = mpsc::channel(4);
        {
            let mut plane = self.plane.lock().expect("plane");
            let PlaneState { wrong, served, .. } = std::mem::take(&mut *plane);
            *plane = PlaneState { wrong, served, ..PlaneState::default() };
        }
        let plane = tokio::spawn(plane(self.plane.clone(), commands, happenings_in));
        let parts = Parts {
            config,
            identity,
            boot,
            disk,
            clock,
            plane: plane_in,
            happenings,
            local: local_out,
            logs: LogRing::default(),
            verify: verify(),
        };
        let (stop, stopped) = oneshot::channel();
        let control = tokio::spawn(async move {
            // A device that lost power while it started does not start.
            if let Ok(mut control) = Control::open(parts, line) {
                let stopped = async { stopped.await.unwrap_or(()) };
                control.run(stopped).await.expect("runs");
            }
        });
        self.running = Some(Running { tasks: vec![control, plane], stop, local });
    }

    /// Power loss.
    pub(crate) async fn kill(&mut self) {
        let Some(Running { tasks, .. }) = self.running.take() else { return };
        for task in tasks {
            task.abort();
            let _ = task.await;
        }
    }

    pub(crate) async fn stop(&mut self) {
        let Running { mut tasks, stop, .. } = self.running.take().expect("it runs");
        stop.send(()).expect("it runs");
        tasks.truncate(1);
        timeout(PATIENCE, tasks.remove(0)).await.expect("it stops").expect("in good order");
    }

    pub(crate) async fn roll_back(&self) -> Result<(), String> {
        let (answer, answered) = oneshot::channel();
        let local = &self.running.as_ref().expect("it runs").local;
        local.send(Local::RollBack { component: camera(), answer }).await.expect("it runs");
        answered.await.expect("an answer")
    }

    pub(crate) fn serving(&self) -> Option<BundleDigest> {
        self.plane.lock().expect("plane").serving
    }

    pub(crate) fn status(&self) -> StatusFile {
        let json = std::fs::read(self.state_dir().join("status.json")).expect("a status");
        serde_json::from_slice(&json).expect("JSON")
    }
}
