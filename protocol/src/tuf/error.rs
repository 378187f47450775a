//! Why metadata is refused, in words of the attack that would have succeeded otherwise.

use super::canonical::JsonError;
use crate::time::UnixSeconds;
use std::fmt;

/// Whose metadata.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Says which keys count.
    Root,
    /// Says which snapshot is the newest.
    Timestamp,
    /// Says which targets files belong together.
    Snapshot,
    /// Says which files exist.
    Targets,
    /// As targets, for some paths, by this name. The name comes from outside: it may hold anything.
    Delegated(String),
}

impl Role {
    /// The role of this name.
    pub fn named(name: &str) -> Self {
        match name {
            "root" => Self::Root,
            "timestamp" => Self::Timestamp,
            "snapshot" => Self::Snapshot,
            "targets" => Self::Targets,
            _ => Self::Delegated(name.to_owned()),
        }
    }

    /// Its name as in metadata, which may hold anything.
    pub fn name(&self) -> &str {
        match self {
            Self::Root => "root",
            Self::Timestamp => "timestamp",
            Self::Snapshot => "snapshot",
            Self::Targets => "targets",
            Self::Delegated(name) => name,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.name().chars().take(80).flat_map(char::escape_default) {
            write!(f, "{c}")?;
        }
        Ok(())
    }
}

/// What a refusal stops. Source: The Update Framework specification 1.0, section 1.5.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attack {
    /// Giving out what no trusted party has signed.
    ArbitrarySoftware,
    /// Giving out something older than what is known already.
    Rollback,
    /// Giving out the same for ever, so that news never arrives.
    Freeze,
    /// Giving out files together that never belonged together.
    MixAndMatch,
    /// Giving out data without end.
    EndlessData,
}

impl fmt::Display for Attack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ArbitrarySoftware => "arbitrary software attack",
            Self::Rollback => "rollback attack",
            Self::Freeze => "freeze attack",
            Self::MixAndMatch => "mix-and-match attack",
            Self::EndlessData => "endless data attack",
        })
    }
}

/// Why metadata is refused. The trusted set is then as it was before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// Longer than it may be.
    #[error("{role} metadata has {bytes} bytes, more than {bytes_max} (endless data attack)")]
    TooLong {
        /// Whose.
        role: Role,
        /// Its length.
        bytes: usize,
        /// The longest that is read.
        bytes_max: u64,
    },
    /// Not JSON that can be signed.
    #[error("{role} metadata cannot be read")]
    Json {
        /// Whose.
        role: Role,
        /// What is wrong with it.
        source: JsonError,
    },
    /// JSON that is not metadata.
    #[error("{role} metadata is malformed: {problem}")]
    Malformed {
        /// Whose.
        role: Role,
        /// What is wrong with it.
        problem: String,
    },
    /// Fewer signatures than needed by keys that count.
    #[error(
        "{role} {version} carries {valid} of {threshold} signatures that {delegator} {delegator_version} asks for \
         (arbitrary software attack)"
    )]
    TooFewSignatures {
        /// Whose.
        role: Role,
        /// Its version.
        version: u64,
        /// Who says which keys count.
        delegator: Role,
        /// Version of that.
        delegator_version: u64,
        /// Different keys whose signatures are valid.
        valid: usize,
        /// Different keys needed.
        threshold: u64,
    },
    /// A root that is not the next one.
    #[error("root {found} cannot follow root {trusted}; the next is root {} (rollback attack)", trusted.saturating_add(1))]
    NotNextRoot {
        /// Version of the trusted root.
        trusted: u64,
        /// Version of the new one.
        found: u64,
    },
    /// Older than what is trusted.
    #[error("{role} {found} is older than {role} {trusted}, which is known already (rollback attack)")]
    RolledBack {
        /// Whose.
        role: Role,
        /// Version known.
        trusted: u64,
        /// Version given or announced.
        found: u64,
    },
    /// A targets role that was listed once and is no more.
    #[error("snapshot {snapshot} no longer lists {role} {trusted}, which is known already (rollback attack)")]
    Delisted {
        /// Whose.
        role: Role,
        /// Version known.
        trusted: u64,
        /// Version of the new snapshot.
        snapshot: u64,
    },
    /// Out of date.
    #[error("{role} {version} expired at {expires} and it is {now}; fetch newer metadata (freeze attack)")]
    Expired {
        /// Whose.
        role: Role,
        /// Its version.
        version: u64,
        /// Until when it was valid.
        expires: UnixSeconds,
        /// What was taken for now.
        now: UnixSeconds,
    },
    /// Another version than announced.
    #[error("{role} {found} was given where {by} lists {role} {listed} (mix-and-match attack)")]
    WrongVersion {
        /// Whose.
        role: Role,
        /// Who announces it.
        by: Role,
        /// Version announced.
        listed: u64,
        /// Version given.
        found: u64,
    },
    /// Other bytes than announced.
    #[error("{role} metadata has {problem} than {by} lists (mix-and-match attack)")]
    WrongBytes {
        /// Whose.
        role: Role,
        /// Who announces it.
        by: Role,
        /// What differs.
        problem: String,
    },
    /// A hash that cannot be checked.
    #[error("{by} lists a `{algorithm}` hash of {role}, and only sha256 and sha512 can be checked")]
    UnknownHash {
        /// Whose.
        role: Role,
        /// Who announces it.
        by: Role,
        /// The hash function.
        algorithm: String,
    },
    /// A targets role that the snapshot does not know.
    #[error("snapshot {snapshot} does not list {role} (mix-and-match attack)")]
    NotListed {
        /// Whose.
        role: Role,
        /// Version of the snapshot.
        snapshot: u64,
    },
    /// A role that its alleged delegator does not name.
    #[error("{delegator} does not delegate to {role} (arbitrary software attack)")]
    NotDelegated {
        /// Whose.
        role: Role,
        /// Who should name it.
        delegator: Role,
    },
    /// Needed first.
    #[error("there is no trusted {role} metadata yet; update it first")]
    Missing {
        /// Whose.
        role: Role,
    },
    /// The workflow has an order.
    #[error("the root must be finished before {role} is updated")]
    OutOfOrder {
        /// Whose.
        role: Role,
    },
}

impl UpdateError {
    /// The attack that the refusal stops, where it is one.
    pub const fn attack(&self) -> Option<Attack> {
        match self {
            Self::TooLong { .. } => Some(Attack::EndlessData),
            Self::TooFewSignatures { .. } | Self::NotDelegated { .. } => Some(Attack::ArbitrarySoftware),
            Self::NotNextRoot { .. } | Self::RolledBack { .. } | Self::Delisted { .. } => Some(Attack::Rollback),
            Self::Expired { .. } => Some(Attack::Freeze),
            Self::WrongVersion { .. } | Self::WrongBytes { .. } | Self::NotListed { .. } => Some(Attack::MixAndMatch),
            Self::Json { .. }
            | Self::Malformed { .. }
            | Self::UnknownHash { .. }
            | Self::Missing { .. }
            | Self::OutOfOrder { .. } => None,
        }
    }
}
