//! What devices and servers say to each other, one file per family; [`crate::topic`] says where each travels.
//!
//! Every message has a field `v`, the version of its schema, here always 1. Within a version the schema only grows:
//! unknown keys are ignored, and lists of words that are expected to grow keep words that this build does not know. Keys
//! are snake_case with units in their names; times are Unix milliseconds by the sender's clock (`…ts_ms`), which may be
//! wrong on a device that has not synchronized it. `docs/protocol/telemetry.cddl` is the contract; tests hold it and
//! these types against each other.
//!
//! A message is validated when it is written and when it is read, and has a size bound of its own. What is read can
//! therefore be used without further checks of shape; what it *says* is still only a claim of whoever the broker let
//! publish it. Nothing here is signed but the update metadata that [`Desired`] and [`MetadataSegment`] carry, and that
//! is opaque here.

mod announcement;
mod assembly;
mod check;
mod chunk;
mod chunk_index;
mod command;
mod desired;
mod error_code;
mod event;
mod metadata;
mod reported;
mod status;
mod telemetry;
#[cfg(test)]
mod tests;
mod word;

pub use announcement::Announcement;
pub use assembly::{Assembly, AssemblyError, segments};
pub use chunk::{Chunk, ChunkEncoding, Want};
pub use chunk_index::{ChunkEntry, ChunkIndex};
pub use command::{Action, Command, LogLevel, Reply, Verdict};
pub use desired::{Desired, DirectorMetadata, PublisherVersions};
pub use error_code::{ErrorClass, ErrorCode, Failure};
pub use event::{Ack, Event, EventBody};
pub use metadata::{Document, MetadataRequest, MetadataSegment, Repository, Role};
pub use reported::{ComponentKind, ComponentReport, DeploymentState, Progress, ReportKey, Reported, WaitReason};
pub use status::{Birth, Capabilities, Status, Will};
pub use telemetry::{
    BundleHealth, ComponentHealth, Health, LogSegment, PAST_BUNDLES_MAX, Prediction, Quantity, Region, ScoredLabel,
    Telemetry,
};
pub use word::{Unlisted, WordError};

use crate::cbor::{self, DecodeError, EncodeError, Limits};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// MQTT 5 content type of CBOR payloads, the default; the payload format indicator is 0.
pub const CONTENT_TYPE_CBOR: &str = "application/cbor";
/// MQTT 5 content type of JSON payloads; the payload format indicator is 1.
pub const CONTENT_TYPE_JSON: &str = "application/json";

/// Version 1 of a message's schema; written as 1, and nothing else is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct V1;

impl Serialize for V1 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(1)
    }
}

impl<'de> Deserialize<'de> for V1 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u64::deserialize(deserializer)? {
            1 => Ok(Self),
            v => {
                Err(serde::de::Error::custom(format_args!("schema version {v} is not known here; this build reads 1")))
            }
        }
    }
}

/// A field that does not hold what its schema says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}`: {problem}")]
pub struct Invalid {
    field: String,
    problem: String,
}

/// Why a message cannot be sent, or what was received is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Its encoding exceeds its bound.
    #[error("{message}: {length} bytes; at most {bytes_max} are sent or read")]
    TooLong {
        /// Which message.
        message: &'static str,
        /// Its length.
        length: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// A field is wrong.
    #[error("{message}, {invalid}")]
    Invalid {
        /// Which message.
        message: &'static str,
        /// Which field, and what about it.
        invalid: Invalid,
    },
    /// The bytes are not the CBOR of this message.
    #[error("reading {message}")]
    Decode {
        /// Which message.
        message: &'static str,
        /// Why not.
        source: DecodeError,
    },
    /// The bytes are not the JSON of this message.
    #[error("{message}: not its JSON: {problem}")]
    Json {
        /// Which message.
        message: &'static str,
        /// Why not.
        problem: String,
    },
    /// It could not be encoded.
    #[error("writing {message}")]
    Encode {
        /// Which message.
        message: &'static str,
        /// Why not.
        source: EncodeError,
    },
}

/// A message: a value with a schema, a size bound and checks beyond its syntax.
pub trait Message: Serialize + DeserializeOwned {
    /// Its name in errors and documents.
    const NAME: &'static str;
    /// Longest encoding.
    const BYTES_MAX: usize;

    /// Checks what the syntax cannot.
    ///
    /// # Errors
    /// [`Invalid`] for the first field that is wrong.
    fn validate(&self) -> Result<(), Invalid>;

    /// Writes deterministic CBOR.
    ///
    /// # Errors
    /// [`MessageError`] when the message is invalid or longer than its bound.
    fn to_cbor(&self) -> Result<Vec<u8>, MessageError> {
        validated(self)?;
        let bytes = cbor::encode(self).map_err(|source| MessageError::Encode { message: Self::NAME, source })?;
        bounded::<Self>(bytes.len())?;
        Ok(bytes)
    }

    /// Reads CBOR.
    ///
    /// # Errors
    /// [`MessageError`] when the bytes are longer than the bound, not this message, or an invalid one.
    fn from_cbor(bytes: &[u8]) -> Result<Self, MessageError> {
        let failed = |source| MessageError::Decode { message: Self::NAME, source };
        bounded::<Self>(bytes.len())?;
        // Serde would take an array for a struct, field by field.
        if bytes.first().is_some_and(|b| b >> 5 != 5) {
            return Err(failed(DecodeError::Unexpected("a message is a map".to_owned())));
        }
        let message: Self = cbor::decode_strict(bytes, Limits::bytes(Self::BYTES_MAX)).map_err(failed)?;
        validated(&message)?;
        Ok(message)
    }

    /// Writes JSON, for devices and consumers that are set to it; byte strings become base64.
    ///
    /// # Errors
    /// As [`Message::to_cbor`].
    fn to_json(&self) -> Result<String, MessageError> {
        validated(self)?;
        let problem = |e: serde_json::Error| MessageError::Json { message: Self::NAME, problem: e.to_string() };
        let text = serde_json::to_string(self).map_err(problem)?;
        bounded::<Self>(text.len())?;
        Ok(text)
    }

    /// Reads JSON.
    ///
    /// # Errors
    /// As [`Message::from_cbor`].
    fn from_json(bytes: &[u8]) -> Result<Self, MessageError> {
        bounded::<Self>(bytes.len())?;
        let problem = |problem: String| MessageError::Json { message: Self::NAME, problem };
        if !bytes.trim_ascii_start().starts_with(b"{") {
            return Err(problem("a message is an object".to_owned()));
        }
        let message: Self = serde_json::from_slice(bytes).map_err(|e| problem(e.to_string()))?;
        validated(&message)?;
        Ok(message)
    }
}

fn validated<M: Message>(message: &M) -> Result<(), MessageError> {
    message.validate().map_err(|invalid| MessageError::Invalid { message: M::NAME, invalid })
}

fn bounded<M: Message>(length: usize) -> Result<(), MessageError> {
    if length > M::BYTES_MAX {
        return Err(MessageError::TooLong { message: M::NAME, length, bytes_max: M::BYTES_MAX });
    }
    Ok(())
}
