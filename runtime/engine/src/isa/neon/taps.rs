//! Depthwise sums of sixteen neighbouring bytes by `sdot`, four taps at once: eight `zip` put the bytes of each lane side
//! by side, four dot products sum them up. Zipping goes across the whole vector, so lanes stay in order.
//!
//! Windows of nine taps are the rule: the ninth goes by itself, as with plain NEON, since three others that are zero would
//! cost more than that.

use super::depthwise::add_tap;
use super::store::store;
use crate::isa::Lanes;
use std::arch::{aarch64::*, asm};

pub(super) unsafe fn run(lanes: &Lanes<'_>) {
    // SAFETY: the caller vouches for the lanes, and has asked whether the core has these instructions.
    unsafe {
        match lanes.taps.len() {
            4 => run_of::<1, false>(lanes),
            8 => run_of::<2, false>(lanes),
            12 if ends_in_one(lanes.block.add(128 + 2 * 64)) => run_of::<2, true>(lanes),
            12 => run_of::<3, false>(lanes),
            _ => run_of::<0, false>(lanes),
        }
    }
}

/// Adds to each lane the products of its four bytes and its four weights.
#[target_feature(enable = "dotprod")]
#[inline]
fn dot(mut sums: int32x4_t, x: int8x16_t, weights: int8x16_t) -> int32x4_t {
    // SAFETY: registers only.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {x:v}.16b, {weights:v}.16b",
            sums = inout(vreg) sums,
            x = in(vreg) x,
            weights = in(vreg) weights,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// Whether a group of four taps has weights for its first tap only.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn ends_in_one(group: *const u8) -> bool {
    // SAFETY: a group has 64 weights.
    let all = unsafe { [0, 1, 2, 3].map(|v| vld1q_u32(group.add(v * 16).cast())) };
    let any = vorrq_u32(vorrq_u32(all[0], all[1]), vorrq_u32(all[2], all[3]));
    vmaxvq_u32(any) <= 0xff
}

/// Four bytes of each lane.
#[target_feature(enable = "neon")]
#[inline]
fn side_by_side(x: [int8x16_t; 4]) -> [int8x16_t; 4] {
    let zip =
        |a: int8x16_t, b: int8x16_t| (vreinterpretq_s16_s8(vzip1q_s8(a, b)), vreinterpretq_s16_s8(vzip2q_s8(a, b)));
    let ((ab_low, ab_high), (cd_low, cd_high)) = (zip(x[0], x[1]), zip(x[2], x[3]));
    [
        vreinterpretq_s8_s16(vzip1q_s16(ab_low, cd_low)),
        vreinterpretq_s8_s16(vzip2q_s16(ab_low, cd_low)),
        vreinterpretq_s8_s16(vzip1q_s16(ab_high, cd_high)),
        vreinterpretq_s8_s16(vzip2q_s16(ab_high, cd_high)),
    ]
}

/// `G` groups of four taps, whose weights stay in registers, 0 for any number; and whether one more tap follows.
#[target_feature(enable = "dotprod")]
#[inline]
unsafe fn run_of<const G: usize, const ONE_MORE: bool>(lanes: &Lanes<'_>) {
    let (block, taps) = (lanes.block, lanes.taps);
    // SAFETY: a block has bias, multipliers, and the weights of each group.
    let bias: [int32x4_t; 4] = std::array::from_fn(|v| unsafe { vld1q_s32(block.add(v * 16).cast()) });
    // SAFETY: as above.
    let multipliers: [float32x4_t; 4] = std::array::from_fn(|v| unsafe { vld1q_f32(block.add(64 + v * 16).cast()) });
    let weight = |group: usize| -> [int8x16_t; 4] {
        // SAFETY: as above.
        std::array::from_fn(|v| unsafe { vld1q_s8(block.add(128 + group * 64 + v * 16).cast()) })
    };
    let weights: [[int8x16_t; 4]; G] = std::array::from_fn(weight);
    let groups = if G == 0 { taps.len() / 4 } else { G };
    let more = if ONE_MORE {
        // The first of four of each lane.
        let of = weight(G);
        vuzp1q_s8(vuzp1q_s8(of[0], of[1]), vuzp1q_s8(of[2], of[3]))
    } else {
        vdupq_n_s8(0)
    };
    for item in 0..lanes.items {
        let window = lanes.window.wrapping_add(item * lanes.step).cast::<i8>();
        // SAFETY: bytes beyond the last lane may be read; there are as many taps as the block has weights for.
        let load = |tap: usize| unsafe { vld1q_s8(window.wrapping_add(*taps.get_unchecked(tap))) };
        let mut sums = bias;
        for group in 0..groups {
            let x = side_by_side([load(group * 4), load(group * 4 + 1), load(group * 4 + 2), load(group * 4 + 3)]);
            let w = weights.get(group).copied().unwrap_or_else(|| weight(group));
            for v in 0..4 {
                sums[v] = dot(sums[v], x[v], w[v]);
            }
        }
        if ONE_MORE {
            sums = add_tap(sums, load(G * 4), more);
        }
        let count = if item + 1 == lanes.items { lanes.lanes_last } else { lanes.lanes };
        let out = lanes.out.wrapping_add(item * lanes.out_step);
        // SAFETY: the output has all lanes that exist.
        unsafe { store::<4>(sums, multipliers, lanes.output, out, count) };
    }
}
