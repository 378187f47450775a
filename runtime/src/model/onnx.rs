//! What is read from an ONNX file before tract plans it.

use super::edge::{Edge, Edges};
use super::{MODEL_BYTES_MAX, ModelError, chain};
use prost::Message as _;
use sedge_protocol::text::{one_line, visible};
use std::collections::{BTreeMap, BTreeSet};
use tract_onnx::pb;
use tract_onnx::prelude::{DatumType, Framework as _, InferenceModel};

/// Deeper nesting of subgraphs (If, Loop, Scan) is refused.
const SUBGRAPH_DEPTH_MAX: usize = 8;
/// More nodes are refused: tract's planning takes time with their square, and the largest vision models have a few
/// thousand.
const NODES_MAX: usize = 10_000;

/// How often an operator occurs.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[allow(missing_docs)]
pub struct OperatorCount {
    pub operator: String,
    pub count: usize,
}

/// What a model file holds.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[allow(missing_docs)]
pub struct Summary {
    pub producer: String,
    pub opset: i64,
    pub nodes: usize,
    /// Elements of all weights.
    pub parameters: u64,
    /// Elements of weights stored in 8 bits.
    pub parameters_int8: u64,
    pub operators: Vec<OperatorCount>,
}

/// An input or output as the file declares it.
pub(super) struct Port {
    pub(super) name: String,
    pub(super) datum_type: Option<DatumType>,
    pub(super) type_name: String,
    /// What the nodes beside it tell.
    pub(super) edge: Edge,
    /// Sizes; `None` where open. No list at all where the file does not tell the rank.
    shape: Option<Vec<Option<i64>>>,
}

impl Port {
    fn of(info: &pb::ValueInfoProto, edge: Edge) -> Self {
        let tensor = info.r#type.as_ref().and_then(|t| t.value.as_ref()).and_then(|v| match v {
            pb::type_proto::Value::TensorType(t) => Some(t),
            #[allow(unreachable_patterns)]
            _ => None,
        });
        let code = tensor.map_or(0, |t| t.elem_type);
        let ty = pb::tensor_proto::DataType::try_from(code).ok();
        let shape = tensor.and_then(|t| t.shape.as_ref()).map(|s| {
            let size = |d: &pb::tensor_shape_proto::Dimension| match d.value {
                Some(pb::tensor_shape_proto::dimension::Value::DimValue(v)) if v > 0 => Some(v),
                _ => None,
            };
            s.dim.iter().map(size).collect()
        });
        Self {
            name: info.name.clone(),
            datum_type: ty.and_then(|t| DatumType::try_from(t).ok()),
            type_name: ty.map_or_else(|| format!("code {code}"), |t| format!("{t:?}").to_lowercase()),
            edge,
            shape,
        }
    }

    /// The declared shape with open dimensions taken from `given`, or 1.
    pub(super) fn concrete_shape(&self, given: Option<&Vec<i32>>) -> Result<Vec<usize>, ModelError> {
        let Some(declared) = &self.shape else {
            let given = given.ok_or_else(|| ModelError::Malformed {
                problem: format!("input `{}` declares no shape and none is given", self.name),
            })?;
            return Ok(given.iter().map(|&d| d.max(1) as usize).collect());
        };
        let wrong = |given: &[i32]| ModelError::WrongTensor {
            input: self.name.clone(),
            expected: format!("{declared:?}").replace("Some(", "").replace(')', "").replace("None", "any"),
            given: format!("{given:?}"),
        };
        if let Some(given) = given
            && (given.len() != declared.len()
                || declared.iter().zip(given).any(|(d, &g)| d.is_some_and(|d| d != i64::from(g))))
        {
            return Err(wrong(given));
        }
        let size = |(i, d): (usize, &Option<i64>)| {
            let size =
                d.or_else(|| given.and_then(|g| g.get(i)).map(|&g| i64::from(g)).filter(|&g| g > 0)).unwrap_or(1);
            usize::try_from(size).unwrap_or(1)
        };
        Ok(declared.iter().enumerate().map(size).collect())
    }
}

