//! Operators by what they do to values, told by their names.

use super::source::Source;
use tract_onnx::pb::NodeProto;

/// Operators that yield the values they read, in another order, shape or number. The first input is the data.
pub(super) fn moves(node: &NodeProto) -> bool {
    let plain = matches!(
        node.op_type.as_str(),
        "Identity"
            | "Dropout"
            | "Reshape"
            | "Flatten"
            | "Squeeze"
            | "Unsqueeze"
            | "Transpose"
            | "Slice"
            | "Split"
            | "Pad"
            | "Tile"
            | "MaxPool"
            | "Resize"
            | "Upsample"
    );
    plain && node.domain != "com.microsoft"
}

/// Functions of one element.
pub(super) fn curves(node: &NodeProto) -> bool {
    matches!(
        node.op_type.as_str(),
        "Relu"
            | "Clip"
            | "LeakyRelu"
            | "Sigmoid"
            | "Tanh"
            | "HardSigmoid"
            | "HardSwish"
            | "Elu"
            | "Gelu"
            | "Erf"
            | "Exp"
            | "Log"
            | "Sqrt"
            | "Abs"
            | "Neg"
            | "Softplus"
            | "Floor"
            | "Ceil"
            | "Reciprocal"
    )
}

/// Functions of two elements.
pub(super) fn pairs(node: &NodeProto) -> bool {
    matches!(node.op_type.as_str(), "Add" | "Sub" | "Mul" | "Div" | "Min" | "Max" | "Pow")
}

/// Whether a function of two elements is the square of its first.
pub(super) fn squares(source: &Source, node: &NodeProto) -> bool {
    match (node.op_type.as_str(), node.input.as_slice()) {
        ("Mul", [one, two]) => one == two,
        // With more axes the exponent would give its own to the result.
        ("Pow", [_, two]) => source.constant(two, node).ok().flatten().is_some_and(|constant| {
            constant.dims.len() <= 1 && constant.floats().is_some_and(|all| matches!(all, [2.0]))
        }),
        _ => false,
    }
}

/// Quantized operators: bytes in, bytes out.
pub(super) fn quantized(node: &NodeProto) -> bool {
    matches!(
        node.op_type.as_str(),
        "QLinearConv"
            | "QLinearMatMul"
            | "QGemm"
            | "QLinearAdd"
            | "QLinearMul"
            | "QLinearConcat"
            | "QLinearSigmoid"
            | "QLinearLeakyRelu"
            | "QLinearGlobalAveragePool"
            | "QLinearAveragePool"
            | "QLinearReduceMean"
            | "QLinearSoftmax"
    )
}
