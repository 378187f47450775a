//! Graphs that are no graphs: each is refused with the node's name and what is wrong.

use sedge_engine::{
    Conv, Dims, Element, Graph, Op, Options, Pads, Port, Problem, Program, Quantization, Range, ValueId, Window,
};

const QUANTIZATION: Quantization = Quantization { scale: 0.1, zero_point: 128 };

fn window(size: usize, pad: usize) -> Window {
    let pads = Pads { top: pad, left: pad, bottom: pad, right: pad };
    Window { kernel: [size, size], stride: [1, 1], dilation: [1, 1], pads }
}

fn conv(inputs: usize, outputs: usize) -> Conv {
    Conv {
        window: window(3, 1),
        groups: 1,
        weights: vec![1; inputs * outputs * 9],
        weight_zero_points: vec![],
        scales: vec![0.01],
        bias: Vec::new(),
        range: Range::FULL,
    }
}

/// One convolution between an input and an output of 8 by 8 pixels with 4 channels.
fn graph(change: impl FnOnce(&mut Graph)) -> Graph {
    let mut graph = Graph::default();
    let input = graph.value("in", Dims::new(1, 8, 8, 4), QUANTIZATION);
    let output = graph.value("out", Dims::new(1, 8, 8, 4), QUANTIZATION);
    graph.node("layer", Op::Conv(conv(4, 4)), &[input], output);
    graph.inputs.push(Port { value: input, element: Element::I8, order: Port::CHANNELS_LAST });
    graph.outputs.push(Port { value: output, element: Element::I8, order: Port::CHANNELS_LAST });
    change(&mut graph);
    graph
}

fn of(graph: &mut Graph) -> &mut Conv {
    match &mut graph.nodes[0].op {
        Op::Conv(conv) => conv,
        _ => unreachable!("the layer is a convolution"),
    }
}

fn refused(change: impl FnOnce(&mut Graph)) -> (String, Problem) {
    match Program::compile(&graph(change), &Options::default()) {
        Err(sedge_engine::CompileError::Graph(e)) => (e.node, e.problem),
        other => panic!("accepted, or refused otherwise: {other:?}"),
    }
}

#[test]
fn a_sound_graph_is_accepted() {
    Program::compile(&graph(|_| {}), &Options::default()).expect("sound");
}

#[test]
fn scales_are_finite_and_above_zero() {
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let (node, problem) = refused(|graph| graph.values[0].quantization.scale = scale);
        assert!(node == "in" && matches!(problem, Problem::Scale(_)), "{node} {problem}");
        let (node, problem) = refused(|graph| of(graph).scales = vec![scale]);
        assert!(node == "layer" && matches!(problem, Problem::Scale(_)), "{node} {problem}");
    }
    // Each is one, and together they are none.
    let (_, problem) = refused(|graph| {
        graph.values[0].quantization.scale = 1e30;
        graph.values[1].quantization.scale = 1e-30;
    });
    assert!(matches!(problem, Problem::Multiplier { .. }), "{problem}");
    let (_, problem) = refused(|graph| {
        let second = graph.value("second", Dims::new(1, 8, 4, 4), Quantization { scale: 1e4, zero_point: 0 });
        graph.inputs.push(Port { value: second, element: Element::U8, order: Port::CHANNELS_LAST });
        graph.nodes[0].op = Op::MatMul { transposed: false, range: Range::FULL };
        graph.nodes[0].inputs.push(second);
    });
    assert!(matches!(problem, Problem::Multiplier { .. }), "{problem}");
}

#[test]
fn sums_that_an_accumulator_cannot_hold_are_refused_with_the_limit() {
    let wide = |graph: &mut Graph| {
        let channels = 40_000;
        graph.values[0].dims.c = channels;
        *of(graph) = Conv { weights: vec![-128; channels * 4 * 9], ..conv(1, 1) };
    };
    let (node, problem) = refused(wide);
    assert!(node == "layer" && matches!(problem, Problem::Overflow { channel: 0, .. }), "{node} {problem}");
    assert!(problem.to_string().contains("2147483647"), "{problem}");
    let (_, problem) = refused(|graph| of(graph).bias = vec![0, 0, i32::MAX, 0]);
    assert!(matches!(problem, Problem::Overflow { channel: 2, .. }), "{problem}");
}

