//! The walk of AVX2 and of AVX-512 without VNNI for more columns of q8, which share magnitudes and signs.
//!
//! `pmaddubsw` multiplies unsigned by signed bytes, and a pair of products fits in int16 only if the unsigned one is a
//! magnitude. So the activation `x` takes the sign of the weight `w`. Since `x ^ -1` is `-x - 1`, with -1 for negative
//! weights and 0 for others as a mask `m`
//!
//! ```text
//! sum w x = sum |w| (x ^ m) + sum |w| over negative w
//! ```
//!
//! The last sum is the same for all columns. `pxor` runs on every port, `psignb` only on the two of the products. A
//! pair is at least 2 x 128 x -128 and at most 2 x 127 x 127.

/// The kernel `q8_tiles`, compiled with an instruction set's features: `magnitude_kernels!(features; registers, simd;
/// packed widths; unpacked widths)`. `registers` is the module whose `instructions` it is made of, `simd` its
/// `PanelSimd`; the widths are the columns of a tile, widest first.
macro_rules! magnitude_kernels {
    (
        $features:literal;
        $registers:ident, $simd:ty;
        $packed:literal $($packed_more:literal)+;
        $unpacked:literal $($unpacked_more:literal)+
    ) => {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        use std::ops::Range;

        use crate::kernels::operands::{ColumnTile, SPAN_GROUPS, TILE_COLUMNS};
        use crate::kernels::x86_64::$registers::instructions::*;
        use crate::kernels::x86_64::panel::{PanelSimd, even_width, for_columns};
        use crate::quant::{PANEL_ROWS, Q8_RECORD};

        /// Registers that hold an int32 of each row.
        const PARTS: usize = PANEL_ROWS / REGISTER_ROWS;
        /// Bytes of a line that one of them holds.
        const PART_BYTES: usize = 4 * REGISTER_ROWS;
        /// Groups of a record.
        const GROUPS: usize = 2;
        /// Lines of a group.
        const LINES: usize = 8;

        /// A group of weights, decoded, each item for one register of rows after the other.
        struct Group {
            /// Lines of magnitudes, if they are unpacked.
            magnitudes: [[Ints; PARTS]; LINES],
            /// Lines of -1 for negative weights and 0 for others, if they are unpacked.
            masks: [[Ints; PARTS]; LINES],
            /// The sums of the magnitudes of negative weights, if they are unpacked.
            starts: [Ints; PARTS],
            scales: [f32; PANEL_ROWS],
        }

        impl Group {
            #[target_feature(enable = $features)]
            fn zero() -> Group {
                let lines = [[zero(); PARTS]; LINES];
                Group { magnitudes: lines, masks: lines, starts: [zero(); PARTS], scales: [0.0; PANEL_ROWS] }
            }
        }

        /// Products of all tiles: the weights of a record are unpacked once, unless there are few columns.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn q8_tiles(
            panel: &[u8],
            tiles: &[ColumnTile<'_>],
            output: &mut [[f32; PANEL_ROWS]],
        ) {
            output.as_flattened_mut().fill(0.0);
            let packed = output.len() <= $packed;
            let mut decoded = [Group::zero(), Group::zero()];
            for (at, record) in panel.chunks_exact(Q8_RECORD).enumerate() {
                for (group, decoded) in decoded.iter_mut().enumerate() {
                    // SAFETY: the record has two groups of scales, and as many of lines.
                    unsafe {
                        let scales = <$simd>::load_f16(record.as_ptr().add(2 * PANEL_ROWS * group));
                        <$simd>::store_f32(scales, decoded.scales.as_mut_ptr());
                        if !packed {
                            unpack(record.as_ptr().add(64 * (1 + LINES * group)), decoded);
                        }
                    }
                }
                for (tile, output) in tiles.iter().zip(output.chunks_mut(TILE_COLUMNS)) {
                    let mut first = 0;
                    while first < tile.columns {
                        let max = if packed { $packed } else { $unpacked };
                        let left = tile.columns - first;
                        let width = even_width(left, max);
                        // The tiles after these are narrower by one.
                        let wide = left - (width - 1) * left.div_ceil(max);
                        let columns = first..first + width * wide;
                        first = columns.end;
                        // SAFETY: the caller's promise; the columns exist, and lines were unpacked unless `packed`.
                        unsafe {
                            if packed {
                                for part in 0..PARTS {
                                    let columns = columns.clone();
                                    for_columns!(
                                        @widths width;
                                        N => multiply::<N, 1, true>(record, at, &decoded, part, tile, columns, output);
                                        $packed $($packed_more)+
                                    );
                                }
                            } else {
                                for_columns!(
                                    @widths width;
                                    N => multiply::<N, PARTS, false>(record, at, &decoded, 0, tile, columns, output);
                                    $unpacked $($unpacked_more)+
                                );
                            }
                        }
                    }
                }
            }
        }

        /// The magnitudes of the weights at an address, and the mask of the negative ones.
        ///
        /// # Safety
        /// They can be read.
        #[target_feature(enable = $features)]
        unsafe fn magnitudes(line: *const u8) -> (Ints, Ints) {
            // SAFETY: the caller's promise.
            let stored = unsafe { load(line.cast()) };
            let weights = xor(stored, splat_i32(i32::from_ne_bytes([0x80; 4])));
            // 128 is added to stored weights, and an index of 128 or more puts 0.
            (abs_i8(weights), shuffle(splat_i32(-1), stored))
        }

        /// A line of a record to come, one at a time: a burst of requests would hold up the loads after it.
        #[target_feature(enable = $features)]
        fn prefetch(line: *const u8) {
            _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(4 * Q8_RECORD).cast());
        }

        /// # Safety
        /// The lines of a group can be read.
        #[target_feature(enable = $features)]
        unsafe fn unpack(lines: *const u8, decoded: &mut Group) {
            let mut minus = [zero(); PARTS];
            for line in 0..LINES {
                let bytes = lines.wrapping_add(64 * line);
                prefetch(bytes);
                for part in 0..PARTS {
                    // SAFETY: the caller's promise.
                    let (magnitudes, mask) = unsafe { magnitudes(bytes.add(PART_BYTES * part)) };
                    minus[part] = add_i16(minus[part], madd_u8(magnitudes, mask));
                    decoded.magnitudes[line][part] = magnitudes;
                    decoded.masks[line][part] = mask;
                }
            }
            for part in 0..PARTS {
                decoded.starts[part] = madd_i16(minus[part], splat_i32(-1));
            }
        }

        /// Adds the products of record number `at` with tiles of `N` columns, which fill `columns`, for `R` registers of
        /// rows from `part` on.
        ///
        /// # Safety
        /// As every panel kernel's; columns and rows exist, and the lines are unpacked unless they are `PACKED`.
        // Not inlined: all of its kinds in one function have no registers for their addresses.
        #[inline(never)]
        #[target_feature(enable = $features)]
        unsafe fn multiply<const N: usize, const R: usize, const PACKED: bool>(
            record: &[u8],
            at: usize,
            decoded: &[Group; GROUPS],
            part: usize,
            tile: &ColumnTile<'_>,
            columns: Range<usize>,
            output: &mut [[f32; PANEL_ROWS]],
        ) {
            let (stride, ones) = (tile.columns, splat_i32(0x0001_0001));
            for first in columns.step_by(N) {
                // SAFETY: every address lies inside the record or inside the tile's slices, by the caller's promise;
                // loads are unaligned.
                unsafe {
                    let mut values = tile.values.as_ptr().cast::<i32>().add(at * GROUPS * LINES * stride + first);
                    let scales = tile.scales.as_ptr().add(at * GROUPS / SPAN_GROUPS * stride + first);
                    let outputs = output.as_mut_ptr().add(first);
                    let mut lines = record.as_ptr().add(64);
                    for decoded in decoded {
                        let (mut sums, mut minus) = ([[zero(); R]; N], [zero(); R]);
                        for n in 0..N {
                            for r in 0..R {
                                sums[n][r] = if PACKED { zero() } else { decoded.starts[part + r] };
                            }
                        }
                        // Opaque, so that the loop is not unrolled: sums of several lines at once have no registers.
                        for line in 0..std::hint::black_box(LINES) {
                            let mut weights = [(zero(), zero()); R];
                            if <$simd>::PREFETCH > 0 && PACKED && part == 0 && first == 0 {
                                prefetch(lines);
                            }
                            for r in 0..R {
                                weights[r] = if PACKED {
                                    magnitudes(lines.add(PART_BYTES * (part + r)))
                                } else {
                                    let magnitudes = decoded.magnitudes.get_unchecked(line);
                                    (magnitudes[part + r], decoded.masks.get_unchecked(line)[part + r])
                                };
                                if PACKED {
                                    minus[r] = add_i16(minus[r], madd_u8(weights[r].0, weights[r].1));
                                }
                            }
                            for n in 0..N {
                                let value = splat_i32(values.add(n).read_unaligned());
                                for r in 0..R {
                                    let pairs = madd_u8(weights[r].0, xor(value, weights[r].1));
                                    sums[n][r] = add_i32(sums[n][r], madd_i16(pairs, ones));
                                }
                            }
                            values = values.wrapping_add(stride);
                            lines = lines.wrapping_add(64);
                        }
                        for r in 0..R {
                            let rows = REGISTER_ROWS * (part + r);
                            let weight_scales = load_f32(decoded.scales.as_ptr().add(rows));
                            let start = madd_i16(minus[r], splat_i32(-1));
                            for n in 0..N {
                                let sum = if PACKED { add_i32(sums[n][r], start) } else { sums[n][r] };
                                let scale = multiply_f32(weight_scales, splat_f32(*scales.add(n)));
                                let output = outputs.add(n).cast::<f32>().add(rows);
                                store_f32(output, fmadd(to_f32(sum), scale, load_f32(output)));
                            }
                        }
                    }
                }
            }
        }
    };
}
pub(super) use magnitude_kernels;
