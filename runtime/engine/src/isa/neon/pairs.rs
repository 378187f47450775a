//! Dense sums along the depth: `smull` multiplies eight bytes of a window by eight weights of a channel, `sadalp` adds
//! neighbouring products to four sums.
//!
//! A product of two bytes fits 16 bits. The sum of two does not when both are -128 times -128, so each product is widened
//! before it meets another; where no weight of a layer is -128, which is the rule, two are added first (`smlal2`) and
//! widened together. Three do not fit in any case. If a core multiplies and adds in different pipes, as a Cortex-A72 is
//! assumed to, that is eight products each cycle, where `smlal` of 16 bits has four.
//!
//! Four windows and four channels have 16 vectors of sums. They are summed up across at their end and wait in memory for
//! the rest of a block of 8 or 16 channels, which is then requantized and stored together.

use super::store::store_window;
use crate::isa::Tile;
use std::arch::aarch64::*;

macro_rules! by_windows {
    ($name:ident, $quads:literal, $narrow:literal, $($windows:literal)*) => {
        pub(super) unsafe fn $name(windows: usize, tile: &Tile<'_>) {
            match windows {
                // SAFETY: the caller vouches for the tile.
                $($windows => unsafe { dense::<$windows, $quads, $narrow>(tile) },)*
                _ => debug_assert!(false, "no tile of {windows} windows"),
            }
        }
    };
}
by_windows!(sixteen, 4, false, 1 2 3 4);
by_windows!(eight, 2, false, 1 2 3 4);
by_windows!(sixteen_narrow, 4, true, 1 2 3 4);
by_windows!(eight_narrow, 2, true, 1 2 3 4);

/// `NQ` times four channels.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn dense<const MR: usize, const NQ: usize, const NARROW: bool>(tile: &Tile<'_>) {
    let block = tile.block;
    let mut all = [[vdupq_n_s32(0); MR]; NQ];
    // Channels that do not exist are not computed.
    for (quad, all) in all.iter_mut().enumerate().take(tile.channels.div_ceil(4)) {
        // SAFETY: weights follow bias and multipliers: sixteen of each channel, for each group.
        let mut weights = unsafe { block.add(NQ * 32 + quad * 64).cast::<i8>() };
        let mut sums = [[vdupq_n_s32(0); MR]; 4];
        for run in tile.runs {
            let windows: [*const i8; MR] = std::array::from_fn(|i| tile.windows[i].wrapping_add(*run).cast());
            for group in 0..tile.groups {
                // SAFETY: a window's runs may be read to their last group.
                let x: [int8x16_t; MR] = std::array::from_fn(|i| unsafe { vld1q_s8(windows[i].add(group * 16)) });
                for (c, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: one group of weights for each group of each run.
                    let w = unsafe { vld1q_s8(weights.add(c * 16)) };
                    for (sum, x) in sums.iter_mut().zip(x) {
                        let low = vmull_s8(vget_low_s8(x), vget_low_s8(w));
                        *sum = if NARROW {
                            vpadalq_s16(*sum, vmlal_high_s8(low, x, w))
                        } else {
                            vpadalq_s16(vpadalq_s16(*sum, low), vmull_high_s8(x, w))
                        };
                    }
                }
                weights = weights.wrapping_add(NQ * 64);
            }
        }
        // SAFETY: a block begins with the bias of each channel.
        let bias = unsafe { vld1q_s32(block.add(quad * 16).cast()) };
        *all = std::array::from_fn(|i| {
            let across = vpaddq_s32(vpaddq_s32(sums[0][i], sums[1][i]), vpaddq_s32(sums[2][i], sums[3][i]));
            vaddq_s32(across, bias)
        });
    }
    // SAFETY: multipliers follow the bias.
    let multipliers = std::array::from_fn(|v| unsafe { vld1q_f32(block.add(NQ * 16 + v * 16).cast()) });
    for i in 0..MR {
        let sums = std::array::from_fn(|quad| all[quad][i]);
        // SAFETY: the output has all channels that exist.
        unsafe { store_window::<NQ>(sums, multipliers, tile, i) };
    }
}
