//! Loops over elements, written once and compiled for each instruction set: the compiler turns them into vectors.
//!
//! Bytes are as they lie in memory: exclusive-ored with `flip` they are in the unsigned domain.

use crate::graph::{Quantization, Range};
use crate::requantize::{AddScales, Exponentials};

/// Constants of a sum, a product or a squared difference of two tensors, in the unsigned domain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Binary {
    pub(crate) zero_one: u8,
    pub(crate) zero_two: u8,
    /// Of a product: the first. Else: both.
    pub(crate) scales: AddScales,
    pub(crate) zero_point: u8,
    pub(crate) range: Range,
    pub(crate) flip: u8,
}

/// The second operand of a row.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Second<'a> {
    /// As many as the first.
    Row(&'a [u8]),
    /// One for all.
    One(u8),
}

/// The extent of real values and 0, and whether one of them is no number.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Extent {
    pub(crate) low: f32,
    pub(crate) high: f32,
    pub(crate) nan: bool,
}

/// What sums of single channels have: a zero point that is taken away so many times (none where all are 0), and a
/// multiplier.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Channels<'a> {
    pub(crate) zeros: &'a [i32],
    pub(crate) times: i32,
    pub(crate) multipliers: &'a [f32],
}

/// What makes real values of them besides: what is taken away before, and what is added at the end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scaled<'a> {
    pub(crate) minus: &'a [i32],
    pub(crate) channels: Channels<'a>,
    pub(crate) bias: &'a [f32],
}

/// What a window's channels are multiplied with, each by itself: where its taps lie, and for each tap the weights of all
/// channels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taps<'a> {
    pub(crate) taps: &'a [usize],
    pub(crate) weights: &'a [i16],
    pub(crate) channels: usize,
    /// Of the bytes, and what they are exclusive-ored with.
    pub(crate) zero_point: u8,
    pub(crate) flip: u8,
}

/// Zero point, what bytes are exclusive-ored with, and limits.
pub(crate) type Shift = ((u8, u8), Range);

/// Adds bytes, once they are exclusive-ored, to a sum.
pub(crate) type Total = fn(&[u8], &mut i32, u8);

