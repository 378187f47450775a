//! What was last counted of each fleet, so that however many people look, devices are counted once for each change.

use super::view::FleetView;
use crate::service::AnyError;
use sedge_protocol::id::ProjectId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Numbers of the last change of the database and of rollouts; each only grows.
pub(super) type Version = (u64, u64);

/// A project's fleet and the changes that it was counted after. Locked while it is counted: others wait for that.
type Slot = Arc<tokio::sync::Mutex<Option<(Version, FleetView)>>>;

/// Fleets by project; only of projects that exist.
#[derive(Debug, Default)]
pub(super) struct FleetCache {
    slots: Mutex<HashMap<ProjectId, Slot>>,
}

impl FleetCache {
    /// The fleet as it was after these changes or later ones, counted now if it was not.
    pub(super) async fn get(
        &self,
        project: &ProjectId,
        version: Version,
        count: impl Future<Output = Result<FleetView, AnyError>>,
    ) -> Result<FleetView, AnyError> {
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.entry(project.clone()).or_default().clone()
        };
        let mut held = slot.lock().await;
        match &*held {
            Some((at, fleet)) if at.0 >= version.0 && at.1 >= version.1 => Ok(fleet.clone()),
            _ => {
                let fleet = count.await?;
                *held = Some((version, fleet.clone()));
                Ok(fleet)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[tokio::test]
    async fn devices_are_counted_once_for_each_change() {
        let (cache, counted) = (FleetCache::default(), AtomicU64::new(0));
        let (one, two): (ProjectId, ProjectId) = ("one".parse().expect("a name"), "two".parse().expect("a name"));
        let look = async |project: &ProjectId, version: Version| {
            let count = async {
                let devices = counted.fetch_add(1, Ordering::Relaxed) + 1;
                // Whoever comes while it is counted waits for that.
                tokio::task::yield_now().await;
                let (runs, groups) = (Vec::new(), Vec::new());
                Ok(FleetView { devices, online: 0, settled: 0, bad: 0, runs, groups })
            };
            cache.get(project, version, count).await.expect("counted").devices
        };
        assert_eq!(tokio::join!(look(&one, (7, 1)), look(&one, (7, 1)), look(&one, (7, 1))), (1, 1, 1));
        assert_eq!((look(&two, (7, 1)).await, look(&one, (8, 1)).await, look(&one, (7, 1)).await), (2, 3, 3));
        let failed = cache.get(&one, (8, 2), async { Err("the disk is gone".into()) }).await;
        assert!(failed.is_err());
        assert_eq!(look(&one, (8, 2)).await, 4, "a failure is not kept");
    }
}
