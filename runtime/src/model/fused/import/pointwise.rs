//! Functions of single elements: tables, sums and products of two tensors, limits.

use super::super::kinds::squares;
use super::super::operand::{Operand, grouped, natural, padded};
use super::super::recognise::Verdict;
use super::super::report::Reason;
use super::super::source::{attribute, integer, label, real, text};
use super::{Building, Core, Pending, Real, Target, Weights};
use sedge_engine::{Dims, Op, Quantization, Range, dequantize, quantize};

/// Constants are not repeated beyond this size.
const SPREAD_BYTES_MAX: usize = 1 << 22;

/// No operator of a file, but two: a difference that is multiplied by itself.
pub(super) const SQUARED_DIFFERENCE: &str = "SquaredDifference";

/// What each byte of a tensor stands for after a function of it.
#[derive(Debug, Clone)]
pub(super) struct Curve {
    pub(super) of: Operand,
    values: Box<[f32; 256]>,
}

/// A Relu or Clip on the way to a quantization.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Limits {
    low: f32,
    high: f32,
}

impl Limits {
    pub(super) const NONE: Self = Self { low: f32::NEG_INFINITY, high: f32::INFINITY };

    /// One after the other: `max` before `min`, as Clip has it.
    pub(super) fn then(self, next: Self) -> Self {
        Self { low: next.of(self.low), high: next.of(self.high) }
    }

    fn of(self, value: f32) -> f32 {
        value.max(self.low).min(self.high)
    }

    /// Whether they leave a zero as it is.
    pub(super) fn hold_zero(self) -> bool {
        self.of(0.0) == 0.0
    }

    /// In bytes of the output: rounding keeps the order, so the limits can be rounded first.
    pub(super) fn range(self, to: Quantization) -> Range {
        Range { low: quantize(self.low, to), high: quantize(self.high, to) }
    }
}

