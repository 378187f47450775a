//! Which nodes have an integer form, told from the graph alone, before any size is known.
//!
//! Tensors are of five kinds. Quantization turns real values into *bytes*, dequantization makes them *real* again. What
//! an operator makes of real tensors is *pending* until the QuantizeLinear that says how to round it; if something else
//! reads it, it was float after all, and so were the nodes that led to it.

use super::kinds::{curves, moves, pairs, quantized, squares};
use super::report::Reason;
use super::source::{INT8, Source, UINT8, attribute};
use crate::model::ModelError;
use std::collections::HashMap;
use tract_onnx::pb::NodeProto;

/// What becomes of a node, as far as the graph alone tells.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    Constant,
    /// DequantizeLinear, or data moved after it. Each region that reads it computes it for itself.
    Real,
    /// Part of the step that yields the bytes of this node.
    Step(usize),
    Left(Reason),
}

/// What a tensor is.
#[derive(Debug, Clone)]
enum Kind {
    Constant,
    Bytes,
    /// With the tensor of bytes it stands for, and whether that is all: nothing moved in between.
    Real {
        root: String,
    },
    Pending(Chain),
    Float,
}

/// Nodes on the way to a QuantizeLinear.
#[derive(Debug, Clone)]
struct Chain {
    nodes: Vec<usize>,
    form: Form,
}

#[derive(Debug, Clone, PartialEq)]
enum Form {
    /// Float values from outside, moved.
    Entry,
    /// A function of the elements of one real tensor.
    Curve { root: String },
    /// A convolution or dense layer, which may still get a bias.
    Sums,
    /// Of two tensors, which may still be squared.
    Difference,
    /// Anything else: it may be limited and moved.
    Other,
}

pub(super) struct Recognition<'a> {
    source: &'a Source,
    kinds: HashMap<&'a str, Kind>,
    verdicts: Vec<Verdict>,
}

/// Judges every node. Nodes in `refused` are left, for the reasons given there.
pub(super) fn recognise(source: &Source, refused: &HashMap<usize, Reason>) -> Result<Vec<Verdict>, ModelError> {
    let verdicts = vec![Verdict::Left(Reason::NoIntegerForm); source.graph.node.len()];
    let mut all = Recognition { source, kinds: HashMap::new(), verdicts };
    for at in &source.order {
        all.judge(*at, refused.get(at))?;
    }
    Ok(all.verdicts)
}

type Judged = Result<Kind, Reason>;

impl<'a> Recognition<'a> {
    fn judge(&mut self, at: usize, refused: Option<&Reason>) -> Result<(), ModelError> {
        let source = self.source;
        let node = source.node(at);
        if !node.output.is_empty() && node.output.iter().all(|name| name.is_empty() || source.is_constant(name)) {
            if matches!(node.op_type.as_str(), "DequantizeLinear" | "QuantizeLinear") {
                // What is wrong with it should be said before weights are folded.
                source.parameters(node, (1, 2))?;
            }
            self.verdicts[at] = Verdict::Constant;
            return Ok(());
        }
        let judged = match refused {
            Some(reason) => Err(reason.clone()),
            None => self.kind(at, node)?,
        };
        let judged = match judged {
            Ok(Kind::Pending(chain)) if !self.read_once(node) => {
                // It is float after all, and so is what led to it.
                let before = chain.nodes.iter().copied().filter(|n| *n != at).collect();
                self.give_up(before, node);
                Err(if chain.form == Form::Entry { Reason::NoIntegerForm } else { Reason::UsedTwice })
            }
            other => other,
        };
        match judged {
            Ok(kind) => {
                match &kind {
                    Kind::Real { .. } => self.verdicts[at] = Verdict::Real,
                    Kind::Bytes => self.settle(at, node),
                    _ => {}
                }
                self.kinds.extend(node.output.iter().map(|name| (name.as_str(), kind.clone())));
            }
            Err(reason) => {
                self.verdicts[at] = Verdict::Left(reason);
                for name in &node.input {
                    if let Some(Kind::Pending(chain)) = self.kinds.get(name.as_str()) {
                        self.give_up(chain.nodes.clone(), node);
                    }
                }
            }
        }
        Ok(())
    }

