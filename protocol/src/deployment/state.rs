//! Where a deployment is. Each state holds what it needs to go on after power loss, and nothing else.

use super::order::Order;
use super::phase::Phase;
use super::report::{Cause, Code, Subject};
use super::time::Budget;
use serde::{Deserialize, Serialize};

/// An authorised order being followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// The order.
    pub order: Order,
    /// Trials begun.
    #[serde(default)]
    pub attempt: u8,
    /// Downloads that failed.
    #[serde(default)]
    pub failures: u32,
    /// Staged bundles that were not what was signed.
    #[serde(default)]
    pub corrupt: u8,
    /// Whether the old worker must stop before the new one starts.
    #[serde(default)]
    pub cold: bool,
}

impl Work {
    pub(super) fn new(order: Order) -> Self {
        Self { order, attempt: 0, failures: 0, corrupt: 0, cold: false }
    }

    pub(super) fn subject(&self) -> Subject {
        Subject { attempt: self.attempt, ..subject_of(&self.order) }
    }
}

pub(super) fn subject_of(order: &Order) -> Subject {
    Subject { generation: order.generation, digest: order.digest, rollout: order.rollout.clone(), attempt: 0 }
}

/// What a deployment does now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Nothing was ever ordered.
    #[default]
    Idle,
    /// An order that nobody has authorised yet; any other order may take its place.
    Received {
        /// The order.
        order: Order,
        /// Until it expires.
        left: Budget,
    },
    /// Authorised; space is being reserved.
    Authorized {
        /// The order.
        work: Work,
        /// Until the download must be complete.
        left: Budget,
    },
    /// Space is reserved or will be; the download may not run now.
    WaitDownload {
        /// The order.
        work: Work,
        /// Until the download must be complete.
        left: Budget,
        /// For what.
        why: DownloadWait,
    },
    /// Bytes arrive in the inactive slot.
    Downloading {
        /// The order.
        work: Work,
        /// Until the download must be complete.
        left: Budget,
    },
    /// All bytes are there; the whole is being checked.
    Staged {
        /// The order.
        work: Work,
        /// Until the check must be done.
        left: Budget,
    },
    /// Checked; waits for leave to start.
    WaitApply {
        /// The order.
        work: Work,
        /// Until it expires.
        left: Budget,
    },
    /// The new worker runs, and does not serve yet.
    Trial {
        /// The order.
        work: Work,
        /// Until it must have taken over.
        left: Budget,
        /// Whether the old worker runs beside it.
        swap: Swap,
        /// How far it is.
        step: TrialStep,
    },
    /// The new worker serves; the old one is ready to.
    Probation {
        /// The order.
        work: Work,
        /// Whether the old worker runs beside it.
        swap: Swap,
        /// How far it is.
        step: ProbationStep,
    },
    /// Going back to the active slot.
    Reverting {
        /// The deployment that is left.
        subject: Subject,
        /// Whether the worker to go back to still runs.
        swap: Swap,
        /// Why.
        cause: Cause,
        /// Attempts that failed.
        tries: u8,
        /// How far it is.
        step: RevertStep,
        /// Where it ends.
        then: Then,
    },
    /// The new bundle is the active one.
    Committed(Ended),
    /// The active bundle serves again.
    Reverted(Ended),
    /// The order can't be followed on this device.
    Rejected(Ended),
    /// Taken back before it was committed.
    Cancelled(Ended),
    /// A deadline passed before the trial.
    Expired(Ended),
    /// Neither the new bundle nor the old one would serve; the device is reachable and tries again now and then.
    Quarantined(Ended),
    /// The server knows how it ended.
    Reported {
        /// How.
        phase: Phase,
        /// The end.
        ended: Ended,
    },
}

/// Why a download does not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DownloadWait {
    /// Outside its window.
    Window,
    /// Not enough space.
    Space {
        /// Until space is asked for again.
        retry: Budget,
    },
    /// After a failure.
    Backoff {
        /// Until it is tried again.
        retry: Budget,
    },
}

/// How the old worker makes way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Swap {
    /// It stays beside the new one until the commit.
    Warm,
    /// It stops before the new one starts.
    Cold,
}

