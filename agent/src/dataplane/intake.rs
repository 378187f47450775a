//! Leads a component's sources into one bounded channel. One sample of each waits in it; the others wait in their
//! sources.

use super::config::SourceConfig;
use crate::source::{Incoming, PathLines, Replay, Source, Watch};
use sedge_protocol::id::ComponentName;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long a source that failed is left alone; doubles from failure to failure.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// A sample and the source that it comes from.
pub(super) type Taken = (Arc<str>, Incoming);

/// The source that a configuration describes; `None` for those that others bring.
pub(super) fn open(config: &SourceConfig) -> std::io::Result<Option<Box<dyn Source>>> {
    Ok(match config.clone() {
        // Delays are the component's: it knows when a prediction was made.
        SourceConfig::Replay { directory, rate_per_s, looped, label_share_permille, label_delay_ms: _ } => {
            Some(Box::new(Replay::new(directory, rate_per_s, looped).with_label_share(label_share_permille)))
        }
        SourceConfig::Watch { directory, interval_ms, delete } => {
            Some(Box::new(Watch::new(directory, interval_ms, delete)))
        }
        SourceConfig::Stdin {} => Some(Box::new(PathLines::standard_input()?)),
        SourceConfig::Mqtt(_) => None,
    })
}

/// Asks a source for samples as long as there is room, until it ends or nobody wants more.
pub(super) fn run(component: ComponentName, name: Arc<str>, mut source: Box<dyn Source>, into: mpsc::Sender<Taken>) {
    tokio::spawn(async move {
        let mut pause = PAUSE;
        // Room first: what a source has read ahead would be older than need be, and lost with the process.
        while let Ok(room) = into.reserve().await {
            match source.next().await {
                Ok(Some(sample)) => {
                    room.send((name.clone(), sample));
                    pause = PAUSE;
                }
                Ok(None) => {
                    tracing::info!(%component, source = %name, "the source has ended");
                    return;
                }
                Err(error) => {
                    drop(room);
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(%component, source = %name, %error, cause, "a sample could not be taken");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    });
}
