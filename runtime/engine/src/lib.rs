//! Quantized networks as fused integer operators.
//!
//! A [`Graph`] comes in: tensors of bytes with scales, and operators between them. [`Program::compile`] checks it, picks
//! kernels for the core it runs on, packs the weights for them, and gives every tensor its place in one arena. A
//! [`Session`] is such an arena; running allocates nothing.
//!
//! The crate knows no file format and no inference engine: what reads a model's file builds the graph.

mod bytes;
mod check;
mod conv;
mod depthwise;
mod dynamic;
mod edge;
mod elementwise;
mod graph;
mod isa;
mod matmul;
mod packed;
mod peak;
mod place;
mod program;
pub mod reference;
mod requantize;
mod saved;
mod simplify;
mod step;
mod threads;

pub use check::{ACCUMULATOR_MAX, ARENA_BYTES_MAX, GraphError, NODES_MAX, Problem, TENSOR_BYTES_MAX, check};
pub use dynamic::{Dynamic, DynamicLayer, DynamicProgram, DynamicSession};
pub use graph::{Conv, Dims, Element, Graph, Node, Op, Pads, Port, Quantization, Range, Value, ValueId, Window};
pub use isa::{NoIsa, isas};
pub use peak::{peak, peak_f32};
pub use program::{CompileError, Options, Program, RunError, Session, Timing};
pub use requantize::{dequantize, quantize, table};
pub use saved::{DESCRIPTION_BYTES_MAX, SAVED_ALIGN_BYTES, SavedError, SharedBytes, build, fingerprint};
