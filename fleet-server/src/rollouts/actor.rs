//! The task that owns all rollouts: hear, decide, store, do.
//!
//! It never waits for a device, and for the database only to read what it missed and to store what it decided. Effects
//! are performed by tasks of their own ([`super::jobs`]), whose answers are events again.

use super::error::RolloutError;
use super::executor::{Key, Shared};
use super::jobs::{Job, Jobs};
use super::live::Live;
use super::store::Change;
use crate::field::FieldChange;
use crate::fleet::News;
use crate::fleet::session::{Record, Said};
use crate::rollout::{Effect, Event, RefusedWhy, State};
use sedge_protocol::id::{ComponentName, DeviceId, Generation, Principal};
use sedge_protocol::message::{ReportKey, Status};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::Instant;

/// Messages that are taken before their changes are stored together.
const BATCH_MAX: usize = 256;
/// How long a database that failed is left alone.
const RETRY: Duration = Duration::from_secs(1);
/// How often devices are compared with those that are not touched, at the most.
const CONTROL_EVERY: Duration = Duration::from_secs(1);
/// Longest wait, so that a clock that is set is noticed.
const SLEEP_MAX: Duration = Duration::from_secs(30);
/// Shortest wait for a deadline, so that one that does not pass keeps nobody else waiting.
const SLEEP_MIN: Duration = Duration::from_millis(20);

pub(super) type Reply = oneshot::Sender<Result<(), RefusedWhy>>;

/// What is asked of the actor.
pub(super) enum Input {
    /// A new rollout, stored and not begun.
    Begin { live: Box<Live>, actor: String, reply: Reply },
    /// A command.
    Command { key: Key, event: Event, reply: Reply },
    /// A device was taken out of service.
    Gone(Principal),
}

pub(super) struct Actor {
    shared: Arc<Shared>,
    inputs: mpsc::Receiver<Input>,
    news: broadcast::Receiver<News>,
    beats: broadcast::Receiver<FieldChange>,
    jobs: Jobs,
    /// Rollouts in which something may have changed.
    touched: BTreeSet<Key>,
    /// Rollouts that are to be told what is stored.
    untold: BTreeSet<Key>,
    /// Commands that have taken effect and are not stored.
    unanswered: Vec<Reply>,
    /// Since when the database fails.
    failed: Option<Instant>,
    control: Instant,
    /// Something was heard of how devices fare.
    beaten: bool,
}

impl Actor {
    pub(super) fn new(
        shared: Arc<Shared>,
        inputs: mpsc::Receiver<Input>,
        news: broadcast::Receiver<News>,
        beats: broadcast::Receiver<FieldChange>,
    ) -> Self {
        Self {
            shared,
            inputs,
            news,
            beats,
            jobs: Jobs::default(),
            touched: BTreeSet::new(),
            untold: BTreeSet::new(),
            unanswered: Vec::new(),
            failed: None,
            control: Instant::now(),
            beaten: false,
        }
    }

    /// Until nobody can give commands any more, or what it listens to has ended.
    pub(super) async fn run(mut self) {
        let mut moved = self.shared.clock.moved();
        {
            let now_ms = self.shared.clock.now_ms();
            for (key, live) in self.shared.lives().iter_mut() {
                live.resume(now_ms);
                if *live.rollout.state() == State::Scheduled {
                    // The server died before it was begun.
                    live.handle(Event::Start { actor: live.head.created_by.clone() }, now_ms);
                }
                self.untold.insert(key.clone());
                self.touched.insert(key.clone());
            }
        }
        loop {
            self.turn().await;
            let wake = self.wake();
            let heard = tokio::select! {
                input = self.inputs.recv() => match input {
                    Some(input) => { self.asked(input); true }
                    None => false,
                },
                news = self.news.recv() => self.news(news).await,
                beat = self.beats.recv() => self.beat(beat),
                // Whatever it says: the device's next job may begin now.
                ended = self.jobs.ended() => {
                    if let Some((key, event)) = ended {
                        self.tell(&key, event);
                    }
                    true
                }
                () = tokio::time::sleep_until(wake) => true,
                _ = moved.changed() => true,
            };
            if !heard {
                return;
            }
            self.hear_more().await;
        }
    }

    /// Takes what has come meanwhile, to store it together.
    async fn hear_more(&mut self) {
        for _ in 0..BATCH_MAX {
            match self.news.try_recv() {
                Ok(news) => drop(self.news(Ok(news)).await),
                Err(TryRecvError::Lagged(missed)) => drop(self.news(Err(RecvError::Lagged(missed))).await),
                Err(_) => break,
            }
        }
        for _ in 0..BATCH_MAX {
            match self.beats.try_recv() {
                Ok(beat) => drop(self.beat(Ok(beat))),
                Err(TryRecvError::Lagged(missed)) => drop(self.beat(Err(RecvError::Lagged(missed)))),
                Err(_) => break,
            }
        }
    }

