//! The quantized model, in the form that quantizers have agreed on (QDQ): float operators between `DequantizeLinear`
//! and `QuantizeLinear`, which an engine reads as integer operators.

use super::QuantizeError;
use super::bits::{self, Weights};
use super::layer::{Kind, Layer, Weighted};
use super::plan::Plan;
use super::proto::{self, Index, Names};
use sedge_processor_sdk::Quantization;
use std::collections::{BTreeMap, BTreeSet};
use tract_onnx::pb;

/// The model, and what its tensors are called.
pub(super) struct Written {
    pub(super) model: pb::ModelProto,
    /// For each tensor of the float model that is quantized, its dequantized form.
    pub(super) dequantized: BTreeMap<String, String>,
}

pub(super) fn write(
    model: &pb::ModelProto,
    plan: &Plan,
    scales: &BTreeMap<String, Quantization>,
    integer_io: bool,
) -> Result<Written, QuantizeError> {
    let graph = proto::graph(model);
    let mut writer = Writer::new(graph, plan, scales, integer_io);
    for input in graph.input.iter().filter(|i| plan.root(&i.name).is_some()) {
        writer.quantize(&input.name);
    }
    for ix in 0..graph.node.len() {
        writer.node(ix)?;
    }
    let mut written = pb::GraphProto {
        node: writer.nodes,
        name: graph.name.clone(),
        doc_string: graph.doc_string.clone(),
        input: graph.input.clone(),
        output: graph.output.clone(),
        sparse_initializer: graph.sparse_initializer.clone(),
        ..pb::GraphProto::default()
    };
    if integer_io {
        let edges = written.input.iter_mut().chain(&mut written.output);
        edges.filter(|info| plan.integer_edges.contains(&info.name)).for_each(proto::declare_int8);
    }
    // What was quantized is not stored twice.
    let read = proto::names_read(&written);
    let stored = graph.initializer.iter().filter(|t| read.contains(&t.name)).cloned();
    written.initializer = stored.chain(writer.constants).collect();
    let model = pb::ModelProto {
        graph: Some(written),
        producer_name: "sedge".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        ..model.clone()
    };
    Ok(Written { model, dequantized: writer.dequantized })
}

/// The forms of one tensor.
struct Forms {
    /// What the node yields, or the input as it comes.
    float: String,
    quantized: String,
    dequantized: String,
}

struct Writer<'a> {
    graph: &'a pb::GraphProto,
    plan: &'a Plan,
    scales: &'a BTreeMap<String, Quantization>,
    index: Index<'a>,
    /// The layer that a node belongs to.
    layers: BTreeMap<usize, &'a Layer>,
    /// What layers yield.
    made: BTreeSet<&'a str>,
    forms: BTreeMap<String, Forms>,
    integer_io: bool,
    names: Names,
    nodes: Vec<pb::NodeProto>,
    constants: Vec<pb::TensorProto>,
    /// Names of scale and zero point, by the tensor that has them.
    parameters: BTreeMap<String, [String; 2]>,
    /// Names of zero points that are all zero, by type and number.
    zeros: BTreeMap<(Integer, usize), String>,
    dequantized: BTreeMap<String, String>,
}

impl<'a> Writer<'a> {
    fn new(
        graph: &'a pb::GraphProto,
        plan: &'a Plan,
        scales: &'a BTreeMap<String, Quantization>,
        integer_io: bool,
    ) -> Self {
        let made = plan.layers.iter().map(|l| l.output.as_str()).collect();
        let mut writer = Self {
            graph,
            plan,
            scales,
            index: Index::of(graph),
            layers: plan.layers.iter().flat_map(|l| l.nodes.iter().map(move |&ix| (ix, l))).collect(),
            made,
            forms: BTreeMap::new(),
            integer_io,
            names: Names::of(graph),
            nodes: Vec::new(),
            constants: Vec::new(),
            parameters: BTreeMap::new(),
            zeros: BTreeMap::new(),
            dequantized: BTreeMap::new(),
        };
        let touched: BTreeSet<&str> =
            plan.layers.iter().flat_map(|l| l.inputs.iter().chain([&l.output])).map(String::as_str).collect();
        let inputs = graph.input.iter().map(|i| i.name.as_str());
        let yielded = graph.node.iter().flat_map(|n| &n.output).map(String::as_str);
        // With float edges, what only the other form of the model needs is left out.
        for tensor in inputs.chain(yielded).filter(|t| touched.contains(t) || integer_io && plan.root(t).is_some()) {
            let forms = writer.forms_of(tensor);
            writer.forms.insert(tensor.to_owned(), forms);
        }
        writer
    }

