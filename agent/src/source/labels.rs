//! The right answers to the samples of a directory: `labels.csv` in it, lines of `file,label`.

use super::SourceError;
use std::collections::HashMap;
use std::io::{self, Read as _};
use std::path::Path;

const LABELS_BYTES_MAX: u64 = 16 << 20;
const LABEL_BYTES_MAX: usize = 128;

/// Labels by file name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Labels(HashMap<String, String>);

impl Labels {
    /// Its name in the directory.
    pub const FILE: &'static str = "labels.csv";

    /// Reads the labels of a directory; none where it has no such file.
    ///
    /// # Errors
    /// [`SourceError`] when the file cannot be read or a line is not `file,label`.
    pub fn read(directory: &Path) -> Result<Self, SourceError> {
        let path = directory.join(Self::FILE);
        let failed = |source| SourceError::Read { path: path.clone(), source };
        let mut text = String::new();
        match std::fs::File::open(&path) {
            Ok(file) => file.take(LABELS_BYTES_MAX).read_to_string(&mut text).map_err(failed)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(failed(e)),
        };
        let mut labels = HashMap::new();
        for (i, line) in text.lines().enumerate() {
            let wrong =
                |problem: &str| SourceError::Labels { path: path.clone(), line: i + 1, problem: problem.to_owned() };
            let line = line.trim();
            if line.is_empty() || (i == 0 && line == "file,label") {
                continue;
            }
            let (file, label) = line.split_once(',').ok_or_else(|| wrong("expected `file,label`"))?;
            let (file, label) = (file.trim(), label.trim());
            if file.is_empty() || label.is_empty() || label.len() > LABEL_BYTES_MAX {
                return Err(wrong("the file or the label is empty or too long"));
            }
            labels.insert(file.to_owned(), label.to_owned());
        }
        Ok(Self(labels))
    }

    /// The label of a file.
    pub fn of(&self, file: &str) -> Option<String> {
        self.0.get(file).cloned()
    }
}
