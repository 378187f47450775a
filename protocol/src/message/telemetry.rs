//! What devices measure, on `t/<stream>`. Made for consumers that know nothing of Sedge: each message stands alone,
//! with text keys, units in names, the device, and text digests.
//!
//! Telemetry may be lost. Counters therefore count from the start of the agent, and a consumer takes differences within
//! one `boot`; or, for one bundle, the largest that it has heard in each boot.

use super::check::{self, invalid};
use super::{Invalid, Message, V1};
use crate::id::{BootId, ComponentName, Principal, RequestId};
use crate::limits::{COMPONENTS_MAX, PAYLOAD_BYTES_MAX, SEGMENTS_MAX};
use crate::{BundleDigest, Sha256Digest, Version};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

const LABELS_MAX: usize = 32;
const QUANTITIES_MAX: usize = 64;
const LOG_BYTES_MAX: usize = 64 * 1024;
/// Bundles from before whose counters a heartbeat still tells.
pub const PAST_BUNDLES_MAX: usize = 4;

/// A message of a telemetry stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Telemetry {
    /// What a model said about a sample or a part of it.
    Result(Prediction),
    /// How components fare, every minute or so.
    Health(Health),
    /// Log lines that were asked for.
    Log(LogSegment),
}

/// A typed prediction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Schema version.
    pub v: V1,
    /// When the sample was taken.
    pub ts_ms: u64,
    /// Device, `<project>:<device>`.
    pub dev: Principal,
    /// This start of the agent.
    pub boot: BootId,
    /// Number within stream and boot; gaps tell of losses.
    pub seq: u64,
    /// Component that said so.
    pub component: ComponentName,
    /// Digest of the model file.
    pub model: Sha256Digest,
    /// Version of the bundle.
    pub ver: Version,
    /// Source of the sample, by its name in the configuration.
    pub source: String,
    /// Names the prediction wherever labels, reports or explanations refer to it. Several of one sample share all but
    /// the part after the last `/`.
    pub id: String,
    /// Best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<ScoredLabel>,
    /// Values of a regression model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quantities: Vec<Quantity>,
    /// 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f32>,
    /// The part of the input that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Region>,
    /// From sample to prediction.
    pub latency_us: u64,
}

/// A class and its score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ScoredLabel {
    pub index: u32,
    pub label: String,
    pub score: f32,
}

/// A measured quantity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Quantity {
    pub name: String,
    pub value: f64,
    pub unit: String,
}

/// Left, top, width and height as fractions of the input.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Region {
    pub x: f32,
    pub y: f32,
    pub width: f32,
    pub height: f32,
}

/// How a device and its components fare; a heartbeat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// Schema version.
    pub v: V1,
    /// When.
    pub ts_ms: u64,
    /// Device, `<project>:<device>`.
    pub dev: Principal,
    /// This start of the agent.
    pub boot: BootId,
    /// Number within stream and boot.
    pub seq: u64,
    /// Since the start of the agent.
    pub uptime_s: u64,
    /// Span of the quantiles and means below.
    pub window_s: u32,
    /// Free storage for bundles.
    pub disk_free_bytes: u64,
    /// Messages that wait in the outbox.
    pub outbox_messages: u32,
    /// Telemetry messages dropped from the outbox, since the start of the agent.
    pub outbox_dropped: u64,
    /// Hottest sensor of the board.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature_c: Option<f32>,
    /// Each component that processes samples.
    pub components: BTreeMap<ComponentName, ComponentHealth>,
}

/// How a component fares. Counters are since the start of the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComponentHealth {
    /// The bundle that runs, measured and not remembered.
    pub running: BundleDigest,
    /// Samples taken.
    pub samples: u64,
    /// Of them, those that failed.
    pub errors: u64,
    /// Of them, those dropped because the worker was busy.
    pub dropped: u64,
    /// Restarts of the worker.
    pub worker_restarts: u32,
    /// Memory of the worker.
    pub memory_bytes: u64,
    /// Half of the window's samples took no longer; absent without samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_p50_us: Option<u64>,
    /// 95 of 100 took no longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_p95_us: Option<u64>,
    /// 99 of 100 took no longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_p99_us: Option<u64>,
    /// Mean confidence of the window's predictions, where the model has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence_mean: Option<f32>,
    /// Right answers that came when the prediction was no longer remembered.
    #[serde(default)]
    pub labels_late: u64,
    /// How the running bundle fares; an agent that does not tell it says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<BundleHealth>,
    /// How those fared that served before it in this boot, the latest first; at most [`PAST_BUNDLES_MAX`]. Their labels
    /// may still come.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub past: Vec<BundleHealth>,
}

/// How one bundle fares. What it answered counts for it alone, whenever the right answer comes. Counters are since
/// `serving_since_ts_ms`, and go on when it serves again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BundleHealth {
    /// Which.
    pub bundle: BundleDigest,
    /// When its counting began: it serves for the first time in this boot, or again after it was forgotten. Tells two
    /// counts of one boot apart.
    pub serving_since_ts_ms: u64,
    /// When the first sample came back from it, answered or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_result_ts_ms: Option<u64>,
    /// Samples that came back from it.
    pub samples: u64,
    /// Of them, those that failed.
    pub errors: u64,
    /// Of them, those whose right answer is known.
    pub labelled: u64,
    /// Of those, the ones that it answered right.
    pub right: u64,
    /// Half of the window's samples took no longer; the last window of one that serves no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_p50_us: Option<u64>,
    /// 95 of 100 took no longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_p95_us: Option<u64>,
    /// 99 of 100 took no longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_p99_us: Option<u64>,
    /// Mean confidence of the window's predictions, where the model has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence_mean: Option<f32>,
}

