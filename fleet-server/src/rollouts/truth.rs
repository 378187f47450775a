//! What is stored of a rollout's devices, told anew: after a start, and whenever messages were missed.

use super::error::RolloutError;
use super::executor::{Key, Shared};
use crate::rollout::Event;
use sedge_protocol::id::{DeviceId, Generation};
use sedge_protocol::message::Status;
use std::collections::BTreeSet;

/// Devices that are read at once.
const PAGE: u32 = 1000;

impl Shared {
    /// Reads everything that a rollout could have heard, and tells it. What it knows already changes nothing.
    pub(super) async fn tell_truth(&self, key: &Key) -> Result<(), RolloutError> {
        let (project, id) = key;
        let Some(component) = self.lives().get(key).map(|live| live.head.component.clone()) else { return Ok(()) };
        let presences = self.fleet.devices(project).await?;
        let reported = self.fleet.records().latest(project, &component).await?;
        let desired = self.fleet.assignments(project).await?;
        let gone = self.gone(key).await?;
        let field = self.field.of(project);
        let now_ms = self.clock.now_ms();
        let mut lives = self.lives();
        let Some(live) = lives.get_mut(key) else { return Ok(()) };
        for device in gone {
            live.handle(Event::DeviceGone { device }, now_ms);
        }
        for (device, presence) in &presences {
            live.presence(&device.device, matches!(presence.status, Status::Online(_)), now_ms);
        }
        for (device, (generation, assignments)) in &desired {
            let Some((of, _)) = live.rollout.device(device) else { continue };
            let later =
                of.generation > Generation(0) && of.back_generation == Generation(0) && *generation > of.generation;
            if !later || of.asked.is_some() {
                continue;
            }
            let ours = assignments.get(&component).and_then(|a| a.assignment.rollout.as_ref()) == Some(id);
            if ours {
                live.carry(device, *generation, now_ms);
            } else {
                live.handle(Event::OtherAssignment { device: device.clone(), generation: *generation }, now_ms);
            }
        }
        for (device, latest) in &reported {
            // What those say that nothing was assigned to is no answer to the rollout, and no news.
            if live.rollout.device(device).is_some_and(|(of, _)| of.generation > Generation(0) || of.asked.is_some()) {
                live.latest(device, latest, now_ms);
            }
        }
        for view in &field {
            if let Some(running) = view.components.get(&component).and_then(|c| c.running) {
                live.beat(view, running, view.last_heartbeat_ms, true, now_ms);
            }
        }
        live.control(field.iter(), now_ms);
        Ok(())
    }

    /// Members that are no longer in service.
    async fn gone(&self, (project, id): &Key) -> Result<Vec<DeviceId>, RolloutError> {
        let mut present = BTreeSet::new();
        let mut after: Option<DeviceId> = None;
        loop {
            let page = self.edge.devices(project, after.as_ref(), PAGE).await?;
            after = page.last().map(|last| last.principal.device.clone());
            let in_service = page.iter().filter(|device| device.decommissioned_at.is_none());
            present.extend(in_service.map(|device| device.principal.device.clone()));
            if page.len() < PAGE as usize {
                break;
            }
        }
        let lives = self.lives();
        let Some(live) = lives.get(&(project.clone(), id.clone())) else { return Ok(Vec::new()) };
        let members = live.rollout.devices().map(|(device, _, _)| device);
        Ok(members.filter(|device| !present.contains(device)).cloned().collect())
    }
}
