//! What the server hears: reports and events of deployments, heartbeats, results.

use super::Control;
use super::incoming::NO_MACHINE;
use crate::error::chain;
use crate::outbox::{Class, Tag};
use crate::transport::Transport;
use crate::update::Refusal;
use sedge_protocol::Sha256Digest;
use sedge_protocol::deployment::{Code, Inactive, Phase, Report, Waiting};
use sedge_protocol::id::{ComponentName, Generation, StreamName};
use sedge_protocol::message::{
    ComponentKind, ComponentReport, DeploymentState, ErrorCode, Event, EventBody, Failure, Health, Message as _,
    Progress, Reported, Telemetry, V1, WaitReason,
};
use sedge_protocol::topic::{DeviceTopic, Topic};
use std::collections::BTreeMap;
use tracing::{error, warn};

/// Refusals that may wait for acknowledgement; stops a server that sends one bad desired state after another.
const REFUSALS_MAX: usize = 64;

fn state_of(phase: Phase) -> DeploymentState {
    // Both lists have the same words, which a test holds.
    phase.name().parse().unwrap_or(DeploymentState::Idle)
}

fn code_of(code: Code) -> ErrorCode {
    match code {
        Code::Fine | Code::AlreadyRunning | Code::Recovered => ErrorCode::Internal,
        Code::Refused => ErrorCode::NotAuthorized,
        Code::InvalidOrder => ErrorCode::SettingsInvalid,
        Code::AuthorizeTimedOut
        | Code::NotAfter
        | Code::DownloadTimedOut
        | Code::VerifyTimedOut
        | Code::ApplyTimedOut
        | Code::TrialTimedOut
        | Code::NoProgress
        | Code::VerdictTimedOut => ErrorCode::TimedOut,
        Code::NoSpace => ErrorCode::NoSpace,
        Code::DownloadFailed => ErrorCode::DownloadFailed,
        Code::StagedCorrupt => ErrorCode::DigestMismatch,
        Code::MemoryShort => ErrorCode::NoMemory,
        Code::WorkerFailed | Code::WorkerDied | Code::ActiveFailed => ErrorCode::WorkerCrashed,
        Code::GoldenFailed => ErrorCode::GoldenFailed,
        Code::ShadowDisagreed => ErrorCode::ShadowDisagrees,
        Code::ShadowErrors | Code::Unhealthy => ErrorCode::ErrorRate,
        Code::ShadowSlow => ErrorCode::Latency,
        Code::VerdictRevert => ErrorCode::Verdict,
        Code::Interrupted | Code::AttemptsExhausted | Code::FellBack => ErrorCode::Unconfirmed,
        Code::Superseded => ErrorCode::Superseded,
        Code::OperatorRollback => ErrorCode::Operator,
        Code::RollbackFailed | Code::RevertFailed => ErrorCode::Quarantined,
        Code::JournalForeign => ErrorCode::StorageFailed,
    }
}

/// A failure in the words of the protocol. A detail that begins with a code of its own knows better.
fn failure(code: Code, detail: &str) -> Option<Failure> {
    if matches!(code, Code::Fine | Code::AlreadyRunning) {
        return None;
    }
    let own = detail.split_once(": ").and_then(|(word, rest)| {
        let code = word.parse::<ErrorCode>().ok().filter(|code| ErrorCode::LISTED.contains(code))?;
        Some(Failure::new(code, rest))
    });
    let word = serde_json::to_value(code).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default();
    let told = if detail.is_empty() { word } else { format!("{word}: {detail}") };
    own.or_else(|| Some(Failure::new(code_of(code), &told)))
}

fn waits_for(waiting: Option<Waiting>) -> Option<WaitReason> {
    Some(match waiting? {
        Waiting::Authorization => WaitReason::Metadata,
        Waiting::Window | Waiting::ApplyWindow => WaitReason::Window,
        Waiting::Space { .. } | Waiting::Backoff { .. } | Waiting::RevertPause { .. } => WaitReason::Retry,
        Waiting::ShadowSamples { .. } => WaitReason::Samples,
        Waiting::Soak { .. } => WaitReason::Probation,
        Waiting::Verdict { .. } => WaitReason::Verdict,
        _ => return None,
    })
}

fn progress(waiting: Option<Waiting>) -> Option<Progress> {
    match waiting? {
        Waiting::Download { have_bytes, need_bytes } => {
            Some(Progress::Bytes { done_bytes: have_bytes.min(need_bytes), total_bytes: need_bytes })
        }
        Waiting::ShadowSamples { have, need } => {
            Some(Progress::Samples { done_samples: have.min(need).into(), total_samples: need.into() })
        }
        _ => None,
    }
}

