//! What somebody declares: which bundle goes where, in which waves, and what stops it.
//!
//! Shares are in permille, durations in seconds, latencies in microseconds; there are no fractions, because a plan is
//! signed.

mod check;
mod size;

pub(super) use check::VERDICT_MARGIN_S;
pub use size::Size;

use super::selector::Selector;
use sedge_protocol::BundleDigest;
use sedge_protocol::id::{BundleName, ComponentName, ProjectId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Most waves that a rollout declares.
pub const WAVES_MAX: usize = 64;
/// Most criteria.
pub const CRITERIA_MAX: usize = 16;
/// Name of the last wave, which takes the rest.
pub const REST: &str = "rest";
/// Longest declaration that is read.
pub const SPEC_BYTES_MAX: usize = 4 << 20;

/// A declaration that cannot be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// Its text.
    #[error("the rollout is not as expected: {problem}")]
    Read {
        /// Where and why.
        problem: String,
    },
    /// A field.
    #[error("`{field}`: {problem}")]
    Field {
        /// Which, as it is written.
        field: String,
        /// What it is and what would be right.
        problem: String,
    },
}

/// A declared rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutSpec {
    /// The project.
    pub project: ProjectId,
    /// What on each device is updated.
    pub component: ComponentName,
    /// Name of the bundle.
    pub bundle: BundleName,
    /// The bundle.
    pub digest: BundleDigest,
    /// Which devices.
    #[serde(default)]
    pub devices: Selector,
    /// Settings of the component; its key `deployment` holds the device's policy.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub settings: Map<String, Value>,
    /// Who says that the bundle stays on a device.
    #[serde(default)]
    pub commit: Commit,
    /// Waves, in order; what they leave over is the last one, `rest`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waves: Vec<Wave>,
    /// The rules of the last wave; those of the last declared one when left out, without its manual gate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest: Option<WaveRules>,
    /// Most failures.
    #[serde(default)]
    pub errors: ErrorThreshold,
    /// What the field must show.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub criteria: Vec<Criterion>,
    /// Most devices of a wave, per thousand, that may be unreachable; one more pauses the rollout.
    #[serde(default = "default_unreachable")]
    pub unreachable_max_permille: u32,
    /// Most devices that may be on their way at once.
    #[serde(default = "default_in_flight")]
    pub in_flight_max: u32,
    /// What follows when a gate fails.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// Seconds that a device gets to go back before it counts as unreachable or as stuck.
    #[serde(default = "default_back")]
    pub back_deadline_s: u32,
}

/// Who says that a bundle stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Commit {
    /// The server, when the wave has passed. Until then a device keeps the old worker warm, and goes back within
    /// milliseconds.
    #[default]
    Held,
    /// Each device, after its probation.
    Auto,
}

/// A wave. What is left out is as in [`WaveRules::default`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wave {
    /// Its name.
    pub name: String,
    /// How many devices.
    pub size: Size,
    /// As in [`WaveRules`].
    #[serde(default = "default_success")]
    pub success_min_permille: u32,
    /// As in [`WaveRules`].
    #[serde(default = "default_soak")]
    pub soak_s: u32,
    /// As in [`WaveRules`].
    #[serde(default)]
    pub gate: Gate,
    /// As in [`WaveRules`].
    #[serde(default = "default_deadline")]
    pub deadline_s: u32,
}

impl Wave {
    /// Its rules.
    pub fn rules(&self) -> WaveRules {
        let Self { success_min_permille, soak_s, gate, deadline_s, .. } = *self;
        WaveRules { success_min_permille, soak_s, gate, deadline_s }
    }
}

/// The rules of a wave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WaveRules {
    /// Least successes, per thousand of the devices that could be reached.
    pub success_min_permille: u32,
    /// Seconds that it is watched after its last device has arrived.
    pub soak_s: u32,
    /// How it begins.
    pub gate: Gate,
    /// Seconds that each device gets.
    pub deadline_s: u32,
}

/// How a wave begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gate {
    /// When the one before has passed.
    #[default]
    Automatic,
    /// When somebody says so.
    Manual,
}

/// Most failures of a wave. Above it, not at it, the rollout halts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ErrorThreshold {
    /// Failures per thousand devices that have come to an end.
    pub max_permille: u32,
    /// Devices that must have come to an end before it is judged; all of a wave that is smaller.
    pub executed_min: u32,
}

/// What the field must show of a wave's devices, from their heartbeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Criterion {
    /// What is measured.
    pub metric: Metric,
    /// Most errors, or least accuracy or confidence, per thousand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_permille: Option<u32>,
    /// Longest latency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_us: Option<u64>,
    /// How much worse than the devices that the rollout has not touched: points per thousand of a share, and a share of
    /// the control's latency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop_max_permille: Option<u32>,
    /// Samples below which nothing is judged, of the wave and of the control; labelled ones for accuracy.
    pub samples_min: u64,
}

/// What is measured in the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Samples that failed, of all.
    ErrorRate,
    /// Right answers, of those whose label is known.
    Accuracy,
    /// Mean confidence.
    Confidence,
    /// The median device's 95th percentile.
    #[serde(rename = "latency-p95")]
    LatencyP95,
}

impl Metric {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ErrorRate => "error-rate",
            Self::Accuracy => "accuracy",
            Self::Confidence => "confidence",
            Self::LatencyP95 => "latency-p95",
        }
    }
}

/// What follows when a gate fails. Devices that have not committed yet are called back in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// What has committed stays.
    Halt,
    /// Every device of the wave goes back.
    RollBackWave,
    /// Every device that the rollout has touched goes back.
    #[default]
    RollBackAll,
}

const fn default_success() -> u32 {
    950
}

const fn default_soak() -> u32 {
    600
}

const fn default_deadline() -> u32 {
    24 * 3600
}

const fn default_unreachable() -> u32 {
    200
}

const fn default_in_flight() -> u32 {
    100
}

const fn default_back() -> u32 {
    3600
}

impl Default for WaveRules {
    fn default() -> Self {
        Self {
            success_min_permille: default_success(),
            soak_s: default_soak(),
            gate: Gate::Automatic,
            deadline_s: default_deadline(),
        }
    }
}

impl Default for ErrorThreshold {
    fn default() -> Self {
        Self { max_permille: 50, executed_min: 5 }
    }
}

impl RolloutSpec {
    /// Reads TOML.
    ///
    /// # Errors
    /// [`SpecError`] for what cannot be read or makes no sense.
    pub fn from_toml(text: &str) -> Result<Self, SpecError> {
        bounded(text.len())?;
        let spec: Self = toml::from_str(text).map_err(|e| SpecError::Read { problem: e.to_string() })?;
        spec.check().map(|()| spec)
    }

    /// Reads JSON.
    ///
    /// # Errors
    /// As [`RolloutSpec::from_toml`].
    pub fn from_json(text: &[u8]) -> Result<Self, SpecError> {
        bounded(text.len())?;
        let spec: Self = serde_json::from_slice(text).map_err(|e| SpecError::Read { problem: e.to_string() })?;
        spec.check().map(|()| spec)
    }

    /// The rules of the last wave.
    pub fn rest_rules(&self) -> WaveRules {
        let last = self.waves.last().map(|wave| WaveRules { gate: Gate::Automatic, ..wave.rules() });
        self.rest.or(last).unwrap_or_default()
    }
}

fn bounded(length: usize) -> Result<(), SpecError> {
    if length <= SPEC_BYTES_MAX {
        return Ok(());
    }
    Err(SpecError::Read { problem: format!("it has {length} bytes; at most {SPEC_BYTES_MAX} are read") })
}
