//! Rollouts as the rest of the server sees them.

use super::actor::{Actor, Input};
use super::clock::Clock;
use super::error::{RolloutError, counted};
use super::live::Live;
use super::store::{Head, Rows, Stored, TimelineEntry};
use super::timeline;
use crate::field::Field;
use crate::fleet::mqtt::Aborted;
use crate::fleet::{Fleet, FleetError};
use crate::rollout::{
    DeviceView, Event, FailureCode, Outcome, Plan, RefusedWhy, Rollout, RolloutSpec, Step, Summary, plan,
};
use crate::store::EdgeStore;
use sedge_protocol::Sha256Digest;
use sedge_protocol::id::{BundleName, DeviceId, ProjectId, RolloutId};
use serde::Serialize;
use sqlx::SqlitePool;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, oneshot, watch};

/// Commands that wait; whoever comes then waits to be heard.
const INPUTS_MAX: usize = 64;
/// Longest part of an id that is the bundle's name.
const NAME_PART_MAX: usize = 48;

pub(super) type Key = (ProjectId, RolloutId);

/// A rollout as it is shown.
#[derive(Debug, Clone, Serialize)]
pub struct Shown {
    /// Its row.
    #[serde(flatten)]
    pub head: Head,
    /// What an approval would sign.
    pub plan_digest: Sha256Digest,
    /// What was declared.
    pub spec: RolloutSpec,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// Where it is.
    pub summary: Summary,
}

/// Which devices of a rollout are wanted.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Of this wave, from 1.
    pub wave: Option<usize>,
    /// At this step.
    pub step: Option<Step>,
    /// After this one, by name.
    pub after: Option<DeviceId>,
    /// At most so many.
    pub count_max: usize,
}

/// What all tasks share.
pub(super) struct Shared {
    pub(super) fleet: Arc<Fleet>,
    pub(super) field: Arc<Field>,
    pub(super) edge: Arc<dyn EdgeStore>,
    pub(super) rows: Rows,
    pub(super) clock: Clock,
    pub(super) changes: watch::Sender<u64>,
    /// Lets a test look at what is stored and not done.
    #[cfg(test)]
    pub(super) idle: std::sync::atomic::AtomicBool,
    lives: Mutex<BTreeMap<Key, Live>>,
}

impl Shared {
    /// The active rollouts, and of each component the last one: what comes late is still heard. Only the actor changes
    /// them.
    pub(super) fn lives(&self) -> MutexGuard<'_, BTreeMap<Key, Live>> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Carries rollouts out until it is dropped.
pub struct Executor {
    shared: Arc<Shared>,
    inputs: mpsc::Sender<Input>,
    /// One plan is made at a time, or two could take the same device.
    planning: Arc<tokio::sync::Mutex<()>>,
    task: Mutex<Option<Aborted>>,
}

impl std::fmt::Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executor").finish_non_exhaustive()
    }
}

fn restore(stored: Stored) -> Result<Live, RolloutError> {
    let Stored { number, head, plan, saved } = stored;
    let core = saved.core.clone();
    match Rollout::restore(plan, saved) {
        Ok(rollout) => Ok(Live::new(number, head, rollout, Some(core))),
        Err(source) => Err(RolloutError::Restore { project: head.project, id: head.id, source }),
    }
}

