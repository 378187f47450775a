//! Post-training quantization: a float ONNX model and some samples in, the same network in 8 bits out.
//!
//! [`FloatModel::parse`] reads the model and brings it into a plain form; [`FloatModel::samples`] finds samples that fit
//! its inputs; [`FloatModel::quantize`] runs the float network over them to see how far each tensor reaches, writes the
//! network in QDQ form, and runs both side by side to tell what it cost.
//!
//! What always holds: the same model and samples give the same bytes; a tensor's range includes zero, so that zero has a
//! stored value of its own; memory is bounded by the activations of one sample and the arrays of one file. Nothing of a
//! model or a sample ends the process.

mod bits;
mod calibrate;
mod compare;
mod fold;
mod layer;
mod observe;
mod plan;
mod proto;
mod samples;
#[cfg(test)]
mod tests;
mod write;

use crate::model::{Model, ModelError, ModelOptions};
use std::path::{Path, PathBuf};
use tract_onnx::pb;

pub use calibrate::Method;
pub use compare::{Accuracy, LayerError, OutputError, Report};
pub use plan::LeftInFloat;
pub use samples::SampleSet;

/// `DequantizeLinear` has an axis from here on.
const OPSET_MIN: i64 = 13;

/// What to do with a model.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Options {
    /// How the range of an activation is chosen.
    pub method: Method,
    /// Nodes that stay in float, by their name or the name of what they yield.
    pub keep_float: Vec<String>,
    /// Inputs and outputs of the model are int8 themselves, not float32.
    pub integer_io: bool,
}

/// What is being done, for a progress bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// How far tensors reach.
    Ranges,
    /// How their values are spread.
    Histograms,
    /// Float and quantized model side by side.
    Comparison,
}

/// A model in 8 bits, and what that cost.
#[derive(Debug, Clone)]
pub struct Quantized {
    /// The file.
    pub onnx: Vec<u8>,
    /// Errors by layer and output.
    pub report: Report,
}

/// Why a model cannot be quantized.
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    /// The model does not load.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The form is not there yet in this opset.
    #[error("the model has opset {found}; int8 weights need {OPSET_MIN} or later: export it again with a later opset")]
    Opset {
        /// The model's.
        found: i64,
    },
    /// It has quantized operators.
    #[error("the model is quantized already: it has {operator} ({node}); give the float model that it was made from")]
    AlreadyQuantized {
        /// Operator found.
        operator: String,
        /// Its node.
        node: String,
    },
    /// No operator that would gain from it.
    #[error("nothing in the model can be quantized: {reasons}")]
    NothingToQuantize {
        /// What is left in float, and why.
        reasons: String,
    },
    /// A node to keep that is not there.
    #[error("the model has no node `{name}` to keep in float; it has {known}")]
    UnknownNode {
        /// Name asked for.
        name: String,
        /// Names that it has, a few of them.
        known: String,
    },
    /// Weights that are computed while the model runs.
    #[error("the weights `{tensor}` of {operator} ({node}) are no constant; keep it in float with --keep-float {node}")]
    ChangingWeights {
        /// Operator.
        operator: String,
        /// Its node.
        node: String,
        /// The weights.
        tensor: String,
    },
    /// A constant that cannot be quantized.
    #[error("`{tensor}` of {node} {problem}; keep the node in float with --keep-float {node}, or repair the model")]
    Constant {
        /// The constant.
        tensor: String,
        /// The node that reads it.
        node: String,
        /// What is wrong.
        problem: String,
    },
    /// A folder without samples.
    #[error("{} holds no sample: it needs .npy or .npz files", place.display())]
    NoSamples {
        /// Where they were looked for.
        place: PathBuf,
    },
    /// A file that cannot be read.
    #[error("{} cannot be read", file.display())]
    ReadFile {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// An array that does not fit.
    #[error("{}: `{tensor}` {problem}", file.display())]
    Sample {
        /// The file.
        file: PathBuf,
        /// The array or the model's input.
        tensor: String,
        /// What is wrong, and what fits.
        problem: String,
    },
    /// The model fails on a sample.
    #[error("sample {sample}")]
    Run {
        /// File and place in it.
        sample: String,
        /// What failed.
        source: ModelError,
    },
    /// A value that no scale can stand for.
    #[error(
        "sample {sample}: `{tensor}` becomes infinite or no number at element {index}: the sample or the model is not \
         numerically sound"
    )]
    NotFinite {
        /// File and place in it.
        sample: String,
        /// The tensor.
        tensor: String,
        /// First such element.
        index: usize,
    },
}

/// A float model in plain form: constants folded, batch normalization within the convolution before it.
pub struct FloatModel {
    model: pb::ModelProto,
    bytes: usize,
}

impl FloatModel {
    /// Reads a model. Whether its operators can be run is seen when samples are at hand.
    ///
    /// # Errors
    /// [`QuantizeError`] for what is no ONNX, has an old opset, or is quantized already.
    pub fn parse(onnx: &[u8]) -> Result<Self, QuantizeError> {
        let model = proto::decode(onnx)?;
        let opset = model.opset_import.iter().filter(|o| o.domain.is_empty() || o.domain == "ai.onnx");
        let found = opset.map(|o| o.version).max().unwrap_or(0);
        if found < OPSET_MIN {
            return Err(QuantizeError::Opset { found });
        }
        Ok(Self { model: fold::plain(model)?, bytes: onnx.len() })
    }

    /// Samples for this model: a `.npy` or `.npz` file, or a folder of them. Each is looked at.
    ///
    /// # Errors
    /// [`QuantizeError`] naming the file and the array that does not fit.
    pub fn samples(&self, place: &Path) -> Result<SampleSet, QuantizeError> {
        SampleSet::find(place, samples::declared(proto::graph(&self.model)))
    }

    /// Quantizes with ranges from `calibration`, and compares on `evaluation`. `progress` hears the stage, how many
    /// samples are done, and of how many.
    ///
    /// # Errors
    /// [`QuantizeError`] naming the node, tensor or sample at fault.
    pub fn quantize(
        &self,
        calibration: &SampleSet,
        evaluation: &SampleSet,
        options: &Options,
        progress: &mut dyn FnMut(Stage, usize, usize),
    ) -> Result<Quantized, QuantizeError> {
        let graph = proto::graph(&self.model);
        let plan = plan::Plan::make(graph, options)?;
        let ranges = observe::ranges(&self.model, &plan, calibration, options.method, progress)?;
        let with_float_edges = write::write(&self.model, &plan, &ranges, false)?;
        let report = compare::compare(&self.model, &with_float_edges, &plan, evaluation, progress)?;
        let written = match options.integer_io {
            true => write::write(&self.model, &plan, &ranges, true)?,
            false => with_float_edges,
        };
        let onnx = proto::encode(&written.model);
        // What is handed out has been seen to load.
        Model::load(&onnx, &ModelOptions { shapes: calibration.shapes(), ..ModelOptions::default() })?;
        let report = Report { bytes_before: self.bytes, bytes_after: onnx.len(), ..report };
        Ok(Quantized { onnx, report })
    }
}
