//! One event's turn: the effects it gathers and the rule that what changed is written down before any of them.

use super::effect::{Ask, Effect, Ignored, IgnoredWhy};
use super::event::{Answer, Event, Ticket, Verdict};
use super::order::{Inactive, Order, Slot};
use super::phase::Phase;
use super::record::{Next, Record};
use super::report::{Cause, Code, REPORTS_MAX, Report, Subject};
use super::state::{Ended, State};
use super::time::{Budget, Now};
use super::{Deployment, deadline};

/// What a restart forgets.
#[derive(Debug, Clone, Default)]
pub(super) struct Session {
    pub(super) booted: bool,
    /// Whether the journal does not hold the record yet, whatever it says.
    pub(super) unwritten: bool,
    pub(super) clock_ms: u64,
    /// Trusted time of the latest event.
    pub(super) unix_s: Option<u64>,
    pub(super) last_ticket: u64,
    /// The state's open question.
    pub(super) asked: Ticket,
    /// The open question about the next order.
    pub(super) asked_next: Ticket,
    pub(super) window_open: bool,
    pub(super) apply_allowed: bool,
    pub(super) serving: Serving,
    pub(super) downloaded_bytes: u64,
    pub(super) shadow_samples: u32,
    /// Milliseconds since the last record.
    pub(super) unwritten_ms: u64,
    /// Milliseconds since reports were last brought.
    pub(super) unreported_ms: u64,
}

impl Session {
    /// Of a machine whose record was not read from its journal.
    pub(super) fn unwritten() -> Self {
        Self { unwritten: true, ..Self::default() }
    }
}

/// How the active worker fares outside a trial.
#[derive(Debug, Clone, Default)]
pub(super) struct Serving {
    pub(super) asked: Ticket,
    /// Failures without a sign of health between them.
    pub(super) failures: u32,
    pub(super) again: Option<Budget>,
}

pub(super) struct Turn<'a> {
    pub(super) record: &'a mut Record,
    pub(super) session: &'a mut Session,
    pub(super) seed: u64,
    before: Record,
    effects: Vec<Effect>,
}

impl<'a> Turn<'a> {
    pub(super) fn begin(machine: &'a mut Deployment, now: Now) -> Self {
        let Deployment { record, session, jitter_seed } = machine;
        let trusted = now.unix_s.filter(|&s| record.unix_floor_s.is_none_or(|floor| s >= floor));
        session.unix_s = trusted;
        record.unix_floor_s = trusted.or(record.unix_floor_s);
        if session.booted {
            let elapsed_ms = now.boot_ms.saturating_sub(session.clock_ms);
            deadline::charge(record, session, elapsed_ms);
        }
        session.clock_ms = session.clock_ms.max(now.boot_ms);
        let before = record.clone();
        Self { record, session, seed: *jitter_seed, before, effects: Vec::new() }
    }

    pub(super) fn run(mut self, event: Event) -> Vec<Effect> {
        if matches!(event, Event::Booted { .. }) || self.session.booted {
            self.deadlines_due();
            self.take(event);
        } else {
            self.ignore(event.name(), IgnoredWhy::BeforeBoot);
        }
        self.finish()
    }

    fn finish(mut self) -> Vec<Effect> {
        self.record.anchor.pursued = match self.record.state.phase() {
            phase if phase.is_resting() => None,
            _ => self.record.state.subject(),
        };
        if self.session.booted && (self.session.unwritten || *self.record != self.before) {
            self.session.unwritten = false;
            self.record.written_unix_s = self.session.unix_s;
            self.session.unwritten_ms = 0;
            self.effects.insert(0, Effect::Persist(Box::new(self.record.clone())));
        }
        self.effects
    }

    fn take(&mut self, event: Event) {
        let name = event.name();
        match event {
            Event::Booted { running } if !self.session.booted => self.booted(running),
            Event::Booted { .. } => self.ignore(name, IgnoredWhy::Known),
            Event::Desired(order) => self.desired(*order, name),
            Event::Answer { ticket, answer } => self.answered(ticket, answer),
            Event::DownloadWindowOpen => self.window(true, name),
            Event::DownloadWindowClosed => self.window(false, name),
            Event::ApplyAllowed => self.apply(true, name),
            Event::ApplyDeferred => self.apply(false, name),
            Event::MemoryShort => self.memory_short(name),
            Event::HealthOk { slot } => self.health_ok(slot, name),
            Event::HealthBad { slot, reason } => self.health_bad(slot, &reason, name),
            Event::WorkerDied { slot } => self.worker_died(slot, name),
            Event::Verdict { generation, verdict: Verdict::Commit } => self.verdict_commit(generation, name),
            Event::Verdict { generation, verdict: Verdict::Revert } => self.verdict_revert(generation, name),
            Event::OperatorRollback => self.operator_rollback(name),
            Event::Deadline => {}
            Event::ReportAcked { seq } => self.report_acked(seq, name),
        }
    }

    fn answered(&mut self, ticket: Ticket, answer: Answer) {
        let name = answer.name();
        if ticket == Ticket::default() {
            self.ignore(name, IgnoredWhy::Late);
        } else if ticket == self.session.asked {
            let open = !matches!(answer, Answer::ChunkProgress { .. } | Answer::Shadow(_));
            if open {
                self.session.asked = Ticket::default();
            }
            if !self.answer_state(answer) {
                if open {
                    self.session.asked = ticket;
                }
                self.ignore(name, IgnoredWhy::NotNow);
            }
        } else if ticket == self.session.asked_next {
            self.answer_next(answer);
        } else if ticket == self.session.serving.asked {
            self.answer_serving(answer);
        } else {
            self.ignore(name, IgnoredWhy::Late);
        }
    }

