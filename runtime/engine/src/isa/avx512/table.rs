//! A function of one byte, sixty-four at once where the core has VBMI: two look-ups in 128 bytes each, and the upper bit
//! decides between them.

use crate::elementwise::AVX512;
use std::arch::x86_64::*;

pub(super) fn table(x: &[u8], out: &mut [u8], table: &[u8; 256]) {
    if is_x86_feature_detected!("avx512vbmi") {
        let count = x.len().min(out.len());
        // SAFETY: reached only through kernels that were picked for a core that has AVX-512; it has VBMI too. Both have so
        // many bytes.
        unsafe { look_up(x.as_ptr(), out.as_mut_ptr(), count, table) }
    } else {
        (AVX512.table)(x, out, table);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
unsafe fn look_up(x: *const u8, out: *mut u8, count: usize, table: &[u8; 256]) {
    // SAFETY: four times 64 bytes.
    let parts: [__m512i; 4] =
        std::array::from_fn(|part| unsafe { _mm512_loadu_si512(table.as_ptr().add(part * 64).cast()) });
    for first in (0..count).step_by(64) {
        let left = count - first;
        let mask = if left >= 64 { u64::MAX } else { (1 << left) - 1 };
        // SAFETY: the mask ends with the last byte.
        let bytes = unsafe { _mm512_maskz_loadu_epi8(mask, x.add(first).cast()) };
        let lower = _mm512_permutex2var_epi8(parts[0], bytes, parts[1]);
        let upper = _mm512_permutex2var_epi8(parts[2], bytes, parts[3]);
        let bytes = _mm512_mask_blend_epi8(_mm512_movepi8_mask(bytes), lower, upper);
        // SAFETY: as above.
        unsafe { _mm512_mask_storeu_epi8(out.add(first).cast(), mask, bytes) };
    }
}
