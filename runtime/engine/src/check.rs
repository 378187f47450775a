//! What a graph must be before anything is computed with it: every error names the node and what is wrong with it.

use crate::graph::{Conv, Dims, Element, Graph, Node, Op, Pads, Port, Quantization, Range, ValueId, Window};
use crate::requantize::{conv_multipliers, mul_multiplier};
use std::collections::HashSet;

/// Larger tensors are refused: their addresses would not fit a 32-bit device.
pub const TENSOR_BYTES_MAX: usize = 1 << 28;
/// Graphs whose tensors need more at the same time are refused.
pub const ARENA_BYTES_MAX: usize = 1 << 30;
/// More operators are refused.
pub const NODES_MAX: usize = 10_000;
/// Largest sum that an accumulator can hold: every sum of a layer must stay below it for every input.
pub const ACCUMULATOR_MAX: i64 = i32::MAX as i64;
/// Windows with more taps are refused.
const KERNEL_TAPS_MAX: usize = 1 << 16;

/// Why a graph is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("`{node}`: {problem}")]
pub struct GraphError {
    /// The node or tensor at fault, by its name in the model's file.
    pub node: String,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with a node.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Problem {
    #[error("more than {NODES_MAX} operators")]
    TooMany,
    #[error("tensor {0} is not there, or is read before it is computed")]
    NoValue(usize),
    #[error("tensor {0} is computed twice")]
    Twice(usize),
    #[error("it has {found} inputs, and {expected} are needed")]
    Inputs { found: usize, expected: usize },
    #[error("its {what} is {found:?}, and must be {expected:?}")]
    Dims { what: &'static str, found: Dims, expected: Dims },
    #[error("its tensor of {0:?} has no element, or more than {TENSOR_BYTES_MAX} with its padding")]
    Size(Dims),
    #[error("with it, tensors need more than {ARENA_BYTES_MAX} bytes at the same time")]
    Arena,
    #[error("its constant has {found} bytes, and its sizes say {expected}")]
    Constant { found: usize, expected: usize },
    #[error("the scale {0} is not a finite number above 0")]
    Scale(f32),
    #[error("{what}: {found} values, and {expected} are needed")]
    Count { what: &'static str, found: usize, expected: usize },
    #[error("{channels} channels cannot be divided into {groups} groups")]
    Groups { channels: usize, groups: usize },
    #[error("a window of {0:?} with these strides and dilations is not possible")]
    Window([usize; 2]),
    #[error("the limits {low} to {high} leave no value")]
    Range { low: u8, high: u8 },
    #[error(
        "output channel {channel} can sum up to {sum}, and an accumulator holds {ACCUMULATOR_MAX}: split the layer, or \
         keep it in float"
    )]
    Overflow { channel: usize, sum: i64 },
    #[error("output channel {channel}: its scales turn a sum into {largest:e} steps of the output: they do not fit")]
    Multiplier { channel: usize, largest: f64 },
    #[error("input and output must have the same quantization")]
    OtherQuantization,
    #[error("axis {0} does not exist")]
    Axis(usize),
}

pub(crate) fn fault(node: &str, problem: Problem) -> GraphError {
    GraphError { node: node.to_owned(), problem }
}

/// Checks all of a graph.
///
/// # Errors
/// [`GraphError`].
pub fn check(graph: &Graph) -> Result<(), GraphError> {
    all(graph, true)
}

/// Checks a graph whose weights were checked and packed before, and are no longer there.
pub(crate) fn check_without_weights(graph: &Graph) -> Result<(), GraphError> {
    all(graph, false)
}

fn all(graph: &Graph, weights: bool) -> Result<(), GraphError> {
    if graph.nodes.len() > NODES_MAX {
        return Err(fault("the graph", Problem::TooMany));
    }
    let mut known = HashSet::new();
    for (place, value) in graph.values.iter().enumerate() {
        let elements = value.dims.elements().filter(|&n| n > 0 && n <= TENSOR_BYTES_MAX);
        let Some(expected) = elements else { return Err(fault(&value.name, Problem::Size(value.dims))) };
        scale(&value.name, value.quantization.scale)?;
        if let Some(constant) = &value.constant {
            if constant.len() != expected {
                return Err(fault(&value.name, Problem::Constant { found: constant.len(), expected }));
            }
            known.insert(ValueId(place));
        }
    }
    for port in &graph.inputs {
        edge(graph, port)?;
        if !known.insert(port.value) {
            return Err(fault(&graph.values[port.value.0].name, Problem::Twice(port.value.0)));
        }
    }
    for node in &graph.nodes {
        node_in(graph, node, &known, weights)?;
        if !known.insert(node.output) {
            return Err(fault(&node.name, Problem::Twice(node.output.0)));
        }
    }
    for port in &graph.outputs {
        edge(graph, port)?;
        if !known.contains(&port.value) {
            return Err(fault(&graph.values[port.value.0].name, Problem::NoValue(port.value.0)));
        }
    }
    Ok(())
}

fn scale(name: &str, scale: f32) -> Result<(), GraphError> {
    if scale.is_finite() && scale > 0.0 { Ok(()) } else { Err(fault(name, Problem::Scale(scale))) }
}

fn edge(graph: &Graph, port: &Port) -> Result<(), GraphError> {
    let Some(value) = graph.values.get(port.value.0) else {
        return Err(fault("an edge of the graph", Problem::NoValue(port.value.0)));
    };
    let mut order = port.order;
    order.sort_unstable();
    if order != [0, 1, 2, 3] {
        return Err(fault(&value.name, Problem::Axis(port.order[3])));
    }
    let _: Element = port.element;
    Ok(())
}

fn node_in(graph: &Graph, node: &Node, known: &HashSet<ValueId>, weights: bool) -> Result<(), GraphError> {
    let err = |problem| Err(fault(&node.name, problem));
    for input in &node.inputs {
        if !known.contains(input) {
            return err(Problem::NoValue(input.0));
        }
    }
    let Some(out) = graph.values.get(node.output.0) else { return err(Problem::NoValue(node.output.0)) };
    let expected = match &node.op {
        Op::Add(_) | Op::Mul(_) | Op::SquaredDifference | Op::MatMul { .. } => 2,
        Op::Concat { .. } => node.inputs.len().max(1),
        _ => 1,
    };
    if node.inputs.len() != expected {
        return err(Problem::Inputs { found: node.inputs.len(), expected });
    }
    let inputs: Vec<_> = node.inputs.iter().map(|id| &graph.values[id.0]).collect();
    let first = inputs[0];
    let is = |what: &'static str, found: Dims, expected: Dims| {
        if found == expected { Ok(()) } else { Err(fault(&node.name, Problem::Dims { what, found, expected })) }
    };
    let same = |from: Quantization| if from == out.quantization { Ok(()) } else { err(Problem::OtherQuantization) };
    match &node.op {
        Op::Conv(op) => {
            let over = windows(&node.name, &op.window, first.dims)?;
            is("output", out.dims, Dims { c: out.dims.c, ..over })?;
            layer(&node.name, op, first.dims, out.dims)?;
            let quantized = (first.quantization, out.quantization);
            if weights { conv(&node.name, op, (first.dims, out.dims), quantized) } else { Ok(()) }
        }
        Op::Add(_) | Op::Mul(_) | Op::SquaredDifference => {
            if let Op::Add(range) | Op::Mul(range) = &node.op {
                limits(&node.name, *range)?;
            }
            is("first input", first.dims, out.dims)?;
            let spread = |small: usize, large: usize| if small == 1 { 1 } else { large };
            let (b, o) = (inputs[1].dims, out.dims);
            is("second input", b, Dims::new(spread(b.n, o.n), spread(b.h, o.h), spread(b.w, o.w), spread(b.c, o.c)))
        }
        Op::MatMul { transposed, range } => {
            limits(&node.name, *range)?;
            let (a, b) = (first.dims, inputs[1].dims);
            let of = |one: usize, all: usize| if one == 1 { 1 } else { all };
            let (w, c) = if *transposed { (out.dims.c, a.c) } else { (a.c, out.dims.c) };
            is("second input", b, Dims::new(of(b.n, a.n), of(b.h, a.h), w, c))?;
            is("output", out.dims, Dims { c: out.dims.c, ..a })?;
            let sum = a.c as i64 * 255 * 255;
            sums(&node.name, 0, sum)?;
            let scales = [first, inputs[1], out].map(|value| value.quantization.scale);
            steps(&node.name, 0, sum, mul_multiplier(scales[0], scales[1], scales[2]))
        }
        Op::Concat { axis } => {
            let mut sizes = first.dims.array();
            if *axis > 3 {
                return err(Problem::Axis(*axis));
            }
            sizes[*axis] = 0;
            for input in &inputs {
                let of = input.dims.array();
                let total = sizes[*axis] + of[*axis];
                sizes = of;
                sizes[*axis] = total;
                let [n, h, w, c] = std::array::from_fn(|i| if i == *axis { of[i] } else { out.dims.array()[i] });
                is("input", input.dims, Dims::new(n, h, w, c))?;
            }
            let [n, h, w, c] = sizes;
            is("output", out.dims, Dims::new(n, h, w, c))
        }
        Op::MaxPool(window) => {
            is("output", out.dims, windows(&node.name, window, first.dims)?)?;
            covered(&node.name, window, first.dims)?;
            same(first.quantization)
        }
        Op::AveragePool { window, .. } => {
            is("output", out.dims, windows(&node.name, window, first.dims)?)?;
            covered(&node.name, window, first.dims)?;
            sums(&node.name, 0, window.kernel.iter().product::<usize>() as i64 * 255)
        }
        Op::Upsample { factor: [down, right] } => {
            let Dims { n, h, w, c } = first.dims;
            let grown = (h.checked_mul(*down), w.checked_mul(*right));
            let (Some(h), Some(w)) = grown else { return err(Problem::Size(first.dims)) };
            is("output", out.dims, Dims::new(n, h, w, c))?;
            same(first.quantization)
        }
        Op::Table(_) | Op::Softmax => is("output", out.dims, first.dims),
        Op::Reshape => {
            same(first.quantization)?;
            if first.dims.elements() == out.dims.elements() {
                return Ok(());
            }
            is("output", out.dims, first.dims)
        }
        Op::Transpose { axes } => {
            let mut order = *axes;
            order.sort_unstable();
            if order != [0, 1, 2, 3] {
                return err(Problem::Axis(axes[3]));
            }
            let [n, h, w, c] = axes.map(|axis| first.dims.array()[axis]);
            is("output", out.dims, Dims::new(n, h, w, c))?;
            same(first.quantization)
        }
        Op::Slice { start, step } => {
            same(first.quantization)?;
            for axis in 0..4 {
                let last =
                    (out.dims.array()[axis] - 1).checked_mul(step[axis]).and_then(|n| n.checked_add(start[axis]));
                if step[axis] == 0 || last.is_none_or(|last| last >= first.dims.array()[axis]) {
                    return err(Problem::Axis(axis));
                }
            }
            Ok(())
        }
        Op::Pad { before } => {
            same(first.quantization)?;
            let sizes = first.dims.array().into_iter().zip(out.dims.array());
            for (axis, (before, (size, out))) in before.iter().zip(sizes).enumerate() {
                if before.checked_add(size).is_none_or(|end| end > out) {
                    return err(Problem::Axis(axis));
                }
            }
            Ok(())
        }
    }
}

