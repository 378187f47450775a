//! Trusted metadata on disk, as it came: `metadata/<repository>/<role>.json`.

use crate::disk::Disk;
use crate::journal::JournalError;
use sedge_protocol::message::Repository;
use sedge_protocol::tuf::{Role, Stored, TrustedSet, UpdateError, file_name};
use std::io;
use std::path::{Path, PathBuf};
use tracing::warn;

/// Why metadata cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum UpdateStoreError {
    /// A file.
    #[error("update metadata in {} cannot be {action}", path.display())]
    Disk {
        /// What was to be done.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The first root that enrolment gave.
    #[error("the {repository}'s first root cannot be used; enrol this device again")]
    Root {
        /// Whose.
        repository: Repository,
        /// Why.
        #[source]
        source: UpdateError,
    },
    /// Marks or time.
    #[error(transparent)]
    Marks(#[from] JournalError),
}

fn role_of(name: &str) -> Option<Role> {
    let mut bytes = name.strip_suffix(".json")?.bytes();
    let mut text = Vec::new();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            text.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            text.push(byte);
        }
    }
    Some(Role::named(&String::from_utf8(text).ok()?))
}

fn dir_of(dir: &Path, repository: Repository) -> PathBuf {
    dir.join(repository.as_str())
}

pub(super) fn load(
    disk: &dyn Disk,
    dir: &Path,
    repository: Repository,
    first_root: &[u8],
) -> Result<TrustedSet, UpdateStoreError> {
    let mut set = TrustedSet::new(first_root).map_err(|source| UpdateStoreError::Root { repository, source })?;
    let dir = dir_of(dir, repository);
    let failed = |source| UpdateStoreError::Disk { action: "read", path: dir.clone(), source };
    let mut stored = Stored::default();
    for name in disk.list(&dir).map_err(failed)? {
        let Some(role) = role_of(&name) else { continue };
        let Some(bytes) = disk.read(&dir.join(&name)).map_err(failed)? else { continue };
        match role {
            Role::Root => stored.root = Some(bytes),
            Role::Timestamp => stored.timestamp = Some(bytes),
            Role::Snapshot => stored.snapshot = Some(bytes),
            role => {
                stored.targets.insert(role, bytes);
            }
        }
    }
    for e in set.load(&stored) {
        warn!(%repository, error = crate::error::chain(&e), "a stored copy of update metadata is not used");
    }
    Ok(set)
}

/// Stores what changed, the root first.
pub(super) fn save(
    disk: &dyn Disk,
    dir: &Path,
    repository: Repository,
    set: &TrustedSet,
) -> Result<(), UpdateStoreError> {
    let dir = dir_of(dir, repository);
    let Stored { root, timestamp, snapshot, targets } = set.export();
    let top = [(Role::Root, root), (Role::Timestamp, timestamp), (Role::Snapshot, snapshot)];
    let files = top.into_iter().filter_map(|(role, file)| Some((role, file?))).chain(targets);
    let failed = |source| UpdateStoreError::Disk { action: "written", path: dir.clone(), source };
    disk.create_dir(&dir).map_err(failed)?;
    for (role, file) in files {
        let path = dir.join(file_name(&role));
        if disk.read(&path).map_err(failed)?.as_deref() != Some(file.as_slice()) {
            disk.replace(&path, &file).map_err(failed)?;
        }
    }
    Ok(())
}