impl Executor {
    /// Takes up every rollout where it was.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn start(
        pool: SqlitePool,
        edge: Arc<dyn EdgeStore>,
        fleet: Arc<Fleet>,
        field: Arc<Field>,
        clock: Clock,
    ) -> Result<Self, RolloutError> {
        let rows = Rows::new(pool);
        // Heard before the truth is read, so that nothing falls between.
        let (news, beats) = (fleet.news(), field.changes());
        let mut lives = BTreeMap::new();
        for stored in rows.live().await? {
            match restore(stored) {
                Ok(live) => drop(lives.insert((live.head.project.clone(), live.head.id.clone()), live)),
                // The others must not wait for it.
                Err(e) => tracing::error!("a rollout does not go on: {e}: {:?}", std::error::Error::source(&e)),
            }
        }
        let changes = watch::channel(0).0;
        let shared = Arc::new(Shared {
            fleet,
            field,
            edge,
            rows,
            clock,
            changes,
            #[cfg(test)]
            idle: std::sync::atomic::AtomicBool::default(),
            lives: Mutex::new(lives),
        });
        let (inputs, received) = mpsc::channel(INPUTS_MAX);
        let task = Aborted::spawn(Actor::new(Arc::clone(&shared), received, news, beats).run());
        Ok(Self { shared, inputs, planning: Arc::default(), task: Mutex::new(Some(task)) })
    }

    /// From now on effects are stored and not performed.
    #[cfg(test)]
    pub(super) fn idle(&self) {
        self.shared.idle.store(true, std::sync::atomic::Ordering::SeqCst);
    }

    /// Does nothing any more; what was stored goes on when the server is back.
    pub fn stop(&self) {
        drop(self.task.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Ends it wherever it is, and waits until nothing of it is left.
    #[cfg(test)]
    pub(super) async fn killed(&self) {
        self.stop();
        while Arc::strong_count(&self.shared) > 1 {
            tokio::task::yield_now().await;
        }
    }

    /// A number that changes whenever something here may have changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// What a rollout would do now. Nothing is changed.
    ///
    /// # Errors
    /// [`RolloutError`].
    pub async fn preview(&self, project: &ProjectId, spec: RolloutSpec) -> Result<Plan, RolloutError> {
        self.shared.plan(project, spec).await
    }

    /// Makes a rollout and starts it. Without an id it gets one.
    ///
    /// # Errors
    /// [`RolloutError::Exists`] for an id that is taken, [`RolloutError::Nobody`] when no device can take part.
    pub async fn create(
        &self,
        project: &ProjectId,
        spec: RolloutSpec,
        id: Option<RolloutId>,
        actor: &str,
    ) -> Result<RolloutId, RolloutError> {
        let (shared, inputs, planning) = (Arc::clone(&self.shared), self.inputs.clone(), Arc::clone(&self.planning));
        let (project, actor) = (project.clone(), actor.to_owned());
        // In a task of its own: a caller that goes away leaves nothing half done.
        let made = tokio::spawn(async move {
            let _planning = planning.lock_owned().await;
            shared.create(&inputs, project, spec, id, actor).await
        });
        made.await.map_err(|_| RolloutError::Stopping)?
    }

    /// Gives a command. It has taken effect and is stored, or is refused and nothing is changed.
    ///
    /// # Errors
    /// [`RolloutError::Refused`] for a command that does not fit, [`RolloutError::NoRollout`].
    pub async fn command(&self, project: &ProjectId, id: &RolloutId, event: Event) -> Result<(), RolloutError> {
        let key = (project.clone(), id.clone());
        if !self.shared.lives().contains_key(&key) {
            // It ended long ago, and can only say so.
            let mut live = self.stored(project, id).await?;
            return match live.handle(event, self.shared.clock.now_ms()) {
                Some(why) => Err(RolloutError::Refused(why)),
                None => Err(RolloutError::Refused(RefusedWhy::TooLate { state: live.rollout.state().clone() })),
            };
        }
        let (reply, answer) = oneshot::channel();
        let input = Input::Command { key, event, reply };
        self.inputs.send(input).await.map_err(|_| RolloutError::Stopping)?;
        answer.await.map_err(|_| RolloutError::Stopping)?.map_err(RolloutError::Refused)
    }

    /// The wave whose gate waits for somebody, from 0.
    ///
    /// # Errors
    /// [`RolloutError::NoRollout`].
    pub async fn waiting_gate(&self, project: &ProjectId, id: &RolloutId) -> Result<Option<usize>, RolloutError> {
        self.with(project, id, |live| {
            let waits = |wave: &crate::rollout::WaveState| *wave == crate::rollout::WaveState::AwaitingGate;
            live.rollout.waves().iter().position(waits)
        })
        .await
    }

    /// A device was taken out of service. A server that is killed may miss it, and looks when it is back.
    pub async fn device_gone(&self, device: &sedge_protocol::id::Principal) {
        let _stopping = self.inputs.send(Input::Gone(device.clone())).await;
    }

    /// Rollouts of a project, newest first, from before this one on.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn page(
        &self,
        project: &ProjectId,
        active: bool,
        before: Option<&RolloutId>,
        count_max: u32,
    ) -> Result<Vec<Head>, RolloutError> {
        Ok(self.shared.rows.page(project, active, before, count_max).await?)
    }

    /// A rollout as it is now.
    ///
    /// # Errors
    /// [`RolloutError::NoRollout`].
    pub async fn show(&self, project: &ProjectId, id: &RolloutId) -> Result<Shown, RolloutError> {
        let now_ms = self.shared.clock.now_ms();
        let shown = |live: &Live| {
            let plan = live.rollout.plan();
            Ok(Shown {
                head: live.head.clone(),
                plan_digest: plan.digest()?,
                spec: plan.spec.clone(),
                // What is not stored yet may be decided again after a crash.
                outcome: Outcome::of(live.rollout.state()).filter(|_| !live.head.active),
                summary: live.rollout.summary(now_ms),
            })
        };
        self.with(project, id, shown).await?
    }

    /// A rollout as it is now, without what was declared.
    ///
    /// # Errors
    /// [`RolloutError::NoRollout`].
    pub async fn summary(&self, project: &ProjectId, id: &RolloutId) -> Result<Summary, RolloutError> {
        let now_ms = self.shared.clock.now_ms();
        self.with(project, id, |live| live.rollout.summary(now_ms)).await
    }

    /// The rollout that runs, or else the last one.
    pub fn latest(&self, project: &ProjectId) -> Option<(RolloutId, Summary)> {
        let (now_ms, lives) = (self.shared.clock.now_ms(), self.shared.lives());
        let of = lives.values().filter(|live| live.head.project == *project);
        let live = of.max_by_key(|live| (!live.rollout.state().is_final(), live.number))?;
        Some((live.head.id.clone(), live.rollout.summary(now_ms)))
    }

    /// The row of [`Executor::latest`], for its times.
    pub fn latest_head(&self, project: &ProjectId) -> Option<Head> {
        let lives = self.shared.lives();
        let of = lives.values().filter(|live| live.head.project == *project);
        Some(of.max_by_key(|live| (!live.rollout.state().is_final(), live.number))?.head.clone())
    }

    /// How a device fares in the rollout that has it, an active one before one that has ended.
    pub fn device_view(&self, project: &ProjectId, device: &DeviceId) -> Option<DeviceView> {
        let lives = self.shared.lives();
        let mut of: Vec<&Live> = lives.values().filter(|live| live.head.project == *project).collect();
        of.sort_by_key(|live| std::cmp::Reverse((!live.rollout.state().is_final(), live.number)));
        of.iter().find_map(|live| live.rollout.device_view(device))
    }

    /// How these devices fare in a rollout, in their order; none for one that is not part of it.
    ///
    /// # Errors
    /// [`RolloutError::NoRollout`].
    pub async fn device_views(
        &self,
        project: &ProjectId,
        id: &RolloutId,
        devices: &[DeviceId],
    ) -> Result<Vec<Option<DeviceView>>, RolloutError> {
        self.with(project, id, |live| devices.iter().map(|device| live.rollout.device_view(device)).collect()).await
    }

    /// Devices of a rollout by name, and whether there are more.
    ///
    /// # Errors
    /// [`RolloutError::NoRollout`].
    pub async fn devices(
        &self,
        project: &ProjectId,
        id: &RolloutId,
        page: &Page,
    ) -> Result<(Vec<DeviceView>, bool), RolloutError> {
        let of = |live: &Live| {
            let wanted = live.rollout.devices().filter(|(device, of, wave)| {
                page.wave.is_none_or(|wanted| wanted == wave + 1)
                    && page.step.is_none_or(|step| step == of.step)
                    && page.after.as_ref().is_none_or(|after| *device > after)
            });
            let mut names: Vec<&DeviceId> = wanted.map(|(device, _, _)| device).collect();
            names.sort_unstable();
            let more = names.len() > page.count_max;
            names.truncate(page.count_max);
            (names.into_iter().filter_map(|device| live.rollout.device_view(device)).collect(), more)
        };
        self.with(project, id, of).await
    }

    /// What happened to a rollout, newest first.
    ///
    /// # Errors
    /// [`RolloutError::NoRollout`].
    pub async fn timeline(
        &self,
        project: &ProjectId,
        id: &RolloutId,
        count_max: u32,
    ) -> Result<Vec<TimelineEntry>, RolloutError> {
        self.notes(project, id, None, count_max).await
    }

    /// What happened to a rollout after this entry, oldest first.
    ///
    /// # Errors
    /// [`RolloutError::NoRollout`].
    pub async fn timeline_after(
        &self,
        project: &ProjectId,
        id: &RolloutId,
        after: u64,
        count_max: u32,
    ) -> Result<Vec<TimelineEntry>, RolloutError> {
        self.notes(project, id, Some(after), count_max).await
    }

    async fn notes(
        &self,
        project: &ProjectId,
        id: &RolloutId,
        after: Option<u64>,
        count_max: u32,
    ) -> Result<Vec<TimelineEntry>, RolloutError> {
        // Names of waves, and whether there is such a rollout.
        let waves = |live: &Live| live.rollout.plan().waves.iter().map(|wave| wave.name.clone()).collect::<Vec<_>>();
        let waves = self.with(project, id, waves).await?;
        let notes = self.shared.rows.notes(project, id, after, count_max).await?;
        let entry = |(seq, at_ms, note)| {
            let (actor, text) = (timeline::actor(&note), timeline::text(&note, &waves));
            TimelineEntry { seq, at_ms, actor, text, note }
        };
        Ok(notes.into_iter().map(entry).collect())
    }

    /// Looks at a rollout: one that is held, or as it was stored.
    async fn with<T>(
        &self,
        project: &ProjectId,
        id: &RolloutId,
        look: impl FnOnce(&Live) -> T,
    ) -> Result<T, RolloutError> {
        let key = (project.clone(), id.clone());
        {
            let lives = self.shared.lives();
            if let Some(live) = lives.get(&key) {
                return Ok(look(live));
            }
        }
        Ok(look(&self.stored(project, id).await?))
    }

    async fn stored(&self, project: &ProjectId, id: &RolloutId) -> Result<Live, RolloutError> {
        match self.shared.rows.load(project, id).await? {
            Some(stored) => restore(stored),
            None => Err(RolloutError::NoRollout { project: project.clone(), id: id.clone() }),
        }
    }
}

