//! Comparing a new worker with the serving one on live samples. A value: it counts, others send.
//!
//! One pair of answers is open at a time, and samples that come meanwhile are only served: the new worker never slows
//! the old one down, and needs more time rather than more memory. For a preprocessor that wants several samples, the two
//! then see different windows; such a bundle is better judged with a lenient limit on disagreement.

use crate::latency::Latencies;
use crate::worker::{Answer, Outcome};
use sedge_protocol::deployment::{ShadowLimits, ShadowVerdict, Slot, Ticket};
use std::time::Instant;

/// Best confidences further apart than this disagree even where the label is the same. Another version of a model is
/// usually surer or less sure; digits 1.1.0, which is right more often than 1.0.0, is a quarter surer on many images.
const CONFIDENCE_DIFFERENCE_MAX: f32 = 0.5;
/// Quantities further apart than this share of the larger one disagree.
const QUANTITY_DIFFERENCE_MAX: f64 = 0.1;

/// A shadow run.
#[derive(Debug)]
pub(super) struct Shadow {
    pub(super) ticket: Ticket,
    pub(super) slot: Slot,
    limits: ShadowLimits,
    verdict: ShadowVerdict,
    latencies: Latencies,
    open: Option<Pair>,
    told: Option<(ShadowVerdict, Instant)>,
}

#[derive(Debug)]
struct Pair {
    seq: u64,
    old: Option<Answer>,
    new: Option<Answer>,
}

impl Shadow {
    pub(super) fn new(ticket: Ticket, slot: Slot, limits: ShadowLimits) -> Self {
        let (verdict, latencies) = (ShadowVerdict::default(), Latencies::default());
        Self { ticket, slot, limits, verdict, latencies, open: None, told: None }
    }

    /// Opens a pair for this sample; `false` while one is open.
    pub(super) fn open(&mut self, seq: u64) -> bool {
        let free = self.open.is_none();
        if free {
            self.open = Some(Pair { seq, old: None, new: None });
        }
        free
    }

    /// Takes an answer of the serving worker.
    pub(super) fn old_answered(&mut self, seq: u64, answer: &Answer) {
        if let Some(pair) = self.open.as_mut().filter(|p| p.seq == seq) {
            pair.old = Some(answer.clone());
        }
        self.close();
    }

    /// Takes an answer of the new worker.
    pub(super) fn new_answered(&mut self, seq: u64, answer: Answer, latency_us: u64) {
        let Some(pair) = self.open.as_mut().filter(|p| p.seq == seq) else { return };
        pair.new = Some(answer);
        self.latencies.add(latency_us);
        self.close();
    }

    fn close(&mut self) {
        let Some(Pair { old: Some(old), new: Some(new), .. }) = &self.open else { return };
        let v = &mut self.verdict;
        v.samples = v.samples.saturating_add(1);
        match (old, new) {
            (Answer::Failed { .. }, _) => {}
            (_, Answer::Failed { .. }) => v.errors = v.errors.saturating_add(1),
            (old, new) => v.disagreements = v.disagreements.saturating_add(u32::from(disagree(old, new))),
        }
        let p95 = self.latencies.quantile(950).unwrap_or(0);
        v.latency_p95_us = u32::try_from(p95).unwrap_or(u32::MAX);
        self.open = None;
    }

    /// What is to be told now: at once when enough samples are there or a limit is passed, else once a second.
    pub(super) fn due(&mut self, now: Instant) -> Option<ShadowVerdict> {
        let v = self.verdict;
        let is_due = match &self.told {
            None => v.samples > 0 || self.limits.samples_min == 0,
            Some((told, _)) if told.samples == v.samples => false,
            Some((told, at)) => {
                let enough = told.samples < self.limits.samples_min && v.samples >= self.limits.samples_min;
                let too_many = v.errors > self.limits.errors_max && v.errors > told.errors;
                enough || too_many || now.saturating_duration_since(*at).as_secs() >= 1
            }
        };
        is_due.then(|| {
            self.told = Some((v, now));
            v
        })
    }
}

/// Whether two answers to one sample differ by more than two versions of a model may.
fn disagree(old: &Answer, new: &Answer) -> bool {
    let (Answer::Outcome(old), Answer::Outcome(new)) = (old, new) else {
        return std::mem::discriminant(old) != std::mem::discriminant(new);
    };
    old.predictions.len() != new.predictions.len() || outcomes_differ(old, new)
}

fn outcomes_differ(old: &Outcome, new: &Outcome) -> bool {
    old.predictions.iter().zip(&new.predictions).any(|(a, b)| {
        let best = |p: &crate::worker::Prediction| p.labels.first().map(|l| l.label.clone());
        let apart = match (a.confidence, b.confidence) {
            (Some(a), Some(b)) => (a - b).abs() > CONFIDENCE_DIFFERENCE_MAX,
            (a, b) => a.is_some() != b.is_some(),
        };
        let quantities = a.quantities.len() != b.quantities.len()
            || a.quantities.iter().zip(&b.quantities).any(|(a, b)| {
                let larger = a.value.abs().max(b.value.abs());
                a.name != b.name || (a.value - b.value).abs() > QUANTITY_DIFFERENCE_MAX * larger
            });
        best(a) != best(b) || apart || quantities
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::{Prediction, Timings};
    use sedge_protocol::message::ScoredLabel;
    use std::time::Duration;

    fn says(label: &str, confidence: f32) -> Answer {
        let labels = vec![ScoredLabel { index: 0, label: label.to_owned(), score: confidence }];
        let one = Prediction { id: "p".into(), labels, quantities: vec![], confidence: Some(confidence), region: None };
        Answer::Outcome(Outcome { predictions: vec![one], payloads: vec![], timings: Timings::default() })
    }

    #[test]
    fn counts_what_a_pair_shows() {
        let limits = ShadowLimits { samples_min: 5, ..ShadowLimits::default() };
        let mut shadow = Shadow::new(Ticket(1), Slot::B, limits);
        let failed = || Answer::Failed { detail: String::new() };
        let pairs = [
            (says("a", 0.9), says("a", 0.8)),
            (says("a", 0.9), says("b", 0.9)),
            (says("a", 0.9), says("a", 0.3)),
            (says("a", 0.9), failed()),
            (failed(), failed()),
            (failed(), says("a", 0.9)),
            (Answer::NotYet, Answer::NotYet),
            (Answer::NotYet, says("a", 0.9)),
        ];
        let now = Instant::now();
        let mut told = Vec::new();
        for (seq, (old, new)) in (1..).zip(pairs) {
            assert!(shadow.open(seq));
            assert!(!shadow.open(seq + 1), "one at a time");
            shadow.new_answered(seq + 7, new.clone(), 9_999_999);
            shadow.new_answered(seq, new, 100);
            shadow.old_answered(seq, &old);
            told.extend(shadow.due(now).map(|v| v.samples));
        }
        let expected = ShadowVerdict { samples: 8, disagreements: 3, errors: 1, latency_p95_us: 103 };
        assert_eq!(shadow.verdict, expected);
        assert_eq!(told, [1, 4, 5], "the first, the error above the limit, enough");
        assert_eq!(shadow.due(now + Duration::from_secs(1)), Some(expected));
        assert_eq!(shadow.due(now + Duration::from_secs(9)), None, "nothing new");
    }
}
