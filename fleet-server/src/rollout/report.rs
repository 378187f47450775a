//! Reports of devices: the answer to a generation.

use super::effect::{IgnoredWhy, Note};
use super::state::{Asked, FailureCode, Running, State, Step};
use super::turn::Turn;
use sedge_protocol::BundleDigest;
use sedge_protocol::id::Generation;
use sedge_protocol::message::{DeploymentState as Reported, ErrorCode, Verdict};

/// How often a device may go back for want of a verdict before that counts as a failure.
const LAPSES_MAX: u8 = 3;

impl Turn<'_> {
    pub(super) fn reported(
        &mut self,
        number: usize,
        generation: Generation,
        state: Reported,
        held: bool,
        running: Option<BundleDigest>,
        error: Option<ErrorCode>,
    ) {
        let device = self.device(number);
        if matches!(device.step, Step::Superseded | Step::Skipped) || device.released {
            return;
        }
        let measured = self.measured(running);
        if device.called_back() {
            return self.reported_going_back(number, generation, state, measured, error);
        }
        let unanswered = device.asked == Some(Asked::Assign);
        let why = match () {
            () if unanswered && device.generation == Generation(0) => Some(IgnoredWhy::NotAssigned),
            () if !device.touched => Some(IgnoredWhy::NotAssigned),
            () if generation < device.generation => Some(IgnoredWhy::EarlierGeneration),
            () if unanswered && generation == device.generation => Some(IgnoredWhy::EarlierGeneration),
            () if generation > device.generation => Some(IgnoredWhy::OtherGeneration),
            () => None,
        };
        if let Some(why) = why {
            return self.ignore(self.id(number), why);
        }
        if let Some(measured) = measured {
            self.measure(number, measured);
        }
        match state {
            Reported::Idle | Reported::Reverting => {}
            Reported::Probation if held => self.holds(number, measured),
            Reported::Committed | Reported::Reported => self.committed(number, measured),
            Reported::Reverted
            | Reported::Quarantined
            | Reported::Rejected
            | Reported::Cancelled
            | Reported::Expired => {
                self.went_back(number, state, error);
            }
            Reported::Trial | Reported::Probation => self.moves(number, true),
            Reported::Received
            | Reported::Authorized
            | Reported::WaitDownload
            | Reported::Downloading
            | Reported::Staged
            | Reported::WaitApply => self.moves(number, false),
        }
    }

    /// It is on its way.
    fn moves(&mut self, number: usize, tried: bool) {
        let step = self.device(number).step;
        self.change(number, |device| device.tried |= tried);
        match step {
            Step::Assigned => self.change(number, |device| device.step = Step::Progress),
            // It was given up, or a restart has ended the probation that it had passed: its time begins anew.
            Step::Unreachable | Step::TimedOut | Step::Holding => {
                self.reached(number);
                self.change(number, |device| {
                    device.step = Step::Progress;
                    device.verdict = None;
                    device.code = None;
                });
            }
            _ => {}
        }
    }

    /// It has passed its probation.
    fn holds(&mut self, number: usize, measured: Option<Running>) {
        match measured {
            Some(Running::New) if self.device(number).step == Step::Succeeded => {}
            Some(Running::New) => {
                self.change(number, |device| {
                    device.step = Step::Holding;
                    device.tried = true;
                    device.code = None;
                    // After the verdict its time runs on; before, it is the wave's.
                    device.deadline_ms = device.deadline_ms.filter(|_| device.verdict.is_some());
                });
                if self.keeps(number) {
                    self.agree(number);
                } else if !matches!(self.rollout.core.state, State::Running | State::Paused { .. }) {
                    self.call_one_back(number);
                }
            }
            Some(_) => self.fail(number, Step::Failed, FailureCode::WrongDigest),
            None => {
                self.moves(number, true);
                self.ignore(self.id(number), IgnoredWhy::NotMeasured);
            }
        }
    }

    /// It has ended well, if it runs what it was given.
    fn committed(&mut self, number: usize, measured: Option<Running>) {
        if self.device(number).step == Step::Failed && self.device(number).code == Some(FailureCode::FellBack) {
            // A report from before it fell back.
            return;
        }
        match measured.unwrap_or(self.device(number).running) {
            Running::New => self.succeed(number),
            Running::Other if measured.is_some() => {
                if self.device(number).step != Step::Failed {
                    self.change(number, |device| device.ended = true);
                    self.fail(number, Step::Failed, FailureCode::WrongDigest);
                }
            }
            Running::Unknown | Running::Other => {
                self.moves(number, true);
                self.change(number, |device| device.ended = true);
                self.ignore(self.id(number), IgnoredWhy::NotMeasured);
            }
        }
    }

    /// It has ended, and runs what it ran before.
    fn went_back(&mut self, number: usize, state: Reported, error: Option<ErrorCode>) {
        let step = self.device(number).step;
        if step == Step::Back || (step.is_failure() && self.device(number).ended) {
            return;
        }
        self.change(number, |device| device.ended = true);
        if self.device(number).running == Running::Unknown {
            self.measure(number, Running::Other);
        }
        let decided = Self::is_decision(error.as_ref());
        if state == Reported::Reverted && step == Step::Holding && error == Some(ErrorCode::TimedOut) {
            return self.lapsed(number);
        }
        if decided && matches!(state, Reported::Reverted | Reported::Cancelled | Reported::Rejected) {
            return self.release(number);
        }
        let code = error.map_or(FailureCode::TimedOut, FailureCode::Reported);
        let step = match state {
            Reported::Rejected => Step::Rejected,
            Reported::Expired => Step::TimedOut,
            _ => Step::Failed,
        };
        self.fail(number, step, code);
    }

    /// It held, and no verdict reached it in time. That is nobody's harm, unless it happens again and again.
    fn lapsed(&mut self, number: usize) {
        let lapses = self.device(number).lapses.saturating_add(1);
        self.change(number, |device| device.lapses = lapses);
        if lapses >= LAPSES_MAX {
            return self.fail(number, Step::TimedOut, FailureCode::TimedOut);
        }
        self.note(Note::DeviceLapsed { device: self.id(number) });
        self.change(number, |device| {
            device.step = Step::Back;
            device.lapsed = true;
            device.verdict = None;
            device.deadline_ms = None;
        });
        if self.keeps(number) && !self.rollout.core.state.is_final() {
            self.ask_once_more(number);
        }
    }

    /// What a device says that is called back.
    fn reported_going_back(
        &mut self,
        number: usize,
        generation: Generation,
        state: Reported,
        measured: Option<Running>,
        error: Option<ErrorCode>,
    ) {
        let device = self.device(number);
        let ours = device.generation > Generation(0) && generation == device.generation;
        if !ours && generation < device.back_generation.max(device.generation).max(Generation(1)) {
            return self.ignore(self.id(number), IgnoredWhy::EarlierGeneration);
        }
        let of_the_way_back = device.back_generation > Generation(0) && generation >= device.back_generation;
        let is_back = device.step == Step::Back;
        let ended = state.is_final() || state == Reported::Committed;
        if device.step == Step::Unreachable {
            self.reached(number);
        }
        // One that says nothing of it at its end runs nothing, as before its first bundle.
        if let Some(measured) = measured.or(ended.then_some(Running::Other)) {
            self.measure(number, measured);
        }
        self.change(number, |device| device.ended |= ended);
        let runs_it = self.device(number).running == Running::New;
        if runs_it && !ended && generation == self.device(number).generation && self.device(number).verdict.is_some() {
            // The verdict has not reached it.
            self.verdict(number, Verdict::Revert);
        }
        match () {
            () if is_back && runs_it => self.returned(number),
            () if of_the_way_back && ended && runs_it && !self.device(number).is_stuck() => {
                let code = error.map_or(FailureCode::DidNotGoBack, FailureCode::Reported);
                self.note(Note::DeviceFailed { device: self.id(number), code });
                self.change(number, |device| {
                    device.step = Step::Failed;
                    device.code = Some(FailureCode::DidNotGoBack);
                    device.deadline_ms = None;
                });
            }
            () => self.check_back(number),
        }
    }
}
