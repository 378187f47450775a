//! From sums to bytes in memory.

use super::FLIP;
use crate::isa::{Output, Tile};
use std::arch::aarch64::*;

/// Requantizes 8 or 16 sums, `4 * NV`, and stores the first `count` bytes, flipped.
///
/// # Safety
/// `out` has so many bytes.
#[target_feature(enable = "neon")]
#[inline]
pub(super) unsafe fn store<const NV: usize>(
    sums: [int32x4_t; NV],
    multipliers: [float32x4_t; NV],
    output: Output,
    out: *mut u8,
    count: usize,
) {
    let steps: [int16x4_t; NV] = std::array::from_fn(|v| steps(sums[v], multipliers[v]));
    let zero_point = vdupq_n_s16(output.zero_point.into());
    let eight = |one: usize, two: usize| vqmovun_s16(vqaddq_s16(vcombine_s16(steps[one], steps[two]), zero_point));
    let bytes = match NV {
        2 => vcombine_u8(eight(0, 1), vdup_n_u8(0)),
        _ => vcombine_u8(eight(0, 1), eight(2, 3)),
    };
    let bytes = vminq_u8(vmaxq_u8(bytes, vdupq_n_u8(output.range.low)), vdupq_n_u8(output.range.high));
    let bytes = veorq_u8(bytes, vdupq_n_u8(FLIP));
    // SAFETY: as of this function.
    unsafe { first(bytes, out, count, NV * 4) };
}

/// The sums of one window of a tile.
///
/// # Safety
/// The window's output has all channels of the block that exist.
#[target_feature(enable = "neon")]
#[inline]
pub(super) unsafe fn store_window<const NV: usize>(
    mut sums: [int32x4_t; NV],
    multipliers: [float32x4_t; NV],
    tile: &Tile<'_>,
    window: usize,
) {
    if let Some(plus) = &tile.plus {
        sums = sums.map(|sum| vaddq_s32(sum, vdupq_n_s32(plus[window])));
    }
    if tile.raw {
        let out = tile.outputs[window].cast::<i32>();
        for (v, sums) in sums.into_iter().enumerate() {
            // SAFETY: the output has room for the sums of a block.
            unsafe { vst1q_s32(out.wrapping_add(v * 4), sums) };
        }
        return;
    }
    // SAFETY: as of this function.
    unsafe { store(sums, multipliers, tile.output, tile.outputs[window].wrapping_add(tile.first), tile.channels) };
}

/// Steps of the output, rounded to the nearest, ties to even. What 16 bits do not hold is at a limit in any case.
#[target_feature(enable = "neon")]
#[inline]
fn steps(sums: int32x4_t, multipliers: float32x4_t) -> int16x4_t {
    vqmovn_s32(vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(sums), multipliers)))
}

/// Stores the first `count` bytes of `all`: 8 or 16.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn first(bytes: uint8x16_t, out: *mut u8, count: usize, all: usize) {
    // SAFETY: `out` has `count` bytes, and each branch stores no more of them.
    unsafe {
        if count >= all {
            match all {
                8 => vst1_u8(out, vget_low_u8(bytes)),
                _ => vst1q_u8(out, bytes),
            }
            return;
        }
        let (mut bytes, mut out) = (bytes, out);
        if count & 8 != 0 {
            vst1_u8(out, vget_low_u8(bytes));
            (bytes, out) = (vextq_u8::<8>(bytes, bytes), out.add(8));
        }
        if count & 4 != 0 {
            out.cast::<u32>().write_unaligned(vgetq_lane_u32::<0>(vreinterpretq_u32_u8(bytes)));
            (bytes, out) = (vextq_u8::<4>(bytes, bytes), out.add(4));
        }
        if count & 2 != 0 {
            out.cast::<u16>().write_unaligned(vgetq_lane_u16::<0>(vreinterpretq_u16_u8(bytes)));
            (bytes, out) = (vextq_u8::<2>(bytes, bytes), out.add(2));
        }
        if count & 1 != 0 {
            out.write(vgetq_lane_u8::<0>(bytes));
        }
    }
}
