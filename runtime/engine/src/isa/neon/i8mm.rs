//! Dense sums by `smmla`, which multiplies two windows by two channels, eight deep, and adds the four sums.
//!
//! A vector of weights holds eight of each of two channels. Sixteen bytes of two windows are loaded and zipped into two
//! vectors of eight bytes of each. 24 of the 32 registers hold sums (6 x 16), or 16 (8 x 8) where a layer has few channels.
//! An odd window goes twice. Sums of a window lie side by side after one more zip at the end.
//!
//! The intrinsic is not stable, so the instruction is written out.

use super::store::store_window;
use crate::isa::Tile;
use std::arch::{aarch64::*, asm};

/// Adds the products of two windows and two channels: window 0 and channels 0 and 1, then window 1.
#[target_feature(enable = "neon,i8mm")]
#[inline]
fn matrix(mut sums: int32x4_t, x: uint8x16_t, weights: int8x16_t) -> int32x4_t {
    // SAFETY: registers only.
    unsafe {
        asm!(
            "smmla {sums:v}.4s, {x:v}.16b, {weights:v}.16b",
            sums = inout(vreg) sums,
            x = in(vreg) x,
            weights = in(vreg) weights,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

macro_rules! by_pairs {
    ($name:ident, $vectors:literal, $($pairs:literal)*) => {
        pub(super) unsafe fn $name(windows: usize, tile: &Tile<'_>) {
            match windows.div_ceil(2) {
                // SAFETY: the caller vouches for the tile, and has asked whether the core has these instructions.
                $($pairs => unsafe { dense::<$pairs, $vectors>(windows, tile) },)*
                _ => debug_assert!(false, "no tile of {windows} windows"),
            }
        }
    };
}
by_pairs!(wide, 4, 1 2 3);
by_pairs!(narrow, 2, 1 2 3 4);

/// `P` pairs of windows, `NV` times four channels.
#[target_feature(enable = "neon,i8mm")]
#[inline]
unsafe fn dense<const P: usize, const NV: usize>(windows: usize, tile: &Tile<'_>) {
    let block = tile.block;
    let bias: [[int32x4_t; 2]; NV] = std::array::from_fn(|v| {
        // SAFETY: a block begins with the bias of each channel, at a multiple of 64 bytes.
        let two = |half: usize| unsafe { vld1q_dup_s64(block.add(v * 16 + half * 8).cast()) };
        [vreinterpretq_s32_s64(two(0)), vreinterpretq_s32_s64(two(1))]
    });
    let mut sums = [bias; P];
    // SAFETY: after bias and multipliers.
    let mut weights = unsafe { block.add(NV * 32).cast::<i8>() };
    // The products of one group.
    macro_rules! group {
        ($x:ident) => {
            for v in 0..NV {
                for half in 0..2 {
                    // SAFETY: one group of weights for each group of each run.
                    let w = unsafe { vld1q_s8(weights.add(v * 32 + half * 16)) };
                    for p in 0..P {
                        sums[p][v][half] = matrix(sums[p][v][half], $x[p], w);
                    }
                }
            }
            weights = weights.wrapping_add(NV * 32);
        };
    }
    for run in tile.runs {
        let window = |i: usize| tile.windows[i.min(windows - 1)].wrapping_add(*run);
        let pairs: [[*const u8; 2]; P] = std::array::from_fn(|p| [window(p * 2), window(p * 2 + 1)]);
        let mut at = 0;
        while at + 2 <= tile.groups {
            // SAFETY: a window's runs may be read to their last group.
            let load = |window: *const u8| unsafe { vreinterpretq_u64_u8(vld1q_u8(window.add(at * 8))) };
            let x: [[uint64x2_t; 2]; P] = std::array::from_fn(|p| [load(pairs[p][0]), load(pairs[p][1])]);
            let first: [uint8x16_t; P] = std::array::from_fn(|p| vreinterpretq_u8_u64(vzip1q_u64(x[p][0], x[p][1])));
            let second: [uint8x16_t; P] = std::array::from_fn(|p| vreinterpretq_u8_u64(vzip2q_u64(x[p][0], x[p][1])));
            group!(first);
            group!(second);
            at += 2;
        }
        if at < tile.groups {
            // SAFETY: as above.
            let x: [uint8x16_t; P] = std::array::from_fn(|p| unsafe {
                vcombine_u8(vld1_u8(pairs[p][0].add(at * 8)), vld1_u8(pairs[p][1].add(at * 8)))
            });
            group!(x);
        }
    }
    // SAFETY: multipliers follow the bias.
    let multipliers = std::array::from_fn(|v| unsafe { vld1q_f32(block.add(NV * 16 + v * 16).cast()) });
    for (p, sums) in sums.into_iter().enumerate() {
        let of = |v: usize, half: usize| vreinterpretq_s64_s32(sums[v][half]);
        let first: [int32x4_t; NV] = std::array::from_fn(|v| vreinterpretq_s32_s64(vzip1q_s64(of(v, 0), of(v, 1))));
        // SAFETY: the output has all channels that exist.
        unsafe { store_window::<NV>(first, multipliers, tile, p * 2) };
        if p * 2 + 1 < windows {
            let second = std::array::from_fn(|v| vreinterpretq_s32_s64(vzip2q_s64(of(v, 0), of(v, 1))));
            // SAFETY: as above.
            unsafe { store_window::<NV>(second, multipliers, tile, p * 2 + 1) };
        }
    }
}
