//! Signing for one device, and when to sign again. Time and keys come in.
//!
//! Targets live long, because their version is the generation and a new one is news for the device; that they are still
//! meant is what the timestamp says, which lives short.

use super::DirectorKeys;
use sedge_protocol::BundleDigest;
use sedge_protocol::id::{ComponentName, Generation, Principal};
use sedge_protocol::time::UnixSeconds;
use sedge_protocol::tuf::sign::{self, SignError};
use sedge_protocol::tuf::{MetaFile, Snapshot, Timestamp};
use sedge_protocol::uptane::{self, Assignment};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const DAY_S: i64 = 86_400;

/// How long signatures are valid, in seconds. Each is renewed when half of its time has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Validity {
    pub root_s: i64,
    pub targets_s: i64,
    pub snapshot_s: i64,
    pub timestamp_s: i64,
}

impl Default for Validity {
    fn default() -> Self {
        Self { root_s: 3650 * DAY_S, targets_s: 3650 * DAY_S, snapshot_s: 90 * DAY_S, timestamp_s: 7 * DAY_S }
    }
}

/// What a component is to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    /// The bundle.
    pub digest: BundleDigest,
    /// Length of its OCI image manifest, in bytes.
    pub manifest_bytes: u64,
    /// What else the director says of it.
    #[serde(flatten)]
    pub assignment: Assignment,
}

/// What a device is to run, by component.
pub type Assignments = BTreeMap<ComponentName, Assigned>;

/// The files of a device's repository, but for the root.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Signed {
    pub generation: Generation,
    pub snapshot_version: u64,
    pub timestamp_version: u64,
    pub targets: Vec<u8>,
    pub snapshot: Vec<u8>,
    pub timestamp: Vec<u8>,
}

/// When a file that was made here is out of date.
fn expires(file: &[u8]) -> UnixSeconds {
    #[derive(Deserialize)]
    struct File {
        signed: Header,
    }
    #[derive(Deserialize)]
    struct Header {
        expires: UnixSeconds,
    }
    // One that cannot be read is due at once.
    serde_json::from_slice(file).map_or(UnixSeconds(0), |file: File| file.signed.expires)
}

impl Signed {
    /// Signs the generation after `before`.
    pub(super) fn next(
        keys: &DirectorKeys,
        device: &Principal,
        before: Option<&Self>,
        assignments: &Assignments,
        validity: &Validity,
        now: UnixSeconds,
    ) -> Result<Self, SignError> {
        let generation = Generation(before.map_or(0, |before| before.generation.0).saturating_add(1));
        let mut targets = uptane::director_targets(device, generation, now.plus(validity.targets_s));
        for (component, Assigned { digest, manifest_bytes, assignment }) in assignments {
            uptane::assign(&mut targets, component, *digest, *manifest_bytes, assignment)?;
        }
        let targets = sign::sign(&targets, &[&keys.targets])?;
        Self::listing(keys, before, generation, targets, validity, now)
    }

    fn listing(
        keys: &DirectorKeys,
        before: Option<&Self>,
        generation: Generation,
        targets: Vec<u8>,
        validity: &Validity,
        now: UnixSeconds,
    ) -> Result<Self, SignError> {
        let version = before.map_or(0, |before| before.snapshot_version).saturating_add(1);
        let meta = BTreeMap::from([("targets.json".to_owned(), MetaFile::of(generation.0, &targets))]);
        let snapshot = sign::sign(&Snapshot::new(version, now.plus(validity.snapshot_s), meta), &[&keys.snapshot])?;
        let before = before.map_or(0, |before| before.timestamp_version);
        let made = Self {
            generation,
            snapshot_version: version,
            timestamp_version: before,
            targets,
            snapshot,
            timestamp: Vec::new(),
        };
        made.stamped(keys, validity, now)
    }

    fn stamped(mut self, keys: &DirectorKeys, validity: &Validity, now: UnixSeconds) -> Result<Self, SignError> {
        self.timestamp_version = self.timestamp_version.saturating_add(1);
        let listed = MetaFile::of(self.snapshot_version, &self.snapshot);
        let mut timestamp = Timestamp::new(self.timestamp_version, now.plus(validity.timestamp_s), listed);
        timestamp.sedge_issued = Some(now);
        self.timestamp = sign::sign(&timestamp, &[&keys.timestamp])?;
        Ok(self)
    }

    /// Half-life of targets, snapshot and timestamp.
    fn halves(&self, validity: &Validity) -> [UnixSeconds; 3] {
        [
            (&self.targets, validity.targets_s),
            (&self.snapshot, validity.snapshot_s),
            (&self.timestamp, validity.timestamp_s),
        ]
        .map(|(file, valid_s)| expires(file).plus(-(valid_s / 2)))
    }

    /// When it is to be signed again.
    pub fn next_due(&self, validity: &Validity) -> UnixSeconds {
        self.halves(validity).into_iter().min().unwrap_or_default()
    }

    /// Signs again what is due at `now`, or `None` when nothing is. Targets that are due become a new generation with
    /// the same contents.
    pub(super) fn renewed(
        &self,
        keys: &DirectorKeys,
        device: &Principal,
        assignments: &Assignments,
        validity: &Validity,
        now: UnixSeconds,
    ) -> Result<Option<Self>, SignError> {
        let [targets, snapshot, timestamp] = self.halves(validity);
        if targets <= now {
            return Self::next(keys, device, Some(self), assignments, validity, now).map(Some);
        }
        if snapshot <= now {
            return Self::listing(keys, Some(self), self.generation, self.targets.clone(), validity, now).map(Some);
        }
        if timestamp <= now {
            return self.clone().stamped(keys, validity, now).map(Some);
        }
        Ok(None)
    }
}
