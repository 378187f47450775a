//! ONNX messages: reading constants and attributes, making nodes and tensors.

use super::QuantizeError;
use crate::model::ModelError;
use prost::Message as _;
use sedge_protocol::text::{one_line, visible};
use std::collections::{BTreeMap, BTreeSet};
use tract_onnx::pb;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;

/// The model that a file holds; it has a graph.
pub(super) fn decode(onnx: &[u8]) -> Result<pb::ModelProto, ModelError> {
    if onnx.len() > crate::model::MODEL_BYTES_MAX {
        return Err(ModelError::TooLarge { bytes: onnx.len() });
    }
    let malformed = |problem| ModelError::Malformed { problem };
    let model = pb::ModelProto::decode(onnx).map_err(|e| malformed(one_line(&e.to_string())))?;
    match &model.graph {
        Some(graph) if !graph.output.is_empty() => Ok(model),
        Some(_) => Err(malformed("the graph has no output".to_owned())),
        None => Err(malformed("the file holds no graph".to_owned())),
    }
}

pub(super) fn encode(model: &pb::ModelProto) -> Vec<u8> {
    model.encode_to_vec()
}

/// The graph of a model that [`decode`] let in.
pub(super) fn graph(model: &pb::ModelProto) -> &pb::GraphProto {
    static NONE: std::sync::LazyLock<pb::GraphProto> = std::sync::LazyLock::new(pb::GraphProto::default);
    model.graph.as_ref().unwrap_or(&NONE)
}

/// What a node is called in messages and by `--keep-float`.
pub(super) fn name(node: &pb::NodeProto) -> String {
    let name = if node.name.is_empty() { node.output.first().map_or("?", String::as_str) } else { &node.name };
    visible(name, 200)
}

pub(super) fn input(node: &pb::NodeProto, ix: usize) -> Option<&str> {
    node.input.get(ix).map(String::as_str).filter(|name| !name.is_empty())
}

pub(super) fn output(node: &pb::NodeProto) -> &str {
    node.output.first().map_or("", String::as_str)
}

pub(super) fn attribute<'a>(node: &'a pb::NodeProto, name: &str) -> Option<&'a pb::AttributeProto> {
    node.attribute.iter().find(|a| a.name == name)
}

pub(super) fn integer(node: &pb::NodeProto, name: &str, default: i64) -> i64 {
    attribute(node, name).map_or(default, |a| a.i)
}

pub(super) fn float(node: &pb::NodeProto, name: &str, default: f32) -> f32 {
    attribute(node, name).map_or(default, |a| a.f)
}

pub(super) fn text<'a>(node: &'a pb::NodeProto, name: &str, default: &'a str) -> &'a str {
    attribute(node, name).and_then(|a| std::str::from_utf8(&a.s).ok()).unwrap_or(default)
}

/// The nodes of a graph and of the graphs inside it, outermost first.
fn each_node<'a>(graph: &'a pb::GraphProto, visit: &mut dyn FnMut(&'a pb::NodeProto)) {
    for node in &graph.node {
        visit(node);
        for attribute in &node.attribute {
            attribute.g.iter().chain(&attribute.graphs).for_each(|g| each_node(g, visit));
        }
    }
}

/// Every name that a node reads or the graph yields, also within subgraphs.
pub(super) fn names_read(graph: &pb::GraphProto) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = graph.output.iter().map(|o| o.name.clone()).collect();
    each_node(graph, &mut |node| {
        names.extend(node.input.iter().cloned());
        let inner = node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs));
        names.extend(inner.flat_map(|g| &g.output).map(|o| o.name.clone()));
    });
    names
}

/// A graph's constants, and who makes and reads each tensor.
pub(super) struct Index<'a> {
    pub(super) constants: BTreeMap<&'a str, &'a pb::TensorProto>,
    pub(super) producers: BTreeMap<&'a str, usize>,
    pub(super) readers: BTreeMap<&'a str, Vec<usize>>,
    pub(super) outputs: BTreeSet<&'a str>,
}

impl<'a> Index<'a> {
    pub(super) fn of(graph: &'a pb::GraphProto) -> Self {
        let mut readers: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (ix, node) in graph.node.iter().enumerate() {
            node.input.iter().for_each(|i| readers.entry(i).or_default().push(ix));
            // What a subgraph reads of its surroundings counts for the node that holds it.
            let inner = node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs));
            inner.flat_map(|g| names_read_by(g)).for_each(|i| readers.entry(i).or_default().push(ix));
        }
        let yields = graph.node.iter().enumerate().flat_map(|(ix, n)| n.output.iter().map(move |o| (o.as_str(), ix)));
        Self {
            constants: graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect(),
            producers: yields.filter(|(name, _)| !name.is_empty()).collect(),
            readers,
            outputs: graph.output.iter().map(|o| o.name.as_str()).collect(),
        }
    }

    /// The only node that reads a tensor which is no output of the graph.
    pub(super) fn only_reader(&self, tensor: &str) -> Option<usize> {
        match self.readers.get(tensor).map(Vec::as_slice) {
            Some(&[one]) if !self.outputs.contains(tensor) => Some(one),
            _ => None,
        }
    }

    /// A constant of float32 values.
    pub(super) fn floats(&self, tensor: &str) -> Option<Vec<f32>> {
        self.constants.get(tensor).and_then(|t| floats(t))
    }
}