impl<T: Transport> Control<T> {
    /// The component as it is, but for what a report says.
    fn component_report(&self, name: &ComponentName, phase: Phase) -> ComponentReport {
        let component = self.components.get(name);
        let machine = component.map(|component| &component.machine);
        let waiting = machine
            .and_then(|machine| machine.waiting())
            .filter(|_| machine.is_some_and(|machine| machine.phase() == phase));
        let rollback = machine.and_then(|machine| match machine.inactive() {
            Inactive::Previous(bundle) => Some(bundle.digest.0),
            _ => None,
        });
        let state = state_of(phase);
        let needs_reason = matches!(state, DeploymentState::WaitDownload | DeploymentState::WaitApply);
        ComponentReport {
            kind: ComponentKind::Model,
            state,
            attempt: 0,
            running: component.and_then(|component| component.serving).map(|digest| digest.0),
            rollback,
            target: None,
            waiting_for: waits_for(waiting).or(needs_reason.then_some(WaitReason::Window)),
            deadline_ts_ms: None,
            progress: progress(waiting),
            error: None,
        }
    }

    /// Keeps a report until the server has stored it, and an event too where it tells of an end.
    pub(super) fn push_report(&mut self, name: &ComponentName, report: &Report) {
        if self.outbox.holds(name, report.seq) {
            return;
        }
        let error = failure(report.code, &report.detail);
        let component = ComponentReport {
            attempt: report.subject.attempt.into(),
            target: Some(report.subject.digest.0),
            error: error.clone(),
            ..self.component_report(name, report.phase)
        };
        let running = component.running;
        let tag = Tag { component: name.clone(), seq: report.seq, end: report.phase.is_end() };
        let of = self.answering(report.subject.generation);
        if !self.push_reported(name, of, component, tag) || !report.phase.is_end() {
            return;
        }
        let began_ms = self.components.get(name).map_or(0, |component| component.began_ms);
        self.push_event(EventBody::DeploymentResult {
            component: name.clone(),
            generation: report.subject.generation,
            attempt: report.subject.attempt.into(),
            outcome: state_of(report.phase),
            running,
            error,
            duration_ms: self.clock.elapsed_ms().saturating_sub(began_ms),
        });
    }

    /// Tells that a desired state was refused before any deployment heard of it.
    pub(super) fn push_refusal(
        &mut self,
        name: &ComponentName,
        of: (Generation, Option<Sha256Digest>),
        refusal: &Refusal,
    ) {
        if self.outbox.held_with(NO_MACHINE) >= REFUSALS_MAX {
            return warn!(component = %name, code = %refusal.code, "too many refusals wait; this one is not reported");
        }
        let error = Some(Failure::new(refusal.code.clone(), &refusal.detail));
        let component = ComponentReport { error, ..self.component_report(name, Phase::Rejected) };
        let tag = Tag { component: name.clone(), seq: NO_MACHINE, end: true };
        self.push_reported(name, of, component, tag);
    }

    /// The present state of every component, on request.
    pub(super) fn report_now(&mut self) {
        if self.outbox.held_with(NO_MACHINE) >= REFUSALS_MAX {
            return warn!("too many reports on request wait; this one is not made");
        }
        let names: Vec<ComponentName> = self.components.keys().cloned().collect();
        for name in names {
            let Some(component) = self.components.get(&name) else { continue };
            let (phase, subject) = (component.machine.phase(), component.machine.state().subject());
            let generation = subject.as_ref().map_or(component.machine.record().anchor.committed, |s| s.generation);
            let mut report = self.component_report(&name, phase);
            report.attempt = subject.as_ref().map_or(0, |s| s.attempt.into());
            report.target = subject.map(|s| s.digest.0);
            if matches!(
                report.state,
                DeploymentState::Reverting
                    | DeploymentState::Reverted
                    | DeploymentState::Rejected
                    | DeploymentState::Expired
                    | DeploymentState::Quarantined
            ) {
                report.error = self.last_failure(&name);
            }
            // It tells of now, and takes the place of no other report.
            let tag = Tag { component: name.clone(), seq: NO_MACHINE, end: true };
            self.push_reported(&name, self.answering(generation), report, tag);
        }
    }

