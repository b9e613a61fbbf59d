//! Conversion of f16 with F16C, which every instruction set here has.

use std::arch::x86_64::*;

use crate::kernels::generic::Simd;

/// F16C and FMA; `WIDE` with the registers of AVX-512.
pub(super) struct F16c<const WIDE: bool>;

impl<const WIDE: bool> Simd for F16c<WIDE> {
    const FMA: bool = true;
    const WIDE: bool = WIDE;

    #[inline(always)]
    fn f16_to_f32(bits: &[u16; 16]) -> [f32; 16] {
        let mut out = [0.0; 16];
        // SAFETY: the features of every instruction set contain F16C and AVX; the addresses lie inside the two arrays.
        unsafe {
            let source = bits.as_ptr().cast::<__m128i>();
            _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(source)));
            _mm256_storeu_ps(out.as_mut_ptr().add(8), _mm256_cvtph_ps(_mm_loadu_si128(source.add(1))));
        }
        out
    }

    #[inline(always)]
    fn f32_to_f16(values: &[f32; 16]) -> [u16; 16] {
        let mut out = [0; 16];
        // SAFETY: as above.
        unsafe {
            let target = out.as_mut_ptr().cast::<__m128i>();
            _mm_storeu_si128(target, _mm256_cvtps_ph::<0>(_mm256_loadu_ps(values.as_ptr())));
            _mm_storeu_si128(target.add(1), _mm256_cvtps_ph::<0>(_mm256_loadu_ps(values.as_ptr().add(8))));
        }
        out
    }
}