fn limits(name: &str, range: Range) -> Result<(), GraphError> {
    if range.low <= range.high {
        return Ok(());
    }
    Err(fault(name, Problem::Range { low: range.low, high: range.high }))
}

fn sums(name: &str, channel: usize, sum: i64) -> Result<(), GraphError> {
    if sum <= ACCUMULATOR_MAX { Ok(()) } else { Err(fault(name, Problem::Overflow { channel, sum })) }
}

/// Kernels turn steps of the output into an i32 before they limit them.
fn steps(name: &str, channel: usize, sum: i64, multiplier: f32) -> Result<(), GraphError> {
    let largest = sum as f64 * f64::from(multiplier);
    let fits = largest.is_finite() && largest < f64::from(1 << 30);
    if fits { Ok(()) } else { Err(fault(name, Problem::Multiplier { channel, largest })) }
}

/// Sizes of what a window yields, with the input's channels.
pub(crate) fn windows(name: &str, window: &Window, input: Dims) -> Result<Dims, GraphError> {
    let err = || fault(name, Problem::Window(window.kernel));
    let taps = window.kernel[0].checked_mul(window.kernel[1]);
    if taps.is_none_or(|taps| taps > KERNEL_TAPS_MAX) {
        return Err(err());
    }
    let along = |size: usize, before: usize, after: usize, axis: usize| {
        let span = window.kernel[axis].checked_sub(1)?.checked_mul(window.dilation[axis])?.checked_add(1)?;
        let room = size.checked_add(before)?.checked_add(after)?.checked_sub(span)?;
        let (stride, dilation) = (window.stride[axis], window.dilation[axis]);
        (stride > 0 && dilation > 0).then(|| room / stride + 1)
    };
    let Pads { top, left, bottom, right } = window.pads;
    let h = along(input.h, top, bottom, 0).ok_or_else(err)?;
    let w = along(input.w, left, right, 1).ok_or_else(err)?;
    Ok(Dims { n: input.n, h, w, c: input.c })
}

