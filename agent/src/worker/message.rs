//! What the agent asks of a worker, and what it answers. One request is open at a time; each has one answer.

use sedge_protocol::manifest::Grant;
use sedge_protocol::message::{Quantity, Region, ScoredLabel};
use sedge_protocol::{BundleDigest, Sha256Digest, Version};
use sedge_runtime::sandbox::CodeKey;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// A saved model travels in pieces of this size, the last one shorter.
pub(super) const PIECE_BYTES: usize = 1 << 20;

/// What a worker is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Request {
    /// First of all: which versions of this protocol the agent speaks.
    Hello { versions: Vec<u8>, limits: Limits },
    /// Verify a bundle: `Opened` or `Failed`.
    Open(Load),
    /// Compile a component of it: `Compiled` with the code, or `Failed`.
    Compile { component: Sha256Digest },
    /// Code of a component, compiled before, and the digest that was recorded of it: `Taken`, or `Failed` when it is not
    /// that or does not fit.
    Code { component: Sha256Digest, recorded: Sha256Digest },
    /// Ready the model alone, from its saved form where one is named and fits, else from its file: `Model` or `Failed`.
    /// What has no code yet is compiled before. No code is taken after this.
    Model { saved: Option<PathBuf> },
    /// A piece of the model's saved form, from this byte on: `Piece` with it. Not once the bundle is ready.
    Piece { offset: u64 },
    /// Ready the bundle: `Ready` or `Failed`. What has no code yet is compiled. No code is taken after this.
    Load {},
    /// Run the golden samples: `GoldenPassed` or `Failed`.
    Golden {},
    /// Process the sample: `Outcome`, `NotYet` or `Failed`.
    Process(Process),
    /// `Pong`.
    Ping {},
}

/// What a worker may use. It binds itself to this before it reads anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Memory that it may write to; stops a leak before it takes the device down.
    pub memory_bytes: u64,
    /// Open files.
    pub files: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory_bytes: 1 << 30, files: 64 }
    }
}

/// Which bundle, and how to run it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// The packed bundle.
    pub bundle: PathBuf,
    /// What it must be.
    pub digest: BundleDigest,
    /// Settings of the pipeline: `null`, or an object with `threads` and `sandbox_memory`.
    pub settings: serde_json::Value,
    /// Grants that the device's policy allows.
    pub grants_allowed: BTreeSet<Grant>,
    /// Arguments that make the worker's own program run `sedge_runtime::sandbox::compile_child`.
    pub compile_arguments: Vec<String>,
}

/// A sample, but for its bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Process {
    pub(super) seq: u64,
    pub(super) timestamp_ns: u64,
    pub(super) source: String,
    pub(super) name: String,
    pub(super) prediction_id: String,
    /// Bytes in the shared window; else the sample is the frame's payload.
    pub(super) shared_bytes: Option<usize>,
}

/// What a worker answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Reply {
    Hello {
        version: u8,
        shared_bytes: usize,
    },
    Opened {
        components: Vec<Component>,
        model: SavedModel,
    },
    Compiled {},
    Taken {},
    /// Why a saved form was of no use; and how long the one is that can be had in pieces, where it is wanted.
    Model {
        problem: Option<String>,
        bytes: Option<u64>,
    },
    Piece {},
    Ready(Loaded),
    GoldenPassed {
        samples: u32,
    },
    Outcome(WireOutcome),
    NotYet {},
    Pong {},
    Failed {
        detail: String,
    },
}

impl Reply {
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Hello { .. } => "hello",
            Self::Opened { .. } => "opened",
            Self::Compiled {} => "compiled",
            Self::Taken {} => "taken",
            Self::Model { .. } => "model",
            Self::Piece {} => "piece",
            Self::Ready(_) => "ready",
            Self::GoldenPassed { .. } => "golden-passed",
            Self::Outcome(_) => "outcome",
            Self::NotYet {} => "not-yet",
            Self::Pong {} => "pong",
            Self::Failed { .. } => "failed",
        }
    }
}

/// A processor of the bundle that runs in the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Component {
    /// Its file in the bundle.
    pub(super) file: String,
    pub(super) digest: Sha256Digest,
    /// Names its code in the worker's sandbox.
    pub(super) key: CodeKey,
}

/// The model of the bundle that runs on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedModel {
    /// Its file in the bundle.
    pub(super) file: String,
    /// Names its saved form.
    pub(super) key: Sha256Digest,
}

/// What a worker has loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loaded {
    /// Name of the bundle.
    pub name: String,
    /// Version of the bundle.
    pub version: Version,
    /// Digest of the model file.
    pub model: Sha256Digest,
    /// Whether the kernel filters its system calls; not every architecture's does.
    pub filtered: bool,
    /// Components that were compiled for this; the code of the others was there.
    pub compiled: u32,
    /// Whether the model was opened from its saved form.
    pub from_saved: bool,
}

/// An outcome whose payloads travel beside it, one after the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WireOutcome {
    pub(super) predictions: Vec<Prediction>,
    pub(super) payloads: Vec<WirePayload>,
    pub(super) timings: Timings,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WirePayload {
    pub(super) content_type: String,
    pub(super) topic_suffix: Option<String>,
    pub(super) bytes: usize,
}

/// What came of a sample.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Predictions.
    Outcome(Outcome),
    /// The preprocessor wants more samples first.
    NotYet,
    /// It could not be processed.
    Failed {
        /// For people.
        detail: String,
    },
}

/// Predictions and free results.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Typed predictions.
    pub predictions: Vec<Prediction>,
    /// Free-form results.
    pub payloads: Vec<Payload>,
    /// Where the time went.
    pub timings: Timings,
}

/// What the model says about a sample, or a part of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prediction {
    /// Names it wherever labels, reports or explanations refer to it.
    pub id: String,
    /// Best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<ScoredLabel>,
    /// Values of a regression model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quantities: Vec<Quantity>,
    /// 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f32>,
    /// The part of the input that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Region>,
}

/// A result in a form of the postprocessor's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// What it is.
    pub content_type: String,
    /// Last level of the topic it is for.
    pub topic_suffix: Option<String>,
    /// Its bytes.
    pub body: Vec<u8>,
}

/// Where a sample's time went inside the worker, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Timings {
    pub decode_us: u64,
    pub pre_us: u64,
    pub inference_us: u64,
    pub post_us: u64,
    pub crossing_us: u64,
    pub total_us: u64,
}

impl WireOutcome {
    /// The outcome, with the payloads cut out of `bytes`; `None` where the lengths do not add up.
    pub(super) fn with_payloads(self, bytes: &[u8]) -> Option<Outcome> {
        let mut rest = bytes;
        let mut payloads = Vec::new();
        for p in self.payloads {
            let (body, after) = rest.split_at_checked(p.bytes)?;
            rest = after;
            let body = body.to_vec();
            payloads.push(Payload { content_type: p.content_type, topic_suffix: p.topic_suffix, body });
        }
        rest.is_empty().then_some(Outcome { predictions: self.predictions, payloads, timings: self.timings })
    }
}