    /// Names: an input or output keeps its own, in whichever form it crosses the edge.
    fn forms_of(&mut self, tensor: &str) -> Forms {
        let integer_edge = self.integer_io && self.plan.integer_edges.contains(tensor);
        let is_input = self.graph.input.iter().any(|i| i.name == tensor);
        let is_output = self.index.outputs.contains(tensor);
        let of_layer = self.made.contains(tensor);
        let own = || tensor.to_owned();
        let mut fresh = |form: &str| self.fresh(tensor, form);
        match (integer_edge, is_input, is_output) {
            (true, true, _) => Forms { float: own(), quantized: own(), dequantized: fresh("dequantized") },
            (true, false, _) => Forms { float: fresh("float"), quantized: own(), dequantized: fresh("dequantized") },
            // A float output is dequantized last, where a quantized layer makes it.
            (false, false, true) if of_layer => {
                Forms { float: fresh("float"), quantized: fresh("quantized"), dequantized: own() }
            }
            _ => Forms { float: own(), quantized: fresh("quantized"), dequantized: fresh("dequantized") },
        }
    }

    fn node(&mut self, ix: usize) -> Result<(), QuantizeError> {
        let mut node = self.graph.node[ix].clone();
        let layer = self.layers.get(&ix).copied();
        for input in &mut node.input {
            let within = layer.is_some_and(|l| !l.inputs.contains(input));
            if let Some(forms) = self.forms.get(input).filter(|_| !within) {
                *input = match layer {
                    Some(_) => forms.dequantized.clone(),
                    None => self.read_by_float(input, forms),
                };
            }
        }
        match layer {
            Some(Layer { kind: Kind::Weighted(weighted), nodes, inputs, .. }) => {
                let input_scale = self.scale_of(&inputs[0]);
                let (weights, bias) = self.integers(&node, weighted, input_scale)?;
                if nodes.first() == Some(&ix) {
                    self.weights(&mut node, weighted, &weights);
                }
                if let Some(bias) = bias.filter(|b| b.node == ix) {
                    self.bias(&mut node, &bias, input_scale, &weights.scales);
                }
            }
            Some(Layer { kind: Kind::Computes { constants }, .. }) => {
                for input in node.input.iter_mut().filter(|i| constants.contains(i)) {
                    *input = self.constant(input);
                }
            }
            _ => {}
        }
        let yielded: Vec<String> = node.output.iter().filter(|o| self.forms.contains_key(*o)).cloned().collect();
        for output in &mut node.output {
            if let Some(forms) = self.forms.get(output) {
                output.clone_from(&forms.float);
            }
        }
        self.nodes.push(node);
        yielded.iter().for_each(|tensor| self.quantize(tensor));
        Ok(())
    }

    /// A float operator reads what a quantized layer makes as that makes it, and floats as they are.
    fn read_by_float(&self, tensor: &str, forms: &Forms) -> String {
        let made = self.made.contains(tensor);
        let integer_input = self.integer_io && forms.float == forms.quantized;
        if made || integer_input { forms.dequantized.clone() } else { forms.float.clone() }
    }

    /// Puts `QuantizeLinear` and `DequantizeLinear` behind a tensor.
    fn quantize(&mut self, tensor: &str) {
        let Some(Forms { float, quantized, dequantized }) = self.forms.get(tensor) else { return };
        let (float, quantized, dequantized) = (float.clone(), quantized.clone(), dequantized.clone());
        let root = self.plan.root(tensor).unwrap_or(tensor).to_owned();
        let [scale, zero_point] = self.parameters_of(&root);
        if float != quantized {
            let name = self.fresh(tensor, "quantize");
            self.nodes.push(proto::node("QuantizeLinear", name, &[&float, &scale, &zero_point], &quantized));
        }
        let read = self.index.readers.contains_key(tensor) || self.graph.output.iter().any(|o| o.name == dequantized);
        if read {
            let name = self.fresh(tensor, "dequantize");
            self.nodes.push(proto::node("DequantizeLinear", name, &[&quantized, &scale, &zero_point], &dequantized));
            self.dequantized.insert(tensor.to_owned(), dequantized);
        }
    }

    fn parameters_of(&mut self, root: &str) -> [String; 2] {
        if let Some(names) = self.parameters.get(root) {
            return names.clone();
        }
        let q = self.scales.get(root).copied().unwrap_or(Quantization { scale: 1.0, zero_point: 0 });
        let scale = self.store(root, "scale", |name| proto::float_tensor(name, &[], &[q.scale]));
        let zero_point = self.store(root, "zero_point", |name| proto::int8_tensor(name, &[], &[q.zero_point as i8]));
        self.parameters.insert(root.to_owned(), [scale.clone(), zero_point.clone()]);
        [scale, zero_point]
    }

    fn store(&mut self, of: &str, what: &str, make: impl FnOnce(&str) -> pb::TensorProto) -> String {
        let name = self.fresh(of, what);
        self.constants.push(make(&name));
        name
    }

    /// A name for something that belongs to a tensor. Some exporters name a tensor after every operator that went into
    /// it; such a name is not repeated in full, or names would make up a third of a small model.
    fn fresh(&mut self, of: &str, what: &str) -> String {
        const KEPT: usize = 40;
        let end = of.char_indices().nth(KEPT).map_or(of.len(), |(at, _)| at);
        self.names.fresh(format!("{}_{what}", &of[..end]))
    }

