//! AVX-512 with VNNI: `vpdpbusd` multiplies four unsigned bytes by four signed ones in each of sixteen lanes.
//!
//! **Dense sums.** A tile is `MR` windows by `NV` vectors of sixteen channels. For each group of four bytes the weights
//! of all channels are loaded once, and four bytes of each window are spread over all lanes. `MR * NV` sums stay in
//! registers: at most 28 of 32, which hides the latency of the instruction (4 cycles, one 512-bit instruction each) many
//! times over. Wide blocks (6 x 64; a seventh window would not fit beside four vectors of weights) load least per product; narrow ones (14 x 32, 24 x 16, and 24 x 8 in half vectors) waste
//! less where a layer has few channels, and fill what wide ones leave over.
//!
//! Unpacking and packing work within 128-bit lanes. Lanes of a block are kept in the order in which they come out of it,
//! so that nothing has to be put in order afterwards.

#![allow(
    clippy::needless_range_loop,
    reason = "loops over indices are unrolled, so that sums stay in registers; loops over iterators are not always"
)]

mod depthwise;
mod raw;
mod sum;
mod table;

use super::{Depthwise, Gemm, Kernels, Output, Tile, WeightForm};
use crate::elementwise::{self, Elementwise};
use crate::graph::Range;
use std::arch::x86_64::*;
use std::sync::LazyLock;

pub(super) static VNNI: Kernels = Kernels {
    name: "avx512vnni",
    flip: 0,
    gemms: &[
        Gemm {
            channels: 64,
            depth: 4,
            windows: 6,
            weights: WeightForm::I8,
            lane: lane::<4>,
            cost: |windows| ((windows as f32 * 4.0).max(8.0), 22.0 + 20.0 * windows as f32),
            tile: wide,
        },
        Gemm {
            channels: 32,
            depth: 4,
            windows: 14,
            weights: WeightForm::I8,
            lane: lane::<2>,
            cost: |windows| ((windows as f32 * 2.0).max(8.0), 20.0 + 13.0 * windows as f32),
            tile: middle,
        },
        Gemm {
            channels: 16,
            depth: 4,
            windows: 24,
            weights: WeightForm::I8,
            lane: lane::<1>,
            cost: |windows| ((windows as f32 * 1.1).max(8.0), 20.0 + 9.0 * windows as f32),
            tile: narrow,
        },
        Gemm {
            channels: 8,
            depth: 4,
            windows: 24,
            weights: WeightForm::I8,
            lane: half_lane::<1>,
            cost: |windows| ((windows as f32 * 0.7).max(4.0), 20.0 + 6.0 * windows as f32),
            tile: slim,
        },
        Gemm {
            channels: 16,
            depth: 4,
            windows: 12,
            weights: WeightForm::I8,
            lane: half_lane::<2>,
            cost: |windows| {
                // Where whole vectors are issued in two halves, halves cost half, and spreading bytes over them too.
                let each = if in_halves() { 1.0 } else { 1.5 };
                ((windows as f32 * each).max(8.0), 20.0 + 8.0 * windows as f32)
            },
            tile: slender,
        },
    ],
    depthwise: &Depthwise {
        lanes: 64,
        depth: 4,
        weights: WeightForm::I8,
        lane: lane::<4>,
        run: depthwise::run,
        pairs: Some((3, depthwise::pairs)),
    },
    elementwise: &Elementwise { add: sum::add, table: table::table, ..elementwise::AVX512 },
    available: || {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vnni")
    },
};

/// Vector `v`, 128-bit lane `l`, element `i` hold channel `l * 4 * NV + v * 4 + i`: packing the vectors together puts
/// channels in order.
fn lane<const NV: usize>(place: usize) -> usize {
    let (vector, within) = (place / 16, place % 16);
    within / 4 * 4 * NV + vector * 4 + within % 4
}

/// As [`lane`], of half vectors.
fn half_lane<const NV: usize>(place: usize) -> usize {
    let (vector, within) = (place / 8, place % 8);
    within / 4 * 4 * NV + vector * 4 + within % 4
}

/// Whether this core takes vectors of 512 bits in two halves: Zen 4 does.
fn in_halves() -> bool {
    static IN_HALVES: LazyLock<bool> = LazyLock::new(|| {
        let (vendor, version) = (__cpuid(0), __cpuid(1));
        let family = (version.eax >> 8 & 0xf) + (version.eax >> 20 & 0xff);
        [vendor.ebx, vendor.edx, vendor.ecx] == [0x6874_7541, 0x6974_6e65, 0x444d_4163] && family == 0x19
    });
    *IN_HALVES
}

