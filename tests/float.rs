//! Float operators of our own inside tract: they compute what tract does, up to the order in which a sum is rounded.

use sedge_runtime::api::{ElementType, Tensor};
use sedge_runtime::model::Engine;
use sedge_runtime::{Model, ModelError, ModelOptions};
use sedge_tests::quantized::{Builder, Setting, Type};
use std::time::Duration;

/// Sums of at most 49 products below one: each is rounded by half of 2⁻²⁴ of it.
const TOLERANCE: f32 = 1e-5;

/// A depthwise convolution.
#[derive(Debug, Clone, Copy)]
struct Case {
    channels: i64,
    size: [i64; 2],
    kernel: [i64; 2],
    stride: [i64; 2],
    dilation: [i64; 2],
    /// Top, left, bottom, right.
    pads: [i64; 4],
    /// `Clip` after it; `Relu` where only the first is there.
    limits: Option<(f32, Option<f32>)>,
    channels_last: bool,
}

const PLAIN: Case = Case {
    channels: 5,
    size: [9, 11],
    kernel: [3, 3],
    stride: [1, 1],
    dilation: [1, 1],
    pads: [1, 1, 1, 1],
    limits: None,
    channels_last: false,
};

/// The same numbers in every run, from -1 to 1.
fn numbers(count: i64, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

impl Case {
    fn input(&self) -> [i64; 4] {
        let [h, w] = self.size;
        if self.channels_last { [1, h, w, self.channels] } else { [1, self.channels, h, w] }
    }

    fn model(&self) -> Vec<u8> {
        let mut b = Builder::default();
        let mut x = b.input("x", Type::F32, &self.input());
        if self.channels_last {
            x = b.node("Transpose", &[&x], &[Setting::Ints("perm", &[0, 3, 1, 2])]);
        }
        let Self { channels, kernel, stride, dilation, pads, .. } = *self;
        let weights = b.f32s(&[channels, 1, kernel[0], kernel[1]], &numbers(channels * kernel[0] * kernel[1], 2));
        let bias = b.f32s(&[channels], &numbers(channels, 3));
        let settings = [
            Setting::Ints("kernel_shape", &kernel),
            Setting::Ints("strides", &stride),
            Setting::Ints("dilations", &dilation),
            Setting::Ints("pads", &pads),
            Setting::Int("group", channels),
        ];
        let mut y = b.node("Conv", &[&x, &weights, &bias], &settings);
        y = match self.limits {
            None => y,
            Some((_, None)) => b.node("Relu", &[&y], &[]),
            Some((low, Some(high))) => {
                let (low, high) = (b.f32s(&[], &[low]), b.f32s(&[], &[high]));
                b.node("Clip", &[&y, &low, &high], &[])
            }
        };
        // Something after it, so that the limits are not the graph's output.
        let half = b.f32s(&[], &[0.5]);
        if self.channels_last {
            y = b.node("Transpose", &[&y], &[Setting::Ints("perm", &[0, 2, 3, 1])]);
        }
        b.named("Mul", &[&y, &half], &["y"], &[]);
        let out = |axis: usize| {
            let reach = (kernel[axis] - 1) * dilation[axis] + 1;
            (self.size[axis] + pads[axis] + pads[axis + 2] - reach) / stride[axis] + 1
        };
        let [h, w] = [out(0), out(1)];
        b.output("y", Type::F32, &if self.channels_last { [1, h, w, channels] } else { [1, channels, h, w] });
        b.model(13)
    }

    fn load(&self, engine: Engine) -> Model {
        let options = ModelOptions { engine, ..ModelOptions::default() };
        Model::load(&self.model(), &options).unwrap_or_else(|e| panic!("{self:?}: {e}"))
    }

    fn tensor(&self, values: &[f32]) -> Tensor {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let shape = self.input().iter().map(|size| *size as u32).collect();
        Tensor { name: "x".into(), ty: ElementType::Float32, shape, data }
    }
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

#[test]
fn depthwise_convolutions_are_what_tract_computes() {
    let mut cases = vec![PLAIN];
    for channels_last in [false, true] {
        let plain = Case { channels_last, ..PLAIN };
        cases.extend([
            Case { limits: Some((0.0, None)), ..plain },
            Case { limits: Some((-0.25, Some(0.5))), ..plain },
            Case { stride: [2, 2], size: [14, 14], pads: [0, 0, 1, 1], channels: 45, ..plain },
            Case { stride: [2, 2], size: [15, 13], channels: 32, ..plain },
            Case { stride: [2, 1], kernel: [5, 3], pads: [2, 1, 2, 1], ..plain },
            Case { stride: [3, 3], kernel: [5, 5], size: [17, 19], pads: [2, 0, 1, 3], ..plain },
            Case { dilation: [2, 3], size: [20, 21], pads: [2, 3, 2, 3], ..plain },
            Case { dilation: [2, 2], stride: [2, 2], size: [20, 21], pads: [0; 4], ..plain },
            Case { kernel: [7, 7], size: [7, 7], pads: [3; 4], channels: 33, ..plain },
            Case { kernel: [7, 7], size: [7, 7], pads: [0; 4], channels: 2, ..plain },
            Case { kernel: [1, 3], size: [3, 200], pads: [0, 1, 0, 1], ..plain },
            // A row that is longer than what is summed up at once.
            Case { size: [3, 3000], channels: 2, ..plain },
            Case { size: [56, 56], channels: 64, ..plain },
        ]);
    }
    for (seed, case) in cases.iter().enumerate() {
        let input = case.tensor(&numbers(case.input().iter().product(), 10 + seed as u32));
        let run = |model: &mut Model| floats(&model.run(&[input.view()]).expect("it runs")[0]);
        let (mut ours, mut theirs) = (case.load(Engine::Fused), case.load(Engine::Tract));
        let (found, expected) = (run(&mut ours), run(&mut theirs));
        assert_eq!(found.len(), expected.len(), "{case:?}");
        for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert!((found - expected).abs() <= TOLERANCE, "{case:?}: {found} and not {expected} at {at}");
        }
        let layers = ours.layers(&[input.view()], Duration::ZERO).expect("it runs").layers;
        let layer = layers.iter().find(|layer| layer.operator == "SedgeDepthwise");
        let layer = layer.unwrap_or_else(|| panic!("{case:?} is left to tract: {layers:?}"));
        let outputs: usize = layer.shape.iter().product();
        assert_eq!(layer.products, outputs as u64 * (case.kernel[0] * case.kernel[1]) as u64, "{case:?}");
        let limited = |name: &str| layers.iter().any(|layer| layer.operator.contains(name));
        assert!(!limited("Max") && !limited("Min"), "the limits are a step of their own: {layers:?}");
    }
}

#[test]
fn several_threads_compute_the_same() {
    for channels_last in [false, true] {
        let case = Case { size: [64, 64], channels: 32, limits: Some((0.0, None)), channels_last, ..PLAIN };
        let input = case.tensor(&numbers(case.input().iter().product(), 4));
        let of = |threads| {
            let options = ModelOptions { threads, ..ModelOptions::default() };
            let mut model = Model::load(&case.model(), &options).expect("it loads");
            model.run(&[input.view()]).expect("it runs").remove(0).data
        };
        assert_eq!(of(1), of(3));
    }
}

#[test]
fn a_value_that_is_no_number_does_not_become_one() {
    let case = Case { limits: Some((0.0, Some(6.0))), ..PLAIN };
    let mut values = numbers(case.input().iter().product(), 5);
    values[100] = f32::NAN;
    let error = case.load(Engine::Fused).run(&[case.tensor(&values).view()]).expect_err("it is no number");
    assert!(matches!(&error, ModelError::NotANumber { .. }), "{error}");
}
