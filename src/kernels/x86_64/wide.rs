//! Lines of 512 bits: a register holds a whole panel line.

use std::arch::x86_64::*;

use super::line::Line;

/// AVX-512, with or without `vpdpbusd`.
///
/// Without it `maddubs` saturates at int16. A pair of q4 products is at most 15 x 127 x 2 and cannot; for q8 the
/// activation takes the weight's sign, as in AVX2: 128 x 127 x 2 = 32512 fits. AVX-512 has no `vpsignb`; a mask
/// does it.
pub(super) struct Wide<const VNNI: bool>;

impl<const VNNI: bool> Line for Wide<VNNI> {
    type Ints = __m512i;
    type Floats = __m512;
    const COLUMNS: usize = 16;
    const SIGNED_Q8: bool = !VNNI;

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        // SAFETY, here and below: the caller's promise.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn start(value: i32) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_set1_epi32(value) }
    }

    #[inline(always)]
    unsafe fn bytes(line: *const u8) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_loadu_si512(line.cast()) }
    }

    #[inline(always)]
    unsafe fn nibbles(line: *const u8) -> (__m512i, __m512i) {
        // SAFETY: as above.
        unsafe {
            let (packed, nibble) = (_mm512_loadu_si512(line.cast()), _mm512_set1_epi8(15));
            let high = _mm512_srli_epi16::<4>(packed);
            (_mm512_and_si512(packed, nibble), _mm512_and_si512(high, nibble))
        }
    }

    #[inline(always)]
    unsafe fn dot_q4(sums: __m512i, weights: __m512i, values: i32) -> __m512i {
        // SAFETY: as above.
        unsafe {
            let values = _mm512_set1_epi32(values);
            if VNNI { _mm512_dpbusd_epi32(sums, weights, values) } else { add_pairs(sums, weights, values) }
        }
    }

    #[inline(always)]
    unsafe fn dot_q8(sums: __m512i, weights: __m512i, values: i32) -> __m512i {
        // SAFETY: as above.
        unsafe {
            if VNNI {
                return Self::dot_q4(sums, weights, values);
            }
            let weights = _mm512_xor_si512(weights, _mm512_set1_epi8(-128));
            let values = _mm512_set1_epi32(values);
            let negative = _mm512_movepi8_mask(weights);
            let signed = _mm512_mask_sub_epi8(values, negative, _mm512_setzero_si512(), values);
            add_pairs(sums, _mm512_abs_epi8(weights), signed)
        }
    }

    #[inline(always)]
    unsafe fn scales(halves: *const u8) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(halves.cast())) }
    }

    #[inline(always)]
    unsafe fn accumulate(sums: __m512i, weights: __m512, activations: f32, floats: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe {
            let scale = _mm512_mul_ps(weights, _mm512_set1_ps(activations));
            _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), scale, floats)
        }
    }

    #[inline(always)]
    unsafe fn store(floats: __m512, output: *mut f32) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(output, floats) }
    }
}

/// # Safety
/// AVX-512 BW is available.
#[inline(always)]
unsafe fn add_pairs(sums: __m512i, weights: __m512i, values: __m512i) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let pairs = _mm512_maddubs_epi16(weights, values);
        _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
    }
}
