//! Dynamically quantized layers: float tensors that are quantized at every run, multiplied in integers, and float again.
//!
//! ```text
//! x ─▶ DynamicQuantizeLinear ─▶ MatMulInteger or ConvInteger ─▶ Cast ─▶ Mul ─▶ (Add of a bias) ─▶ y
//!                     └─ scale ─▶ Mul by the weights' scale ──────────────┘
//! ```
//! That is what ONNX Runtime's `quantize_dynamic` writes; `MatMulIntegerToFloat` and `DynamicQuantizeMatMul` of its own
//! domain say the same in fewer nodes. All layers that read one tensor become one operator, which quantizes it once.

mod build;

use super::recognise::Verdict;
use super::region::Region;
use super::report::Reason;
use super::source::{Source, attribute};
use sedge_engine::Element;
use std::collections::HashMap;
use tract_onnx::pb;
use tract_onnx::pb::NodeProto;

pub(super) use build::{Built, build};

/// Layers that read one tensor.
#[derive(Debug)]
pub(super) struct Group {
    /// As an operator: from the tensor to the layers' results. Its steps are the products.
    pub(super) region: Region,
    /// Every node that it stands for.
    pub(super) nodes: Vec<usize>,
    layers: Vec<Layer>,
}

/// One product and what belongs to it.
#[derive(Debug)]
struct Layer {
    /// The node that multiplies.
    at: usize,
    nodes: Vec<usize>,
    /// The tensor that is quantized.
    input: String,
    output: String,
    weights: String,
    zero_point: Option<String>,
    scale: String,
    bias: Option<String>,
}

/// Operators that multiply bytes whose quantization is computed at run time.
pub(super) fn multiplies(node: &NodeProto) -> bool {
    matches!(node.op_type.as_str(), "MatMulInteger" | "ConvInteger" | "MatMulIntegerToFloat" | "DynamicQuantizeMatMul")
}

fn convolves(node: &NodeProto) -> bool {
    node.op_type == "ConvInteger"
}

/// Finds all of them, except those that are refused, and says in `verdicts` why others are none.
pub(super) fn find(source: &Source, verdicts: &mut [Verdict], refused: &HashMap<usize, Reason>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for at in source.order.iter().copied().filter(|at| multiplies(source.node(*at))) {
        if refused.contains_key(&at) || !matches!(verdicts[at], Verdict::Left(_)) {
            continue;
        }
        let layer = match Layer::of(source, at) {
            Ok(layer) if layer.nodes.iter().all(|node| matches!(verdicts[*node], Verdict::Left(_))) => layer,
            Ok(_) => continue,
            Err(reason) => {
                verdicts[at] = Verdict::Left(reason);
                continue;
            }
        };
        let alike = |group: &&mut Group| {
            let first = &group.layers[0];
            first.input == layer.input && convolves(source.node(first.at)) == convolves(source.node(at))
        };
        let result = (layer.output.clone(), Element::F32);
        let fresh = layer.nodes.iter().copied();
        if let Some(group) = groups.iter_mut().find(alike) {
            let known = group.nodes.clone();
            group.nodes.extend(fresh.filter(|node| !known.contains(node)));
            group.region.steps.push(at);
            group.region.outputs.push(result);
            group.layers.push(layer);
        } else {
            let inputs = vec![(layer.input.clone(), Element::F32)];
            let region = Region { steps: vec![at], inputs, outputs: vec![result] };
            groups.push(Group { region, nodes: fresh.collect(), layers: vec![layer] });
        }
    }
    groups
}

