//! Where a rollout and its waves are.

use super::event::AssignProblem;
use super::gate::{Evidence, Halt};
use super::health::Counters;
pub use super::member::{Asked, Device, FailureCode, Presence, Running, SkippedWhy, Step};
use sedge_protocol::id::RolloutId;
use serde::{Deserialize, Serialize};

/// Who gave a command: a person, a token, or a part of the server.
pub type Actor = String;

/// Where a rollout is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum State {
    /// Planned, and not begun.
    Scheduled,
    /// Under way.
    Running,
    /// Nothing is assigned and no gate opens; what devices do goes on.
    Paused {
        /// Why.
        by: PausedBy,
    },
    /// A gate has failed. What has committed stays, until somebody aborts.
    Halted(Halt),
    /// Devices go back.
    RollingBack {
        /// The gate that failed; none when somebody aborted it.
        halt: Option<Halt>,
        /// Which devices.
        scope: Scope,
    },
    /// They have, as far as they could be reached.
    RolledBack {
        /// The gate that failed.
        halt: Option<Halt>,
    },
    /// Some could not.
    RollbackFailed {
        /// The gate that failed.
        halt: Option<Halt>,
    },
    /// Every wave has passed or was skipped.
    Completed,
    /// Somebody ended it; what had committed stays.
    Aborted {
        /// The gate that had failed before.
        halt: Option<Halt>,
    },
    /// A later rollout took over.
    Superseded {
        /// Which.
        by: RolloutId,
    },
}

impl State {
    /// Its name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Running => "running",
            Self::Paused { .. } => "paused",
            Self::Halted(_) => "halted",
            Self::RollingBack { .. } => "rolling-back",
            Self::RolledBack { .. } => "rolled-back",
            Self::RollbackFailed { .. } => "rollback-failed",
            Self::Completed => "completed",
            Self::Aborted { .. } => "aborted",
            Self::Superseded { .. } => "superseded",
        }
    }

    /// Whether it stays so.
    pub const fn is_final(&self) -> bool {
        matches!(
            self,
            Self::RolledBack { .. }
                | Self::RollbackFailed { .. }
                | Self::Completed
                | Self::Aborted { .. }
                | Self::Superseded { .. }
        )
    }

    /// The gate that failed.
    pub const fn halt(&self) -> Option<&Halt> {
        match self {
            Self::Halted(halt) => Some(halt),
            Self::RollingBack { halt, .. }
            | Self::RolledBack { halt }
            | Self::RollbackFailed { halt }
            | Self::Aborted { halt } => halt.as_ref(),
            _ => None,
        }
    }
}

/// Why a rollout is paused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "by")]
pub enum PausedBy {
    /// Somebody said so.
    Operator {
        /// Who.
        actor: Actor,
    },
    /// Too many devices of a wave are unreachable. Resuming accepts those.
    Gate {
        /// The wave, from 0.
        wave: usize,
        /// The gate.
        evidence: Evidence,
    },
    /// Devices went back because the wave's verdict did not come in time. Resuming asks them again.
    Lapsed {
        /// The wave, from 0.
        wave: usize,
        /// How many.
        devices: u32,
    },
    /// The server cannot assign the bundle.
    Assignment {
        /// Why.
        problem: AssignProblem,
    },
}

/// Which devices are called back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Those whose bundle has not been committed.
    Uncommitted,
    /// Those, and all of the wave that failed.
    Wave,
    /// All that the rollout has touched.
    All,
}

/// Where a wave is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum WaveState {
    /// Its turn has not come.
    Pending,
    /// Somebody must let it begin.
    AwaitingGate,
    /// Devices get the bundle.
    Dispatching,
    /// All have come to an end and are watched.
    Soaking {
        /// Until then.
        until_ms: u64,
    },
    /// The time is over; a gate still lacks data.
    Judging,
    /// It has passed.
    Passed {
        /// Its gates as they were.
        evidence: Vec<Evidence>,
    },
    /// A gate has failed.
    Failed {
        /// Its gates as they were.
        evidence: Vec<Evidence>,
    },
    /// It was never judged: it had nobody, or the rollout ended first.
    Skipped,
}

impl WaveState {
    /// Its name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::AwaitingGate => "awaiting-gate",
            Self::Dispatching => "dispatching",
            Self::Soaking { .. } => "soaking",
            Self::Judging => "judging",
            Self::Passed { .. } => "passed",
            Self::Failed { .. } => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// All of a rollout but its devices: small, however many they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Core {
    /// Where it is.
    pub state: State,
    /// Its waves.
    pub waves: Vec<WaveState>,
    /// The wave whose turn it is.
    pub wave: usize,
    /// The next device of that wave to be assigned, by its number in the plan.
    pub next: u32,
    /// Unreachable devices of that wave that somebody has accepted by resuming.
    pub unreachable_accepted: u32,
    /// The newest control with enough samples, or the newest.
    pub control: Option<Counters>,
    /// The first result of the rollout's bundle anywhere, by the devices' clocks, in milliseconds since 1970.
    pub first_result_ts_ms: Option<u64>,
    /// When the last device was measured to be back, in milliseconds since 1970.
    pub last_back_ms: Option<u64>,
    /// Devices that have joined since the plan.
    pub joined: u32,
}
