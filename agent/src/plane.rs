//! What the control plane asks of the data plane, and what it hears from it.
//!
//! The control plane decides ([`sedge_protocol::deployment`]); the data plane runs workers, leads samples from sources to
//! them and results to sinks, and watches their health. They share nothing but these messages. Every command may be given
//! twice with the result of once. Commands of one component are carried out in the order in which they were given.

use sedge_protocol::BundleDigest;
use sedge_protocol::deployment::{Answer, ShadowLimits, Slot, Ticket};
use sedge_protocol::id::ComponentName;
use sedge_protocol::message::Telemetry;
use std::path::PathBuf;

/// Something for the data plane to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Start a worker that does not serve yet: `WorkerReady` or `WorkerFailed`.
    StartWorker {
        /// Comes back with the answer.
        ticket: Ticket,
        /// Its slot.
        slot: Slot,
        /// The packed bundle, verified against `digest` before it was put there, and by the worker again.
        bundle: PathBuf,
        /// What it must be.
        digest: BundleDigest,
        /// Settings of the pipeline.
        settings: serde_json::Value,
    },
    /// Have the golden samples answered: `GoldenPassed` or `GoldenFailed`.
    RunGolden {
        /// Comes back with the answer.
        ticket: Ticket,
        /// Whose worker.
        slot: Slot,
    },
    /// Have live samples answered by the serving worker and by this one: `Shadow`, repeatedly. Only the serving worker's
    /// results go to sinks.
    BeginShadow {
        /// Comes back with each answer.
        ticket: Ticket,
        /// The new worker.
        slot: Slot,
        /// When to say more: at least whenever `samples_min` is reached.
        limits: ShadowLimits,
    },
    /// Lead every further sample to this slot's worker, without losing or doubling one: `TookOver` or `WorkerFailed`.
    TakeOver {
        /// Comes back with the answer.
        ticket: Ticket,
        /// Whose worker.
        slot: Slot,
    },
    /// As `TakeOver`; the worker is started first unless it runs.
    Serve {
        /// Comes back with the answer.
        ticket: Ticket,
        /// Its slot.
        slot: Slot,
        /// The packed bundle.
        bundle: PathBuf,
        /// What it must be.
        digest: BundleDigest,
        /// Settings of the pipeline.
        settings: serde_json::Value,
    },
    /// Keep incoming samples, oldest dropped first, until a worker takes over or serves.
    HoldSamples {
        /// Bytes kept.
        bytes_max: u64,
    },
    /// Stop the slot's worker, if it has one, and end what is at work for it.
    StopWorker {
        /// Which slot.
        slot: Slot,
    },
    /// Tell the health of the slot's worker from now on, about once a second.
    WatchHealth {
        /// Which slot.
        slot: Slot,
    },
}

impl Command {
    /// What its answer carries, for those that are answered.
    pub fn ticket(&self) -> Option<Ticket> {
        match self {
            Self::StartWorker { ticket, .. }
            | Self::RunGolden { ticket, .. }
            | Self::BeginShadow { ticket, .. }
            | Self::TakeOver { ticket, .. }
            | Self::Serve { ticket, .. } => Some(*ticket),
            Self::HoldSamples { .. } | Self::StopWorker { .. } | Self::WatchHealth { .. } => None,
        }
    }
}

/// Something that the data plane tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Happening {
    /// An answer to a command.
    Answer {
        /// The command's number.
        ticket: Ticket,
        /// What came of it.
        answer: Answer,
    },
    /// The serving worker makes progress.
    HealthOk {
        /// Which slot.
        slot: Slot,
    },
    /// It does not, or it fails too many samples.
    HealthBad {
        /// Which slot.
        slot: Slot,
        /// In what way.
        reason: String,
    },
    /// A worker ended that nobody stopped.
    WorkerDied {
        /// Which slot.
        slot: Slot,
    },
    /// A result, counters or a log line for the server. May be dropped when the line is slow.
    Telemetry(Telemetry),
}

/// A command and whom it concerns.
pub type Addressed<T> = (ComponentName, T);