fn names_read_by(graph: &pb::GraphProto) -> Vec<&str> {
    let mut names: Vec<&str> = graph.output.iter().map(|o| o.name.as_str()).collect();
    each_node(graph, &mut |node| names.extend(node.input.iter().map(String::as_str)));
    names
}

/// The values of a float32 tensor, as many as its shape asks for.
pub(super) fn floats(tensor: &pb::TensorProto) -> Option<Vec<f32>> {
    if tensor.data_type != DataType::Float as i32 {
        return None;
    }
    let values = match tensor.float_data.as_slice() {
        [] => tensor.raw_data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        values => values.to_vec(),
    };
    let elements = tensor.dims.iter().try_fold(1usize, |n, &d| n.checked_mul(usize::try_from(d).ok()?))?;
    (values.len() == elements).then_some(values)
}

fn tensor(name: &str, dims: &[i64], ty: DataType, raw_data: Vec<u8>) -> pb::TensorProto {
    pb::TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: ty as i32,
        raw_data,
        ..pb::TensorProto::default()
    }
}

pub(super) fn float_tensor(name: &str, dims: &[i64], values: &[f32]) -> pb::TensorProto {
    tensor(name, dims, DataType::Float, values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

pub(super) fn int8_tensor(name: &str, dims: &[i64], values: &[i8]) -> pb::TensorProto {
    tensor(name, dims, DataType::Int8, values.iter().map(|&v| v as u8).collect())
}

pub(super) fn int32_tensor(name: &str, dims: &[i64], values: &[i32]) -> pb::TensorProto {
    tensor(name, dims, DataType::Int32, values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

/// A constant that tract computed, under the name of the tensor.
pub(super) fn computed(found: &sedge_processor_sdk::Tensor) -> Option<pb::TensorProto> {
    use sedge_processor_sdk::ElementType;
    let ty = match found.ty {
        ElementType::Float32 => DataType::Float,
        ElementType::Int64 => DataType::Int64,
        ElementType::Int32 => DataType::Int32,
        _ => return None,
    };
    let dims: Vec<i64> = found.shape.iter().map(|&d| d.into()).collect();
    Some(tensor(&found.name, &dims, ty, found.data.clone()))
}

pub(super) fn node(op: &str, name: String, input: &[&str], output: &str) -> pb::NodeProto {
    pb::NodeProto {
        op_type: op.to_owned(),
        name,
        input: input.iter().map(|&i| i.to_owned()).collect(),
        output: vec![output.to_owned()],
        ..pb::NodeProto::default()
    }
}

pub(super) fn integer_attribute(name: &str, value: i64) -> pb::AttributeProto {
    pb::AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Int as i32,
        i: value,
        ..pb::AttributeProto::default()
    }
}

/// Names that nothing in a graph has yet.
pub(super) struct Names(BTreeSet<String>);

impl Names {
    pub(super) fn of(graph: &pb::GraphProto) -> Self {
        let mut names = names_read(graph);
        each_node(graph, &mut |node| names.extend(node.output.iter().chain([&node.name]).cloned()));
        names.extend(graph.initializer.iter().map(|t| t.name.clone()));
        names.extend(graph.input.iter().map(|i| i.name.clone()));
        Self(names)
    }

    /// `wanted`, with a number behind it where that is taken.
    pub(super) fn fresh(&mut self, wanted: String) -> String {
        let numbered = (2..).map(|n| format!("{wanted}_{n}"));
        let free = std::iter::once(wanted.clone()).chain(numbered).find(|name| !self.0.contains(name));
        let free = free.unwrap_or(wanted);
        self.0.insert(free.clone());
        free
    }
}

/// A constant that cannot stand for weights.
pub(super) fn constant_error(node: &pb::NodeProto, tensor: &str, problem: impl Into<String>) -> QuantizeError {
    QuantizeError::Constant { tensor: visible(tensor, 200), node: name(node), problem: problem.into() }
}

/// Whether an input or output is declared as float32.
pub(super) fn declared_float(info: &pb::ValueInfoProto) -> bool {
    let value = info.r#type.as_ref().and_then(|t| t.value.as_ref());
    matches!(value, Some(pb::type_proto::Value::TensorType(t)) if t.elem_type == DataType::Float as i32)
}

/// Declares an input or output as int8 of the same shape.
pub(super) fn declare_int8(info: &mut pb::ValueInfoProto) {
    if let Some(pb::type_proto::Value::TensorType(t)) = info.r#type.as_mut().and_then(|t| t.value.as_mut()) {
        t.elem_type = DataType::Int8 as i32;
    }
}
