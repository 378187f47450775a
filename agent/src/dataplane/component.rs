//! One component: takes commands, leads samples to the serving worker and results to sinks.
//!
//! Everything happens in one task, one event after the other, so a switch from one worker to another has no moment in
//! which a sample could take both ways or none. What takes long (starting, answering, stopping) is done by keepers, which
//! tell about it. Nothing here is on disk: after power loss the control plane's commands bring it back.

mod commands;
mod events;
mod labels;
mod results;

use super::config::ComponentConfig;
use super::feedback::Feedback;
use super::flow::{Dispatch, Flow};
use super::health::{Condition, Watch};
use super::intake::Taken;
use super::keeper::{Job, Keeper, Start, Told};
use super::place::{Place, Restart, Wanted};
use super::recent::Recent;
use super::shadow::Shadow;
use super::tally::Tally;
use super::{Identity, SinkHandle};
use crate::plane::{Addressed, Command, Happening};
use crate::sink::Board;
use crate::source::Sample;
use crate::worker::{Caches, Load, WorkerProgram, memory_bytes};
use sedge_protocol::deployment::{Answer, Slot, Ticket};
use sedge_protocol::id::ComponentName;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::sleep_until;

/// How often health is told.
const HEALTH: Duration = Duration::from_secs(1);
/// How often a worker's memory is measured, in times that health is told.
const MEMORY_EVERY: u32 = 10;
/// Happenings that wait for the control plane. Above this no command is taken: each brings at most a few.
const OUTBOX_MAX: usize = 256;

/// What a component is made of.
pub(super) struct Parts {
    pub(super) name: ComponentName,
    pub(super) config: ComponentConfig,
    pub(super) program: WorkerProgram,
    pub(super) caches: Caches,
    pub(super) identity: Identity,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) samples: mpsc::Receiver<Taken>,
    pub(super) feedback: mpsc::Receiver<Feedback>,
    pub(super) sinks: Vec<SinkHandle>,
    pub(super) happenings: mpsc::Sender<Addressed<Happening>>,
    pub(super) board: Arc<Board>,
}

/// See the module.
pub(super) struct Component {
    parts: Parts,
    events: mpsc::Receiver<Told>,
    tell: mpsc::Sender<Told>,
    places: [Option<Place>; 2],
    /// Workers that were stopped and may not be gone yet.
    ending: Vec<JoinHandle<()>>,
    incarnations: u64,
    flow: Flow,
    serving: Option<Slot>,
    /// Another slot took over; its predecessor still has a sample.
    draining: Option<Draining>,
    /// A worker that is to serve as soon as it is ready.
    serve_when_ready: Option<(Slot, Ticket)>,
    restart: Option<Restart>,
    /// Deaths of the serving worker since it last answered a sample.
    deaths_in_a_row: u32,
    shadow: Option<Shadow>,
    watched: [Option<Watch>; 2],
    next_health: Instant,
    health_rounds: u32,
    tally: Tally,
    recent: Recent,
    seq: u64,
    outbox: VecDeque<Happening>,
    telemetry_seq: u64,
    telemetry_dropped: u64,
    samples_ended: bool,
}

struct Draining {
    ticket: Ticket,
    until: Instant,
}

const fn index(slot: Slot) -> usize {
    match slot {
        Slot::A => 0,
        Slot::B => 1,
    }
}

impl Component {
    pub(super) fn new(parts: Parts) -> Self {
        let (tell, events) = mpsc::channel(64);
        Self {
            parts,
            events,
            tell,
            places: [None, None],
            ending: Vec::new(),
            incarnations: 0,
            flow: Flow::default(),
            serving: None,
            draining: None,
            serve_when_ready: None,
            restart: None,
            deaths_in_a_row: 0,
            shadow: None,
            watched: [None, None],
            next_health: Instant::now() + HEALTH,
            health_rounds: 0,
            tally: Tally::default(),
            recent: Recent::default(),
            seq: 0,
            outbox: VecDeque::new(),
            telemetry_seq: 0,
            telemetry_dropped: 0,
            samples_ended: false,
        }
    }

    /// Runs until nobody gives commands any more; then all workers are stopped.
    pub(super) async fn run(mut self) {
        loop {
            self.depart();
            let happenings = self.parts.happenings.clone();
            let wake = self.next_wake();
            let wants_sample = !self.samples_ended && self.flow.wants(self.can_serve());
            tokio::select! {
                biased;
                permit = happenings.reserve(), if !self.outbox.is_empty() => match permit {
                    Ok(permit) => if let Some(happening) = self.outbox.pop_front() {
                        permit.send((self.parts.name.clone(), happening));
                    },
                    Err(_) => break,
                },
                command = self.parts.commands.recv(), if self.outbox.len() < OUTBOX_MAX => match command {
                    Some(command) => self.command(command),
                    None => break,
                },
                // The component holds a sender, so this never ends.
                told = self.events.recv() => if let Some(told) = told { self.told(told) },
                Some(feedback) = self.parts.feedback.recv() => self.feedback(feedback),
                () = sleep_until(wake.into()) => {},
                taken = self.parts.samples.recv(), if wants_sample => match taken {
                    Some(taken) => self.arrive(taken),
                    None => self.samples_ended = true,
                },
            }
            self.on_time(Instant::now());
        }
        for place in self.places.iter_mut().filter_map(Option::take) {
            self.ending.push(place.keeper.stop());
        }
        for ended in self.ending {
            let _ = ended.await;
        }
    }

    fn place(&self, slot: Slot) -> Option<&Place> {
        self.places[index(slot)].as_ref()
    }

