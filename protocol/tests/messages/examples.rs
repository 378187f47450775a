//! An example of each message, with every optional key.

use sedge_protocol::cbor::Bytes;
use sedge_protocol::id::{ComponentName, Generation, RequestId};
use sedge_protocol::message::*;
use sedge_protocol::{BundleDigest, Sha256Digest, Version};
use std::collections::BTreeMap;

/// Names of components in the examples.
pub(crate) const COMPONENTS: [&str; 2] = ["detector", "agent"];

const TS_MS: u64 = 1_795_500_000_000;

type Rewrite = fn(&[u8]) -> Result<Vec<u8>, MessageError>;

/// A message that has been written, and how to read and write it again.
pub(crate) struct Example {
    pub name: &'static str,
    /// Its rule in the CDDL.
    pub rule: &'static str,
    pub cbor: Vec<u8>,
    pub json: String,
    pub cbor_to_cbor: Rewrite,
    pub json_to_cbor: Rewrite,
}

fn example<M: Message>(name: &'static str, rule: &'static str, message: &M) -> Example {
    message.to_json().expect(name);
    Example {
        name,
        rule,
        cbor: message.to_cbor().expect(name),
        json: serde_json::to_string_pretty(message).expect(name),
        cbor_to_cbor: |bytes| M::from_cbor(bytes)?.to_cbor(),
        json_to_cbor: |bytes| M::from_json(bytes)?.to_cbor(),
    }
}

fn digest(of: &str) -> Sha256Digest {
    Sha256Digest::of(of.as_bytes())
}

fn bundle() -> BundleDigest {
    BundleDigest(digest("bundle 1.4.0"))
}

fn detector() -> ComponentName {
    COMPONENTS[0].parse().expect("a name")
}

fn request() -> RequestId {
    "q-17".parse().expect("an id")
}

fn failure() -> Failure {
    Failure::new(ErrorCode::GoldenFailed, "golden sample 3: output `scores` differs by 0.31; at most 0.05")
}

fn index() -> ChunkIndex {
    let entry = |name, length_bytes, stored_bytes| ChunkEntry { sha256: digest(name), length_bytes, stored_bytes };
    let chunks = [entry("a", 65_536, 40_000), entry("b", 114_688, 114_688), entry("c", 700, 512)];
    ChunkIndex::new(bundle(), digest("packed"), &chunks)
}

pub(crate) fn examples() -> Vec<Example> {
    let mut all = telemetry();
    all.extend(state());
    all.extend(exchange());
    all.extend(content());
    all
}

fn telemetry() -> Vec<Example> {
    let dev = || "acme:cam-7".parse().expect("a principal");
    let boot = || "b41f".parse().expect("an id");
    let result = Prediction {
        v: V1,
        ts_ms: TS_MS,
        dev: dev(),
        boot: boot(),
        seq: 981,
        component: detector(),
        model: digest("model.int8.onnx"),
        ver: Version::new(1, 4, 0),
        source: "line-2".into(),
        id: "b41f-981/0".into(),
        labels: vec![
            ScoredLabel { index: 3, label: "scratch".into(), score: 0.91 },
            ScoredLabel { index: 0, label: "good".into(), score: 0.0625 },
        ],
        quantities: vec![Quantity { name: "length".into(), value: 12.5, unit: "mm".into() }],
        confidence: Some(0.91),
        region: Some(Region { x: 0.25, y: 0.5, width: 0.125, height: 0.1 }),
        latency_us: 4_310,
    };
    let fares = |name, samples, right| BundleHealth {
        bundle: BundleDigest(digest(name)),
        serving_since_ts_ms: TS_MS - 600_000,
        first_result_ts_ms: Some(TS_MS - 599_800),
        samples,
        errors: 3,
        labelled: 200,
        right,
        latency_p50_us: Some(4_210),
        latency_p95_us: Some(4_890),
        latency_p99_us: Some(6_020),
        confidence_mean: Some(0.875),
    };
    let health = ComponentHealth {
        running: bundle(),
        samples: 120_000,
        errors: 3,
        dropped: 41,
        worker_restarts: 1,
        memory_bytes: 31_457_280,
        latency_p50_us: Some(4_210),
        latency_p95_us: Some(4_890),
        latency_p99_us: Some(6_020),
        confidence_mean: Some(0.875),
        labels_late: 7,
        serving: Some(fares("bundle 1.4.0", 60_000, 196)),
        past: vec![fares("bundle 1.3.0", 59_959, 188)],
    };
    let health = Health {
        v: V1,
        ts_ms: TS_MS,
        dev: dev(),
        boot: boot(),
        seq: 64,
        uptime_s: 86_400,
        window_s: 60,
        disk_free_bytes: 1_073_741_824,
        outbox_messages: 2,
        outbox_dropped: 0,
        temperature_c: Some(51.5),
        components: BTreeMap::from([(detector(), health)]),
    };
    let log = LogSegment {
        v: V1,
        ts_ms: TS_MS,
        dev: dev(),
        boot: boot(),
        seq: 0,
        request: request(),
        index: 0,
        count: 1,
        lines: "2026-11-24T06:00:00Z WARN detector: golden sample 3 failed\n".into(),
    };
    vec![
        example("telemetry-result", "telemetry", &Telemetry::Result(result)),
        example("telemetry-health", "telemetry", &Telemetry::Health(health)),
        example("telemetry-log", "telemetry", &Telemetry::Log(log)),
    ]
}

