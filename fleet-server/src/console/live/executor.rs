//! Rollouts as this server carries them out.

use super::source::{RolloutSource, Told};
use crate::rollout::{DeviceView, Summary};
use crate::rollouts::Executor;
use crate::service::AnyError;
use async_trait::async_trait;
use sedge_protocol::id::{DeviceId, ProjectId, RolloutId};
use std::sync::{Arc, Weak};
use tokio::sync::watch;

/// Who carries rollouts out, for as long as it does: a page that is still open must not keep it from its end. After that
/// there are none.
pub struct Rollouts {
    executor: Weak<Executor>,
    changes: watch::Receiver<u64>,
}

impl Rollouts {
    /// Of this one.
    pub fn of(executor: &Arc<Executor>) -> Self {
        Self { executor: Arc::downgrade(executor), changes: executor.changes() }
    }
}

#[async_trait]
impl RolloutSource for Rollouts {
    async fn latest(&self, project: &ProjectId) -> Result<Option<(RolloutId, Summary)>, AnyError> {
        Ok(self.executor.upgrade().and_then(|executor| executor.latest(project)))
    }

    async fn timeline(&self, project: &ProjectId, rollout: &RolloutId, count_max: u32) -> Result<Vec<Told>, AnyError> {
        let Some(executor) = self.executor.upgrade() else { return Ok(Vec::new()) };
        let entries = executor.timeline(project, rollout, count_max).await?;
        Ok(entries.into_iter().map(|entry| Told { at_ms: entry.at_ms, note: entry.note }).collect())
    }

    async fn devices(
        &self,
        project: &ProjectId,
        rollout: &RolloutId,
        devices: &[DeviceId],
    ) -> Result<Vec<Option<DeviceView>>, AnyError> {
        let Some(executor) = self.executor.upgrade() else { return Ok(vec![None; devices.len()]) };
        Ok(executor.device_views(project, rollout, devices).await?)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }
}
