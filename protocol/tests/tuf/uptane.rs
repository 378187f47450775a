//! Publisher and director together: what a device may run, and each way to refuse it.

use crate::repository::{LATER, NOW, chain, secret};
use sedge_protocol::id::{BundleName, ComponentName, Generation, Principal};
use sedge_protocol::signature::SecretKey;
use sedge_protocol::time::UnixSeconds;
use sedge_protocol::tuf::sign::{RootBuilder, sign};
use sedge_protocol::tuf::{
    DelegatedRole, Delegations, Key, MetaFile, Role, RoleKeys, Snapshot, Targets, Timestamp, TrustedSet,
};
use sedge_protocol::uptane::{
    Assignment, AuthorizeError, Authorized, Kind, Marks, Release, assign, authorize, director_targets, release,
    target_name,
};
use sedge_protocol::{BundleDigest, Sha256Digest, Version};
use serde_json::json;
use std::collections::BTreeMap;

fn later() -> UnixSeconds {
    LATER.parse().expect("date")
}

fn digest(of: &str) -> BundleDigest {
    BundleDigest(Sha256Digest::of(of.as_bytes()))
}

fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("name")
}

fn device() -> Principal {
    name("acme:cam-7")
}

fn digits(version: &str) -> Release {
    let version: Version = version.parse().expect("version");
    Release { name: name("digits"), version, kind: Kind::Model, floor: None, bytes: 5_000 }
}

fn assignment() -> Assignment {
    let settings = json!({ "threshold": "0.5" }).as_object().cloned().expect("object");
    Assignment {
        kind: Kind::Model,
        bundle: name("digits"),
        settings,
        floor: Generation(0),
        rollout: Some(name("rollout-1")),
        not_after: None,
    }
}

/// A repository with these targets, all four roles by one key.
fn repository(seed: u8, targets: &Targets, delegated: &[(&str, &Targets)], expires: UnixSeconds) -> TrustedSet {
    let key = secret(seed);
    let mut root = RootBuilder::first(later());
    for role in [Role::Root, Role::Timestamp, Role::Snapshot, Role::Targets] {
        root = root.trust(&role, &key.public());
    }
    let root = sign(&root.build().expect("root"), &[&key]).expect("signed");
    let mut set = TrustedSet::new(&root).expect("root");
    update(&mut set, &key, targets, delegated, expires);
    set
}

fn update(
    set: &mut TrustedSet,
    key: &SecretKey,
    targets: &Targets,
    delegated: &[(&str, &Targets)],
    expires: UnixSeconds,
) {
    let version = targets.header.version;
    let file = sign(targets, &[key]).expect("signed");
    let mut meta = BTreeMap::from([("targets.json".to_owned(), MetaFile::of(version, &file))]);
    let mut files = Vec::new();
    for (role, targets) in delegated {
        let file = sign(*targets, &[key]).expect("signed");
        meta.insert(format!("{role}.json"), MetaFile::of(targets.header.version, &file));
        files.push((Role::named(role), file));
    }
    let snapshot = sign(&Snapshot::new(version, later(), meta), &[key]).expect("signed");
    let timestamp = Timestamp::new(version, expires, MetaFile::of(version, &snapshot));
    set.finish_root(NOW).expect("root");
    set.update_timestamp(&sign(&timestamp, &[key]).expect("signed")).expect("timestamp");
    set.update_snapshot(&snapshot).expect("snapshot");
    set.update_targets(&file).expect("targets");
    for (role, file) in files {
        set.update_delegated_targets(&role, &Role::Targets, &file).expect("delegated targets");
    }
}

struct Fleet {
    publisher: Targets,
    director: Targets,
}

impl Fleet {
    fn new() -> Self {
        let mut publisher = Targets::new(1, later());
        release(&mut publisher, digest("v1"), 700, &digits("1.0.0")).expect("release");
        release(&mut publisher, digest("v2"), 700, &digits("2.0.0")).expect("release");
        let mut director = director_targets(&device(), Generation(7), later());
        assign(&mut director, &name("camera"), digest("v2"), 700, &assignment()).expect("assignment");
        Self { publisher, director }
    }

