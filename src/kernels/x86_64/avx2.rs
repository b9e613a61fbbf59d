//! AVX2. A register holds 8 rows x 4 columns of weights, so a panel line is two registers.
//!
//! `maddubs` multiplies unsigned by signed bytes and adds pairs with int16 saturation. q4 cannot saturate: a
//! whole group sums to at most 8 x 15 x 127 x 2 = 30480. q8 multiplies |weight| by the activation with the
//! weight's sign: 128 x 127 x 2 = 32512 fits, so each pair is exact, and is widened to int32 at once.
//! Two columns share the weights: 4 int accumulators, 4 float ones, 4 weights, 2 activations.

use std::arch::x86_64::*;

use super::F16c;
use crate::kernels::generic::float_kernels;
use crate::kernels::isa::with_features;
use crate::kernels::{PanelKernels, QuantizedColumns};
use crate::quant::{PANEL_ROWS, Q4_RECORD, Q8_RECORD, RECORD_COLUMNS};

pub(super) const PANELS: PanelKernels = PanelKernels { q4, q8 };

with_features!(avx2, float_kernels!(F16c));

macro_rules! panel_kernels {
    ($features:literal;) => {
        #[target_feature(enable = $features)]
        unsafe fn q4(panels: &[u8], input: &QuantizedColumns<'_>, tile: &mut [[f32; PANEL_ROWS]]) {
            // SAFETY: the caller's promise is passed on.
            unsafe { multiply::<Q4_RECORD>(panels, input, tile) }
        }

        #[target_feature(enable = $features)]
        unsafe fn q8(panels: &[u8], input: &QuantizedColumns<'_>, tile: &mut [[f32; PANEL_ROWS]]) {
            // SAFETY: the caller's promise is passed on.
            unsafe { multiply::<Q8_RECORD>(panels, input, tile) }
        }

        /// # Safety
        /// `panels` is whole panels of `input.padded` columns, and `tile` has an entry for each of them and
        /// each column of `input`.
        #[target_feature(enable = $features)]
        unsafe fn multiply<const RECORD: usize>(
            panels: &[u8],
            input: &QuantizedColumns<'_>,
            tile: &mut [[f32; PANEL_ROWS]],
        ) {
            let panel_bytes = input.padded / RECORD_COLUMNS * RECORD;
            for (panel, tile) in panels.chunks_exact(panel_bytes).zip(tile.chunks_exact_mut(input.columns)) {
                let mut column = 0;
                // SAFETY: the columns asked for exist.
                unsafe {
                    while column + 2 <= input.columns {
                        columns::<RECORD, 2>(panel, input, column, &mut tile[column..]);
                        column += 2;
                    }
                    if column < input.columns {
                        columns::<RECORD, 1>(panel, input, column, &mut tile[column..]);
                    }
                }
            }
        }

        /// One panel with `N` columns.
        ///
        /// # Safety
        /// As `multiply`; columns `first..first + N` exist.
        #[target_feature(enable = $features)]
        unsafe fn columns<const RECORD: usize, const N: usize>(
            panel: &[u8],
            input: &QuantizedColumns<'_>,
            first: usize,
            tile: &mut [[f32; PANEL_ROWS]],
        ) {
            let groups = input.padded / 32;
            let ones = _mm256_set1_epi16(1);
            let nibble = _mm256_set1_epi8(15);
            let zero_point = if RECORD == Q4_RECORD { 8 } else { 0 };
            let mut floats = [[_mm256_setzero_ps(); 2]; N];
            // SAFETY: every address lies inside the panel's records or inside a column of the input, by the
            // caller's promise; loads are unaligned.
            unsafe {
                for group in 0..groups {
                    let record = panel.as_ptr().add(group / 2 * RECORD);
                    let scales = record.add(group % 2 * 32).cast::<__m128i>();
                    let lines = record.add(64 + group % 2 * (RECORD - 64) / 2);
                    let values: [*const i32; N] = std::array::from_fn(|n| {
                        input.values.as_ptr().add((first + n) * input.padded + group * 32).cast()
                    });
                    let mut sums = [[_mm256_setzero_si256(); 2]; N];
                    for pair in 0..4 {
                        for half in 0..2 {
                            if RECORD == Q4_RECORD {
                                let packed = _mm256_loadu_si256(lines.add(pair * 64 + half * 32).cast());
                                let low = _mm256_and_si256(packed, nibble);
                                let high = _mm256_and_si256(_mm256_srli_epi16::<4>(packed), nibble);
                                for n in 0..N {
                                    let even = _mm256_set1_epi32(values[n].add(2 * pair).read_unaligned());
                                    let odd = _mm256_set1_epi32(values[n].add(2 * pair + 1).read_unaligned());
                                    let products = _mm256_add_epi16(
                                        _mm256_maddubs_epi16(low, even),
                                        _mm256_maddubs_epi16(high, odd),
                                    );
                                    sums[n][half] = _mm256_add_epi16(sums[n][half], products);
                                }
                            } else {
                                for line in [2 * pair, 2 * pair + 1] {
                                    let stored = _mm256_loadu_si256(lines.add(line * 64 + half * 32).cast());
                                    let weight = _mm256_xor_si256(stored, _mm256_set1_epi8(-128));
                                    let magnitude = _mm256_abs_epi8(weight);
                                    for n in 0..N {
                                        let value = _mm256_set1_epi32(values[n].add(line).read_unaligned());
                                        let signed = _mm256_sign_epi8(value, weight);
                                        let products = _mm256_maddubs_epi16(magnitude, signed);
                                        let wide = _mm256_madd_epi16(products, ones);
                                        sums[n][half] = _mm256_add_epi32(sums[n][half], wide);
                                    }
                                }
                            }
                        }
                    }
                    for half in 0..2 {
                        let weight_scale = _mm256_cvtph_ps(_mm_loadu_si128(scales.add(half)));
                        for n in 0..N {
                            let at = (first + n) * groups + group;
                            let mut sum = sums[n][half];
                            if RECORD == Q4_RECORD {
                                let start = _mm256_set1_epi32(zero_point * *input.sums.get_unchecked(at));
                                sum = _mm256_sub_epi32(_mm256_madd_epi16(sum, ones), start);
                            }
                            let scale =
                                _mm256_mul_ps(weight_scale, _mm256_set1_ps(*input.scales.get_unchecked(at)));
                            floats[n][half] =
                                _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, floats[n][half]);
                        }
                    }
                }
            }
            for n in 0..N {
                for half in 0..2 {
                    // SAFETY: 8 floats of an array of 16.
                    unsafe { _mm256_storeu_ps(tile[n].as_mut_ptr().add(8 * half), floats[n][half]) };
                }
            }
        }
    };
}

with_features!(avx2, panel_kernels!());
