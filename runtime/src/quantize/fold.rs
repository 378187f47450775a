//! A graph in plain form: constants are initializers, `Gemm` has neither alpha nor beta, and a batch normalization is
//! part of the weights before it.

use super::QuantizeError;
use super::bits::Channels;
use super::proto::{self, Index, Names};
use crate::model::{Model, ModelOptions};
use std::collections::{BTreeMap, BTreeSet};
use tract_onnx::pb;

/// Operators that only a quantized model has. `DequantizeLinear` of constants alone is one that some converters leave
/// in float models; it is folded before this is asked.
const QUANTIZED: [&str; 14] = [
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "ConvInteger",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "QLinearConv",
    "QLinearMatMul",
    "QLinearAdd",
    "QLinearMul",
    "QLinearConcat",
    "QLinearGlobalAveragePool",
    "QGemm",
];

pub(super) fn plain(mut model: pb::ModelProto) -> Result<pb::ModelProto, QuantizeError> {
    let mut graph = model.graph.take().unwrap_or_default();
    // Older exporters list weights among the inputs as well, for callers that replace them.
    let constants: BTreeSet<String> = graph.initializer.iter().map(|t| t.name.clone()).collect();
    graph.input.retain(|i| !constants.contains(&i.name));
    constant_nodes(&mut graph);
    constant_expressions(&model, &mut graph)?;
    if let Some(node) = graph.node.iter().find(|n| QUANTIZED.contains(&n.op_type.as_str())) {
        return Err(QuantizeError::AlreadyQuantized { operator: node.op_type.clone(), node: proto::name(node) });
    }
    plain_gemm(&mut graph)?;
    batch_normalization(&mut graph)?;
    graph.value_info.clear();
    model.graph = Some(graph);
    Ok(model)
}

/// `Constant` nodes with a tensor become initializers.
fn constant_nodes(graph: &mut pb::GraphProto) {
    let outputs: BTreeSet<String> = graph.output.iter().map(|o| o.name.clone()).collect();
    let mut values = Vec::new();
    graph.node.retain(|node| {
        let value = proto::attribute(node, "value").and_then(|a| a.t.clone());
        match value {
            Some(value) if node.op_type == "Constant" && !outputs.contains(proto::output(node)) => {
                values.push(pb::TensorProto { name: proto::output(node).to_owned(), ..value });
                false
            }
            _ => true,
        }
    });
    graph.initializer.extend(values);
}

/// Nodes that read nothing but constants and yield floats are computed once, in tract.
fn constant_expressions(model: &pb::ModelProto, graph: &mut pb::GraphProto) -> Result<(), QuantizeError> {
    const FOLDED: [&str; 12] = [
        "DequantizeLinear",
        "Identity",
        "Transpose",
        "Reshape",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Sqrt",
    ];
    // Whether it is float, by name.
    let float = pb::tensor_proto::DataType::Float as i32;
    let mut known: BTreeMap<&str, bool> =
        graph.initializer.iter().map(|t| (t.name.as_str(), t.data_type == float)).collect();
    let mut folded = Vec::new();
    for (ix, node) in graph.node.iter().enumerate() {
        let of_constants = node.input.iter().filter(|i| !i.is_empty()).all(|i| known.contains_key(i.as_str()));
        let first = proto::input(node, 0).and_then(|i| known.get(i)).copied();
        let yields_float = first.is_some_and(|float| float || node.op_type == "DequantizeLinear");
        if FOLDED.contains(&node.op_type.as_str()) && node.output.len() == 1 && of_constants && yields_float {
            known.insert(proto::output(node), true);
            folded.push(ix);
        }
    }
    let outside = |ix: &usize| folded.binary_search(ix).is_err();
    let staying = (0..graph.node.len()).filter(outside).map(|ix| graph.node[ix].clone()).collect();
    let staying = pb::GraphProto { node: staying, output: graph.output.clone(), ..pb::GraphProto::default() };
    let mut needed = proto::names_read(&staying);
    let wanted: BTreeSet<&str> =
        folded.iter().map(|&ix| proto::output(&graph.node[ix])).filter(|name| needed.contains(*name)).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let value = |name: &&str| pb::ValueInfoProto { name: (*name).to_owned(), ..pb::ValueInfoProto::default() };
    let part = pb::GraphProto {
        node: folded.iter().map(|&ix| graph.node[ix].clone()).collect(),
        initializer: graph.initializer.clone(),
        output: wanted.iter().map(value).collect(),
        ..pb::GraphProto::default()
    };
    let part = pb::ModelProto { graph: Some(part), ..model.clone() };
    let found = Model::load(&proto::encode(&part), &ModelOptions::default())?.run(&[])?;
    let outputs: BTreeSet<String> = graph.output.iter().map(|o| o.name.clone()).collect();
    let values: Vec<pb::TensorProto> =
        found.iter().filter(|t| !outputs.contains(&t.name)).filter_map(proto::computed).collect();
    values.iter().for_each(|t| {
        needed.remove(&t.name);
    });
    // A folded node stays where an output of the graph or another that stays reads it.
    let mut stays = vec![true; graph.node.len()];
    for &ix in folded.iter().rev() {
        stays[ix] = needed.contains(proto::output(&graph.node[ix]));
        if stays[ix] {
            needed.extend(graph.node[ix].input.iter().cloned());
        }
    }
    let mut stays = stays.into_iter();
    graph.node.retain(|_| stays.next().unwrap_or(true));
    graph.initializer.extend(values);
    Ok(())
}

