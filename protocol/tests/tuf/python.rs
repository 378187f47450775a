//! Against python-tuf 7.0.1 and securesystemslib 1.6.0: `tests/vectors/python-tuf.py` made the vectors. The other way
//! round, files made here have been read and verified by python-tuf by hand.

use crate::repository::{Files, NOW, find, refresh, secret};
use sedge_protocol::tuf::canonical::{canonical, parse};
use sedge_protocol::tuf::sign::add_signature;
use sedge_protocol::tuf::{Role, Search, TrustedSet};
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct Vector {
    json: String,
    canonical: String,
}

#[test]
fn canonical_form_is_that_of_securesystemslib() {
    let vectors: Vec<Vector> =
        serde_json::from_str(include_str!("../vectors/securesystemslib-canonical.json")).expect("vectors");
    for vector in &vectors {
        let value = parse(vector.json.as_bytes()).expect("strict JSON");
        let text = String::from_utf8(canonical(&value).expect("canonical")).expect("UTF-8");
        assert_eq!(text, vector.canonical, "{}", vector.json);
    }
    assert_eq!(vectors.len(), 28);
}

#[derive(Deserialize)]
struct Repository {
    roots: Vec<String>,
    timestamp: String,
    snapshot: String,
    targets: String,
    delegated: BTreeMap<String, String>,
}

impl Repository {
    fn files(self) -> Files {
        Files {
            roots: (1..).zip(self.roots.into_iter().map(String::into_bytes)).collect(),
            timestamp: self.timestamp.into_bytes(),
            snapshot: self.snapshot.into_bytes(),
            targets: self.targets.into_bytes(),
            delegated: self.delegated.into_iter().map(|(role, file)| (role, file.into_bytes())).collect(),
        }
    }
}

fn repositories() -> BTreeMap<String, Repository> {
    serde_json::from_str(include_str!("../vectors/python-tuf-repository.json")).expect("vectors")
}

#[test]
fn a_repository_by_python_tuf_is_verified() {
    for (spelling, repository) in repositories() {
        let files = repository.files();
        let mut set = TrustedSet::new(&files.roots[&1]).expect("root");
        refresh(&mut set, &files, NOW).expect(&spelling);
        assert_eq!(set.root().header.version, 2);
        for (path, role, contents) in [
            ("top", Role::Targets, &b"contents"[..]),
            ("digits/x", Role::named("team"), b"a bundle"),
            ("letters/y", Role::named("bin"), b"another"),
        ] {
            assert_eq!(find(&mut set, &files, NOW, path).expect(path).0, Some(role), "{spelling} {path}");
            let Ok(Search::Found { file, .. }) = set.view(NOW).expect("valid").find(path) else { panic!("{path}") };
            assert_eq!(file.check(contents), Ok(()));
        }
        assert_eq!(find(&mut set, &files, NOW, "digits/other").expect("sound").0, None);
    }
}

#[test]
fn signatures_are_those_of_python_tuf() {
    // Ed25519 is deterministic: signing again what python-tuf has signed changes nothing but the order.
    for (_, repository) in repositories() {
        let file = repository.timestamp.as_bytes();
        let again = add_signature(file, &secret(4)).expect("signed");
        assert_eq!(parse(&again).expect("json"), parse(file).expect("json"));
    }
}
