//! Where the console learns of rollouts.

use crate::rollout::{DeviceView, Note, Summary};
use crate::service::AnyError;
use async_trait::async_trait;
use sedge_protocol::id::{DeviceId, ProjectId, RolloutId};
use tokio::sync::watch;

/// An entry of a rollout's timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// What.
    pub note: Note,
}

/// Who carries rollouts out.
#[async_trait]
pub trait RolloutSource: Send + Sync {
    /// The rollout that runs, or the last one.
    ///
    /// # Errors
    /// When it cannot be read. So everywhere here.
    async fn latest(&self, project: &ProjectId) -> Result<Option<(RolloutId, Summary)>, AnyError>;

    /// What happened in a rollout: at most `count_max` entries, newest first.
    ///
    /// # Errors
    /// As above.
    async fn timeline(&self, project: &ProjectId, rollout: &RolloutId, count_max: u32) -> Result<Vec<Told>, AnyError>;

    /// How these devices fare in a rollout, in their order; none for one that is not part of it.
    ///
    /// # Errors
    /// As above.
    async fn devices(
        &self,
        project: &ProjectId,
        rollout: &RolloutId,
        devices: &[DeviceId],
    ) -> Result<Vec<Option<DeviceView>>, AnyError>;

    /// A number that changes when anything of that may have changed.
    fn changes(&self) -> watch::Receiver<u64>;
}