/// `Gemm` is `alpha A B + beta C`; both factors go into the constants, and C becomes one value for each channel.
fn plain_gemm(graph: &mut pb::GraphProto) -> Result<(), QuantizeError> {
    let mut names = Names::of(graph);
    let mut made = Vec::new();
    let mut nodes = std::mem::take(&mut graph.node);
    let index = Index::of(graph);
    for node in nodes.iter_mut().filter(|n| n.op_type == "Gemm") {
        let (alpha, beta) = (proto::float(node, "alpha", 1.0), proto::float(node, "beta", 1.0));
        let Some(weight) = proto::input(node, 1).and_then(|w| index.constants.get(w)) else { continue };
        let Some(values) = proto::floats(weight) else { continue };
        let axis = usize::from(proto::integer(node, "transB", 0) == 0);
        let Some(Channels { count: channels, .. }) = Channels::along(&weight.dims, axis) else { continue };
        let bias = match proto::input(node, 2) {
            None => None,
            Some(name) => {
                let Some(values) = index.floats(name).filter(|v| v.len() == 1 || v.len() == channels) else { continue };
                let last = index.constants.get(name).and_then(|t| t.dims.last()).copied();
                if values.len() > 1 && last != Some(channels as i64) {
                    continue;
                }
                Some((name.to_owned(), if values.len() == 1 { vec![values[0]; channels] } else { values }))
            }
        };
        let one_row = |name: &str| index.constants.get(name).is_some_and(|t| t.dims == [channels as i64]);
        if alpha != 1.0 {
            let name = names.fresh(format!("{}_scaled", weight.name));
            let values: Vec<f32> = values.iter().map(|v| v * alpha).collect();
            made.push(proto::float_tensor(&name, &weight.dims, &values));
            node.input[1] = name;
        }
        if let Some((name, values)) = bias.filter(|(name, _)| beta != 1.0 || !one_row(name)) {
            let fresh = names.fresh(format!("{name}_scaled"));
            let values: Vec<f32> = values.iter().map(|v| v * beta).collect();
            made.push(proto::float_tensor(&fresh, &[channels as i64], &values));
            node.input[2] = fresh;
        }
        node.attribute.retain(|a| a.name != "alpha" && a.name != "beta");
    }
    graph.node = nodes;
    graph.initializer.extend(made);
    Ok(())
}

/// `BatchNormalization` behind a convolution or `Gemm` whose result nothing else reads:
/// `W' = W g / sqrt(var + epsilon)` and `b' = (b - mean) g / sqrt(var + epsilon) + beta`, channel by channel.
fn batch_normalization(graph: &mut pb::GraphProto) -> Result<(), QuantizeError> {
    let mut names = Names::of(graph);
    let mut gone = BTreeSet::new();
    let mut changed = Vec::new();
    let mut made = Vec::new();
    let index = Index::of(graph);
    for (ix, norm) in graph.node.iter().enumerate().filter(|(_, n)| n.op_type == "BatchNormalization") {
        let Some(tensor) = proto::input(norm, 0) else { continue };
        let Some(&before) = index.producers.get(tensor) else { continue };
        if index.only_reader(tensor) != Some(ix) || norm.output.iter().skip(1).any(|o| !o.is_empty()) {
            continue;
        }
        let node = &graph.node[before];
        let axis = match node.op_type.as_str() {
            "Conv" => 0,
            "Gemm" if proto::integer(node, "transB", 0) != 0 => 0,
            "Gemm" => 1,
            _ => continue,
        };
        let Some(weight) = proto::input(node, 1).and_then(|w| index.constants.get(w)) else { continue };
        let Some(mut values) = proto::floats(weight) else { continue };
        let Some(of) = Channels::along(&weight.dims, axis) else { continue };
        let channels = of.count;
        let bias = match proto::input(node, 2) {
            None => Some(vec![0.0; channels]),
            Some(name) => index.floats(name),
        };
        let parameter = |ix: usize| {
            let values = proto::input(norm, ix).and_then(|name| index.floats(name));
            values.filter(|v| v.len() == channels)
        };
        let (Some(bias), Some(gain), Some(shift), Some(mean), Some(variance)) =
            (bias.filter(|b| b.len() == channels), parameter(1), parameter(2), parameter(3), parameter(4))
        else {
            continue;
        };
        let epsilon = proto::float(norm, "epsilon", 1e-5);
        let factors: Vec<f32> = gain.iter().zip(&variance).map(|(g, v)| g / (v + epsilon).sqrt()).collect();
        if let Some(bad) = factors.iter().position(|f| !f.is_finite()) {
            return Err(proto::constant_error(
                norm,
                tensor,
                format!("is normalized by no finite number in channel {bad}"),
            ));
        }
        values.iter_mut().enumerate().for_each(|(ix, value)| *value *= factors[of.of(ix)]);
        let folded = |c: usize| (bias[c] - mean[c]) * factors[c] + shift[c];
        let bias: Vec<f32> = (0..channels).map(folded).collect();
        let weight_name = names.fresh(format!("{}_normalized", weight.name));
        let bias_name = names.fresh(format!("{}_bias", weight.name));
        made.push(proto::float_tensor(&weight_name, &weight.dims, &values));
        made.push(proto::float_tensor(&bias_name, &[channels as i64], &bias));
        let mut node = node.clone();
        node.input.resize(3, String::new());
        node.input[1] = weight_name;
        node.input[2] = bias_name;
        node.output = vec![proto::output(norm).to_owned()];
        changed.push((before, node));
        gone.insert(ix);
    }
    changed.into_iter().for_each(|(ix, node)| graph.node[ix] = node);
    let mut ix = 0;
    graph.node.retain(|_| {
        ix += 1;
        !gone.contains(&(ix - 1))
    });
    graph.initializer.extend(made);
    Ok(())
}
