//! What heartbeats have told, as a value: heartbeats go in, changes come out.
//!
//! What always holds: a heartbeat that is lost, late or repeated does no harm. Counters are cumulative (see
//! [`super::counters`]), so the next one brings what a lost one would have; and what a device runs is said by the
//! heartbeat that is news: one with a higher number than any heard of its boot.

use super::counters::{BundleCounters, Counts};
use sedge_protocol::BundleDigest;
use sedge_protocol::id::{BootId, ComponentName, DeviceId, Principal, ProjectId};
use sedge_protocol::limits::COMPONENTS_MAX;
use sedge_protocol::message::{ComponentHealth, Health};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

/// Bundles whose counters are kept of a component; those that were not heard of for the longest time go first.
const BUNDLES_MAX: usize = 16;
/// Boots of which the highest number is remembered.
const BOOTS_MAX: usize = 16;

/// A device's model fares otherwise than before, or it runs another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldChange {
    /// Which device.
    pub device: Principal,
    /// Which component.
    pub component: ComponentName,
    /// What it runs.
    pub running: BundleDigest,
    /// When that was heard, by the server's clock, Unix milliseconds.
    pub at_ms: u64,
}

/// What is known of one device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct DeviceField {
    /// The newest heartbeat, without counters of bundles.
    heartbeat: Health,
    received_ms: u64,
    /// Boots and the highest number heard of each; the present one last.
    boots: VecDeque<(BootId, u64)>,
    components: BTreeMap<ComponentName, BTreeMap<BundleDigest, BundleCounters>>,
}

/// A device as the field shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeviceView {
    /// Its name.
    pub device: Principal,
    /// When its newest heartbeat arrived, by the server's clock, Unix milliseconds.
    pub last_heartbeat_ms: u64,
    /// Start of the agent that it is of.
    pub boot: BootId,
    /// Its components.
    pub components: BTreeMap<ComponentName, ComponentView>,
}

/// A component of a device.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ComponentView {
    /// What the newest heartbeat says of it, without counters of bundles; nothing once it has gone.
    pub latest: Option<ComponentHealth>,
    /// What it runs, measured.
    pub running: Option<BundleDigest>,
    /// What each bundle did here.
    pub bundles: BTreeMap<BundleDigest, BundleView>,
}

/// What a bundle did on one device, over all starts of its agent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BundleView {
    /// Its counters.
    #[serde(flatten)]
    pub counts: Counts,
    /// When the first sample came back from it, by the device's clock, Unix milliseconds.
    pub first_result_ts_ms: Option<u64>,
    /// When a heartbeat last told of it, by the server's clock, Unix milliseconds.
    pub last_heard_ms: u64,
    /// Of its last window.
    pub latency_p95_us: Option<u64>,
    /// Of its last window.
    pub confidence_mean: Option<f32>,
}

/// What a bundle did on several devices.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct FieldCounters {
    /// Devices that have told of the bundle.
    pub devices: u32,
    /// Of them, those that run it by their newest heartbeat.
    pub running: u32,
    /// The sum of their counters.
    #[serde(flatten)]
    pub counts: Counts,
    /// The earliest first result, by the clock of its device, Unix milliseconds.
    pub first_result_ts_ms: Option<u64>,
    /// The largest 95th percentile of a device.
    pub latency_p95_us_max: Option<u64>,
    /// Half of the devices have no larger 95th percentile.
    pub latency_p95_us_median: Option<u64>,
    /// Mean over devices of their mean confidence.
    pub confidence_mean: Option<f32>,
}

/// All devices.
#[derive(Debug, Default)]
pub(super) struct FieldState {
    projects: BTreeMap<ProjectId, BTreeMap<DeviceId, DeviceField>>,
}

impl DeviceField {
    fn new(health: &Health) -> Self {
        let heartbeat = Health { components: BTreeMap::new(), ..health.clone() };
        Self { heartbeat, received_ms: 0, boots: VecDeque::new(), components: BTreeMap::new() }
    }

    /// When the newest heartbeat arrived.
    pub(super) fn received_ms(&self) -> u64 {
        self.received_ms
    }

    /// Whether this number is higher than any heard of its boot, which then is the present one.
    fn is_news(&mut self, boot: &BootId, seq: u64) -> bool {
        let at = self.boots.iter().position(|(known, _)| known == boot);
        if at.is_some_and(|at| self.boots[at].1 >= seq) {
            return false;
        }
        at.and_then(|at| self.boots.remove(at));
        self.boots.push_back((boot.clone(), seq));
        if self.boots.len() > BOOTS_MAX {
            self.boots.pop_front();
        }
        true
    }

    fn hear(&mut self, health: &Health, received_ms: u64) -> bool {
        let is_news = self.is_news(&health.boot, health.seq);
        for (name, said) in &health.components {
            let bundles = self.components.entry(name.clone()).or_default();
            for fares in said.serving.iter().chain(&said.past) {
                let counters = bundles.entry(fares.bundle).or_insert_with(BundleCounters::new);
                counters.hear(&health.boot, fares, is_news, received_ms);
            }
            while bundles.len() > BUNDLES_MAX {
                let others = bundles.iter().filter(|(bundle, _)| **bundle != said.running);
                let Some((&oldest, _)) = others.min_by_key(|(_, counters)| counters.last_heard_ms) else { break };
                bundles.remove(&oldest);
            }
        }
        if is_news {
            self.received_ms = received_ms;
            self.heartbeat = health.clone();
            for component in self.heartbeat.components.values_mut() {
                (component.serving, component.past) = (None, Vec::new());
            }
        }
        self.forget_components();
        is_news
    }

