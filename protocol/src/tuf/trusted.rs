//! The client's workflow: section 5 of the specification (1.0.37), step by step. Numbers in comments are its own.
//!
//! What always holds: versions never fall, except after the root has exchanged the keys of timestamp or snapshot
//! (5.3.11); what is refused changes nothing; and nothing is trusted because it was trusted once: signatures, versions,
//! hashes and dates of everything held are looked at again whenever it is used, against the root and the time of then.
//!
//! If power dies: store [`TrustedSet::export`] after each accepted file, the root before the others. A timestamp or
//! snapshot left behind by a newer root no longer carries valid signatures and is dropped by [`TrustedSet::load`].

use super::envelope::{Envelope, check_length};
use super::error::{Role, UpdateError};
use super::key::{ForeignVerifier, Key, KeyId, RoleKeys, signers};
use super::metadata::{MetaFile, Payload, Root, Snapshot, Targets, Timestamp};
use super::request::Request;
use crate::time::UnixSeconds;
use std::collections::{BTreeMap, BTreeSet};

/// Longest root that is read, in bytes; stops endless data.
pub const ROOT_BYTES_MAX: u64 = 512 * 1024;
/// Longest timestamp that is read, in bytes; stops endless data.
pub const TIMESTAMP_BYTES_MAX: u64 = 16 * 1024;
/// Longest snapshot that is read, in bytes; stops endless data.
pub const SNAPSHOT_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// Longest targets file that is read, in bytes; stops endless data.
pub const TARGETS_BYTES_MAX: u64 = 5 * 1024 * 1024;
/// Most roots that are taken in one update; stops an endless chain.
pub const ROOT_UPDATES_MAX: usize = 256;

/// What has become of a timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is trusted now; store it.
    Updated,
    /// It has the version that is trusted already; there is nothing new.
    Unchanged,
}

/// Metadata of one repository that has been verified, and what it takes to verify more.
#[derive(Debug, Clone)]
pub struct TrustedSet {
    pub(super) foreign: Option<ForeignVerifier>,
    pub(super) root: Envelope<Root>,
    /// Roots taken since the last [`TrustedSet::finish_root`].
    root_updates: usize,
    /// Keys of timestamp and snapshot at the last [`TrustedSet::finish_root`].
    pub(super) keys_before: [BTreeSet<KeyId>; 2],
    /// 5.1: when this update began; `None` while the root is being updated.
    pub(super) started: Option<UnixSeconds>,
    pub(super) timestamp: Option<Envelope<Timestamp>>,
    pub(super) snapshot: Option<Envelope<Snapshot>>,
    /// Copies that were trusted once, by role; verified again at each use.
    pub(super) targets: BTreeMap<Role, Envelope<Targets>>,
}

fn identities(root: &Root, role: &Role) -> BTreeSet<KeyId> {
    root.role(role).map(|keys| keys.identities(&root.keys)).unwrap_or_default()
}

pub(super) fn online_keys(root: &Root) -> [BTreeSet<KeyId>; 2] {
    [identities(root, &Role::Timestamp), identities(root, &Role::Snapshot)]
}

fn check_fresh<T: Payload>(role: &Role, payload: &T, now: UnixSeconds) -> Result<(), UpdateError> {
    let header = payload.header();
    if header.expired(now) {
        return Err(UpdateError::Expired { role: role.clone(), version: header.version, expires: header.expires, now });
    }
    Ok(())
}

fn check_version(role: &Role, by: &Role, meta: &MetaFile, found: u64) -> Result<(), UpdateError> {
    if meta.version != found {
        return Err(UpdateError::WrongVersion { role: role.clone(), by: by.clone(), listed: meta.version, found });
    }
    Ok(())
}

impl TrustedSet {
    /// 5.2. Load the trusted root: one that came with the device or was stored since. Its date does not matter yet.
    ///
    /// # Errors
    /// When it is malformed or not signed by its own keys.
    pub fn new(root: &[u8]) -> Result<Self, UpdateError> {
        Self::with_foreign_keys(root, None)
    }

