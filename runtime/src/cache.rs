//! A directory of things that were made before and could be made again, so that a worker starts without making them.
//!
//! ```text
//! <key>.<extension>                an entry
//! <key>.lock                       held by whoever makes it
//! <key>.<process>-<n>.part         being written
//! ```
//! What is found here is trusted, and that rests on this: directory and file belong to this process's user, and nobody
//! else may write to either. A program of that user could write here, but could as well replace the agent. Workers, of the
//! same user, are kept from it by the kernel: see the agent's `worker` module.
//!
//! Several processes may share a directory. An entry is written beside its place, synced and renamed, so if power dies it
//! is there in whole or not at all, and none is ever changed where it lies. Whoever removes a file that another has open
//! takes nothing from it.

use sedge_protocol::Sha256Digest;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Locks and unfinished files older than this belong to nobody: nothing takes as long to make.
pub(crate) const LEFT_BEHIND: Duration = Duration::from_secs(3600);

/// What an entry leaves free on the disk, besides its own length once more.
const LEFT_FREE_BYTES: u64 = 64 << 20;

/// What a cache keeps.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// For messages: `compiled code`.
    pub(crate) what: &'static str,
    pub(crate) extension: &'static str,
    /// Longest entry.
    pub(crate) entry_bytes_max: u64,
    /// All entries together, if not set otherwise.
    pub(crate) bytes_max: u64,
}

/// The directory. It is made when it is first used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entries {
    kind: &'static Kind,
    dir: PathBuf,
    bytes_max: u64,
}

/// Held by the one that makes an entry; released when it is dropped, and when the process dies.
#[derive(Debug)]
pub struct CacheLock {
    path: PathBuf,
    _file: File,
}

impl Drop for CacheLock {
    fn drop(&mut self) {
        // Before it is released: whoever gets it next finds the entry. Left behind, it is swept up later.
        let _ = fs::remove_file(&self.path);
    }
}

