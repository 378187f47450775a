//! Dense sums by `sdot`, which multiplies four bytes by four weights in each of four lanes.
//!
//! A vector holds the weights of four channels; four bytes of a window are taken from a quarter of another vector, so that
//! sixteen bytes of each window are loaded at once and spread by the instruction itself. 24 of the 32 registers hold sums
//! (6 x 16), or 16 (8 x 8) where a layer has few channels.
//!
//! The intrinsics are not stable, so the instruction is written out.

use super::store::store_window;
use crate::isa::Tile;
use std::arch::{aarch64::*, asm};

/// Adds to each lane the products of its four weights and the `QUARTER`th four bytes.
#[target_feature(enable = "dotprod")]
#[inline]
fn dot_quarter<const QUARTER: usize>(mut sums: int32x4_t, weights: int8x16_t, x: uint8x16_t) -> int32x4_t {
    // SAFETY: registers only.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {weights:v}.16b, {x:v}.4b[{quarter}]",
            sums = inout(vreg) sums,
            weights = in(vreg) weights,
            x = in(vreg) x,
            quarter = const QUARTER,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

macro_rules! by_windows {
    ($name:ident, $vectors:literal, $($windows:literal)*) => {
        pub(super) unsafe fn $name(windows: usize, tile: &Tile<'_>) {
            match windows {
                // SAFETY: the caller vouches for the tile, and has asked whether the core has these instructions.
                $($windows => unsafe { dense::<$windows, $vectors>(tile) },)*
                _ => debug_assert!(false, "no tile of {windows} windows"),
            }
        }
    };
}
by_windows!(wide, 4, 1 2 3 4 5 6);
by_windows!(narrow, 2, 1 2 3 4 5 6 7 8);

#[target_feature(enable = "dotprod")]
#[inline]
unsafe fn dense<const MR: usize, const NV: usize>(tile: &Tile<'_>) {
    let block = tile.block;
    // SAFETY: a block begins with the bias of each channel.
    let bias: [int32x4_t; NV] = std::array::from_fn(|v| unsafe { vld1q_s32(block.add(v * 16).cast()) });
    let mut sums = [bias; MR];
    // SAFETY: after bias and multipliers.
    let mut weights = unsafe { block.add(NV * 32).cast::<i8>() };
    // The products of one group of each window, which is in a quarter of a vector.
    macro_rules! group {
        ($x:ident, $quarter:literal) => {
            for v in 0..NV {
                // SAFETY: one group of weights for each group of each run.
                let w = unsafe { vld1q_s8(weights.add(v * 16)) };
                for i in 0..MR {
                    sums[i][v] = dot_quarter::<$quarter>(sums[i][v], w, $x[i]);
                }
            }
            weights = weights.wrapping_add(NV * 16);
        };
    }
    for run in tile.runs {
        let windows: [*const u8; MR] = std::array::from_fn(|i| tile.windows[i].wrapping_add(*run));
        let mut at = 0;
        while at + 4 <= tile.groups {
            // SAFETY: a window's runs may be read to their last group.
            let x: [uint8x16_t; MR] = std::array::from_fn(|i| unsafe { vld1q_u8(windows[i].add(at * 4)) });
            group!(x, 0);
            group!(x, 1);
            group!(x, 2);
            group!(x, 3);
            at += 4;
        }
        while at < tile.groups {
            // SAFETY: a few bytes beyond the last group may be read.
            let x: [uint8x16_t; MR] = std::array::from_fn(|i| unsafe { vld1q_u8(windows[i].add(at * 4)) });
            group!(x, 0);
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
