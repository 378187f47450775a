//! A small reference model: what a device may do, told without the machine's states. It watches answers, effects and
//! what is on the disk, and knows nothing of how the machine decides.

use crate::world::{World, index};
use sedge_protocol::deployment::*;
use sedge_protocol::{BundleDigest, id::Generation};
use std::collections::{BTreeMap, BTreeSet};

/// What speaks for the bundle that runs in a slot.
#[derive(Debug, Clone, Copy, Default)]
struct Evidence {
    digest: Option<BundleDigest>,
    golden: bool,
    shadow: bool,
    serving_since_ms: Option<u64>,
    healthy: bool,
    agreed: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Auditor {
    evidence: [Evidence; 2],
    /// Whether the other worker was stopped for this trial, so that no shadow run was possible.
    cold: bool,
    /// What in each slot was found to be what was signed, and not written to since.
    verified: [Option<BundleDigest>; 2],
    committed: BTreeSet<BundleDigest>,
    persisted: Option<Record>,
    /// Orders by generation and digest, as the device was authorised to follow them.
    authorized: BTreeMap<Generation, Vec<Order>>,
    /// Generations that were written down as being followed.
    followed: BTreeSet<Generation>,
    /// Ends that were written down: they must reach the server.
    ends: BTreeSet<(Generation, Phase)>,
    trials: BTreeMap<Generation, BTreeSet<u8>>,
    interrupted: BTreeMap<Generation, u8>,
    pub(crate) commits: usize,
    pub(crate) reverts: usize,
}

impl Auditor {
    pub(crate) fn new(world: &World) -> Self {
        let mut auditor = Self::default();
        auditor.committed.extend(world.machine.active().map(|active| active.bundle.digest));
        auditor.persisted = Some(world.machine.record().clone());
        auditor
    }

    pub(crate) fn power_lost(&mut self, world: &World) {
        self.evidence = Default::default();
        self.cold = false;
        if let Some(Record { state: State::Trial { work, .. } | State::Probation { work, .. }, .. }) = found(world) {
            let times = self.interrupted.entry(work.order.generation).or_default();
            *times += 1;
            assert!(*times <= work.order.attempts_max, "a trial was interrupted {times} times and tried again");
        }
    }

    /// An answer goes to the machine.
    pub(crate) fn answered(&mut self, world: &World, ask: &Ask, answer: &Answer) {
        match (ask, answer) {
            (Ask::Authorize { order }, Answer::Authorized) => {
                self.authorized.entry(order.generation).or_default().push((**order).clone());
            }
            (Ask::VerifyStaged { slot, digest, .. }, Answer::StagedVerified) => {
                self.verified[index(*slot)] = Some(*digest);
            }
            (Ask::StartWorker { slot, digest, .. }, Answer::WorkerReady) => {
                self.evidence[index(*slot)] = Evidence { digest: Some(*digest), ..Evidence::default() };
            }
            (Ask::RunGolden { slot }, Answer::GoldenPassed) => self.evidence[index(*slot)].golden = true,
            (Ask::BeginShadow { slot, limits }, Answer::Shadow(shown)) => {
                let share = u64::from(shown.disagreements) * 1000
                    <= u64::from(limits.disagreement_max_permille) * u64::from(shown.samples);
                let fast = limits.latency_p95_max_us.is_none_or(|max| shown.latency_p95_us <= max);
                let enough = shown.samples >= limits.samples_min && shown.errors <= limits.errors_max;
                self.evidence[index(*slot)].shadow |= share && fast && enough;
            }
            (Ask::TakeOver { slot }, Answer::TookOver) => {
                self.evidence[index(*slot)].serving_since_ms = Some(world.now.boot_ms);
            }
            _ => {}
        }
    }

    /// Anything else goes to the machine.
    pub(crate) fn told(&mut self, world: &World, event: &Event) {
        match event {
            Event::HealthOk { slot } => {
                let evidence = &mut self.evidence[index(*slot)];
                evidence.healthy |= evidence.serving_since_ms.is_some();
            }
            Event::Verdict { generation, verdict: Verdict::Commit } => {
                let this = world.machine.state().subject().map(|subject| subject.generation) == Some(*generation);
                self.evidence.iter_mut().for_each(|evidence| evidence.agreed |= this);
            }
            _ => {}
        }
    }

