//! A model: loaded once, then run with one set of tensors after the other. Its quantized parts run as fused integer
//! operators of the engine, the rest in tract; a model that is quantized from end to end needs no tract at all.
//!
//! What always holds: a model that does not load names the operator or the tensor at fault; inputs of another name,
//! type or shape are refused before tract sees them; an output that holds NaN is an error, not a result; a panic
//! inside tract is an error of the model, not the end of the process. A model can refer to no file beside itself.

mod cache;
mod edge;
mod executable;
mod float;
mod fused;
mod layers;
mod onnx;
mod quantize;
mod saved;

use crate::tflite;
use sedge_processor_sdk::{ElementType, Tensor, TensorSpec, TensorView};
use sedge_protocol::text::one_line;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tract_onnx::prelude as tract;
use tract_onnx::prelude::{DatumType, IntoTValue as _, TValue, TVec};

pub use cache::ModelCache;
pub use edge::Softmax;
pub use fused::{Fate, Fusion, NodeFusion, Reason};
pub use layers::{Layer, Layers, Peaks};
pub use onnx::{OperatorCount, Summary};
pub use saved::{Check, SavedForm, SavedModelError};

/// Larger models are refused: the addresses of a 32-bit device end there.
pub const MODEL_BYTES_MAX: usize = 1 << 30;

/// After files of this size it is worth giving memory back.
const LARGE_BYTES: usize = 1 << 20;

/// How to load a model.
#[derive(Debug, Clone)]
pub struct ModelOptions {
    /// Threads that large operators are split over. 1 runs on the caller's thread.
    pub threads: usize,
    /// Sizes to use where the file leaves an input's dimension open, by input name; 1 where nothing is given.
    pub shapes: Vec<(String, Vec<i32>)>,
    /// What runs the quantized parts.
    pub engine: Engine,
    /// The engine's instruction set by name, to compare and to test; where none is given, that of the environment
    /// variable `SEDGE_ISA`, or the best that the core has.
    pub isa: Option<String>,
}

/// What runs the quantized parts of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// Fused integer operators, wherever there are some for a node, and operators of our own in float where they are
    /// faster than tract's.
    #[default]
    Fused,
    /// tract alone, in float: to compare with. TFLite models have no such form and run fused all the same.
    Tract,
}

impl ModelOptions {
    fn of_engine(&self) -> sedge_engine::Options {
        let of_environment = sedge_engine::Options::from_environment();
        let isa = self.isa.clone().or(of_environment.isa);
        sedge_engine::Options { threads: self.threads, isa, ..of_environment }
    }
}

impl Default for ModelOptions {
    fn default() -> Self {
        Self { threads: 1, shapes: Vec::new(), engine: Engine::default(), isa: None }
    }
}

/// A model that is ready to run.
pub struct Model {
    executable: executable::Executable,
    inputs: Vec<TensorSpec>,
    outputs: Vec<TensorSpec>,
    softmax: Vec<Option<Softmax>>,
    summary: Summary,
    fusion: Fusion,
    /// As in [`ModelOptions`].
    shapes: Vec<(String, Vec<i32>)>,
}

