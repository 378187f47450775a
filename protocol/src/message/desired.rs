//! What the server wants of a device, retained on its `in/s` topic.
//!
//! The envelope carries the director's signed JSON verbatim; what is to run is decided from those bytes after they have
//! been verified, never from the fields beside them. The fields only save round trips: they say which metadata versions
//! a device should have, so that it asks for those that it lacks.

use super::check::{self, invalid};
use super::{Invalid, Message, V1};
use crate::Sha256Digest;
use crate::cbor::Bytes;
use crate::id::Generation;
use crate::limits::RETAINED_BYTES_MAX;
use serde::{Deserialize, Serialize};

/// Room that the envelope itself takes.
const ENVELOPE_BYTES_MAX: usize = 1024;

/// A device's desired state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// Schema version.
    pub v: V1,
    /// Number of this desired state; equals the version of the director's targets. A claim until that is verified.
    pub generation: Generation,
    /// Hash of the director's metadata, see [`DirectorMetadata::hash`]; reports answer with it.
    pub hash: Sha256Digest,
    /// What the director has signed for this device.
    pub director: DirectorMetadata,
    /// Which publisher metadata the device should have.
    pub publisher: PublisherVersions,
}

/// The director's signed metadata for one device, byte for byte as signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectorMetadata {
    /// Version of the director's newest root; a device that has an older one asks for those between.
    pub root_version: u64,
    /// `timestamp.json`.
    pub timestamp: Bytes,
    /// `snapshot.json`.
    pub snapshot: Bytes,
    /// `targets.json`.
    pub targets: Bytes,
}

/// Newest versions of the publisher's metadata that the server has. Hints: a wrong one costs a request, no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct PublisherVersions {
    pub root_version: u64,
    pub timestamp_version: u64,
    pub snapshot_version: u64,
    pub targets_version: u64,
}

impl Desired {
    /// The envelope of `director`'s metadata.
    pub fn new(generation: Generation, director: DirectorMetadata, publisher: PublisherVersions) -> Self {
        Self { v: V1, generation, hash: director.hash(), director, publisher }
    }
}

impl DirectorMetadata {
    /// SHA-256 over timestamp, snapshot and targets in this order, each after its length as eight bytes, big-endian.
    /// It tells one desired state from another; it proves nothing.
    pub fn hash(&self) -> Sha256Digest {
        let mut hashed = Vec::new();
        for part in [&self.timestamp, &self.snapshot, &self.targets] {
            hashed.extend_from_slice(&(part.len() as u64).to_be_bytes());
            hashed.extend_from_slice(part);
        }
        Sha256Digest::of(&hashed)
    }
}

impl Message for Desired {
    const NAME: &'static str = "desired";
    const BYTES_MAX: usize = RETAINED_BYTES_MAX;

    fn validate(&self) -> Result<(), Invalid> {
        let DirectorMetadata { root_version, timestamp, snapshot, targets } = &self.director;
        for (field, part) in
            [("director.timestamp", timestamp), ("director.snapshot", snapshot), ("director.targets", targets)]
        {
            check::bytes(field, part.len(), 1..=Self::BYTES_MAX - ENVELOPE_BYTES_MAX)?;
        }
        let p = &self.publisher;
        for (field, version) in [
            ("generation", self.generation.0),
            ("director.root_version", *root_version),
            ("publisher.root_version", p.root_version),
            ("publisher.timestamp_version", p.timestamp_version),
            ("publisher.snapshot_version", p.snapshot_version),
            ("publisher.targets_version", p.targets_version),
        ] {
            if version == 0 {
                return Err(invalid(field, "0; versions begin at 1"));
            }
        }
        if self.hash != self.director.hash() {
            return Err(invalid("hash", "is not that of the director's metadata"));
        }
        Ok(())
    }
}
