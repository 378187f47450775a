//! What a gate has found: the limit, what was measured, on how much, and what follows.

use super::spec::Metric;
use sedge_protocol::id::DeviceId;
use serde::{Deserialize, Serialize};

/// Most devices that are named as evidence.
pub(super) const EVIDENCE_DEVICES_MAX: usize = 20;

/// A condition that a wave must meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GateKind {
    /// Failures among devices that have come to an end, at most.
    Errors,
    /// Successes among devices that could be reached, at least.
    Success,
    /// Unreachable ones among all, at most.
    Unreachable,
    /// A metric from the field, against a limit.
    Field(Metric),
    /// A metric from the field, against the devices that the rollout has not touched.
    Control(Metric),
}

impl GateKind {
    /// Whether a smaller value is better.
    pub const fn is_upper_limit(self) -> bool {
        match self {
            Self::Errors | Self::Unreachable => true,
            Self::Success => false,
            Self::Field(metric) | Self::Control(metric) => {
                matches!(metric, Metric::ErrorRate | Metric::LatencyP95)
            }
        }
    }

    /// Whether its values are microseconds and not millionths.
    pub const fn is_latency(self) -> bool {
        matches!(self, Self::Field(Metric::LatencyP95) | Self::Control(Metric::LatencyP95))
    }
}

/// A gate's judgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GateVerdict {
    /// The condition is met.
    Pass,
    /// It is not.
    Fail,
    /// Nothing can be said yet.
    NotEnoughData,
}

/// A gate as it was judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Which.
    pub gate: GateKind,
    /// The limit, in millionths, or microseconds of a latency; nothing while the control has too few samples.
    pub limit: Option<u64>,
    /// What was measured, likewise, rounded down; nothing without a sample. Judged is the exact fraction.
    pub measured: Option<u64>,
    /// Devices or samples that meet what the gate counts; nothing where it does not count.
    pub count: Option<u64>,
    /// Devices or samples that were looked at; of the control, where it is what lacks.
    pub sample: u64,
    /// How many are needed.
    pub sample_min: u64,
    /// What follows.
    pub verdict: GateVerdict,
}

/// Why a rollout was halted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Halt {
    /// The wave whose gate failed, from 0.
    pub wave: usize,
    /// The gate.
    pub evidence: Evidence,
    /// Devices that show it; at most 20.
    pub devices: Vec<DeviceId>,
    /// What those that failed say, when the gate counts failures and all say the same.
    pub code: Option<super::state::FailureCode>,
}
