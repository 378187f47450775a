//! What a graph means, computed as plainly as it can be said. Slow; every kernel is held against it.

use crate::graph::{Conv, Dims, Element, Graph, Node, Op, Port, Quantization, Range, Value, ValueId, Window};
use crate::requantize::{AddScales, Exponentials, average_multiplier, conv_multipliers, mul_multiplier, requantize};

/// A tensor at the edge of a graph, with its elements in the order of the port.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Data {
    U8(Vec<u8>),
    I8(Vec<i8>),
    F32(Vec<f32>),
}

/// Runs a graph that [`crate::check`] has accepted, on inputs that fit its ports.
pub fn run(graph: &Graph, inputs: &[Data]) -> Vec<Data> {
    let mut values: Vec<Vec<u8>> = graph.values.iter().map(|v| v.constant.clone().unwrap_or_default()).collect();
    for (port, data) in graph.inputs.iter().zip(inputs) {
        values[port.value.0] = enter(port, &graph.values[port.value.0], data);
    }
    for node in &graph.nodes {
        values[node.output.0] = evaluate(graph, node, &values);
    }
    graph.outputs.iter().map(|port| leave(port, &graph.values[port.value.0], &values[port.value.0])).collect()
}

/// What an operator that works byte by byte makes of each byte, when its inputs are these functions of it.
pub(crate) fn of_each_byte(graph: &Graph, node: &Node, inputs: &[[u8; 256]]) -> [u8; 256] {
    let mut small = Graph::default();
    let dims = Dims::new(1, 1, 1, 256);
    let mut value = |id: &ValueId| small.value("", dims, graph.values[id.0].quantization);
    let read: Vec<ValueId> = node.inputs.iter().map(&mut value).collect();
    let output = value(&node.output);
    small.node("", node.op.clone(), &read, output);
    let mut values: Vec<Vec<u8>> = inputs.iter().map(|table| table.to_vec()).collect();
    values.push(Vec::new());
    let bytes = evaluate(&small, &small.nodes[0], &values);
    std::array::from_fn(|byte| bytes[byte])
}

fn evaluate(graph: &Graph, node: &Node, values: &[Vec<u8>]) -> Vec<u8> {
    let of = |id: &ValueId| (&graph.values[id.0], values[id.0].as_slice());
    let out = &graph.values[node.output.0];
    let (first, x) = of(&node.inputs[0]);
    match &node.op {
        Op::Conv(op) => conv(op, first, x, out),
        Op::Add(range) => binary(first, x, of(&node.inputs[1]), out, |a, b, (one, two)| {
            let scales = AddScales::new(one.scale, two.scale, out.quantization.scale);
            scales.add(a, b, out.quantization.zero_point, *range)
        }),
        Op::Mul(range) => binary(first, x, of(&node.inputs[1]), out, |a, b, (one, two)| {
            let multiplier = mul_multiplier(one.scale, two.scale, out.quantization.scale);
            requantize(a * b, multiplier, out.quantization.zero_point, *range)
        }),
        Op::SquaredDifference => binary(first, x, of(&node.inputs[1]), out, |a, b, (one, two)| {
            let scales = AddScales::of_square(one.scale, two.scale, out.quantization.scale);
            scales.squared_difference(a, b, out.quantization.zero_point)
        }),
        Op::MatMul { transposed, range } => matmul(first, x, of(&node.inputs[1]), out, *transposed, *range),
        Op::Concat { axis } => {
            let inputs: Vec<_> = node.inputs.iter().map(of).collect();
            concat(&inputs, out, *axis)
        }
        Op::MaxPool(window) => pool(window, first, x, out, |_, bytes| bytes.iter().copied().max().unwrap_or(0)),
        Op::AveragePool { window, include_pads } => {
            let (zero, area) = (i32::from(first.quantization.zero_point), window.kernel[0] * window.kernel[1]);
            pool(window, first, x, out, |_, bytes| {
                let sum: i32 = bytes.iter().map(|b| i32::from(*b) - zero).sum();
                let count = if *include_pads { area } else { bytes.len() };
                let multiplier = average_multiplier(first.quantization.scale, out.quantization.scale, count);
                requantize(sum, multiplier, out.quantization.zero_point, Range::FULL)
            })
        }
        Op::Upsample { factor: [down, right] } => {
            each(out.dims, |[n, h, w, c]| x[at(first.dims, [n, h / down, w / right, c])])
        }
        Op::Table(table) => x.iter().map(|byte| table[usize::from(*byte)]).collect(),
        Op::Softmax => {
            let mut y = vec![0; x.len()];
            let (Exponentials(steps), to) = (Exponentials::new(first.quantization.scale), out.quantization);
            for (x, y) in x.chunks(out.dims.c).zip(y.chunks_mut(out.dims.c)) {
                let largest = x.iter().copied().max().unwrap_or(0);
                let of = |byte: u8| steps[usize::from(largest - byte)];
                let total = x.iter().map(|byte| u64::from(of(*byte))).sum();
                let multiplier = Exponentials::multiplier(total, to.scale);
                y.iter_mut().zip(x).for_each(|(y, x)| {
                    *y = requantize(of(*x) as i32, multiplier, to.zero_point, Range::FULL);
                });
            }
            y
        }
        Op::Reshape => x.to_vec(),
        Op::Transpose { axes } => each(out.dims, |to| {
            let mut from = [0; 4];
            axes.iter().zip(to).for_each(|(axis, index)| from[*axis] = index);
            x[at(first.dims, from)]
        }),
        Op::Slice { start, step } => {
            each(out.dims, |to| x[at(first.dims, std::array::from_fn(|axis| start[axis] + to[axis] * step[axis]))])
        }
        Op::Pad { before } => each(out.dims, |to| {
            let sizes = first.dims.array();
            let inside = (0..4).all(|axis| (before[axis]..before[axis] + sizes[axis]).contains(&to[axis]));
            if !inside {
                return first.quantization.zero_point;
            }
            x[at(first.dims, std::array::from_fn(|axis| to[axis] - before[axis]))]
        }),
    }
}

