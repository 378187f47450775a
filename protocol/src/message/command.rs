//! What a server tells a device to do now, on `in/c`, and its refusals of a device's requests, on `in/q`.
//!
//! A command is not signed: it can only make a device do what its signed desired state and its own policy allow. Its
//! outcome comes back as an [`super::EventBody::CommandResult`], and logs as telemetry.

use super::check::invalid;
use super::{Failure, Invalid, Message, V1, word};
use crate::id::{ComponentName, Generation, RequestId};
use serde::{Deserialize, Serialize};

const LOG_LINES_MAX: u32 = 10_000;

word::words! {
    /// The server's judgement of a version in probation.
    Verdict, "verdict" {
        /// It stays.
        Commit = "commit",
        /// Go back.
        Revert = "revert",
    }
}

word::words! {
    /// Least severe lines that are wanted.
    LogLevel, "log level" {
        /// What failed.
        Error = "error",
        /// What may fail.
        Warn = "warn",
        /// What happened.
        Info = "info",
        /// What led to it.
        Debug = "debug",
    }
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Schema version.
    pub v: V1,
    /// The same in every repetition; a device carries each out once.
    pub request: RequestId,
    /// When it is too late, by the server's clock.
    pub not_after_ts_ms: u64,
    /// What.
    pub action: Action,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Action {
    /// Go back to the rollback target.
    RollBack {
        /// Which component.
        component: ComponentName,
    },
    /// End a probation that is held until the server's verdict.
    Verdict {
        /// Of which component.
        component: ComponentName,
        /// For which desired state; for another it is void.
        generation: Generation,
        /// The judgement.
        verdict: Verdict,
    },
    /// Report now.
    ReportNow,
    /// Send log lines.
    SendLog {
        /// At most so many, the newest.
        lines_max: u32,
        /// This severe or more.
        level: LogLevel,
        /// Not older than this.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since_ts_ms: Option<u64>,
    },
    /// Something that this build does not know; it is answered with `E_COMMAND_UNKNOWN`.
    #[serde(other)]
    Unknown,
}

/// Tells a device that its request cannot be met. What can be met is answered with what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Schema version.
    pub v: V1,
    /// Which request.
    pub request: RequestId,
    /// Why not.
    pub error: Failure,
    /// When to ask again; none says that it is of no use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u32>,
}

impl Command {
    /// Whether it is still to be carried out. A device whose clock is not synchronized should not ask its clock.
    pub fn is_timely(&self, now_ts_ms: u64) -> bool {
        now_ts_ms <= self.not_after_ts_ms
    }
}

impl Message for Command {
    const NAME: &'static str = "command";
    const BYTES_MAX: usize = 4 * 1024;

    fn validate(&self) -> Result<(), Invalid> {
        match self.action {
            Action::SendLog { lines_max, .. } if !(1..=LOG_LINES_MAX).contains(&lines_max) => {
                Err(invalid("action.lines_max", format_args!("{lines_max}; expected 1 to {LOG_LINES_MAX}")))
            }
            _ => Ok(()),
        }
    }
}

impl Message for Reply {
    const NAME: &'static str = "reply";
    const BYTES_MAX: usize = 4 * 1024;

    fn validate(&self) -> Result<(), Invalid> {
        self.error.validate("error")
    }
}
