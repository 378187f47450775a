//! What happens to a deployment: answers to what it asked, and everything else.

use super::order::{Order, Slot};
use crate::id::Generation;

/// Number of a question. An answer with any other number than that of the latest question is late and is ignored, so
/// a download that was cancelled can't complete the one that followed it. Tickets start over when a machine is
/// restored: a shell that restores one first ends all that still works for the old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Ticket(pub u64);

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The machine was made or restored; first of all events, and never again.
    Booted {
        /// The slot that runs by itself, for components whose take-over restarts the agent or the machine.
        running: Option<Slot>,
    },
    /// The server desires this. Not to be trusted until authorised.
    Desired(Box<Order>),
    /// An answer.
    Answer {
        /// The question's number.
        ticket: Ticket,
        /// What came of it.
        answer: Answer,
    },
    /// Downloads may run. Remembered until restart or [`Event::DownloadWindowClosed`].
    DownloadWindowOpen,
    /// Downloads may not run. So it is after every restart.
    DownloadWindowClosed,
    /// Trials may start. Remembered until restart or [`Event::ApplyDeferred`].
    ApplyAllowed,
    /// Trials may not start. So it is after every restart.
    ApplyDeferred,
    /// There is no memory for two workers.
    MemoryShort,
    /// A serving worker is healthy: inference made progress.
    HealthOk {
        /// Which worker.
        slot: Slot,
    },
    /// A serving worker is not healthy.
    HealthBad {
        /// Which worker.
        slot: Slot,
        /// In what way.
        reason: String,
    },
    /// A worker died that nobody stopped.
    WorkerDied {
        /// Which worker.
        slot: Slot,
    },
    /// The server decided.
    Verdict {
        /// On which deployment.
        generation: Generation,
        /// How.
        verdict: Verdict,
    },
    /// Somebody at the device wants the bundle from before.
    OperatorRollback,
    /// Time passed; due deadlines are dealt with before any event, so this one brings nothing else.
    Deadline,
    /// The server has this report.
    ReportAcked {
        /// Its number.
        seq: u64,
    },
}

/// The server's decision on a bundle in probation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It stays.
    Commit,
    /// It goes. Before the trial this cancels the deployment.
    Revert,
}

/// Answers to [`super::Ask`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To `Authorize`: publisher and director agree on it.
    Authorized,
    /// To `Authorize`: they don't.
    Refused {
        /// The failed check.
        code: String,
        /// For people.
        detail: String,
    },
    /// To `ReserveSpace`: reserved.
    SpaceReserved,
    /// To `ReserveSpace`: not enough, even without what the inactive slot holds. To `Download`: the disk is full.
    NoSpace,
    /// To `Download`: so far.
    ChunkProgress {
        /// Bytes that are there and verified.
        done_bytes: u64,
    },
    /// To `Download`: all bytes are there and synced.
    Downloaded,
    /// To `Download`: it failed.
    DownloadFailed {
        /// Whether trying again is of any use: not for 4xx or a byte cap, for 5xx and timeouts.
        permanent: bool,
        /// For people.
        detail: String,
    },
    /// To `VerifyStaged`: length and digest are those of the order.
    StagedVerified,
    /// To `VerifyStaged`: they are not.
    StagedCorrupt {
        /// For people.
        detail: String,
    },
    /// To `StartWorker`: it has loaded its bundle.
    WorkerReady,
    /// To `StartWorker`, `TakeOver` or `Serve`: it does not work.
    WorkerFailed {
        /// For people.
        detail: String,
    },
    /// To `RunGolden`: every golden sample came out right.
    GoldenPassed,
    /// To `RunGolden`: one did not.
    GoldenFailed {
        /// For people.
        detail: String,
    },
    /// To `BeginShadow`: counts since its start; sent again and again until the machine goes on.
    Shadow(ShadowVerdict),
    /// To `TakeOver` or `Serve`: every further sample goes to that worker.
    TookOver,
}

/// What a shadow run showed so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShadowVerdict {
    /// Samples that both workers have answered or failed.
    pub samples: u32,
    /// Samples on which they disagreed.
    pub disagreements: u32,
    /// Samples that only the new worker failed.
    pub errors: u32,
    /// Its latency at the 95th percentile.
    pub latency_p95_us: u32,
}

impl Event {
    /// Its name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Booted { .. } => "booted",
            Self::Desired(_) => "desired",
            Self::Answer { answer, .. } => answer.name(),
            Self::DownloadWindowOpen => "download-window-open",
            Self::DownloadWindowClosed => "download-window-closed",
            Self::ApplyAllowed => "apply-allowed",
            Self::ApplyDeferred => "apply-deferred",
            Self::MemoryShort => "memory-short",
            Self::HealthOk { .. } => "health-ok",
            Self::HealthBad { .. } => "health-bad",
            Self::WorkerDied { .. } => "worker-died",
            Self::Verdict { verdict: Verdict::Commit, .. } => "verdict-commit",
            Self::Verdict { verdict: Verdict::Revert, .. } => "verdict-revert",
            Self::OperatorRollback => "operator-rollback",
            Self::Deadline => "deadline",
            Self::ReportAcked { .. } => "report-acked",
        }
    }
}

impl Answer {
    /// Its name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Authorized => "authorized",
            Self::Refused { .. } => "refused",
            Self::SpaceReserved => "space-reserved",
            Self::NoSpace => "no-space",
            Self::ChunkProgress { .. } => "chunk-progress",
            Self::Downloaded => "downloaded",
            Self::DownloadFailed { permanent: false, .. } => "download-failed",
            Self::DownloadFailed { permanent: true, .. } => "download-failed-for-good",
            Self::StagedVerified => "staged-verified",
            Self::StagedCorrupt { .. } => "staged-corrupt",
            Self::WorkerReady => "worker-ready",
            Self::WorkerFailed { .. } => "worker-failed",
            Self::GoldenPassed => "golden-passed",
            Self::GoldenFailed { .. } => "golden-failed",
            Self::Shadow(_) => "shadow-verdict",
            Self::TookOver => "took-over",
        }
    }
}
