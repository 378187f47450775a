//! Where a device stands outside of any rollout, from what it should run and what it last said.

use super::view::DeviceState;
use super::words;
use sedge_protocol::message::{ComponentReport, DeploymentState, Progress, WaitReason};

/// What is known of a device's component.
pub(super) struct Known<'a> {
    pub(super) online: bool,
    /// The digest that it should run.
    pub(super) wanted: Option<&'a str>,
    /// The number of that desired state.
    pub(super) generation: u64,
    /// Its last report, and the number of the desired state that it answers.
    pub(super) report: Option<(&'a ComponentReport, u64)>,
}

/// Its state, and why it is in it; empty when there is nothing to add.
pub(super) fn of(known: &Known<'_>) -> (DeviceState, String) {
    let Some(wanted) = known.wanted else {
        return match known.report.and_then(|(report, _)| report.running) {
            Some(_) => (DeviceState::Idle, "runs what nobody assigned".into()),
            None => (DeviceState::Idle, String::new()),
        };
    };
    let Some((report, answers)) = known.report else { return told(known) };
    if answers < known.generation && !runs(report, wanted) {
        return told(known);
    }
    use DeploymentState as D;
    match report.state {
        D::Idle | D::Committed | D::Reported if runs(report, wanted) => (DeviceState::Settled, String::new()),
        D::Idle | D::Committed | D::Reported => (DeviceState::Failed, "runs another bundle than it should".into()),
        D::Received | D::Authorized | D::Downloading | D::Staged | D::Trial => {
            (DeviceState::Progress, progress(report))
        }
        D::Probation if report.waiting_for == Some(WaitReason::Verdict) => {
            (DeviceState::Holding, "waits for the server's verdict".into())
        }
        D::Probation => (DeviceState::Progress, progress(report)),
        D::WaitDownload | D::WaitApply => {
            let word = report.waiting_for.as_ref().map_or_else(String::new, |reason| reason.to_string());
            let what = if report.state == D::WaitDownload { "to download" } else { "to begin its trial" };
            (DeviceState::Waiting, if word.is_empty() { what.into() } else { format!("{what}: {word}") })
        }
        D::Reverting => (DeviceState::GoingBack, failure(report)),
        D::Reverted => (DeviceState::Back, failure(report)),
        D::Rejected => (DeviceState::Rejected, failure(report)),
        D::Cancelled => (DeviceState::Superseded, "called off before its trial".into()),
        D::Expired => (DeviceState::TimedOut, failure(report)),
        D::Quarantined => (DeviceState::Failed, failure(report)),
    }
}

/// It was told, and has not answered.
fn told(known: &Known<'_>) -> (DeviceState, String) {
    if known.online {
        return (DeviceState::Assigned, "has not answered yet".into());
    }
    (DeviceState::Unreachable, "will be told when it connects".into())
}

fn runs(report: &ComponentReport, wanted: &str) -> bool {
    report.running.is_some_and(|running| running.hex() == wanted)
}

fn progress(report: &ComponentReport) -> String {
    let word = report.state.to_string();
    let (done, total, unit) = match report.progress {
        Some(Progress::Bytes { done_bytes, total_bytes }) => (done_bytes, total_bytes, "bytes"),
        Some(Progress::Samples { done_samples, total_samples }) => (done_samples, total_samples, "samples"),
        None => return word,
    };
    format!("{word}: {} of {} {unit}", words::count(done), words::count(total))
}

fn failure(report: &ComponentReport) -> String {
    let Some(error) = &report.error else { return String::new() };
    match &error.detail {
        Some(detail) => format!("{}: {}", error.code, sedge_protocol::text::one_line(detail)),
        None => error.code.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sedge_protocol::Sha256Digest;
    use sedge_protocol::message::{ComponentKind, ErrorCode, Failure};

    fn report(state: DeploymentState, running: u8) -> ComponentReport {
        ComponentReport {
            kind: ComponentKind::Model,
            state,
            attempt: 1,
            running: Some(Sha256Digest::from([running; 32])),
            rollback: None,
            target: None,
            waiting_for: None,
            deadline_ts_ms: None,
            progress: None,
            error: None,
        }
    }

    fn stands(online: bool, wanted: Option<u8>, report: Option<(&ComponentReport, u64)>) -> String {
        let wanted = wanted.map(|byte| Sha256Digest::from([byte; 32]).hex());
        let (state, reason) = of(&Known { online, wanted: wanted.as_deref(), generation: 5, report });
        format!("{}; {reason}", state.word())
    }

    #[test]
    fn every_state_has_its_reason() {
        use DeploymentState as D;
        let settled = report(D::Reported, 1);
        assert_eq!(stands(true, None, None), "nothing assigned; ");
        assert_eq!(stands(true, None, Some((&settled, 5))), "nothing assigned; runs what nobody assigned");
        assert_eq!(stands(true, Some(1), None), "assigned; has not answered yet");
        assert_eq!(stands(false, Some(1), None), "unreachable; will be told when it connects");
        assert_eq!(stands(true, Some(1), Some((&settled, 5))), "settled; ");
        assert_eq!(stands(true, Some(2), Some((&settled, 5))), "failed; runs another bundle than it should");
        // An answer to an earlier desired state says nothing about this one, unless it runs what it should anyway.
        assert_eq!(stands(true, Some(2), Some((&settled, 4))), "assigned; has not answered yet");
        assert_eq!(stands(true, Some(1), Some((&settled, 4))), "settled; ");
        let downloading = ComponentReport {
            progress: Some(Progress::Bytes { done_bytes: 1_000, total_bytes: 250_000 }),
            ..report(D::Downloading, 1)
        };
        assert_eq!(stands(true, Some(2), Some((&downloading, 5))), "updating; downloading: 1,000 of 250,000 bytes");
        let held = ComponentReport { waiting_for: Some(WaitReason::Verdict), ..report(D::Probation, 2) };
        assert_eq!(stands(true, Some(2), Some((&held, 5))), "holding; waits for the server's verdict");
        let waits = ComponentReport { waiting_for: Some(WaitReason::Window), ..report(D::WaitDownload, 1) };
        assert_eq!(stands(true, Some(2), Some((&waits, 5))), "waiting; to download: window");
        let error = Some(Failure::new(ErrorCode::GoldenFailed, "sample 3\nis off"));
        let back = ComponentReport { error, ..report(D::Reverted, 1) };
        assert_eq!(stands(true, Some(2), Some((&back, 5))), "went back; E_GOLDEN_FAILED: sample 3 is off");
    }
}
