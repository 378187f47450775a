//! Quantized operators: those of ONNX, and those that ONNX Runtime's quantizer writes in its own domain. They say the
//! same as their float form between dequantization and quantization, in another order of inputs.

use super::super::report::Reason;
use super::super::source::{Source, label};
use super::pointwise::Limits;
use super::{Argument, Building, Operand, Target, Weights, unsigned};
use tract_onnx::pb::NodeProto;

/// Where a tensor and its parameters stand among a node's inputs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in super::super) struct Tensor {
    pub(in super::super) data: usize,
    pub(in super::super) scale: usize,
    pub(in super::super) zero_point: usize,
}

/// Where what stands among a node's inputs.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct Layout {
    pub(in super::super) tensors: Vec<Tensor>,
    pub(in super::super) output: (usize, usize),
    bias: Option<usize>,
}

const fn tensor(data: usize) -> Tensor {
    Tensor { data, scale: data + 1, zero_point: data + 2 }
}

impl Layout {
    pub(in super::super) fn of(node: &NodeProto) -> Self {
        let (tensors, output, bias) = match node.op_type.as_str() {
            "QLinearConv" => (vec![tensor(0), tensor(3)], (6, 7), Some(8)),
            "QLinearMatMul" | "QLinearAdd" | "QLinearMul" => (vec![tensor(0), tensor(3)], (6, 7), None),
            "QGemm" => (vec![tensor(0), tensor(3)], (7, 8), Some(6)),
            "QLinearConcat" => ((2..node.input.len()).step_by(3).map(tensor).collect(), (0, 1), None),
            _ => (vec![tensor(0)], (3, 4), None),
        };
        Self { tensors, output, bias }
    }
}

impl super::Builder<'_> {
    pub(super) fn qlinear(&mut self, at: usize) -> Building<Operand> {
        let node = self.source.node(at);
        let layout = Layout::of(node);
        let mut arguments = Vec::with_capacity(layout.tensors.len());
        for tensor in &layout.tensors {
            arguments.push(self.quantized_argument(at, *tensor)?);
        }
        let target = Target::of(&self.parameters(at, layout.output)?);
        let bias = match layout.bias.filter(|input| Source::has(node, *input)) {
            None => None,
            Some(input) => match self.source.constant(&node.input[input], node)? {
                Some(constant) => Some(Weights::of_accumulator(constant)),
                None => return self.refuse(at, Reason::VaryingInput("bias")),
            },
        };
        if node.op_type == "QLinearConcat" {
            let mut operands = Vec::with_capacity(arguments.len());
            for argument in arguments {
                operands.push(self.operand(at, argument)?);
            }
            return self.concat(at, &operands, target);
        }
        let mut arguments = arguments.into_iter();
        let first = arguments.next().unwrap_or(Argument::Absent);
        let second = arguments.next().unwrap_or(Argument::Absent);
        match node.op_type.as_str() {
            "QLinearConv" => self.conv(at, (first, second, bias), Limits::NONE, target),
            "QLinearMatMul" | "QGemm" => self.product(at, (first, second, bias), Limits::NONE, target),
            "QLinearAdd" | "QLinearMul" => {
                let (a, b) = (self.operand(at, first)?, self.operand(at, second)?);
                let operator = if node.op_type == "QLinearAdd" { "Add" } else { "Mul" };
                self.binary(at, operator, a, b, Limits::NONE, target)
            }
            "QLinearSigmoid" | "QLinearLeakyRelu" => {
                let x = self.operand(at, first)?;
                let curve = self.straight(&x);
                let curve = self.bent(at, curve)?;
                Ok(self.tabled(at, &curve, Limits::NONE, target))
            }
            _ => {
                let x = self.operand(at, first)?;
                self.one_input(at, &x, target)
            }
        }
    }

    fn quantized_argument(&mut self, at: usize, tensor: Tensor) -> Building<Argument> {
        let node = self.source.node(at);
        let Some(name) = node.input.get(tensor.data).filter(|name| !name.is_empty()) else {
            return Ok(Argument::Absent);
        };
        let Some(mut parameters) = self.source.parameters(node, (tensor.scale, tensor.zero_point))? else {
            return self.refuse(at, Reason::VaryingScale);
        };
        if self.source.is_constant(name) {
            let Some(constant) = self.source.constant(name, node)? else {
                return self.refuse(at, Reason::VaryingWeights);
            };
            // Scales stand along the output channels.
            let rows = node.op_type == "QLinearConv"
                || (node.op_type == "QGemm" && super::super::source::integer(node, "transB", 0) != 0);
            parameters.axis = if rows { 0 } else { -1 };
            let typeless = !Source::has(node, tensor.zero_point);
            return match Weights::with(node, constant, parameters, typeless)? {
                Some(weights) => Ok(Argument::Constant(weights)),
                None => self.refuse(at, Reason::OtherType),
            };
        }
        if parameters.scales.len() != 1 {
            return self.refuse(at, Reason::ScalePerChannel);
        }
        let bytes = self.bytes_of(at, name)?;
        let operand = self.reinterpreted(&bytes, unsigned(&parameters), label(node));
        Ok(Argument::Tensor(operand))
    }
}
