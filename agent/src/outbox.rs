//! What waits to be sent, over power loss too.
//!
//! The client library forgets messages that it accepted, and a broker may forget a session, so nothing counts as sent
//! before somebody says so: telemetry until the broker has it, events and reports until the *server* has stored them.
//! What always holds:
//! - A report or event is on the medium before [`Outbox::push`] returns, and is sent again at every connection until it
//!   is acknowledged. Of reports on the way only the latest of a component is kept; no report of an end is ever dropped.
//! - Telemetry and then events have bounds; the oldest go first, and are counted.
//! - A full disk costs telemetry first; then a file that was set aside at the start makes room for reports.
//! - Numbers grow over restarts and are never used twice.
//!
//! Files are segments: frames one after another, only ever added to. If power dies, the last frame may be torn; it is
//! passed over, and every start begins a new segment, so nothing is written behind it. A removal that was not synced is
//! forgotten, and the message is sent once more than needed.

mod segment;
#[cfg(test)]
mod tests;

use crate::config::OutboxLimits;
use crate::disk::Disk;
use sedge_protocol::id::ComponentName;
use sedge_protocol::topic::Topic;
use segment::{Family, Frame, Kind, Place, Segments, Stored};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tracing::{debug, warn};

/// Set aside for reports on a full disk.
const RESERVE_BYTES: u64 = 256 * 1024;
/// What is not acknowledged by the server for so long is sent again.
const AGAIN_MS: u64 = 120_000;

/// What kind of message it is, in the order in which they are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// State of a component.
    Report,
    /// Something that happened.
    Event,
    /// Measurements.
    Telemetry,
}

/// Which report of which deployment machine a report is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    /// The component.
    pub component: ComponentName,
    /// The machine's number.
    pub seq: u64,
    /// Whether it tells of an end; such a report is never dropped.
    pub end: bool,
}

/// Why a message could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("a message cannot be kept in {}", dir.display())]
pub struct OutboxError {
    dir: PathBuf,
    #[source]
    source: io::Error,
}

#[derive(Debug)]
struct Entry {
    class: Class,
    place: Place,
    tag: Option<Tag>,
    /// When it was handed over on this connection.
    sent_ms: Option<u64>,
}

/// A message to hand over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Its number.
    pub id: u64,
    /// What kind it is.
    pub class: Class,
    /// Where to.
    pub topic: Topic,
    /// Encoded message.
    pub payload: Vec<u8>,
}

/// What waits to be sent.
#[derive(Debug)]
pub struct Outbox {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    limits: OutboxLimits,
    entries: BTreeMap<u64, Entry>,
    /// Not handed over on this connection.
    waiting: BTreeSet<(Class, u64)>,
    /// Handed over and not acknowledged by the broker.
    in_flight: BTreeSet<u64>,
    segments: Segments,
    next_id: u64,
    dropped: u64,
    unsynced: bool,
}

impl Outbox {
    /// Opens the outbox below the state directory, and finds what was not acknowledged.
    ///
    /// # Errors
    /// When the directory cannot be read or made. Damage inside files is passed over.
    pub fn open(disk: Arc<dyn Disk>, state_dir: &Path, limits: OutboxLimits) -> Result<Self, OutboxError> {
        let dir = state_dir.join("outbox");
        let failed = |source| OutboxError { dir: dir.clone(), source };
        disk.create_dir(&dir).map_err(failed)?;
        let (segments, frames) = Segments::open(disk.as_ref(), &dir).map_err(failed)?;
        let mut outbox = Self {
            disk,
            dir,
            limits,
            entries: BTreeMap::new(),
            waiting: BTreeSet::new(),
            in_flight: BTreeSet::new(),
            segments,
            next_id: 1,
            dropped: 0,
            unsynced: false,
        };
        for (place, frame) in frames {
            outbox.found(place, frame);
        }
        debug!(messages = outbox.entries.len(), next = outbox.next_id, "outbox opened");
        outbox.tidy();
        outbox.make_reserve();
        Ok(outbox)
    }

