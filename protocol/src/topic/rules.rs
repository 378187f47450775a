//! The table of topics: one row each, with who may do what and what travels there.

use super::PREFIX;
use crate::message::{
    Ack, Announcement, Chunk, Command, Desired, Event, Message, MetadataRequest, MetadataSegment, Reply, Reported,
    Status, Telemetry, Want,
};
use std::fmt::Write as _;

/// Whose topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// `sedge/1/d/<project>:<device>/…`: a device acts on its own only.
    Device,
    /// `sedge/1/b/<project>:<bundle>/…`: a device acts on those of its project only.
    Bundle,
}

/// What one side does with a topic; it may do nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Writes.
    Publish,
    /// Reads.
    Subscribe,
    /// Writes and reads.
    Both,
}

impl Access {
    pub(super) fn publishes(self) -> bool {
        self != Self::Subscribe
    }

    pub(super) fn subscribes(self) -> bool {
        self != Self::Publish
    }
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Whose.
    pub family: Family,
    /// Levels after the device or bundle; `+` stands for any one.
    pub levels: &'static str,
    /// What devices do.
    pub device: Access,
    /// What servers do.
    pub server: Access,
    /// Quality of service.
    pub qos: u8,
    /// Whether the broker keeps the last message.
    pub retained: bool,
    /// What travels there.
    pub message: &'static str,
    /// Longest payload.
    pub bytes_max: usize,
    /// In a few words.
    pub about: &'static str,
}

const fn row<M: Message>(
    family: Family,
    levels: &'static str,
    device: Access,
    server: Access,
    qos: u8,
    retained: bool,
    about: &'static str,
) -> Rule {
    Rule { family, levels, device, server, qos, retained, message: M::NAME, bytes_max: M::BYTES_MAX, about }
}

use Access::{Both, Publish, Subscribe};

/// Every topic, and who may do what with it. What is not listed is forbidden.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    // A server also publishes an empty status to clear that of a device that is gone for good.
    row::<Status>(Family::Device, "s", Publish, Both, 1, true, "presence: birth and will"),
    row::<Telemetry>(Family::Device, "t/+", Publish, Subscribe, 1, false, "telemetry, one stream each; QoS 0 or 1, with expiry"),
    row::<Event>(Family::Device, "e", Publish, Subscribe, 1, false, "events and deployment results, repeated until acknowledged"),
    row::<Reported>(Family::Device, "r", Publish, Subscribe, 1, false, "reported state, repeated until acknowledged"),
    row::<MetadataRequest>(Family::Device, "q", Publish, Subscribe, 1, false, "requests for documents"),
    row::<Want>(Family::Device, "want", Publish, Subscribe, 1, false, "chunks that the device lacks"),
    row::<Desired>(Family::Device, "in/s", Subscribe, Publish, 1, true, "desired state"),
    row::<Command>(Family::Device, "in/c", Subscribe, Publish, 1, false, "commands"),
    row::<Reply>(Family::Device, "in/q", Subscribe, Publish, 1, false, "refusals of requests"),
    row::<Ack>(Family::Device, "in/ack", Subscribe, Publish, 1, false, "what the server has stored"),
    row::<Chunk>(Family::Device, "in/chunk", Subscribe, Publish, 0, false, "chunks for this device alone"),
    row::<MetadataSegment>(Family::Device, "in/meta", Subscribe, Publish, 1, false, "documents that were asked for, in segments"),
    row::<Announcement>(Family::Bundle, "m", Subscribe, Publish, 1, true, "how to get the bundle's chunks"),
    row::<Chunk>(Family::Bundle, "c/+", Subscribe, Publish, 0, false, "chunks for all who want them, one lane each"),
];

impl Rule {
    /// The topic with its placeholders named.
    pub fn pattern(&self) -> String {
        let levels = match self.levels {
            "t/+" => "t/<stream>",
            "c/+" => "c/<lane>",
            levels => levels,
        };
        match self.family {
            Family::Device => format!("{PREFIX}/d/<project>:<device>/{levels}"),
            Family::Bundle => format!("{PREFIX}/b/<project>:<digest>/{levels}"),
        }
    }
}

/// The table in Markdown, as `docs/protocol/topics.md` shows it.
pub fn markdown_table() -> String {
    let mut out = String::from("| topic | device | server | message | QoS | retained | bytes at most | what for |\n");
    out.push_str("| --- | --- | --- | --- | --- | --- | --- | --- |\n");
    let verb = |access| match access {
        Publish => "publishes",
        Subscribe => "subscribes",
        Both => "subscribes, clears",
    };
    for rule in RULES {
        let retained = if rule.retained { "yes" } else { "no" };
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | {} | {} | {retained} | {} | {} |",
            rule.pattern(),
            verb(rule.device),
            verb(rule.server),
            rule.message,
            rule.qos,
            rule.bytes_max,
            rule.about,
        );
    }
    out
}
