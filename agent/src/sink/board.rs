//! What is known about each component right now, for the HTTP endpoint and for heartbeats.

use super::Record;
use sedge_protocol::BundleDigest;
use sedge_protocol::deployment::Slot;
use sedge_protocol::id::ComponentName;
use sedge_protocol::message::ComponentHealth;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Every component's view.
#[derive(Debug, Default)]
pub struct Board(Mutex<BTreeMap<ComponentName, ComponentView>>);

/// One component.
#[derive(Debug, Clone, Default)]
pub struct ComponentView {
    /// Which slot serves.
    pub serving: Option<Slot>,
    /// What runs there.
    pub running: Option<BundleDigest>,
    /// The process that serves.
    pub pid: Option<u32>,
    /// Why it is ill; `None` while it is not known to be.
    pub ill: Option<String>,
    /// Its counters; present once a worker has served.
    pub health: Option<ComponentHealth>,
    /// Samples with a known right answer.
    pub labelled: u64,
    /// Of them, those answered right.
    pub right: u64,
    /// Right answers that came when the prediction was no longer remembered.
    pub labels_late: u64,
    /// Results that a sink did not take.
    pub sink_dropped: u64,
    /// The latest result.
    pub latest: Option<Arc<Record>>,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ComponentName, ComponentView>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes one component's view.
    pub(crate) fn update(&self, component: &ComponentName, change: impl FnOnce(&mut ComponentView)) {
        match self.lock().get_mut(component) {
            Some(view) => change(view),
            None => tracing::error!(%component, "a component that was never announced"),
        }
    }

    pub(crate) fn announce(&self, component: &ComponentName) {
        self.lock().entry(component.clone()).or_default();
    }

    /// All views as they are now.
    pub fn views(&self) -> BTreeMap<ComponentName, ComponentView> {
        self.lock().clone()
    }

    /// One component's view.
    pub fn view(&self, component: &ComponentName) -> Option<ComponentView> {
        self.lock().get(component).cloned()
    }

    /// What a heartbeat says of each component that has served.
    pub fn health(&self) -> BTreeMap<ComponentName, ComponentHealth> {
        let of = |(name, view): (&ComponentName, &ComponentView)| Some((name.clone(), view.health.clone()?));
        self.lock().iter().filter_map(of).collect()
    }
}
