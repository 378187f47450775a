//! Random graphs of every operator, on every instruction set that this core has: each byte as the reference says.
//!
//! `SEDGE_ENGINE_SEED` runs one case only, the one that a failure names.

use sedge_engine::reference::{self, Data};
use sedge_engine::{
    Conv, Dims, Element, Graph, Op, Options, Pads, Port, Program, Quantization, Range, ValueId, Window, isas,
};

/// Cases for each instruction set. Emulated cores take fewer.
const CASES: u64 = if cfg!(target_arch = "x86_64") { 600 } else { 120 };

/// SplitMix64: any seed is a good one.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` to `high`, both possible.
    fn within(&mut self, low: usize, high: usize) -> usize {
        low + (self.next() % (high - low + 1) as u64) as usize
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.within(0, all.len() - 1)]
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.within(1, one_in) == 1
    }

    fn real(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * (self.next() >> 40) as f32 / (1 << 24) as f32
    }

    fn quantization(&mut self) -> Quantization {
        let zero_point = if self.chance(3) { self.one_of(&[0, 128, 255]) } else { self.next() as u8 };
        Quantization { scale: self.real(0.001, 0.2), zero_point }
    }

    fn range(&mut self) -> Range {
        if self.chance(2) {
            return Range::FULL;
        }
        let (a, b) = (self.next() as u8, self.next() as u8);
        Range { low: a.min(b), high: a.max(b) }
    }

    /// Sizes at which kernels begin, end and have a rest.
    fn channels(&mut self) -> usize {
        let near = self.one_of(&[1, 3, 8, 16, 24, 32, 48, 64, 96, 100, 128, 200]);
        if self.chance(3) { self.within(1, near) } else { near }
    }

    fn window(&mut self, h: usize, w: usize) -> Option<Window> {
        let kernel = [self.within(1, 5), self.within(1, 5)];
        let dilation = if self.chance(4) { [self.within(1, 2), self.within(1, 3)] } else { [1, 1] };
        let mut pad = |axis: usize| self.within(0, kernel[axis] - 1);
        let pads = Pads { top: pad(0), left: pad(1), bottom: pad(0), right: pad(1) };
        let fits = |size: usize, pads: usize, axis: usize| size + pads > (kernel[axis] - 1) * dilation[axis];
        let window = Window { kernel, stride: [self.within(1, 3), self.within(1, 3)], dilation, pads };
        (fits(h, pads.top + pads.bottom, 0) && fits(w, pads.left + pads.right, 1)).then_some(window)
    }
}

fn after(window: &Window, of: Dims) -> Dims {
    let along = |size: usize, pads: usize, axis: usize| {
        (size + pads - (window.kernel[axis] - 1) * window.dilation[axis] - 1) / window.stride[axis] + 1
    };
    let Pads { top, left, bottom, right } = window.pads;
    Dims { h: along(of.h, top + bottom, 0), w: along(of.w, left + right, 1), ..of }
}

/// A graph that grows.
struct Growing<'a> {
    random: &'a mut Random,
    graph: Graph,
}