    fn found(&mut self, place: Place, frame: Frame) {
        let number = if frame.kind == Kind::Header { frame.id } else { frame.id.saturating_add(1) };
        self.next_id = self.next_id.max(number);
        let class = match frame.kind {
            Kind::Report => Class::Report,
            Kind::Event => Class::Event,
            Kind::Telemetry => Class::Telemetry,
            Kind::Removed => return self.forget(frame.id),
            Kind::Header => return,
        };
        let Some(stored) = Stored::read(&frame.payload) else { return };
        self.insert(frame.id, class, place, stored.tag);
    }

    fn insert(&mut self, id: u64, class: Class, place: Place, tag: Option<Tag>) {
        // Written together anew, a message is found twice.
        self.forget(id);
        self.segments.count(place, 1);
        self.entries.insert(id, Entry { class, place, tag, sent_ms: None });
        self.waiting.insert((class, id));
    }

    fn forget(&mut self, id: u64) {
        if let Some(entry) = self.entries.remove(&id) {
            self.segments.count(entry.place, -1);
            self.waiting.remove(&(entry.class, id));
        }
        self.in_flight.remove(&id);
    }

    /// The number that the next message will have: the `seq` of a report or event.
    pub fn next_id(&self) -> u64 {
        self.next_id
    }

    /// Messages that wait.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Telemetry and events dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether this report of a deployment machine waits already.
    pub fn holds(&self, component: &ComponentName, seq: u64) -> bool {
        self.reports().any(|(_, tag)| tag.component == *component && tag.seq == seq)
    }

    /// How many reports wait that have this number.
    pub fn held_with(&self, seq: u64) -> usize {
        self.reports().filter(|(_, tag)| tag.seq == seq).count()
    }

    fn reports(&self) -> impl Iterator<Item = (u64, &Tag)> {
        let reports = self.entries.iter().filter(|(_, e)| e.class == Class::Report);
        reports.filter_map(|(id, e)| Some((*id, e.tag.as_ref()?)))
    }

    /// Keeps a message until it is acknowledged, under the number [`Outbox::next_id`] said.
    ///
    /// # Errors
    /// [`OutboxError`] when even what was set aside is not enough. For telemetry that is no error: it is dropped.
    pub fn push(&mut self, class: Class, topic: &Topic, tag: Option<Tag>, data: &[u8]) -> Result<u64, OutboxError> {
        let id = self.next_id;
        let kind = match class {
            Class::Report => Kind::Report,
            Class::Event => Kind::Event,
            Class::Telemetry => Kind::Telemetry,
        };
        let payload = Stored::of(topic, tag.clone(), data);
        let frame = Frame { kind, id, payload };
        self.make_room(class, frame.bytes() as u64);
        let place = match self.append(class, &frame) {
            Ok(place) => place,
            Err(e) if class == Class::Telemetry => {
                debug!(error = %e, "telemetry dropped");
                self.dropped += 1;
                return Ok(id);
            }
            Err(source) => return Err(OutboxError { dir: self.dir.clone(), source }),
        };
        self.next_id = id + 1;
        // Only what is kept can take the place of what was.
        if let (Class::Report, Some(tag)) = (class, &tag) {
            let old = |(_, old): &(u64, &Tag)| old.component == tag.component && !old.end;
            let superseded: Vec<u64> = self.reports().filter(old).map(|(id, _)| id).collect();
            superseded.into_iter().for_each(|id| self.remove(id));
        }
        self.insert(id, class, place, tag);
        Ok(id)
    }

