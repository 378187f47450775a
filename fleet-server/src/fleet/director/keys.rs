//! The directors' online keys: one per role and project, in files that only the server's user reads.

use sedge_protocol::id::ProjectId;
use sedge_protocol::signature::SecretKey;
use sedge_protocol::time::UnixSeconds;
use sedge_protocol::tuf::sign::{self, RootBuilder, SignError};
use sedge_protocol::tuf::{Role, TrustedSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum KeyError {
    /// A key file cannot be read.
    #[error(
        "the director's key {} cannot be read; devices trust it, so restore it from a backup of the server", path.display()
    )]
    Read { path: PathBuf, source: io::Error },
    /// A key file cannot be written.
    #[error("the director's key {} cannot be written", path.display())]
    Write { path: PathBuf, source: io::Error },
    /// A key file holds no key.
    #[error("{} holds no key; restore it from a backup of the server", path.display())]
    Malformed { path: PathBuf, source: sedge_protocol::signature::KeyError },
    /// No random numbers.
    #[error("the system gives no random numbers for the director's keys: {problem}")]
    Random { problem: String },
    /// The root cannot be made.
    #[error("the director's root of project `{project}` cannot be made")]
    Root { project: ProjectId, source: SignError },
}

/// A director's keys.
#[derive(Debug)]
pub struct DirectorKeys {
    root: SecretKey,
    pub(super) targets: SecretKey,
    pub(super) snapshot: SecretKey,
    pub(super) timestamp: SecretKey,
}

impl DirectorKeys {
    /// Reads the keys of a project.
    ///
    /// # Errors
    /// [`KeyError`] when one is missing or malformed.
    pub fn open(directory: &Path, project: &ProjectId) -> Result<Self, KeyError> {
        Self::each(|role| read(&path(directory, project, role)))
    }

    /// Reads the keys of a project, and makes those that are missing. Only for a project whose first root nobody has.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn open_or_create(directory: &Path, project: &ProjectId) -> Result<Self, KeyError> {
        Self::each(|role| {
            let path = path(directory, project, role);
            if !path.exists() {
                create(&path)?;
            }
            read(&path)
        })
    }

    fn each(key: impl Fn(&str) -> Result<SecretKey, KeyError>) -> Result<Self, KeyError> {
        Ok(Self {
            root: key("root")?,
            targets: key("targets")?,
            snapshot: key("snapshot")?,
            timestamp: key("timestamp")?,
        })
    }

    pub(super) fn first_root(&self, expires: UnixSeconds) -> Result<Vec<u8>, SignError> {
        let root = RootBuilder::first(expires)
            .trust(&Role::Root, &self.root.public())
            .trust(&Role::Targets, &self.targets.public())
            .trust(&Role::Snapshot, &self.snapshot.public())
            .trust(&Role::Timestamp, &self.timestamp.public())
            .build()?;
        sign::sign(&root, &[&self.root])
    }

    pub(super) fn next_root(&self, newest: &[u8], expires: UnixSeconds) -> Result<Vec<u8>, SignError> {
        let newest = TrustedSet::new(newest)?;
        sign::sign(&RootBuilder::after(newest.root(), expires).build()?, &[&self.root])
    }
}

fn path(directory: &Path, project: &ProjectId, role: &str) -> PathBuf {
    directory.join(project.as_str()).join(format!("{role}.pem"))
}

fn read(path: &Path) -> Result<SecretKey, KeyError> {
    let text = fs::read_to_string(path).map_err(|source| KeyError::Read { path: path.to_owned(), source })?;
    SecretKey::from_pem(&text).map_err(|source| KeyError::Malformed { path: path.to_owned(), source })
}

/// Written beside its place, synced and renamed: a key is there as a whole or not at all.
fn create(path: &Path) -> Result<(), KeyError> {
    let failed = |source| KeyError::Write { path: path.to_owned(), source };
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|e| KeyError::Random { problem: e.to_string() })?;
    let pem = SecretKey::from_seed(seed).to_pem().map_err(|e| failed(io::Error::other(e)))?;
    let directory = path.parent().unwrap_or(path);
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    let beside = path.with_extension("new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside).map_err(failed)?;
    file.write_all(pem.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&beside, path).and_then(|()| File::open(directory)?.sync_all()).map_err(failed)
}
