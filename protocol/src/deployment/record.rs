//! The journal record: all that a deployment needs to survive power loss.
//!
//! A journal is one or more frames, the last of which counts. A frame is
//!
//! ```text
//! FE 53 44 47 | format: u16 | length: u32 | check: 8 bytes | payload: JSON
//! ```
//!
//! with little-endian numbers; `check` is the start of the SHA-256 of format, length and payload. [`scan`] takes the
//! last whole frame and passes over everything else: a tail torn by power loss, and damage between frames, since the
//! first byte of a frame never occurs in JSON. A shell may append frames or replace the file (write, sync, rename,
//! sync the directory), or append until the file is large and then replace it.
//!
//! A whole frame that this version does not understand was written by another version of the agent, which is what an
//! agent that was just rolled back finds. Its [`Anchor`] has a shape that is only ever added to: what to go back to,
//! the generations that must not fall, and the reports that must not be lost. All else is given up.

use super::order::{Active, Inactive, Order};
use super::report::{Report, Subject};
use super::state::State;
use crate::digest::Sha256Digest;
use crate::id::Generation;
use serde::{Deserialize, Serialize};

/// Format of the records that this version writes.
pub const FORMAT: u16 = 1;
/// Largest payload; stops a length field gone wrong from being believed.
pub const RECORD_BYTES_MAX: usize = 1 << 20;

const MAGIC: [u8; 4] = [0xFE, b'S', b'D', b'G'];
const CHECK_BYTES: usize = 8;
const HEADER_BYTES: usize = 4 + 2 + 4 + CHECK_BYTES;

/// A deployment as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Record {
    /// What must survive even a change of version.
    pub anchor: Anchor,
    /// What the other slot holds.
    pub inactive: Inactive,
    /// Where the deployment is.
    pub state: State,
    /// A later order that waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Next>,
    /// Latest trusted time; trusted time does not go back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unix_floor_s: Option<u64>,
    /// Trusted time of writing, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_unix_s: Option<u64>,
}

/// What must survive even a change of version.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Anchor {
    /// The committed bundle and its place.
    pub active: Option<Active>,
    /// Highest generation ever authorised; no order at or below it is taken again.
    pub authorized: Generation,
    /// Highest generation ever committed.
    pub committed: Generation,
    /// Number of the latest report.
    pub report_seq: u64,
    /// Reports that the server has not acknowledged, oldest first.
    pub reports: Vec<Report>,
    /// What is being deployed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pursued: Option<Subject>,
}

/// An order that came while another was followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Next {
    /// The order.
    pub order: Order,
    /// Whether it has been authorised. Until then it disturbs nothing.
    pub authorized: bool,
}

/// What a journal says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing: a new device, or nothing whole.
    Nothing,
    /// The deployment.
    Record(Box<Record>),
    /// A record of another version.
    Foreign {
        /// Its format.
        format: u16,
        /// What could be read of it.
        anchor: Box<Anchor>,
    },
}

/// Result of [`scan`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// What the last whole frame says.
    pub found: Found,
    /// Whole frames.
    pub frames: usize,
    /// Bytes that belong to no whole frame; more than 0 after power was lost while writing.
    pub torn_bytes: usize,
    /// Where the last whole frame ends: a shell that appends cuts the file here first.
    pub end: usize,
}

/// Encodes a record as one frame.
pub fn encode_record(record: &Record) -> Vec<u8> {
    // Every part of a record has string keys and finite numbers, so this can't fail; an empty payload would be
    // reported as foreign.
    let payload = serde_json::to_vec(record).unwrap_or_default();
    encode_frame(FORMAT, &payload)
}

/// Puts a payload into a frame.
pub fn encode_frame(format: u16, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(HEADER_BYTES + payload.len());
    frame.extend_from_slice(&MAGIC);
    frame.extend_from_slice(&format.to_le_bytes());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&check(format, length, payload));
    frame.extend_from_slice(payload);
    frame
}

/// Reads a journal. Never fails: what can't be read is passed over.
pub fn scan(journal: &[u8]) -> Scan {
    let (mut frames, mut torn_bytes, mut end, mut at) = (Vec::new(), 0, 0, 0);
    while at < journal.len() {
        if let Some((format, payload)) = frame_at(&journal[at..]) {
            at += HEADER_BYTES + payload.len();
            end = at;
            frames.push((format, payload));
        } else {
            let rest = &journal[at + 1..];
            let next = rest.iter().position(|&b| b == MAGIC[0]).unwrap_or(rest.len());
            torn_bytes += 1 + next;
            at += 1 + next;
        }
    }
    Scan { found: read_last(&frames), frames: frames.len(), torn_bytes, end }
}

fn check(format: u16, length: u32, payload: &[u8]) -> [u8; CHECK_BYTES] {
    let mut covered = Vec::with_capacity(6 + payload.len());
    covered.extend_from_slice(&format.to_le_bytes());
    covered.extend_from_slice(&length.to_le_bytes());
    covered.extend_from_slice(payload);
    let digest = Sha256Digest::of(&covered);
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&digest.as_bytes()[..CHECK_BYTES]);
    check
}

