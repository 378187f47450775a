//! Which devices are asked for, and what is answered.

use super::{DeviceRow, DeviceState, Online, Tone};

/// Which devices are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceQuery {
    /// Part of the id, in any case; empty for all.
    pub search: String,
    /// Only those.
    pub facet: Option<Facet>,
    /// Only ids after this one.
    pub after: Option<String>,
}

/// Some of the devices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DevicesPage {
    /// By id.
    pub rows: Vec<DeviceRow>,
    /// Where the next page begins: the [`DeviceQuery::after`] to ask for. A source that has looked for long enough may
    /// give one with fewer rows, even none.
    pub next: Option<String>,
    /// How many the query matches in all, if that is known.
    pub total: Option<u64>,
}

macro_rules! facets {
    ($($(#[$doc:meta])* $variant:ident = $key:literal, $word:literal;)+) => {
        /// A kind of devices to look for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Facet {
            $($(#[$doc])* $variant,)+
        }

        impl Facet {
            /// Every one.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word in the address.
            pub fn key(self) -> &'static str {
                match self { $(Self::$variant => $key),+ }
            }

            /// The words for people.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }
    };
}

facets! {
    /// Connected.
    Online = "online", "Online";
    /// Not connected.
    Offline = "offline", "Offline";
    /// In a state of [`Tone::Good`].
    Good = "good", "Settled";
    /// In a state of [`Tone::Busy`].
    Busy = "busy", "Updating";
    /// In a state of [`Tone::Waiting`].
    Waiting = "waiting", "Waiting or going back";
    /// In a state of [`Tone::Bad`].
    Bad = "bad", "Failed";
    /// In a state of [`Tone::Quiet`].
    Quiet = "quiet", "Other";
}

impl Facet {
    /// The facet of this key.
    pub fn from_key(key: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|facet| facet.key() == key)
    }

    /// Whether it holds for a device.
    pub fn holds(self, online: Online, state: DeviceState) -> bool {
        match self {
            Self::Online => online == Online::Online,
            Self::Offline => online != Online::Online,
            Self::Good => state.tone() == Tone::Good,
            Self::Busy => state.tone() == Tone::Busy,
            Self::Waiting => state.tone() == Tone::Waiting,
            Self::Bad => state.tone() == Tone::Bad,
            Self::Quiet => state.tone() == Tone::Quiet,
        }
    }
}
