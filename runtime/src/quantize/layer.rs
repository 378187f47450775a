//! Which nodes belong together in 8 bits: an operator with the bias and the activation behind it.

use super::QuantizeError;
use super::bits::Channels;
use super::proto::{self, Index};
use tract_onnx::pb;

/// Nodes that are quantized as one: what lies between them is never rounded.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layer {
    /// Places in the graph: the operator, an addition of its bias, its activation.
    pub(super) nodes: Vec<usize>,
    pub(super) kind: Kind,
    /// What it reads that changes from sample to sample.
    pub(super) inputs: Vec<String>,
    /// What it yields.
    pub(super) output: String,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// Multiplies by constant weights and adds a constant bias.
    Weighted(Weighted),
    /// Computes something in a scale of its own; the named constants are quantized as they are.
    Computes { constants: Vec<String> },
    /// As [`Kind::Computes`], with a range that is known beforehand.
    Probabilities,
    /// Only moves values: its output has the scale of its input.
    Moves,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Weighted {
    pub(super) weight: String,
    /// Axis of the channels in the weights.
    pub(super) axis: usize,
    pub(super) channels: Channels,
    /// Node and constant of the bias.
    pub(super) bias: Option<(usize, String)>,
}

/// What becomes of a node, before its surroundings are looked at.
pub(super) enum Role {
    Layer(Layer),
    /// Why it stays in float.
    Float(&'static str),
}

/// What a single node is. Nodes that a layer took with it are not asked.
pub(super) fn role(graph: &pb::GraphProto, index: &Index<'_>, ix: usize) -> Result<Role, QuantizeError> {
    let node = &graph.node[ix];
    if node.output.iter().skip(1).any(|o| !o.is_empty()) {
        return Ok(Role::Float("it has several outputs"));
    }
    Ok(match node.op_type.as_str() {
        "Conv" | "Gemm" | "MatMul" => return weighted(graph, index, ix),
        "Add" | "Mul" => computes(graph, index, ix, true),
        "Concat" | "AveragePool" | "GlobalAveragePool" | "Sigmoid" | "Relu" | "Clip" => {
            computes(graph, index, ix, false)
        }
        "Softmax" => one_input(index, node, ix, Kind::Probabilities),
        "MaxPool" | "Reshape" | "Flatten" | "Transpose" | "Squeeze" | "Unsqueeze" | "Identity" => {
            one_input(index, node, ix, Kind::Moves)
        }
        "Resize" if proto::text(node, "mode", "nearest") == "nearest" => one_input(index, node, ix, Kind::Moves),
        "Resize" => Role::Float("it interpolates"),
        "Pad" if pads_with_zero(index, node) => one_input(index, node, ix, Kind::Moves),
        "Pad" => Role::Float("it pads with something else than zero"),
        _ => Role::Float("the operator has no form in 8 bits"),
    })
}

fn pads_with_zero(index: &Index<'_>, node: &pb::NodeProto) -> bool {
    let zero = |name: &str| index.floats(name).is_some_and(|v| v.iter().all(|&v| v == 0.0));
    proto::text(node, "mode", "constant") == "constant" && proto::input(node, 2).is_none_or(zero)
}

fn one_input(index: &Index<'_>, node: &pb::NodeProto, ix: usize, kind: Kind) -> Role {
    // Sizes, axes and the like must be known; only the first input is data.
    let fixed = node.input.iter().skip(1).filter(|i| !i.is_empty()).all(|i| index.constants.contains_key(i.as_str()));
    match proto::input(node, 0) {
        Some(input) if !index.constants.contains_key(input) && (fixed || node.op_type == "Reshape") => {
            Role::Layer(Layer {
                nodes: vec![ix],
                kind,
                inputs: vec![input.to_owned()],
                output: proto::output(node).to_owned(),
            })
        }
        _ => Role::Float("its shape depends on the sample"),
    }
}

fn computes(graph: &pb::GraphProto, index: &Index<'_>, ix: usize, may_clip: bool) -> Role {
    let node = &graph.node[ix];
    // The bounds of a Clip are no data.
    let data = if node.op_type == "Clip" { &node.input[..node.input.len().min(1)] } else { &node.input[..] };
    let (constants, inputs): (Vec<String>, Vec<String>) =
        data.iter().cloned().partition(|i| index.constants.contains_key(i.as_str()));
    if inputs.is_empty() || inputs.iter().any(String::is_empty) {
        return Role::Float("it reads only constants");
    }
    if constants.iter().any(|c| index.floats(c).is_none_or(|v| v.is_empty() || v.iter().any(|v| !v.is_finite()))) {
        return Role::Float("one of its constants is not made of finite float32 values");
    }
    let mut nodes = vec![ix];
    if may_clip {
        nodes.extend(activation(graph, index, ix));
    }
    let output = nodes.last().map_or("", |&last| proto::output(&graph.node[last])).to_owned();
    Role::Layer(Layer { nodes, kind: Kind::Computes { constants }, inputs, output })
}

/// `Relu` or `Clip` with fixed bounds, if it alone reads what the node yields.
fn activation(graph: &pb::GraphProto, index: &Index<'_>, ix: usize) -> Option<usize> {
    let reader = index.only_reader(proto::output(&graph.node[ix]))?;
    let node = &graph.node[reader];
    let bounds = || node.input.iter().skip(1).filter(|i| !i.is_empty());
    match node.op_type.as_str() {
        "Relu" => Some(reader),
        "Clip" if bounds().all(|b| index.constants.contains_key(b.as_str())) => Some(reader),
        _ => None,
    }
}

fn weighted(graph: &pb::GraphProto, index: &Index<'_>, ix: usize) -> Result<Role, QuantizeError> {
    let node = &graph.node[ix];
    let (Some(input), Some(weight)) = (proto::input(node, 0), proto::input(node, 1)) else {
        return Ok(Role::Float("it lacks an input"));
    };
    let Some(tensor) = index.constants.get(weight) else {
        return match node.op_type.as_str() {
            // Attention multiplies two activations; that is no mistake of the model.
            "MatMul" => Ok(Role::Float("neither side is constant")),
            operator => Err(QuantizeError::ChangingWeights {
                operator: operator.to_owned(),
                node: proto::name(node),
                tensor: weight.to_owned(),
            }),
        };
    };
    if index.constants.contains_key(input) {
        return Ok(Role::Float("it reads only constants"));
    }
    let axis = match node.op_type.as_str() {
        "Conv" => 0,
        "Gemm" if proto::integer(node, "transA", 0) != 0 => return Ok(Role::Float("its first input is transposed")),
        "Gemm" if proto::integer(node, "transB", 0) != 0 => 0,
        _ => 1,
    };
    if node.op_type != "Conv" && tensor.dims.len() != 2 {
        return Ok(Role::Float("its weights are no matrix"));
    }
    let Some(values) = proto::floats(tensor) else {
        return Ok(Role::Float("its weights are not float32"));
    };
    if let Some(bad) = values.iter().position(|v| !v.is_finite()) {
        return Err(proto::constant_error(node, weight, format!("is {} at element {bad}", values[bad])));
    }
    let Some(channels) = Channels::along(&tensor.dims, axis) else {
        return Ok(Role::Float("its weights are empty"));
    };
    let mut nodes = vec![ix];
    let mut bias = None;
    if let Some(name) = proto::input(node, 2) {
        if !fits_channels(index, name, channels.count) {
            return Ok(Role::Float("its bias is not one constant for each channel"));
        }
        bias = Some((ix, name.to_owned()));
    } else if node.op_type == "MatMul"
        && let Some((add, name)) = added_bias(graph, index, ix, channels.count)
    {
        nodes.push(add);
        bias = Some((add, name));
    }
    if let Some((_, name)) = &bias
        && index.floats(name).is_none_or(|v| v.iter().any(|v| !v.is_finite()))
    {
        return Err(proto::constant_error(node, name, "holds a value that is not finite"));
    }
    nodes.extend(nodes.last().and_then(|&last| activation(graph, index, last)));
    let output = nodes.last().map_or("", |&last| proto::output(&graph.node[last])).to_owned();
    let weighted = Weighted { weight: weight.to_owned(), axis, channels, bias };
    Ok(Role::Layer(Layer { nodes, kind: Kind::Weighted(weighted), inputs: vec![input.to_owned()], output }))
}

/// A constant of one value for each channel, in one dimension.
fn fits_channels(index: &Index<'_>, name: &str, channels: usize) -> bool {
    index.constants.get(name).is_some_and(|t| t.dims == [channels as i64] && proto::floats(t).is_some())
}

/// The addition behind a multiplication, and the bias that it adds.
fn added_bias(graph: &pb::GraphProto, index: &Index<'_>, ix: usize, channels: usize) -> Option<(usize, String)> {
    let product = proto::output(&graph.node[ix]);
    let reader = index.only_reader(product)?;
    let node = &graph.node[reader];
    let other = node.input.iter().find(|i| *i != product)?;
    (node.op_type == "Add" && fits_channels(index, other, channels)).then(|| (reader, other.clone()))
}
