//! Writing deployments down, and the marks that never fall.
//!
//! A journal is a file of frames (`sedge_protocol::deployment::record`), the last whole one of which counts. It is added
//! to and synced; when it has grown, or after a write that failed, it is replaced by its last frame. What always holds:
//! once [`Journal::write`] has returned, the record survives power loss; when it fails, the record before does.
//!
//! [`Marks`](TwoCopies) are small values kept twice: each copy is replaced whole, one after the other, so one of them is
//! always good.

use crate::disk::Disk;
use sedge_protocol::Sha256Digest;
use sedge_protocol::deployment::{Found, Record, record};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tracing::warn;

/// A journal that is longer is replaced by its last record.
const JOURNAL_BYTES_MAX: u64 = 128 * 1024;

/// Why something was not written down.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be {action}", path.display())]
pub struct JournalError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// One deployment's journal.
#[derive(Debug)]
pub struct Journal {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    bytes: u64,
    /// Whether the file must be replaced before anything is added: it ends in a torn frame, or may.
    torn: bool,
}

impl Journal {
    /// Opens a journal and reads what it says.
    ///
    /// # Errors
    /// When the file cannot be read. A file that says nothing is no error.
    pub fn open(disk: Arc<dyn Disk>, path: PathBuf) -> Result<(Self, Found), JournalError> {
        let failed = |action| {
            let path = path.clone();
            move |source| JournalError { action, path, source }
        };
        if let Some(dir) = path.parent() {
            disk.create_dir(dir).map_err(failed("made"))?;
        }
        let bytes = disk.read(&path).map_err(failed("read"))?.unwrap_or_default();
        let scan = record::scan(&bytes);
        if scan.torn_bytes > 0 {
            warn!(path = %path.display(), torn_bytes = scan.torn_bytes, "the journal was torn; its last whole record counts");
        }
        let journal = Self { disk, path, bytes: bytes.len() as u64, torn: scan.torn_bytes > 0 };
        Ok((journal, scan.found))
    }

    /// Writes a record, and waits until it is on the medium.
    ///
    /// # Errors
    /// [`JournalError`]; the record before is then still the last.
    pub fn write(&mut self, record: &Record) -> Result<(), JournalError> {
        let frame = record::encode_record(record);
        let length = frame.len() as u64;
        let replace = self.torn || self.bytes + length > JOURNAL_BYTES_MAX.max(2 * length);
        let written =
            if replace { self.disk.replace(&self.path, &frame) } else { self.disk.append(&self.path, &frame, true) };
        match written {
            Ok(()) => {
                self.bytes = if replace { length } else { self.bytes + length };
                self.torn = false;
                Ok(())
            }
            Err(source) => {
                self.torn = true;
                Err(JournalError { action: "written", path: self.path.clone(), source })
            }
        }
    }
}

/// A small value that is kept twice.
#[derive(Debug)]
pub struct TwoCopies<T> {
    disk: Arc<dyn Disk>,
    paths: [PathBuf; 2],
    value: PhantomData<T>,
}

const DIGITS: usize = 64;

impl<T: Serialize + DeserializeOwned> TwoCopies<T> {
    /// `<name>.a.json` and `<name>.b.json` in `dir`.
    pub fn new(disk: Arc<dyn Disk>, dir: &Path, name: &str) -> Self {
        let paths = ["a", "b"].map(|copy| dir.join(format!("{name}.{copy}.json")));
        Self { disk, paths, value: PhantomData }
    }

    /// Each copy that is whole. There may be none, one or two, and they may differ: the caller takes the higher one.
    ///
    /// # Errors
    /// When a file exists and cannot be read.
    pub fn read(&self) -> Result<Vec<T>, JournalError> {
        let mut copies = Vec::new();
        for path in &self.paths {
            let failed = |source| JournalError { action: "read", path: path.clone(), source };
            let Some(bytes) = self.disk.read(path).map_err(failed)? else { continue };
            let whole = bytes.split_at_checked(DIGITS).and_then(|(digest, json)| {
                let digest = Sha256Digest::from_hex(std::str::from_utf8(digest).ok()?).ok()?;
                (digest == Sha256Digest::of(json)).then(|| serde_json::from_slice(json).ok())?
            });
            match whole {
                Some(value) => copies.push(value),
                None => warn!(path = %path.display(), "a copy is damaged; the other one counts"),
            }
        }
        Ok(copies)
    }