    fn assign(&mut self, bundle: BundleDigest, length: u64, assignment: &Assignment) {
        assign(&mut self.director, &name("camera"), bundle, length, assignment).expect("assignment");
    }

    fn authorize(&self) -> Result<Authorized, AuthorizeError> {
        let publisher = repository(1, &self.publisher, &[], later());
        let director = repository(2, &self.director, &[], later());
        authorize(&publisher, &director, &device(), NOW)
    }
}

#[test]
fn a_device_may_run_what_both_name() {
    let authorized = Fleet::new().authorize().expect("both agree");
    assert_eq!(authorized.generation, Generation(7));
    let target = &authorized.targets[&name::<ComponentName>("camera")];
    assert_eq!((target.digest, target.length, target.bytes), (digest("v2"), 700, 5_000));
    assert_eq!((target.kind, target.version.to_string().as_str()), (Kind::Model, "2.0.0"));
    assert_eq!(target.settings["threshold"], json!("0.5"));
    assert_eq!(target.rollout, Some(name("rollout-1")));
    let name = target_name(&name::<BundleName>("digits"), digest("v2"));
    assert_eq!(name, format!("digits/{}", digest("v2").0.hex()));
}

#[test]
fn a_device_without_assignments_runs_nothing() {
    let mut fleet = Fleet::new();
    fleet.director.targets.clear();
    assert_eq!(fleet.authorize().map(|a| a.targets.len()), Ok(0));
}

type Attack = fn(&mut Fleet);

#[rustfmt::skip]
const ATTACKS: &[(&str, &str, Attack)] = &[
    ("other-device's-director-metadata", "the director's metadata is for device acme:cam-8, and this is acme:cam-7", |f| {
        let mut other = director_targets(&name("acme:cam-8"), Generation(7), later());
        other.targets = f.director.targets.clone();
        f.director = other;
    }),
    ("other-project's-director-metadata", "is for device evil:cam-7, and this is acme:cam-7", |f| {
        f.director.extra.insert("sedge_device".to_owned(), json!("evil:cam-7"));
    }),
    ("director-metadata-for-nobody", "is for device unnamed (no `sedge_device`), and this is acme:cam-7", |f| {
        f.director.extra.clear();
    }),
    ("director-metadata-for-a-list", "is for device unnamed (no `sedge_device`), and this is acme:cam-7", |f| {
        f.director.extra.insert("sedge_device".to_owned(), json!(["acme:cam-7"]));
    }),
    ("other-device's-metadata-without-assignments", "is for device acme:cam-8", |f| {
        f.director = director_targets(&name("acme:cam-8"), Generation(7), later());
    }),
    ("unreleased-bundle", "component camera: the director assigns digits sha256:", |f| {
        f.assign(digest("backdoor"), 700, &assignment());
    }),
    ("released-under-another-name", "which the publisher has not released; publish it, or assign another", |f| {
        f.assign(digest("v2"), 700, &Assignment { bundle: name("other"), ..assignment() });
    }),
    ("another-length", "component camera: the director says length 701 and the publisher 700; do not install it", |f| {
        f.assign(digest("v2"), 701, &assignment());
    }),
    ("swapped-artifact", "component camera: the director says digest sha256:", |f| {
        let name = target_name(&name::<BundleName>("digits"), digest("v2"));
        let file = f.publisher.targets.get_mut(&name).expect("target");
        file.hashes.insert("sha256".to_owned(), digest("backdoor").0.hex());
    }),
    ("another-kind", "component camera: the director says kind system and the publisher model", |f| {
        f.assign(digest("v2"), 700, &Assignment { kind: Kind::System, ..assignment() });
    }),
    ("another-bundle's-name", "component camera: the director says bundle digits and the publisher letters", |f| {
        let target = target_name(&name::<BundleName>("digits"), digest("v2"));
        f.publisher.targets.get_mut(&target).and_then(|t| t.custom.as_mut()).expect("custom")
            .insert("name".to_owned(), json!("letters"));
    }),
    ("below-floor", "component camera: digits 1.0.0 lies below the publisher's floor 2.0.0; assign 2.0.0 or newer", |f| {
        release(&mut f.publisher, digest("v3"), 700, &Release { floor: Some(Version::new(2, 0, 0)), ..digits("3.0.0") })
            .expect("release");
        f.assign(digest("v1"), 700, &assignment());
    }),
    ("floor-ahead", "component camera: floor 8 lies ahead of generation 7", |f| {
        f.assign(digest("v2"), 700, &Assignment { floor: Generation(8), ..assignment() });
    }),
    ("lapsed-assignment", "component camera was assigned until 2027-01-15T08:00:00Z and it is 2027-01-15T08:00:00Z", |f| {
        f.assign(digest("v2"), 700, &Assignment { not_after: Some(NOW), ..assignment() });
    }),
    ("component-with-a-wildcard", "director target `cam/#` is malformed: `cam/#` is not a component name", |f| {
        let file = f.director.targets["camera"].clone();
        f.director.targets.insert("cam/#".to_owned(), file);
    }),
    ("assignment-without-custom", "director target `camera` is malformed: it has no `custom`", |f| {
        f.director.targets.get_mut("camera").expect("target").custom = None;
    }),
    ("assignment-of-an-unknown-kind", "director target `camera` is malformed: its `custom`: unknown variant `toaster`", |f| {
        f.director.targets.get_mut("camera").and_then(|t| t.custom.as_mut()).expect("custom")
            .insert("kind".to_owned(), json!("toaster"));
    }),
    ("assignment-by-another-hash", "director target `camera` is malformed: it has no sha256 hash", |f| {
        let file = f.director.targets.get_mut("camera").expect("target");
        file.hashes = [("sha512".to_owned(), "00".to_owned())].into();
    }),
    ("digest-in-capital-letters", "director target `camera` is malformed", |f| {
        let file = f.director.targets.get_mut("camera").expect("target");
        file.hashes.insert("sha256".to_owned(), digest("v2").0.hex().to_uppercase());
    }),
    ("release-without-custom", "publisher target `digits/", |f| {
        let target = target_name(&name::<BundleName>("digits"), digest("v2"));
        f.publisher.targets.get_mut(&target).expect("target").custom = None;
    }),
];

