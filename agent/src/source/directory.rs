//! What sources of files share.

use super::{Incoming, Labels, SourceError, now_ms};
use sedge_runtime::sample::SAMPLE_BYTES_MAX;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Files that one source looks at; stops a full disk's worth of names from filling memory.
pub(super) const FILES_MAX: usize = 100_000;

/// A file that may be a sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) modified: Option<SystemTime>,
}

/// The samples in a directory, by name: regular files (or links to them) that are not hidden, being written under a
/// name for that, or the labels.
fn list(directory: &Path) -> Result<Vec<Candidate>, SourceError> {
    let failed = |source| SourceError::Read { path: directory.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let unfinished = [".tmp", ".part", ".partial"].iter().any(|end| name.ends_with(end));
        if name.starts_with('.') || unfinished || name == Labels::FILE {
            continue;
        }
        // It may be gone again.
        let Ok(meta) = std::fs::metadata(entry.path()) else { continue };
        if meta.is_file() {
            found.push(Candidate { name, bytes: meta.len(), modified: meta.modified().ok() });
        }
        if found.len() > FILES_MAX {
            return Err(SourceError::TooMany { path: directory.to_owned(), count_max: FILES_MAX });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The samples in a directory and their labels. Reads the directory on a thread where that may take its time.
pub(super) async fn look(directory: PathBuf) -> Result<(Vec<Candidate>, Labels), SourceError> {
    let look = move || Ok((list(&directory)?, Labels::read(&directory)?));
    tokio::task::spawn_blocking(look).await.map_err(|e| SourceError::Other(e.to_string()))?
}

/// Reads one file. Too long a file is read one byte further than a sample may have, and fails where it is processed.
pub(super) async fn read(path: PathBuf, label: Option<String>) -> Result<Incoming, SourceError> {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let read = move || {
        let read = |path: &Path| -> io::Result<Vec<u8>> {
            let file = std::fs::File::open(path)?;
            // A FIFO would block for ever.
            if !file.metadata()?.is_file() {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
            }
            let mut data = Vec::new();
            file.take(SAMPLE_BYTES_MAX + 1).read_to_end(&mut data)?;
            Ok(data)
        };
        read(&path).map_err(|source| SourceError::Read { path, source })
    };
    let data = tokio::task::spawn_blocking(read).await.map_err(|e| SourceError::Other(e.to_string()))??;
    Ok(Incoming { ts_ms: now_ms(), name, data, label })
}
