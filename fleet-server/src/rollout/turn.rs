//! One event being taken: what it is about changes, then gates judge and waves advance until nothing moves.

use super::effect::{Effect, Note, Outcome};
use super::event::Event;
use super::machine::Rollout;
use super::state::{Asked, Device, State, Step, WaveState};
use sedge_protocol::id::{DeviceId, Generation};
use sedge_protocol::message::Verdict;

/// What every running deadline gets after a restart of the server: it has heard nothing meanwhile, and what devices have
/// said is still on its way to it.
const RESUME_GRACE_MS: u64 = 60_000;
/// One event being taken.
pub(super) struct Turn<'a> {
    pub(super) rollout: &'a mut Rollout,
    pub(super) now_ms: u64,
    pub(super) effects: Vec<Effect>,
    /// The wave that the event was about, when a device's.
    pub(super) wave: Option<usize>,
}

impl Turn<'_> {
    pub(super) fn note(&mut self, note: Note) {
        self.effects.push(Effect::Note(note));
    }

    pub(super) fn device(&self, number: usize) -> &Device {
        &self.rollout.devices[number]
    }

    pub(super) fn id(&self, number: usize) -> DeviceId {
        self.rollout.ids[number].clone()
    }

    pub(super) fn change(&mut self, number: usize, change: impl FnOnce(&mut Device)) {
        self.rollout.change(number, change);
    }

    pub(super) fn is_running(&self) -> bool {
        self.rollout.core.state == State::Running
    }

    pub(super) fn after(&self, seconds: u32) -> u64 {
        self.now_ms.saturating_add(u64::from(seconds) * 1000)
    }

    pub(super) fn verdict(&mut self, number: usize, verdict: Verdict) {
        let (device, generation) = (self.id(number), self.device(number).generation);
        if generation > Generation(0) {
            self.change(number, |device| device.verdict = Some(verdict));
            self.effects.push(Effect::Verdict { device, generation, verdict });
        }
    }

    pub(super) fn take(&mut self, event: Event) {
        match event {
            Event::Start { actor } => self.start(actor),
            Event::Pause { actor } => self.pause(actor),
            Event::Resume { actor } => self.go_on(actor),
            Event::Abort { actor, roll_back } => self.abort(actor, roll_back),
            Event::ManualGatePassed { wave, actor } => self.open_gate(wave, actor),
            Event::Superseded { by } => self.superseded(by),
            Event::ControlHealth { counters, devices } => self.control(counters, devices),
            Event::DeviceJoined { candidate } => self.join(&candidate),
            Event::Deadline => self.deadlines(),
            event => self.of_device(event),
        }
    }

    pub(super) fn resume(&mut self) {
        if let Some(outcome) = Outcome::of(&self.rollout.core.state) {
            self.effects.push(Effect::Finish { outcome });
        }
        let grace_ms = self.now_ms.saturating_add(RESUME_GRACE_MS);
        if let Some(WaveState::Soaking { until_ms }) = self.rollout.core.waves.get_mut(self.rollout.core.wave) {
            *until_ms = (*until_ms).max(grace_ms);
        }
        for number in 0..self.rollout.devices.len() {
            if self.device(number).deadline_ms.is_some_and(|at_ms| at_ms < grace_ms) {
                self.change(number, |device| device.deadline_ms = Some(grace_ms));
            }
            self.ask_again(number);
        }
    }

    /// Repeats what nobody has answered.
    pub(super) fn ask_again(&mut self, number: usize) {
        let of = self.device(number);
        let (asked, verdict, step) = (of.asked, of.verdict, of.step);
        if let Some(verdict) = verdict
            && matches!(step, Step::Holding | Step::GoingBack)
        {
            self.verdict(number, verdict);
        }
        match asked {
            // Whether it was assigned before the server died is not known, and is not needed while nothing is assigned.
            Some(Asked::Assign) if self.is_running() => self.effects.push(Effect::Assign { device: self.id(number) }),
            Some(Asked::RollBack) => self.effects.push(Effect::RollBack { device: self.id(number) }),
            _ => {}
        }
    }
}

impl Outcome {
    /// The outcome of a final state.
    pub const fn of(state: &State) -> Option<Self> {
        Some(match state {
            State::Completed => Self::Completed,
            State::RolledBack { .. } => Self::RolledBack,
            State::RollbackFailed { .. } => Self::RollbackFailed,
            State::Aborted { .. } => Self::Aborted,
            State::Superseded { .. } => Self::Superseded,
            _ => return None,
        })
    }
}
