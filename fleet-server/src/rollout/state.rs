//! Where a rollout, its waves and its devices are.

use super::event::AssignProblem;
use super::gate::{Evidence, Halt};
use super::health::Counters;
use sedge_protocol::id::{Generation, RolloutId};
use sedge_protocol::message::{ErrorCode, Verdict};
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

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// Where a device is. Every device of the plan is in exactly one.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Step { $($(#[$doc])* $name,)+ }

        impl Step {
            /// All, in the order of a good update, then of a bad one.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// Its name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

steps! {
    /// The rollout has not touched it.
    NotStarted = "not-started",
    /// It has the bundle assigned, or is about to, and has not answered.
    Assigned = "assigned",
    /// It is on its way.
    Progress = "progress",
    /// It has passed its probation and waits for the verdict.
    Holding = "holding",
    /// It has committed, and runs the bundle.
    Succeeded = "succeeded",
    /// It has tried and went back.
    Failed = "failed",
    /// It has refused.
    Rejected = "rejected",
    /// It did not come to an end in time.
    TimedOut = "timed-out",
    /// It did not answer and is not connected.
    Unreachable = "unreachable",
    /// It is called back.
    GoingBack = "going-back",
    /// It runs what it ran before.
    Back = "back",
    /// Somebody else decides what it runs.
    Superseded = "superseded",
    /// It takes no part any more.
    Skipped = "skipped",
}

impl Step {
    /// Whether it is on its way to the bundle.
    pub const fn in_flight(self) -> bool {
        matches!(self, Self::Assigned | Self::Progress)
    }

    /// Whether it counts as a failure.
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::Rejected | Self::TimedOut)
    }

    /// Whether it has come to a good end, as far as the device can say.
    pub const fn is_good(self) -> bool {
        matches!(self, Self::Holding | Self::Succeeded)
    }
}

/// Why a device failed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureCode {
    /// As it says.
    Reported(ErrorCode),
    /// It has committed another bundle than it was assigned.
    WrongDigest,
    /// It had succeeded, and runs something else now.
    FellBack,
    /// It did not come to an end in time.
    TimedOut,
    /// It was called back and still runs the bundle.
    DidNotGoBack,
    /// The server could not assign it anything to go back to.
    CannotGoBack(AssignProblem),
}

/// Whether a device is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Presence {
    /// Nobody has said so yet.
    #[default]
    Unknown,
    /// It is.
    Online,
    /// It is not.
    Offline,
}

/// Why a device takes no part any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SkippedWhy {
    /// It was taken out of service.
    Gone,
}

/// What the server was asked to do for a device and has not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Asked {
    /// To assign the bundle.
    Assign,
    /// To assign what was before.
    RollBack,
}

/// What it runs, as last measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Running {
    /// Not known.
    #[default]
    Unknown,
    /// The rollout's bundle.
    New,
    /// Something else.
    Other,
}

/// A device within a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Where it is.
    pub step: Step,
    /// What the rollout has assigned; 0 before the first.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub generation: Generation,
    /// What it was assigned to go back; 0 before.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub back_generation: Generation,
    /// What the server has not answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
    /// How often the server could not do it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tries: u8,
    /// The verdict that it has been sent and not yet followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// When its step ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Whether it is connected.
    #[serde(default, skip_serializing_if = "is_default")]
    pub presence: Presence,
    /// What it runs.
    #[serde(default, skip_serializing_if = "is_default")]
    pub running: Running,
    /// Whether the rollout has ever assigned it something.
    #[serde(default, skip_serializing_if = "is_default")]
    pub touched: bool,
    /// Whether it has begun the trial of the rollout's bundle.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tried: bool,
    /// Whether it has said that its deployment of the rollout's generation is over.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ended: bool,
    /// Whether it went back because no verdict came in time.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lapsed: bool,
    /// How often it did.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lapses: u8,
    /// Whether a heartbeat has said that it runs the rollout's bundle.
    #[serde(default, skip_serializing_if = "is_default")]
    pub seen_new: bool,
    /// Whether the last heartbeat contradicted the device's reports. One may be older than they are; two are not.
    #[serde(default, skip_serializing_if = "is_default")]
    pub doubt: bool,
    /// Whether somebody else decides what it runs, whatever its step.
    #[serde(default, skip_serializing_if = "is_default")]
    pub released: bool,
    /// Why it failed; kept when it goes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<FailureCode>,
    /// Why it takes no part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<SkippedWhy>,
    /// What it has counted for the rollout's bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<Counters>,
}

fn is_zero(generation: &Generation) -> bool {
    generation.0 == 0
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Device {
    /// Whether it failed at going back.
    pub(super) fn is_stuck(&self) -> bool {
        self.step == Step::Failed && matches!(self.code, Some(FailureCode::DidNotGoBack | FailureCode::CannotGoBack(_)))
    }

    /// Whether what the rollout has decided is that it goes back.
    pub(super) fn called_back(&self) -> bool {
        self.back_generation.0 > 0
            || self.asked == Some(Asked::RollBack)
            || self.step == Step::GoingBack
            || self.is_stuck()
    }
}

impl Default for Device {
    fn default() -> Self {
        Self {
            step: Step::NotStarted,
            generation: Generation(0),
            back_generation: Generation(0),
            asked: None,
            tries: 0,
            verdict: None,
            deadline_ms: None,
            presence: Presence::Unknown,
            running: Running::Unknown,
            touched: false,
            tried: false,
            ended: false,
            lapsed: false,
            lapses: 0,
            seen_new: false,
            doubt: false,
            released: false,
            code: None,
            skipped: None,
            counters: None,
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
