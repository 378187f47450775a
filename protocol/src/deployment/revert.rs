//! Going back, and keeping the active bundle serving.
//!
//! Going back needs nothing but the active slot, which no deployment has touched. Power loss on the way begins it anew;
//! only workers that fail count against [`REVERT_TRIES_MAX`].

use super::deadline::{QUARANTINE_RETRY, REVERT_TRY};
use super::effect::{Effect, IgnoredWhy};
use super::event::{Answer, Ticket};
use super::order::{Active, Inactive};
use super::phase::Phase;
use super::report::{Cause, Code, Subject};
use super::state::{RevertStep, State, Swap, Then, TrialStep};
use super::time::backoff;
use super::turn::{Serving, Turn};

/// Attempts to go back before quarantine.
pub(super) const REVERT_TRIES_MAX: u8 = 3;
/// Failures in a row that make the active bundle a broken one.
const BROKEN: u32 = 3;
/// Failures in a row after which a resting device goes back to the bundle from before, if it has one.
const STEP_BACK: u32 = 5;

impl Turn<'_> {
    /// Leaves a trial or a probation.
    pub(super) fn revert_trial(&mut self, cause: Cause, phase: Phase) {
        self.leave_trial(cause, Then::End(phase), None);
    }

    /// A restart interrupted a trial: back, and another trial if one is allowed.
    pub(super) fn interrupted(&mut self) {
        let Some(work) = self.record.state.work_mut().map(|work| work.clone()) else { return };
        let (cause, then) = if work.attempt < work.order.attempts_max {
            (Code::Interrupted, Then::Retry(work))
        } else {
            (Code::AttemptsExhausted, Then::End(Phase::Rejected))
        };
        self.leave_trial(cause.into(), then, Some(Swap::Cold));
    }

    fn leave_trial(&mut self, cause: Cause, then: Then, swap: Option<Swap>) {
        let (State::Trial { work, swap: running, .. } | State::Probation { work, swap: running, .. }) =
            &self.record.state
        else {
            return;
        };
        let (subject, swap) = (work.subject(), swap.unwrap_or(*running));
        self.session.asked = Ticket::default();
        let stop = Effect::StopWorker { slot: self.inactive_slot() };
        let step = RevertStep::Trying { left: REVERT_TRY };
        self.enter(State::Reverting { subject, swap, cause, tries: 0, step, then });
        match self.serve_active() {
            None => {
                self.push(stop);
                self.reverted();
            }
            // A warm worker takes over first, so no sample waits; a cold one may need the memory.
            Some(serve) if swap == Swap::Warm => {
                self.ask(serve);
                self.push(stop);
            }
            Some(serve) => {
                self.push(stop);
                self.ask(serve);
            }
        }
    }

    /// What was to be tried again is not.
    pub(super) fn revert_without_retry(&mut self, new_cause: Cause, phase: Phase) {
        if let State::Reverting { cause, then: then @ Then::Retry(_), .. } = &mut self.record.state {
            *then = Then::End(phase);
            *cause = new_cause;
        }
    }

    pub(super) fn operator_rollback(&mut self, name: &'static str) {
        let cause = Cause::from(Code::OperatorRollback);
        match self.record.state.phase() {
            Phase::Trial | Phase::Probation => self.revert_trial(cause, Phase::Reverted),
            Phase::Reverting => self.revert_without_retry(cause, Phase::Reverted),
            phase if !phase.is_resting() => self.give_up(Phase::Cancelled, cause),
            _ if self.reports_full() => self.ignore(name, IgnoredWhy::ReportsFull),
            _ if !self.step_back(cause) => self.ignore(name, IgnoredWhy::NoPrevious),
            _ => {}
        }
    }

    /// Makes the bundle from before the active one; the worker that is left stops once the other serves.
    fn step_back(&mut self, cause: Cause) -> bool {
        let Some(subject) = self.swap_slots() else { return false };
        let step = RevertStep::Trying { left: REVERT_TRY };
        let then = Then::End(Phase::Reverted);
        self.enter(State::Reverting { subject, swap: Swap::Warm, cause, tries: 0, step, then });
        self.serve_again_in_state();
        true
    }

    /// Swaps the active bundle with the one from before; returns what is left.
    pub(super) fn swap_slots(&mut self) -> Option<Subject> {
        let (Inactive::Previous(previous), Some(active)) = (&self.record.inactive, &self.record.anchor.active) else {
            return None;
        };
        let subject = Subject {
            generation: active.bundle.generation,
            digest: active.bundle.digest,
            rollout: active.bundle.rollout.clone(),
            attempt: 0,
        };
        let back = Active { slot: active.slot.other(), bundle: previous.clone() };
        self.record.inactive = Inactive::Previous(active.bundle.clone());
        self.record.anchor.active = Some(back);
        self.session.serving = Serving::default();
        Some(subject)
    }

    pub(super) fn serve_again_in_state(&mut self) {
        if let Some(serve) = self.serve_active() {
            self.ask(serve);
        }
    }

    pub(super) fn answer_reverting(&mut self, answer: Answer) -> bool {
        match answer {
            Answer::TookOver => self.reverted(),
            Answer::WorkerFailed { detail } => self.revert_failed(&detail),
            _ => return false,
        }
        true
    }

    pub(super) fn reverted(&mut self) {
        let State::Reverting { subject, cause, then, .. } = &self.record.state else { return };
        let (subject, cause, then) = (subject.clone(), cause.clone(), then.clone());
        self.session.serving = Serving::default();
        if let Inactive::Previous(_) = self.record.inactive {
            self.push(Effect::StopWorker { slot: self.inactive_slot() });
        }
        match then {
            Then::Retry(work) => self.wait_apply(work),
            Then::End(phase) => self.end(subject, phase, cause),
        }
    }

    pub(super) fn revert_failed(&mut self, detail: &str) {
        let State::Reverting { subject, swap, cause, tries, then, .. } = &self.record.state else { return };
        let (subject, swap, cause, then) = (subject.clone(), *swap, cause.clone(), then.clone());
        let tries = tries.saturating_add(1);
        self.session.asked = Ticket::default();
        if tries < REVERT_TRIES_MAX {
            let step = RevertStep::Pausing { left: backoff(self.seed, subject.generation, tries.into()) };
            return self.enter(State::Reverting { subject, swap, cause, tries, step, then });
        }
        if cause.code != Code::RollbackFailed && self.swap_slots().is_some() {
            let cause = Cause::new(Code::RollbackFailed, detail);
            let step = RevertStep::Trying { left: REVERT_TRY };
            let then = Then::End(Phase::Rejected);
            self.enter(State::Reverting { subject, swap: Swap::Warm, cause, tries: 0, step, then });
            return self.serve_again_in_state();
        }
        self.session.serving = Serving { failures: BROKEN, again: Some(QUARANTINE_RETRY), ..Serving::default() };
        self.end(subject, Phase::Quarantined, Cause::new(Code::RevertFailed, detail));
    }

    pub(super) fn pause_over(&mut self) {
        if let State::Reverting { step, .. } = &mut self.record.state {
            *step = RevertStep::Trying { left: REVERT_TRY };
            self.serve_again_in_state();
        }
    }

    pub(super) fn broken_active(&self) -> bool {
        self.session.serving.failures >= BROKEN
    }

    /// Tells the active slot to serve outside any deployment.
    pub(super) fn serve(&mut self) {
        self.session.serving.again = None;
        if let Some(serve) = self.serve_active() {
            self.session.serving.asked = self.ask_unrelated(serve);
        }
    }

    pub(super) fn answer_serving(&mut self, answer: Answer) {
        let name = answer.name();
        match (answer, &self.record.state) {
            (Answer::TookOver, State::Quarantined(ended)) => {
                let subject = ended.subject.clone();
                self.session.serving = Serving::default();
                self.end(subject, Phase::Reverted, Code::Recovered.into());
            }
            (Answer::TookOver, _) => self.session.serving.asked = Ticket::default(),
            (Answer::WorkerFailed { detail }, _) => self.serving_failed(&detail),
            _ => self.ignore(name, IgnoredWhy::NotNow),
        }
    }

    /// The active bundle's worker failed, and nothing else may have to do with it.
    pub(super) fn serving_failed(&mut self, detail: &str) {
        let generation = self.record.anchor.committed;
        let serving = &mut self.session.serving;
        serving.asked = Ticket::default();
        serving.failures = serving.failures.saturating_add(1);
        serving.again = Some(backoff(self.seed, generation, serving.failures));
        if serving.failures >= STEP_BACK && self.record.state.phase().is_resting() {
            self.step_back(Cause::new(Code::ActiveFailed, detail));
        }
    }
}

/// Whether the active slot is the one that serves, so that telling it to serve again disturbs nothing.
pub(super) const fn is_active_serving(state: &State) -> bool {
    !matches!(
        state,
        State::Trial { swap: Swap::Cold, .. }
            | State::Trial { step: TrialStep::TakingOver, .. }
            | State::Probation { .. }
            | State::Reverting { .. }
    )
}
