//! A byte string. Serde takes a `Vec<u8>` for a list of numbers, which costs up to two bytes each.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::ops::Deref;

/// Bytes: a byte string in CBOR, base64 in JSON.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Bytes(pub Vec<u8>);

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Chunks are large; what is printed is not.
        f.write_str("Bytes(")?;
        self.0.iter().take(16).try_for_each(|b| write!(f, "{b:02x}"))?;
        if self.0.len() > 16 { write!(f, "…, {} bytes)", self.0.len()) } else { f.write_str(")") }
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return serializer.serialize_str(&BASE64_STANDARD.encode(&self.0));
        }
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Inside a tagged enumeration serde's buffer calls itself human-readable whatever the format was, so both forms
        // are taken there.
        if deserializer.is_human_readable() {
            return deserializer.deserialize_any(BytesVisitor { base64: true });
        }
        deserializer.deserialize_byte_buf(BytesVisitor { base64: false })
    }
}

struct BytesVisitor {
    base64: bool,
}

impl<'de> Visitor<'de> for BytesVisitor {
    type Value = Bytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.base64 { "base64" } else { "a byte string" })
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
        Ok(Bytes(bytes.to_vec()))
    }

    fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
        Ok(Bytes(bytes))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Bytes, E> {
        if !self.base64 {
            return Err(E::invalid_type(serde::de::Unexpected::Str(text), &self));
        }
        BASE64_STANDARD.decode(text).map(Bytes).map_err(|e| E::custom(format_args!("not base64: {e}")))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Bytes, A::Error> {
        Err(Error::invalid_type(serde::de::Unexpected::Seq, &self))
    }
}