    /// Everything that follows from what was heard.
    async fn turn(&mut self) {
        if self.failed.is_some_and(|since| since.elapsed() < RETRY) {
            return;
        }
        self.failed = None;
        while let Some(key) = self.untold.pop_first() {
            self.touched.insert(key.clone());
            if let Err(e) = self.shared.tell_truth(&key).await {
                self.fails(&e);
                self.untold.insert(key);
                break;
            }
        }
        self.compare();
        self.deadlines();
        self.store().await;
        self.jobs.begin(&self.shared);
    }

    fn fails(&mut self, error: &RolloutError) {
        tracing::error!("rollouts wait for the database: {error}");
        self.failed = Some(Instant::now());
    }

    fn deadlines(&mut self) {
        let now_ms = self.shared.clock.now_ms();
        for (key, live) in self.shared.lives().iter_mut() {
            if live.rollout.next_deadline().is_some_and(|(at_ms, _)| at_ms <= now_ms) {
                live.handle(Event::Deadline, now_ms);
                self.touched.insert(key.clone());
            }
        }
    }

    fn compare(&mut self) {
        if !self.beaten || self.control.elapsed() < CONTROL_EVERY {
            return;
        }
        (self.beaten, self.control) = (false, Instant::now());
        let now_ms = self.shared.clock.now_ms();
        for (key, live) in self.shared.lives().iter_mut() {
            if live.compares() {
                live.control(self.shared.field.of(&key.0).iter(), now_ms);
                self.touched.insert(key.clone());
            }
        }
    }

    /// Stores what has changed, and only then lets it be done and says that it is.
    async fn store(&mut self) {
        let now_ms = self.shared.clock.now_ms();
        let changes: Vec<(Key, Change)> = {
            let mut lives = self.shared.lives();
            let of = |key: &Key| Some((key.clone(), lives.get_mut(key)?.change()?));
            self.touched.iter().filter_map(of).collect()
        };
        if !changes.is_empty() {
            let (keys, changes): (Vec<Key>, Vec<Change>) = changes.into_iter().unzip();
            if let Err(e) = self.shared.rows.save(&changes, now_ms).await {
                return self.fails(&e.into());
            }
            let mut lives = self.shared.lives();
            for (key, change) in keys.iter().zip(changes) {
                if let Some(live) = lives.get_mut(key) {
                    live.stored(change, now_ms);
                }
            }
        }
        let touched = std::mem::take(&mut self.touched);
        {
            let mut lives = self.shared.lives();
            for key in &touched {
                let Some(live) = lives.get_mut(key) else { continue };
                for effect in std::mem::take(&mut live.effects) {
                    match &effect {
                        Effect::Assign { device } | Effect::RollBack { device } | Effect::Verdict { device, .. } => {
                            let device = live.principal(device);
                            self.jobs.push(Job { rollout: key.clone(), device, effect });
                        }
                        Effect::Finish { .. } | Effect::Note(_) | Effect::Refused { .. } => {}
                    }
                }
            }
        }
        for reply in self.unanswered.drain(..) {
            // Who asked may be gone.
            let _gone = reply.send(Ok(()));
        }
        if !touched.is_empty() {
            self.shared.changes.send_modify(|number| *number += 1);
        }
    }

    fn wake(&self) -> Instant {
        let now = Instant::now();
        let now_ms = self.shared.clock.now_ms();
        let next_ms =
            self.shared.lives().values().filter_map(|live| live.rollout.next_deadline()).map(|(at, _)| at).min();
        let deadline = next_ms.map_or(SLEEP_MAX, |at_ms| Duration::from_millis(at_ms.saturating_sub(now_ms)));
        let mut wake = now + deadline.clamp(SLEEP_MIN, SLEEP_MAX);
        if self.beaten {
            wake = wake.min((self.control + CONTROL_EVERY).max(now + SLEEP_MIN));
        }
        match self.failed {
            Some(since) => since + RETRY,
            None => wake,
        }
    }

    fn tell(&mut self, key: &Key, event: Event) {
        let now_ms = self.shared.clock.now_ms();
        if let Some(live) = self.shared.lives().get_mut(key) {
            live.handle(event, now_ms);
            self.touched.insert(key.clone());
        }
    }

    fn asked(&mut self, input: Input) {
        let now_ms = self.shared.clock.now_ms();
        match input {
            Input::Begin { mut live, actor, reply } => {
                let key = (live.head.project.clone(), live.head.id.clone());
                let refused = live.handle(Event::Start { actor }, now_ms);
                let mut lives = self.shared.lives();
                // The one before is history now.
                let (project, component) = (live.head.project.clone(), live.head.component.clone());
                lives.retain(|_, old| {
                    old.head.project != project || old.head.component != component || !old.rollout.state().is_final()
                });
                lives.insert(key.clone(), *live);
                drop(lives);
                self.untold.insert(key.clone());
                self.touched.insert(key);
                self.answer(reply, refused);
            }
            Input::Command { key, event, reply } => {
                let refused = match self.shared.lives().get_mut(&key) {
                    Some(live) => live.handle(event, now_ms),
                    // It ended just now; dropping the reply says that it is not known what became of the command.
                    None => return,
                };
                self.touched.insert(key);
                self.answer(reply, refused);
            }
            Input::Gone(device) => {
                let event = Event::DeviceGone { device: device.device.clone() };
                for key in self.of(&device) {
                    self.tell(&key, event.clone());
                }
            }
        }
    }

