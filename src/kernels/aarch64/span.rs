//! The walk of the tiers with dot products for many columns of q4: they share the weights of 128 inputs.
//!
//! Multiplier and zero point are applied once, while the weights are unpacked into 2 KB of memory, so that products
//! are all that is left for a column. This takes a multiplication of bytes, and two instructions more, for every register of
//! weights, as much as the products of 3 or 4 columns.

use std::arch::aarch64::*;

use crate::kernels::operands::SPAN_GROUPS;
use crate::quant::{PANEL_ROWS, SPAN};

/// The weights of a span: of two lines at a time and 4 rows at a time, a register for each line or, if they are
/// zipped, for rows {0, 1} and {2, 3} of both.
pub(super) type SpanWeights = [[[int8x16_t; 2]; PANEL_ROWS / 4]; SPAN / 8];

/// The kernel `q4_tiles` of a tier, for more columns than a number: `span_kernels!("features"; columns, zipped; N, ...)`,
/// where `N` are the columns of a tile, most first.
///
/// The tier has `products::<N>(weights, values, stride) -> [[int32x4_t; 4]; N]`: those of all rows of a span with `N`
/// columns, whose first quads are at `values`, `stride` columns from one quad to the next.
macro_rules! span_kernels {
    ($features:literal; $columns:literal, $zipped:literal; $($n:literal),+) => {
        use super::span::{SpanWeights, unpack};
        use crate::kernels::operands::TILE_COLUMNS;
        use crate::kernels::table::TilesKernel;
        use crate::quant::SPAN;

        const TILES: Option<(usize, TilesKernel)> = Some(($columns, q4_tiles));

        #[target_feature(enable = $features)]
        unsafe fn q4_tiles(panel: &[u8], tiles: &[ColumnTile<'_>], output: &mut [[f32; PANEL_ROWS]]) {
            output.as_flattened_mut().fill(0.0);
            // SAFETY: every address lies inside the panel's scales and records or inside the tiles' slices, by the
            // caller's promise; loads are unaligned.
            unsafe {
                let mut weights = [[[vdupq_n_s8(0); 2]; PANEL_ROWS / 4]; SPAN / 8];
                for (span, record) in panel.get_unchecked(Q4_SCALES..).chunks_exact(Q4_RECORD).enumerate() {
                    unpack(record.as_ptr(), $zipped, &mut weights);
                    for (tile, output) in tiles.iter().zip(output.chunks_mut(TILE_COLUMNS)) {
                        let mut column = 0;
                        $(
                            while tile.columns - column >= $n {
                                add_span::<$n>(&weights, tile, span, column, output);
                                column += $n;
                            }
                        )+
                    }
                }
                for column in output {
                    for row in (0..PANEL_ROWS).step_by(4) {
                        let scales = vld1q_f32(panel.as_ptr().cast::<f32>().add(row));
                        let floats = column.as_mut_ptr().add(row);
                        vst1q_f32(floats, vmulq_f32(vld1q_f32(floats), scales));
                    }
                }
            }
        }

        /// Adds the products of a span with columns `first..first + N` of a tile.
        ///
        /// # Safety
        /// As every panel kernel's; the span and the columns exist.
        #[target_feature(enable = $features)]
        unsafe fn add_span<const N: usize>(
            weights: &SpanWeights,
            tile: &ColumnTile<'_>,
            span: usize,
            first: usize,
            output: &mut [[f32; PANEL_ROWS]],
        ) {
            // SAFETY: as `q4_tiles`.
            unsafe {
                let values = tile.values.as_ptr().add(span * SPAN * tile.columns + 4 * first);
                let scales = tile.scales.as_ptr().add(span * tile.columns + first);
                let sums = products::<N>(weights, values, tile.columns);
                for n in 0..N {
                    let floats = output.get_unchecked_mut(first + n).as_mut_ptr();
                    for r in 0..PANEL_ROWS / 4 {
                        let sum = vcvtq_f32_s32(sums[n][r]);
                        let float = vfmaq_n_f32(vld1q_f32(floats.add(4 * r)), sum, *scales.add(n));
                        vst1q_f32(floats.add(4 * r), float);
                    }
                }
            }
        }
    };
}
pub(super) use span_kernels;

/// Unpacks the weights of a record, which are within -127..=127.
///
/// # Safety
/// A record can be read.
#[inline(always)]
pub(super) unsafe fn unpack(record: *const u8, zipped: bool, weights: &mut SpanWeights) {
    // SAFETY: the caller's promise.
    unsafe {
        // The byte of rows 0 to 3 in all four bytes of their lanes.
        let rows = vreinterpretq_u8_u32(vmulq_n_u32(vld1q_u32([0, 1, 2, 3].as_ptr()), 0x0101_0101));
        for (group, weights) in weights.as_chunks_mut::<{ SPAN / 8 / SPAN_GROUPS }>().0.iter_mut().enumerate()
        {
            let stored = vld1q_u8(record.add(PANEL_ROWS * group));
            for r in 0..PANEL_ROWS / 4 {
                let stored = vqtbl1q_u8(stored, vaddq_u8(rows, vdupq_n_u8(4 * r as u8)));
                let multipliers = vandq_u8(stored, vdupq_n_u8(15));
                let zeros = vshrq_n_u8::<4>(stored);
                let weigh = |levels| vreinterpretq_s8_u8(vmulq_u8(vsubq_u8(levels, zeros), multipliers));
                for (pair, weights) in weights.iter_mut().enumerate() {
                    let packed = vld1q_u8(record.add(64 + 64 * (4 * group + pair) + 16 * r));
                    let even = weigh(vandq_u8(packed, vdupq_n_u8(15)));
                    let odd = weigh(vshrq_n_u8::<4>(packed));
                    weights[r] = if zipped {
                        let (even, odd) = (vreinterpretq_s32_s8(even), vreinterpretq_s32_s8(odd));
                        [
                            vreinterpretq_s8_s32(vzip1q_s32(even, odd)),
                            vreinterpretq_s8_s32(vzip2q_s32(even, odd)),
                        ]
                    } else {
                        [even, odd]
                    };
                }
            }
        }
    }
}
