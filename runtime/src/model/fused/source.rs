//! A graph of the file, with what is asked of it again and again: who yields a tensor, who reads it, what is constant.

use super::constant::Constant;
use crate::model::ModelError;
use sedge_protocol::text::visible;
use std::collections::{HashMap, HashSet};
use tract_onnx::pb;

/// Element types that matter here, by their codes in the file.
pub(super) const UINT8: i32 = pb::tensor_proto::DataType::Uint8 as i32;
pub(super) const INT8: i32 = pb::tensor_proto::DataType::Int8 as i32;
pub(super) const INT32: i32 = pb::tensor_proto::DataType::Int32 as i32;

/// How the integers of a tensor stand for real values.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Parameters {
    /// One, or one for each index along the axis; finite and above 0.
    pub(super) scales: Vec<f32>,
    /// As many as scales.
    pub(super) zero_points: Vec<i32>,
    /// Code of the element type.
    pub(super) ty: i32,
    pub(super) axis: i64,
}

/// A graph and where to find what in it.
pub(in crate::model) struct Source {
    pub(in crate::model) graph: pb::GraphProto,
    pub(super) opset: i64,
    /// Nodes so that each comes after what it reads.
    pub(super) order: Vec<usize>,
    producers: HashMap<String, (usize, usize)>,
    readers: HashMap<String, Vec<usize>>,
    stored: HashMap<String, usize>,
    constant: HashSet<String>,
    outputs: HashSet<String>,
}

pub(super) fn wrong(node: &pb::NodeProto, problem: impl Into<String>) -> ModelError {
    ModelError::Node { node: visible(label(node), 100), problem: problem.into() }
}

/// A node's name, or that of what it yields.
pub(in crate::model) fn label(node: &pb::NodeProto) -> &str {
    if node.name.is_empty() { node.output.first().map_or("?", String::as_str) } else { &node.name }
}

pub(super) fn attribute<'a>(node: &'a pb::NodeProto, name: &str) -> Option<&'a pb::AttributeProto> {
    node.attribute.iter().find(|a| a.name == name)
}

pub(super) fn integer(node: &pb::NodeProto, name: &str, default: i64) -> i64 {
    attribute(node, name).map_or(default, |a| a.i)
}

pub(super) fn real(node: &pb::NodeProto, name: &str, default: f32) -> f32 {
    attribute(node, name).map_or(default, |a| a.f)
}

pub(super) fn text<'a>(node: &'a pb::NodeProto, name: &str) -> &'a str {
    attribute(node, name).and_then(|a| std::str::from_utf8(&a.s).ok()).unwrap_or("")
}

/// What an axis counts from: negative ones from the end.
pub(super) fn axis(given: i64, rank: usize) -> Option<usize> {
    let axis = if given < 0 { given.checked_add(i64::try_from(rank).ok()?)? } else { given };
    usize::try_from(axis).ok().filter(|axis| *axis < rank)
}

/// Names that the subgraphs of a node may take from outside.
fn captured<'a>(node: &'a pb::NodeProto, names: &mut Vec<&'a str>) {
    for attribute in &node.attribute {
        for graph in attribute.g.iter().chain(&attribute.graphs) {
            for inner in &graph.node {
                names.extend(inner.input.iter().map(String::as_str));
                captured(inner, names);
            }
            names.extend(graph.output.iter().map(|o| o.name.as_str()));
        }
    }
}

