//! One document on request: asked for, put together from segments, asked for again where segments are missing.
//!
//! A value without IO: it says what to send and when, and takes what arrives. What it yields has the length and digest
//! that the *server* announced, which proves nothing; whoever asked checks it.

use sedge_protocol::id::RequestId;
use sedge_protocol::limits::{PACKET_OVERHEAD_BYTES_MAX, SEGMENT_BYTES_MAX};
use sedge_protocol::message::{Assembly, Document, MetadataRequest, MetadataSegment, Reply, V1};

const FIRST_PAUSE_MS: u64 = 10_000;
const PAUSE_MS_MAX: u64 = 120_000;
const SEGMENT_BYTES_MIN: usize = 16 * 1024;

/// A document that is on its way.
#[derive(Debug)]
pub struct Fetch {
    document: Document,
    bytes_max: u64,
    request: RequestId,
    assembly: Option<Assembly>,
    /// When to ask again.
    due_ms: u64,
    pause_ms: u64,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// Not for this request, or more is missing.
    Nothing,
    /// All of it.
    Document(Vec<u8>),
    /// It cannot be had, and asking again is of no use.
    Unavailable(String),
    /// It is longer than it may be.
    TooLong {
        /// Announced.
        bytes: u64,
        /// Read at the most.
        bytes_max: u64,
    },
}

/// A name for a request that no other request has.
pub fn request_id() -> RequestId {
    let number = getrandom::u64().unwrap_or_default();
    // Sixteen hex digits are a name.
    format!("{number:016x}").parse().unwrap_or_else(|e| unreachable!("{e}"))
}

impl Fetch {
    /// To be asked for at once.
    pub fn new(document: Document, bytes_max: u64) -> Self {
        let (request, pause_ms) = (request_id(), FIRST_PAUSE_MS);
        Self { document, bytes_max, request, assembly: None, due_ms: 0, pause_ms }
    }

    /// Which document.
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// When it is to be asked for.
    pub fn due_ms(&self) -> u64 {
        self.due_ms
    }

    /// The connection was made anew: to be asked for at once.
    pub fn line_up(&mut self) {
        (self.due_ms, self.pause_ms) = (0, FIRST_PAUSE_MS);
    }

    /// The request to send now.
    pub fn ask(&mut self, now_ms: u64, packet_bytes_max: usize) -> MetadataRequest {
        self.due_ms = now_ms + self.pause_ms;
        self.pause_ms = (self.pause_ms * 2).min(PAUSE_MS_MAX);
        let segment = packet_bytes_max.saturating_sub(PACKET_OVERHEAD_BYTES_MAX + 512);
        let segment = segment.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        MetadataRequest {
            v: V1,
            request: self.request.clone(),
            document: self.document.clone(),
            segment_bytes_max: u32::try_from(segment).unwrap_or(u32::MAX),
            first_index: self.assembly.as_ref().and_then(Assembly::first_missing).unwrap_or(0),
        }
    }

    /// Takes a segment.
    pub fn segment(&mut self, segment: MetadataSegment, now_ms: u64) -> Fetched {
        if segment.request != self.request || segment.document != self.document {
            return Fetched::Nothing;
        }
        if segment.total_bytes > self.bytes_max {
            return Fetched::TooLong { bytes: segment.total_bytes, bytes_max: self.bytes_max };
        }
        self.pause_ms = FIRST_PAUSE_MS;
        self.due_ms = now_ms + self.pause_ms;
        let assembly = self.assembly.get_or_insert_with(|| Assembly::new(&segment));
        match assembly.add(segment) {
            Ok(Some(document)) => Fetched::Document(document),
            Ok(None) => Fetched::Nothing,
            Err(_) => {
                // The server began again with another version: so does this.
                self.assembly = None;
                Fetched::Nothing
            }
        }
    }

    /// Takes a refusal.
    pub fn refused(&mut self, reply: &Reply, now_ms: u64) -> Fetched {
        if reply.request != self.request {
            return Fetched::Nothing;
        }
        match reply.retry_after_s {
            Some(s) => {
                self.due_ms = now_ms + u64::from(s.clamp(1, 3600)) * 1000;
                Fetched::Nothing
            }
            None => {
                let detail = reply.error.detail.as_deref().unwrap_or("no reason was given");
                Fetched::Unavailable(format!("{}: {}", reply.error.code, sedge_protocol::text::one_line(detail)))
            }
        }
    }
}
