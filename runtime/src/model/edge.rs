//! What a graph says about the tensors at its edges: how their integers stand for real values, and whether an output
//! is a softmax. Found by looking at the nodes next to the edge, before tract sees the graph.

use sedge_processor_sdk::Quantization;
use std::collections::HashMap;
use tract_onnx::pb;

/// What is known of one input or output.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Edge {
    /// Of an integer tensor that one scale and zero point describe.
    pub(super) quantization: Option<Quantization>,
    /// Of an output: it leaves a softmax.
    pub(super) softmax: Option<Softmax>,
}

/// A softmax at the end of a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Softmax {
    /// Scale of the quantized logits that go into it; `None` where they are floats.
    pub input_scale: Option<f32>,
}

/// A graph's nodes and constants by the names of what they yield.
pub(super) struct Edges<'a> {
    constants: HashMap<&'a str, &'a pb::TensorProto>,
    producers: HashMap<&'a str, &'a pb::NodeProto>,
    graph: &'a pb::GraphProto,
}

impl<'a> Edges<'a> {
    pub(super) fn of(graph: &'a pb::GraphProto) -> Self {
        let stored = graph.initializer.iter().map(|t| (t.name.as_str(), t));
        let nodes = graph.node.iter().filter(|n| n.op_type == "Constant");
        let constants = nodes.filter_map(|n| {
            let value = n.attribute.iter().find(|a| a.name == "value")?.t.as_ref()?;
            Some((n.output.first()?.as_str(), value))
        });
        let producers = graph.node.iter().flat_map(|n| n.output.iter().map(move |o| (o.as_str(), n)));
        Self { constants: stored.chain(constants).collect(), producers: producers.collect(), graph }
    }

    pub(super) fn input(&self, name: &str) -> Edge {
        let mut name = name;
        for _ in 0..MOVES_MAX {
            let reads = |n: &&pb::NodeProto| n.input.first().is_some_and(|i| i == name);
            let mut readers = self.graph.node.iter().filter(reads);
            let Some(node) = readers.clone().find(|n| n.op_type == "DequantizeLinear") else {
                match readers.find(|n| moves(n)).and_then(|n| n.output.first()) {
                    Some(next) => name = next,
                    None => break,
                }
                continue;
            };
            return Edge { quantization: self.quantization(node), softmax: None };
        }
        Edge::default()
    }

    pub(super) fn output(&self, name: &str) -> Edge {
        let producer = self.producers.get(name);
        let quantizing = producer.filter(|n| n.op_type == "QuantizeLinear");
        let last = match quantizing {
            Some(n) => self.producer_of_input(n),
            None => producer.copied(),
        };
        let softmax = last.filter(|n| n.op_type == "Softmax").map(|n| {
            let before = self.producer_of_input(n).filter(|n| n.op_type == "DequantizeLinear");
            Softmax { input_scale: before.and_then(|n| self.quantization(n)).map(|q| q.scale) }
        });
        Edge { quantization: quantizing.and_then(|n| self.quantization(n)), softmax }
    }

    /// The node before the first input, past what only moves values.
    fn producer_of_input(&self, node: &pb::NodeProto) -> Option<&'a pb::NodeProto> {
        let mut node = *self.producers.get(node.input.first()?.as_str())?;
        for _ in 0..MOVES_MAX {
            if !moves(node) {
                break;
            }
            node = self.producers.get(node.input.first()?.as_str())?;
        }
        Some(node)
    }

    fn quantization(&self, node: &pb::NodeProto) -> Option<Quantization> {
        let scale = float(self.constants.get(node.input.get(1)?.as_str())?)?;
        let zero_point = match node.input.get(2).filter(|name| !name.is_empty()) {
            Some(name) => integer(self.constants.get(name.as_str())?)?,
            None => 0,
        };
        (scale.is_finite() && scale > 0.0).then_some(Quantization { scale, zero_point })
    }
}

/// Nodes that only move values which are looked past.
const MOVES_MAX: usize = 8;

/// Whether a node yields the values that it reads, in another order or shape.
fn moves(node: &pb::NodeProto) -> bool {
    matches!(node.op_type.as_str(), "Transpose" | "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Identity")
}

/// The only value of a float32 tensor.
fn float(tensor: &pb::TensorProto) -> Option<f32> {
    match (tensor.float_data.as_slice(), tensor.raw_data.as_slice()) {
        (&[one], []) => Some(one),
        ([], raw) => raw.try_into().ok().map(f32::from_le_bytes),
        _ => None,
    }
}

/// The only value of an int8, uint8 or int32 tensor.
fn integer(tensor: &pb::TensorProto) -> Option<i32> {
    let uint8 = tensor.data_type == pb::tensor_proto::DataType::Uint8 as i32;
    match (tensor.int32_data.as_slice(), tensor.raw_data.as_slice()) {
        (&[one], []) => Some(one),
        ([], &[one]) if uint8 => Some(one.into()),
        ([], &[one]) => Some((one as i8).into()),
        ([], raw) => raw.try_into().ok().map(i32::from_le_bytes),
        _ => None,
    }
}
