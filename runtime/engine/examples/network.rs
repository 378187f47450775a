//! Runs a network of well-known shapes and made-up weights, for whoever counts instructions or looks for hot spots:
//! `network mobilenet|residual|dense RUNS`. `SEDGE_ISA` names the instruction set.

use sedge_engine::{
    Conv, Dims, Element, Graph, Op, Options, Pads, Port, Program, Quantization, Range, ValueId, Window,
};

const UNIT: Quantization = Quantization { scale: 0.05, zero_point: 128 };

struct Network {
    graph: Graph,
    last: ValueId,
}

impl Network {
    fn new(dims: Dims) -> Self {
        let mut graph = Graph::default();
        let last = graph.value("input", dims, UNIT);
        graph.inputs.push(Port { value: last, element: Element::I8, order: Port::CHANNELS_LAST });
        Self { graph, last }
    }

    fn dims(&self) -> Dims {
        self.graph.values[self.last.0].dims
    }

    fn add(&mut self, op: Op, inputs: &[ValueId], dims: Dims) {
        let name = format!("{}-{}", op.name(), self.graph.nodes.len());
        self.last = self.graph.value(&name, dims, UNIT);
        self.graph.node(&name, op, inputs, self.last);
    }

    /// A convolution that keeps the picture's size but for its stride; no channels make it a depthwise one.
    fn conv(&mut self, channels: Option<usize>, kernel: usize, stride: usize) {
        let from = self.dims();
        let (out, groups) = (channels.unwrap_or(from.c), if channels.is_some() { 1 } else { from.c });
        let along = |size: usize| {
            let after = size.div_ceil(stride);
            let pads = ((after - 1) * stride + kernel).saturating_sub(size);
            (after, pads / 2, pads - pads / 2)
        };
        let ((h, top, bottom), (w, left, right)) = (along(from.h), along(from.w));
        let count = out * kernel * kernel * from.c / groups;
        let conv = Conv {
            window: Window {
                kernel: [kernel, kernel],
                stride: [stride, stride],
                dilation: [1, 1],
                pads: Pads { top, left, bottom, right },
            },
            groups,
            weights: (0..count).map(|i| (i * 37 % 255) as i32 - 127).map(|w| w as i8).collect(),
            weight_zero_points: vec![],
            scales: vec![0.01],
            bias: vec![5; out],
            range: Range { low: 128, high: 255 },
        };
        self.add(Op::Conv(conv), &[self.last], Dims { h, w, c: out, ..from });
    }

    fn pool(&mut self) {
        let from = self.dims();
        let window = Window { kernel: [from.h, from.w], stride: [1, 1], dilation: [1, 1], pads: Pads::default() };
        self.add(Op::AveragePool { window, include_pads: false }, &[self.last], Dims { h: 1, w: 1, ..from });
    }

    fn finish(mut self) -> Graph {
        self.graph.outputs.push(Port { value: self.last, element: Element::I8, order: Port::CHANNELS_LAST });
        self.graph
    }
}

/// MobileNetV1 of a quarter of its width, 96 by 96: 7.5 million products.
fn mobilenet() -> Graph {
    let mut network = Network::new(Dims::new(1, 96, 96, 3));
    network.conv(Some(8), 3, 2);
    for (channels, stride) in [(16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2)] {
        network.conv(None, 3, stride);
        network.conv(Some(channels), 1, 1);
    }
    for (channels, stride) in [(128, 1), (128, 1), (128, 1), (128, 1), (128, 1), (256, 2), (256, 1)] {
        network.conv(None, 3, stride);
        network.conv(Some(channels), 1, 1);
    }
    network.pool();
    network.conv(Some(2), 1, 1);
    network.finish()
}

/// ResNet of eight layers, 32 by 32: 12.5 million products.
fn residual() -> Graph {
    let mut network = Network::new(Dims::new(1, 32, 32, 3));
    network.conv(Some(16), 3, 1);
    for (channels, stride) in [(16, 1), (32, 2), (64, 2)] {
        let from = network.last;
        network.conv(Some(channels), 3, stride);
        network.conv(Some(channels), 3, 1);
        let (long, mut short) = (network.last, from);
        if stride != 1 {
            network.last = from;
            network.conv(Some(channels), 1, stride);
            short = network.last;
        }
        let dims = network.dims();
        network.add(Op::Add(Range::FULL), &[long, short], dims);
    }
    network.pool();
    network.conv(Some(10), 1, 1);
    network.finish()
}

/// An autoencoder of dense layers: 0.26 million products, one window each.
fn dense() -> Graph {
    let mut network = Network::new(Dims::new(1, 1, 1, 640));
    for channels in [128, 128, 128, 128, 8, 128, 128, 128, 128, 640] {
        network.conv(Some(channels), 1, 1);
    }
    network.finish()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let graph = match arguments.next().as_deref() {
        Some("mobilenet") => mobilenet(),
        Some("residual") => residual(),
        Some("dense") => dense(),
        _ => return Err("network mobilenet|residual|dense RUNS".into()),
    };
    let runs: usize = arguments.next().ok_or("how many runs?")?.parse()?;
    let program = Program::compile(&graph, &Options::from_environment())?;
    let inputs: Vec<Vec<u8>> = program.input_bytes().map(|n| (0..n).map(|i| (i * 11) as u8).collect()).collect();
    let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    let mut outputs: Vec<Vec<u8>> = program.output_bytes().map(|n| vec![0; n]).collect();
    let mut outputs: Vec<&mut [u8]> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
    let mut session = program.session();
    for _ in 0..runs {
        program.run(&mut session, &inputs, &mut outputs)?;
    }
    Ok(())
}