    /// As [`TrustedSet::new`], with a verifier for keys other than Ed25519 ones.
    ///
    /// # Errors
    /// As [`TrustedSet::new`].
    pub fn with_foreign_keys(root: &[u8], foreign: Option<ForeignVerifier>) -> Result<Self, UpdateError> {
        let root = Envelope::<Root>::read(&Role::Root, root, ROOT_BYTES_MAX)?;
        check_root_signatures(&root.payload, &root, foreign)?;
        Ok(Self {
            foreign,
            keys_before: online_keys(&root.payload),
            root,
            root_updates: 0,
            started: None,
            timestamp: None,
            snapshot: None,
            targets: BTreeMap::new(),
        })
    }

    /// The trusted root.
    pub const fn root(&self) -> &Root {
        &self.root.payload
    }

    /// The newest timestamp that was trusted, which may have expired.
    pub fn timestamp(&self) -> Option<&Timestamp> {
        self.timestamp.as_ref().map(|t| &t.payload)
    }

    /// The newest snapshot that was trusted, which may have expired or be older than the timestamp announces.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref().map(|s| &s.payload)
    }

    /// 5.3.3. The next root to try, or `None` after [`ROOT_UPDATES_MAX`] of them. That there is none is normal.
    pub fn next_root(&self) -> Option<Request> {
        let version = self.root.version().checked_add(1)?;
        let more = self.root_updates < ROOT_UPDATES_MAX;
        more.then_some(Request { role: Role::Root, version: Some(version), bytes_max: ROOT_BYTES_MAX })
    }

    /// 5.3.4 to 5.3.9. Takes the next root. An update begins anew with it: [`TrustedSet::finish_root`] must follow.
    ///
    /// # Errors
    /// [`UpdateError`]; the root is then the one of before.
    pub fn update_root(&mut self, file: &[u8]) -> Result<(), UpdateError> {
        let root = Envelope::<Root>::read(&Role::Root, file, ROOT_BYTES_MAX)?;
        // 5.3.4. Check for an arbitrary software attack: signed by the keys of root N and by those of root N+1.
        check_root_signatures(&self.root.payload, &root, self.foreign)?;
        check_root_signatures(&root.payload, &root, self.foreign)?;
        // 5.3.5. Check for a rollback attack: N+1 precisely.
        let (trusted, found) = (self.root.version(), root.version());
        if trusted.checked_add(1) != Some(found) {
            return Err(UpdateError::NotNextRoot { trusted, found });
        }
        // 5.3.6. The date of a root in between does not matter.
        // 5.3.7. Set the trusted root.
        self.root = root;
        self.root_updates = self.root_updates.saturating_add(1);
        self.started = None;
        // 5.3.8. Persisting is the caller's. 5.3.9. So is repeating.
        Ok(())
    }

    /// 5.3.10 to 5.3.12. No newer root is to be had: the one held is the last, and `now` is the time of this update
    /// (5.1).
    ///
    /// # Errors
    /// [`UpdateError::Expired`] when the root is out of date: nothing else can be updated before it is.
    pub fn finish_root(&mut self, now: UnixSeconds) -> Result<(), UpdateError> {
        self.root_updates = 0;
        // 5.3.10. Check for a freeze attack.
        check_fresh(&Role::Root, &self.root.payload, now)?;
        // 5.3.11. Recover from a fast-forward attack: with the keys that announced them go the versions announced.
        // Rotated means that a key was taken away; a further key takes nothing back.
        let keys = online_keys(&self.root.payload);
        if self.keys_before.iter().zip(&keys).any(|(before, after)| !before.is_subset(after)) {
            self.timestamp = None;
            self.snapshot = None;
        }
        self.drop_what_the_root_no_longer_trusts();
        self.keys_before = keys;
        // 5.3.12. Whether snapshots are consistent is asked of the root whenever it matters.
        self.started = Some(now);
        Ok(())
    }

    pub(super) fn drop_what_the_root_no_longer_trusts(&mut self) {
        let signed = |timestamp: &Envelope<Timestamp>| self.check_signatures(&Role::Timestamp, &Role::Root, timestamp);
        if self.timestamp.as_ref().is_some_and(|held| signed(held).is_err()) {
            self.timestamp = None;
        }
        let signed = |snapshot: &Envelope<Snapshot>| self.check_signatures(&Role::Snapshot, &Role::Root, snapshot);
        if self.snapshot.as_ref().is_some_and(|held| signed(held).is_err()) {
            self.snapshot = None;
        }
    }

    fn started(&self, role: &Role) -> Result<UnixSeconds, UpdateError> {
        self.started.ok_or_else(|| UpdateError::OutOfOrder { role: role.clone() })
    }

    /// 5.4.1. The timestamp, which has no version in its name.
    pub const fn next_timestamp(&self) -> Request {
        Request { role: Role::Timestamp, version: None, bytes_max: TIMESTAMP_BYTES_MAX }
    }

    /// 5.4.2 to 5.4.5. Takes a timestamp.
    ///
    /// # Errors
    /// [`UpdateError`]; the timestamp is then the one of before.
    pub fn update_timestamp(&mut self, file: &[u8]) -> Result<Change, UpdateError> {
        let role = Role::Timestamp;
        let now = self.started(&role)?;
        let timestamp = Envelope::<Timestamp>::read(&role, file, TIMESTAMP_BYTES_MAX)?;
        // 5.4.2. Check for an arbitrary software attack.
        self.check_signatures(&role, &Role::Root, &timestamp)?;
        // 5.4.3. Check for a rollback attack; one that has expired still tells what is known.
        if let Some(held) = &self.timestamp {
            // 5.4.3.1. Of the timestamp.
            let (trusted, found) = (held.version(), timestamp.version());
            if found < trusted {
                return Err(UpdateError::RolledBack { role, trusted, found });
            }
            if found == trusted {
                return Ok(Change::Unchanged);
            }
            // 5.4.3.2. Of the snapshot it announces.
            let (trusted, found) = (held.payload.snapshot().version, timestamp.payload.snapshot().version);
            if found < trusted {
                return Err(UpdateError::RolledBack { role: Role::Snapshot, trusted, found });
            }
        }
        // 5.4.4. Check for a freeze attack.
        check_fresh(&role, &timestamp.payload, now)?;
        // 5.4.5. Persisting is the caller's.
        self.timestamp = Some(timestamp);
        Ok(Change::Updated)
    }

    /// 5.5.1. The snapshot that the timestamp announces, or `None` where it is held already.
    ///
    /// # Errors
    /// [`UpdateError`] when there is no valid timestamp.
    pub fn next_snapshot(&self) -> Result<Option<Request>, UpdateError> {
        let now = self.started(&Role::Snapshot)?;
        let timestamp = self.current_timestamp(now)?;
        if self.current_snapshot(now).is_ok() {
            return Ok(None);
        }
        Ok(Some(self.request(Role::Snapshot, timestamp.snapshot(), SNAPSHOT_BYTES_MAX)))
    }

    /// 5.5.2 to 5.5.7. Takes a snapshot.
    ///
    /// # Errors
    /// [`UpdateError`]; the snapshot is then the one of before.
    pub fn update_snapshot(&mut self, file: &[u8]) -> Result<(), UpdateError> {
        let role = Role::Snapshot;
        let now = self.started(&role)?;
        let meta = self.current_timestamp(now)?.snapshot();
        check_length(&role, file, bytes_max(meta, SNAPSHOT_BYTES_MAX))?;
        // 5.5.2. Check against the timestamp's hashes of the snapshot, which stops a mix-and-match attack. Before the
        // signatures, and before a parser sees it.
        meta.describes(&role, &Role::Timestamp, file)?;
        let snapshot = Envelope::<Snapshot>::read(&role, file, SNAPSHOT_BYTES_MAX)?;
        // 5.5.3. Check for an arbitrary software attack.
        self.check_signatures(&role, &Role::Root, &snapshot)?;
        // 5.5.4. Check against the timestamp's version of the snapshot.
        check_version(&role, &Role::Timestamp, meta, snapshot.version())?;
        // 5.5.5. Check for a rollback attack: nothing that was listed is older now, or gone. One that has expired, or
        // that no longer matches the timestamp's hashes, still tells what is known.
        for (name, held) in self.snapshot.iter().flat_map(|held| &held.payload.meta) {
            let listed = || Role::named(name.strip_suffix(".json").unwrap_or(name));
            let trusted = held.version;
            match snapshot.payload.meta.get(name) {
                Some(new) if new.version >= trusted => {}
                Some(new) => {
                    return Err(UpdateError::RolledBack { role: listed(), trusted, found: new.version });
                }
                None => {
                    let snapshot = snapshot.version();
                    return Err(UpdateError::Delisted { role: listed(), trusted, snapshot });
                }
            }
        }
        // 5.5.6. Check for a freeze attack.
        check_fresh(&role, &snapshot.payload, now)?;
        // 5.5.7. Persisting is the caller's.
        self.targets.retain(|role, _| snapshot.payload.listed(role).is_some());
        self.snapshot = Some(snapshot);
        Ok(())
    }

    /// 5.6.1. The targets that the snapshot lists, or `None` where they are held already.
    ///
    /// # Errors
    /// [`UpdateError`] when there is no valid snapshot.
    pub fn next_targets(&self) -> Result<Option<Request>, UpdateError> {
        let now = self.started(&Role::Targets)?;
        let snapshot = self.current_snapshot(now)?;
        match self.held_targets(snapshot, &Role::Targets, &Role::Root, now) {
            Ok(_) => Ok(None),
            Err(_) => self.targets_request(snapshot, &Role::Targets).map(Some),
        }
    }

    pub(super) fn targets_request(&self, snapshot: &Snapshot, role: &Role) -> Result<Request, UpdateError> {
        Ok(self.request(role.clone(), listed(snapshot, role)?, TARGETS_BYTES_MAX))
    }

    /// 5.6.2 to 5.6.6. Takes the top-level targets.
    ///
    /// # Errors
    /// [`UpdateError`]; the targets are then those of before.
    pub fn update_targets(&mut self, file: &[u8]) -> Result<(), UpdateError> {
        self.update_delegated_targets(&Role::Targets, &Role::Root, file)
    }

    /// 5.6.2 to 5.6.6, for a role that `delegator`, a targets role itself, delegates to.
    ///
    /// # Errors
    /// [`UpdateError`]; the role's targets are then those of before.
    pub fn update_delegated_targets(&mut self, role: &Role, delegator: &Role, file: &[u8]) -> Result<(), UpdateError> {
        let now = self.started(role)?;
        let meta = listed(self.current_snapshot(now)?, role)?;
        check_length(role, file, bytes_max(meta, TARGETS_BYTES_MAX))?;
        // 5.6.2. Check against the snapshot's hashes, which stops a mix-and-match attack.
        meta.describes(role, &Role::Snapshot, file)?;
        let targets = Envelope::<Targets>::read(role, file, TARGETS_BYTES_MAX)?;
        self.check_targets(role, delegator, &targets, meta, now)?;
        // 5.6.6. Persisting is the caller's.
        self.targets.insert(role.clone(), targets);
        Ok(())
    }

    fn check_targets(
        &self,
        role: &Role,
        delegator: &Role,
        targets: &Envelope<Targets>,
        meta: &MetaFile,
        now: UnixSeconds,
    ) -> Result<(), UpdateError> {
        // 5.6.3. Check for an arbitrary software attack.
        self.check_signatures(role, delegator, targets)?;
        // 5.6.4. Check against the snapshot's version.
        check_version(role, &Role::Snapshot, meta, targets.version())?;
        // 5.6.5. Check for a freeze attack.
        check_fresh(role, &targets.payload, now)
    }

    fn request(&self, role: Role, meta: &MetaFile, most: u64) -> Request {
        let consistent = self.root.payload.consistent_snapshot == Some(true);
        Request { role, version: consistent.then_some(meta.version), bytes_max: bytes_max(meta, most) }
    }

    pub(super) fn current_root(&self, now: UnixSeconds) -> Result<&Root, UpdateError> {
        check_fresh(&Role::Root, &self.root.payload, now)?;
        Ok(&self.root.payload)
    }

    pub(super) fn current_timestamp(&self, now: UnixSeconds) -> Result<&Timestamp, UpdateError> {
        self.current_root(now)?;
        let role = Role::Timestamp;
        let held = self.timestamp.as_ref().ok_or_else(|| UpdateError::Missing { role: role.clone() })?;
        self.check_signatures(&role, &Role::Root, held)?;
        check_fresh(&role, &held.payload, now)?;
        Ok(&held.payload)
    }

    pub(super) fn current_snapshot(&self, now: UnixSeconds) -> Result<&Snapshot, UpdateError> {
        let role = Role::Snapshot;
        let meta = self.current_timestamp(now)?.snapshot();
        let held = self.snapshot.as_ref().ok_or_else(|| UpdateError::Missing { role: role.clone() })?;
        check_version(&role, &Role::Timestamp, meta, held.version())?;
        meta.describes(&role, &Role::Timestamp, &held.file)?;
        self.check_signatures(&role, &Role::Root, held)?;
        check_fresh(&role, &held.payload, now)?;
        Ok(&held.payload)
    }

    /// The copy held of a role's targets, if it is the one that `snapshot`, which is valid at `now`, lists.
    pub(super) fn held_targets(
        &self,
        snapshot: &Snapshot,
        role: &Role,
        delegator: &Role,
        now: UnixSeconds,
    ) -> Result<&Targets, UpdateError> {
        let meta = listed(snapshot, role)?;
        let held = self.targets.get(role).ok_or_else(|| UpdateError::Missing { role: role.clone() })?;
        meta.describes(role, &Role::Snapshot, &held.file)?;
        self.check_targets(role, delegator, held, meta, now)?;
        Ok(&held.payload)
    }

    /// Whose signatures count for `role` according to `delegator`, and the version of that.
    fn keys(&self, role: &Role, delegator: &Role) -> Result<(&BTreeMap<KeyId, Key>, &RoleKeys, u64), UpdateError> {
        let not_delegated = || UpdateError::NotDelegated { role: role.clone(), delegator: delegator.clone() };
        if *delegator == Role::Root {
            let top_level = !matches!(role, Role::Delegated(_));
            let keys = self.root.payload.role(role).filter(|_| top_level).ok_or_else(not_delegated)?;
            return Ok((&self.root.payload.keys, keys, self.root.version()));
        }
        let held = self.targets.get(delegator).ok_or_else(|| UpdateError::Missing { role: delegator.clone() })?;
        let delegations = held.payload.delegations.as_ref().ok_or_else(not_delegated)?;
        let keys = delegations.role(role.name()).ok_or_else(not_delegated)?;
        Ok((&delegations.keys, keys, held.version()))
    }

    pub(super) fn check_signatures<T: Payload>(
        &self,
        role: &Role,
        delegator: &Role,
        envelope: &Envelope<T>,
    ) -> Result<(), UpdateError> {
        let (keys, role_keys, delegator_version) = self.keys(role, delegator)?;
        let by = (delegator, delegator_version);
        check_threshold(role, envelope, keys, role_keys, by, self.foreign)
    }
}

