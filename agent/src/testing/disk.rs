//! A disk that fails when it is told to: full, broken, or without power from then on.

use crate::disk::{Disk, FileSystem};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What happens at the operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No space, this once; half of an append is there.
    Full,
    /// It cannot be written, this once.
    Broken,
    /// Half of it is written, and nothing is ever written or read again.
    PowerLoss,
    /// No space from then on, until something is removed.
    StaysFull,
}

#[derive(Debug)]
pub(crate) struct FaultyDisk {
    inner: FileSystem,
    fault: Fault,
    /// Writing operations before the fault.
    left: AtomicU64,
    dead: AtomicBool,
    died: tokio::sync::Notify,
}

impl FaultyDisk {
    pub(crate) fn new(after: u64, fault: Fault) -> Self {
        Self {
            inner: FileSystem,
            fault,
            left: AtomicU64::new(after),
            dead: AtomicBool::new(false),
            died: tokio::sync::Notify::new(),
        }
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// Waits for the fault.
    pub(crate) async fn died(&self) {
        self.died.notified().await;
    }

    fn alive(&self) -> io::Result<()> {
        if self.is_dead() && self.fault == Fault::PowerLoss { Err(io::Error::other("no power")) } else { Ok(()) }
    }

    /// Whether this writing operation is the one that fails.
    fn strikes(&self) -> io::Result<bool> {
        self.alive()?;
        if self.is_dead() && self.fault == Fault::StaysFull {
            return Ok(true);
        }
        let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        let now = left.is_err() && !self.is_dead();
        if now {
            self.dead.store(true, Ordering::SeqCst);
            self.died.notify_one();
        }
        Ok(now)
    }

    fn error(&self) -> io::Error {
        match self.fault {
            Fault::Full | Fault::StaysFull => io::Error::from_raw_os_error(libc::ENOSPC),
            Fault::Broken => io::Error::from_raw_os_error(libc::EIO),
            Fault::PowerLoss => io::Error::other("power lost"),
        }
    }

    fn write(&self, act: impl FnOnce() -> io::Result<()>, torn: impl FnOnce()) -> io::Result<()> {
        if self.strikes()? {
            torn();
            return Err(self.error());
        }
        act()
    }
}

impl Disk for FaultyDisk {
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        self.alive()?;
        self.inner.read(path)
    }

    fn read_at(&self, path: &Path, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        self.alive()?;
        self.inner.read_at(path, offset, length)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.alive()?;
        self.inner.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.alive()?;
        self.inner.create_dir(dir)
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.write(|| self.inner.replace(path, bytes), || ())
    }

    fn append(&self, path: &Path, bytes: &[u8], sync: bool) -> io::Result<()> {
        let torn = || {
            let _ = self.inner.append(path, &bytes[..bytes.len() / 2], false);
        };
        self.write(|| self.inner.append(path, bytes, sync), torn)
    }

    fn write_at(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let torn = || {
            let _ = self.inner.write_at(path, offset, &bytes[..bytes.len() / 2]);
        };
        self.write(|| self.inner.write_at(path, offset, bytes), torn)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.write(|| self.inner.sync(path), || ())
    }

    fn reserve(&self, path: &Path, bytes: u64) -> io::Result<()> {
        self.write(|| self.inner.reserve(path, bytes), || ())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if self.fault == Fault::StaysFull && path.ends_with("reserve") {
            self.dead.store(false, Ordering::SeqCst);
            self.left.store(u64::MAX, Ordering::SeqCst);
        }
        self.alive()?;
        self.inner.remove(path)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.alive()?;
        self.inner.free_bytes(dir)
    }

    fn length(&self, path: &Path) -> io::Result<Option<u64>> {
        self.alive()?;
        self.inner.length(path)
    }
}
