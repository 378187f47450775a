//! A component's counters, since the start of the agent, and those of each bundle that served; quantiles and means over
//! the last one to two minutes.
//!
//! What a bundle answered counts for that bundle, also when the result or the right answer comes after another took
//! over. The last few bundles are remembered, so a device that went back still tells how the bad version did.

use crate::latency::Latencies;
use crate::sink::{Record, Verdict};
use sedge_protocol::BundleDigest;
use sedge_protocol::message::{BundleHealth, ComponentHealth, PAST_BUNDLES_MAX};
use std::collections::VecDeque;
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
    pub(super) labels_late: u64,
    pub(super) memory_bytes: u64,
    window: Window,
    serving: Option<Serving>,
    /// The latest first.
    past: VecDeque<BundleHealth>,
}

/// The bundle that serves.
#[derive(Debug)]
struct Serving {
    /// Without what the window knows.
    counters: BundleHealth,
    window: Window,
}

#[derive(Debug, Default)]
struct Window {
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

impl Window {
    fn add(&mut self, latency_us: u64, confidence: Option<f32>, at: Instant) {
        if self.since.is_none_or(|since| at.saturating_duration_since(since) >= HALF) {
            self.before = std::mem::take(&mut self.now);
            self.since = Some(at);
        }
        self.now.latencies.add(latency_us);
        if let Some(confidence) = confidence {
            self.now.confidence_sum += f64::from(confidence);
            self.now.confidences += 1;
        }
    }

    fn quantiles(&self) -> [Option<u64>; 3] {
        let mut latencies = self.now.latencies.clone();
        latencies.merge(&self.before.latencies);
        [500, 950, 990].map(|permille| latencies.quantile(permille))
    }

    fn confidence_mean(&self) -> Option<f32> {
        let confidences = self.now.confidences + self.before.confidences;
        let sum = self.now.confidence_sum + self.before.confidence_sum;
        let mean = (sum / f64::from(confidences.max(1))) as f32;
        (confidences > 0).then_some(mean.clamp(0.0, 1.0))
    }
}

impl Serving {
    fn health(&self) -> BundleHealth {
        let [latency_p50_us, latency_p95_us, latency_p99_us] = self.window.quantiles();
        let confidence_mean = self.window.confidence_mean();
        BundleHealth { latency_p50_us, latency_p95_us, latency_p99_us, confidence_mean, ..self.counters.clone() }
    }
}

impl Tally {
    /// From now on this bundle serves. One that served before goes on counting where it stopped, while it is remembered.
    pub(super) fn serve(&mut self, bundle: BundleDigest, ts_ms: u64) {
        if self.serving.as_ref().is_some_and(|serving| serving.counters.bundle == bundle) {
            return;
        }
        let before = self.past.iter().position(|past| past.bundle == bundle).and_then(|at| self.past.remove(at));
        if let Some(serving) = self.serving.take() {
            self.past.push_front(serving.health());
            self.past.truncate(PAST_BUNDLES_MAX);
        }
        let counters = before.unwrap_or(BundleHealth {
            bundle,
            serving_since_ts_ms: ts_ms,
            first_result_ts_ms: None,
            samples: 0,
            errors: 0,
            labelled: 0,
            right: 0,
            latency_p50_us: None,
            latency_p95_us: None,
            latency_p99_us: None,
            confidence_mean: None,
        });
        self.serving = Some(Serving { counters, window: Window::default() });
    }

    fn remembered(&mut self, bundle: BundleDigest) -> Option<&mut BundleHealth> {
        let serving = self.serving.as_mut().map(|serving| &mut serving.counters);
        serving.into_iter().chain(&mut self.past).find(|counters| counters.bundle == bundle)
    }

    pub(super) fn count(&mut self, record: &Record, at: Instant, ts_ms: u64) {
        if self.remembered(record.bundle).is_none() {
            self.serve(record.bundle, ts_ms);
        }
        let (failed, right) = (matches!(record.verdict, Verdict::Failed { .. }), record.is_right());
        let came_back = !matches!(record.verdict, Verdict::NotYet);
        let confidence = record.best().and_then(|p| p.confidence);
        self.errors += u64::from(failed);
        self.window.add(record.latency_us, confidence, at);
        if let Some(serving) = self.serving.as_mut().filter(|serving| serving.counters.bundle == record.bundle) {
            serving.window.add(record.latency_us, confidence, at);
        }
        if let Some(counters) = self.remembered(record.bundle) {
            counters.samples += 1;
            counters.errors += u64::from(failed);
            counters.first_result_ts_ms = counters.first_result_ts_ms.or(came_back.then_some(ts_ms));
        }
        if let Some(right) = right {
            self.label(record.bundle, right);
        }
    }

    /// Takes in the right answer to a sample that this bundle answered.
    pub(super) fn label(&mut self, bundle: BundleDigest, right: bool) {
        let Some(counters) = self.remembered(bundle) else {
            self.labels_late += 1;
            return;
        };
        counters.labelled += 1;
        counters.right += u64::from(right);
        self.labelled += 1;
        self.right += u64::from(right);
    }

