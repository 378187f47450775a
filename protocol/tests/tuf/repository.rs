//! A repository made of JSON, so that it can say what no builder would write, and a client that updates from it.

use ed25519_dalek::{Signer as _, SigningKey};
use sedge_protocol::Sha256Digest;
use sedge_protocol::signature::SecretKey;
use sedge_protocol::time::UnixSeconds;
use sedge_protocol::tuf::{Key, Role, Search, TrustedSet, UpdateError, canonical::canonical};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::error::Error;

/// 2027-01-15T08:00:00Z.
pub(crate) const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
pub(crate) const LATER: &str = "2030-01-01T00:00:00Z";
pub(crate) const PAST: &str = "2027-01-15T07:59:59Z";

pub(crate) fn secret(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

pub(crate) fn key_object(seed: u8) -> Value {
    serde_json::to_value(Key::ed25519(&secret(seed).public())).expect("key")
}

pub(crate) fn key_id(seed: u8) -> String {
    Key::ed25519(&secret(seed).public()).id().to_string()
}

/// Signs whatever it is.
pub(crate) fn signature(signed: &Value, seed: u8) -> Value {
    let message = canonical(signed).expect("canonical");
    let sig = SigningKey::from_bytes(&[seed; 32]).sign(&message);
    let hex: String = sig.to_bytes().iter().map(|b| format!("{b:02x}")).collect();
    json!({ "keyid": key_id(seed), "sig": hex })
}

pub(crate) fn file(signed: &Value, seeds: &[u8]) -> Vec<u8> {
    let signatures: Vec<_> = seeds.iter().map(|&seed| signature(signed, seed)).collect();
    serde_json::to_vec(&json!({ "signatures": signatures, "signed": signed })).expect("json")
}

fn role(seeds: &[u8], threshold: u64) -> Value {
    json!({ "keyids": seeds.iter().map(|&s| key_id(s)).collect::<Vec<_>>(), "threshold": threshold })
}

/// Files as a server gives them out.
#[derive(Clone)]
pub(crate) struct Files {
    pub(crate) roots: BTreeMap<u64, Vec<u8>>,
    pub(crate) timestamp: Vec<u8>,
    pub(crate) snapshot: Vec<u8>,
    pub(crate) targets: Vec<u8>,
    pub(crate) delegated: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone)]
pub(crate) struct Repository {
    pub(crate) root: Value,
    pub(crate) timestamp: Value,
    pub(crate) snapshot: Value,
    pub(crate) targets: Value,
    pub(crate) delegated: BTreeMap<String, Value>,
    /// Who signs, by role.
    pub(crate) seeds: BTreeMap<String, Vec<u8>>,
    pub(crate) roots: BTreeMap<u64, Vec<u8>>,
    /// Whether metadata lists lengths and hashes of other metadata.
    pub(crate) hashes: bool,
}

pub(crate) fn header(kind: &str) -> Value {
    json!({ "_type": kind, "spec_version": "1.0.31", "version": 1, "expires": LATER })
}

impl Repository {
    pub(crate) fn new() -> Self {
        let mut root = header("root");
        root["consistent_snapshot"] = json!(true);
        root["keys"] = (1..=6).map(|seed| (key_id(seed), key_object(seed))).collect::<serde_json::Map<_, _>>().into();
        root["roles"] = json!({
            "root": role(&[1, 2], 2), "timestamp": role(&[3], 1), "snapshot": role(&[4], 1), "targets": role(&[5, 6], 2),
        });
        let mut targets = header("targets");
        targets["targets"] = json!({ "a/file": target(b"contents") });
        let (mut timestamp, mut snapshot) = (header("timestamp"), header("snapshot"));
        timestamp["meta"] = json!({});
        snapshot["meta"] = json!({});
        let seeds = [("root", vec![1, 2]), ("timestamp", vec![3]), ("snapshot", vec![4]), ("targets", vec![5, 6])];
        let seeds = seeds.map(|(role, seeds)| (role.to_owned(), seeds)).into();
        let delegated = BTreeMap::new();
        let mut repository =
            Self { root, timestamp, snapshot, targets, delegated, seeds, roots: BTreeMap::new(), hashes: true };
        repository.publish_root();
        repository
    }

    pub(crate) fn signed(&mut self, role: &str) -> &mut Value {
        match role {
            "root" => &mut self.root,
            "timestamp" => &mut self.timestamp,
            "snapshot" => &mut self.snapshot,
            "targets" => &mut self.targets,
            name => self.delegated.get_mut(name).expect("delegated role"),
        }
    }

    pub(crate) fn set(&mut self, role: &str, pointer: &str, value: Value) {
        match self.signed(role).pointer_mut(pointer) {
            Some(place) => *place = value,
            None => {
                let (parent, name) = pointer.rsplit_once('/').expect("pointer");
                self.signed(role).pointer_mut(parent).expect("parent")[name.replace("~1", "/")] = value;
            }
        }
    }

    pub(crate) fn version(&mut self, role: &str) -> u64 {
        self.signed(role)["version"].as_u64().expect("version")
    }

    pub(crate) fn bump(&mut self, role: &str) {
        let next = self.version(role) + 1;
        self.set(role, "/version", json!(next));
    }

    pub(crate) fn bump_all(&mut self) {
        for role in ["timestamp", "snapshot", "targets"] {
            self.bump(role);
        }
    }

    pub(crate) fn sign(&mut self, role: &str) -> Vec<u8> {
        let signed = self.signed(role).clone();
        file(&signed, &self.seeds[role])
    }

