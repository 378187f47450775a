//! Which devices a rollout is about.

use sedge_protocol::id::DeviceId;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Most devices that a list may name; stops a declaration that only fills memory.
pub const LISTED_MAX: usize = 100_000;
const PATTERN_MAX: usize = 128;

/// The devices of a rollout: written as `"all"`, as a pattern with `*` and `?`, or as a list of device ids.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Selector {
    /// Every device of the project.
    #[default]
    All,
    /// Those named so: `*` stands for any characters, `?` for one.
    Pattern(String),
    /// These.
    Listed(Vec<DeviceId>),
}

impl Selector {
    /// Whether it selects a device of this name.
    pub fn selects(&self, device: &DeviceId) -> bool {
        match self {
            Self::All => true,
            Self::Pattern(pattern) => fits(pattern.as_bytes(), device.as_str().as_bytes()),
            Self::Listed(devices) => devices.contains(device),
        }
    }
}

/// Linear in the product of both lengths, whatever the pattern: only the last `*` is ever gone back to.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if c == b'?' || c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    n = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::Pattern(pattern) => serializer.serialize_str(pattern),
            Self::Listed(devices) => devices.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Selector;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`all`, a pattern of device ids such as `cam-*`, or a list of device ids")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Selector, E> {
        if text == "all" {
            return Ok(Selector::All);
        }
        let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'*' | b'?');
        if (1..=PATTERN_MAX).contains(&text.len()) && text.bytes().all(plain) {
            return Ok(Selector::Pattern(text.to_owned()));
        }
        Err(E::invalid_value(de::Unexpected::Str(&text.chars().take(80).collect::<String>()), &self))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Selector, A::Error> {
        let mut devices = Vec::new();
        while let Some(device) = access.next_element()? {
            if devices.len() == LISTED_MAX {
                return Err(de::Error::custom(format_args!("more than {LISTED_MAX} devices; use a pattern")));
            }
            devices.push(device);
        }
        Ok(Selector::Listed(devices))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_fits_whole_names() {
        for (pattern, name, wanted) in [
            ("cam-*", "cam-7", true),
            ("cam-*", "old-cam-7", false),
            ("*-7", "cam-7", true),
            ("*-7", "cam-77", false),
            ("c?m-*7", "cam-x-17", true),
            ("**", "a", true),
            ("cam-7", "cam-7", true),
            ("cam", "cam-7", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
        ] {
            assert_eq!(fits(pattern.as_bytes(), name.as_bytes()), wanted, "{pattern} {name}");
        }
        let hostile = format!("{}b", "*a".repeat(60));
        assert!(!fits(hostile.as_bytes(), "a".repeat(64).as_bytes()));
    }

    #[test]
    fn it_reads_what_it_writes_and_refuses_the_rest() {
        for json in [r#""all""#, r#""cam-?""#, r#"["cam-1","cam-2"]"#] {
            let selector: Selector = serde_json::from_str(json).expect(json);
            assert_eq!(serde_json::to_string(&selector).expect("json"), json);
        }
        for json in [r#""""#, r#""cam/1""#, r#"["cam 1"]"#, "7", r#"{"labels":{}}"#] {
            assert!(serde_json::from_str::<Selector>(json).is_err(), "{json}");
        }
    }
}
