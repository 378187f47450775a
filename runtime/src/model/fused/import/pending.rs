//! Float tensors inside a region: what stands for them, and how they are quantized.

use super::super::kinds::{curves, moves, pairs};
use super::super::operand::Operand;
use super::super::recognise::Verdict;
use super::super::report::Reason;
use super::super::source::label;
use super::pointwise::{Curve, Limits};
use super::{Building, Target, unsigned};
use sedge_engine::{Element, Quantization};
use tract_onnx::pb::NodeProto;

/// What a float tensor inside a region is.
pub(super) enum Real {
    Tensor(Operand),
    Constant,
    Pending(Pending),
    Outside,
}

/// On the way to its quantization.
pub(super) struct Pending {
    pub(super) core: Core,
    pub(super) limits: Limits,
    pub(super) moves: Vec<usize>,
}

pub(super) enum Core {
    /// A float tensor from outside.
    Entry(String),
    Curve(Curve),
    Node {
        at: usize,
        /// A bias that follows in a node of its own.
        bias: Option<(usize, String)>,
    },
}

impl<'a> super::Builder<'a> {
    /// A float tensor that something in the region reads.
    pub(super) fn real(&mut self, name: &str) -> Building<Real> {
        if self.source.is_constant(name) {
            return Ok(Real::Constant);
        }
        if let Some(known) = self.reals.get(name) {
            return Ok(Real::Tensor(known.clone()));
        }
        let Some((at, slot)) = self.source.producer(name) else { return Ok(Real::Outside) };
        let node = self.source.node(at);
        if self.verdicts[at] == Verdict::Real {
            let operand = if node.op_type == "DequantizeLinear" {
                let bytes = self.bytes_of(at, &node.input[0])?;
                let quantization = unsigned(&self.parameters(at, (1, 2))?);
                self.reinterpreted(&bytes, quantization, label(node))
            } else {
                match self.real(&node.input[0])? {
                    Real::Tensor(operand) => self.moved(at, slot, &operand, true)?,
                    _ => return self.refuse(at, Reason::FloatInput(node.input[0].clone())),
                }
            };
            self.reals.insert(name.to_owned(), operand.clone());
            return Ok(Real::Tensor(operand));
        }
        if !matches!(self.verdicts[at], Verdict::Step(_)) {
            return Ok(Real::Outside);
        }
        self.pending(at, node).map(Real::Pending)
    }

    pub(super) fn pending(&mut self, at: usize, node: &'a NodeProto) -> Building<Pending> {
        let fresh = |core| Pending { core, limits: Limits::NONE, moves: Vec::new() };
        if moves(node) {
            return Ok(match self.real(&node.input[0])? {
                Real::Pending(mut pending) => {
                    pending.moves.push(at);
                    pending
                }
                Real::Outside => Pending { moves: vec![at], ..fresh(Core::Entry(node.input[0].clone())) },
                _ => return self.refuse(at, Reason::NoIntegerForm),
            });
        }
        if matches!(node.op_type.as_str(), "Relu" | "Clip") {
            let limits = self.limits(at)?;
            return Ok(match self.real(&node.input[0])? {
                Real::Pending(pending) => {
                    // Limits are put before what moves data; zeros around it would escape them.
                    let pads = pending.moves.iter().any(|at| self.source.node(*at).op_type == "Pad");
                    if pads && !limits.hold_zero() {
                        return self.refuse(at, Reason::Setting("min or max, behind a Pad,"));
                    }
                    Pending { limits: pending.limits.then(limits), ..pending }
                }
                Real::Tensor(operand) => Pending { limits, ..fresh(Core::Curve(self.straight(&operand))) },
                _ => return self.refuse(at, Reason::FloatInput(node.input[0].clone())),
            });
        }
        if curves(node) {
            let curve = self.curve_of(at, &node.input[0])?;
            return Ok(fresh(Core::Curve(self.bent(at, curve)?)));
        }
        if pairs(node)
            && let Some(pending) = self.pair(at)?
        {
            return Ok(pending);
        }
        Ok(fresh(Core::Node { at, bias: None }))
    }

    /// QuantizeLinear: what leads to it becomes operators.
    pub(super) fn quantize(&mut self, at: usize, name: &str, target: Target) -> Building<Operand> {
        match self.real(name)? {
            // Same numbers, or others: a table either way, which is none when they are equal.
            Real::Tensor(operand) => {
                let curve = self.straight(&operand);
                Ok(self.tabled(at, &curve, Limits::NONE, target))
            }
            Real::Outside => self.entry(at, name, target),
            Real::Constant => self.refuse(at, Reason::NoIntegerForm),
            Real::Pending(pending) => {
                let mut operand = match pending.core {
                    Core::Entry(name) => {
                        let whole = self.entry(at, &name, target)?;
                        self.limited(at, &whole, pending.limits)
                    }
                    Core::Curve(curve) => self.tabled(at, &curve, pending.limits, target),
                    Core::Node { at, bias } => self.compute(at, bias, pending.limits, target)?,
                };
                for at in pending.moves {
                    operand = self.moved(at, 0, &operand, true)?;
                }
                Ok(operand)
            }
        }
    }

    pub(super) fn entry(&mut self, at: usize, name: &str, target: Target) -> Building<Operand> {
        let Quantization { scale, zero_point } = target.quantization;
        let key = (name.to_owned(), scale.to_bits(), zero_point);
        if let Some(known) = self.entries.get(&key) {
            return Ok(known.clone());
        }
        let Some(feed) = self.inputs.iter().position(|(input, _)| input == name) else {
            return self.refuse(at, Reason::FloatInput(name.to_owned()));
        };
        let operand = self.enter(at, name, feed, Element::F32, target.quantization)?;
        self.entries.insert(key, operand.clone());
        Ok(operand)
    }
}