/// A file that holds a graph which this runtime may be able to run.
pub(super) struct Parsed {
    /// Without its graph.
    header: pb::ModelProto,
    graph: Option<pb::GraphProto>,
    framework: tract_onnx::Onnx,
    summary: Summary,
    /// Operators that tract does not have, by their place in the graph.
    unsupported: Vec<(usize, String)>,
    pub(super) inputs: Vec<Port>,
    pub(super) outputs: Vec<Port>,
}

impl Parsed {
    pub(super) fn parse(onnx: &[u8]) -> Result<Self, ModelError> {
        if onnx.len() > MODEL_BYTES_MAX {
            return Err(ModelError::TooLarge { bytes: onnx.len() });
        }
        let mut framework = tract_onnx::onnx();
        super::quantize::register(&mut framework);
        let malformed = |problem: String| ModelError::Malformed { problem };
        // tract's own reading would copy the file first.
        let mut proto = pb::ModelProto::decode(onnx).map_err(|e| malformed(one_line(&e.to_string())))?;
        let graph = proto.graph.take().ok_or_else(|| malformed("the file holds no graph".to_owned()))?;
        let mut check = Check { framework: &framework, unsupported: Vec::new(), nodes: 0 };
        check.graph(&graph, None, 0)?;
        let unsupported = check.unsupported;
        let constants: BTreeSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
        let edges = Edges::of(&graph);
        let inputs = graph.input.iter().filter(|i| !constants.contains(i.name.as_str()));
        let inputs = inputs.map(|i| Port::of(i, edges.input(&i.name))).collect();
        let outputs: Vec<Port> = graph.output.iter().map(|o| Port::of(o, edges.output(&o.name))).collect();
        let yielded: BTreeSet<&str> = graph.node.iter().flat_map(|n| &n.output).map(String::as_str).collect();
        let given = |name: &str| constants.contains(name) || graph.input.iter().any(|i| i.name == name);
        if let Some(lost) = outputs.iter().find(|o| !yielded.contains(o.name.as_str()) && !given(&o.name)) {
            return Err(malformed(format!("no node yields the output `{}`", visible(&lost.name, 100))));
        }
        if outputs.is_empty() {
            return Err(malformed("the graph has no output".to_owned()));
        }
        let summary = Summary::of(&proto, &graph);
        Ok(Self { inputs, outputs, framework, header: proto, graph: Some(graph), summary, unsupported })
    }

    /// The file's graph, once.
    pub(super) fn take_graph(&mut self) -> pb::GraphProto {
        self.graph.take().unwrap_or_default()
    }

    pub(super) const fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Refuses nodes that tract would have to run and cannot.
    ///
    /// `why` tells for some what keeps the engine from running them instead.
    pub(super) fn supported(
        &self,
        runs: impl Fn(usize) -> bool,
        why: impl Fn(usize) -> Option<String>,
    ) -> Result<(), ModelError> {
        let told = |(at, text): &(usize, String)| why(*at).map_or_else(|| text.clone(), |why| format!("{text}: {why}"));
        let lost: BTreeSet<String> = self.unsupported.iter().filter(|(at, _)| runs(*at)).map(told).collect();
        if lost.is_empty() {
            return Ok(());
        }
        Err(ModelError::UnsupportedOperators { operators: lost.into_iter().take(16).collect() })
    }

