//! Why nothing new may be run, in words that say what to do.

use crate::id::{BundleName, ComponentName, Generation, Principal};
use crate::time::UnixSeconds;
use crate::tuf::{Role, UpdateError};
use crate::{BundleDigest, Version};
use std::fmt;

/// Which of the two repositories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repository {
    /// Says which bundles exist.
    Publisher,
    /// Says which bundle goes where.
    Director,
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Publisher => "publisher",
            Self::Director => "director",
        })
    }
}

/// Why nothing new may be run. What runs already goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorizeError {
    /// Out of date: nothing new until newer metadata arrives.
    #[error("the {repository}'s metadata is out of date; what runs goes on, and newer metadata is needed first")]
    Expired {
        /// Whose.
        repository: Repository,
        /// Which role, since when.
        source: UpdateError,
    },
    /// Incomplete or not to be trusted.
    #[error("the {repository}'s metadata is not complete; update it first")]
    Metadata {
        /// Whose.
        repository: Repository,
        /// What is wrong.
        source: UpdateError,
    },
    /// For another device.
    #[error("the director's metadata is for device {found}, and this is {device}; it must not be used here")]
    OtherDevice {
        /// This device.
        device: Principal,
        /// The device named.
        found: String,
    },
    /// A target that cannot be understood.
    #[error("{repository} target `{target}` is malformed: {problem}")]
    Malformed {
        /// Whose.
        repository: Repository,
        /// Its name.
        target: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An assignment that is no longer valid.
    #[error("component {component} was assigned until {not_after} and it is {now}; the director must assign it again")]
    NotAfter {
        /// The component.
        component: ComponentName,
        /// Until when it was valid.
        not_after: UnixSeconds,
        /// What was taken for now.
        now: UnixSeconds,
    },
    /// Not released.
    #[error(
        "component {component}: the director assigns {bundle} {digest}, which the publisher has not released; \
         publish it, or assign another"
    )]
    NotReleased {
        /// The component.
        component: ComponentName,
        /// The bundle assigned.
        bundle: BundleName,
        /// Its digest.
        digest: BundleDigest,
    },
    /// Released by a role whose metadata is not held.
    #[error("component {component}: the publisher's metadata of role {role} is needed; fetch it and try again")]
    Fetch {
        /// The component.
        component: ComponentName,
        /// The role.
        role: Role,
        /// Who delegates to it.
        delegator: Role,
    },
    /// The two do not agree.
    #[error(
        "component {component}: the director says {what} {director} and the publisher {publisher}; \
         do not install it, and look at both repositories"
    )]
    Disagree {
        /// The component.
        component: ComponentName,
        /// On what.
        what: &'static str,
        /// The director's value.
        director: String,
        /// The publisher's value.
        publisher: String,
    },
    /// Older than the publisher allows.
    #[error(
        "component {component}: {bundle} {version} lies below the publisher's floor {floor}; \
         assign {floor} or newer"
    )]
    BelowFloor {
        /// The component.
        component: ComponentName,
        /// The bundle.
        bundle: BundleName,
        /// The version assigned.
        version: Version,
        /// The oldest that may be run.
        floor: Version,
    },
    /// A floor ahead of its own generation.
    #[error("component {component}: floor {floor} lies ahead of generation {generation}; the director must mend it")]
    FloorAhead {
        /// The component.
        component: ComponentName,
        /// The floor given.
        floor: Generation,
        /// The generation given.
        generation: Generation,
    },
    /// A generation that was passed already.
    #[error("generation {found} is older than {seen}, which was seen already (rollback attack)")]
    GenerationFell {
        /// The highest seen.
        seen: Generation,
        /// The one given.
        found: Generation,
    },
    /// A floor that was passed already.
    #[error("component {component}: floor {found} is lower than {seen}, which was seen already (rollback attack)")]
    FloorFell {
        /// The component.
        component: ComponentName,
        /// The highest seen.
        seen: Generation,
        /// The one given.
        found: Generation,
    },
}
