//! Enumerations that are words on the wire. They read words only: serde's own enumerations would take a variant's
//! number as well.

use std::fmt;

/// A word that is not in its list, nor could be in a later one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {kind}")]
pub struct WordError {
    pub(super) kind: &'static str,
    pub(super) text: String,
}

impl WordError {
    pub(super) fn new(kind: &'static str, text: &str) -> Self {
        Self { kind, text: text.chars().take(80).map(|c| if c.is_control() { ' ' } else { c }).collect() }
    }
}

/// A word that this build does not know, from a peer that is newer: 1 to 64 of `A-Z a-z 0-9 _ -`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Unlisted(String);

impl Unlisted {
    pub(super) fn new(text: &str) -> Option<Self> {
        let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
        ((1..=64).contains(&text.len()) && text.bytes().all(plain)).then(|| Self(text.to_owned()))
    }

    /// The word.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Unlisted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Text conversions and serde of an enumeration with `as_str` and `FromStr`.
macro_rules! as_text {
    ($name:ident) => {
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// A list of words that is closed: another word needs another schema version.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $kind:literal { $($(#[$about:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$about])* $variant,)+ }

        impl $name {
            /// Every one.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word on the wire.
            pub const fn as_str(&self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::message::WordError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err($crate::message::WordError::new($kind, text)),
                }
            }
        }

        $crate::message::word::as_text!($name);
    };
}

/// A list of words that may grow within a schema version; unknown ones are kept.
macro_rules! open_words {
    ($(#[$doc:meta])* $name:ident, $kind:literal { $($(#[$about:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$about])* $variant,)+
            /// A word that this build does not know.
            Other($crate::message::Unlisted),
        }

        impl $name {
            /// Every one that this build knows.
            pub const LISTED: &'static [Self] = &[$(Self::$variant),+];

            /// The word on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $text,)+
                    Self::Other(word) => word.as_str(),
                }
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::message::WordError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => $crate::message::Unlisted::new(text)
                        .map(Self::Other)
                        .ok_or_else(|| $crate::message::WordError::new($kind, text)),
                }
            }
        }

        $crate::message::word::as_text!($name);
    };
}

pub(super) use {as_text, open_words, words};