/// Steps of a trial, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrialStep {
    /// The worker loads the model.
    Starting,
    /// It answers the golden samples.
    Golden,
    /// It answers live samples beside the old one.
    Shadow,
    /// Samples are being led to it.
    TakingOver,
}

/// Steps of a probation, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbationStep {
    /// Health is watched.
    Soaking {
        /// Until it has lasted long enough.
        left: Budget,
        /// Whether inference made progress at all.
        healthy: bool,
        /// Whether the server has agreed already.
        agreed: bool,
    },
    /// Healthy; the server decides.
    Held {
        /// Until the device decides against it.
        left: Budget,
    },
}

/// Steps of going back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RevertStep {
    /// The active slot was told to serve.
    Trying {
        /// Until that counts as failed.
        left: Budget,
    },
    /// It failed; a pause before it is told again.
    Pausing {
        /// Until then.
        left: Budget,
    },
}

/// Where going back ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Then {
    /// The trial was interrupted and is tried again.
    Retry(Work),
    /// In this phase.
    End(Phase),
}

/// How a deployment ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The deployment.
    pub subject: Subject,
    /// Why.
    pub code: Code,
    /// Sequence number of the report that says so.
    pub report_seq: u64,
}

impl State {
    /// Its name.
    pub const fn phase(&self) -> Phase {
        match self {
            Self::Idle => Phase::Idle,
            Self::Received { .. } => Phase::Received,
            Self::Authorized { .. } => Phase::Authorized,
            Self::WaitDownload { .. } => Phase::WaitDownload,
            Self::Downloading { .. } => Phase::Downloading,
            Self::Staged { .. } => Phase::Staged,
            Self::WaitApply { .. } => Phase::WaitApply,
            Self::Trial { .. } => Phase::Trial,
            Self::Probation { .. } => Phase::Probation,
            Self::Reverting { .. } => Phase::Reverting,
            Self::Committed(_) => Phase::Committed,
            Self::Reverted(_) => Phase::Reverted,
            Self::Rejected(_) => Phase::Rejected,
            Self::Cancelled(_) => Phase::Cancelled,
            Self::Expired(_) => Phase::Expired,
            Self::Quarantined(_) => Phase::Quarantined,
            Self::Reported { .. } => Phase::Reported,
        }
    }

    /// The deployment it is about.
    pub fn subject(&self) -> Option<Subject> {
        match self {
            Self::Idle => None,
            Self::Received { order, .. } => Some(subject_of(order)),
            Self::Authorized { work, .. }
            | Self::WaitDownload { work, .. }
            | Self::Downloading { work, .. }
            | Self::Staged { work, .. }
            | Self::WaitApply { work, .. }
            | Self::Trial { work, .. }
            | Self::Probation { work, .. } => Some(work.subject()),
            Self::Reverting { subject, .. } => Some(subject.clone()),
            Self::Committed(ended)
            | Self::Reverted(ended)
            | Self::Rejected(ended)
            | Self::Cancelled(ended)
            | Self::Expired(ended)
            | Self::Quarantined(ended)
            | Self::Reported { ended, .. } => Some(ended.subject.clone()),
        }
    }

    /// The order that is followed and could still be given up before its trial.
    pub(super) fn before_trial(&self) -> Option<&Order> {
        match self {
            Self::Received { order, .. } => Some(order),
            Self::Authorized { work, .. }
            | Self::WaitDownload { work, .. }
            | Self::Downloading { work, .. }
            | Self::Staged { work, .. }
            | Self::WaitApply { work, .. } => Some(&work.order),
            _ => None,
        }
    }

    pub(super) fn work_mut(&mut self) -> Option<&mut Work> {
        match self {
            Self::Authorized { work, .. }
            | Self::WaitDownload { work, .. }
            | Self::Downloading { work, .. }
            | Self::Staged { work, .. }
            | Self::WaitApply { work, .. }
            | Self::Trial { work, .. }
            | Self::Probation { work, .. } => Some(work),
            _ => None,
        }
    }

    pub(super) const fn is_cold(&self) -> bool {
        matches!(
            self,
            Self::Trial { swap: Swap::Cold, .. }
                | Self::Probation { swap: Swap::Cold, .. }
                | Self::Reverting { swap: Swap::Cold, .. }
        )
    }
}
