//! What came of one sample, as files and the HTTP endpoint tell it.

use crate::worker::{Answer, Outcome, Prediction};
use sedge_protocol::deployment::Slot;
use sedge_protocol::id::ComponentName;
use sedge_protocol::{BundleDigest, Sha256Digest, Version};
use serde::Serialize;

/// One line of a results file. There is exactly one for each sample that was taken and not dropped.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Record {
    /// Grows over all sources of the component.
    pub seq: u64,
    /// When the sample was taken, Unix milliseconds.
    pub ts_ms: u64,
    /// The component.
    pub component: ComponentName,
    /// Which worker answered.
    pub slot: Slot,
    /// The bundle that it runs.
    pub bundle: BundleDigest,
    /// Version of the bundle.
    pub ver: Version,
    /// Digest of the model file.
    pub model: Sha256Digest,
    /// Source of the sample.
    pub source: String,
    /// What the sample is called there.
    pub name: String,
    /// The right answer, where somebody has said it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// From the sample's arrival at the worker to its answer.
    pub latency_us: u64,
    /// What came of it.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// What came of a sample.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum Verdict {
    /// It was answered.
    Ok {
        /// Typed predictions.
        predictions: Vec<Prediction>,
        /// Free results.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        payloads: Vec<RecordPayload>,
    },
    /// The preprocessor wants more samples first.
    NotYet,
    /// It could not be processed.
    Failed {
        /// Why.
        error: String,
    },
}

/// A free result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecordPayload {
    /// What it is.
    pub content_type: String,
    /// Its length.
    pub bytes: usize,
    /// Itself, where it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl From<Answer> for Verdict {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Outcome(Outcome { predictions, payloads, .. }) => {
                let payload = |p: crate::worker::Payload| RecordPayload {
                    content_type: p.content_type,
                    bytes: p.body.len(),
                    text: String::from_utf8(p.body).ok(),
                };
                Self::Ok { predictions, payloads: payloads.into_iter().map(payload).collect() }
            }
            Answer::NotYet => Self::NotYet,
            Answer::Failed { detail } => Self::Failed { error: detail },
        }
    }
}

impl Record {
    /// The first prediction.
    pub fn best(&self) -> Option<&Prediction> {
        match &self.verdict {
            Verdict::Ok { predictions, .. } => predictions.first(),
            Verdict::NotYet | Verdict::Failed { .. } => None,
        }
    }

    /// Whether the best label is the right one; `None` where either is missing.
    pub fn is_right(&self) -> Option<bool> {
        let best = self.best()?.labels.first()?;
        self.expected.as_ref().map(|expected| *expected == best.label)
    }
}