    /// The nodes that led to these bytes are one step with it.
    fn settle(&mut self, at: usize, node: &'a NodeProto) {
        self.verdicts[at] = Verdict::Step(at);
        if let Some(Kind::Pending(chain)) = node.input.first().and_then(|name| self.kinds.get(name.as_str())) {
            for member in chain.nodes.clone() {
                self.verdicts[member] = Verdict::Step(at);
            }
        }
    }

    fn give_up(&mut self, nodes: Vec<usize>, reader: &NodeProto) {
        for at in nodes {
            let entry = moves(self.source.node(at));
            let reason = Reason::FloatResult(reader.op_type.clone());
            self.verdicts[at] = Verdict::Left(if entry { Reason::NoIntegerForm } else { reason });
            self.kinds.extend(self.source.node(at).output.iter().map(|name| (name.as_str(), Kind::Float)));
        }
    }

    fn read_once(&self, node: &NodeProto) -> bool {
        let mut used = node
            .output
            .iter()
            .filter(|name| !name.is_empty() && (self.source.is_output(name) || !self.source.readers(name).is_empty()));
        // A node may read it at both its inputs.
        let one = |readers: &[usize]| readers.first().is_some_and(|first| readers.iter().all(|at| at == first));
        let once = |name: &String| one(self.source.readers(name)) && !self.source.is_output(name);
        used.next().is_some_and(once) && used.next().is_none()
    }

    fn of(&self, name: &str) -> Kind {
        if self.source.is_constant(name) {
            return Kind::Constant;
        }
        self.kinds.get(name).cloned().unwrap_or_else(|| match self.source.input_type(name) {
            Some(UINT8 | INT8) => Kind::Bytes,
            _ => Kind::Float,
        })
    }

    fn kind(&self, at: usize, node: &NodeProto) -> Result<Judged, ModelError> {
        let nested = node.attribute.iter().any(|a| a.g.is_some() || !a.graphs.is_empty());
        let least = if matches!(node.op_type.as_str(), "Conv" | "Gemm" | "MatMul") { 2 } else { 1 };
        if nested || node.input.len() < least || node.output.is_empty() {
            return Ok(Err(Reason::NoIntegerForm));
        }
        let first = self.of(&node.input[0]);
        let begin = |form| Ok(Kind::Pending(Chain { nodes: vec![at], form }));
        let judged = match node.op_type.as_str() {
            "DequantizeLinear" => return self.dequantize(node, &first),
            "QuantizeLinear" => return self.quantize(node),
            _ if quantized(node) => self.quantized(node)?,
            _ if moves(node) => self.moving(at, node, first),
            _ if curves(node) => self.curve(at, node, first),
            _ if pairs(node) => self.pair(at, node),
            "Conv" | "Gemm" | "MatMul" => match first {
                Kind::Real { .. } => {
                    let form = if self.source.is_constant(&node.input[1]) { Form::Sums } else { Form::Other };
                    let product = node.op_type == "MatMul" && matches!(self.of(&node.input[1]), Kind::Real { .. });
                    let bias = node.input.get(2).is_none_or(|name| name.is_empty() || self.source.is_constant(name));
                    match form {
                        _ if !bias => Err(Reason::VaryingInput("bias")),
                        Form::Other if !product => Err(Reason::VaryingWeights),
                        form => begin(form),
                    }
                }
                Kind::Constant if node.op_type == "MatMul" => match self.of(&node.input[1]) {
                    Kind::Real { .. } => begin(Form::Other),
                    _ => Err(Reason::FloatInput(node.input[1].clone())),
                },
                _ => Err(Reason::FloatInput(node.input[0].clone())),
            },
            "Concat" => {
                let kinds: Vec<Kind> = node.input.iter().map(|name| self.of(name)).collect();
                if kinds.iter().all(|kind| matches!(kind, Kind::Bytes)) {
                    Ok(Kind::Bytes)
                } else if kinds.iter().all(|kind| matches!(kind, Kind::Real { .. } | Kind::Constant)) {
                    begin(Form::Other)
                } else {
                    let float = |(_, kind): &(&String, &Kind)| !matches!(kind, Kind::Real { .. } | Kind::Constant);
                    let name = node.input.iter().zip(&kinds).find(float).map_or("", |(name, _)| name);
                    Err(Reason::FloatInput(name.to_owned()))
                }
            }
            "AveragePool" | "GlobalAveragePool" | "ReduceMean" | "Softmax" => match first {
                Kind::Real { .. } => begin(Form::Other),
                _ => Err(Reason::FloatInput(node.input[0].clone())),
            },
            _ => Err(Reason::NoIntegerForm),
        };
        Ok(judged)
    }

