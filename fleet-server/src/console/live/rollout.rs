//! A rollout's summary as the console shows it. A pure function.

use super::super::view::{
    BundleLabel, DeviceState, FailureView, GateView, RolloutState, RolloutView, WaveState, WaveView,
};
use super::source::Told;
use super::{gate, moment, waits};
use crate::rollout::{Note, Step, StepCount, Summary};
use sedge_protocol::id::RolloutId;
use sedge_protocol::time::UnixSeconds;

/// A word of the rollout that the console has no word for.
#[derive(Debug, thiserror::Error)]
#[error("the console does not know the state `{0}` of a rollout; this is a fault of Sedge, please report it")]
pub(super) struct UnknownState(String);

/// All that is shown of it. `told` is newest first.
pub(super) fn view(
    id: &RolloutId,
    summary: &Summary,
    told: &[Told],
    bundle: BundleLabel,
    now_ms: u64,
) -> Result<RolloutView, UnknownState> {
    let at = |is: fn(&Note) -> bool| told.iter().find(|told| is(&told.note)).map(|told| seconds(told.at_ms));
    let waves = summary.waves.iter().enumerate().filter(|(_, wave)| wave.devices > 0);
    let waves = waves.map(|(number, _)| wave(summary, number, told, now_ms)).collect::<Result<_, _>>()?;
    Ok(RolloutView {
        id: id.to_string(),
        bundle,
        state: state(&summary.state)?,
        sentence: summary.sentence.clone(),
        started_at: at(|note| matches!(note, Note::Started { .. })),
        ended_at: at(|note| matches!(note, Note::Ended { .. })),
        waves,
        gates: gates(summary),
        histogram: states(&summary.devices),
        failures: summary
            .failures
            .iter()
            .map(|failure| FailureView {
                code: gate::failure(&failure.code),
                devices: failure.devices.into(),
                named: failure.named.iter().map(ToString::to_string).collect(),
            })
            .collect(),
        waiting: waits::all(summary),
        timeline: told.iter().filter_map(|told| moment::of(told, summary)).collect(),
    })
}

/// `wave 1, canary`.
pub(super) fn wave_name(summary: &Summary, number: usize) -> String {
    match summary.waves.get(number) {
        Some(wave) => format!("wave {}, {}", number + 1, wave.name),
        None => format!("wave {}", number + 1),
    }
}

pub(super) fn seconds(ms: u64) -> UnixSeconds {
    UnixSeconds(i64::try_from(ms / 1000).unwrap_or(i64::MAX))
}

fn state(name: &str) -> Result<RolloutState, UnknownState> {
    use RolloutState as S;
    Ok(match name {
        "scheduled" => S::Scheduled,
        "running" => S::Running,
        "paused" => S::Paused,
        "halted" => S::Halted,
        "rolling-back" => S::RollingBack,
        "rolled-back" => S::RolledBack,
        "rollback-failed" => S::RollbackFailed,
        "completed" => S::Completed,
        "aborted" => S::Aborted,
        "superseded" => S::Superseded,
        name => return Err(UnknownState(name.into())),
    })
}

/// Whether a rollout stays as it is.
pub(super) fn has_ended(summary: &Summary) -> bool {
    use RolloutState as S;
    let ended = [S::RolledBack, S::RollbackFailed, S::Completed, S::Aborted, S::Superseded];
    state(&summary.state).is_ok_and(|state| ended.contains(&state))
}

fn wave_state(name: &str) -> Result<WaveState, UnknownState> {
    use WaveState as W;
    Ok(match name {
        "pending" => W::Pending,
        "awaiting-gate" => W::AwaitingGate,
        "dispatching" => W::Dispatching,
        "soaking" => W::Soaking,
        "judging" => W::Judging,
        "passed" => W::Passed,
        "failed" => W::Failed,
        "skipped" => W::Skipped,
        name => return Err(UnknownState(name.into())),
    })
}

/// Where a device stands that is at this step.
pub(super) fn device_state(step: Step) -> DeviceState {
    match step {
        Step::NotStarted => DeviceState::NotStarted,
        Step::Assigned => DeviceState::Assigned,
        Step::Progress => DeviceState::Progress,
        Step::Holding => DeviceState::Holding,
        Step::Succeeded => DeviceState::Succeeded,
        Step::Failed => DeviceState::Failed,
        Step::Rejected => DeviceState::Rejected,
        Step::TimedOut => DeviceState::TimedOut,
        Step::Unreachable => DeviceState::Unreachable,
        Step::GoingBack => DeviceState::GoingBack,
        Step::Back => DeviceState::Back,
        Step::Superseded => DeviceState::Superseded,
        Step::Skipped => DeviceState::Skipped,
    }
}

fn states(steps: &[StepCount]) -> Vec<(DeviceState, u64)> {
    steps.iter().map(|count| (device_state(count.step), count.devices.into())).collect()
}

fn wave(summary: &Summary, number: usize, told: &[Told], now_ms: u64) -> Result<WaveView, UnknownState> {
    let of = &summary.waves[number];
    // The last time that it began to be watched says for how long.
    let soak = told.iter().find_map(|told| match told.note {
        Note::WaveSoaks { wave, until_ms } if wave == number => Some((told.at_ms, until_ms)),
        _ => None,
    });
    let state = wave_state(&of.state)?;
    let watched = matches!(state, WaveState::Soaking | WaveState::Judging | WaveState::Passed);
    let soak = soak.filter(|_| watched).map(|(from_ms, until_ms)| {
        let need_ms = until_ms.saturating_sub(from_ms);
        let done_ms = if state == WaveState::Soaking { now_ms.saturating_sub(from_ms) } else { need_ms };
        (done_ms / 1000, need_ms / 1000)
    });
    Ok(WaveView { name: of.name.clone(), state, devices: of.devices.into(), states: states(&of.steps), soak })
}

/// Those of the wave that it is about: that failed, else that is under way, else that passed last.
fn gates(summary: &Summary) -> Vec<GateView> {
    let last = |states: &[&str]| summary.waves.iter().rev().find(|wave| states.contains(&wave.state.as_str()));
    let wave = last(&["failed"]).or_else(|| last(&["dispatching", "soaking", "judging"])).or_else(|| last(&["passed"]));
    let Some(wave) = wave else { return Vec::new() };
    wave.gates.iter().map(|evidence| gate::view(evidence, &wave.name)).collect()
}
