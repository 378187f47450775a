//! A rollout as people and tools see it.

use super::event::AssignProblem;
use super::gate::{Evidence, Halt};
use super::machine::Rollout;
use super::plan::Ineligible;
use super::spec::{Gate, OnFailure};
use super::state::{FailureCode, Running, State, Step, WaveState};
use super::waiting::{RolloutWaits, WaveWaits};
use sedge_protocol::BundleDigest;
use sedge_protocol::id::{BundleName, ComponentName, DeviceId, ProjectId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most devices that a failure names.
const NAMED_MAX: usize = 20;

/// A rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Its project.
    pub project: ProjectId,
    /// What is updated.
    pub component: ComponentName,
    /// Name of the bundle.
    pub bundle: BundleName,
    /// The bundle.
    pub digest: BundleDigest,
    /// All in one sentence or two, in English.
    pub sentence: String,
    /// Name of the state.
    pub state: String,
    /// The gate that failed.
    pub halt: Option<Halt>,
    /// What it waits for.
    pub waiting: Option<RolloutWaits>,
    /// What follows when a gate fails.
    pub on_failure: OnFailure,
    /// Its waves.
    pub waves: Vec<WaveView>,
    /// Every device is in one of these; none is left out.
    pub devices: Vec<StepCount>,
    /// How many take part.
    pub devices_total: u32,
    /// How many have ever been assigned the bundle.
    pub devices_touched: u32,
    /// How many of those are measured to run something else, and are not on their way.
    pub devices_back: u32,
    /// How many were selected and take no part, by reason.
    pub ineligible: BTreeMap<String, u32>,
    /// Why devices failed.
    pub failures: Vec<FailureView>,
    /// The first result that the bundle served anywhere, by that device's clock, in milliseconds since 1970.
    pub first_result_ts_ms: Option<u64>,
    /// When the last device was measured to run something else again, in milliseconds since 1970.
    pub last_back_ms: Option<u64>,
    /// Milliseconds from the one to the other.
    pub first_result_to_last_back_ms: Option<u64>,
}

/// A wave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaveView {
    /// Its number, from 1.
    pub number: usize,
    /// Its name.
    pub name: String,
    /// Name of its state.
    pub state: String,
    /// Whether somebody must let it begin.
    pub manual: bool,
    /// What it waits for.
    pub waiting: Option<WaveWaits>,
    /// How many devices it has.
    pub devices: u32,
    /// They are in these.
    pub steps: Vec<StepCount>,
    /// Its gates: as they were when it passed or failed, else as they are.
    pub gates: Vec<Evidence>,
    /// End of its soak.
    pub soak_until_ms: Option<u64>,
}

/// Devices at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct StepCount {
    pub step: Step,
    pub devices: u32,
}

/// Devices that failed alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureView {
    /// How.
    pub code: FailureCode,
    /// How many.
    pub devices: u32,
    /// Some of them.
    pub named: Vec<DeviceId>,
}

/// A device within a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceView {
    /// The device.
    pub device: DeviceId,
    /// Number of its wave, from 1.
    pub wave: usize,
    /// Where it is.
    pub step: Step,
    /// What it waits for.
    pub waiting: Option<super::waiting::DeviceWaits>,
    /// Why it failed.
    pub code: Option<FailureCode>,
}

pub(super) fn counts(of: impl Fn(Step) -> u32) -> Vec<StepCount> {
    Step::ALL.iter().map(|&step| StepCount { step, devices: of(step) }).collect()
}

