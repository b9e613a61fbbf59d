//! Registers of 256 bits: two hold a panel line.

use std::arch::x86_64::*;

use super::panel::PanelSimd;

/// The instructions that `levels` and `magnitudes` are made of.
pub(super) mod instructions {
    pub(in crate::kernels::x86_64) use std::arch::x86_64::{
        __m256i as Ints, _mm256_abs_epi8 as abs_i8, _mm256_add_epi16 as add_i16, _mm256_add_epi32 as add_i32,
        _mm256_and_si256 as and, _mm256_broadcastsi128_si256 as broadcast_128, _mm256_cvtepi32_ps as to_f32,
        _mm256_fmadd_ps as fmadd, _mm256_loadu_ps as load_f32, _mm256_loadu_si256 as load,
        _mm256_madd_epi16 as madd_i16, _mm256_maddubs_epi16 as madd_u8, _mm256_mul_ps as multiply_f32,
        _mm256_mullo_epi16 as multiply_i16, _mm256_set1_epi32 as splat_i32, _mm256_set1_ps as splat_f32,
        _mm256_setzero_si256 as zero, _mm256_shuffle_epi8 as shuffle, _mm256_srli_epi16 as shift_right,
        _mm256_storeu_ps as store_f32, _mm256_xor_si256 as xor,
    };

    /// Rows of an int32 each that a register holds.
    pub(in crate::kernels::x86_64) const REGISTER_ROWS: usize = 8;
}

/// `maddubs`, which multiplies unsigned by signed bytes and adds pairs with int16 saturation.
///
/// Levels cannot saturate: a whole group sums to at most 8 x 15 x 127 x 2 = 30480. q8 multiplies |weight| by the
/// activation with the weight's sign: 128 x 127 x 2 = 32512 fits, so each pair is exact, and is widened to int32 at
/// once.
pub(super) const MADDUBS: u8 = 0;
/// `vpdpbusd` in the encoding of AVX-VNNI.
pub(super) const VEX: u8 = 1;
/// `vpdpbusd` in the encoding of AVX-512.
pub(super) const EVEX: u8 = 2;

/// AVX2 with one of the instructions above. There are 16 registers.
pub(super) struct Ymm<const DOT: u8>;

impl<const DOT: u8> PanelSimd for Ymm<DOT> {
    type Ints = [__m256i; 2];
    type Floats = [__m256; 2];
    const COLUMNS: usize = if DOT == MADDUBS { 2 } else { 4 };
    const PAIRED_COLUMNS: usize = Self::COLUMNS;
    const INT16: bool = DOT == MADDUBS;
    // Zen 3; unknown for processors with VNNI.
    const PREFETCH: usize = if DOT == MADDUBS { 4352 } else { 0 };

    #[inline(always)]
    unsafe fn zero_f32() -> [__m256; 2] {
        // SAFETY: here and below, the caller's promise.
        unsafe { [_mm256_setzero_ps(); 2] }
    }