fn at(dims: Dims, [n, h, w, c]: [usize; 4]) -> usize {
    ((n * dims.h + h) * dims.w + w) * dims.c + c
}

fn each(dims: Dims, element: impl Fn([usize; 4]) -> u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(dims.elements().unwrap_or(0));
    for n in 0..dims.n {
        for h in 0..dims.h {
            for w in 0..dims.w {
                out.extend((0..dims.c).map(|c| element([n, h, w, c])));
            }
        }
    }
    out
}

/// The pixel that a window's tap lies on; none when that is padding.
fn tap(window: &Window, dims: Dims, [h, w]: [usize; 2], [row, column]: [usize; 2]) -> Option<[usize; 2]> {
    let y = (h * window.stride[0] + row * window.dilation[0]).checked_sub(window.pads.top)?;
    let x = (w * window.stride[1] + column * window.dilation[1]).checked_sub(window.pads.left)?;
    (y < dims.h && x < dims.w).then_some([y, x])
}

fn conv(op: &Conv, first: &Value, x: &[u8], out: &Value) -> Vec<u8> {
    let multipliers = conv_multipliers(op, first.quantization.scale, out.quantization.scale, out.dims.c);
    let (zero, per_group) = (i32::from(first.quantization.zero_point), first.dims.c / op.groups);
    let out_per_group = out.dims.c / op.groups;
    let [rows, columns] = op.window.kernel;
    each(out.dims, |[n, h, w, c]| {
        let mut sum = op.bias.get(c).copied().unwrap_or(0);
        for row in 0..rows {
            for column in 0..columns {
                let Some([y, x_]) = tap(&op.window, first.dims, [h, w], [row, column]) else { continue };
                let from = at(first.dims, [n, y, x_, c / out_per_group * per_group]);
                let weights = ((c * rows + row) * columns + column) * per_group;
                let products = x[from..from + per_group].iter().zip(&op.weights[weights..weights + per_group]);
                let weight = |weight: i8| i32::from(weight) - i32::from(op.weight_zero_point(c));
                sum += products.map(|(x, w)| (i32::from(*x) - zero) * weight(*w)).sum::<i32>();
            }
        }
        requantize(sum, multipliers[c], out.quantization.zero_point, op.range)
    })
}

