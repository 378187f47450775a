//! From a declaration and what is known of the devices to a plan.
//!
//! The same declaration, inventory and salt give the same plan, in whatever order the devices are listed. Eligibility
//! comes before membership, so that a device which cannot take part stalls no wave. A device's place is the hash of the
//! salt and its id: nobody can choose to be the canary, and another rollout has other canaries.

use super::policy::DEPLOYMENT;
use super::selector::Selector;
use super::spec::{Commit, REST, RolloutSpec, Size, SpecError, WaveRules};
use sedge_protocol::deployment::{CommitRule, DURATION_S_MAX};
use sedge_protocol::id::{DeviceId, RolloutId};
use sedge_protocol::tuf::canonical::canonical;
use sedge_protocol::{BundleDigest, Sha256Digest};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Most devices of a plan.
pub const DEVICES_MAX: usize = 1_000_000;
const FORMAT: u16 = 1;

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum PlanError {
    /// The declaration makes no sense.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Too many devices.
    #[error("{devices} devices; a plan holds at most {DEVICES_MAX}: select fewer")]
    TooMany { devices: usize },
    /// The inventory contradicts itself.
    #[error("the inventory lists device `{device}` twice")]
    Twice { device: DeviceId },
    /// It cannot be written in the form that is signed.
    #[error("the plan cannot be written: {problem}")]
    Write { problem: String },
}

/// What is known of a device before a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Its id.
    pub device: DeviceId,
    /// What the component runs, by its last report or heartbeat; nothing when that is not known.
    #[serde(default)]
    pub running: Option<BundleDigest>,
    /// What the component is to run.
    #[serde(default)]
    pub desired: Option<BundleDigest>,
    /// Whether it has ever been heard of.
    pub seen: bool,
    /// Whether it was taken out of service.
    #[serde(default)]
    pub decommissioned: bool,
    /// What the bundle requires and it lacks.
    #[serde(default)]
    pub unmet: Option<Requirement>,
    /// The active rollout of the same component that it is part of.
    #[serde(default)]
    pub rollout: Option<RolloutId>,
}

/// What a bundle may require of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Requirement {
    /// Its architecture.
    Architecture,
    /// Its memory.
    Memory,
    /// The version of its agent.
    AgentVersion,
    /// A capability of its agent.
    Capability,
}

/// Why a device takes no part.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "reason")]
#[allow(missing_docs)]
pub enum Ineligible {
    /// It runs the bundle already.
    AlreadyRuns,
    /// It was taken out of service.
    Decommissioned,
    /// It has enrolled, and nobody has heard of it since.
    NeverSeen,
    /// It is listed, and there is no such device.
    Unknown,
    /// It lacks something.
    RequirementUnmet { requirement: Requirement },
    /// It is part of another rollout of the same component.
    OtherRollout { rollout: RolloutId },
}

/// A wave with its members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedWave {
    /// Its name.
    pub name: String,
    /// Its rules.
    pub rules: WaveRules,
    /// How many devices of [`Plan::devices`] are its, after those of the waves before.
    pub devices: u32,
}

/// An immutable plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Format of this record.
    pub format: u16,
    /// The declaration.
    pub spec: RolloutSpec,
    /// What places devices in waves.
    pub salt: Sha256Digest,
    /// Waves, in order. Late joiners belong to the last.
    pub waves: Vec<PlannedWave>,
    /// Those who take part, wave after wave.
    pub devices: Vec<DeviceId>,
    /// Those selected who do not, and why.
    pub skipped: BTreeMap<DeviceId, Ineligible>,
    /// Seconds that a device waits for the verdict after its probation; none with `commit = "auto"`.
    pub verdict_deadline_s: Option<u32>,
}

/// Makes a plan.
///
/// # Errors
/// [`PlanError`].
pub fn plan(spec: RolloutSpec, inventory: &[Candidate], salt: Sha256Digest) -> Result<Plan, PlanError> {
    spec.check()?;
    if inventory.len() > DEVICES_MAX {
        return Err(PlanError::TooMany { devices: inventory.len() });
    }
    let mut known = BTreeSet::new();
    let mut skipped = BTreeMap::new();
    let mut placed = Vec::new();
    let listed: Option<BTreeSet<&DeviceId>> = match &spec.devices {
        Selector::Listed(devices) => Some(devices.iter().collect()),
        _ => None,
    };
    for candidate in inventory {
        let device = &candidate.device;
        if !known.insert(device) {
            return Err(PlanError::Twice { device: device.clone() });
        }
        if !listed.as_ref().map_or_else(|| spec.devices.selects(device), |listed| listed.contains(device)) {
            continue;
        }
        match candidate.ineligible(spec.digest) {
            Some(why) => drop(skipped.insert(device.clone(), why)),
            None => placed.push((bucket(&salt, device), device.clone())),
        }
    }
    let unknown = listed.iter().flatten().filter(|device| !known.contains(*device));
    skipped.extend(unknown.map(|device| ((*device).clone(), Ineligible::Unknown)));
    placed.sort_unstable();
    let devices: Vec<DeviceId> = placed.into_iter().map(|(_, device)| device).collect();
    let waves = waves(&spec, u32::try_from(devices.len()).unwrap_or(u32::MAX));
    let verdict_deadline_s = verdict_deadline_s(&spec, &waves)?;
    let plan = Plan { format: FORMAT, spec, salt, waves, devices, skipped, verdict_deadline_s };
    plan.bytes()?;
    Ok(plan)
}

