//! Dense sums across channels: `smlal` multiplies the weights of four channels by one element of a window, all of them
//! widened to 16 bits: weights when they are packed, windows as they are loaded, eight elements at once.
//!
//! Fewer products each cycle than sums along the depth, but without a rest where runs are short, and with 16 channels to
//! requantize together: the first layer of a network is of this kind. 24 of the 32 registers hold sums (6 x 16), or 16 (8 x
//! 8): `smlal` takes single elements from the lower half of the registers only.

use super::store::store_window;
use crate::isa::Tile;
use std::arch::aarch64::*;

macro_rules! by_windows {
    ($name:ident, $vectors:literal, $half:literal, $($windows:literal)*) => {
        pub(super) unsafe fn $name(windows: usize, tile: &Tile<'_>) {
            match windows {
                // SAFETY: the caller vouches for the tile.
                $($windows => unsafe { dense::<$windows, $vectors, $half>(tile) },)*
                _ => debug_assert!(false, "no tile of {windows} windows"),
            }
        }
    };
}
by_windows!(wide, 4, 2, 1 2 3 4 5 6);
by_windows!(narrow, 2, 1, 1 2 3 4 5 6 7 8);

/// `NV` vectors of four sums, `NW` vectors of eight weights: half as many.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn dense<const MR: usize, const NV: usize, const NW: usize>(tile: &Tile<'_>) {
    let block = tile.block;
    // SAFETY: a block begins with the bias of each channel.
    let bias: [int32x4_t; NV] = std::array::from_fn(|v| unsafe { vld1q_s32(block.add(v * 16).cast()) });
    let mut sums = [bias; MR];
    // SAFETY: after bias and multipliers.
    let mut weights = unsafe { block.add(NV * 32).cast::<i16>() };
    // The products of one element of each window, which is at a place of eight.
    macro_rules! element {
        ($x:ident, $place:literal) => {
            for v in 0..NW {
                // SAFETY: one group of weights for each element of each run.
                let w = unsafe { vld1q_s16(weights.add(v * 8)) };
                for i in 0..MR {
                    sums[i][v * 2] = vmlal_laneq_s16::<$place>(sums[i][v * 2], vget_low_s16(w), $x[i]);
                    sums[i][v * 2 + 1] = vmlal_high_laneq_s16::<$place>(sums[i][v * 2 + 1], w, $x[i]);
                }
            }
            weights = weights.wrapping_add(NW * 8);
        };
    }
    for run in tile.runs {
        let windows: [*const i8; MR] = std::array::from_fn(|i| tile.windows[i].wrapping_add(*run).cast());
        let mut at = 0;
        while at + 8 <= tile.groups {
            // SAFETY: a window's runs may be read to their end.
            let x: [int16x8_t; MR] = std::array::from_fn(|i| vmovl_s8(unsafe { vld1_s8(windows[i].add(at)) }));
            element!(x, 0);
            element!(x, 1);
            element!(x, 2);
            element!(x, 3);
            element!(x, 4);
            element!(x, 5);
            element!(x, 6);
            element!(x, 7);
            at += 8;
        }
        while at < tile.groups {
            // SAFETY: as above.
            let x: [int16x8_t; MR] = std::array::from_fn(|i| vdupq_n_s16(unsafe { *windows[i].add(at) }.into()));
            element!(x, 0);
            at += 1;
        }
    }
    // SAFETY: multipliers follow the bias.
    let multipliers = std::array::from_fn(|v| unsafe { vld1q_f32(block.add(NV * 16 + v * 16).cast()) });
    for (i, sums) in sums.into_iter().enumerate() {
        // SAFETY: the output has all channels that exist.
        unsafe { store_window::<NV>(sums, multipliers, tile, i) };
    }
}