/// Why a cache was of no use.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Somebody else could have written what would be used here.
    #[error(
        "{} is not trusted with {what}: {problem}; it must belong to the agent's user and be writable by nobody else (chmod go-w)",
        path.display()
    )]
    Untrusted {
        /// What is kept there.
        what: &'static str,
        /// The directory or file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Not what was put there.
    #[error("the {what} in {} is damaged: {problem}", path.display())]
    Damaged {
        /// What is kept there.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Too long to be kept.
    #[error("{what} of {bytes} bytes is not kept; at most {bytes_max} are")]
    TooLong {
        /// What it is.
        what: &'static str,
        /// Its length.
        bytes: u64,
        /// The bound.
        bytes_max: u64,
    },
    /// Updates and journals have a better claim to what room there is.
    #[error("{what} of {bytes} bytes is not kept: the disk has {free} bytes left")]
    NoRoom {
        /// What it is.
        what: &'static str,
        /// Its length.
        bytes: u64,
        /// What is free.
        free: u64,
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
    /// Whether the entry alone is at fault, so that a new one may take its place.
    pub const fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }

    pub(crate) fn file(path: &Path, action: &'static str) -> impl Fn(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path: path.clone(), action, source }
    }
}

/// Bytes that a directory's file system has left for this user.
///
/// # Errors
/// What the system says.
pub fn free_bytes(dir: &Path) -> io::Result<u64> {
    let dir = std::ffi::CString::new(dir.as_os_str().as_bytes())?;
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `dir` ends with a zero byte and `stat` is large enough for what is written to it.
    if unsafe { libc::statvfs(dir.as_ptr(), stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has succeeded, so all of it is written.
    let stat = unsafe { stat.assume_init() };
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion, reason = "narrower on 32-bit targets")]
    Ok(u64::from(stat.f_bavail).saturating_mul(stat.f_frsize as u64))
}

impl Entries {
    pub(crate) const fn new(kind: &'static Kind, dir: PathBuf) -> Self {
        Self { kind, dir, bytes_max: kind.bytes_max }
    }

    pub(crate) fn with_bytes_max(self, bytes_max: u64) -> Self {
        Self { bytes_max, ..self }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn path(&self, key: Sha256Digest) -> PathBuf {
        self.dir.join(format!("{}.{}", key.hex(), self.kind.extension))
    }

    /// An entry's file, opened and found trusted; it counts as used now.
    pub(crate) fn open(&self, key: Sha256Digest) -> Result<Option<File>, CacheError> {
        self.ready()?;
        let path = self.path(key);
        let failed = CacheError::file(&path, "read");
        // A link would lead out of the directory, a pipe would never end.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        let metadata = file.metadata().map_err(&failed)?;
        self.trusted(&path, &metadata, metadata.is_file(), "no file")?;
        Ok(Some(file))
    }

    /// Counts an entry as used now.
    pub(crate) fn touch(file: &File) {
        // On a medium that cannot be written to, only the order in which entries are given up suffers.
        let _ = file.set_modified(SystemTime::now());
    }

    /// The right to make an entry; `None` while another has it.
    pub(crate) fn lock(&self, key: Sha256Digest) -> Result<Option<CacheLock>, CacheError> {
        self.ready()?;
        let path = self.dir.join(format!("{}.lock", key.hex()));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(&path).map_err(CacheError::file(&path, "opened"))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(CacheLock { path, _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(CacheError::file(&path, "locked")(e)),
        }
    }

    /// Begins an entry of so many bytes, `beside` of them no content. Entries that were not used for longest give way.
    pub(crate) fn begin(&self, key: Sha256Digest, beside: u64, bytes: u64) -> Result<Writing, CacheError> {
        static WRITTEN: AtomicU64 = AtomicU64::new(0);
        let bytes_max = self.bytes_max.saturating_sub(beside).min(self.kind.entry_bytes_max);
        if bytes > bytes_max {
            return Err(CacheError::TooLong { what: self.kind.what, bytes, bytes_max });
        }
        self.ready()?;
        let path = self.path(key);
        self.sweep(&path, bytes + beside)?;
        let free = free_bytes(&self.dir).map_err(CacheError::file(&self.dir, "asked for its room"))?;
        if free < bytes.saturating_mul(2).saturating_add(LEFT_FREE_BYTES) {
            return Err(CacheError::NoRoom { what: self.kind.what, bytes, free });
        }
        let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
        let part = self.dir.join(format!("{}.{}-{number}.part", key.hex(), std::process::id()));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part);
        let file = file.map_err(CacheError::file(&path, "written"))?;
        // Released when this process dies: then anybody may remove it.
        let _ = file.try_lock();
        Ok(Writing { file, part, path, dir: self.dir.clone(), kept: false })
    }

    /// Removes all entries, and what is beside them.
    pub(crate) fn clear(&self) -> Result<(), CacheError> {
        let listed = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            listed => listed.map_err(CacheError::file(&self.dir, "listed"))?,
        };
        for path in listed.flatten().map(|entry| entry.path()) {
            let extension = path.extension().and_then(|e| e.to_str());
            if extension.is_some_and(|e| e == self.kind.extension || ["lock", "part"].contains(&e)) {
                fs::remove_file(&path).map_err(CacheError::file(&path, "removed"))?;
            }
        }
        Ok(())
    }

    /// The directory is there, and nobody else can write to it.
    fn ready(&self) -> Result<(), CacheError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.dir);
        made.map_err(CacheError::file(&self.dir, "made"))?;
        let metadata = fs::metadata(&self.dir).map_err(CacheError::file(&self.dir, "read"))?;
        self.trusted(&self.dir, &metadata, metadata.is_dir(), "no directory")
    }

    /// Nobody but this process's user can have written it.
    fn trusted(&self, path: &Path, metadata: &Metadata, is_kind: bool, not_kind: &str) -> Result<(), CacheError> {
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
        Err(CacheError::Untrusted { what: self.kind.what, path: path.to_owned(), problem })
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
                Some(extension) if extension == self.kind.extension => entries.push((used, metadata.len(), path)),
                Some("part") if File::open(&path).is_ok_and(|file| file.try_lock().is_ok()) => {
                    let _ = fs::remove_file(&path);
                }
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

/// An entry that is being written. Dropped before it is kept, it is gone: a full disk does not stay full because of what
/// could not be written.
#[derive(Debug)]
pub struct Writing {
    file: File,
    part: PathBuf,
    path: PathBuf,
    dir: PathBuf,
    kept: bool,
}

impl Writing {
    /// Adds to it.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), CacheError> {
        self.file.write_all(bytes).map_err(CacheError::file(&self.path, "written"))
    }

    /// Puts it in its place.
    ///
    /// # Errors
    /// What the system says; what was there is then still there.
    pub fn keep(mut self) -> Result<(), CacheError> {
        let placed = || {
            self.file.sync_all()?;
            fs::rename(&self.part, &self.path)?;
            File::open(&self.dir)?.sync_all()
        };
        placed().map_err(CacheError::file(&self.path, "written"))?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.part);
        }
    }
}
