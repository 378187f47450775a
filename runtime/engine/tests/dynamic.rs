//! Dynamically quantized layers on every instruction set: each bit of each output as plain arithmetic says.

use sedge_engine::{
    Dims, Dynamic, DynamicLayer, DynamicProgram, GraphError, Options, Pads, Port, Problem, RunError, Window, isas,
};

const POINT: Window =
    Window { kernel: [1, 1], stride: [1, 1], dilation: [1, 1], pads: Pads { top: 0, left: 0, bottom: 0, right: 0 } };

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        self.0 >> 33
    }

    fn within(&mut self, low: usize, high: usize) -> usize {
        low + self.next() as usize % (high - low + 1)
    }

    fn real(&mut self) -> f32 {
        (self.next() % 20_001) as f32 / 1000.0 - 10.0
    }
}

/// Scale, zero point and bytes of DynamicQuantizeLinear.
fn quantized(x: &[f32]) -> (f32, i32, Vec<i32>) {
    let low = x.iter().copied().fold(0.0, f32::min);
    let high = x.iter().copied().fold(0.0, f32::max);
    let scale = if low == high { 1.0 } else { (high - low) / 255.0 };
    let zero = (0.0 - low / scale).round_ties_even().clamp(0.0, 255.0) as i32;
    let byte = |value: &f32| ((value / scale).round_ties_even() as i32 + zero).clamp(0, 255);
    (scale, zero, x.iter().map(byte).collect())
}

/// Where an element lies in memory.
fn place(order: [usize; 4], dims: Dims, at: [usize; 4]) -> usize {
    order.iter().fold(0, |place, axis| place * dims.array()[*axis] + at[*axis])
}

fn swept(window: &Window, input: Dims, channels: usize) -> Dims {
    let along = |size: usize, pads: usize, axis: usize| {
        (size + pads - (window.kernel[axis] - 1) * window.dilation[axis] - 1) / window.stride[axis] + 1
    };
    let Pads { top, left, bottom, right } = window.pads;
    Dims::new(input.n, along(input.h, top + bottom, 0), along(input.w, left + right, 1), channels)
}

fn expected(dynamic: &Dynamic, layer: &DynamicLayer, x: &[f32]) -> Vec<f32> {
    let (scale, zero, bytes) = quantized(x);
    let (input, window) = (dynamic.input, &layer.window);
    let out = swept(window, input, layer.channels);
    let (per_group, out_per_group) = (input.c / layer.groups, out.c / layer.groups);
    let one = |all: &[f32], c: usize| if all.len() == 1 { all[0] } else { all[c] };
    let mut result = vec![f32::NAN; out.elements().expect("small")];
    for n in 0..out.n {
        for h in 0..out.h {
            for w in 0..out.w {
                for c in 0..out.c {
                    let mut sum = 0_i32;
                    let mut index = c * window.kernel[0] * window.kernel[1] * per_group;
                    let weight_zero = match layer.weight_zero_points.as_slice() {
                        [] => 0,
                        [one] => i32::from(*one),
                        each => i32::from(each[c]),
                    };
                    for row in 0..window.kernel[0] {
                        for column in 0..window.kernel[1] {
                            let y = (h * window.stride[0] + row * window.dilation[0]).wrapping_sub(window.pads.top);
                            let x = (w * window.stride[1] + column * window.dilation[1]).wrapping_sub(window.pads.left);
                            for k in 0..per_group {
                                if y < input.h && x < input.w {
                                    let at = [n, y, x, c / out_per_group * per_group + k];
                                    let byte = bytes[place(dynamic.order, input, at)];
                                    sum += (byte - zero) * (i32::from(layer.weights[index]) - weight_zero);
                                }
                                index += 1;
                            }
                        }
                    }
                    let product = sum as f32 * (scale * one(&layer.scales, c));
                    let bias = if layer.bias.is_empty() { -0.0 } else { layer.bias[c] };
                    result[place(dynamic.order, out, [n, h, w, c])] = product + bias;
                }
            }
        }
    }
    result
}

