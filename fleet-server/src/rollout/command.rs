//! What people tell a rollout. A command that does not fit is refused with the state that it met, so that of two at once
//! the second learns what the first has done.

use super::effect::{Effect, Note, RefusedWhy};
use super::state::{Actor, PausedBy, Scope, State, Step, WaveState};
use super::turn::Turn;
use sedge_protocol::id::RolloutId;

impl Turn<'_> {
    fn refuse(&mut self, why: RefusedWhy) {
        self.effects.push(Effect::Refused { why });
    }

    fn state(&self) -> State {
        self.rollout.core.state.clone()
    }

    pub(super) fn start(&mut self, actor: Actor) {
        if self.rollout.core.state != State::Scheduled {
            return self.refuse(RefusedWhy::Started { state: self.state() });
        }
        self.rollout.core.state = State::Running;
        self.note(Note::Started { actor });
    }

    pub(super) fn pause(&mut self, actor: Actor) {
        match &self.rollout.core.state {
            State::Running => self.pause_by(PausedBy::Operator { actor }),
            // Somebody may want it to stay so when its reason is gone.
            State::Paused { by } if !matches!(by, PausedBy::Operator { .. }) => {
                self.pause_by(PausedBy::Operator { actor });
            }
            _ => self.refuse(RefusedWhy::NotRunning { state: self.state() }),
        }
    }

    pub(super) fn pause_by(&mut self, by: PausedBy) {
        self.rollout.core.state = State::Paused { by: by.clone() };
        self.note(Note::Paused { by });
    }

    pub(super) fn go_on(&mut self, actor: Actor) {
        if !matches!(self.rollout.core.state, State::Paused { .. }) {
            return self.refuse(RefusedWhy::NotPaused { state: self.state() });
        }
        self.rollout.core.state = State::Running;
        self.note(Note::Resumed { actor });
        let wave = self.rollout.core.wave;
        if let Some(tally) = self.rollout.tallies.get(wave) {
            self.rollout.core.unreachable_accepted = tally.of(Step::Unreachable);
        }
        for number in 0..self.rollout.devices.len() {
            let device = self.device(number);
            if device.lapsed && !device.released && device.step == Step::Back {
                self.ask_once_more(number);
            } else if device.asked.is_some() {
                self.ask_again(number);
            }
        }
    }

    /// Puts a device back among those that have not started.
    pub(super) fn ask_once_more(&mut self, number: usize) {
        self.change(number, |device| {
            device.step = Step::NotStarted;
            device.asked = None;
            device.tries = 0;
            device.lapsed = false;
            device.ended = false;
            device.tried = false;
            device.doubt = false;
            device.verdict = None;
            device.deadline_ms = None;
        });
        if number < self.rollout.core.next as usize {
            self.rollout.again.insert(number as u32);
        }
    }

    pub(super) fn abort(&mut self, actor: Actor, roll_back: bool) {
        let state = self.state();
        let widens = matches!(&state, State::RollingBack { scope, .. } if roll_back && *scope != Scope::All);
        if state.is_final() || (matches!(state, State::RollingBack { .. }) && !widens) {
            return self.refuse(RefusedWhy::TooLate { state });
        }
        self.note(Note::Aborted { actor, roll_back });
        let scope = if roll_back && self.rollout.touched > 0 { Scope::All } else { Scope::Uncommitted };
        let halt = state.halt().cloned();
        self.rollout.core.state = State::RollingBack { halt, scope };
        self.call_back(scope, self.rollout.core.wave);
    }

    pub(super) fn open_gate(&mut self, wave: usize, actor: Actor) {
        let may = matches!(self.rollout.core.state, State::Running | State::Paused { .. });
        match self.rollout.core.waves.get(wave) {
            Some(WaveState::AwaitingGate) if may && self.rollout.core.wave == wave => {
                self.note(Note::GateOpened { wave, actor });
                self.begin_wave(wave);
            }
            _ => self.refuse(RefusedWhy::NoGate { wave }),
        }
    }

    pub(super) fn superseded(&mut self, by: RolloutId) {
        let state = self.state();
        if state.is_final() {
            return self.refuse(RefusedWhy::TooLate { state });
        }
        self.rollout.core.state = State::Superseded { by };
        for number in 0..self.rollout.devices.len() {
            let step = self.device(number).step;
            if step.in_flight() || matches!(step, Step::Holding | Step::GoingBack | Step::Unreachable) {
                self.release(number);
            }
        }
        self.finish();
    }
}
