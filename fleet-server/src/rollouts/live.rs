//! One rollout in memory: the machine, what was last heard of each device, and what is still to be stored.

use super::store::{Change, Head, Number};
use crate::field::{ComponentView, DeviceView};
use crate::fleet::records::Latest;
use crate::rollout::{
    Candidate, Core, Counters, Effect, Event, IgnoredWhy, Ineligible, Note, Presence, RefusedWhy, Rollout, Saved,
    SavedDevice, Step,
};
use sedge_protocol::BundleDigest;
use sedge_protocol::id::{DeviceId, Generation, Principal};
use sedge_protocol::message::{ComponentReport, DeploymentState, ReportKey, WaitReason};
use std::collections::{BTreeMap, HashMap, HashSet};

/// A rollout.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) number: Number,
    pub(super) head: Head,
    pub(super) rollout: Rollout,
    /// The latest report of each device, and when its latest heartbeat arrived.
    heard: HashMap<DeviceId, (ReportKey, ComponentReport)>,
    beats: HashMap<DeviceId, (u64, Event)>,
    /// Generations that changed other components only: what is said of them is said of the rollout's too.
    carried: HashMap<DeviceId, Generation>,
    /// What was ignored and noted: a device that repeats itself does not fill the timeline.
    ignored: HashSet<(DeviceId, IgnoredWhy)>,
    /// Devices that came later and may not join.
    strangers: HashSet<DeviceId>,
    stored: Option<Core>,
    unstored: BTreeMap<u32, SavedDevice>,
    notes: Vec<Note>,
    /// What is to be done once it is stored.
    pub(super) effects: Vec<Effect>,
}

impl Live {
    pub(super) fn new(number: Number, head: Head, rollout: Rollout, stored: Option<Core>) -> Self {
        Self {
            number,
            head,
            rollout,
            heard: HashMap::new(),
            beats: HashMap::new(),
            carried: HashMap::new(),
            ignored: HashSet::new(),
            strangers: HashSet::new(),
            stored,
            unstored: BTreeMap::new(),
            notes: Vec::new(),
            effects: Vec::new(),
        }
    }

    pub(super) fn principal(&self, device: &DeviceId) -> Principal {
        Principal { project: self.head.project.clone(), device: device.clone() }
    }

    /// Takes an event. Why it was refused, when it was a command that does not fit.
    pub(super) fn handle(&mut self, event: Event, now_ms: u64) -> Option<RefusedWhy> {
        let (answered, assigned) = match &event {
            Event::Assigned { device, .. } => (Some(device.clone()), true),
            Event::RollBackAssigned { device, .. } => (Some(device.clone()), false),
            _ => (None, false),
        };
        let effects = self.rollout.handle(event, now_ms);
        let refused = self.take(effects);
        // The device may have been faster than the server's own answer.
        if let Some(device) = answered.as_ref().filter(|_| assigned)
            && let Some((_, beat @ Event::Heartbeat { running, .. })) = self.beats.get(device)
            && *running == self.head.digest
        {
            let effects = self.rollout.handle(beat.clone(), now_ms);
            self.take(effects);
        }
        if let Some(device) = answered
            && let Some((key, report)) = self.heard.get(&device).cloned()
        {
            self.tell(&device, key, &report, now_ms);
        }
        refused
    }

    /// Asks for everything again that nobody has answered.
    pub(super) fn resume(&mut self, now_ms: u64) {
        let effects = self.rollout.resume(now_ms);
        self.take(effects);
    }

    fn take(&mut self, effects: Vec<Effect>) -> Option<RefusedWhy> {
        let mut refused = None;
        for effect in effects {
            match effect {
                Effect::Note(Note::Ignored { device, why }) => {
                    if self.ignored.insert((device.clone(), why)) {
                        self.notes.push(Note::Ignored { device, why });
                    }
                }
                Effect::Note(note) => self.notes.push(note),
                Effect::Refused { why } => refused = Some(why),
                effect => self.effects.push(effect),
            }
        }
        refused
    }

    /// A device's report, unless a later one was heard.
    pub(super) fn report(&mut self, device: &DeviceId, key: ReportKey, report: &ComponentReport, now_ms: u64) {
        if self.heard.get(device).is_some_and(|(heard, _)| *heard >= key) {
            return;
        }
        self.heard.insert(device.clone(), (key, report.clone()));
        self.tell(device, key, report, now_ms);
    }

