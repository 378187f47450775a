//! MQTT topics: what they are called, and who may publish and subscribe what.
//!
//! A device is one level, `<project>:<device>`, which is also the common name of its certificate, so that one pattern
//! serves every broker. A bundle is one level too, `<project>:<64 hex digits of its digest>`: two versions of a bundle
//! that are on their way at once have topics of their own, and chunks of the one do not reach those who want the other.
//!
//! [`RULES`] is the one table of access. [`may_publish`] and [`may_subscribe`] read it for the embedded broker,
//! [`mosquitto_acl`] writes it out for Mosquitto, and `docs/protocol/topics.md` shows it.

mod access;
mod mosquitto;
mod rules;
#[cfg(test)]
mod tests;

pub use access::{Caller, CallerError, may_publish, may_retain, may_subscribe, may_use_client_id};
pub use mosquitto::{Tenancy, mosquitto_acl};
pub use rules::{Access, Family, RULES, Rule, markdown_table};

use crate::id::{Principal, ProjectId, StreamName};
use crate::limits::LANES_MAX;
use crate::{BundleDigest, Sha256Digest};
use std::fmt;
use std::str::FromStr;

/// What all topics begin with: the name, and the version of this scheme.
pub const PREFIX: &str = "sedge/1";
/// Longest topic or filter that is looked at.
pub const TOPIC_BYTES_MAX: usize = 320;

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// Between a device and the server.
    Device(Principal, DeviceTopic),
    /// From the server to all devices that want a bundle.
    Bundle(BundleLevel, BundleTopic),
}

/// What a device's topic carries.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeviceTopic {
    /// `s`: presence, retained; the will.
    Status,
    /// `t/<stream>`: telemetry.
    Telemetry(StreamName),
    /// `e`: events, acknowledged.
    Event,
    /// `r`: reported state.
    Reported,
    /// `q`: requests to the server.
    Request,
    /// `want`: chunks that are missing.
    Want,
    /// `in/s`: desired state, retained.
    Desired,
    /// `in/c`: commands.
    Command,
    /// `in/q`: refusals of requests.
    Reply,
    /// `in/ack`: acknowledgements of events and reports.
    Ack,
    /// `in/chunk`: chunks for this device alone.
    Chunk,
    /// `in/meta`: segments of documents.
    Metadata,
}

/// What a bundle's topic carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BundleTopic {
    /// `m`: the announcement, retained.
    Announcement,
    /// `c/<lane>`: chunks.
    Chunks(u16),
}

/// A bundle as topics name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BundleLevel {
    /// The project whose devices may read it.
    pub project: ProjectId,
    /// The bundle.
    pub bundle: BundleDigest,
}

/// A text that is none of our topics.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a topic of Sedge: {problem}")]
pub struct ParseTopicError {
    text: String,
    problem: &'static str,
}

impl ParseTopicError {
    fn new(text: &str, problem: &'static str) -> Self {
        Self { text: text.chars().take(120).map(|c| if c.is_control() { ' ' } else { c }).collect(), problem }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(principal, topic) => write!(f, "{PREFIX}/d/{principal}/{topic}"),
            Self::Bundle(level, topic) => write!(f, "{PREFIX}/b/{level}/{topic}"),
        }
    }
}

impl fmt::Display for DeviceTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Telemetry(stream) => return write!(f, "t/{stream}"),
            Self::Status => "s",
            Self::Event => "e",
            Self::Reported => "r",
            Self::Request => "q",
            Self::Want => "want",
            Self::Desired => "in/s",
            Self::Command => "in/c",
            Self::Reply => "in/q",
            Self::Ack => "in/ack",
            Self::Chunk => "in/chunk",
            Self::Metadata => "in/meta",
        })
    }
}

impl fmt::Display for BundleTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Announcement => f.write_str("m"),
            Self::Chunks(lane) => write!(f, "c/{lane}"),
        }
    }
}

