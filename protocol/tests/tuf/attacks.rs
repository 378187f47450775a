//! One attack per line: what the server gives out after a client has seen a sound repository, and what the client says.

use crate::repository::{
    Files, LATER, NOW, PAST, Repository, chain, file, key_id, key_object, refresh, signature, versions,
};
use sedge_protocol::tuf::{Attack, TrustedSet};
use serde_json::{Value, json};

type Make = fn(&mut Repository) -> Files;

fn text(file: &[u8]) -> String {
    String::from_utf8(file.to_vec()).expect("UTF-8")
}

/// Publishes news, with `tamper` done to one file afterwards.
fn tampered(repository: &mut Repository, tamper: impl FnOnce(&mut Files)) -> Files {
    repository.bump_all();
    let mut files = repository.publish();
    tamper(&mut files);
    files
}

/// Publishes news without hashes, so that signatures alone protect a file.
fn tampered_unhashed(repository: &mut Repository, tamper: impl FnOnce(&mut Files)) -> Files {
    repository.hashes = false;
    tampered(repository, tamper)
}

fn with_signed(repository: &mut Repository, role: &str, pointer: &str, value: Value) -> Files {
    repository.bump_all();
    repository.set(role, pointer, value);
    repository.publish()
}

#[rustfmt::skip]
const ATTACKS: &[(&str, &str, Option<Attack>, Make)] = &[
    // 5.3. Root.
    ("root-skips-a-version", "root 3 cannot follow root 1; the next is root 2", Some(Attack::Rollback), |r| {
        r.bump("root");
        r.bump("root");
        let skipped = r.sign("root");
        r.roots.insert(2, skipped);
        r.publish()
    }),
    ("root-given-again", "root 1 cannot follow root 1", Some(Attack::Rollback), |r| {
        let same = r.roots[&1].clone();
        r.roots.insert(2, same);
        r.publish()
    }),
    ("root-not-signed-by-old", "root 2 carries 0 of 2 signatures that root 1 asks for", Some(Attack::ArbitrarySoftware), |r| {
        r.rotate("root", &[11, 12], 2);
        r.next_root();
        r.publish()
    }),
    ("root-not-signed-by-enough-old", "root 2 carries 1 of 2 signatures that root 1 asks for", Some(Attack::ArbitrarySoftware), |r| {
        r.rotate("root", &[1, 12], 2);
        r.next_root();
        r.publish()
    }),
    ("root-not-signed-by-new", "root 2 carries 0 of 2 signatures that root 2 asks for", Some(Attack::ArbitrarySoftware), |r| {
        r.rotate("root", &[11, 12], 2);
        r.seeds.insert("root".to_owned(), vec![1, 2]);
        r.next_root();
        r.publish()
    }),
    ("root-lowers-its-threshold-alone", "root 2 carries 1 of 2 signatures that root 1 asks for", Some(Attack::ArbitrarySoftware), |r| {
        r.set("root", "/roles/root/threshold", json!(1));
        r.seeds.insert("root".to_owned(), vec![1]);
        r.next_root();
        r.publish()
    }),
    ("expired-root", "root 2 expired at 2027-01-15T07:59:59Z and it is 2027-01-15T08:00:00Z", Some(Attack::Freeze), |r| {
        r.set("root", "/expires", json!(PAST));
        r.next_root();
        r.publish()
    }),
    ("root-without-a-role", "role `snapshot` is missing", None, |r| {
        r.root["roles"].as_object_mut().expect("roles").remove("snapshot");
        r.next_root();
        r.publish()
    }),
    ("root-with-threshold-zero", "role `timestamp`: the threshold is 0; it is at least 1", None, |r| {
        r.set("root", "/roles/timestamp/threshold", json!(0));
        r.next_root();
        r.publish()
    }),
    ("root-with-a-key-id-twice", "role `timestamp`: a key id is listed twice", None, |r| {
        r.set("root", "/roles/timestamp/keyids", json!([key_id(3), key_id(3)]));
        r.next_root();
        r.publish()
    }),
    ("root-of-another-major-version", "its spec_version is `2.0.0`, and only 1.x is understood", None, |r| {
        r.set("root", "/spec_version", json!("2.0.0"));
        r.next_root();
        r.publish()
    }),
    ("endless-root", "root metadata has 524289 bytes, more than 524288", Some(Attack::EndlessData), |r| {
        r.next_root();
        r.roots.get_mut(&2).expect("root").resize(512 * 1024 + 1, b' ');
        r.publish()
    }),
    // 5.4. Timestamp.
    ("unsigned-timestamp", "timestamp 3 carries 0 of 1 signatures that root 1 asks for", Some(Attack::ArbitrarySoftware), |r| {
        r.seeds.insert("timestamp".to_owned(), vec![]);
        r.bump_all();
        r.publish()
    }),
    ("timestamp-by-a-stranger", "timestamp 3 carries 0 of 1 signatures", Some(Attack::ArbitrarySoftware), |r| {
        r.seeds.insert("timestamp".to_owned(), vec![99]);
        r.bump_all();
        r.publish()
    }),
    ("timestamp-by-the-snapshot-key", "timestamp 3 carries 0 of 1 signatures", Some(Attack::ArbitrarySoftware), |r| {
        r.seeds.insert("timestamp".to_owned(), vec![4]);
        r.bump_all();
        r.publish()
    }),
    ("timestamp-by-a-stranger-in-the-right-name", "timestamp 3 carries 0 of 1 signatures", Some(Attack::ArbitrarySoftware), |r| {
        tampered(r, |files| {
            let mut envelope: Value = serde_json::from_slice(&files.timestamp).expect("json");
            let mut forged = signature(&envelope["signed"], 99);
            forged["keyid"] = json!(key_id(3));
            envelope["signatures"] = json!([forged]);
            files.timestamp = serde_json::to_vec(&envelope).expect("json");
        })
    }),
    ("timestamp-changed-after-signing", "timestamp 3 carries 0 of 1 signatures", Some(Attack::ArbitrarySoftware), |r| {
        tampered(r, |files| files.timestamp = text(&files.timestamp).replace("2030-01-01", "2040-01-01").into_bytes())
    }),
    ("timestamp-with-a-field-added", "timestamp 3 carries 0 of 1 signatures", Some(Attack::ArbitrarySoftware), |r| {
        tampered(r, |files| files.timestamp = text(&files.timestamp).replacen("\"_type\"", "\"x\":1,\"_type\"", 1).into_bytes())
    }),
    ("rolled-back-timestamp", "timestamp 1 is older than timestamp 2, which is known already", Some(Attack::Rollback), |r| {
        r.set("timestamp", "/version", json!(1));
        r.publish()
    }),
    ("timestamp-announces-an-older-snapshot", "snapshot 1 is older than snapshot 2, which is known already", Some(Attack::Rollback), |r| {
        r.bump("timestamp");
        r.set("snapshot", "/version", json!(1));
        r.publish()
    }),
    ("expired-timestamp", "timestamp 3 expired at 2027-01-15T07:59:59Z", Some(Attack::Freeze), |r| {
        with_signed(r, "timestamp", "/expires", json!(PAST))
    }),
    ("timestamp-expires-this-second", "timestamp 3 expired at 2027-01-15T08:00:00Z", Some(Attack::Freeze), |r| {
        with_signed(r, "timestamp", "/expires", json!(NOW.to_string()))
    }),
    ("endless-timestamp", "timestamp metadata has 16385 bytes, more than 16384", Some(Attack::EndlessData), |r| {
        tampered(r, |files| files.timestamp.resize(16 * 1024 + 1, b' '))
    }),
    ("snapshot-given-as-timestamp", "timestamp metadata is malformed", None, |r| {
        tampered(r, |files| files.timestamp = files.snapshot.clone())
    }),
    ("timestamp-of-version-zero", "its version is 0; it is at least 1", None, |r| {
        with_signed(r, "timestamp", "/version", json!(0))
    }),
    ("negative-version", "invalid value: integer `-1`, expected u64", None, |r| {
        with_signed(r, "timestamp", "/version", json!(-1))
    }),
    ("version-as-text", "invalid type: string \"3\", expected u64", None, |r| {
        with_signed(r, "timestamp", "/version", json!("3"))
    }),
    ("date-with-an-offset", "`2030-01-01T00:00:00+00:00` is not a date", None, |r| {
        with_signed(r, "timestamp", "/expires", json!("2030-01-01T00:00:00+00:00"))
    }),
    ("float", "timestamp metadata cannot be read: not strict JSON: 2.5 is not a whole 64-bit number", None, |r| {
        tampered(r, |files| files.timestamp = text(&files.timestamp).replace("\"version\":3}", "\"version\":2.5}").into_bytes())
    }),
    ("duplicate-json-keys", "key `version` occurs twice", None, |r| {
        tampered(r, |files| files.timestamp = text(&files.timestamp).replacen("\"_type\"", "\"version\":9,\"_type\"", 1).into_bytes())
    }),
    ("duplicate-signed-halves", "key `signed` occurs twice", None, |r| {
        tampered(r, |files| files.timestamp = text(&files.timestamp).replacen('{', "{\"signed\":{},", 1).into_bytes())
    }),
    ("deep-nesting", "nested deeper than 32 levels", None, |r| {
        tampered(r, |files| files.timestamp = [vec![b'['; 8000], vec![b']'; 8000]].concat())
    }),
    ("no-signatures-at-all", "it has no list `signatures`", None, |r| {
        tampered(r, |files| files.timestamp = text(&files.timestamp).replacen("signatures", "signature5", 1).into_bytes())
    }),
    ("more-signatures-than-anyone-needs", "it has 257 signatures, more than 256", None, |r| {
        tampered(r, |files| {
            let mut envelope: Value = serde_json::from_slice(&files.timestamp).expect("json");
            envelope["signatures"] = json!(vec![json!({ "keyid": "a", "sig": "" }); 257]);
            files.timestamp = serde_json::to_vec(&envelope).expect("json");
        })
    }),
    ("truncated", "timestamp metadata cannot be read: not strict JSON: EOF", None, |r| {
        tampered(r, |files| files.timestamp.truncate(100))
    }),
    // 5.5. Snapshot.
    ("mix-and-match-snapshot", "snapshot metadata has another sha256 hash", Some(Attack::MixAndMatch), |r| {
        r.bump_all();
        r.publish();
        r.set("snapshot", "/expires", json!("2029-01-01T00:00:00Z"));
        let other = r.sign("snapshot");
        r.set("snapshot", "/expires", json!(LATER));
        let mut files = r.publish();
        files.snapshot = other;
        files
    }),
    ("snapshot-of-another-length", "and thus another length", Some(Attack::MixAndMatch), |r| {
        tampered(r, |files| { files.snapshot.pop(); })
    }),
    ("endless-snapshot", "bytes, more than", Some(Attack::EndlessData), |r| {
        tampered(r, |files| files.snapshot.push(b' '))
    }),
    ("older-snapshot-than-announced", "snapshot 2 was given where timestamp lists snapshot 3", Some(Attack::MixAndMatch), |r| {
        r.hashes = false;
        let old = r.publish().snapshot;
        tampered(r, |files| files.snapshot = old)
    }),
    ("newer-snapshot-than-announced", "snapshot 4 was given where timestamp lists snapshot 3", Some(Attack::MixAndMatch), |r| {
        r.hashes = false;
        r.bump_all();
        let mut files = r.publish();
        r.bump("snapshot");
        files.snapshot = r.sign("snapshot");
        files
    }),
    ("unsigned-snapshot", "snapshot 3 carries 0 of 1 signatures", Some(Attack::ArbitrarySoftware), |r| {
        r.seeds.insert("snapshot".to_owned(), vec![3]);
        r.bump_all();
        r.publish()
    }),
    ("rolled-back-targets-in-snapshot", "targets 1 is older than targets 2, which is known already", Some(Attack::Rollback), |r| {
        r.bump("timestamp");
        r.bump("snapshot");
        r.set("targets", "/version", json!(1));
        r.publish()
    }),
    ("delisted-targets", "snapshot 3 no longer lists targets 2", Some(Attack::Rollback), |r| {
        r.bump_all();
        r.set("snapshot", "/meta", json!({ "other.json": { "version": 9 } }));
        r.publish_snapshot()
    }),
    ("expired-snapshot", "snapshot 3 expired at 2027-01-15T07:59:59Z", Some(Attack::Freeze), |r| {
        with_signed(r, "snapshot", "/expires", json!(PAST))
    }),
    ("snapshot-hashed-by-md5", "timestamp lists a `md5` hash of snapshot", None, |r| {
        r.bump_all();
        let mut files = r.publish();
        r.set("timestamp", "/meta/snapshot.json/hashes/md5", json!("d41d8cd98f00b204e9800998ecf8427e"));
        files.timestamp = r.sign("timestamp");
        files
    }),
    ("snapshot-lists-version-zero", "`targets.json` has version 0", None, |r| {
        r.bump_all();
        r.set("snapshot", "/meta", json!({ "targets.json": { "version": 0 } }));
        r.publish_snapshot()
    }),
    ("timestamp-without-hashes-in-its-list", "`snapshot.json` has an empty list of hashes", None, |r| {
        r.bump_all();
        let mut files = r.publish();
        r.set("timestamp", "/meta/snapshot.json/hashes", json!({}));
        files.timestamp = r.sign("timestamp");
        files
    }),
    // 5.6. Targets.
    ("threshold-one-key-twice", "targets 3 carries 1 of 2 signatures", Some(Attack::ArbitrarySoftware), |r| {
        r.seeds.insert("targets".to_owned(), vec![5, 5]);
        r.bump_all();
        r.publish()
    }),
    ("threshold-one-key-under-two-ids", "targets 3 carries 1 of 2 signatures that root 2 asks for", Some(Attack::ArbitrarySoftware), |r| {
        // The same key with a remark has another hash, and so an honest id of its own.
        let mut alias = key_object(5);
        alias["remark"] = json!("another");
        r.set("root", "/keys/alias", alias);
        r.set("root", "/roles/targets/keyids", json!([key_id(5), "alias"]));
        r.next_root();
        r.hashes = false;
        tampered(r, |files| {
            let mut envelope: Value = serde_json::from_slice(&files.targets).expect("json");
            let mut again = envelope["signatures"][0].clone();
            again["keyid"] = json!("alias");
            envelope["signatures"] = json!([envelope["signatures"][0], again]);
            files.targets = serde_json::to_vec(&envelope).expect("json");
        })
    }),
    ("threshold-key-in-capital-letters", "targets 3 carries 1 of 2 signatures that root 2 asks for", Some(Attack::ArbitrarySoftware), |r| {
        let mut alias = key_object(5);
        alias["keyval"]["public"] = json!(alias["keyval"]["public"].as_str().expect("hex").to_uppercase());
        r.set("root", "/keys/alias", alias);
        r.set("root", "/roles/targets/keyids", json!([key_id(5), "alias"]));
        r.next_root();
        r.hashes = false;
        tampered(r, |files| {
            let mut envelope: Value = serde_json::from_slice(&files.targets).expect("json");
            let mut again = envelope["signatures"][0].clone();
            again["keyid"] = json!("alias");
            envelope["signatures"] = json!([envelope["signatures"][0], again]);
            files.targets = serde_json::to_vec(&envelope).expect("json");
        })
    }),
    ("targets-signed-in-part", "targets 3 carries 1 of 2 signatures", Some(Attack::ArbitrarySoftware), |r| {
        r.seeds.insert("targets".to_owned(), vec![6]);
        r.bump_all();
        r.publish()
    }),
    ("targets-signed-by-an-unknown-scheme", "targets 3 carries 1 of 2 signatures that root 2 asks for", Some(Attack::ArbitrarySoftware), |r| {
        r.root["keys"][key_id(6)]["scheme"] = json!("ed448");
        r.next_root();
        r.bump_all();
        r.publish()
    }),
    ("swapped-artifact", "targets metadata has another sha256 hash", Some(Attack::MixAndMatch), |r| {
        tampered(r, |files| files.targets = text(&files.targets).replace("\"length\":8", "\"length\":9").into_bytes())
    }),
    ("swapped-artifact-without-hashes", "targets 3 carries 0 of 2 signatures", Some(Attack::ArbitrarySoftware), |r| {
        tampered_unhashed(r, |files| files.targets = text(&files.targets).replace("\"length\":8", "\"length\":9").into_bytes())
    }),
    ("mix-and-match-targets", "targets 2 was given where snapshot lists targets 3", Some(Attack::MixAndMatch), |r| {
        r.hashes = false;
        let old = r.publish().targets;
        tampered(r, |files| files.targets = old)
    }),
    ("expired-targets", "targets 3 expired at 2027-01-15T07:59:59Z", Some(Attack::Freeze), |r| {
        with_signed(r, "targets", "/expires", json!(PAST))
    }),
    ("target-without-a-hash", "target `a/file` has no hash", None, |r| {
        with_signed(r, "targets", "/targets/a~1file/hashes", json!({}))
    }),
    ("custom-that-is-no-object", "targets metadata is malformed", None, |r| {
        with_signed(r, "targets", "/targets/a~1file/custom", json!([1]))
    }),
    ("role-delegated-to-twice", "role `team` is delegated to twice", None, |r| {
        r.delegate("targets", "team", &["a/*"], false, 20);
        r.delegate("targets", "team", &["b/*"], false, 21);
        r.bump_all();
        r.publish()
    }),
    ("delegated-role-called-root", "`root` cannot be the name of a delegated role", None, |r| {
        r.delegate("targets", "team", &["a/*"], false, 20);
        with_signed(r, "targets", "/delegations/roles/0/name", json!("root"))
    }),
    ("delegation-by-path-and-by-hash", "role `team` needs either `paths` or `path_hash_prefixes`", None, |r| {
        r.delegate("targets", "team", &["a/*"], false, 20);
        with_signed(r, "targets", "/delegations/roles/0/path_hash_prefixes", json!(["0"]))
    }),
];

