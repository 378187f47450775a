//! Looking up a target in metadata that is valid now.

use super::error::{Role, UpdateError};
use super::metadata::{Snapshot, TargetFile, Targets};
use super::request::Request;
use super::trusted::TrustedSet;
use crate::time::UnixSeconds;
use std::collections::BTreeSet;

/// Most roles that one search looks into; stops a tree of delegations that only costs time.
pub const SEARCHED_ROLES_MAX: usize = 32;

/// Metadata that is complete and valid at one moment.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    set: &'a TrustedSet,
    now: UnixSeconds,
    snapshot: &'a Snapshot,
    targets: &'a Targets,
}

/// What a search has come to.
#[derive(Debug, Clone, PartialEq)]
pub enum Search<'a> {
    /// A role that answers for the path knows it.
    Found {
        /// The role.
        role: Role,
        /// All that the role says.
        targets: &'a Targets,
        /// What it says about the path.
        file: &'a TargetFile,
    },
    /// No role that answers for the path knows it.
    Unknown,
    /// The search goes on in a role whose metadata is not held: fetch it, give it to
    /// [`TrustedSet::update_delegated_targets`], and search again. If it cannot be had, the path is unknown.
    Fetch {
        /// What to fetch.
        request: Request,
        /// Who delegates to it.
        delegator: Role,
    },
}

impl TrustedSet {
    /// The metadata as it is valid at `now`, all of it verified again.
    ///
    /// # Errors
    /// [`UpdateError`] naming the first file that is missing, out of date or does not go with the others.
    pub fn view(&self, now: UnixSeconds) -> Result<View<'_>, UpdateError> {
        let snapshot = self.current_snapshot(now)?;
        let targets = self.held_targets(snapshot, &Role::Targets, &Role::Root, now)?;
        Ok(View { set: self, now, snapshot, targets })
    }

    /// The time that valid metadata proves to have passed, for [`crate::time::TrustedTime`]: when the timestamp says
    /// it was signed. A stolen timestamp key cannot take it past the dates that offline keys have signed, and so
    /// cannot make a device believe that its root has expired.
    pub fn signed_time(&self) -> Option<UnixSeconds> {
        let timestamp = self.timestamp()?;
        let expires = timestamp.header.expires.min(self.root().header.expires);
        Some(timestamp.sedge_issued?.min(expires.plus(-1)))
    }
}

impl<'a> View<'a> {
    /// The top-level targets.
    pub const fn targets(&self) -> &'a Targets {
        self.targets
    }

    /// 5.6.7. Searches pre-order and depth-first, so that the first delegation that knows a path wins.
    ///
    /// # Errors
    /// [`UpdateError`] when a role is delegated to but not listed by the snapshot: the path is unknown then.
    pub fn find(&self, path: &str) -> Result<Search<'a>, UpdateError> {
        let mut visited = BTreeSet::new();
        let mut stack = vec![(Role::Targets, Role::Root)];
        while let Some((role, delegator)) = stack.pop() {
            // 5.6.7.1. A role visited before is skipped, which ends cycles, and there is an end to them all.
            if visited.contains(&role) {
                continue;
            }
            if visited.len() >= SEARCHED_ROLES_MAX {
                return Ok(Search::Unknown);
            }
            // A copy that is not the one listed, or not valid any more, is as good as none.
            let Ok(targets) = self.set.held_targets(self.snapshot, &role, &delegator, self.now) else {
                let request = self.set.targets_request(self.snapshot, &role)?;
                return Ok(Search::Fetch { request, delegator });
            };
            if let Some(file) = targets.targets.get(path) {
                return Ok(Search::Found { role, targets, file });
            }
            // 5.6.7.2. Otherwise the delegations, in order of appearance.
            let mut children = Vec::new();
            let delegations = targets.delegations.iter().flat_map(|d| &d.roles);
            for child in delegations.filter(|child| child.answers_for(path)) {
                children.push((Role::named(&child.name), role.clone()));
                if child.terminating {
                    // 5.6.7.2.1. Nothing behind a terminating delegation is looked at, here or above.
                    stack.clear();
                    break;
                }
            }
            stack.extend(children.into_iter().rev());
            visited.insert(role);
        }
        Ok(Search::Unknown)
    }
}
