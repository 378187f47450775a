//! What moves a window over rows and columns.

use super::super::operand::{Operand, channels_last};
use super::super::report::Reason;
use super::super::source::{Source, attribute, axis, integer, label, text};
use super::pointwise::Limits;
use super::{Argument, Building, Fault, Target, Weights};
use sedge_engine::{Conv, Dims, Op, Pads, Window};

/// The window of a node over a picture, with `kernel` where the node tells none.
pub(in super::super) fn window(
    source: &Source,
    at: usize,
    dims: Dims,
    rank: usize,
    kernel: Option<[usize; 2]>,
) -> Building<Window> {
    let node = source.node(at);
    let sizes = |what: &str| Err(Fault::Refused { node: at, reason: Reason::Sizes(what.to_owned()) });
    // Lines have no rows: one of everything.
    let two = |name: &str, default: usize| -> Option<[usize; 2]> {
        match (attribute(node, name).map_or(&[][..], |a| &a.ints), rank) {
            ([], _) => Some([default; 2]),
            (&[h, w], 4) => Some([usize::try_from(h).ok()?, usize::try_from(w).ok()?]),
            (&[w], 3) => Some([1, usize::try_from(w).ok()?]),
            _ => None,
        }
    };
    let kernel = kernel.or_else(|| attribute(node, "kernel_shape").and_then(|_| two("kernel_shape", 1)));
    let (Some(kernel), Some(stride), Some(dilation)) = (kernel, two("strides", 1), two("dilations", 1)) else {
        return sizes("its window");
    };
    if [kernel, stride, dilation].iter().flatten().any(|n| *n == 0) {
        return sizes("its window");
    }
    let mut pads = match (attribute(node, "pads").map_or(&[][..], |a| &a.ints), rank) {
        ([], _) => Some([0; 4]),
        (&[t, l, b, r], 4) => [t, l, b, r]
            .map(|n| usize::try_from(n).ok())
            .into_iter()
            .collect::<Option<Vec<_>>>()
            .and_then(|p| p.try_into().ok()),
        (&[l, r], 3) => usize::try_from(l).ok().zip(usize::try_from(r).ok()).map(|(l, r)| [0, l, 0, r]),
        _ => None,
    };
    let size = [dims.h, dims.w];
    let span = |a: usize| kernel[a].saturating_sub(1).saturating_mul(dilation[a]).saturating_add(1);
    let automatic = text(node, "auto_pad");
    if matches!(automatic, "SAME_UPPER" | "SAME_LOWER") {
        let mut found = [0; 4];
        for a in 0..2 {
            let out = size[a].div_ceil(stride[a]);
            let total = ((out - 1).saturating_mul(stride[a]).saturating_add(span(a))).saturating_sub(size[a]);
            let (less, more) = (total / 2, total.div_ceil(2));
            let upper = automatic == "SAME_UPPER";
            (found[a], found[a + 2]) = if upper { (less, more) } else { (more, less) };
        }
        pads = Some(found);
    } else if automatic == "VALID" {
        pads = Some([0; 4]);
    }
    let Some([top, left, mut bottom, mut right]) = pads else { return sizes("its padding") };
    if integer(node, "ceil_mode", 0) != 0 {
        for (a, before, after) in [(0, top, &mut bottom), (1, left, &mut right)] {
            let room = size[a].saturating_add(before).saturating_add(*after);
            let rest = room.checked_sub(span(a)).map_or(0, |room| room % stride[a]);
            // One more step, when it would still begin on the picture or its leading padding.
            let begins = room.saturating_sub(span(a)).saturating_add(stride[a] - rest);
            if rest != 0 && begins < size[a].saturating_add(before) {
                *after = after.saturating_add(stride[a] - rest);
            }
        }
    }
    Ok(Window { kernel, stride, dilation, pads: Pads { top, left, bottom, right } })
}