#[test]
fn each_disagreement_is_refused_by_name() {
    for (name, expected, attack) in ATTACKS {
        let mut fleet = Fleet::new();
        attack(&mut fleet);
        let Err(e) = fleet.authorize() else { panic!("{name} was authorized") };
        assert!(chain(&e).contains(expected), "{name}: {}", chain(&e));
    }
}

#[test]
fn going_back_is_a_higher_generation_and_allowed_down_to_the_floor() {
    let mut fleet = Fleet::new();
    let first = fleet.authorize().expect("both agree");
    let seen = first.follow(&Marks::default()).expect("first");
    fleet.director.header.version = 8;
    fleet.assign(digest("v1"), 700, &Assignment { floor: Generation(3), ..assignment() });
    // A floor of its own version allows it.
    release(
        &mut fleet.publisher,
        digest("v3"),
        700,
        &Release { floor: Some(Version::new(1, 0, 0)), ..digits("3.0.0") },
    )
    .expect("release");
    let back = fleet.authorize().expect("both agree");
    assert_eq!(back.targets[&name::<ComponentName>("camera")].version, Version::new(1, 0, 0));
    let seen = back.follow(&seen).expect("higher generation");
    assert_eq!(seen.generation, Generation(8));
    assert_eq!(back.follow(&seen), Ok(seen.clone()));
    let e = first.follow(&seen).expect_err("older");
    assert_eq!(e.to_string(), "generation 7 is older than 8, which was seen already (rollback attack)");
    fleet.director.header.version = 9;
    fleet.assign(digest("v2"), 700, &Assignment { floor: Generation(2), ..assignment() });
    let e = fleet.authorize().expect("both agree").follow(&seen).expect_err("floor fell");
    assert_eq!(e.to_string(), "component camera: floor 2 is lower than 3, which was seen already (rollback attack)");
    // A component that is gone for a while does not lose its floor.
    fleet.director.targets.clear();
    let gone = fleet.authorize().expect("both agree").follow(&seen).expect("higher generation");
    assert_eq!(gone.floors, seen.floors);
    let json = serde_json::to_string(&gone).expect("json");
    assert_eq!(serde_json::from_str::<Marks>(&json).expect("json"), gone);
}

