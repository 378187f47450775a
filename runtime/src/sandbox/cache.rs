//! Native code that was compiled before, on the device's disk, so that a worker starts without compiling.
//!
//! ```text
//! <key>.code   "sedgecod"  key  length of the code  SHA-256 of the code  code
//!                 8 B      32 B      8 B, LE               32 B
//! <key>.lock   held by whoever compiles for this key
//! <key>.<process>-<n>.part   being written
//! ```
//! The key is a digest of the component and of all that its code depends on ([`CodeKey`]), so code of another component,
//! engine, processor or memory profile is never found. Code runs with the rights of the process that loads it; that its
//! digest was recorded where nobody else writes rests on this: directory and file belong to this process's user, nobody
//! else may write to either, and the header, which is written together with the code, is the record. A journal beside it
//! would lie in reach of the same user and prove no more. A program of that user could write here, but could as well
//! replace the agent. Workers, of the same user, are kept from it by the kernel: see the agent's `worker` module.
//!
//! Several processes may share a directory. A file is written beside its place, synced and renamed, so if power dies it
//! is there in whole or not at all; what a failing medium made of it afterwards, its digest shows. Whoever removes a file
//! that another has open takes nothing from it.

use sedge_protocol::Sha256Digest;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

const MAGIC: &[u8; 8] = b"sedgecod";
const HEADER_BYTES: usize = 80;
/// Longest code that is kept: what a worker and the agent hand to each other in one message.
/// That of `image` has 1.1 to 1.3 MiB.
pub const CACHED_CODE_BYTES_MAX: usize = 16 << 20;
/// All entries together, if not set otherwise.
const BYTES_MAX: u64 = 256 << 20;
/// Locks and unfinished files older than this belong to nobody: no compilation takes as long.
const LEFT_BEHIND: Duration = Duration::from_secs(3600);

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
pub struct CodeCache {
    dir: PathBuf,
    bytes_max: u64,
}

/// Code out of the cache, as it was put there: to be made a [`super::CompiledCode`] where it is to run.
#[derive(Clone)]
pub struct CachedCode {
    /// The code.
    pub bytes: Vec<u8>,
    /// Its digest, as recorded.
    pub digest: Sha256Digest,
}

/// Held by the one that compiles for a key; released when it is dropped, and when the process dies.
#[derive(Debug)]
pub struct CodeLock {
    path: PathBuf,
    _file: File,
}

impl Drop for CodeLock {
    fn drop(&mut self) {
        // Before it is released: whoever gets it next finds the code. Left behind, it is swept up later.
        let _ = fs::remove_file(&self.path);
    }
}

