//! Segment files of the outbox. A frame is
//!
//! ```text
//! FD 53 4F 42 | kind: u8 | id: u64 | length: u32 | check: 8 bytes | payload
//! ```
//!
//! with little-endian numbers; `check` is the start of the SHA-256 of kind, id, length and payload. The first frame of a
//! segment says which number comes next, so numbers survive the deletion of all messages.

use super::Tag;
use crate::disk::Disk;
use sedge_protocol::Sha256Digest;
use sedge_protocol::cbor::{self, Bytes, Limits};
use sedge_protocol::limits::PACKET_BYTES_MAX;
use sedge_protocol::topic::Topic;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

const MAGIC: [u8; 4] = [0xFD, b'S', b'O', b'B'];
const HEADER_BYTES: usize = 4 + 1 + 8 + 4 + 8;
/// Largest payload: a message with its topic.
const PAYLOAD_BYTES_MAX: usize = PACKET_BYTES_MAX + 1024;
/// A segment that is longer is not added to.
const SEGMENT_BYTES: u64 = 128 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Header = 0,
    Report = 1,
    Event = 2,
    Telemetry = 3,
    Removed = 4,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        [Self::Header, Self::Report, Self::Event, Self::Telemetry, Self::Removed].get(usize::from(byte)).copied()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    Durable,
    Telemetry,
}

impl Family {
    const ALL: [Self; 2] = [Self::Durable, Self::Telemetry];

    pub(super) fn path(self, dir: &Path, segment: u64) -> PathBuf {
        dir.join(format!("{}-{segment:016x}", self.letter()))
    }

    const fn letter(self) -> char {
        match self {
            Self::Durable => 'd',
            Self::Telemetry => 't',
        }
    }

    fn parse(name: &str) -> Option<(Self, u64)> {
        let (letter, number) = name.split_once('-')?;
        let family = Self::ALL.into_iter().find(|f| letter == f.letter().to_string())?;
        Some((family, u64::from_str_radix(number, 16).ok()?))
    }
}

/// A frame's payload within its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) family: Family,
    pub(super) segment: u64,
    pub(super) offset: u64,
    pub(super) length: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) id: u64,
    pub(super) payload: Vec<u8>,
}

/// Payload of a message's frame.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) topic: Topic,
    pub(super) tag: Option<Tag>,
    pub(super) data: Bytes,
}

#[derive(Serialize, Deserialize)]
struct Raw {
    topic: String,
    tag: Option<Tag>,
    data: Bytes,
}

impl Stored {
    pub(super) fn of(topic: &Topic, tag: Option<Tag>, data: &[u8]) -> Vec<u8> {
        // Text keys and two levels: this cannot fail. An empty payload would be passed over when read.
        cbor::encode(&Raw { topic: topic.to_string(), tag, data: Bytes::from(data) }).unwrap_or_default()
    }

    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        let Raw { topic, tag, data } = cbor::decode_strict(payload, Limits::bytes(PAYLOAD_BYTES_MAX)).ok()?;
        Some(Self { topic: topic.parse().ok()?, tag, data })
    }
}

fn check(kind: u8, id: u64, payload: &[u8]) -> [u8; 8] {
    let mut covered = Vec::with_capacity(13 + payload.len());
    covered.push(kind);
    covered.extend_from_slice(&id.to_le_bytes());
    covered.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    covered.extend_from_slice(payload);
    let mut check = [0; 8];
    check.copy_from_slice(&Sha256Digest::of(&covered).as_bytes()[..8]);
    check
}

impl Frame {
    pub(super) fn bytes(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes());
        out.extend_from_slice(&MAGIC);
        out.push(self.kind as u8);
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&(self.payload.len() as u32).to_le_bytes());
        out.extend_from_slice(&check(self.kind as u8, self.id, &self.payload));
        out.extend_from_slice(&self.payload);
        out
    }

    fn at(bytes: &[u8]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let (&kind, rest) = rest.split_first()?;
        let (id, rest) = rest.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (written, rest) = rest.split_first_chunk::<8>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok().filter(|n| *n <= PAYLOAD_BYTES_MAX)?;
        let (id, payload) = (u64::from_le_bytes(*id), rest.get(..length)?);
        let whole = *magic == MAGIC && *written == check(kind, id, payload);
        whole.then(|| Some(Self { kind: Kind::of(kind)?, id, payload: payload.to_vec() }))?
    }
}

#[derive(Debug, Default)]
struct Segment {
    bytes: u64,
    live: i64,
}

/// The files.
#[derive(Debug)]
pub(super) struct Segments {
    segments: BTreeMap<(Family, u64), Segment>,
    current: BTreeMap<Family, u64>,
    next: u64,
}

