//! What is quantized, what stays in float and why, and which tensors share a scale.
//!
//! Convolutions and products with constant weights are where the time goes: they begin a region. It grows over operators
//! whose inputs are in 8 bits already, so that values do not change their form inside it.

use super::layer::{Kind, Layer, Role, role};
use super::proto::{self, Index};
use super::{Options, QuantizeError};
use std::collections::{BTreeMap, BTreeSet};
use tract_onnx::pb;

/// A node that computes in float in the quantized model too.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[allow(missing_docs)]
pub struct LeftInFloat {
    pub node: String,
    pub operator: String,
    pub reason: String,
}

pub(super) struct Plan {
    /// What is quantized, in the graph's order.
    pub(super) layers: Vec<Layer>,
    pub(super) left: Vec<LeftInFloat>,
    /// Float inputs of the graph that are to be int8 themselves, where that is asked for, and such outputs.
    pub(super) integer_edges: BTreeSet<String>,
    /// For a tensor that is quantized, the one whose scale it has: itself but where values are only moved.
    roots: BTreeMap<String, String>,
}

impl Plan {
    pub(super) fn make(graph: &pb::GraphProto, options: &Options) -> Result<Self, QuantizeError> {
        known(graph, &options.keep_float)?;
        let kept = |node: &pb::NodeProto| options.keep_float.iter().any(|name| is_called(node, name));
        let index = Index::of(graph);
        let mut reasons: BTreeMap<usize, &str> = BTreeMap::new();
        let mut candidates: Vec<Layer> = Vec::new();
        let mut taken = BTreeSet::new();
        for (ix, node) in graph.node.iter().enumerate() {
            if taken.contains(&ix) {
                continue;
            }
            if kept(node) {
                reasons.insert(ix, KEPT);
                continue;
            }
            match role(graph, &index, ix)? {
                Role::Float(reason) => {
                    reasons.insert(ix, reason);
                }
                Role::Layer(layer) => {
                    let asked = layer.nodes.iter().any(|&ix| kept(&graph.node[ix]));
                    let reason = if asked { KEPT } else { "what it reads is in float" };
                    taken.extend(layer.nodes.iter().copied());
                    layer.nodes.iter().for_each(|&ix| {
                        reasons.insert(ix, reason);
                    });
                    candidates.extend((!asked).then_some(layer));
                }
            }
        }
        let layers = grow(graph, candidates);
        layers.iter().flat_map(|l| &l.nodes).for_each(|ix| {
            reasons.remove(ix);
        });
        let left: Vec<LeftInFloat> = reasons
            .into_iter()
            .map(|(ix, reason)| LeftInFloat {
                node: proto::name(&graph.node[ix]),
                operator: graph.node[ix].op_type.clone(),
                reason: reason.to_owned(),
            })
            .collect();
        if layers.is_empty() {
            return Err(nothing(&left));
        }
        let integer_edges = if options.integer_io { float_edges(graph, &layers) } else { BTreeSet::new() };
        let roots = roots(&layers, &integer_edges);
        Ok(Self { layers, left, integer_edges, roots })
    }

    /// The tensor whose scale this one has; `None` for one that is not quantized.
    pub(super) fn root(&self, tensor: &str) -> Option<&str> {
        self.roots.get(tensor).map(String::as_str)
    }

    /// Every tensor with a scale of its own.
    pub(super) fn own_scales(&self) -> BTreeSet<&str> {
        self.roots.values().map(String::as_str).collect()
    }

    /// Whether a range is known without looking: a softmax yields 0 to 1.
    pub(super) fn is_probability(&self, root: &str) -> bool {
        self.layers.iter().any(|l| l.output == root && l.kind == Kind::Probabilities)
    }
}

const KEPT: &str = "kept in float as asked";

fn is_called(node: &pb::NodeProto, name: &str) -> bool {
    node.name == name || node.output.iter().any(|o| o == name)
}