/// Log lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSegment {
    /// Schema version.
    pub v: V1,
    /// When.
    pub ts_ms: u64,
    /// Device, `<project>:<device>`.
    pub dev: Principal,
    /// This start of the agent.
    pub boot: BootId,
    /// Number within stream and boot.
    pub seq: u64,
    /// The command that asked for them.
    pub request: RequestId,
    /// Number of this part, from 0.
    pub index: u32,
    /// Number of all parts.
    pub count: u32,
    /// Whole lines.
    pub lines: String,
}

impl Telemetry {
    /// The device that says it has measured this; a receiver compares it with the topic's.
    pub fn device(&self) -> &Principal {
        match self {
            Self::Result(Prediction { dev, .. }) | Self::Health(Health { dev, .. }) => dev,
            Self::Log(LogSegment { dev, .. }) => dev,
        }
    }
}

impl Message for Telemetry {
    const NAME: &'static str = "telemetry";
    const BYTES_MAX: usize = PAYLOAD_BYTES_MAX;

    fn validate(&self) -> Result<(), Invalid> {
        match self {
            Self::Result(prediction) => prediction.validate(),
            Self::Health(health) => health.validate(),
            Self::Log(log) => log.validate(),
        }
    }
}

impl Prediction {
    fn validate(&self) -> Result<(), Invalid> {
        check::name("source", &self.source)?;
        check::name("id", &self.id)?;
        check::count("labels", self.labels.len(), 0..=LABELS_MAX)?;
        for l in &self.labels {
            check::name("labels.label", &l.label)?;
            check::finite("labels.score", l.score.into())?;
        }
        check::count("quantities", self.quantities.len(), 0..=QUANTITIES_MAX)?;
        for q in &self.quantities {
            check::name("quantities.name", &q.name)?;
            check::text("quantities.unit", &q.unit, check::LABEL_BYTES_MAX)?;
            check::finite("quantities.value", q.value)?;
        }
        self.confidence.map_or(Ok(()), |c| check::fraction("confidence", c))?;
        let Some(r) = &self.region else { return Ok(()) };
        [r.x, r.y, r.width, r.height].into_iter().try_for_each(|f| check::fraction("region", f))
    }
}

impl Health {
    fn validate(&self) -> Result<(), Invalid> {
        check::count("components", self.components.len(), 0..=COMPONENTS_MAX)?;
        self.temperature_c.map_or(Ok(()), |t| check::finite("temperature_c", t.into()))?;
        for (name, c) in &self.components {
            c.validate(&format!("components.{name}"))?;
        }
        Ok(())
    }
}

fn window(field: &str, quantiles: [Option<u64>; 3], confidence_mean: Option<f32>) -> Result<(), Invalid> {
    if !quantiles.iter().flatten().is_sorted() {
        return Err(invalid(format_args!("{field}.latency_p50_us"), "quantiles are not in order"));
    }
    confidence_mean.map_or(Ok(()), |mean| check::fraction(format_args!("{field}.confidence_mean"), mean))
}

impl ComponentHealth {
    fn validate(&self, field: &str) -> Result<(), Invalid> {
        if self.errors.checked_add(self.dropped).is_none_or(|lost| lost > self.samples) {
            return Err(invalid(format_args!("{field}.errors"), "errors and drops exceed the samples"));
        }
        window(field, [self.latency_p50_us, self.latency_p95_us, self.latency_p99_us], self.confidence_mean)?;
        if self.serving.as_ref().is_some_and(|serving| serving.bundle != self.running) {
            return Err(invalid(format_args!("{field}.serving.bundle"), "is not the one that runs"));
        }
        check::count(format_args!("{field}.past"), self.past.len(), 0..=PAST_BUNDLES_MAX)?;
        let mut bundles = BTreeSet::from([self.running]);
        if !self.past.iter().all(|past| bundles.insert(past.bundle)) {
            return Err(invalid(format_args!("{field}.past.bundle"), "occurs twice, or is the one that runs"));
        }
        self.serving.iter().try_for_each(|serving| serving.validate(&format!("{field}.serving")))?;
        self.past.iter().try_for_each(|past| past.validate(&format!("{field}.past")))
    }
}

impl BundleHealth {
    fn validate(&self, field: &str) -> Result<(), Invalid> {
        let answered = self.samples.checked_sub(self.errors);
        if answered.is_none_or(|answered| self.labelled > answered) {
            return Err(invalid(format_args!("{field}.samples"), "errors and labels exceed the samples"));
        }
        if self.right > self.labelled {
            return Err(invalid(format_args!("{field}.right"), "more are right than are labelled"));
        }
        window(field, [self.latency_p50_us, self.latency_p95_us, self.latency_p99_us], self.confidence_mean)
    }
}

impl LogSegment {
    fn validate(&self) -> Result<(), Invalid> {
        check::count("count", self.count as usize, 1..=SEGMENTS_MAX as usize)?;
        if self.index >= self.count {
            return Err(invalid("index", format_args!("{} of {} parts", self.index, self.count)));
        }
        check::text("lines", &self.lines, LOG_BYTES_MAX)
    }
}