#[test]
fn weights_groups_and_windows_fit() {
    let (_, problem) = refused(|graph| of(graph).weights.truncate(100));
    assert!(matches!(problem, Problem::Count { what: "weights", found: 100, expected: 144 }), "{problem}");
    let (_, problem) = refused(|graph| of(graph).scales = vec![0.1; 3]);
    assert!(matches!(problem, Problem::Count { expected: 4, .. }), "{problem}");
    for groups in [0, 3, 8] {
        let (_, problem) = refused(|graph| of(graph).groups = groups);
        assert!(matches!(problem, Problem::Groups { channels: 4, .. }), "{problem}");
    }
    for broken in [
        Window { kernel: [0, 3], ..window(3, 1) },
        Window { stride: [0, 1], ..window(3, 1) },
        Window { dilation: [1, 0], ..window(3, 1) },
        Window { kernel: [usize::MAX, 2], ..window(3, 1) },
        Window { dilation: [usize::MAX, 1], ..window(3, 1) },
        Window { pads: Pads { top: usize::MAX, ..Pads::default() }, ..window(3, 1) },
    ] {
        let (_, problem) = refused(|graph| of(graph).window = broken);
        assert!(matches!(problem, Problem::Window(_)), "{problem}");
    }
    let (_, problem) = refused(|graph| graph.values[1].dims.h = 7);
    assert!(matches!(problem, Problem::Dims { what: "output", .. }), "{problem}");
    let (_, problem) = refused(|graph| of(graph).range = Range { low: 9, high: 8 });
    assert!(matches!(problem, Problem::Range { .. }), "{problem}");
}

#[test]
fn sizes_have_bounds() {
    for dims in [Dims::new(0, 8, 8, 4), Dims::new(usize::MAX, 2, 1, 1), Dims::new(1, 1 << 20, 1 << 20, 1)] {
        let (node, problem) = refused(|graph| graph.values[0].dims = dims);
        assert!(node == "in" && matches!(problem, Problem::Size(_)), "{node} {problem}");
    }
    // Padding counts.
    let (node, problem) = refused(|graph| {
        let pad = 1 << 15;
        of(graph).window = window(3, pad);
        graph.values[1].dims = Dims::new(1, 6 + 2 * pad, 6 + 2 * pad, 4);
    });
    assert!(matches!(problem, Problem::Size(_)), "{node} {problem}");
    let (_, problem) = refused(|graph| {
        let dims = Dims::new(1, 1, 1 << 14, 1 << 14);
        graph.nodes.clear();
        for index in 0..9 {
            let value = graph.value(&format!("large {index}"), dims, QUANTIZATION);
            graph.inputs.push(Port { value, element: Element::I8, order: Port::CHANNELS_LAST });
            graph.outputs.push(Port { value, element: Element::I8, order: Port::CHANNELS_LAST });
        }
        graph.outputs.remove(0);
    });
    assert!(matches!(problem, Problem::Arena), "{problem}");
}

#[test]
fn nodes_read_what_is_there() {
    let (_, problem) = refused(|graph| graph.nodes[0].inputs = vec![ValueId(1)]);
    assert!(matches!(problem, Problem::NoValue(1)), "{problem}");
    let (_, problem) = refused(|graph| graph.nodes[0].inputs = vec![ValueId(77)]);
    assert!(matches!(problem, Problem::NoValue(77)), "{problem}");
    let (_, problem) = refused(|graph| graph.nodes[0].inputs.push(ValueId(0)));
    assert!(matches!(problem, Problem::Inputs { found: 2, expected: 1 }), "{problem}");
    let (_, problem) = refused(|graph| graph.nodes[0].output = ValueId(0));
    assert!(matches!(problem, Problem::Twice(0) | Problem::Dims { .. }), "{problem}");
    let (_, problem) = refused(|graph| graph.outputs[0].value = ValueId(9));
    assert!(matches!(problem, Problem::NoValue(9)), "{problem}");
    let (_, problem) = refused(|graph| graph.inputs[0].order = [0, 1, 1, 3]);
    assert!(matches!(problem, Problem::Axis(_)), "{problem}");
}
