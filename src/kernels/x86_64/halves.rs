//! Lines of 256 bits: two registers hold a panel line.

use std::arch::x86_64::*;

use super::line::Line;

/// AVX with `vpdpbusd` in the encoding of AVX-VNNI or, if `EVEX`, in that of AVX-512.
pub(super) struct Halves<const EVEX: bool>;

impl<const EVEX: bool> Line for Halves<EVEX> {
    type Ints = [__m256i; 2];
    type Floats = [__m256; 2];
    /// 16 registers: 8 sums, 4 weights, a mask and an activation.
    const COLUMNS: usize = 4;
    const SIGNED_Q8: bool = false;

    #[inline(always)]
    unsafe fn zero() -> [__m256; 2] {
        // SAFETY, here and below: the caller's promise.
        unsafe { [_mm256_setzero_ps(); 2] }
    }

    #[inline(always)]
    unsafe fn start(value: i32) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe { [_mm256_set1_epi32(value); 2] }
    }

    #[inline(always)]
    unsafe fn bytes(line: *const u8) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe { [_mm256_loadu_si256(line.cast()), _mm256_loadu_si256(line.add(32).cast())] }
    }

    #[inline(always)]
    unsafe fn nibbles(line: *const u8) -> ([__m256i; 2], [__m256i; 2]) {
        // SAFETY: as above.
        unsafe {
            let (packed, nibble) = (Self::bytes(line), _mm256_set1_epi8(15));
            let shifted = [_mm256_srli_epi16::<4>(packed[0]), _mm256_srli_epi16::<4>(packed[1])];
            (
                [_mm256_and_si256(packed[0], nibble), _mm256_and_si256(packed[1], nibble)],
                [_mm256_and_si256(shifted[0], nibble), _mm256_and_si256(shifted[1], nibble)],
            )
        }
    }

    #[inline(always)]
    unsafe fn dot_q4(sums: [__m256i; 2], weights: [__m256i; 2], values: i32) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe {
            let values = _mm256_set1_epi32(values);
            [dot::<EVEX>(sums[0], weights[0], values), dot::<EVEX>(sums[1], weights[1], values)]
        }
    }

    #[inline(always)]
    unsafe fn dot_q8(sums: [__m256i; 2], weights: [__m256i; 2], values: i32) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe { Self::dot_q4(sums, weights, values) }
    }

    #[inline(always)]
    unsafe fn scales(halves: *const u8) -> [__m256; 2] {
        // SAFETY: as above.
        unsafe {
            let [low, high] = [_mm_loadu_si128(halves.cast()), _mm_loadu_si128(halves.add(16).cast())];
            [_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)]
        }
    }

    #[inline(always)]
    unsafe fn accumulate(
        sums: [__m256i; 2],
        weights: [__m256; 2],
        activations: f32,
        floats: [__m256; 2],
    ) -> [__m256; 2] {
        // SAFETY: as above.
        unsafe {
            let activations = _mm256_set1_ps(activations);
            let scales = [_mm256_mul_ps(weights[0], activations), _mm256_mul_ps(weights[1], activations)];
            [
                _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[0]), scales[0], floats[0]),
                _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[1]), scales[1], floats[1]),
            ]
        }
    }

    #[inline(always)]
    unsafe fn store(floats: [__m256; 2], output: *mut f32) {
        // SAFETY: as above.
        unsafe {
            _mm256_storeu_ps(output, floats[0]);
            _mm256_storeu_ps(output.add(8), floats[1]);
        }
    }
}

/// # Safety
/// The instruction is available in the encoding.
#[inline(always)]
unsafe fn dot<const EVEX: bool>(sums: __m256i, weights: __m256i, values: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        if EVEX {
            _mm256_dpbusd_epi32(sums, weights, values)
        } else {
            _mm256_dpbusd_avx_epi32(sums, weights, values)
        }
    }
}