impl super::Builder<'_> {
    /// A picture `[n, c, h, w]`, or a line `[n, c, w]`, as the engine wants it.
    fn picture(&mut self, at: usize, x: &Operand) -> Building<(sedge_engine::ValueId, Dims)> {
        let dims = match x.shape.as_slice() {
            &[n, c, h, w] => Dims::new(n, h, w, c),
            &[n, c, w] => Dims::new(n, 1, w, c),
            other => return self.sizes(at, format!("{other:?} is no picture")),
        };
        Ok((self.arrange(at, x, &channels_last(x.shape.len()), dims)?, dims))
    }

    /// Sizes of what a window yields; the engine checks the rest.
    fn swept(&self, at: usize, window: &Window, dims: Dims) -> Building<(usize, usize)> {
        let Pads { top, left, bottom, right } = window.pads;
        let along = |size: usize, pads: usize, a: usize| {
            let span = (window.kernel[a] - 1).checked_mul(window.dilation[a])?.checked_add(1)?;
            Some(size.checked_add(pads)?.checked_sub(span)? / window.stride[a] + 1)
        };
        let rows = top.checked_add(bottom).and_then(|pads| along(dims.h, pads, 0));
        let columns = left.checked_add(right).and_then(|pads| along(dims.w, pads, 1));
        match (rows, columns) {
            (Some(h), Some(w)) => Ok((h, w)),
            _ => self.sizes(at, "its window is larger than the picture"),
        }
    }

    fn placed(value: sedge_engine::ValueId, dims: Dims, rank: usize) -> Operand {
        let Dims { n, h, w, c } = dims;
        let shape = if rank == 3 { vec![n, c, w] } else { vec![n, c, h, w] };
        Operand { value, shape, order: channels_last(rank) }
    }

    pub(super) fn conv(
        &mut self,
        at: usize,
        (x, weights, bias): (Argument, Argument, Option<Weights>),
        limits: Limits,
        target: Target,
    ) -> Building<Operand> {
        let node = self.source.node(at);
        let (Argument::Tensor(x), Argument::Constant(weights)) = (x, weights) else {
            return self.refuse(at, Reason::VaryingWeights);
        };
        let rank = x.shape.len();
        if weights.dims.len() != rank || !(3..=4).contains(&rank) {
            return self.sizes(at, format!("{:?} with weights {:?}", x.shape, weights.dims));
        }
        if weights.scales.is_empty() {
            return self.refuse(at, Reason::FloatWeights);
        }
        if weights.scales.len() > 1 && weights.axis != 0 {
            return self.refuse(at, Reason::Setting("axis of the weights' scales"));
        }
        let kernel = if rank == 3 { [1, weights.dims[2]] } else { [weights.dims[2], weights.dims[3]] };
        let (from, dims) = self.picture(at, &x)?;
        let window = window(self.source, at, dims, rank, Some(kernel))?;
        let (h, w) = self.swept(at, &window, dims)?;
        let Ok(groups) = usize::try_from(integer(node, "group", 1)) else { return self.sizes(at, "its groups") };
        let channels = weights.dims[0];
        if groups == 0 || weights.dims[1].checked_mul(groups) != Some(dims.c) {
            return self.sizes(at, format!("{} channels in groups of {}", dims.c, weights.dims[1]));
        }
        let Some(weights) = weights.transposed(&channels_last(rank)) else { return self.sizes(at, "its weights") };
        let Some((bytes, weight_zero_points)) = weights.as_int8() else {
            return self.refuse(at, Reason::WeightZeroPoint);
        };
        let bias = self.steps(at, bias, channels, self.graph.values[from.0].quantization.scale, &weights.scales)?;
        let out = Dims::new(dims.n, h, w, channels);
        let value = self.graph.value(label(node), out, target.quantization);
        let range = limits.range(target.quantization);
        let op = Conv { window, groups, weights: bytes, weight_zero_points, scales: weights.scales, bias, range };
        self.graph.node(label(node), Op::Conv(op), &[from], value);
        Ok(Self::placed(value, out, rank))
    }

    pub(super) fn max_pool(&mut self, at: usize, x: &Operand) -> Building<Operand> {
        let node = self.source.node(at);
        let (from, dims) = self.picture(at, x)?;
        let rank = x.shape.len();
        let window = window(self.source, at, dims, rank, None)?;
        let (h, w) = self.swept(at, &window, dims)?;
        let out = Dims { h, w, ..dims };
        let value = self.graph.value(label(node), out, self.quantization(x));
        self.graph.node(label(node), Op::MaxPool(window), &[from], value);
        Ok(Self::placed(value, out, rank))
    }

    pub(super) fn average_pool(&mut self, at: usize, x: &Operand, target: Target) -> Building<Operand> {
        let node = self.source.node(at);
        let rank = x.shape.len();
        let last = integer(node, "channels_last", 0) != 0;
        // A picture with its channels last is one with its axes named otherwise.
        let x = if last && rank == 4 { &x.transposed(&[0, 3, 1, 2]) } else { x };
        let (from, dims) = self.picture(at, x)?;
        let window = window(self.source, at, dims, rank, None)?;
        let include_pads = integer(node, "count_include_pad", 0) != 0;
        if include_pads && integer(node, "ceil_mode", 0) != 0 {
            return self.refuse(at, Reason::Setting("ceil_mode with count_include_pad"));
        }
        let (h, w) = self.swept(at, &window, dims)?;
        let out = Dims { h, w, ..dims };
        let value = self.graph.value(label(node), out, target.quantization);
        self.graph.node(label(node), Op::AveragePool { window, include_pads }, &[from], value);
        let pooled = Self::placed(value, out, rank);
        Ok(if last && rank == 4 { pooled.transposed(&[0, 2, 3, 1]) } else { pooled })
    }

    pub(super) fn reduce_mean(&mut self, at: usize, x: &Operand, target: Target) -> Building<Operand> {
        let node = self.source.node(at);
        let rank = x.shape.len();
        // The axes are an attribute up to opset 17, then an input.
        let given = match attribute(node, "axes") {
            Some(a) => Some(a.ints.clone()),
            None if node.op_type == "ReduceMean" && Source::has(node, 1) => self.source.integers(node, 1)?,
            None => None,
        };
        let Some(given) = given.filter(|axes| !axes.is_empty()) else {
            return self.refuse(at, Reason::VaryingInput("axes"));
        };
        let Some(axes) = given.iter().map(|a| axis(*a, rank)).collect::<Option<Vec<usize>>>() else {
            return self.sizes(at, "its axes");
        };
        self.mean(at, x, &axes, integer(node, "keepdims", 1) != 0, target)
    }

    /// The mean over some axes: the pooling of one window.
    pub(super) fn mean(
        &mut self,
        at: usize,
        x: &Operand,
        axes: &[usize],
        keep: bool,
        target: Target,
    ) -> Building<Operand> {
        let rank = x.shape.len();
        let kept: Vec<usize> = (0..rank).filter(|axis| !axes.contains(axis)).collect();
        // What lies before the first averaged axis in memory can stay there, the rest becomes channels.
        let inside: Vec<usize> = x.order.iter().copied().filter(|axis| axes.contains(axis)).collect();
        let first = x.order.iter().position(|axis| axes.contains(axis)).unwrap_or(rank);
        let (before, after): (Vec<usize>, Vec<usize>) =
            x.order.iter().enumerate().filter(|(_, axis)| !axes.contains(axis)).fold(
                (vec![], vec![]),
                |mut all, (place, axis)| {
                    if place < first {
                        all.0.push(*axis)
                    } else {
                        all.1.push(*axis)
                    }
                    all
                },
            );
        let order: Vec<usize> = before.iter().chain(&inside).chain(&after).copied().collect();
        let product = |axes: &[usize]| axes.iter().map(|axis| x.shape[*axis]).product::<usize>();
        let (n, c, all) = (product(&before), product(&after), product(&inside));
        let [h, w] = match inside.as_slice() {
            [one, two] => [x.shape[*one], x.shape[*two]],
            _ => [1, all],
        };
        let from = self.arrange(at, x, &order, Dims::new(n, h, w, c))?;
        let window = Window { kernel: [h, w], stride: [1, 1], dilation: [1, 1], pads: Pads::default() };
        let name = label(self.source.node(at));
        let value = self.graph.value(name, Dims::new(n, 1, 1, c), target.quantization);
        self.graph.node(name, Op::AveragePool { window, include_pads: false }, &[from], value);
        if keep {
            let shape = (0..rank).map(|axis| if axes.contains(&axis) { 1 } else { x.shape[axis] }).collect();
            return Ok(Operand { value, shape, order });
        }
        let place = |axis: &usize| kept.iter().position(|k| k == axis).unwrap_or(0);
        let order = before.iter().chain(&after).map(place).collect();
        Ok(Operand { value, shape: kept.iter().map(|axis| x.shape[*axis]).collect(), order })
    }
}
