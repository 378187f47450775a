//! A directory in which files appear; each is taken once.
//!
//! The directory is looked at again and again, since notifications don't work on network file systems and the like. A
//! file is taken when it was as large and as old at two looks in a row: either it was renamed into place, or its writer
//! has finished. What was taken is remembered by name, size and time as long as it lies there, so memory is bounded by
//! the directory's own bound, and a file that is replaced by another is a new sample. Files stay where they are, unless
//! `delete` is set; what lies there at the start is taken too, so a restart of the agent takes again what was not
//! deleted.

use super::directory::{self, Candidate};
use super::{Incoming, Labels, Source, SourceError};
use async_trait::async_trait;
use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// Watches a directory.
#[derive(Debug)]
pub struct Watch {
    directory: PathBuf,
    delete: bool,
    looks: Interval,
    seen: HashMap<String, Seen>,
    ready: VecDeque<String>,
    labels: Labels,
}

#[derive(Debug)]
struct Seen {
    file: Candidate,
    taken: bool,
}

impl Watch {
    /// A source that looks every `interval_ms` milliseconds, and deletes what was taken if told to. To be called where
    /// a runtime runs.
    pub fn new(directory: PathBuf, interval_ms: u64, delete: bool) -> Self {
        let mut looks = interval(Duration::from_millis(interval_ms.clamp(10, 60_000)));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { directory, delete, looks, seen: HashMap::new(), ready: VecDeque::new(), labels: Labels::default() }
    }

    async fn look(&mut self) -> Result<(), SourceError> {
        let (files, labels) = directory::look(self.directory.clone()).await?;
        self.labels = labels;
        let mut before = std::mem::take(&mut self.seen);
        for file in files {
            let name = file.name.clone();
            let seen = match before.remove(&name) {
                Some(seen) if seen.file == file => {
                    if !seen.taken {
                        self.ready.push_back(name.clone());
                    }
                    Seen { file, taken: true }
                }
                _ => Seen { file, taken: false },
            };
            self.seen.insert(name, seen);
        }
        Ok(())
    }
}

#[async_trait]
impl Source for Watch {
    async fn next(&mut self) -> Result<Option<Incoming>, SourceError> {
        loop {
            if let Some(name) = self.ready.front().cloned() {
                let path = self.directory.join(&name);
                let label = self.labels.of(&name);
                let result = directory::read(path.clone(), label).await;
                self.ready.pop_front();
                if self.delete && result.is_ok() {
                    let _ = std::fs::remove_file(&path);
                }
                return result.map(Some);
            }
            self.looks.tick().await;
            self.look().await?;
        }
    }
}
