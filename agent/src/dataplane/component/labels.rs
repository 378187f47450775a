//! Right answers that come after the prediction.

use super::super::config::SourceConfig;
use super::super::feedback::{Feedback, FeedbackError, Heard};
use super::super::recent::{Judged, Label, Predicted};
use super::Component;
use crate::sink::Record;
use std::time::{Duration, Instant};

impl Component {
    /// How long right answers of this source are held back.
    pub(super) fn label_delay(&self, source: &str) -> Duration {
        self.parts.config.source.get(source).map_or(Duration::ZERO, SourceConfig::label_delay)
    }

    /// Keeps a prediction whose right answer may come later. `label`: the answer that is held back, and for how long.
    pub(super) fn remember(&mut self, record: &Record, label: Option<(String, Duration)>, now: Instant) {
        let listens = !self.parts.feedback.is_closed();
        let label = match label {
            Some((label, delay)) => Label::Later(label, delay),
            None if !listens => return,
            None if record.is_right().is_some() => Label::Counted,
            None => Label::Open,
        };
        let Some((id, best)) = record.best().and_then(|p| Some((p.id.clone(), p.labels.first()?.label.clone()))) else {
            return;
        };
        let predicted = Predicted { seq: record.seq, id, bundle: record.bundle, best };
        self.tally.labels_late += self.recent.push(predicted, label, now);
    }

    /// Counts the answers that are known by now.
    pub(super) fn labels_due(&mut self, now: Instant) {
        self.tally.labels_late += self.recent.forget(now);
        while let Some(Judged { bundle, right }) = self.recent.take_due(now) {
            self.tally.label(bundle, right);
        }
    }

    /// Somebody tells the right answer to a prediction.
    pub(super) fn feedback(&mut self, Feedback { id, label, done }: Feedback) {
        let of_this_boot = self.parts.identity.seq_of(&self.parts.name, &id);
        let judged = match of_this_boot.filter(|seq| *seq <= self.seq) {
            Some(seq) => self.recent.label(seq, &id, &label),
            None => Err(FeedbackError::Unknown(id)),
        };
        match &judged {
            Ok(Judged { bundle, right }) => {
                self.tally.label(*bundle, *right);
                self.post();
            }
            Err(FeedbackError::TooLate(_)) => self.tally.labels_late += 1,
            Err(_) => {}
        }
        // Whoever asked may be gone.
        let _ = done.send(judged.map(|Judged { bundle, right }| Heard { bundle, right }));
    }
}