/// What every case starts from: all roles but the root are at version 2.
fn seen() -> (Repository, TrustedSet) {
    let mut repository = Repository::new();
    repository.bump_all();
    let client = repository.client();
    (repository, client)
}

#[test]
fn each_attack_is_refused_by_name_and_leaves_no_trace() {
    for &(name, expected, attack, make) in ATTACKS {
        let (sound, mut client) = seen();
        let before = versions(&client);
        let files = make(&mut sound.clone());
        let Err(e) = refresh(&mut client, &files, NOW) else { panic!("{name} was accepted") };
        let said = chain(&e);
        assert!(said.contains(expected), "{name}: {said}");
        assert_eq!(e.attack(), attack, "{name}: {said}");
        if let Some(attack) = attack {
            assert!(said.contains(&attack.to_string()), "{name}: {said}");
        }
        let after = versions(&client);
        assert!(before.iter().zip(&after).all(|(before, after)| before <= after), "{name}: {before:?} {after:?}");
        // The client is not stuck: the next sound update is taken, where what was signed properly does not forbid it.
        let signed_so = after[0] != before[0] || after[2] != before[2];
        if !signed_so {
            let mut next = sound.clone();
            for _ in 0..3 {
                next.bump_all();
            }
            if let Err(e) = refresh(&mut client, &next.publish(), NOW) {
                panic!("{name} left the client stuck: {}", chain(&e));
            }
        }
    }
    assert!(ATTACKS.len() >= 35, "{}", ATTACKS.len());
}