fn known(graph: &pb::GraphProto, names: &[String]) -> Result<(), QuantizeError> {
    const SHOWN: usize = 8;
    let Some(unknown) = names.iter().find(|name| !graph.node.iter().any(|n| is_called(n, name))) else {
        return Ok(());
    };
    let mut known: Vec<String> = graph.node.iter().take(SHOWN).map(|n| format!("`{}`", proto::name(n))).collect();
    if graph.node.len() > SHOWN {
        known.push(format!("{} more", graph.node.len() - SHOWN));
    }
    let name = sedge_protocol::text::visible(unknown, 200);
    Err(QuantizeError::UnknownNode { name, known: known.join(", ") })
}

/// Those of the candidates that are quantized, until no more are.
fn grow(graph: &pb::GraphProto, candidates: Vec<Layer>) -> Vec<Layer> {
    // The model's inputs, and what they are after values were only moved.
    let mut lead: BTreeSet<&str> = graph.input.iter().map(|i| i.name.as_str()).collect();
    for layer in candidates.iter().filter(|l| l.kind == Kind::Moves) {
        if lead.contains(layer.inputs[0].as_str()) {
            lead.insert(&layer.output);
        }
    }
    let mut chosen: Vec<bool> = candidates.iter().map(|l| matches!(l.kind, Kind::Weighted(_))).collect();
    let mut integer: BTreeSet<&str> = BTreeSet::new();
    loop {
        let before = integer.len();
        for (layer, chosen) in candidates.iter().zip(&mut chosen) {
            let reads_integers = layer.inputs.iter().all(|i| integer.contains(i.as_str()));
            // What only moves the model's input on its way to a region may as well move bytes.
            let leads_in = layer.kind == Kind::Moves
                && lead.contains(layer.inputs[0].as_str())
                && integer.contains(layer.output.as_str());
            if *chosen || reads_integers || leads_in {
                *chosen = true;
                integer.extend(layer.inputs.iter().map(String::as_str));
                integer.insert(&layer.output);
            }
        }
        if integer.len() == before {
            break;
        }
    }
    let mut chosen = chosen.into_iter();
    candidates.into_iter().filter(|_| chosen.next().unwrap_or(false)).collect()
}

/// Inputs and outputs of the model that can be int8: those that a quantized layer touches, and other floats as well.
fn float_edges(graph: &pb::GraphProto, layers: &[Layer]) -> BTreeSet<String> {
    let is_float = |info: &&pb::ValueInfoProto| {
        let touched = layers.iter().any(|l| l.output == info.name || l.inputs.contains(&info.name));
        touched || proto::declared_float(info)
    };
    let inputs: BTreeSet<&str> = graph.input.iter().map(|i| i.name.as_str()).collect();
    let outputs = graph.output.iter().filter(|o| !inputs.contains(o.name.as_str()));
    graph.input.iter().chain(outputs).filter(is_float).map(|i| i.name.clone()).collect()
}

fn roots(layers: &[Layer], edges: &BTreeSet<String>) -> BTreeMap<String, String> {
    let moved: BTreeMap<&str, &str> =
        layers.iter().filter(|l| l.kind == Kind::Moves).map(|l| (l.output.as_str(), l.inputs[0].as_str())).collect();
    let root = |tensor: &String| {
        let mut root = tensor.as_str();
        // Bounded: a model whose nodes feed each other in a circle is refused later, when tract sees it.
        for _ in 0..=moved.len() {
            match moved.get(root) {
                Some(before) => root = before,
                None => break,
            }
        }
        (tensor.clone(), root.to_owned())
    };
    layers.iter().flat_map(|l| l.inputs.iter().chain([&l.output])).chain(edges).map(root).collect()
}

fn nothing(left: &[LeftInFloat]) -> QuantizeError {
    const SHOWN: usize = 4;
    let mut reasons: Vec<String> =
        left.iter().take(SHOWN).map(|l| format!("{} ({}): {}", l.operator, l.node, l.reason)).collect();
    if left.len() > SHOWN {
        reasons.push(format!("{} more", left.len() - SHOWN));
    }
    QuantizeError::NothingToQuantize { reasons: reasons.join("; ") }
}