    fn dequantize(&self, node: &NodeProto, first: &Kind) -> Result<Judged, ModelError> {
        let Some(parameters) = self.source.parameters(node, (1, 2))? else { return Ok(Err(Reason::VaryingScale)) };
        if let Some(declared @ (UINT8 | INT8)) = self.source.input_type(&node.input[0])
            && declared != parameters.ty
        {
            return Err(super::source::wrong(node, "its zero point has another type than its input"));
        }
        Ok(match first {
            _ if ![UINT8, INT8].contains(&parameters.ty) => Err(Reason::OtherType),
            _ if parameters.scales.len() != 1 => Err(Reason::ScalePerChannel),
            Kind::Real { .. } | Kind::Pending(_) => Err(Reason::OtherType),
            _ => Ok(Kind::Real { root: node.input[0].clone() }),
        })
    }

    fn quantize(&self, node: &NodeProto) -> Result<Judged, ModelError> {
        let Some(parameters) = self.source.parameters(node, (1, 2))? else { return Ok(Err(Reason::VaryingScale)) };
        let other = attribute(node, "output_dtype").is_some_and(|a| a.i != 0 && a.i != i64::from(parameters.ty));
        Ok(if other || ![UINT8, INT8].contains(&parameters.ty) {
            Err(Reason::OtherType)
        } else if parameters.scales.len() != 1 {
            Err(Reason::ScalePerChannel)
        } else {
            Ok(Kind::Bytes)
        })
    }

    fn quantized(&self, node: &NodeProto) -> Result<Judged, ModelError> {
        let layout = super::import::qlinear::Layout::of(node);
        for pair in layout.tensors.iter().map(|t| (t.scale, t.zero_point)).chain([layout.output]) {
            let Some(parameters) = self.source.parameters(node, pair)? else { return Ok(Err(Reason::VaryingScale)) };
            if ![UINT8, INT8].contains(&parameters.ty) {
                return Ok(Err(Reason::OtherType));
            }
        }
        if node.op_type == "QGemm" && !Source::has(node, layout.output.1) {
            return Ok(Err(Reason::FloatResult("the graph".to_owned())));
        }
        Ok(Ok(Kind::Bytes))
    }

    fn moving(&self, at: usize, node: &NodeProto, first: Kind) -> Judged {
        if let Some(index) = (1..node.input.len()).find(|i| {
            let name = &node.input[*i];
            !name.is_empty() && !self.source.is_constant(name)
        }) {
            return match first {
                Kind::Float | Kind::Constant => Err(Reason::NoIntegerForm),
                _ => Err(Reason::VaryingInput(if index == 1 { "1" } else { "2" })),
            };
        }
        let several = node.output.iter().filter(|name| !name.is_empty()).count() > 1;
        match first {
            // A mask, or places of the largest.
            _ if several && node.op_type != "Split" => Err(Reason::NoIntegerForm),
            Kind::Constant => Err(Reason::NoIntegerForm),
            Kind::Bytes => Ok(Kind::Bytes),
            Kind::Real { .. } => Ok(Kind::Real { root: node.output[0].clone() }),
            Kind::Pending(_) if several => Err(Reason::UsedTwice),
            Kind::Pending(mut chain) => {
                chain.nodes.push(at);
                if let Form::Curve { .. } | Form::Sums | Form::Difference = chain.form {
                    chain.form = Form::Other;
                }
                Ok(Kind::Pending(chain))
            }
            Kind::Float if several => Err(Reason::NoIntegerForm),
            Kind::Float => Ok(Kind::Pending(Chain { nodes: vec![at], form: Form::Entry })),
        }
    }

