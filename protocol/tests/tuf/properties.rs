//! What holds whatever comes: one canonical form, versions that never fall, and no bit that can be flipped.

use crate::repository::{Files, NOW, Repository, find, refresh, versions};
use proptest::prelude::*;
use sedge_protocol::tuf::canonical::{canonical, parse};
use sedge_protocol::tuf::{Role, TrustedSet};
use serde_json::{Map, Value, json};

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((any::<String>(), inner), 0..6)
                .prop_map(|entries| Value::Object(entries.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// One thing that a repository does, well or not, before a client looks at it.
#[derive(Debug, Clone)]
enum Step {
    Bump(usize),
    Set(usize, u64),
    Sign(usize, u8),
    NextRoot,
    RotateTimestamp(u8),
    LoadOldest,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..3usize).prop_map(Step::Bump),
        2 => (0..3usize, 1..6u64).prop_map(|(role, version)| Step::Set(role, version)),
        1 => (0..3usize, 3..8u8).prop_map(|(role, seed)| Step::Sign(role, seed)),
        1 => Just(Step::NextRoot),
        1 => (3..6u8).prop_map(Step::RotateTimestamp),
        1 => Just(Step::LoadOldest),
    ];
    prop::collection::vec(step, 1..14)
}

const ROLES: [&str; 3] = ["timestamp", "snapshot", "targets"];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn canonical_form_is_the_same_however_a_value_was_written(value in values()) {
        let once = canonical(&value).expect("no fractions");
        for text in [serde_json::to_vec(&value), serde_json::to_vec_pretty(&value)] {
            let read = parse(&text.expect("json")).expect("strict");
            prop_assert_eq!(&read, &value);
            prop_assert_eq!(canonical(&read).expect("canonical"), once.clone());
        }
        // Where it holds no control characters it is JSON itself, and its own canonical form.
        if once.iter().all(|&byte| byte >= 0x20) {
            let again = canonical(&parse(&once).expect("json")).expect("canonical");
            prop_assert_eq!(again, once);
        }
    }

    #[test]
    fn nothing_panics_on_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&bytes);
        let _ = TrustedSet::new(&bytes);
    }

    #[test]
    fn versions_never_fall_but_with_the_keys_that_announced_them(steps in steps()) {
        let mut repository = Repository::new();
        repository.hashes = false;
        let mut client = repository.client();
        let oldest = client.export();
        let mut high = versions(&client);
        for step in steps {
            let mut rotated = false;
            match step {
                Step::Bump(role) => repository.bump(ROLES[role]),
                Step::Set(role, version) => repository.set(ROLES[role], "/version", json!(version)),
                Step::Sign(role, seed) => { repository.seeds.insert(ROLES[role].to_owned(), vec![seed, seed + 1]); }
                Step::NextRoot => repository.next_root(),
                Step::RotateTimestamp(seed) => {
                    repository.rotate("timestamp", &[seed], 1);
                    repository.next_root();
                    rotated = true;
                }
                Step::LoadOldest => { client.load(&oldest); }
            }
            let _ = refresh(&mut client, &repository.publish(), NOW);
            let now = versions(&client);
            prop_assert!(now[0] >= high[0], "root fell from {} to {}", high[0], now[0]);
            // Targets are told by the snapshot, which goes with rotated keys; a new snapshot then tells anew.
            if !rotated && client.snapshot().is_some() && high[2] > 0 {
                prop_assert!(now.iter().zip(&high).all(|(now, high)| now >= high), "{high:?} fell to {now:?}");
            }
            // Export and load change nothing.
            let mut reborn = TrustedSet::new(client.export().root.as_deref().expect("root")).expect("root");
            reborn.load(&client.export());
            prop_assert_eq!(versions(&reborn), now);
            high = now;
        }
    }
}

/// Flips bits of each byte of a file that `of` picks, and takes the client through the update.
fn flip(files: &Files, client: &TrustedSet, of: fn(&mut Files) -> &mut Vec<u8>) -> usize {
    let mut expected = client.clone();
    refresh(&mut expected, files, NOW).expect("sound");
    find(&mut expected, files, NOW, "team/x").expect("sound");
    let length = of(&mut files.clone()).len();
    let mut accepted = 0;
    for position in 0..length {
        for mask in [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80] {
            let mut flipped = files.clone();
            of(&mut flipped)[position] ^= mask;
            let mut client = client.clone();
            if refresh(&mut client, &flipped, NOW).is_err() || find(&mut client, &flipped, NOW, "team/x").is_err() {
                assert_eq!(client.root().header.version, 1);
                continue;
            }
            accepted += 1;
            // Equal in effect: everything says what it says without the flipped bit.
            assert_eq!(client.root(), expected.root(), "{position} {mask}");
            assert_eq!(client.timestamp(), expected.timestamp(), "{position} {mask}");
            assert_eq!(client.snapshot(), expected.snapshot(), "{position} {mask}");
            let targets = |set: &TrustedSet| set.view(NOW).expect("valid").targets().clone();
            assert_eq!(targets(&client), targets(&expected), "{position} {mask}");
            let found = find(&mut client, &flipped, NOW, "team/x");
            assert_eq!(found, Ok((Some(Role::named("team")), vec![])), "{position} {mask}");
        }
    }
    accepted
}

#[test]
fn no_bit_of_any_file_can_be_flipped_to_effect() {
    let mut repository = Repository::new();
    repository.hashes = false;
    repository.delegate("targets", "team", &["team/*"], true, 50);
    repository.set("team", "/targets", json!({ "team/x": crate::repository::target(b"contents") }));
    let client = TrustedSet::new(&repository.roots[&1]).expect("root");
    let sound = repository.publish();
    // What can be flipped is the case of a hex digit of a signature, and whitespace there is none.
    let letters = |file: &[u8]| {
        let envelope: Value = serde_json::from_slice(file).expect("json");
        let signatures = envelope["signatures"].as_array().expect("signatures");
        let hex: String = signatures.iter().map(|s| s["sig"].as_str().expect("hex")).collect();
        hex.chars().filter(char::is_ascii_alphabetic).count()
    };
    let accepted = [
        flip(&sound, &client, |files| &mut files.timestamp),
        flip(&sound, &client, |files| &mut files.snapshot),
        flip(&sound, &client, |files| &mut files.targets),
        flip(&sound, &client, |files| files.delegated.get_mut("team").expect("team")),
    ];
    let expected =
        [&sound.timestamp, &sound.snapshot, &sound.targets, &sound.delegated["team"]].map(|file| letters(file));
    assert_eq!(accepted, expected);
}

#[test]
fn no_bit_of_a_root_can_be_flipped_to_effect() {
    let mut repository = Repository::new();
    let client = repository.client();
    repository.next_root();
    let root = repository.roots[&2].clone();
    let mut expected = client.clone();
    expected.update_root(&root).expect("sound");
    for position in 0..root.len() {
        for bit in 0..8 {
            let mut flipped = root.clone();
            flipped[position] ^= 1 << bit;
            let mut client = client.clone();
            if client.update_root(&flipped).is_ok() {
                assert_eq!(client.root(), expected.root(), "{position} {bit}");
            }
        }
    }
}
