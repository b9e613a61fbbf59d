//! AMX for int8, from 5 columns on; fewer are those of AVX-512 VNNI, which memory limits already.
//!
//! A panel line is a row of a B tile: 16 lines are 64 inputs of 16 rows. An A tile holds the same 64 inputs of 16
//! columns, and `tdpbsud` adds their 256 products to a C tile. In q4 AVX-512 turns levels into weights on their way to
//! a B tile, and a C tile takes up a span of 128 inputs. In q8 scales belong to 32 inputs, so tiles are half as large
//! and each C tile is stored after one instruction. AVX-512 adds C tiles in the order of the other kernels: the bits
//! are theirs.
//!
//! The instructions are reached through [`Tiles`], so that the walk is tested where there is no AMX.

use std::arch::x86_64::*;
use std::cell::Cell;
use std::sync::OnceLock;

use super::avx512vnni;
use super::panel::PanelSimd;
use super::tiles::{Hardware, Tiles};
use super::zmm::Zmm;
use crate::kernels::isa::{Isa, has_feature, with_features};
use crate::kernels::operands::{ColumnTile, TILE_COLUMNS};
use crate::kernels::table::PanelKernels;
use crate::quant::{GROUP, PANEL_ROWS, Q4_RECORD, Q4_SCALES, Q8_RECORD, SPAN};
use crate::threads::at_rest;

pub(super) const PANELS: PanelKernels = PanelKernels { q4, q8, q4_tiles: None, q8_tiles: None };

/// Most columns that are left to AVX-512.
const FEW: usize = 4;

thread_local! {
    /// Whether this thread has configured its tiles and not released them.
    static CONFIGURED: Cell<bool> = const { Cell::new(false) };
}

/// Releases this thread's tiles: a configured thread costs 8 KiB at each switch, and keeps a core from deep sleep.
fn release_tiles() {
    if CONFIGURED.replace(false) {
        // SAFETY: only a thread that has AMX configures its tiles.
        unsafe { Hardware::release() };
    }
}

/// # Safety
/// As every panel kernel's, and AMX is available.
unsafe fn q4(panel: &[u8], input: ColumnTile<'_>, output: &mut [[f32; PANEL_ROWS]]) {
    // SAFETY: the caller's promise is passed on.
    unsafe {
        if input.columns <= FEW || input.rows.is_empty() {
            return (avx512vnni::PANELS.q4)(panel, input, output);
        }
        configure();
        multiply_q4::<Hardware>(panel, input, output)
    }
}

/// # Safety
/// As every panel kernel's, and AMX is available.
unsafe fn q8(panel: &[u8], input: ColumnTile<'_>, output: &mut [[f32; PANEL_ROWS]]) {
    // SAFETY: the caller's promise is passed on.
    unsafe {
        if input.columns <= FEW || input.rows.is_empty() {
            return (avx512vnni::PANELS.q8)(panel, input, output);
        }
        configure();
        multiply_q8::<Hardware>(panel, input, output)
    }
}

/// # Safety
/// AMX is available.
unsafe fn configure() {
    if !CONFIGURED.replace(true) {
        at_rest(release_tiles);
        // SAFETY: the caller's promise.
        unsafe { Hardware::configure() };
    }
}

/// Sums of a C tile, `[column][row]`, on their way from tiles to registers.
#[repr(align(64))]
struct Sums([[i32; PANEL_ROWS]; TILE_COLUMNS]);

/// The lines of a span with a weight in each byte.
#[repr(align(64))]
struct Unpacked([[u8; 64]; SPAN / 4]);

