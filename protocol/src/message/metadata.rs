//! Documents on request: a device asks on `q`, the server answers on `in/meta` in segments that fit a packet, or with a
//! [`super::Reply`] when it cannot.
//!
//! A segment's digest says which segments belong together and catches damage; whether the document is genuine is for
//! the update metadata to say.

use super::check::{self, invalid};
use super::{Invalid, Message, V1, word};
use crate::cbor::Bytes;
use crate::id::RequestId;
use crate::limits::{DOCUMENT_BYTES_MAX, PAYLOAD_BYTES_MAX, SEGMENT_BYTES_MAX, SEGMENTS_MAX};
use crate::{BundleDigest, Sha256Digest};
use serde::{Deserialize, Serialize};

/// Smallest segment that may be asked for; with fewer bytes a document would need too many.
const SEGMENT_BYTES_MIN: usize = DOCUMENT_BYTES_MAX as usize / SEGMENTS_MAX as usize;

word::words! {
    /// Whose metadata.
    Repository, "repository" {
        /// Signed offline: which bundles exist.
        Publisher = "publisher",
        /// Signed online: what each device is to run.
        Director = "director",
    }
}

word::open_words! {
    /// Role of a metadata file. Any other is a delegated role, by its name.
    Role, "metadata role" {
        /// Keys and thresholds.
        Root = "root",
        /// Version of the snapshot.
        Timestamp = "timestamp",
        /// Versions of the targets.
        Snapshot = "snapshot",
        /// What exists, or is to run.
        Targets = "targets",
    }
}

/// A document that travels in segments.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Document {
    /// A file of update metadata.
    Metadata {
        /// Whose.
        repository: Repository,
        /// Which.
        role: Role,
        /// Its version; none asks for the newest.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<u64>,
    },
    /// A [`super::ChunkIndex`] that is too large for its announcement.
    ChunkIndex {
        /// Of which bundle.
        bundle: BundleDigest,
    },
}

/// Asks for a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataRequest {
    /// Schema version.
    pub v: V1,
    /// Comes back in the answer.
    pub request: RequestId,
    /// Which document.
    pub document: Document,
    /// Longest segment that suits the device and its broker.
    pub segment_bytes_max: u32,
    /// First segment wanted, when earlier ones have arrived.
    #[serde(default)]
    pub first_index: u32,
}

/// A part of a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataSegment {
    /// Schema version.
    pub v: V1,
    /// The request that this answers.
    pub request: RequestId,
    /// Which document, as asked for.
    pub document: Document,
    /// Number of this part, from 0.
    pub index: u32,
    /// Number of all parts; all but the last have one length.
    pub count: u32,
    /// Length of the document.
    pub total_bytes: u64,
    /// Digest of the document.
    pub sha256: Sha256Digest,
    /// The part.
    pub data: Bytes,
}

impl Document {
    fn validate(&self) -> Result<(), Invalid> {
        match self {
            Self::Metadata { version: Some(0), .. } => Err(invalid("document.version", "0; versions begin at 1")),
            Self::Metadata { .. } | Self::ChunkIndex { .. } => Ok(()),
        }
    }
}

impl Message for MetadataRequest {
    const NAME: &'static str = "metadata-request";
    const BYTES_MAX: usize = 4 * 1024;

    fn validate(&self) -> Result<(), Invalid> {
        self.document.validate()?;
        check::bytes("segment_bytes_max", self.segment_bytes_max as usize, SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX)?;
        if self.first_index >= SEGMENTS_MAX {
            return Err(invalid("first_index", format_args!("{}; below {SEGMENTS_MAX}", self.first_index)));
        }
        Ok(())
    }
}

impl Message for MetadataSegment {
    const NAME: &'static str = "metadata-segment";
    const BYTES_MAX: usize = PAYLOAD_BYTES_MAX;

    fn validate(&self) -> Result<(), Invalid> {
        self.document.validate()?;
        check::count("count", self.count as usize, 1..=SEGMENTS_MAX as usize)?;
        if self.index >= self.count {
            return Err(invalid("index", format_args!("{} of {} parts", self.index, self.count)));
        }
        check::bytes("data", self.data.len(), 1..=SEGMENT_BYTES_MAX)?;
        // All parts but the last have one length, and the last one has the rest and is no longer.
        let (before_last, length) = (u64::from(self.count - 1), self.data.len() as u64);
        let possible = if u64::from(self.index) < before_last {
            before_last * length < self.total_bytes && self.total_bytes <= (before_last + 1) * length
        } else {
            let others = self.total_bytes.checked_sub(length);
            let one_length = |o| before_last * (o / before_last.max(1)) == o && o >= before_last * length;
            others.is_some_and(one_length) && others <= Some(before_last * SEGMENT_BYTES_MAX as u64)
        };
        if self.total_bytes > DOCUMENT_BYTES_MAX || !possible {
            let (total, count) = (self.total_bytes, self.count);
            let problem = format_args!("{total} bytes in {count} parts, and {length} in part {}", self.index);
            return Err(invalid("total_bytes", problem));
        }
        Ok(())
    }
}
