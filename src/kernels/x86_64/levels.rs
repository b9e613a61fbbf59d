//! The walk of AVX2 and of AVX-512 without VNNI for more than two columns of q4, which share a span of levels.
//!
//! Products of two levels are added in int16 over a group, which cannot saturate. Its multipliers are decoded once, and
//! zero points are subtracted two groups at a time, so that a group of a column costs 8 `pmaddubsw`, 7 `paddw` and 3
//! instructions more for each register of rows. Columns take the levels from the panel as they need them, with one
//! register of rows at a time; where a register does not hold all rows, levels are unpacked into memory for many columns,
//! and a tile is 16 rows by a few columns.

/// The kernel `q4_tiles`, compiled with an instruction set's features: `level_kernels!(features; registers, simd; packed
/// widths; unpacked widths)`. `registers` is the module whose `instructions` it is made of, `simd` its `PanelSimd`; the
/// widths are the columns of a tile, widest first.
macro_rules! level_kernels {
    (
        $features:literal;
        $registers:ident, $simd:ty;
        $packed:literal $($packed_more:literal)+;
        $unpacked:literal $($unpacked_more:literal)*
    ) => {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_loadu_si128, _mm_prefetch};
        use std::mem::MaybeUninit;

        use crate::kernels::operands::{ColumnTile, TILE_COLUMNS};
        use crate::kernels::x86_64::$registers::instructions::*;
        use crate::kernels::x86_64::panel::{PanelSimd, even_width, for_columns};
        use crate::quant::{PANEL_ROWS, Q4_RECORD, Q4_SCALES, SPAN};

        /// Registers that hold an int32 of each row.
        const PARTS: usize = PANEL_ROWS / REGISTER_ROWS;
        /// Bytes of a line that one of them holds.
        const PART_BYTES: usize = 4 * REGISTER_ROWS;
        /// Lines of levels in a span.
        const SPAN_LINES: usize = SPAN / 4;
        /// The bytes of a `shuffle` that puts each row's byte in all four bytes of its lane.
        const ROW_BYTES: [i32; PANEL_ROWS] = {
            let mut bytes = [0; PANEL_ROWS];
            let mut row = 0;
            while row < PANEL_ROWS {
                bytes[row] = 0x0101_0101 * row as i32;
                row += 1;
            }
            bytes
        };

        /// A q4 record, decoded, each item for one register of rows after the other.
        struct Record {
            /// The multiplier of each group, in int16 lanes.
            multipliers: [[Ints; PARTS]; 4],
            /// Products of multiplier and zero level: of one group in the even int16 lanes, of the next in the odd ones.
            zeros: [[Ints; PARTS]; 2],
            /// Lines of levels, if they are unpacked.
            levels: MaybeUninit<[[Ints; PARTS]; SPAN_LINES]>,
        }

        /// Products of more than two columns.
        #[target_feature(enable = $features)]
        unsafe fn q4_tiles(panel: &[u8], tiles: &[ColumnTile<'_>], output: &mut [[f32; PANEL_ROWS]]) {
            output.as_flattened_mut().fill(0.0);
            let packed = PARTS == 1 || output.len() <= $packed;
            let mut decoded = Record {
                multipliers: [[zero(); PARTS]; 4],
                zeros: [[zero(); PARTS]; 2],
                levels: MaybeUninit::uninit(),
            };
            // SAFETY: every address lies inside the panel's records or inside the tiles' slices, by the caller's
            // promise; loads are unaligned. Levels are read only if they were unpacked.
            unsafe {
                let decoded = &mut decoded;
                for (span, record) in panel.get_unchecked(Q4_SCALES..).chunks_exact(Q4_RECORD).enumerate() {
                    let record = record.as_ptr();
                    decode(record, decoded);
                    // With many columns a record takes long enough for one to come to arrive meanwhile.
                    if PARTS == 1 && output.len() >= 8 {
                        (0..Q4_RECORD / 64).for_each(|line| prefetch(record.wrapping_add(64 * line)));
                    }
                    if !packed {
                        unpack(record, decoded);
                    }
                    for (tile, output) in tiles.iter().zip(output.chunks_mut(TILE_COLUMNS)) {
                        let mut column = 0;
                        while column < tile.columns {
                            let left = tile.columns - column;
                            if packed {
                                let width = even_width(left, $packed);
                                for part in 0..PARTS {
                                    for_columns!(
                                        @widths width;
                                        N => multiply::<N, 1, true>(record, decoded, part, tile, span, column, output);
                                        $packed $($packed_more)+
                                    );
                                }
                                column += width;
                            } else {
                                column += for_columns!(
                                    @widths even_width(left, $unpacked);
                                    N => multiply::<N, PARTS, false>(record, decoded, 0, tile, span, column, output);
                                    $unpacked $($unpacked_more)*
                                );
                            }
                        }
                    }
                }
                let row_scales = <$simd>::load_f32(panel.as_ptr().cast());
                for column in output {
                    let column = column.as_mut_ptr();
                    <$simd>::store_f32(<$simd>::multiply_f32(<$simd>::load_f32(column), row_scales), column);
                }
            }
        }

        /// A line of a record to come. With few columns one at a time, while its predecessors are decoded: a burst of
        /// requests would hold up the loads after it.
        #[target_feature(enable = $features)]
        fn prefetch(line: *const u8) {
            _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(4 * Q4_RECORD).cast());
        }

        /// # Safety
        /// A record can be read.
        #[target_feature(enable = $features)]
        unsafe fn decode(record: *const u8, decoded: &mut Record) {
            if <$simd>::PREFETCH > 0 {
                prefetch(record);
            }
            // Of a group in the even int16 lanes, of the next in the odd ones; of both.
            let (even, odd, both) = (splat_i32(15), splat_i32(15 << 16), splat_i32(15 | 15 << 16));
            for part in 0..PARTS {
                let mut zeros = [zero(); 4];
                // SAFETY: the caller's promise, and there are as many rows.
                unsafe {
                    let rows = load(ROW_BYTES.as_ptr().add(REGISTER_ROWS * part).cast());
                    for group in 0..4 {
                        let stored = _mm_loadu_si128(record.add(16 * group).cast());
                        let stored = shuffle(broadcast_128(stored), rows);
                        let multipliers = and(stored, both);
                        let of_group = if group % 2 == 0 { even } else { odd };
                        zeros[group] = multiply_i16(and(shift_right::<4>(stored), of_group), multipliers);
                        decoded.multipliers[group][part] = multipliers;
                    }
                }
                for pair in 0..2 {
                    decoded.zeros[pair][part] = add_i32(zeros[2 * pair], zeros[2 * pair + 1]);
                }
            }
        }

        /// # Safety
        /// A record can be read.
        #[target_feature(enable = $features)]
        unsafe fn unpack(record: *const u8, decoded: &mut Record) {
            let (nibble, levels) = (splat_i32(0x0f0f_0f0f), decoded.levels.as_mut_ptr());
            for line in 0..SPAN_LINES / 2 {
                prefetch(record.wrapping_add(64 + 64 * line));
                for part in 0..PARTS {
                    // SAFETY: the caller's promise; two lines of levels come from each line of the record.
                    unsafe {
                        let packed = load(record.add(64 + 64 * line + PART_BYTES * part).cast());
                        (*levels)[2 * line][part] = and(packed, nibble);
                        (*levels)[2 * line + 1][part] = and(shift_right::<4>(packed), nibble);
                    }
                }
            }
        }

        /// Adds the products of a span with columns `first..first + N` of a tile, for `R` registers of rows from `part`
        /// on; returns `N`.
        ///
        /// # Safety
        /// As every panel kernel's; span, columns and rows exist, and the levels are unpacked unless they are `PACKED`.
        #[target_feature(enable = $features)]
        unsafe fn multiply<const N: usize, const R: usize, const PACKED: bool>(
            record: *const u8,
            decoded: &Record,
            part: usize,
            tile: &ColumnTile<'_>,
            span: usize,
            first: usize,
            output: &mut [[f32; PANEL_ROWS]],
        ) -> usize {
            let (stride, nibble) = (tile.columns, splat_i32(0x0f0f_0f0f));
            // SAFETY: as `q4_tiles`.
            unsafe {
                let mut values = tile.values.as_ptr().cast::<i32>().add(span * SPAN_LINES * stride + first);
                let pairs = tile.group_pairs.as_ptr().cast::<i32>().add(2 * span * stride + first);
                let mut sums = [[zero(); R]; N];
                for n in 0..N {
                    for pair in 0..2 {
                        let minus = splat_i32(pairs.add(pair * stride + n).read_unaligned());
                        for r in 0..R {
                            let zeros = madd_i16(decoded.zeros[pair][part + r], minus);
                            sums[n][r] = add_i32(sums[n][r], zeros);
                        }
                    }
                }
                let mut lines = record.add(64 + PART_BYTES * part);
                // Opaque, so that the loop is not unrolled: sums of several groups at once have no registers.
                for group in 0..std::hint::black_box(4) {
                    let multipliers = decoded.multipliers.get_unchecked(group);
                    let mut group_sums = [[zero(); R]; N];
                    for line in 0..8 {
                        let mut levels = [zero(); R];
                        if <$simd>::PREFETCH > 0 && PACKED && line % 2 == 0 && part == 0 {
                            prefetch(lines);
                        }
                        for r in 0..R {
                            levels[r] = if PACKED {
                                let packed = load(lines.add(PART_BYTES * r).cast());
                                let packed = if line % 2 == 0 { packed } else { shift_right::<4>(packed) };
                                and(packed, nibble)
                            } else {
                                (*decoded.levels.as_ptr()).get_unchecked(8 * group + line)[part + r]
                            };
                        }
                        for n in 0..N {
                            let value = splat_i32(values.add(n).read_unaligned());
                            for r in 0..R {
                                let products = madd_u8(levels[r], value);
                                group_sums[n][r] = if line == 0 {
                                    products
                                } else {
                                    add_i16(group_sums[n][r], products)
                                };
                            }
                        }
                        values = values.wrapping_add(stride);
                        if line % 2 == 1 {
                            lines = lines.wrapping_add(64);
                        }
                    }
                    for n in 0..N {
                        for r in 0..R {
                            let products = madd_i16(group_sums[n][r], multipliers[part + r]);
                            sums[n][r] = add_i32(sums[n][r], products);
                        }
                    }
                }
                let scales = tile.scales.as_ptr().add(span * stride + first);
                for n in 0..N {
                    let scale = splat_f32(*scales.add(n));
                    for r in 0..R {
                        let output = output.get_unchecked_mut(first + n).as_mut_ptr().add(REGISTER_ROWS * (part + r));
                        let sum = to_f32(sums[n][r]);
                        store_f32(output, fmadd(sum, scale, load_f32(output)));
                    }
                }
            }
            N
        }
    };
}
pub(super) use level_kernels;