fn check(dynamic: &Dynamic, x: &[f32], threads: usize, what: &str) {
    let wanted: Vec<Vec<f32>> = dynamic.layers.iter().map(|layer| expected(dynamic, layer, x)).collect();
    for isa in isas() {
        let options = Options { isa: Some(isa.to_owned()), threads, products_min: Some(0) };
        let program = DynamicProgram::compile(dynamic, &options).expect("sound layers");
        let mut found: Vec<Vec<f32>> =
            program.outputs().map(|d| vec![f32::NAN; d.elements().expect("small")]).collect();
        let mut places: Vec<&mut [f32]> = found.iter_mut().map(Vec::as_mut_slice).collect();
        program.run(&mut program.session(), x, &mut places).expect("fits");
        for (layer, (found, wanted)) in dynamic.layers.iter().zip(found.iter().zip(&wanted)) {
            let bits = |all: &[f32]| all.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
            assert!(bits(found) == bits(wanted), "{what}: {} on {isa} with {threads} threads", layer.name);
        }
    }
}

fn layer(random: &mut Random, input: Dims, window: Window, groups: usize, channels: usize) -> DynamicLayer {
    let count = channels * window.kernel[0] * window.kernel[1] * input.c / groups;
    let each = random.within(0, 1) == 1;
    let zeros = [0, 1, channels][random.within(0, 2)];
    DynamicLayer {
        name: format!("{channels} of {groups} groups, {zeros} zero points"),
        channels,
        window,
        groups,
        weights: (0..count).map(|_| random.next() as i8).collect(),
        weight_zero_points: (0..zeros).map(|_| random.next() as i8).collect(),
        scales: (0..if each { channels } else { 1 }).map(|_| 0.01 + random.real().abs() / 100.0).collect(),
        bias: (0..[0, channels][random.within(0, 1)]).map(|_| random.real()).collect(),
    }
}

#[test]
fn every_instruction_set_computes_what_onnx_defines() {
    let cases = if cfg!(target_arch = "x86_64") { 60 } else { 12 };
    for seed in 0..cases {
        let random = &mut Random(seed);
        let dense = random.within(0, 1) == 0;
        let input = if dense {
            Dims::new(1, 1, random.within(1, 40), random.within(1, 200))
        } else {
            Dims::new(random.within(1, 2), random.within(3, 9), random.within(3, 9), 2 * random.within(1, 20))
        };
        let order = if dense { Port::CHANNELS_LAST } else { Port::CHANNELS_FIRST };
        let mut some = || {
            let channels = random.within(1, 80);
            if dense {
                return layer(random, input, POINT, 1, channels);
            }
            let pads = Pads { top: random.within(0, 2), left: 1, bottom: 0, right: random.within(0, 2) };
            let kernel = [random.within(1, 3), random.within(1, 3)];
            let window = Window { kernel, stride: [random.within(1, 2), 1], dilation: [1, 1], pads };
            let groups = [1, 2, input.c][random.within(0, 2)];
            // One output channel for each input channel is a case of its own.
            let channels = if groups == input.c && channels.is_multiple_of(2) { groups } else { channels };
            layer(random, input, window, groups, groups * channels.div_ceil(groups))
        };
        let layers = vec![some(), some()];
        let dynamic = Dynamic { name: "x".to_owned(), input, order, layers };
        let lift = [0.0, 10.0, -10.0, 3.0][random.within(0, 3)];
        let x: Vec<f32> = (0..input.elements().expect("small")).map(|_| random.real() + lift).collect();
        check(&dynamic, &x, 1 + seed as usize % 3, &format!("seed {seed}"));
    }
}

/// Products of two bytes whose sum leaves 16 bits, in every order of signs, and sums near the limit of an accumulator.
#[test]
fn the_largest_sums_are_exact() {
    let depth = 16_000;
    let input = Dims::new(1, 1, 7, depth);
    for (low, high) in [(0.0, 255.0), (-255.0, 0.0), (-127.0, 128.0)] {
        for (weight, zero) in [(-128, None), (127, None), (-128, Some(127)), (127, Some(-128)), (-127, Some(1))] {
            let zeros: Vec<i8> =
                zero.into_iter().flat_map(|zero| (0..20).map(move |c| if c % 3 == 0 { 0 } else { zero })).collect();
            let layer = DynamicLayer {
                name: format!("{weight} around {zero:?}"),
                channels: 20,
                window: POINT,
                groups: 1,
                weights: (0..20 * depth)
                    .map(|i| if i / depth % 4 == 3 && i % 2 == 1 { !weight } else { weight })
                    .collect(),
                weight_zero_points: zeros,
                scales: vec![1.0],
                bias: vec![],
            };
            let dynamic = Dynamic { name: "x".to_owned(), input, order: Port::CHANNELS_LAST, layers: vec![layer] };
            let x: Vec<f32> =
                (0..7 * depth).map(|i| if i / depth % 2 == 0 || i % 4 < 2 { high } else { low }).collect();
            check(&dynamic, &x, 1, &format!("{low} to {high}"));
        }
    }
}

