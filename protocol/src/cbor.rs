//! The one CBOR codec (RFC 8949): everything that Sedge puts on the wire in CBOR is written and read here.
//!
//! **Writing** is deterministic as RFC 8949 section 4.2.1 says: map keys sorted by the bytes of their encodings, the
//! shortest form of every integer, length and float (down to 16 bits), definite lengths only. A NaN is written as
//! `f97e00` whatever its payload, and infinities as 16 bits; messages refuse both, see [`crate::message`]. Equal
//! values have equal bytes, so vectors and digests of encodings are stable.
//!
//! **Reading** takes well-formed CBOR of any device or server, sorted and shortest or not: a hash or signature is
//! always over the bytes as received, so there is nothing to gain from refusing a peer's longer form. Refused are, each
//! with the offset and the [`Rule`] that it breaks:
//! - input longer than [`Limits::bytes_max`], or nested deeper than [`Limits::depth_max`];
//! - lengths that reach past the end, before anything is allocated for them;
//! - bytes after the item, reserved header forms, text that is not UTF-8;
//! - map keys that are not text (consumers such as Telegraf read no others) and keys that occur twice (which of the
//!   two counts would differ between readers);
//! - indefinite lengths, tags, `undefined` and other simple values: no message uses them, and each is one more way of
//!   saying the same.
//!
//! `scan.rs` checks all of that in one pass without recursion; only then does `serde_cbor` see the bytes. NaN and
//! infinities pass the codec; a NaN's payload does not survive. Two freedoms of serde remain: a struct may also come as
//! an array of its fields, which [`crate::message::Message`] refuses at the top, and a derived enumeration's variant as
//! its number.
//!
//! `serde_cbor` 0.11.2 is no longer maintained (RUSTSEC-2021-0127, an accepted exception): it is the smallest decoder
//! that returns errors on hostile nesting and lengths, rejects trailing bytes and reads 16-bit floats; and nothing
//! reaches it that has not passed the scan. It is named in this module and its children only, so it can be replaced.

mod bytes;
mod scan;
#[cfg(test)]
mod tests;

pub use bytes::Bytes;

use crate::limits::PACKET_BYTES_MAX;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What is read at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest input. Stops endless data.
    pub bytes_max: usize,
    /// Most arrays and maps inside one another; at most [`DEPTH_MAX`] counts. Stops stack exhaustion.
    pub depth_max: usize,
}

/// Deepest nesting that any [`Limits`] allow.
pub const DEPTH_MAX: usize = 16;

impl Default for Limits {
    fn default() -> Self {
        Self { bytes_max: PACKET_BYTES_MAX, depth_max: DEPTH_MAX }
    }
}

impl Limits {
    /// Input of at most this many bytes.
    pub fn bytes(bytes_max: usize) -> Self {
        Self { bytes_max, ..Self::default() }
    }
}

/// What a malformed input breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rule {
    /// The input is longer than the limit.
    #[error("{length} bytes; at most {bytes_max} are read")]
    TooLong {
        /// Its length.
        length: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The input ends inside an item.
    #[error("the input ends here, inside an item")]
    Truncated,
    /// A length or count is larger than the rest of the input could hold.
    #[error("a length of {claimed} reaches past the end, {remaining} bytes away")]
    PastTheEnd {
        /// Bytes, items or pairs announced.
        claimed: u64,
        /// Bytes left.
        remaining: usize,
    },
    /// Something follows the item.
    #[error("{count} bytes follow the item; nothing may")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// Arrays and maps are nested deeper than the limit.
    #[error("arrays and maps are nested deeper than {depth_max}")]
    TooDeep {
        /// The limit.
        depth_max: usize,
    },
    /// A string, array or map of indefinite length, or a stray break.
    #[error("indefinite lengths are not allowed")]
    IndefiniteLength,
    /// A tag.
    #[error("tags are not allowed")]
    Tag,
    /// A header that RFC 8949 reserves.
    #[error("byte 0x{0:02x} begins no item")]
    ReservedHeader(u8),
    /// A simple value other than false, true and null.
    #[error("of the simple values only false, true and null are allowed")]
    SimpleValue,
    /// A map key that is not a text.
    #[error("a map's keys must be texts")]
    KeyNotText,
    /// A map key that the map already has.
    #[error("the map already has the key {0:?}")]
    DuplicateKey(String),
    /// A text that is not UTF-8.
    #[error("a text is not UTF-8")]
    NotUtf8,
}

/// Why bytes are not what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They are not CBOR as Sedge allows it.
    #[error("CBOR, offset {offset}: {rule}")]
    Malformed {
        /// Where, in bytes from the start.
        offset: usize,
        /// What is broken.
        rule: Rule,
    },
    /// They are, but say something else than the expected value: a key is missing or has another type.
    #[error("CBOR: {0}")]
    Unexpected(String),
}

/// Why a value cannot be written; always the fault of its type, never of outside data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The type's own serialization failed.
    #[error("CBOR: {0}")]
    Serialize(String),
    /// It would be refused on reading.
    #[error("CBOR: the value cannot be written so that it could be read: {0}")]
    Refused(Rule),
}

/// Writes `value` in deterministic form.
///
/// # Errors
/// [`EncodeError`] when the value has map keys that are no texts, nests too deeply, or fails to serialize.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, EncodeError> {
    let failed = |e: serde_cbor::Error| EncodeError::Serialize(e.to_string());
    // Structs serialize in the order of their fields. As a `Value` their keys are sorted shorter first, then bytewise;
    // as a text's encoding begins with its length in shortest form, that is the bytewise order of the encodings.
    let value = serde_cbor::value::to_value(value).map_err(failed)?;
    let bytes = serde_cbor::to_vec(&value).map_err(failed)?;
    match scan::scan(&bytes, Limits::bytes(usize::MAX)) {
        Ok(()) => Ok(bytes),
        Err((_, rule)) => Err(EncodeError::Refused(rule)),
    }
}

/// Reads one `T` that fills `bytes`.
///
/// # Errors
/// [`DecodeError::Malformed`] with offset and rule, or [`DecodeError::Unexpected`] with what `T` misses.
pub fn decode_strict<T: DeserializeOwned>(bytes: &[u8], limits: Limits) -> Result<T, DecodeError> {
    scan::scan(bytes, limits).map_err(|(offset, rule)| DecodeError::Malformed { offset, rule })?;
    let mut deserializer = serde_cbor::Deserializer::from_slice(bytes).disable_packed_format().disable_legacy_enums();
    let unexpected = |e: serde_cbor::Error| DecodeError::Unexpected(e.to_string());
    let value = T::deserialize(&mut deserializer).map_err(unexpected)?;
    deserializer.end().map_err(unexpected)?;
    Ok(value)
}