#[test]
fn expired_metadata_authorizes_nothing_new_and_says_so() {
    let fleet = Fleet::new();
    let soon = NOW.plus(10);
    for (publisher, director, expected) in [(soon, later(), "publisher"), (later(), soon, "director")] {
        let publisher = repository(1, &fleet.publisher, &[], publisher);
        let director = repository(2, &fleet.director, &[], director);
        assert!(authorize(&publisher, &director, &device(), NOW).is_ok());
        let e = authorize(&publisher, &director, &device(), soon).expect_err("expired");
        assert!(matches!(e, AuthorizeError::Expired { .. }), "{e:?}");
        assert_eq!(
            chain(&e),
            format!(
                "the {expected}'s metadata is out of date; what runs goes on, and newer metadata is needed first: \
                 timestamp {} expired at 2027-01-15T08:00:10Z and it is 2027-01-15T08:00:10Z; fetch newer metadata \
                 (freeze attack)",
                if expected == "publisher" { 1 } else { 7 },
            )
        );
    }
    // Even where nothing is assigned.
    let nothing = director_targets(&device(), Generation(7), later());
    let publisher = repository(1, &fleet.publisher, &[], soon);
    let e = authorize(&publisher, &repository(2, &nothing, &[], later()), &device(), soon).expect_err("expired");
    assert!(matches!(e, AuthorizeError::Expired { .. }), "{e:?}");
}

#[test]
fn neither_repository_can_stand_in_for_the_other() {
    let fleet = Fleet::new();
    let publisher = repository(1, &fleet.publisher, &[], later());
    let director = repository(2, &fleet.director, &[], later());
    for (a, b) in [(&director, &publisher), (&publisher, &publisher), (&director, &director)] {
        assert!(authorize(a, b, &device(), NOW).is_err());
    }
}

#[test]
fn a_team_releases_its_own_bundles_and_no_others() {
    let key = Key::ed25519(&secret(1).public());
    let team = |paths: &str| DelegatedRole {
        name: "team".to_owned(),
        terminating: true,
        paths: Some(vec![paths.to_owned()]),
        path_hash_prefixes: None,
        keys: RoleKeys { keyids: vec![key.id()], threshold: 1, extra: serde_json::Map::new() },
    };
    let mut released = Targets::new(1, later());
    release(&mut released, digest("v2"), 700, &digits("2.0.0")).expect("release");
    let director = repository(2, &Fleet::new().director, &[], later());
    let mut top = Targets::new(1, later());
    for (paths, expected) in [("digits/*", None), ("letters/*", Some("has not released"))] {
        top.delegations =
            Some(Delegations { keys: BTreeMap::from([(key.id(), key.clone())]), roles: vec![team(paths)] });
        let publisher = repository(1, &top, &[("team", &released)], later());
        let result = authorize(&publisher, &director, &device(), NOW);
        match expected {
            None => assert!(result.is_ok(), "{result:?}"),
            Some(expected) => assert!(result.expect_err(expected).to_string().contains(expected)),
        }
    }
    // What is not held yet is asked for.
    top.delegations =
        Some(Delegations { keys: BTreeMap::from([(key.id(), key.clone())]), roles: vec![team("digits/*")] });
    let mut stored = repository(1, &top, &[("team", &released)], later()).export();
    stored.targets.remove(&Role::named("team"));
    let mut publisher = TrustedSet::new(stored.root.as_deref().expect("root")).expect("root");
    assert_eq!(publisher.load(&stored), []);
    let e = authorize(&publisher, &director, &device(), NOW).expect_err("not held");
    assert_eq!(
        e.to_string(),
        "component camera: the publisher's metadata of role team is needed; fetch it and try again"
    );
}
