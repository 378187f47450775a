//! Whether a device is there, retained on its `s` topic: its birth on connecting, its will when the link breaks.
//!
//! Sparkplug's lesson: a broker may deliver an old connection's will after the new connection's birth. Both carry boot
//! and connection number, and a will counts only against the birth it belongs to.

use super::check::{self, LABEL_BYTES_MAX};
use super::{Invalid, Message, V1};
use crate::Version;
use crate::id::BootId;
use serde::{Deserialize, Serialize};

const FEATURES_MAX: usize = 32;

/// Presence of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Status {
    /// It is connected.
    Online(Birth),
    /// It is not, said by its will or as it left.
    Offline(Will),
}

/// What a device says of itself on connecting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Birth {
    /// Schema version.
    pub v: V1,
    /// When.
    pub ts_ms: u64,
    /// Whether the device's clock is synchronized.
    pub clock_synced: bool,
    /// This start of the agent.
    pub boot: BootId,
    /// Number of the connection within this boot.
    pub seq: u64,
    /// Version of the agent.
    pub agent_version: Version,
    /// Rust target triple of the agent.
    pub target: String,
    /// What it understands.
    pub capabilities: Capabilities,
}

/// Versions of what an agent reads and writes, and features it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Newest message schema that it reads.
    pub protocol_version: u32,
    /// Format of its journal; an agent update that cannot read it must not be sent.
    pub journal_version: u32,
    /// Protocol between agent and worker.
    pub worker_version: u32,
    /// Further abilities, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
}

/// What the broker publishes for a device that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Will {
    /// Schema version.
    pub v: V1,
    /// The start of the agent that left it.
    pub boot: BootId,
    /// Number of the connection within that boot.
    pub seq: u64,
}

impl Status {
    /// The will that belongs to `birth`.
    pub fn will_of(birth: &Birth) -> Self {
        Self::Offline(Will { v: V1, boot: birth.boot.clone(), seq: birth.seq })
    }

    /// Whether this, arriving after `present`, changes it: a birth does, unless it is an earlier one of the same boot;
    /// a will only when it is that of the present birth.
    pub fn supersedes(&self, present: &Self) -> bool {
        let (boot, seq) = present.connection();
        match self {
            Self::Online(birth) => birth.boot != *boot || birth.seq >= seq,
            Self::Offline(will) => will.boot == *boot && will.seq == seq,
        }
    }

    /// Boot and connection number.
    pub fn connection(&self) -> (&BootId, u64) {
        match self {
            Self::Online(Birth { boot, seq, .. }) | Self::Offline(Will { boot, seq, .. }) => (boot, *seq),
        }
    }
}

impl Message for Status {
    const NAME: &'static str = "status";
    const BYTES_MAX: usize = 8 * 1024;

    fn validate(&self) -> Result<(), Invalid> {
        let Self::Online(birth) = self else { return Ok(()) };
        check::name("target", &birth.target)?;
        check::text("agent_version", &birth.agent_version.to_string(), LABEL_BYTES_MAX)?;
        let features = &birth.capabilities.features;
        check::count("capabilities.features", features.len(), 0..=FEATURES_MAX)?;
        features.iter().try_for_each(|f| check::name("capabilities.features", f))
    }
}
