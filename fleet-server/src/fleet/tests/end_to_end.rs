//! Server, Mosquitto and a device: from birth to the last chunk, with each of them restarted on the way.

use super::broker::Mosquitto;
use super::simulated::Simulated;
use crate::fleet::mqtt::MqttEndpoint;
use crate::fleet::store::now;
use crate::fleet::testing::{Packed, acme, device, noise, packed, pool, publish, repository};
use crate::fleet::{Desire, Fleet, FleetContext, FleetLimits};
use sedge_protocol::Version;
use sedge_protocol::id::{ComponentName, Generation};
use sedge_protocol::message::{
    Ack, Action, Command, Desired, Document, ErrorCode, Event, EventBody, MetadataRequest, Reply, Repository, Role,
    Telemetry, V1, Verdict,
};
use sedge_protocol::topic::DeviceTopic;
use sedge_protocol::tuf::repository::PublisherRepository;
use sqlx::SqlitePool;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

async fn start(directory: &Path, port: u16) -> Fleet {
    start_with(directory, port, pool(directory).await, FleetLimits::default()).await
}

async fn start_with(directory: &Path, port: u16, pool: SqlitePool, limits: FleetLimits) -> Fleet {
    let broker = MqttEndpoint::loopback(port);
    let context = FleetContext { pool, data_directory: directory.to_owned(), broker, limits };
    Fleet::start(context).await.expect("a fleet")
}

fn model() -> ComponentName {
    "model".parse().expect("a name")
}

