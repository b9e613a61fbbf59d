//! AVX-512 with VNNI. A register holds a whole panel line, 16 rows x 4 columns, and `vpdpbusd` multiplies it
//! by four broadcast activations: stored weights are unsigned, so the accumulator starts at minus the zero
//! point times the sum of the activations.
//!
//! Up to sixteen columns share the weights: 16 int accumulators, 2 weights, 1 scale, and the activations are
//! broadcast from memory by the instruction itself. The 16 float accumulators are touched once per 32 columns
//! of weights, so those that find no register cost little. Every 8 `vpdpbusd` of a column are followed by a
//! multiplication and a multiply-add on the same two ports, which caps this kernel at 80 % of the peak.

use std::arch::x86_64::*;

use super::F16c;
use crate::kernels::generic::float_kernels;
use crate::kernels::isa::with_features;
use crate::kernels::{PanelKernels, QuantizedBlock};
use crate::quant::{PANEL_ROWS, Q4_RECORD, Q8_RECORD};

pub(super) const PANELS: PanelKernels = PanelKernels { q4, q8 };

with_features!(avx512vnni, float_kernels!(F16c));

macro_rules! panel_kernels {
    ($features:literal;) => {
        #[target_feature(enable = $features)]
        unsafe fn q4(panel: &[u8], input: QuantizedBlock<'_>, tile: &mut [[f32; PANEL_ROWS]]) {
            // SAFETY: the caller's promise is passed on.
            unsafe { multiply::<Q4_RECORD>(panel, input, input.q4_starts, tile) }
        }

        #[target_feature(enable = $features)]
        unsafe fn q8(panel: &[u8], input: QuantizedBlock<'_>, tile: &mut [[f32; PANEL_ROWS]]) {
            // SAFETY: the caller's promise is passed on.
            unsafe { multiply::<Q8_RECORD>(panel, input, input.q8_starts, tile) }
        }

        /// # Safety
        /// `panel` has the records of `input.groups` groups; the slices of `input`, `starts` and `tile` have the
        /// lengths of its groups and columns.
        #[target_feature(enable = $features)]
        unsafe fn multiply<const RECORD: usize>(
            panel: &[u8],
            input: QuantizedBlock<'_>,
            starts: &[i32],
            tile: &mut [[f32; PANEL_ROWS]],
        ) {
            let mut column = 0;
            while column < input.columns {
                // SAFETY: the columns asked for exist.
                column += unsafe {
                    match input.columns - column {
                        16.. => columns::<RECORD, 16>(panel, input, starts, column, tile),
                        8.. => columns::<RECORD, 8>(panel, input, starts, column, tile),
                        4.. => columns::<RECORD, 4>(panel, input, starts, column, tile),
                        2.. => columns::<RECORD, 2>(panel, input, starts, column, tile),
                        _ => columns::<RECORD, 1>(panel, input, starts, column, tile),
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
            starts: &[i32],
            first: usize,
            tile: &mut [[f32; PANEL_ROWS]],
        ) -> usize {
            let stride = input.columns;
            let nibble = _mm512_set1_epi8(15);
            let mut floats = [_mm512_setzero_ps(); N];
            // SAFETY: every address lies inside the panel's records or inside the block's slices, by the
            // caller's promise; loads are unaligned.
            unsafe {
                let mut values = input.values.as_ptr().cast::<i32>().add(first);
                let mut starts = starts.as_ptr().add(first);
                let mut activation_scales = input.scales.as_ptr().add(first);
                let mut record = panel.as_ptr();
                let panel_bytes = input.groups / 2 * RECORD;
                for _ in 0..input.groups / 2 {
                    // With many columns a panel takes long enough for the next one to arrive meanwhile. With few
                    // the memory is the limit and more requests only disturb it.
                    if N >= 8 && first == 0 {
                        let next = record.wrapping_add(panel_bytes);
                        for line in 0..RECORD / 64 {
                            _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(line * 64).cast());
                        }
                    }
                    let mut lines = record.add(64);
                    for half in 0..2 {
                        let weight_scale = _mm512_cvtph_ps(_mm256_loadu_si256(record.add(half * 32).cast()));
                        let mut sums: [__m512i; N] =
                            std::array::from_fn(|n| _mm512_set1_epi32(*starts.add(n)));
                        for _ in 0..4 {
                            let (even, odd) = if RECORD == Q4_RECORD {
                                let packed = _mm512_loadu_si512(lines.cast());
                                lines = lines.add(64);
                                let high = _mm512_srli_epi16::<4>(packed);
                                (_mm512_and_si512(packed, nibble), _mm512_and_si512(high, nibble))
                            } else {
                                let pair = lines;
                                lines = lines.add(128);
                                (_mm512_loadu_si512(pair.cast()), _mm512_loadu_si512(pair.add(64).cast()))
                            };
                            for weights in [even, odd] {
                                for n in 0..N {
                                    let value = _mm512_set1_epi32(values.add(n).read_unaligned());
                                    sums[n] = _mm512_dpbusd_epi32(sums[n], weights, value);
                                }
                                values = values.add(stride);
                            }
                        }
                        for n in 0..N {
                            let scale =
                                _mm512_mul_ps(weight_scale, _mm512_set1_ps(*activation_scales.add(n)));
                            floats[n] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[n]), scale, floats[n]);
                        }
                        starts = starts.add(stride);
                        activation_scales = activation_scales.add(stride);
                    }
                    record = record.add(RECORD);
                }
                for n in 0..N {
                    _mm512_storeu_ps(tile.get_unchecked_mut(first + n).as_mut_ptr(), floats[n]);
                }
            }
            N
        }
    };
}

with_features!(avx512vnni, panel_kernels!());
