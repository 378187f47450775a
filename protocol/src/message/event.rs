//! Things that happened, on `e`, each kept by the device until the server has acknowledged it on `in/ack`. A broker's
//! PUBACK only says that the broker had it.

use super::check::{self, LABEL_BYTES_MAX, invalid};
use super::{DeploymentState, Failure, Invalid, Message, V1};
use crate::Sha256Digest;
use crate::id::{BootId, ComponentName, EventId, Generation, RequestId};
use serde::{Deserialize, Serialize};

const ACKNOWLEDGED_MAX: usize = 256;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Schema version.
    pub v: V1,
    /// The same in every repetition; a server takes each id once.
    pub id: EventId,
    /// When.
    pub ts_ms: u64,
    /// This start of the agent.
    pub boot: BootId,
    /// Number of the event; grows over restarts too.
    pub seq: u64,
    /// What.
    pub body: EventBody,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum EventBody {
    /// A deployment ended.
    DeploymentResult {
        /// Of which component.
        component: ComponentName,
        /// To which desired state.
        generation: Generation,
        /// At which try.
        attempt: u32,
        /// How it ended.
        outcome: DeploymentState,
        /// What runs now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        running: Option<Sha256Digest>,
        /// Why, if it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<Failure>,
        /// How long it took.
        duration_ms: u64,
    },
    /// A committed version was left by hand, or because it failed later: an earlier success no longer counts.
    RolledBack {
        /// Of which component.
        component: ComponentName,
        /// What was left.
        from: Sha256Digest,
        /// What runs now.
        to: Sha256Digest,
        /// Why.
        error: Failure,
    },
    /// A worker was started again.
    WorkerRestarted {
        /// Of which component.
        component: ComponentName,
        /// Restarts within this boot.
        restarts: u32,
        /// What ended it.
        error: Failure,
    },
    /// A [`super::Command`] was carried out or was not.
    CommandResult {
        /// Which command.
        request: RequestId,
        /// Why not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<Failure>,
    },
    /// Something that this build does not know. It is stored as received and acknowledged, or its device would repeat
    /// it for ever.
    #[serde(other)]
    Unknown,
}

/// Tells a device what the server has stored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ack {
    /// Schema version.
    pub v: V1,
    /// These events.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<EventId>,
    /// Every report up to this number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_seq: Option<u64>,
}

impl Message for Event {
    const NAME: &'static str = "event";
    const BYTES_MAX: usize = 8 * 1024;

    fn validate(&self) -> Result<(), Invalid> {
        match &self.body {
            EventBody::DeploymentResult { outcome, error, .. } => {
                if !outcome.is_final() && *outcome != DeploymentState::Committed {
                    return Err(invalid("body.outcome", format_args!("{outcome} is not an end")));
                }
                error.as_ref().map_or(Ok(()), |e| e.validate("body.error"))
            }
            EventBody::RolledBack { error, .. } | EventBody::WorkerRestarted { error, .. } => {
                error.validate("body.error")
            }
            EventBody::CommandResult { error, .. } => error.as_ref().map_or(Ok(()), |e| e.validate("body.error")),
            EventBody::Unknown => Ok(()),
        }
    }
}

impl Message for Ack {
    const NAME: &'static str = "ack";
    const BYTES_MAX: usize = ACKNOWLEDGED_MAX * LABEL_BYTES_MAX;

    fn validate(&self) -> Result<(), Invalid> {
        check::count("events", self.events.len(), 0..=ACKNOWLEDGED_MAX)?;
        if self.events.is_empty() && self.reported_seq.is_none() {
            return Err(invalid("events", "nothing is acknowledged"));
        }
        Ok(())
    }
}
