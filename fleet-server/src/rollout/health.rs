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

/// Most of anything that is counted; larger numbers come from a broken or hostile device.
const COUNT_MAX: u64 = 1 << 44;

impl Counters {
    /// Whether they can be: parts are not larger than their wholes, and nothing is absurd.
    pub fn is_sound(&self) -> bool {
        self.samples <= COUNT_MAX
            && self.errors <= self.samples
            && self.labelled <= COUNT_MAX
            && self.right <= self.labelled
            && self.confidence_micro.is_none_or(|micro| u128::from(micro) <= MICRO)
            && self.latency_p95_us.is_none_or(|us| us <= COUNT_MAX)
    }

    /// Samples behind a metric.
    pub fn samples_for(&self, metric: Metric) -> u64 {
        match metric {
            Metric::ErrorRate => self.samples,
            Metric::Accuracy => self.labelled,
            Metric::Confidence => self.confidence_micro.map_or(0, |_| self.samples),
            Metric::LatencyP95 => self.latency_p95_us.map_or(0, |_| self.samples),
        }
    }
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

impl Share {
    /// Small enough to be multiplied with another and a thousand. Exact below 2^52, which no fleet reaches.
    fn small(self) -> Self {
        let shift = (u128::BITS - self.of.leading_zeros()).saturating_sub(52);
        Self { part: self.part >> shift, of: (self.of >> shift).max(1), samples: self.samples }
    }

    /// In millionths, rounded down; a latency as it is.
    pub(super) fn value(self, latency: bool) -> Option<u64> {
        let value = if latency { Some(self.part) } else { (self.part * MICRO).checked_div(self.of) };
        value.filter(|_| self.samples > 0).map(|value| u64::try_from(value).unwrap_or(u64::MAX))
    }

    /// Whether it is above so many per thousand.
    pub(super) fn is_above(self, permille: u32) -> bool {
        self.part * 1000 > self.of * u128::from(permille)
    }

    /// Whether it is below so many per thousand.
    pub(super) fn is_below(self, permille: u32) -> bool {
        self.part * 1000 < self.of * u128::from(permille)
    }

    /// Whether it is worse than the control by more than so many points per thousand, or per thousand of the control's
    /// latency.
    pub(super) fn is_worse(self, control: Self, metric: Metric, permille: u32) -> bool {
        let (new, old, allowed) = (self.small(), control.small(), u128::from(permille));
        let slack = allowed * new.of * old.of;
        match metric {
            Metric::LatencyP95 => self.part * 1000 > control.part * (1000 + allowed),
            Metric::ErrorRate => new.part * old.of * 1000 > old.part * new.of * 1000 + slack,
            Metric::Accuracy | Metric::Confidence => new.part * old.of * 1000 + slack < old.part * new.of * 1000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(samples: u64, errors: u64) -> Counters {
        Counters { samples, errors, ..Counters::default() }
    }

    #[test]
    fn sums_follow_each_device_and_share_exactly() {
        let mut sums = Sums::default();
        sums.replace(None, &counters(100, 1));
        sums.replace(None, &counters(200, 2));
        sums.replace(Some(&counters(100, 1)), &counters(700, 43));
        let share = sums.share(Metric::ErrorRate);
        assert_eq!((share.part, share.of, share.value(false)), (45, 900, Some(50_000)));
        assert!(!share.is_above(50) && share.is_above(49) && !share.is_below(50) && share.is_below(51));
    }

    #[test]
    fn a_median_counts_devices_and_rounds_down_a_little() {
        let mut spread = Spread::default();
        for us in [1, 100, 900_001, 50_000, 60_000] {
            spread.add(us);
        }
        let median = spread.median_us().expect("devices");
        assert!(median <= 50_000 && median > 50_000 - 50_000 / 64, "{median}");
        [1, 100].into_iter().for_each(|us| spread.remove(us));
        assert!(spread.median_us().expect("devices") > 58_000);
        [50_000, 60_000, 900_001].into_iter().for_each(|us| spread.remove(us));
        assert_eq!(spread, Spread::default());
        assert_eq!(spread.median_us(), None);
    }

    #[test]
    fn the_largest_sums_can_be_compared() {
        let most = Counters {
            samples: COUNT_MAX,
            labelled: COUNT_MAX,
            right: COUNT_MAX,
            errors: COUNT_MAX,
            confidence_micro: Some(1_000_000),
            latency_p95_us: Some(COUNT_MAX),
        };
        assert!(most.is_sound() && !Counters { samples: u64::MAX, ..most }.is_sound());
        let mut sums = Sums::default();
        (0..1 << 12).for_each(|_| sums.replace(None, &most));
        for metric in [Metric::ErrorRate, Metric::Accuracy, Metric::Confidence, Metric::LatencyP95] {
            let share = sums.share(metric);
            assert!(!share.is_worse(share, metric, 0) && !share.is_worse(share, metric, 1000));
        }
    }

    #[test]
    fn worse_than_the_control_is_exact_at_the_limit() {
        let share =
            |right, labelled| Sums::of(&Counters { labelled, right, ..Counters::default() }).share(Metric::Accuracy);
        assert!(!share(90, 100).is_worse(share(950, 1000), Metric::Accuracy, 50));
        assert!(share(89, 100).is_worse(share(950, 1000), Metric::Accuracy, 50));
        assert!(!share(99, 100).is_worse(share(1, 1000), Metric::Accuracy, 0));
        let slow = |us| Sums::of(&Counters { samples: 9, latency_p95_us: Some(us), ..Counters::default() });
        let of = |us| slow(us).share(Metric::LatencyP95);
        assert!(
            !of(120).is_worse(of(100), Metric::LatencyP95, 200) && of(121).is_worse(of(100), Metric::LatencyP95, 200)
        );
    }
}