    /// Nothing before a bundle has served.
    pub(super) fn health(&self) -> Option<ComponentHealth> {
        let serving = self.serving.as_ref()?.health();
        let [latency_p50_us, latency_p95_us, latency_p99_us] = self.window.quantiles();
        Some(ComponentHealth {
            running: serving.bundle,
            samples: self.samples,
            errors: self.errors,
            dropped: self.dropped,
            worker_restarts: self.restarts,
            memory_bytes: self.memory_bytes,
            latency_p50_us,
            latency_p95_us,
            latency_p99_us,
            confidence_mean: self.window.confidence_mean(),
            labels_late: self.labels_late,
            serving: Some(serving),
            past: self.past.iter().cloned().collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::Prediction;
    use sedge_protocol::Sha256Digest;
    use sedge_protocol::message::ScoredLabel;

    fn bundle(n: u8) -> BundleDigest {
        BundleDigest(Sha256Digest::of(&[n]))
    }

    fn record(n: u8, expected: Option<&str>, failed: bool) -> Record {
        let labels = vec![ScoredLabel { index: 0, label: "7".into(), score: 0.5 }];
        let one = Prediction { id: "p".into(), labels, quantities: vec![], confidence: Some(0.5), region: None };
        let verdict = match failed {
            true => Verdict::Failed { error: "no image".into() },
            false => Verdict::Ok { predictions: vec![one], payloads: vec![] },
        };
        Record {
            seq: 1,
            ts_ms: 1,
            component: "digits".parse().expect("a name"),
            slot: Default::default(),
            bundle: bundle(n),
            ver: "1.0.0".parse().expect("a version"),
            model: Sha256Digest::of(b""),
            source: "test".into(),
            name: "a.png".into(),
            expected: expected.map(str::to_owned),
            latency_us: 100 * u64::from(n),
            verdict,
        }
    }

    fn told(tally: &Tally, n: u8) -> Option<BundleHealth> {
        let health = tally.health().expect("one serves");
        assert!(health.past.len() <= PAST_BUNDLES_MAX);
        health.serving.into_iter().chain(health.past).find(|fares| fares.bundle == bundle(n))
    }

    #[test]
    fn what_a_bundle_answered_counts_for_it_alone_whenever_it_is_told() {
        let (mut tally, at) = (Tally { samples: 9, ..Tally::default() }, Instant::now());
        assert!(tally.health().is_none());
        tally.serve(bundle(1), 10);
        tally.count(&record(1, Some("7"), false), at, 11);
        tally.count(&record(1, None, false), at, 12);
        tally.serve(bundle(2), 20);
        // The old worker's last sample comes back after the switch, and an answer is known later still.
        tally.count(&record(1, Some("8"), false), at, 21);
        assert_eq!(told(&tally, 2).expect("serves").first_result_ts_ms, None);
        tally.count(&record(2, Some("7"), true), at, 22);
        tally.label(bundle(1), true);
        let (one, two) = (told(&tally, 1).expect("past"), told(&tally, 2).expect("serves"));
        let counts = |b: &BundleHealth| (b.samples, b.errors, b.labelled, b.right, b.first_result_ts_ms);
        assert_eq!(counts(&one), (3, 0, 3, 2, Some(11)));
        assert_eq!(counts(&two), (1, 1, 0, 0, Some(22)), "a failed sample came back too, and has no label");
        assert_eq!((one.latency_p95_us, one.confidence_mean), (Some(103), Some(0.5)), "its last window");
        assert_eq!((two.latency_p95_us, two.confidence_mean), (Some(207), None));

        tally.serve(bundle(1), 30);
        tally.count(&record(1, None, false), at, 31);
        let one = told(&tally, 1).expect("serves");
        assert_eq!((one.samples, one.serving_since_ts_ms, one.first_result_ts_ms), (4, 10, Some(11)), "it goes on");
        let health = tally.health().expect("serves");
        assert_eq!((health.running, health.past.len()), (bundle(1), 1));
        assert_eq!((tally.errors, tally.labelled, tally.right), (1, 3, 2), "over all bundles");
    }

    #[test]
    fn the_last_few_bundles_are_remembered() {
        let (mut tally, at) = (Tally { samples: 9, ..Tally::default() }, Instant::now());
        for n in 1..=6 {
            tally.serve(bundle(n), n.into());
            tally.count(&record(n, None, false), at, n.into());
        }
        assert!(told(&tally, 1).is_none() && told(&tally, 2).is_some());
        tally.label(bundle(1), true);
        assert_eq!((tally.labels_late, tally.labelled), (1, 0));
        tally.serve(bundle(1), 7);
        let again = told(&tally, 1).expect("serves");
        assert_eq!((again.samples, again.serving_since_ts_ms), (0, 7), "counted anew, and it says so");
    }
}
