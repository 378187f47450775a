//! From an order to a checked bundle in the inactive slot.
//!
//! Nothing here touches the active slot or its worker, so power loss costs time and nothing else.

use super::effect::{Ask, Effect, IgnoredWhy};
use super::event::{Answer, Ticket};
use super::order::{Active, Inactive, Order};
use super::phase::Phase;
use super::record::Next;
use super::report::{Cause, Code};
use super::state::{DownloadWait, State, Work, subject_of};
use super::time::{Budget, backoff};
use super::turn::Turn;

/// Staged bundles that may be wrong before the order is rejected.
const CORRUPT_MAX: u8 = 2;

impl Turn<'_> {
    /// Steps 1 to 4 of taking an order; the content is judged only once it is authorised.
    pub(super) fn desired(&mut self, order: Order, name: &'static str) {
        // 1. What is known brings nothing new. The server's message is retained and comes again at each connection.
        let pending = match (&self.record.state, &self.record.next) {
            (State::Received { order, .. }, _) => Some(order),
            (_, next) => next.as_ref().map(|next| &next.order),
        };
        if pending == Some(&order) {
            return self.ignore(name, IgnoredWhy::Known);
        }
        // 2. Generations only grow; this is also what stops a replayed order.
        if order.generation <= self.record.anchor.authorized {
            return self.ignore(name, IgnoredWhy::OldGeneration);
        }
        // 3. Bounds.
        if order.is_too_large() {
            return self.ignore(name, IgnoredWhy::TooLarge);
        }
        if self.reports_full() {
            return self.ignore(name, IgnoredWhy::ReportsFull);
        }
        // 4. Among orders without authorisation the latest message counts, whatever its generation: a forged high one
        //    must not keep out the real one. What is authorised goes on until the newcomer is authorised too.
        let ask = Ask::Authorize { order: Box::new(order.clone()) };
        let phase = self.record.state.phase();
        if phase.is_resting() || phase == Phase::Received {
            self.receive(order);
            self.ask(ask);
        } else {
            self.record.next = Some(Next { order, authorized: false });
            self.session.asked_next = self.ask_unrelated(ask);
        }
    }

    pub(super) fn answer_next(&mut self, answer: Answer) {
        let name = answer.name();
        let Some(next) = self.record.next.take() else { return self.ignore(name, IgnoredWhy::Late) };
        match answer {
            Answer::Authorized => {
                self.session.asked_next = Ticket::default();
                self.record.anchor.authorized = self.record.anchor.authorized.max(next.order.generation);
                self.record.next = Some(Next { order: next.order, authorized: true });
                self.supersede();
            }
            Answer::Refused { code, detail } => {
                self.session.asked_next = Ticket::default();
                let cause = Cause::new(Code::Refused, &format!("{code}: {detail}"));
                self.report(subject_of(&next.order), Phase::Rejected, cause, false);
            }
            _ => {
                self.record.next = Some(next);
                self.ignore(name, IgnoredWhy::NotNow);
            }
        }
    }

    fn supersede(&mut self) {
        match self.record.state.phase() {
            Phase::Trial | Phase::Probation => self.revert_trial(Code::Superseded.into(), Phase::Cancelled),
            Phase::Reverting => self.revert_without_retry(Code::Superseded.into(), Phase::Cancelled),
            _ => self.give_up(Phase::Cancelled, Code::Superseded.into()),
        }
    }

    /// Ends a deployment before its trial.
    pub(super) fn give_up(&mut self, phase: Phase, cause: Cause) {
        let Some(subject) = self.record.state.subject() else { return };
        if let State::Downloading { .. } = self.record.state {
            self.push(Effect::CancelDownload { slot: self.inactive_slot() });
        }
        self.end(subject, phase, cause);
    }

    pub(super) fn answer_preparing(&mut self, answer: Answer) -> bool {
        match (&self.record.state, answer) {
            (State::Received { order, .. }, Answer::Authorized) => {
                let order = order.clone();
                self.record.anchor.authorized = self.record.anchor.authorized.max(order.generation);
                self.start(order);
            }
            (State::Received { .. }, Answer::Refused { code, detail }) => {
                self.give_up(Phase::Rejected, Cause::new(Code::Refused, &format!("{code}: {detail}")));
            }
            (State::Authorized { work, left }, Answer::SpaceReserved) => {
                let (work, left) = (work.clone(), *left);
                self.wait_download(work, left, DownloadWait::Window);
            }
            (State::Authorized { work, left } | State::Downloading { work, left }, Answer::NoSpace) => {
                let (work, left) = (self.failed_once_more(work.clone()), *left);
                let retry = self.pause(&work);
                self.wait_download(work, left, DownloadWait::Space { retry });
            }
            (State::Downloading { .. }, Answer::ChunkProgress { done_bytes }) => {
                self.session.downloaded_bytes = done_bytes;
            }
            (State::Downloading { work, .. }, Answer::Downloaded) => {
                let work = work.clone();
                self.stage(work);
            }
            (State::Downloading { .. }, Answer::DownloadFailed { permanent: true, detail }) => {
                self.give_up(Phase::Rejected, Cause::new(Code::DownloadFailed, &detail));
            }
            (State::Downloading { work, left }, Answer::DownloadFailed { permanent: false, .. }) => {
                let (work, left) = (self.failed_once_more(work.clone()), *left);
                let retry = self.pause(&work);
                self.wait_download(work, left, DownloadWait::Backoff { retry });
            }
            (State::Staged { work, .. }, Answer::StagedVerified) => {
                let work = work.clone();
                self.wait_apply(work);
            }
            (State::Staged { work, .. }, Answer::StagedCorrupt { detail }) => {
                let work = Work { corrupt: work.corrupt.saturating_add(1), ..work.clone() };
                if work.corrupt >= CORRUPT_MAX {
                    self.give_up(Phase::Rejected, Cause::new(Code::StagedCorrupt, &detail));
                } else {
                    // Nothing of it can be trusted, so the next download begins with an empty slot.
                    self.record.inactive = Inactive::Empty;
                    self.push(Effect::DeleteSlot { slot: self.inactive_slot() });
                    let left = Budget::seconds(work.order.deadlines.download_s);
                    self.reserve_space(work, left);
                }
            }
            _ => return false,
        }
        true
    }

    /// Follows an authorised order.
    pub(super) fn start(&mut self, order: Order) {
        let active = self.record.anchor.active.clone();
        let work = Work::new(order);
        let order = &work.order;
        if let Some(fault) = order.fault() {
            return self.end(work.subject(), Phase::Rejected, Cause::new(Code::InvalidOrder, fault));
        }
        if self.is_past(order) {
            return self.end(work.subject(), Phase::Expired, Code::NotAfter.into());
        }
        if let Some(Active { slot, bundle }) = active
            && (bundle.digest, &bundle.settings) == (order.digest, &order.settings)
            && !self.broken_active()
        {
            let (digest, generation) = (order.digest, order.generation);
            self.record.anchor.active = Some(Active { slot, bundle: order.bundle() });
            self.record.anchor.committed = generation;
            self.push(Effect::Commit { slot, digest, generation });
            return self.end(work.subject(), Phase::Committed, Code::AlreadyRunning.into());
        }
        if let Inactive::Previous(bundle) = &self.record.inactive
            && (bundle.digest, bundle.length_bytes) == (order.digest, order.length_bytes)
        {
            // Going back to what is still on disk needs no download, only another look.
            self.record.inactive = Inactive::Staging(order.bundle());
            return self.stage(work);
        }
        let left = Budget::seconds(order.deadlines.download_s);
        self.reserve_space(work, left);
    }

    pub(super) fn is_past(&self, order: &Order) -> bool {
        matches!((order.not_after_unix_s, self.session.unix_s), (Some(end), Some(now)) if now >= end)
    }

    pub(super) fn reserve_space(&mut self, work: Work, left: Budget) {
        let (slot, bytes) = (self.inactive_slot(), work.order.length_bytes);
        self.enter(State::Authorized { work, left });
        self.ask(Ask::ReserveSpace { slot, bytes });
    }

    fn failed_once_more(&self, work: Work) -> Work {
        Work { failures: work.failures.saturating_add(1), ..work }
    }

    fn pause(&self, work: &Work) -> Budget {
        backoff(self.seed, work.order.generation, work.failures)
    }

    pub(super) fn wait_download(&mut self, work: Work, left: Budget, why: DownloadWait) {
        if self.session.window_open && why == DownloadWait::Window {
            return self.download(work, left);
        }
        self.session.asked = Ticket::default();
        self.enter(State::WaitDownload { work, left, why });
    }

    fn download(&mut self, work: Work, left: Budget) {
        let slot = self.inactive_slot();
        let bundle = work.order.bundle();
        if self.record.inactive != Inactive::Staging(bundle.clone()) {
            // Only now is the bundle from before given up.
            self.record.inactive = Inactive::Staging(bundle);
            self.push(Effect::DeleteSlot { slot });
        }
        let (digest, length_bytes, bytes_max) =
            (work.order.digest, work.order.length_bytes, work.order.download_bytes_max);
        self.session.downloaded_bytes = 0;
        self.enter(State::Downloading { work, left });
        self.ask(Ask::Download { slot, digest, length_bytes, bytes_max });
    }

    pub(super) fn stage(&mut self, work: Work) {
        let (slot, digest, length_bytes) = (self.inactive_slot(), work.order.digest, work.order.length_bytes);
        let left = Budget::seconds(work.order.deadlines.verify_s);
        self.enter(State::Staged { work, left });
        self.ask(Ask::VerifyStaged { slot, digest, length_bytes });
    }

    pub(super) fn wait_apply(&mut self, work: Work) {
        let left = Budget::seconds(work.order.deadlines.apply_s);
        if self.session.apply_allowed {
            return self.start_trial(work);
        }
        self.enter(State::WaitApply { work, left });
    }

    pub(super) fn window(&mut self, open: bool, name: &'static str) {
        if self.session.window_open == open {
            return self.ignore(name, IgnoredWhy::Known);
        }
        self.session.window_open = open;
        match &self.record.state {
            State::WaitDownload { work, left, why: DownloadWait::Window } if open => {
                let (work, left) = (work.clone(), *left);
                self.download(work, left);
            }
            State::Downloading { work, left } if !open => {
                let (work, left) = (work.clone(), *left);
                self.push(Effect::CancelDownload { slot: self.inactive_slot() });
                self.wait_download(work, left, DownloadWait::Window);
            }
            _ => {}
        }
    }

    pub(super) fn apply(&mut self, allowed: bool, name: &'static str) {
        if self.session.apply_allowed == allowed {
            return self.ignore(name, IgnoredWhy::Known);
        }
        self.session.apply_allowed = allowed;
        if let State::WaitApply { work, .. } = &self.record.state
            && allowed
        {
            let work = work.clone();
            self.start_trial(work);
        }
    }
}
