//! Why nothing happens just now, for people and for the console.

use super::record::Record;
use super::state::{DownloadWait, ProbationStep, RevertStep, State, TrialStep};
use super::turn::Session;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a deployment waits for. When that ends is [`super::Deployment::next_deadline`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Waiting {
    /// The update metadata.
    Authorization,
    /// An answer whether there is space.
    SpaceAnswer,
    /// The download window.
    Window,
    /// Space.
    Space {
        /// Until it is asked for again.
        retry_ms: u64,
    },
    /// A pause after a failed download.
    Backoff {
        /// Failures so far.
        failures: u32,
        /// Until the next attempt.
        retry_ms: u64,
    },
    /// Bytes.
    Download {
        /// Bytes that are there in this attempt.
        have_bytes: u64,
        /// Bytes of the bundle.
        need_bytes: u64,
    },
    /// The check of the staged bundle.
    Verification,
    /// Leave to start.
    ApplyWindow,
    /// The new worker's start.
    Worker,
    /// The golden samples.
    Golden,
    /// Live samples answered by both workers.
    ShadowSamples {
        /// Samples so far.
        have: u32,
        /// Samples asked for.
        need: u32,
    },
    /// The new worker's take-over.
    TakeOver,
    /// Good health for long enough.
    Soak {
        /// Until it has lasted.
        left_ms: u64,
        /// Whether there was any sign of it.
        healthy: bool,
    },
    /// The server's verdict.
    Verdict {
        /// Until the device goes back.
        left_ms: u64,
    },
    /// The active worker's return.
    Revert {
        /// Attempts that failed.
        tries: u8,
    },
    /// A pause before the active worker is tried again.
    RevertPause {
        /// Attempts that failed.
        tries: u8,
        /// Until the next one.
        retry_ms: u64,
    },
    /// The server's acknowledgement of how it ended.
    Acknowledgement {
        /// The report's number.
        seq: u64,
    },
    /// Help: another order, somebody at the device, or an attempt that works after all.
    Help,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A started second is not over yet.
        let s = |ms: u64| ms.div_ceil(1000);
        match *self {
            Self::Authorization => f.write_str("the update metadata"),
            Self::SpaceAnswer => f.write_str("a look at the disk"),
            Self::Window => f.write_str("the download window"),
            Self::Space { retry_ms } => write!(f, "space on the disk; looks again in {} s", s(retry_ms)),
            Self::Backoff { failures, retry_ms } => {
                write!(f, "the next download attempt in {} s, after {failures} that failed", s(retry_ms))
            }
            Self::Download { have_bytes, need_bytes } => write!(f, "the download, {have_bytes} of {need_bytes} bytes"),
            Self::Verification => f.write_str("the check of the downloaded bundle"),
            Self::ApplyWindow => f.write_str("leave to start"),
            Self::Worker => f.write_str("the new worker to start"),
            Self::Golden => f.write_str("the golden samples"),
            Self::ShadowSamples { have, need } => write!(f, "live samples, {have} of {need}"),
            Self::TakeOver => f.write_str("the new worker to take over"),
            Self::Soak { left_ms, healthy: true } => write!(f, "{} s more of good health", s(left_ms)),
            Self::Soak { healthy: false, .. } => f.write_str("a first sign of good health"),
            Self::Verdict { left_ms } => write!(f, "the server's verdict, for {} s", s(left_ms)),
            Self::Revert { tries: 0 } => f.write_str("the worker from before"),
            Self::Revert { tries } => write!(f, "the worker from before, after {tries} attempts that failed"),
            Self::RevertPause { tries, retry_ms } => {
                write!(f, "the next attempt to go back in {} s, after {tries} that failed", s(retry_ms))
            }
            Self::Acknowledgement { .. } => f.write_str("the server to have stored its report"),
            Self::Help => f.write_str("help: another order, or somebody at the device"),
        }
    }
}

pub(super) fn of(record: &Record, session: &Session) -> Option<Waiting> {
    Some(match &record.state {
        State::Idle | State::Reported { .. } => return None,
        State::Received { .. } => Waiting::Authorization,
        State::Authorized { .. } => Waiting::SpaceAnswer,
        State::WaitDownload { why: DownloadWait::Window, .. } => Waiting::Window,
        State::WaitDownload { why: DownloadWait::Space { retry }, .. } => Waiting::Space { retry_ms: retry.left_ms },
        State::WaitDownload { work, why: DownloadWait::Backoff { retry }, .. } => {
            Waiting::Backoff { failures: work.failures, retry_ms: retry.left_ms }
        }
        State::Downloading { work, .. } => {
            Waiting::Download { have_bytes: session.downloaded_bytes, need_bytes: work.order.length_bytes }
        }
        State::Staged { .. } => Waiting::Verification,
        State::WaitApply { .. } => Waiting::ApplyWindow,
        State::Trial { work, step, .. } => match step {
            TrialStep::Starting => Waiting::Worker,
            TrialStep::Golden => Waiting::Golden,
            TrialStep::Shadow => {
                Waiting::ShadowSamples { have: session.shadow_samples, need: work.order.shadow.samples_min }
            }
            TrialStep::TakingOver => Waiting::TakeOver,
        },
        State::Probation { step: ProbationStep::Soaking { left, healthy, .. }, .. } => {
            Waiting::Soak { left_ms: left.left_ms, healthy: *healthy }
        }
        State::Probation { step: ProbationStep::Held { left }, .. } => Waiting::Verdict { left_ms: left.left_ms },
        State::Reverting { tries, step: RevertStep::Trying { .. }, .. } => Waiting::Revert { tries: *tries },
        State::Reverting { tries, step: RevertStep::Pausing { left }, .. } => {
            Waiting::RevertPause { tries: *tries, retry_ms: left.left_ms }
        }
        State::Committed(ended)
        | State::Reverted(ended)
        | State::Rejected(ended)
        | State::Cancelled(ended)
        | State::Expired(ended) => Waiting::Acknowledgement { seq: ended.report_seq },
        State::Quarantined(_) => Waiting::Help,
    })
}
