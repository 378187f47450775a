//! What a shell is to do for a rollout.

use super::event::AssignProblem;
use super::gate::{Evidence, Halt};
use super::state::{Actor, FailureCode, PausedBy, Scope, State};
use sedge_protocol::id::{DeviceId, Generation};
use sedge_protocol::message::Verdict;
use serde::{Deserialize, Serialize};

/// Something to do. Each may be performed again; those of one device are performed in their order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "effect")]
pub enum Effect {
    /// Assign the bundle of the plan, with [`super::Plan::settings`] and the rollout's id, as a new generation. When the
    /// desired state is that already, nothing is changed. Answered by [`super::Event::Assigned`] with the generation, or
    /// [`super::Event::AssignFailed`].
    Assign {
        /// To whom.
        device: DeviceId,
    },
    /// Send a verdict. Not answered: the device's reports tell.
    Verdict {
        /// To whom.
        device: DeviceId,
        /// On what.
        generation: Generation,
        /// Which.
        verdict: Verdict,
    },
    /// When the desired state is this rollout's, assign as a new generation what it was before; nothing if it was
    /// nothing. When it is another's or was never this rollout's, change nothing. Answered by
    /// [`super::Event::RollBackAssigned`] with the generation that holds then, or [`super::Event::RollBackFailed`].
    RollBack {
        /// To whom.
        device: DeviceId,
    },
    /// The rollout has ended.
    Finish {
        /// How.
        outcome: Outcome,
    },
    /// Something for the timeline.
    Note(Note),
    /// What somebody asked for is not done.
    Refused {
        /// Why not.
        why: RefusedWhy,
    },
}

/// How a rollout ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Every wave has passed or was skipped.
    Completed,
    /// Everything that was to go back has gone back, as far as it could be reached.
    RolledBack,
    /// A device could not go back.
    RollbackFailed,
    /// Somebody ended it, and what had committed stays.
    Aborted,
    /// A later rollout took over.
    Superseded,
}

/// An entry of the timeline. The shell adds the time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "note")]
#[allow(missing_docs, reason = "the entries are the states and events that they are named after")]
pub enum Note {
    Started {
        actor: Actor,
    },
    Paused {
        by: PausedBy,
    },
    Resumed {
        actor: Actor,
    },
    Aborted {
        actor: Actor,
        roll_back: bool,
    },
    GateWaits {
        wave: usize,
    },
    GateOpened {
        wave: usize,
        actor: Actor,
    },
    WaveBegan {
        wave: usize,
    },
    WaveSoaks {
        wave: usize,
        until_ms: u64,
    },
    WaveJudged {
        wave: usize,
    },
    WavePassed {
        wave: usize,
        evidence: Vec<Evidence>,
    },
    WaveSkipped {
        wave: usize,
    },
    Halted(Halt),
    CalledBack {
        scope: Scope,
        devices: u32,
    },
    DeviceFailed {
        device: DeviceId,
        code: FailureCode,
    },
    DeviceUnreachable {
        device: DeviceId,
    },
    /// A device that had succeeded no longer runs the bundle.
    DeviceFellBack {
        device: DeviceId,
    },
    /// A device went back because no verdict reached it in time. That is no harm.
    DeviceLapsed {
        device: DeviceId,
    },
    DeviceSuperseded {
        device: DeviceId,
    },
    DeviceJoined {
        device: DeviceId,
        wave: usize,
    },
    /// A device that had gone back runs the bundle again.
    DeviceReturned {
        device: DeviceId,
    },
    AssignFailed {
        device: DeviceId,
        problem: AssignProblem,
    },
    /// Something was heard that counts for nothing.
    Ignored {
        device: DeviceId,
        why: IgnoredWhy,
    },
    Ended {
        outcome: Outcome,
    },
}

/// Why what was heard of a device counts for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IgnoredWhy {
    /// The device is not part of the rollout.
    NotMember,
    /// The report answers a generation before the one that the rollout assigned.
    EarlierGeneration,
    /// The report answers a generation that the rollout did not assign.
    OtherGeneration,
    /// The rollout has assigned it nothing yet.
    NotAssigned,
    /// It says that it has committed, and does not say what it runs.
    NotMeasured,
    /// It joined when the last wave was already being judged, or later.
    JoinedTooLate,
    /// It joined, and takes no part.
    JoinedIneligible,
}

/// Why a command is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "why")]
#[allow(missing_docs)]
pub enum RefusedWhy {
    /// It has begun.
    #[error("the rollout has been started already; it is {}", state.name())]
    Started { state: State },
    /// It does not run.
    #[error("only a running rollout can be paused; this one is {}", state.name())]
    NotRunning { state: State },
    /// It is not paused.
    #[error("only a paused rollout can be resumed; this one is {}", state.name())]
    NotPaused { state: State },
    /// It goes back or has ended.
    #[error("the rollout can no longer be aborted; it is {}", state.name())]
    TooLate { state: State },
    /// There is no gate to open.
    #[error("wave {} waits at no gate", wave + 1)]
    NoGate { wave: usize },
}
