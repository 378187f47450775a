//! Where samples come from.
//!
//! A source is asked for its next sample only when there is room for it, so a slow worker slows the source down and
//! nothing piles up. What a source can't hold back (a broker's messages) it drops, and counts.

mod directory;
mod feed;
mod labels;
mod replay;
mod standard_input;
mod watch;

pub use feed::{Feed, FeedSource, feed};
pub use labels::Labels;
pub use replay::Replay;
pub use standard_input::PathLines;
pub use watch::Watch;

use async_trait::async_trait;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// What a source yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// When it was taken, Unix milliseconds.
    pub ts_ms: u64,
    /// What it is called where it comes from; a file name, as a rule.
    pub name: String,
    /// Its bytes.
    pub data: Vec<u8>,
    /// The right answer, where somebody has said it.
    pub label: Option<String>,
}

/// A sample on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Grows over all sources of a component.
    pub seq: u64,
    /// When it was taken, Unix milliseconds.
    pub ts_ms: u64,
    /// Source, by its name in the configuration.
    pub source: Arc<str>,
    /// What it is called where it comes from.
    pub name: String,
    /// Its bytes.
    pub data: Vec<u8>,
    /// The right answer, where somebody has said it.
    pub label: Option<String>,
}

/// Why a source does not go on.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A directory or a file in it can't be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A directory without a sample.
    #[error("{} holds no samples", path.display())]
    Empty {
        /// Which.
        path: PathBuf,
    },
    /// More files than a source takes in.
    #[error("{} holds more than {count_max} samples", path.display())]
    TooMany {
        /// Which.
        path: PathBuf,
        /// How many are taken.
        count_max: usize,
    },
    /// A labels file is wrong.
    #[error("{}, line {line}: {problem}", path.display())]
    Labels {
        /// Which.
        path: PathBuf,
        /// Where.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// Something else.
    #[error("{0}")]
    Other(String),
}

/// Yields samples one after the other.
#[async_trait]
pub trait Source: Send {
    /// The next sample; `None` when there will be no more. May be dropped before it is done, which loses nothing but a
    /// sample that is being read and will be read again.
    ///
    /// # Errors
    /// [`SourceError`]; the source is asked again after a pause.
    async fn next(&mut self) -> Result<Option<Incoming>, SourceError>;
}

/// Now, in Unix milliseconds.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