/// Every window of a pool must lie on some pixel.
fn covered(name: &str, window: &Window, input: Dims) -> Result<(), GraphError> {
    let Pads { top, left, bottom, right } = window.pads;
    let reach = |axis: usize| (window.kernel[axis] - 1) * window.dilation[axis];
    let fits = top <= reach(0) && bottom <= reach(0) && left <= reach(1) && right <= reach(1);
    // A dilated window could still step over a small picture.
    let near = window.dilation == [1, 1] || (input.h > reach(0) && input.w > reach(1));
    if fits && near { Ok(()) } else { Err(fault(name, Problem::Window(window.kernel))) }
}

pub(crate) fn layer(name: &str, op: &Conv, input: Dims, output: Dims) -> Result<(), GraphError> {
    let err = |problem| Err(fault(name, problem));
    limits(name, op.range)?;
    for channels in [input.c, output.c] {
        if op.groups == 0 || !channels.is_multiple_of(op.groups) {
            return err(Problem::Groups { channels, groups: op.groups });
        }
    }
    if op.scales.len() != 1 && op.scales.len() != output.c {
        return err(Problem::Count { what: "weight scales", found: op.scales.len(), expected: output.c });
    }
    let zero_points = op.weight_zero_points.len();
    if zero_points > 1 && zero_points != output.c {
        return err(Problem::Count { what: "weight zero points", found: zero_points, expected: output.c });
    }
    op.scales.iter().try_for_each(|s| scale(name, *s))
}

