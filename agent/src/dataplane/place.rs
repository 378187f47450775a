//! A slot's worker, as the component sees it.

use super::keeper::{Job, Keeper};
use crate::worker::Loaded;
use sedge_protocol::BundleDigest;
use sedge_protocol::deployment::Ticket;
use std::path::PathBuf;
use std::time::Instant;

/// What a worker is to run.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wanted {
    pub(super) bundle: PathBuf,
    pub(super) digest: BundleDigest,
    pub(super) settings: serde_json::Value,
}

/// A worker, on its way or there.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) wanted: Wanted,
    pub(super) incarnation: u64,
    pub(super) keeper: Keeper,
    /// What it has loaded and its process, once it has.
    pub(super) ready: Option<(Loaded, u32)>,
    /// Who waits for it to be ready.
    pub(super) waiting: Vec<Ticket>,
}

/// A serving worker that died, to be started again.
#[derive(Debug)]
pub(super) struct Restart {
    pub(super) wanted: Wanted,
    pub(super) at: Instant,
}

impl Place {
    /// Passes a job on; `false` while it is not ready, and when it is gone.
    pub(super) fn give(&self, job: Job) -> bool {
        self.ready.is_some() && self.keeper.give(job)
    }
}
