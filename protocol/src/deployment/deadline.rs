//! Deadlines: nothing waits for ever.

use super::phase::Phase;
use super::record::Record;
use super::report::Code;
use super::revert::is_active_serving;
use super::state::{DownloadWait, ProbationStep, RevertStep, State};
use super::time::Budget;
use super::turn::{Session, Turn};

/// Time for one attempt to go back.
pub(super) const REVERT_TRY: Budget = Budget::seconds(60);
/// Pause between attempts to leave quarantine.
pub(super) const QUARANTINE_RETRY: Budget = Budget::seconds(3600);
/// Budgets are written down at least this often, so that power loss gives back no more.
const CHECKPOINT_MS: u64 = 600_000;
/// Unacknowledged reports are brought again this often.
const REPORT_AGAIN_MS: u64 = 900_000;

/// What happens at a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeadlineReason {
    /// The order's own end: it expires.
    NotAfter,
    /// Authorisation: the order expires.
    Authorize,
    /// Download, with all waiting for it: the order expires.
    Download,
    /// Check of the staged bundle: the order expires.
    Verify,
    /// Leave to start: the order expires.
    Apply,
    /// Trial: it goes back.
    Trial,
    /// Probation: it ends, well or badly.
    Soak,
    /// Verdict of the server: it goes back.
    Verdict,
    /// Attempt to go back: it failed.
    RevertTry,
    /// Pause between attempts to go back: the next one begins.
    RevertPause,
    /// Pause between attempts to reserve space or download: the next one begins.
    DownloadRetry,
    /// Pause between attempts of the active worker: the next one begins.
    ServeAgain,
    /// Reports are brought again.
    ReportAgain,
    /// Budgets are written down.
    Checkpoint,
}

fn budgets(state: &mut State) -> [Option<(&mut Budget, DeadlineReason)>; 2] {
    match state {
        State::Received { left, .. } => [Some((left, DeadlineReason::Authorize)), None],
        State::Authorized { left, .. } | State::Downloading { left, .. } => {
            [Some((left, DeadlineReason::Download)), None]
        }
        State::WaitDownload { left, why, .. } => {
            let retry = match why {
                DownloadWait::Window => None,
                DownloadWait::Space { retry } | DownloadWait::Backoff { retry } => {
                    Some((retry, DeadlineReason::DownloadRetry))
                }
            };
            [Some((left, DeadlineReason::Download)), retry]
        }
        State::Staged { left, .. } => [Some((left, DeadlineReason::Verify)), None],
        State::WaitApply { left, .. } => [Some((left, DeadlineReason::Apply)), None],
        State::Trial { left, .. } => [Some((left, DeadlineReason::Trial)), None],
        State::Probation { step: ProbationStep::Soaking { left, .. }, .. } => {
            [Some((left, DeadlineReason::Soak)), None]
        }
        State::Probation { step: ProbationStep::Held { left }, .. } => [Some((left, DeadlineReason::Verdict)), None],
        State::Reverting { step: RevertStep::Trying { left }, .. } => [Some((left, DeadlineReason::RevertTry)), None],
        State::Reverting { step: RevertStep::Pausing { left }, .. } => {
            [Some((left, DeadlineReason::RevertPause)), None]
        }
        State::Idle
        | State::Committed(_)
        | State::Reverted(_)
        | State::Rejected(_)
        | State::Cancelled(_)
        | State::Expired(_)
        | State::Quarantined(_)
        | State::Reported { .. } => [None, None],
    }
}

/// Takes elapsed time from everything that runs.
pub(super) fn charge(record: &mut Record, session: &mut Session, elapsed_ms: u64) {
    for (budget, _) in budgets(&mut record.state).into_iter().flatten() {
        budget.charge(elapsed_ms);
    }
    if let Some(again) = &mut session.serving.again {
        again.charge(elapsed_ms);
    }
    session.unwritten_ms = session.unwritten_ms.saturating_add(elapsed_ms);
    session.unreported_ms = session.unreported_ms.saturating_add(elapsed_ms);
}

/// The nearest deadline, in milliseconds from the latest event.
pub(super) fn next(record: &Record, session: &Session) -> Option<(u64, DeadlineReason)> {
    if !session.booted {
        return None;
    }
    let before_trial = record.state.before_trial();
    let not_after = match (before_trial.and_then(|order| order.not_after_unix_s), session.unix_s) {
        (Some(end), Some(now)) => Some((end.saturating_sub(now).saturating_mul(1000), DeadlineReason::NotAfter)),
        _ => None,
    };
    let mut state = record.state.clone();
    let state = budgets(&mut state).map(|budget| budget.map(|(budget, why)| (budget.left_ms, why)));
    let again = session.serving.again.filter(|_| is_active_serving(&record.state));
    let report = REPORT_AGAIN_MS.saturating_sub(session.unreported_ms);
    let checkpoint = CHECKPOINT_MS.saturating_sub(session.unwritten_ms);
    let candidates = [
        not_after,
        state[0],
        state[1],
        again.map(|again| (again.left_ms, DeadlineReason::ServeAgain)),
        (!record.anchor.reports.is_empty()).then_some((report, DeadlineReason::ReportAgain)),
        before_trial.map(|_| (checkpoint, DeadlineReason::Checkpoint)),
    ];
    // Of equals the first: an end counts before the retry that it forbids.
    candidates.into_iter().flatten().min_by_key(|&(left_ms, _)| left_ms)
}

impl Turn<'_> {
    /// Deals with every deadline that is due. One may start another state whose budget is spent only if that state was
    /// given none, so a few rounds are enough.
    pub(super) fn deadlines_due(&mut self) {
        for _ in 0..8 {
            match next(self.record, self.session) {
                Some((0, why)) => self.deadline(why),
                _ => return,
            }
        }
    }

    fn deadline(&mut self, why: DeadlineReason) {
        match why {
            DeadlineReason::NotAfter => self.give_up(Phase::Expired, Code::NotAfter.into()),
            DeadlineReason::Authorize => self.give_up(Phase::Expired, Code::AuthorizeTimedOut.into()),
            DeadlineReason::Download => {
                let short = matches!(self.record.state, State::WaitDownload { why: DownloadWait::Space { .. }, .. });
                let code = if short { Code::NoSpace } else { Code::DownloadTimedOut };
                self.give_up(Phase::Expired, code.into());
            }
            DeadlineReason::Verify => self.give_up(Phase::Expired, Code::VerifyTimedOut.into()),
            DeadlineReason::Apply => self.give_up(Phase::Expired, Code::ApplyTimedOut.into()),
            DeadlineReason::Trial => self.revert_trial(Code::TrialTimedOut.into(), Phase::Reverted),
            DeadlineReason::Soak => self.soaked(),
            DeadlineReason::Verdict => self.revert_trial(Code::VerdictTimedOut.into(), Phase::Reverted),
            DeadlineReason::RevertTry => self.revert_failed("no answer in time"),
            DeadlineReason::RevertPause => self.pause_over(),
            DeadlineReason::DownloadRetry => self.download_again(),
            DeadlineReason::ServeAgain => self.serve(),
            DeadlineReason::ReportAgain => self.report_again(),
            DeadlineReason::Checkpoint => {
                self.session.unwritten_ms = 0;
                self.session.unwritten = true;
            }
        }
    }

    fn download_again(&mut self) {
        match self.record.state.clone() {
            State::WaitDownload { work, left, why: DownloadWait::Space { .. } } => self.reserve_space(work, left),
            State::WaitDownload { work, left, .. } => self.wait_download(work, left, DownloadWait::Window),
            _ => {}
        }
    }
}