fn listed<'a>(snapshot: &'a Snapshot, role: &Role) -> Result<&'a MetaFile, UpdateError> {
    let unknown = || UpdateError::NotListed { role: role.clone(), snapshot: snapshot.header.version };
    snapshot.listed(role).ok_or_else(unknown)
}

/// At most what is listed, and never more than `most`.
fn bytes_max(meta: &MetaFile, most: u64) -> u64 {
    meta.length.map_or(most, |length| length.min(most))
}

pub(super) fn check_root_signatures(
    by: &Root,
    root: &Envelope<Root>,
    foreign: Option<ForeignVerifier>,
) -> Result<(), UpdateError> {
    let role = Role::Root;
    let keys =
        by.role(&role).ok_or_else(|| UpdateError::NotDelegated { role: role.clone(), delegator: role.clone() })?;
    check_threshold(&role, root, &by.keys, keys, (&role, by.header.version), foreign)
}

fn check_threshold<T: Payload>(
    role: &Role,
    envelope: &Envelope<T>,
    keys: &BTreeMap<KeyId, Key>,
    role_keys: &RoleKeys,
    by: (&Role, u64),
    foreign: Option<ForeignVerifier>,
) -> Result<(), UpdateError> {
    let signers = signers(keys, role_keys, &envelope.canonical, &envelope.signatures, foreign);
    let threshold = role_keys.threshold;
    if u64::try_from(signers.len()).is_ok_and(|valid| valid < threshold) {
        return Err(UpdateError::TooFewSignatures {
            role: role.clone(),
            version: envelope.version(),
            delegator: by.0.clone(),
            delegator_version: by.1,
            valid: signers.len(),
            threshold,
        });
    }
    Ok(())
}
