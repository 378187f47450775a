//! Generations under contention, renewal, and going back.

use super::*;
use crate::fleet::publisher::Publisher;
use crate::fleet::testing::{NOW, YEAR_S, acme, chain, device, packed, pool, publish, repository, upload};
use sedge_protocol::uptane::{Assignment, Kind};
use sedge_protocol::{BundleDigest, Version};
use std::os::unix::fs::PermissionsExt as _;

struct World {
    director: Arc<Director>,
    publisher: Arc<TrustedSet>,
    versions: PublisherVersions,
    bundles: [(BundleDigest, u64); 2],
    directory: tempfile::TempDir,
}

const SHORT: Validity = Validity { root_s: 2 * YEAR_S, targets_s: YEAR_S, snapshot_s: 8 * 86_400, timestamp_s: 86_400 };

async fn world() -> World {
    let directory = tempfile::tempdir().expect("a directory");
    let pool = pool(directory.path()).await;
    let publisher = Publisher::new(pool.clone());
    let mut repository = repository(NOW);
    let one = packed("digits", "1.0.0", &[("a", vec![1; 100])]);
    let two = packed("digits", "2.0.0", &[("a", vec![2; 100])]);
    one.released(&mut repository, "digits", Version::new(1, 0, 0));
    two.released(&mut repository, "digits", Version::new(2, 0, 0));
    publish(&mut repository, NOW);
    publisher.create(&acme(), repository.first_root().expect("signed")).await.expect("a project");
    upload(&publisher, &repository, NOW).await;
    let director = Director::new(pool, &directory.path().join("keys"), SHORT);
    director.create(&acme(), NOW).await.expect("keys and a root");
    World {
        director: Arc::new(director),
        publisher: Arc::new(publisher.trusted(&acme(), NOW).await.expect("valid")),
        versions: publisher.versions(&acme()).await.expect("readable").expect("a project"),
        bundles: [(one.digest, one.manifest_bytes), (two.digest, two.manifest_bytes)],
        directory,
    }
}

fn model() -> ComponentName {
    "model".parse().expect("a name")
}

impl World {
    fn assigned(&self, bundle: usize) -> Assigned {
        let (digest, manifest_bytes) = self.bundles[bundle];
        let assignment = Assignment {
            kind: Kind::Model,
            bundle: "digits".parse().expect("a name"),
            settings: serde_json::Map::new(),
            floor: Generation(0),
            rollout: None,
            not_after: None,
        };
        Assigned { digest, manifest_bytes, assignment }
    }

    async fn assign(&self, name: &str, expected: Option<u64>, assigned: Assigned) -> Result<Generation, DirectorError> {
        let change = |assignments: &mut Assignments| drop(assignments.insert(model(), assigned.clone()));
        let publisher = (&*self.publisher, self.versions);
        self.director.assign(&device(name), expected.map(Generation), publisher, "test", NOW, change).await
    }
}

#[tokio::test]
async fn a_generation_is_given_out_once_however_many_write() {
    let world = Arc::new(world().await);
    let mut writers = tokio::task::JoinSet::new();
    for i in 0..12 {
        let world = Arc::clone(&world);
        writers.spawn(async move { world.assign("cam-1", None, world.assigned(i % 2)).await });
    }
    let mut given = Vec::new();
    while let Some(done) = writers.join_next().await {
        given.push(done.expect("no panic").expect("assigned").0);
    }
    given.sort_unstable();
    assert_eq!(given, (1..=12).collect::<Vec<_>>());
    // Who names the generation that he saw loses against a faster one.
    let e = world.assign("cam-1", Some(11), world.assigned(0)).await.expect_err("a conflict");
    assert_eq!(e.to_string(), "device `acme:cam-1` has generation 12 and not 11; read it again and repeat");
    assert_eq!(world.assign("cam-1", Some(12), world.assigned(0)).await.expect("assigned"), Generation(13));
}

