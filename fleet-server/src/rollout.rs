//! The way of one bundle through a fleet, in waves.
//!
//! A [`RolloutSpec`] is what somebody declares. [`plan()`] makes a [`Plan`] of it and of what is known of the devices,
//! once, and its digest is what an approval signs. A [`Rollout`] carries the plan out: events and the time go in,
//! [`Effect`]s come out, and a shell performs them. All three are values without clock, disk, network or async, so that
//! every decision can be replayed and interrupted at every point.
//!
//! What always holds:
//! - Nothing is assigned unless the rollout is [`State::Running`]; after a halt nothing is assigned any more.
//! - Never are more devices on the way than `in_flight_max`.
//! - Success is measured: a report of the generation that this rollout assigned, with the digest that it is about, and
//!   heartbeats that keep saying so.
//! - Missing data hold a gate and never pass it.
//! - A device that somebody steers by other means is superseded, and left alone.
//! - What does not move has a typed reason: [`Rollout::waiting`].
//! - Every halt names its criterion, the measured value, the limit and the devices that are its evidence.
//!
//! If the server dies: the shell stores what [`Rollout::take_changes`] gives before it performs the effects of an event,
//! and performs those of [`Rollout::resume`] when it is back. Every effect may be performed again.

mod back;
mod command;
mod device;
mod effect;
mod event;
mod gate;
mod health;
mod judge;
mod machine;
mod member;
mod plan;
mod policy;
mod report;
mod saved;
mod selector;
mod sentence;
mod spec;
mod state;
mod summary;
#[cfg(test)]
mod tests;
mod turn;
mod waiting;
mod wave;

pub use effect::{Effect, IgnoredWhy, Note, Outcome, RefusedWhy};
pub use event::{AssignProblem, Event};
pub use gate::{Evidence, GateKind, GateVerdict, Halt};
pub use health::{Counters, Spread};
pub use machine::{DeadlineReason, Rollout};
pub use plan::{Candidate, DEVICES_MAX, Ineligible, Plan, PlanError, PlannedWave, Requirement, bucket, plan};
pub use policy::DevicePolicy;
pub use saved::{FORMAT, RestoreError, Saved, SavedDevice};
pub use selector::{LISTED_MAX, Selector};
pub use spec::{
    CRITERIA_MAX, Commit, Criterion, ErrorThreshold, Gate, Metric, OnFailure, REST, RolloutSpec, SPEC_BYTES_MAX, Size,
    SpecError, WAVES_MAX, Wave, WaveRules,
};
pub use state::{
    Actor, Asked, Core, Device, FailureCode, PausedBy, Presence, Running, Scope, SkippedWhy, State, Step, WaveState,
};
pub use summary::{DeviceView, FailureView, StepCount, Summary, WaveView};
pub use waiting::{DeviceWaits, RolloutWaits, Waiting, WaveWaits};
