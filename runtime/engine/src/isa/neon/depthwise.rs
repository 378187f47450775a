//! Depthwise sums of sixteen neighbouring bytes: with plain NEON tap by tap, with dot products four taps at once.

use super::store::store;
use crate::isa::Lanes;
use std::arch::{aarch64::*, asm};

/// Tap by tap: two `smull` for sixteen products of 16 bits, four `saddw` to widen and add them.
pub(super) unsafe fn run(lanes: &Lanes<'_>) {
    // SAFETY: the caller vouches for the lanes.
    unsafe {
        match lanes.taps.len() {
            3 => run_of::<3>(lanes),
            9 => run_of::<9>(lanes),
            _ => run_of::<0>(lanes),
        }
    }
}

/// Products of the upper halves. Of the intrinsic, the compiler takes weights apart before a loop, and shifts down the
/// bytes of each tap in it.
#[target_feature(enable = "neon")]
#[inline]
fn multiply_upper(x: int8x16_t, weights: int8x16_t) -> int16x8_t {
    let products;
    // SAFETY: registers only.
    unsafe {
        asm!(
            "smull2 {products:v}.8h, {x:v}.16b, {weights:v}.16b",
            products = lateout(vreg) products,
            x = in(vreg) x,
            weights = in(vreg) weights,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    products
}

/// `T` taps, whose weights stay in registers; 0 for any number.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn run_of<const T: usize>(lanes: &Lanes<'_>) {
    let (block, taps) = (lanes.block, lanes.taps);
    // SAFETY: a block has bias, multipliers, and the weights of each tap.
    let bias: [int32x4_t; 4] = std::array::from_fn(|v| unsafe { vld1q_s32(block.add(v * 16).cast()) });
    // SAFETY: as above.
    let multipliers: [float32x4_t; 4] = std::array::from_fn(|v| unsafe { vld1q_f32(block.add(64 + v * 16).cast()) });
    // SAFETY: as above.
    let weight = |tap: usize| unsafe { vld1q_s8(block.add(128 + tap * 16).cast()) };
    let weights: [int8x16_t; T] = std::array::from_fn(weight);
    let count = if T == 0 { taps.len() } else { T };
    for item in 0..lanes.items {
        let window = lanes.window.wrapping_add(item * lanes.step);
        let mut sums = bias;
        for tap in 0..count {
            // SAFETY: bytes beyond the last lane may be read.
            let x = unsafe { vld1q_s8(window.wrapping_add(*taps.get_unchecked(tap)).cast()) };
            let w = if T == 0 { weight(tap) } else { weights[tap] };
            let (low, high) = (vmull_s8(vget_low_s8(x), vget_low_s8(w)), multiply_upper(x, w));
            sums[0] = vaddw_s16(sums[0], vget_low_s16(low));
            sums[1] = vaddw_high_s16(sums[1], low);
            sums[2] = vaddw_s16(sums[2], vget_low_s16(high));
            sums[3] = vaddw_high_s16(sums[3], high);
        }
        let count = if item + 1 == lanes.items { lanes.lanes_last } else { lanes.lanes };
        // SAFETY: the output has all lanes that exist.
        unsafe {
            store::<4, 0x80>(sums, multipliers, lanes.output, lanes.out.wrapping_add(item * lanes.out_step), count)
        };
    }
}

/// Four bytes of each lane. Zipping goes across the whole vector, so lanes stay in order.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn side_by_side(x: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
    let zip =
        |a: uint8x16_t, b: uint8x16_t| (vreinterpretq_u16_u8(vzip1q_u8(a, b)), vreinterpretq_u16_u8(vzip2q_u8(a, b)));
    let ((ab_low, ab_high), (cd_low, cd_high)) = (zip(x[0], x[1]), zip(x[2], x[3]));
    [
        vreinterpretq_u8_u16(vzip1q_u16(ab_low, cd_low)),
        vreinterpretq_u8_u16(vzip2q_u16(ab_low, cd_low)),
        vreinterpretq_u8_u16(vzip1q_u16(ab_high, cd_high)),
        vreinterpretq_u8_u16(vzip2q_u16(ab_high, cd_high)),
    ]
}

/// Four taps at once: eight `zip` put the bytes of each lane side by side, four dot products sum them up.
macro_rules! by_dots {
    ($features:literal, $dot:ident, $flip:literal) => {
        pub(in crate::isa::neon) unsafe fn depthwise(lanes: &Lanes<'_>) {
            // SAFETY: the caller vouches for the lanes, and has asked whether the core has these instructions.
            unsafe {
                match lanes.taps.len() {
                    4 => depthwise_of::<1>(lanes),
                    8 => depthwise_of::<2>(lanes),
                    12 => depthwise_of::<3>(lanes),
                    _ => depthwise_of::<0>(lanes),
                }
            }
        }

        /// `G` groups of four taps, whose weights stay in registers; 0 for any number.
        #[target_feature(enable = $features)]
        #[inline]
        unsafe fn depthwise_of<const G: usize>(lanes: &Lanes<'_>) {
            let (block, taps) = (lanes.block, lanes.taps);
            // SAFETY: a block has bias, multipliers, and the weights of each group.
            let bias: [int32x4_t; 4] = std::array::from_fn(|v| unsafe { vld1q_s32(block.add(v * 16).cast()) });
            // SAFETY: as above.
            let multipliers: [float32x4_t; 4] =
                std::array::from_fn(|v| unsafe { vld1q_f32(block.add(64 + v * 16).cast()) });
            let weight = |group: usize| -> [int8x16_t; 4] {
                // SAFETY: as above.
                std::array::from_fn(|v| unsafe { vld1q_s8(block.add(128 + group * 64 + v * 16).cast()) })
            };
            let weights: [[int8x16_t; 4]; G] = std::array::from_fn(weight);
            let groups = if G == 0 { taps.len() / 4 } else { G };
            for item in 0..lanes.items {
                let window = lanes.window.wrapping_add(item * lanes.step);
                let mut sums = bias;
                for group in 0..groups {
                    // SAFETY: bytes beyond the last lane may be read.
                    let x: [uint8x16_t; 4] = std::array::from_fn(|tap| unsafe {
                        vld1q_u8(window.wrapping_add(*taps.get_unchecked(group * 4 + tap)))
                    });
                    let x = side_by_side(x);
                    let w = if G == 0 { weight(group) } else { weights[group] };
                    for v in 0..4 {
                        sums[v] = $dot(sums[v], x[v], w[v]);
                    }
                }
                let count = if item + 1 == lanes.items { lanes.lanes_last } else { lanes.lanes };
                let out = lanes.out.wrapping_add(item * lanes.out_step);
                // SAFETY: the output has all lanes that exist.
                unsafe { store::<4, $flip>(sums, multipliers, lanes.output, out, count) };
            }
        }
    };
}
pub(super) use by_dots;
