//! What each kind of layer reaches on each instruction set of this core: products per second, and the share of what the
//! core's multipliers could do. Run with `cargo bench -p sedge-engine`; words after `--` pick layers and instruction sets.
#![allow(clippy::print_stdout, reason = "a table is what it is for")]

use sedge_engine::{
    Conv, Dims, Element, Graph, Op, Options, Pads, Port, Program, Quantization, Range, Session, Window, isas, peak,
};
use std::time::{Duration, Instant};

/// Rounds over all instruction sets; the best of each counts, so that a busy moment spoils none.
const ROUNDS: usize = 3;
/// What one instruction set may take for one layer in one round.
const ROUND: Duration = Duration::from_millis(40);

/// A convolution.
struct Layer {
    name: &'static str,
    size: usize,
    channels_in: usize,
    channels_out: usize,
    kernel: usize,
    stride: usize,
    depthwise: bool,
}

const fn dense(name: &'static str, size: usize, (from, to): (usize, usize), kernel: usize, stride: usize) -> Layer {
    Layer { name, size, channels_in: from, channels_out: to, kernel, stride, depthwise: false }
}

const fn depthwise(name: &'static str, size: usize, channels: usize, kernel: usize, stride: usize) -> Layer {
    Layer { name, size, channels_in: channels, channels_out: channels, kernel, stride, depthwise: true }
}

const LAYERS: &[Layer] = &[
    dense("1x1 56x56 64-64", 56, (64, 64), 1, 1),
    dense("1x1 28x28 128-512", 28, (128, 512), 1, 1),
    dense("1x1 14x14 256-1024", 14, (256, 1024), 1, 1),
    dense("1x1 7x7 512-2048", 7, (512, 2048), 1, 1),
    dense("1x1 7x7 320-1280", 7, (320, 1280), 1, 1),
    dense("1x1 56x56 144-24", 56, (144, 24), 1, 1),
    dense("3x3 56x56 64-64", 56, (64, 64), 3, 1),
    dense("3x3 28x28 128-128", 28, (128, 128), 3, 1),
    dense("3x3 14x14 256-256", 14, (256, 256), 3, 1),
    dense("3x3 7x7 512-512", 7, (512, 512), 3, 1),
    dense("first 7x7/2 224x224 3-64", 224, (3, 64), 7, 2),
    dense("first 3x3/2 224x224 3-32", 224, (3, 32), 3, 2),
    dense("vector 640-128", 1, (640, 128), 1, 1),
    dense("vector 1024-1000", 1, (1024, 1000), 1, 1),
    depthwise("depthwise 3x3 112x112 32", 112, 32, 3, 1),
    depthwise("depthwise 3x3 56x56 144", 56, 144, 3, 1),
    depthwise("depthwise 3x3 14x14 512", 14, 512, 3, 1),
    depthwise("depthwise 3x3 7x7 960", 7, 960, 3, 1),
    depthwise("depthwise 3x3/2 112x112 32", 112, 32, 3, 2),
    depthwise("depthwise 3x3/2 56x56 144", 56, 144, 3, 2),
    depthwise("depthwise 3x3/2 14x14 512", 14, 512, 3, 2),
    depthwise("depthwise 3x3/2 7x7 960", 7, 960, 3, 2),
    depthwise("depthwise 5x5 14x14 672", 14, 672, 5, 1),
];

impl Layer {
    fn graph(&self) -> Graph {
        let quantization = Quantization { scale: 0.05, zero_point: 128 };
        let out = self.size.div_ceil(self.stride);
        let groups = if self.depthwise { self.channels_in } else { 1 };
        let count = self.channels_out * self.kernel * self.kernel * self.channels_in / groups;
        let before = (self.kernel - 1) / 2;
        let pads =
            Pads { top: before, left: before, bottom: self.kernel - 1 - before, right: self.kernel - 1 - before };
        let conv = Conv {
            window: Window { kernel: [self.kernel; 2], stride: [self.stride; 2], dilation: [1, 1], pads },
            groups,
            weights: (0..count).map(|i| (i * 37 % 251) as u8 as i8).collect(),
            weight_zero_points: vec![],
            scales: vec![0.001; self.channels_out],
            bias: vec![100; self.channels_out],
            range: Range::FULL,
        };
        let mut graph = Graph::default();
        let input = graph.value("input", Dims::new(1, self.size, self.size, self.channels_in), quantization);
        let output = graph.value("output", Dims::new(1, out, out, self.channels_out), quantization);
        graph.node(self.name, Op::Conv(conv), &[input], output);
        for (ports, value) in [(&mut graph.inputs, input), (&mut graph.outputs, output)] {
            ports.push(Port { value, element: Element::U8, order: Port::CHANNELS_LAST });
        }
        graph
    }
}

/// A layer compiled for one instruction set, and the best that it has done.
struct Entry {
    program: Program,
    session: Session,
    input: Vec<u8>,
    best: Duration,
    products: u64,
}

impl Entry {
    fn new(graph: &Graph, isa: &str) -> Self {
        let program = Program::compile(graph, &Options { isa: Some(isa.to_owned()), ..Options::default() })
            .expect("a sound graph");
        let bytes = program.input_bytes().sum();
        let session = program.session();
        let input = (0..bytes).map(|i| (i * 29 % 253) as u8).collect();
        Self { program, session, input, best: Duration::MAX, products: 0 }
    }

    fn measure(&mut self) {
        let until = Instant::now() + ROUND;
        loop {
            let timings = self.program.profile(&mut self.session, &[&self.input], 4).expect("it fits");
            self.best = self.best.min(timings[1].time);
            self.products = timings[1].products;
            if Instant::now() >= until {
                break;
            }
        }
    }

    fn products_per_s(&self) -> f64 {
        self.products as f64 / self.best.as_secs_f64()
    }
}

/// GMAC/s, GOP/s, and what else there is to say.
fn cell(rate: f64, rest: &str) -> String {
    format!("{:.1} {:.0} {rest:>4}", rate / 1e9, rate / 5e8)
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let mut sets = isas();
    if sets.iter().any(|isa| words.iter().any(|word| word == isa)) {
        sets.retain(|isa| words.iter().any(|word| word == isa));
    }
    let mut layers: Vec<&Layer> = LAYERS.iter().collect();
    if layers.iter().any(|layer| words.iter().any(|word| layer.name.contains(word.as_str()))) {
        layers.retain(|layer| words.iter().any(|word| layer.name.contains(word.as_str())));
    }
    let peaks: Vec<Option<f64>> = sets.iter().map(|isa| peak(isa)).collect();
    println!("GMAC/s, GOP/s and share of the multipliers' peak: the best of several runs on one thread.");
    print!("{:28}", "");
    sets.iter().for_each(|isa| print!("{isa:>20}"));
    print!("\n{:28}", "peak");
    peaks.iter().for_each(|peak| print!("{:>20}", peak.map_or("-".to_owned(), |peak| cell(peak, ""))));
    println!();
    for layer in layers {
        let graph = layer.graph();
        let mut entries: Vec<Entry> = sets.iter().map(|isa| Entry::new(&graph, isa)).collect();
        for _ in 0..ROUNDS {
            entries.iter_mut().for_each(Entry::measure);
        }
        print!("{:28}", layer.name);
        for (entry, peak) in entries.iter().zip(&peaks) {
            let rate = entry.products_per_s();
            let share = peak.map_or("-".to_owned(), |peak| format!("{:.0}%", 100.0 * rate / peak));
            print!("{:>20}", cell(rate, &share));
        }
        println!();
    }
}
