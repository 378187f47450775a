//! A quantized network as the engine takes it: what an importer builds.
//!
//! Tensors are four-dimensional and channels last. Their elements are bytes in the *unsigned domain*: a uint8 tensor as
//! it stands, an int8 tensor shifted up by 128 together with its zero point. A real value is
//! `scale * (byte - zero_point)`.
//!
//! What each operator computes, exactly: sums of products of `byte - zero_point` in i32; then
//! `clamp(round_half_even(sum as f32 * multiplier) + zero_point)` with a multiplier in f32. Nothing is computed with
//! fused multiply-add, so every core yields the same bytes.

use serde::{Deserialize, Serialize};

/// A tensor of a [`Graph`], by its place in [`Graph::values`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ValueId(pub usize);

/// Sizes of a tensor, channels last in memory. A matrix of rows and columns is `h = 1`, `w = rows`, `c = columns`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Dims {
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub c: usize,
}

impl Dims {
    /// Four sizes.
    pub const fn new(n: usize, h: usize, w: usize, c: usize) -> Self {
        Self { n, h, w, c }
    }

    /// The sizes in the order of memory.
    pub const fn array(self) -> [usize; 4] {
        [self.n, self.h, self.w, self.c]
    }

    /// How many elements; `None` when a `usize` cannot hold it.
    pub fn elements(self) -> Option<usize> {
        self.array().iter().try_fold(1_usize, |product, size| product.checked_mul(*size))
    }
}

/// How bytes in the unsigned domain stand for real values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Quantization {
    /// Distance of two neighbouring values; finite and above 0.
    pub scale: f32,
    /// The byte that stands for 0.
    pub zero_point: u8,
}

/// A tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Value {
    /// For messages.
    pub name: String,
    /// Its sizes.
    pub dims: Dims,
    /// What its bytes mean.
    pub quantization: Quantization,
    /// Its bytes, when they are known beforehand: row-major, channels last, in the unsigned domain.
    pub constant: Option<Vec<u8>>,
}

/// Bytes that an output is limited to: the fused Relu, Relu6 or Clip, in the output's quantization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Smallest byte.
    pub low: u8,
    /// Largest byte.
    pub high: u8,
}

impl Range {
    /// No limit beyond that of a byte.
    pub const FULL: Self = Self { low: 0, high: 255 };
}

/// Rows or columns that are added to each side of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Pads {
    pub top: usize,
    pub left: usize,
    pub bottom: usize,
    pub right: usize,
}

/// How a window moves over a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Height and width of the window.
    pub kernel: [usize; 2],
    /// Steps down and to the right.
    pub stride: [usize; 2],
    /// Distances between the window's rows and columns; 1 for neighbours.
    pub dilation: [usize; 2],
    /// What is added around the picture.
    pub pads: Pads,
}

/// A convolution, a depthwise convolution (`groups` equal to the input's channels), or a dense layer (a window of one).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conv {
    /// Its window. Padding has the input's zero point.
    pub window: Window,
    /// Groups of channels that do not see each other.
    pub groups: usize,
    /// `[output channel][row][column][input channel of the group]`.
    pub weights: Vec<i8>,
    /// The weight that stands for 0: one for all, or one for each output channel, which costs more. Empty where it is 0,
    /// which costs least.
    pub weight_zero_points: Vec<i8>,
    /// Distance of two neighbouring weights: one for all, or one for each output channel.
    pub scales: Vec<f32>,
    /// One for each output channel, with the scale `input scale * weight scale`; empty for none.
    pub bias: Vec<i32>,
    /// Limits of the output.
    pub range: Range,
}

impl Conv {
    /// The weight that stands for 0 in an output channel.
    pub(crate) fn weight_zero_point(&self, channel: usize) -> i8 {
        match self.weight_zero_points.as_slice() {
            [] => 0,
            [one] => *one,
            each => each[channel],
        }
    }
}

