//! Paths of samples, one a line, from standard input or whatever else can be read.

use super::{Incoming, Source, SourceError, directory};
use async_trait::async_trait;
use std::io::{self, BufRead, Read as _};
use std::path::PathBuf;
use tokio::sync::mpsc;

/// Longest path; a longer line is an error.
const LINE_BYTES_MAX: u64 = 4096;

/// Reads paths and yields the files.
#[derive(Debug)]
pub struct PathLines {
    lines: mpsc::Receiver<io::Result<String>>,
    /// A path whose file is being read.
    path: Option<PathBuf>,
}

impl PathLines {
    /// From this process's standard input.
    ///
    /// # Errors
    /// When the thread that reads cannot be started.
    pub fn standard_input() -> io::Result<Self> {
        Self::from_reader(|| io::stdin().lock())
    }

    /// From anything. A thread reads it, one line ahead: what blocks in a read can't be told to stop.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn from_reader<R: BufRead>(open: impl FnOnce() -> R + Send + 'static) -> io::Result<Self> {
        let (send, lines) = mpsc::channel(1);
        let thread = std::thread::Builder::new().name("sedge-paths".into()).stack_size(256 << 10);
        thread.spawn(move || {
            let mut from = open();
            while let Some(line) = read_line(&mut from).transpose() {
                let last = line.is_err();
                if send.blocking_send(line).is_err() || last {
                    return;
                }
            }
        })?;
        Ok(Self { lines, path: None })
    }
}

fn read_line(from: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    from.take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    if line.len() as u64 >= LINE_BYTES_MAX {
        let problem = format!("a line of {LINE_BYTES_MAX} bytes or more is no path");
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    Ok((!line.is_empty()).then(|| String::from_utf8_lossy(&line).trim().to_owned()))
}

#[async_trait]
impl Source for PathLines {
    async fn next(&mut self) -> Result<Option<Incoming>, SourceError> {
        loop {
            if let Some(path) = self.path.clone() {
                let result = directory::read(path, None).await;
                self.path = None;
                return result.map(Some);
            }
            match self.lines.recv().await {
                None => return Ok(None),
                Some(Err(source)) => return Err(SourceError::Read { path: "the list of paths".into(), source }),
                Some(Ok(line)) if line.is_empty() => {}
                Some(Ok(line)) => self.path = Some(line.into()),
            }
        }
    }
}
