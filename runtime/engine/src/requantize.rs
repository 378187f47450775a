//! From sums back to bytes: the arithmetic that every kernel repeats exactly.

use crate::graph::{Conv, Quantization, Range};

/// `clamp(round_half_even(sum * multiplier) + zero_point)`, all in f32 up to the rounding.
pub(crate) fn requantize(sum: i32, multiplier: f32, zero_point: u8, range: Range) -> u8 {
    finish(sum as f32 * multiplier, zero_point, range)
}

/// Rounds, shifts and limits. What is no number becomes the zero point.
pub(crate) fn finish(real: f32, zero_point: u8, range: Range) -> u8 {
    // A cast saturates: infinity comes out as the largest i64.
    let shifted = (real.round_ties_even() as i64).saturating_add(zero_point.into());
    shifted.clamp(range.low.into(), range.high.into()) as u8
}

/// What turns a convolution's sums into steps of its output, for each output channel: ONNX Runtime's order of
/// operations.
pub(crate) fn conv_multipliers(op: &Conv, input_scale: f32, output_scale: f32, channels: usize) -> Vec<f32> {
    let scale = |channel: usize| if op.scales.len() == 1 { op.scales[0] } else { op.scales[channel] };
    (0..channels).map(|channel| input_scale * scale(channel) / output_scale).collect()
}

/// Of a product of two tensors.
pub(crate) fn mul_multiplier(one: f32, two: f32, output: f32) -> f32 {
    one * two / output
}

/// Of the sum over a window.
pub(crate) fn average_multiplier(input: f32, output: f32, count: usize) -> f32 {
    input / (output * count as f32)
}

/// How much of the output's step each summand's step is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct AddScales {
    pub(crate) one: f32,
    pub(crate) two: f32,
}

impl AddScales {
    pub(crate) fn new(one: f32, two: f32, output: f32) -> Self {
        Self { one: one / output, two: two / output }
    }

    pub(crate) fn add(self, a: i32, b: i32, zero_point: u8, range: Range) -> u8 {
        finish(a as f32 * self.one + b as f32 * self.two, zero_point, range)
    }

    /// Of a square: how much of the root of the output's step each side's step is.
    pub(crate) fn of_square(one: f32, two: f32, output: f32) -> Self {
        Self::new(one, two, output.sqrt())
    }

    pub(crate) fn squared_difference(self, a: i32, b: i32, zero_point: u8) -> u8 {
        let difference = a as f32 * self.one - b as f32 * self.two;
        finish(difference * difference, zero_point, Range::FULL)
    }
}

/// QuantizeLinear: round half to even on the quantized value, saturating.
pub fn quantize(real: f32, to: Quantization) -> u8 {
    finish(real / to.scale, to.zero_point, Range::FULL)
}

/// DequantizeLinear.
pub fn dequantize(byte: u8, from: Quantization) -> f32 {
    (i32::from(byte) - i32::from(from.zero_point)) as f32 * from.scale
}

/// One quantization as another, by byte.
pub fn table(from: Quantization, to: Quantization) -> [u8; 256] {
    std::array::from_fn(|byte| if from == to { byte as u8 } else { quantize(dequantize(byte as u8, from), to) })
}

/// The exponential of each distance from the largest byte, as a whole number of `2^-EXPONENT` steps: sums of them are exact,
/// so their order does not matter.
#[derive(Debug, Clone)]
pub(crate) struct Exponentials(pub(crate) Box<[u32; 256]>);

impl Exponentials {
    /// So many pixels' channels have sums that fit 32 bits.
    pub(crate) const SUMMED: usize = 256;
    /// Each step then counts less than a ten-thousandth of an output's, and each number is exact in f32.
    const EXPONENT: i32 = 23;

    pub(crate) fn new(scale: f32) -> Self {
        let steps = |distance: usize| {
            let exponential = (-f64::from(scale) * distance as f64).exp();
            (exponential * 2_f64.powi(Self::EXPONENT)).round() as u32
        };
        Self(Box::new(std::array::from_fn(steps)))
    }

    /// What turns steps into those of the output, where the exponentials add up to `total`.
    pub(crate) fn multiplier(total: u64, scale: f32) -> f32 {
        (1.0 / (total as f64 * f64::from(scale))) as f32
    }
}
