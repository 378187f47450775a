//! Performing effects: those of one device in their order, those of several devices at once.

use super::executor::{Key, Shared};
use crate::fleet::director::DirectorError;
use crate::fleet::{Desire, FleetError};
use crate::rollout::{Asked, AssignProblem, Effect, Event, State};
use sedge_protocol::id::Principal;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use tokio::task::{Id, JoinSet};

/// Devices that are steered at once. The database has one writer; more would only wait for it.
const AT_ONCE_MAX: usize = 16;

/// An effect on a device.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Job {
    pub(super) rollout: Key,
    pub(super) device: Principal,
    pub(super) effect: Effect,
}

/// Effects that wait, and those that are being performed.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    waiting: HashMap<Principal, VecDeque<Job>>,
    /// Devices whose turn comes; a device that has had its turn is last, so that all verdicts go out before the first
    /// way back is signed.
    ready: VecDeque<Principal>,
    busy: HashSet<Principal>,
    running: JoinSet<(Key, Option<Event>)>,
    devices: HashMap<Id, Principal>,
}

impl Jobs {
    /// Adds a job, unless the same already waits.
    pub(super) fn push(&mut self, job: Job) {
        let waiting = self.waiting.entry(job.device.clone()).or_default();
        if waiting.contains(&job) {
            return;
        }
        if waiting.is_empty() && !self.busy.contains(&job.device) {
            self.ready.push_back(job.device.clone());
        }
        waiting.push_back(job);
    }

    /// Begins as many as may be performed.
    pub(super) fn begin(&mut self, shared: &Arc<Shared>) {
        #[cfg(test)]
        if shared.idle.load(std::sync::atomic::Ordering::SeqCst) {
            return;
        }
        while self.running.len() < AT_ONCE_MAX {
            let Some(device) = self.ready.pop_front() else { return };
            let Some(job) = self.waiting.get_mut(&device).and_then(VecDeque::pop_front) else { continue };
            self.busy.insert(device.clone());
            let shared = Arc::clone(shared);
            let task = self.running.spawn(async move {
                let event = perform(&shared, &job).await;
                (job.rollout, event)
            });
            self.devices.insert(task.id(), device);
        }
    }

    /// Waits for the next to end: for whom, and what it says. For ever while none is performed.
    pub(super) async fn ended(&mut self) -> Option<(Key, Event)> {
        let (id, done) = match self.running.join_next_with_id().await {
            None => return std::future::pending().await,
            Some(Ok((id, done))) => (id, Some(done)),
            Some(Err(e)) => (e.id(), None),
        };
        if let Some(device) = self.devices.remove(&id) {
            self.busy.remove(&device);
            match self.waiting.get(&device) {
                Some(waiting) if !waiting.is_empty() => self.ready.push_back(device),
                _ => drop(self.waiting.remove(&device)),
            }
        }
        let (key, event) = done?;
        Some((key, event?))
    }
}

async fn perform(shared: &Shared, job: &Job) -> Option<Event> {
    let (device, id) = (job.device.device.clone(), &job.rollout.1);
    let actor = format!("rollout {id}");
    let (component, desire) = {
        let lives = shared.lives();
        let live = lives.get(&job.rollout)?;
        let plan = live.rollout.plan();
        if matches!(job.effect, Effect::Assign { .. }) {
            // What was asked for before a pause or a halt is not begun after it; a rollout that goes on asks again.
            let asked = live.rollout.device(&device).and_then(|(of, _)| of.asked);
            if *live.rollout.state() != State::Running || asked != Some(Asked::Assign) {
                return None;
            }
        }
        let desire = Desire {
            bundle: plan.spec.bundle.clone(),
            digest: plan.spec.digest,
            settings: plan.settings(),
            rollout: Some(id.clone()),
            not_after: None,
            expected_generation: None,
        };
        (plan.spec.component.clone(), desire)
    };
    match &job.effect {
        Effect::Assign { .. } => {
            let assigned = match shared.in_service(&job.device).await {
                Ok(true) => shared.fleet.desire_once(&job.device, &component, &desire, &actor).await.map_err(problem),
                Ok(false) => Err(AssignProblem::NoDevice),
                Err(e) => {
                    tracing::error!(device = %job.device, rollout = %id, "it is not assigned: {e}");
                    Err(AssignProblem::Busy)
                }
            };
            Some(match assigned {
                Ok(generation) => Event::Assigned { device, generation },
                Err(problem) => Event::AssignFailed { device, problem },
            })
        }
        Effect::RollBack { .. } => {
            let called = shared.fleet.call_back(&job.device, &component, id, &actor).await.map_err(problem);
            Some(match called {
                // One that was never to run anything is at none, and the first is the next.
                Ok(generation) => Event::RollBackAssigned { device, generation: generation.max(FIRST) },
                Err(problem) => Event::RollBackFailed { device, problem },
            })
        }
        Effect::Verdict { generation, verdict, .. } => {
            if let Err(e) = shared.fleet.verdict(&job.device, &component, *generation, *verdict).await {
                tracing::warn!(device = %job.device, rollout = %id, "a verdict is not sent: {e}");
            }
            None
        }
        Effect::Finish { .. } | Effect::Note(_) | Effect::Refused { .. } => None,
    }
}

const FIRST: sedge_protocol::id::Generation = sedge_protocol::id::Generation(1);

fn problem(error: FleetError) -> AssignProblem {
    let problem = match &error {
        FleetError::Publisher(e) | FleetError::Director(DirectorError::Publisher(e)) => match e {
            crate::fleet::publisher::PublisherError::Store(_) => AssignProblem::Busy,
            _ => AssignProblem::NotReleased,
        },
        FleetError::Director(DirectorError::WouldRefuse { .. }) | FleetError::OtherBundle { .. } => {
            AssignProblem::NotReleased
        }
        FleetError::Director(DirectorError::NoEarlier { .. }) => AssignProblem::NoEarlier,
        FleetError::NotUploaded { .. } => AssignProblem::NotUploaded,
        _ => AssignProblem::Busy,
    };
    tracing::warn!("a rollout cannot assign: {error}");
    problem
}
