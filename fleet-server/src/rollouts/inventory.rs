//! What is known of a project's devices before a rollout.

use super::error::RolloutError;
use super::executor::Shared;
use crate::field;
use crate::fleet::director::Assignments;
use crate::fleet::records::Latest;
use crate::rollout::{Candidate, DEVICES_MAX, PlanError, Step};
use sedge_protocol::BundleDigest;
use sedge_protocol::id::{ComponentName, DeviceId, Principal, ProjectId, RolloutId};

/// Devices that are read at once.
const PAGE: u32 = 1000;

/// What one device is known by.
struct Known<'a> {
    device: DeviceId,
    decommissioned: bool,
    seen: bool,
    field: Option<&'a field::DeviceView>,
    reported: Option<&'a Latest>,
    desired: Option<&'a Assignments>,
    rollout: Option<RolloutId>,
}

impl Known<'_> {
    fn candidate(self, component: &ComponentName) -> Candidate {
        let measured = self.field.and_then(|view| view.components.get(component)).and_then(|c| c.running);
        let said = self.reported.and_then(|latest| latest.report.running).map(BundleDigest);
        Candidate {
            device: self.device,
            running: measured.or(said),
            desired: self.desired.and_then(|assignments| assignments.get(component)).map(|assigned| assigned.digest),
            seen: self.seen,
            decommissioned: self.decommissioned,
            unmet: None,
            rollout: self.rollout,
        }
    }
}

impl Shared {
    /// Every device that has enrolled.
    pub(super) async fn inventory(
        &self,
        project: &ProjectId,
        component: &ComponentName,
    ) -> Result<Vec<Candidate>, RolloutError> {
        let presences = self.fleet.devices(project).await?;
        let seen: std::collections::BTreeSet<&DeviceId> = presences.iter().map(|(p, _)| &p.device).collect();
        let reported = self.fleet.records().latest(project, component).await?;
        let desired = self.fleet.assignments(project).await?;
        let field = self.field.of(project);
        let field: std::collections::BTreeMap<_, _> = field.iter().map(|view| (&view.device.device, view)).collect();
        let mut inventory = Vec::new();
        let mut after: Option<DeviceId> = None;
        loop {
            let page = self.edge.devices(project, after.as_ref(), PAGE).await?;
            after = page.last().map(|last| last.principal.device.clone());
            for enrolled in &page {
                let device = enrolled.principal.device.clone();
                let known = Known {
                    decommissioned: enrolled.decommissioned_at.is_some(),
                    seen: seen.contains(&device),
                    field: field.get(&device).copied(),
                    reported: reported.get(&device),
                    desired: desired.get(&device).map(|(_, assignments)| assignments),
                    rollout: self.busy_with(project, component, &device),
                    device,
                };
                inventory.push(known.candidate(component));
            }
            if page.len() < PAGE as usize {
                return Ok(inventory);
            }
            if inventory.len() > DEVICES_MAX {
                return Err(PlanError::TooMany { devices: inventory.len() }.into());
            }
        }
    }

    /// A device that has just come for the first time.
    pub(super) async fn candidate(
        &self,
        device: &Principal,
        component: &ComponentName,
    ) -> Result<Option<Candidate>, RolloutError> {
        let Some(enrolled) = self.edge.device(device).await? else { return Ok(None) };
        let (field, desired) = (self.field.device(device), self.fleet.assigned(device).await?);
        let reported = self.fleet.records().reported(device).await?;
        let known = Known {
            device: device.device.clone(),
            decommissioned: enrolled.decommissioned_at.is_some(),
            seen: true,
            field: field.as_ref(),
            reported: reported.get(component),
            desired: desired.as_ref().map(|(_, assignments)| assignments),
            rollout: self.busy_with(&device.project, component, &device.device),
        };
        Ok(Some(known.candidate(component)))
    }

    /// Whether a device is enrolled and not decommissioned.
    pub(super) async fn in_service(&self, device: &Principal) -> Result<bool, RolloutError> {
        let enrolled = self.edge.device(device).await?;
        Ok(enrolled.is_some_and(|enrolled| enrolled.decommissioned_at.is_none()))
    }

    /// The active rollout of a component that a device is part of.
    fn busy_with(&self, project: &ProjectId, component: &ComponentName, device: &DeviceId) -> Option<RolloutId> {
        let lives = self.lives();
        let of = lives.values().filter(|live| live.head.project == *project && live.head.component == *component);
        let mut active = of.filter(|live| !live.rollout.state().is_final());
        let gone = |step: Step| matches!(step, Step::Superseded | Step::Skipped);
        let holds = |live: &&super::live::Live| {
            live.rollout.device(device).is_some_and(|(of, _)| !of.released && !gone(of.step))
        };
        active.find(holds).map(|live| live.head.id.clone())
    }
}
