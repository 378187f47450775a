//! A publisher's repository as a value: file names and files. Who keeps it, on a disk or elsewhere, does the reading and
//! writing; keys come in one at a time, so that several people can sign on machines that never meet.
//!
//! What is published stays: a change is a draft of the next version, which becomes valid when enough keys have signed
//! it and [`PublisherRepository::refresh`] lists it. Files are named as clients ask for them, `<version>.root.json`,
//! `<version>.targets.json`, `<version>.snapshot.json` and `timestamp.json`.
//!
//! If power dies: write the files of one change in the order of [`PublisherRepository::files`] with `timestamp.json`
//! last; before it is there, clients see what was published before.

use super::envelope::Envelope;
use super::error::{Role, UpdateError};
use super::key::Key;
use super::metadata::{MetaFile, Payload, Root, Snapshot, Targets, Timestamp};
use super::sign::{self, Progress, RootBuilder, SignError};
use super::trusted::{
    ROOT_BYTES_MAX, SNAPSHOT_BYTES_MAX, TARGETS_BYTES_MAX, TIMESTAMP_BYTES_MAX, TrustedSet, check_root_signatures,
};
use crate::BundleDigest;
use crate::signature::{PublicKey, SecretKey};
use crate::time::UnixSeconds;
use crate::uptane::{self, Release};
use std::collections::BTreeMap;

const TIMESTAMP: &str = "timestamp.json";

/// Why a repository cannot be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RepositoryError {
    /// A file is missing.
    #[error("the repository has no {role} metadata; create it first, or add the file from where it was made")]
    Missing {
        /// Whose.
        role: Role,
    },
    /// A file is there that is none of a repository's.
    #[error("`{name}` is no file of a repository: expected for instance `1.root.json` or `timestamp.json`")]
    Name {
        /// Its name, cut short.
        name: String,
    },
    /// A file that is not finished is in the way.
    #[error("`{file}` carries {valid} of {threshold} signatures; have it signed first")]
    Unfinished {
        /// Which.
        file: String,
        /// Signatures by keys that count.
        valid: usize,
        /// Signatures needed.
        threshold: u64,
    },
    /// The key counts for nothing that waits for signatures.
    #[error("this key may sign nothing here that waits for signatures")]
    NothingToSign,
    /// Metadata cannot be made.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// Metadata cannot be read.
    #[error(transparent)]
    Update(#[from] UpdateError),
}

/// Which keys a new repository trusts. Root and targets keys stay offline.
#[derive(Debug, Clone)]
pub struct TrustedKeys {
    /// Sign the keys of all roles.
    pub root: Vec<PublicKey>,
    /// So many of them are needed.
    pub root_threshold: u64,
    /// Sign which bundles exist.
    pub targets: Vec<PublicKey>,
    /// So many of them are needed.
    pub targets_threshold: u64,
    /// Sign snapshot and timestamp, each alone.
    pub refresh: Vec<PublicKey>,
}

/// A file that waits for signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsigned {
    /// Its name.
    pub file: String,
    /// Whose signatures are needed: those of this version of the root.
    pub by_root: u64,
    /// How far it has come.
    pub progress: Progress,
}

/// How long metadata is valid from now on, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Validity {
    pub snapshot_s: i64,
    pub timestamp_s: i64,
}

/// A publisher's repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublisherRepository {
    files: BTreeMap<String, Vec<u8>>,
}

fn named(role: &Role, version: u64) -> String {
    format!("{version}.{}.json", role.name())
}

