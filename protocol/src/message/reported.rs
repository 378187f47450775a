//! What a device says of its components, on `r`: the answer to a generation.
//!
//! Reports are delivered at least once, from an outbox that survives power loss, and never dropped. A server stores
//! each under its [`ReportKey`] and ignores one it has; of several for a component the highest key is its state.

use super::check::{self, invalid};
use super::{Failure, Invalid, Message, V1, word};
use crate::Sha256Digest;
use crate::id::{BootId, ComponentName, Generation};
use crate::limits::{COMPONENTS_MAX, PAYLOAD_BYTES_MAX};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

word::words! {
    /// Where a component's deployment stands.
    DeploymentState, "deployment state" {
        /// Nothing to do.
        Idle = "idle",
        /// A desired state has arrived.
        Received = "received",
        /// Its metadata verifies and names this device.
        Authorized = "authorized",
        /// Waits to download.
        WaitDownload = "wait-download",
        /// Downloads.
        Downloading = "downloading",
        /// Downloaded and verified, in the inactive slot.
        Staged = "staged",
        /// Waits to begin the trial.
        WaitApply = "wait-apply",
        /// The new version runs beside the active one.
        Trial = "trial",
        /// The new version has taken over and may still go back.
        Probation = "probation",
        /// The new version stays.
        Committed = "committed",
        /// Committed, and the server knows.
        Reported = "reported",
        /// Goes back.
        Reverting = "reverting",
        /// Went back.
        Reverted = "reverted",
        /// Refused before anything was changed.
        Rejected = "rejected",
        /// Called off before the trial.
        Cancelled = "cancelled",
        /// A deadline passed.
        Expired = "expired",
        /// Failed too often and is not tried again.
        Quarantined = "quarantined",
    }
}

impl DeploymentState {
    /// Whether nothing more happens without a new desired state.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::Reported | Self::Reverted | Self::Rejected | Self::Cancelled | Self::Expired | Self::Quarantined
        )
    }

    fn needs_error(self) -> bool {
        matches!(self, Self::Reverting | Self::Reverted | Self::Rejected | Self::Expired | Self::Quarantined)
    }

    fn needs_reason(self) -> bool {
        matches!(self, Self::WaitDownload | Self::WaitApply)
    }
}

word::words! {
    /// What a component is.
    ComponentKind, "component kind" {
        /// A bundle.
        Model = "model",
        /// The agent itself.
        Agent = "agent",
        /// The system image.
        System = "system",
    }
}

word::open_words! {
    /// What a deployment waits for.
    WaitReason, "reason to wait" {
        /// A time window.
        Window = "window",
        /// A network that is not metered, or bytes within the budget.
        NetworkBudget = "network-budget",
        /// The next try, after one that failed.
        Retry = "retry",
        /// A synchronized clock.
        Clock = "clock",
        /// Update metadata.
        Metadata = "metadata",
        /// Another component's deployment.
        OtherComponent = "other-component",
        /// Mains power or charge.
        Power = "power",
        /// A quiet moment of the application.
        Application = "application",
        /// Enough live samples.
        Samples = "samples",
        /// The end of probation.
        Probation = "probation",
        /// The server's verdict.
        Verdict = "verdict",
    }
}

/// The state of a device's components.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reported {
    /// Schema version.
    pub v: V1,
    /// When.
    pub ts_ms: u64,
    /// This start of the agent.
    pub boot: BootId,
    /// Number of this report; grows over restarts too, as the outbox keeps it.
    pub seq: u64,
    /// The desired state that this answers; 0 before the first.
    pub generation: Generation,
    /// Hash of that desired state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<Sha256Digest>,
    /// Each component.
    pub components: BTreeMap<ComponentName, ComponentReport>,
}

/// The state of one component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentReport {
    /// What it is.
    pub kind: ComponentKind,
    /// Where its deployment stands.
    pub state: DeploymentState,
    /// Number of the try within the generation, from 1; 0 when nothing was tried.
    pub attempt: u32,
    /// What runs, measured and not remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Sha256Digest>,
    /// What it would go back to; fixed at commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<Sha256Digest>,
    /// What it is on the way to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Sha256Digest>,
    /// What it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<WaitReason>,
    /// When the state ends by itself at the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ts_ms: Option<u64>,
    /// How far the state has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// Bytes of a download, or samples of a trial or probation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
#[allow(missing_docs)]
pub enum Progress {
    Bytes { done_bytes: u64, total_bytes: u64 },
    Samples { done_samples: u64, total_samples: u64 },
}

/// What a report about a component is stored under. A greater key is later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub struct ReportKey {
    pub generation: Generation,
    pub attempt: u32,
    pub seq: u64,
}

impl Reported {
    /// What this report about each component is stored under.
    pub fn keys(&self) -> impl Iterator<Item = (&ComponentName, ReportKey)> {
        self.components.iter().map(|(name, component)| {
            (name, ReportKey { generation: self.generation, attempt: component.attempt, seq: self.seq })
        })
    }
}

impl ComponentReport {
    fn validate(&self, name: &ComponentName) -> Result<(), Invalid> {
        let field = |part: &str| format!("components.{name}.{part}");
        if self.state.needs_reason() && self.waiting_for.is_none() {
            return Err(invalid(field("waiting_for"), format_args!("is needed in state {}", self.state)));
        }
        if self.state.needs_error() && self.error.is_none() {
            return Err(invalid(field("error"), format_args!("is needed in state {}", self.state)));
        }
        if let Some(Progress::Bytes { done_bytes: done, total_bytes: total })
        | Some(Progress::Samples { done_samples: done, total_samples: total }) = self.progress
            && done > total
        {
            return Err(invalid(field("progress"), format_args!("{done} of {total}")));
        }
        self.error.as_ref().map_or(Ok(()), |e| e.validate(&field("error")))
    }
}

impl Message for Reported {
    const NAME: &'static str = "reported";
    const BYTES_MAX: usize = PAYLOAD_BYTES_MAX / 2;

    fn validate(&self) -> Result<(), Invalid> {
        check::count("components", self.components.len(), 0..=COMPONENTS_MAX)?;
        self.components.iter().try_for_each(|(name, component)| component.validate(name))
    }
}
