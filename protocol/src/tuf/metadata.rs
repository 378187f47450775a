//! What the four roles say.

use super::delegation::Delegations;
use super::error::{Role, UpdateError};
use super::key::{Key, KeyId, RoleKeys, to_hex};
use crate::Sha256Digest;
use crate::time::UnixSeconds;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha512};
use std::collections::BTreeMap;

/// Version of the specification that is written; any 1.x is read.
pub const SPEC_VERSION: &str = "1.0.31";

/// What every role's metadata starts with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The role's type.
    #[serde(rename = "_type")]
    pub kind: String,
    /// Version of the specification.
    pub spec_version: String,
    /// Number of this file; it only grows and is at least 1.
    pub version: u64,
    /// From when on it is no longer valid.
    pub expires: UnixSeconds,
}

impl Header {
    fn new(kind: &str, version: u64, expires: UnixSeconds) -> Self {
        Self { kind: kind.to_owned(), spec_version: SPEC_VERSION.to_owned(), version, expires }
    }

    pub(super) fn check(&self, kind: &str) -> Result<(), String> {
        if self.kind != kind {
            return Err(format!("its type is `{}` and not `{kind}`", self.kind.escape_default()));
        }
        let mut parts = self.spec_version.split('.');
        let numbers = |part: &str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit());
        let count = self.spec_version.split('.').filter(|part| numbers(part)).count();
        // Two parts are read for the sake of old repositories, as python-tuf does.
        if parts.next() != Some("1") || count != self.spec_version.split('.').count() || !(2..=3).contains(&count) {
            return Err(format!(
                "its spec_version is `{}`, and only 1.x is understood",
                self.spec_version.escape_default()
            ));
        }
        if self.version == 0 {
            return Err("its version is 0; it is at least 1".to_owned());
        }
        Ok(())
    }

    /// Whether it is out of date at `now`. Valid is what expires later than now.
    pub fn expired(&self, now: UnixSeconds) -> bool {
        now >= self.expires
    }
}

/// One role's metadata.
pub trait Payload: Serialize + DeserializeOwned {
    /// Value of `_type`.
    const KIND: &'static str;

    /// What every role has.
    fn header(&self) -> &Header;

    /// What the types do not say.
    ///
    /// # Errors
    /// What is wrong, in words.
    fn check(&self) -> Result<(), String>;
}

/// Whose signatures count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Version and date.
    #[serde(flatten)]
    pub header: Header,
    /// Whether files are named by their version or hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistent_snapshot: Option<bool>,
    /// The keys, by name.
    pub keys: BTreeMap<KeyId, Key>,
    /// By role name.
    pub roles: BTreeMap<String, RoleKeys>,
    /// Fields that are unknown here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Root {
    /// A root that trusts nobody yet.
    pub(super) fn new(version: u64, expires: UnixSeconds) -> Self {
        Self {
            header: Header::new("root", version, expires),
            consistent_snapshot: Some(true),
            keys: BTreeMap::new(),
            roles: BTreeMap::new(),
            extra: Map::new(),
        }
    }

    pub(super) fn role(&self, role: &Role) -> Option<&RoleKeys> {
        self.roles.get(role.name())
    }
}

impl Payload for Root {
    const KIND: &'static str = "root";

    fn header(&self) -> &Header {
        &self.header
    }

    fn check(&self) -> Result<(), String> {
        for role in [Role::Root, Role::Timestamp, Role::Snapshot, Role::Targets] {
            match self.role(&role) {
                Some(keys) => keys.check().map_err(|e| format!("role `{role}`: {e}"))?,
                None => return Err(format!("role `{role}` is missing")),
            }
        }
        Ok(())
    }
}

/// Hex hashes by hash function.
pub type Hashes = BTreeMap<String, String>;

/// What one metadata file says about another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaFile {
    /// Version of the other.
    pub version: u64,
    /// Its length in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// Its hashes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hashes: Option<Hashes>,
}

impl MetaFile {
    /// Describes `file` by version, length and SHA-256.
    pub fn of(version: u64, file: &[u8]) -> Self {
        let length = u64::try_from(file.len()).unwrap_or(u64::MAX);
        let hashes = Hashes::from([("sha256".to_owned(), Sha256Digest::of(file).hex())]);
        Self { version, length: Some(length), hashes: Some(hashes) }
    }

    fn check(&self, name: &str) -> Result<(), String> {
        let name = name.escape_default();
        if self.version == 0 {
            return Err(format!("`{name}` has version 0; it is at least 1"));
        }
        if self.hashes.as_ref().is_some_and(Hashes::is_empty) {
            return Err(format!("`{name}` has an empty list of hashes"));
        }
        Ok(())
    }

