//! Making metadata: by a publisher with keys kept offline, and by a server with keys of its own.
//!
//! A file is drafted without signatures, and signatures are added to it one by one, possibly by different people on
//! different machines: what they sign does not change with it.

use super::canonical::JsonError;
use super::envelope::{Halves, check_length, split};
use super::error::{Role, UpdateError};
use super::key::{Key, KeyId, RoleKeys, Signature, signers, to_hex};
use super::metadata::{Payload, Root, Snapshot, Targets, Timestamp};
use super::trusted::{ROOT_BYTES_MAX, SNAPSHOT_BYTES_MAX, TARGETS_BYTES_MAX, TIMESTAMP_BYTES_MAX};
use crate::signature::{PublicKey, SecretKey};
use crate::time::UnixSeconds;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Why metadata cannot be made or signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// It cannot be written.
    #[error("{kind} metadata cannot be written")]
    Write {
        /// Which metadata.
        kind: &'static str,
        /// Why not.
        source: JsonError,
    },
    /// It would be refused.
    #[error("{kind} metadata would be refused: {problem}")]
    Invalid {
        /// Which metadata.
        kind: &'static str,
        /// Why.
        problem: String,
    },
    /// The file to sign is no metadata.
    #[error("the file cannot be signed")]
    File(#[from] UpdateError),
    /// A role that nobody can sign for.
    #[error("role {role} needs {threshold} signatures and has {keys} different keys")]
    Unreachable {
        /// The role.
        role: Role,
        /// Signatures needed.
        threshold: u64,
        /// Different keys.
        keys: usize,
    },
}

/// Writes a file of this metadata without signatures.
///
/// # Errors
/// [`SignError`] when clients would refuse it, naming what is wrong: for instance a fraction within `custom`.
pub fn draft<T: Payload>(payload: &T) -> Result<Vec<u8>, SignError> {
    let kind = T::KIND;
    let invalid = |problem| SignError::Invalid { kind, problem };
    payload.header().check(kind).and_then(|()| payload.check()).map_err(invalid)?;
    let signed = serde_json::to_value(payload).map_err(|e| invalid(e.to_string()))?;
    super::canonical::canonical(&signed).map_err(|source| SignError::Write { kind, source })?;
    Ok(write(&signed, &[]))
}

fn write(signed: &Value, signatures: &[Signature]) -> Vec<u8> {
    // A value whose keys are texts always serializes.
    serde_json::to_vec(&json!({ "signatures": signatures, "signed": signed })).unwrap_or_default()
}

/// The file with `key`'s signature; one that it had already is replaced. What is signed stays the same to the byte.
///
/// # Errors
/// [`SignError::File`] when the file is not metadata.
pub fn add_signature(file: &[u8], key: &SecretKey) -> Result<Vec<u8>, SignError> {
    let Halves { signed, canonical, mut signatures } = split_any(file)?;
    let keyid = Key::ed25519(&key.public()).id();
    signatures.retain(|s| s.keyid != keyid);
    signatures.push(Signature { keyid, sig: to_hex(&key.sign(&canonical)) });
    Ok(write(&signed, &signatures))
}

/// Reads a file of any role, and refuses to go on with what is no metadata: nobody should sign something else.
fn split_any(file: &[u8]) -> Result<Halves, UpdateError> {
    let halves = split(&Role::Targets, file, TARGETS_BYTES_MAX)?;
    let kind = halves.signed.get("_type").and_then(Value::as_str).unwrap_or_default();
    let role = Role::named(kind);
    let malformed = |problem| UpdateError::Malformed { role: role.clone(), problem };
    fn check<T: Payload>(signed: &Value) -> Result<(), String> {
        let payload: T = serde_json::from_value(signed.clone()).map_err(|e| e.to_string())?;
        payload.header().check(T::KIND).and_then(|()| payload.check())
    }
    let (checked, bytes_max) = match role {
        Role::Root => (check::<Root>(&halves.signed), ROOT_BYTES_MAX),
        Role::Timestamp => (check::<Timestamp>(&halves.signed), TIMESTAMP_BYTES_MAX),
        Role::Snapshot => (check::<Snapshot>(&halves.signed), SNAPSHOT_BYTES_MAX),
        Role::Targets => (check::<Targets>(&halves.signed), TARGETS_BYTES_MAX),
        Role::Delegated(_) => (Err(format!("its type is `{}`", kind.escape_default())), TARGETS_BYTES_MAX),
    };
    checked.map_err(malformed)?;
    check_length(&role, file, bytes_max)?;
    Ok(halves)
}

