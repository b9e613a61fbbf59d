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

use super::avx512vnni;
use super::line::Line;
use super::tiles::{Hardware, Tiles};
use super::wide::Wide;
use crate::kernels::activations::BLOCK_COLUMNS;
use crate::kernels::isa::with_features;
use crate::kernels::{PanelKernels, QuantizedBlock};
use crate::quant::{GROUP, PANEL_ROWS, Q4_RECORD, Q4_SCALES, Q8_RECORD, SPAN};
use crate::threads::at_rest;

pub(super) const PANELS: PanelKernels = PanelKernels { q4, q8, q4_blocks: None };

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
unsafe fn q4(panel: &[u8], input: QuantizedBlock<'_>, tile: &mut [[f32; PANEL_ROWS]]) {
    // SAFETY: the caller's promise is passed on.
    unsafe {
        if input.columns <= FEW || input.rows.is_empty() {
            return (avx512vnni::PANELS.q4)(panel, input, tile);
        }
        configure();
        multiply_q4::<Hardware>(panel, input, tile)
    }
}

/// # Safety
/// As every panel kernel's, and AMX is available.
unsafe fn q8(panel: &[u8], input: QuantizedBlock<'_>, tile: &mut [[f32; PANEL_ROWS]]) {
    // SAFETY: the caller's promise is passed on.
    unsafe {
        if input.columns <= FEW || input.rows.is_empty() {
            return (avx512vnni::PANELS.q8)(panel, input, tile);
        }
        configure();
        multiply_q8::<Hardware>(panel, input, tile)
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
struct Sums([[i32; PANEL_ROWS]; BLOCK_COLUMNS]);

/// The lines of a span with a weight in each byte.
#[repr(align(64))]
struct Unpacked([[u8; 64]; SPAN / 4]);

macro_rules! kernel {
    ($features:literal;) => {
        /// # Safety
        /// `panel` has the records of a matrix as wide as `input`, which has rows; its slices and `tile` have the lengths
        /// of its spans and columns. The tiles are configured.
        #[target_feature(enable = $features)]
        unsafe fn multiply_q4<T: Tiles>(
            panel: &[u8],
            input: QuantizedBlock<'_>,
            tile: &mut [[f32; PANEL_ROWS]],
        ) {
            let columns = input.columns;
            let mut floats = [_mm512_setzero_ps(); BLOCK_COLUMNS];
            let mut sums = Sums([[0; PANEL_ROWS]; BLOCK_COLUMNS]);
            let mut unpacked = Unpacked([[0; 64]; SPAN / 4]);
            // SAFETY: every address lies inside the panel's records, the block's slices or the arrays above, by the
            // caller's promise; loads are unaligned. `rows` has 16 rows whatever the number of columns.
            unsafe {
                for (span, record) in panel.get_unchecked(Q4_SCALES..).chunks_exact(Q4_RECORD).enumerate() {
                    for group in 0..4 {
                        let multipliers = Wide::<true>::multipliers(record.as_ptr().add(16 * group), false);
                        for line in 4 * group..4 * group + 4 {
                            let (even, odd) = Wide::<true>::nibbles(record.as_ptr().add(64 + 64 * line));
                            let target = unpacked.0.as_mut_ptr().add(2 * line);
                            _mm512_store_si512(target.cast(), Wide::<true>::weigh(even, multipliers));
                            _mm512_store_si512(target.add(1).cast(), Wide::<true>::weigh(odd, multipliers));
                        }
                    }
                    let rows = input.rows.as_ptr().add(span * SPAN);
                    T::span(rows, input.spans * SPAN, unpacked.0.as_ptr().cast(), sums.0.as_mut_ptr().cast());
                    for n in 0..columns {
                        let start = Wide::<true>::start(*input.span_starts.get_unchecked(span * columns + n));
                        let sum = _mm512_add_epi32(_mm512_load_si512(sums.0[n].as_ptr().cast()), start);
                        let scale = Wide::<true>::splat(*input.scales.get_unchecked(span * columns + n));
                        floats[n] = Wide::<true>::accumulate(sum, scale, floats[n]);
                    }
                }
                let row_scales = Wide::<true>::floats(panel.as_ptr().cast());
                for (floats, output) in floats.iter().zip(tile) {
                    Wide::<true>::store(Wide::<true>::scale(*floats, row_scales), output.as_mut_ptr());
                }
            }
        }

        /// # Safety
        /// As `multiply_q4`.
        #[target_feature(enable = $features)]
        unsafe fn multiply_q8<T: Tiles>(
            panel: &[u8],
            input: QuantizedBlock<'_>,
            tile: &mut [[f32; PANEL_ROWS]],
        ) {
            let columns = input.columns;
            let mut floats = [_mm512_setzero_ps(); BLOCK_COLUMNS];
            let mut sums = [const { Sums([[0; PANEL_ROWS]; BLOCK_COLUMNS]) }; 2];
            // SAFETY: as `multiply_q4`.
            unsafe {
                for (pair, record) in panel.chunks_exact(Q8_RECORD).enumerate() {
                    for half in 0..2 {
                        let lines = record.as_ptr().add(64 + half * (Q8_RECORD - 64) / 2);
                        let rows = input.rows.as_ptr().add((2 * pair + half) * GROUP);
                        T::group(half, rows, input.spans * SPAN, lines, sums[half].0.as_mut_ptr().cast());
                    }
                    for half in 0..2 {
                        let weight_scales = Wide::<true>::scales(record.as_ptr().add(half * 32));
                        let group = (2 * pair + half) * columns;
                        for n in 0..columns {
                            let start = Wide::<true>::start(*input.group_starts.get_unchecked(group + n));
                            let sum = _mm512_load_si512(sums[half].0[n].as_ptr().cast());
                            let activation =
                                Wide::<true>::splat(*input.scales.get_unchecked(pair / 2 * columns + n));
                            let scale = Wide::<true>::scale(weight_scales, activation);
                            floats[n] =
                                Wide::<true>::accumulate(_mm512_add_epi32(sum, start), scale, floats[n]);
                        }
                    }
                }
                for (floats, output) in floats.iter().zip(tile) {
                    Wide::<true>::store(*floats, output.as_mut_ptr());
                }
            }
        }
    };
}

with_features!(avx512vnni, kernel!());

/// Whether the tiles give what AVX-512 gives, for a panel of each type and every number of columns: asked once, before
/// AMX is offered, since a virtual machine may promise what it does not keep.
///
/// # Safety
/// AVX-512 VNNI and the tiles of `T` are available and configured.
pub(super) unsafe fn agrees<T: Tiles>() -> bool {
    // An odd number of q8 records does not fill the last span.
    const WIDTH: usize = 2 * SPAN + 64;
    const SPANS: usize = WIDTH.div_ceil(SPAN);
    let mut state = 1u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (FEW + 1..=BLOCK_COLUMNS).all(|columns| {
        let mut rows: Vec<i8> =
            (0..BLOCK_COLUMNS * SPANS * SPAN).map(|_| (random() as i8).max(-127)).collect();
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
        let scales: Vec<f32> = (0..SPANS * columns).map(|i| 0.01 + i as f32 / 512.0).collect();
        let input = QuantizedBlock {
            columns,
            spans: SPANS,
            values: &values,
            rows: &rows,
            scales: &scales,
            span_starts,
            group_starts,
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
            // Half-precision scales between 0.5 and 2, so that no sum is lost in another.
            record[1..64].iter_mut().step_by(2).for_each(|byte| *byte = 0x38 | *byte & 7);
        }
        let mut tiles = [[[0.0; PANEL_ROWS]; BLOCK_COLUMNS], [[1.0; PANEL_ROWS]; BLOCK_COLUMNS]];
        let [wanted, found] = &mut tiles;
        let (wanted, found) = (&mut wanted[..columns], &mut found[..columns]);
        // SAFETY: the caller's promise; the panels have whole records, and the block was made with these lengths.
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
