//! AVX-512 with VNNI. A register holds a whole panel line, 16 rows x 4 columns, and `vpdpbusd` multiplies it
//! by four broadcast activations: stored weights are unsigned, so the accumulator starts at minus the zero
//! point times the sum of the activations.
//!
//! Eight columns share the weights: 8 int accumulators, 8 float ones, 2 weights, 1 scale, and the activations
//! are broadcast from memory by the instruction itself.

use std::arch::x86_64::*;

use super::F16c;
use crate::kernels::generic::float_kernels;
use crate::kernels::isa::with_features;
use crate::kernels::{PanelKernels, QuantizedColumns};
use crate::quant::{PANEL_ROWS, Q4_RECORD, Q8_RECORD, RECORD_COLUMNS};

pub(super) const PANELS: PanelKernels = PanelKernels { q4, q8 };

with_features!(avx512vnni, float_kernels!(F16c));

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
                    while column + 8 <= input.columns {
                        columns::<RECORD, 8>(panel, input, column, &mut tile[column..]);
                        column += 8;
                    }
                    if column + 4 <= input.columns {
                        columns::<RECORD, 4>(panel, input, column, &mut tile[column..]);
                        column += 4;
                    }
                    if column + 2 <= input.columns {
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
            let nibble = _mm512_set1_epi8(15);
            let zero_point = if RECORD == Q4_RECORD { -8 } else { -128 };
            let mut floats = [_mm512_setzero_ps(); N];
            // SAFETY: every address lies inside the panel's records or inside a column of the input, by the
            // caller's promise; loads are unaligned.
            unsafe {
                for group in 0..groups {
                    let record = panel.as_ptr().add(group / 2 * RECORD);
                    let scales = _mm256_loadu_si256(record.add(group % 2 * 32).cast());
                    let lines = record.add(64 + group % 2 * (RECORD - 64) / 2);
                    let values: [*const i32; N] = std::array::from_fn(|n| {
                        input.values.as_ptr().add((first + n) * input.padded + group * 32).cast()
                    });
                    let mut sums: [__m512i; N] = std::array::from_fn(|n| {
                        let sum = *input.sums.get_unchecked((first + n) * groups + group);
                        _mm512_set1_epi32(zero_point * sum)
                    });
                    for pair in 0..4 {
                        let (even, odd) = if RECORD == Q4_RECORD {
                            let packed = _mm512_loadu_si512(lines.add(pair * 64).cast());
                            let high = _mm512_srli_epi16::<4>(packed);
                            (_mm512_and_si512(packed, nibble), _mm512_and_si512(high, nibble))
                        } else {
                            (
                                _mm512_loadu_si512(lines.add(pair * 128).cast()),
                                _mm512_loadu_si512(lines.add(pair * 128 + 64).cast()),
                            )
                        };
                        for n in 0..N {
                            let value = _mm512_set1_epi32(values[n].add(2 * pair).read_unaligned());
                            sums[n] = _mm512_dpbusd_epi32(sums[n], even, value);
                        }
                        for n in 0..N {
                            let value = _mm512_set1_epi32(values[n].add(2 * pair + 1).read_unaligned());
                            sums[n] = _mm512_dpbusd_epi32(sums[n], odd, value);
                        }
                    }
                    let weight_scale = _mm512_cvtph_ps(scales);
                    for n in 0..N {
                        let scale = *input.scales.get_unchecked((first + n) * groups + group);
                        let scale = _mm512_mul_ps(weight_scale, _mm512_set1_ps(scale));
                        floats[n] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[n]), scale, floats[n]);
                    }
                }
            }
            for n in 0..N {
                // SAFETY: 16 floats.
                unsafe { _mm512_storeu_ps(tile[n].as_mut_ptr(), floats[n]) };
            }
        }
    };
}

with_features!(avx512vnni, panel_kernels!());
