//! What waits to be published, in the order in which it matters: acknowledgements, refusals and commands; desired
//! states; documents, one segment of each in turn; chunks. In memory and bounded: all of it is asked for again, or made
//! again from the database, when it is lost.

use super::carousel::{Carousel, Limits, Turn};
use sedge_protocol::id::Principal;
use sedge_protocol::message::MetadataSegment;
use sedge_protocol::topic::Topic;
use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Acknowledgements, refusals and commands that wait. A device that misses one says its part again.
const URGENT_MAX: usize = 8192;
/// Bytes of documents that are being sent. Most documents are short; a large bundle's index has some 2 MiB.
const DOCUMENTS_BYTES_MAX: usize = 64 << 20;
/// Documents that are being sent to one device.
const DEVICE_DOCUMENTS_MAX: usize = 2;

/// A message that is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ready {
    pub(crate) topic: Topic,
    pub(crate) payload: Vec<u8>,
    pub(crate) json: bool,
}

/// What to publish next.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    Ready(Ready),
    /// Make it from the database, and leave it if it has this hash.
    Desired(Principal),
    Segment(Principal, MetadataSegment),
    Chunk(Turn),
    /// Nothing before this time, in milliseconds.
    Wait(Option<u64>),
}

#[derive(Debug)]
struct Queues {
    urgent: VecDeque<Ready>,
    desired: VecDeque<Principal>,
    desired_known: HashSet<Principal>,
    documents: VecDeque<(Principal, VecDeque<MetadataSegment>)>,
    carousel: Carousel,
}

/// Queues that one task fills and another empties.
#[derive(Debug)]
pub(crate) struct Outbox {
    queues: Mutex<Queues>,
    news: Notify,
}

impl Outbox {
    pub(crate) fn new(limits: Limits) -> Self {
        let queues = Queues {
            urgent: VecDeque::new(),
            desired: VecDeque::new(),
            desired_known: HashSet::new(),
            documents: VecDeque::new(),
            carousel: Carousel::new(limits),
        };
        Self { queues: Mutex::new(queues), news: Notify::new() }
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        // Each change is whole before anything can panic.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there was room.
    pub(crate) fn urgent(&self, ready: Ready) -> bool {
        let mut queues = self.queues();
        let room = queues.urgent.len() < URGENT_MAX;
        if room {
            queues.urgent.push_back(ready);
        }
        drop(queues);
        self.news.notify_one();
        room
    }

    pub(crate) fn desired(&self, device: Principal) {
        let mut queues = self.queues();
        if queues.desired_known.insert(device.clone()) {
            queues.desired.push_back(device);
        }
        drop(queues);
        self.news.notify_one();
    }

    /// Whether there was room. A device that asks for the same document again begins it anew.
    pub(crate) fn document(&self, device: &Principal, segments: Vec<MetadataSegment>) -> bool {
        let mut queues = self.queues();
        let same = |other: &VecDeque<MetadataSegment>| {
            other.front().map(|s| &s.document) == segments.first().map(|s| &s.document)
        };
        queues.documents.retain(|(to, other)| to != device || !same(other));
        let of_device = queues.documents.iter().filter(|(to, _)| to == device).count();
        let waiting = queues.documents.iter().flat_map(|(_, segments)| segments);
        let bytes: usize = waiting.chain(&segments).map(|segment| segment.data.len()).sum();
        let room = bytes <= DOCUMENTS_BYTES_MAX && of_device < DEVICE_DOCUMENTS_MAX;
        if room && !segments.is_empty() {
            queues.documents.push_back((device.clone(), segments.into()));
        }
        drop(queues);
        self.news.notify_one();
        room
    }

    /// Does something with the carousel.
    pub(crate) fn carousel<T>(&self, change: impl FnOnce(&mut Carousel) -> T) -> T {
        let done = change(&mut self.queues().carousel);
        self.news.notify_one();
        done
    }

    pub(crate) fn next(&self, now_ms: u64) -> Next {
        let mut queues = self.queues();
        if let Some(ready) = queues.urgent.pop_front() {
            return Next::Ready(ready);
        }
        if let Some(device) = queues.desired.pop_front() {
            queues.desired_known.remove(&device);
            return Next::Desired(device);
        }
        while let Some((device, mut segments)) = queues.documents.pop_front() {
            if let Some(segment) = segments.pop_front() {
                if !segments.is_empty() {
                    queues.documents.push_back((device.clone(), segments));
                }
                return Next::Segment(device, segment);
            }
        }
        match queues.carousel.next(now_ms) {
            Turn::Wait(until) => Next::Wait(until),
            turn => Next::Chunk(turn),
        }
    }

    /// Waits until something has been put in.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }
}
