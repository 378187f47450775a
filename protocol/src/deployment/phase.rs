//! The names of states, as reports and people use them.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A state's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the names of `State`")]
pub enum Phase {
    Idle,
    Received,
    Authorized,
    WaitDownload,
    Downloading,
    Staged,
    WaitApply,
    Trial,
    Probation,
    Reverting,
    Committed,
    Reverted,
    Rejected,
    Cancelled,
    Expired,
    Quarantined,
    Reported,
}

impl Phase {
    /// Every phase, in the order of a good update, then of a bad one.
    pub const ALL: [Self; 17] = [
        Self::Idle,
        Self::Received,
        Self::Authorized,
        Self::WaitDownload,
        Self::Downloading,
        Self::Staged,
        Self::WaitApply,
        Self::Trial,
        Self::Probation,
        Self::Committed,
        Self::Reported,
        Self::Reverting,
        Self::Reverted,
        Self::Rejected,
        Self::Cancelled,
        Self::Expired,
        Self::Quarantined,
    ];

    /// As in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Received => "received",
            Self::Authorized => "authorized",
            Self::WaitDownload => "wait-download",
            Self::Downloading => "downloading",
            Self::Staged => "staged",
            Self::WaitApply => "wait-apply",
            Self::Trial => "trial",
            Self::Probation => "probation",
            Self::Reverting => "reverting",
            Self::Committed => "committed",
            Self::Reverted => "reverted",
            Self::Rejected => "rejected",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Quarantined => "quarantined",
            Self::Reported => "reported",
        }
    }

    /// Whether a deployment ends here, reported or not.
    pub const fn is_end(self) -> bool {
        matches!(
            self,
            Self::Committed
                | Self::Reverted
                | Self::Rejected
                | Self::Cancelled
                | Self::Expired
                | Self::Quarantined
                | Self::Reported
        )
    }

    /// Whether nothing is being deployed, so that a new order starts at once.
    pub const fn is_resting(self) -> bool {
        self.is_end() || matches!(self, Self::Idle)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
