//! Native code that was compiled before, on the device's disk, so that a worker starts without compiling.
//!
//! ```text
//! <key>.code   "sedgecod"  key  length of the code  SHA-256 of the code  code
//!                 8 B      32 B      8 B, LE               32 B
//! ```
//! The key is a digest of the component and of all that its code depends on ([`CodeKey`]), so code of another component,
//! engine, processor or memory profile is never found. Code runs with the rights of the process that loads it. That its
//! digest was recorded where nobody else writes rests on what [`crate::cache`] says of its directory; the header, which is
//! written together with the code, is the record. A journal beside it would lie in reach of the same user and prove no
//! more. What a failing medium made of an entry, its digest shows.

use crate::cache::{CacheError, CacheLock, Entries, Kind};
use sedge_protocol::Sha256Digest;
use serde::{Deserialize, Serialize};
use std::io::Read as _;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"sedgecod";
const HEADER_BYTES: usize = 80;
/// Longest code that is kept: what a worker and the agent hand to each other in one message.
/// That of `image` has 1.1 to 1.3 MiB.
pub const CACHED_CODE_BYTES_MAX: usize = 16 << 20;
const KIND: Kind = Kind {
    what: "compiled code",
    extension: "code",
    entry_bytes_max: CACHED_CODE_BYTES_MAX as u64,
    bytes_max: 256 << 20,
};

/// Names code: a digest of the component and of what its code depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CodeKey(Sha256Digest);

impl CodeKey {
    /// For a component with this digest in a sandbox with this [`super::Sandbox::code_fit`].
    pub fn of(component: Sha256Digest, fit: Sha256Digest) -> Self {
        Self(Sha256Digest::of(&[component.as_bytes().as_slice(), fit.as_bytes()].concat()))
    }
}

/// A directory of compiled code. It is made when it is first used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeCache(Entries);

/// Code out of the cache, as it was put there: to be made a [`super::CompiledCode`] where it is to run.
#[derive(Clone)]
pub struct CachedCode {
    /// The code.
    pub bytes: Vec<u8>,
    /// Its digest, as recorded.
    pub digest: Sha256Digest,
}

impl CodeCache {
    /// Code in this directory, at most 256 MiB of it.
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

    /// What was put there for this key; it counts as used now.
    ///
    /// # Errors
    /// [`CacheError::Damaged`] when it is not what was put there, [`CacheError::Untrusted`] when somebody else could
    /// have, else what the system says.
    pub fn get(&self, key: CodeKey) -> Result<Option<CachedCode>, CacheError> {
        let Some(file) = self.0.open(key.0)? else { return Ok(None) };
        let path = self.0.path(key.0);
        let mut bytes = Vec::new();
        let bytes_max = (HEADER_BYTES + CACHED_CODE_BYTES_MAX) as u64;
        (&file).take(bytes_max + 1).read_to_end(&mut bytes).map_err(CacheError::file(&path, "read"))?;
        let damaged = |problem| CacheError::Damaged { what: KIND.what, path, problem };
        let code = check(bytes, key).map_err(damaged)?;
        Entries::touch(&file);
        Ok(Some(code))
    }

    /// The right to compile for this key; `None` while another has it.
    ///
    /// # Errors
    /// As [`CodeCache::get`], but for damage.
    pub fn lock(&self, key: CodeKey) -> Result<Option<CacheLock>, CacheError> {
        self.0.lock(key.0)
    }

    /// Keeps code for this key, in place of what was there. Entries that were not used for longest give way.
    ///
    /// # Errors
    /// [`CacheError::TooLong`], [`CacheError::Untrusted`], or what the system says; what was there is then still there,
    /// or gone.
    pub fn put(&self, key: CodeKey, code: &[u8]) -> Result<(), CacheError> {
        let mut entry = self.0.begin(key.0, HEADER_BYTES as u64, code.len() as u64)?;
        entry.write(&header(key, code))?;
        entry.write(code)?;
        entry.keep()
    }
}

fn header(key: CodeKey, code: &[u8]) -> Vec<u8> {
    let length = (code.len() as u64).to_le_bytes();
    [MAGIC.as_slice(), key.0.as_bytes(), &length, Sha256Digest::of(code).as_bytes()].concat()
}

/// The code of an entry, or what is wrong with it.
fn check(mut entry: Vec<u8>, key: CodeKey) -> Result<CachedCode, String> {
    let Some((head, code)) = entry.split_at_checked(HEADER_BYTES) else {
        return Err(format!("it ends after {} bytes", entry.len()));
    };
    let (magic, rest) = head.split_at(MAGIC.len());
    let (its_key, rest) = rest.split_at(32);
    let (length, digest) = rest.split_at(8);
    if magic != MAGIC {
        return Err("it does not begin as compiled code of this agent does".to_owned());
    }
    if its_key != key.0.as_bytes() {
        return Err("it was compiled from another component or for another engine".to_owned());
    }
    if code.len() > CACHED_CODE_BYTES_MAX {
        return Err(format!("it holds more than {CACHED_CODE_BYTES_MAX} bytes of code"));
    }
    if length != (code.len() as u64).to_le_bytes() {
        return Err(format!("it holds {} bytes of code, its header says otherwise", code.len()));
    }
    let found = Sha256Digest::of(code);
    if digest != found.as_bytes() {
        return Err(format!("its code has digest {found}, its header says otherwise"));
    }
    entry.drain(..HEADER_BYTES);
    Ok(CachedCode { bytes: entry, digest: found })
}

#[cfg(test)]
mod tests;
