//! The largest sums that bytes and weights can have: 16 bits would not hold two products of them.

use sedge_engine::reference::{self, Data};
use sedge_engine::{Conv, Dims, Element, Graph, Op, Options, Pads, Port, Program, Quantization, Range, Window, isas};

/// A convolution whose weights and inputs are the largest there are, in every order of signs that a pair or a group of
/// four can have.
fn extreme(channels_in: usize, channels_out: usize, kernel: usize, depthwise: bool) -> Graph {
    let groups = if depthwise { channels_in } else { 1 };
    let sum = kernel * kernel * channels_in / groups;
    let weight = |channel: usize, index: usize| if channel >> (index % 4) & 1 == 0 { 127 } else { -128 };
    let pads = Pads { top: kernel / 2, left: kernel / 2, bottom: kernel / 2, right: kernel / 2 };
    let conv = Conv {
        window: Window { kernel: [kernel; 2], stride: [1, 1], dilation: [1, 1], pads },
        groups,
        weights: (0..channels_out).flat_map(|channel| (0..sum).map(move |index| weight(channel, index))).collect(),
        weight_zero_points: vec![],
        // The largest sums are just within the limits of the output.
        scales: vec![1.0 / (256.0 * sum as f32)],
        bias: Vec::new(),
        range: Range::FULL,
    };
    let mut graph = Graph::default();
    let input = graph.value("input", Dims::new(1, 3, 7, channels_in), Quantization { scale: 1.0, zero_point: 0 });
    let output = graph.value("output", Dims::new(1, 3, 7, channels_out), Quantization { scale: 1.0, zero_point: 128 });
    graph.node("conv", Op::Conv(conv), &[input], output);
    graph.inputs.push(Port { value: input, element: Element::U8, order: Port::CHANNELS_LAST });
    graph.outputs.push(Port { value: output, element: Element::U8, order: Port::CHANNELS_LAST });
    graph
}

#[test]
fn the_largest_sums_are_exact() {
    let layers = [
        (300, 70, 1, false),
        (31, 33, 3, false),
        (3, 16, 5, false),
        (64, 64, 3, true),
        (70, 70, 3, true),
        (40, 40, 5, true),
    ];
    for (channels_in, channels_out, kernel, depthwise) in layers {
        let graph = extreme(channels_in, channels_out, kernel, depthwise);
        let full = vec![255; 3 * 7 * channels_in];
        let halves = full.iter().enumerate().map(|(i, byte)| if i / 2 % 2 == 0 { *byte } else { 0 }).collect();
        for input in [full, halves] {
            let expected = match &reference::run(&graph, &[Data::U8(input.clone())])[0] {
                Data::U8(bytes) => bytes.clone(),
                other => panic!("bytes go out: {other:?}"),
            };
            for isa in isas() {
                let program = Program::compile(&graph, &Options { isa: Some(isa.to_owned()), ..Options::default() })
                    .expect("a sound graph");
                let mut found = vec![0xaa; expected.len()];
                program.run(&mut program.session(), &[&input], &mut [&mut found]).expect("fits");
                assert!(found == expected, "{channels_in} to {channels_out}, kernel {kernel}, on {isa}");
            }
        }
    }
}

/// A convolution of one window whose products are as large as they can be, and whose bias brings the sum back to 100.
fn largest(byte: u8, weight: i8, taps: usize, channels: usize, depthwise: bool) -> Graph {
    let unit = Quantization { scale: 1.0, zero_point: 128 };
    let (inputs, groups) = if depthwise { (channels, channels) } else { (24, 1) };
    let count = taps * inputs / groups;
    let sum = count as i32 * (i32::from(byte) - 128) * i32::from(weight);
    let conv = Conv {
        window: Window { kernel: [1, taps], stride: [1, 1], dilation: [1, 1], pads: Pads::default() },
        groups,
        weights: vec![weight; count * channels],
        weight_zero_points: vec![],
        scales: vec![1.0],
        bias: vec![100 - sum; channels],
        range: Range::FULL,
    };
    let mut graph = Graph::default();
    let input = graph.value("input", Dims::new(1, 1, taps + 8, inputs), unit);
    let to = Quantization { zero_point: 0, ..unit };
    let output = graph.value("output", Dims::new(1, 1, 9, channels), to);
    graph.node("conv", Op::Conv(conv), &[input], output);
    let port = |value| Port { value, element: Element::U8, order: Port::CHANNELS_LAST };
    (graph.inputs, graph.outputs) = (vec![port(input)], vec![port(output)]);
    graph
}

#[test]
fn no_instruction_set_loses_a_bit_of_the_largest_sums() {
    for isa in isas() {
        for (byte, weight) in [(0, -128), (255, -128), (0, 127), (255, 127), (0, -127)] {
            for (taps, channels, depthwise) in [(3, 16, false), (9, 5, false), (3, 64, true), (9, 20, true)] {
                let graph = largest(byte, weight, taps, channels, depthwise);
                let program = Program::compile(&graph, &Options { isa: Some(isa.to_owned()), ..Options::default() })
                    .expect("sound");
                let input = vec![byte; program.input_bytes().sum()];
                let mut output = vec![0; program.output_bytes().sum()];
                program.run(&mut program.session(), &[&input], &mut [&mut output]).expect("fits");
                assert!(output.iter().all(|byte| *byte == 100), "{isa}: {byte} times {weight}: {output:?}");
            }
        }
    }
}

/// The same with weights whose zero point is as far from them as it can be: in every second channel, so that each has its
/// own, and then in all.
#[test]
fn no_zero_point_loses_a_bit_of_the_largest_sums() {
    let layers = [(3, 16, false, false), (9, 70, false, true), (3, 64, true, false), (9, 20, true, true)];
    for isa in isas() {
        for (byte, weight, zero) in [(0, -128, 127), (255, -128, 127), (0, 127, -128), (255, 127, -128), (255, -127, 1)]
        {
            for (taps, channels, depthwise, all) in layers {
                let mut graph = largest(byte, weight, taps, channels, depthwise);
                let Op::Conv(conv) = &mut graph.nodes[0].op else { panic!("a convolution") };
                let count = (conv.weights.len() / channels) as i32;
                let each = |channel: usize| if all || channel.is_multiple_of(2) { zero } else { 0 };
                conv.weight_zero_points = if all { vec![zero] } else { (0..channels).map(each).collect() };
                for (channel, bias) in conv.bias.iter_mut().enumerate() {
                    *bias += count * (i32::from(byte) - 128) * i32::from(each(channel));
                }
                let program = Program::compile(&graph, &Options { isa: Some(isa.to_owned()), ..Options::default() })
                    .expect("sound");
                let input = vec![byte; program.input_bytes().sum()];
                let mut output = vec![0; program.output_bytes().sum()];
                program.run(&mut program.session(), &[&input], &mut [&mut output]).expect("fits");
                assert!(output.iter().all(|byte| *byte == 100), "{isa}: {byte} times {weight} - {zero}: {output:?}");
            }
        }
    }
}