macro_rules! kernel {
    ($features:literal;) => {
        /// # Safety
        /// `panel` has the records of a matrix as wide as `input`, which has rows; its slices and `output` have the lengths
        /// of its spans and columns. The tiles are configured.
        #[target_feature(enable = $features)]
        unsafe fn multiply_q4<T: Tiles>(
            panel: &[u8],
            input: ColumnTile<'_>,
            output: &mut [[f32; PANEL_ROWS]],
        ) {
            let columns = input.columns;
            let mut floats = [_mm512_setzero_ps(); TILE_COLUMNS];
            let mut sums = Sums([[0; PANEL_ROWS]; TILE_COLUMNS]);
            let mut unpacked = Unpacked([[0; 64]; SPAN / 4]);
            // SAFETY: every address lies inside the panel's records, the tile's slices or the arrays above, by the
            // caller's promise; loads are unaligned. `rows` has 16 rows whatever the number of columns.
            unsafe {
                for (span, record) in panel.get_unchecked(Q4_SCALES..).chunks_exact(Q4_RECORD).enumerate() {
                    for group in 0..4 {
                        let (multipliers, zeros) =
                            Zmm::<true>::load_multipliers(record.as_ptr().add(16 * group));
                        let offsets = Zmm::<true>::offsets(zeros);
                        for line in 4 * group..4 * group + 4 {
                            let (even, odd) = Zmm::<true>::load_nibbles(record.as_ptr().add(64 + 64 * line));
                            let target = unpacked.0.as_mut_ptr().add(2 * line);
                            _mm512_store_si512(
                                target.cast(),
                                Zmm::<true>::levels_to_weights(even, multipliers, offsets),
                            );
                            _mm512_store_si512(
                                target.add(1).cast(),
                                Zmm::<true>::levels_to_weights(odd, multipliers, offsets),
                            );
                        }
                    }
                    let rows = input.rows.as_ptr().add(span * SPAN);
                    T::span(rows, input.spans * SPAN, unpacked.0.as_ptr().cast(), sums.0.as_mut_ptr().cast());
                    for n in 0..columns {
                        let start =
                            Zmm::<true>::splat_i32(*input.span_starts.get_unchecked(span * columns + n));
                        let sum = _mm512_add_epi32(_mm512_load_si512(sums.0[n].as_ptr().cast()), start);
                        let scale = Zmm::<true>::splat_f32(*input.scales.get_unchecked(span * columns + n));
                        floats[n] = Zmm::<true>::accumulate(sum, scale, floats[n]);
                    }
                }
                let row_scales = Zmm::<true>::load_f32(panel.as_ptr().cast());
                for (floats, output) in floats.iter().zip(output) {
                    Zmm::<true>::store_f32(
                        Zmm::<true>::multiply_f32(*floats, row_scales),
                        output.as_mut_ptr(),
                    );
                }
            }
        }

        /// # Safety
        /// As `multiply_q4`.
        #[target_feature(enable = $features)]
        unsafe fn multiply_q8<T: Tiles>(
            panel: &[u8],
            input: ColumnTile<'_>,
            output: &mut [[f32; PANEL_ROWS]],
        ) {
            let columns = input.columns;
            let mut floats = [_mm512_setzero_ps(); TILE_COLUMNS];
            let mut sums = [const { Sums([[0; PANEL_ROWS]; TILE_COLUMNS]) }; 2];
            // SAFETY: as `multiply_q4`.
            unsafe {
                for (pair, record) in panel.chunks_exact(Q8_RECORD).enumerate() {
                    for group in 0..2 {
                        let lines = record.as_ptr().add(64 + group * (Q8_RECORD - 64) / 2);
                        let rows = input.rows.as_ptr().add((2 * pair + group) * GROUP);
                        T::group(group, rows, input.spans * SPAN, lines, sums[group].0.as_mut_ptr().cast());
                    }
                    for group in 0..2 {
                        let weight_scales = Zmm::<true>::load_f16(record.as_ptr().add(group * 32));
                        let starts = (2 * pair + group) * columns;
                        for n in 0..columns {
                            let start = Zmm::<true>::splat_i32(*input.group_starts.get_unchecked(starts + n));
                            let sum = _mm512_load_si512(sums[group].0[n].as_ptr().cast());
                            let activation =
                                Zmm::<true>::splat_f32(*input.scales.get_unchecked(pair / 2 * columns + n));
                            let scale = Zmm::<true>::multiply_f32(weight_scales, activation);
                            floats[n] =
                                Zmm::<true>::accumulate(_mm512_add_epi32(sum, start), scale, floats[n]);
                        }
                    }
                }
                for (floats, output) in floats.iter().zip(output) {
                    Zmm::<true>::store_f32(*floats, output.as_mut_ptr());
                }
            }
        }
    };
}

with_features!(avx512vnni, kernel!());

/// Whether the products of this machine's tiles are right, if it has any: asked once, before AMX is offered, since a
/// virtual machine may promise what it does not keep.
pub(super) fn is_trusted() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let available = Isa::Amx.list().all(has_feature);
        // SAFETY: all of it was detected just now.
        available
            && unsafe {
                Hardware::configure();
                let agrees = agrees::<Hardware>();
                Hardware::release();
                agrees
            }
    })
}