    /// Writes both, one after the other.
    ///
    /// # Errors
    /// [`JournalError`]; the copies may then differ.
    pub fn write(&self, value: &T) -> Result<(), JournalError> {
        let json = serde_json::to_vec(value).unwrap_or_default();
        let bytes = [Sha256Digest::of(&json).hex().as_bytes(), &json].concat();
        for path in &self.paths {
            let failed = |source| JournalError { action: "written", path: path.clone(), source };
            if let Some(dir) = path.parent() {
                self.disk.create_dir(dir).map_err(failed)?;
            }
            self.disk.replace(path, &bytes).map_err(failed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::FileSystem;
    use crate::testing::disk::{Fault, FaultyDisk};
    use sedge_protocol::deployment::record::Anchor;
    use sedge_protocol::id::Generation;
    use std::fs;
    use tempfile::TempDir;

    fn record(n: u64) -> Record {
        Record { anchor: Anchor { committed: Generation(n), ..Anchor::default() }, ..Record::default() }
    }

    fn path(dir: &TempDir) -> PathBuf {
        dir.path().join("journal/camera.journal")
    }

    fn open(dir: &TempDir) -> (Journal, u64) {
        let (journal, found) = Journal::open(Arc::new(FileSystem), path(dir)).expect("opens");
        let n = match found {
            Found::Record(record) => record.anchor.committed.0,
            _ => 0,
        };
        (journal, n)
    }

    #[test]
    fn the_last_record_counts_wherever_the_file_is_cut() {
        let dir = tempfile::tempdir().expect("directory");
        let (mut journal, _) = open(&dir);
        let mut ends = Vec::new();
        for n in 1..=3 {
            journal.write(&record(n)).expect("written");
            ends.push(fs::metadata(path(&dir)).expect("file").len() as usize);
        }
        let whole = fs::read(path(&dir)).expect("file");
        for cut in 0..=whole.len() {
            fs::write(path(&dir), &whole[..cut]).expect("cut");
            let (mut journal, n) = open(&dir);
            assert_eq!(n, ends.iter().filter(|end| **end <= cut).count() as u64, "cut at {cut}");
            journal.write(&record(9)).expect("written");
            assert_eq!(open(&dir).1, 9, "cut at {cut}");
        }
    }

    #[test]
    fn a_journal_does_not_grow_for_ever() {
        let dir = tempfile::tempdir().expect("directory");
        let (mut journal, _) = open(&dir);
        for n in 1..=3000 {
            journal.write(&record(n)).expect("written");
        }
        assert!(fs::metadata(path(&dir)).expect("file").len() <= JOURNAL_BYTES_MAX);
        assert_eq!(open(&dir).1, 3000);
    }

    #[test]
    fn a_write_that_fails_changes_nothing_and_spoils_nothing() {
        for fault in [Fault::Full, Fault::Broken, Fault::PowerLoss] {
            for after in 0..4 {
                let dir = tempfile::tempdir().expect("directory");
                let (mut journal, _) =
                    Journal::open(Arc::new(FaultyDisk::new(after, fault)), path(&dir)).expect("opens");
                let mut last = 0;
                for n in 1..=4 {
                    if journal.write(&record(n)).is_ok() {
                        last = n;
                    } else {
                        assert_eq!(open(&dir).1, last, "{fault:?} after {after}");
                    }
                }
                assert_eq!(open(&dir).1, last, "{fault:?} after {after}");
            }
        }
    }

    #[test]
    fn one_of_two_copies_is_always_good() {
        for after in 0..4 {
            let dir = tempfile::tempdir().expect("directory");
            let copies = |disk: Arc<dyn Disk>| TwoCopies::<u64>::new(disk, dir.path(), "marks");
            let real: Arc<dyn Disk> = Arc::new(FileSystem);
            copies(real.clone()).write(&7).expect("written");
            let result = copies(Arc::new(FaultyDisk::new(after, Fault::PowerLoss))).write(&8);
            let read = copies(real.clone()).read().expect("read");
            let highest = read.iter().max().copied();
            assert_eq!(highest, Some(if after == 0 { 7 } else { 8 }));
            assert_eq!(result.is_ok(), after >= 2);
            fs::write(dir.path().join("marks.a.json"), b"garbage").expect("damaged");
            assert_eq!(copies(real).read().expect("read").len(), 1);
        }
    }
}