    pub(super) fn latest(&mut self, device: &DeviceId, latest: &Latest, now_ms: u64) {
        let attempt = latest.report.attempt;
        let key = ReportKey { generation: Generation(latest.generation), attempt, seq: latest.seq };
        self.report(device, key, &latest.report, now_ms);
    }

    fn tell(&mut self, device: &DeviceId, key: ReportKey, report: &ComponentReport, now_ms: u64) {
        let event = Event::DeviceReported {
            device: device.clone(),
            generation: self.of_ours(device, key.generation),
            state: report.state,
            held: report.waiting_for == Some(WaitReason::Verdict),
            running: report.running.map(BundleDigest),
            error: report.error.as_ref().map(|error| error.code.clone()),
        };
        let effects = self.rollout.handle(event, now_ms);
        self.take(effects);
    }

    /// A report without the component: once it was taken away again, the device runs nothing of it.
    pub(super) fn silent(&mut self, device: &DeviceId, generation: Generation, now_ms: u64) {
        let Some((of, _)) = self.rollout.device(device) else { return };
        if of.back_generation == Generation(0) || generation < of.back_generation {
            return;
        }
        let state = DeploymentState::Reported;
        let device = device.clone();
        let event = Event::DeviceReported { device, generation, state, held: false, running: None, error: None };
        let effects = self.rollout.handle(event, now_ms);
        self.take(effects);
    }

    fn of_ours(&self, device: &DeviceId, generation: Generation) -> Generation {
        let carried = self.carried.get(device).copied().unwrap_or_default();
        match self.rollout.device(device) {
            Some((of, _)) if of.generation > Generation(0) && (of.generation..=carried).contains(&generation) => {
                of.generation
            }
            _ => generation,
        }
    }

    /// Another component of the device was assigned something; the rollout's goes on in this generation.
    pub(super) fn carry(&mut self, device: &DeviceId, generation: Generation, now_ms: u64) {
        if self.rollout.device(device).is_some_and(|(of, _)| of.back_generation == Generation(0)) {
            self.carried.insert(device.clone(), generation);
            if let Some((key, report)) = self.heard.get(device).cloned() {
                self.tell(device, key, &report, now_ms);
            }
        }
    }

    pub(super) fn presence(&mut self, device: &DeviceId, online: bool, now_ms: u64) {
        let known = self.rollout.device(device).map(|(of, _)| of.presence);
        let said = if online { Presence::Online } else { Presence::Offline };
        if known.is_some_and(|known| known != said) {
            let effects = self.rollout.handle(Event::Presence { device: device.clone(), online }, now_ms);
            self.take(effects);
        }
    }

    /// A heartbeat that was heard at `at_ms`. `again`: it may be one that was told before.
    pub(super) fn beat(&mut self, view: &DeviceView, running: BundleDigest, at_ms: u64, again: bool, now_ms: u64) {
        let device = &view.device.device;
        let known = self.beats.get(device).map(|(at_ms, _)| *at_ms);
        if known.is_some_and(|known| if again { at_ms <= known } else { at_ms < known })
            || self.rollout.device(device).is_none()
        {
            return;
        }
        let digest = self.rollout.plan().spec.digest;
        let bundle = view.components.get(&self.head.component).and_then(|c| c.bundles.get(&digest));
        let event = Event::Heartbeat {
            device: device.clone(),
            running,
            counters: bundle.map(counters),
            first_result_ts_ms: bundle.and_then(|bundle| bundle.first_result_ts_ms),
        };
        self.beats.insert(device.clone(), (at_ms, event.clone()));
        let effects = self.rollout.handle(event, now_ms);
        self.take(effects);
    }

    /// Whether a device that has just come may join.
    pub(super) fn may_join(&self, device: &DeviceId) -> bool {
        let plan = self.rollout.plan();
        let known = matches!(plan.skipped.get(device), Some(why) if !matches!(why, Ineligible::NeverSeen | Ineligible::Unknown));
        !self.rollout.state().is_final()
            && self.rollout.device(device).is_none()
            && plan.spec.devices.selects(device)
            && !known
            && !self.strangers.contains(device)
    }

    /// Lets it join, if it can; else it is not asked again.
    pub(super) fn join(&mut self, device: &DeviceId, candidate: Option<Candidate>, now_ms: u64) {
        if let Some(candidate) = candidate {
            self.handle(Event::DeviceJoined { candidate }, now_ms);
        }
        if self.rollout.device(device).is_some() {
            self.presence(device, true, now_ms);
        } else {
            self.strangers.insert(device.clone());
        }
    }