impl super::Builder<'_> {
    /// The function that changes nothing.
    pub(super) fn straight(&self, of: &Operand) -> Curve {
        let from = self.quantization(of);
        Curve { of: of.clone(), values: Box::new(std::array::from_fn(|byte| dequantize(byte as u8, from))) }
    }

    pub(super) fn curve_of(&mut self, at: usize, name: &str) -> Building<Curve> {
        match self.real(name)? {
            Real::Tensor(operand) => Ok(self.straight(&operand)),
            Real::Pending(Pending { core: Core::Curve(mut curve), limits, moves }) if moves.is_empty() => {
                curve.values.iter_mut().for_each(|value| *value = limits.of(*value));
                Ok(curve)
            }
            _ => self.refuse(at, Reason::FloatInput(name.to_owned())),
        }
    }

    /// A curve, quantized.
    pub(super) fn tabled(&mut self, at: usize, curve: &Curve, limits: Limits, target: Target) -> Operand {
        let to = target.quantization;
        let from = self.quantization(&curve.of);
        let bytes: [u8; 256] = std::array::from_fn(|byte| quantize(limits.of(curve.values[byte]), to));
        let same = from == to && bytes.iter().enumerate().all(|(byte, out)| byte == usize::from(*out));
        if same {
            return curve.of.clone();
        }
        let name = label(self.source.node(at));
        let value = self.graph.value(name, self.graph.values[curve.of.value.0].dims, to);
        self.graph.node(name, Op::Table(Box::new(bytes)), &[curve.of.value], value);
        Operand { value, ..curve.of.clone() }
    }

    /// A tensor within limits, after an operator that has none of its own.
    pub(super) fn limited(&mut self, at: usize, x: &Operand, limits: Limits) -> Operand {
        let quantization = self.quantization(x);
        let Range { low, high } = limits.range(quantization);
        if (low, high) == (0, 255) {
            return x.clone();
        }
        let name = label(self.source.node(at));
        let value = self.graph.value(name, self.graph.values[x.value.0].dims, quantization);
        let bytes = std::array::from_fn(|byte| (byte as u8).max(low).min(high));
        self.graph.node(name, Op::Table(Box::new(bytes)), &[x.value], value);
        Operand { value, ..x.clone() }
    }

    fn single(&self, at: usize, input: usize) -> Building<Option<f32>> {
        let node = self.source.node(at);
        let Some(name) = node.input.get(input).filter(|name| !name.is_empty()) else { return Ok(None) };
        if !self.source.is_constant(name) {
            return self.refuse(at, Reason::VaryingInput("limits"));
        }
        match Weights::of(self.source, name, node)?.and_then(|w| w.reals()).as_deref() {
            Some(&[one]) => Ok(Some(one)),
            _ => self.refuse(at, Reason::VaryingInput("limits")),
        }
    }

    /// Those of a Relu or Clip.
    pub(super) fn limits(&self, at: usize) -> Building<Limits> {
        let node = self.source.node(at);
        if node.op_type == "Relu" {
            return Ok(Limits { low: 0.0, high: f32::INFINITY });
        }
        // Up to opset 10 they are attributes.
        let bound = |input, name| -> Building<Option<f32>> {
            Ok(self.single(at, input)?.or_else(|| attribute(node, name).map(|a| a.f)))
        };
        let limits = Limits {
            low: bound(1, "min")?.unwrap_or(f32::NEG_INFINITY),
            high: bound(2, "max")?.unwrap_or(f32::INFINITY),
        };
        if limits.low.is_nan() || limits.high.is_nan() {
            return self.refuse(at, Reason::Setting("min or max"));
        }
        Ok(limits)
    }

    /// A curve after the function of a node.
    pub(super) fn bent(&self, at: usize, mut curve: Curve) -> Building<Curve> {
        let node = self.source.node(at);
        let alpha = |default| real(node, "alpha", default);
        let f: Box<dyn Fn(f32) -> f32> = match node.op_type.as_str() {
            "LeakyRelu" | "QLinearLeakyRelu" => {
                let alpha = alpha(0.01);
                Box::new(move |x| if x < 0.0 { alpha * x } else { x })
            }
            "Sigmoid" | "QLinearSigmoid" => Box::new(|x| 1.0 / (1.0 + (-x).exp())),
            "Tanh" => Box::new(f32::tanh),
            "HardSigmoid" => {
                let (alpha, beta) = (alpha(0.2), real(node, "beta", 0.5));
                Box::new(move |x| (alpha * x + beta).clamp(0.0, 1.0))
            }
            "HardSwish" => Box::new(|x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0)),
            "Elu" => {
                let alpha = alpha(1.0);
                Box::new(move |x| if x < 0.0 { alpha * x.exp_m1() } else { x })
            }
            "Gelu" if text(node, "approximate") == "tanh" => {
                Box::new(|x| 0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044_715 * x * x * x)).tanh()))
            }
            "Gelu" => Box::new(|x| (0.5 * f64::from(x) * (1.0 + erf(f64::from(x) / 2_f64.sqrt()))) as f32),
            "Erf" => Box::new(|x| erf(f64::from(x)) as f32),
            "Exp" => Box::new(f32::exp),
            "Log" => Box::new(f32::ln),
            "Sqrt" => Box::new(f32::sqrt),
            "Abs" => Box::new(f32::abs),
            "Neg" => Box::new(|x| -x),
            "Softplus" => Box::new(|x| x.max(0.0) + (-x.abs()).exp().ln_1p()),
            "Floor" => Box::new(f32::floor),
            "Ceil" => Box::new(f32::ceil),
            "Reciprocal" => Box::new(|x| 1.0 / x),
            _ => return self.refuse(at, Reason::NoIntegerForm),
        };
        curve.values.iter_mut().for_each(|value| *value = f(*value));
        self.sound(at, curve)
    }

    /// A table has no place for what is no number.
    fn sound(&self, at: usize, curve: Curve) -> Building<Curve> {
        if curve.values.iter().any(|value| value.is_nan()) {
            return self.refuse(at, Reason::Setting("for some inputs, which yield no number,"));
        }
        Ok(curve)
    }

    /// A function of two elements, where it is one of a single tensor, or the bias of a layer. `None` where it is an
    /// operator of its own.
    pub(super) fn pair(&mut self, at: usize) -> Building<Option<Pending>> {
        let node = self.source.node(at);
        let [one, two] = node.input.as_slice() else { return self.refuse(at, Reason::NoIntegerForm) };
        if self.squared(at)?.is_some() {
            return Ok(None);
        }
        let operator = node.op_type.as_str();
        let fresh = |curve| Pending { core: Core::Curve(curve), limits: Limits::NONE, moves: vec![] };
        for (this, other, turned) in [(one, two, false), (two, one, true)] {
            if !self.source.is_constant(other) {
                continue;
            }
            if operator == "Add"
                && let Real::Pending(Pending { core: Core::Node { at: sums, bias: None }, limits, moves }) =
                    self.real(this)?
            {
                if limits != Limits::NONE || !moves.is_empty() {
                    return self.refuse(at, Reason::FloatInput(this.clone()));
                }
                let core = Core::Node { at: sums, bias: Some((at, other.clone())) };
                return Ok(Some(Pending { core, limits, moves }));
            }
            if !self.source.is_single(other) {
                return Ok(None);
            }
            let Some(constant) = self.single(at, usize::from(!turned))? else { return Ok(None) };
            let mut curve = self.curve_of(at, this)?;
            // With more axes it would give its own to the result.
            let axes = Weights::of(self.source, other, node)?.map_or(0, |weights| weights.dims.len());
            if axes > curve.of.shape.len() {
                return self.sizes(at, format!("a constant of {axes} axes"));
            }
            let f = |x: f32| if turned { two_of(operator, constant, x) } else { two_of(operator, x, constant) };
            for value in curve.values.iter_mut() {
                match f(*value) {
                    Some(result) => *value = result,
                    None => return self.refuse(at, Reason::NoIntegerForm),
                }
            }
            return self.sound(at, curve).map(|curve| Some(fresh(curve)));
        }
        let tensors = |all: &Self, name: &str| all.reals.get(name).cloned();
        // Two different tensors are an operator; anything else must be curves of one.
        let (a, b) = (self.curve_of(at, one)?, self.curve_of(at, two)?);
        if a.of != b.of {
            let plain = tensors(self, one).is_some() && tensors(self, two).is_some();
            return if plain { Ok(None) } else { self.refuse(at, Reason::NoIntegerForm) };
        }
        let mut curve = a;
        for (value, other) in curve.values.iter_mut().zip(b.values.iter()) {
            match two_of(operator, *value, *other) {
                Some(result) => *value = result,
                None => return self.refuse(at, Reason::NoIntegerForm),
            }
        }
        self.sound(at, curve).map(|curve| Some(fresh(curve)))
    }

    /// The difference of two tensors that a node squares.
    pub(super) fn squared(&mut self, at: usize) -> Building<Option<usize>> {
        let node = self.source.node(at);
        if !squares(self.source, node) {
            return Ok(None);
        }
        let Some((difference, _)) = self.source.producer(&node.input[0]) else { return Ok(None) };
        let (before, verdict) = (self.source.node(difference), &self.verdicts[difference]);
        let ([one, two], "Sub", Verdict::Step(_)) = (before.input.as_slice(), before.op_type.as_str(), verdict) else {
            return Ok(None);
        };
        // Otherwise it is a function of one.
        Ok(match (self.real(one)?, self.real(two)?) {
            (Real::Tensor(a), Real::Tensor(b)) if a != b => Some(difference),
            _ => None,
        })
    }

    /// Sum, difference, product or squared difference of two tensors.
    pub(super) fn binary(
        &mut self,
        at: usize,
        operator: &str,
        a: Operand,
        b: Operand,
        limits: Limits,
        target: Target,
    ) -> Building<Operand> {
        let b = if operator == "Sub" { self.negative(at, &b) } else { b };
        let rank = a.shape.len().max(b.shape.len());
        let (a, b) = (widened(a, rank), widened(b, rank));
        let (a, b) = (self.spread(&a, &b.shape, at), self.spread(&b, &a.shape, at));
        let fits = |big: &Operand, small: &Operand| {
            big.shape.iter().zip(&small.shape).all(|(big, small)| big == small || *small == 1)
        };
        let (big, small) = if fits(&a, &b) {
            (a, b)
        } else if fits(&b, &a) {
            (b, a)
        } else {
            return self.sizes(at, format!("{:?} with {:?}", a.shape, b.shape));
        };
        let order = big.order.clone();
        let dims = match (padded(&big.shape, &order), padded(&small.shape, &order)) {
            (Some(one), Some(two)) => Some((one, two)),
            _ if big.shape == small.shape => {
                let flat = Dims::new(1, 1, 1, big.shape.iter().product());
                Some((flat, flat))
            }
            _ if small.shape.iter().all(|size| *size == 1) => {
                Some((Dims::new(1, 1, 1, big.shape.iter().product()), Dims::new(1, 1, 1, 1)))
            }
            _ => None,
        };
        let Some((one, two)) = dims else { return self.sizes(at, format!("{:?}", big.shape)) };
        let inputs = [self.arrange(at, &big, &order, one)?, self.arrange(at, &small, &order, two)?];
        let name = label(self.source.node(at));
        let value = self.graph.value(name, one, target.quantization);
        let range = limits.range(target.quantization);
        let op = match operator {
            "Mul" => Op::Mul(range),
            SQUARED_DIFFERENCE => Op::SquaredDifference,
            _ => Op::Add(range),
        };
        self.graph.node(name, op, &inputs, value);
        Ok(Operand { value, ..big })
    }

    /// A constant repeated along axes of size 1, where the other tensor has such axes too: only one of an operator's
    /// tensors can be repeated in a run.
    fn spread(&mut self, x: &Operand, other: &[usize], at: usize) -> Operand {
        let from = &self.graph.values[x.value.0];
        let Some(bytes) = from.constant.as_ref().filter(|_| x.lies_in(&natural(x.shape.len()))) else {
            return x.clone();
        };
        let crossed = x.shape.iter().zip(other).any(|(one, two)| *one != 1 && *two == 1);
        let shape: Vec<usize> = x.shape.iter().zip(other).map(|(one, two)| *one.max(two)).collect();
        let size = shape.iter().try_fold(1_usize, |n, size| n.checked_mul(*size));
        let dims = grouped(&shape, &natural(shape.len()), &[]).map(|(dims, _)| dims);
        let (true, Some(size), Some(dims)) = (crossed, size.filter(|n| *n <= SPREAD_BYTES_MAX), dims) else {
            return x.clone();
        };
        let place = |mut index: usize| {
            let (mut place, mut stride) = (0, 1);
            for (one, all) in x.shape.iter().zip(&shape).rev() {
                place += if *one == 1 { 0 } else { index % all * stride };
                index /= all;
                stride *= one;
            }
            place
        };
        let bytes: Vec<u8> = (0..size).map(|index| bytes.get(place(index)).copied().unwrap_or(0)).collect();
        let quantization = from.quantization;
        let value = self.graph.value(label(self.source.node(at)), dims, quantization);
        self.graph.values[value.0].constant = Some(bytes);
        Operand { value, order: natural(shape.len()), shape }
    }

    /// Exactly: the zero point is mirrored too.
    fn negative(&mut self, at: usize, x: &Operand) -> Operand {
        let Quantization { scale, zero_point } = self.quantization(x);
        let mirrored = Quantization { scale, zero_point: 255 - zero_point };
        let name = label(self.source.node(at));
        let value = self.graph.value(name, self.graph.values[x.value.0].dims, mirrored);
        let bytes = std::array::from_fn(|byte| 255 - byte as u8);
        self.graph.node(name, Op::Table(Box::new(bytes)), &[x.value], value);
        Operand { value, ..x.clone() }
    }

    /// Of the channels of one axis.
    pub(super) fn softmax(&mut self, at: usize, x: &Operand, target: Target) -> Building<Operand> {
        let node = self.source.node(at);
        let rank = x.shape.len();
        let opset = integer(node, "opset", self.source.opset);
        let given = integer(node, "axis", if opset < 13 { 1 } else { -1 });
        let Some(axis) = super::super::source::axis(given, rank) else { return self.sizes(at, "its axis") };
        let (order, length) = if opset < 13 {
            // Everything from the axis on is one vector.
            (natural(rank), x.shape[axis..].iter().product::<usize>())
        } else {
            let mut order: Vec<usize> = x.order.iter().copied().filter(|a| *a != axis).collect();
            order.push(axis);
            (order, x.shape[axis])
        };
        let rows = x.shape.iter().product::<usize>() / length.max(1);
        let dims = Dims::new(1, 1, rows, length);
        let from = self.arrange(at, x, &order, dims)?;
        let value = self.graph.value(label(node), dims, target.quantization);
        self.graph.node(label(node), Op::Softmax, &[from], value);
        Ok(Operand { value, shape: x.shape.clone(), order })
    }
}

