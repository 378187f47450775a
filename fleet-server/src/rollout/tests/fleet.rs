//! A rollout with a store beside it: what is stored after every event is all that a restart has.

use crate::rollout::*;
use sedge_protocol::id::{DeviceId, Generation};
use sedge_protocol::{BundleDigest, Sha256Digest};
use std::collections::BTreeMap;

pub(crate) fn digest(name: &str) -> BundleDigest {
    BundleDigest(Sha256Digest::of(name.as_bytes()))
}

pub(crate) fn salt() -> Sha256Digest {
    Sha256Digest::of(b"salt")
}

pub(crate) fn candidate(device: DeviceId) -> Candidate {
    Candidate {
        device,
        running: Some(digest("v1")),
        desired: Some(digest("v1")),
        seen: true,
        decommissioned: false,
        unmet: None,
        rollout: None,
    }
}

/// A declaration of `v2` with what is given on top.
pub(crate) fn declared(toml: &str) -> Result<RolloutSpec, SpecError> {
    let digest = digest("v2");
    let head = format!("project = \"acme\"\ncomponent = \"digits\"\nbundle = \"digits\"\ndigest = \"{digest}\"\n");
    RolloutSpec::from_toml(&(head + toml))
}

/// A rollout, what is stored of it, and the generations that a director gave out.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) rollout: Rollout,
    stored: (Core, BTreeMap<u32, SavedDevice>),
    pub(crate) generations: BTreeMap<DeviceId, u64>,
}

impl Kept {
    pub(crate) fn new(plan: Plan) -> Self {
        let rollout = Rollout::new(plan);
        let stored = (rollout.saved().core, BTreeMap::new());
        Self { rollout, stored, generations: BTreeMap::new() }
    }

    pub(crate) fn handle(&mut self, event: Event, now_ms: u64) -> Vec<Effect> {
        let effects = self.rollout.handle(event, now_ms);
        self.store();
        effects
    }

    fn store(&mut self) {
        let changes = self.rollout.take_changes();
        self.stored.0 = changes.core;
        self.stored.1.extend(changes.devices.into_iter().map(|row| (row.number, row)));
    }

    /// The server dies and comes back with what was stored.
    pub(crate) fn crash(&mut self, now_ms: u64) -> Vec<Effect> {
        let (core, rows) = self.stored.clone();
        let saved = Saved { format: FORMAT, core, devices: rows.into_values().collect() };
        let json = serde_json::to_string(&saved).expect("json");
        let plan = serde_json::to_string(self.rollout.plan()).expect("json");
        let (plan, saved) = (serde_json::from_str(&plan).expect("plan"), serde_json::from_str(&json).expect("saved"));
        let restored = Rollout::restore(plan, saved).expect("restored");
        // Everything that is counted is counted alike from what was stored.
        assert_eq!(restored.saved(), self.rollout.saved());
        assert_eq!(restored.tallies, self.rollout.tallies);
        assert_eq!((restored.total, restored.stuck), (self.rollout.total, self.rollout.stuck));
        assert_eq!(restored.again, self.rollout.again);
        assert_eq!(restored.next_deadline(), self.rollout.next_deadline());
        assert_eq!(restored.waiting(), self.rollout.waiting());
        self.rollout = restored;
        let effects = self.rollout.resume(now_ms);
        self.store();
        effects
    }

    /// The next generation of a device.
    pub(crate) fn next_generation(&mut self, device: &DeviceId) -> Generation {
        let generation = self.generations.entry(device.clone()).or_insert(1);
        *generation += 1;
        Generation(*generation)
    }
}