fn state() -> Vec<Example> {
    let birth = Birth {
        v: V1,
        ts_ms: TS_MS,
        clock_synced: true,
        boot: "b41f".parse().expect("an id"),
        seq: 2,
        agent_version: Version::new(0, 1, 0),
        target: "aarch64-unknown-linux-gnu".into(),
        capabilities: Capabilities {
            protocol_version: 1,
            journal_version: 1,
            worker_version: 1,
            features: vec!["zstd".into()],
        },
    };
    let director = DirectorMetadata {
        root_version: 1,
        timestamp: Bytes(br#"{"signed":{"_type":"timestamp"},"signatures":[]}"#.to_vec()),
        snapshot: Bytes(br#"{"signed":{"_type":"snapshot"},"signatures":[]}"#.to_vec()),
        targets: Bytes(br#"{"signed":{"_type":"targets"},"signatures":[]}"#.to_vec()),
    };
    let hash = director.hash();
    let publisher =
        PublisherVersions { root_version: 2, timestamp_version: 41, snapshot_version: 12, targets_version: 12 };
    let model = ComponentReport {
        kind: ComponentKind::Model,
        state: DeploymentState::WaitDownload,
        attempt: 2,
        running: Some(digest("bundle 1.3.0")),
        rollback: Some(digest("bundle 1.2.0")),
        target: Some(bundle().0),
        waiting_for: Some(WaitReason::Window),
        deadline_ts_ms: Some(TS_MS + 3_600_000),
        progress: Some(Progress::Bytes { done_bytes: 65_536, total_bytes: 180_924 }),
        error: None,
    };
    let agent = ComponentReport {
        kind: ComponentKind::Agent,
        state: DeploymentState::Reverted,
        waiting_for: None,
        progress: Some(Progress::Samples { done_samples: 12, total_samples: 100 }),
        error: Some(failure()),
        ..model.clone()
    };
    let reported = Reported {
        v: V1,
        ts_ms: TS_MS,
        boot: "b41f".parse().expect("an id"),
        seq: 310,
        generation: Generation(18),
        hash: Some(hash),
        components: BTreeMap::from([(detector(), model), (COMPONENTS[1].parse().expect("a name"), agent)]),
    };
    vec![
        example("status-online", "status", &Status::Online(birth.clone())),
        example("status-offline", "status", &Status::will_of(&birth)),
        example("desired", "desired", &Desired::new(Generation(18), director, publisher)),
        example("reported", "reported", &reported),
    ]
}

fn exchange() -> Vec<Example> {
    let event = |body| Event {
        v: V1,
        id: "b41f-12".parse().expect("an id"),
        ts_ms: TS_MS,
        boot: "b41f".parse().expect("an id"),
        seq: 12,
        body,
    };
    let deployment_result = EventBody::DeploymentResult {
        component: detector(),
        generation: Generation(18),
        attempt: 2,
        outcome: DeploymentState::Reverted,
        running: Some(digest("bundle 1.3.0")),
        error: Some(failure()),
        duration_ms: 41_200,
    };
    let rolled_back = EventBody::RolledBack {
        component: detector(),
        from: bundle().0,
        to: digest("bundle 1.3.0"),
        error: Failure::new(ErrorCode::Operator, "`sedge-agent rollback` on the device"),
    };
    let worker_restarted = EventBody::WorkerRestarted {
        component: detector(),
        restarts: 1,
        error: Failure::new(ErrorCode::WorkerHung, "no answer for 5 s"),
    };
    let command_result = EventBody::CommandResult {
        request: request(),
        error: Some(Failure::new(ErrorCode::RequestExpired, "arrived 12 s late")),
    };
    let ack = Ack { v: V1, events: vec!["b41f-12".parse().expect("an id")], reported_seq: Some(310) };
    let command = |action| Command { v: V1, request: request(), not_after_ts_ms: TS_MS + 60_000, action };
    let verdict = Action::Verdict { component: detector(), generation: Generation(18), verdict: Verdict::Commit };
    let send_log = Action::SendLog { lines_max: 200, level: LogLevel::Warn, since_ts_ms: Some(TS_MS - 60_000) };
    let metadata = Document::Metadata { repository: Repository::Publisher, role: Role::Targets, version: Some(12) };
    let ask = |document, first_index| MetadataRequest {
        v: V1,
        request: request(),
        document,
        segment_bytes_max: 65_536,
        first_index,
    };
    let segment = segments(&request(), &metadata, br#"{"signed":{"_type":"targets"},"signatures":[]}"#, 32);
    let segment = segment.expect("segments").remove(1);
    let reply = Reply {
        v: V1,
        request: request(),
        error: Failure::new(ErrorCode::Busy, "too many requests"),
        retry_after_s: Some(30),
    };
    vec![
        example("event-deployment-result", "event", &event(deployment_result)),
        example("event-rolled-back", "event", &event(rolled_back)),
        example("event-worker-restarted", "event", &event(worker_restarted)),
        example("event-command-result", "event", &event(command_result)),
        example("ack", "ack", &ack),
        example("command-roll-back", "command", &command(Action::RollBack { component: detector() })),
        example("command-verdict", "command", &command(verdict)),
        example("command-report-now", "command", &command(Action::ReportNow)),
        example("command-send-log", "command", &command(send_log)),
        example("metadata-request", "metadata_request", &ask(metadata, 0)),
        example("metadata-request-chunk-index", "metadata_request", &ask(Document::ChunkIndex { bundle: bundle() }, 3)),
        example("metadata-segment", "metadata_segment", &segment),
        example("metadata-segment-chunk-index", "metadata_segment", &index_segment()),
        example("reply", "reply", &reply),
    ]
}

fn index_segment() -> MetadataSegment {
    let bytes = index().to_cbor().expect("an index");
    segments(&request(), &Document::ChunkIndex { bundle: bundle() }, &bytes, 65_536).expect("segments").remove(0)
}

fn content() -> Vec<Example> {
    let mut want = Want::new(bundle(), 11, 16, |i| i == 0 || i > 8);
    want.bytes_per_s_max = Some(250_000);
    let chunk = Chunk {
        v: V1,
        bundle: bundle(),
        index: 2,
        encoding: ChunkEncoding::None,
        key_id: None,
        data: Bytes((0..32).collect()),
    };
    vec![
        example("announcement", "announcement", &Announcement::of(&index(), 2).expect("an announcement")),
        example("chunk-index", "chunk_index", &index()),
        example("want", "want", &want),
        example("chunk", "chunk", &chunk),
    ]
}
