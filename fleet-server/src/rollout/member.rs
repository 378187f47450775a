//! Where a device of a rollout is: a step, and what is known beside it. Kept small, as there may be a million.

use super::event::AssignProblem;
use super::health::Counters;
use sedge_protocol::id::Generation;
use sedge_protocol::message::{ErrorCode, Verdict};
use serde::{Deserialize, Serialize};

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