fn desire(bundle: &Packed) -> Desire {
    Desire {
        bundle: "digits".parse().expect("a name"),
        digest: bundle.digest,
        settings: serde_json::from_str(r#"{"threshold":"0.8"}"#).expect("json"),
        rollout: None,
        not_after: None,
        expected_generation: None,
    }
}

/// A project with two bundles uploaded.
async fn published(fleet: &Fleet, bundles: &[&Packed]) -> PublisherRepository {
    let mut repository = repository(now());
    fleet.create_project(&acme(), repository.first_root().expect("signed")).await.expect("a project");
    for (minor, bundle) in (0..).zip(bundles) {
        bundle.released(&mut repository, "digits", Version::new(1, minor, 0));
    }
    publish(&mut repository, now());
    for (name, file) in repository.uploads(1).expect("published") {
        fleet.import(&acme(), &name, file).await.expect("accepted");
    }
    for bundle in bundles {
        assert!(fleet.add_bundle(&acme(), bundle.file()).await.expect("accepted").1);
    }
    repository
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_learns_what_to_run_fetches_it_and_is_heard() {
    let Some(broker) = Mosquitto::start().await else { return };
    let directory = tempfile::tempdir().expect("a directory");
    let fleet = start(directory.path(), broker.port).await;
    let text = "a line that compresses\n".repeat(5_000).into_bytes();
    let bundle = packed("digits", "1.0.0", &[("model.onnx", noise(1, 2_000_000)), ("labels.txt", text)]);
    published(&fleet, &[&bundle]).await;
    let roots = fleet.first_roots(&acme()).await.expect("a project");

    let mut cam = Simulated::connect(&device("cam-1"), broker.port).await;
    cam.birth("b1", 1).await;
    let generation = fleet.desire(&cam.name, &model(), &desire(&bundle), "ada").await.expect("assigned");
    let desired: Desired = cam.hear(&DeviceTopic::Desired).await;
    assert_eq!((desired.generation, generation), (Generation(1), Generation(1)));
    let authorized = cam.authorize(&roots.publisher, &roots.director, &desired, now()).await;
    let target = authorized.targets.get(&model()).expect("a target");
    assert_eq!((target.digest, target.settings.get("threshold")), (bundle.digest, Some(&"0.8".into())));

    let index = cam.index(target.digest).await;
    assert_eq!(index.packed_bytes, target.bytes);
    let mut got = BTreeMap::new();
    let begun = std::time::Instant::now();
    let repeated = cam.download(&index, &mut got, index.count() as usize).await;
    let took_ms = begun.elapsed().as_millis();
    assert_eq!(repeated, 0, "nothing is sent twice");
    assert!(got.into_values().flatten().eq(bundle.tar.iter().copied()), "the same bytes");
    // 2 MiB/s is the ceiling for one device.
    assert!(took_ms >= 800, "{} bytes in {took_ms} ms are too fast", index.packed_bytes);
    cam.want(&index, &(0..index.count()).map(|i| (i, Vec::new())).collect(), 16, None).await;

    // A report is acknowledged when it is stored, and so is its repetition.
    for _ in 0..2 {
        cam.say(DeviceTopic::Reported, &cam.report(generation, 7)).await;
        let ack: Ack = cam.hear(&DeviceTopic::Ack).await;
        assert_eq!(ack.reported_seq, Some(7));
    }
    let event = Event {
        v: V1,
        id: "e-1".parse().expect("a name"),
        ts_ms: 1,
        boot: "b1".parse().expect("a name"),
        seq: 1,
        body: EventBody::Unknown,
    };
    cam.say(DeviceTopic::Event, &event).await;
    let ack: Ack = cam.hear(&DeviceTopic::Ack).await;
    assert_eq!(ack.events, std::slice::from_ref(&event.id));
    let view = fleet.device(&cam.name).await.expect("known");
    assert_eq!(view.reported.get(&model()).map(|latest| (latest.seq, latest.generation)), Some((7, 1)));
    assert!(view.presence.is_some() && view.generation == generation);
    assert_eq!(fleet.records().events(&cam.name, 10).await.expect("readable"), [event]);

    // Commands, refusals, telemetry.
    fleet.verdict(&cam.name, &model(), generation, Verdict::Commit).await.expect("sent");
    let command: Command = cam.hear(&DeviceTopic::Command).await;
    assert!(matches!(command.action, Action::Verdict { generation: Generation(1), verdict: Verdict::Commit, .. }));
    let document = Document::Metadata { repository: Repository::Publisher, role: Role::Root, version: Some(9) };
    let request = "q-x".parse().expect("a name");
    let request = MetadataRequest { v: V1, request, document, segment_bytes_max: 65_536, first_index: 0 };
    cam.say(DeviceTopic::Request, &request).await;
    let reply: Reply = cam.hear(&DeviceTopic::Reply).await;
    assert_eq!((reply.request, reply.error.code), (request.request, ErrorCode::NotFound));
    let mut measurements = fleet.telemetry();
    let health = include_str!("../../../../docs/protocol/vectors/telemetry-health.json");
    let health: Telemetry = sedge_protocol::message::Message::from_json(health.as_bytes()).expect("a vector");
    cam.say(DeviceTopic::Telemetry("health".parse().expect("a name")), &health).await;
    let measured = tokio::time::timeout(Duration::from_secs(20), measurements.recv()).await.expect("in time");
    assert_eq!(measured.expect("not too slow").telemetry, health);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_goes_on_over_a_restart_of_the_server() {
    let Some(broker) = Mosquitto::start().await else { return };
    let directory = tempfile::tempdir().expect("a directory");
    let fleet = start(directory.path(), broker.port).await;
    let bundle = packed("digits", "1.0.0", &[("model.onnx", noise(3, 1_500_000))]);
    published(&fleet, &[&bundle]).await;
    let mut cam = Simulated::connect(&device("cam-1"), broker.port).await;
    cam.birth("b1", 1).await;
    fleet.desire(&cam.name, &model(), &desire(&bundle), "ada").await.expect("assigned");
    let _desired: Desired = cam.hear(&DeviceTopic::Desired).await;
    let index = cam.index(bundle.digest).await;
    let mut got = BTreeMap::new();
    cam.download(&index, &mut got, index.count() as usize / 2).await;
    drop(fleet);
    let before = got.len();
    let fleet = start(directory.path(), broker.port).await;
    cam.download(&index, &mut got, index.count() as usize).await;
    assert!(before < got.len());
    assert!(got.into_values().flatten().eq(bundle.tar.iter().copied()), "the same bytes");
    assert_eq!(fleet.device(&cam.name).await.expect("known").generation, Generation(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_broker_has_lost_everything_desired_states_are_back() {
    let Some(mut broker) = Mosquitto::start().await else { return };
    let directory = tempfile::tempdir().expect("a directory");
    let fleet = start(directory.path(), broker.port).await;
    let (one, two) = (
        packed("digits", "1.0.0", &[("model.onnx", noise(4, 50_000))]),
        packed("digits", "1.1.0", &[("model.onnx", noise(5, 50_000))]),
    );
    published(&fleet, &[&one, &two]).await;
    for bundle in [&one, &two] {
        fleet.desire(&device("cam-1"), &model(), &desire(bundle), "ada").await.expect("assigned");
    }
    let back = fleet.roll_back(&device("cam-1"), &model(), None, "ada").await.expect("assigned");
    assert_eq!(back, Generation(3));
    broker.restart().await;
    // The device comes back before the server or after it: it hears the newest either way.
    let mut cam = Simulated::connect(&device("cam-1"), broker.port).await;
    cam.birth("b2", 1).await;
    let roots = fleet.first_roots(&acme()).await.expect("a project");
    let desired: Desired = cam.hear(&DeviceTopic::Desired).await;
    let authorized = cam.authorize(&roots.publisher, &roots.director, &desired, now()).await;
    assert_eq!((authorized.generation, authorized.targets[&model()].digest), (Generation(3), one.digest));
    // Reports are taken again, too.
    cam.say(DeviceTopic::Reported, &cam.report(back, 1)).await;
    let ack: Ack = cam.hear(&DeviceTopic::Ack).await;
    assert_eq!(ack.reported_seq, Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signatures_are_renewed_while_devices_run_and_nothing_is_acknowledged_that_is_not_stored() {
    let Some(broker) = Mosquitto::start().await else { return };
    let directory = tempfile::tempdir().expect("a directory");
    let pool = pool(directory.path()).await;
    let mut limits = FleetLimits::default();
    limits.validity.timestamp_s = 6;
    let fleet = start_with(directory.path(), broker.port, pool.clone(), limits).await;
    let bundle = packed("digits", "1.0.0", &[("model.onnx", noise(6, 50_000))]);
    let mut repository = published(&fleet, &[&bundle]).await;
    let mut cam = Simulated::connect(&device("cam-1"), broker.port).await;
    cam.birth("b1", 1).await;
    fleet.desire(&cam.name, &model(), &desire(&bundle), "ada").await.expect("assigned");
    let first: Desired = cam.hear(&DeviceTopic::Desired).await;
    let second: Desired = cam.hear(&DeviceTopic::Desired).await;
    assert_eq!((second.generation, &second.director.targets), (first.generation, &first.director.targets));
    assert_ne!(second.director.timestamp, first.director.timestamp);

    // Newer publisher metadata are pointed to as well.
    publish(&mut repository, now());
    for (name, file) in repository.uploads(1).expect("published") {
        fleet.import(&acme(), &name, file).await.expect("accepted");
    }
    let mut told = false;
    for _ in 0..5 {
        if told {
            break;
        }
        let desired: Desired = cam.hear(&DeviceTopic::Desired).await;
        told |= desired.publisher.timestamp_version == first.publisher.timestamp_version + 1;
    }
    assert!(told);
    pool.close().await;
    cam.say(DeviceTopic::Reported, &cam.report(Generation(1), 1)).await;
    assert!(cam.hear_within::<Ack>(&DeviceTopic::Ack, Duration::from_secs(2)).await.is_none());
}