impl PublisherRepository {
    /// A repository that releases nothing yet: root 1 and targets 1, both without signatures.
    ///
    /// # Errors
    /// [`SignError`] for a threshold that its keys cannot reach.
    pub fn create(keys: &TrustedKeys, expires: UnixSeconds) -> Result<Self, RepositoryError> {
        let mut root = RootBuilder::first(expires)
            .threshold(&Role::Root, keys.root_threshold)
            .threshold(&Role::Targets, keys.targets_threshold);
        for (role, trusted) in [
            (Role::Root, &keys.root),
            (Role::Targets, &keys.targets),
            (Role::Snapshot, &keys.refresh),
            (Role::Timestamp, &keys.refresh),
        ] {
            root = trusted.iter().fold(root, |root, key| root.trust(&role, key));
        }
        let mut made = Self::default();
        made.files.insert(named(&Role::Root, 1), sign::draft(&root.build()?)?);
        made.files.insert(named(&Role::Targets, 1), sign::draft(&Targets::new(1, expires))?);
        Ok(made)
    }

    /// A repository of these files, as [`PublisherRepository::files`] gave them.
    ///
    /// # Errors
    /// When a name is none of a repository's.
    pub fn from_files(files: BTreeMap<String, Vec<u8>>) -> Result<Self, RepositoryError> {
        for name in files.keys() {
            let parts = name.strip_suffix(".json").and_then(|stem| stem.split_once('.'));
            let known = parts.is_some_and(|(version, role)| {
                version.parse::<u64>().is_ok_and(|v| v.to_string() == version && v > 0)
                    && ["root", "targets", "snapshot"].contains(&role)
            });
            if name != TIMESTAMP && !known {
                let name = name.chars().take(80).flat_map(char::escape_default).collect();
                return Err(RepositoryError::Name { name });
            }
        }
        Ok(Self { files })
    }

    /// All files by name; the timestamp, which makes the others count, comes last in this order.
    pub fn files(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.files
    }

    fn newest_version(&self, role: &Role) -> u64 {
        let suffix = format!(".{}.json", role.name());
        self.files.keys().filter_map(|name| name.strip_suffix(&suffix)?.parse().ok()).max().unwrap_or(0)
    }

    fn newest<T: Payload>(&self, role: &Role, bytes_max: u64) -> Result<T, RepositoryError> {
        self.read(role, self.newest_version(role), bytes_max)
    }

    fn read<T: Payload>(&self, role: &Role, version: u64, bytes_max: u64) -> Result<T, RepositoryError> {
        let name = if *role == Role::Timestamp { TIMESTAMP.to_owned() } else { named(role, version) };
        let file = self.files.get(&name).ok_or_else(|| RepositoryError::Missing { role: role.clone() })?;
        Ok(Envelope::<T>::read(role, file, bytes_max)?.payload)
    }

    /// The newest root that enough keys have signed, or root 1 while it is a draft.
    ///
    /// # Errors
    /// When there is none.
    pub fn root(&self) -> Result<Root, RepositoryError> {
        let newest = self.newest_version(&Role::Root);
        for version in (2..=newest).rev() {
            let root: Root = self.read(&Role::Root, version, ROOT_BYTES_MAX)?;
            if self.unsigned_root(version)?.is_empty() {
                return Ok(root);
            }
        }
        self.read(&Role::Root, 1, ROOT_BYTES_MAX)
    }

    /// The newest targets, drafts included.
    ///
    /// # Errors
    /// When there are none.
    pub fn targets(&self) -> Result<Targets, RepositoryError> {
        self.newest(&Role::Targets, TARGETS_BYTES_MAX)
    }

    /// The targets version that clients see.
    fn listed_targets(&self) -> u64 {
        let snapshot = self.newest::<Snapshot>(&Role::Snapshot, SNAPSHOT_BYTES_MAX);
        snapshot.ok().and_then(|s| s.listed(&Role::Targets).map(|meta| meta.version)).unwrap_or(0)
    }

