//! How many devices a wave takes.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Size of a wave: `5`, or `"10%"` of all eligible devices, rounded up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// So many devices.
    Count(u32),
    /// So many percent.
    Percent(u32),
}

impl Serialize for Size {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(count) => serializer.serialize_u32(*count),
            Self::Percent(percent) => serializer.collect_str(&format_args!("{percent}%")),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl serde::de::Visitor<'_> for Reader {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of devices such as 5, or a share of them such as \"10%\"")
            }

            fn visit_u64<E: serde::de::Error>(self, count: u64) -> Result<Size, E> {
                u32::try_from(count)
                    .map(Size::Count)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Unsigned(count), &self))
            }

            fn visit_i64<E: serde::de::Error>(self, count: i64) -> Result<Size, E> {
                u32::try_from(count)
                    .map(Size::Count)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(count), &self))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Size, E> {
                let percent = text.strip_suffix('%').and_then(|number| number.parse().ok());
                percent.map(Size::Percent).ok_or_else(|| {
                    E::invalid_value(serde::de::Unexpected::Str(&text.chars().take(40).collect::<String>()), &self)
                })
            }
        }
        deserializer.deserialize_any(Reader)
    }
}