fn frame_at(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (magic, rest) = bytes.split_first_chunk::<4>()?;
    let (format, rest) = rest.split_first_chunk::<2>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (written, rest) = rest.split_first_chunk::<CHECK_BYTES>()?;
    let (format, length) = (u16::from_le_bytes(*format), u32::from_le_bytes(*length));
    let size = usize::try_from(length).ok().filter(|&n| n <= RECORD_BYTES_MAX)?;
    let payload = rest.get(..size)?;
    (*magic == MAGIC && *written == check(format, length, payload)).then_some((format, payload))
}

/// The last frame, or as much of it as can be read; of a frame that says nothing at all, the anchor before it.
fn read_last(frames: &[(u16, &[u8])]) -> Found {
    let Some(&(format, payload)) = frames.last() else { return Found::Nothing };
    if format == FORMAT
        && let Ok(record) = serde_json::from_slice(payload)
    {
        return Found::Record(Box::new(record));
    }
    let json = |payload| serde_json::from_slice::<serde_json::Value>(payload).ok();
    let anchor = frames.iter().rev().find_map(|(_, payload)| read_anchor(&json(payload)?));
    anchor.map_or(Found::Nothing, |anchor| Found::Foreign { format, anchor: Box::new(anchor) })
}

/// Reads each part by itself, so that a report of a kind not known yet does not cost the rest.
fn read_anchor(json: &serde_json::Value) -> Option<Anchor> {
    fn part<T: serde::de::DeserializeOwned>(json: &serde_json::Value) -> Option<T> {
        T::deserialize(json).ok()
    }
    let json = json.get("anchor")?;
    let reports = json.get("reports").and_then(|r| r.as_array()).into_iter().flatten();
    Some(Anchor {
        active: json.get("active").and_then(part),
        authorized: json.get("authorized").and_then(part)?,
        committed: json.get("committed").and_then(part)?,
        report_seq: json.get("report_seq").and_then(part)?,
        reports: reports.filter_map(part).collect(),
        pursued: json.get("pursued").and_then(part),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(committed: u64) -> Record {
        let anchor = Anchor { committed: Generation(committed), ..Anchor::default() };
        Record { anchor, ..Record::default() }
    }

    fn committed(found: &Found) -> Option<u64> {
        match found {
            Found::Record(record) => Some(record.anchor.committed.0),
            _ => None,
        }
    }

    #[test]
    fn a_tail_torn_anywhere_leaves_the_record_before_it() {
        let first = encode_record(&record(1));
        let journal = [first.clone(), encode_record(&record(2))].concat();
        for cut in 0..journal.len() {
            let scan = scan(&journal[..cut]);
            let whole = usize::from(cut >= first.len());
            assert_eq!((committed(&scan.found), scan.frames), ((whole == 1).then_some(1), whole), "cut at {cut}");
            assert_eq!((scan.end, scan.torn_bytes), (whole * first.len(), cut - whole * first.len()), "cut at {cut}");
        }
        assert_eq!(committed(&scan(&journal).found), Some(2));
    }

    #[test]
    fn damage_to_any_byte_costs_that_frame_and_no_other() {
        let frames = [1, 2, 3].map(|n| encode_record(&record(n)));
        let journal = frames.concat();
        for at in 0..journal.len() {
            let mut damaged = journal.clone();
            damaged[at] ^= 0x10;
            let scan = scan(&damaged);
            let in_last = at >= frames[0].len() + frames[1].len();
            assert_eq!((committed(&scan.found), scan.frames), (Some(if in_last { 2 } else { 3 }), 2), "byte {at}");
        }
    }

    #[test]
    fn noise_is_no_record() {
        let mut noise = 1u64;
        let bytes: Vec<u8> = (0..50_000)
            .map(|_| {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (noise >> 56) as u8
            })
            .collect();
        for at in 0..200 {
            assert_eq!(scan(&bytes[at * 7..]).found, Found::Nothing);
        }
        let huge = [&MAGIC[..], &FORMAT.to_le_bytes(), &u32::MAX.to_le_bytes(), &[0; 8]].concat();
        assert_eq!(scan(&huge).torn_bytes, huge.len());
    }

    #[test]
    fn of_a_later_version_the_anchor_is_read_and_the_rest_is_not() {
        let payload = br#"{"anchor": {"active": null, "authorized": 9, "committed": 8, "report_seq": 70, "new": 1,
            "reports": [{"of": "a new kind"}]}, "state": {"hovering": {}}}"#;
        for format in [FORMAT, FORMAT + 1] {
            let Found::Foreign { format: read, anchor } = scan(&encode_frame(format, payload)).found else {
                panic!("format {format} was understood");
            };
            assert_eq!((read, anchor.authorized.0, anchor.committed.0, anchor.report_seq), (format, 9, 8, 70));
        }
        let journal = [encode_record(&record(4)), encode_frame(FORMAT + 1, b"\x00not json")].concat();
        let Found::Foreign { anchor, .. } = scan(&journal).found else { panic!("understood") };
        assert_eq!(anchor.committed.0, 4);
    }
}