    fn append(&mut self, class: Class, frame: &Frame) -> io::Result<Place> {
        let family = if class == Class::Telemetry { Family::Telemetry } else { Family::Durable };
        let (disk, next_id) = (self.disk.clone(), self.next_id);
        let write = |outbox: &mut Self| {
            outbox.segments.append(disk.as_ref(), &outbox.dir, family, frame, next_id, class != Class::Telemetry)
        };
        self.unsynced |= class == Class::Telemetry;
        let full = |e: &io::Error| matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        match write(self) {
            Err(e) if full(&e) && class == Class::Telemetry && self.drop_oldest_telemetry() => write(self),
            Err(e) if full(&e) && class != Class::Telemetry => {
                warn!("the disk is full: telemetry gives way to reports");
                while self.drop_oldest_telemetry() {}
                write(self).or_else(|_| {
                    self.disk.remove(&self.dir.join("reserve"))?;
                    write(self)
                })
            }
            // A fault that passes: once more, in a new segment.
            Err(_) if class != Class::Telemetry => write(self),
            result => result,
        }
    }

    fn make_reserve(&self) {
        let path = self.dir.join("reserve");
        if !matches!(self.disk.length(&path), Ok(Some(RESERVE_BYTES)))
            && let Err(e) = self.disk.reserve(&path, RESERVE_BYTES)
        {
            debug!(error = %e, "nothing could be set aside for reports");
        }
    }

    fn make_room(&mut self, class: Class, bytes: u64) {
        match class {
            Class::Telemetry => {
                while self.segments.bytes(Family::Telemetry) + bytes > self.limits.telemetry_bytes_max {
                    if !self.drop_oldest_telemetry() {
                        break;
                    }
                }
            }
            Class::Event => {
                let bytes_of = |e: &Entry| if e.class == Class::Event { e.place.length as u64 } else { 0 };
                let mut sum: u64 = self.entries.values().map(bytes_of).sum();
                while sum + bytes > self.limits.event_bytes_max {
                    let Some((&id, entry)) = self.entries.iter().find(|(_, e)| e.class == Class::Event) else { break };
                    sum -= entry.place.length as u64;
                    self.dropped += 1;
                    self.remove(id);
                }
            }
            Class::Report => {}
        }
    }

    /// Whether there was any.
    fn drop_oldest_telemetry(&mut self) -> bool {
        let Some(segment) = self.segments.oldest(Family::Telemetry) else { return false };
        let inside = |e: &Entry| e.place.family == Family::Telemetry && e.place.segment == segment;
        let ids: Vec<u64> = self.entries.iter().filter(|(_, e)| inside(e)).map(|(id, _)| *id).collect();
        self.dropped += ids.len() as u64;
        ids.into_iter().for_each(|id| self.forget(id));
        self.segments.delete(self.disk.as_ref(), &self.dir, Family::Telemetry, segment)
    }

    /// Syncs telemetry that is not yet, and tidies up; every few seconds is enough.
    pub fn flush(&mut self) {
        if std::mem::take(&mut self.unsynced)
            && let Err(e) = self.segments.sync(self.disk.as_ref(), &self.dir, Family::Telemetry)
        {
            debug!(error = %e, "telemetry could not be synced");
        }
        self.tidy();
        self.make_reserve();
    }

