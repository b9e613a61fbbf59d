//! AVX2.
//!
//! One or two columns take the walk of `panel`. In q4 more columns share a span of levels. Its multipliers are decoded
//! once, and zero points are subtracted two groups at a time, so that a group of a column costs 8 `pmaddubsw`, 7 `paddw`
//! and 3 instructions more for 8 rows. Up to 7 columns take the levels from the panel as they need them, with 8 rows
//! in registers. For more, levels are unpacked into 4 KB of memory, and a tile is 16 rows by 4 columns: 8 sums, 2 levels, an
//! activation and a product.

use super::f16c::F16c;
use crate::kernels::generic::float_kernels;
use crate::kernels::isa::with_features;
use crate::kernels::table::PanelKernels;

/// The walk of `panel`.
mod few {
    use crate::kernels::isa::with_features;
    use crate::kernels::x86_64::panel::panel_kernels;
    use crate::kernels::x86_64::ymm::{MADDUBS, Ymm};

    with_features!(avx2, panel_kernels!(Ymm<MADDUBS>));
}

with_features!(avx2, float_kernels!(F16c<false>));

pub(super) const PANELS: PanelKernels = PanelKernels { q4_tiles: Some((2, q4_tiles)), ..few::PANELS };

macro_rules! kernels {
    ($features:literal;) => {
        use std::arch::x86_64::*;
        use std::mem::MaybeUninit;

        use super::panel::for_columns;
        use crate::kernels::operands::{ColumnTile, TILE_COLUMNS};
        use crate::quant::{PANEL_ROWS, Q4_RECORD, Q4_SCALES, SPAN};

        /// Lines of levels in a span.
        const SPAN_LINES: usize = SPAN / 4;
        /// Most columns that take levels from the panel.
        const PACKED_COLUMNS: usize = 7;
        /// Most columns of a tile of unpacked levels.
        const UNPACKED_COLUMNS: usize = 4;

        /// A q4 record, decoded: each item for rows 0 to 7, and 8 to 15.
        struct Record {
            /// The multiplier of each group, in int16 lanes.
            multipliers: [[__m256i; 2]; 4],
            /// Products of multiplier and zero level: of one group in the even int16 lanes, of the next in the odd ones.
            zeros: [[__m256i; 2]; 2],
            /// Lines of levels; only if there are many columns.
            levels: [[__m256i; 2]; SPAN_LINES],
        }

        /// Products of more than two columns.
        #[target_feature(enable = $features)]
        unsafe fn q4_tiles(panel: &[u8], tiles: &[ColumnTile<'_>], output: &mut [[f32; PANEL_ROWS]]) {
            output.as_flattened_mut().fill(0.0);
            let packed = output.len() <= PACKED_COLUMNS;
            let mut decoded = MaybeUninit::<Record>::uninit();
            // SAFETY: every address lies inside the panel's records or inside the tiles' slices, by the caller's
            // promise; loads are unaligned. Levels are read only if they were unpacked, the rest was decoded.
            unsafe {
                let decoded = &mut *decoded.as_mut_ptr();
                for (span, record) in panel.get_unchecked(Q4_SCALES..).chunks_exact(Q4_RECORD).enumerate() {
                    let record = record.as_ptr();
                    decode(record, decoded);
                    if packed {
                        let tile = tiles.get_unchecked(0);
                        for half in 0..2 {
                            for_columns!(
                                @widths tile.columns;
                                N => multiply::<N, 1, true>(record, decoded, half, tile, span, 0, output); 7 6 5 4 3
                            );
                        }
                        continue;
                    }
                    unpack(record, decoded);
                    for (tile, output) in tiles.iter().zip(output.chunks_mut(TILE_COLUMNS)) {
                        let mut column = 0;
                        while column < tile.columns {
                            let left = tile.columns - column;
                            column += for_columns!(
                                @widths left.div_ceil(left.div_ceil(UNPACKED_COLUMNS));
                                N => multiply::<N, 2, false>(record, decoded, 0, tile, span, column, output); 4 3 2
                            );
                        }
                    }
                }
                let row_scales: [__m256; 2] =
                    [0, 8].map(|row| _mm256_loadu_ps(panel.as_ptr().cast::<f32>().add(row)));
                for column in output.as_flattened_mut().as_chunks_mut::<8>().0.chunks_exact_mut(2) {
                    for half in 0..2 {
                        let floats = column.get_unchecked_mut(half).as_mut_ptr();
                        _mm256_storeu_ps(floats, _mm256_mul_ps(_mm256_loadu_ps(floats), row_scales[half]));
                    }
                }
            }
        }

        /// A line of a record to come. One at a time, while its predecessors are decoded: a burst of requests would hold
        /// up the loads after it.
        #[target_feature(enable = $features)]
        fn prefetch(line: *const u8) {
            _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(4 * Q4_RECORD).cast());
        }

        /// # Safety
        /// A record can be read.
        #[target_feature(enable = $features)]
        unsafe fn decode(record: *const u8, decoded: &mut Record) {
            let nibble = _mm256_set1_epi16(15);
            prefetch(record);
            for half in 0..2 {
                // Each row's byte in both of its int16 lanes.
                let rows = _mm256_add_epi32(
                    _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                    _mm256_set1_epi32(8 * half as i32),
                );
                let rows = _mm256_mullo_epi32(_mm256_set1_epi32(0x0101_0101), rows);
                let mut zeros = [_mm256_setzero_si256(); 4];
                for group in 0..4 {
                    // SAFETY: the caller's promise.
                    let stored = unsafe { _mm_loadu_si128(record.add(16 * group).cast()) };
                    let stored = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(stored), rows);
                    let multipliers = _mm256_and_si256(stored, nibble);
                    zeros[group] = _mm256_mullo_epi16(
                        _mm256_and_si256(_mm256_srli_epi16::<4>(stored), nibble),
                        multipliers,
                    );
                    decoded.multipliers[group][half] = multipliers;
                }
                for pair in 0..2 {
                    decoded.zeros[pair][half] =
                        _mm256_blend_epi16::<0xaa>(zeros[2 * pair], zeros[2 * pair + 1]);
                }
            }
        }

        /// # Safety
        /// A record can be read.
        #[target_feature(enable = $features)]
        unsafe fn unpack(record: *const u8, decoded: &mut Record) {
            let nibble = _mm256_set1_epi8(15);
            for (at, levels) in decoded.levels.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                prefetch(record.wrapping_add(64 + 64 * at));
                for half in 0..2 {
                    // SAFETY: the caller's promise.
                    let packed = unsafe { _mm256_loadu_si256(record.add(64 + 64 * at + 32 * half).cast()) };
                    levels[0][half] = _mm256_and_si256(packed, nibble);
                    levels[1][half] = _mm256_and_si256(_mm256_srli_epi16::<4>(packed), nibble);
                }
            }
        }

        /// Adds the products of a span with columns `first..first + N` of a tile, for `R` halves of 8 rows from `half`
        /// on; returns `N`.
        ///
        /// # Safety
        /// As every panel kernel's; span, columns and rows exist, and the levels are unpacked unless they are `PACKED`.
        #[target_feature(enable = $features)]
        unsafe fn multiply<const N: usize, const R: usize, const PACKED: bool>(
            record: *const u8,
            decoded: &Record,
            half: usize,
            tile: &ColumnTile<'_>,
            span: usize,
            first: usize,
            output: &mut [[f32; PANEL_ROWS]],
        ) -> usize {
            let (stride, nibble) = (tile.columns, _mm256_set1_epi8(15));
            // SAFETY: as `q4_tiles`.
            unsafe {
                let mut values = tile.values.as_ptr().cast::<i32>().add(span * SPAN_LINES * stride + first);
                let pairs = tile.group_pairs.as_ptr().cast::<i32>().add(2 * span * stride + first);
                let mut sums = [[_mm256_setzero_si256(); R]; N];
                for n in 0..N {
                    for pair in 0..2 {
                        let minus = _mm256_set1_epi32(*pairs.add(pair * stride + n));
                        for r in 0..R {
                            let zeros = _mm256_madd_epi16(decoded.zeros[pair][half + r], minus);
                            sums[n][r] = _mm256_add_epi32(sums[n][r], zeros);
                        }
                    }
                }
                let mut lines = record.add(64 + 32 * half);
                // Opaque, so that the loop is not unrolled: sums of several groups at once have no registers.
                for group in 0..std::hint::black_box(4) {
                    let multipliers = decoded.multipliers.get_unchecked(group);
                    let mut group_sums = [[_mm256_setzero_si256(); R]; N];
                    for line in 0..8 {
                        let mut levels = [_mm256_setzero_si256(); R];
                        if PACKED && line % 2 == 0 && half == 0 {
                            prefetch(lines);
                        }
                        for r in 0..R {
                            levels[r] = if PACKED {
                                let packed = _mm256_loadu_si256(lines.add(32 * r).cast());
                                let packed = if line % 2 == 0 { packed } else { _mm256_srli_epi16::<4>(packed) };
                                _mm256_and_si256(packed, nibble)
                            } else {
                                decoded.levels.get_unchecked(8 * group + line)[half + r]
                            };
                        }
                        for n in 0..N {
                            let value = _mm256_set1_epi32(values.add(n).read_unaligned());
                            for r in 0..R {
                                let products = _mm256_maddubs_epi16(levels[r], value);
                                group_sums[n][r] = if line == 0 {
                                    products
                                } else {
                                    _mm256_add_epi16(group_sums[n][r], products)
                                };
                            }
                        }
                        values = values.add(stride);
                        if line % 2 == 1 {
                            lines = lines.add(64);
                        }
                    }
                    for n in 0..N {
                        for r in 0..R {
                            let products = _mm256_madd_epi16(group_sums[n][r], multipliers[half + r]);
                            sums[n][r] = _mm256_add_epi32(sums[n][r], products);
                        }
                    }
                }
                let scales = tile.scales.as_ptr().add(span * stride + first);
                for n in 0..N {
                    let scale = _mm256_set1_ps(*scales.add(n));
                    for r in 0..R {
                        let output = output.get_unchecked_mut(first + n).as_mut_ptr().add(8 * (half + r));
                        let sum = _mm256_cvtepi32_ps(sums[n][r]);
                        _mm256_storeu_ps(output, _mm256_fmadd_ps(sum, scale, _mm256_loadu_ps(output)));
                    }
                }
            }
            N
        }
    };
}

with_features!(avx2, kernels!());
