//! Results as JSON lines in a file of bounded size.
//!
//! Lines are appended whole; when the file is full it is renamed to `.1`, what was `.1` to `.2`, and so on. A power cut
//! may cost the lines that the system had not yet written, and may leave a part of one at the end: the first line
//! written afterwards begins on a line of its own.

use super::Record;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

/// Lines that wait for the disk.
const LINES_MAX: usize = 1024;

/// Writes to a file from a thread of its own, so that a slow disk holds up nobody.
#[derive(Debug)]
pub struct FileSink {
    records: mpsc::SyncSender<Arc<Record>>,
    dropped: Arc<AtomicU64>,
}

/// The file can't be written at all.
#[derive(Debug, thiserror::Error)]
#[error("results file {}", path.display())]
pub struct FileSinkError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl FileSink {
    /// Opens or makes the file. At most `files_max` files of about `bytes_max` bytes are kept.
    ///
    /// # Errors
    /// [`FileSinkError`] when it cannot be opened.
    pub fn open(path: PathBuf, bytes_max: u64, files_max: u32) -> Result<Self, FileSinkError> {
        let failed = |source| FileSinkError { path: path.clone(), source };
        let mut rotating = Rotating::open(path.clone(), bytes_max, files_max).map_err(failed)?;
        let (records, lines) = mpsc::sync_channel::<Arc<Record>>(LINES_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let lost = dropped.clone();
        let thread = std::thread::Builder::new().name("sedge-results".into()).stack_size(256 << 10);
        let write = move || {
            let mut failing = false;
            for record in lines {
                match rotating.append(&record) {
                    Ok(()) => failing = false,
                    Err(error) => {
                        lost.fetch_add(1, Ordering::Relaxed);
                        if !std::mem::replace(&mut failing, true) {
                            tracing::warn!(path = %rotating.path.display(), %error, "results are not written");
                        }
                    }
                }
            }
        };
        thread.spawn(write).map_err(failed)?;
        Ok(Self { records, dropped })
    }

    /// Writes a record, or drops it when the disk is too slow.
    pub fn put(&self, record: &Arc<Record>) {
        if self.records.try_send(record.clone()).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records that were not written.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

struct Rotating {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_max: u64,
    files_max: u32,
}

impl Rotating {
    fn open(path: PathBuf, bytes_max: u64, files_max: u32) -> io::Result<Self> {
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(&path)?;
        let mut bytes = file.seek(SeekFrom::End(0))?;
        if bytes > 0 {
            file.seek(SeekFrom::End(-1))?;
            let mut last = [0];
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                bytes += 1;
            }
        }
        Ok(Self { path, file, bytes, bytes_max: bytes_max.max(1), files_max: files_max.max(1) })
    }

    fn append(&mut self, record: &Record) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.bytes_max {
            self.rotate()?;
        }
        self.file.write_all(&line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for n in (1..self.files_max).rev() {
            let from = if n == 1 { self.path.clone() } else { numbered(&self.path, n - 1) };
            match fs::rename(from, numbered(&self.path, n)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        if self.files_max == 1 {
            self.file.set_len(0)?;
        }
        self.file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        self.bytes = 0;
        Ok(())
    }
}

fn numbered(path: &Path, n: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::Verdict;

    fn record(seq: u64) -> Record {
        let digest = sedge_protocol::Sha256Digest::of(b"");
        Record {
            seq,
            ts_ms: 1,
            component: "digits".parse().expect("a name"),
            slot: Default::default(),
            bundle: sedge_protocol::BundleDigest(digest),
            ver: "1.0.0".parse().expect("a version"),
            model: digest,
            source: "test".to_owned(),
            name: "a.png".to_owned(),
            expected: None,
            latency_us: 5,
            verdict: Verdict::NotYet,
        }
    }

    #[test]
    fn files_are_bounded_in_size_and_number() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("results.jsonl");
        let line = serde_json::to_vec(&record(10)).expect("json").len() as u64 + 1;
        let mut file = Rotating::open(path.clone(), 2 * line, 3).expect("opened");
        (10..21).for_each(|seq| file.append(&record(seq)).expect("written"));
        let seqs = |path: &Path| -> Vec<u64> {
            let text = fs::read_to_string(path).expect("read");
            let of = |l: &str| serde_json::from_str::<serde_json::Value>(l).expect("json")["seq"].as_u64();
            text.lines().filter_map(of).collect()
        };
        assert_eq!(seqs(&path), [20]);
        assert_eq!(seqs(&numbered(&path, 1)), [18, 19]);
        assert_eq!(seqs(&numbered(&path, 2)), [16, 17]);
        assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 3);
    }

    #[test]
    fn a_torn_line_does_not_swallow_the_next() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("results.jsonl");
        fs::write(&path, "{\"seq\":1").expect("written");
        Rotating::open(path.clone(), 1 << 20, 2).expect("opened").append(&record(2)).expect("written");
        let text = fs::read_to_string(&path).expect("read");
        assert!(text.starts_with("{\"seq\":1\n{\"seq\":2,"), "{text}");
    }
}
