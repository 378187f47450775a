//! The disk as the control plane sees it: a handful of operations, each of which may fail or be cut short.
//!
//! Everything that must survive power loss goes through [`Disk`], so that a test can put a fault at any operation. What
//! always holds: after [`Disk::replace`] a file is the old one or the new one, never a mixture, and an append that fails
//! may leave a torn tail, which every reader passes over.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Operations on files. All of them block; none takes longer than a sync of the device.
pub trait Disk: Debug + Send + Sync {
    /// The whole file, or nothing where there is none.
    ///
    /// # Errors
    /// What the system says.
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>>;

    /// Part of a file.
    ///
    /// # Errors
    /// What the system says; a short file is an error.
    fn read_at(&self, path: &Path, offset: u64, length: usize) -> io::Result<Vec<u8>>;

    /// Names in a directory, in order; none where there is no directory.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Makes a directory and those above it.
    ///
    /// # Errors
    /// What the system says.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Puts a file in the place of another: a temporary one, synced, renamed, the directory synced. Readable by its
    /// owner alone.
    ///
    /// # Errors
    /// What the system says; the old file is then still there.
    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;

    /// Adds bytes to the end of a file, which is made where it is missing.
    ///
    /// # Errors
    /// What the system says; any part of the bytes may have been added.
    fn append(&self, path: &Path, bytes: &[u8], sync: bool) -> io::Result<()>;

    /// Writes inside a file that exists.
    ///
    /// # Errors
    /// What the system says.
    fn write_at(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Waits until a file's content is on the medium.
    ///
    /// # Errors
    /// What the system says.
    fn sync(&self, path: &Path) -> io::Result<()>;

    /// Makes a file of this length, with the space set aside where the file system can.
    ///
    /// # Errors
    /// What the system says; `StorageFull` where there is no space.
    fn reserve(&self, path: &Path, bytes: u64) -> io::Result<()>;

    /// Deletes a file; one that is missing is no error.
    ///
    /// # Errors
    /// What the system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Bytes that may still be written below `dir`.
    ///
    /// # Errors
    /// What the system says.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;

    /// Length of a file, or nothing where there is none.
    ///
    /// # Errors
    /// What the system says.
    fn length(&self, path: &Path) -> io::Result<Option<u64>>;
}

/// The file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct FileSystem;

fn none_if_missing<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn sync_dir_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).mode(0o600);
    options
}

impl Disk for FileSystem {
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        none_if_missing(fs::read(path))
    }

    fn read_at(&self, path: &Path, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        File::open(path)?.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let Some(entries) = none_if_missing(fs::read_dir(dir))? else { return Ok(Vec::new()) };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        // Keys, bundles and samples are nobody else's business.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        sync_dir_of(dir)
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".tmp");
        let temporary = path.with_file_name(name);
        let written = || {
            let mut file = private().write(true).truncate(true).open(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, path)
        };
        if let Err(e) = written() {
            // A full disk should not stay full because of what could not be written.
            let _ = fs::remove_file(&temporary);
            return Err(e);
        }
        sync_dir_of(path)
    }

    fn append(&self, path: &Path, bytes: &[u8], sync: bool) -> io::Result<()> {
        let new = !path.exists();
        let mut file = private().append(true).open(path)?;
        file.write_all(bytes)?;
        if sync {
            file.sync_data()?;
            if new {
                sync_dir_of(path)?;
            }
        }
        Ok(())
    }

    fn write_at(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        OpenOptions::new().write(true).open(path)?.write_all_at(bytes, offset)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn reserve(&self, path: &Path, bytes: u64) -> io::Result<()> {
        use std::os::fd::AsRawFd as _;
        let file = private().truncate(false).write(true).open(path)?;
        file.set_len(bytes)?;
        let length = i64::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: the descriptor belongs to `file`, which lives until after the call; no memory is passed.
        let failed = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, length) };
        match failed {
            0 => {}
            // The file system cannot set space aside; the check of what is free has to do.
            libc::EOPNOTSUPP | libc::EINVAL => {}
            code => {
                let _ = fs::remove_file(path);
                return Err(io::Error::from_raw_os_error(code));
            }
        }
        file.sync_all()?;
        sync_dir_of(path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        none_if_missing(fs::remove_file(path)).map(drop)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        sedge_runtime::cache::free_bytes(dir)
    }

    fn length(&self, path: &Path) -> io::Result<Option<u64>> {
        none_if_missing(fs::metadata(path).map(|m| m.len()))
    }
}
