//! Dense sums along the depth: `smull` multiplies eight bytes of a window by eight weights of a channel, `sadalp` adds
//! neighbouring products to four sums.
//!
//! A product of two bytes fits 16 bits. The sum of two does not when both are -128 times -128, so each product is widened
//! before it meets another; where no weight of a layer is -128, which is the rule, two are added first (`smlal2`) and
//! widened together. Three do not fit in any case. Multiplying and adding go to different pipes on a Cortex-A72: eight
//! products each cycle, where `smlal` of 16 bits has four. A tile of 4 windows and 4 channels has 16 vectors of sums, and
//! is summed up across at its end.

use super::store::store;
use crate::isa::Tile;
use std::arch::aarch64::*;

macro_rules! by_windows {
    ($name:ident, $narrow:literal, $($windows:literal)*) => {
        pub(super) unsafe fn $name(windows: usize, tile: &Tile<'_>) {
            match windows {
                // SAFETY: the caller vouches for the tile.
                $($windows => unsafe { dense::<$windows, $narrow>(tile) },)*
                _ => debug_assert!(false, "no tile of {windows} windows"),
            }
        }
    };
}
by_windows!(any, false, 1 2 3 4);
by_windows!(narrow, true, 1 2 3 4);

#[target_feature(enable = "neon")]
#[inline]
unsafe fn dense<const MR: usize, const NARROW: bool>(tile: &Tile<'_>) {
    let mut sums = [[vdupq_n_s32(0); 4]; MR];
    // SAFETY: weights follow bias and multipliers.
    let mut weights = unsafe { tile.block.add(32).cast::<i8>() };
    for run in tile.runs {
        let windows: [*const i8; MR] = std::array::from_fn(|i| tile.windows[i].wrapping_add(*run).cast());
        for group in 0..tile.groups {
            // SAFETY: a window's runs may be read to their last group.
            let x: [int8x16_t; MR] = std::array::from_fn(|i| unsafe { vld1q_s8(windows[i].add(group * 16)) });
            for c in 0..4 {
                // SAFETY: one group of weights for each group of each run.
                let w = unsafe { vld1q_s8(weights.add(c * 16)) };
                for i in 0..MR {
                    let low = vmull_s8(vget_low_s8(x[i]), vget_low_s8(w));
                    if NARROW {
                        sums[i][c] = vpadalq_s16(sums[i][c], vmlal_high_s8(low, x[i], w));
                    } else {
                        sums[i][c] = vpadalq_s16(sums[i][c], low);
                        sums[i][c] = vpadalq_s16(sums[i][c], vmull_high_s8(x[i], w));
                    }
                }
            }
            weights = weights.wrapping_add(64);
        }
    }
    // SAFETY: a block begins with bias and multipliers.
    let (bias, multipliers) = unsafe { (vld1q_s32(tile.block.cast()), vld1q_f32(tile.block.add(16).cast())) };
    for (sums, out) in sums.into_iter().zip(tile.outputs) {
        let across = vpaddq_s32(vpaddq_s32(sums[0], sums[1]), vpaddq_s32(sums[2], sums[3]));
        // SAFETY: the output has all channels that exist.
        unsafe { store::<1, 0x80>([vaddq_s32(across, bias)], [multipliers], tile.output, out, tile.channels) };
    }
}
