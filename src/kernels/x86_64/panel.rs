//! A panel line of 16 rows x 4 inputs, and the loops over a panel that every instruction set shares.
//!
//! An instruction set says how it loads a line and multiplies it by four broadcast activations, with int32 sums
//! that are exact, and how sums become floats. In q4 the multiplier of a group is taken up in one of two ways. With
//! more columns the levels become weights before they are multiplied, which costs as much as with one. Staged, the
//! levels are multiplied and the multiplier comes last, once for each column: so it is with one or two. Where products
//! are added in int16 first, which only levels fit into, `levels` has a walk for more, and `magnitudes` one for more
//! columns of q8. Zero points are part of the weights or, with few columns, subtracted from the sums, two groups at a
//! time. Weights that more columns share than registers hold are unpacked into memory, a span at a time.

use std::arch::asm;

/// The operations of an instruction set that the loops are made of.
///
/// # Safety
/// Every method may be called only where the instruction set is available. Addresses hold a line of 64 bytes, for
/// `load_f16` 16 of them, for `load_f32` 16 floats, for `load_multipliers` 16 bytes, for `store_f32` room for 16 floats; none
/// needs to be aligned.
pub(super) trait PanelSimd {
    /// 64 bytes, or 16 sums.
    type Ints: Copy;
    /// Sixteen floats.
    type Floats: Copy;
    /// Most columns that share the weights: what the registers hold.
    const COLUMNS: usize;
    /// Most columns whose sums zero points are subtracted from.
    const PAIRED_COLUMNS: usize;
    /// Whether products are added in int16 first: q4 sums are of levels, and `dot_q8` subtracts the zero point itself, so
    /// that its sums start at 0.
    const INT16: bool;
    /// Distance in bytes at which few columns prefetch the lines of a panel; 0 for not at all.
    const PREFETCH: usize;

    unsafe fn zero_f32() -> Self::Floats;
    unsafe fn splat_i32(value: i32) -> Self::Ints;
    unsafe fn load_bytes(line: *const u8) -> Self::Ints;
    /// The low nibbles of a line, and the high ones.
    unsafe fn load_nibbles(line: *const u8) -> (Self::Ints, Self::Ints);
    /// The multiplier m of each row in its int16 lanes, and m z in its bytes.
    unsafe fn load_multipliers(bytes: *const u8) -> (Self::Ints, Self::Ints);
    /// Levels times their multipliers, in each byte.
    unsafe fn multiply_levels(levels: Self::Ints, multipliers: Self::Ints) -> Self::Ints;
    /// Levels as weights with 128 added; `offsets` are 128 - m z in each byte.
    unsafe fn levels_to_weights(
        levels: Self::Ints,
        multipliers: Self::Ints,
        offsets: Self::Ints,
    ) -> Self::Ints;
    /// 128 - m z in each byte.
    unsafe fn offsets(zeros: Self::Ints) -> Self::Ints;
    /// Of two groups, m z of the first in the lower int16 lanes, that of the second in the upper ones.
    unsafe fn pair_zeros(first: Self::Ints, second: Self::Ints) -> Self::Ints;
    /// `sums + zeros * values`, where `values` are two int16.
    unsafe fn dot_zeros(sums: Self::Ints, zeros: Self::Ints, values: i32) -> Self::Ints;
    /// `sums + weights * values`; in int16 if `INT16`.
    unsafe fn dot_q4(sums: Self::Ints, weights: Self::Ints, values: i32) -> Self::Ints;
    /// Adds the staged sums of a group of levels to `sums`.
    unsafe fn apply_multiplier(sums: Self::Ints, group: Self::Ints, multipliers: Self::Ints) -> Self::Ints;
    unsafe fn dot_q8(sums: Self::Ints, weights: Self::Ints, values: i32) -> Self::Ints;
    unsafe fn load_f16(f16s: *const u8) -> Self::Floats;
    unsafe fn load_f32(floats: *const f32) -> Self::Floats;
    unsafe fn multiply_f32(floats: Self::Floats, scales: Self::Floats) -> Self::Floats;
    /// `sums * scales + floats`
    unsafe fn accumulate(sums: Self::Ints, scales: Self::Floats, floats: Self::Floats) -> Self::Floats;
    unsafe fn splat_f32(value: f32) -> Self::Floats;
    unsafe fn store_f32(floats: Self::Floats, output: *mut f32);
}

/// Most columns with which the q4 levels of a group are summed before they are multiplied.
pub(super) const STAGED_COLUMNS: usize = 2;

/// The columns of the next tile: 16, or else no more than 8 and all tiles alike.
#[inline(always)]
pub(super) fn tile_width(left: usize, most: usize) -> usize {
    if left >= 16 && most >= 16 { 16 } else { even_width(left, most.min(8)) }
}

