//! A component's counters, since the start of the agent; quantiles and means over the last one to two minutes.

use crate::latency::Latencies;
use crate::sink::{Record, Verdict};
use sedge_protocol::BundleDigest;
use sedge_protocol::message::ComponentHealth;
use std::time::{Duration, Instant};

/// Length of one half of the window.
const HALF: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) samples: u64,
    pub(super) errors: u64,
    pub(super) dropped: u64,
    pub(super) restarts: u32,
    pub(super) labelled: u64,
    pub(super) right: u64,
    pub(super) memory_bytes: u64,
    now: Half,
    before: Half,
    since: Option<Instant>,
}

#[derive(Debug, Default)]
struct Half {
    latencies: Latencies,
    confidence_sum: f64,
    confidences: u32,
}

impl Tally {
    pub(super) fn count(&mut self, record: &Record, at: Instant) {
        if self.since.is_none_or(|since| at.saturating_duration_since(since) >= HALF) {
            self.before = std::mem::take(&mut self.now);
            self.since = Some(at);
        }
        if matches!(record.verdict, Verdict::Failed { .. }) {
            self.errors += 1;
        }
        self.now.latencies.add(record.latency_us);
        if let Some(confidence) = record.best().and_then(|p| p.confidence) {
            self.now.confidence_sum += f64::from(confidence);
            self.now.confidences += 1;
        }
        if let Some(right) = record.is_right() {
            self.labelled += 1;
            self.right += u64::from(right);
        }
    }

    pub(super) fn health(&self, running: BundleDigest) -> ComponentHealth {
        let mut latencies = self.now.latencies.clone();
        latencies.merge(&self.before.latencies);
        let confidences = self.now.confidences + self.before.confidences;
        let sum = self.now.confidence_sum + self.before.confidence_sum;
        let mean = (sum / f64::from(confidences.max(1))) as f32;
        ComponentHealth {
            running,
            samples: self.samples,
            errors: self.errors,
            dropped: self.dropped,
            worker_restarts: self.restarts,
            memory_bytes: self.memory_bytes,
            latency_p50_us: latencies.quantile(500),
            latency_p95_us: latencies.quantile(950),
            latency_p99_us: latencies.quantile(990),
            confidence_mean: (confidences > 0).then_some(mean.clamp(0.0, 1.0)),
        }
    }
}