impl fmt::Display for BundleLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.project, self.bundle.0.hex())
    }
}

impl FromStr for BundleLevel {
    type Err = ParseTopicError;

    fn from_str(text: &str) -> Result<Self, ParseTopicError> {
        let wrong = || ParseTopicError::new(text, "a bundle is `<project>:<64 hex digits>`");
        let (project, digest) = text.split_once(':').ok_or_else(wrong)?;
        match (project.parse(), Sha256Digest::from_hex(digest)) {
            (Ok(project), Ok(digest)) => Ok(Self { project, bundle: BundleDigest(digest) }),
            _ => Err(wrong()),
        }
    }
}

impl FromStr for Topic {
    type Err = ParseTopicError;

    /// Reads a topic that a message was published to. There is one spelling of each; wildcards are refused like any
    /// other character that no name has.
    fn from_str(text: &str) -> Result<Self, ParseTopicError> {
        let wrong = |problem| ParseTopicError::new(text, problem);
        if text.len() > TOPIC_BYTES_MAX {
            return Err(wrong("too long"));
        }
        let levels: Vec<&str> = text.split('/').collect();
        match levels.as_slice() {
            ["sedge", "1", "d", device, rest @ ..] => {
                let principal = device.parse().map_err(|_| wrong("a device is `<project>:<device>`"))?;
                Ok(Self::Device(principal, device_topic(rest).ok_or_else(|| wrong("a device has no such topic"))?))
            }
            ["sedge", "1", "b", bundle, rest @ ..] => {
                let level = bundle.parse().map_err(|_| wrong("a bundle is `<project>:<64 hex digits>`"))?;
                Ok(Self::Bundle(level, bundle_topic(rest).ok_or_else(|| wrong("a bundle has no such topic"))?))
            }
            ["sedge", "1", ..] => Err(wrong("expected `d` or `b` as the third level")),
            _ => Err(wrong("expected to begin with `sedge/1/`")),
        }
    }
}

fn device_topic(levels: &[&str]) -> Option<DeviceTopic> {
    Some(match levels {
        ["s"] => DeviceTopic::Status,
        ["t", stream] => DeviceTopic::Telemetry(stream.parse().ok()?),
        ["e"] => DeviceTopic::Event,
        ["r"] => DeviceTopic::Reported,
        ["q"] => DeviceTopic::Request,
        ["want"] => DeviceTopic::Want,
        ["in", "s"] => DeviceTopic::Desired,
        ["in", "c"] => DeviceTopic::Command,
        ["in", "q"] => DeviceTopic::Reply,
        ["in", "ack"] => DeviceTopic::Ack,
        ["in", "chunk"] => DeviceTopic::Chunk,
        ["in", "meta"] => DeviceTopic::Metadata,
        _ => return None,
    })
}

fn bundle_topic(levels: &[&str]) -> Option<BundleTopic> {
    match levels {
        ["m"] => Some(BundleTopic::Announcement),
        ["c", lane] => {
            // One spelling: no sign, no leading zeros.
            let number = lane.parse::<u16>().ok().filter(|n| *n < LANES_MAX && n.to_string() == *lane)?;
            Some(BundleTopic::Chunks(number))
        }
        _ => None,
    }
}

/// What a device subscribes on connecting.
pub fn device_filter(device: &Principal) -> String {
    format!("{PREFIX}/d/{device}/in/#")
}

/// What a device subscribes while it wants a bundle.
pub fn bundle_filters(bundle: &BundleLevel) -> [String; 2] {
    [format!("{PREFIX}/b/{bundle}/m"), format!("{PREFIX}/b/{bundle}/c/#")]
}

/// What a server subscribes: everything that devices publish.
pub fn server_filters() -> Vec<String> {
    let read = |rule: &&Rule| rule.family == Family::Device && rule.device == Access::Publish;
    RULES.iter().filter(read).map(|rule| format!("{PREFIX}/d/+/{}", rule.levels)).collect()
}