    fn curve(&self, at: usize, node: &NodeProto, first: Kind) -> Judged {
        let limits = matches!(node.op_type.as_str(), "Relu" | "Clip");
        if node.input.iter().skip(1).any(|name| !name.is_empty() && !self.source.is_single(name)) {
            return Err(Reason::VaryingInput("limits"));
        }
        match first {
            Kind::Real { root } => Ok(Kind::Pending(Chain { nodes: vec![at], form: Form::Curve { root } })),
            Kind::Pending(mut chain) if limits || matches!(chain.form, Form::Curve { .. }) => {
                chain.nodes.push(at);
                if let Form::Sums | Form::Difference = chain.form {
                    chain.form = Form::Other;
                }
                Ok(Kind::Pending(chain))
            }
            Kind::Pending(_) => Err(Reason::FloatInput(node.input[0].clone())),
            _ => Err(Reason::FloatInput(node.input[0].clone())),
        }
    }

    fn pair(&self, at: usize, node: &NodeProto) -> Judged {
        if node.input.len() != 2 {
            return Err(Reason::NoIntegerForm);
        }
        let kinds = [self.of(&node.input[0]), self.of(&node.input[1])];
        let linear = matches!(node.op_type.as_str(), "Add" | "Sub" | "Mul");
        let curve = |kind: &Kind| match kind {
            Kind::Real { root } => Some((vec![], root.clone())),
            Kind::Pending(Chain { nodes, form: Form::Curve { root } }) => Some((nodes.clone(), root.clone())),
            _ => None,
        };
        let pending = |mut nodes: Vec<usize>, form| {
            nodes.push(at);
            Ok(Kind::Pending(Chain { nodes, form }))
        };
        if let (Kind::Pending(Chain { nodes, form: Form::Difference }), true) = (&kinds[0], squares(self.source, node))
        {
            return pending(nodes.clone(), Form::Other);
        }
        for (this, other) in [(0, 1), (1, 0)] {
            if !matches!(kinds[other], Kind::Constant) {
                continue;
            }
            let single = self.source.is_single(&node.input[other]);
            return match (&kinds[this], curve(&kinds[this])) {
                (Kind::Pending(Chain { nodes, form: Form::Sums }), _) if node.op_type == "Add" => {
                    pending(nodes.clone(), Form::Other)
                }
                (_, Some((nodes, root))) if single => pending(nodes, Form::Curve { root }),
                (Kind::Real { .. }, _) if linear => pending(vec![], Form::Other),
                _ => Err(Reason::FloatInput(node.input[this].clone())),
            };
        }
        match (curve(&kinds[0]), curve(&kinds[1])) {
            (Some((mut nodes, root)), Some((more, other))) if root == other => {
                nodes.extend(more);
                pending(nodes, Form::Curve { root })
            }
            (Some((one, _)), Some((two, _))) if one.is_empty() && two.is_empty() && linear => {
                pending(vec![], if node.op_type == "Sub" { Form::Difference } else { Form::Other })
            }
            (Some(_), Some(_)) => Err(Reason::NoIntegerForm),
            (None, _) => Err(Reason::FloatInput(node.input[0].clone())),
            (_, None) => Err(Reason::FloatInput(node.input[1].clone())),
        }
    }
}