    fn answer_state(&mut self, answer: Answer) -> bool {
        match self.record.state.phase() {
            Phase::Received
            | Phase::Authorized
            | Phase::WaitDownload
            | Phase::Downloading
            | Phase::Staged
            | Phase::WaitApply => self.answer_preparing(answer),
            Phase::Trial => self.answer_trial(answer),
            Phase::Reverting => self.answer_reverting(answer),
            _ => false,
        }
    }

    pub(super) fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub(super) fn ignore(&mut self, event: &'static str, why: IgnoredWhy) {
        let phase = self.record.state.phase();
        self.push(Effect::Ignored(Ignored { phase, event, why }));
    }

    pub(super) fn ask(&mut self, ask: Ask) {
        let ticket = self.ask_unrelated(ask);
        self.session.asked = ticket;
    }

    pub(super) fn ask_unrelated(&mut self, ask: Ask) -> Ticket {
        self.session.last_ticket += 1;
        let ticket = Ticket(self.session.last_ticket);
        self.push(Effect::Ask { ticket, ask });
        ticket
    }

    /// The slot that is not the active one: the only one that is ever written to.
    pub(super) fn inactive_slot(&self) -> Slot {
        self.record.anchor.active.as_ref().map_or(Slot::A, |active| active.slot.other())
    }

    pub(super) fn serve_active(&self) -> Option<Ask> {
        let active = self.record.anchor.active.as_ref()?;
        let (digest, settings) = (active.bundle.digest, active.bundle.settings.clone());
        Some(Ask::Serve { slot: active.slot, digest, settings })
    }

    /// Goes to a state on the way and reports it.
    pub(super) fn enter(&mut self, state: State) {
        let (phase, subject, cold_swap) = (state.phase(), state.subject(), state.is_cold());
        let cause = match &state {
            State::Reverting { cause, .. } => cause.clone(),
            _ => Code::Fine.into(),
        };
        self.record.state = state;
        if let Some(subject) = subject {
            self.report(subject, phase, cause, cold_swap);
        }
    }

    /// Ends the deployment and starts the order that waits, if there is one.
    pub(super) fn end(&mut self, subject: Subject, phase: Phase, cause: Cause) {
        self.session.asked = Ticket::default();
        // In quarantine nothing is deleted: what a machine happens to run may be all that it can run.
        if phase != Phase::Quarantined
            && let Inactive::Staging(_) = self.record.inactive
        {
            self.record.inactive = Inactive::Empty;
            self.push(Effect::DeleteSlot { slot: self.inactive_slot() });
        }
        let code = cause.code;
        let cold = self.record.state.is_cold();
        let report_seq = self.report(subject.clone(), phase, cause, cold);
        let ended = Ended { subject, code, report_seq };
        self.record.state = match phase {
            Phase::Committed => State::Committed(ended),
            Phase::Rejected => State::Rejected(ended),
            Phase::Cancelled => State::Cancelled(ended),
            Phase::Expired => State::Expired(ended),
            Phase::Quarantined => State::Quarantined(ended),
            _ => State::Reverted(ended),
        };
        if let Some(Next { order, authorized }) = self.record.next.take() {
            let ticket = std::mem::take(&mut self.session.asked_next);
            if authorized {
                self.start(order);
            } else {
                self.receive(order);
                self.session.asked = ticket;
            }
        }
    }

    pub(super) fn receive(&mut self, order: Order) {
        let left = Budget::seconds(order.deadlines.authorize_s);
        self.enter(State::Received { order, left });
    }

    pub(super) fn report(&mut self, subject: Subject, phase: Phase, cause: Cause, cold_swap: bool) -> u64 {
        let anchor = &mut self.record.anchor;
        anchor.report_seq += 1;
        let report = Report {
            seq: anchor.report_seq,
            subject,
            phase,
            code: cause.code,
            detail: cause.detail,
            cold_swap,
            committed: anchor.active.as_ref().map(|active| active.bundle.digest),
            unix_s: self.session.unix_s,
        };
        // On the way only the latest counts. Of equal ends, such as one order refused again and again, too.
        anchor.reports.retain(|old| {
            old.phase.is_end() && (&old.subject, old.phase, old.code) != (&report.subject, report.phase, report.code)
        });
        if anchor.reports.is_empty() {
            self.session.unreported_ms = 0;
        }
        anchor.reports.push(report.clone());
        self.push(Effect::Report(report));
        self.record.anchor.report_seq
    }

    pub(super) fn reports_full(&self) -> bool {
        self.record.anchor.reports.iter().filter(|report| report.phase.is_end()).count() >= REPORTS_MAX
    }

    pub(super) fn report_again(&mut self) {
        self.session.unreported_ms = 0;
        for report in self.record.anchor.reports.clone() {
            self.push(Effect::Report(report));
        }
    }

    fn report_acked(&mut self, seq: u64, name: &'static str) {
        let known = self.record.anchor.reports.len();
        self.record.anchor.reports.retain(|report| report.seq != seq);
        let state = match &self.record.state {
            State::Committed(ended)
            | State::Reverted(ended)
            | State::Rejected(ended)
            | State::Cancelled(ended)
            | State::Expired(ended)
                if ended.report_seq == seq =>
            {
                Some(State::Reported { phase: self.record.state.phase(), ended: ended.clone() })
            }
            _ => None,
        };
        match state {
            Some(state) => self.record.state = state,
            None if known == self.record.anchor.reports.len() => self.ignore(name, IgnoredWhy::Known),
            None => {}
        }
    }
}