impl Source {
    pub(super) fn new(graph: pb::GraphProto, opset: i64) -> Result<Self, ModelError> {
        let stored: HashMap<_, _> = graph.initializer.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        let mut producers = HashMap::new();
        let mut readers: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, node) in graph.node.iter().enumerate() {
            for (slot, output) in node.output.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
                if producers.insert(output.clone(), (at, slot)).is_some() {
                    return Err(wrong(node, format!("it yields `{}`, and so does another node", visible(output, 100))));
                }
            }
            let mut names: Vec<&str> = node.input.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
            captured(node, &mut names);
            for name in names {
                readers.entry(name.to_owned()).or_default().push(at);
            }
        }
        let inputs: HashSet<&str> = graph.input.iter().map(|i| i.name.as_str()).collect();
        for node in &graph.node {
            let there = |name: &str| producers.contains_key(name) || stored.contains_key(name) || inputs.contains(name);
            if let Some(lost) = node.input.iter().find(|name| !name.is_empty() && !there(name)) {
                return Err(wrong(node, format!("it reads `{}`, which is nowhere", visible(lost, 100))));
            }
        }
        let order = sorted(&graph, &producers)?;
        let mut constant: HashSet<String> = stored.keys().cloned().collect();
        for at in &order {
            let node = &graph.node[*at];
            let reads = || node.input.iter().filter(|name| !name.is_empty());
            let fixed = node.op_type == "Constant"
                || (node.attribute.iter().all(|a| a.g.is_none() && a.graphs.is_empty())
                    && reads().next().is_some()
                    && reads().all(|name| constant.contains(name)));
            if fixed {
                constant.extend(node.output.iter().cloned());
            }
        }
        let outputs = graph.output.iter().map(|o| o.name.clone()).collect();
        Ok(Self { graph, opset, order, producers, readers, stored, constant, outputs })
    }

    pub(super) fn node(&self, at: usize) -> &pb::NodeProto {
        &self.graph.node[at]
    }

    /// Everything a node reads, also from inside its subgraphs.
    pub(super) fn reads(&self, at: usize) -> Vec<&str> {
        let node = self.node(at);
        let mut names: Vec<&str> = node.input.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
        captured(node, &mut names);
        names
    }

    /// The node that yields a tensor, and as which of its outputs.
    pub(super) fn producer(&self, name: &str) -> Option<(usize, usize)> {
        self.producers.get(name).copied()
    }

    /// Nodes that read a tensor, each as often as it does.
    pub(super) fn readers(&self, name: &str) -> &[usize] {
        self.readers.get(name).map_or(&[], Vec::as_slice)
    }

    pub(super) fn is_output(&self, name: &str) -> bool {
        self.outputs.contains(name)
    }

    pub(super) fn is_constant(&self, name: &str) -> bool {
        self.constant.contains(name)
    }

    pub(super) fn stored(&self, name: &str) -> Option<&pb::TensorProto> {
        self.stored.get(name).map(|at| &self.graph.initializer[*at])
    }

    /// The element type that an input of the graph declares.
    pub(super) fn input_type(&self, name: &str) -> Option<i32> {
        let info = self.graph.input.iter().find(|i| i.name == name)?;
        match info.r#type.as_ref()?.value.as_ref()? {
            pb::type_proto::Value::TensorType(tensor) => Some(tensor.elem_type),
            #[allow(unreachable_patterns)]
            _ => None,
        }
    }

    /// Whether a constant holds one value.
    pub(super) fn is_single(&self, name: &str) -> bool {
        match (self.stored(name), self.producer(name).map(|(at, _)| self.node(at))) {
            (Some(tensor), _) => tensor.dims.iter().product::<i64>() == 1,
            (None, Some(node)) if node.op_type == "Constant" => {
                matches!(Constant::of_node(node), Ok(Some(constant)) if constant.len() == 1)
            }
            (None, Some(node)) => node.input.first().is_some_and(|name| self.is_single(name)),
            (None, None) => false,
        }
    }

    /// The value of a constant that the file stores, or that only moves one. `None` where it would have to be computed.
    pub(super) fn constant(&self, name: &str, reader: &pb::NodeProto) -> Result<Option<Constant>, ModelError> {
        if let Some(tensor) = self.stored(name) {
            return Constant::decode(tensor).map_err(|problem| wrong(reader, problem));
        }
        let Some((at, _)) = self.producer(name) else { return Ok(None) };
        let node = self.node(at);
        let first = || node.input.first().map_or(Ok(None), |name| self.constant(name, node));
        match node.op_type.as_str() {
            "Constant" => Constant::of_node(node).map_err(|problem| wrong(node, problem)),
            "Identity" => first(),
            "Transpose" => Ok(first()?.and_then(|constant| {
                let axes = attribute(node, "perm").map(|a| a.ints.iter().map(|i| *i as usize).collect::<Vec<_>>());
                constant.transposed(&axes.unwrap_or_else(|| (0..constant.dims.len()).rev().collect()))
            })),
            _ => Ok(None),
        }
    }

    /// Integers of a small constant: axes, sizes, starts. `None` when it is not known.
    pub(super) fn integers(&self, node: &pb::NodeProto, input: usize) -> Result<Option<Vec<i64>>, ModelError> {
        let Some(name) = node.input.get(input).filter(|name| !name.is_empty()) else { return Ok(None) };
        Ok(self.constant(name, node)?.and_then(|constant| constant.integers()))
    }

    /// Floats of a small constant.
    pub(super) fn floats(&self, node: &pb::NodeProto, input: usize) -> Result<Option<Vec<f32>>, ModelError> {
        let Some(name) = node.input.get(input).filter(|name| !name.is_empty()) else { return Ok(None) };
        Ok(self.constant(name, node)?.and_then(|constant| constant.floats().map(<[f32]>::to_vec)))
    }

    /// Whether a node has this input.
    pub(super) fn has(node: &pb::NodeProto, input: usize) -> bool {
        node.input.get(input).is_some_and(|name| !name.is_empty())
    }

    /// The element type of a tensor of bytes, as far as the nodes around it tell.
    pub(super) fn byte_type(&self, name: &str, depth: usize) -> Option<i32> {
        const MOVES_MAX: usize = 16;
        if let Some(stored) = self.stored(name) {
            return Some(stored.data_type);
        }
        if let Some(declared) = self.input_type(name) {
            return Some(declared);
        }
        let (at, _) = self.producer(name)?;
        let node = self.node(at);
        let output = if super::kinds::quantized(node) {
            super::import::qlinear::Layout::of(node).output
        } else if node.op_type == "QuantizeLinear" {
            (1, 2)
        } else if super::kinds::moves(node) && depth < MOVES_MAX {
            return self.byte_type(node.input.first()?, depth + 1);
        } else {
            return None;
        };
        self.parameters(node, output).ok().flatten().map(|parameters| parameters.ty)
    }

    /// Scale and zero point that stand at two inputs of a node; `None` when they are not constant.
    pub(super) fn parameters(
        &self,
        node: &pb::NodeProto,
        (scale, zero_point): (usize, usize),
    ) -> Result<Option<Parameters>, ModelError> {
        if !Self::has(node, scale) {
            return Err(wrong(node, "it has no scale"));
        }
        let Some(scales) = self.constant(&node.input[scale], node)? else { return Ok(None) };
        let Some(scales) = scales.floats().map(<[f32]>::to_vec) else { return Ok(None) };
        if let Some(bad) = scales.iter().find(|scale| !(scale.is_finite() && **scale > 0.0)) {
            return Err(wrong(node, format!("its scale {bad} is not a finite number above 0")));
        }
        let (zero_points, ty) = if Self::has(node, zero_point) {
            let name = &node.input[zero_point];
            let Some(constant) = self.constant(name, node)? else { return Ok(None) };
            let Some(integers) = constant.integers() else {
                return Err(wrong(node, "its zero point is not an integer"));
            };
            let ty = match constant.elements {
                super::constant::Elements::U8(_) => UINT8,
                super::constant::Elements::I8(_) => INT8,
                super::constant::Elements::I32(_) => INT32,
                _ => return Ok(None),
            };
            // They come out of 32 bits at most.
            (integers.into_iter().map(|n| n as i32).collect(), ty)
        } else {
            let of_input = (node.op_type == "DequantizeLinear").then(|| self.byte_type(&node.input[0], 0)).flatten();
            (vec![0; scales.len()], of_input.unwrap_or(UINT8))
        };
        if scales.len() != zero_points.len() {
            let (s, z) = (scales.len(), zero_points.len());
            return Err(wrong(node, format!("it has {s} scales and {z} zero points")));
        }
        Ok(Some(Parameters { scales, zero_points, ty, axis: integer(node, "axis", 1) }))
    }
}