fn binary(
    first: &Value,
    x: &[u8],
    (second, y): (&Value, &[u8]),
    out: &Value,
    compute: impl Fn(i32, i32, (Quantization, Quantization)) -> u8,
) -> Vec<u8> {
    let (one, two) = (first.quantization, second.quantization);
    each(out.dims, |to| {
        let sizes = second.dims.array();
        let from = std::array::from_fn(|axis| if sizes[axis] == 1 { 0 } else { to[axis] });
        let a = i32::from(x[at(first.dims, to)]) - i32::from(one.zero_point);
        let b = i32::from(y[at(second.dims, from)]) - i32::from(two.zero_point);
        compute(a, b, (one, two))
    })
}

fn matmul(
    first: &Value,
    x: &[u8],
    (second, y): (&Value, &[u8]),
    out: &Value,
    transposed: bool,
    range: Range,
) -> Vec<u8> {
    let (one, two, to) = (first.quantization, second.quantization, out.quantization);
    let multiplier = mul_multiplier(one.scale, two.scale, to.scale);
    let (za, zb) = (i32::from(one.zero_point), i32::from(two.zero_point));
    each(out.dims, |[n, h, w, c]| {
        let (n2, h2) = (if second.dims.n == 1 { 0 } else { n }, if second.dims.h == 1 { 0 } else { h });
        let product = |k: usize| {
            let b = if transposed { [n2, h2, c, k] } else { [n2, h2, k, c] };
            (i32::from(x[at(first.dims, [n, h, w, k])]) - za) * (i32::from(y[at(second.dims, b)]) - zb)
        };
        requantize((0..first.dims.c).map(product).sum(), multiplier, to.zero_point, range)
    })
}

fn concat(inputs: &[(&Value, &[u8])], out: &Value, axis: usize) -> Vec<u8> {
    each(out.dims, |to| {
        let (mut from, mut left) = (to, to[axis]);
        for (value, bytes) in inputs {
            let size = value.dims.array()[axis];
            if left < size {
                from[axis] = left;
                let table = crate::requantize::table(value.quantization, out.quantization);
                return table[usize::from(bytes[at(value.dims, from)])];
            }
            left -= size;
        }
        0
    })
}

fn pool(window: &Window, first: &Value, x: &[u8], out: &Value, compute: impl Fn([usize; 4], &[u8]) -> u8) -> Vec<u8> {
    each(out.dims, |to @ [n, h, w, c]| {
        let taps = (0..window.kernel[0]).flat_map(|row| (0..window.kernel[1]).map(move |column| [row, column]));
        let pixels = taps.filter_map(|of| tap(window, first.dims, [h, w], of));
        let bytes: Vec<u8> = pixels.map(|[y, x_]| x[at(first.dims, [n, y, x_, c])]).collect();
        compute(to, &bytes)
    })
}

fn enter(port: &Port, value: &Value, data: &Data) -> Vec<u8> {
    let strides = strides(port.order, value.dims);
    let outside = |to: [usize; 4]| to.iter().zip(strides).map(|(index, stride)| index * stride).sum::<usize>();
    each(value.dims, |to| match data {
        Data::U8(bytes) => bytes[outside(to)],
        Data::I8(bytes) => (bytes[outside(to)] as u8) ^ 0x80,
        Data::F32(reals) => crate::requantize::quantize(reals[outside(to)], value.quantization),
    })
}

fn leave(port: &Port, value: &Value, bytes: &[u8]) -> Data {
    let mut order = vec![0; bytes.len()];
    let strides = strides(port.order, value.dims);
    let mut inside = 0;
    for n in 0..value.dims.n {
        for h in 0..value.dims.h {
            for w in 0..value.dims.w {
                for c in 0..value.dims.c {
                    let outside: usize = [n, h, w, c].iter().zip(strides).map(|(index, stride)| index * stride).sum();
                    order[outside] = bytes[inside];
                    inside += 1;
                }
            }
        }
    }
    match port.element {
        Element::U8 => Data::U8(order),
        Element::I8 => Data::I8(order.into_iter().map(|byte| (byte ^ 0x80) as i8).collect()),
        Element::F32 => {
            Data::F32(order.into_iter().map(|byte| crate::requantize::dequantize(byte, value.quantization)).collect())
        }
    }
}

/// Distance outside of two neighbours along each of the axes n, h, w, c.
pub(crate) fn strides(order: [usize; 4], dims: Dims) -> [usize; 4] {
    let (sizes, mut strides, mut stride) = (dims.array(), [0; 4], 1);
    for axis in order.into_iter().rev() {
        strides[axis] = stride;
        stride *= sizes[axis];
    }
    strides
}
