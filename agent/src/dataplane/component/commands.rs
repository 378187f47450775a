//! What each command does. Given twice, it has the result of once.

use super::super::health::Watch;
use super::super::keeper::Job;
use super::super::place::Wanted;
use super::super::shadow::Shadow;
use super::{Component, Draining, index};
use crate::plane::Command;
use sedge_protocol::deployment::{Answer, Slot, Ticket};
use std::time::{Duration, Instant};

impl Component {
    pub(super) fn command(&mut self, command: Command) {
        tracing::debug!(component = %self.parts.name, ?command, "command");
        match command {
            Command::StartWorker { ticket, slot, bundle, digest, settings } => {
                self.start_worker(ticket, slot, Wanted { bundle, digest, settings });
            }
            Command::RunGolden { ticket, slot } => {
                if !self.place(slot).is_some_and(|p| p.give(Job::Golden(ticket))) {
                    self.answer(ticket, Answer::GoldenFailed { detail: nobody(slot) });
                }
            }
            Command::BeginShadow { ticket, slot, limits } => self.shadow = Some(Shadow::new(ticket, slot, limits)),
            Command::TakeOver { ticket, slot } => match self.place(slot) {
                Some(place) if place.ready.is_some() => self.lead_to(slot, ticket),
                Some(_) => self.serve_when_ready = Some((slot, ticket)),
                None => self.answer(ticket, Answer::WorkerFailed { detail: nobody(slot) }),
            },
            Command::Serve { ticket, slot, bundle, digest, settings } => {
                let wanted = Wanted { bundle, digest, settings };
                match self.place(slot) {
                    Some(place) if place.wanted == wanted && place.ready.is_some() => self.lead_to(slot, ticket),
                    Some(place) if place.wanted == wanted => self.serve_when_ready = Some((slot, ticket)),
                    _ => {
                        self.start(slot, wanted, Vec::new());
                        self.serve_when_ready = Some((slot, ticket));
                        self.restart.take_if(|_| self.serving == Some(slot));
                    }
                }
            }
            Command::HoldSamples { bytes_max } => {
                let dropped = self.flow.hold(bytes_max);
                self.tally.dropped += dropped;
            }
            Command::StopWorker { slot } => self.stop_worker(slot),
            Command::WatchHealth { slot } => {
                let config = self.parts.config.health;
                self.watched[index(slot)].get_or_insert_with(|| Watch::new(config));
            }
        }
    }

    fn start_worker(&mut self, ticket: Ticket, slot: Slot, wanted: Wanted) {
        match &mut self.places[index(slot)] {
            Some(place) if place.wanted == wanted => {
                if place.ready.is_some() {
                    self.answer(ticket, Answer::WorkerReady);
                } else {
                    place.waiting.push(ticket);
                }
            }
            _ => {
                self.restart.take_if(|_| self.serving == Some(slot));
                self.start(slot, wanted, vec![ticket]);
            }
        }
    }

    fn stop_worker(&mut self, slot: Slot) {
        self.stop(slot);
        self.watched[index(slot)] = None;
        self.serve_when_ready.take_if(|(s, _)| *s == slot);
        if self.serving == Some(slot) {
            (self.serving, self.restart, self.draining) = (None, None, None);
            self.parts.board.update(&self.parts.name, |view| view.ill = None);
            self.post();
        }
    }

    /// Every further sample goes to the slot's worker, which is ready.
    pub(super) fn lead_to(&mut self, slot: Slot, ticket: Ticket) {
        self.serve_when_ready = None;
        // The old worker may be ready after the new one was, and is then what that is compared with.
        self.shadow.take_if(|shadow| shadow.slot == slot);
        self.flow.release();
        if self.serving != Some(slot) {
            self.serving = Some(slot);
            self.restart = None;
            self.deaths_in_a_row = 0;
            self.parts.board.update(&self.parts.name, |view| view.ill = None);
            if let Some(watch) = &mut self.watched[index(slot)] {
                // What it did before it went away says nothing now.
                *watch = Watch::new(self.parts.config.health);
            }
        }
        // Before it is said that it took over: who hears that has the counters of the one that serves.
        self.post();
        self.tell_counters();
        self.draining = None;
        if self.flow.flight().is_some_and(|f| f.slot != slot) {
            let drain = Duration::from_millis(self.parts.config.worker.drain_ms);
            self.draining = Some(Draining { ticket, until: Instant::now() + drain });
        } else {
            self.answer(ticket, Answer::TookOver);
        }
    }
}

fn nobody(slot: Slot) -> String {
    format!("no worker is ready in slot {slot:?}")
}