/// The columns of the widest tile, if columns are shared out evenly among as few tiles of up to `max` as they fill.
#[inline(always)]
pub(super) fn even_width(columns: usize, max: usize) -> usize {
    columns.div_ceil(columns.div_ceil(max))
}

/// The same address: without it, each of the 32 quads of a span would get a pointer of its own, most of them on the
/// stack.
#[allow(clippy::pointers_in_nomem_asm_block)] // Nothing is read.
#[inline(always)]
pub(super) fn opaque(mut address: *const i32) -> *const i32 {
    // SAFETY: no instruction.
    unsafe { asm!("/* {0} */", inout(reg) address, options(pure, nomem, nostack, preserves_flags)) };
    address
}

/// Calls the widest kernel that the columns fill: `for_columns!(columns; N => kernel::<N>())`.
macro_rules! for_columns {
    ($columns:expr; $width:ident => $call:expr) => {
        for_columns!(@widths $columns; $width => $call; 16 8 7 6 5 4 3 2)
    };
    (@widths $columns:expr; $width:ident => $call:expr; $($widths:literal)+) => {
        match $columns {
            $($widths.. => { const $width: usize = $widths; $call })+
            _ => { const $width: usize = 1; $call }
        }
    };
}
pub(super) use for_columns;

/// The panel kernels of an instruction set, compiled with its features.
macro_rules! panel_kernels {
    ($features:literal; $simd:ty) => {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};

        use crate::kernels::x86_64::panel::{PanelSimd, STAGED_COLUMNS, for_columns, opaque, tile_width};
        use crate::kernels::operands::{ColumnTile, TILE_COLUMNS};
        use crate::kernels::table::{PanelKernels, quantized_kernels};
        use crate::quant::{PANEL_ROWS, Q4_RECORD, Q4_SCALES, Q8_RECORD, SPAN};

        /// Lines of weights in a span.
        const SPAN_LINES: usize = SPAN / 4;

        pub(in crate::kernels::x86_64) const PANELS: PanelKernels = PanelKernels {
            q4,
            q8,
            q4_tiles: if <$simd>::INT16 { None } else { Some((<$simd>::COLUMNS, q4_tiles)) },
            q8_tiles: None,
        };

        quantized_kernels!($features);

        /// # Safety
        /// `panel` has the records of a matrix as wide as `input`; the slices of `input` and `output` have the lengths of
        /// its spans and columns.
        #[target_feature(enable = $features)]
        unsafe fn multiply<const Q4: bool>(
            panel: &[u8],
            input: ColumnTile<'_>,
            output: &mut [[f32; PANEL_ROWS]],
        ) {
            let most = if Q4 && <$simd>::INT16 { STAGED_COLUMNS } else { <$simd>::COLUMNS };
            let mut column = 0;
            while column < input.columns {
                // SAFETY: the columns asked for exist.
                column += unsafe {
                    for_columns!(
                        tile_width(input.columns - column, most);
                        N => columns::<Q4, N>(panel, input, column, output)
                    )
                };
            }
        }

        /// One panel with columns `first..first + N` of the tile; returns `N`.
        ///
        /// # Safety
        /// As `multiply`; the columns exist.
        #[target_feature(enable = $features)]
        unsafe fn columns<const Q4: bool, const N: usize>(
            panel: &[u8],
            input: ColumnTile<'_>,
            first: usize,
            output: &mut [[f32; PANEL_ROWS]],
        ) -> usize {
            // SAFETY: the caller's promise is passed on; the floats are those of columns that exist.
            unsafe {
                let floats = if Q4 {
                    q4_columns::<N>(panel, input, first)
                } else {
                    q8_columns::<N>(panel, input, first)
                };
                for n in 0..N {
                    <$simd>::store_f32(floats[n], output.get_unchecked_mut(first + n).as_mut_ptr());
                }
            }
            N
        }

        /// With many columns a panel takes long enough for the next one to arrive meanwhile.
        #[target_feature(enable = $features)]
        fn prefetch_panel<const RECORD: usize>(record: *const u8, panel: &[u8], columns: usize) {
            if columns >= 8 {
                let next = record.wrapping_add(panel.len());
                for line in 0..RECORD / 64 {
                    _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(line * 64).cast());
                }
            }
        }

        /// With few columns the memory is the limit, and it depends on the processor whether it looks far enough ahead
        /// itself. One request at a time: a burst of them would hold up the loads after it.
        #[target_feature(enable = $features)]
        fn prefetch_line<const N: usize>(line: *const u8, first: usize) {
            if N < 8 && first == 0 && <$simd>::PREFETCH > 0 {
                _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(<$simd>::PREFETCH).cast());
            }
        }

        /// # Safety
        /// As `columns`.
        // Long, because sums stay in registers over all the ways to take up multipliers and zero points.
        #[target_feature(enable = $features)]
        unsafe fn q4_columns<const N: usize>(
            panel: &[u8],
            input: ColumnTile<'_>,
            first: usize,
        ) -> [<$simd as PanelSimd>::Floats; N] {
            let (stride, staged, paired) =
                (input.columns, N <= STAGED_COLUMNS, N <= <$simd>::PAIRED_COLUMNS);
            // SAFETY: every address lies inside the panel's records or inside the tile's slices, by the
            // caller's promise; loads are unaligned.
            unsafe {
                let mut floats = [<$simd>::zero_f32(); N];
                let mut values = input.values.as_ptr().cast::<i32>().add(first);
                let mut starts = input.span_starts.as_ptr().add(first);
                let mut pairs = input.group_pairs.as_ptr().cast::<i32>().add(first);
                let mut scales = input.scales.as_ptr().add(first);
                for record in panel.get_unchecked(Q4_SCALES..).chunks_exact(Q4_RECORD) {
                    let record = record.as_ptr();
                    if <$simd>::COLUMNS >= 8 && first == 0 {
                        prefetch_panel::<Q4_RECORD>(record, panel, stride);
                    }
                    prefetch_line::<N>(record, first);
                    let mut lines = record.add(64);
                    let mut sums = [<$simd>::splat_i32(0); N];
                    if !paired {
                        for n in 0..N {
                            sums[n] = <$simd>::splat_i32(*starts.add(n));
                        }
                        starts = starts.wrapping_add(stride);
                    }
                    let mut first_zeros = <$simd>::splat_i32(0);
                    for group in 0..4 {
                        let (multipliers, zeros) = <$simd>::load_multipliers(record.add(16 * group));
                        let offsets = <$simd>::offsets(zeros);
                        values = opaque(values);
                        let mut level_sums = [<$simd>::splat_i32(0); N];
                        for _ in 0..4 {
                            prefetch_line::<N>(lines, first);
                            let (even, odd) = <$simd>::load_nibbles(lines);
                            lines = lines.add(64);
                            for levels in [even, odd] {
                                if staged {
                                    for n in 0..N {
                                        let value = values.add(n).read_unaligned();
                                        level_sums[n] = <$simd>::dot_q4(level_sums[n], levels, value);
                                    }
                                } else {
                                    let weights = if paired {
                                        <$simd>::multiply_levels(levels, multipliers)
                                    } else {
                                        <$simd>::levels_to_weights(levels, multipliers, offsets)
                                    };
                                    for n in 0..N {
                                        let value = values.add(n).read_unaligned();
                                        sums[n] = <$simd>::dot_q4(sums[n], weights, value);
                                    }
                                }
                                values = values.add(stride);
                            }
                        }
                        if staged {
                            for n in 0..N {
                                sums[n] = <$simd>::apply_multiplier(sums[n], level_sums[n], multipliers);
                            }
                        }
                        if !paired {
                            continue;
                        }
                        if group % 2 == 0 {
                            first_zeros = zeros;
                        } else {
                            let zeros = <$simd>::pair_zeros(first_zeros, zeros);
                            for n in 0..N {
                                sums[n] = <$simd>::dot_zeros(sums[n], zeros, pairs.add(n).read_unaligned());
                            }
                            pairs = pairs.wrapping_add(stride);
                        }
                    }
                    for n in 0..N {
                        floats[n] = <$simd>::accumulate(sums[n], <$simd>::splat_f32(*scales.add(n)), floats[n]);
                    }
                    scales = scales.add(stride);
                }
                let row_scales = <$simd>::load_f32(panel.as_ptr().cast());
                floats.map(|floats| <$simd>::multiply_f32(floats, row_scales))
            }
        }

        /// All columns of all tiles: a span's weights are unpacked once, then multiplied by every column.
        ///
        /// # Safety
        /// As `multiply`, for each tile and its part of the output.
        #[target_feature(enable = $features)]
        unsafe fn q4_tiles(panel: &[u8], tiles: &[ColumnTile<'_>], output: &mut [[f32; PANEL_ROWS]]) {
            // SAFETY: as `q4_columns`.
            unsafe {
                output.as_flattened_mut().fill(0.0);
                let mut weights = [<$simd>::splat_i32(0); SPAN_LINES];
                let records = panel.get_unchecked(Q4_SCALES..).chunks_exact(Q4_RECORD);
                for (span, record) in records.enumerate() {
                    let record = record.as_ptr();
                    prefetch_panel::<Q4_RECORD>(record, panel, TILE_COLUMNS);
                    for (group, weights) in weights.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                        let (multipliers, zeros) = <$simd>::load_multipliers(record.add(16 * group));
                        let offsets = <$simd>::offsets(zeros);
                        for (line, weights) in weights.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                            let (even, odd) = <$simd>::load_nibbles(record.add(64 * (1 + 4 * group + line)));
                            *weights = [
                                <$simd>::levels_to_weights(even, multipliers, offsets),
                                <$simd>::levels_to_weights(odd, multipliers, offsets),
                            ];
                        }
                    }
                    for (tile, output) in tiles.iter().zip(output.chunks_mut(TILE_COLUMNS)) {
                        let mut column = 0;
                        while column < tile.columns {
                            column += for_columns!(
                                tile_width(tile.columns - column, <$simd>::COLUMNS);
                                N => span_columns::<N>(&weights, tile, span, column, output)
                            );
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

        /// Adds the products of a span's weights with columns `first..first + N` of a tile; returns `N`.
        ///
        /// # Safety
        /// As `multiply`; the span and the columns exist.
        #[target_feature(enable = $features)]
        unsafe fn span_columns<const N: usize>(
            weights: &[<$simd as PanelSimd>::Ints; SPAN_LINES],
            tile: &ColumnTile<'_>,
            span: usize,
            first: usize,
            output: &mut [[f32; PANEL_ROWS]],
        ) -> usize {
            let stride = tile.columns;
            // SAFETY: as `q4_columns`.
            unsafe {
                let mut values = tile.values.as_ptr().cast::<i32>().add(span * SPAN_LINES * stride + first);
                let starts = tile.span_starts.as_ptr().add(span * stride + first);
                let scales = tile.scales.as_ptr().add(span * stride + first);
                let mut sums = [<$simd>::splat_i32(0); N];
                for n in 0..N {
                    sums[n] = <$simd>::splat_i32(*starts.add(n));
                }
                for weights in weights {
                    for n in 0..N {
                        let value = values.add(n).read_unaligned();
                        sums[n] = <$simd>::dot_q4(sums[n], *weights, value);
                    }
                    values = values.add(stride);
                }
                let outputs = output.as_mut_ptr().add(first);
                for n in 0..N {
                    let output = outputs.add(n).cast::<f32>();
                    let scale = <$simd>::splat_f32(*scales.add(n));
                    let floats = <$simd>::accumulate(sums[n], scale, <$simd>::load_f32(output));
                    <$simd>::store_f32(floats, output);
                }
            }
            N
        }

        /// # Safety
        /// As `columns`.
        #[target_feature(enable = $features)]
        unsafe fn q8_columns<const N: usize>(
            panel: &[u8],
            input: ColumnTile<'_>,
            first: usize,
        ) -> [<$simd as PanelSimd>::Floats; N] {
            let stride = input.columns;
            // SAFETY: as `q4_columns`.
            unsafe {
                let mut floats = [<$simd>::zero_f32(); N];
                let mut values = input.values.as_ptr().cast::<i32>().add(first);
                let mut starts = input.group_starts.as_ptr().add(first);
                for (at, record) in panel.chunks_exact(Q8_RECORD).enumerate() {
                    let record = record.as_ptr();
                    if <$simd>::COLUMNS >= 8 && first == 0 {
                        prefetch_panel::<Q8_RECORD>(record, panel, stride);
                    }
                    prefetch_line::<N>(record, first);
                    // Two records make a span.
                    let activation_scales = input.scales.as_ptr().add(at / 2 * stride + first);
                    let mut lines = record.add(64);
                    for group in 0..2 {
                        // Opaque, or a register for each column's scale would be taken from the sums.
                        let activation_scales = std::hint::black_box(activation_scales);
                        let scales = <$simd>::load_f16(record.add(group * 32));
                        let mut sums = [<$simd>::splat_i32(0); N];
                        if !<$simd>::INT16 {
                            for n in 0..N {
                                sums[n] = <$simd>::splat_i32(*starts.add(n));
                            }
                        }
                        for _ in 0..8 {
                            prefetch_line::<N>(lines, first);
                            let weights = <$simd>::load_bytes(lines);
                            lines = lines.add(64);
                            for n in 0..N {
                                let value = values.add(n).read_unaligned();
                                sums[n] = <$simd>::dot_q8(sums[n], weights, value);
                            }
                            values = values.add(stride);
                        }
                        for n in 0..N {
                            let activation = <$simd>::splat_f32(*activation_scales.add(n));
                            let scale = <$simd>::multiply_f32(scales, activation);
                            floats[n] = <$simd>::accumulate(sums[n], scale, floats[n]);
                        }
                        starts = starts.add(stride);
                    }
                }
                floats
            }
        }
    };
}
pub(super) use panel_kernels;