    fn last_failure(&self, name: &ComponentName) -> Option<Failure> {
        use sedge_protocol::deployment::State;
        let code = match self.components.get(name)?.machine.state() {
            State::Reverting { cause, .. } => return failure(cause.code, &cause.detail),
            State::Reverted(ended)
            | State::Rejected(ended)
            | State::Cancelled(ended)
            | State::Expired(ended)
            | State::Quarantined(ended) => ended.code,
            _ => Code::Fine,
        };
        failure(code, "").or_else(|| Some(Failure::new(ErrorCode::Internal, "")))
    }

    fn push_reported(
        &mut self,
        name: &ComponentName,
        (generation, hash): (Generation, Option<Sha256Digest>),
        mut component: ComponentReport,
        tag: Tag,
    ) -> bool {
        if component.error.is_none() && matches!(component.state, DeploymentState::Reverted) {
            component.error = Some(Failure::new(ErrorCode::Internal, "recovered"));
        }
        let reported = Reported {
            v: V1,
            ts_ms: self.clock.ts_ms(),
            boot: self.boot.clone(),
            seq: self.outbox.next_id(),
            generation,
            hash,
            components: BTreeMap::from([(name.clone(), component)]),
        };
        let bytes = match reported.to_cbor() {
            Ok(bytes) => bytes,
            Err(e) => {
                error!(component = %name, error = chain(&e), "a report cannot be written");
                return false;
            }
        };
        let topic = Topic::Device(self.device.clone(), DeviceTopic::Reported);
        match self.outbox.push(Class::Report, &topic, Some(tag), &bytes) {
            Ok(_) => true,
            Err(e) => {
                // It stays in the deployment's journal, which brings it again.
                error!(component = %name, error = chain(&e), "a report cannot be kept in the outbox now");
                false
            }
        }
    }

    /// Keeps an event until the server has stored it.
    pub(super) fn push_event(&mut self, body: EventBody) {
        let seq = self.outbox.next_id();
        let Ok(id) = format!("e{seq}").parse() else { return };
        let event = Event { v: V1, id, ts_ms: self.clock.ts_ms(), boot: self.boot.clone(), seq, body };
        let topic = Topic::Device(self.device.clone(), DeviceTopic::Event);
        let pushed = event.to_cbor().map(|bytes| self.outbox.push(Class::Event, &topic, None, &bytes));
        match pushed {
            Ok(Ok(_)) => {}
            Ok(Err(e)) => error!(error = chain(&e), "an event is lost"),
            Err(e) => error!(error = chain(&e), "an event cannot be written"),
        }
    }

    /// Keeps a measurement for as long as there is room.
    pub(super) fn push_telemetry(&mut self, stream: &str, telemetry: &Telemetry) {
        let Ok(stream) = stream.parse::<StreamName>() else { return };
        let topic = Topic::Device(self.device.clone(), DeviceTopic::Telemetry(stream));
        match telemetry.to_cbor() {
            // Telemetry that finds no room is counted, and is no error.
            Ok(bytes) => drop(self.outbox.push(Class::Telemetry, &topic, None, &bytes)),
            Err(e) => warn!(error = chain(&e), "telemetry is invalid and dropped"),
        }
    }

    pub(super) fn next_telemetry_seq(&mut self) -> u64 {
        self.telemetry_seq += 1;
        self.telemetry_seq
    }

    /// A heartbeat.
    pub(super) fn push_health(&mut self) {
        let health = Health {
            v: V1,
            ts_ms: self.clock.ts_ms(),
            dev: self.device.clone(),
            boot: self.boot.clone(),
            seq: self.next_telemetry_seq(),
            uptime_s: self.clock.elapsed_ms() / 1000,
            window_s: self.config.health_interval_s,
            disk_free_bytes: self.slots.free_bytes(),
            outbox_messages: u32::try_from(self.outbox.len()).unwrap_or(u32::MAX),
            outbox_dropped: self.outbox.dropped(),
            temperature_c: None,
            components: self.health.clone(),
        };
        self.push_telemetry("health", &Telemetry::Health(health));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_is_a_state_and_every_end_but_a_good_one_has_a_failure() {
        for phase in Phase::ALL {
            assert_eq!(state_of(phase).as_str(), phase.name());
        }
        let told = failure(Code::Refused, "E_METADATA_EXPIRED: too old").expect("a failure");
        assert_eq!((told.code, told.detail.as_deref()), (ErrorCode::MetadataExpired, Some("too old")));
        let told = failure(Code::GoldenFailed, "sample 3: off").expect("a failure");
        assert_eq!(
            (told.code, told.detail.as_deref()),
            (ErrorCode::GoldenFailed, Some("golden-failed: sample 3: off"))
        );
        assert_eq!(failure(Code::Fine, ""), None);
    }
}
