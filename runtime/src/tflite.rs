//! TFLite models, quantized to integers of 8 bits, as graphs of the engine.
//!
//! The importer reads the file itself: tract's loader turns quantized tensors into floats. What is read is int8 as
//! today's converters write it and uint8 as their predecessors did. A model that computes in float is refused; tract
//! runs it from ONNX.
//!
//! What always holds: a file that does not import says which tensor or operator is at fault; nothing in a file makes
//! the importer panic, run without end, or take more memory than a small multiple of the file.
//!
//! TFLite's own kernels scale sums with integers; the engine scales them in f32, as XNNPACK does. The two differ by at
//! most one quantum for each operator.

mod arithmetic;
mod contents;
mod conv;
mod flatbuffer;
mod importer;
mod layout;
mod operator;
mod pool;
mod schema;
mod unary;
mod value;

use crate::model::{MODEL_BYTES_MAX, Softmax, Summary};
use sedge_engine::{Graph, GraphError};
use sedge_processor_sdk::TensorSpec;

/// A model that has been read.
#[derive(Debug, Clone, PartialEq)]
pub struct Imported {
    /// What it computes; [`sedge_engine::check`] has accepted it.
    pub graph: Graph,
    /// What it expects, in the order of the graph's inputs.
    pub inputs: Vec<TensorSpec>,
    /// What it yields, in the order of the graph's outputs.
    pub outputs: Vec<TensorSpec>,
    /// The softmax that an output comes from, by the output's place.
    pub softmax: Vec<Option<Softmax>>,
    /// What the file holds.
    pub summary: Summary,
}

/// Why a TFLite file does not import.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TfliteError {
    /// More than [`MODEL_BYTES_MAX`].
    #[error("the model has {bytes} bytes; at most {MODEL_BYTES_MAX} are accepted")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not TFLite, truncated, or damaged.
    #[error("not a readable TFLite model: {place}: {problem}; convert it again")]
    Malformed {
        /// The part of the file.
        place: String,
        /// What is wrong.
        problem: String,
    },
    /// Float or weights in 8 bits only.
    #[error(
        "the model computes in float: convert it with full integer quantization (inference_input_type int8), or to ONNX, \
         which runs in float too"
    )]
    NotQuantized,
    /// Operators that cannot be read.
    #[error(
        "the model uses operators that are not read from TFLite: {}; replace them, or convert the model to ONNX (tf2onnx \
         keeps the quantization), where an operator may stay in float",
        operators.join(", ")
    )]
    UnsupportedOperators {
        /// Each as `OPERATOR (operator 3)`.
        operators: Vec<String>,
    },
    /// A tensor that makes no sense or is of a kind that is not read.
    #[error("tensor {index} (`{name}`): {problem}")]
    Tensor {
        /// Its place in the file.
        index: usize,
        /// Its name in the file.
        name: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// An operator that makes no sense or is used in a way that is not read.
    #[error("operator {index} ({operator}): {problem}")]
    Operator {
        /// Its place in the file.
        index: usize,
        /// Which operator.
        operator: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// Operators whose tensors do not fit. Nodes are named `OPERATOR place`.
    #[error("the model's operators do not fit their tensors")]
    Graph(#[source] GraphError),
}

/// Whether a file says that it is TFLite.
pub fn is_tflite(bytes: &[u8]) -> bool {
    let (at, identifier) = schema::IDENTIFIER;
    bytes.get(at..).is_some_and(|rest| rest.starts_with(identifier))
}

/// Reads a model.
///
/// # Errors
/// [`TfliteError`] naming the tensor or operator at fault.
pub fn import(bytes: &[u8]) -> Result<Imported, TfliteError> {
    if bytes.len() > MODEL_BYTES_MAX {
        return Err(TfliteError::TooLarge { bytes: bytes.len() });
    }
    if !is_tflite(bytes) {
        let problem = "`TFL3` does not stand at byte 4".to_owned();
        return Err(TfliteError::Malformed { place: "the file".to_owned(), problem });
    }
    importer::Importer::new(contents::Contents::read(bytes)?).import()
}
