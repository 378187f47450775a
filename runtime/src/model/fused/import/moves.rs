//! What moves data: sizes and axes by other names, parts, repetition, padding, joining.

use super::super::operand::{Operand, channels_last, grouped, natural};
use super::super::report::Reason;
use super::super::source::{Source, attribute, axis, integer, label, text};
use super::{Building, Target};
use sedge_engine::{Dims, Op};

/// Repetitions beyond this would be a graph of their own.
const REPEATS_MAX: usize = 64;

impl super::Builder<'_> {
    /// The output `slot` of a node that moves data. `real` says that a padding of 0 is the real 0.
    pub(super) fn moved(&mut self, at: usize, slot: usize, x: &Operand, real: bool) -> Building<Operand> {
        let node = self.source.node(at);
        let rank = x.shape.len();
        match node.op_type.as_str() {
            "Identity" | "Dropout" => Ok(x.clone()),
            "Transpose" => {
                let axes: Vec<usize> = match attribute(node, "perm") {
                    Some(a) => a.ints.iter().map(|i| usize::try_from(*i).unwrap_or(rank)).collect(),
                    None => (0..rank).rev().collect(),
                };
                let mut sorted = axes.clone();
                sorted.sort_unstable();
                if sorted != natural(rank) {
                    return self.sizes(at, format!("axes {axes:?} of {:?}", x.shape));
                }
                Ok(x.transposed(&axes))
            }
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => {
                let shape = self.new_shape(at, &x.shape)?;
                self.reshape(at, x, &shape)
            }
            "Slice" => self.slice(at, x),
            "Split" => self.split(at, slot, x),
            "Pad" => self.pad(at, x, real),
            "Tile" => self.tile(at, x),
            "MaxPool" => self.max_pool(at, x),
            "Resize" | "Upsample" => self.resize(at, x),
            _ => self.refuse(at, Reason::NoIntegerForm),
        }
    }

    pub(super) fn reshape(&mut self, at: usize, x: &Operand, shape: &[usize]) -> Building<Operand> {
        if shape.iter().product::<usize>() != x.shape.iter().product::<usize>() {
            return self.sizes(at, format!("{:?} as {shape:?}", x.shape));
        }
        if let Some(free) = x.reshaped(shape) {
            return Ok(free);
        }
        let order = natural(x.shape.len());
        let Some((dims, _)) = grouped(&x.shape, &order, &[]) else { return self.sizes(at, format!("{:?}", x.shape)) };
        let value = self.arrange(at, x, &order, dims)?;
        Ok(Operand { value, shape: shape.to_vec(), order: natural(shape.len()) })
    }

    fn new_shape(&self, at: usize, old: &[usize]) -> Building<Vec<usize>> {
        let node = self.source.node(at);
        let rank = old.len();
        let wrong = || self.sizes(at, format!("of {old:?}"));
        let named = |input: usize| -> Building<Option<Vec<i64>>> {
            Ok(match attribute(node, "axes") {
                Some(a) => Some(a.ints.clone()),
                None => self.source.integers(node, input)?,
            })
        };
        match node.op_type.as_str() {
            "Flatten" => {
                let given = integer(node, "axis", 1);
                let end = if given == rank as i64 { Some(rank) } else { axis(given, rank) };
                let Some(end) = end else { return wrong() };
                Ok(vec![old[..end].iter().product(), old[end..].iter().product()])
            }
            "Squeeze" => {
                let given = named(1)?;
                let Some(axes) = given.map_or_else(
                    || Some((0..rank).filter(|a| old[*a] == 1).collect::<Vec<_>>()),
                    |all| all.iter().map(|a| axis(*a, rank).filter(|a| old[*a] == 1)).collect(),
                ) else {
                    return wrong();
                };
                Ok((0..rank).filter(|a| !axes.contains(a)).map(|a| old[a]).collect())
            }
            "Unsqueeze" => {
                let Some(given) = named(1)? else { return self.refuse(at, Reason::VaryingInput("axes")) };
                let rank = rank + given.len();
                let Some(axes) = given.iter().map(|a| axis(*a, rank)).collect::<Option<Vec<_>>>() else {
                    return wrong();
                };
                let mut rest = old.iter();
                let shape = (0..rank).map(|a| if axes.contains(&a) { Some(1) } else { rest.next().copied() });
                shape.collect::<Option<Vec<_>>>().map_or_else(wrong, Ok)
            }
            _ => {
                let Some(given) = self.source.integers(node, 1)? else {
                    return self.refuse(at, Reason::VaryingInput("shape"));
                };
                let keeps = integer(node, "allowzero", 0) == 0;
                let size = |(i, n): (usize, &i64)| match n {
                    0 if keeps => old.get(i).copied(),
                    -1 => Some(1),
                    n => usize::try_from(*n).ok(),
                };
                let Some(mut shape) = given.iter().enumerate().map(size).collect::<Option<Vec<usize>>>() else {
                    return wrong();
                };
                if let Some(open) = given.iter().position(|n| *n == -1) {
                    let known = shape.iter().try_fold(1_usize, |n, size| n.checked_mul(*size)).filter(|n| *n > 0);
                    let Some(known) = known else { return wrong() };
                    shape[open] = old.iter().product::<usize>() / known;
                }
                Ok(shape)
            }
        }
    }

    fn slice(&mut self, at: usize, x: &Operand) -> Building<Operand> {
        let node = self.source.node(at);
        let rank = x.shape.len();
        let list = |input: usize, name: &str| -> Building<Option<Vec<i64>>> {
            Ok(match attribute(node, name) {
                Some(a) => Some(a.ints.clone()),
                None => self.source.integers(node, input)?,
            })
        };
        let (Some(starts), Some(ends)) = (list(1, "starts")?, list(2, "ends")?) else {
            return self.refuse(at, Reason::VaryingInput("starts or ends"));
        };
        let axes = list(3, "axes")?.unwrap_or_else(|| (0..starts.len() as i64).collect());
        let steps = list(4, "steps")?.unwrap_or_else(|| vec![1; starts.len()]);
        if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
            return self.sizes(at, "its starts and ends");
        }
        let mut parts = Vec::new();
        for (((start, end), given), step) in starts.iter().zip(&ends).zip(&axes).zip(&steps) {
            let Some(axis) = axis(*given, rank) else { return self.sizes(at, "its axes") };
            let Ok(step) = usize::try_from(*step) else { return self.refuse(at, Reason::Setting("steps")) };
            let size = x.shape[axis] as i64;
            let bound = |n: i64| (if n < 0 { n.saturating_add(size) } else { n }).clamp(0, size) as usize;
            let (start, end) = (bound(*start), bound(*end));
            if step == 0 || end <= start {
                return self.sizes(at, "a part without elements");
            }
            parts.push((axis, start, step, (end - start).div_ceil(step)));
        }
        self.part(at, x, &parts)
    }

    /// Along each axis: start, step and how many.
    fn part(&mut self, at: usize, x: &Operand, parts: &[(usize, usize, usize, usize)]) -> Building<Operand> {
        let axes: Vec<usize> = parts.iter().map(|(axis, ..)| *axis).collect();
        let Some((dims, places)) = grouped(&x.shape, &x.order, &axes) else {
            return self.sizes(at, format!("{:?}", x.shape));
        };
        let (mut starts, mut steps, mut sizes) = ([0; 4], [1; 4], dims.array());
        let mut shape = x.shape.clone();
        for (axis, start, step, count) in parts {
            let Some(place) = places[*axis] else { return self.sizes(at, format!("{:?}", x.shape)) };
            (starts[place], steps[place], sizes[place]) = (*start, *step, *count);
            shape[*axis] = *count;
        }
        if shape == x.shape {
            return Ok(x.clone());
        }
        let from = self.arrange(at, x, &x.order, dims)?;
        let [n, h, w, c] = sizes;
        let name = label(self.source.node(at));
        let value = self.graph.value(name, Dims::new(n, h, w, c), self.quantization(x));
        self.graph.node(name, Op::Slice { start: starts, step: steps }, &[from], value);
        Ok(Operand { value, shape, order: x.order.clone() })
    }

    fn split(&mut self, at: usize, slot: usize, x: &Operand) -> Building<Operand> {
        let node = self.source.node(at);
        let Some(along) = axis(integer(node, "axis", 0), x.shape.len()) else { return self.sizes(at, "its axis") };
        let given = match attribute(node, "split") {
            Some(a) => Some(a.ints.clone()),
            None => self.source.integers(node, 1)?,
        };
        let parts = node.output.len();
        let sizes: Vec<usize> = match given {
            Some(sizes) => sizes.iter().map(|n| usize::try_from(*n).unwrap_or(0)).collect(),
            None => {
                let each = x.shape[along].div_ceil(parts);
                (0..parts).map(|i| each.min(x.shape[along].saturating_sub(i * each))).collect()
            }
        };
        let whole: usize = sizes.iter().sum();
        let size = sizes.get(slot).copied().filter(|n| *n > 0 && whole == x.shape[along]);
        let Some(size) = size else { return self.sizes(at, format!("{sizes:?} of {:?}", x.shape)) };
        self.part(at, x, &[(along, sizes[..slot].iter().sum(), 1, size)])
    }

    fn pad(&mut self, at: usize, x: &Operand, real: bool) -> Building<Operand> {
        let node = self.source.node(at);
        let rank = x.shape.len();
        if !matches!(text(node, "mode"), "" | "constant") {
            return self.refuse(at, Reason::Setting("mode"));
        }
        let given = match attribute(node, "pads") {
            Some(a) => Some(a.ints.clone()),
            None => self.source.integers(node, 1)?,
        };
        let Some(given) = given else { return self.refuse(at, Reason::VaryingInput("pads")) };
        if !self.pads_with_zero(at, x, real)? {
            return self.refuse(at, Reason::Setting("value"));
        }
        let axes: Vec<usize> = match self.source.integers(node, 3)? {
            Some(axes) => axes.iter().filter_map(|a| axis(*a, rank)).collect(),
            None => natural(rank),
        };
        if given.len() != 2 * axes.len() {
            return self.sizes(at, "its pads");
        }
        let Some(pads) = given.iter().map(|n| usize::try_from(*n).ok()).collect::<Option<Vec<_>>>() else {
            return self.refuse(at, Reason::Setting("pads below 0"));
        };
        let padded: Vec<(usize, usize, usize)> = axes
            .iter()
            .enumerate()
            .map(|(i, a)| (*a, pads[i], pads[i + axes.len()]))
            .filter(|p| p.1 + p.2 > 0)
            .collect();
        if padded.is_empty() {
            return Ok(x.clone());
        }
        let kept: Vec<usize> = padded.iter().map(|p| p.0).collect();
        let Some((dims, places)) = grouped(&x.shape, &x.order, &kept) else {
            return self.sizes(at, format!("{:?}", x.shape));
        };
        let (mut before, mut sizes, mut shape) = ([0; 4], dims.array(), x.shape.clone());
        for (axis, less, more) in padded {
            let Some(place) = places[axis] else { return self.sizes(at, format!("{:?}", x.shape)) };
            before[place] = less;
            sizes[place] = sizes[place].saturating_add(less).saturating_add(more);
            shape[axis] = sizes[place];
        }
        let from = self.arrange(at, x, &x.order, dims)?;
        let [n, h, w, c] = sizes;
        let name = label(self.source.node(at));
        let value = self.graph.value(name, Dims::new(n, h, w, c), self.quantization(x));
        self.graph.node(name, Op::Pad { before }, &[from], value);
        Ok(Operand { value, shape, order: x.order.clone() })
    }

    /// Whether the value around a tensor is what its zero point stands for.
    fn pads_with_zero(&self, at: usize, x: &Operand, real: bool) -> Building<bool> {
        let node = self.source.node(at);
        if real {
            let value = match attribute(node, "value") {
                Some(a) => Some(vec![a.f]),
                None if Source::has(node, 2) => {
                    super::Weights::of(self.source, &node.input[2], node)?.and_then(|w| w.reals())
                }
                None => Some(vec![0.0]),
            };
            return Ok(value.as_deref() == Some(&[0.0]));
        }
        let given = if Source::has(node, 2) { self.source.integers(node, 2)? } else { Some(vec![0]) };
        let shift = if self.source.byte_type(&node.input[0], 0) == Some(super::INT8) { 128 } else { 0 };
        Ok(given.as_deref() == Some(&[i64::from(self.quantization(x).zero_point) - shift]))
    }

    fn tile(&mut self, at: usize, x: &Operand) -> Building<Operand> {
        let node = self.source.node(at);
        let Some(repeats) = self.source.integers(node, 1)? else {
            return self.refuse(at, Reason::VaryingInput("repeats"));
        };
        let mut out = x.clone();
        for (along, count) in repeats.iter().enumerate().filter(|(_, count)| **count != 1) {
            let Some(count) = usize::try_from(*count).ok().filter(|n| (2..=REPEATS_MAX).contains(n)) else {
                return self.sizes(at, format!("repeated {repeats:?} times"));
            };
            if along >= out.shape.len() {
                return self.sizes(at, format!("repeated {repeats:?} times"));
            }
            let target = Target { quantization: self.quantization(&out) };
            out = self.joined(at, &vec![out.clone(); count], along, target)?;
        }
        Ok(out)
    }

    pub(super) fn concat(&mut self, at: usize, operands: &[Operand], target: Target) -> Building<Operand> {
        let node = self.source.node(at);
        let Some(first) = operands.first() else { return self.sizes(at, "nothing to join") };
        let Some(along) = axis(integer(node, "axis", 0), first.shape.len()) else { return self.sizes(at, "its axis") };
        self.joined(at, operands, along, target)
    }

    fn joined(&mut self, at: usize, operands: &[Operand], along: usize, target: Target) -> Building<Operand> {
        let rank = operands[0].shape.len();
        let order = operands[0].order.clone();
        let mut inputs = Vec::with_capacity(operands.len());
        let (mut sizes, mut place, mut total) = ([1; 4], 0, 0_usize);
        for operand in operands {
            let like = operand.shape.len() == rank
                && (0..rank).all(|a| a == along || operand.shape[a] == operands[0].shape[a]);
            let found = grouped(&operand.shape, &order, &[along]).filter(|_| like);
            let Some((dims, places)) = found else { return self.sizes(at, format!("{:?}", operand.shape)) };
            inputs.push(self.arrange(at, operand, &order, dims)?);
            sizes = dims.array();
            place = places[along].unwrap_or(3);
            total = total.saturating_add(operand.shape[along]);
        }
        sizes[place] = total;
        let [n, h, w, c] = sizes;
        let name = label(self.source.node(at));
        let value = self.graph.value(name, Dims::new(n, h, w, c), target.quantization);
        self.graph.node(name, Op::Concat { axis: place }, &inputs, value);
        let mut shape = operands[0].shape.clone();
        shape[along] = total;
        Ok(Operand { value, shape, order })
    }

    fn resize(&mut self, at: usize, x: &Operand) -> Building<Operand> {
        let node = self.source.node(at);
        let mode = text(node, "mode");
        if !matches!(mode, "" | "nearest") {
            return self.refuse(at, Reason::Setting("mode"));
        }
        let rank = x.shape.len();
        // Upsample, and Resize up to opset 10: scales are the second input; later the third, and sizes the fourth.
        let old = node.op_type == "Upsample" || self.source.opset < 11;
        let scales = match attribute(node, "scales") {
            Some(a) => Some(a.floats.clone()),
            None => self.source.floats(node, if old { 1 } else { 2 })?.filter(|scales| !scales.is_empty()),
        };
        let sizes = if old { None } else { self.source.integers(node, 3)?.filter(|sizes| !sizes.is_empty()) };
        let factors: Option<Vec<usize>> = match (scales, sizes) {
            (Some(scales), _) => {
                scales.iter().map(|s| (*s >= 1.0 && s.fract() == 0.0).then_some(*s as usize)).collect()
            }
            (None, Some(sizes)) => sizes
                .iter()
                .zip(&x.shape)
                .map(|(new, old)| usize::try_from(*new).ok().filter(|new| new % old == 0).map(|new| new / old))
                .collect(),
            (None, None) => return self.refuse(at, Reason::VaryingInput("scales")),
        };
        let Some(factors) = factors.filter(|f| f.len() == rank && f.iter().all(|f| *f > 0)) else {
            return self.refuse(at, Reason::Setting("scales"));
        };
        let each = |factor: &usize| (0..*factor).all(|i| repeats(node, old, i, *factor));
        if !factors.iter().all(each) {
            return self.refuse(at, Reason::Setting("coordinate_transformation_mode or nearest_mode"));
        }
        let (order, places) = match factors.as_slice() {
            [1, 1, _, _] => (channels_last(4), [2, 3]),
            [1, _, _, 1] => (natural(4), [1, 2]),
            _ => return self.refuse(at, Reason::Setting("scales")),
        };
        let Some(dims) = super::padded(&x.shape, &order) else { return self.sizes(at, format!("{:?}", x.shape)) };
        let factor = places.map(|axis| factors[axis]);
        let (Some(h), Some(w)) = (dims.h.checked_mul(factor[0]), dims.w.checked_mul(factor[1])) else {
            return self.sizes(at, format!("{:?}", x.shape));
        };
        let from = self.arrange(at, x, &order, dims)?;
        let value = self.graph.value(label(node), Dims { h, w, ..dims }, self.quantization(x));
        self.graph.node(label(node), Op::Upsample { factor }, &[from], value);
        let mut shape = x.shape.clone();
        (shape[places[0]], shape[places[1]]) = (h, w);
        Ok(Operand { value, shape, order })
    }
}

/// Whether the `i`-th of the `factor` copies of a pixel is that pixel by the rules of the node, and not its neighbour.
fn repeats(node: &tract_onnx::pb::NodeProto, old: bool, i: usize, factor: usize) -> bool {
    if factor == 1 {
        return true;
    }
    let (i, factor) = (i as f64, factor as f64);
    let place = match text(node, "coordinate_transformation_mode") {
        _ if old => i / factor,
        "asymmetric" => i / factor,
        "" | "half_pixel" => (i + 0.5) / factor - 0.5,
        // The others depend on the picture's size.
        _ => return false,
    };
    let pixel = match text(node, "nearest_mode") {
        _ if old => place.floor(),
        "floor" => place.floor(),
        "ceil" => place.ceil(),
        "round_prefer_ceil" => (place + 0.5).floor(),
        "" | "round_prefer_floor" => (place - 0.5).ceil(),
        _ => return false,
    };
    // At the border a place outside is that of the border.
    pixel == 0.0
}
