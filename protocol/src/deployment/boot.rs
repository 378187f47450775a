//! Recovery: what each state does after a restart.

use super::effect::{Ask, Effect};
use super::order::{Active, Inactive};
use super::phase::Phase;
use super::record::{Anchor, Record};
use super::report::{Cause, Code, Subject};
use super::state::{RevertStep, State, Swap, Then, TrialStep};
use super::time::RESTART_CHARGE_MS;
use super::turn::Turn;
use super::{Slot, deadline};

impl Turn<'_> {
    pub(super) fn booted(&mut self, running: Option<Slot>) {
        self.session.booted = true;
        let off_ms = match (self.record.written_unix_s, self.session.unix_s) {
            (Some(written), Some(now)) => now.saturating_sub(written).saturating_mul(1000),
            _ => 0,
        };
        deadline::charge(self.record, self.session, off_ms.max(RESTART_CHARGE_MS));
        self.report_again();
        if self.took_over_by_restart(running) {
            return;
        }
        self.fell_back(running);
        if let Some(Active { slot, bundle }) = &self.record.anchor.active {
            let (slot, digest, generation) = (*slot, bundle.digest, bundle.generation);
            self.push(Effect::Commit { slot, digest, generation });
            // What a deletion left that power loss cut short. Without an active bundle nothing is known about the
            // slots, and nothing is deleted.
            if self.record.inactive == Inactive::Empty {
                self.push(Effect::DeleteSlot { slot: slot.other() });
            }
        }
        if !matches!(self.record.state.phase(), Phase::Trial | Phase::Probation | Phase::Reverting) {
            self.serve();
        }
        self.recover(running);
        if let Some(next) = &self.record.next
            && !next.authorized
        {
            let order = Box::new(next.order.clone());
            self.session.asked_next = self.ask_unrelated(Ask::Authorize { order });
        }
    }

    /// The one recovery action of the state.
    fn recover(&mut self, running: Option<Slot>) {
        match self.record.state.clone() {
            State::Received { order, .. } => self.ask(Ask::Authorize { order: Box::new(order) }),
            State::Authorized { work, left }
            | State::WaitDownload { work, left, .. }
            | State::Downloading { work, left } => self.reserve_space(work, left),
            State::Staged { work, .. } => {
                let (slot, digest, length_bytes) = (self.inactive_slot(), work.order.digest, work.order.length_bytes);
                self.ask(Ask::VerifyStaged { slot, digest, length_bytes });
            }
            State::Trial { .. } | State::Probation { .. } => self.interrupted(),
            State::Reverting { .. } => {
                let active = self.record.anchor.active.as_ref();
                let by_restart = active.filter(|active| active.bundle.restarts).map(|active| active.slot);
                match (by_restart, running) {
                    _ if active.is_none() => self.reverted(),
                    (Some(slot), Some(running)) if slot == running => self.reverted(),
                    // The restart was the attempt, and it came up wrong.
                    (Some(_), Some(_)) => self.revert_failed("the other slot came up"),
                    _ => self.pause_over(),
                }
            }
            State::WaitApply { .. }
            | State::Idle
            | State::Committed(_)
            | State::Reverted(_)
            | State::Rejected(_)
            | State::Cancelled(_)
            | State::Expired(_)
            | State::Quarantined(_)
            | State::Reported { .. } => {}
        }
    }

    /// The restart that the take-over itself brings, and the only one that a trial survives.
    fn took_over_by_restart(&mut self, running: Option<Slot>) -> bool {
        match &self.record.state {
            State::Trial { work, swap, step: TrialStep::TakingOver, .. }
                if work.order.restarts && running == Some(self.inactive_slot()) =>
            {
                let (work, swap) = (work.clone(), *swap);
                self.begin_probation(work, swap);
                true
            }
            _ => false,
        }
    }

    /// A boot loader gave up a committed image by itself: what was a success is reopened as a failure.
    fn fell_back(&mut self, running: Option<Slot>) {
        let Some(active) = &self.record.anchor.active else { return };
        if active.bundle.restarts
            && running == Some(active.slot.other())
            && self.record.state.phase().is_resting()
            && let Some(subject) = self.swap_slots()
        {
            self.end(subject, Phase::Reverted, Code::FellBack.into());
        }
    }
}

/// The safe reading of a record that this version does not understand: whatever was under way is left for the active
/// bundle, and the inactive slot counts as empty.
pub(super) fn from_foreign(format: u16, anchor: Anchor) -> Record {
    let state = match &anchor.pursued {
        None => State::Idle,
        Some(subject) => State::Reverting {
            subject: Subject::clone(subject),
            swap: Swap::Cold,
            cause: Cause::new(Code::JournalForeign, &format!("the record has format {format}")),
            tries: 0,
            step: RevertStep::Trying { left: deadline::REVERT_TRY },
            then: Then::End(Phase::Reverted),
        },
    };
    Record { anchor, state, ..Record::default() }
}