#[tokio::test]
async fn what_the_device_would_refuse_is_not_given_out() {
    let world = world().await;
    let mut foreign = world.assigned(0);
    foreign.digest = BundleDigest(sedge_protocol::Sha256Digest::of(b"never released"));
    let e = world.assign("cam-1", None, foreign).await.expect_err("not released");
    assert!(chain(&e).contains("would refuse generation 1"), "{}", chain(&e));
    let mut longer = world.assigned(0);
    longer.manifest_bytes += 1;
    assert!(world.assign("cam-1", None, longer).await.is_err());
    let mut large = world.assigned(0);
    large.assignment.settings.insert("text".to_owned(), "x".repeat(120_000).into());
    let e = world.assign("cam-1", None, large).await.expect_err("too long");
    assert!(e.to_string().contains("assign fewer components or shorter settings"), "{e}");
    assert!(world.director.state(&device("cam-1")).await.expect("readable").is_none());
}

#[tokio::test]
async fn going_back_is_a_new_generation_with_the_older_bundle() {
    let world = world().await;
    let e = world.director.earlier(&device("cam-1"), &model(), None).await.expect_err("nothing yet");
    assert!(e.to_string().contains("has no desired state yet"), "{e}");
    for bundle in [0, 1, 1] {
        world.assign("cam-1", None, world.assigned(bundle)).await.expect("assigned");
    }
    let earlier = world.director.earlier(&device("cam-1"), &model(), None).await.expect("one before");
    assert_eq!(earlier.digest, world.bundles[0].0);
    assert_eq!(world.assign("cam-1", Some(3), earlier).await.expect("assigned"), Generation(4));
    // Not below the floor.
    let mut floored = world.assigned(1);
    floored.assignment.floor = Generation(5);
    world.assign("cam-1", None, floored).await.expect("assigned");
    let e = world.director.earlier(&device("cam-1"), &model(), None).await.expect_err("below the floor");
    assert!(e.to_string().contains("no earlier bundle that may be gone back to"), "{e}");
}

#[tokio::test]
async fn signatures_are_renewed_at_half_of_their_time() {
    let world = world().await;
    world.assign("cam-1", None, world.assigned(0)).await.expect("assigned");
    let cam = device("cam-1");
    let state = || async { world.director.state(&cam).await.expect("readable").expect("assigned") };
    let first = state().await;
    let due = first.signed.next_due(&SHORT);
    assert_eq!(due, NOW.plus(43_200));
    assert!(world.director.due(due.plus(-1), 10).await.expect("readable").is_empty());
    assert_eq!(world.director.due(due, 10).await.expect("readable"), std::slice::from_ref(&cam));
    assert!(!world.director.renew(&cam, due.plus(-1)).await.expect("renewed"));
    assert!(world.director.renew(&cam, due).await.expect("renewed"));
    let second = state().await;
    assert_eq!((second.generation, second.signed.timestamp_version), (Generation(1), 2));
    assert_eq!(second.signed.snapshot, first.signed.snapshot);
    assert!(second.signed.next_due(&SHORT) > due);
    world.director.renew(&cam, NOW.plus(5 * 86_400)).await.expect("renewed");
    assert_eq!(state().await.signed.snapshot_version, 2);
    // Targets are a new generation with the same contents.
    world.director.renew(&cam, NOW.plus(YEAR_S / 2)).await.expect("renewed");
    let last = state().await;
    assert_eq!((last.generation, &last.assignments), (Generation(2), &first.assignments));
    // The root, too, and devices walk to it.
    assert!(!world.director.renew_root(&acme(), NOW.plus(YEAR_S - 1)).await.expect("renewed"));
    assert!(world.director.renew_root(&acme(), NOW.plus(YEAR_S)).await.expect("renewed"));
    assert!(world.director.renew(&cam, NOW.plus(YEAR_S + 100)).await.expect("renewed"));
    assert_eq!(state().await.desired(world.versions).director.root_version, 2);
}

#[tokio::test]
async fn keys_are_for_the_server_alone_and_are_never_made_twice() {
    let world = world().await;
    let path = world.directory.path().join("keys/acme/timestamp.pem");
    assert_eq!(std::fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
    let root = world.director.root(&acme(), None).await.expect("readable");
    world.director.create(&acme(), NOW).await.expect("again");
    assert_eq!(world.director.root(&acme(), None).await.expect("readable"), root);
    std::fs::remove_file(&path).expect("removed");
    let pool = world.director.pool.clone();
    let restarted = Director::new(pool, &world.directory.path().join("keys"), SHORT);
    let e = restarted.create(&acme(), NOW).await.expect_err("gone");
    assert!(e.to_string().contains("restore it from a backup"), "{e}");
}