    fn can_serve(&self) -> bool {
        self.serving.and_then(|slot| self.place(slot)).is_some_and(|p| p.ready.is_some())
    }

    fn answer(&mut self, ticket: Ticket, answer: Answer) {
        self.outbox.push_back(Happening::Answer { ticket, answer });
    }

    /// Health is not worth queueing twice.
    fn tell_health(&mut self, happening: Happening) {
        if !self.outbox.contains(&happening) {
            self.outbox.push_back(happening);
        }
    }

    fn arrive(&mut self, (source, sample): Taken) {
        self.seq += 1;
        self.tally.samples += 1;
        let sample = Sample {
            seq: self.seq,
            ts_ms: sample.ts_ms,
            source,
            name: sample.name,
            data: sample.data,
            label: sample.label,
        };
        self.tally.dropped += self.flow.arrive(sample);
    }

    /// Gives the next sample to the serving worker, and to the one that shadows it.
    fn depart(&mut self) {
        let Some(slot) = self.serving.filter(|_| self.can_serve()) else { return };
        let Some(flight) = self.flow.depart(slot, Instant::now()) else { return };
        let prediction_id = self.parts.identity.prediction_id(&self.parts.name, flight.sample.seq);
        let job = |dispatch: Dispatch| Job::Process {
            dispatch,
            sample: flight.sample.clone(),
            prediction_id: prediction_id.clone(),
        };
        if !self.place(slot).is_some_and(|p| p.give(job(flight.dispatch))) {
            // Its end is about to be told.
            self.flow.take_back();
            return;
        }
        if let Some(shadow) = &mut self.shadow
            && shadow.slot != slot
            && let Some(place) = &self.places[index(shadow.slot)]
            && place.ready.is_some()
            && shadow.open(flight.sample.seq)
        {
            place.give(job(Dispatch::SHADOW));
        }
    }

    fn start(&mut self, slot: Slot, wanted: Wanted, waiting: Vec<Ticket>) {
        self.stop(slot);
        self.incarnations += 1;
        let load = Load {
            bundle: wanted.bundle.clone(),
            digest: wanted.digest,
            settings: wanted.settings.clone(),
            grants_allowed: self.parts.config.grants.clone(),
            compile_arguments: Vec::new(),
        };
        let start = Start {
            program: self.parts.program.clone(),
            config: self.parts.config.worker,
            load,
            caches: self.parts.caches.clone(),
            name: format!("{}/{slot:?}", self.parts.name),
        };
        let after = std::mem::take(&mut self.ending);
        let keeper = Keeper::start(start, slot, self.incarnations, self.tell.clone(), after);
        self.places[index(slot)] = Some(Place { wanted, incarnation: self.incarnations, keeper, ready: None, waiting });
    }

    /// Kills the slot's worker, if it has one. Its sample goes to the next worker.
    fn stop(&mut self, slot: Slot) {
        if let Some(place) = self.places[index(slot)].take() {
            self.ending.push(place.keeper.stop());
        }
        if self.flow.flight().is_some_and(|f| f.slot == slot) {
            self.flow.take_back();
            self.drained();
        }
        self.shadow.take_if(|s| s.slot == slot);
    }

    /// The predecessor has no sample any more.
    fn drained(&mut self) {
        if let Some(draining) = self.draining.take() {
            self.answer(draining.ticket, Answer::TookOver);
        }
    }

    fn next_wake(&self) -> Instant {
        let draining = self.draining.as_ref().map(|d| d.until);
        let restart = self.restart.as_ref().map(|r| r.at);
        [draining, restart, self.recent.next_due()].into_iter().flatten().fold(self.next_health, Instant::min)
    }

    fn on_time(&mut self, now: Instant) {
        if self.draining.as_ref().is_some_and(|d| d.until <= now) {
            tracing::warn!(component = %self.parts.name, "the old worker keeps its sample too long; the new one gets it");
            self.flow.take_back();
            self.drained();
        }
        if let Some(slot) = self.serving
            && let Some(restart) = self.restart.take_if(|r| r.at <= now)
        {
            self.tally.restarts += 1;
            self.start(slot, restart.wanted, Vec::new());
        }
        self.labels_due(now);
        if self.next_health <= now {
            self.next_health = now + HEALTH;
            self.on_health(now);
        }
        if let Some(shadow) = &mut self.shadow
            && let Some(verdict) = shadow.due(now)
        {
            let ticket = shadow.ticket;
            self.answer(ticket, Answer::Shadow(verdict));
        }
    }

    fn on_health(&mut self, now: Instant) {
        self.ending.retain(|task| !task.is_finished());
        let waiting = self.flow.flight().is_some() || self.flow.waits();
        let up = self.can_serve();
        if let Some(slot) = self.serving
            && let Some(watch) = &mut self.watched[index(slot)]
        {
            let condition = watch.ask(waiting, up, now);
            let ill = match &condition {
                Condition::Ill(reason) => Some(reason.clone()),
                Condition::Well | Condition::Unknown => None,
            };
            match condition {
                Condition::Well => self.tell_health(Happening::HealthOk { slot }),
                Condition::Ill(reason) => self.tell_health(Happening::HealthBad { slot, reason }),
                Condition::Unknown => {}
            }
            self.parts.board.update(&self.parts.name, |view| view.ill = ill);
        }
        if self.health_rounds.is_multiple_of(MEMORY_EVERY)
            && let Some((_, pid)) = self.serving.and_then(|s| self.place(s)).and_then(|p| p.ready.as_ref())
        {
            self.tally.memory_bytes = memory_bytes(*pid).unwrap_or(0);
        }
        self.health_rounds = self.health_rounds.wrapping_add(1);
        self.post();
        self.tell_counters();
    }
}
