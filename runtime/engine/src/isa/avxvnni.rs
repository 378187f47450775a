//! VNNI on vectors of 256 bits: `vpdpbusd` multiplies four unsigned bytes by four signed ones in each of eight lanes.
//!
//! AVX-VNNI is an instruction set of cores without AVX-512; in AVX-512 the same instruction is encoded otherwise. The
//! kernels are written once and compiled for both: the second lets them be tried on more machines, and is for cores that
//! slow down for vectors of 512 bits.
//!
//! **Dense sums.** As with AVX-512, but a block has one or several stretches of `8 * NV` channels, which are passed over
//! one after the other. Of 16 registers 12 hold sums, enough for two instructions in each cycle and their latency of
//! four. Three windows by four vectors load least; six by two and twelve by one waste less where a layer has few
//! channels.
//!
//! **Depthwise sums.** As with AVX-512, on thirty-two neighbouring bytes. Of a row of three taps and the next one, which
//! unpacking puts side by side, one pixel needs the first three and its neighbour the last three: a second multiplication
//! with weights that lie one place later spares half of the unpacking and of the loads.
//!
//! The costs of shapes are cycles of a Zen 4 core: of tiles with few and with many groups.

use super::ymm::{begin, gemm, lane, linear, load, load_reals, store, store_all};
use super::{Depthwise, Gemm, Kernels, Lanes, Tile, WeightForm};
use crate::elementwise;
use std::arch::x86_64::*;

/// Costs as of [`linear`], but no less for a group than the latency lets.
fn at_least(latency: f32, group: (f32, f32), tile: (f32, f32), windows: usize) -> (f32, f32) {
    let (group, tile) = linear(group, tile, windows);
    (group.max(latency), tile)
}

/// Bytes of four taps, those of one lane side by side.
#[target_feature(enable = "avx2")]
#[inline]
fn interleave(x: [__m256i; 4]) -> [__m256i; 4] {
    let (ab_low, ab_high) = (_mm256_unpacklo_epi8(x[0], x[1]), _mm256_unpackhi_epi8(x[0], x[1]));
    let (cd_low, cd_high) = (_mm256_unpacklo_epi8(x[2], x[3]), _mm256_unpackhi_epi8(x[2], x[3]));
    [
        _mm256_unpacklo_epi16(ab_low, cd_low),
        _mm256_unpackhi_epi16(ab_low, cd_low),
        _mm256_unpacklo_epi16(ab_high, cd_high),
        _mm256_unpackhi_epi16(ab_high, cd_high),
    ]
}