    /// Zero points of a symmetric constant: none for the whole of it, or one for each channel.
    fn zeros(&mut self, ty: Integer, channels: Option<usize>) -> String {
        let count = channels.unwrap_or(1);
        // A single value without a dimension is another tensor than one channel.
        let key = (ty, channels.unwrap_or(0));
        if let Some(name) = self.zeros.get(&key) {
            return name.clone();
        }
        let dims: Vec<i64> = channels.iter().map(|&c| c as i64).collect();
        let name = match ty {
            Integer::Int8 => self.store("int8", "zeros", |name| proto::int8_tensor(name, &dims, &vec![0; count])),
            Integer::Int32 => self.store("int32", "zeros", |name| proto::int32_tensor(name, &dims, &vec![0; count])),
        };
        self.zeros.insert(key, name.clone());
        name
    }

    fn scale_of(&self, tensor: &str) -> f32 {
        self.scales.get(self.plan.root(tensor).unwrap_or(tensor)).map_or(1.0, |q| q.scale)
    }

    /// The weights of a layer in 8 bits, and its bias still in float.
    fn integers<'w>(
        &self,
        node: &pb::NodeProto,
        layer: &'w Weighted,
        input_scale: f32,
    ) -> Result<(Weights, Option<Bias<'w>>), QuantizeError> {
        let floats = |name: &str| {
            let lost = || proto::constant_error(node, name, "is not made of float32 values");
            self.index.floats(name).ok_or_else(lost)
        };
        let values = floats(&layer.weight)?;
        let bias = match &layer.bias {
            Some((node, name)) => Some(Bias { node: *node, name, values: floats(name)? }),
            None => None,
        };
        let bias_values = bias.as_ref().map(|b| b.values.as_slice());
        Ok((Weights::quantize(&values, layer.channels, bias_values, input_scale), bias))
    }

    fn weights(&mut self, node: &mut pb::NodeProto, layer: &Weighted, weights: &Weights) {
        let dims = self.index.constants.get(layer.weight.as_str()).map_or(Vec::new(), |t| t.dims.clone());
        let stored = self.store(&layer.weight, "quantized", |name| proto::int8_tensor(name, &dims, &weights.values));
        let channels = weights.scales.len();
        let scale =
            self.store(&layer.weight, "scale", |name| proto::float_tensor(name, &[channels as i64], &weights.scales));
        let zeros = self.zeros(Integer::Int8, Some(channels));
        node.input[1] = self.dequantize_constant(&layer.weight, [&stored, &scale, &zeros], Some(layer.axis));
    }

    fn bias(&mut self, node: &mut pb::NodeProto, bias: &Bias<'_>, input_scale: f32, scales: &[f32]) {
        let of = bias.name;
        let (values, steps) = bits::bias(&bias.values, input_scale, scales);
        let channels = &[values.len() as i64];
        let stored = self.store(of, "quantized", |name| proto::int32_tensor(name, channels, &values));
        let scale = self.store(of, "scale", |name| proto::float_tensor(name, channels, &steps));
        let zeros = self.zeros(Integer::Int32, Some(values.len()));
        let dequantized = self.dequantize_constant(of, [&stored, &scale, &zeros], Some(0));
        node.input.iter_mut().filter(|i| *i == of).for_each(|i| i.clone_from(&dequantized));
    }

    /// Puts `DequantizeLinear` behind a constant, its scale and zero point; gives the name of what it yields.
    fn dequantize_constant(&mut self, of: &str, constant: [&str; 3], axis: Option<usize>) -> String {
        let (output, name) = (self.fresh(of, "dequantized"), self.fresh(of, "dequantize"));
        let mut node = proto::node("DequantizeLinear", name, &constant, &output);
        node.attribute.extend(axis.map(|axis| proto::integer_attribute("axis", axis as i64)));
        self.nodes.push(node);
        output
    }

    /// A constant that is added or multiplied, in 8 bits.
    fn constant(&mut self, name: &str) -> String {
        let Some(values) = self.index.floats(name) else { return name.to_owned() };
        let dims = self.index.constants.get(name).map_or(Vec::new(), |t| t.dims.clone());
        let (values, scale) = bits::constant(&values);
        let stored = self.store(name, "quantized", |name| proto::int8_tensor(name, &dims, &values));
        let scale = self.store(name, "scale", |name| proto::float_tensor(name, &[], &[scale]));
        let zero = self.zeros(Integer::Int8, None);
        self.dequantize_constant(name, [&stored, &scale, &zero], None)
    }
}

/// A layer's bias: the node that adds it, its name and its values.
struct Bias<'a> {
    node: usize,
    name: &'a str,
    values: Vec<f32>,
}

/// Types of constants.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Integer {
    Int8,
    Int32,
}
