//! A region as a graph of the engine. Here sizes are known: what the graph alone promised must now hold, or the node
//! goes back to tract with the reason.

mod arrange;
mod dense;
mod moves;
mod pending;
mod picture;
mod pointwise;
pub(super) mod qlinear;
mod weights;

use super::kinds::quantized;
use super::operand::{Operand, grouped, natural, padded};
use super::recognise::Verdict;
use super::report::Reason;
use super::source::{INT8, Parameters, Source, UINT8, label};
use crate::model::ModelError;
use pending::{Core, Pending, Real};
pub(super) use picture::window;
use pointwise::{Limits, SQUARED_DIFFERENCE};
use sedge_engine::{CompileError, Element, Graph, Op, Options, Port, Problem, Program, Quantization, ValueId};
use std::collections::{HashMap, HashSet};
pub(super) use weights::Weights;

/// Why a region cannot be built.
#[derive(Debug)]
pub(in crate::model) enum Fault {
    /// A node has no integer form after all.
    Refused { node: usize, reason: Reason },
    /// The file is wrong.
    Wrong(ModelError),
}

impl From<ModelError> for Fault {
    fn from(error: ModelError) -> Self {
        Self::Wrong(error)
    }
}

/// A tensor at the edge of a region.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::model) struct Edge {
    pub(in crate::model) element: Element,
    pub(in crate::model) shape: Vec<usize>,
}

/// A region that is ready to run.
#[derive(Debug)]
pub(in crate::model) struct Built {
    pub(in crate::model) program: Program,
    /// For each port, the place of its tensor among the region's inputs.
    pub(in crate::model) feeds: Vec<usize>,
    /// Places of the inputs that are float.
    pub(in crate::model) floats: Vec<usize>,
    pub(in crate::model) outputs: Vec<Edge>,
}

/// What a quantized result is to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub(super) quantization: Quantization,
}

impl Target {
    fn of(parameters: &Parameters) -> Self {
        Self { quantization: unsigned(parameters) }
    }
}

/// Of a whole tensor, in the unsigned domain.
fn unsigned(parameters: &Parameters) -> Quantization {
    let shift = if parameters.ty == INT8 { 128 } else { 0 };
    Quantization { scale: parameters.scales[0], zero_point: (parameters.zero_points[0] + shift) as u8 }
}

/// What an operator of the file reads.
#[derive(Debug, Clone)]
enum Argument {
    Tensor(Operand),
    Constant(Weights),
    Absent,
}

impl Argument {
    fn rank(&self) -> usize {
        match self {
            Self::Tensor(operand) => operand.shape.len(),
            Self::Constant(weights) => weights.dims.len(),
            Self::Absent => 0,
        }
    }
}

type Building<T> = Result<T, Fault>;

pub(super) struct Builder<'a> {
    source: &'a Source,
    verdicts: &'a [Verdict],
    inputs: &'a [(String, Edge)],
    graph: Graph,
    feeds: Vec<usize>,
    bytes: HashMap<String, Operand>,
    reals: HashMap<String, Operand>,
    entries: HashMap<(String, u32, u8), Operand>,
    /// The same bytes arranged in another way, by what was asked for.
    arranged: HashMap<(ValueId, [usize; 4], [usize; 4]), ValueId>,
}

/// Builds a region from the nodes that yield its bytes, in order. `inputs` names every tensor from outside.
pub(super) fn build(
    source: &Source,
    verdicts: &[Verdict],
    steps: &[usize],
    inputs: &[(String, Edge)],
    outputs: &[String],
    options: &Options,
) -> Building<Built> {
    let mut builder = Builder {
        source,
        verdicts,
        inputs,
        graph: Graph::default(),
        feeds: Vec::new(),
        bytes: HashMap::new(),
        reals: HashMap::new(),
        entries: HashMap::new(),
        arranged: HashMap::new(),
    };
    for at in steps {
        builder.step(*at)?;
    }
    let edges = outputs.iter().map(|name| builder.leave(name, steps)).collect::<Building<Vec<_>>>()?;
    super::tidy::tidy(&mut builder.graph);
    let Builder { graph, feeds, .. } = builder;
    // What errors are told by, once the graph is gone.
    let two = graph.nodes.iter().filter(|node| matches!(node.op, Op::MatMul { .. }));
    let products: HashSet<String> = two.map(|node| node.name.clone()).collect();
    let program = Program::compile_owned(graph, options).map_err(|e| fault(source, steps, &products, e))?;
    let float = |(_, (_, edge)): &(usize, &(String, Edge))| edge.element == Element::F32;
    let floats = inputs.iter().enumerate().filter(float).map(|(place, _)| place).collect();
    Ok(Built { program, feeds, floats, outputs: edges })
}

