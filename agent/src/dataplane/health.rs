//! Whether a serving worker is well. A value: it is told what happens, and asked once a second.
//!
//! Well is a worker that makes progress: it answered a sample since it was last asked. Where no sample waits, an answered
//! ping is the most that can be known, and counts unless the latest sample failed. Ill is one that lets samples wait, or
//! fails too many; anything in between is not told as either.

use super::config::HealthConfig;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What is known of a serving worker.
#[derive(Debug)]
pub(super) struct Watch {
    config: HealthConfig,
    /// Answered and failed, for each time it was asked; the newest last.
    window: VecDeque<(u32, u32)>,
    answered: u32,
    failed: u32,
    latest_failed: bool,
    ponged: bool,
    /// Since when a sample has waited without any being answered.
    waiting_since: Option<Instant>,
}

/// What there is to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition {
    Well,
    Ill(String),
    Unknown,
}

impl Watch {
    pub(super) fn new(config: HealthConfig) -> Self {
        Self {
            config,
            window: VecDeque::new(),
            answered: 0,
            failed: 0,
            latest_failed: false,
            ponged: false,
            waiting_since: None,
        }
    }

    pub(super) fn answered(&mut self) {
        self.answered += 1;
        self.latest_failed = false;
        self.waiting_since = None;
    }

    /// A failed sample was answered too: the worker doesn't hang.
    pub(super) fn failed(&mut self) {
        self.failed += 1;
        self.latest_failed = true;
        self.waiting_since = None;
    }

    pub(super) fn ponged(&mut self) {
        self.ponged = true;
    }

    /// To be asked about once a second. `waiting`: whether a sample is in flight or waits; `up`: whether there is a
    /// worker.
    pub(super) fn ask(&mut self, waiting: bool, up: bool, now: Instant) -> Condition {
        let (answered, failed) = (std::mem::take(&mut self.answered), std::mem::take(&mut self.failed));
        self.window.push_back((answered, failed));
        while self.window.len() > usize::from(self.config.window_s.clamp(1, 300)) {
            self.window.pop_front();
        }
        let ponged = std::mem::take(&mut self.ponged);
        if !up {
            return Condition::Ill("the worker is down".to_owned());
        }
        let stalled = match (waiting, self.waiting_since) {
            (false, _) => {
                self.waiting_since = None;
                Duration::ZERO
            }
            (true, None) => {
                self.waiting_since = Some(now);
                Duration::ZERO
            }
            (true, Some(since)) => now.saturating_duration_since(since),
        };
        if stalled >= Duration::from_millis(self.config.stall_ms) {
            return Condition::Ill(format!("no answer for {} ms though a sample waits", stalled.as_millis()));
        }
        let bad: u32 = self.window.iter().map(|&(_, failed)| failed).sum();
        let all: u32 = bad + self.window.iter().map(|&(answered, _)| answered).sum::<u32>();
        let share_exceeded = u64::from(bad) * 1000 > u64::from(all) * u64::from(self.config.errors_max_permille);
        if all >= self.config.samples_min && share_exceeded {
            return Condition::Ill(format!("{bad} of the last {all} samples failed"));
        }
        let idle_and_there = !waiting && ponged && !self.latest_failed;
        if answered > 0 || idle_and_there { Condition::Well } else { Condition::Unknown }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_health_and_its_lack_is_not() {
        let (mut watch, start) = (Watch::new(HealthConfig::default()), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        assert_eq!(watch.ask(false, true, at(0)), Condition::Unknown);
        watch.ponged();
        assert_eq!(watch.ask(false, true, at(1)), Condition::Well, "nothing to do, and there");
        watch.answered();
        assert_eq!(watch.ask(true, true, at(2)), Condition::Well);
        for s in 3..7 {
            assert_eq!(watch.ask(true, true, at(s)), Condition::Unknown, "{s}");
        }
        assert!(matches!(watch.ask(true, true, at(7)), Condition::Ill(why) if why.contains("5000 ms")));
        watch.answered();
        assert_eq!(watch.ask(false, true, at(8)), Condition::Well);
        assert_eq!(watch.ask(false, false, at(9)), Condition::Ill("the worker is down".to_owned()));
    }

    #[test]
    fn failed_samples_are_judged_by_their_share() {
        let (mut watch, now) = (Watch::new(HealthConfig::default()), Instant::now());
        (0..9).for_each(|_| watch.failed());
        watch.ponged();
        assert_eq!(watch.ask(false, true, now), Condition::Unknown, "too few to tell, and not well");
        watch.failed();
        assert_eq!(watch.ask(false, true, now), Condition::Ill("10 of the last 10 samples failed".to_owned()));
        (0..40).for_each(|_| watch.answered());
        assert_eq!(watch.ask(false, true, now), Condition::Well);
        for _ in 0..30 {
            watch.ask(false, true, now);
        }
        assert!(watch.window.iter().all(|&w| w == (0, 0)), "what is old is forgotten");
    }
}