#[test]
fn values_at_the_edge_of_a_scale() {
    let input = Dims::new(1, 1, 1, 8);
    let layer = layer(&mut Random(5), input, POINT, 1, 3);
    let dynamic = Dynamic { name: "x".to_owned(), input, order: Port::CHANNELS_LAST, layers: vec![layer] };
    for x in [
        [0.0; 8],
        [-0.0; 8],
        [5.0; 8],
        [-5.0; 8],
        [1.0, 2.0, 0.5, 1.5, 127.5, 126.5, 255.0, 0.0],
        [-2.5, 252.5, 1.5, 7.0, 0.0, -1.0, 3.0, 0.0],
        [1e-38; 8],
        [1.6e38, -1.6e38, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    ] {
        check(&dynamic, &x, 1, &format!("{x:?}"));
    }
    let program = DynamicProgram::compile(&dynamic, &Options::default()).expect("sound");
    let run = |x: [f32; 8]| program.run(&mut program.session(), &x, &mut [&mut [0.0; 3]]);
    for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = [1.0; 8];
        x[3] = wrong;
        assert_eq!(run(x), Err(RunError::NotFinite));
    }
    assert_eq!(run([f32::MAX, f32::MIN, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]), Err(RunError::NotFinite));
    // Too small for a scale: nothing is left of them, and nothing ends the process.
    run([f32::from_bits(1); 8]).expect("runs");
}

#[test]
fn what_does_not_fit_is_refused() {
    let input = Dims::new(1, 1, 4, 8);
    let sound = layer(&mut Random(1), input, POINT, 1, 3);
    let problem = |edit: &dyn Fn(&mut DynamicLayer)| {
        let mut layer = sound.clone();
        edit(&mut layer);
        let dynamic = Dynamic { name: "x".to_owned(), input, order: Port::CHANNELS_LAST, layers: vec![layer] };
        match DynamicProgram::compile(&dynamic, &Options::default()) {
            Err(sedge_engine::CompileError::Graph(GraphError { problem, .. })) => problem,
            other => panic!("compiles: {other:?}"),
        }
    };
    assert!(matches!(problem(&|l| l.weights.truncate(5)), Problem::Count { what: "weights", .. }));
    assert!(matches!(problem(&|l| l.bias = vec![0.0; 2]), Problem::Count { what: "bias", .. }));
    assert!(matches!(problem(&|l| l.weight_zero_points = vec![0; 2]), Problem::Count { .. }));
    assert!(matches!(problem(&|l| l.scales = vec![0.0]), Problem::Scale(_)));
    assert!(matches!(problem(&|l| l.groups = 3), Problem::Groups { .. }));
    assert!(matches!(problem(&|l| l.channels = 0), Problem::Size(_)));
    let program = DynamicProgram::compile(
        &Dynamic { name: "x".to_owned(), input, order: Port::CHANNELS_LAST, layers: vec![sound.clone()] },
        &Options::default(),
    )
    .expect("sound");
    let found = program.run(&mut program.session(), &[0.0; 31], &mut [&mut [0.0; 12]]);
    assert_eq!(found, Err(RunError::Bytes { what: "input", index: 0, found: 124, expected: 128 }));
    let found = program.run(&mut program.session(), &[0.0; 32], &mut [&mut [0.0; 11]]);
    assert_eq!(found, Err(RunError::Bytes { what: "output", index: 0, found: 44, expected: 48 }));
    let deep = Dims::new(1, 1, 1, 70_000);
    let layer = DynamicLayer {
        weights: vec![127; 70_000],
        channels: 1,
        bias: vec![],
        weight_zero_points: vec![],
        scales: vec![1.0],
        ..sound
    };
    let dynamic = Dynamic { name: "x".to_owned(), input: deep, order: Port::CHANNELS_LAST, layers: vec![layer] };
    let error = DynamicProgram::compile(&dynamic, &Options::default()).expect_err("too deep").to_string();
    assert!(error.contains("an accumulator holds"), "{error}");
}
