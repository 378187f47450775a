//! What the server hears: a report at every change of phase.
//!
//! A report lives in the journal until the server acknowledged its sequence number, so it is delivered at least once
//! and across restarts; the server drops repeats by (generation, attempt, sequence). Reports of an end are never
//! dropped; of reports on the way only the latest is kept.

use super::phase::Phase;
use crate::digest::BundleDigest;
use crate::id::{Generation, RolloutId};
use serde::{Deserialize, Serialize};

/// Most reports kept. While all of them are reports of an end, no new order is taken.
pub const REPORTS_MAX: usize = 32;
/// Longest detail, in characters.
pub const DETAIL_CHARS_MAX: usize = 240;

/// Which deployment is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Its generation.
    pub generation: Generation,
    /// What it deploys.
    pub digest: BundleDigest,
    /// The rollout it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutId>,
    /// Trials so far.
    #[serde(default)]
    pub attempt: u8,
}

/// One report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Grows by one with each report of this component; never used twice.
    pub seq: u64,
    /// The deployment.
    #[serde(flatten)]
    pub subject: Subject,
    /// Where it is.
    pub phase: Phase,
    /// Why.
    pub code: Code,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Whether the old worker had to stop before the new one started.
    #[serde(default)]
    pub cold_swap: bool,
    /// The bundle that is committed as of this report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed: Option<BundleDigest>,
    /// When, if the device knew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unix_s: Option<u64>,
}

/// Why a deployment is where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// As it should.
    Fine,
    /// The bundle was committed already, under these settings.
    AlreadyRunning,
    /// The update metadata do not authorise it.
    Refused,
    /// Authorised, yet unfit to follow.
    InvalidOrder,
    /// Not authorised in time.
    AuthorizeTimedOut,
    /// Past the time after which it must not start.
    NotAfter,
    /// Not downloaded in time.
    DownloadTimedOut,
    /// Never enough space in time.
    NoSpace,
    /// The download can't succeed.
    DownloadFailed,
    /// The staged bundle was not what was signed, more than once.
    StagedCorrupt,
    /// Checking the staged bundle took too long.
    VerifyTimedOut,
    /// Nobody allowed it to start in time.
    ApplyTimedOut,
    /// No memory for two workers, and the order forbids a cold swap.
    MemoryShort,
    /// The new worker did not start, or could not take over.
    WorkerFailed,
    /// A golden sample came out wrong.
    GoldenFailed,
    /// It disagreed with the active bundle too often.
    ShadowDisagreed,
    /// It failed to answer shadow samples.
    ShadowErrors,
    /// It was too slow.
    ShadowSlow,
    /// The trial took too long; with a shadow run, most often for want of samples.
    TrialTimedOut,
    /// The new worker died.
    WorkerDied,
    /// Its health was bad.
    Unhealthy,
    /// It never showed any sign of health.
    NoProgress,
    /// The server decided against it.
    VerdictRevert,
    /// The server did not decide in time.
    VerdictTimedOut,
    /// A restart interrupted the trial.
    Interrupted,
    /// Restarts interrupted every trial that was allowed.
    AttemptsExhausted,
    /// A later order took its place.
    Superseded,
    /// Somebody at the device went back.
    OperatorRollback,
    /// The committed worker kept dying.
    ActiveFailed,
    /// The machine came up with the bundle from before.
    FellBack,
    /// Going back failed, and the bundle that was left serves again.
    RollbackFailed,
    /// Nothing on the device would serve.
    RevertFailed,
    /// Served again after quarantine.
    Recovered,
    /// The journal was written by another version.
    JournalForeign,
}

/// A cause with its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// Why.
    pub code: Code,
    /// For people; one line of at most [`DETAIL_CHARS_MAX`] characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl Cause {
    /// A cause; `detail` is cut to its bound and freed of control characters.
    pub fn new(code: Code, detail: &str) -> Self {
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        Self { code, detail: detail.chars().take(DETAIL_CHARS_MAX).map(plain).collect() }
    }
}

impl From<Code> for Cause {
    fn from(code: Code) -> Self {
        Self { code, detail: String::new() }
    }
}