/// Writes a file of this metadata with the signatures of `keys`.
///
/// # Errors
/// As [`draft`] and [`add_signature`].
pub fn sign<T: Payload>(payload: &T, keys: &[&SecretKey]) -> Result<Vec<u8>, SignError> {
    keys.iter().try_fold(draft(payload)?, |file, key| add_signature(&file, key))
}

/// How far the signing of a file has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Different keys that have signed.
    pub valid: usize,
    /// Different keys needed.
    pub threshold: u64,
}

impl Progress {
    /// Whether nobody else has to sign.
    pub fn is_complete(&self) -> bool {
        u64::try_from(self.valid).is_ok_and(|valid| valid >= self.threshold)
    }
}

/// How many of the signatures that `by` asks for a file of `role` carries. A new root needs those of the old root and
/// its own.
///
/// # Errors
/// [`SignError::File`] when the file is not metadata, or `by` does not know the role.
pub fn progress(file: &[u8], role: &Role, by: &Root) -> Result<Progress, SignError> {
    let halves = split_any(file)?;
    let unknown = || UpdateError::NotDelegated { role: role.clone(), delegator: Role::Root };
    let keys = by.role(role).ok_or_else(unknown)?;
    let valid = signers(&by.keys, keys, &halves.canonical, &halves.signatures, None).len();
    Ok(Progress { valid, threshold: keys.threshold })
}

/// Builds a root: the first of a repository, or the next.
#[derive(Debug, Clone)]
pub struct RootBuilder {
    root: Root,
}

impl RootBuilder {
    /// Root 1.
    pub fn first(expires: UnixSeconds) -> Self {
        Self { root: Root::new(1, expires) }
    }

    /// The root after `root`, with the same keys.
    pub fn after(root: &Root, expires: UnixSeconds) -> Self {
        let mut root = root.clone();
        root.header.version = root.header.version.saturating_add(1);
        root.header.expires = expires;
        Self { root }
    }

    fn role(&mut self, role: &Role) -> &mut RoleKeys {
        let none = || RoleKeys { keyids: Vec::new(), threshold: 1, extra: serde_json::Map::new() };
        self.root.roles.entry(role.name().to_owned()).or_insert_with(none)
    }

    /// `key` counts for `role`.
    #[must_use]
    pub fn trust(mut self, role: &Role, key: &PublicKey) -> Self {
        let key = Key::ed25519(key);
        let id = key.id();
        self.root.keys.insert(id.clone(), key);
        let role = self.role(role);
        if !role.keyids.contains(&id) {
            role.keyids.push(id);
        }
        self
    }

    /// The key of this name no longer counts for `role`.
    #[must_use]
    pub fn revoke(mut self, role: &Role, key: &KeyId) -> Self {
        self.role(role).keyids.retain(|id| id != key);
        let roles: BTreeMap<_, _> = self.root.roles.clone();
        self.root.keys.retain(|id, _| roles.values().any(|role| role.keyids.contains(id)));
        self
    }

    /// `threshold` different keys must sign for `role`.
    #[must_use]
    pub fn threshold(mut self, role: &Role, threshold: u64) -> Self {
        self.role(role).threshold = threshold;
        self
    }

    /// The root, to be given to [`draft`].
    ///
    /// # Errors
    /// [`SignError`] when a role is missing or has fewer keys than its threshold.
    pub fn build(self) -> Result<Root, SignError> {
        self.root.check().map_err(|problem| SignError::Invalid { kind: Root::KIND, problem })?;
        for role in [Role::Root, Role::Timestamp, Role::Snapshot, Role::Targets] {
            let Some(keys) = self.root.role(&role) else { continue };
            let distinct = keys.identities(&self.root.keys).len();
            if u64::try_from(distinct).is_ok_and(|distinct| distinct < keys.threshold) {
                return Err(SignError::Unreachable { role, threshold: keys.threshold, keys: distinct });
            }
        }
        Ok(self.root)
    }
}
