//! The order in which chunks of content make a packed bundle: the transfer manifest.
//!
//! It is bound to what the publisher signed by the packed bundle's digest and length, which signed metadata names: all
//! chunks in order must make exactly those bytes. A false index therefore costs bandwidth and installs nothing; where
//! signed metadata also names [`ChunkIndex::digest`], a false one is refused before a chunk is fetched. A chunk's
//! digest is that of its content before compression, so versions of a bundle share chunks however they were
//! compressed. Digests, lengths and stored lengths stand in three lists, which takes half the bytes of a list of maps.

use super::check::{self, invalid};
use super::{ChunkEncoding, Invalid, Message, V1};
use crate::cbor::{self, Bytes, EncodeError};
use crate::limits::{CHUNK_BYTES_MAX, CHUNKS_MAX, DOCUMENT_BYTES_MAX};
use crate::{BundleDigest, Sha256Digest};
use serde::{Deserialize, Serialize};

const DIGEST_BYTES: usize = 32;

/// Which chunks make a packed bundle, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkIndex {
    /// Schema version.
    pub v: V1,
    /// The bundle.
    pub bundle: BundleDigest,
    /// Digest of the packed bundle.
    pub packed_sha256: Sha256Digest,
    /// Length of the packed bundle: the sum of the chunks' lengths.
    pub packed_bytes: u64,
    /// 32 bytes for each chunk: the digest of its content.
    sha256: Bytes,
    /// Length of each chunk's content.
    length_bytes: Vec<u32>,
    /// Length of each chunk as it is sent; shorter when it is compressed, else the same.
    stored_bytes: Vec<u32>,
}

/// A chunk of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkEntry {
    /// Digest of its content.
    pub sha256: Sha256Digest,
    /// Length of its content.
    pub length_bytes: u32,
    /// Length as it is sent.
    pub stored_bytes: u32,
}

impl ChunkEntry {
    /// How it is sent.
    pub fn encoding(&self) -> ChunkEncoding {
        if self.stored_bytes < self.length_bytes { ChunkEncoding::Zstd } else { ChunkEncoding::None }
    }
}

impl ChunkIndex {
    /// The index of a packed bundle whose chunks these are, in order.
    pub fn new(bundle: BundleDigest, packed_sha256: Sha256Digest, chunks: &[ChunkEntry]) -> Self {
        let sha256: Vec<u8> = chunks.iter().flat_map(|c| *c.sha256.as_bytes()).collect();
        Self {
            v: V1,
            bundle,
            packed_sha256,
            packed_bytes: chunks.iter().map(|c| u64::from(c.length_bytes)).sum(),
            sha256: Bytes(sha256),
            length_bytes: chunks.iter().map(|c| c.length_bytes).collect(),
            stored_bytes: chunks.iter().map(|c| c.stored_bytes).collect(),
        }
    }

    /// Number of chunks.
    pub fn count(&self) -> u32 {
        u32::try_from(self.length_bytes.len()).unwrap_or(u32::MAX)
    }

    /// A chunk.
    pub fn chunk(&self, index: u32) -> Option<ChunkEntry> {
        let index = usize::try_from(index).ok()?;
        let digest = self.sha256.get(index.checked_mul(DIGEST_BYTES)?..)?.first_chunk::<DIGEST_BYTES>()?;
        Some(ChunkEntry {
            sha256: Sha256Digest::from(*digest),
            length_bytes: *self.length_bytes.get(index)?,
            stored_bytes: *self.stored_bytes.get(index)?,
        })
    }

    /// All chunks, in order.
    pub fn chunks(&self) -> impl Iterator<Item = ChunkEntry> {
        (0..self.count()).map_while(|index| self.chunk(index))
    }

    /// Digest of the index: of its deterministic encoding.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn digest(&self) -> Result<Sha256Digest, EncodeError> {
        Ok(Sha256Digest::of(&cbor::encode(self)?))
    }

    /// Holds the index against what signed metadata says of the packed bundle.
    ///
    /// # Errors
    /// [`Invalid`] with the field that differs.
    pub fn check_signed(&self, packed_sha256: Sha256Digest, packed_bytes: u64) -> Result<(), Invalid> {
        if self.packed_sha256 != packed_sha256 {
            return Err(invalid("packed_sha256", format_args!("{}; signed is {packed_sha256}", self.packed_sha256)));
        }
        if self.packed_bytes != packed_bytes {
            return Err(invalid("packed_bytes", format_args!("{}; signed are {packed_bytes}", self.packed_bytes)));
        }
        Ok(())
    }
}

impl Message for ChunkIndex {
    const NAME: &'static str = "chunk-index";
    const BYTES_MAX: usize = DOCUMENT_BYTES_MAX as usize;

    fn validate(&self) -> Result<(), Invalid> {
        let count = self.length_bytes.len();
        check::count("length_bytes", count, 1..=CHUNKS_MAX as usize)?;
        if self.stored_bytes.len() != count || self.sha256.len() != count * DIGEST_BYTES {
            let (stored, digests) = (self.stored_bytes.len(), self.sha256.len());
            let problem = format_args!("{count} lengths, {stored} stored lengths and {digests} bytes of digests");
            return Err(invalid("sha256", problem));
        }
        for (i, (&length, &stored)) in self.length_bytes.iter().zip(&self.stored_bytes).enumerate() {
            if length == 0 || length as usize > CHUNK_BYTES_MAX || stored == 0 || stored > length {
                let problem = format_args!("chunk of {length} bytes, {stored} as sent; at most {CHUNK_BYTES_MAX}");
                return Err(invalid(format_args!("length_bytes[{i}]"), problem));
            }
        }
        let sum: u64 = self.length_bytes.iter().map(|&l| u64::from(l)).sum();
        if sum != self.packed_bytes {
            return Err(invalid("packed_bytes", format_args!("{}, but the chunks have {sum}", self.packed_bytes)));
        }
        Ok(())
    }
}
