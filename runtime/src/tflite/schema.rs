//! The parts of the TFLite schema (version 3) that are read: which number a field has, and what its values mean.

use super::flatbuffer::{Broken, Table, Vector};
use sedge_protocol::text::visible;
use std::borrow::Cow;

/// Where a file says what it is, and how.
pub(super) const IDENTIFIER: (usize, &[u8]) = (4, b"TFL3");
/// Names are cut there: they only serve messages, and converters join the names of all layers that they fused.
const NAME_MAX: usize = 120;

/// Element types that are told apart.
pub(super) mod element {
    pub(in super::super) const FLOAT32: u8 = 0;
    pub(in super::super) const INT32: u8 = 2;
    pub(in super::super) const UINT8: u8 = 3;
    pub(in super::super) const INT64: u8 = 4;
    pub(in super::super) const INT8: u8 = 9;

    /// For messages.
    pub(in super::super) fn name(code: u8) -> String {
        const NAMES: [&str; 18] = [
            "float32",
            "float16",
            "int32",
            "uint8",
            "int64",
            "string",
            "bool",
            "int16",
            "complex64",
            "int8",
            "float64",
            "complex128",
            "uint64",
            "resource",
            "variant",
            "uint32",
            "uint16",
            "int4",
        ];
        NAMES.get(usize::from(code)).map_or_else(|| format!("type {code}"), |name| (*name).to_owned())
    }
}

/// Which table holds an operator's options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub(super) enum Kind {
    Conv2d = 1,
    DepthwiseConv2d = 2,
    Pool2d = 5,
    FullyConnected = 8,
    Softmax = 9,
    Concatenation = 10,
    Add = 11,
    Mul = 21,
    Reducer = 27,
    Sub = 28,
    StridedSlice = 32,
    ResizeNearestNeighbor = 74,
    LeakyRelu = 75,
    BatchMatMul = 101,
    Gelu = 116,
}

/// Operators by their number.
#[rustfmt::skip]
const OPERATORS: [&str; 161] = [
    "ADD", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "DEPTH_TO_SPACE", "DEQUANTIZE",
    "EMBEDDING_LOOKUP", "FLOOR", "FULLY_CONNECTED", "HASHTABLE_LOOKUP", "L2_NORMALIZATION", "L2_POOL_2D",
    "LOCAL_RESPONSE_NORMALIZATION", "LOGISTIC", "LSH_PROJECTION", "LSTM", "MAX_POOL_2D", "MUL", "RELU", "RELU_N1_TO_1",
    "RELU6", "RESHAPE", "RESIZE_BILINEAR", "RNN", "SOFTMAX", "SPACE_TO_DEPTH", "SVDF", "TANH", "CONCAT_EMBEDDINGS",
    "SKIP_GRAM", "CALL", "CUSTOM", "EMBEDDING_LOOKUP_SPARSE", "PAD", "UNIDIRECTIONAL_SEQUENCE_RNN", "GATHER",
    "BATCH_TO_SPACE_ND", "SPACE_TO_BATCH_ND", "TRANSPOSE", "MEAN", "SUB", "DIV", "SQUEEZE",
    "UNIDIRECTIONAL_SEQUENCE_LSTM", "STRIDED_SLICE", "BIDIRECTIONAL_SEQUENCE_RNN", "EXP", "TOPK_V2", "SPLIT",
    "LOG_SOFTMAX", "DELEGATE", "BIDIRECTIONAL_SEQUENCE_LSTM", "CAST", "PRELU", "MAXIMUM", "ARG_MAX", "MINIMUM", "LESS",
    "NEG", "PADV2", "GREATER", "GREATER_EQUAL", "LESS_EQUAL", "SELECT", "SLICE", "SIN", "TRANSPOSE_CONV",
    "SPARSE_TO_DENSE", "TILE", "EXPAND_DIMS", "EQUAL", "NOT_EQUAL", "LOG", "SUM", "SQRT", "RSQRT", "SHAPE", "POW",
    "ARG_MIN", "FAKE_QUANT", "REDUCE_PROD", "REDUCE_MAX", "PACK", "LOGICAL_OR", "ONE_HOT", "LOGICAL_AND", "LOGICAL_NOT",
    "UNPACK", "REDUCE_MIN", "FLOOR_DIV", "REDUCE_ANY", "SQUARE", "ZEROS_LIKE", "FILL", "FLOOR_MOD", "RANGE",
    "RESIZE_NEAREST_NEIGHBOR", "LEAKY_RELU", "SQUARED_DIFFERENCE", "MIRROR_PAD", "ABS", "SPLIT_V", "UNIQUE", "CEIL",
    "REVERSE_V2", "ADD_N", "GATHER_ND", "COS", "WHERE", "RANK", "ELU", "REVERSE_SEQUENCE", "MATRIX_DIAG", "QUANTIZE",
    "MATRIX_SET_DIAG", "ROUND", "HARD_SWISH", "IF", "WHILE", "NON_MAX_SUPPRESSION_V4", "NON_MAX_SUPPRESSION_V5",
    "SCATTER_ND", "SELECT_V2", "DENSIFY", "SEGMENT_SUM", "BATCH_MATMUL", "PLACEHOLDER_FOR_GREATER_OP_CODES", "CUMSUM",
    "CALL_ONCE", "BROADCAST_TO", "RFFT2D", "CONV_3D", "IMAG", "REAL", "COMPLEX_ABS", "HASHTABLE", "HASHTABLE_FIND",
    "HASHTABLE_IMPORT", "HASHTABLE_SIZE", "REDUCE_ALL", "CONV_3D_TRANSPOSE", "VAR_HANDLE", "READ_VARIABLE",
    "ASSIGN_VARIABLE", "BROADCAST_ARGS", "RANDOM_STANDARD_NORMAL", "BUCKETIZE", "RANDOM_UNIFORM", "MULTINOMIAL", "GELU",
    "DYNAMIC_UPDATE_SLICE", "RELU_0_TO_1", "UNSORTED_SEGMENT_PROD", "UNSORTED_SEGMENT_MAX", "UNSORTED_SEGMENT_SUM",
    "ATAN2", "UNSORTED_SEGMENT_MIN", "SIGN", "BITCAST", "BITWISE_XOR",
];

