//! The counters of one bundle on one device, over all starts of its agent. A value.
//!
//! A device counts from zero in each boot, and in one boot each counter only grows. So within a count (a boot, and when
//! counting began in it) the largest that was heard is the newest, whatever the order and however often a heartbeat
//! comes; and the sum over counts is what the bundle did on the device.

use sedge_protocol::id::BootId;
use sedge_protocol::message::BundleHealth;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Counts that are kept apart; of older ones only the sum is left, and a heartbeat of theirs that comes again would be
/// added again. A broker does not repeat a message over so many restarts of a device.
const COUNTS_MAX: usize = 8;

/// How many samples, and what became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Samples that came back from the bundle.
    pub samples: u64,
    /// Of them, those that failed.
    pub errors: u64,
    /// Of them, those whose right answer is known.
    pub labelled: u64,
    /// Of those, the ones that it answered right.
    pub right: u64,
}

impl Counts {
    fn of(health: &BundleHealth) -> Self {
        let &BundleHealth { samples, errors, labelled, right, .. } = health;
        Self { samples, errors, labelled, right }
    }

    fn both(self, other: Self, with: fn(u64, u64) -> u64) -> Self {
        Self {
            samples: with(self.samples, other.samples),
            errors: with(self.errors, other.errors),
            labelled: with(self.labelled, other.labelled),
            right: with(self.right, other.right),
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.both(other, u64::saturating_add)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Count {
    boot: BootId,
    since_ts_ms: u64,
    counts: Counts,
}

/// What a bundle did on a device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct BundleCounters {
    /// The sum of counts that are no longer kept apart.
    before: Counts,
    /// Oldest first.
    counts: VecDeque<Count>,
    pub(super) first_result_ts_ms: Option<u64>,
    /// When a heartbeat last told of it, by the server's clock.
    pub(super) last_heard_ms: u64,
    pub(super) latency_p95_us: Option<u64>,
    pub(super) confidence_mean: Option<f32>,
}

impl BundleCounters {
    pub(super) fn new() -> Self {
        Self {
            before: Counts::default(),
            counts: VecDeque::new(),
            first_result_ts_ms: None,
            last_heard_ms: 0,
            latency_p95_us: None,
            confidence_mean: None,
        }
    }

    /// Takes in what a heartbeat of this boot says. `is_news`: no later one was heard, so its window counts.
    pub(super) fn hear(&mut self, boot: &BootId, health: &BundleHealth, is_news: bool, received_ms: u64) {
        self.last_heard_ms = self.last_heard_ms.max(received_ms);
        self.first_result_ts_ms = match (self.first_result_ts_ms, health.first_result_ts_ms) {
            (Some(known), Some(said)) => Some(known.min(said)),
            (known, said) => known.or(said),
        };
        if is_news {
            (self.latency_p95_us, self.confidence_mean) = (health.latency_p95_us, health.confidence_mean);
        }
        let said = Counts::of(health);
        let is_of = |count: &&mut Count| count.boot == *boot && count.since_ts_ms == health.serving_since_ts_ms;
        if let Some(count) = self.counts.iter_mut().find(is_of) {
            count.counts = count.counts.both(said, u64::max);
            return;
        }
        self.counts.push_back(Count { boot: boot.clone(), since_ts_ms: health.serving_since_ts_ms, counts: said });
        if self.counts.len() > COUNTS_MAX
            && let Some(oldest) = self.counts.pop_front()
        {
            self.before = self.before.plus(oldest.counts);
        }
    }

    /// Over all starts of the agent.
    pub(super) fn total(&self) -> Counts {
        self.counts.iter().fold(self.before, |sum, count| sum.plus(count.counts))
    }
}