fn conv(
    name: &str,
    op: &Conv,
    (input, output): (Dims, Dims),
    (from, to): (Quantization, Quantization),
) -> Result<(), GraphError> {
    let err = |problem| Err(fault(name, problem));
    let taps = op.window.kernel[0].checked_mul(op.window.kernel[1]);
    let Some(per_channel) = taps.and_then(|taps| taps.checked_mul(input.c / op.groups)).filter(|count| *count > 0)
    else {
        return err(Problem::Size(input));
    };
    let expected = per_channel.saturating_mul(output.c);
    if op.weights.len() != expected {
        return err(Problem::Count { what: "weights", found: op.weights.len(), expected });
    }
    if !op.bias.is_empty() && op.bias.len() != output.c {
        return err(Problem::Count { what: "bias", found: op.bias.len(), expected: output.c });
    }
    let multipliers = conv_multipliers(op, from.scale, to.scale, output.c);
    for (channel, weights) in op.weights.chunks(per_channel).enumerate() {
        let zero_point = i64::from(op.weight_zero_point(channel).unsigned_abs());
        let weights: i64 = weights.iter().map(|w| i64::from(w.unsigned_abs()) + zero_point).sum();
        let bias = op.bias.get(channel).map_or(0, |bias| i64::from(bias.unsigned_abs()));
        // Kernels fold the zero point into the bias, so both parts must fit each on its own and together.
        let sum = bias.saturating_add(weights.saturating_mul(2 * 255));
        sums(name, channel, sum)?;
        steps(name, channel, sum, multipliers[channel])?;
    }
    Ok(())
}
