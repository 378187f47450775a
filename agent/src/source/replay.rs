//! A directory of samples, replayed in the order of their names, over and over, at a rate.

use super::{Incoming, Labels, Source, SourceError, directory};
use async_trait::async_trait;
use sedge_protocol::Sha256Digest;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// Replays a directory.
#[derive(Debug)]
pub struct Replay {
    directory: PathBuf,
    ticks: Option<Interval>,
    looped: bool,
    files: Vec<String>,
    labels: Labels,
    label_share_permille: u16,
    next: usize,
}

impl Replay {
    /// A source of at most `rate_per_s` samples a second; 0 is as fast as they are taken. Ends after the last sample
    /// unless `looped`. To be called where a runtime runs.
    pub fn new(directory: PathBuf, rate_per_s: f64, looped: bool) -> Self {
        let ticks = (rate_per_s > 0.0).then(|| {
            let period = Duration::from_secs_f64((1.0 / rate_per_s).clamp(1e-6, 1e6));
            let mut ticks = interval_at(Instant::now(), period);
            // A worker that was slow for a while is not met with a burst.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        let (files, labels) = (Vec::new(), Labels::default());
        Self { directory, ticks, looped, files, labels, label_share_permille: 1000, next: 0 }
    }

    /// With the right answers of so many of 1000 samples, as if nobody had judged the others.
    #[must_use]
    pub fn with_label_share(self, permille: u16) -> Self {
        Self { label_share_permille: permille, ..self }
    }
}

/// Whether a sample is among those with a label. Depends on nothing but its name, so that every device and every round
/// judges the same ones.
fn is_labelled(name: &str, permille: u16) -> bool {
    let hash = Sha256Digest::of(name.as_bytes());
    let number = hash.as_bytes().iter().take(8).fold(0u64, |n, byte| n << 8 | u64::from(*byte));
    number % 1000 < u64::from(permille)
}

#[async_trait]
impl Source for Replay {
    async fn next(&mut self) -> Result<Option<Incoming>, SourceError> {
        if let Some(ticks) = &mut self.ticks {
            ticks.tick().await;
        }
        if self.next >= self.files.len() {
            if self.next > 0 && !self.looped {
                return Ok(None);
            }
            // Each round sees what the directory holds by then.
            let (files, labels) = directory::look(self.directory.clone()).await?;
            if files.is_empty() {
                return Err(SourceError::Empty { path: self.directory.clone() });
            }
            self.labels = labels;
            self.files = files.into_iter().map(|f| f.name).collect();
            self.next = 0;
        }
        let name = &self.files[self.next];
        let (path, label) =
            (self.directory.join(name), self.labels.of(name).filter(|_| is_labelled(name, self.label_share_permille)));
        let result = directory::read(path, label).await;
        // Whether it could be read or not: a file that vanished must not hold up the others.
        self.next += 1;
        result.map(Some)
    }
}
