//! What happens to a rollout.

use super::health::Counters;
use super::plan::Candidate;
use super::state::Actor;
use sedge_protocol::BundleDigest;
use sedge_protocol::id::{DeviceId, Generation, RolloutId};
use sedge_protocol::message::{DeploymentState, ErrorCode};

/// Something that happened. The same event may come twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Begin.
    Start {
        /// Who says so.
        actor: Actor,
    },
    /// Assign nothing more, and open no gate.
    Pause {
        /// Who says so.
        actor: Actor,
    },
    /// Go on. Devices that went back because no verdict reached them in time are asked again.
    Resume {
        /// Who says so.
        actor: Actor,
    },
    /// End it.
    Abort {
        /// Who says so.
        actor: Actor,
        /// Whether devices that have committed go back too. Those that have not are called back in any case.
        roll_back: bool,
    },
    /// A wave with a manual gate may begin.
    ManualGatePassed {
        /// Its number, from 0: two people who say so at once open one gate.
        wave: usize,
        /// Who says so.
        actor: Actor,
    },
    /// A later rollout of the same component has taken over all devices.
    Superseded {
        /// Which.
        by: RolloutId,
    },
    /// [`super::Effect::Assign`] was performed.
    Assigned {
        /// The device.
        device: DeviceId,
        /// Its new generation.
        generation: Generation,
    },
    /// [`super::Effect::Assign`] could not be performed.
    AssignFailed {
        /// The device.
        device: DeviceId,
        /// Why.
        problem: AssignProblem,
    },
    /// [`super::Effect::RollBack`] was performed, or was not needed.
    RollBackAssigned {
        /// The device.
        device: DeviceId,
        /// Its generation now.
        generation: Generation,
    },
    /// [`super::Effect::RollBack`] could not be performed.
    RollBackFailed {
        /// The device.
        device: DeviceId,
        /// Why.
        problem: AssignProblem,
    },
    /// A device has reported the component's state. Reports come in the order of their `ReportKey`; the latest is told
    /// again after [`Event::Assigned`], since a device may be faster than the answer of the server.
    DeviceReported {
        /// The device.
        device: DeviceId,
        /// The generation that it answers.
        generation: Generation,
        /// Where its deployment stands.
        state: DeploymentState,
        /// Whether it has passed its probation and waits for a verdict.
        held: bool,
        /// What it runs, measured.
        running: Option<BundleDigest>,
        /// What went wrong.
        error: Option<ErrorCode>,
    },
    /// A device has said how it fares.
    Heartbeat {
        /// The device.
        device: DeviceId,
        /// What it runs, measured.
        running: BundleDigest,
        /// What it has counted for the rollout's bundle, since it first ran it; nothing when it has not.
        counters: Option<Counters>,
        /// When the rollout's bundle served its first result there, in milliseconds since 1970.
        first_result_ts_ms: Option<u64>,
    },
    /// How the devices fare that the rollout has not touched, all together.
    ControlHealth {
        /// Their counters.
        counters: Counters,
        /// How many they are.
        devices: u32,
    },
    /// A device has come or gone.
    Presence {
        /// The device.
        device: DeviceId,
        /// Whether it is connected.
        online: bool,
    },
    /// A device has joined since the plan; it belongs to the last wave when it is eligible.
    DeviceJoined {
        /// What is known of it.
        candidate: Candidate,
    },
    /// A device was taken out of service.
    DeviceGone {
        /// The device.
        device: DeviceId,
    },
    /// Somebody else has assigned something to the component.
    OtherAssignment {
        /// The device.
        device: DeviceId,
        /// Its generation.
        generation: Generation,
    },
    /// The time of [`super::Rollout::next_deadline`] has come.
    Deadline,
}

/// Why an assignment could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AssignProblem {
    /// The database or a key could not be used just now.
    Busy,
    /// The publisher has not released the bundle, or no longer.
    NotReleased,
    /// Nobody has uploaded the bundle.
    NotUploaded,
    /// There is no such device any more.
    NoDevice,
    /// There is nothing that it may go back to.
    NoEarlier,
}
