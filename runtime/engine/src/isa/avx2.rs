//! AVX2: `vpmaddwd` multiplies pairs of 16-bit numbers and adds neighbours, in each of eight lanes.
//!
//! There is an instruction for bytes, `vpmaddubsw`, but it cuts sums of two products at 16 bits, and two bytes times two
//! weights can be twice that. Widened to 16 bits, everything is exact, at half the products per instruction.
//!
//! **Dense sums.** The bytes of a tile's windows are widened into a buffer on the stack, [`PAIRS`] pairs of each window at
//! a time, so that the loop over them spreads a pair over all lanes with the load itself. Weights are widened as they are
//! loaded: packed wide they would take twice the memory, and gain nothing beyond the nearest cache. `MR * NV` sums
//! stay in registers: 12 of 16, beside weights and one pair. A block has several stretches of `8 * NV` channels, which
//! are passed over one after the other with the same widened bytes.
//!
//! For each product of vectors there is an addition, which the same ports must take: a core that multiplies twice in a
//! cycle reaches 81 % of that with nothing else to do, and 75 % with the loads. Six windows by two vectors load least per
//! product; twelve by one waste less where channels are no multiple of sixteen; for one window alone the loads of
//! neighbouring weights count.
//!
//! **Depthwise sums.** Thirty-two neighbouring bytes at once. Two taps are interleaved, then widened with zeros: six
//! unpack instructions, four multiplications and four additions for 64 products. Two pixels that lie one tap apart share
//! what is unpacked, which saves more than it adds where rows have five taps.
//!
//! The costs of shapes are cycles of a Zen 4 core: of tiles with few and with many groups.

use super::ymm::{begin, gemm, lane, linear, load, load_reals, store, store_all};
use super::{Depthwise, Gemm, Kernels, Lanes, Tile, WeightForm};
use crate::elementwise;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

pub(super) static KERNELS: Kernels = Kernels {
    name: "avx2",
    flip: 0,
    gemms: &[
        Gemm { cost: |windows| linear((3.4, 5.1), (75.0, 19.0), windows), ..gemm::<2>(2, 4, 6, by_six_4) },
        Gemm { cost: |windows| linear((2.6, 3.8), (60.0, 19.0), windows), ..gemm::<2>(2, 3, 6, by_six_3) },
        Gemm { cost: |windows| linear((1.8, 2.6), (45.0, 12.5), windows), ..gemm::<2>(2, 2, 6, by_six_2) },
        Gemm { cost: |windows| linear((0.9, 1.4), (38.0, 7.0), windows), ..gemm::<2>(2, 1, 6, by_six_1) },
        Gemm { cost: |windows| linear((2.4, 2.1), (50.0, 14.0), windows), ..gemm::<1>(2, 3, 12, by_twelve_3) },
        Gemm { cost: |windows| linear((0.7, 0.9), (35.0, 6.0), windows), ..gemm::<1>(2, 1, 12, by_twelve_1) },
        Gemm { cost: |_| (4.2, 50.0), ..gemm::<4>(2, 1, 1, by_one) },
    ],
    depthwise: &Depthwise {
        lanes: 32,
        depth: 2,
        weights: WeightForm::I16,
        lane: lane::<4>,
        run: depthwise,
        pairs: Some((5, pairs)),
    },
    elementwise: &elementwise::AVX2,
    available: || is_x86_feature_detected!("avx2"),
};

macro_rules! by_windows {
    ($name:ident, $vectors:literal, $passes:literal, $($windows:literal)*) => {
        unsafe fn $name(windows: usize, tile: &Tile<'_>) {
            match windows {
                // SAFETY: the caller vouches for the tile, and has asked whether the core has these instructions.
                $($windows => unsafe { dense::<$windows, $vectors>(tile, $passes) },)*
                _ => debug_assert!(false, "no tile of {windows} windows"),
            }
        }
    };
}
by_windows!(by_six_4, 2, 4, 1 2 3 4 5 6);
by_windows!(by_six_3, 2, 3, 1 2 3 4 5 6);
by_windows!(by_six_2, 2, 2, 1 2 3 4 5 6);
by_windows!(by_six_1, 2, 1, 1 2 3 4 5 6);
by_windows!(by_twelve_3, 1, 3, 1 2 3 4 5 6 7 8 9 10 11 12);
by_windows!(by_twelve_1, 1, 1, 1 2 3 4 5 6 7 8 9 10 11 12);
by_windows!(by_one, 4, 1, 1);