    /// Whether a criterion compares with devices that are not touched.
    pub(super) fn compares(&self) -> bool {
        let criteria = &self.rollout.plan().spec.criteria;
        !self.rollout.state().is_final() && criteria.iter().any(|c| c.drop_max_permille.is_some())
    }

    /// Tells how those fare that the rollout has not touched, when a criterion compares with them.
    pub(super) fn control<'a>(&mut self, field: impl Iterator<Item = &'a DeviceView>, now_ms: u64) {
        if !self.compares() {
            return;
        }
        let digest = self.rollout.plan().spec.digest;
        let untouched = |view: &&DeviceView| {
            let of = self.rollout.device(&view.device.device);
            of.is_some_and(|(of, _)| !of.touched && of.step == Step::NotStarted)
        };
        let of = |view: &DeviceView| {
            let component: &ComponentView = view.components.get(&self.head.component)?;
            let running = component.running.filter(|running| *running != digest)?;
            component.bundles.get(&running).map(counters)
        };
        let all: Vec<Counters> = field.filter(untouched).filter_map(of).filter(Counters::is_sound).collect();
        if let Some(counters) = together(&all) {
            let devices = u32::try_from(all.len()).unwrap_or(u32::MAX);
            let effects = self.rollout.handle(Event::ControlHealth { counters, devices }, now_ms);
            self.take(effects);
        }
    }

    /// What is to be stored before [`Live::effects`] are performed; none when nothing has changed.
    pub(super) fn change(&mut self) -> Option<Change> {
        let Saved { format, core, devices } = self.rollout.take_changes();
        self.unstored.extend(devices.into_iter().map(|device| (device.number, device)));
        if self.stored.as_ref() == Some(&core) && self.unstored.is_empty() && self.notes.is_empty() {
            return None;
        }
        let devices = self.unstored.values().cloned().collect();
        Some(Change { number: self.number, saved: Saved { format, core, devices }, notes: self.notes.clone() })
    }

    /// It was stored.
    pub(super) fn stored(&mut self, change: Change, now_ms: u64) {
        self.unstored.clear();
        self.notes.clear();
        let state = &change.saved.core.state;
        self.head.state = state.name().to_owned();
        self.head.active = !state.is_final();
        if state.is_final() && self.head.ended_ms.is_none() {
            self.head.ended_ms = Some(now_ms);
            let Head { project, id, state, .. } = &self.head;
            tracing::info!(%project, rollout = %id, state, "a rollout has ended");
        }
        self.stored = Some(change.saved.core);
    }
}

/// Counters as gates know them.
fn counters(bundle: &crate::field::BundleView) -> Counters {
    let counts = bundle.counts;
    // A confidence lies between 0 and 1; what does not is refused as unsound.
    let micro = |mean: f32| (f64::from(mean) * 1e6).round() as u32;
    Counters {
        samples: counts.samples,
        errors: counts.errors,
        labelled: counts.labelled,
        right: counts.right,
        confidence_micro: bundle.confidence_mean.map(micro),
        latency_p95_us: bundle.latency_p95_us,
    }
}

/// Several devices as one: sums, the mean confidence by samples, and the median latency.
fn together(all: &[Counters]) -> Option<Counters> {
    let sum = |part: fn(&Counters) -> u64| all.iter().map(part).fold(0, u64::saturating_add);
    let confident: Vec<(u64, u32)> = all.iter().filter_map(|c| Some((c.samples, c.confidence_micro?))).collect();
    let weight: u128 = confident.iter().map(|(samples, _)| u128::from(*samples)).sum();
    let weighted: u128 = confident.iter().map(|(samples, micro)| u128::from(*samples) * u128::from(*micro)).sum();
    let mut latencies: Vec<u64> = all.iter().filter_map(|c| c.latency_p95_us).collect();
    latencies.sort_unstable();
    (!all.is_empty()).then(|| Counters {
        samples: sum(|c| c.samples),
        errors: sum(|c| c.errors),
        labelled: sum(|c| c.labelled),
        right: sum(|c| c.right),
        confidence_micro: weighted.checked_div(weight).and_then(|mean| u32::try_from(mean).ok()),
        latency_p95_us: latencies.get(latencies.len().saturating_sub(1) / 2).copied(),
    })
}
