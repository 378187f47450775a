//! What a device is ordered to run, and what it has in its two slots.

use crate::digest::BundleDigest;
use crate::id::{Generation, RolloutId};
use serde::{Deserialize, Serialize};

/// Largest settings as JSON; stops an order that only fills the journal.
pub const SETTINGS_BYTES_MAX: usize = 96 * 1024;
/// Longest duration that an order may ask for: 30 days.
pub const DURATION_S_MAX: u32 = 30 * 24 * 3600;
/// Most trials of one order.
pub const ATTEMPTS_MAX: u8 = 10;

/// What the server wants this component to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Number of the desired state that gave the order.
    pub generation: Generation,
    /// The bundle.
    pub digest: BundleDigest,
    /// Bytes of the bundle.
    pub length_bytes: u64,
    /// Settings of the pipeline, any JSON.
    #[serde(default)]
    pub settings: serde_json::Value,
    /// The rollout it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutId>,
    /// Who says that it stays.
    #[serde(default)]
    pub commit: CommitRule,
    /// What the shadow run must show.
    #[serde(default)]
    pub shadow: ShadowLimits,
    /// Seconds of good health that it must show while serving.
    #[serde(default = "default_probation_s")]
    pub probation_s: u32,
    /// Most trials, counting those that a power cut interrupted.
    #[serde(default = "default_attempts")]
    pub attempts_max: u8,
    /// Most bytes the download may cost; stops a delta that silently became a full download on a cellular line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download_bytes_max: Option<u64>,
    /// How long each stage may take.
    #[serde(default)]
    pub deadlines: Deadlines,
    /// Not to be started after this time, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after_unix_s: Option<u64>,
    /// What to do without memory for two workers.
    #[serde(default)]
    pub cold_swap: ColdSwap,
    /// Whether taking over restarts the agent or the machine, as for the agent and the system image.
    #[serde(default)]
    pub restarts: bool,
}

const fn default_probation_s() -> u32 {
    60
}

const fn default_attempts() -> u8 {
    3
}

/// Who says that a bundle stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommitRule {
    /// The device, when probation has passed.
    #[default]
    Auto,
    /// The server. Silence is no consent: at the deadline the device goes back.
    Held {
        /// Seconds after probation that the device waits for the verdict.
        deadline_s: u32,
    },
}

/// What the shadow run must show before the new worker takes over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShadowLimits {
    /// Live samples that both workers must have answered; 0 asks for no shadow run.
    pub samples_min: u32,
    /// Most disagreements per thousand samples.
    pub disagreement_max_permille: u16,
    /// Most microseconds at the 95th percentile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_p95_max_us: Option<u32>,
    /// Most samples that the new worker fails to answer.
    pub errors_max: u32,
}

impl Default for ShadowLimits {
    fn default() -> Self {
        Self { samples_min: 100, disagreement_max_permille: 100, latency_p95_max_us: None, errors_max: 0 }
    }
}

/// Seconds that each stage may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deadlines {
    /// From arrival to authorisation.
    pub authorize_s: u32,
    /// From authorisation to the last byte, waiting included.
    pub download_s: u32,
    /// Checking the staged bundle.
    pub verify_s: u32,
    /// From a checked bundle to the start of its trial.
    pub apply_s: u32,
    /// Start, golden samples, shadow run and take-over.
    pub trial_s: u32,
}

impl Default for Deadlines {
    fn default() -> Self {
        let day = 24 * 3600;
        Self { authorize_s: 3600, download_s: 7 * day, verify_s: 3600, apply_s: 7 * day, trial_s: day }
    }
}

/// What a device without memory for two workers does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ColdSwap {
    /// Stops the old worker first and keeps samples meanwhile. No shadow run is possible then.
    Allowed {
        /// Bytes of samples kept; the oldest are dropped.
        samples_bytes_max: u64,
    },
    /// Rejects the order.
    Refused,
}

impl Default for ColdSwap {
    fn default() -> Self {
        Self::Allowed { samples_bytes_max: 8 << 20 }
    }
}

impl Order {
    /// An order with the default limits.
    pub fn new(generation: Generation, digest: BundleDigest, length_bytes: u64) -> Self {
        Self {
            generation,
            digest,
            length_bytes,
            settings: serde_json::Value::Null,
            rollout: None,
            commit: CommitRule::default(),
            shadow: ShadowLimits::default(),
            probation_s: default_probation_s(),
            attempts_max: default_attempts(),
            download_bytes_max: None,
            deadlines: Deadlines::default(),
            not_after_unix_s: None,
            cold_swap: ColdSwap::default(),
            restarts: false,
        }
    }

    /// What makes the order unfit to follow, however well it is signed.
    pub fn fault(&self) -> Option<&'static str> {
        let d = &self.deadlines;
        let durations = [d.authorize_s, d.download_s, d.verify_s, d.apply_s, d.trial_s, self.probation_s];
        let held = match self.commit {
            CommitRule::Auto => 1,
            CommitRule::Held { deadline_s } => deadline_s,
        };
        if durations.iter().chain([&held]).any(|s| !(1..=DURATION_S_MAX).contains(s)) {
            return Some("a duration is not within 1 second and 30 days");
        }
        if !(1..=ATTEMPTS_MAX).contains(&self.attempts_max) {
            return Some("`attempts_max` is not within 1 and 10");
        }
        if self.shadow.disagreement_max_permille > 1000 {
            return Some("`disagreement_max_permille` is above 1000");
        }
        (self.length_bytes == 0).then_some("`length_bytes` is 0")
    }

    pub(super) fn is_too_large(&self) -> bool {
        serde_json::to_vec(&self.settings).map_or(true, |json| json.len() > SETTINGS_BYTES_MAX)
    }

    pub(super) fn bundle(&self) -> Bundle {
        Bundle {
            generation: self.generation,
            digest: self.digest,
            length_bytes: self.length_bytes,
            settings: self.settings.clone(),
            rollout: self.rollout.clone(),
            restarts: self.restarts,
        }
    }
}

/// One of the two places on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Slot {
    /// The first.
    #[default]
    A,
    /// The second.
    B,
}

impl Slot {
    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// A bundle with the settings it runs under, and the order that brought it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// Generation of its order.
    pub generation: Generation,
    /// The bundle.
    pub digest: BundleDigest,
    /// Bytes of the bundle.
    pub length_bytes: u64,
    /// Settings of the pipeline.
    #[serde(default)]
    pub settings: serde_json::Value,
    /// Rollout of its order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutId>,
    /// Whether taking over restarts the agent or the machine.
    #[serde(default)]
    pub restarts: bool,
}

/// The committed bundle and its place. This is what the device goes back to; only a commit, or a step back to the
/// bundle committed before, changes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Active {
    /// Where it is.
    pub slot: Slot,
    /// What it is.
    pub bundle: Bundle,
}

/// What the other slot holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Inactive {
    /// Nothing of worth.
    #[default]
    Empty,
    /// The bundle committed before the active one, fixed when that was committed.
    Previous(Bundle),
    /// A bundle on its way in, complete or not.
    Staging(Bundle),
}