    /// A graph for tract to type.
    pub(super) fn infer(&self, graph: pb::GraphProto) -> Result<InferenceModel, ModelError> {
        let rejected = |e| ModelError::Rejected { problem: chain(&e) };
        let proto = pb::ModelProto { graph: Some(graph), ..self.header.clone() };
        let model = self.framework.model_for_proto_model(&proto).map_err(rejected)?;
        if model.inputs.len() != self.inputs.len() || model.outputs.len() != self.outputs.len() {
            return Err(ModelError::Malformed {
                problem: format!(
                    "it declares {} inputs and {} outputs, its nodes need {} and yield {}",
                    self.inputs.len(),
                    self.outputs.len(),
                    model.inputs.len(),
                    model.outputs.len()
                ),
            });
        }
        Ok(model)
    }
}

impl Summary {
    fn of(proto: &pb::ModelProto, graph: &pb::GraphProto) -> Self {
        let mut counts = BTreeMap::new();
        for node in &graph.node {
            *counts.entry(visible(&node.op_type, 100)).or_insert(0) += 1;
        }
        let elements = |t: &pb::TensorProto| t.dims.iter().map(|&d| d.max(0) as u64).product::<u64>();
        let int8 = [pb::tensor_proto::DataType::Int8 as i32, pb::tensor_proto::DataType::Uint8 as i32];
        let weights = || graph.initializer.iter();
        Self {
            producer: one_line(&format!("{} {}", proto.producer_name, proto.producer_version)),
            opset: opset(proto),
            nodes: graph.node.len(),
            parameters: weights().map(elements).sum(),
            parameters_int8: weights().filter(|t| int8.contains(&t.data_type)).map(elements).sum(),
            operators: counts.into_iter().map(|(operator, count)| OperatorCount { operator, count }).collect(),
        }
    }
}

/// Version of the standard's own operators.
fn opset(proto: &pb::ModelProto) -> i64 {
    let own = |domain: &str| domain.is_empty() || domain == "ai.onnx";
    proto.opset_import.iter().filter(|o| own(&o.domain)).map(|o| o.version).max().unwrap_or(0)
}

/// Walks the graph and its subgraphs for what cannot be run or must not be read.
struct Check<'a> {
    framework: &'a tract_onnx::Onnx,
    unsupported: Vec<(usize, String)>,
    nodes: usize,
}

impl Check<'_> {
    /// `within` is the node of the outermost graph that this one is part of.
    fn graph(&mut self, graph: &pb::GraphProto, within: Option<usize>, depth: usize) -> Result<(), ModelError> {
        if depth > SUBGRAPH_DEPTH_MAX {
            return Err(ModelError::Malformed { problem: format!("subgraphs nest deeper than {SUBGRAPH_DEPTH_MAX}") });
        }
        self.nodes += graph.node.len();
        if self.nodes > NODES_MAX {
            return Err(ModelError::Malformed { problem: format!("more than {NODES_MAX} nodes") });
        }
        graph.initializer.iter().try_for_each(tensor)?;
        for (at, node) in graph.node.iter().enumerate() {
            let at = within.unwrap_or(at);
            if !self.framework.op_register.0.contains_key(&node.op_type) {
                let name = if node.name.is_empty() { node.output.first() } else { Some(&node.name) };
                let text = format!("{} ({})", node.op_type, name.map_or("?", String::as_str));
                self.unsupported.push((at, visible(&text, 100)));
            }
            for attribute in &node.attribute {
                attribute.t.iter().chain(&attribute.tensors).try_for_each(tensor)?;
                for subgraph in attribute.g.iter().chain(&attribute.graphs) {
                    self.graph(subgraph, Some(at), depth + 1)?;
                }
            }
        }
        Ok(())
    }
}

fn tensor(tensor: &pb::TensorProto) -> Result<(), ModelError> {
    let external = tensor.data_location == Some(pb::tensor_proto::DataLocation::External as i32);
    if external || !tensor.external_data.is_empty() {
        return Err(ModelError::ExternalData { tensor: visible(&tensor.name, 100) });
    }
    if tensor.dims.iter().any(|&d| d < 0) {
        return Err(ModelError::Malformed {
            problem: format!("`{}` has a negative dimension", visible(&tensor.name, 100)),
        });
    }
    Ok(())
}