/// Nodes so that each comes after what it reads: Kahn's way.
fn sorted(graph: &pb::GraphProto, producers: &HashMap<String, (usize, usize)>) -> Result<Vec<usize>, ModelError> {
    let mut waiting = vec![0_usize; graph.node.len()];
    let mut followers = vec![Vec::new(); graph.node.len()];
    for (at, node) in graph.node.iter().enumerate() {
        let mut names: Vec<&str> = node.input.iter().map(String::as_str).collect();
        captured(node, &mut names);
        for (before, _) in names.into_iter().filter_map(|name| producers.get(name)) {
            followers[*before].push(at);
            waiting[at] += 1;
        }
    }
    let mut ready: std::collections::BTreeSet<usize> =
        waiting.iter().enumerate().filter(|(_, n)| **n == 0).map(|(at, _)| at).collect();
    let mut order = Vec::with_capacity(graph.node.len());
    while let Some(at) = ready.pop_first() {
        order.push(at);
        for next in &followers[at] {
            waiting[*next] -= 1;
            if waiting[*next] == 0 {
                ready.insert(*next);
            }
        }
    }
    match waiting.iter().position(|n| *n > 0) {
        Some(at) => Err(wrong(&graph.node[at], "it waits for its own result: the graph has a cycle")),
        None => Ok(order),
    }
}
