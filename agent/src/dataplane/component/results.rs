//! From an answer to sinks, counters, telemetry and the board.

use super::super::SinkHandle;
use super::super::flow::Flight;
use super::{Component, index};
use crate::plane::Happening;
use crate::sink::{Record, Verdict};
use crate::source::now_ms;
use crate::worker::Answer;
use sedge_protocol::message::{Health, Prediction, Telemetry, V1};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

impl Component {
    /// A sample has its one answer.
    pub(super) fn landed(&mut self, flight: Flight, answer: Answer) {
        let now = Instant::now();
        let latency_us = u64::try_from(flight.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        if let Some(shadow) = &mut self.shadow {
            shadow.old_answered(flight.sample.seq, &answer);
        }
        if let Some(watch) = &mut self.watched[index(flight.slot)] {
            match answer {
                Answer::Failed { .. } => watch.failed(),
                Answer::Outcome(_) | Answer::NotYet => watch.answered(),
            }
        }
        let delay = self.label_delay(&flight.sample.source);
        let (known, held_back) = match flight.sample.label.clone() {
            Some(label) if !delay.is_zero() => (None, Some((label, delay))),
            label => (label, None),
        };
        if let Some((loaded, place)) = self.place(flight.slot).and_then(|p| Some((&p.ready.as_ref()?.0, p))) {
            let record = Record {
                seq: flight.sample.seq,
                ts_ms: flight.sample.ts_ms,
                component: self.parts.name.clone(),
                slot: flight.slot,
                bundle: place.wanted.digest,
                ver: loaded.version.clone(),
                model: loaded.model,
                source: flight.sample.source.to_string(),
                name: flight.sample.name.clone(),
                expected: known,
                latency_us,
                verdict: Verdict::from(answer),
            };
            self.tally.count(&record, now, now_ms());
            self.remember(&record, held_back, now);
            self.publish(Arc::new(record));
        }
        if self.serving != Some(flight.slot) {
            self.drained();
        }
    }

    fn publish(&mut self, record: Arc<Record>) {
        for i in 0..self.parts.sinks.len() {
            match &self.parts.sinks[i] {
                SinkHandle::File(file) => file.put(&record),
                SinkHandle::Telemetry => self.send_telemetry(&record),
            }
        }
        self.parts.board.update(&self.parts.name, |view| view.latest = Some(record));
        self.post();
    }

    /// Sent only where there is ample room: what the control plane must hear goes first.
    fn send_telemetry(&mut self, record: &Record) {
        let Verdict::Ok { predictions, .. } = &record.verdict else { return };
        for p in predictions {
            self.telemetry_seq += 1;
            let prediction = Prediction {
                v: V1,
                ts_ms: record.ts_ms,
                dev: self.parts.identity.dev.clone(),
                boot: self.parts.identity.boot.clone(),
                seq: self.telemetry_seq,
                component: record.component.clone(),
                model: record.model,
                ver: record.ver.clone(),
                source: record.source.clone(),
                id: p.id.clone(),
                labels: p.labels.clone(),
                quantities: p.quantities.clone(),
                confidence: p.confidence,
                region: p.region,
                latency_us: record.latency_us,
            };
            let ample = self.parts.happenings.capacity() > self.parts.happenings.max_capacity() / 2;
            let happening = (record.component.clone(), Happening::Telemetry(Telemetry::Result(prediction)));
            if !ample || self.parts.happenings.try_send(happening).is_err() {
                self.telemetry_dropped += 1;
            }
        }
    }

    /// Brings the counters to the control plane, in the place of older ones that still wait.
    pub(super) fn tell_counters(&mut self) {
        let Some(counters) = self.tally.health() else { return };
        // The control plane takes what is said of components into the heartbeat of the device, and knows the rest.
        let health = Health {
            v: V1,
            ts_ms: now_ms(),
            dev: self.parts.identity.dev.clone(),
            boot: self.parts.identity.boot.clone(),
            seq: 0,
            uptime_s: 0,
            window_s: 0,
            disk_free_bytes: 0,
            outbox_messages: 0,
            outbox_dropped: 0,
            temperature_c: None,
            components: BTreeMap::from([(self.parts.name.clone(), counters)]),
        };
        let happening = Happening::Telemetry(Telemetry::Health(health));
        match self.outbox.iter_mut().find(|waiting| matches!(waiting, Happening::Telemetry(_))) {
            Some(waiting) => *waiting = happening,
            None => self.outbox.push_back(happening),
        }
    }

    /// Brings the board up to date.
    pub(super) fn post(&mut self) {
        let files = self.parts.sinks.iter().map(|s| match s {
            SinkHandle::File(file) => file.dropped(),
            SinkHandle::Telemetry => self.telemetry_dropped,
        });
        let sink_dropped = files.sum();
        let serving = self.serving;
        let place = serving.and_then(|s| self.place(s)).filter(|p| p.ready.is_some());
        let running = place.map(|p| p.wanted.digest);
        let pid = place.and_then(|p| p.ready.as_ref()).map(|(_, pid)| *pid);
        if let Some(bundle) = running {
            self.tally.serve(bundle, now_ms());
        }
        // While no worker serves, the counters of the last one that did go on.
        let health = self.tally.health();
        let (labelled, right, late) = (self.tally.labelled, self.tally.right, self.tally.labels_late);
        self.parts.board.update(&self.parts.name, |view| {
            (view.serving, view.running, view.pid) = (serving, running, pid);
            (view.labelled, view.right, view.labels_late, view.sink_dropped) = (labelled, right, late, sink_dropped);
            view.health = health;
        });
    }
}