impl Rollout {
    /// All that a page or a command shows. Looks at every device.
    pub fn summary(&self, now_ms: u64) -> Summary {
        let spec = &self.plan.spec;
        let (first, last) = (self.core.first_result_ts_ms, self.core.last_back_ms);
        let mut ineligible = BTreeMap::new();
        for why in self.plan.skipped.values() {
            *ineligible.entry(why.name().to_owned()).or_default() += 1;
        }
        Summary {
            project: spec.project.clone(),
            component: spec.component.clone(),
            bundle: spec.bundle.clone(),
            digest: spec.digest,
            sentence: self.sentence(now_ms),
            state: self.core.state.name().to_owned(),
            halt: self.core.state.halt().cloned(),
            waiting: self.rollout_waits(),
            on_failure: spec.on_failure,
            waves: (0..self.core.waves.len()).map(|wave| self.wave_view(wave)).collect(),
            devices: counts(|step| self.count(step)),
            devices_total: u32::try_from(self.devices.len()).unwrap_or(u32::MAX),
            devices_touched: self.touched,
            devices_back: self.devices_back(),
            ineligible,
            failures: self.failures(),
            first_result_ts_ms: first,
            last_back_ms: last,
            first_result_to_last_back_ms: first.zip(last).map(|(first, last)| last.saturating_sub(first)),
        }
    }

    /// How a device fares in the rollout.
    pub fn device_view(&self, device: &DeviceId) -> Option<DeviceView> {
        let (of, wave) = self.device(device)?;
        Some(DeviceView {
            device: device.clone(),
            wave: wave + 1,
            step: of.step,
            waiting: self.device_waits(device),
            code: of.code.clone(),
        })
    }

    pub(super) fn devices_back(&self) -> u32 {
        let ended = |step: Step| step == Step::Back || step.is_failure();
        let back =
            self.devices.iter().filter(|d| d.touched && ended(d.step) && d.running == Running::Other && !d.is_stuck());
        u32::try_from(back.count()).unwrap_or(u32::MAX)
    }

    fn wave_view(&self, wave: usize) -> WaveView {
        let (planned, state, tally) = (&self.plan.waves[wave], &self.core.waves[wave], &self.tallies[wave]);
        let (gates, soak_until_ms) = match state {
            WaveState::Passed { evidence } | WaveState::Failed { evidence } => (evidence.clone(), None),
            WaveState::Soaking { until_ms } => (self.gates(wave), Some(*until_ms)),
            _ => (self.gates(wave), None),
        };
        WaveView {
            number: wave + 1,
            name: planned.name.clone(),
            state: state.name().to_owned(),
            manual: planned.rules.gate == Gate::Manual,
            waiting: self.wave_waits(wave),
            devices: tally.count(|_| true),
            steps: counts(|step| tally.of(step)),
            gates,
            soak_until_ms,
        }
    }

    fn failures(&self) -> Vec<FailureView> {
        let mut found = BTreeMap::<&FailureCode, FailureView>::new();
        for (id, device) in self.ids.iter().zip(&self.devices) {
            let Some(code) = &device.code else { continue };
            let view =
                found.entry(code).or_insert_with(|| FailureView { code: code.clone(), devices: 0, named: Vec::new() });
            view.devices += 1;
            if view.named.len() < NAMED_MAX {
                view.named.push(id.clone());
            }
        }
        let mut found: Vec<_> = found.into_values().collect();
        found.sort_by_key(|view| std::cmp::Reverse(view.devices));
        found
    }
}

impl State {
    /// Whether it can be said to go on by itself.
    pub const fn moves(&self) -> bool {
        matches!(self, Self::Running | Self::RollingBack { .. })
    }
}

impl Ineligible {
    /// Its name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::AlreadyRuns => "already-runs",
            Self::Decommissioned => "decommissioned",
            Self::NeverSeen => "never-seen",
            Self::Unknown => "unknown",
            Self::RequirementUnmet { .. } => "requirement-unmet",
            Self::OtherRollout { .. } => "other-rollout",
        }
    }
}

impl AssignProblem {
    /// What to tell people.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Busy => "the server could not assign the bundle, again and again",
            Self::NotReleased => "the publisher has not released the bundle",
            Self::NotUploaded => "nobody has uploaded the bundle",
            Self::NoDevice => "there is no such device",
            Self::NoEarlier => "there is nothing to go back to",
        }
    }
}
