//! What a sound client does over time: rotation, recovery, storage, delegation, signing.

use crate::repository::{Files, LATER, NOW, Repository, chain, file, find, key_id, refresh, secret, target, versions};
use sedge_protocol::time::{TrustedTime, UnixSeconds};
use sedge_protocol::tuf::sign::{RootBuilder, add_signature, draft, progress, sign};
use sedge_protocol::tuf::{
    Change, ForeignKey, Key, MetaFile, ROOT_UPDATES_MAX, Role, Search, Snapshot, Stored, Targets, Timestamp,
    TrustedSet, file_name,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn later() -> UnixSeconds {
    LATER.parse().expect("date")
}

#[test]
fn a_client_fetches_no_more_than_it_must() {
    let mut repository = Repository::new();
    let mut set = TrustedSet::new(&repository.roots[&1]).expect("root");
    let e = set.update_timestamp(b"").expect_err("too early");
    assert_eq!(e.to_string(), "the root must be finished before timestamp is updated");
    let request = set.next_root().expect("request");
    assert_eq!((request.file_name().as_str(), request.bytes_max), ("2.root.json", 512 * 1024));
    set.finish_root(NOW).expect("valid root");
    assert_eq!(
        set.next_snapshot().expect_err("no timestamp").to_string(),
        "there is no trusted timestamp metadata yet; update it first"
    );
    assert_eq!(set.next_timestamp().file_name(), "timestamp.json");
    let files = repository.publish();
    assert_eq!(set.update_timestamp(&files.timestamp), Ok(Change::Updated));
    assert_eq!(set.update_timestamp(&files.timestamp), Ok(Change::Unchanged));
    let request = set.next_snapshot().expect("valid").expect("request");
    let length = u64::try_from(files.snapshot.len()).expect("length");
    assert_eq!((request.file_name().as_str(), request.bytes_max), ("1.snapshot.json", length));
    set.update_snapshot(&files.snapshot).expect("valid");
    assert_eq!(set.next_snapshot(), Ok(None));
    assert_eq!(set.next_targets().expect("valid").expect("request").file_name(), "1.targets.json");
    set.update_targets(&files.targets).expect("valid");
    assert_eq!(set.next_targets(), Ok(None));
    assert_eq!(find(&mut set, &files, NOW, "a/file"), Ok((Some(Role::Targets), vec![])));
    assert_eq!(find(&mut set, &files, NOW, "a/other"), Ok((None, vec![])));
}

#[test]
fn without_consistent_snapshots_files_have_no_version_in_their_names() {
    let mut repository = Repository::new();
    for value in [json!(false), json!(null)] {
        repository.set("root", "/consistent_snapshot", value);
        repository.next_root();
    }
    let mut set = repository.client();
    repository.bump_all();
    set.update_timestamp(&repository.publish().timestamp).expect("valid");
    assert_eq!(set.next_snapshot().expect("valid").expect("request").file_name(), "snapshot.json");
}

#[test]
fn file_names_cannot_leave_their_directory() {
    for (role, expected) in [
        ("../delegatedrole", "..%2Fdelegatedrole.json"),
        ("/a", "%2Fa.json"),
        ("?", "%3F.json"),
        ("#", "%23.json"),
        ("a\\b%c d", "a%5Cb%25c%20d.json"),
        ("\0ä", "%00%C3%A4.json"),
        ("a-b_c.d~9", "a-b_c.d~9.json"),
    ] {
        assert_eq!(file_name(&Role::named(role)), expected);
    }
}

#[test]
fn roots_follow_one_another_through_any_number_of_rotations() {
    let mut repository = Repository::new();
    let mut client = repository.client();
    // From 2 of {1, 2} to 3 of {1, 7, 8, 9}, signed by enough of both; an expired root in between does not matter.
    repository.rotate("root", &[1, 7, 8, 9], 3);
    repository.seeds.insert("root".to_owned(), vec![1, 2, 7, 8]);
    repository.set("root", "/expires", json!("2001-01-01T00:00:00Z"));
    repository.next_root();
    repository.set("root", "/expires", json!(LATER));
    repository.seeds.insert("root".to_owned(), vec![7, 8, 9]);
    repository.next_root();
    refresh(&mut client, &repository.publish(), NOW).expect("valid");
    assert_eq!(client.root().header.version, 3);
}

#[test]
fn a_chain_of_roots_has_an_end_for_now() {
    let mut repository = Repository::new();
    repository.rotate("root", &[1], 1);
    repository.set("root", "/version", json!(0));
    repository.next_root();
    let mut client = TrustedSet::new(&repository.roots[&1]).expect("root");
    for _ in 0..ROOT_UPDATES_MAX {
        assert!(client.next_root().is_some());
        repository.next_root();
        let newest = repository.roots.last_key_value().expect("root").1;
        client.update_root(newest).expect("valid");
    }
    assert_eq!(client.next_root(), None);
    client.finish_root(NOW).expect("valid");
    assert!(client.next_root().is_some());
}

#[test]
fn fast_forwarded_versions_go_with_the_keys_that_announced_them() {
    // Both files go when either role's keys were rotated.
    for roles in [&["timestamp", "snapshot"][..], &["timestamp"], &["snapshot"]] {
        for hashes in [true, false] {
            let mut repository = Repository::new();
            repository.hashes = hashes;
            for role in ["timestamp", "snapshot", "targets"] {
                repository.set(role, "/version", json!(u64::MAX));
            }
            let mut client = repository.client();
            assert_eq!(versions(&client), [1, u64::MAX, u64::MAX, u64::MAX]);
            for role in ["timestamp", "snapshot", "targets"] {
                repository.set(role, "/version", json!(5));
            }
            assert!(refresh(&mut client, &repository.publish(), NOW).is_err());
            for (role, seed) in roles.iter().zip(30..) {
                repository.rotate(role, &[seed], 1);
            }
            repository.next_root();
            refresh(&mut client, &repository.publish(), NOW).expect("recovered");
            assert_eq!(versions(&client), [2, 5, 5, 5], "{roles:?}");
        }
    }
}

#[test]
fn each_step_keeps_nothing_of_what_it_refuses() {
    let mut repository = Repository::new();
    repository.hashes = false;
    let client = repository.client();
    let mut next = repository.clone();
    next.bump_all();
    let sound = next.publish();
    let refused = |role: &str, pointer: &str, value: Value, step: fn(&mut TrustedSet, &[u8]) -> bool| {
        let mut next = next.clone();
        next.set(role, pointer, value);
        let file = next.sign(role);
        let mut client = client.clone();
        if role != "timestamp" {
            client.update_timestamp(&sound.timestamp).expect("sound");
        }
        if role == "targets" {
            client.update_snapshot(&sound.snapshot).expect("sound");
        }
        let before = client.export();
        assert!(!step(&mut client, &file), "{role} {pointer}");
        assert_eq!(client.export(), before, "{role} {pointer}");
    };
    let past = json!("2027-01-15T08:00:00Z");
    refused("timestamp", "/expires", past.clone(), |set, file| set.update_timestamp(file).is_ok());
    refused("snapshot", "/expires", past.clone(), |set, file| set.update_snapshot(file).is_ok());
    refused("snapshot", "/version", json!(1), |set, file| set.update_snapshot(file).is_ok());
    refused("snapshot", "/version", json!(3), |set, file| set.update_snapshot(file).is_ok());
    refused("targets", "/expires", past.clone(), |set, file| set.update_targets(file).is_ok());
    refused("targets", "/version", json!(3), |set, file| set.update_targets(file).is_ok());
    // Nor of what is signed by others.
    let forged = file(&next.snapshot, &[3]);
    let mut client_of_now = client.clone();
    client_of_now.update_timestamp(&sound.timestamp).expect("sound");
    assert!(client_of_now.update_snapshot(&forged).is_err());
    assert_eq!(client_of_now.snapshot(), client.snapshot());
    let dropped = client_of_now.load(&Stored { snapshot: Some(forged), ..Stored::default() });
    assert!(dropped[0].to_string().starts_with("snapshot 2 carries 0 of 1 signatures"), "{dropped:?}");
    assert_eq!(client_of_now.snapshot(), client.snapshot());
    // Behind an expired root nothing is updated.
    repository.set("root", "/expires", past);
    repository.next_root();
    let mut client = client.clone();
    client.update_root(&repository.roots[&2]).expect("dates do not matter in between");
    assert!(client.finish_root(NOW).is_err());
    let e = client.update_timestamp(&sound.timestamp).expect_err("expired root");
    assert_eq!(e.to_string(), "the root must be finished before timestamp is updated");
}

#[test]
fn recovery_works_from_stored_files_that_a_newer_root_no_longer_trusts() {
    let mut repository = Repository::new();
    repository.set("timestamp", "/version", json!(900));
    let stored = repository.client().export();
    repository.rotate("timestamp", &[30], 1);
    repository.next_root();
    repository.set("timestamp", "/version", json!(3));
    // Power was lost after the new root was stored, and before the old timestamp was deleted.
    let mut client = TrustedSet::new(&repository.roots[&2]).expect("root");
    let dropped = client.load(&Stored { root: None, ..stored });
    assert_eq!(dropped.len(), 1, "{dropped:?}");
    assert!(dropped[0].to_string().starts_with("timestamp 900 carries 0 of 1 signatures that root 2"), "{dropped:?}");
    refresh(&mut client, &repository.publish(), NOW).expect("recovered");
    assert_eq!(client.timestamp().map(|t| t.header.version), Some(3));
}

#[test]
fn keys_of_other_makes_verify_where_someone_can() {
    let mut repository = Repository::new();
    let key = json!({ "keytype": "rot13", "scheme": "rot13", "keyval": { "public": "x" } });
    repository.set("root", "/keys/foreign", key);
    repository.set("root", "/roles/timestamp/keyids", json!(["foreign"]));
    repository.next_root();
    let files = repository.publish();
    let mut envelope: Value = serde_json::from_slice(&files.timestamp).expect("json");
    envelope["signatures"] = json!([{ "keyid": "foreign", "sig": "0d" }]);
    let files = Files { timestamp: serde_json::to_vec(&envelope).expect("json"), ..files };
    let verify = |key: ForeignKey<'_>, _: &[u8], signature: &[u8]| key.keytype == "rot13" && signature == [13];
    let root = &files.roots[&1];
    assert!(refresh(&mut TrustedSet::new(root).expect("root"), &files, NOW).is_err());
    let mut set = TrustedSet::with_foreign_keys(root, Some(verify)).expect("root");
    refresh(&mut set, &files, NOW).expect("verified by someone else");
}

#[test]
fn a_further_key_takes_no_version_back() {
    let mut repository = Repository::new();
    repository.set("timestamp", "/version", json!(9));
    let mut client = repository.client();
    repository.rotate("timestamp", &[3, 30], 1);
    repository.next_root();
    repository.set("timestamp", "/version", json!(8));
    let e = refresh(&mut client, &repository.publish(), NOW).expect_err("rolled back");
    assert!(e.to_string().contains("timestamp 8 is older than timestamp 9"), "{e}");
}

#[test]
fn held_targets_are_held_against_the_newest_root() {
    let mut repository = Repository::new();
    let mut client = repository.client();
    let old = repository.publish();
    repository.rotate("targets", &[40], 1);
    repository.next_root();
    let files = Files { roots: repository.roots.clone(), ..old };
    let e = refresh(&mut client, &files, NOW).expect_err("signed by keys that count no more");
    assert!(e.to_string().contains("targets 1 carries 0 of 1 signatures that root 2"), "{e}");
    assert!(client.view(NOW).is_err());
    repository.bump_all();
    refresh(&mut client, &repository.publish(), NOW).expect("signed anew");
}

#[test]
fn expired_copies_still_tell_which_versions_are_known() {
    let mut repository = Repository::new();
    repository.set("timestamp", "/expires", json!("2027-02-01T00:00:00Z"));
    repository.set("timestamp", "/version", json!(5));
    repository.set("snapshot", "/version", json!(5));
    let stored = repository.client().export();
    let march: UnixSeconds = "2027-03-01T00:00:00Z".parse().expect("date");
    let reborn = || {
        let mut client = TrustedSet::new(stored.root.as_deref().expect("root")).expect("root");
        assert_eq!(client.load(&stored), []);
        client
    };
    repository.set("timestamp", "/expires", json!(LATER));
    repository.set("timestamp", "/version", json!(4));
    let e = refresh(&mut reborn(), &repository.publish(), march).expect_err("rolled back");
    assert!(e.to_string().contains("timestamp 4 is older than timestamp 5"), "{e}");
    repository.set("timestamp", "/version", json!(6));
    refresh(&mut reborn(), &repository.publish(), march).expect("sound");
}

#[test]
fn of_two_stored_copies_the_newer_one_counts_role_by_role() {
    let mut repository = Repository::new();
    let old = repository.client().export();
    let mut client = repository.client();
    repository.next_root();
    repository.bump_all();
    refresh(&mut client, &repository.publish(), NOW).expect("sound");
    let new = client.export();
    let torn = Stored { timestamp: old.timestamp.clone(), snapshot: None, ..new.clone() };
    for order in [[&old, &new], [&new, &old], [&torn, &new], [&new, &torn]] {
        let mut client = TrustedSet::new(&repository.roots[&1]).expect("root");
        for stored in order {
            assert_eq!(client.load(stored), []);
        }
        assert_eq!(versions(&client), [2, 2, 2, 2]);
        assert_eq!(client.export(), new);
        assert!(client.view(NOW).is_ok());
    }
    let mut client = TrustedSet::new(&repository.roots[&1]).expect("root");
    let junk = Stored { root: Some(b"{".to_vec()), timestamp: Some(vec![]), ..Stored::default() };
    let dropped: Vec<_> = client.load(&junk).iter().map(|e| chain(e)).collect();
    assert_eq!(dropped.len(), 2, "{dropped:?}");
}

/// Delegations as `delegator role pattern`, `!` for terminating; a path to look for; who has it; which roles are asked,
/// in order.
type Graph = (&'static str, &'static [&'static str], &'static str, Option<&'static str>, &'static [&'static str]);

#[rustfmt::skip]
const GRAPHS: &[Graph] = &[
    // The graphs of tuf-conformance.
    ("one role", &["targets A *"], "x", None, &["A"]),
    ("two roles", &["targets A *", "targets B *"], "x", None, &["A", "B"]),
    ("depth first", &["targets A *", "targets B *", "A C *", "A D *"], "x", None, &["A", "C", "D", "B"]),
    ("three levels", &["targets A *", "targets B *", "A C *", "C D *"], "x", None, &["A", "C", "D", "B"]),
    ("terminating", &["targets A *", "targets B *", "A C *!", "A D *"], "x", None, &["A", "C"]),
    ("descendants of terminating", &["targets A *", "targets B *", "A C *!", "C D *"], "x", None, &["A", "C", "D"]),
    ("other paths", &["targets A *.py", "targets B *", "A C *"], "x", None, &["B"]),
    ("other paths below", &["targets A *", "targets B *", "A C *.py", "C D *"], "x", None, &["A", "B"]),
    ("a cycle", &["targets A *", "targets B *", "B C *", "C D *", "D B *"], "x", None, &["A", "B", "C", "D"]),
    ("two to a third", &["targets A *", "targets B *", "B C *", "A C *"], "x", None, &["A", "C", "B"]),
    ("not by all above", &["targets B releases/*/*", "B D releases/y/*.zip"], "releases/z/z.zip", None, &["B"]),
    ("terminating does not stop other paths", &["targets A a/*!", "targets B b/*"], "b/x", None, &["B"]),
    // Every role but B has a file of its own name.
    ("found below", &["targets A *", "A D *"], "D", Some("D"), &["A", "D"]),
    ("found first", &["targets A *", "targets D *"], "D", Some("D"), &["A", "D"]),
    ("without being asked for", &["targets A other/*", "targets D *"], "A", None, &["D"]),
];

#[test]
fn delegations_are_searched_in_the_order_of_the_specification() {
    for &(name, delegations, path, found, asked) in GRAPHS {
        let mut repository = Repository::new();
        for delegation in delegations {
            let mut parts = delegation.split(' ');
            let mut next = || parts.next().expect("three parts");
            let (delegator, role, pattern) = (next(), next(), next());
            let (pattern, terminating) = pattern.strip_suffix('!').map_or((pattern, false), |p| (p, true));
            let seed = 50 + role.as_bytes()[0] - b'A';
            repository.delegate(delegator, role, &[pattern], terminating, seed);
        }
        for role in repository.delegated.keys().cloned().collect::<Vec<_>>() {
            repository.set(&role, "/targets", json!({ role.as_str(): target(b"contents") }));
        }
        let mut client = repository.client();
        let files = repository.publish();
        let expected = (found.map(Role::named), asked.iter().map(|&role| role.to_owned()).collect());
        assert_eq!(find(&mut client, &files, NOW, path), Ok(expected), "{name}");
        // What was fetched is kept.
        assert_eq!(find(&mut client, &files, NOW, path), Ok((found.map(Role::named), vec![])), "{name}");
    }
}

#[test]
fn a_search_looks_into_a_bounded_number_of_roles() {
    let mut repository = Repository::new();
    let mut above = "targets".to_owned();
    for index in 0..40 {
        let name = format!("r{index}");
        repository.delegate(&above, &name, &["*"], false, 60);
        above = name;
    }
    repository.set(&above, "/targets", json!({ "x": target(b"contents") }));
    let mut client = repository.client();
    let (found, asked) = find(&mut client, &repository.publish(), NOW, "x").expect("sound");
    assert_eq!((found, asked.len()), (None, 31));
}

#[test]
fn delegated_roles_are_verified_like_any_other() {
    let mut repository = Repository::new();
    repository.delegate("targets", "team", &["team/*"], true, 50);
    repository.set("team", "/targets", json!({ "team/x": target(b"contents") }));
    let sound = repository.client();
    let role = Role::named("team");
    let files = repository.publish();
    let mut client = sound.clone();
    let mut refuse = |delegator: &str, file: &[u8], expected: &str| {
        let e = client.update_delegated_targets(&role, &Role::named(delegator), file).expect_err(expected);
        assert!(e.to_string().contains(expected), "{e}");
    };
    refuse("root", &files.delegated["team"], "root does not delegate to team");
    refuse("unknown", &files.delegated["team"], "there is no trusted unknown metadata yet");
    refuse("targets", &files.targets, "more than 449 (endless data attack)");
    refuse("targets", &files.delegated["team"][1..], "another length than snapshot lists (mix-and-match attack)");
    repository.hashes = false;
    repository.bump("timestamp");
    repository.bump("snapshot");
    let files = repository.publish();
    refresh(&mut client, &files, NOW).expect("sound");
    let mut refuse = |seeds: &[u8], pointer: &str, value: Value, expected: &str| {
        let mut attacked = repository.clone();
        attacked.seeds.insert("team".to_owned(), seeds.to_vec());
        attacked.set("team", pointer, value);
        let file = attacked.sign("team");
        let e = client.update_delegated_targets(&role, &Role::Targets, &file).expect_err(expected);
        assert!(e.to_string().contains(expected), "{e}");
    };
    refuse(&[5, 6], "/version", json!(1), "team 1 carries 0 of 1 signatures that targets 1 asks for");
    refuse(&[50], "/version", json!(2), "team 2 was given where snapshot lists team 1");
    refuse(&[50], "/expires", json!("2020-01-01T00:00:00Z"), "team 1 expired at 2020-01-01T00:00:00Z");
    refuse(&[50], "/_type", json!("snapshot"), "its type is `snapshot` and not `targets`");
    assert_eq!(find(&mut client, &files, NOW, "team/x"), Ok((Some(role.clone()), vec!["team".to_owned()])));
    // The delegator takes the key away: what is held is worth nothing any more.
    let team = repository.delegated["team"].clone();
    repository.targets.as_object_mut().expect("targets").remove("delegations");
    repository.delegate("targets", "team", &["team/*"], true, 51);
    repository.delegated.insert("team".to_owned(), team);
    repository.bump_all();
    let files = repository.publish();
    refresh(&mut client, &files, NOW).expect("sound");
    assert!(matches!(client.view(NOW).expect("valid").find("team/x"), Ok(Search::Fetch { .. })));
    let e = find(&mut client, &files, NOW, "team/x").expect_err("signed by a key that counts no more");
    assert!(e.to_string().contains("team 1 carries 0 of 1 signatures that targets 2"), "{e}");
}

#[test]
fn a_role_that_the_snapshot_does_not_list_ends_the_search() {
    let mut repository = Repository::new();
    repository.delegate("targets", "team", &["*/*"], true, 50);
    let targets = repository.sign("targets");
    repository.hashes = false;
    repository.set("snapshot", "/meta", json!({ "targets.json": { "version": 1 } }));
    let files = Files { targets, ..repository.publish_snapshot() };
    let mut client = TrustedSet::new(&repository.roots[&1]).expect("root");
    refresh(&mut client, &files, NOW).expect("sound");
    let e = client.view(NOW).expect("valid").find("team/x").expect_err("not listed");
    assert_eq!(e.to_string(), "snapshot 1 does not list team (mix-and-match attack)");
}

#[test]
fn signatures_are_added_one_by_one_and_the_signed_bytes_stay() {
    let public = |seed: u8| secret(seed).public();
    let root = RootBuilder::first(later())
        .trust(&Role::Root, &public(1))
        .trust(&Role::Root, &public(2))
        .threshold(&Role::Root, 2)
        .trust(&Role::Timestamp, &public(3))
        .trust(&Role::Snapshot, &public(3))
        .trust(&Role::Targets, &public(4));
    let root = root.build().expect("complete");
    let unsigned = draft(&root).expect("draft");
    let once = add_signature(&unsigned, &secret(1)).expect("signed");
    let twice = add_signature(&once, &secret(2)).expect("signed");
    let again = add_signature(&twice, &secret(2)).expect("signed");
    assert_eq!(twice, again);
    let signed = |file: &[u8]| serde_json::from_slice::<Value>(file).expect("json")["signed"].to_string();
    assert_eq!(signed(&unsigned), signed(&twice));
    for (file, valid) in [(&unsigned, 0), (&once, 1), (&twice, 2)] {
        let progress = progress(file, &Role::Root, &root).expect("progress");
        assert_eq!((progress.valid, progress.threshold, progress.is_complete()), (valid, 2, valid == 2));
        assert_eq!(TrustedSet::new(file).is_ok(), valid == 2);
    }
    // A rotation, signed by old and new.
    let next = RootBuilder::after(&root, later())
        .trust(&Role::Root, &public(9))
        .revoke(&Role::Root, &Key::ed25519(&public(2)).id())
        .build()
        .expect("complete");
    assert!(!next.keys.keys().any(|id| id.as_str() == key_id(2)));
    let mut set = TrustedSet::new(&twice).expect("root");
    let half = sign(&next, &[&secret(1), &secret(9)]).expect("signed");
    let e = set.update_root(&half).expect_err("one of two old signatures");
    assert!(e.to_string().contains("root 2 carries 1 of 2 signatures that root 1"), "{e}");
    set.update_root(&add_signature(&half, &secret(2)).expect("signed")).expect("signed by old and new");
}

#[test]
fn what_clients_would_refuse_is_not_made() {
    let said = |result: Result<Vec<u8>, sedge_protocol::tuf::sign::SignError>| chain(&result.expect_err("refused"));
    let mut targets = Targets::new(1, later());
    targets.extra.insert("sedge".to_owned(), json!({ "threshold": 0.5 }));
    assert_eq!(
        said(draft(&targets)),
        "targets metadata cannot be written: `/sedge/threshold` is 0.5, and only whole 64-bit numbers can be signed; write it as text"
    );
    assert!(said(draft(&Targets::new(0, later()))).contains("its version is 0"));
    assert!(said(draft(&Targets::new(1, UnixSeconds(i64::MAX)))).contains("outside the years"));
    let e = RootBuilder::first(later()).build().expect_err("no roles");
    assert!(e.to_string().contains("role `root` is missing"), "{e}");
    let mut builder = RootBuilder::first(later());
    for role in [Role::Root, Role::Timestamp, Role::Snapshot, Role::Targets] {
        builder = builder.trust(&role, &secret(1).public());
    }
    let e = builder.threshold(&Role::Root, 2).build().expect_err("one key");
    assert_eq!(e.to_string(), "role root needs 2 signatures and has 1 different keys");
    for file in [&b"{}"[..], b"{\"signed\":{\"_type\":\"letter\"},\"signatures\":[]}", b"hello"] {
        let e = add_signature(file, &secret(1)).expect_err("no metadata");
        assert_eq!(e.to_string(), "the file cannot be signed");
    }
}

#[test]
fn trusted_time_comes_from_the_timestamp_and_not_past_what_offline_keys_have_signed() {
    let root_expires: UnixSeconds = "2028-01-01T00:00:00Z".parse().expect("date");
    let mut builder = RootBuilder::first(root_expires);
    for role in [Role::Root, Role::Timestamp, Role::Snapshot, Role::Targets] {
        builder = builder.trust(&role, &secret(1).public());
    }
    let root = sign(&builder.build().expect("root"), &[&secret(1)]).expect("signed");
    let targets = sign(&Targets::new(1, later()), &[&secret(1)]).expect("signed");
    let meta = BTreeMap::from([("targets.json".to_owned(), MetaFile::of(1, &targets))]);
    let snapshot = sign(&Snapshot::new(1, later(), meta), &[&secret(1)]).expect("signed");
    for (issued, expected) in
        [(Some(NOW), Some(NOW)), (Some(UnixSeconds(9_000_000_000)), Some(root_expires.plus(-1))), (None, None)]
    {
        let mut timestamp = Timestamp::new(1, later(), MetaFile::of(1, &snapshot));
        timestamp.sedge_issued = issued;
        let timestamp = sign(&timestamp, &[&secret(1)]).expect("signed");
        let mut set = TrustedSet::new(&root).expect("root");
        set.finish_root(UnixSeconds(0)).expect("valid");
        set.update_timestamp(&timestamp).expect("valid");
        assert_eq!(set.signed_time(), expected);
        let mut time = TrustedTime::new(UnixSeconds(1));
        time.learn(set.signed_time().unwrap_or_default());
        // A clock that has lost power does not make expired metadata valid again, nor valid metadata expired.
        set.update_snapshot(&snapshot).expect("valid");
        set.update_targets(&targets).expect("valid");
        assert!(set.view(time.now(UnixSeconds(0))).is_ok());
    }
}
