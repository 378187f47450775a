//! Says that a bundle's chunks can be had over MQTT; retained on its `m` topic.

use super::check::{self, invalid};
use super::{ChunkIndex, Invalid, Message, MessageError, V1};
use crate::cbor::Bytes;
use crate::limits::{DOCUMENT_BYTES_MAX, LANES_MAX, RETAINED_BYTES_MAX};
use crate::{BundleDigest, Sha256Digest};
use serde::{Deserialize, Serialize};

/// How to get a bundle's chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// Schema version.
    pub v: V1,
    /// The bundle.
    pub bundle: BundleDigest,
    /// Lanes in use: chunks arrive on `c/0`, and on higher ones at a slower pace for those who fell behind.
    pub lanes: u16,
    /// Digest of the encoded [`ChunkIndex`].
    pub index_sha256: Sha256Digest,
    /// Its length.
    pub index_bytes: u64,
    /// The index itself, encoded, if it fits; else it is asked for with [`super::Document::ChunkIndex`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<Bytes>,
}

impl Announcement {
    /// Longest index that is carried along.
    pub const INDEX_BYTES_MAX: usize = RETAINED_BYTES_MAX - 1024;

    /// Announces `index`, and carries it along if it fits.
    ///
    /// # Errors
    /// [`MessageError`] when the index is invalid.
    pub fn of(index: &ChunkIndex, lanes: u16) -> Result<Self, MessageError> {
        let bytes = index.to_cbor()?;
        Ok(Self {
            v: V1,
            bundle: index.bundle,
            lanes,
            index_sha256: Sha256Digest::of(&bytes),
            index_bytes: bytes.len() as u64,
            index: (bytes.len() <= Self::INDEX_BYTES_MAX).then_some(Bytes(bytes)),
        })
    }

    /// Reads an index that was carried along or asked for.
    ///
    /// # Errors
    /// [`MessageError`] when the bytes are not the index that is announced, or an invalid one.
    pub fn read_index(&self, bytes: &[u8]) -> Result<ChunkIndex, MessageError> {
        let foreign = |field: &str| MessageError::Invalid {
            message: ChunkIndex::NAME,
            invalid: invalid(field, "is not that of the announcement"),
        };
        if Sha256Digest::of(bytes) != self.index_sha256 {
            return Err(foreign("index_sha256"));
        }
        let index = ChunkIndex::from_cbor(bytes)?;
        if index.bundle == self.bundle { Ok(index) } else { Err(foreign("bundle")) }
    }
}

impl Message for Announcement {
    const NAME: &'static str = "announcement";
    const BYTES_MAX: usize = RETAINED_BYTES_MAX;

    fn validate(&self) -> Result<(), Invalid> {
        check::count("lanes", self.lanes.into(), 1..=LANES_MAX.into())?;
        if !(1..=DOCUMENT_BYTES_MAX).contains(&self.index_bytes) {
            return Err(invalid("index_bytes", format_args!("{}; at most {DOCUMENT_BYTES_MAX}", self.index_bytes)));
        }
        match &self.index {
            Some(index) if index.len() as u64 != self.index_bytes || Sha256Digest::of(index) != self.index_sha256 => {
                Err(invalid("index", "does not have the announced length and digest"))
            }
            _ => Ok(()),
        }
    }
}
