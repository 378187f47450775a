//! Content on its way: a device says on `want` what it lacks, and gets chunks on `in/chunk` or a bundle's `c` topics.

use super::check::{self, invalid};
use super::{ChunkIndex, Invalid, Message, V1, word};
use crate::BundleDigest;
use crate::cbor::Bytes;
use crate::limits::{CHUNK_BYTES_MAX, CHUNKS_MAX, PAYLOAD_BYTES_MAX};
use serde::{Deserialize, Serialize};

const CREDIT_CHUNKS_MAX: u16 = 1024;

word::words! {
    /// How a chunk's data is encoded.
    ChunkEncoding, "chunk encoding" {
        /// As it is.
        None = "none",
        /// Zstandard, one frame.
        Zstd = "zstd",
    }
}

/// What a device lacks of a bundle. Each one replaces the one before; an empty one withdraws it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// Schema version.
    pub v: V1,
    /// Of which bundle.
    pub bundle: BundleDigest,
    /// Chunks of the bundle.
    pub chunk_count: u32,
    /// One bit for each, set where the chunk is missing: chunk `i` is bit `i % 8`, counted from the lowest, of byte
    /// `i / 8`. Bits past the last chunk are 0.
    pub missing: Bytes,
    /// Fastest pace that suits the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_s_max: Option<u64>,
    /// Chunks that may be sent to it alone before it says more.
    pub credit_chunks: u16,
}

/// A chunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Schema version.
    pub v: V1,
    /// Of which bundle.
    pub bundle: BundleDigest,
    /// Which one.
    pub index: u32,
    /// How `data` is encoded.
    pub encoding: ChunkEncoding,
    /// Reserved: the content key under which `data` is encrypted. This version refuses such chunks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// The data.
    pub data: Bytes,
}

impl Want {
    /// What a device wants that lacks the chunks for which `missing` says so.
    pub fn new(bundle: BundleDigest, chunk_count: u32, credit_chunks: u16, missing: impl Fn(u32) -> bool) -> Self {
        let bit = |i: u32| if missing(i) { 1u8 << (i % 8) } else { 0 };
        let byte = |b: u32| (b * 8..chunk_count.min(b * 8 + 8)).fold(0, |byte, i| byte | bit(i));
        let chunk_count = chunk_count.min(CHUNKS_MAX);
        let missing = (0..chunk_count.div_ceil(8)).map(byte).collect();
        Self { v: V1, bundle, chunk_count, missing: Bytes(missing), bytes_per_s_max: None, credit_chunks }
    }

    /// Chunks that are missing, in order.
    pub fn missing(&self) -> impl Iterator<Item = u32> {
        let set = |i: &u32| self.missing.get((i / 8) as usize).is_some_and(|byte| byte >> (i % 8) & 1 == 1);
        (0..self.chunk_count).filter(set)
    }
}

impl Chunk {
    /// Holds the chunk against the index, whose bundle it must be of. Whether its content has the right digest is seen
    /// once it is decoded.
    ///
    /// # Errors
    /// [`Invalid`] with the field that differs.
    pub fn check_index(&self, index: &ChunkIndex) -> Result<(), Invalid> {
        if self.bundle != index.bundle {
            return Err(invalid("bundle", format_args!("{}; expected {}", self.bundle, index.bundle)));
        }
        let Some(entry) = index.chunk(self.index) else {
            return Err(invalid("index", format_args!("{} of {} chunks", self.index, index.count())));
        };
        if self.encoding != entry.encoding() {
            return Err(invalid("encoding", format_args!("{}; the index says {}", self.encoding, entry.encoding())));
        }
        if self.data.len() != entry.stored_bytes as usize {
            let problem = format_args!("{} bytes; the index says {}", self.data.len(), entry.stored_bytes);
            return Err(invalid("data", problem));
        }
        Ok(())
    }
}

impl Message for Want {
    const NAME: &'static str = "want";
    const BYTES_MAX: usize = 16 * 1024;

    fn validate(&self) -> Result<(), Invalid> {
        check::count("chunk_count", self.chunk_count as usize, 1..=CHUNKS_MAX as usize)?;
        let bytes = self.chunk_count.div_ceil(8) as usize;
        check::bytes("missing", self.missing.len(), bytes..=bytes)?;
        let spare = self.missing.last().is_some_and(|last| {
            let used = self.chunk_count % 8;
            used != 0 && last >> used != 0
        });
        if spare {
            return Err(invalid("missing", format_args!("bits are set past chunk {}", self.chunk_count)));
        }
        if self.bytes_per_s_max == Some(0) {
            return Err(invalid("bytes_per_s_max", "0; to want nothing, want no chunk"));
        }
        if self.credit_chunks > CREDIT_CHUNKS_MAX {
            return Err(invalid("credit_chunks", format_args!("{}; at most {CREDIT_CHUNKS_MAX}", self.credit_chunks)));
        }
        Ok(())
    }
}

impl Message for Chunk {
    const NAME: &'static str = "chunk";
    const BYTES_MAX: usize = PAYLOAD_BYTES_MAX;

    fn validate(&self) -> Result<(), Invalid> {
        if self.index >= CHUNKS_MAX {
            return Err(invalid("index", format_args!("{}; below {CHUNKS_MAX}", self.index)));
        }
        if self.key_id.is_some() {
            return Err(invalid("key_id", "encrypted chunks are not known to this version"));
        }
        check::bytes("data", self.data.len(), 1..=CHUNK_BYTES_MAX)
    }
}