/// A file.
pub(super) struct Model<'a> {
    pub(super) version: u32,
    pub(super) description: String,
    pub(super) operator_codes: Vector<'a, 4>,
    pub(super) subgraphs: Vector<'a, 4>,
    pub(super) buffers: Vector<'a, 4>,
}

impl<'a> Model<'a> {
    pub(super) fn read(file: &'a [u8]) -> Result<Self, Broken> {
        let table = Table::root(file)?;
        Ok(Self {
            version: table.u32(0)?,
            operator_codes: table.vector(1)?,
            subgraphs: table.vector(2)?,
            description: visible(&table.text(3, NAME_MAX)?, NAME_MAX),
            buffers: table.vector(4)?,
        })
    }
}

/// What is computed.
pub(super) struct Subgraph<'a> {
    pub(super) tensors: Vector<'a, 4>,
    pub(super) inputs: Vector<'a, 4>,
    pub(super) outputs: Vector<'a, 4>,
    pub(super) operators: Vector<'a, 4>,
}

impl<'a> Subgraph<'a> {
    pub(super) fn read(table: Table<'a>) -> Result<Self, Broken> {
        Ok(Self {
            tensors: table.vector(0)?,
            inputs: table.vector(1)?,
            outputs: table.vector(2)?,
            operators: table.vector(3)?,
        })
    }
}

/// The name of an operator that the file uses.
///
/// The number stood in 8 bits first. Newer files hold it in 32 bits as well, and the larger one counts.
pub(super) fn operator_name(code: Table<'_>) -> Result<Cow<'static, str>, Broken> {
    let number = i32::from(code.u8(0)? as i8).max(code.i32(3, 0)?);
    let name = usize::try_from(number).ok().and_then(|number| OPERATORS.get(number));
    Ok(match name {
        Some(&"CUSTOM") => format!("custom operator {}", visible(&code.text(1, NAME_MAX)?, NAME_MAX)).into(),
        Some(name) => Cow::Borrowed(*name),
        None => format!("operator number {number}").into(),
    })
}

/// A tensor.
#[derive(Debug, Clone)]
pub(super) struct Tensor<'a> {
    pub(super) name: String,
    pub(super) shape: Vector<'a, 4>,
    pub(super) element: u8,
    /// Bytes that are known beforehand, by their place among the model's buffers; 0 for none.
    pub(super) buffer: u32,
    pub(super) variable: bool,
    pub(super) sparse: bool,
    pub(super) scales: Vector<'a, 4>,
    pub(super) zero_points: Vector<'a, 8>,
    /// Whether something else than scales and zero points says what its integers stand for.
    pub(super) custom_quantization: bool,
    /// The axis that scales run along when there are several.
    pub(super) axis: i32,
}

impl<'a> Tensor<'a> {
    pub(super) fn read(table: Table<'a>) -> Result<Self, Broken> {
        let quantization = table.table(4)?;
        Ok(Self {
            name: visible(&table.text(3, NAME_MAX)?, NAME_MAX),
            shape: table.vector(0)?,
            element: table.u8(1)?,
            buffer: table.u32(2)?,
            variable: table.u8(5)? != 0,
            sparse: table.table(6)?.is_some(),
            scales: quantization.map_or(Ok(Vector::default()), |q| q.vector(2))?,
            zero_points: quantization.map_or(Ok(Vector::default()), |q| q.vector(3))?,
            custom_quantization: quantization.map_or(Ok(0), |q| q.u8(4))? != 0,
            axis: quantization.map_or(Ok(0), |q| q.i32(6, 0))?,
        })
    }
}

/// The bytes of a buffer. Those of files beyond 2 GiB lie behind the tables, at a place that the buffer names.
pub(super) fn buffer<'a>(file: &'a [u8], table: Table<'a>) -> Result<Option<&'a [u8]>, Broken> {
    let (offset, size) = (table.u64(1)?, table.u64(2)?);
    if offset <= 1 {
        return Ok(Some(table.vector::<1>(0)?.elements().as_flattened()));
    }
    let place = usize::try_from(offset).ok().zip(usize::try_from(size).ok());
    Ok(place.and_then(|(offset, size)| file.get(offset..)?.get(..size)))
}

/// An operator as it stands in the file.
pub(super) struct RawOperator<'a> {
    pub(super) code: u32,
    pub(super) inputs: Vector<'a, 4>,
    pub(super) outputs: Vector<'a, 4>,
    pub(super) kind: u8,
    pub(super) options: Option<Table<'a>>,
}

impl<'a> RawOperator<'a> {
    pub(super) fn read(table: Table<'a>) -> Result<Self, Broken> {
        Ok(Self {
            code: table.u32(0)?,
            inputs: table.vector(1)?,
            outputs: table.vector(2)?,
            kind: table.u8(3)?,
            options: table.table(4)?,
        })
    }
}
