//! Programs that are saved and opened again.

use sedge_engine::{
    Conv, Dims, Element, Graph, Op, Options, Pads, Port, Program, Quantization, Range, SavedError, SharedBytes, Window,
};
use std::sync::Arc;

/// Bytes that begin where a mapped file would.
struct Page(Vec<u8>, usize);

impl AsRef<[u8]> for Page {
    fn as_ref(&self) -> &[u8] {
        &self.0[self.1..]
    }
}

fn page(bytes: &[u8]) -> SharedBytes {
    let mut all = vec![0; 64 + bytes.len()];
    let start = all.as_ptr().align_offset(64);
    all[start..start + bytes.len()].copy_from_slice(bytes);
    all.truncate(start + bytes.len());
    Arc::new(Page(all, start))
}

fn graph() -> Graph {
    let mut graph = Graph::default();
    let quantization = Quantization { scale: 0.1, zero_point: 120 };
    let input = graph.value("input", Dims::new(1, 9, 9, 40), quantization);
    let window = |size: usize| Window {
        kernel: [size, size],
        stride: [1, 1],
        dilation: [1, 1],
        pads: Pads { top: size / 2, left: size / 2, bottom: size / 2, right: size / 2 },
    };
    let conv = |size: usize, groups: usize, channels: usize| Conv {
        window: window(size),
        groups,
        weights: (0..channels * size * size * 40 / groups).map(|i| (i * 37 % 251) as i8).collect(),
        weight_zero_points: vec![],
        scales: vec![0.001],
        bias: (0..channels as i32).collect(),
        range: Range::FULL,
    };
    let middle = graph.value("middle", Dims::new(1, 9, 9, 40), quantization);
    graph.node("depthwise", Op::Conv(conv(3, 40, 40)), &[input], middle);
    let output = graph.value("output", Dims::new(1, 9, 9, 24), quantization);
    graph.node("dense", Op::Conv(conv(1, 1, 24)), &[middle], output);
    graph.inputs.push(Port { value: input, element: Element::U8, order: Port::CHANNELS_LAST });
    graph.outputs.push(Port { value: output, element: Element::U8, order: Port::CHANNELS_LAST });
    graph
}

fn run(program: &Program) -> Vec<u8> {
    let input: Vec<u8> = (0..9 * 9 * 40).map(|i| (i * 31 % 256) as u8).collect();
    let mut output = vec![0; 9 * 9 * 24];
    program.run(&mut program.session(), &[&input], &mut [&mut output]).expect("fits");
    output
}

fn saved() -> (Program, Vec<u8>) {
    let graph = graph();
    let program = Program::compile(&graph, &Options::default()).expect("sound");
    let bytes = program.save().expect("written");
    (program, bytes)
}

#[test]
fn what_is_opened_computes_what_was_saved() {
    let (program, bytes) = saved();
    let opened = Program::open(page(&bytes), &Options::default()).expect("as saved");
    assert_eq!(run(&opened), run(&program));
    assert_eq!(opened.memory_bytes(), program.memory_bytes());
}

#[test]
fn every_truncation_is_an_error() {
    let (_, bytes) = saved();
    for end in (0..bytes.len()).step_by(7).chain([bytes.len() - 1]) {
        assert!(Program::open(page(&bytes[..end]), &Options::default()).is_err(), "cut off at {end}");
    }
}

#[test]
fn damage_never_reaches_other_memory() {
    let (_, bytes) = saved();
    // Where the description lies; weights may have any value.
    for index in 0..1200.min(bytes.len()) {
        for bit in [0, 3, 7] {
            let mut damaged = bytes.clone();
            damaged[index] ^= 1 << bit;
            let Ok(program) = Program::open(page(&damaged), &Options::default()) else { continue };
            let inputs: Vec<Vec<u8>> = program.input_bytes().map(|bytes| vec![1; bytes]).collect();
            let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
            let mut outputs: Vec<Vec<u8>> = program.output_bytes().map(|bytes| vec![0; bytes]).collect();
            let mut outputs: Vec<&mut [u8]> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
            program.run(&mut program.session(), &inputs, &mut outputs).expect("fits");
        }
    }
}

#[test]
fn other_kernels_are_told() {
    let graph = graph();
    let portable = Options { isa: Some("portable".to_owned()), ..Options::default() };
    let bytes = Program::compile(&graph, &portable).expect("sound").save().expect("written");
    let opened = Program::open(page(&bytes), &portable).expect("as saved");
    assert_eq!(run(&opened).len(), 9 * 9 * 24);
    if sedge_engine::isas().len() > 1 {
        let e = Program::open(page(&bytes), &Options::default()).expect_err("other kernels");
        assert!(matches!(e, SavedError::Other { .. }), "{e}");
        assert!(e.to_string().contains("portable"), "{e}");
    }
    let off = Arc::new(Page([&[0], bytes.as_slice()].concat(), 1));
    if !off.as_ref().as_ref().as_ptr().addr().is_multiple_of(64) {
        assert!(matches!(Program::open(off, &portable), Err(SavedError::Damaged(_))));
    }
}