impl Shared {
    async fn plan(&self, project: &ProjectId, spec: RolloutSpec) -> Result<Plan, RolloutError> {
        if spec.project != *project {
            return Err(RolloutError::OtherProject { project: project.clone(), declared: spec.project });
        }
        spec.check().map_err(crate::rollout::PlanError::from)?;
        let bundles = self.fleet.bundles(project).await?;
        match bundles.iter().find(|bundle| bundle.digest == spec.digest) {
            None => return Err(FleetError::NotUploaded { project: project.clone(), digest: spec.digest }.into()),
            Some(bundle) if bundle.name != spec.bundle => {
                let (digest, named, found) = (spec.digest, spec.bundle, bundle.name.clone());
                return Err(FleetError::OtherBundle { digest, named, found }.into());
            }
            Some(_) => {}
        }
        let inventory = self.inventory(project, &spec.component).await?;
        let mut salt = [0; 32];
        getrandom::fill(&mut salt).map_err(RolloutError::Random)?;
        Ok(plan(spec, &inventory, Sha256Digest::of(&salt))?)
    }

    async fn create(
        &self,
        inputs: &mpsc::Sender<Input>,
        project: ProjectId,
        spec: RolloutSpec,
        id: Option<RolloutId>,
        actor: String,
    ) -> Result<RolloutId, RolloutError> {
        let id = id.map_or_else(|| new_id(&spec.bundle), Ok)?;
        if self.rows.load(&project, &id).await?.is_some() {
            return Err(RolloutError::Exists { project, id });
        }
        let plan = self.plan(&project, spec).await?;
        if plan.devices.is_empty() {
            return Err(RolloutError::Nobody { skipped: counted(plan.skipped.values()) });
        }
        let spec = &plan.spec;
        let (component, bundle, digest) = (spec.component.clone(), spec.bundle.clone(), spec.digest);
        let rollout = Rollout::new(plan);
        let head = Head {
            project,
            id,
            component,
            bundle,
            digest,
            state: rollout.state().name().to_owned(),
            active: true,
            created_ms: self.clock.now_ms(),
            created_by: actor.clone(),
            ended_ms: None,
        };
        let core = rollout.saved().core;
        let Some(number) = self.rows.insert(&head, rollout.plan(), &core).await? else {
            return Err(RolloutError::Exists { project: head.project, id: head.id });
        };
        let id = head.id.clone();
        let (reply, answer) = oneshot::channel();
        let live = Box::new(Live::new(number, head, rollout, Some(core)));
        inputs.send(Input::Begin { live, actor, reply }).await.map_err(|_| RolloutError::Stopping)?;
        answer.await.map_err(|_| RolloutError::Stopping)?.map_err(RolloutError::Refused)?;
        Ok(id)
    }
}

/// A name for a rollout: the bundle's, and what makes it unique.
fn new_id(bundle: &BundleName) -> Result<RolloutId, RolloutError> {
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(RolloutError::Random)?;
    let name: String = bundle.as_str().chars().take(NAME_PART_MAX).collect();
    let tail: String = random.iter().map(|b| format!("{b:02x}")).collect();
    let wrong = |e| crate::fleet::StoreError::foreign("name a rollout", e);
    Ok(format!("{name}-{tail}").parse().map_err(wrong)?)
}

/// Whether an end is what was wanted.
pub(super) fn is_good(outcome: Outcome) -> bool {
    outcome == Outcome::Completed
}

/// Why a device failed, for people.
pub(super) fn failure(code: &FailureCode) -> String {
    match code {
        FailureCode::Reported(code) => code.as_str().to_owned(),
        FailureCode::WrongDigest => "it committed another bundle".to_owned(),
        FailureCode::FellBack => "it no longer runs the bundle".to_owned(),
        FailureCode::TimedOut => "it did not finish in time".to_owned(),
        FailureCode::DidNotGoBack => "it did not go back".to_owned(),
        FailureCode::CannotGoBack(problem) => problem.meaning().to_owned(),
    }
}
