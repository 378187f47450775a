//! How devices fare, added up. A wave's sums change by one device at a time, so that a heartbeat costs the same in a
//! fleet of ten and of a hundred thousand.

use super::spec::Metric;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const MICRO: u128 = 1_000_000;

/// What one device, or several together, have counted for one bundle. They only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Counters {
    /// Samples taken.
    pub samples: u64,
    /// Of them, those that failed.
    pub errors: u64,
    /// Of them, those whose right answer is known.
    pub labelled: u64,
    /// Of those, the ones answered rightly.
    pub right: u64,
    /// Mean confidence in millionths, where the model has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence_micro: Option<u32>,
    /// 95 of 100 samples took no longer; of several devices, the median device's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_p95_us: Option<u64>,
}

/// The 95th percentiles of many devices. Percentiles cannot be added, but devices can be counted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Spread {
    devices: BTreeMap<u64, u32>,
    count: u64,
}

impl Spread {
    fn add(&mut self, us: u64) {
        *self.devices.entry(rounded(us)).or_default() += 1;
        self.count += 1;
    }

    fn remove(&mut self, us: u64) {
        let key = rounded(us);
        if let Some(devices) = self.devices.get_mut(&key) {
            *devices -= 1;
            self.count -= 1;
            if *devices == 0 {
                self.devices.remove(&key);
            }
        }
    }

    /// The median device's, rounded down by at most a sixty-fourth; of an even number, the faster of the middle two.
    pub fn median_us(&self) -> Option<u64> {
        let mut left = self.count.div_ceil(2);
        self.devices.iter().find_map(|(us, devices)| {
            let reached = u64::from(*devices) >= left;
            left = left.saturating_sub((*devices).into());
            reached.then_some(*us)
        })
    }
}

/// The seven leading bits: never above the value, so that rounding fails no gate, and few enough to look through.
fn rounded(us: u64) -> u64 {
    let drop = (u64::BITS - us.leading_zeros()).saturating_sub(7);
    us >> drop << drop
}

/// Sums over devices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Sums {
    samples: u128,
    errors: u128,
    labelled: u128,
    right: u128,
    confidence_micro: u128,
    confident: u128,
    latency: Spread,
}

impl Sums {
    pub(super) fn replace(&mut self, old: Option<&Counters>, new: &Counters) {
        if let Some(old) = old {
            self.samples -= u128::from(old.samples);
            self.errors -= u128::from(old.errors);
            self.labelled -= u128::from(old.labelled);
            self.right -= u128::from(old.right);
            if let Some(micro) = old.confidence_micro {
                self.confidence_micro -= u128::from(micro) * u128::from(old.samples);
                self.confident -= u128::from(old.samples);
            }
            if let Some(us) = old.latency_p95_us {
                self.latency.remove(us);
            }
        }
        self.samples += u128::from(new.samples);
        self.errors += u128::from(new.errors);
        self.labelled += u128::from(new.labelled);
        self.right += u128::from(new.right);
        if let Some(micro) = new.confidence_micro {
            self.confidence_micro += u128::from(micro) * u128::from(new.samples);
            self.confident += u128::from(new.samples);
        }
        if let Some(us) = new.latency_p95_us {
            self.latency.add(us);
        }
    }

    pub(super) fn of(counters: &Counters) -> Self {
        let mut sums = Self::default();
        sums.replace(None, counters);
        sums
    }

    /// What a metric is, as a fraction of integers, and the samples behind it.
    pub(super) fn share(&self, metric: Metric) -> Share {
        match metric {
            Metric::ErrorRate => Share { part: self.errors, of: self.samples, samples: self.samples },
            Metric::Accuracy => Share { part: self.right, of: self.labelled, samples: self.labelled },
            Metric::Confidence => {
                Share { part: self.confidence_micro, of: self.confident * MICRO, samples: self.confident }
            }
            Metric::LatencyP95 => {
                let median = self.latency.median_us();
                let samples = if median.is_some() { self.samples } else { 0 };
                Share { part: median.unwrap_or(0).into(), of: 1, samples }
            }
        }
    }
}

/// A measured share: `part / of`; for a latency, microseconds over one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) part: u128,
    pub(super) of: u128,
    pub(super) samples: u128,
}