    #[inline(always)]
    unsafe fn splat_i32(value: i32) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe { [_mm256_set1_epi32(value); 2] }
    }

    #[inline(always)]
    unsafe fn load_bytes(line: *const u8) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe { [_mm256_loadu_si256(line.cast()), _mm256_loadu_si256(line.add(32).cast())] }
    }

    #[inline(always)]
    unsafe fn load_nibbles(line: *const u8) -> ([__m256i; 2], [__m256i; 2]) {
        // SAFETY: as above.
        unsafe {
            let (packed, nibble) = (Self::load_bytes(line), _mm256_set1_epi8(15));
            let low = both(packed, |packed| _mm256_and_si256(packed, nibble));
            let high = both(packed, |packed| _mm256_and_si256(_mm256_srli_epi16::<4>(packed), nibble));
            (low, high)
        }
    }

    #[inline(always)]
    unsafe fn load_multipliers(bytes: *const u8) -> ([__m256i; 2], [__m256i; 2]) {
        // SAFETY: as above.
        unsafe {
            let rows = _mm256_broadcastsi128_si256(_mm_loadu_si128(bytes.cast()));
            let first = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let low = multipliers(rows, first);
            let high = multipliers(rows, _mm256_add_epi32(first, _mm256_set1_epi32(8)));
            ([low.0, high.0], [low.1, high.1])
        }
    }

    #[inline(always)]
    unsafe fn multiply_levels(levels: [__m256i; 2], multipliers: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: as above. A product of two bytes of at most 15 stays in its byte.
        unsafe {
            [_mm256_mullo_epi16(levels[0], multipliers[0]), _mm256_mullo_epi16(levels[1], multipliers[1])]
        }
    }

    #[inline(always)]
    unsafe fn levels_to_weights(
        levels: [__m256i; 2],
        multipliers: [__m256i; 2],
        offsets: [__m256i; 2],
    ) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe {
            let products = Self::multiply_levels(levels, multipliers);
            [_mm256_add_epi8(products[0], offsets[0]), _mm256_add_epi8(products[1], offsets[1])]
        }
    }

    #[inline(always)]
    unsafe fn offsets(zeros: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe { both(zeros, |zeros| _mm256_sub_epi8(_mm256_set1_epi8(-128), zeros)) }
    }

    #[inline(always)]
    unsafe fn pair_zeros(first: [__m256i; 2], second: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe {
            let low = both(first, |zeros| _mm256_and_si256(zeros, _mm256_set1_epi32(255)));
            let high = both(second, |zeros| _mm256_and_si256(zeros, _mm256_set1_epi32(255 << 16)));
            [_mm256_or_si256(low[0], high[0]), _mm256_or_si256(low[1], high[1])]
        }
    }

    #[inline(always)]
    unsafe fn dot_zeros(sums: [__m256i; 2], zeros: [__m256i; 2], values: i32) -> [__m256i; 2] {
        // SAFETY: as above. The negated sum of 32 activations fits in int16.
        unsafe {
            let values = _mm256_set1_epi32(values);
            [dot_i16::<DOT>(sums[0], zeros[0], values), dot_i16::<DOT>(sums[1], zeros[1], values)]
        }
    }

    #[inline(always)]
    unsafe fn dot_q4(sums: [__m256i; 2], weights: [__m256i; 2], values: i32) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe {
            let values = _mm256_set1_epi32(values);
            [dot::<DOT>(sums[0], weights[0], values), dot::<DOT>(sums[1], weights[1], values)]
        }
    }

    #[inline(always)]
    unsafe fn apply_multiplier(
        sums: [__m256i; 2],
        group: [__m256i; 2],
        multipliers: [__m256i; 2],
    ) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe {
            [
                finish::<DOT>(sums[0], group[0], multipliers[0]),
                finish::<DOT>(sums[1], group[1], multipliers[1]),
            ]
        }
    }

    #[inline(always)]
    unsafe fn dot_q8(sums: [__m256i; 2], weights: [__m256i; 2], values: i32) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe {
            if DOT != MADDUBS {
                return Self::dot_q4(sums, weights, values);
            }
            let values = _mm256_set1_epi32(values);
            let add = |register: usize| {
                let weights = _mm256_xor_si256(weights[register], _mm256_set1_epi8(-128));
                let signed = _mm256_sign_epi8(values, weights);
                let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), signed);
                _mm256_add_epi32(sums[register], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
            };
            [add(0), add(1)]
        }
    }

    #[inline(always)]
    unsafe fn load_f16(f16s: *const u8) -> [__m256; 2] {
        // SAFETY: as above.
        unsafe {
            let [low, high] = [_mm_loadu_si128(f16s.cast()), _mm_loadu_si128(f16s.add(16).cast())];
            [_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)]
        }
    }

    #[inline(always)]
    unsafe fn load_f32(floats: *const f32) -> [__m256; 2] {
        // SAFETY: as above.
        unsafe { [_mm256_loadu_ps(floats), _mm256_loadu_ps(floats.add(8))] }
    }

    #[inline(always)]
    unsafe fn multiply_f32(floats: [__m256; 2], scales: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: as above.
        unsafe { [_mm256_mul_ps(floats[0], scales[0]), _mm256_mul_ps(floats[1], scales[1])] }
    }

    #[inline(always)]
    unsafe fn accumulate(sums: [__m256i; 2], scales: [__m256; 2], floats: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: as above.
        unsafe {
            [
                _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[0]), scales[0], floats[0]),
                _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[1]), scales[1], floats[1]),
            ]
        }
    }

    #[inline(always)]
    unsafe fn splat_f32(value: f32) -> [__m256; 2] {
        // SAFETY: as above.
        unsafe { [_mm256_set1_ps(value); 2] }
    }

    #[inline(always)]
    unsafe fn store_f32(floats: [__m256; 2], output: *mut f32) {
        // SAFETY: as above.
        unsafe {
            _mm256_storeu_ps(output, floats[0]);
            _mm256_storeu_ps(output.add(8), floats[1]);
        }
    }
}

#[inline(always)]
fn both(registers: [__m256i; 2], f: impl Fn(__m256i) -> __m256i) -> [__m256i; 2] {
    [f(registers[0]), f(registers[1])]
}

/// [`PanelSimd::load_multipliers`] of the rows that the lanes of `of` name.
///
/// # Safety
/// AVX2 is available.
#[inline(always)]
unsafe fn multipliers(rows: __m256i, of: __m256i) -> (__m256i, __m256i) {
    // SAFETY: the caller's promise.
    unsafe {
        // Each row's byte in all four of its bytes.
        let of = _mm256_mullo_epi32(_mm256_set1_epi32(0x0101_0101), of);
        let stored = _mm256_shuffle_epi8(rows, of);
        let multipliers = _mm256_and_si256(stored, _mm256_set1_epi16(15));
        let zeros = _mm256_and_si256(_mm256_srli_epi16::<4>(stored), _mm256_set1_epi8(15));
        // At most 15 x 15 in each byte.
        (multipliers, _mm256_mullo_epi16(zeros, multipliers))
    }
}

/// # Safety
/// AVX2 is available.
#[inline(always)]
unsafe fn finish<const DOT: u8>(sums: __m256i, group: __m256i, multipliers: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let levels = if DOT == MADDUBS {
            _mm256_madd_epi16(group, multipliers)
        } else {
            _mm256_mullo_epi32(group, _mm256_and_si256(multipliers, _mm256_set1_epi32(15)))
        };
        _mm256_add_epi32(sums, levels)
    }
}

/// Adds the products of pairs of int16.
///
/// # Safety
/// The instruction is available in the encoding.
#[inline(always)]
unsafe fn dot_i16<const DOT: u8>(sums: __m256i, weights: __m256i, values: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        match DOT {
            EVEX => _mm256_dpwssd_epi32(sums, weights, values),
            VEX => _mm256_dpwssd_avx_epi32(sums, weights, values),
            _ => _mm256_add_epi32(sums, _mm256_madd_epi16(weights, values)),
        }
    }
}

/// # Safety
/// The instruction is available in the encoding.
#[inline(always)]
unsafe fn dot<const DOT: u8>(sums: __m256i, weights: __m256i, values: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        match DOT {
            EVEX => _mm256_dpbusd_epi32(sums, weights, values),
            VEX => _mm256_dpbusd_avx_epi32(sums, weights, values),
            _ => _mm256_add_epi16(sums, _mm256_maddubs_epi16(weights, values)),
        }
    }
}
