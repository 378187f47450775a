//! Recent predictions, which wait for their right answers. A value: time comes in.
//!
//! Bounded by number and age. A sample has at most one right answer: the first that comes.

use super::feedback::FeedbackError;
use sedge_protocol::BundleDigest;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

/// Predictions that are remembered: more than two minutes' worth at 30 a second, in about a megabyte.
const PREDICTIONS_MAX: usize = 4096;
/// How long they are.
const AGE_MAX: Duration = Duration::from_secs(3600);

/// What was predicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Predicted {
    /// Number of the sample; grows.
    pub(super) seq: u64,
    /// Names the prediction.
    pub(super) id: String,
    /// Whose prediction it is.
    pub(super) bundle: BundleDigest,
    /// The best label.
    pub(super) best: String,
}

/// What is known of the right answer when a prediction is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Label {
    /// It was known at once, and is counted.
    Counted,
    /// It will be known after this time.
    Later(String, Duration),
    /// Somebody may tell it.
    Open,
}

/// Whose prediction was judged, and whether it was right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Judged {
    pub(super) bundle: BundleDigest,
    pub(super) right: bool,
}

#[derive(Debug)]
struct Waiting {
    predicted: Predicted,
    at: Instant,
    /// The right answer, while it is held back.
    label: Option<String>,
    judged: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// Oldest first.
    waiting: VecDeque<Waiting>,
    /// When which sample's answer is known.
    due: BinaryHeap<Reverse<(Instant, u64)>>,
    /// The newest that is forgotten.
    forgotten: u64,
}

impl Recent {
    /// Remembers a prediction. How many answers were lost for that.
    pub(super) fn push(&mut self, predicted: Predicted, label: Label, now: Instant) -> u64 {
        let mut late = self.forget(now);
        if self.waiting.len() >= PREDICTIONS_MAX {
            late += self.pop();
        }
        let judged = label == Label::Counted;
        let label = match label {
            Label::Later(label, delay) => {
                // What is due after it is forgotten is never due.
                self.due.push(Reverse((now + delay.min(2 * AGE_MAX), predicted.seq)));
                Some(label)
            }
            Label::Counted | Label::Open => None,
        };
        self.waiting.push_back(Waiting { predicted, at: now, label, judged });
        if self.due.len() > 2 * PREDICTIONS_MAX {
            let oldest = self.waiting.front().map_or(0, |oldest| oldest.predicted.seq);
            self.due.retain(|Reverse((_, seq))| *seq >= oldest);
        }
        late
    }

    fn pop(&mut self) -> u64 {
        let Some(oldest) = self.waiting.pop_front() else { return 0 };
        self.forgotten = oldest.predicted.seq;
        u64::from(oldest.label.is_some())
    }

    /// Forgets what is too old; how many answers were lost with it.
    pub(super) fn forget(&mut self, now: Instant) -> u64 {
        let mut late = 0;
        while self.waiting.front().is_some_and(|oldest| now.saturating_duration_since(oldest.at) >= AGE_MAX) {
            late += self.pop();
        }
        late
    }

    /// When the next answer is known.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((at, _))| *at)
    }

    /// An answer that is known by now, with what was predicted.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Judged> {
        while self.next_due().is_some_and(|at| at <= now) {
            let Reverse((_, seq)) = self.due.pop()?;
            // What is forgotten is counted already.
            if let Some(waiting) = self.of(seq)
                && let Some(label) = waiting.label.take()
                && let Ok(judged) = waiting.judge(&label)
            {
                return Some(judged);
            }
        }
        None
    }

    /// Takes in the right answer to a sample of this number.
    pub(super) fn label(&mut self, seq: u64, id: &str, label: &str) -> Result<Judged, FeedbackError> {
        let is_forgotten = seq <= self.forgotten;
        match self.of(seq) {
            Some(waiting) if waiting.predicted.id == id => waiting.judge(label),
            None if is_forgotten => Err(FeedbackError::TooLate(id.to_owned())),
            _ => Err(FeedbackError::Unknown(id.to_owned())),
        }
    }

    fn of(&mut self, seq: u64) -> Option<&mut Waiting> {
        let at = self.waiting.binary_search_by_key(&seq, |waiting| waiting.predicted.seq).ok()?;
        self.waiting.get_mut(at)
    }
}

