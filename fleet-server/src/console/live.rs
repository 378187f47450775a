//! The console of a fleet that is steered: what the database knows, what heartbeats measure, and the rollout.

mod device;
mod executor;
mod gate;
mod moment;
mod rollout;
mod source;
#[cfg(test)]
mod tests;
mod waits;

pub use executor::Rollouts;
pub use source::{RolloutSource, Told};

use super::cache::FleetCache;
use super::records::{StoredData, StoredRows};
use super::scan::{self, Bundles, DeviceRows, Placed};
use super::view::{BundleLabel, ConsoleData, DeviceQuery, DevicesPage, FleetView, RolloutView};
use super::words;
use crate::field::Field;
use crate::fleet::store::now_ms;
use crate::rollout::Summary;
use crate::service::AnyError;
use async_trait::async_trait;
use sedge_protocol::id::{DeviceId, Principal, ProjectId, RolloutId};
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Entries of a timeline that are read; the page shows fewer, and looks among them for when things began.
const TIMELINE_MAX: u32 = 200;
/// The group of devices that a rollout leaves out.
const OTHERS: &str = "not in the rollout";

/// The console's figures of a running fleet.
pub struct LiveData {
    stored: StoredData,
    field: Arc<Field>,
    rollouts: Arc<dyn RolloutSource>,
    moves: watch::Receiver<u64>,
    changes: watch::Receiver<u64>,
    cache: FleetCache,
    listening: JoinHandle<()>,
}

impl Drop for LiveData {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl std::fmt::Debug for LiveData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveData").field("stored", &self.stored).finish_non_exhaustive()
    }
}

impl LiveData {
    /// Begins to listen to all of them. The field is heard of by what it stores, every second.
    pub fn new(stored: StoredData, field: Arc<Field>, rollouts: Arc<dyn RolloutSource>) -> Self {
        let moves = rollouts.changes();
        let (mut records, mut moved) = (stored.changes(), moves.clone());
        let (sender, changes) = watch::channel(*records.borrow_and_update());
        let listening = tokio::spawn(async move {
            loop {
                let heard = tokio::select! {
                    heard = records.changed() => heard,
                    heard = moved.changed() => heard,
                };
                // Whoever no longer tells has ended with the server.
                if heard.is_err() {
                    return;
                }
                sender.send_modify(|number| *number += 1);
            }
        });
        Self { stored, field, rollouts, moves, changes, cache: FleetCache::default(), listening }
    }

    async fn rows<'a>(
        &'a self,
        project: &'a ProjectId,
        rollout: Option<&'a (RolloutId, Summary)>,
    ) -> Result<LiveRows<'a>, AnyError> {
        let component = rollout.map_or("", |(_, summary)| summary.component.as_str());
        Ok(LiveRows { stored: self.stored.rows(project, component).await?, project, rollout, data: self })
    }
}

/// What a rollout brings.
fn label(summary: &Summary, bundles: &Bundles) -> BundleLabel {
    let known = bundles.label(summary.digest.0.hex());
    if known.name.is_empty() { BundleLabel { name: summary.bundle.to_string(), ..known } } else { known }
}

/// A project's devices as they are.
struct LiveRows<'a> {
    stored: StoredRows<'a>,
    project: &'a ProjectId,
    rollout: Option<&'a (RolloutId, Summary)>,
    data: &'a LiveData,
}

impl LiveRows<'_> {
    /// The names of the waves, then that of the devices that the rollout leaves out.
    fn groups(&self) -> Vec<String> {
        match self.rollout {
            None => vec![String::new()],
            Some((_, summary)) => {
                summary.waves.iter().map(|wave| wave.name.clone()).chain([OTHERS.to_owned()]).collect()
            }
        }
    }
}

#[async_trait]
impl DeviceRows for LiveRows<'_> {
    async fn rows(&self, after: &str, asked: &DeviceQuery, rows_max: u32) -> Result<Vec<Placed>, AnyError> {
        let rows = self.stored.read(after, asked, rows_max).await?;
        let ids: Vec<DeviceId> = rows.iter().map(|(row, _)| row.id.parse()).collect::<Result<_, _>>()?;
        let steps = match self.rollout {
            Some((rollout, _)) => self.data.rollouts.devices(self.project, rollout, &ids).await?,
            None => Vec::new(),
        };
        let bundle = self.rollout.map(|(_, summary)| words::bundle(&label(summary, self.stored.bundles())));
        let bundle = bundle.unwrap_or_default();
        let mut steps = steps.into_iter();
        let placed = rows.into_iter().zip(ids).map(|((mut row, component), device)| {
            let device = Principal { project: self.project.clone(), device };
            let measured = self.data.field.device(&device);
            let component = component.and_then(|name| name.parse().ok());
            let measured = component.as_ref().and_then(|name| measured.as_ref()?.components.get(name));
            if let Some(measured) = measured {
                device::measure(&mut row, measured, self.stored.bundles());
            }
            let group = match (self.rollout, steps.next().flatten()) {
                (Some((_, summary)), Some(view)) => {
                    device::follow(&mut row, &view, summary, &bundle);
                    view.wave.saturating_sub(1)
                }
                (Some((_, summary)), None) => summary.waves.len(),
                (None, _) => 0,
            };
            Placed { row, group }
        });
        Ok(placed.collect())
    }
}

#[async_trait]
impl ConsoleData for LiveData {
    async fn projects(&self) -> Result<Vec<ProjectId>, AnyError> {
        self.stored.projects().await
    }

    async fn fleet(&self, project: &ProjectId) -> Result<Option<FleetView>, AnyError> {
        if !self.stored.has(project).await? {
            return Ok(None);
        }
        // Before anything is read, so that nothing older is kept for a later change.
        let version = (self.stored.change().await?, *self.moves.borrow());
        let scan = async {
            let rollout = self.rollouts.latest(project).await?;
            let rows = self.rows(project, rollout.as_ref()).await?;
            scan::fleet(&rows, &rows.groups(), rows.stored.bundles()).await
        };
        self.cache.get(project, version, scan).await.map(Some)
    }

    async fn rollout(&self, project: &ProjectId) -> Result<Option<RolloutView>, AnyError> {
        let Some((id, summary)) = self.rollouts.latest(project).await? else { return Ok(None) };
        let told = self.rollouts.timeline(project, &id, TIMELINE_MAX).await?;
        let bundle = label(&summary, &self.stored.bundles(project).await?);
        Ok(Some(rollout::view(&id, &summary, &told, bundle, now_ms())?))
    }

    async fn devices(&self, project: &ProjectId, asked: &DeviceQuery) -> Result<DevicesPage, AnyError> {
        let rollout = self.rollouts.latest(project).await?;
        scan::page(&self.rows(project, rollout.as_ref()).await?, asked).await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }
}
