//! Sums as they are, in the order of channels: the 128-bit lanes of a block's vectors are put in order first.

use std::arch::x86_64::*;

/// Stores `16 * NV` sums.
///
/// # Safety
/// `out` has room for them, and the core has AVX-512.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) unsafe fn store<const NV: usize>(sums: [__m512i; NV], out: *mut u8) {
    // SAFETY: the caller vouches for so many vectors.
    let put = |v: usize, sums: __m512i| unsafe { _mm512_storeu_si512(out.add(v * 64).cast(), sums) };
    // Lanes 0 and 1 of two vectors in turn, then lanes 2 and 3.
    let turns = |one: __m512i, two: __m512i| {
        let (first, second) =
            (_mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15));
        (_mm512_permutex2var_epi64(one, first, two), _mm512_permutex2var_epi64(one, second, two))
    };
    match NV {
        4 => {
            let ((a, b), (c, d)) = (turns(sums[0], sums[1]), turns(sums[2], sums[3]));
            put(0, _mm512_shuffle_i64x2::<0x44>(a, c));
            put(1, _mm512_shuffle_i64x2::<0xee>(a, c));
            put(2, _mm512_shuffle_i64x2::<0x44>(b, d));
            put(3, _mm512_shuffle_i64x2::<0xee>(b, d));
        }
        2 => {
            let (a, b) = turns(sums[0], sums[1]);
            put(0, a);
            put(1, b);
        }
        _ => put(0, sums[0]),
    }
}
