//! The kernels for x86-64.

mod amx;
mod avx2;
mod avx512bw;
mod avx512vnni;
mod avxvnni;
mod halves;
mod line;
mod tiles;
mod wide;

use super::{Isa, Kernels};
pub(super) use tiles::{has_int8 as amx_int8, has_tiles as amx_tile};

pub(super) static AVX2: Kernels = Kernels { isa: Isa::Avx2, panels: avx2::PANELS, float: avx2::FLOAT };
pub(super) static AVX512BW: Kernels =
    Kernels { isa: Isa::Avx512Bw, panels: avx512bw::PANELS, float: avx512bw::FLOAT };
pub(super) static AVX512VNNI: Kernels =
    Kernels { isa: Isa::Avx512Vnni, panels: avx512vnni::PANELS, float: avx512vnni::FLOAT };
pub(super) static AMX: Kernels = Kernels { isa: Isa::Amx, panels: amx::PANELS, float: avx512vnni::FLOAT };
static AVXVNNI: Kernels = Kernels { isa: Isa::AvxVnni, panels: avxvnni::PANELS, float: avxvnni::FLOAT };
static AVXVNNI_EVEX: Kernels =
    Kernels { isa: Isa::AvxVnni, panels: avxvnni::evex::PANELS, float: avx2::FLOAT };

/// The kernels of [`Isa::AvxVnni`] in the encoding that this processor has.
pub(super) fn avx_vnni() -> &'static Kernels {
    if is_x86_feature_detected!("avxvnni") { &AVXVNNI } else { &AVXVNNI_EVEX }
}

/// Half-precision conversion with F16C, which every tier here has.
struct F16c;

impl super::generic::Simd for F16c {
    const FMA: bool = true;

    #[inline(always)]
    fn widen(bits: &[u16; 16]) -> [f32; 16] {
        use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps};
        let mut out = [0.0; 16];
        // SAFETY: the features of every tier contain F16C and AVX; the addresses lie inside the two arrays.
        unsafe {
            let source = bits.as_ptr().cast::<__m128i>();
            _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(source)));
            _mm256_storeu_ps(out.as_mut_ptr().add(8), _mm256_cvtph_ps(_mm_loadu_si128(source.add(1))));
        }
        out
    }

    #[inline(always)]
    fn narrow(values: &[f32; 16]) -> [u16; 16] {
        use std::arch::x86_64::{__m128i, _mm_storeu_si128, _mm256_cvtps_ph, _mm256_loadu_ps};
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
