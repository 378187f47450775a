//! The sum of two tensors: sixty-four bytes at once, in f32 as everywhere.

use crate::elementwise::{AVX512, Binary, Second};
use crate::graph::Range;
use std::arch::x86_64::*;

/// Larger scales could leave an i32; they are left to the plain loop.
const SCALE_MAX: f32 = 1e6;

pub(super) fn add(one: &[u8], two: Second<'_>, out: &mut [u8], of: &Binary) {
    match two {
        Second::Row(row) if of.scales.one.max(of.scales.two) <= SCALE_MAX && of.flip == 0 => {
            let count = one.len().min(row.len()).min(out.len());
            // SAFETY: reached only through kernels that were picked for a core that has these instructions; all three have
            // so many bytes.
            unsafe { rows(one.as_ptr(), row.as_ptr(), out.as_mut_ptr(), count, of) }
        }
        _ => (AVX512.add)(one, two, out, of),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn rows(one: *const u8, two: *const u8, out: *mut u8, count: usize, of: &Binary) {
    let (zero_one, zero_two) = (_mm512_set1_epi32(of.zero_one.into()), _mm512_set1_epi32(of.zero_two.into()));
    let (scale_one, scale_two) = (_mm512_set1_ps(of.scales.one), _mm512_set1_ps(of.scales.two));
    let zero_point = _mm512_set1_epi16(of.zero_point.into());
    let (low, high) = (_mm512_set1_epi8(of.range.low as i8), _mm512_set1_epi8(of.range.high as i8));
    // Packing in 128-bit lanes leaves four bytes of each quarter side by side.
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    for first in (0..count).step_by(64) {
        let left = count - first;
        let mask = if left >= 64 { u64::MAX } else { (1 << left) - 1 };
        // SAFETY: the masks end with the last byte.
        let (a, b) = unsafe {
            (_mm512_maskz_loadu_epi8(mask, one.add(first).cast()), _mm512_maskz_loadu_epi8(mask, two.add(first).cast()))
        };
        let quarter = |a: __m128i, b: __m128i| {
            let a = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_cvtepu8_epi32(a), zero_one));
            let b = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_cvtepu8_epi32(b), zero_two));
            _mm512_cvtps_epi32(_mm512_add_ps(_mm512_mul_ps(a, scale_one), _mm512_mul_ps(b, scale_two)))
        };
        let q = [
            quarter(_mm512_extracti32x4_epi32::<0>(a), _mm512_extracti32x4_epi32::<0>(b)),
            quarter(_mm512_extracti32x4_epi32::<1>(a), _mm512_extracti32x4_epi32::<1>(b)),
            quarter(_mm512_extracti32x4_epi32::<2>(a), _mm512_extracti32x4_epi32::<2>(b)),
            quarter(_mm512_extracti32x4_epi32::<3>(a), _mm512_extracti32x4_epi32::<3>(b)),
        ];
        let lower = _mm512_adds_epi16(_mm512_packs_epi32(q[0], q[1]), zero_point);
        let upper = _mm512_adds_epi16(_mm512_packs_epi32(q[2], q[3]), zero_point);
        let mut bytes = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(lower, upper));
        if of.range != Range::FULL {
            bytes = _mm512_min_epu8(_mm512_max_epu8(bytes, low), high);
        }
        // SAFETY: as above.
        unsafe { _mm512_mask_storeu_epi8(out.add(first).cast(), mask, bytes) };
    }
}