    fn answer(&mut self, reply: Reply, refused: Option<RefusedWhy>) {
        match refused {
            Some(why) => {
                let _gone = reply.send(Err(why));
            }
            None => self.unanswered.push(reply),
        }
    }

    /// Rollouts that a device is part of.
    fn of(&self, device: &Principal) -> Vec<Key> {
        let lives = self.shared.lives();
        let of = lives
            .iter()
            .filter(|((project, _), live)| *project == device.project && live.rollout.device(&device.device).is_some());
        of.map(|(key, _)| key.clone()).collect()
    }

    fn missed(&mut self, missed: u64) {
        tracing::warn!(missed, "rollouts were too slow to hear everything; what is stored is read");
        self.untold.extend(self.shared.lives().keys().cloned());
    }

    async fn news(&mut self, news: Result<News, RecvError>) -> bool {
        match news {
            Ok(News::Said(Record { device, said, .. })) => self.said(&device, said).await,
            Ok(News::Desired { device, component, generation, by }) => {
                for key in self.of(&device) {
                    if by.as_ref() != Some(&key.1) {
                        self.desired(&key, &device.device, &component, generation);
                    }
                }
            }
            Err(RecvError::Lagged(missed)) => self.missed(missed),
            Err(RecvError::Closed) => return false,
        }
        true
    }

    fn desired(&mut self, key: &Key, device: &DeviceId, component: &ComponentName, generation: Generation) {
        let now_ms = self.shared.clock.now_ms();
        let mut lives = self.shared.lives();
        let Some(live) = lives.get_mut(key) else { return };
        if live.head.component == *component {
            live.handle(Event::OtherAssignment { device: device.clone(), generation }, now_ms);
        } else {
            live.carry(device, generation, now_ms);
        }
        self.touched.insert(key.clone());
    }

    async fn said(&mut self, device: &Principal, said: Said) {
        let keys = self.of(device);
        let now_ms = self.shared.clock.now_ms();
        {
            let mut lives = self.shared.lives();
            for key in keys {
                let Some(live) = lives.get_mut(&key) else { continue };
                match &said {
                    Said::Status(status) => {
                        live.presence(&device.device, matches!(status, Status::Online(_)), now_ms);
                    }
                    Said::Reported(reported) => match reported.components.get(&live.head.component) {
                        Some(report) => {
                            let (generation, attempt, seq) = (reported.generation, report.attempt, reported.seq);
                            let key = ReportKey { generation, attempt, seq };
                            live.report(&device.device, key, report, now_ms);
                        }
                        None => live.silent(&device.device, reported.generation, now_ms),
                    },
                    Said::Event(_) => continue,
                }
                self.touched.insert(key);
            }
        }
        if matches!(said, Said::Status(Status::Online(_))) {
            self.newcomer(device).await;
        }
    }

    /// A device that is there for the first time may join what is under way.
    async fn newcomer(&mut self, device: &Principal) {
        let open: Vec<Key> = {
            let lives = self.shared.lives();
            let open =
                lives.iter().filter(|((project, _), live)| *project == device.project && live.may_join(&device.device));
            open.map(|(key, _)| key.clone()).collect()
        };
        for key in open {
            let Some(component) = self.shared.lives().get(&key).map(|live| live.head.component.clone()) else {
                continue;
            };
            let candidate = match self.shared.candidate(device, &component).await {
                Ok(candidate) => candidate,
                Err(e) => {
                    tracing::error!(%device, "whether it may join a rollout is not known: {e}");
                    continue;
                }
            };
            let now_ms = self.shared.clock.now_ms();
            if let Some(live) = self.shared.lives().get_mut(&key) {
                live.join(&device.device, candidate, now_ms);
                self.touched.insert(key);
            }
        }
    }

    fn beat(&mut self, change: Result<FieldChange, RecvError>) -> bool {
        match change {
            Ok(FieldChange { device, component, running, at_ms }) => {
                self.beaten = true;
                let keys = self.of(&device);
                if keys.is_empty() {
                    return true;
                }
                let Some(view) = self.shared.field.device(&device) else { return true };
                let now_ms = self.shared.clock.now_ms();
                let mut lives = self.shared.lives();
                for key in keys {
                    if let Some(live) = lives.get_mut(&key).filter(|live| live.head.component == component) {
                        live.beat(&view, running, at_ms, false, now_ms);
                        self.touched.insert(key);
                    }
                }
            }
            Err(RecvError::Lagged(missed)) => self.missed(missed),
            Err(RecvError::Closed) => return false,
        }
        true
    }
}