    /// Drafts targets that `change` makes of the newest ones. A draft that nobody sees yet is replaced, and its
    /// signatures with it.
    ///
    /// # Errors
    /// [`RepositoryError`] when there are no targets, or clients would refuse the result.
    pub fn change_targets(
        &mut self,
        expires: UnixSeconds,
        change: impl FnOnce(&mut Targets) -> Result<(), SignError>,
    ) -> Result<String, RepositoryError> {
        let mut targets = self.targets()?;
        if targets.header.version <= self.listed_targets() {
            targets.header.version = targets.header.version.saturating_add(1);
        }
        targets.header.expires = expires;
        change(&mut targets)?;
        let name = named(&Role::Targets, targets.header.version);
        self.files.insert(name.clone(), sign::draft(&targets)?);
        Ok(name)
    }

    /// Drafts targets that also name this release. `length` is that of the packed bundle's OCI image manifest, in bytes.
    ///
    /// # Errors
    /// As [`PublisherRepository::change_targets`].
    pub fn release(
        &mut self,
        digest: BundleDigest,
        length: u64,
        release: &Release,
        expires: UnixSeconds,
    ) -> Result<String, RepositoryError> {
        self.change_targets(expires, |targets| uptane::release(targets, digest, length, release))
    }

    /// Drafts the next root that `change` makes of the newest finished one. Every signed one stays for ever: clients
    /// walk from one to the next.
    ///
    /// # Errors
    /// [`RepositoryError`] when the result could not be signed.
    pub fn change_root(
        &mut self,
        expires: UnixSeconds,
        change: impl FnOnce(RootBuilder) -> RootBuilder,
    ) -> Result<String, RepositoryError> {
        let root = change(RootBuilder::after(&self.root()?, expires)).build()?;
        let name = named(&Role::Root, root.header.version);
        self.files.insert(name.clone(), sign::draft(&root)?);
        Ok(name)
    }

    /// The next root is signed by those that the one before names, and by those it names itself.
    fn unsigned_root(&self, version: u64) -> Result<Vec<Unsigned>, RepositoryError> {
        let file = self.file(&Role::Root, version)?;
        let mut unsigned = Vec::new();
        for by in version.saturating_sub(1).max(1)..=version {
            let root: Root = self.read(&Role::Root, by, ROOT_BYTES_MAX)?;
            let progress = sign::progress(file, &Role::Root, &root)?;
            if !progress.is_complete() {
                unsigned.push(Unsigned { file: named(&Role::Root, version), by_root: by, progress });
            }
        }
        Ok(unsigned)
    }

    fn file(&self, role: &Role, version: u64) -> Result<&[u8], RepositoryError> {
        let file = self.files.get(&named(role, version));
        file.map(Vec::as_slice).ok_or_else(|| RepositoryError::Missing { role: role.clone() })
    }

    /// What waits for signatures, by whom.
    ///
    /// # Errors
    /// When a file is missing or malformed.
    pub fn unsigned(&self) -> Result<Vec<Unsigned>, RepositoryError> {
        let mut unsigned = self.unsigned_root(self.newest_version(&Role::Root))?;
        let (root, version) = (self.root()?, self.newest_version(&Role::Targets));
        let progress = sign::progress(self.file(&Role::Targets, version)?, &Role::Targets, &root)?;
        if !progress.is_complete() {
            let (file, by_root) = (named(&Role::Targets, version), root.header.version);
            unsigned.push(Unsigned { file, by_root, progress });
        }
        Ok(unsigned)
    }

    /// Adds the key's signature to everything that waits for it. The names of the files signed.
    ///
    /// # Errors
    /// [`RepositoryError::NothingToSign`], or a malformed file.
    pub fn sign(&mut self, key: &SecretKey) -> Result<Vec<String>, RepositoryError> {
        let mut signed = Vec::new();
        for Unsigned { file: name, by_root, .. } in self.unsigned()? {
            let root: Root = self.read(&Role::Root, by_root, ROOT_BYTES_MAX)?;
            let role = if name.ends_with(".root.json") { Role::Root } else { Role::Targets };
            if !signed.contains(&name) && counts(&root, &role, key) {
                let file = self.files.get(&name).ok_or(RepositoryError::Missing { role })?;
                let file = sign::add_signature(file, key)?;
                self.files.insert(name.clone(), file);
                signed.push(name);
            }
        }
        if signed.is_empty() { Err(RepositoryError::NothingToSign) } else { Ok(signed) }
    }