impl Segments {
    /// Reads all of them, oldest first; damage is passed over.
    pub(super) fn open(disk: &dyn Disk, dir: &Path) -> io::Result<(Self, Vec<(Place, Frame)>)> {
        let mut segments = Self { segments: BTreeMap::new(), current: BTreeMap::new(), next: 1 };
        let mut frames = Vec::new();
        let mut names: Vec<_> = disk.list(dir)?.iter().filter_map(|name| Family::parse(name)).collect();
        names.sort_by_key(|&(family, number)| (number, family));
        for (family, segment) in names {
            segments.next = segments.next.max(segment.saturating_add(1));
            let bytes = disk.read(&family.path(dir, segment))?.unwrap_or_default();
            segments.segments.insert((family, segment), Segment { bytes: bytes.len() as u64, live: 0 });
            let mut at = 0;
            while at < bytes.len() {
                let Some(frame) = Frame::at(&bytes[at..]) else {
                    let rest = &bytes[at + 1..];
                    at += 1 + rest.iter().position(|b| *b == MAGIC[0]).unwrap_or(rest.len());
                    continue;
                };
                let (offset, length) = ((at + HEADER_BYTES) as u64, frame.payload.len());
                at += frame.bytes();
                frames.push((Place { family, segment, offset, length }, frame));
            }
        }
        Ok((segments, frames))
    }

    pub(super) fn bytes(&self, family: Family) -> u64 {
        self.segments.iter().filter(|((f, _), _)| *f == family).map(|(_, s)| s.bytes).sum()
    }

    pub(super) fn count(&mut self, place: Place, change: i64) {
        if let Some(segment) = self.segments.get_mut(&(place.family, place.segment)) {
            segment.live += change;
        }
    }

    pub(super) fn oldest(&self, family: Family) -> Option<u64> {
        self.segments.keys().find(|(f, _)| *f == family).map(|(_, segment)| *segment)
    }

    /// The next frame begins a new segment.
    pub(super) fn rotate(&mut self, family: Family) {
        self.current.remove(&family);
    }

    pub(super) fn append(
        &mut self,
        disk: &dyn Disk,
        dir: &Path,
        family: Family,
        frame: &Frame,
        next_id: u64,
        sync: bool,
    ) -> io::Result<Place> {
        let current = self.current.get(&family).copied();
        let fits = |n: &u64| self.segments.get(&(family, *n)).is_some_and(|s| s.bytes < SEGMENT_BYTES);
        let (segment, mut bytes) = match current.filter(fits) {
            Some(segment) => (segment, Vec::new()),
            None => {
                let segment = self.next;
                self.next += 1;
                self.segments.insert((family, segment), Segment::default());
                self.current.insert(family, segment);
                (segment, Frame { kind: Kind::Header, id: next_id, payload: Vec::new() }.encode())
            }
        };
        bytes.extend_from_slice(&frame.encode());
        let entry = self.segments.entry((family, segment)).or_default();
        let end = entry.bytes + bytes.len() as u64;
        let written = disk.append(&family.path(dir, segment), &bytes, sync);
        entry.bytes = end;
        match written {
            Ok(()) => {
                let length = frame.payload.len();
                Ok(Place { family, segment, offset: end - length as u64, length })
            }
            Err(e) => {
                // Whatever was written of it, nothing is written behind it.
                self.current.remove(&family);
                Err(e)
            }
        }
    }

    pub(super) fn read(&self, disk: &dyn Disk, dir: &Path, place: Place) -> io::Result<Vec<u8>> {
        disk.read_at(&place.family.path(dir, place.segment), place.offset, place.length)
    }

    pub(super) fn sync(&self, disk: &dyn Disk, dir: &Path, family: Family) -> io::Result<()> {
        match self.current.get(&family) {
            Some(segment) => disk.sync(&family.path(dir, *segment)),
            None => Ok(()),
        }
    }

    /// Whether it is gone.
    pub(super) fn delete(&mut self, disk: &dyn Disk, dir: &Path, family: Family, segment: u64) -> bool {
        let gone = disk.remove(&family.path(dir, segment)).is_ok();
        self.segments.remove(&(family, segment));
        if self.current.get(&family) == Some(&segment) {
            self.current.remove(&family);
        }
        gone
    }

    /// Deletes what holds no message, but for the newest of the durable ones: it holds the number.
    pub(super) fn delete_empty(&mut self, disk: &dyn Disk, dir: &Path) {
        let newest = self.segments.keys().rev().find(|(family, _)| *family == Family::Durable).copied();
        let kept = |key: &(Family, u64)| Some(*key) == newest || self.current.get(&key.0) == Some(&key.1);
        let empty: Vec<_> =
            self.segments.iter().filter(|(key, s)| s.live <= 0 && !kept(key)).map(|(key, _)| *key).collect();
        for (family, segment) in empty {
            self.delete(disk, dir, family, segment);
        }
    }
}