/// Pairs of each window that are widened at a time. Their weights stay near while a block is passed over.
const PAIRS: usize = 128;
/// From one window's widened elements to the next's: widening may write a vector beyond the last.
const WIDE: usize = 2 * PAIRS + 16;
/// Most passes over a tile.
const PASSES_MAX: usize = 4;

/// A tile of `MR` windows, with a block that has `passes` times `NV` vectors of channels.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn dense<const MR: usize, const NV: usize>(tile: &Tile<'_>, passes: usize) {
    let channels = 8 * NV * passes;
    let mut wide = MaybeUninit::<[[i16; WIDE]; MR]>::uninit();
    let wide = wide.as_mut_ptr().cast::<i16>();
    let mut kept = MaybeUninit::<[[[__m256i; NV]; MR]; PASSES_MAX]>::uninit();
    let kept = kept.as_mut_ptr().cast::<[[__m256i; NV]; MR]>();
    let mut weights = tile.block.wrapping_add(channels * 8);
    let (mut at, mut first) = ((0, 0), true);
    loop {
        // SAFETY: the caller vouches for the windows; there is room for all of them.
        let pairs = unsafe { widen::<MR>(tile, &mut at, wide) };
        let last = at.0 == tile.runs.len();
        for pass in 0..tile.channels.div_ceil(8 * NV) {
            let first_channel = pass * 8 * NV;
            let block = tile.block.wrapping_add(first_channel * 4);
            let mut sums = if first {
                // SAFETY: a block begins with the bias of each channel.
                unsafe { begin::<MR, NV>(block, tile) }
            } else {
                // SAFETY: kept by this pass over the pairs before.
                unsafe { kept.add(pass).read() }
            };
            for pair in 0..pairs {
                let weights = weights.wrapping_add(pair * channels * 2 + first_channel * 2);
                // SAFETY: a pair of weights for each pair of bytes and each channel.
                let w: [__m256i; NV] = std::array::from_fn(|v| unsafe {
                    _mm256_cvtepi8_epi16(_mm_loadu_si128(weights.add(v * 16).cast()))
                });
                for (i, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: this pair was widened.
                    let x = unsafe { wide.add(i * WIDE + pair * 2).cast::<i32>().read_unaligned() };
                    let x = _mm256_set1_epi32(x);
                    for (sum, w) in sums.iter_mut().zip(w) {
                        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(x, w));
                    }
                }
            }
            if last {
                // SAFETY: multipliers follow the bias; the outputs have all channels that exist.
                unsafe { store_all::<MR, NV>(sums, block.add(channels * 4), tile, first_channel) };
            } else {
                // SAFETY: there is room for each pass.
                unsafe { kept.add(pass).write(sums) };
            }
        }
        if last {
            return;
        }
        weights = weights.wrapping_add(pairs * channels * 2);
        first = false;
    }
}

/// Widens the next pairs of each window, up to [`PAIRS`], from a pair of a run on. How many there were.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn widen<const MR: usize>(tile: &Tile<'_>, (run, pair): &mut (usize, usize), wide: *mut i16) -> usize {
    let mut filled = 0;
    while *run < tile.runs.len() && filled < PAIRS {
        let pairs = (tile.groups - *pair).min(PAIRS - filled);
        let from: [*const u8; MR] = std::array::from_fn(|i| tile.windows[i].wrapping_add(tile.runs[*run] + *pair * 2));
        let to = wide.wrapping_add(filled * 2);
        let mut done = 0;
        while done < pairs * 2 {
            for (i, from) in from.into_iter().enumerate() {
                // SAFETY: bytes beyond a run may be read; each window has room for a vector beyond its last element.
                unsafe {
                    let bytes = _mm_loadu_si128(from.wrapping_add(done).cast());
                    _mm256_storeu_si256(to.add(i * WIDE + done).cast(), _mm256_cvtepu8_epi16(bytes));
                }
            }
            done += 16;
        }
        (filled, *pair) = (filled + pairs, *pair + pairs);
        if *pair == tile.groups {
            (*run, *pair) = (*run + 1, 0);
        }
    }
    filled
}

unsafe fn depthwise(lanes: &Lanes<'_>) {
    // SAFETY: the caller vouches for the lanes, and has asked whether the core has these instructions.
    unsafe {
        match lanes.taps.len() {
            10 => depthwise_of::<5>(lanes),
            26 => depthwise_of::<13>(lanes),
            _ => depthwise_of::<0>(lanes),
        }
    }
}