    /// Makes snapshot and timestamp anew at `now`: lists the newest targets, and extends the dates. `keys` sign it, as
    /// far as they count.
    ///
    /// # Errors
    /// [`RepositoryError::Unfinished`] while root or targets lack signatures, or `keys` are too few.
    pub fn refresh(
        &mut self,
        keys: &[&SecretKey],
        validity: Validity,
        now: UnixSeconds,
    ) -> Result<(), RepositoryError> {
        if let Some(Unsigned { file, progress, .. }) = self.unsigned()?.into_iter().next() {
            return Err(RepositoryError::Unfinished { file, valid: progress.valid, threshold: progress.threshold });
        }
        let (root, version) = (self.root()?, self.newest_version(&Role::Targets));
        let listed = MetaFile::of(version, self.file(&Role::Targets, version)?);
        let next = self.newest_version(&Role::Snapshot).saturating_add(1);
        let meta = BTreeMap::from([("targets.json".to_owned(), listed)]);
        let snapshot = Snapshot::new(next, now.plus(validity.snapshot_s), meta);
        let snapshot = signed(&snapshot, &Role::Snapshot, &root, keys)?;
        let before = self.read::<Timestamp>(&Role::Timestamp, 0, TIMESTAMP_BYTES_MAX).map_or(0, |t| t.header.version);
        let listed = MetaFile::of(next, &snapshot);
        let mut timestamp = Timestamp::new(before.saturating_add(1), now.plus(validity.timestamp_s), listed);
        timestamp.sedge_issued = Some(now);
        let timestamp = signed(&timestamp, &Role::Timestamp, &root, keys)?;
        self.files.insert(named(&Role::Snapshot, next), snapshot);
        self.files.insert(TIMESTAMP.to_owned(), timestamp);
        Ok(())
    }

    /// The first root, which devices and servers pin.
    ///
    /// # Errors
    /// When it is missing or its own keys have not signed it.
    pub fn first_root(&self) -> Result<&[u8], RepositoryError> {
        let file = self.file(&Role::Root, 1)?;
        let root = Envelope::<Root>::read(&Role::Root, file, ROOT_BYTES_MAX)?;
        check_root_signatures(&root.payload, &root, None)?;
        Ok(file)
    }

    /// What a client that begins with the first root sees at `now`.
    ///
    /// # Errors
    /// [`UpdateError`] as such a client says it.
    pub fn client(&self, now: UnixSeconds) -> Result<TrustedSet, RepositoryError> {
        let mut set = TrustedSet::new(self.first_root()?)?;
        for (_, file) in self.uploads(1)? {
            match Kind::of(file)? {
                Kind::Root => set.update_root(file)?,
                Kind::Timestamp => {
                    set.finish_root(now)?;
                    set.update_timestamp(file)?;
                }
                Kind::Snapshot => set.update_snapshot(file)?,
                Kind::Targets => set.update_targets(file)?,
            }
        }
        set.view(now)?;
        Ok(set)
    }

    /// What to give to somebody who has the root of this version, in the order in which clients verify: further roots,
    /// timestamp, snapshot, targets.
    ///
    /// # Errors
    /// [`RepositoryError::Missing`] before the first refresh.
    pub fn uploads(&self, root_version: u64) -> Result<Vec<(String, &[u8])>, RepositoryError> {
        let newest_root = self.root()?.header.version;
        let snapshot: Snapshot = self.newest(&Role::Snapshot, SNAPSHOT_BYTES_MAX)?;
        let targets = snapshot.listed(&Role::Targets).map_or(0, |meta| meta.version);
        let mut names: Vec<_> = (root_version.saturating_add(1)..=newest_root).map(|v| named(&Role::Root, v)).collect();
        names.push(TIMESTAMP.to_owned());
        names.push(named(&Role::Snapshot, snapshot.header.version));
        names.push(named(&Role::Targets, targets));
        let file = |name: String| {
            let role = Role::named(name.trim_end_matches(".json").rsplit('.').next().unwrap_or_default());
            let file = self.files.get(&name).ok_or(RepositoryError::Missing { role })?;
            Ok((name, file.as_slice()))
        };
        names.into_iter().map(file).collect()
    }
}

