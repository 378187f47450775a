//! Why a rollout is not made or not changed.

use crate::fleet::{FleetError, StoreError};
use crate::rollout::{Ineligible, PlanError, RefusedWhy, RestoreError};
use crate::store;
use sedge_protocol::id::{ProjectId, RolloutId};
use std::collections::BTreeMap;

/// Why something is not done.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum RolloutError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Edge(#[from] store::StoreError),
    #[error(transparent)]
    Fleet(#[from] FleetError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// What somebody asked for does not fit.
    #[error(transparent)]
    Refused(RefusedWhy),
    /// The stored rollout cannot be read back.
    #[error("rollout `{id}` of project `{project}` cannot be read back")]
    Restore { project: ProjectId, id: RolloutId, source: RestoreError },
    /// There is none of this id.
    #[error("project `{project}` has no rollout `{id}`; `sedge rollout history` lists them")]
    NoRollout { project: ProjectId, id: RolloutId },
    /// There is one of this id.
    #[error("project `{project}` has a rollout `{id}` already; look at it, or choose another id")]
    Exists { project: ProjectId, id: RolloutId },
    /// The declaration is for another project.
    #[error("the rollout is declared for project `{declared}`, and was posted to `{project}`")]
    OtherProject { project: ProjectId, declared: ProjectId },
    /// The plan has no devices.
    #[error("no device can take part: {}; `--dry-run` gives each device's reason", reasons(skipped))]
    Nobody { skipped: BTreeMap<String, u32> },
    /// The server is being stopped.
    #[error("the server is stopping; repeat when it is back")]
    Stopping,
    /// The system gave no random bytes.
    #[error("the system gives no random bytes")]
    Random(#[source] getrandom::Error),
}

fn reasons(skipped: &BTreeMap<String, u32>) -> String {
    if skipped.is_empty() {
        return "the selector fits no device".to_owned();
    }
    let said: Vec<String> = skipped.iter().map(|(why, devices)| format!("{devices} {why}")).collect();
    said.join(", ")
}

/// How many devices are left out, by reason.
pub(super) fn counted<'a>(skipped: impl Iterator<Item = &'a Ineligible>) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for why in skipped {
        *counts.entry(why.name().to_owned()).or_default() += 1;
    }
    counts
}
