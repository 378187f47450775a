//! Keeping trusted metadata over a restart.
//!
//! Copies come from a place that nobody else writes to, and are verified all the same, as far as dates do not matter.
//! Loading never lowers a version.

use super::envelope::Envelope;
use super::error::{Role, UpdateError};
use super::metadata::{Root, Snapshot, Targets, Timestamp};
use super::trusted::{
    ROOT_BYTES_MAX, SNAPSHOT_BYTES_MAX, TARGETS_BYTES_MAX, TIMESTAMP_BYTES_MAX, TrustedSet, check_root_signatures,
    online_keys,
};
use std::collections::BTreeMap;

/// Trusted files as they came, to be stored and given back to [`TrustedSet::load`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored {
    /// The root.
    pub root: Option<Vec<u8>>,
    /// The timestamp.
    pub timestamp: Option<Vec<u8>>,
    /// The snapshot.
    pub snapshot: Option<Vec<u8>>,
    /// Targets and delegated targets.
    pub targets: BTreeMap<Role, Vec<u8>>,
}

impl TrustedSet {
    /// Takes over copies that were trusted before and have been kept in a safe place, each only where it is newer than
    /// what is held: two stored copies can be loaded one after the other. Dates do not matter here: an expired
    /// timestamp still tells which versions are known. Returns what was dropped, and why.
    pub fn load(&mut self, stored: &Stored) -> Vec<UpdateError> {
        let mut dropped = Vec::new();
        let mut note = |result: Result<(), UpdateError>| dropped.extend(result.err());
        note(self.load_root(stored.root.as_deref()));
        note(self.load_timestamp(stored.timestamp.as_deref()));
        note(self.load_snapshot(stored.snapshot.as_deref()));
        for (role, file) in &stored.targets {
            note(self.load_targets(role, file));
        }
        dropped
    }

    fn load_root(&mut self, file: Option<&[u8]>) -> Result<(), UpdateError> {
        let Some(file) = file else { return Ok(()) };
        let root = Envelope::<Root>::read(&Role::Root, file, ROOT_BYTES_MAX)?;
        check_root_signatures(&root.payload, &root, self.foreign)?;
        if root.version() > self.root.version() {
            self.keys_before = online_keys(&root.payload);
            self.root = root;
            self.started = None;
            self.drop_what_the_root_no_longer_trusts();
        }
        Ok(())
    }

    fn load_timestamp(&mut self, file: Option<&[u8]>) -> Result<(), UpdateError> {
        let Some(file) = file else { return Ok(()) };
        let timestamp = Envelope::<Timestamp>::read(&Role::Timestamp, file, TIMESTAMP_BYTES_MAX)?;
        self.check_signatures(&Role::Timestamp, &Role::Root, &timestamp)?;
        if self.timestamp.as_ref().is_none_or(|held| held.version() < timestamp.version()) {
            self.timestamp = Some(timestamp);
        }
        Ok(())
    }

    fn load_snapshot(&mut self, file: Option<&[u8]>) -> Result<(), UpdateError> {
        let Some(file) = file else { return Ok(()) };
        let snapshot = Envelope::<Snapshot>::read(&Role::Snapshot, file, SNAPSHOT_BYTES_MAX)?;
        self.check_signatures(&Role::Snapshot, &Role::Root, &snapshot)?;
        if self.snapshot.as_ref().is_none_or(|held| held.version() < snapshot.version()) {
            self.snapshot = Some(snapshot);
        }
        Ok(())
    }

    fn load_targets(&mut self, role: &Role, file: &[u8]) -> Result<(), UpdateError> {
        let targets = Envelope::<Targets>::read(role, file, TARGETS_BYTES_MAX)?;
        if self.targets.get(role).is_none_or(|held| held.version() < targets.version()) {
            self.targets.insert(role.clone(), targets);
        }
        Ok(())
    }

    /// The files to store.
    pub fn export(&self) -> Stored {
        Stored {
            root: Some(self.root.file.clone()),
            timestamp: self.timestamp.as_ref().map(|t| t.file.clone()),
            snapshot: self.snapshot.as_ref().map(|s| s.file.clone()),
            targets: self.targets.iter().map(|(role, targets)| (role.clone(), targets.file.clone())).collect(),
        }
    }
}