impl Growing<'_> {
    fn dims(&self, value: ValueId) -> Dims {
        self.graph.values[value.0].dims
    }

    fn add(&mut self, op: Op, inputs: &[ValueId], dims: Dims, same: bool) -> ValueId {
        let quantization = if same { self.graph.values[inputs[0].0].quantization } else { self.random.quantization() };
        let name = format!("{}-{}", op.name(), self.graph.nodes.len());
        let output = self.graph.value(&name, dims, quantization);
        self.graph.node(&name, op, inputs, output);
        output
    }

    fn conv(&mut self, input: ValueId, depthwise: bool) -> Option<ValueId> {
        let dims = self.dims(input);
        let window = self.random.window(dims.h, dims.w)?;
        let divisors: Vec<usize> = (1..=dims.c).filter(|d| dims.c.is_multiple_of(*d)).collect();
        let groups = match depthwise {
            true => dims.c,
            false if self.random.chance(4) => self.random.one_of(&divisors),
            false => 1,
        };
        let channels = if depthwise { dims.c } else { groups * self.random.channels().div_ceil(groups) };
        let count = channels * window.kernel[0] * window.kernel[1] * (dims.c / groups);
        if count > 60_000 {
            return None;
        }
        let scales = if self.random.chance(2) { 1 } else { channels };
        // About as large as the sums are, so that outputs are not all at a limit.
        let size = (count / channels) as f32;
        let op = Conv {
            window,
            groups,
            weights: (0..count).map(|_| self.random.next() as i8).collect(),
            weight_zero_points: match self.random.within(0, 9) {
                0 => vec![self.random.next() as i8],
                1 => (0..channels).map(|_| self.random.next() as i8).collect(),
                _ => vec![],
            },
            scales: (0..scales).map(|_| self.random.real(0.0005, 0.02) / size.sqrt()).collect(),
            bias: if self.random.chance(4) {
                Vec::new()
            } else {
                (0..channels).map(|_| self.random.next() as i32 >> 17).collect()
            },
            range: self.random.range(),
        };
        let out = Dims { c: channels, ..after(&window, dims) };
        Some(self.add(Op::Conv(op), &[input], out, false))
    }

    fn step(&mut self, input: ValueId) -> Option<ValueId> {
        let dims = self.dims(input);
        let Dims { n, h, w, c } = dims;
        match self.random.within(0, 15) {
            0..=3 => self.conv(input, false),
            4..=6 => self.conv(input, true),
            7 => {
                let range = self.random.range();
                let op = match self.random.within(0, 4) {
                    0 | 1 => Op::Add(range),
                    2 | 3 => Op::Mul(range),
                    _ => Op::SquaredDifference,
                };
                let small = |random: &mut Random, size: usize| if random.chance(3) { 1 } else { size };
                let second = match self.random.within(0, 2) {
                    0 => input,
                    1 => self.add(
                        Op::Table(Box::new(std::array::from_fn(|i| (i as u8).wrapping_mul(31)))),
                        &[input],
                        dims,
                        false,
                    ),
                    _ => {
                        let of = Dims::new(
                            small(self.random, n),
                            small(self.random, h),
                            small(self.random, w),
                            small(self.random, c),
                        );
                        let quantization = self.random.quantization();
                        let value = self.graph.value("constant", of, quantization);
                        let bytes = (0..of.elements()?).map(|_| self.random.next() as u8).collect();
                        self.graph.values[value.0].constant = Some(bytes);
                        value
                    }
                };
                Some(self.add(op, &[input, second], dims, false))
            }
            8 => {
                let (op, transposed) = (self.random.range(), self.random.chance(2));
                let columns = self.random.within(1, 40);
                let batched = self.random.chance(2);
                let (n2, h2) = if batched { (n, h) } else { (1, 1) };
                let of = if transposed { Dims::new(n2, h2, columns, c) } else { Dims::new(n2, h2, c, columns) };
                let quantization = self.random.quantization();
                let second = self.graph.value("matrix", of, quantization);
                let bytes = (0..of.elements()?).map(|_| self.random.next() as u8).collect();
                self.graph.values[second.0].constant = Some(bytes);
                Some(self.add(
                    Op::MatMul { transposed, range: op },
                    &[input, second],
                    Dims { c: columns, ..dims },
                    false,
                ))
            }
            9 => {
                let axis = self.random.within(0, 3);
                let other = self.add(Op::Table(Box::new(std::array::from_fn(|i| !(i as u8)))), &[input], dims, false);
                let mut sizes = dims.array();
                sizes[axis] *= 2;
                let [n, h, w, c] = sizes;
                Some(self.add(Op::Concat { axis }, &[input, other], Dims::new(n, h, w, c), false))
            }
            10 => {
                let window = Window { dilation: [1, 1], ..self.random.window(h, w)? };
                let out = after(&window, dims);
                if self.random.chance(2) {
                    return Some(self.add(Op::MaxPool(window), &[input], out, true));
                }
                let include_pads = self.random.chance(2);
                Some(self.add(Op::AveragePool { window, include_pads }, &[input], out, false))
            }
            11 => {
                let factor = [self.random.within(1, 2), self.random.within(1, 3)];
                Some(self.add(Op::Upsample { factor }, &[input], Dims::new(n, h * factor[0], w * factor[1], c), true))
            }
            12 => Some(self.add(Op::Softmax, &[input], dims, false)),
            13 => {
                let out = self.random.one_of(&[
                    Dims::new(n, 1, h * w, c),
                    Dims::new(n, h, 1, w * c),
                    Dims::new(1, n, h * c, w),
                ]);
                Some(self.add(Op::Reshape, &[input], out, true))
            }
            14 => {
                let axes = self.random.one_of(&[[0, 1, 2, 3], [0, 3, 1, 2], [0, 2, 1, 3], [3, 2, 1, 0], [0, 2, 3, 1]]);
                let [n, h, w, c] = axes.map(|axis| dims.array()[axis]);
                Some(self.add(Op::Transpose { axes }, &[input], Dims::new(n, h, w, c), true))
            }
            _ => {
                if self.random.chance(2) {
                    let before = [0, self.random.within(0, 2), self.random.within(0, 2), self.random.within(0, 3)];
                    let out = Dims::new(n, h + before[1] + 1, w + before[2], c + before[3] + 2);
                    return Some(self.add(Op::Pad { before }, &[input], out, true));
                }
                let start =
                    [0, self.random.within(0, h - 1), self.random.within(0, w - 1), self.random.within(0, c - 1)];
                let step = [1, self.random.within(1, 2), 1, self.random.within(1, 3)];
                let left = |axis: usize| (dims.array()[axis] - start[axis]).div_ceil(step[axis]);
                let out = Dims::new(n, left(1), left(2), left(3));
                Some(self.add(Op::Slice { start, step }, &[input], out, true))
            }
        }
    }
}