/// `G` groups of two taps; 0 for any number.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn depthwise_of<const G: usize>(lanes: &Lanes<'_>) {
    let block = lanes.block;
    let groups = if G == 0 { lanes.taps.len() / 2 } else { G };
    // SAFETY: a block has bias, multipliers, and the weights of each group.
    let (bias, multipliers) = unsafe { (load::<4>(block), load_reals::<4>(block.add(128))) };
    let taps = lanes.taps;
    for item in 0..lanes.items {
        let window = lanes.window.wrapping_add(item * lanes.step);
        let mut sums = bias;
        for group in 0..groups {
            // SAFETY: bytes beyond the last lane may be read.
            let [a, b]: [__m256i; 2] = std::array::from_fn(|tap| unsafe {
                _mm256_loadu_si256(window.wrapping_add(*taps.get_unchecked(group * 2 + tap)).cast())
            });
            let x = interleave(a, b);
            // SAFETY: as above.
            let w = unsafe { load::<4>(block.add(256 + group * 128)) };
            for v in 0..4 {
                sums[v] = _mm256_add_epi32(sums[v], _mm256_madd_epi16(x[v], w[v]));
            }
        }
        let count = if item + 1 == lanes.items { lanes.lanes_last } else { lanes.lanes };
        // SAFETY: the output has all lanes that exist.
        unsafe { store::<4>(sums, multipliers, lanes.output, lanes.out.wrapping_add(item * lanes.out_step), count) };
    }
}

/// Bytes of two taps, widened, those of one lane side by side.
#[target_feature(enable = "avx2")]
#[inline]
fn interleave(a: __m256i, b: __m256i) -> [__m256i; 4] {
    let (low, high) = (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b));
    let zero = _mm256_setzero_si256();
    [
        _mm256_unpacklo_epi8(low, zero),
        _mm256_unpackhi_epi8(low, zero),
        _mm256_unpacklo_epi8(high, zero),
        _mm256_unpackhi_epi8(high, zero),
    ]
}

unsafe fn pairs(lanes: &Lanes<'_>) {
    // SAFETY: as of `depthwise`; the last of an odd number is an item like any other.
    unsafe {
        all_pairs(lanes);
        if lanes.items % 2 == 1 {
            let before = lanes.items - 1;
            depthwise(&Lanes {
                window: lanes.window.wrapping_add(before * lanes.step),
                out: lanes.out.wrapping_add(before * lanes.out_step),
                items: 1,
                ..*lanes
            });
        }
    }
}

/// All that has two items. The second tap of a row's last group is the second item's alone.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn all_pairs(lanes: &Lanes<'_>) {
    let block = lanes.block;
    let groups = lanes.taps.len() / 2;
    // SAFETY: a block has bias, multipliers, and the weights of each group.
    let (bias, multipliers) = unsafe { (load::<4>(block), load_reals::<4>(block.add(128))) };
    for pair in 0..lanes.items / 2 {
        let window = lanes.window.wrapping_add(pair * 2 * lanes.step);
        let (mut first, mut second) = (bias, bias);
        for group in 0..groups {
            // SAFETY: the tap after a row's last is the second item's last.
            let (a, b) = unsafe {
                let tap = window.wrapping_add(*lanes.taps.get_unchecked(group * 2));
                (_mm256_loadu_si256(tap.cast()), _mm256_loadu_si256(tap.wrapping_add(lanes.step).cast()))
            };
            let x = interleave(a, b);
            // SAFETY: as above, twice.
            let (w, later) = unsafe {
                (load::<4>(block.add(256 + group * 128)), load::<4>(block.add(256 + (groups + group) * 128)))
            };
            for v in 0..4 {
                first[v] = _mm256_add_epi32(first[v], _mm256_madd_epi16(x[v], w[v]));
                second[v] = _mm256_add_epi32(second[v], _mm256_madd_epi16(x[v], later[v]));
            }
        }
        for (i, sums) in [first, second].into_iter().enumerate() {
            let item = pair * 2 + i;
            let count = if item + 1 == lanes.items { lanes.lanes_last } else { lanes.lanes };
            let out = lanes.out.wrapping_add(item * lanes.out_step);
            // SAFETY: the output has all lanes that exist.
            unsafe { store::<4>(sums, multipliers, lanes.output, out, count) };
        }
    }
}