    /// Before an effect is performed.
    pub(crate) fn about_to(&mut self, world: &World, effects: &[Effect], at: usize) {
        let active = self.persisted.as_ref().and_then(|record| record.anchor.active.clone());
        match &effects[at] {
            Effect::Persist(record) => {
                assert_eq!(at, 0, "written down after something else was done: {effects:?}");
                self.written(world, record);
            }
            Effect::Ignored(_) => {}
            effect => {
                let (written, is) = (found(world), world.machine.record());
                let written = written.expect("a record");
                let same = written == is || timeless(written) == timeless(is);
                assert!(same, "{effect:?} before it was written down");
            }
        }
        let touched = match &effects[at] {
            Effect::DeleteSlot { slot } | Effect::CancelDownload { slot } => Some(*slot),
            Effect::Ask { ask: Ask::Download { slot, .. } | Ask::ReserveSpace { slot, .. }, .. } => Some(*slot),
            _ => None,
        };
        if let (Some(touched), Some(active)) = (touched, &active) {
            assert_ne!(touched, active.slot, "{:?} touches the bundle to go back to", effects[at]);
        }
        match &effects[at] {
            Effect::StopWorker { slot } => self.evidence[index(*slot)] = Evidence::default(),
            Effect::HoldSamples { .. } => self.cold = true,
            Effect::DeleteSlot { slot } | Effect::Ask { ask: Ask::Download { slot, .. }, .. } => {
                self.verified[index(*slot)] = None;
            }
            Effect::Ask { ask: Ask::StartWorker { slot, digest, .. }, .. } => {
                assert_eq!(self.verified[index(*slot)], Some(*digest), "a worker starts on what was never checked");
            }
            Effect::Ask { ask: Ask::Serve { slot, .. }, .. } => {
                assert_eq!(Some(*slot), active.map(|a| a.slot), "something else than the active slot serves");
            }
            _ => {}
        }
    }

    /// After every effect and every loss of power.
    pub(crate) fn look(&self, world: &World) {
        let Some(record) = found(world) else { return };
        if let Some(Active { slot, bundle }) = &record.anchor.active {
            let there = world.disk.slots[index(*slot)];
            assert_eq!(there, Some((bundle.digest, true)), "the bundle to go back to is not runnable");
        } else {
            assert!(self.committed.is_empty(), "something was committed and nothing is active");
        }
        if let Inactive::Previous(bundle) = &record.inactive {
            let slot = record.anchor.active.as_ref().map_or(Slot::A, |active| active.slot.other());
            assert_eq!(world.disk.slots[index(slot)], Some((bundle.digest, true)), "the bundle from before is gone");
        }
    }

    fn written(&mut self, world: &World, record: &Record) {
        let before = self.persisted.replace(record.clone()).unwrap_or_default();
        let (was, is) = (&before.anchor, &record.anchor);
        assert!(is.authorized >= was.authorized, "the authorised generation fell");
        assert!(is.committed >= was.committed, "the committed generation fell");
        assert!(is.report_seq >= was.report_seq, "the report number fell");
        assert!(is.committed <= is.authorized, "committed what was never authorised");
        if is.active != was.active {
            self.active_changed(world, &before, record);
        }
        if let State::Trial { work, .. } = &record.state {
            let trials = self.trials.entry(work.order.generation).or_default();
            trials.insert(work.attempt);
            assert!(trials.len() <= usize::from(work.order.attempts_max), "more trials than allowed");
        }
        if let Some(subject) = record.state.subject() {
            match record.state.phase() {
                Phase::Received | Phase::Reported => {}
                phase if phase.is_end() => {
                    self.ends.insert((subject.generation, phase));
                }
                Phase::Reverting => {}
                _ => {
                    let orders = self.authorized.get(&subject.generation);
                    let known = orders.is_some_and(|orders| orders.iter().any(|order| order.digest == subject.digest));
                    assert!(known, "{subject:?} is followed and was never authorised");
                    self.followed.insert(subject.generation);
                }
            }
        }
    }

