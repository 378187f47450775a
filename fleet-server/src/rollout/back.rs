//! The way back.
//!
//! A device is called back by two means at once. The verdict makes one that has not committed return within
//! milliseconds, as its old worker is warm. The new, higher generation makes it true for good: whoever was offline, has
//! committed, or has only just heard of the bundle, is brought back by it, in a week if need be. Back is what has been
//! measured: the device has ended its deployment and runs something else, and the server desires nothing else of it.

use super::effect::{Effect, Note};
use super::event::AssignProblem;
use super::state::{Asked, Device, FailureCode, Presence, Running, Scope, State, Step, WaveState};
use super::turn::Turn;
use sedge_protocol::id::Generation;
use sedge_protocol::message::Verdict;

impl Turn<'_> {
    /// Calls devices back; `failed` is the wave that is about.
    pub(super) fn call_back(&mut self, scope: Scope, failed: usize) {
        let called: Vec<usize> =
            (0..self.rollout.devices.len()).filter(|&number| self.is_called(number, scope, failed)).collect();
        // Verdicts first: where the old worker is warm they end the harm within milliseconds.
        called.iter().for_each(|&number| self.turn_back(number));
        for &number in &called {
            self.effects.push(Effect::RollBack { device: self.id(number) });
        }
        self.note(Note::CalledBack { scope, devices: u32::try_from(called.len()).unwrap_or(u32::MAX) });
    }

    fn is_called(&self, number: usize, scope: Scope, failed: usize) -> bool {
        let (device, wave) = (self.device(number), self.rollout.wave_of(number));
        let ours = match device.step {
            Step::NotStarted => device.touched,
            Step::Superseded | Step::Skipped | Step::GoingBack => false,
            _ => !device.released && device.back_generation <= device.generation,
        };
        let passed = matches!(self.rollout.core.waves.get(wave), Some(WaveState::Passed { .. }));
        ours && match scope {
            Scope::All => true,
            Scope::Wave if wave == failed => true,
            Scope::Wave | Scope::Uncommitted => {
                device.step == Step::NotStarted || (!passed && device.step != Step::Succeeded)
            }
        }
    }

    fn turn_back(&mut self, number: usize) {
        let at_ms = self.after(self.rollout.plan.spec.back_deadline_s);
        let on_its_way = self.device(number).step.in_flight() || self.device(number).step == Step::Holding;
        self.change(number, |device| {
            device.step = Step::GoingBack;
            device.asked = Some(Asked::RollBack);
            device.tries = 0;
            device.verdict = None;
            device.lapsed = false;
            device.doubt = false;
            device.deadline_ms = Some(at_ms);
        });
        if on_its_way {
            self.verdict(number, Verdict::Revert);
        }
    }

    /// The server desires of a device what was before.
    pub(super) fn roll_back_assigned(&mut self, number: usize, generation: Generation) {
        if self.device(number).asked != Some(Asked::RollBack) {
            return;
        }
        self.change(number, |device| {
            device.asked = None;
            device.tries = 0;
            device.back_generation = generation.max(device.back_generation);
        });
        self.check_back(number);
    }

    pub(super) fn roll_back_failed(&mut self, number: usize, problem: AssignProblem) {
        if self.device(number).asked != Some(Asked::RollBack) {
            return;
        }
        self.note(Note::AssignFailed { device: self.id(number), problem });
        if self.device(number).step != Step::GoingBack {
            return self.change(number, |device| device.asked = None);
        }
        if problem == AssignProblem::Busy && self.retry_later(number) {
            return;
        }
        match problem {
            AssignProblem::NoDevice => self.skip(number),
            _ => self.fail_to_go_back(number, FailureCode::CannotGoBack(problem)),
        }
    }

    fn fail_to_go_back(&mut self, number: usize, code: FailureCode) {
        self.note(Note::DeviceFailed { device: self.id(number), code: code.clone() });
        self.change(number, |device| {
            device.step = Step::Failed;
            device.code = Some(code);
            device.asked = None;
            device.tries = 0;
            device.verdict = None;
            device.deadline_ms = None;
        });
    }

    /// Whether a device that is called back has come back.
    pub(super) fn check_back(&mut self, number: usize) {
        let device = self.device(number);
        let never_had_it = device.generation == Generation(0) && device.running != Running::New;
        let is_back = device.ended && device.running == Running::Other;
        let waits = matches!(device.step, Step::GoingBack | Step::Unreachable) || device.is_stuck();
        if !waits || device.asked.is_some() || device.back_generation == Generation(0) || !(never_had_it || is_back) {
            return;
        }
        self.change(number, |device| {
            device.step = Step::Back;
            device.verdict = None;
            device.doubt = false;
            device.deadline_ms = None;
        });
    }

    /// Takes down what a device runs.
    pub(super) fn measure(&mut self, number: usize, running: Running) {
        if self.device(number).running == Running::New && running == Running::Other {
            self.rollout.core.last_back_ms = Some(self.now_ms);
        }
        self.change(number, |device| device.running = running);
    }

    /// A device that was back runs the bundle again.
    pub(super) fn returned(&mut self, number: usize) {
        self.note(Note::DeviceReturned { device: self.id(number) });
        self.call_one_back(number);
    }

    /// Calls back one that runs the bundle after it was decided that nobody does.
    pub(super) fn call_one_back(&mut self, number: usize) {
        self.turn_back(number);
        self.effects.push(Effect::RollBack { device: self.id(number) });
        if self.rollout.core.state.is_final() {
            self.change(number, |device| device.deadline_ms = None);
        }
    }

    pub(super) fn back_deadline(&mut self, number: usize) {
        let at_ms = self.after(self.rollout.plan.spec.back_deadline_s);
        let device = self.device(number);
        if device.asked.is_some() {
            // The server has not told it yet, which is not the device's fault.
            self.change(number, |device| device.deadline_ms = Some(at_ms));
            return self.ask_again(number);
        }
        if device.presence == Presence::Online {
            if device.running == Running::Other {
                // It has had all the time, and never ran the bundle as far as anybody has measured.
                self.change(number, |device| device.ended = true);
                return self.check_back(number);
            }
            return self.fail_to_go_back(number, FailureCode::DidNotGoBack);
        }
        self.lose(number);
    }

    /// A device that cannot be reached. What is decided of it stays desired.
    pub(super) fn lose(&mut self, number: usize) {
        self.note(Note::DeviceUnreachable { device: self.id(number) });
        self.change(number, |device| {
            device.step = Step::Unreachable;
            device.deadline_ms = None;
        });
    }

    /// Somebody else decides what a device runs. What it has shown stays counted.
    pub(super) fn release(&mut self, number: usize) {
        let shown = |device: &Device| device.step.is_failure() || device.step == Step::Back;
        let keeps = shown(self.device(number)) && !self.device(number).lapsed;
        if !keeps && self.device(number).step != Step::Superseded {
            self.note(Note::DeviceSuperseded { device: self.id(number) });
        }
        self.change(number, |device| {
            if !keeps {
                device.step = Step::Superseded;
            }
            device.released = true;
            device.lapsed = false;
            device.asked = None;
            device.tries = 0;
            device.verdict = None;
            device.deadline_ms = None;
        });
    }

    pub(super) fn skip(&mut self, number: usize) {
        self.change(number, |device| {
            device.step = Step::Skipped;
            device.skipped = Some(super::state::SkippedWhy::Gone);
            device.lapsed = false;
            device.asked = None;
            device.tries = 0;
            device.verdict = None;
            device.deadline_ms = None;
        });
    }

    /// Whether the rollout has decided that this device keeps the bundle.
    pub(super) fn keeps(&self, number: usize) -> bool {
        let wave = self.rollout.wave_of(number);
        matches!(self.rollout.core.waves.get(wave), Some(WaveState::Passed { .. }))
            && !matches!(self.rollout.core.state, State::RollingBack { scope: Scope::All, .. })
    }
}