/// What a file says it is.
enum Kind {
    Root,
    Timestamp,
    Snapshot,
    Targets,
}

impl Kind {
    fn of(file: &[u8]) -> Result<Self, UpdateError> {
        let halves = super::envelope::split(&Role::Targets, file, TARGETS_BYTES_MAX)?;
        match halves.signed.get("_type").and_then(serde_json::Value::as_str) {
            Some("root") => Ok(Self::Root),
            Some("timestamp") => Ok(Self::Timestamp),
            Some("snapshot") => Ok(Self::Snapshot),
            _ => Ok(Self::Targets),
        }
    }
}

fn counts(root: &Root, role: &Role, key: &SecretKey) -> bool {
    let id = Key::ed25519(&key.public()).id();
    root.role(role).is_some_and(|keys| keys.identities(&root.keys).contains(&id))
}

fn signed<T: Payload>(payload: &T, role: &Role, root: &Root, keys: &[&SecretKey]) -> Result<Vec<u8>, RepositoryError> {
    let keys: Vec<_> = keys.iter().copied().filter(|key| counts(root, role, key)).collect();
    let file = sign::sign(payload, &keys)?;
    let Progress { valid, threshold } = sign::progress(&file, role, root)?;
    if u64::try_from(valid).is_ok_and(|valid| valid < threshold) {
        let file = named(role, payload.header().version);
        return Err(RepositoryError::Unfinished { file, valid, threshold });
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uptane::Kind as Component;
    use crate::{Sha256Digest, Version};

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
    const VALIDITY: Validity = Validity { snapshot_s: 86_400, timestamp_s: 3_600 };

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed([seed; 32])
    }

    fn created() -> PublisherRepository {
        let keys = TrustedKeys {
            root: vec![key(1).public(), key(2).public()],
            root_threshold: 2,
            targets: vec![key(3).public(), key(4).public(), key(5).public()],
            targets_threshold: 2,
            refresh: vec![key(6).public()],
        };
        PublisherRepository::create(&keys, NOW.plus(1_000_000)).expect("keys that suffice")
    }

    fn signed_by(mut repository: PublisherRepository, seeds: &[u8]) -> PublisherRepository {
        for &seed in seeds {
            repository.sign(&key(seed)).expect("something to sign");
        }
        repository
    }

    fn digits(version: &str) -> (BundleDigest, Release) {
        let release = Release {
            name: "digits".parse().expect("a name"),
            version: version.parse().unwrap_or_else(|_| Version::new(0, 0, 0)),
            kind: Component::Model,
            floor: None,
            bytes: 1000,
        };
        (BundleDigest(Sha256Digest::of(version.as_bytes())), release)
    }

    fn released(repository: &mut PublisherRepository, version: &str) {
        let (digest, release) = digits(version);
        repository.release(digest, 400, &release, NOW.plus(1_000_000)).expect("a release");
    }

    #[test]
    fn several_people_sign_one_after_the_other() {
        let mut repository = created();
        let waiting = |r: &PublisherRepository| {
            let show = |u: Unsigned| format!("{} {}/{}", u.file, u.progress.valid, u.progress.threshold);
            r.unsigned().expect("readable").into_iter().map(show).collect::<Vec<_>>()
        };
        assert_eq!(waiting(&repository), ["1.root.json 0/2", "1.targets.json 0/2"]);
        assert!(repository.first_root().is_err());
        assert_eq!(repository.sign(&key(1)), Ok(vec!["1.root.json".to_owned()]));
        assert_eq!(repository.sign(&key(3)), Ok(vec!["1.targets.json".to_owned()]));
        assert_eq!(waiting(&repository), ["1.root.json 1/2", "1.targets.json 1/2"]);
        let e = repository.refresh(&[&key(6)], VALIDITY, NOW).expect_err("unfinished");
        assert_eq!(e.to_string(), "`1.root.json` carries 1 of 2 signatures; have it signed first");
        let mut repository = signed_by(repository, &[2, 4]);
        assert_eq!(repository.sign(&key(9)), Err(RepositoryError::NothingToSign));
        let e = repository.refresh(&[&key(9)], VALIDITY, NOW).expect_err("a key that does not count");
        assert!(e.to_string().contains("`1.snapshot.json` carries 0 of 1"), "{e}");
        repository.refresh(&[&key(6)], VALIDITY, NOW).expect("complete");
        assert!(repository.client(NOW).is_ok());
    }

    #[test]
    fn a_release_counts_once_it_is_signed_and_listed() {
        let mut repository = signed_by(created(), &[1, 2, 3, 4]);
        repository.refresh(&[&key(6)], VALIDITY, NOW).expect("complete");
        released(&mut repository, "1.0.0");
        repository.sign(&key(3)).expect("a draft");
        // The same draft again, without the signature, as it says something else now.
        released(&mut repository, "1.1.0");
        assert_eq!(repository.targets().expect("targets").header.version, 2);
        assert_eq!(repository.unsigned().expect("readable")[0].progress.valid, 0);
        assert_eq!(repository.client(NOW).expect("as before").view(NOW).expect("valid").targets().targets.len(), 0);
        let mut repository = signed_by(repository, &[4, 5]);
        repository.refresh(&[&key(6)], VALIDITY, NOW.plus(10)).expect("complete");
        let set = repository.client(NOW.plus(10)).expect("valid");
        let targets = set.view(NOW.plus(10)).expect("valid").targets().clone();
        assert_eq!((targets.header.version, targets.targets.len()), (2, 2));
        assert_eq!(set.signed_time(), Some(NOW.plus(10)));
        let names: Vec<_> = repository.uploads(1).expect("published").into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["timestamp.json", "2.snapshot.json", "2.targets.json"]);
    }

    #[test]
    fn the_next_root_needs_the_old_keys_and_the_new_ones() {
        let mut repository = signed_by(created(), &[1, 2, 3, 4]);
        repository.refresh(&[&key(6)], VALIDITY, NOW).expect("complete");
        let old = Key::ed25519(&key(2).public()).id();
        let change = |root: RootBuilder| root.revoke(&Role::Root, &old).trust(&Role::Root, &key(7).public());
        assert_eq!(repository.change_root(NOW.plus(2_000_000), change), Ok("2.root.json".to_owned()));
        repository.sign(&key(1)).expect("old and new");
        repository.sign(&key(7)).expect("new");
        // What is signed half does not count yet.
        assert_eq!(repository.root().expect("a root").header.version, 1);
        repository.sign(&key(2)).expect("old");
        assert_eq!(repository.root().expect("a root").header.version, 2);
        repository.refresh(&[&key(6)], VALIDITY, NOW).expect("complete");
        assert_eq!(repository.client(NOW).expect("valid").root().header.version, 2);
    }

    #[test]
    fn files_survive_their_round_trip_and_foreign_names_are_refused() {
        let repository = signed_by(created(), &[1]);
        assert_eq!(PublisherRepository::from_files(repository.files().clone()), Ok(repository));
        for name in ["root.json", "0.root.json", "01.root.json", "1.role.json", "notes.txt", "../1.root.json"] {
            let e = PublisherRepository::from_files([(name.to_owned(), Vec::new())].into()).expect_err(name);
            assert!(e.to_string().contains(name), "{e}");
        }
    }
}
