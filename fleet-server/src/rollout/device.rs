//! What is heard of devices.

use super::effect::{Effect, IgnoredWhy, Note};
use super::event::{AssignProblem, Event};
use super::health::Counters;
use super::state::{Asked, FailureCode, PausedBy, Presence, Running, State, Step};
use super::turn::Turn;
use sedge_protocol::BundleDigest;
use sedge_protocol::id::{DeviceId, Generation};
use sedge_protocol::message::ErrorCode;

/// How often the server tries before it gives up on a device.
const TRIES_MAX: u8 = 8;

impl Turn<'_> {
    pub(super) fn of_device(&mut self, event: Event) {
        let id = match &event {
            Event::Assigned { device, .. }
            | Event::AssignFailed { device, .. }
            | Event::RollBackAssigned { device, .. }
            | Event::RollBackFailed { device, .. }
            | Event::DeviceReported { device, .. }
            | Event::Heartbeat { device, .. }
            | Event::Presence { device, .. }
            | Event::DeviceGone { device }
            | Event::OtherAssignment { device, .. } => device.clone(),
            _ => return,
        };
        let Some(number) = self.rollout.number(&id) else { return self.not_member(&event, id) };
        self.wave = Some(self.rollout.wave_of(number));
        match event {
            Event::Assigned { generation, .. } => self.assigned(number, generation),
            Event::AssignFailed { problem, .. } => self.assign_failed(number, problem),
            Event::RollBackAssigned { generation, .. } => self.roll_back_assigned(number, generation),
            Event::RollBackFailed { problem, .. } => self.roll_back_failed(number, problem),
            Event::DeviceReported { generation, state, held, running, error, .. } => {
                self.reported(number, generation, state, held, running, error);
            }
            Event::Heartbeat { running, counters, first_result_ts_ms, .. } => {
                self.heartbeat(number, running, counters, first_result_ts_ms);
            }
            Event::Presence { online, .. } => self.presence(number, online),
            Event::DeviceGone { .. } => self.skip(number),
            Event::OtherAssignment { generation, .. } => {
                let device = self.device(number);
                if generation > device.generation.max(device.back_generation) {
                    self.release(number);
                }
            }
            _ => {}
        }
    }

    /// Devices outside the rollout beat and come and go all the time; only a report may be a mistake.
    fn not_member(&mut self, event: &Event, device: DeviceId) {
        if let Event::DeviceReported { .. } = event {
            self.ignore(device, IgnoredWhy::NotMember);
        }
    }

    pub(super) fn ignore(&mut self, device: DeviceId, why: IgnoredWhy) {
        self.note(Note::Ignored { device, why });
    }

    fn assigned(&mut self, number: usize, generation: Generation) {
        let device = self.device(number);
        if generation <= device.generation && device.asked != Some(Asked::Assign) {
            return;
        }
        let waits = device.asked == Some(Asked::Assign);
        let wave = self.rollout.wave_of(number);
        let at_ms = self.after(self.rollout.plan.waves[wave].rules.deadline_s);
        self.change(number, |device| {
            device.touched = true;
            device.generation = generation.max(device.generation);
            device.tries = 0;
            if waits {
                device.asked = None;
                device.deadline_ms = Some(at_ms);
            }
        });
        if self.device(number).step == Step::Superseded {
            // Somebody else was faster, and what they assigned is brought back.
            self.change(number, |device| device.asked = Some(Asked::RollBack));
            self.effects.push(Effect::RollBack { device: self.id(number) });
        }
    }

    fn assign_failed(&mut self, number: usize, problem: AssignProblem) {
        if self.device(number).asked != Some(Asked::Assign) {
            return;
        }
        let device = self.id(number);
        self.note(Note::AssignFailed { device, problem });
        match problem {
            AssignProblem::NoDevice => return self.skip(number),
            AssignProblem::Busy if self.is_running() && self.retry_later(number) => return,
            _ => self.ask_once_more(number),
        }
        let transient = problem == AssignProblem::Busy && !self.is_running();
        if !transient && self.is_running() {
            self.pause_by(PausedBy::Assignment { problem });
        }
    }

    /// Lets the server try again in a while: 1, 2, 4 … seconds.
    pub(super) fn retry_later(&mut self, number: usize) -> bool {
        let tries = self.device(number).tries.saturating_add(1);
        if tries > TRIES_MAX {
            return false;
        }
        let at_ms = self.after(1 << (tries - 1));
        self.change(number, |device| {
            device.tries = tries;
            device.deadline_ms = Some(at_ms);
        });
        true
    }

    pub(super) fn heartbeat(
        &mut self,
        number: usize,
        running: BundleDigest,
        counters: Option<Counters>,
        first_result_ts_ms: Option<u64>,
    ) {
        let is_new = running == self.rollout.plan.spec.digest;
        if self.device(number).touched
            && let Some(first) = first_result_ts_ms
        {
            let known = self.rollout.core.first_result_ts_ms;
            self.rollout.core.first_result_ts_ms = Some(known.map_or(first, |known| known.min(first)));
        }
        let grown = |old: Option<Counters>, new: &Counters| old.is_none_or(|old| old.samples <= new.samples);
        self.change(number, |device| {
            if device.touched {
                device.counters = counters.filter(|c| c.is_sound() && grown(device.counters, c)).or(device.counters);
            }
            device.presence = Presence::Online;
        });
        let device = self.device(number);
        let contradicts = match device.step {
            step if step.is_good() => !is_new,
            Step::Back => is_new && !device.released,
            Step::GoingBack | Step::Unreachable => !is_new && device.running == Running::New,
            _ => false,
        };
        // A heartbeat may be older than the report before it. One that follows a heartbeat of the same claim is not.
        let certain = contradicts && (device.doubt || (!is_new && device.seen_new));
        let measured = if is_new { Running::New } else { Running::Other };
        if !contradicts || certain {
            self.measure(number, measured);
        }
        self.change(number, |device| {
            device.doubt = contradicts && !certain;
            device.seen_new = is_new || (device.seen_new && !certain);
        });
        match self.device(number).step {
            Step::Succeeded if certain => {
                self.note(Note::DeviceFellBack { device: self.id(number) });
                self.fail(number, Step::Failed, FailureCode::FellBack);
            }
            Step::Back if certain => self.returned(number),
            Step::GoingBack | Step::Unreachable if certain => {
                self.change(number, |device| device.ended |= device.called_back());
                self.check_back(number);
            }
            Step::GoingBack | Step::Unreachable => self.check_back(number),
            // It has said that it committed, and now also what it runs.
            Step::Progress if is_new && self.device(number).ended => self.succeed(number),
            _ => {}
        }
    }

    fn presence(&mut self, number: usize, online: bool) {
        let presence = if online { Presence::Online } else { Presence::Offline };
        if self.device(number).presence == presence {
            return;
        }
        self.change(number, |device| device.presence = presence);
        if online {
            if self.device(number).step == Step::Unreachable {
                self.reached(number);
            }
            self.ask_again(number);
        }
    }

    /// A device that was lost is there again, and gets its time anew.
    pub(super) fn reached(&mut self, number: usize) {
        let (wave, spec) = (self.rollout.wave_of(number), &self.rollout.plan.spec);
        let back = self.device(number).called_back();
        let seconds = if back { spec.back_deadline_s } else { self.rollout.plan.waves[wave].rules.deadline_s };
        let at_ms = Some(self.after(seconds)).filter(|_| !self.rollout.core.state.is_final());
        self.change(number, |device| {
            device.step = if back { Step::GoingBack } else { Step::Assigned };
            device.deadline_ms = at_ms;
        });
    }

    pub(super) fn fail(&mut self, number: usize, step: Step, code: FailureCode) {
        self.note(Note::DeviceFailed { device: self.id(number), code: code.clone() });
        self.change(number, |device| {
            device.step = step;
            device.code = Some(code);
            device.verdict = None;
            device.deadline_ms = None;
        });
    }

    pub(super) fn succeed(&mut self, number: usize) {
        self.change(number, |device| {
            device.step = Step::Succeeded;
            device.running = Running::New;
            device.ended = true;
            device.verdict = None;
            device.deadline_ms = None;
            device.code = None;
        });
    }

    pub(super) fn deadlines(&mut self) {
        if self.rollout.core.state.is_final() {
            return;
        }
        for number in self.rollout.due(self.now_ms) {
            self.wave = Some(self.rollout.wave_of(number));
            self.deadline(number);
            // Each device's end is judged by itself, so that the evidence of a halt is what led to it.
            self.settle();
        }
    }

    fn deadline(&mut self, number: usize) {
        let device = self.device(number);
        if device.deadline_ms.is_none_or(|at_ms| at_ms > self.now_ms) {
            return;
        }
        if device.tries > 0 && device.asked.is_some() {
            return self.retry(number);
        }
        match device.step {
            Step::GoingBack => self.back_deadline(number),
            // It tried the bundle and was not heard of again: that may be the bundle's doing.
            step if step.in_flight() || step == Step::Holding => {
                let silent = device.presence == Presence::Offline
                    || (device.presence == Presence::Unknown && step == Step::Assigned);
                let known_good = step == Step::Holding;
                if silent && (!device.tried || known_good) {
                    self.lose(number);
                } else {
                    self.fail(number, Step::TimedOut, FailureCode::TimedOut);
                }
            }
            _ => self.change(number, |device| device.deadline_ms = None),
        }
    }

    fn retry(&mut self, number: usize) {
        let at_ms = self.after(self.rollout.plan.spec.back_deadline_s);
        let asked = self.device(number).asked;
        match asked {
            Some(Asked::RollBack) => {
                self.change(number, |device| device.deadline_ms = Some(at_ms));
                self.effects.push(Effect::RollBack { device: self.id(number) });
            }
            _ if self.is_running() => {
                self.change(number, |device| device.deadline_ms = None);
                self.effects.push(Effect::Assign { device: self.id(number) });
            }
            _ if matches!(self.rollout.core.state, State::Paused { .. }) => self.ask_once_more(number),
            _ => self.change(number, |device| device.deadline_ms = None),
        }
    }

    /// What a report or heartbeat says a device runs.
    pub(super) fn measured(&self, running: Option<BundleDigest>) -> Option<Running> {
        running.map(|digest| if digest == self.rollout.plan.spec.digest { Running::New } else { Running::Other })
    }

    /// A failure that is somebody's decision and no harm.
    pub(super) fn is_decision(error: Option<&ErrorCode>) -> bool {
        matches!(error, Some(ErrorCode::Operator | ErrorCode::Superseded | ErrorCode::Verdict))
    }
}
