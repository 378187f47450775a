//! What the shell must do, in this order, before it brings the next event.
//!
//! [`Effect::Persist`] comes first wherever the state changed. Until it is synced, nothing after it may begin; if it
//! fails, the rest is dropped, all work for this machine is ended, and the machine is restored from the journal, just
//! as after power loss. Every effect may be done twice with the result of once.

use super::event::Ticket;
use super::order::{Order, ShadowLimits, Slot};
use super::phase::Phase;
use super::record::Record;
use super::report::Report;
use crate::digest::BundleDigest;
use crate::id::Generation;

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Write the record to the journal and sync it.
    Persist(Box<Record>),
    /// Begin something that answers later.
    Ask {
        /// Comes back with the answer.
        ticket: Ticket,
        /// What.
        ask: Ask,
    },
    /// Stop downloading into this slot. What is there stays there.
    CancelDownload {
        /// Which slot.
        slot: Slot,
    },
    /// Delete all that the slot holds, and its reservation.
    DeleteSlot {
        /// Which slot; never the active one.
        slot: Slot,
    },
    /// Keep incoming samples, oldest dropped first, until a worker takes over or serves.
    HoldSamples {
        /// Bytes kept.
        bytes_max: u64,
    },
    /// Stop the slot's worker, if it has one.
    StopWorker {
        /// Which slot.
        slot: Slot,
    },
    /// Watch the health of the slot's worker and tell it as events.
    StartProbation {
        /// Which slot.
        slot: Slot,
        /// For so long, at least.
        probation_s: u32,
    },
    /// The slot holds the bundle that this device goes back to: mark it good, for a boot loader too.
    Commit {
        /// Which slot.
        slot: Slot,
        /// What it holds.
        digest: BundleDigest,
        /// Its generation.
        generation: Generation,
    },
    /// Send a report; it is brought again until it is acknowledged.
    Report(Report),
    /// Nothing to do: an event that changed nothing, for the log.
    Ignored(Ignored),
}

/// Something that answers.
///
/// `TakeOver` and `Serve` both say where samples go: the latest one counts, and one that is still at work when another
/// comes is dropped; a shadow run ends there too. `StopWorker`, `CancelDownload` and `DeleteSlot` end what is at work in their slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Check the whole order against the update metadata: `Authorized` or `Refused`.
    Authorize {
        /// The order.
        order: Box<Order>,
    },
    /// Set space aside; what the inactive slot holds counts as free: `SpaceReserved` or `NoSpace`.
    ReserveSpace {
        /// For this slot.
        slot: Slot,
        /// So much.
        bytes: u64,
    },
    /// Get the bundle, going on from what is there: `ChunkProgress`, then `Downloaded`, `DownloadFailed` or `NoSpace`.
    Download {
        /// Into this slot.
        slot: Slot,
        /// What.
        digest: BundleDigest,
        /// Its length.
        length_bytes: u64,
        /// Most bytes it may cost over all attempts.
        bytes_max: Option<u64>,
    },
    /// Check length and digest of the whole: `StagedVerified` or `StagedCorrupt`.
    VerifyStaged {
        /// In this slot.
        slot: Slot,
        /// What it must be.
        digest: BundleDigest,
        /// Its length.
        length_bytes: u64,
    },
    /// Start a worker that does not serve yet: `WorkerReady` or `WorkerFailed`.
    StartWorker {
        /// From this slot.
        slot: Slot,
        /// What it holds.
        digest: BundleDigest,
        /// The pipeline's settings.
        settings: serde_json::Value,
    },
    /// Have the golden samples answered: `GoldenPassed` or `GoldenFailed`.
    RunGolden {
        /// By this slot's worker.
        slot: Slot,
    },
    /// Have live samples answered by both workers: `Shadow`, repeatedly.
    BeginShadow {
        /// The new worker.
        slot: Slot,
        /// What will be judged.
        limits: ShadowLimits,
    },
    /// Lead all samples to this slot's worker, which runs: `TookOver` or `WorkerFailed`.
    TakeOver {
        /// Which slot.
        slot: Slot,
    },
    /// Lead all samples to this slot's worker, which is started unless it runs: `TookOver` or `WorkerFailed`.
    Serve {
        /// Which slot.
        slot: Slot,
        /// What it holds.
        digest: BundleDigest,
        /// The pipeline's settings.
        settings: serde_json::Value,
    },
}

/// An event that changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ignored {
    /// Where the deployment was.
    pub phase: Phase,
    /// The event's name.
    pub event: &'static str,
    /// Why it changed nothing.
    pub why: IgnoredWhy,
}

/// Why an event changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IgnoredWhy {
    /// It has no meaning in this phase.
    NotNow,
    /// It answers a question that is no longer open.
    Late,
    /// Its generation is not above what this device has authorised.
    OldGeneration,
    /// It says what is known.
    Known,
    /// Its generation is not the one deployed now.
    OtherGeneration,
    /// It tells of a slot that does not matter now.
    OtherSlot,
    /// The deployment is past the point where that was possible.
    TooLate,
    /// There is no bundle from before.
    NoPrevious,
    /// Too many reports are unacknowledged to take another order.
    ReportsFull,
    /// The order's settings are too large.
    TooLarge,
    /// The machine has not been told that it booted.
    BeforeBoot,
}

impl Effect {
    /// Its name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Persist(_) => "persist",
            Self::Ask { ask, .. } => ask.name(),
            Self::CancelDownload { .. } => "cancel-download",
            Self::DeleteSlot { .. } => "delete-slot",
            Self::HoldSamples { .. } => "hold-samples",
            Self::StopWorker { .. } => "stop-worker",
            Self::StartProbation { .. } => "start-probation",
            Self::Commit { .. } => "commit",
            Self::Report(_) => "report",
            Self::Ignored(_) => "ignored",
        }
    }
}

impl Ask {
    /// Its name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Authorize { .. } => "authorize",
            Self::ReserveSpace { .. } => "reserve-space",
            Self::Download { .. } => "download",
            Self::VerifyStaged { .. } => "verify-staged",
            Self::StartWorker { .. } => "start-worker",
            Self::RunGolden { .. } => "run-golden",
            Self::BeginShadow { .. } => "begin-shadow",
            Self::TakeOver { .. } => "take-over",
            Self::Serve { .. } => "serve",
        }
    }
}