/// An operator with one output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Op {
    /// Of one input.
    Conv(Conv),
    /// Sum of two tensors; the second may have a size of 1 where the first has more.
    Add(Range),
    /// Product of two tensors; as for the sum.
    Mul(Range),
    /// Square of the difference of two tensors; as for the sum. It is `(a * one - b * two)²` in steps of the output, with
    /// `one` and `two` the inputs' scales divided by the root of the output's.
    SquaredDifference,
    /// Products of matrices: `[n, h, w, k]` with `[n, h, k, c]`, or with `[n, h, c, k]` when the second is transposed. The
    /// second may have `n` and `h` of 1.
    MatMul {
        /// Whether the second input's rows are the output's columns.
        transposed: bool,
        /// Limits of the output.
        range: Range,
    },
    /// Several inputs, one after the other along an axis (0 to 3 for n, h, w, c), each taken to the output's quantization.
    Concat {
        /// The axis.
        axis: usize,
    },
    /// The largest of each window; padding never counts. Input and output have the same quantization.
    MaxPool(Window),
    /// The mean of each window.
    AveragePool {
        /// The window.
        window: Window,
        /// Whether padding counts, as zeros.
        include_pads: bool,
    },
    /// Each pixel repeated down and to the right. Input and output have the same quantization.
    Upsample {
        /// How often, down and to the right.
        factor: [usize; 2],
    },
    /// A function of one byte: any unary function, or another quantization.
    Table(#[serde(with = "table")] Box<[u8; 256]>),
    /// Over the channels of each pixel.
    Softmax,
    /// The same bytes under other sizes, in the order of memory.
    Reshape,
    /// Axes in another order: the output's axis `i` is the input's axis `axes[i]`.
    Transpose {
        /// Axes of the input.
        axes: [usize; 4],
    },
    /// A part of the input: from `start` on, every `step`-th, as many as the output has.
    Slice {
        /// First index of each axis.
        start: [usize; 4],
        /// Step of each axis; 1 or more.
        step: [usize; 4],
    },
    /// The input surrounded by bytes of its zero point: `before` on the lower side of each axis, and what the output's
    /// size leaves on the other.
    Pad {
        /// Elements before.
        before: [usize; 4],
    },
}

impl Op {
    /// Its name in messages and profiles.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Conv(_) => "Conv",
            Self::Add(_) => "Add",
            Self::Mul(_) => "Mul",
            Self::SquaredDifference => "SquaredDifference",
            Self::MatMul { .. } => "MatMul",
            Self::Concat { .. } => "Concat",
            Self::MaxPool(_) => "MaxPool",
            Self::AveragePool { .. } => "AveragePool",
            Self::Upsample { .. } => "Upsample",
            Self::Table(_) => "Table",
            Self::Softmax => "Softmax",
            Self::Reshape => "Reshape",
            Self::Transpose { .. } => "Transpose",
            Self::Slice { .. } => "Slice",
            Self::Pad { .. } => "Pad",
        }
    }
}

/// An operator in its place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// For messages: the name that the model's file gives it.
    pub name: String,
    /// What it does.
    pub op: Op,
    /// What it reads.
    pub inputs: Vec<ValueId>,
    /// What it yields.
    pub output: ValueId,
}

/// Element type of a tensor outside of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Element {
    /// Bytes of the unsigned domain.
    U8,
    /// Bytes shifted down by 128.
    I8,
    /// Real values: quantized on the way in (round half to even, saturating), dequantized on the way out.
    F32,
}

/// A tensor at the edge of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The value inside.
    pub value: ValueId,
    /// Its elements outside.
    pub element: Element,
    /// The order of its axes in memory outside, outermost first: 0 to 3 for n, h, w, c. `[0, 1, 2, 3]` is channels last,
    /// `[0, 3, 1, 2]` channels first.
    pub order: [usize; 4],
}

impl Port {
    /// Axes in the order of memory inside.
    pub const CHANNELS_LAST: [usize; 4] = [0, 1, 2, 3];
    /// Channels outside of rows and columns.
    pub const CHANNELS_FIRST: [usize; 4] = [0, 3, 1, 2];
}

/// A quantized network. Nodes are in an order in which each reads only what is there.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Graph {
    /// All tensors.
    pub values: Vec<Value>,
    /// All operators.
    pub nodes: Vec<Node>,
    /// What comes in.
    pub inputs: Vec<Port>,
    /// What goes out.
    pub outputs: Vec<Port>,
}

impl Graph {
    /// Adds a tensor.
    pub fn value(&mut self, name: &str, dims: Dims, quantization: Quantization) -> ValueId {
        self.values.push(Value { name: name.to_owned(), dims, quantization, constant: None });
        ValueId(self.values.len() - 1)
    }

    /// Adds an operator.
    pub fn node(&mut self, name: &str, op: Op, inputs: &[ValueId], output: ValueId) {
        self.nodes.push(Node { name: name.to_owned(), op, inputs: inputs.to_vec(), output });
    }
}

/// A table as bytes.
mod table {
    use serde::de::{Deserialize as _, Deserializer, Error as _};
    use serde::ser::{Serialize as _, Serializer};

    pub(super) fn serialize<S: Serializer>(table: &[u8; 256], serializer: S) -> Result<S::Ok, S::Error> {
        table.as_slice().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Box<[u8; 256]>, D::Error> {
        let bytes = Vec::<u8>::deserialize(deserializer)?;
        let wrong = |bytes: Box<[u8]>| D::Error::invalid_length(bytes.len(), &"256 bytes");
        bytes.into_boxed_slice().try_into().map_err(wrong)
    }
}
