//! Names of things, each a type of its own so that none is mistaken for another.
//!
//! Texts that become part of a topic, a certificate or a file name are checked once, where they come in: 1 to 64 of
//! `A-Z a-z 0-9 _ -`. That keeps out topic wildcards, separators, path parts and control characters.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Longest name.
pub const NAME_LENGTH_MAX: usize = 64;

/// A text that is no name of this kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind}: expected {expected}")]
pub struct ParseIdError {
    kind: &'static str,
    text: String,
    expected: &'static str,
}

impl ParseIdError {
    fn new(kind: &'static str, text: &str, expected: &'static str) -> Self {
        Self { kind, text: crate::text::visible(text, 80), expected }
    }
}

const PLAIN: &str = "1 to 64 of A-Z, a-z, 0-9, `_` and `-`";
const LOWER: &str = "1 to 64 of a-z, 0-9 and `-`";

fn is_name(text: &str, expected: &str) -> bool {
    let lower = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    let plain = |c: u8| lower(c) || (expected == PLAIN && (c.is_ascii_uppercase() || c == b'_'));
    (1..=NAME_LENGTH_MAX).contains(&text.len()) && text.bytes().all(plain)
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $expected:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                if is_name(text, $expected) {
                    return Ok(Self(text.to_owned()));
                }
                Err(ParseIdError::new($kind, text, $expected))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

name!(
    /// A tenant of a server; devices of one project never meet those of another.
    ProjectId,
    "project",
    PLAIN
);
name!(
    /// A device within its project.
    DeviceId,
    "device id",
    PLAIN
);
name!(
    /// A rollout.
    RolloutId,
    "rollout id",
    PLAIN
);
name!(
    /// Something on a device that is updated on its own: a model, the agent, the system image.
    ComponentName,
    "component name",
    PLAIN
);
name!(
    /// A bundle's name, the same in every version of it.
    BundleName,
    "bundle name",
    LOWER
);

name!(
    /// One start of a device or its agent; what is counted from a start is told apart by it.
    BootId,
    "boot id",
    PLAIN
);
name!(
    /// A request that is answered: the answer carries it.
    RequestId,
    "request id",
    PLAIN
);
name!(
    /// An event that is acknowledged; the same in every repetition.
    EventId,
    "event id",
    PLAIN
);
name!(
    /// A stream of telemetry, the last level of its topic.
    StreamName,
    "stream name",
    PLAIN
);
name!(
    /// A fleet server or another service of the operator.
    ServerName,
    "server name",
    PLAIN
);

/// A device as broker, certificate and topics name it: `<project>:<device>`, the certificate's common name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Principal {
    /// Its project.
    pub project: ProjectId,
    /// The device in it.
    pub device: DeviceId,
}

impl FromStr for Principal {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let wrong = || ParseIdError::new("principal", text, "<project>:<device>, each 1 to 64 of A-Z a-z 0-9 _ -");
        let (project, device) = text.split_once(':').ok_or_else(wrong)?;
        match (project.parse(), device.parse()) {
            (Ok(project), Ok(device)) => Ok(Self { project, device }),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.project, self.device)
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Principal({self})")
    }
}

impl Serialize for Principal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Principal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Number of a device's desired state; it only grows. It is the version of the director's targets metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_leave_its_topic_level_or_directory_is_no_name() {
        for text in ["", "a/b", "+", "#", "a b", "..", "a:b", "a\n", "ä", "$SYS", &"x".repeat(65)] {
            assert!(text.parse::<DeviceId>().is_err(), "{text:?}");
        }
        assert!("x".repeat(64).parse::<DeviceId>().is_ok());
    }

    #[test]
    fn a_principal_has_two_parts() {
        let p: Principal = "acme:cam-7".parse().expect("valid");
        assert_eq!((p.project.as_str(), p.device.as_str(), p.to_string().as_str()), ("acme", "cam-7", "acme:cam-7"));
        for text in ["acme", "acme:", ":cam", "a:b:c", "acme:cam/7"] {
            let e = text.parse::<Principal>().expect_err(text);
            assert!(e.to_string().contains(&format!("`{text}`")), "{e}");
        }
    }
}