macro_rules! by_windows {
    ($name:ident: $($number:literal)* of $kernel:ident $(, $vectors:literal)?) => {
        by_windows!(@ $name, $kernel, [$(, $vectors)?], $($number)*);
    };
    (@ $name:ident, $kernel:ident, $vectors:tt, $($number:literal)*) => {
        unsafe fn $name(windows: usize, tile: &Tile<'_>) {
            match windows {
                $($number => by_windows!(# tile, $kernel, $number, $vectors),)*
                _ => debug_assert!(false, "no tile of {windows} windows"),
            }
        }
    };
    (# $tile:ident, $kernel:ident, $number:literal, [$(, $vectors:literal)?]) => {
        // SAFETY: the caller vouches for the tile, and has asked whether the core has these instructions.
        unsafe { $kernel::<$number $(, $vectors)?>($tile) }
    };
}
by_windows!(wide: 1 2 3 4 5 6 of dense, 4);
by_windows!(middle: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 of dense, 2);
by_windows!(narrow: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 of dense, 1);
by_windows!(slim: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 of half, 1);
by_windows!(slender: 1 2 3 4 5 6 7 8 9 10 11 12 of half, 2);

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
unsafe fn dense<const MR: usize, const NV: usize>(tile: &Tile<'_>) {
    let windows: [*const u8; MR] = std::array::from_fn(|i| tile.windows[i]);
    let mut sums = [[_mm512_setzero_si512(); NV]; MR];
    let block = tile.block;
    for v in 0..NV {
        // SAFETY: a block begins with the bias of each channel.
        let bias = unsafe { _mm512_loadu_si512(block.add(v * 64).cast()) };
        for i in 0..MR {
            sums[i][v] = bias;
        }
    }
    if let Some(plus) = &tile.plus {
        for i in 0..MR {
            for v in 0..NV {
                sums[i][v] = _mm512_add_epi32(sums[i][v], _mm512_set1_epi32(plus[i]));
            }
        }
    }
    // SAFETY: after bias and multipliers.
    let mut weights = unsafe { block.add(NV * 128) };
    for run in tile.runs {
        let windows: [*const u8; MR] = std::array::from_fn(|i| windows[i].wrapping_add(*run));
        for group in 0..tile.groups {
            // SAFETY: one group of weights for each group of each run.
            let w: [__m512i; NV] = std::array::from_fn(|v| unsafe { _mm512_loadu_si512(weights.add(v * 64).cast()) });
            for i in 0..MR {
                // SAFETY: a window's runs may be read to their last group.
                let x = unsafe { windows[i].add(group * 4).cast::<i32>().read_unaligned() };
                let x = _mm512_set1_epi32(x);
                for v in 0..NV {
                    sums[i][v] = _mm512_dpbusd_epi32(sums[i][v], x, w[v]);
                }
            }
            weights = weights.wrapping_add(NV * 64);
        }
    }
    if tile.raw {
        for i in 0..MR {
            // SAFETY: the output has room for the sums of a block.
            unsafe { raw::store::<NV>(sums[i], tile.outputs[i]) };
        }
        return;
    }
    // SAFETY: multipliers follow the bias.
    let multipliers: [__m512; NV] =
        std::array::from_fn(|v| unsafe { _mm512_loadu_ps(block.add(NV * 64 + v * 64).cast()) });
    for i in 0..MR {
        let out = tile.outputs[i].wrapping_add(tile.first);
        // SAFETY: the output has all channels that exist.
        unsafe { store::<NV>(sums[i], multipliers, tile.output, out, tile.channels) };
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
unsafe fn load<const NV: usize>(bytes: *const u8) -> [__m256i; NV] {
    // SAFETY: the caller vouches for so many vectors.
    std::array::from_fn(|v| unsafe { _mm256_loadu_si256(bytes.add(v * 32).cast()) })
}

/// As [`dense`], in half vectors of eight channels.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
unsafe fn half<const MR: usize, const NV: usize>(tile: &Tile<'_>) {
    let mut sums = [[_mm256_setzero_si256(); NV]; MR];
    let block = tile.block;
    for v in 0..NV {
        // SAFETY: a block begins with the bias of each channel.
        let bias = unsafe { _mm256_loadu_si256(block.add(v * 32).cast()) };
        for i in 0..MR {
            sums[i][v] = bias;
        }
    }
    if let Some(plus) = &tile.plus {
        for i in 0..MR {
            for v in 0..NV {
                sums[i][v] = _mm256_add_epi32(sums[i][v], _mm256_set1_epi32(plus[i]));
            }
        }
    }
    let mut weights = block.wrapping_add(NV * 64);
    for run in tile.runs {
        let windows: [*const u8; MR] = std::array::from_fn(|i| tile.windows[i].wrapping_add(*run));
        // Two groups at once: there are more windows than registers for their addresses.
        let pairs = tile.groups / 2;
        for pair in 0..pairs {
            // SAFETY: one group of weights for each group of each run.
            let w: [[__m256i; NV]; 2] = std::array::from_fn(|g| unsafe { load(weights.add((g * NV) * 32)) });
            for i in 0..MR {
                for g in 0..2 {
                    // SAFETY: a window's runs may be read to their last group.
                    let x = unsafe { windows[i].add(pair * 8 + g * 4).cast::<i32>().read_unaligned() };
                    let x = _mm256_set1_epi32(x);
                    for v in 0..NV {
                        sums[i][v] = _mm256_dpbusd_epi32(sums[i][v], x, w[g][v]);
                    }
                }
            }
            weights = weights.wrapping_add(NV * 64);
        }
        if tile.groups % 2 == 1 {
            // SAFETY: as above.
            let w: [__m256i; NV] = unsafe { load(weights) };
            for i in 0..MR {
                // SAFETY: as above.
                let x = unsafe { windows[i].add(pairs * 8).cast::<i32>().read_unaligned() };
                let x = _mm256_set1_epi32(x);
                for v in 0..NV {
                    sums[i][v] = _mm256_dpbusd_epi32(sums[i][v], x, w[v]);
                }
            }
            weights = weights.wrapping_add(NV * 32);
        }
    }
    if tile.raw {
        for i in 0..MR {
            // SAFETY: the output has room for the sums of a block.
            unsafe { super::ymm::store_raw::<NV>(sums[i], tile.outputs[i]) };
        }
        return;
    }
    // SAFETY: multipliers follow the bias.
    let multipliers: [__m256; NV] =
        std::array::from_fn(|v| unsafe { _mm256_loadu_ps(block.add(NV * 32 + v * 32).cast()) });
    let (zero_point, range) = (i16::from(tile.output.zero_point), tile.output.range);
    let mask = if tile.channels >= 8 * NV { (1 << (8 * NV)) - 1 } else { (1_u32 << tile.channels) - 1 } as u16;
    for i in 0..MR {
        let q: [__m256i; NV] =
            std::array::from_fn(|v| _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(sums[i][v]), multipliers[v])));
        let words = _mm256_packs_epi32(q[0], q[NV - 1]);
        let words = _mm256_adds_epi16(words, _mm256_set1_epi16(zero_point));
        let words = _mm256_max_epi16(words, _mm256_set1_epi16(i16::from(range.low)));
        let words = _mm256_min_epi16(words, _mm256_set1_epi16(i16::from(range.high)));
        let mut bytes = _mm256_cvtepi16_epi8(words);
        if NV == 1 {
            // Each lane's four channels are there twice.
            bytes = _mm_shuffle_epi32::<0b1000>(bytes);
        }
        // SAFETY: the mask ends with the last channel that exists.
        unsafe { _mm_mask_storeu_epi8(tile.outputs[i].wrapping_add(tile.first).cast(), mask, bytes) };
    }
}

/// Requantizes, packs and stores the first `count` bytes of `16 * NV`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
unsafe fn store<const NV: usize>(
    sums: [__m512i; NV],
    multipliers: [__m512; NV],
    output: Output,
    out: *mut u8,
    count: usize,
) {
    // No sum times its multiplier leaves an i32 (checked with the graph); rounding is to the nearest, ties to even.
    let q: [__m512i; NV] =
        std::array::from_fn(|v| _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(sums[v]), multipliers[v])));
    let zero_point = i16::from(output.zero_point);
    let (low, high) = (output.range.low, output.range.high);
    match NV {
        4 => {
            let (mut one, mut two) = (_mm512_packs_epi32(q[0], q[1]), _mm512_packs_epi32(q[2], q[3]));
            // Behind a Relu the zero point is 0 and nothing is limited.
            if zero_point != 0 {
                let zero_point = _mm512_set1_epi16(zero_point);
                (one, two) = (_mm512_adds_epi16(one, zero_point), _mm512_adds_epi16(two, zero_point));
            }
            let mut bytes = _mm512_packus_epi16(one, two);
            if output.range != Range::FULL {
                bytes = _mm512_max_epu8(bytes, _mm512_set1_epi8(low as i8));
                bytes = _mm512_min_epu8(bytes, _mm512_set1_epi8(high as i8));
            }
            if count >= 64 {
                // SAFETY: sixty-four channels exist.
                unsafe { _mm512_storeu_si512(out.cast(), bytes) };
            } else {
                // SAFETY: the mask ends with the last that exists.
                unsafe { _mm512_mask_storeu_epi8(out.cast(), (1 << count) - 1, bytes) };
            }
        }
        2 => {
            let words = _mm512_adds_epi16(_mm512_packs_epi32(q[0], q[1]), _mm512_set1_epi16(zero_point));
            let words = _mm512_max_epi16(words, _mm512_set1_epi16(i16::from(low)));
            let words = _mm512_min_epi16(words, _mm512_set1_epi16(i16::from(high)));
            let bytes = _mm512_cvtepi16_epi8(words);
            let mask = if count >= 32 { u32::MAX } else { (1 << count) - 1 };
            // SAFETY: the mask ends with the last that exists.
            unsafe { _mm256_mask_storeu_epi8(out.cast(), mask, bytes) };
        }
        _ => {
            let longs = _mm512_add_epi32(q[0], _mm512_set1_epi32(zero_point.into()));
            let longs = _mm512_max_epi32(longs, _mm512_set1_epi32(low.into()));
            let longs = _mm512_min_epi32(longs, _mm512_set1_epi32(high.into()));
            let bytes = _mm512_cvtepi32_epi8(longs);
            let mask = if count >= 16 { u16::MAX } else { (1 << count) - 1 };
            // SAFETY: the mask ends with the last that exists.
            unsafe { _mm_mask_storeu_epi8(out.cast(), mask, bytes) };
        }
    }
}
