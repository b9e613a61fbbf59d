//! Registers of 512 bits: one holds a whole panel line.

use std::arch::x86_64::*;

use super::panel::PanelSimd;

/// The instructions that `levels` and `magnitudes` are made of.
pub(super) mod instructions {
    pub(in crate::kernels::x86_64) use std::arch::x86_64::{
        __m512i as Ints, _mm512_abs_epi8 as abs_i8, _mm512_add_epi16 as add_i16, _mm512_add_epi32 as add_i32,
        _mm512_and_si512 as and, _mm512_broadcast_i32x4 as broadcast_128, _mm512_cvtepi32_ps as to_f32,
        _mm512_fmadd_ps as fmadd, _mm512_loadu_ps as load_f32, _mm512_loadu_si512 as load,
        _mm512_madd_epi16 as madd_i16, _mm512_maddubs_epi16 as madd_u8, _mm512_mul_ps as multiply_f32,
        _mm512_mullo_epi16 as multiply_i16, _mm512_set1_epi32 as splat_i32, _mm512_set1_ps as splat_f32,
        _mm512_setzero_si512 as zero, _mm512_shuffle_epi8 as shuffle, _mm512_srli_epi16 as shift_right,
        _mm512_storeu_ps as store_f32, _mm512_xor_si512 as xor,
    };

    /// Rows of an int32 each that a register holds.
    pub(in crate::kernels::x86_64) const REGISTER_ROWS: usize = 16;
}

/// AVX-512, with or without `vpdpbusd`.
///
/// Without it `maddubs` saturates at int16. A pair of q4 products is at most 15 x 127 x 2 and cannot; for q8 the
/// activation takes the weight's sign, as in AVX2: 128 x 127 x 2 = 32512 fits. AVX-512 has no `vpsignb`; a mask
/// does it.
pub(super) struct Zmm<const VNNI: bool>;

impl<const VNNI: bool> PanelSimd for Zmm<VNNI> {
    type Ints = __m512i;
    type Floats = __m512;
    const COLUMNS: usize = 16;
    // With more, the additions to the weights find ports that products leave free, on a Zen 4.
    const PAIRED_COLUMNS: usize = if VNNI { 3 } else { Self::COLUMNS };
    const INT16: bool = !VNNI;
    const PREFETCH: usize = 0;

    #[inline(always)]
    unsafe fn zero_f32() -> __m512 {
        // SAFETY: here and below, the caller's promise.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn splat_i32(value: i32) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_set1_epi32(value) }
    }

    #[inline(always)]
    unsafe fn load_bytes(line: *const u8) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_loadu_si512(line.cast()) }
    }

    #[inline(always)]
    unsafe fn load_nibbles(line: *const u8) -> (__m512i, __m512i) {
        // SAFETY: as above.
        unsafe {
            let (packed, nibble) = (_mm512_loadu_si512(line.cast()), _mm512_set1_epi8(15));
            let high = _mm512_srli_epi16::<4>(packed);
            (_mm512_and_si512(packed, nibble), _mm512_and_si512(high, nibble))
        }
    }

    #[inline(always)]
    unsafe fn load_multipliers(bytes: *const u8) -> (__m512i, __m512i) {
        // SAFETY: as above.
        unsafe {
            let rows = _mm512_broadcast_i32x4(_mm_loadu_si128(bytes.cast()));
            let quad = _mm512_set1_epi32(0x0101_0101);
            let first = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            // Each row's byte in all four of its bytes.
            let both = _mm512_shuffle_epi8(rows, _mm512_mullo_epi32(quad, first));
            let multipliers = _mm512_and_si512(both, _mm512_set1_epi16(15));
            let zeros = _mm512_and_si512(_mm512_srli_epi16::<4>(both), _mm512_set1_epi8(15));
            // At most 15 x 15 in each byte.
            (multipliers, _mm512_mullo_epi16(zeros, multipliers))
        }
    }

    #[inline(always)]
    unsafe fn multiply_levels(levels: __m512i, multipliers: __m512i) -> __m512i {
        // SAFETY: as above. A product of two bytes of at most 15 stays in its byte.
        unsafe { _mm512_mullo_epi16(levels, multipliers) }
    }

    #[inline(always)]
    unsafe fn levels_to_weights(levels: __m512i, multipliers: __m512i, offsets: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_add_epi8(Self::multiply_levels(levels, multipliers), offsets) }
    }

    #[inline(always)]
    unsafe fn offsets(zeros: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_sub_epi8(_mm512_set1_epi8(-128), zeros) }
    }

    #[inline(always)]
    unsafe fn pair_zeros(first: __m512i, second: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe {
            let low = _mm512_and_si512(first, _mm512_set1_epi32(255));
            _mm512_or_si512(low, _mm512_and_si512(second, _mm512_set1_epi32(255 << 16)))
        }
    }

    #[inline(always)]
    unsafe fn dot_zeros(sums: __m512i, zeros: __m512i, values: i32) -> __m512i {
        // SAFETY: as above. The negated sum of 32 activations fits in int16.
        unsafe {
            let values = _mm512_set1_epi32(values);
            if VNNI {
                _mm512_dpwssd_epi32(sums, zeros, values)
            } else {
                _mm512_add_epi32(sums, _mm512_madd_epi16(zeros, values))
            }
        }
    }

    #[inline(always)]
    unsafe fn apply_multiplier(sums: __m512i, group: __m512i, multipliers: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe {
            let levels = if VNNI {
                _mm512_mullo_epi32(group, _mm512_and_si512(multipliers, _mm512_set1_epi32(15)))
            } else {
                _mm512_madd_epi16(group, multipliers)
            };
            _mm512_add_epi32(sums, levels)
        }
    }

    #[inline(always)]
    unsafe fn dot_q4(sums: __m512i, weights: __m512i, values: i32) -> __m512i {
        // SAFETY: as above.
        unsafe {
            let values = _mm512_set1_epi32(values);
            if VNNI {
                _mm512_dpbusd_epi32(sums, weights, values)
            } else {
                _mm512_add_epi16(sums, _mm512_maddubs_epi16(weights, values))
            }
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
    unsafe fn load_f16(f16s: *const u8) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(f16s.cast())) }
    }

    #[inline(always)]
    unsafe fn load_f32(floats: *const f32) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_loadu_ps(floats) }
    }

    #[inline(always)]
    unsafe fn multiply_f32(floats: __m512, scales: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_mul_ps(floats, scales) }
    }

    #[inline(always)]
    unsafe fn accumulate(sums: __m512i, scales: __m512, floats: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), scales, floats) }
    }

    #[inline(always)]
    unsafe fn splat_f32(value: f32) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn store_f32(floats: __m512, output: *mut f32) {
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
