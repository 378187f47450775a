//! What is done when a keeper tells something.

use super::super::flow::Dispatch;
use super::super::keeper::{Event, Told};
use super::super::place::Restart;
use super::{Component, index};
use crate::plane::Happening;
use crate::worker::{self, Loaded};
use sedge_protocol::deployment::{Answer, Slot, Ticket};
use std::time::{Duration, Instant};

impl Component {
    pub(super) fn told(&mut self, Told { slot, incarnation, event }: Told) {
        if self.place(slot).is_none_or(|p| p.incarnation != incarnation) {
            // Of a worker that was stopped meanwhile.
            return;
        }
        match event {
            Event::Ready { loaded, pid } => self.ready(slot, loaded, pid),
            Event::NotStarted { detail } => self.not_started(slot, detail),
            Event::Golden { ticket, result } => {
                let answer = match result {
                    Ok(_) => Answer::GoldenPassed,
                    Err(detail) => Answer::GoldenFailed { detail },
                };
                self.answer(ticket, answer);
            }
            Event::Answered { dispatch, seq, answer, latency_us } => {
                if dispatch == Dispatch::SHADOW {
                    if let Some(shadow) = self.shadow.as_mut().filter(|s| s.slot == slot) {
                        shadow.new_answered(seq, answer, latency_us);
                    }
                } else if let Some(flight) = self.flow.land(dispatch) {
                    if self.serving == Some(slot) {
                        self.deaths_in_a_row = 0;
                    }
                    self.landed(flight, answer);
                }
            }
            Event::Ponged => {
                if let Some(watch) = &mut self.watched[index(slot)] {
                    watch.ponged();
                }
            }
            Event::Ended { reason } => self.ended(slot, &reason),
        }
    }

    fn ready(&mut self, slot: Slot, loaded: Loaded, pid: u32) {
        tracing::info!(
            component = %self.parts.name, ?slot, pid, bundle = loaded.name, version = %loaded.version, "worker ready"
        );
        if !loaded.filtered {
            tracing::warn!(component = %self.parts.name, "this system does not filter a worker's system calls");
        }
        let Some(place) = &mut self.places[index(slot)] else { return };
        place.ready = Some((loaded, pid));
        for ticket in std::mem::take(&mut place.waiting) {
            self.answer(ticket, Answer::WorkerReady);
        }
        if let Some((_, ticket)) = self.serve_when_ready.take_if(|(s, _)| *s == slot) {
            self.lead_to(slot, ticket);
        }
    }

    fn not_started(&mut self, slot: Slot, detail: String) {
        tracing::warn!(component = %self.parts.name, ?slot, detail, "worker not started");
        let Some(place) = self.places[index(slot)].take() else { return };
        let serve = self.serve_when_ready.take_if(|(s, _)| *s == slot);
        let asked: Vec<Ticket> = place.waiting.iter().copied().chain(serve.map(|(_, ticket)| ticket)).collect();
        let nobody_asked = asked.is_empty();
        for ticket in asked {
            self.answer(ticket, Answer::WorkerFailed { detail: detail.clone() });
        }
        if nobody_asked && self.serving == Some(slot) {
            self.restart_later(place.wanted);
        }
    }

    /// A worker is gone that nobody stopped.
    fn ended(&mut self, slot: Slot, reason: &str) {
        tracing::warn!(component = %self.parts.name, ?slot, reason, "worker ended");
        let Some(place) = self.places[index(slot)].take() else { return };
        self.outbox.push_back(Happening::WorkerDied { slot });
        self.shadow.take_if(|s| s.slot == slot);
        if self.flow.flight().is_some_and(|f| f.slot == slot) {
            if let Some(flight) = self.flow.died(slot) {
                let detail = format!("workers end on this sample; the last one: {reason}");
                // Its record says what the worker ran.
                self.places[index(slot)] = Some(place);
                self.landed(flight, worker::Answer::Failed { detail });
                let Some(place) = self.places[index(slot)].take() else { return };
                return self.after_the_end(slot, place);
            }
            self.drained();
        }
        self.after_the_end(slot, place);
    }

    fn after_the_end(&mut self, slot: Slot, place: super::Place) {
        if self.serving == Some(slot) {
            self.restart_later(place.wanted);
        }
        self.post();
    }

    fn restart_later(&mut self, wanted: super::Wanted) {
        let config = &self.parts.config.worker;
        let factor = 1u64 << self.deaths_in_a_row.min(20);
        let pause_ms = config.restart_ms.saturating_mul(factor).min(config.restart_ms_max);
        self.deaths_in_a_row += 1;
        self.restart = Some(Restart { wanted, at: Instant::now() + Duration::from_millis(pause_ms) });
    }
}