macro_rules! kernels {
    ($kernels:ident, $name:literal, $module:ident, $features:literal, $dpbusd:ident, $available:expr) => {
        pub(super) static $kernels: Kernels = Kernels {
            name: $name,
            flip: 0,
            gemms: &[
                Gemm {
                    cost: |windows| at_least(8.7, (0.0, 4.2), (20.0, 27.0), windows),
                    ..gemm::<4>(4, 2, 3, $module::by_three_2)
                },
                Gemm {
                    cost: |windows| at_least(4.5, (0.0, 2.2), (15.0, 13.0), windows),
                    ..gemm::<4>(4, 1, 3, $module::by_three_1)
                },
                Gemm {
                    cost: |windows| at_least(9.0, (8.0, 1.8), (20.0, 21.0), windows),
                    ..gemm::<2>(4, 3, 6, $module::by_six_3)
                },
                Gemm {
                    cost: |windows| at_least(3.5, (2.8, 0.7), (17.0, 7.0), windows),
                    ..gemm::<2>(4, 1, 6, $module::by_six_1)
                },
                Gemm {
                    cost: |windows| at_least(4.7, (0.0, 0.8), (0.0, 9.0), windows),
                    ..gemm::<1>(4, 1, 12, $module::by_twelve_1)
                },
            ],
            depthwise: &Depthwise {
                lanes: 32,
                depth: 4,
                weights: WeightForm::I8,
                lane: lane::<4>,
                run: $module::depthwise,
                pairs: Some((3, $module::pairs)),
            },
            elementwise: &elementwise::AVX2,
            available: $available,
        };

        mod $module {
            use super::*;

            kernels!(@ by_three_2, 4, 2, 1 2 3);
            kernels!(@ by_three_1, 4, 1, 1 2 3);
            kernels!(@ by_six_3, 2, 3, 1 2 3 4 5 6);
            kernels!(@ by_six_1, 2, 1, 1 2 3 4 5 6);
            kernels!(@ by_twelve_1, 1, 1, 1 2 3 4 5 6 7 8 9 10 11 12);

            /// A tile of `MR` windows, with a block that has `passes` times `NV` vectors of channels.
            #[target_feature(enable = $features)]
            #[inline]
            unsafe fn dense<const MR: usize, const NV: usize>(tile: &Tile<'_>, passes: usize) {
                let channels = 8 * NV * passes;
                for pass in 0..tile.channels.div_ceil(8 * NV) {
                    let first_channel = pass * NV * 8;
                    let block = tile.block.wrapping_add(first_channel * 4);
                    // SAFETY: a block begins with the bias of each channel.
                    let mut sums = unsafe { begin::<MR, NV>(block, tile) };
                    let mut weights = tile.block.wrapping_add(channels * 8 + first_channel * 4);
                    for run in tile.runs {
                        let windows: [*const u8; MR] = std::array::from_fn(|i| tile.windows[i].wrapping_add(*run));
                        for group in 0..tile.groups {
                            // SAFETY: one group of weights for each group of each run.
                            let w = unsafe { load::<NV>(weights) };
                            for (sums, window) in sums.iter_mut().zip(windows) {
                                // SAFETY: a window's runs may be read to their last group.
                                let x = unsafe { window.add(group * 4).cast::<i32>().read_unaligned() };
                                let x = _mm256_set1_epi32(x);
                                for (sum, w) in sums.iter_mut().zip(w) {
                                    *sum = $dpbusd(*sum, x, w);
                                }
                            }
                            weights = weights.wrapping_add(channels * 4);
                        }
                    }
                    // SAFETY: multipliers follow the bias; the outputs have all channels that exist.
                    unsafe { store_all::<MR, NV>(sums, block.add(channels * 4), tile, first_channel) };
                }
            }

            pub(super) unsafe fn depthwise(lanes: &Lanes<'_>) {
                // SAFETY: the caller vouches for the lanes, and has asked whether the core has these instructions.
                unsafe {
                    match lanes.taps.len() {
                        4 => depthwise_of::<1>(lanes),
                        8 => depthwise_of::<2>(lanes),
                        12 => depthwise_of::<3>(lanes),
                        28 => depthwise_of::<7>(lanes),
                        _ => depthwise_of::<0>(lanes),
                    }
                }
            }

            /// `G` groups of four taps; 0 for any number.
            #[target_feature(enable = $features)]
            #[inline]
            unsafe fn depthwise_of<const G: usize>(lanes: &Lanes<'_>) {
                let block = lanes.block;
                let groups = if G == 0 { lanes.taps.len() / 4 } else { G };
                // SAFETY: a block has bias, multipliers, and the weights of each group.
                let (bias, multipliers) = unsafe { (load::<4>(block), load_reals::<4>(block.add(128))) };
                let taps = lanes.taps;
                for item in 0..lanes.items {
                    let window = lanes.window.wrapping_add(item * lanes.step);
                    let mut sums = bias;
                    for group in 0..groups {
                        // SAFETY: bytes beyond the last lane may be read.
                        let x: [__m256i; 4] = std::array::from_fn(|tap| unsafe {
                            _mm256_loadu_si256(window.wrapping_add(*taps.get_unchecked(group * 4 + tap)).cast())
                        });
                        let x = interleave(x);
                        // SAFETY: as above.
                        let w = unsafe { load::<4>(block.add(256 + group * 128)) };
                        for v in 0..4 {
                            sums[v] = $dpbusd(sums[v], x[v], w[v]);
                        }
                    }
                    let count = if item + 1 == lanes.items { lanes.lanes_last } else { lanes.lanes };
                    let out = lanes.out.wrapping_add(item * lanes.out_step);
                    // SAFETY: the output has all lanes that exist.
                    unsafe { store::<4>(sums, multipliers, lanes.output, out, count) };
                }
            }

            pub(super) unsafe fn pairs(lanes: &Lanes<'_>) {
                // SAFETY: as of `depthwise`; the last of an odd number is an item like any other.
                unsafe {
                    match lanes.taps.len() {
                        12 => pairs_of::<3>(lanes),
                        _ => pairs_of::<0>(lanes),
                    }
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

            /// `G` rows of three taps; 0 for any number.
            #[target_feature(enable = $features)]
            #[inline]
            unsafe fn pairs_of<const G: usize>(lanes: &Lanes<'_>) {
                let block = lanes.block;
                let groups = if G == 0 { lanes.taps.len() / 4 } else { G };
                // SAFETY: a block has bias, multipliers, and the weights of each row.
                let (bias, multipliers) = unsafe { (load::<4>(block), load_reals::<4>(block.add(128))) };
                for pair in 0..lanes.items / 2 {
                    let window = lanes.window.wrapping_add(pair * 2 * lanes.step);
                    let (mut first, mut second) = (bias, bias);
                    for group in 0..groups {
                        let row = window.wrapping_add(lanes.taps[group * 4]);
                        // SAFETY: the second item's last tap is the fourth from the first's first.
                        let x = std::array::from_fn(|tap| unsafe {
                            _mm256_loadu_si256(row.wrapping_add(tap * lanes.step).cast())
                        });
                        let x = interleave(x);
                        // SAFETY: as above, twice.
                        let (w, later) = unsafe {
                            (load::<4>(block.add(256 + group * 128)), load::<4>(block.add(256 + (groups + group) * 128)))
                        };
                        for v in 0..4 {
                            first[v] = $dpbusd(first[v], x[v], w[v]);
                            second[v] = $dpbusd(second[v], x[v], later[v]);
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
        }
    };
    (@ $name:ident, $vectors:literal, $passes:literal, $($windows:literal)*) => {
        pub(super) unsafe fn $name(windows: usize, tile: &Tile<'_>) {
            match windows {
                // SAFETY: the caller vouches for the tile, and has asked whether the core has these instructions.
                $($windows => unsafe { dense::<$windows, $vectors>(tile, $passes) },)*
                _ => debug_assert!(false, "no tile of {windows} windows"),
            }
        }
    };
}

kernels!(VEX, "avxvnni", vex, "avx2,avxvnni", _mm256_dpbusd_avx_epi32, || {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("avxvnni")
});
kernels!(EVEX, "avx512vnni-256", evex, "avx2,avx512vl,avx512vnni", _mm256_dpbusd_epi32, || {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("avx512vnni")
});
