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
use crate::kernels::{PanelKernels, QuantizedBlock};
use crate::quant::{PANEL_ROWS, Q4_RECORD, Q8_RECORD};

pub(super) const PANELS: PanelKernels = PanelKernels { q4, q8 };

with_features!(avx2, float_kernels!(F16c));

macro_rules! panel_kernels {
    ($features:literal;) => {
        #[target_feature(enable = $features)]
        unsafe fn q4(panel: &[u8], input: QuantizedBlock<'_>, tile: &mut [[f32; PANEL_ROWS]]) {
            // SAFETY: the caller's promise is passed on.
            unsafe { multiply::<Q4_RECORD>(panel, input, tile) }
        }

        #[target_feature(enable = $features)]
        unsafe fn q8(panel: &[u8], input: QuantizedBlock<'_>, tile: &mut [[f32; PANEL_ROWS]]) {
            // SAFETY: the caller's promise is passed on.
            unsafe { multiply::<Q8_RECORD>(panel, input, tile) }
        }

        /// # Safety
        /// `panel` has the records of `input.groups` groups; the slices of `input` and `tile` have the lengths
        /// of its groups and columns.
        #[target_feature(enable = $features)]
        unsafe fn multiply<const RECORD: usize>(
            panel: &[u8],
            input: QuantizedBlock<'_>,
            tile: &mut [[f32; PANEL_ROWS]],
        ) {
            let mut column = 0;
            while column < input.columns {
                // SAFETY: the columns asked for exist.
                column += unsafe {
                    match input.columns - column {
                        2.. => columns::<RECORD, 2>(panel, input, column, tile),
                        _ => columns::<RECORD, 1>(panel, input, column, tile),
                    }
                };
            }
        }

        /// One panel with columns `first..first + N` of the block; returns `N`.
        ///
        /// # Safety
        /// As `multiply`; the columns exist.
        #[target_feature(enable = $features)]
        unsafe fn columns<const RECORD: usize, const N: usize>(
            panel: &[u8],
            input: QuantizedBlock<'_>,
            first: usize,
            tile: &mut [[f32; PANEL_ROWS]],
        ) -> usize {
            let stride = input.columns;
            let ones = _mm256_set1_epi16(1);
            let nibble = _mm256_set1_epi8(15);
            let sign = _mm256_set1_epi8(-128);
            let mut floats = [[_mm256_setzero_ps(); 2]; N];
            // SAFETY: every address lies inside the panel's records or inside the block's slices, by the
            // caller's promise; loads are unaligned.
            unsafe {
                let mut values = input.values.as_ptr().cast::<i32>().add(first);
                let mut starts = input.q4_starts.as_ptr().add(first);
                let mut activation_scales = input.scales.as_ptr().add(first);
                let mut record = panel.as_ptr();
                for _ in 0..input.groups / 2 {
                    let mut lines = record.add(64);
                    for group in 0..2 {
                        let mut sums = [[_mm256_setzero_si256(); 2]; N];
                        for _ in 0..4 {
                            for half in 0..2 {
                                let line = lines.add(32 * half);
                                if RECORD == Q4_RECORD {
                                    let packed = _mm256_loadu_si256(line.cast());
                                    let low = _mm256_and_si256(packed, nibble);
                                    let high = _mm256_and_si256(_mm256_srli_epi16::<4>(packed), nibble);
                                    for n in 0..N {
                                        let even = _mm256_set1_epi32(values.add(n).read_unaligned());
                                        let odd = _mm256_set1_epi32(values.add(stride + n).read_unaligned());
                                        let products = _mm256_add_epi16(
                                            _mm256_maddubs_epi16(low, even),
                                            _mm256_maddubs_epi16(high, odd),
                                        );
                                        sums[n][half] = _mm256_add_epi16(sums[n][half], products);
                                    }
                                } else {
                                    for quad in 0..2 {
                                        let stored = _mm256_loadu_si256(line.add(64 * quad).cast());
                                        let weight = _mm256_xor_si256(stored, sign);
                                        let magnitude = _mm256_abs_epi8(weight);
                                        for n in 0..N {
                                            let value = values.add(quad * stride + n).read_unaligned();
                                            let signed = _mm256_sign_epi8(_mm256_set1_epi32(value), weight);
                                            let products = _mm256_maddubs_epi16(magnitude, signed);
                                            let wide = _mm256_madd_epi16(products, ones);
                                            sums[n][half] = _mm256_add_epi32(sums[n][half], wide);
                                        }
                                    }
                                }
                            }
                            lines = lines.add(if RECORD == Q4_RECORD { 64 } else { 128 });
                            values = values.add(2 * stride);
                        }
                        for half in 0..2 {
                            let scales = record.add(group * 32 + half * 16).cast();
                            let weight_scale = _mm256_cvtph_ps(_mm_loadu_si128(scales));
                            for n in 0..N {
                                let mut sum = sums[n][half];
                                if RECORD == Q4_RECORD {
                                    let start = _mm256_set1_epi32(*starts.add(n));
                                    sum = _mm256_add_epi32(_mm256_madd_epi16(sum, ones), start);
                                }
                                let activation_scale = _mm256_set1_ps(*activation_scales.add(n));
                                let scale = _mm256_mul_ps(weight_scale, activation_scale);
                                floats[n][half] =
                                    _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, floats[n][half]);
                            }
                        }
                        starts = starts.add(stride);
                        activation_scales = activation_scales.add(stride);
                    }
                    record = record.add(RECORD);
                }
                for n in 0..N {
                    for half in 0..2 {
                        let output = tile.get_unchecked_mut(first + n).as_mut_ptr();
                        _mm256_storeu_ps(output.add(8 * half), floats[n][half]);
                    }
                }
            }
            N
        }
    };
}

with_features!(avx2, panel_kernels!());
