//! Commands of the server and wishes of somebody at the device. Each is carried out once, and answered.

use super::{Control, Local};
use crate::transport::Transport;
use sedge_protocol::deployment::{self, Event, Ignored, IgnoredWhy};
use sedge_protocol::id::{ComponentName, RequestId};
use sedge_protocol::message::{
    Action, Command, ErrorCode, EventBody, Failure, LogLevel, LogSegment, Telemetry, V1, Verdict,
};

/// Commands that are remembered, to be carried out once.
const SEEN_MAX: usize = 128;
/// Bytes of log lines in one message.
const LOG_BYTES: usize = 32 * 1024;

fn heard(result: Result<(), Option<Ignored>>) -> Result<(), Failure> {
    result.map_err(|ignored| match ignored {
        None => Failure::new(ErrorCode::StorageFailed, "the deployment cannot be written down now; try again"),
        Some(Ignored { why: IgnoredWhy::NoPrevious, .. }) => {
            Failure::new(ErrorCode::NoRollbackTarget, "there is no bundle from before")
        }
        Some(Ignored { phase, event, why }) => {
            Failure::new(ErrorCode::RequestInvalid, &format!("{event} does nothing in phase {phase} ({why:?})"))
        }
    })
}

impl<T: Transport> Control<T> {
    pub(super) fn carry_out(&mut self, command: Command) {
        let Command { request, not_after_ts_ms, action, .. } = &command;
        if self.commands_seen.contains(request) {
            return;
        }
        self.commands_seen.push_back(request.clone());
        if self.commands_seen.len() > SEEN_MAX {
            self.commands_seen.pop_front();
        }
        let late = self.clock.is_plausible() && !command.is_timely(self.clock.ts_ms());
        let done = if late {
            Err(Failure::new(ErrorCode::RequestExpired, &format!("it was valid until {not_after_ts_ms}")))
        } else {
            self.act(request, action)
        };
        self.push_event(EventBody::CommandResult { request: request.clone(), error: done.err() });
    }

    fn act(&mut self, request: &RequestId, action: &Action) -> Result<(), Failure> {
        match action {
            Action::RollBack { component } => self.roll_back(component),
            Action::Verdict { component, generation, verdict } => {
                self.known(component)?;
                let verdict = match verdict {
                    Verdict::Commit => deployment::Verdict::Commit,
                    Verdict::Revert => deployment::Verdict::Revert,
                };
                heard(self.event_heard(component, Event::Verdict { generation: *generation, verdict }))
            }
            Action::ReportNow => {
                self.report_now();
                Ok(())
            }
            Action::SendLog { lines_max, level, since_ts_ms } => {
                self.send_log(request, *lines_max, *level, *since_ts_ms);
                Ok(())
            }
            Action::Unknown => Err(Failure::new(ErrorCode::CommandUnknown, "this agent does not know the command")),
        }
    }

    /// What somebody at the device wants. Whoever asked may be gone.
    pub(super) fn asked(&mut self, local: Local) {
        match local {
            Local::RollBack { component, answer } => {
                let done = self.roll_back(&component);
                let _ = answer.send(done.map_err(|failure| failure.detail.unwrap_or_else(|| failure.code.to_string())));
            }
            Local::Status { answer } => {
                let _ = answer.send(self.status());
            }
        }
    }

    fn known(&self, component: &ComponentName) -> Result<(), Failure> {
        if self.components.contains_key(component) {
            return Ok(());
        }
        Err(Failure::new(ErrorCode::NotFound, &format!("this device has no component {component}")))
    }

    pub(super) fn roll_back(&mut self, component: &ComponentName) -> Result<(), Failure> {
        self.known(component)?;
        heard(self.event_heard(component, Event::OperatorRollback))
    }

    fn send_log(&mut self, request: &RequestId, lines_max: u32, level: LogLevel, since_ts_ms: Option<u64>) {
        let mut parts = vec![String::new()];
        for line in self.logs.newest(lines_max as usize, level, since_ts_ms.unwrap_or(0)) {
            if parts.last().is_some_and(|part| part.len() + line.len() > LOG_BYTES) {
                parts.push(String::new());
            }
            if let Some(part) = parts.last_mut() {
                part.push_str(&line);
                part.push('\n');
            }
        }
        let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        for (index, lines) in (0..).zip(parts) {
            let seq = self.next_telemetry_seq();
            let log = LogSegment {
                v: V1,
                ts_ms: self.clock.ts_ms(),
                dev: self.device.clone(),
                boot: self.boot.clone(),
                seq,
                request: request.clone(),
                index,
                count,
                lines,
            };
            self.push_telemetry("log", &Telemetry::Log(log));
        }
    }
}
