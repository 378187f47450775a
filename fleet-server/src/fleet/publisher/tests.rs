//! Attacks on an import, and the honest way.

use super::*;
use crate::fleet::testing::{NOW, acme, chain, key, packed, pool, publish, repository, upload};
use sedge_protocol::Version;
use sedge_protocol::tuf::repository::{PublisherRepository, TrustedKeys};
use std::collections::BTreeMap;

struct World {
    publisher: Publisher,
    repository: PublisherRepository,
    _directory: tempfile::TempDir,
}

async fn world() -> World {
    let directory = tempfile::tempdir().expect("a directory");
    let publisher = Publisher::new(pool(directory.path()).await);
    let repository = repository(NOW);
    publisher.create(&acme(), repository.first_root().expect("signed")).await.expect("a project");
    World { publisher, repository, _directory: directory }
}

impl World {
    async fn import(&self, name: &str, file: &[u8], now: UnixSeconds) -> Result<Imported, String> {
        self.publisher.import(&acme(), name, file, now).await.map_err(|e| chain(&e))
    }

    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        self.repository.files().clone()
    }

    async fn refused(&self, name: &str, file: &[u8], now: UnixSeconds, expected: &str) {
        let before = self.publisher.versions(&acme()).await.expect("readable");
        let e = self.import(name, file, now).await.expect_err(expected);
        assert!(e.contains(expected), "{name}: {e}");
        assert_eq!(self.publisher.versions(&acme()).await.expect("readable"), before);
    }
}

#[tokio::test]
async fn an_upload_counts_when_it_is_complete() {
    let world = world().await;
    let mut complete = Vec::new();
    for (name, file) in world.repository.uploads(1).expect("published") {
        complete.push(world.import(&name, file, NOW).await.expect("accepted").complete);
        // Again is no news and no error.
        assert!(!world.import(&name, file, NOW).await.expect("accepted").new);
    }
    assert_eq!(complete, [false, false, true]);
    let versions = world.publisher.versions(&acme()).await.expect("readable").expect("a project");
    assert_eq!((versions.timestamp_version, versions.targets_version), (1, 1));
    let targets = world.publisher.file(&acme(), &Role::Targets, None).await.expect("readable");
    assert_eq!(targets.as_ref(), world.files().get("1.targets.json"));
}

#[tokio::test]
async fn half_an_upload_does_not_take_devices_away_from_what_was_whole() {
    let mut world = world().await;
    upload(&world.publisher, &world.repository, NOW).await;
    let before = world.publisher.file(&acme(), &Role::Timestamp, None).await.expect("readable");
    packed("digits", "1.0.0", &[]).released(&mut world.repository, "digits", Version::new(1, 0, 0));
    publish(&mut world.repository, NOW);
    world.import("timestamp.json", &world.files()["timestamp.json"], NOW).await.expect("accepted");
    assert_eq!(world.publisher.file(&acme(), &Role::Timestamp, None).await.expect("readable"), before);
    upload(&world.publisher, &world.repository, NOW).await;
    let now = world.publisher.file(&acme(), &Role::Timestamp, None).await.expect("readable");
    assert_eq!(now.as_ref(), world.files().get("timestamp.json"));
}

#[tokio::test]
async fn rolled_back_expired_unsigned_and_foreign_files_are_refused_by_name() {
    let mut world = world().await;
    let old = world.files();
    upload(&world.publisher, &world.repository, NOW).await;
    publish(&mut world.repository, NOW);
    upload(&world.publisher, &world.repository, NOW).await;
    world.refused("timestamp.json", &old["timestamp.json"], NOW, "rollback attack").await;
    let mut forged = world.files()["2.snapshot.json"].clone();
    forged.extend_from_slice(b" ");
    world.refused("2.snapshot.json", &forged, NOW, "differs from the file of this number").await;

    publish(&mut world.repository, NOW);
    let new = world.files();
    let late = NOW.plus(2 * 86_400);
    world.refused("timestamp.json", &new["timestamp.json"], late, "expired").await;
    let text = String::from_utf8(new["timestamp.json"].clone()).expect("json");
    let unsigned = text.replacen("\"sig\":\"", "\"sig\":\"00", 1);
    world.refused("timestamp.json", unsigned.as_bytes(), NOW, "carries 0 of 1 signatures").await;
    world.refused("timestamp.json", b"{}", NOW, "`timestamp.json` is refused").await;
    world.refused("3.snapshot.json", &new["3.snapshot.json"], NOW, "snapshot").await;
    world.refused("9.root.json", &new["1.root.json"], NOW, "refused").await;
    for name in ["root.json", "1.timestamp.json", "../1.root.json", "0.root.json", "x", ".json"] {
        world.refused(name, &new["1.root.json"], NOW, "is no file of a repository").await;
    }
}

#[tokio::test]
async fn the_first_root_never_changes_and_the_next_is_signed_by_it() {
    let mut world = world().await;
    let stranger = TrustedKeys {
        root: vec![key(9).public()],
        root_threshold: 1,
        targets: vec![key(9).public()],
        targets_threshold: 1,
        refresh: vec![key(9).public()],
    };
    let mut other = PublisherRepository::create(&stranger, NOW.plus(1_000_000)).expect("keys that suffice");
    other.sign(&key(9)).expect("drafts");
    let e = world.publisher.create(&acme(), other.first_root().expect("signed")).await.expect_err("another root");
    assert!(e.to_string().contains("its first root never changes"), "{e}");
    world.publisher.create(&acme(), world.repository.first_root().expect("signed")).await.expect("the same");

    other.change_root(NOW.plus(1_000_000), |root| root).expect("a draft");
    other.sign(&key(9)).expect("a draft");
    world.refused("2.root.json", &other.files()["2.root.json"], NOW, "arbitrary software attack").await;

    world
        .repository
        .change_root(NOW.plus(1_000_000), |root| root.trust(&Role::Root, &key(2).public()))
        .expect("a draft");
    world.repository.sign(&key(1)).expect("a draft");
    let imported = world.import("2.root.json", &world.files()["2.root.json"], NOW).await.expect("signed by the old");
    assert!(imported.new);
    let versions = world.publisher.versions(&acme()).await.expect("readable").expect("a project");
    assert_eq!(versions.root_version, 2);
    let e = world.publisher.first_root(&"nobody".parse().expect("a name")).await.expect_err("no project");
    assert!(e.to_string().contains("there is no project `nobody`"), "{e}");
}

#[tokio::test]
async fn metadata_out_of_date_release_nothing() {
    let world = world().await;
    upload(&world.publisher, &world.repository, NOW).await;
    assert!(world.publisher.trusted(&acme(), NOW).await.is_ok());
    let e = world.publisher.trusted(&acme(), NOW.plus(2 * 86_400)).await.expect_err("expired");
    assert!(chain(&e).contains("expired"), "{}", chain(&e));
}
