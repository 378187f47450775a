//! Depthwise sums of sixty-four neighbouring bytes at once. Four taps are interleaved with eight unpack instructions, so that
//! the bytes of one lane lie side by side, and `vpdpbusd` sums them: 12 instructions for 256 products. Where a row of three
//! taps leaves the fourth place to the next pixel's last, the same unpacked bytes serve both pixels.

use super::store;
use crate::isa::Lanes;
use std::arch::x86_64::*;

pub(super) unsafe fn run(lanes: &Lanes<'_>) {
    // SAFETY: the caller vouches for the lanes, and has asked whether the core has these instructions.
    unsafe {
        match lanes.taps.len() {
            4 => run_of::<1>(lanes),
            8 => run_of::<2>(lanes),
            12 => run_of::<3>(lanes),
            _ => run_of::<0>(lanes),
        }
    }
}

pub(super) unsafe fn pairs(lanes: &Lanes<'_>) {
    // SAFETY: as above; the last of an odd number is an item like any other.
    unsafe {
        match lanes.taps.len() {
            12 => pairs_of::<3>(lanes),
            _ => pairs_of::<0>(lanes),
        }
        if lanes.items % 2 == 1 {
            let before = lanes.items - 1;
            let window = lanes.window.wrapping_add(before * lanes.step);
            let out = lanes.out.wrapping_add(before * lanes.out_step);
            run(&Lanes { window, out, items: 1, ..*lanes });
        }
    }
}

/// The bytes of four taps of each lane side by side.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn interleave(x: [__m512i; 4]) -> [__m512i; 4] {
    let (ab_low, ab_high) = (_mm512_unpacklo_epi8(x[0], x[1]), _mm512_unpackhi_epi8(x[0], x[1]));
    let (cd_low, cd_high) = (_mm512_unpacklo_epi8(x[2], x[3]), _mm512_unpackhi_epi8(x[2], x[3]));
    [
        _mm512_unpacklo_epi16(ab_low, cd_low),
        _mm512_unpackhi_epi16(ab_low, cd_low),
        _mm512_unpacklo_epi16(ab_high, cd_high),
        _mm512_unpackhi_epi16(ab_high, cd_high),
    ]
}

/// Four vectors.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn load(bytes: *const u8) -> [__m512i; 4] {
    // SAFETY: the caller vouches for them.
    std::array::from_fn(|v| unsafe { _mm512_loadu_si512(bytes.add(v * 64).cast()) })
}

/// `G` groups of four taps; 0 for any number.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
unsafe fn run_of<const G: usize>(lanes: &Lanes<'_>) {
    let (block, taps) = (lanes.block, lanes.taps);
    let groups = if G == 0 { taps.len() / 4 } else { G };
    // SAFETY: a block has bias, multipliers, and the weights of each group.
    let (bias, multipliers) = unsafe { (load(block), load(block.add(256)).map(|v| _mm512_castsi512_ps(v))) };
    for item in 0..lanes.items {
        let window = lanes.window.wrapping_add(item * lanes.step);
        let mut sums = bias;
        for group in 0..groups {
            // SAFETY: bytes beyond the last lane may be read.
            let x = interleave(std::array::from_fn(|tap| unsafe {
                _mm512_loadu_si512(window.wrapping_add(*taps.get_unchecked(group * 4 + tap)).cast())
            }));
            // SAFETY: as above.
            let w = unsafe { load(block.add(512 + group * 256)) };
            for v in 0..4 {
                sums[v] = _mm512_dpbusd_epi32(sums[v], x[v], w[v]);
            }
        }
        let count = if item + 1 == lanes.items { lanes.lanes_last } else { lanes.lanes };
        // SAFETY: the output has all lanes that exist.
        unsafe { store::<4>(sums, multipliers, lanes.output, lanes.out.wrapping_add(item * lanes.out_step), count) };
    }
}

/// `G` rows of three taps; 0 for any number.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
unsafe fn pairs_of<const G: usize>(lanes: &Lanes<'_>) {
    let block = lanes.block;
    let groups = if G == 0 { lanes.taps.len() / 4 } else { G };
    // SAFETY: a block has bias, multipliers, and the weights of each row.
    let (bias, multipliers) = unsafe { (load(block), load(block.add(256)).map(|v| _mm512_castsi512_ps(v))) };
    for pair in 0..lanes.items / 2 {
        let window = lanes.window.wrapping_add(pair * 2 * lanes.step);
        let (mut first, mut second) = (bias, bias);
        for group in 0..groups {
            let row = window.wrapping_add(lanes.taps[group * 4]);
            // SAFETY: the second item's last tap is the fourth from the first's first.
            let x = interleave(std::array::from_fn(|tap| unsafe {
                _mm512_loadu_si512(row.wrapping_add(tap * lanes.step).cast())
            }));
            // SAFETY: as above, twice.
            let (w, later) =
                unsafe { (load(block.add(512 + group * 256)), load(block.add(512 + (groups + group) * 256))) };
            for v in 0..4 {
                first[v] = _mm512_dpbusd_epi32(first[v], x[v], w[v]);
                second[v] = _mm512_dpbusd_epi32(second[v], x[v], later[v]);
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