impl Waiting {
    fn judge(&mut self, label: &str) -> Result<Judged, FeedbackError> {
        if std::mem::replace(&mut self.judged, true) {
            return Err(FeedbackError::Twice(self.predicted.id.clone()));
        }
        self.label = None;
        Ok(Judged { bundle: self.predicted.bundle, right: self.predicted.best == label })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sedge_protocol::Sha256Digest;

    fn predicted(seq: u64) -> Predicted {
        let bundle = BundleDigest(Sha256Digest::of(&[u8::from(seq > 2)]));
        Predicted { seq, id: format!("digits-b-{seq}"), bundle, best: "7".into() }
    }

    fn second(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn an_answer_is_joined_when_it_is_due_with_the_bundle_that_predicted() {
        let (mut recent, start) = (Recent::default(), Instant::now());
        for (seq, label, delay) in [(1, "7", 9), (2, "8", 3), (3, "7", 3)] {
            assert_eq!(recent.push(predicted(seq), Label::Later(label.into(), second(delay)), start), 0);
        }
        assert_eq!(recent.next_due(), Some(start + second(3)));
        assert_eq!(recent.take_due(start + second(2)), None);
        let at = start + second(3);
        let judged: Vec<_> = std::iter::from_fn(|| recent.take_due(at)).collect();
        let expected = [(2, false), (3, true)];
        assert_eq!(judged, expected.map(|(seq, right)| Judged { bundle: predicted(seq).bundle, right }));
        assert_eq!(recent.take_due(start + second(9)).map(|judged| judged.right), Some(true));
        assert_eq!((recent.take_due(start + second(99)), recent.next_due()), (None, None));
    }

    #[test]
    fn what_falls_out_is_counted() {
        let (mut recent, start) = (Recent::default(), Instant::now());
        let mut late = 0;
        for seq in 1..=PREDICTIONS_MAX as u64 + 10 {
            let label = if seq % 2 == 0 { Label::Later("7".into(), second(60)) } else { Label::Open };
            late += recent.push(predicted(seq), label, start);
        }
        assert_eq!((late, recent.waiting.len()), (5, PREDICTIONS_MAX));
        late += recent.forget(start + AGE_MAX);
        assert_eq!((late, recent.waiting.len()), (5 + PREDICTIONS_MAX as u64 / 2, 0));
        assert_eq!(recent.take_due(start + AGE_MAX), None);
        assert!(recent.due.is_empty(), "and nothing is kept for them");
        for seq in 1..=4 * PREDICTIONS_MAX as u64 {
            recent.push(predicted(seq), Label::Later("7".into(), 3 * AGE_MAX), start);
        }
        assert!(recent.due.len() <= 2 * PREDICTIONS_MAX, "however long the delay");
    }

    #[test]
    fn an_answer_from_outside_counts_once_or_says_why_not() {
        let (mut recent, start) = (Recent::default(), Instant::now());
        recent.push(predicted(1), Label::Open, start);
        recent.push(predicted(4), Label::Counted, start + AGE_MAX);
        recent.push(predicted(5), Label::Later("7".into(), second(1)), start + AGE_MAX);
        assert_eq!(recent.label(4, "digits-b-4", "7"), Err(FeedbackError::Twice("digits-b-4".into())));
        assert_eq!(recent.label(5, "digits-b-5", "8").map(|judged| judged.right), Ok(false));
        assert_eq!(recent.label(5, "digits-b-5", "7"), Err(FeedbackError::Twice("digits-b-5".into())));
        assert_eq!(recent.take_due(start + AGE_MAX + second(1)), None, "the first that came counts");
        assert_eq!(recent.label(1, "digits-b-1", "7"), Err(FeedbackError::TooLate("digits-b-1".into())));
        assert_eq!(recent.label(5, "digits-b-5/1", "7"), Err(FeedbackError::Unknown("digits-b-5/1".into())));
        // It failed, say.
        assert_eq!(recent.label(3, "digits-b-3", "7"), Err(FeedbackError::Unknown("digits-b-3".into())));
        assert_eq!(recent.label(6, "digits-b-6", "7"), Err(FeedbackError::Unknown("digits-b-6".into())));
    }
}
