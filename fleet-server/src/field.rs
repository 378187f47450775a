//! How models fare in the field: what heartbeats tell, kept so that a rollout's gates can judge by it.
//!
//! Of each device the newest heartbeat, and of each bundle that it ran its counters over all starts of the agent. The
//! decisions are a value ([`state`]); this is its shell. Heartbeats arrive as telemetry, of which a slow listener misses
//! some: harmless, since counters are cumulative and the next heartbeat says all that a lost one said. Nothing here is
//! for presence, which a device's status tells.
//!
//! If power dies, see [`rows`].

pub mod api;
mod counters;
mod rows;
mod state;
#[cfg(test)]
mod tests;

pub use counters::Counts;
pub use state::{BundleView, ComponentView, DeviceView, FieldChange, FieldCounters};

use crate::fleet::mqtt::Aborted;
use crate::fleet::store::now_ms;
use crate::fleet::{Measurement, StoreError};
use rows::{Row, Rows};
use sedge_protocol::BundleDigest;
use sedge_protocol::id::{DeviceId, Principal, ProjectId};
use sedge_protocol::message::{Health, Telemetry};
use sqlx::SqlitePool;
use state::FieldState;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::MissedTickBehavior;

/// Changes that wait for a slow listener before it misses some; it then looks at all it is concerned with.
const CHANGES_MAX: usize = 1024;
/// How often what was heard is stored.
const STORE_EVERY: Duration = Duration::from_secs(1);
/// Devices that are stored in one transaction.
const BATCH_MAX: usize = 256;
/// Devices that one answer shows.
pub const PAGE_MAX: u32 = 1000;

/// The field. It listens until it is dropped.
#[derive(Debug)]
pub struct Field {
    shared: Arc<Shared>,
    _listening: Aborted,
}

#[derive(Debug)]
struct Shared {
    held: Mutex<Held>,
    changes: broadcast::Sender<FieldChange>,
    rows: Rows,
    /// Of writers there is one at a time, so that an older state never comes after a newer one.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Held {
    state: FieldState,
    /// Devices of which something is not stored.
    unstored: BTreeSet<Principal>,
}

impl Field {
    /// Opens what is stored, and listens to these measurements.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn start(pool: SqlitePool, telemetry: broadcast::Receiver<Measurement>) -> Result<Self, StoreError> {
        let rows = Rows::new(pool);
        let mut held = Held::default();
        for (device, field) in rows.all().await? {
            held.state.resume(device, field);
        }
        let (held, changes) = (Mutex::new(held), broadcast::channel(CHANGES_MAX).0);
        let shared = Arc::new(Shared { held, changes, rows, writing: tokio::sync::Mutex::default() });
        let listening = Aborted::spawn(listen(Arc::clone(&shared), telemetry));
        Ok(Self { shared, _listening: listening })
    }

    /// All devices of a project that have ever told, by name.
    pub fn of(&self, project: &ProjectId) -> Vec<DeviceView> {
        self.shared.held().state.page(project, None, usize::MAX)
    }

    /// At most `count_max` devices of a project after this one, by name.
    pub fn page(&self, project: &ProjectId, after: Option<&DeviceId>, count_max: u32) -> Vec<DeviceView> {
        self.shared.held().state.page(project, after, usize::try_from(count_max).unwrap_or(usize::MAX))
    }

    /// One device; `None` before its first heartbeat.
    pub fn device(&self, device: &Principal) -> Option<DeviceView> {
        self.shared.held().state.device(device)
    }

    /// What a bundle did on these devices, together.
    pub fn counters<'a>(
        &self,
        devices: impl IntoIterator<Item = &'a Principal>,
        bundle: BundleDigest,
    ) -> FieldCounters {
        self.shared.held().state.counters(devices, bundle)
    }

    /// Changes as heartbeats bring them. Who is slow misses some, and then looks at the field itself.
    pub fn changes(&self) -> broadcast::Receiver<FieldChange> {
        self.shared.changes.subscribe()
    }

    /// Forgets a device that is gone for good.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget(&self, device: &Principal) -> Result<(), StoreError> {
        let _writing = self.shared.writing.lock().await;
        {
            let mut held = self.shared.held();
            held.state.forget(device);
            held.unstored.remove(device);
        }
        self.shared.rows.forget(device).await
    }

    /// Stores what was heard up to now.
    ///
    /// # Errors
    /// When the database fails; it is tried again with the next heartbeats.
    pub async fn store(&self) -> Result<(), StoreError> {
        self.shared.store().await
    }
}

impl Shared {
    fn held(&self) -> MutexGuard<'_, Held> {
        // What it knows is whole after each call.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, device: &Principal, health: &Health, received_ms: u64) {
        let changes = {
            let mut held = self.held();
            held.unstored.insert(device.clone());
            held.state.hear(device, health, received_ms)
        };
        for change in changes {
            // Nobody may be listening.
            let _listeners = self.changes.send(change);
        }
    }

    async fn store(&self) -> Result<(), StoreError> {
        let _writing = self.writing.lock().await;
        loop {
            let batch: Vec<Principal> = {
                let mut held = self.held();
                (0..BATCH_MAX).map_while(|_| held.unstored.pop_first()).collect()
            };
            if batch.is_empty() {
                return Ok(());
            }
            if let Err(e) = self.store_batch(&batch).await {
                self.held().unstored.extend(batch);
                return Err(e);
            }
        }
    }

    async fn store_batch(&self, batch: &[Principal]) -> Result<(), StoreError> {
        let rows: Result<Vec<Row>, StoreError> = {
            let held = self.held();
            batch.iter().filter_map(|device| Some(Row::new(device, held.state.of(device)?))).collect()
        };
        self.rows.store(&rows?).await
    }
}

async fn listen(shared: Arc<Shared>, mut telemetry: broadcast::Receiver<Measurement>) {
    let mut ticks = tokio::time::interval(STORE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            measured = telemetry.recv() => match measured {
                Ok(Measurement { device, telemetry: Telemetry::Health(health), .. }) => {
                    shared.hear(&device, &health, now_ms());
                }
                Ok(_) => {}
                // The next heartbeats say what these said.
                Err(RecvError::Lagged(missed)) => tracing::debug!(missed, "measurements came too fast"),
                Err(RecvError::Closed) => return,
            },
            _ = ticks.tick() => if let Err(e) = shared.store().await {
                tracing::error!("heartbeats are not stored, and it is tried again: {e}");
            },
        }
    }
}
