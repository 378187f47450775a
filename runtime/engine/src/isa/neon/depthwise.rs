//! Depthwise sums of sixteen neighbouring bytes, tap by tap: two `smull` for sixteen products of 16 bits, four `saddw` to
//! widen and add them.

use super::store::store;
use crate::isa::Lanes;
use std::arch::{aarch64::*, asm};

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

/// Adds the products of one tap.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn add_tap(sums: [int32x4_t; 4], x: int8x16_t, weights: int8x16_t) -> [int32x4_t; 4] {
    let (low, high) = (vmull_s8(vget_low_s8(x), vget_low_s8(weights)), multiply_upper(x, weights));
    [
        vaddw_s16(sums[0], vget_low_s16(low)),
        vaddw_high_s16(sums[1], low),
        vaddw_s16(sums[2], vget_low_s16(high)),
        vaddw_high_s16(sums[3], high),
    ]
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
            let w = weights.get(tap).copied().unwrap_or_else(|| weight(tap));
            sums = add_tap(sums, x, w);
        }
        let count = if item + 1 == lanes.items { lanes.lanes_last } else { lanes.lanes };
        // SAFETY: the output has all lanes that exist.
        unsafe { store::<4>(sums, multipliers, lanes.output, lanes.out.wrapping_add(item * lanes.out_step), count) };
    }
}