fn port(random: &mut Random, value: ValueId) -> Port {
    Port {
        value,
        element: random.one_of(&[Element::U8, Element::I8, Element::F32]),
        order: random.one_of(&[Port::CHANNELS_LAST, Port::CHANNELS_FIRST, [0, 2, 1, 3]]),
    }
}

fn graph(random: &mut Random) -> Graph {
    let mut growing = Growing { random, graph: Graph::default() };
    let channels = growing.random.channels();
    let n = if growing.random.chance(6) { 2 } else { 1 };
    let dims = Dims::new(n, growing.random.within(1, 12), growing.random.within(1, 17), channels);
    let quantization = growing.random.quantization();
    let mut value = growing.graph.value("input", dims, quantization);
    let input = port(growing.random, value);
    growing.graph.inputs.push(input);
    for _ in 0..growing.random.within(1, 5) {
        let Some(next) = growing.step(value) else { continue };
        let kept = growing.dims(next).elements().is_some_and(|n| n > 0 && n < 60_000);
        if growing.random.chance(6) && growing.graph.outputs.iter().all(|port| port.value != value) && kept {
            let output = port(growing.random, value);
            growing.graph.outputs.push(output);
        }
        value = next;
        if !kept {
            break;
        }
    }
    let output = port(growing.random, value);
    growing.graph.outputs.push(output);
    growing.graph
}

fn data(random: &mut Random, graph: &Graph) -> Vec<Data> {
    let of = |port: &Port| {
        let count = graph.values[port.value.0].dims.elements().expect("small");
        match port.element {
            Element::U8 => Data::U8((0..count).map(|_| random.next() as u8).collect()),
            Element::I8 => Data::I8((0..count).map(|_| random.next() as i8).collect()),
            Element::F32 => {
                let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 1e30];
                let one = |random: &mut Random| {
                    if random.chance(50) { random.one_of(&special) } else { random.real(-20.0, 20.0) }
                };
                Data::F32((0..count).map(|_| one(random)).collect())
            }
        }
    };
    graph.inputs.iter().map(of).collect()
}

fn bytes(data: &Data) -> Vec<u8> {
    match data {
        Data::U8(bytes) => bytes.clone(),
        Data::I8(bytes) => bytes.iter().map(|byte| *byte as u8).collect(),
        Data::F32(reals) => reals.iter().flat_map(|real| real.to_ne_bytes()).collect(),
    }
}

fn case(seed: u64, isa: &str, threads: usize) {
    let mut random = Random(seed);
    let graph = graph(&mut random);
    let options = Options { isa: Some(isa.to_owned()), threads, products_min: Some(0) };
    let program = Program::compile(&graph, &options).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    let mut session = program.session();
    // The second run finds what the first has left behind.
    for _ in 0..2 {
        let inputs = data(&mut random, &graph);
        let expected: Vec<Vec<u8>> = reference::run(&graph, &inputs).iter().map(bytes).collect();
        let inputs: Vec<Vec<u8>> = inputs.iter().map(bytes).collect();
        let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
        let mut outputs: Vec<Vec<u8>> = program.output_bytes().map(|n| vec![0xaa; n]).collect();
        let mut slices: Vec<&mut [u8]> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
        program.run(&mut session, &inputs, &mut slices).expect("fits");
        if outputs != expected {
            let nodes: Vec<String> = graph
                .nodes
                .iter()
                .map(|node| {
                    let dims = |id: &ValueId| graph.values[id.0].dims.array();
                    let of: Vec<_> = node.inputs.iter().map(dims).collect();
                    let window = match &node.op {
                        Op::Conv(conv) => format!("{:?} groups {}", conv.window, conv.groups),
                        Op::Reshape | Op::Table(_) => String::new(),
                        op => format!("{op:?}"),
                    };
                    format!("{} {of:?} -> {:?} {window}", node.name, dims(&node.output))
                })
                .collect();
            let places: Vec<Vec<(usize, u8, u8)>> = outputs
                .iter()
                .zip(&expected)
                .map(|(a, b)| (0..a.len()).filter(|i| a[*i] != b[*i]).take(8).map(|i| (i, a[i], b[i])).collect())
                .collect();
            panic!("seed {seed} on {isa}: {nodes:#?} outputs {:?} differ at {places:?}", graph.outputs);
        }
    }
}

#[test]
#[allow(clippy::print_stdout, reason = "a run says what it has covered")]
fn every_instruction_set_computes_what_the_reference_says() {
    if let Ok(seed) = std::env::var("SEDGE_ENGINE_SEED") {
        let seed = seed.parse().expect("a number");
        isas().into_iter().rev().for_each(|isa| case(seed, isa, 1));
        return;
    }
    for isa in isas().into_iter().rev() {
        (0..CASES).for_each(|seed| case(seed, isa, 1));
        println!("{isa}: {CASES} graphs");
    }
}

#[test]
fn threads_change_no_byte() {
    for seed in 0..CASES / 10 {
        isas().iter().for_each(|isa| case(seed, isa, 3));
    }
}
