//! What the kernels on vectors of 256 bits share: the order of channels, and the way from sums to bytes.
//!
//! Unpacking and packing work within 128-bit lanes. Lanes of a block are kept in the order in which they come out of it,
//! so that nothing has to be put in order afterwards. There are no stores under a mask of bytes: what does not fill a
//! vector is stored in pieces.

use super::{Gemm, Output, Tile, WeightForm};
use std::arch::x86_64::*;

/// In each stretch of `8 * NV` channels, vector `v`, 128-bit lane `l`, element `i` hold channel `l * 4 * NV + v * 4 + i`:
/// packing the vectors together puts channels in order.
pub(super) fn lane<const NV: usize>(place: usize) -> usize {
    let (pass, place) = (place / (8 * NV), place % (8 * NV));
    let (vector, within) = (place / 8, place % 8);
    pass * 8 * NV + within / 4 * 4 * NV + vector * 4 + within % 4
}

/// A shape: so many passes over `NV` vectors of channels, and so many windows. Its cost is to be filled in.
pub(super) const fn gemm<const NV: usize>(
    depth: usize,
    passes: usize,
    windows: usize,
    tile: unsafe fn(usize, &Tile<'_>),
) -> Gemm {
    let cost = |_| (0.0, 0.0);
    Gemm { channels: 8 * NV * passes, depth, windows, weights: WeightForm::I8, lane: lane::<NV>, cost, tile }
}

/// Costs that grow with the windows: of a group, and of begin and end.
pub(super) fn linear(group: (f32, f32), tile: (f32, f32), windows: usize) -> (f32, f32) {
    let windows = windows as f32;
    (group.0 + group.1 * windows, tile.0 + tile.1 * windows)
}

/// Vectors that lie side by side.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) unsafe fn load<const NV: usize>(from: *const u8) -> [__m256i; NV] {
    // SAFETY: the caller vouches for so many.
    std::array::from_fn(|v| unsafe { _mm256_loadu_si256(from.add(v * 32).cast()) })
}

/// The same of reals.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) unsafe fn load_reals<const NV: usize>(from: *const u8) -> [__m256; NV] {
    // SAFETY: the caller vouches for so many.
    std::array::from_fn(|v| unsafe { _mm256_loadu_ps(from.add(v * 32).cast()) })
}

/// What the sums of a tile's windows begin with.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) unsafe fn begin<const MR: usize, const NV: usize>(bias: *const u8, tile: &Tile<'_>) -> [[__m256i; NV]; MR] {
    // SAFETY: the caller vouches for the bias of each channel.
    let mut sums = [unsafe { load::<NV>(bias) }; MR];
    if let Some(plus) = &tile.plus {
        for (sums, plus) in sums.iter_mut().zip(plus) {
            *sums = sums.map(|sum| _mm256_add_epi32(sum, _mm256_set1_epi32(*plus)));
        }
    }
    sums
}

/// Stores the sums of a tile's windows, from a channel of its block on.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) unsafe fn store_all<const MR: usize, const NV: usize>(
    sums: [[__m256i; NV]; MR],
    multipliers: *const u8,
    tile: &Tile<'_>,
    begin: usize,
) {
    if tile.raw {
        for (sums, out) in sums.into_iter().zip(tile.outputs) {
            // SAFETY: the output has room for the sums of a block.
            unsafe { store_raw::<NV>(sums, out.wrapping_add(begin * 4)) };
        }
        return;
    }
    // SAFETY: the caller vouches for them.
    let multipliers = unsafe { load_reals::<NV>(multipliers) };
    for (sums, out) in sums.into_iter().zip(tile.outputs) {
        // SAFETY: the output has all channels that exist.
        unsafe {
            store::<NV>(sums, multipliers, tile.output, out.wrapping_add(tile.first + begin), tile.channels - begin)
        };
    }
}

