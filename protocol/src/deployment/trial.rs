//! From a checked bundle to the active one.
//!
//! The trial is written down, and counted, before its worker starts. Whatever interrupts it before the commit is
//! written, the machine finds a trial nobody confirmed and goes back.

use super::effect::{Ask, Effect, IgnoredWhy};
use super::event::{Answer, ShadowVerdict};
use super::order::{Active, ColdSwap, CommitRule, Inactive, ShadowLimits, Slot};
use super::phase::Phase;
use super::report::{Cause, Code};
use super::state::{ProbationStep, State, Swap, TrialStep, Work};
use super::time::Budget;
use super::turn::Turn;
use crate::id::Generation;

impl Turn<'_> {
    pub(super) fn start_trial(&mut self, work: Work) {
        let work = Work { attempt: work.attempt.saturating_add(1), ..work };
        let left = Budget::seconds(work.order.deadlines.trial_s);
        self.start_worker(work, left);
    }

    fn start_worker(&mut self, work: Work, left: Budget) {
        let slot = self.inactive_slot();
        let (digest, settings) = (work.order.digest, work.order.settings.clone());
        let active = self.record.anchor.active.as_ref().map(|active| active.slot);
        // Beside a broken worker there is no shadow run, and no reason to keep it.
        let (true, Some(active)) = (work.cold || self.broken_active(), active) else {
            self.enter(State::Trial { work, left, swap: Swap::Warm, step: TrialStep::Starting });
            return self.ask(Ask::StartWorker { slot, digest, settings });
        };
        let bytes_max = match work.order.cold_swap {
            ColdSwap::Allowed { samples_bytes_max } => samples_bytes_max,
            ColdSwap::Refused if work.cold => {
                return self.end(work.subject(), Phase::Rejected, Code::MemoryShort.into());
            }
            ColdSwap::Refused => 0,
        };
        self.enter(State::Trial { work, left, swap: Swap::Cold, step: TrialStep::Starting });
        self.push(Effect::HoldSamples { bytes_max });
        self.push(Effect::StopWorker { slot: active });
        self.ask(Ask::StartWorker { slot, digest, settings });
    }

    pub(super) fn memory_short(&mut self, name: &'static str) {
        let active = self.record.anchor.active.as_ref().map(|active| active.slot);
        let Some(work) = self.record.state.work_mut() else { return self.ignore(name, IgnoredWhy::NotNow) };
        if std::mem::replace(&mut work.cold, true) {
            return self.ignore(name, IgnoredWhy::Known);
        }
        match (&mut self.record.state, active) {
            // Before the take-over the trial begins anew, this time with the old worker out of the way.
            (State::Trial { work, left, step, .. }, Some(_)) if *step != TrialStep::TakingOver => {
                let (work, left) = (work.clone(), *left);
                if work.order.cold_swap == ColdSwap::Refused {
                    return self.revert_trial(Code::MemoryShort.into(), Phase::Rejected);
                }
                self.push(Effect::StopWorker { slot: self.inactive_slot() });
                self.start_worker(work, left);
            }
            (State::Probation { swap: swap @ Swap::Warm, .. }, Some(slot)) => {
                *swap = Swap::Cold;
                self.push(Effect::StopWorker { slot });
            }
            _ => {}
        }
    }

    pub(super) fn answer_trial(&mut self, answer: Answer) -> bool {
        let State::Trial { work, left, swap, step } = &self.record.state else { return false };
        let (work, left, swap, step) = (work.clone(), *left, *swap, *step);
        let slot = self.inactive_slot();
        let failed = |code, detail: &str| (Cause::new(code, detail), Phase::Reverted);
        let failure = match (step, answer) {
            (TrialStep::Starting, Answer::WorkerReady) => {
                self.enter(State::Trial { work, left, swap, step: TrialStep::Golden });
                self.ask(Ask::RunGolden { slot });
                return true;
            }
            (TrialStep::Golden, Answer::GoldenPassed) => {
                let limits = work.order.shadow.clone();
                // Without an old worker beside it there is nothing to compare with; probation has to do.
                let shadow = swap == Swap::Warm && self.record.anchor.active.is_some() && limits.samples_min > 0;
                let step = if shadow { TrialStep::Shadow } else { TrialStep::TakingOver };
                self.session.shadow_samples = 0;
                self.enter(State::Trial { work, left, swap, step });
                self.ask(if shadow { Ask::BeginShadow { slot, limits } } else { Ask::TakeOver { slot } });
                return true;
            }
            (TrialStep::Shadow, Answer::Shadow(shown)) => {
                self.session.shadow_samples = shown.samples;
                match judge(&work.order.shadow, shown) {
                    None => return true,
                    Some(Ok(())) => {
                        self.enter(State::Trial { work, left, swap, step: TrialStep::TakingOver });
                        self.ask(Ask::TakeOver { slot });
                        return true;
                    }
                    Some(Err((code, detail))) => failed(code, &detail),
                }
            }
            (TrialStep::TakingOver, Answer::TookOver) => {
                self.begin_probation(work, swap);
                return true;
            }
            (TrialStep::Golden, Answer::GoldenFailed { detail }) => failed(Code::GoldenFailed, &detail),
            (TrialStep::Starting | TrialStep::TakingOver, Answer::WorkerFailed { detail }) => {
                failed(Code::WorkerFailed, &detail)
            }
            _ => return false,
        };
        self.revert_trial(failure.0, failure.1);
        true
    }

    pub(super) fn begin_probation(&mut self, work: Work, swap: Swap) {
        let (slot, probation_s) = (self.inactive_slot(), work.order.probation_s);
        let active = self.record.anchor.active.as_ref().map(|active| active.slot);
        let stop = active.filter(|_| work.cold && swap == Swap::Warm);
        let swap = if stop.is_some() { Swap::Cold } else { swap };
        let left = Budget::seconds(probation_s);
        let step = ProbationStep::Soaking { left, healthy: false, agreed: false };
        self.enter(State::Probation { work, swap, step });
        if let Some(slot) = stop {
            self.push(Effect::StopWorker { slot });
        }
        self.push(Effect::StartProbation { slot, probation_s });
    }

    pub(super) fn health_ok(&mut self, slot: Slot, name: &'static str) {
        let inactive = self.inactive_slot();
        match &mut self.record.state {
            State::Probation { step: ProbationStep::Soaking { healthy, .. }, .. } if slot == inactive => {
                *healthy = true
            }
            State::Probation { .. } if slot == inactive => {}
            _ if slot != inactive && self.record.anchor.active.is_some() => self.session.serving.failures = 0,
            _ => self.ignore(name, IgnoredWhy::OtherSlot),
        }
    }

    pub(super) fn health_bad(&mut self, slot: Slot, reason: &str, name: &'static str) {
        match self.record.state.phase() {
            Phase::Trial | Phase::Probation if slot == self.inactive_slot() => {
                self.revert_trial(Cause::new(Code::Unhealthy, reason), Phase::Reverted);
            }
            // Telemetry tells of the committed bundle's health; going back from it is the server's or operator's.
            _ => self.ignore(name, IgnoredWhy::OtherSlot),
        }
    }

    pub(super) fn worker_died(&mut self, slot: Slot, name: &'static str) {
        let of_trial = slot == self.inactive_slot();
        match &mut self.record.state {
            State::Trial { .. } | State::Probation { .. } if of_trial => {
                self.revert_trial(Code::WorkerDied.into(), Phase::Reverted);
            }
            // The old worker is no longer warm, or was stopped on purpose.
            State::Probation { swap, .. } => *swap = Swap::Cold,
            State::Trial { swap: Swap::Cold, .. }
            | State::Trial { step: TrialStep::TakingOver, .. }
            | State::Reverting { .. }
            | State::Quarantined(_) => self.ignore(name, IgnoredWhy::NotNow),
            _ if of_trial => self.ignore(name, IgnoredWhy::OtherSlot),
            _ => self.serving_failed("the worker died"),
        }
    }

    pub(super) fn verdict_commit(&mut self, generation: Generation, name: &'static str) {
        let deployed = self.record.state.subject().map(|subject| subject.generation);
        match &mut self.record.state {
            _ if deployed != Some(generation) => self.ignore(name, IgnoredWhy::OtherGeneration),
            State::Probation { step: ProbationStep::Soaking { agreed, .. }, .. } => *agreed = true,
            State::Probation { step: ProbationStep::Held { .. }, .. } => self.commit(),
            state if state.phase().is_end() || state.phase() == Phase::Reverting => {
                self.ignore(name, IgnoredWhy::TooLate);
            }
            _ => self.ignore(name, IgnoredWhy::NotNow),
        }
    }

    pub(super) fn verdict_revert(&mut self, generation: Generation, name: &'static str) {
        let deployed = self.record.state.subject().map(|subject| subject.generation);
        match &self.record.state {
            _ if deployed != Some(generation) => self.ignore(name, IgnoredWhy::OtherGeneration),
            State::Trial { .. } | State::Probation { .. } => {
                self.revert_trial(Code::VerdictRevert.into(), Phase::Reverted);
            }
            State::Reverting { .. } => self.revert_without_retry(Code::VerdictRevert.into(), Phase::Reverted),
            state if state.before_trial().is_some() => self.give_up(Phase::Cancelled, Code::VerdictRevert.into()),
            _ => self.ignore(name, IgnoredWhy::TooLate),
        }
    }

    /// Probation has lasted; says what follows.
    pub(super) fn soaked(&mut self) {
        let State::Probation { work, step: ProbationStep::Soaking { healthy, agreed, .. }, swap } = &self.record.state
        else {
            return;
        };
        match work.order.commit {
            _ if !healthy => self.revert_trial(Code::NoProgress.into(), Phase::Reverted),
            CommitRule::Held { deadline_s } if !agreed => {
                let step = ProbationStep::Held { left: Budget::seconds(deadline_s) };
                let (work, swap) = (work.clone(), *swap);
                self.enter(State::Probation { work, swap, step });
            }
            _ => self.commit(),
        }
    }

    /// The new bundle becomes the active one and the old one the target of going back.
    pub(super) fn commit(&mut self) {
        let State::Probation { work, swap, .. } = &self.record.state else { return };
        let (work, swap, slot) = (work.clone(), *swap, self.inactive_slot());
        let (digest, generation) = (work.order.digest, work.order.generation);
        let old = self.record.anchor.active.replace(Active { slot, bundle: work.order.bundle() });
        self.record.anchor.committed = self.record.anchor.committed.max(generation);
        self.session.serving = Default::default();
        self.push(Effect::Commit { slot, digest, generation });
        if let Some(old) = &old
            && swap == Swap::Warm
        {
            self.push(Effect::StopWorker { slot: old.slot });
        }
        self.record.inactive = old.map_or(Inactive::Empty, |old| Inactive::Previous(old.bundle));
        self.end(work.subject(), Phase::Committed, Code::Fine.into());
    }
}

/// Nothing yet, good, or what is wrong. In integers: a share is compared by multiplying.
fn judge(limits: &ShadowLimits, shown: ShadowVerdict) -> Option<Result<(), (Code, String)>> {
    let ShadowVerdict { samples, disagreements, errors, latency_p95_us } = shown;
    if errors > limits.errors_max {
        return Some(Err((Code::ShadowErrors, format!("{errors} errors, at most {} allowed", limits.errors_max))));
    }
    // Judged early once even a flawless rest could not bring the share below the limit at `samples_min`.
    let of = samples.max(limits.samples_min);
    if u64::from(disagreements) * 1000 > u64::from(limits.disagreement_max_permille) * u64::from(of) {
        let allowed = limits.disagreement_max_permille;
        let text = format!("{disagreements} of {samples} samples, at most {allowed} per thousand allowed");
        return Some(Err((Code::ShadowDisagreed, text)));
    }
    if samples < limits.samples_min {
        return None;
    }
    match limits.latency_p95_max_us {
        Some(max) if latency_p95_us > max => {
            Some(Err((Code::ShadowSlow, format!("p95 {latency_p95_us} us, at most {max} us allowed"))))
        }
        _ => Some(Ok(())),
    }
}
