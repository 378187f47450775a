//! What a rollout does to devices: each may be done again, and none undoes what somebody else has said.

use super::director::{Assigned, Assignments, DirectorError};
use super::service::{Desire, Fleet, FleetError};
use super::store::StoreError;
use sedge_protocol::id::{ComponentName, DeviceId, Generation, Principal, ProjectId, RolloutId};
use sedge_protocol::message::{DeploymentState, ErrorCode};
use std::collections::BTreeMap;

/// How often it is looked up again what holds when somebody was faster.
const TRIES_MAX: usize = 4;

impl Fleet {
    /// Says what a component is to run, unless a rollout has said just that already: the generation that holds then. A
    /// device that had it and went back for want of a verdict is asked anew, as it does not try one generation twice.
    ///
    /// # Errors
    /// As [`Fleet::desire`].
    pub async fn desire_once(
        &self,
        device: &Principal,
        component: &ComponentName,
        desire: &Desire,
        actor: &str,
    ) -> Result<Generation, FleetError> {
        for tries in 1.. {
            let state = self.parts.director.state(device).await?;
            let found = state.as_ref().map_or(Generation(0), |state| state.generation);
            if let Some(Assigned { digest, assignment, .. }) = state.as_ref().and_then(|s| s.assignments.get(component))
                && assignment.rollout == desire.rollout
                && *digest == desire.digest
                && assignment.settings == desire.settings
            {
                let latest = self.parts.records.reported(device).await?.remove(component);
                let lapsed = latest.is_some_and(|latest| {
                    latest.generation >= found.0
                        && latest.report.state == DeploymentState::Reverted
                        && latest.report.error.is_some_and(|error| error.code == ErrorCode::TimedOut)
                });
                if !lapsed {
                    return Ok(found);
                }
            }
            // Whoever was faster may have said just that.
            let desire = Desire { expected_generation: Some(found), ..desire.clone() };
            match self.desire(device, component, &desire, actor).await {
                Err(FleetError::Director(DirectorError::Conflict { .. })) if tries < TRIES_MAX => {}
                done => return done,
            }
        }
        Ok(Generation(0))
    }

    /// Lets a component run what it was to run before a rollout, or nothing when that was nothing: the generation that
    /// holds then. What is not the rollout's is left alone.
    ///
    /// # Errors
    /// [`DirectorError::NoEarlier`] when what was before is no longer known, or may not be gone back to.
    pub async fn call_back(
        &self,
        device: &Principal,
        component: &ComponentName,
        rollout: &RolloutId,
        actor: &str,
    ) -> Result<Generation, FleetError> {
        let ours = |assignments: &Assignments| {
            assignments.get(component).is_some_and(|a| a.assignment.rollout.as_ref() == Some(rollout))
        };
        for tries in 1.. {
            let Some(state) = self.parts.director.state(device).await? else { return Ok(Generation(0)) };
            if !ours(&state.assignments) {
                return Ok(state.generation);
            }
            let before = self.parts.director.before(device, component, state.generation, ours).await?;
            let of = component.clone();
            let change = move |assignments: &mut Assignments| match &before {
                Some(before) => drop(assignments.insert(of.clone(), before.clone())),
                None => drop(assignments.remove(&of)),
            };
            let by = (component, Some(rollout));
            match self.assign(device, by, Some(state.generation), actor, change).await {
                Err(FleetError::Director(DirectorError::Conflict { .. })) if tries < TRIES_MAX => {}
                done => return done,
            }
        }
        Ok(Generation(0))
    }

    /// What every device of a project is to run.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn assignments(
        &self,
        project: &ProjectId,
    ) -> Result<BTreeMap<DeviceId, (Generation, Assignments)>, StoreError> {
        self.parts.director.assignments(project).await
    }

    /// What a device is to run.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn assigned(&self, device: &Principal) -> Result<Option<(Generation, Assignments)>, StoreError> {
        let state = self.parts.director.state(device).await?;
        Ok(state.map(|state| (state.generation, state.assignments)))
    }
}