    fn active_changed(&mut self, world: &World, before: &Record, record: &Record) {
        let new = record.anchor.active.as_ref().expect("the active bundle vanished");
        let (digest, settings) = (new.bundle.digest, &new.bundle.settings);
        if let Some(old) = &before.anchor.active {
            if (old.slot, old.bundle.digest, &old.bundle.settings) == (new.slot, digest, settings) {
                return;
            }
            if before.inactive == Inactive::Previous(new.bundle.clone()) {
                assert!(self.committed.contains(&digest), "went back to what was never committed");
                assert_eq!(record.inactive, Inactive::Previous(old.bundle.clone()));
                self.reverts += 1;
                return;
            }
            assert_eq!(record.inactive, Inactive::Previous(old.bundle.clone()), "the way back was not kept");
        }
        let generation = new.bundle.generation;
        let orders = self.authorized.get(&generation).map_or(&[][..], Vec::as_slice);
        let orders = orders.iter().filter(|order| order.digest == digest && order.settings == *settings);
        let evidence = self.evidence[index(new.slot)];
        let served_ms = world.now.boot_ms - evidence.serving_since_ms.expect("committed what never served");
        assert_eq!(evidence.digest, Some(digest), "committed what never ran");
        assert!(evidence.golden, "committed without golden samples");
        assert!(evidence.healthy, "committed without a sign of health");
        // Orders of one generation may differ, and the answer about one that was replaced may come late.
        let faults: Vec<_> = orders
            .map(|order| {
                let comparable = before.anchor.active.is_some() && order.shadow.samples_min > 0 && !self.cold;
                if comparable && !evidence.shadow {
                    Some("without a shadow run".to_owned())
                } else if served_ms < u64::from(order.probation_s) * 1000 {
                    Some(format!("after {served_ms} ms of probation"))
                } else if !evidence.agreed && order.commit != CommitRule::Auto {
                    Some("without the verdict".to_owned())
                } else {
                    None
                }
            })
            .collect();
        assert!(faults.contains(&None), "committed what was not authorised so: {faults:?}");
        assert_eq!(world.disk.slots[index(new.slot)], Some((digest, true)), "committed what is not on disk");
        self.committed.insert(digest);
        self.commits += 1;
    }

    /// The world has come to rest with a server that acknowledged everything.
    pub(crate) fn rested(&self, world: &World) {
        let phase = world.machine.phase();
        assert!(phase.is_resting(), "never came to rest: {phase}, {:?}", world.machine.waiting());
        assert!(world.machine.next().is_none(), "an order waits though nothing is deployed");
        assert!(world.machine.record().anchor.reports.is_empty(), "reports are kept though all were acknowledged");
        let told: BTreeSet<_> = world.server.values().map(|r| (r.subject.generation, r.phase)).collect();
        for end in &self.ends {
            assert!(told.contains(end), "the server never heard of {end:?}");
        }
        for generation in &self.followed {
            let ended = world.server.values().any(|r| r.subject.generation == *generation && r.phase.is_end());
            assert!(ended, "the server never heard how {generation} ended");
        }
    }

    /// And every worker does as it is told.
    pub(crate) fn serves(&self, world: &World) {
        if let Some(Active { slot, bundle }) = world.machine.active() {
            assert_eq!(world.memory.route, Some(*slot), "the active slot does not serve");
            assert_eq!(world.memory.workers[index(*slot)], Some(bundle.digest), "the wrong bundle serves");
        }
    }
}

fn found(world: &World) -> Option<&Record> {
    match &world.disk.found {
        Some(Found::Record(record)) => Some(record),
        _ => None,
    }
}

/// A record without what passes by itself.
fn timeless(record: &Record) -> serde_json::Value {
    fn strip(json: &mut serde_json::Value) {
        match json {
            serde_json::Value::Object(map) => {
                ["left", "retry", "unix_floor_s", "written_unix_s"].iter().for_each(|key| {
                    map.remove(*key);
                });
                map.values_mut().for_each(strip);
            }
            serde_json::Value::Array(list) => list.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut json = serde_json::to_value(record).expect("a record is JSON");
    strip(&mut json);
    json
}