impl Layer {
    fn of(source: &Source, at: usize) -> Result<Self, Reason> {
        let node = source.node(at);
        let given = |input: usize| node.input.get(input).filter(|name| !name.is_empty());
        let missing = || Reason::NotDynamic("it lacks an input");
        // Places of the weights' scale, of their zero point and of a bias.
        let (scale, zero_point, bias) = match node.op_type.as_str() {
            "DynamicQuantizeMatMul" => (Some(2), 3, Some(4)),
            "MatMulIntegerToFloat" => (Some(3), 5, Some(6)),
            _ => (None, 3, None),
        };
        let mut layer = Self {
            at,
            nodes: vec![at],
            input: given(0).ok_or_else(missing)?.clone(),
            output: node.output.first().cloned().unwrap_or_default(),
            weights: given(1).ok_or_else(missing)?.clone(),
            zero_point: given(zero_point).cloned(),
            scale: String::new(),
            bias: bias.and_then(given).cloned(),
        };
        if node.op_type != "DynamicQuantizeMatMul" {
            let places = if scale.is_some() { (Some(2), 4) } else { (None, 2) };
            let quantizer = layer.quantizer(source, places.0, places.1)?;
            match scale {
                Some(scale) => layer.scale = given(scale).ok_or_else(missing)?.clone(),
                None => layer.scaled(source, &source.node(quantizer).output[1])?,
            }
        } else if let Some(scale) = scale {
            layer.scale = given(scale).ok_or_else(missing)?.clone();
        }
        let constant = |name: &String| source.is_constant(name);
        if layer.output.is_empty() {
            Err(Reason::NotDynamic("it lacks an output"))
        } else if !constant(&layer.weights) {
            Err(Reason::VaryingWeights)
        } else if !(constant(&layer.scale) && layer.zero_point.iter().all(constant)) {
            Err(Reason::VaryingScale)
        } else if !layer.bias.iter().all(constant) {
            Err(Reason::VaryingInput("bias"))
        } else {
            Ok(layer)
        }
    }

    /// Goes from bytes to the tensor they were quantized from. `scale` and `zero_point` are the inputs at which the node
    /// says how.
    fn quantizer(&mut self, source: &Source, scale: Option<usize>, zero_point: usize) -> Result<usize, Reason> {
        let other = Reason::NotDynamic("its input does not come from DynamicQuantizeLinear");
        let Some((before, 0)) = source.producer(&self.input) else { return Err(other) };
        let (quantizer, node) = (source.node(before), source.node(self.at));
        let is = |input: usize, output: usize| {
            quantizer.output.get(output).is_some_and(|name| !name.is_empty() && node.input.get(input) == Some(name))
        };
        let same = is(zero_point, 2) && scale.is_none_or(|scale| is(scale, 1));
        if quantizer.op_type != "DynamicQuantizeLinear" || quantizer.input.is_empty() || !same {
            return Err(other);
        }
        self.nodes.push(before);
        self.input = quantizer.input[0].clone();
        Ok(before)
    }

    /// Goes on over Cast and the product with both scales, and a bias where one follows.
    fn scaled(&mut self, source: &Source, scale: &String) -> Result<(), Reason> {
        let other = || Reason::NotDynamic("its result is not scaled as it was quantized");
        let float = i64::from(pb::tensor_proto::DataType::Float as i32);
        let cast = self.next(source).filter(|at| {
            let to = attribute(source.node(*at), "to").map(|a| a.i);
            source.node(*at).op_type == "Cast" && to == Some(float)
        });
        self.pass(source, cast.ok_or_else(other)?);
        let product = self.next(source).filter(|at| source.node(*at).op_type == "Mul").ok_or_else(other)?;
        let factor = self.beside(source, product).ok_or_else(other)?;
        let (scales, _) = source.producer(&factor).ok_or_else(other)?;
        let [one, two] = source.node(scales).input.as_slice() else { return Err(other()) };
        let weights = if one == scale { two } else { one };
        if source.node(scales).op_type != "Mul" || scale.is_empty() || (one != scale && two != scale) {
            return Err(other());
        }
        self.scale = weights.clone();
        self.nodes.push(scales);
        self.pass(source, product);
        let sum = self.next(source).filter(|at| source.node(*at).op_type == "Add");
        if let Some(sum) = sum
            && let Some(bias) = self.beside(source, sum)
            && build::is_bias(source, &bias, source.node(self.at), &self.weights)
        {
            self.bias = Some(bias);
            self.pass(source, sum);
        }
        Ok(())
    }

    /// The one node that reads the result so far.
    fn next(&self, source: &Source) -> Option<usize> {
        match source.readers(&self.output) {
            [one] if !source.is_output(&self.output) => Some(*one),
            _ => None,
        }
    }

    /// What a node reads beside the result so far.
    fn beside(&self, source: &Source, at: usize) -> Option<String> {
        match source.node(at).input.as_slice() {
            [one, two] if *one == self.output && *two != self.output => Some(two.clone()),
            [one, two] if *two == self.output && *one != self.output => Some(one.clone()),
            _ => None,
        }
    }

    fn pass(&mut self, source: &Source, at: usize) {
        self.nodes.push(at);
        self.output = source.node(at).output.first().cloned().unwrap_or_default();
    }
}