/// Why the cache was of no use.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Somebody else could have written what would run here.
    #[error(
        "{} is not trusted with compiled code: {problem}; it must belong to the agent's user and be writable by nobody else (chmod go-w)",
        path.display()
    )]
    Untrusted {
        /// The directory or file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Not what was put there.
    #[error("the compiled code in {} is damaged: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Too long to be kept.
    #[error("compiled code of {bytes} bytes is not kept; at most {bytes_max} are")]
    TooLong {
        /// Its length.
        bytes: u64,
        /// The bound.
        bytes_max: u64,
    },
    /// The system says no.
    #[error("{} cannot be {action}", path.display())]
    File {
        /// The directory or file.
        path: PathBuf,
        /// What was to be done with it.
        action: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl CacheError {
    /// Whether the entry alone is at fault, so that new code may take its place.
    pub const fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }

    fn file(path: &Path, action: &'static str) -> impl Fn(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path: path.clone(), action, source }
    }
}

impl CodeCache {
    /// Code in this directory, at most 256 MiB of it.
    pub const fn new(dir: PathBuf) -> Self {
        Self { dir, bytes_max: BYTES_MAX }
    }

    /// With another bound on all entries together.
    #[must_use]
    pub fn with_bytes_max(self, bytes_max: u64) -> Self {
        Self { bytes_max, ..self }
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn path(&self, key: CodeKey, extension: &str) -> PathBuf {
        self.dir.join(format!("{}.{extension}", key.0.hex()))
    }

    /// What was put there for this key; it counts as used now.
    ///
    /// # Errors
    /// [`CacheError::Damaged`] when it is not what was put there, [`CacheError::Untrusted`] when somebody else could
    /// have, else what the system says.
    pub fn get(&self, key: CodeKey) -> Result<Option<CachedCode>, CacheError> {
        self.ready()?;
        let path = self.path(key, "code");
        let failed = CacheError::file(&path, "read");
        // A link would lead out of the directory, a pipe would never end.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        let metadata = file.metadata().map_err(&failed)?;
        trusted(&path, &metadata, metadata.is_file(), "no file")?;
        let mut bytes = Vec::new();
        let bytes_max = (HEADER_BYTES + CACHED_CODE_BYTES_MAX) as u64;
        (&file).take(bytes_max + 1).read_to_end(&mut bytes).map_err(&failed)?;
        let code = check(bytes, key).map_err(|problem| CacheError::Damaged { path: path.clone(), problem })?;
        // On a medium that cannot be written to, only the order in which entries are given up suffers.
        let _ = file.set_modified(SystemTime::now());
        Ok(Some(code))
    }

    /// The right to compile for this key; `None` while another has it.
    ///
    /// # Errors
    /// As [`CodeCache::get`], but for damage.
    pub fn lock(&self, key: CodeKey) -> Result<Option<CodeLock>, CacheError> {
        self.ready()?;
        let path = self.path(key, "lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(&path).map_err(CacheError::file(&path, "opened"))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(CodeLock { path, _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(CacheError::file(&path, "locked")(e)),
        }
    }

    /// Keeps code for this key, in place of what was there. Entries that were not used for longest give way.
    ///
    /// # Errors
    /// [`CacheError::TooLong`], [`CacheError::Untrusted`], or what the system says; what was there is then still there,
    /// or gone.
    pub fn put(&self, key: CodeKey, code: &[u8]) -> Result<(), CacheError> {
        static WRITTEN: AtomicU64 = AtomicU64::new(0);
        let bytes = code.len() as u64;
        let bytes_max = self.bytes_max.saturating_sub(HEADER_BYTES as u64).min(CACHED_CODE_BYTES_MAX as u64);
        if bytes > bytes_max {
            return Err(CacheError::TooLong { bytes, bytes_max });
        }
        self.ready()?;
        let path = self.path(key, "code");
        self.sweep(&path, bytes + HEADER_BYTES as u64)?;
        let part = format!("{}-{}.part", std::process::id(), WRITTEN.fetch_add(1, Ordering::Relaxed));
        let part = self.path(key, &part);
        let written = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
            file.write_all(&header(key, code))?;
            file.write_all(code)?;
            file.sync_all()?;
            fs::rename(&part, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        written().map_err(|e| {
            // A full disk should not stay full because of what could not be written.
            let _ = fs::remove_file(&part);
            CacheError::file(&path, "written")(e)
        })
    }

    /// The directory is there, and nobody else can write to it.
    fn ready(&self) -> Result<(), CacheError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.dir);
        made.map_err(CacheError::file(&self.dir, "made"))?;
        let metadata = fs::metadata(&self.dir).map_err(CacheError::file(&self.dir, "read"))?;
        trusted(&self.dir, &metadata, metadata.is_dir(), "no directory")
    }

    /// Gives up entries until there is room for one of `bytes` in the place of `own`, and what dead processes left.
    fn sweep(&self, own: &Path, bytes: u64) -> Result<(), CacheError> {
        let now = SystemTime::now();
        let mut entries = Vec::new();
        let listed = fs::read_dir(&self.dir).map_err(CacheError::file(&self.dir, "listed"))?;
        for path in listed.flatten().map(|entry| entry.path()).filter(|path| path != own) {
            // Another process may have removed it.
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            match path.extension().and_then(|e| e.to_str()) {
                Some("code") => entries.push((used, metadata.len(), path)),
                Some("lock" | "part") if now.duration_since(used).is_ok_and(|age| age > LEFT_BEHIND) => {
                    let _ = fs::remove_file(&path);
                }
                _ => {}
            }
        }
        entries.sort();
        let mut total = entries.iter().map(|(_, length, _)| length).sum::<u64>().saturating_add(bytes);
        for (_, length, path) in entries {
            if total <= self.bytes_max {
                break;
            }
            match fs::remove_file(&path) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(CacheError::file(&path, "removed")(e)),
            }
            total = total.saturating_sub(length);
        }
        Ok(())
    }
}

/// Nobody but this process's user can have written it.
fn trusted(path: &Path, metadata: &Metadata, is_kind: bool, not_kind: &str) -> Result<(), CacheError> {
    // SAFETY: geteuid reads a number and cannot fail.
    let user = unsafe { libc::geteuid() };
    let problem = if !is_kind {
        format!("it is {not_kind}")
    } else if metadata.uid() != user {
        format!("it belongs to user {}, this process to user {user}", metadata.uid())
    } else if metadata.mode() & 0o022 != 0 {
        format!("its mode is {:o}", metadata.mode() & 0o7777)
    } else {
        return Ok(());
    };
    Err(CacheError::Untrusted { path: path.to_owned(), problem })
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
