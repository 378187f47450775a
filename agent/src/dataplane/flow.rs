//! A component's samples between source and result. A value: it decides, others act.
//!
//! What always holds: every sample that arrives is answered exactly once, or dropped and counted. One sample is in
//! flight at a time. It comes back when its worker is gone, and goes to the next one before any other; an answer counts
//! only while its dispatch is the current one, so the late answer of a worker that was given up changes nothing.

use crate::source::Sample;
use sedge_protocol::deployment::Slot;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// Workers that one sample may take down before it is answered as failed.
const DEATHS_MAX: u8 = 2;

/// One time that a sample was given to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Dispatch(u64);

impl Dispatch {
    /// Of a sample that a worker answers only for comparison.
    pub(super) const SHADOW: Self = Self(0);
}

/// A sample at a worker.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    pub(super) dispatch: Dispatch,
    pub(super) sample: Arc<Sample>,
    pub(super) slot: Slot,
    pub(super) since: Instant,
    deaths: u8,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Flow {
    flight: Option<Flight>,
    /// A sample that came back.
    again: Option<(Arc<Sample>, u8)>,
    held: VecDeque<Arc<Sample>>,
    held_bytes: u64,
    /// Bytes that may be held while no worker serves.
    holding: Option<u64>,
    dispatches: u64,
}

impl Flow {
    /// The sample in flight.
    pub(super) const fn flight(&self) -> Option<&Flight> {
        self.flight.as_ref()
    }

    /// Whether a sample waits for a worker.
    pub(super) fn waits(&self) -> bool {
        self.again.is_some() || !self.held.is_empty()
    }

    /// Whether a source may be asked for a sample.
    pub(super) fn wants(&self, can_serve: bool) -> bool {
        self.holding.is_some() || (can_serve && self.flight.is_none() && !self.waits())
    }

    /// Keeps what arrives from now on; how many samples were dropped for that.
    pub(super) fn hold(&mut self, bytes_max: u64) -> u64 {
        self.holding = Some(bytes_max);
        self.shed()
    }

    /// A worker serves: nothing more is kept.
    pub(super) const fn release(&mut self) {
        self.holding = None;
    }

    /// Takes a sample in; how many were dropped for it.
    pub(super) fn arrive(&mut self, sample: Sample) -> u64 {
        self.held_bytes += sample.data.len() as u64;
        self.held.push_back(Arc::new(sample));
        self.shed()
    }

    fn shed(&mut self) -> u64 {
        let Some(bytes_max) = self.holding else { return 0 };
        let mut dropped = 0;
        while self.held_bytes > bytes_max {
            let Some(oldest) = self.held.pop_front() else { break };
            self.held_bytes -= oldest.data.len() as u64;
            dropped += 1;
        }
        dropped
    }

    /// Gives the next sample to the slot's worker.
    pub(super) fn depart(&mut self, slot: Slot, now: Instant) -> Option<Flight> {
        if self.flight.is_some() || self.holding.is_some() {
            return None;
        }
        let (sample, deaths) = match self.again.take() {
            Some(again) => again,
            None => {
                let sample = self.held.pop_front()?;
                self.held_bytes -= sample.data.len() as u64;
                (sample, 0)
            }
        };
        self.dispatches += 1;
        let flight = Flight { dispatch: Dispatch(self.dispatches), sample, slot, since: now, deaths };
        self.flight = Some(flight.clone());
        Some(flight)
    }

    /// An answer came: the flight that it ends, or nothing when it no longer counts.
    pub(super) fn land(&mut self, dispatch: Dispatch) -> Option<Flight> {
        self.flight.take_if(|f| f.dispatch == dispatch)
    }

    /// The sample in flight is taken back, to be given to another worker.
    pub(super) fn take_back(&mut self) {
        if let Some(flight) = self.flight.take() {
            self.again = Some((flight.sample, flight.deaths));
        }
    }

    /// The slot's worker died. Its sample is taken back, unless it has taken down too many workers: then the flight is
    /// over, and the sample is to be answered as failed.
    pub(super) fn died(&mut self, slot: Slot) -> Option<Flight> {
        let mut flight = self.flight.take_if(|f| f.slot == slot)?;
        flight.deaths += 1;
        if flight.deaths >= DEATHS_MAX {
            return Some(flight);
        }
        self.again = Some((flight.sample, flight.deaths));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seq: u64, bytes: usize) -> Sample {
        Sample { seq, ts_ms: 0, source: "s".into(), name: String::new(), data: vec![0; bytes], label: None }
    }

    #[test]
    fn a_sample_comes_back_and_goes_first_and_its_late_answer_does_not_count() {
        let (mut flow, now) = (Flow::default(), Instant::now());
        assert!(flow.wants(true) && !flow.wants(false));
        (1..=2).for_each(|seq| assert_eq!(flow.arrive(sample(seq, 10)), 0));
        let first = flow.depart(Slot::A, now).expect("departs");
        assert!(flow.depart(Slot::A, now).is_none(), "one at a time");
        flow.take_back();
        let again = flow.depart(Slot::B, now).expect("departs");
        assert_eq!((again.sample.seq, again.slot), (1, Slot::B));
        assert!(flow.land(first.dispatch).is_none());
        assert!(flow.land(again.dispatch).is_some());
        assert!(flow.land(again.dispatch).is_none(), "once");
        assert_eq!(flow.depart(Slot::B, now).map(|f| f.sample.seq), Some(2));
    }

    #[test]
    fn what_is_held_stays_within_its_budget_and_the_oldest_go() {
        let (mut flow, now) = (Flow::default(), Instant::now());
        assert_eq!(flow.hold(25), 0);
        let dropped: u64 = (1..=4).map(|seq| flow.arrive(sample(seq, 10))).sum();
        assert_eq!(dropped, 2);
        assert!(flow.wants(false) && flow.depart(Slot::A, now).is_none());
        assert_eq!(flow.hold(10), 1);
        flow.release();
        assert_eq!(flow.depart(Slot::A, now).map(|f| f.sample.seq), Some(4));
    }

    #[test]
    fn a_sample_that_kills_workers_is_given_up() {
        let (mut flow, now) = (Flow::default(), Instant::now());
        flow.arrive(sample(1, 1));
        flow.depart(Slot::A, now).expect("departs");
        assert!(flow.died(Slot::B).is_none() && flow.flight().is_some(), "another worker died");
        assert!(flow.died(Slot::A).is_none() && flow.waits());
        flow.depart(Slot::A, now).expect("departs");
        assert_eq!(flow.died(Slot::A).map(|f| f.sample.seq), Some(1));
        assert!(!flow.waits() && flow.flight().is_none());
    }
}
