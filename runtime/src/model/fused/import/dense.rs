//! Dense layers and products of two matrices.

use super::super::operand::{Operand, natural};
use super::super::report::Reason;
use super::super::source::{Source, integer, label, real};
use super::pointwise::Limits;
use super::{Argument, Building, Target, Weights};
use sedge_engine::{Conv, Dims, Op, Pads, Window};

/// Biases beyond this do not fit an accumulator; the engine holds what is added to them against its limit.
const BIAS_MAX: f64 = i32::MAX as f64;
const POINT: Window =
    Window { kernel: [1, 1], stride: [1, 1], dilation: [1, 1], pads: Pads { top: 0, left: 0, bottom: 0, right: 0 } };

impl super::Builder<'_> {
    /// The bias of a layer: its own input, or a node that follows. Of an output of `rank` axes the channels are the one
    /// with `behind` others behind it.
    pub(super) fn bias(
        &self,
        at: usize,
        input: usize,
        after: Option<(usize, String)>,
        (rank, behind): (usize, usize),
    ) -> Building<Option<Weights>> {
        let node = self.source.node(at);
        let follows = after.is_some();
        let own = Source::has(node, input).then(|| (at, node.input[input].clone()));
        let (reader, name) = match (own, after) {
            (None, None) => return Ok(None),
            (Some(_), Some((after, name))) => return self.refuse(after, Reason::FloatInput(name)),
            (Some(one), None) | (None, Some(one)) => one,
        };
        match Weights::of(self.source, &name, self.source.node(reader))? {
            Some(weights) => {
                let sizes = weights.dims.iter().rev().enumerate();
                let across = sizes.filter(|(place, size)| **size != 1 && *place != behind).count();
                // A Gemm's own may have rows too, or be one for each row.
                let placed = follows || node.op_type == "Gemm";
                if placed && (across > 0 || weights.dims.len() > rank) {
                    return self.sizes(reader, format!("{:?}", weights.dims));
                }
                Ok(Some(weights))
            }
            None => self.refuse(reader, Reason::VaryingInput("bias")),
        }
    }

    /// A bias in steps of the accumulators, whose step is `input_scale` times that of the weights.
    pub(super) fn steps(
        &self,
        at: usize,
        bias: Option<Weights>,
        channels: usize,
        input_scale: f32,
        scales: &[f32],
    ) -> Building<Vec<i32>> {
        let Some(bias) = bias else { return Ok(vec![]) };
        // As many as channels, or one for all.
        let spread = |len: usize| len == channels || len == 1;
        if bias.scales.is_empty()
            && let super::super::constant::Elements::I32(all) = &bias.elements
        {
            if !spread(all.len()) {
                return self.sizes(at, "its bias");
            }
            return Ok((0..channels).map(|c| all[if all.len() == 1 { 0 } else { c }]).collect());
        }
        let Some(reals) = bias.reals() else { return self.refuse(at, Reason::VaryingInput("bias")) };
        if !spread(reals.len()) {
            return self.sizes(at, "its bias");
        }
        let step = |c: usize| {
            let scale = f64::from(input_scale) * f64::from(scales[if scales.len() == 1 { 0 } else { c }]);
            f64::from(reals[if reals.len() == 1 { 0 } else { c }]) / scale
        };
        let steps: Vec<f64> = (0..channels).map(step).collect();
        if !steps.iter().all(|step| step.abs() <= BIAS_MAX) {
            return self.refuse(at, Reason::LargeBias);
        }
        Ok(steps.into_iter().map(|step| step.round_ties_even() as i32).collect())
    }

    /// Gemm, MatMul and their quantized forms.
    pub(super) fn product(
        &mut self,
        at: usize,
        (a, b, bias): (Argument, Argument, Option<Weights>),
        limits: Limits,
        target: Target,
    ) -> Building<Operand> {
        let node = self.source.node(at);
        let gemm = matches!(node.op_type.as_str(), "Gemm" | "QGemm");
        let beta = real(node, "beta", 1.0);
        if gemm && (real(node, "alpha", 1.0) != 1.0 || integer(node, "transA", 0) != 0 || beta != 1.0) {
            return self.refuse(at, Reason::Setting("alpha, beta or transA"));
        }
        let turned = gemm && integer(node, "transB", 0) != 0;
        match (a, b) {
            (Argument::Tensor(a), Argument::Constant(weights)) if weights.dims.len() == 2 => {
                let weights = if turned { Some(weights) } else { weights.transposed(&[1, 0]) };
                match weights {
                    Some(weights) => self.dense(at, &a, &weights, bias, limits, target),
                    None => self.refuse(at, Reason::VaryingWeights),
                }
            }
            (a, b) if bias.is_none() && !gemm => {
                let (a, b) = (self.operand(at, a)?, self.operand(at, b)?);
                self.matrices(at, &a, &b, limits, target)
            }
            _ => self.refuse(at, Reason::VaryingWeights),
        }
    }

    /// Weights are `[output, input]`.
    fn dense(
        &mut self,
        at: usize,
        a: &Operand,
        weights: &Weights,
        bias: Option<Weights>,
        limits: Limits,
        target: Target,
    ) -> Building<Operand> {
        let (channels, depth) = (weights.dims[0], weights.dims[1]);
        let rank = a.shape.len();
        if rank == 0 || a.shape[rank - 1] != depth {
            return self.sizes(at, format!("{:?} times {:?}", a.shape, weights.dims));
        }
        if weights.scales.is_empty() {
            return self.refuse(at, Reason::FloatWeights);
        }
        if weights.scales.len() > 1 && weights.axis != 0 {
            return self.refuse(at, Reason::Setting("axis of the weights' scales"));
        }
        let Some((bytes, weight_zero_points)) = weights.as_int8() else {
            return self.refuse(at, Reason::WeightZeroPoint);
        };
        // Rows may lie in any order, as long as each is whole.
        let order = if a.lies_in(&last(&a.order, rank - 1)) { last(&a.order, rank - 1) } else { natural(rank) };
        let rows = a.shape[..rank - 1].iter().product();
        let from = self.arrange(at, a, &order, Dims::new(1, 1, rows, depth))?;
        let bias = self.steps(at, bias, channels, self.graph.values[from.0].quantization.scale, &weights.scales)?;
        let name = label(self.source.node(at));
        let value = self.graph.value(name, Dims::new(1, 1, rows, channels), target.quantization);
        let range = limits.range(target.quantization);
        let op = Conv {
            window: POINT,
            groups: 1,
            weights: bytes,
            weight_zero_points,
            scales: weights.scales.clone(),
            bias,
            range,
        };
        self.graph.node(name, Op::Conv(op), &[from], value);
        let mut shape = a.shape.clone();
        shape[rank - 1] = channels;
        Ok(Operand { value, shape, order })
    }

    fn matrices(&mut self, at: usize, a: &Operand, b: &Operand, limits: Limits, target: Target) -> Building<Operand> {
        let (ra, rb) = (a.shape.len(), b.shape.len());
        let wrong = || format!("{:?} times {:?}", a.shape, b.shape);
        if ra < 2 || rb < 2 || a.shape[ra - 1] != b.shape[rb - 2] {
            return self.sizes(at, wrong());
        }
        let (outer_a, outer_b) = (&a.shape[..ra - 2], &b.shape[..rb - 2]);
        let single = outer_b.iter().all(|size| *size == 1);
        if !single && outer_a != outer_b {
            return self.sizes(at, wrong());
        }
        let batch: usize = outer_a.iter().product();
        let (rows, depth, columns) = (a.shape[ra - 2], a.shape[ra - 1], b.shape[rb - 1]);
        let mut crossed = natural(rb);
        crossed.swap(rb - 2, rb - 1);
        let transposed = b.lies_in(&crossed) && !b.lies_in(&natural(rb));
        let one = self.arrange(at, a, &natural(ra), Dims::new(1, batch, rows, depth))?;
        let outer = if single { 1 } else { batch };
        let (order, w, c) = if transposed { (crossed, columns, depth) } else { (natural(rb), depth, columns) };
        let two = self.arrange(at, b, &order, Dims::new(1, outer, w, c))?;
        let name = label(self.source.node(at));
        let value = self.graph.value(name, Dims::new(1, batch, rows, columns), target.quantization);
        let range = limits.range(target.quantization);
        self.graph.node(name, Op::MatMul { transposed, range }, &[one, two], value);
        // The result has as many axes as the one that has more.
        let mut shape = vec![1; rb.saturating_sub(ra)];
        shape.extend(&a.shape[..ra - 1]);
        shape.push(columns);
        Ok(Operand { value, order: natural(shape.len()), shape })
    }
}

/// The same order with one axis moved to the end.
fn last(order: &[usize], axis: usize) -> Vec<usize> {
    order.iter().copied().filter(|a| *a != axis).chain([axis]).collect()
}