    /// Deletes segments that hold nothing, and writes what one old message holds back together anew.
    fn tidy(&mut self) {
        self.segments.delete_empty(self.disk.as_ref(), &self.dir);
        let durable = |e: &Entry| e.place.family == Family::Durable;
        let live: u64 = self.entries.values().filter(|e| durable(e)).map(|e| e.place.length as u64).sum();
        if self.segments.bytes(Family::Durable) < 4 * live + (1 << 20) {
            return;
        }
        let old: Vec<u64> = self.entries.iter().filter(|(_, e)| durable(e)).map(|(id, _)| *id).collect();
        self.segments.rotate(Family::Durable);
        for id in old {
            let Some(entry) = self.entries.get(&id) else { continue };
            let (class, place) = (entry.class, entry.place);
            let kind = if class == Class::Report { Kind::Report } else { Kind::Event };
            let Ok(payload) = self.segments.read(self.disk.as_ref(), &self.dir, place) else { continue };
            let Ok(new) = self.append(class, &Frame { kind, id, payload }) else { return };
            self.segments.count(place, -1);
            self.segments.count(new, 1);
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.place = new;
            }
        }
        self.segments.delete_empty(self.disk.as_ref(), &self.dir);
    }

    fn remove(&mut self, id: u64) {
        let Some(entry) = self.entries.get(&id) else { return };
        let family = entry.place.family;
        self.forget(id);
        let frame = Frame { kind: Kind::Removed, id, payload: Vec::new() };
        // Lost, it costs a repetition.
        let next_id = self.next_id;
        let _ = self.segments.append(self.disk.as_ref(), &self.dir, family, &frame, next_id, false);
    }

    /// Up to `count` messages that are due, reports first, and of a class the oldest first.
    pub fn due(&mut self, count: usize) -> Vec<Due> {
        let next: Vec<(Class, u64)> = self.waiting.iter().take(count).copied().collect();
        let mut due = Vec::new();
        for (class, id) in next {
            let Some(entry) = self.entries.get(&id) else { continue };
            let read = self.segments.read(self.disk.as_ref(), &self.dir, entry.place);
            match read.ok().and_then(|payload| Stored::read(&payload)) {
                Some(Stored { topic, data, .. }) => due.push(Due { id, class, topic, payload: data.0 }),
                None if class == Class::Telemetry => {
                    self.dropped += 1;
                    self.forget(id);
                }
                None => {
                    warn!(id, "a message in the outbox cannot be read; it is tried again later");
                    self.waiting.remove(&(class, id));
                }
            }
        }
        due
    }

    /// It has been handed over.
    pub fn sent(&mut self, id: u64, now_ms: u64) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.sent_ms = Some(now_ms);
            self.waiting.remove(&(entry.class, id));
            self.in_flight.insert(id);
        }
    }

    /// It cannot be sent on this connection: telemetry is dropped, all else waits for the next one.
    pub fn unsendable(&mut self, id: u64) {
        self.in_flight.remove(&id);
        match self.entries.get(&id).map(|e| e.class) {
            Some(Class::Telemetry) => {
                self.dropped += 1;
                self.remove(id);
            }
            Some(class) => {
                self.waiting.remove(&(class, id));
            }
            None => {}
        }
    }

    /// Messages that the broker has not acknowledged.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The broker has it.
    pub fn delivered(&mut self, id: u64) {
        self.in_flight.remove(&id);
        if self.entries.get(&id).is_some_and(|e| e.class == Class::Telemetry) {
            self.remove(id);
        }
    }

    /// The connection is gone: everything is due again at the next one.
    pub fn line_down(&mut self) {
        self.in_flight.clear();
        for (id, entry) in &mut self.entries {
            entry.sent_ms = None;
            self.waiting.insert((entry.class, *id));
        }
    }

    /// What the server has not acknowledged for long is due again.
    pub fn send_again(&mut self, now_ms: u64) {
        self.send_again_where(|sent_ms| now_ms.saturating_sub(sent_ms) >= AGAIN_MS);
    }

    /// Whatever was sent and is not stored is sent again: the server may have begun anew, and heard nothing of it.
    pub fn send_all_again(&mut self) {
        self.send_again_where(|_| true);
    }

    fn send_again_where(&mut self, wanted: impl Fn(u64) -> bool) {
        for (id, entry) in &mut self.entries {
            if entry.sent_ms.is_some_and(&wanted) && !self.in_flight.contains(id) {
                entry.sent_ms = None;
                self.waiting.insert((entry.class, *id));
            }
        }
    }

    /// The server has stored this event.
    pub fn event_acked(&mut self, id: u64) {
        if self.entries.get(&id).is_some_and(|e| e.class == Class::Event) {
            self.remove(id);
        }
    }

    /// The server has stored every report up to this number. Returns which reports of deployment machines they were.
    pub fn reports_acked(&mut self, up_to: u64) -> Vec<Tag> {
        let acked: Vec<(u64, Option<Tag>)> = self
            .entries
            .range(..=up_to)
            .filter(|(_, e)| e.class == Class::Report)
            .map(|(id, e)| (*id, e.tag.clone()))
            .collect();
        acked.iter().for_each(|(id, _)| self.remove(*id));
        acked.into_iter().filter_map(|(_, tag)| tag).collect()
    }
}