/// The loops.
#[derive(Debug)]
pub(crate) struct Elementwise {
    pub(crate) add: fn(&[u8], Second<'_>, &mut [u8], &Binary),
    pub(crate) mul: fn(&[u8], Second<'_>, &mut [u8], &Binary),
    pub(crate) squared_difference: fn(&[u8], Second<'_>, &mut [u8], &Binary),
    pub(crate) table: fn(&[u8], &mut [u8], &[u8; 256]),
    /// The larger of each pair, into the second.
    pub(crate) max: fn(&[u8], &mut [u8], u8),
    /// Adds bytes (unsigned domain) to sums.
    pub(crate) accumulate: fn(&[u8], &mut [i32], u8),
    /// Adds all bytes (unsigned domain) to one sum.
    pub(crate) total: Total,
    /// Over one pixel's channels.
    pub(crate) softmax: fn(&[u8], &mut [u8], &Exponentials, Quantization, u8),
    /// Sums with something added, times a multiplier, as bytes.
    pub(crate) requantize: fn(&[i32], &mut [u8], i32, f32, Shift),
    /// Sums less their zero points, each times one number, times a multiplier of its own, as bytes.
    pub(crate) requantize_each: fn(&[i32], &mut [u8], &Channels<'_>, Shift),
    pub(crate) quantize: fn(&[f32], &mut [u8], Quantization, u8),
    pub(crate) dequantize: fn(&[u8], &mut [f32], Quantization, u8),
    pub(crate) extent: fn(&[f32], &mut Extent),
    /// Adds the products of neighbouring channels to their sums.
    pub(crate) taps: fn(&[u8], &mut [i32], &Taps<'_>),
    pub(crate) scale: fn(&[i32], &mut [f32], &Scaled<'_>),
}

/// Rounds to the nearest, ties to even, shifts and limits; what is no number becomes the zero point.
#[inline(always)]
fn byte(real: f32, zero_point: i32, low: i32, high: i32) -> u8 {
    let shifted = if cfg!(target_arch = "aarch64") {
        // The instruction saturates by itself, and takes what is no number to 0.
        (real.round_ties_even() as i32).saturating_add(zero_point)
    } else {
        // Beyond these limits nothing changes; within them the cast is exact.
        let real = if real.is_nan() { 0.0 } else { real.clamp(-1024.0, 1024.0).round_ties_even() };
        // SAFETY: a number between -1024 and 1024.
        unsafe { real.to_int_unchecked::<i32>() + zero_point }
    };
    shifted.max(low).min(high) as u8
}

/// Each pair of elements, less their zero points, as a real number in steps of the output, and that as a byte.
#[inline(always)]
fn pairs(one: &[u8], two: Second<'_>, out: &mut [u8], of: &Binary, real: impl Fn(i32, i32) -> f32) {
    let (za, zb, flip) = (i32::from(of.zero_one), i32::from(of.zero_two), of.flip);
    let (zero_point, low, high) = (i32::from(of.zero_point), i32::from(of.range.low), i32::from(of.range.high));
    let result = |a: u8, b: i32| byte(real(i32::from(a ^ flip) - za, b), zero_point, low, high) ^ flip;
    match two {
        Second::Row(two) => {
            for ((a, b), out) in one.iter().zip(two).zip(out) {
                *out = result(*a, i32::from(b ^ flip) - zb);
            }
        }
        Second::One(b) => {
            let b = i32::from(b ^ flip) - zb;
            for (a, out) in one.iter().zip(out) {
                *out = result(*a, b);
            }
        }
    }
}

#[inline(always)]
fn add_loop(one: &[u8], two: Second<'_>, out: &mut [u8], of: &Binary) {
    let (sa, sb) = (of.scales.one, of.scales.two);
    pairs(one, two, out, of, |a, b| a as f32 * sa + b as f32 * sb);
}

#[inline(always)]
fn mul_loop(one: &[u8], two: Second<'_>, out: &mut [u8], of: &Binary) {
    let scale = of.scales.one;
    pairs(one, two, out, of, |a, b| (a * b) as f32 * scale);
}

#[inline(always)]
fn squared_difference_loop(one: &[u8], two: Second<'_>, out: &mut [u8], of: &Binary) {
    let (sa, sb) = (of.scales.one, of.scales.two);
    pairs(one, two, out, of, |a, b| {
        let difference = a as f32 * sa - b as f32 * sb;
        difference * difference
    });
}

#[inline(always)]
fn table_loop(x: &[u8], out: &mut [u8], table: &[u8; 256]) {
    for (x, out) in x.iter().zip(out) {
        *out = table[usize::from(*x)];
    }
}

#[inline(always)]
fn max_loop(x: &[u8], out: &mut [u8], flip: u8) {
    for (x, out) in x.iter().zip(out) {
        *out = (*x ^ flip).max(*out ^ flip) ^ flip;
    }
}

#[inline(always)]
fn accumulate_loop(x: &[u8], sums: &mut [i32], flip: u8) {
    for (x, sum) in x.iter().zip(sums) {
        *sum += i32::from(*x ^ flip);
    }
}

#[inline(always)]
fn total_loop(x: &[u8], sum: &mut i32, flip: u8) {
    *sum += x.iter().map(|byte| i32::from(byte ^ flip)).sum::<i32>();
}

#[inline(always)]
fn softmax_loop(x: &[u8], out: &mut [u8], exponentials: &Exponentials, to: Quantization, flip: u8) {
    let steps = &*exponentials.0;
    let largest = x.iter().fold(0, |largest: u8, byte| largest.max(byte ^ flip));
    let of = |byte: u8| steps[usize::from(largest - (byte ^ flip))];
    let total = |x: &[u8]| u64::from(x.iter().map(|byte| of(*byte)).sum::<u32>());
    let multiplier = Exponentials::multiplier(x.chunks(Exponentials::SUMMED).map(total).sum(), to.scale);
    for (x, out) in x.iter().zip(out) {
        *out = byte(of(*x) as i32 as f32 * multiplier, to.zero_point.into(), 0, 255) ^ flip;
    }
}

#[inline(always)]
fn requantize_loop(sums: &[i32], out: &mut [u8], plus: i32, multiplier: f32, ((zero_point, flip), range): Shift) {
    for (sum, out) in sums.iter().zip(out) {
        *out = byte((sum + plus) as f32 * multiplier, zero_point.into(), range.low.into(), range.high.into()) ^ flip;
    }
}

#[inline(always)]
fn requantize_each_loop(sums: &[i32], out: &mut [u8], of: &Channels<'_>, ((zero_point, flip), range): Shift) {
    for (((sum, out), zero), multiplier) in sums.iter().zip(out).zip(of.zeros).zip(of.multipliers) {
        // Parts may leave an i32 where the whole does not.
        let sum = sum.wrapping_sub(zero.wrapping_mul(of.times));
        *out = byte(sum as f32 * multiplier, zero_point.into(), range.low.into(), range.high.into()) ^ flip;
    }
}

#[inline(always)]
fn quantize_loop(x: &[f32], out: &mut [u8], to: Quantization, flip: u8) {
    for (x, out) in x.iter().zip(out) {
        *out = byte(x / to.scale, to.zero_point.into(), 0, 255) ^ flip;
    }
}

#[inline(always)]
fn dequantize_loop(x: &[u8], out: &mut [f32], from: Quantization, flip: u8) {
    let zero_point = i32::from(from.zero_point);
    for (x, out) in x.iter().zip(out) {
        *out = (i32::from(*x ^ flip) - zero_point) as f32 * from.scale;
    }
}

#[inline(always)]
fn extent_loop(x: &[f32], extent: &mut Extent) {
    const LANES: usize = 32;
    let (mut low, mut high, mut nan) = ([0.0_f32; LANES], [0.0_f32; LANES], [false; LANES]);
    let mut take = |x: &[f32]| {
        for (i, x) in x.iter().enumerate() {
            low[i] = if *x < low[i] { *x } else { low[i] };
            high[i] = if *x > high[i] { *x } else { high[i] };
            nan[i] |= x.is_nan();
        }
    };
    let (whole, rest) = x.as_chunks::<LANES>();
    whole.iter().for_each(|x| take(x));
    take(rest);
    extent.low = low.into_iter().fold(extent.low, f32::min);
    extent.high = high.into_iter().fold(extent.high, f32::max);
    extent.nan |= nan.contains(&true);
}

#[inline(always)]
fn taps_loop(window: &[u8], sums: &mut [i32], of: &Taps<'_>) {
    let (zero_point, count) = (i32::from(of.zero_point), sums.len());
    for (tap, offset) in of.taps.iter().enumerate() {
        let (x, weights) = (&window[*offset..][..count], &of.weights[tap * of.channels..][..count]);
        for ((sum, x), weight) in sums.iter_mut().zip(x).zip(weights) {
            *sum += (i32::from(x ^ of.flip) - zero_point) * i32::from(*weight);
        }
    }
}

#[inline(always)]
fn scale_loop(sums: &[i32], out: &mut [f32], of: &Scaled<'_>) {
    let Channels { zeros, times, multipliers } = of.channels;
    // Parts may leave an i32 where the whole does not.
    let each = sums.iter().zip(out).zip(of.minus).zip(multipliers.iter().zip(of.bias));
    if zeros.is_empty() {
        for (((sum, out), minus), (multiplier, bias)) in each {
            *out = sum.wrapping_sub(*minus) as f32 * multiplier + bias;
        }
        return;
    }
    for ((((sum, out), minus), (multiplier, bias)), zero) in each.zip(zeros) {
        let sum = sum.wrapping_sub(*minus).wrapping_sub(zero.wrapping_mul(times));
        *out = sum as f32 * multiplier + bias;
    }
}

macro_rules! compiled_for {
    ($name:ident, $module:ident, $($feature:literal)?) => {
        pub(crate) const $name: Elementwise = Elementwise {
            add: $module::add,
            mul: $module::mul,
            squared_difference: $module::squared_difference,
            table: $module::table,
            max: $module::max,
            accumulate: $module::accumulate,
            total: $module::total,
            softmax: $module::softmax,
            requantize: $module::requantize,
            requantize_each: $module::requantize_each,
            quantize: $module::quantize,
            dequantize: $module::dequantize,
            extent: $module::extent,
            taps: $module::taps,
            scale: $module::scale,
        };
        mod $module {
            use super::*;
            compiled_for!(@ $($feature)?, add, add_loop, (one: &[u8], two: Second<'_>, out: &mut [u8], of: &Binary));
            compiled_for!(@ $($feature)?, mul, mul_loop, (one: &[u8], two: Second<'_>, out: &mut [u8], of: &Binary));
            compiled_for!(
                @ $($feature)?,
                squared_difference,
                squared_difference_loop,
                (one: &[u8], two: Second<'_>, out: &mut [u8], of: &Binary)
            );
            compiled_for!(@ $($feature)?, table, table_loop, (x: &[u8], out: &mut [u8], table: &[u8; 256]));
            compiled_for!(@ $($feature)?, max, max_loop, (x: &[u8], out: &mut [u8], flip: u8));
            compiled_for!(@ $($feature)?, accumulate, accumulate_loop, (x: &[u8], sums: &mut [i32], flip: u8));
            compiled_for!(@ $($feature)?, total, total_loop, (x: &[u8], sum: &mut i32, flip: u8));
            compiled_for!(
                @ $($feature)?,
                softmax,
                softmax_loop,
                (x: &[u8], out: &mut [u8], exponentials: &Exponentials, to: Quantization, flip: u8)
            );
            compiled_for!(
                @ $($feature)?,
                requantize,
                requantize_loop,
                (sums: &[i32], out: &mut [u8], plus: i32, multiplier: f32, shift: Shift)
            );
            compiled_for!(
                @ $($feature)?,
                requantize_each,
                requantize_each_loop,
                (sums: &[i32], out: &mut [u8], of: &Channels<'_>, shift: Shift)
            );
            compiled_for!(
                @ $($feature)?,
                quantize,
                quantize_loop,
                (x: &[f32], out: &mut [u8], to: Quantization, flip: u8)
            );
            compiled_for!(
                @ $($feature)?,
                dequantize,
                dequantize_loop,
                (x: &[u8], out: &mut [f32], from: Quantization, flip: u8)
            );
            compiled_for!(@ $($feature)?, extent, extent_loop, (x: &[f32], extent: &mut Extent));
            compiled_for!(@ $($feature)?, taps, taps_loop, (window: &[u8], sums: &mut [i32], of: &Taps<'_>));
            compiled_for!(@ $($feature)?, scale, scale_loop, (sums: &[i32], out: &mut [f32], of: &Scaled<'_>));
        }
    };
    (@ , $name:ident, $body:ident, ($($argument:ident: $ty:ty),*)) => {
        pub(super) fn $name($($argument: $ty),*) {
            $body($($argument),*);
        }
    };
    (@ $feature:literal, $name:ident, $body:ident, ($($argument:ident: $ty:ty),*)) => {
        pub(super) fn $name($($argument: $ty),*) {
            #[target_feature(enable = $feature)]
            fn compiled($($argument: $ty),*) {
                $body($($argument),*);
            }
            // SAFETY: reached only through kernels that were picked for a core that has these instructions.
            unsafe { compiled($($argument),*) }
        }
    };
}

compiled_for!(PORTABLE, portable,);
#[cfg(target_arch = "x86_64")]
compiled_for!(AVX512, avx512, "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni");
#[cfg(target_arch = "x86_64")]
compiled_for!(AVX2, avx2, "avx2");