/// The node that the engine speaks of; `products` are those of two tensors.
fn fault(source: &Source, steps: &[usize], products: &HashSet<String>, error: CompileError) -> Fault {
    let error = match error {
        CompileError::Graph(error) => error,
        // Whatever the graph: the same for each.
        other => return Fault::Wrong(ModelError::Engine(other)),
    };
    // How large a product of two tensors becomes is up to what they hold; weights say it of themselves.
    match error.problem {
        Problem::Multiplier { .. } if products.contains(&error.node) => {
            let node = source.graph.node.iter().position(|node| label(node) == error.node);
            Fault::Refused { node: node.unwrap_or(steps[0]), reason: Reason::LargeSteps }
        }
        Problem::Overflow { .. } | Problem::Multiplier { .. } | Problem::Scale(_) => {
            Fault::Wrong(ModelError::Node { node: error.node, problem: error.problem.to_string() })
        }
        problem => {
            let node = source.graph.node.iter().position(|node| label(node) == error.node);
            Fault::Refused { node: node.unwrap_or(steps[0]), reason: Reason::Sizes(problem.to_string()) }
        }
    }
}

impl<'a> Builder<'a> {
    fn step(&mut self, at: usize) -> Building<()> {
        let source = self.source;
        let node = source.node(at);
        if node.op_type == "QuantizeLinear" {
            let parameters = self.parameters(at, (1, 2))?;
            let out = self.quantize(at, &node.input[0], Target::of(&parameters))?;
            self.bytes.insert(node.output[0].clone(), out);
        } else if quantized(node) {
            let out = self.qlinear(at)?;
            self.bytes.insert(node.output[0].clone(), out);
        } else if node.op_type == "Concat" {
            let mut operands = Vec::with_capacity(node.input.len());
            for name in &node.input {
                operands.push(self.bytes_of(at, name)?);
            }
            let as_first = self.graph.values[operands[0].value.0].quantization;
            for operand in &mut operands {
                *operand = self.reinterpreted(operand, as_first, label(node));
            }
            let out = self.concat(at, &operands, Target { quantization: as_first })?;
            self.bytes.insert(node.output[0].clone(), out);
        } else {
            let operand = self.bytes_of(at, &node.input[0])?;
            for (slot, name) in node.output.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
                let moved = self.moved(at, slot, &operand, false)?;
                self.bytes.insert(name.clone(), moved);
            }
        }
        Ok(())
    }

    fn refuse<T>(&self, node: usize, reason: Reason) -> Building<T> {
        Err(Fault::Refused { node, reason })
    }

    fn sizes<T>(&self, node: usize, what: impl Into<String>) -> Building<T> {
        self.refuse(node, Reason::Sizes(what.into()))
    }

    fn parameters(&self, at: usize, places: (usize, usize)) -> Building<Parameters> {
        match self.source.parameters(self.source.node(at), places)? {
            Some(parameters) if parameters.scales.len() == 1 && [UINT8, INT8].contains(&parameters.ty) => {
                Ok(parameters)
            }
            Some(_) => self.refuse(at, Reason::ScalePerChannel),
            None => self.refuse(at, Reason::VaryingScale),
        }
    }

    fn quantization(&self, operand: &Operand) -> Quantization {
        self.graph.values[operand.value.0].quantization
    }

    /// A tensor of bytes that a node reads: computed here, or from outside.
    fn bytes_of(&mut self, reader: usize, name: &str) -> Building<Operand> {
        if let Some(known) = self.bytes.get(name) {
            return Ok(known.clone());
        }
        let Some(feed) = self.inputs.iter().position(|(input, _)| input == name) else {
            return self.refuse(reader, Reason::FloatInput(name.to_owned()));
        };
        let edge = self.inputs[feed].1.clone();
        let quantization = self.meaning(name, 0).unwrap_or(Quantization { scale: 1.0, zero_point: 0 });
        let operand = self.enter(reader, name, feed, edge.element, quantization)?;
        self.bytes.insert(name.to_owned(), operand.clone());
        Ok(operand)
    }

    fn enter(
        &mut self,
        reader: usize,
        name: &str,
        feed: usize,
        element: Element,
        quantization: Quantization,
    ) -> Building<Operand> {
        let shape = self.inputs[feed].1.shape.clone();
        let order = natural(shape.len());
        let Some((dims, _)) = grouped(&shape, &order, &[]) else { return self.sizes(reader, format!("{shape:?}")) };
        let value = self.graph.value(name, dims, quantization);
        self.graph.inputs.push(Port { value, element, order: Port::CHANNELS_LAST });
        self.feeds.push(feed);
        Ok(Operand { value, shape, order })
    }

    /// What bytes from outside stand for: the first node that says so.
    fn meaning(&self, name: &str, depth: usize) -> Option<Quantization> {
        const MOVES_MAX: usize = 16;
        if depth > MOVES_MAX {
            return None;
        }
        let of = |at: &usize| {
            let node = self.source.node(*at);
            if node.op_type == "DequantizeLinear" {
                return self.source.parameters(node, (1, 2)).ok().flatten().map(|p| unsigned(&p));
            }
            if quantized(node) {
                let layout = qlinear::Layout::of(node);
                let tensor = layout.tensors.iter().find(|t| node.input.get(t.data).is_some_and(|i| i == name))?;
                let parameters = self.source.parameters(node, (tensor.scale, tensor.zero_point)).ok().flatten();
                return parameters.map(|p| unsigned(&p));
            }
            let inside = matches!(self.verdicts[*at], Verdict::Step(_));
            if inside { self.meaning(node.output.first()?, depth + 1) } else { None }
        };
        self.source.readers(name).iter().find_map(of)
    }

    /// What a node reads at one of its inputs.
    fn argument(&mut self, at: usize, input: usize) -> Building<Argument> {
        let node = self.source.node(at);
        let Some(name) = node.input.get(input).filter(|name| !name.is_empty()) else { return Ok(Argument::Absent) };
        if self.source.is_constant(name) {
            return match Weights::of(self.source, name, node)? {
                Some(weights) => Ok(Argument::Constant(weights)),
                None => self.refuse(at, Reason::VaryingWeights),
            };
        }
        match self.real(name)? {
            Real::Tensor(operand) => Ok(Argument::Tensor(operand)),
            _ => self.refuse(at, Reason::FloatInput(name.clone())),
        }
    }

    /// The operator of a node that is rounded to `target`.
    fn compute(
        &mut self,
        at: usize,
        bias: Option<(usize, String)>,
        limits: Limits,
        target: Target,
    ) -> Building<Operand> {
        let node = self.source.node(at);
        if let Some(difference) = self.squared(at)? {
            let (a, b) = (self.argument(difference, 0)?, self.argument(difference, 1)?);
            let (a, b) = (self.operand(at, a)?, self.operand(at, b)?);
            let out = self.binary(at, SQUARED_DIFFERENCE, a, b, Limits::NONE, target)?;
            return Ok(self.limited(at, &out, limits));
        }
        match node.op_type.as_str() {
            "Conv" => {
                let (x, weights) = (self.argument(at, 0)?, self.argument(at, 1)?);
                let rank = x.rank();
                let bias = self.bias(at, 2, bias, (rank, rank.saturating_sub(2)))?;
                self.conv(at, (x, weights, bias), limits, target)
            }
            "Gemm" | "MatMul" => {
                let (a, b) = (self.argument(at, 0)?, self.argument(at, 1)?);
                let slot = if node.op_type == "Gemm" { 2 } else { usize::MAX };
                let bias = self.bias(at, slot, bias, (a.rank(), 0))?;
                self.product(at, (a, b, bias), limits, target)
            }
            "Concat" => {
                let mut operands = Vec::with_capacity(node.input.len());
                for input in 0..node.input.len() {
                    let argument = self.argument(at, input)?;
                    operands.push(self.operand(at, argument)?);
                }
                let out = self.concat(at, &operands, target)?;
                Ok(self.limited(at, &out, limits))
            }
            "Add" | "Sub" | "Mul" => {
                let (a, b) = (self.argument(at, 0)?, self.argument(at, 1)?);
                let (a, b) = (self.operand(at, a)?, self.operand(at, b)?);
                self.binary(at, node.op_type.as_str(), a, b, limits, target)
            }
            _ => {
                let argument = self.argument(at, 0)?;
                let x = self.operand(at, argument)?;
                let out = self.one_input(at, &x, target)?;
                Ok(self.limited(at, &out, limits))
            }
        }
    }

    /// What reads one tensor and yields one.
    fn one_input(&mut self, at: usize, x: &Operand, target: Target) -> Building<Operand> {
        let node = self.source.node(at);
        match node.op_type.as_str() {
            "AveragePool" | "QLinearAveragePool" => self.average_pool(at, x, target),
            "GlobalAveragePool" | "QLinearGlobalAveragePool" => {
                let last = super::source::integer(node, "channels_last", 0) != 0;
                let spatial = if last { 1..x.shape.len().saturating_sub(1) } else { 2..x.shape.len() };
                self.mean(at, x, &spatial.collect::<Vec<_>>(), true, target)
            }
            "ReduceMean" | "QLinearReduceMean" => self.reduce_mean(at, x, target),
            "Softmax" | "QLinearSoftmax" => self.softmax(at, x, target),
            _ => self.refuse(at, Reason::NoIntegerForm),
        }
    }

    /// A constant as a tensor of the engine.
    fn operand(&mut self, at: usize, argument: Argument) -> Building<Operand> {
        match argument {
            Argument::Tensor(operand) => Ok(operand),
            Argument::Absent => self.refuse(at, Reason::NoIntegerForm),
            Argument::Constant(weights) => {
                let Some((bytes, quantization)) = weights.bytes() else {
                    return self.refuse(at, Reason::FloatWeights);
                };
                let order = natural(weights.dims.len());
                let Some((dims, _)) = grouped(&weights.dims, &order, &[]) else {
                    return self.sizes(at, format!("{:?}", weights.dims));
                };
                let value = self.graph.value(label(self.source.node(at)), dims, quantization);
                self.graph.values[value.0].constant = Some(bytes);
                Ok(Operand { value, shape: weights.dims, order })
            }
        }
    }

    /// A tensor that is used outside of the region.
    fn leave(&mut self, name: &str, steps: &[usize]) -> Building<Edge> {
        let last = steps.last().copied().unwrap_or(0);
        let (operand, element) = match self.bytes.get(name) {
            Some(operand) => (operand.clone(), self.element_of(name)),
            None => match self.real(name)? {
                Real::Tensor(operand) => (operand, Element::F32),
                _ => return self.refuse(last, Reason::FloatResult(name.to_owned())),
            },
        };
        let at = self.source.producer(name).map_or(last, |(at, _)| at);
        let rank = operand.shape.len();
        let (value, order) = match padded(&operand.shape, &operand.order) {
            Some(dims) => {
                let value = self.arrange(at, &operand, &operand.order, dims)?;
                let place = |axis: usize| operand.order.iter().position(|a| *a == axis).unwrap_or(0);
                let order = std::array::from_fn(|i| if i < 4 - rank { i } else { 4 - rank + place(i - (4 - rank)) });
                (value, order)
            }
            None => {
                let order = natural(rank);
                let Some((dims, _)) = grouped(&operand.shape, &order, &[]) else {
                    return self.sizes(at, format!("{:?}", operand.shape));
                };
                (self.arrange(at, &operand, &order, dims)?, Port::CHANNELS_LAST)
            }
        };
        self.graph.outputs.push(Port { value, element, order });
        Ok(Edge { element, shape: operand.shape })
    }

    fn element_of(&self, name: &str) -> Element {
        super::region::element(self.source, name)
    }
}