    /// Stops a device that names ever new components.
    fn forget_components(&mut self) {
        while self.components.len() > COMPONENTS_MAX {
            let gone = self.components.iter().filter(|(name, _)| !self.heartbeat.components.contains_key(*name));
            let heard = |bundles: &BTreeMap<_, BundleCounters>| bundles.values().map(|b| b.last_heard_ms).max();
            let Some(oldest) = gone.min_by_key(|(_, bundles)| heard(bundles)).map(|(name, _)| name.clone()) else {
                return;
            };
            self.components.remove(&oldest);
        }
    }

    fn view(&self, device: Principal) -> DeviceView {
        let names = self.components.keys().chain(self.heartbeat.components.keys());
        let component = |name: &ComponentName| {
            let latest = self.heartbeat.components.get(name).cloned();
            let bundles = self.components.get(name).into_iter().flatten().map(|(bundle, counters)| {
                let view = BundleView {
                    counts: counters.total(),
                    first_result_ts_ms: counters.first_result_ts_ms,
                    last_heard_ms: counters.last_heard_ms,
                    latency_p95_us: counters.latency_p95_us,
                    confidence_mean: counters.confidence_mean,
                };
                (*bundle, view)
            });
            let running = latest.as_ref().map(|latest| latest.running);
            (name.clone(), ComponentView { latest, running, bundles: bundles.collect() })
        };
        let components = names.map(component).collect();
        let (last_heartbeat_ms, boot) = (self.received_ms, self.heartbeat.boot.clone());
        DeviceView { device, last_heartbeat_ms, boot, components }
    }
}

impl FieldState {
    /// Puts back what was stored of a device.
    pub(super) fn resume(&mut self, device: Principal, field: DeviceField) {
        self.projects.entry(device.project).or_default().insert(device.device, field);
    }

    /// Forgets a device.
    pub(super) fn forget(&mut self, device: &Principal) {
        if let Some(devices) = self.projects.get_mut(&device.project) {
            devices.remove(&device.device);
        }
    }

    /// Takes in a heartbeat. What is told of it: one change for each component, unless it is old.
    pub(super) fn hear(&mut self, device: &Principal, health: &Health, received_ms: u64) -> Vec<FieldChange> {
        let devices = self.projects.entry(device.project.clone()).or_default();
        let field = devices.entry(device.device.clone()).or_insert_with(|| DeviceField::new(health));
        if !field.hear(health, received_ms) {
            return Vec::new();
        }
        let change = |(component, said): (&ComponentName, &ComponentHealth)| FieldChange {
            device: device.clone(),
            component: component.clone(),
            running: said.running,
            at_ms: received_ms,
        };
        health.components.iter().map(change).collect()
    }

    /// What is to be stored of a device.
    pub(super) fn of(&self, device: &Principal) -> Option<&DeviceField> {
        self.projects.get(&device.project)?.get(&device.device)
    }

    pub(super) fn device(&self, device: &Principal) -> Option<DeviceView> {
        self.of(device).map(|field| field.view(device.clone()))
    }

    /// Devices of a project after this one, by name.
    pub(super) fn page(&self, project: &ProjectId, after: Option<&DeviceId>, count_max: usize) -> Vec<DeviceView> {
        let Some(devices) = self.projects.get(project) else { return Vec::new() };
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.clone()));
        let view = |(device, field): (&DeviceId, &DeviceField)| {
            field.view(Principal { project: project.clone(), device: device.clone() })
        };
        devices.range((from, Bound::Unbounded)).take(count_max).map(view).collect()
    }

    /// What a bundle did on these devices.
    pub(super) fn counters<'a>(
        &self,
        devices: impl IntoIterator<Item = &'a Principal>,
        bundle: BundleDigest,
    ) -> FieldCounters {
        let mut sum = FieldCounters::default();
        let (mut latencies, mut confidences) = (Vec::new(), Vec::new());
        for field in devices.into_iter().filter_map(|device| self.of(device)) {
            let runs = field.heartbeat.components.values().any(|component| component.running == bundle);
            sum.running += u32::from(runs);
            let mut here = field.components.values().filter_map(|bundles| bundles.get(&bundle)).peekable();
            sum.devices += u32::from(here.peek().is_some());
            for counters in here {
                sum.counts = sum.counts.plus(counters.total());
                sum.first_result_ts_ms = sum.first_result_ts_ms.into_iter().chain(counters.first_result_ts_ms).min();
                latencies.extend(counters.latency_p95_us);
                confidences.extend(counters.confidence_mean);
            }
        }
        latencies.sort_unstable();
        sum.latency_p95_us_max = latencies.last().copied();
        sum.latency_p95_us_median = latencies.get(latencies.len().saturating_sub(1) / 2).copied();
        let total: f64 = confidences.iter().copied().map(f64::from).sum();
        sum.confidence_mean = (!confidences.is_empty()).then(|| (total / confidences.len() as f64) as f32);
        sum
    }
}
