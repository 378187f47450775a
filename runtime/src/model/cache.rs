//! Saved models on the device's disk, so that a worker starts without parsing, dividing and packing.
//!
//! `<key>.model` is a model's saved form as [`super::saved`] has it, and nothing else: it can be mapped as it lies. The key
//! is [`super::Model::saved_key`]. What was recorded when it was made is in the file, and whoever opens it compares: what
//! it was made from and for, and the digests of all its parts. That nobody else wrote both rests on what [`crate::cache`]
//! says of its directory.

use crate::cache::{CacheError, CacheLock, Entries, Kind, Writing};
use sedge_protocol::Sha256Digest;
use std::path::{Path, PathBuf};

const KIND: Kind = Kind { what: "a saved model", extension: "model", entry_bytes_max: 256 << 20, bytes_max: 512 << 20 };

/// A directory of saved models. It is made when it is first used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelCache(Entries);

impl ModelCache {
    /// Models in this directory, at most 512 MiB of them.
    pub const fn new(dir: PathBuf) -> Self {
        Self(Entries::new(&KIND, dir))
    }

    /// With another bound on all entries together.
    #[must_use]
    pub fn with_bytes_max(self, bytes_max: u64) -> Self {
        Self(self.0.with_bytes_max(bytes_max))
    }

    /// Removes all that it keeps.
    ///
    /// # Errors
    /// What the system says.
    pub fn clear(&self) -> Result<(), CacheError> {
        self.0.clear()
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        self.0.dir()
    }

    /// The file that was put there for this key; it counts as used now. Nothing in it has been looked at.
    ///
    /// # Errors
    /// [`CacheError::Untrusted`] when somebody else could have written it, else what the system says.
    pub fn find(&self, key: Sha256Digest) -> Result<Option<PathBuf>, CacheError> {
        let Some(file) = self.0.open(key)? else { return Ok(None) };
        Entries::touch(&file);
        Ok(Some(self.0.path(key)))
    }

    /// The right to save for this key; `None` while another has it.
    ///
    /// # Errors
    /// As [`ModelCache::find`].
    pub fn lock(&self, key: Sha256Digest) -> Result<Option<CacheLock>, CacheError> {
        self.0.lock(key)
    }

    /// Begins an entry of so many bytes, to take the place of what is there once it is whole. Entries that were not used
    /// for longest give way.
    ///
    /// # Errors
    /// [`CacheError::TooLong`], [`CacheError::Untrusted`], or what the system says.
    pub fn begin(&self, key: Sha256Digest, bytes: u64) -> Result<Writing, CacheError> {
        self.0.begin(key, 0, bytes)
    }
}