/// Why a model does not load or run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// More than [`MODEL_BYTES_MAX`].
    #[error("the model has {bytes} bytes; at most {MODEL_BYTES_MAX} are accepted")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not ONNX, truncated, or inconsistent.
    #[error("not a readable ONNX model: {problem}; export it again and check it with onnx.checker")]
    Malformed {
        /// What is wrong.
        problem: String,
    },
    /// Operators that cannot be run.
    #[error(
        "the model uses operators that this runtime does not have: {}; replace them at export or pick another opset",
        operators.join(", ")
    )]
    UnsupportedOperators {
        /// Each as `Operator (node name)`.
        operators: Vec<String>,
    },
    /// Weights in another file.
    #[error(
        "the weights of `{tensor}` lie in another file; save the model with its weights inside (save_as_external_data=False)"
    )]
    ExternalData {
        /// The tensor.
        tensor: String,
    },
    /// An input or output of a type that cannot be fed or read.
    #[error("`{tensor}` has element type {ty}, which cannot be fed or read")]
    UnsupportedType {
        /// The tensor.
        tensor: String,
        /// Its type.
        ty: String,
    },
    /// A node that can mean nothing.
    #[error("node `{node}`: {problem}")]
    Node {
        /// Its name, or that of what it yields.
        node: String,
        /// What is wrong with it.
        problem: String,
    },
    /// TFLite that cannot be read.
    #[error(transparent)]
    Tflite(#[from] tflite::TfliteError),
    /// The engine cannot be had as it was asked for.
    #[error(transparent)]
    Engine(#[from] sedge_engine::CompileError),
    /// tract refuses the graph.
    #[error("the model does not load: {problem}")]
    Rejected {
        /// What tract says, with the node.
        problem: String,
    },
    /// A tensor is missing, or one is given that the model does not have.
    #[error("the model's inputs are {expected}, given are {given}")]
    WrongInputs {
        /// Names the model has.
        expected: String,
        /// Names given.
        given: String,
    },
    /// A tensor of another type or shape.
    #[error("input `{input}` must be {expected}, given is {given}")]
    WrongTensor {
        /// The input.
        input: String,
        /// Type and shape the model has.
        expected: String,
        /// Type and shape given.
        given: String,
    },
    /// The model computed NaN.
    #[error("output `{output}` holds NaN at element {index}: the model or its input is not numerically sound")]
    NotANumber {
        /// The output.
        output: String,
        /// First such element.
        index: usize,
    },
    /// tract failed while running.
    #[error("the model failed while running: {problem}")]
    Run {
        /// What tract says.
        problem: String,
    },
    /// tract panicked.
    #[error("the engine failed inside ({problem}); this is a defect of the engine or a malformed model")]
    Panicked {
        /// The panic's message.
        problem: String,
    },
}

impl Model {
    /// Loads an ONNX model, or a quantized TFLite model.
    ///
    /// # Errors
    /// [`ModelError`] naming the operator or tensor at fault.
    pub fn load(onnx: &[u8], options: &ModelOptions) -> Result<Self, ModelError> {
        guarded(|| Self::load_unguarded(onnx, options))
    }

    /// As [`Model::load`]; the file's bytes are freed as soon as they are read.
    ///
    /// # Errors
    /// As of [`Model::load`].
    pub fn load_owned(onnx: Vec<u8>, options: &ModelOptions) -> Result<Self, ModelError> {
        guarded(|| Self::load_unguarded(onnx, options))
    }

    fn load_unguarded(file: impl AsRef<[u8]>, options: &ModelOptions) -> Result<Self, ModelError> {
        let large = file.as_ref().len() >= LARGE_BYTES;
        let model = if tflite::is_tflite(file.as_ref()) {
            Self::load_tflite(file, options)?
        } else {
            Self::load_onnx(file, options)?
        };
        if large {
            give_back();
        }
        Ok(model)
    }

    fn load_tflite(file: impl AsRef<[u8]>, options: &ModelOptions) -> Result<Self, ModelError> {
        let imported = tflite::import(file.as_ref())?;
        drop(file);
        let (softmax, summary) = (imported.softmax.clone(), imported.summary.clone());
        let executable::Loaded { executable, inputs, outputs, fusion } = executable::load_tflite(imported, options)?;
        Ok(Self { executable, inputs, outputs, softmax, summary, fusion, shapes: options.shapes.clone() })
    }

    fn load_onnx(file: impl AsRef<[u8]>, options: &ModelOptions) -> Result<Self, ModelError> {
        let mut parsed = onnx::Parsed::parse(file.as_ref())?;
        drop(file);
        let executable::Loaded { executable, inputs, outputs, fusion } = executable::load(&mut parsed, options)?;
        let softmax = parsed.outputs.iter().map(|o| o.edge.softmax).collect();
        let (summary, shapes) = (parsed.summary().clone(), options.shapes.clone());
        Ok(Self { executable, inputs, outputs, softmax, summary, fusion, shapes })
    }

    /// What the model expects.
    pub fn inputs(&self) -> &[TensorSpec] {
        &self.inputs
    }

    /// What the model yields.
    pub fn outputs(&self) -> &[TensorSpec] {
        &self.outputs
    }

    /// The softmax that an output comes from, by the output's place.
    pub fn softmax(&self, output: usize) -> Option<Softmax> {
        self.softmax.get(output).copied().flatten()
    }

    /// What the file holds.
    pub const fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Which nodes run as fused integer operators, and why the others do not.
    pub const fn fusion(&self) -> &Fusion {
        &self.fusion
    }

    /// Runs the model once. Outputs are in the model's order, row-major and packed.
    ///
    /// # Errors
    /// [`ModelError`] for inputs that do not fit, NaN in an output, or a failure in tract.
    pub fn run(&mut self, inputs: &[TensorView<'_>]) -> Result<Vec<Tensor>, ModelError> {
        let mut outputs = Vec::new();
        self.run_into(inputs, &mut outputs)?;
        Ok(outputs)
    }

    /// Runs the model once, over the outputs of an earlier run: what fits of their memory is used again. An empty list
    /// will do. After an error they hold nothing of use.
    ///
    /// # Errors
    /// As for [`Model::run`].
    pub fn run_into(&mut self, inputs: &[TensorView<'_>], outputs: &mut Vec<Tensor>) -> Result<(), ModelError> {
        let given = self.inputs.iter().map(|spec| fitting(spec, inputs)).collect::<Result<TVec<_>, _>>()?;
        if inputs.len() != self.inputs.len() {
            return Err(self.wrong_inputs(inputs));
        }
        let ours = |(output, spec): (&Tensor, &TensorSpec)| output.name == spec.name && output.ty == spec.ty;
        if outputs.len() != self.outputs.len() || !outputs.iter().zip(&self.outputs).all(ours) {
            let empty =
                |spec: &TensorSpec| Tensor { name: spec.name.clone(), ty: spec.ty, shape: vec![], data: vec![] };
            *outputs = self.outputs.iter().map(empty).collect();
        }
        let (executable, specs) = (&mut self.executable, &self.inputs);
        let result = guarded(|| executable.run(specs, &given, outputs));
        if matches!(result, Err(ModelError::Panicked { .. })) {
            // What the panic left behind is not used again.
            self.executable.renew()?;
        }
        result?;
        let unsound = |output: &Tensor| {
            let index = output.view().first_not_a_number()?;
            Some(ModelError::NotANumber { output: output.name.clone(), index })
        };
        outputs.iter().find_map(unsound).map_or(Ok(()), Err)
    }

    fn wrong_inputs(&self, given: &[TensorView<'_>]) -> ModelError {
        ModelError::WrongInputs {
            expected: names(self.inputs.iter().map(|i| i.name.as_str())),
            given: names(given.iter().map(|i| i.name)),
        }
    }
}

/// Checks one tensor against the model's input.
fn fitting<'a, 'd>(spec: &TensorSpec, given: &'a [TensorView<'d>]) -> Result<&'a TensorView<'d>, ModelError> {
    let Some(tensor) = given.iter().find(|t| t.name == spec.name) else {
        return Err(ModelError::WrongInputs {
            expected: format!("one named {}", spec.name),
            given: names(given.iter().map(|i| i.name)),
        });
    };
    let fits =
        tensor.ty == spec.ty && spec.shape.iter().map(|&d| i64::from(d)).eq(tensor.shape.iter().map(|&d| i64::from(d)));
    let bytes = tensor.shape.iter().try_fold(spec.ty.size_bytes(), |n, &d| n.checked_mul(d as usize));
    if !fits || bytes != Some(tensor.data.len()) {
        return Err(ModelError::WrongTensor {
            input: spec.name.clone(),
            expected: format!("{} {:?}", spec.ty, spec.shape),
            given: format!("{} {:?} in {} bytes", tensor.ty, tensor.shape, tensor.data.len()),
        });
    }
    Ok(tensor)
}

/// Copies a tensor that fits into tract's aligned memory.
fn value(spec: &TensorSpec, tensor: &TensorView<'_>) -> Result<TValue, ModelError> {
    let shape: Vec<usize> = tensor.shape.iter().map(|&d| d as usize).collect();
    // SAFETY: the type is a plain number (no strings or blobs), every bit pattern of which is valid but for booleans,
    // which `datum_type` does not let in; the length was checked against the shape.
    let value = unsafe { tract::Tensor::from_raw_dt(datum_type_of(spec.ty)?, &shape, tensor.data) };
    value.map(|v| v.into_tvalue()).map_err(|e| ModelError::Run { problem: chain(&e) })
}

fn datum_type(port: &onnx::Port) -> Result<DatumType, ModelError> {
    port.datum_type
        .filter(|&dt| element_type(dt).is_some())
        .ok_or_else(|| ModelError::UnsupportedType { tensor: port.name.clone(), ty: port.type_name.clone() })
}

fn datum_type_of(ty: ElementType) -> Result<DatumType, ModelError> {
    Ok(match ty {
        ElementType::Uint8 => DatumType::U8,
        ElementType::Int8 => DatumType::I8,
        ElementType::Uint16 => DatumType::U16,
        ElementType::Int16 => DatumType::I16,
        ElementType::Int32 => DatumType::I32,
        ElementType::Int64 => DatumType::I64,
        ElementType::Float16 => DatumType::F16,
        ElementType::Float32 => DatumType::F32,
        ElementType::Float64 => DatumType::F64,
        ElementType::Bfloat16 | ElementType::Boolean => {
            return Err(ModelError::UnsupportedType { tensor: "input".to_owned(), ty: ty.name().to_owned() });
        }
    })
}

fn element_type(ty: DatumType) -> Option<ElementType> {
    Some(match ty.unquantized() {
        DatumType::U8 => ElementType::Uint8,
        DatumType::I8 => ElementType::Int8,
        DatumType::U16 => ElementType::Uint16,
        DatumType::I16 => ElementType::Int16,
        DatumType::I32 => ElementType::Int32,
        DatumType::I64 => ElementType::Int64,
        DatumType::F16 => ElementType::Float16,
        DatumType::F32 => ElementType::Float32,
        DatumType::F64 => ElementType::Float64,
        _ => return None,
    })
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// tract's chain of causes in one line. Its debug dumps of nodes can be long.
fn chain(e: &tract::TractError) -> String {
    one_line(&format!("{e:#}"))
}

/// Gives memory back that loading has freed. It lies between what stays, where the C library would keep it for later, and
/// running a model asks for none.
fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it frees what nobody holds, and may be called at any time.
    unsafe {
        libc::malloc_trim(0)
    };
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic on this thread will become a [`ModelError::Panicked`], so that a panic hook need not report it.
pub fn catches_panics() -> bool {
    GUARDED.get()
}

/// tract checks most of what it reads with `ensure!`, but not all: a panic becomes an error.
fn guarded<R>(call: impl FnOnce() -> Result<R, ModelError>) -> Result<R, ModelError> {
    GUARDED.set(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    GUARDED.set(false);
    result.unwrap_or_else(|panic| {
        let problem = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
            .unwrap_or_else(|| "a panic without a message".to_owned());
        Err(ModelError::Panicked { problem: one_line(&problem) })
    })
}
