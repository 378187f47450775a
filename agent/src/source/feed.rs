//! A source that others push into: a site's broker, a driver, a test. Bounded: a full feed says so.

use super::{Incoming, Source, SourceError};
use async_trait::async_trait;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;

/// The end that is pushed into.
#[derive(Debug, Clone)]
pub struct Feed {
    samples: mpsc::Sender<Incoming>,
    dropped: Arc<AtomicU64>,
}

/// The end that yields.
#[derive(Debug)]
pub struct FeedSource(mpsc::Receiver<Incoming>);

/// A feed with room for `samples_max` samples.
pub fn feed(samples_max: usize) -> (Feed, FeedSource) {
    let (samples, receiver) = mpsc::channel(samples_max.max(1));
    (Feed { samples, dropped: Arc::default() }, FeedSource(receiver))
}

impl Feed {
    /// Pushes a sample, waiting for room. `false` when nobody takes samples any more.
    pub async fn push(&self, sample: Incoming) -> bool {
        self.samples.send(sample).await.is_ok()
    }

    /// Pushes a sample or drops it, for origins that can't wait. Whether it was pushed.
    pub fn push_or_drop(&self, sample: Incoming) -> bool {
        let pushed = self.samples.try_send(sample).is_ok();
        if !pushed {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        pushed
    }

    /// How many samples were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Source for FeedSource {
    async fn next(&mut self) -> Result<Option<Incoming>, SourceError> {
        Ok(self.0.recv().await)
    }
}