    pub(crate) fn publish_root(&mut self) {
        let version = self.version("root");
        let file = self.sign("root");
        self.roots.insert(version, file);
    }

    /// The next root, signed by whoever signs for it.
    pub(crate) fn next_root(&mut self) {
        self.bump("root");
        self.publish_root();
    }

    /// Another key signs for a role from now on.
    pub(crate) fn rotate(&mut self, name: &str, seeds: &[u8], threshold: u64) {
        for &seed in seeds {
            self.root["keys"][key_id(seed)] = key_object(seed);
        }
        self.root["roles"][name] = role(seeds, threshold);
        self.seeds.insert(name.to_owned(), seeds.to_vec());
    }

    /// Delegates `paths` to a role with a key of its own.
    pub(crate) fn delegate(&mut self, delegator: &str, name: &str, paths: &[&str], terminating: bool, seed: u8) {
        let signed = self.signed(delegator);
        if signed.get("delegations").is_none() {
            signed["delegations"] = json!({ "keys": {}, "roles": [] });
        }
        signed["delegations"]["keys"][key_id(seed)] = key_object(seed);
        let mut delegation = role(&[seed], 1);
        delegation["name"] = json!(name);
        delegation["paths"] = json!(paths);
        delegation["terminating"] = json!(terminating);
        signed["delegations"]["roles"].as_array_mut().expect("roles").push(delegation);
        self.delegated.entry(name.to_owned()).or_insert_with(|| {
            let mut targets = header("targets");
            targets["targets"] = json!({});
            targets
        });
        self.seeds.entry(name.to_owned()).or_insert_with(|| vec![seed]);
    }

    fn describe(&mut self, role: &str, file: &[u8]) -> Value {
        let version = self.version(role);
        if !self.hashes {
            return json!({ "version": version });
        }
        json!({ "version": version, "length": file.len(), "hashes": { "sha256": Sha256Digest::of(file).hex() } })
    }

    /// Lists targets in the snapshot, and the snapshot in the timestamp.
    pub(crate) fn publish(&mut self) -> Files {
        let targets = self.sign("targets");
        let mut meta = json!({ "targets.json": self.describe("targets", &targets) });
        let mut delegated = BTreeMap::new();
        for name in self.delegated.keys().cloned().collect::<Vec<_>>() {
            let file = self.sign(&name);
            meta[format!("{name}.json")] = self.describe(&name, &file);
            delegated.insert(name, file);
        }
        self.set("snapshot", "/meta", meta);
        let files = self.publish_snapshot();
        Files { targets, delegated, ..files }
    }

    /// As [`Repository::publish`], with the snapshot's list as it is.
    pub(crate) fn publish_snapshot(&mut self) -> Files {
        let snapshot = self.sign("snapshot");
        let described = self.describe("snapshot", &snapshot);
        self.set("timestamp", "/meta", json!({ "snapshot.json": described }));
        let targets = self.sign("targets");
        Files {
            roots: self.roots.clone(),
            timestamp: self.sign("timestamp"),
            snapshot,
            targets,
            delegated: BTreeMap::new(),
        }
    }

    /// A client that has seen this repository as it is.
    pub(crate) fn client(&mut self) -> TrustedSet {
        let mut set = TrustedSet::new(&self.roots[&1]).expect("first root");
        refresh(&mut set, &self.publish(), NOW).expect("valid repository");
        set
    }
}

pub(crate) fn target(contents: &[u8]) -> Value {
    json!({ "length": contents.len(), "hashes": { "sha256": Sha256Digest::of(contents).hex() } })
}

/// One update, as an agent makes it.
pub(crate) fn refresh(set: &mut TrustedSet, files: &Files, now: UnixSeconds) -> Result<(), UpdateError> {
    while let Some(request) = set.next_root() {
        let Some(file) = request.version.and_then(|v| files.roots.get(&v)) else { break };
        set.update_root(file)?;
    }
    set.finish_root(now)?;
    set.update_timestamp(&files.timestamp)?;
    if set.next_snapshot()?.is_some() {
        set.update_snapshot(&files.snapshot)?;
    }
    if set.next_targets()?.is_some() {
        set.update_targets(&files.targets)?;
    }
    Ok(())
}

/// Looks a path up, fetching what it takes. The role that knows it, and the roles that were fetched.
pub(crate) fn find(
    set: &mut TrustedSet,
    files: &Files,
    now: UnixSeconds,
    path: &str,
) -> Result<(Option<Role>, Vec<String>), UpdateError> {
    let mut fetched = Vec::new();
    loop {
        let (role, delegator) = match set.view(now)?.find(path)? {
            Search::Found { role, .. } => return Ok((Some(role), fetched)),
            Search::Unknown => return Ok((None, fetched)),
            Search::Fetch { request, delegator } => (request.role, delegator),
        };
        let file = files.delegated.get(role.name()).expect("a role that exists");
        set.update_delegated_targets(&role, &delegator, file)?;
        fetched.push(role.name().to_owned());
    }
}

pub(crate) fn versions(set: &TrustedSet) -> [u64; 4] {
    let targets = set.export().targets.get(&Role::Targets).map_or(0, |file| {
        serde_json::from_slice::<Value>(file).expect("json")["signed"]["version"].as_u64().expect("version")
    });
    let timestamp = set.timestamp().map_or(0, |t| t.header.version);
    let snapshot = set.snapshot().map_or(0, |s| s.header.version);
    [set.root().header.version, timestamp, snapshot, targets]
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        text = format!("{text}: {e}");
        cause = e.source();
    }
    text
}