    /// Whether `file` is the one described, as far as length and hashes are given. Every hash must match.
    pub(super) fn describes(&self, role: &Role, by: &Role, file: &[u8]) -> Result<(), UpdateError> {
        let wrong = |problem| UpdateError::WrongBytes { role: role.clone(), by: by.clone(), problem };
        if self.length.is_some_and(|length| u64::try_from(file.len()) != Ok(length)) {
            return Err(wrong(format!("{} bytes and thus another length", file.len())));
        }
        for (algorithm, expected) in self.hashes.iter().flatten() {
            let found = match algorithm.as_str() {
                "sha256" => Sha256Digest::of(file).hex(),
                "sha512" => to_hex(&Sha512::digest(file)),
                _ => {
                    let algorithm = algorithm.chars().take(40).flat_map(char::escape_default).collect();
                    return Err(UpdateError::UnknownHash { role: role.clone(), by: by.clone(), algorithm });
                }
            };
            if found != *expected {
                return Err(wrong(format!("another {algorithm} hash ({found})")));
            }
        }
        Ok(())
    }
}

/// Which snapshot is the newest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timestamp {
    /// Version and date.
    #[serde(flatten)]
    pub header: Header,
    meta: TimestampMeta,
    /// When it was signed. A field of Sedge's own: a device without a clock learns the time from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sedge_issued: Option<UnixSeconds>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TimestampMeta {
    #[serde(rename = "snapshot.json")]
    snapshot: MetaFile,
}

impl Timestamp {
    /// Announces `snapshot`.
    pub fn new(version: u64, expires: UnixSeconds, snapshot: MetaFile) -> Self {
        let header = Header::new(Self::KIND, version, expires);
        Self { header, meta: TimestampMeta { snapshot }, sedge_issued: None }
    }

    /// The snapshot it announces.
    pub const fn snapshot(&self) -> &MetaFile {
        &self.meta.snapshot
    }
}

impl Payload for Timestamp {
    const KIND: &'static str = "timestamp";

    fn header(&self) -> &Header {
        &self.header
    }

    fn check(&self) -> Result<(), String> {
        self.meta.snapshot.check("snapshot.json")
    }
}

/// Which targets files belong together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Version and date.
    #[serde(flatten)]
    pub header: Header,
    /// By file name, as `targets.json`.
    pub meta: BTreeMap<String, MetaFile>,
}

impl Snapshot {
    /// Lists `meta`.
    pub fn new(version: u64, expires: UnixSeconds, meta: BTreeMap<String, MetaFile>) -> Self {
        Self { header: Header::new(Self::KIND, version, expires), meta }
    }

    /// What it says about a targets role.
    pub fn listed(&self, role: &Role) -> Option<&MetaFile> {
        self.meta.get(&format!("{}.json", role.name()))
    }
}

impl Payload for Snapshot {
    const KIND: &'static str = "snapshot";

    fn header(&self) -> &Header {
        &self.header
    }

    fn check(&self) -> Result<(), String> {
        self.meta.iter().try_for_each(|(name, file)| file.check(name))
    }
}

/// Which files exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Targets {
    /// Version and date.
    #[serde(flatten)]
    pub header: Header,
    /// By path.
    pub targets: BTreeMap<String, TargetFile>,
    /// Roles that answer for some paths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegations: Option<Delegations>,
    /// Fields that are unknown to TUF.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A file that exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetFile {
    /// Its length in bytes.
    pub length: u64,
    /// Its hashes, at least one.
    pub hashes: Hashes,
    /// What the application says about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom: Option<Map<String, Value>>,
}

impl TargetFile {
    /// Whether `file` is this one: its length, and every hash of it.
    ///
    /// # Errors
    /// [`UpdateError`] when it is another, or a hash cannot be checked.
    pub fn check(&self, file: &[u8]) -> Result<(), UpdateError> {
        let meta = MetaFile { version: 1, length: Some(self.length), hashes: Some(self.hashes.clone()) };
        meta.describes(&Role::Delegated("target file".to_owned()), &Role::Targets, file)
    }
}

impl Targets {
    /// Lists nothing yet.
    pub fn new(version: u64, expires: UnixSeconds) -> Self {
        Self {
            header: Header::new(Self::KIND, version, expires),
            targets: BTreeMap::new(),
            delegations: None,
            extra: Map::new(),
        }
    }
}

impl Payload for Targets {
    const KIND: &'static str = "targets";

    fn header(&self) -> &Header {
        &self.header
    }

    fn check(&self) -> Result<(), String> {
        if let Some((path, _)) = self.targets.iter().find(|(_, file)| file.hashes.is_empty()) {
            return Err(format!("target `{}` has no hash", path.escape_default()));
        }
        self.delegations.as_ref().map_or(Ok(()), Delegations::check)
    }
}