/// Stores `8 * NV` sums as they are, in the order of channels.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) unsafe fn store_raw<const NV: usize>(sums: [__m256i; NV], out: *mut u8) {
    if NV == 1 {
        // SAFETY: the caller vouches for the room.
        unsafe { _mm256_storeu_si256(out.cast(), sums[0]) };
        return;
    }
    for pair in 0..NV / 2 {
        let (one, two) = (sums[pair * 2], sums[pair * 2 + 1]);
        // SAFETY: as above; the lower lanes hold the channels of the first half.
        unsafe {
            let (low, high) =
                (_mm256_permute2x128_si256::<0x20>(one, two), _mm256_permute2x128_si256::<0x31>(one, two));
            _mm256_storeu_si256(out.add(pair * 32).cast(), low);
            _mm256_storeu_si256(out.add((NV / 2 + pair) * 32).cast(), high);
        }
    }
}

/// Requantizes, packs and stores the first `count` bytes of `8 * NV`.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) unsafe fn store<const NV: usize>(
    sums: [__m256i; NV],
    multipliers: [__m256; NV],
    output: Output,
    out: *mut u8,
    count: usize,
) {
    // No sum times its multiplier leaves an i32 (checked with the graph); rounding is to the nearest, ties to even.
    let q: [__m256i; NV] =
        std::array::from_fn(|v| _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(sums[v]), multipliers[v])));
    let zero_point = _mm256_set1_epi16(output.zero_point.into());
    let (low, high) = (_mm256_set1_epi8(output.range.low as i8), _mm256_set1_epi8(output.range.high as i8));
    if NV == 4 {
        let one = _mm256_adds_epi16(_mm256_packs_epi32(q[0], q[1]), zero_point);
        let two = _mm256_adds_epi16(_mm256_packs_epi32(q[2], q[3]), zero_point);
        let bytes = _mm256_min_epu8(_mm256_max_epu8(_mm256_packus_epi16(one, two), low), high);
        if count >= 32 {
            // SAFETY: thirty-two bytes exist.
            unsafe { _mm256_storeu_si256(out.cast(), bytes) };
        } else {
            let (one, two) = (_mm256_castsi256_si128(bytes), _mm256_extracti128_si256::<1>(bytes));
            // SAFETY: so many bytes exist.
            unsafe {
                store_some(one, out, count.min(16));
                store_some(two, out.wrapping_add(16), count.saturating_sub(16));
            }
        }
    } else {
        // Of one vector alone, its two halves are packed into each other.
        let words = _mm256_packs_epi32(q[0], q[NV - 1]);
        let words = _mm256_adds_epi16(words, zero_point);
        let (one, two) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
        let bytes =
            if NV == 1 { _mm_packus_epi16(_mm_unpacklo_epi64(one, two), one) } else { _mm_packus_epi16(one, two) };
        let bytes = _mm_min_epu8(_mm_max_epu8(bytes, _mm256_castsi256_si128(low)), _mm256_castsi256_si128(high));
        // SAFETY: so many bytes exist.
        unsafe { store_some(bytes, out, count.min(8 * NV)) };
    }
}

/// The first `count` bytes of 16.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn store_some(bytes: __m128i, out: *mut u8, count: usize) {
    // SAFETY: no store ends beyond `count`.
    unsafe {
        if count >= 16 {
            return _mm_storeu_si128(out.cast(), bytes);
        }
        let (mut bytes, mut out) = (bytes, out);
        if count & 8 != 0 {
            _mm_storel_epi64(out.cast(), bytes);
            (bytes, out) = (_mm_srli_si128::<8>(bytes), out.wrapping_add(8));
        }
        if count & 4 != 0 {
            out.cast::<i32>().write_unaligned(_mm_cvtsi128_si32(bytes));
            (bytes, out) = (_mm_srli_si128::<4>(bytes), out.wrapping_add(4));
        }
        if count & 2 != 0 {
            out.cast::<i16>().write_unaligned(_mm_cvtsi128_si32(bytes) as i16);
            (bytes, out) = (_mm_srli_si128::<2>(bytes), out.wrapping_add(2));
        }
        if count & 1 != 0 {
            out.write(_mm_cvtsi128_si32(bytes) as u8);
        }
    }
}
