//! One operator: its tensors and options, and errors that name it.

use super::TfliteError;
use super::flatbuffer::{Broken, Table};
use super::importer::Importer;
use super::schema::Kind;
use super::{arithmetic, conv, layout, pool, unary};
use sedge_engine::{Quantization, Range, quantize};
use std::borrow::Cow;

/// An operator of the file, its tensors checked to exist.
pub(super) struct Operator<'a> {
    pub(super) index: usize,
    pub(super) name: Cow<'static, str>,
    /// Places of tensors; none where an optional one is left out.
    pub(super) inputs: Vec<Option<usize>>,
    pub(super) outputs: Vec<usize>,
    pub(super) kind: u8,
    pub(super) options: Option<Table<'a>>,
}

/// Adds an operator to the graph.
pub(super) type Read = fn(&mut Importer<'_>, &Operator<'_>) -> Result<(), TfliteError>;

/// What reads an operator; none when nothing does.
pub(super) fn reader(name: &str) -> Option<Read> {
    Some(match name {
        "CONV_2D" => conv::convolution,
        "DEPTHWISE_CONV_2D" => conv::depthwise,
        "FULLY_CONNECTED" => conv::fully_connected,
        "ADD" => arithmetic::add,
        "SUB" => arithmetic::subtract,
        "MUL" => arithmetic::multiply,
        "SQUARED_DIFFERENCE" => arithmetic::squared_difference,
        "BATCH_MATMUL" => arithmetic::matrices,
        "SOFTMAX" => arithmetic::softmax,
        "AVERAGE_POOL_2D" => pool::average,
        "MAX_POOL_2D" => pool::max,
        "MEAN" => pool::mean,
        "RESHAPE" | "SQUEEZE" | "EXPAND_DIMS" => layout::reshape,
        "TRANSPOSE" => layout::transpose,
        "PAD" => layout::pad,
        "SPLIT" => layout::split,
        "SLICE" => layout::slice,
        "STRIDED_SLICE" => layout::strided_slice,
        "CONCATENATION" => layout::concatenation,
        "TILE" => layout::tile,
        "RESIZE_NEAREST_NEIGHBOR" => layout::resize_nearest,
        "QUANTIZE" => unary::quantize,
        "DEQUANTIZE" => unary::dequantize,
        "ABS" | "ELU" | "EXP" | "GELU" | "HARD_SWISH" | "LEAKY_RELU" | "LOGISTIC" | "NEG" | "RELU" | "RELU6"
        | "RELU_0_TO_1" | "RELU_N1_TO_1" | "RSQRT" | "SQRT" | "SQUARE" | "TANH" => unary::function,
        _ => return None,
    })
}

impl<'a> Operator<'a> {
    /// An error of this operator.
    pub(super) fn refuse(&self, problem: impl Into<String>) -> TfliteError {
        TfliteError::Operator { index: self.index, operator: self.name.to_string(), problem: problem.into() }
    }

    pub(super) fn input(&self, place: usize) -> Result<usize, TfliteError> {
        let missing = || self.refuse(format!("input {place} is missing"));
        self.inputs.get(place).copied().flatten().ok_or_else(missing)
    }

    pub(super) fn output(&self, place: usize) -> Result<usize, TfliteError> {
        self.outputs.get(place).copied().ok_or_else(|| self.refuse(format!("output {place} is missing")))
    }

    /// The bytes that a fused activation leaves.
    pub(super) fn activation(&self, code: u8, to: Quantization) -> Result<Range, TfliteError> {
        let between = |low: f32, high: f32| Range { low: quantize(low, to), high: quantize(high, to) };
        Ok(match code {
            0 => Range::FULL,
            1 => between(0.0, f32::INFINITY),
            2 => between(-1.0, 1.0),
            3 => between(0.0, 6.0),
            other => return Err(self.refuse(format!("fused activation {other} is not read"))),
        })
    }

    /// Its name in the graph.
    pub(super) fn label(&self) -> String {
        format!("{} {}", self.name, self.index)
    }

    /// Its options.
    pub(super) fn options(&self, kind: Kind) -> Result<Options<'a, '_>, TfliteError> {
        if self.kind != 0 && self.kind != kind as u8 {
            return Err(self.refuse(format!("its options are those of another operator (kind {})", self.kind)));
        }
        Ok(Options { table: self.options.filter(|_| self.kind != 0), operator: self })
    }
}

/// Options by number. A field that is left out has its default.
pub(super) struct Options<'a, 'o> {
    table: Option<Table<'a>>,
    operator: &'o Operator<'a>,
}

impl<'a> Options<'a, '_> {
    fn field<T>(&self, absent: T, read: impl FnOnce(Table<'a>) -> Result<T, Broken>) -> Result<T, TfliteError> {
        let broken = |broken: Broken| self.operator.refuse(format!("its options: {broken}"));
        self.table.map_or(Ok(absent), |table| read(table).map_err(broken))
    }

    pub(super) fn flag(&self, number: usize) -> Result<bool, TfliteError> {
        self.field(false, |table| table.u8(number).map(|byte| byte != 0))
    }

    pub(super) fn byte(&self, number: usize) -> Result<u8, TfliteError> {
        self.field(0, |table| table.u8(number))
    }

    pub(super) fn integer(&self, number: usize) -> Result<i32, TfliteError> {
        self.field(0, |table| table.i32(number, 0))
    }

    pub(super) fn real(&self, number: usize) -> Result<f32, TfliteError> {
        self.field(0.0, |table| table.f32(number))
    }

    /// A number of pixels, 1 or more; `absent` where it is left out.
    pub(super) fn pixels(&self, number: usize, absent: i32) -> Result<usize, TfliteError> {
        let found = self.field(absent, |table| table.i32(number, absent))?;
        let fits = usize::try_from(found).ok().filter(|&found| found > 0);
        fits.ok_or_else(|| self.operator.refuse(format!("a stride, dilation or window of {found} is not possible")))
    }
}