/// A device's place: the smaller, the earlier.
pub fn bucket(salt: &Sha256Digest, device: &DeviceId) -> Sha256Digest {
    Sha256Digest::of(&[salt.as_bytes(), device.as_str().as_bytes()].concat())
}

fn waves(spec: &RolloutSpec, eligible: u32) -> Vec<PlannedWave> {
    let mut left = eligible;
    let mut waves = Vec::with_capacity(spec.waves.len() + 1);
    for wave in &spec.waves {
        let wanted = match wave.size {
            Size::Count(count) => count,
            Size::Percent(percent) => {
                u32::try_from((u64::from(eligible) * u64::from(percent)).div_ceil(100)).unwrap_or(u32::MAX)
            }
        };
        let devices = wanted.min(left);
        left -= devices;
        waves.push(PlannedWave { name: wave.name.clone(), rules: wave.rules(), devices });
    }
    waves.push(PlannedWave { name: REST.to_owned(), rules: spec.rest_rules(), devices: left });
    waves
}

/// How long a device may have to hold: until the last of its wave has come, batch after batch, and the soak is over.
/// Longer than a device accepts it cannot be; whoever has to hold longer goes back by itself and is asked again.
fn verdict_deadline_s(spec: &RolloutSpec, waves: &[PlannedWave]) -> Result<Option<u32>, SpecError> {
    if spec.commit == Commit::Auto {
        return Ok(None);
    }
    if let Some(CommitRule::Held { deadline_s }) = super::policy::DevicePolicy::of(&spec.settings, spec.digest)?.commit
    {
        return Ok(Some(deadline_s));
    }
    let needs = |wave: &PlannedWave| {
        let batches = wave.devices.div_ceil(spec.in_flight_max).max(1);
        let dispatch_s = batches.saturating_mul(wave.rules.deadline_s);
        dispatch_s.saturating_add(wave.rules.soak_s).saturating_add(super::spec::VERDICT_MARGIN_S)
    };
    let longest = waves.iter().map(needs).max().unwrap_or(0);
    Ok(Some(longest.max(spec.verdict_least().1).min(DURATION_S_MAX)))
}

impl Candidate {
    /// Why it takes no part in a rollout of this bundle.
    pub fn ineligible(&self, digest: BundleDigest) -> Option<Ineligible> {
        if self.decommissioned {
            return Some(Ineligible::Decommissioned);
        }
        if !self.seen {
            return Some(Ineligible::NeverSeen);
        }
        if let Some(rollout) = &self.rollout {
            return Some(Ineligible::OtherRollout { rollout: rollout.clone() });
        }
        if self.running == Some(digest) && self.desired.is_none_or(|desired| desired == digest) {
            return Some(Ineligible::AlreadyRuns);
        }
        self.unmet.map(|requirement| Ineligible::RequirementUnmet { requirement })
    }
}

impl Plan {
    fn bytes(&self) -> Result<Vec<u8>, PlanError> {
        let write = |problem: String| PlanError::Write { problem };
        let value = serde_json::to_value(self).map_err(|e| write(e.to_string()))?;
        canonical(&value).map_err(|e| write(e.to_string()))
    }

    /// SHA-256 of its canonical JSON: what an approval signs.
    ///
    /// # Errors
    /// [`PlanError::Write`], for a plan that did not come from [`plan()`].
    pub fn digest(&self) -> Result<Sha256Digest, PlanError> {
        Ok(Sha256Digest::of(&self.bytes()?))
    }

    /// Settings as each device gets them: with who says that the bundle stays.
    pub fn settings(&self) -> Map<String, Value> {
        let mut settings = self.spec.settings.clone();
        let commit = match self.verdict_deadline_s {
            Some(deadline_s) => json!({ "held": { "deadline_s": deadline_s } }),
            None => json!("auto"),
        };
        match settings.get_mut(DEPLOYMENT) {
            Some(Value::Object(policy)) => drop(policy.insert("commit".to_owned(), commit)),
            _ => drop(settings.insert(DEPLOYMENT.to_owned(), json!({ "commit": commit }))),
        }
        settings
    }
}