/// Whether the products of tiles are those of AVX-512, for a panel of each type and every number of columns.
///
/// # Safety
/// AVX-512 VNNI and the tiles of `T` are available and configured.
unsafe fn agrees<T: Tiles>() -> bool {
    // An odd number of q8 records does not fill the last span.
    const WIDTH: usize = 2 * SPAN + 64;
    const SPANS: usize = WIDTH.div_ceil(SPAN);
    let mut state = 1u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (FEW + 1..=TILE_COLUMNS).all(|columns| {
        let mut rows: Vec<i8> =
            (0..TILE_COLUMNS * SPANS * SPAN).map(|_| (random() as i8).max(-127)).collect();
        for row in rows.chunks_exact_mut(SPANS * SPAN) {
            row[WIDTH..].fill(0);
        }
        let mut values = Vec::new();
        for quad in 0..SPANS * SPAN / 4 {
            for column in 0..columns {
                values.extend(&rows[column * SPANS * SPAN + quad * 4..][..4]);
            }
        }
        // -128 times the sums over `width` inputs.
        let starts = |width: usize| -> Vec<i32> {
            let sum =
                |first: usize| rows[first..first + width].iter().map(|&value| i32::from(value)).sum::<i32>();
            let count = SPANS * SPAN / width;
            (0..count * columns).map(|i| -128 * sum((i % columns * count + i / columns) * width)).collect()
        };
        let (span_starts, group_starts) = (&starts(SPAN)[..], &starts(GROUP)[..]);
        // Of two groups that follow each other, each sum negated.
        let group_pairs: Vec<[i16; 2]> = group_starts
            .chunks_exact(2 * columns)
            .flat_map(|pair| {
                (0..columns).map(|n| [pair[n], pair[columns + n]].map(|start| (start / 128) as i16))
            })
            .collect();
        let scales: Vec<f32> = (0..SPANS * columns).map(|i| 0.01 + i as f32 / 512.0).collect();
        let input = ColumnTile {
            columns,
            spans: SPANS,
            values: &values,
            rows: &rows,
            scales: &scales,
            span_starts,
            group_starts,
            group_pairs: &group_pairs,
        };
        let mut q4: Vec<u8> = (0..Q4_SCALES + SPANS * Q4_RECORD).map(|_| random()).collect();
        for (row, scale) in q4[..Q4_SCALES].chunks_exact_mut(4).enumerate() {
            scale.copy_from_slice(&(0.5 + row as f32 / 16.0).to_le_bytes());
        }
        for record in q4[Q4_SCALES..].chunks_exact_mut(Q4_RECORD) {
            // Zero levels of 4 to 11, and multipliers that every one of them admits.
            record[..64].iter_mut().for_each(|byte| *byte = (4 + (*byte >> 4) % 8) << 4 | *byte & 7);
        }
        let mut q8: Vec<u8> = (0..WIDTH / 64 * Q8_RECORD).map(|_| random()).collect();
        for record in q8.chunks_exact_mut(Q8_RECORD) {
            // f16 scales between 0.5 and 2, so that no sum is lost in another.
            record[1..64].iter_mut().step_by(2).for_each(|byte| *byte = 0x38 | *byte & 7);
        }
        let mut tiles = [[[0.0; PANEL_ROWS]; TILE_COLUMNS], [[1.0; PANEL_ROWS]; TILE_COLUMNS]];
        let [wanted, found] = &mut tiles;
        let (wanted, found) = (&mut wanted[..columns], &mut found[..columns]);
        // SAFETY: the caller's promise; the panels have whole records, and the tile was made with these lengths.
        unsafe {
            (avx512vnni::PANELS.q4)(&q4, input, wanted);
            multiply_q4::<T>(&q4, input, found);
            let same = wanted == found;
            (avx512vnni::PANELS.q8)(&q8, input, wanted);
            multiply_q8::<T>(&q8, input, found);
            same && wanted == found
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same products, written as the manual defines `tdpbsud`.
    struct Software;

    /// # Safety
    /// As [`Tiles::group`], with `width` inputs.
    unsafe fn product(width: usize, rows: *const i8, stride: usize, lines: *const u8, sums: *mut i32) {
        for (column, row) in (0..16).flat_map(|column| (0..16).map(move |row| (column, row))) {
            // SAFETY: the caller's promise.
            let products = (0..width).map(|k| unsafe {
                let input = *rows.add(column * stride + k);
                let weight = *lines.add(k / 4 * 64 + row * 4 + k % 4);
                i32::from(input) * i32::from(weight)
            });
            // SAFETY: as above.
            unsafe { *sums.add(column * 16 + row) = products.sum() };
        }
    }

    impl Tiles for Software {
        unsafe fn group(_set: usize, rows: *const i8, stride: usize, lines: *const u8, sums: *mut i32) {
            // SAFETY: the caller's promise.
            unsafe { product(32, rows, stride, lines, sums) }
        }

        unsafe fn span(rows: *const i8, stride: usize, lines: *const u8, sums: *mut i32) {
            // SAFETY: the caller's promise.
            unsafe { product(128, rows, stride, lines, sums) }
        }
    }

    #[test]
    fn tile_products_have_the_bits_of_avx512() {
        if !is_x86_feature_detected!("avx512vnni") || !is_x86_feature_detected!("avx512bw") {
            eprintln!("skipped: this machine has no AVX-512 VNNI to compare with");
            return;
        }
        // SAFETY: the features were detected, and the software needs no tiles.
        assert!(unsafe { agrees::<Software>() });
    }
}