#[test]
fn attacks_have_names_of_their_own() {
    let mut names: Vec<_> = ATTACKS.iter().map(|(name, ..)| name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), ATTACKS.len());
}

#[test]
fn frozen_metadata_is_noticed_although_nothing_new_is_given() {
    let (mut repository, mut client) = seen();
    let files = repository.publish();
    assert!(refresh(&mut client, &files, NOW).is_ok());
    let after = LATER.parse().expect("date");
    let e = refresh(&mut client, &files, after).expect_err("frozen");
    assert_eq!(e.attack(), Some(Attack::Freeze));
    // Only the timestamp is out of date.
    repository.set("timestamp", "/expires", json!("2027-02-01T00:00:00Z"));
    repository.bump_all();
    refresh(&mut client, &repository.publish(), NOW).expect("sound");
    let e = refresh(&mut client, &repository.publish(), "2027-02-01T00:00:00Z".parse().expect("date"));
    let said = e.expect_err("frozen").to_string();
    assert!(said.starts_with("timestamp 3 expired at 2027-02-01T00:00:00Z"), "{said}");
    let said = client.view("2027-02-02T00:00:00Z".parse().expect("date")).expect_err("frozen").to_string();
    assert!(said.starts_with("timestamp 3 expired"), "{said}");
}

#[test]
fn a_swapped_file_is_told_by_length_and_hash() {
    let (_, client) = seen();
    let view = client.view(NOW).expect("valid");
    let file = &view.targets().targets["a/file"];
    assert_eq!(file.check(b"contents"), Ok(()));
    for (contents, expected) in [(&b"Contents"[..], "another sha256 hash"), (b"contents ", "another length")] {
        let e = file.check(contents).expect_err(expected);
        assert!(e.to_string().contains(expected), "{e}");
    }
}

#[test]
fn a_first_root_must_carry_its_own_signatures() {
    let mut repository = Repository::new();
    let root = repository.root.clone();
    for (seeds, expected) in [(&[][..], "0 of 2"), (&[1], "1 of 2"), (&[1, 1], "1 of 2"), (&[3, 4], "0 of 2")] {
        let e = TrustedSet::new(&file(&root, seeds)).expect_err(expected);
        assert!(e.to_string().contains(expected), "{e}");
    }
    repository.root.as_object_mut().expect("root").remove("version");
    let e = TrustedSet::new(&repository.sign("root")).expect_err("no version");
    assert!(e.to_string().contains("missing field `version`"), "{e}");
}