fn two_of(operator: &str, a: f32, b: f32) -> Option<f32> {
    Some(match operator {
        "Add" => a + b,
        "Sub" => a - b,
        "Mul" => a * b,
        "Div" => a / b,
        "Min" => a.min(b),
        "Max" => a.max(b),
        "Pow" => a.powf(b),
        _ => return None,
    })
}

/// With axes of size 1 in front.
fn widened(x: Operand, rank: usize) -> Operand {
    let more = rank - x.shape.len();
    let shape = std::iter::repeat_n(1, more).chain(x.shape).collect();
    let order = (0..more).chain(x.order.into_iter().map(|axis| axis + more)).collect();
    Operand { value: x.value, shape, order }
}

/// The error function: its series near 0, and a continued fraction beyond.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a > 6.0 {
        return x.signum();
    }
    if a < 2.5 {
        let (mut term, mut sum) = (x, x);
        for n in 1..60_u32 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    let fraction = (1..60_u32).rev().fold(a, |rest, n| a + f64::from(n) / 2.0 / rest);
    (1.0 - (-a * a).exp() / (fraction * std::f64::consts::PI.sqrt())) * x.signum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_function_has_its_known_values() {
        for (x, expected) in
            [(0.0, 0.0), (0.5, 0.520_499_877_813_046_5), (1.0, 0.842_700_792_949_714_9), (3.0, 0.999_977_909_503_001_4)]
        {
            assert!((erf(x) - expected).abs() < 1e-12 && (erf(-x) + expected).abs() < 1e-12, "{x}");
        }
        assert!((erf(2.499_999_9) - erf(2.5)).abs() < 1e-8, "both ways meet");
    }

    #[test]
    fn limits_follow_each_other_as_clips_do() {
        let six = Limits { low: 0.0, high: 6.0 };
        assert_eq!(Limits::NONE.then(six), six);
        let above = Limits { low: 8.0, high: 9.0 };
        assert_eq!(six.then(above), Limits { low: 8.0, high: 8.0 });
        let to = Quantization { scale: 0.1, zero_point: 10 };
        assert_eq!(six.range(to), Range { low: 10, high: 70 });
        assert_eq!(Limits::NONE.range(to), Range::FULL);
    }
}
