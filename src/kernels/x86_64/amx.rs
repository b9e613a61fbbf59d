//! AMX for int8, from 5 columns on; fewer are those of AVX-512 VNNI, which memory limits already.
//!
//! A panel line is a row of a B tile: 8 lines are 32 inputs of 16 rows. An A tile holds the same 32 inputs of 16
//! columns, and `tdpbsud` adds their 256 products of 32 to a C tile. Scales belong to 32 inputs, so each C tile is
//! stored after one instruction and added by AVX-512 in the order of the other kernels: the bits are theirs.
//!
//! The instructions are reached through [`Tiles`], so that the walk is tested where there is no AMX.

use std::arch::x86_64::*;
use std::cell::Cell;

use super::tiles::{Hardware, Tiles};
use super::wide::Wide;
use super::{avx512vnni, line::Line};
use crate::kernels::activations::BLOCK_COLUMNS;
use crate::kernels::isa::with_features;
use crate::kernels::{PanelKernels, QuantizedBlock};
use crate::quant::{GROUP, PANEL_ROWS, Q4_RECORD, Q8_RECORD};

pub(super) const PANELS: PanelKernels = PanelKernels { q4, q8 };

/// Most columns that are left to AVX-512.
const FEW: usize = 4;
/// Bytes of the 8 lines of a group.
const LINES: usize = 8 * 64;

thread_local! {
    /// Whether this thread has configured its tiles and not released them.
    static CONFIGURED: Cell<bool> = const { Cell::new(false) };
}

/// Releases this thread's tiles: a configured thread costs 8 KiB at each switch, and keeps a core from deep sleep.
pub(in crate::kernels) fn rest() {
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
        multiply::<Hardware, Q4_RECORD>(panel, input, input.q4_starts, tile)
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
        multiply::<Hardware, Q8_RECORD>(panel, input, input.q8_starts, tile)
    }
}

/// # Safety
/// AMX is available.
unsafe fn configure() {
    if !CONFIGURED.replace(true) {
        // SAFETY: the caller's promise.
        unsafe { Hardware::configure() };
    }
}

/// Sums of two groups, `[group][column][row]`, on their way from tiles to registers.
#[repr(align(64))]
struct Sums([[[i32; PANEL_ROWS]; BLOCK_COLUMNS]; 2]);

/// Lines of two groups with a weight in each byte.
#[repr(align(64))]
struct Unpacked([[u8; LINES]; 2]);

macro_rules! kernel {
    ($features:literal;) => {
        /// # Safety
        /// `panel` has the records of `input.groups` groups; `input` has rows, and its slices, `starts` and `tile` have
        /// the lengths of its groups and columns. The tiles are configured.
        #[target_feature(enable = $features)]
        unsafe fn multiply<T: Tiles, const RECORD: usize>(
            panel: &[u8],
            input: QuantizedBlock<'_>,
            starts: &[i32],
            tile: &mut [[f32; PANEL_ROWS]],
        ) {
            let (columns, stride) = (input.columns, input.groups * GROUP);
            let mut floats = [_mm512_setzero_ps(); BLOCK_COLUMNS];
            let mut sums = Sums([[[0; PANEL_ROWS]; BLOCK_COLUMNS]; 2]);
            let mut unpacked = Unpacked([[0; LINES]; 2]);
            // SAFETY: every address lies inside the panel's records, the block's slices or the arrays above, by the
            // caller's promise; loads are unaligned. A C tile is `[16][16]` i32, a B tile `[8][64]` bytes and an A tile
            // `[16][32]` bytes, and `rows` has 16 rows whatever the number of columns.
            unsafe {
                let mut record = panel.as_ptr();
                for pair in 0..input.groups / 2 {
                    for half in 0..2 {
                        let lines = record.add(64 + half * (RECORD - 64) / 2);
                        let lines = if RECORD == Q4_RECORD {
                            let target = unpacked.0[half].as_mut_ptr();
                            for line in 0..4 {
                                let (low, high) = Wide::<true>::nibbles(lines.add(64 * line));
                                _mm512_store_si512(target.add(128 * line).cast(), low);
                                _mm512_store_si512(target.add(128 * line + 64).cast(), high);
                            }
                            target.cast_const()
                        } else {
                            lines
                        };
                        let rows = input.rows.as_ptr().add((2 * pair + half) * GROUP);
                        T::product(half, rows, stride, lines, sums.0[half].as_mut_ptr().cast());
                    }
                    for half in 0..2 {
                        let weight_scale = Wide::<true>::scales(record.add(half * 32));
                        let group = (2 * pair + half) * columns;
                        for n in 0..columns {
                            let start = Wide::<true>::start(*starts.get_unchecked(group + n));
                            let sum = _mm512_load_si512(sums.0[half][n].as_ptr().cast());
                            let sum = _mm512_add_epi32(sum, start);
                            let scale = *input.scales.get_unchecked(group + n);
                            floats[n] = Wide::<true>::accumulate(sum, weight_scale, scale, floats[n]);
                        }
                    }
                    record = record.add(RECORD);
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
    let groups = 6;
    let mut state = 1u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (FEW + 1..=BLOCK_COLUMNS).all(|columns| {
        let rows: Vec<i8> = (0..BLOCK_COLUMNS * groups * GROUP).map(|_| (random() as i8).max(-127)).collect();
        let mut values = Vec::new();
        for quad in 0..groups * GROUP / 4 {
            for column in 0..columns {
                values.extend(&rows[column * groups * GROUP + quad * 4..][..4]);
            }
        }
        let sum = |group: usize, column: usize| -> i32 {
            let first = column * groups * GROUP + group * GROUP;
            rows[first..first + GROUP].iter().map(|&value| i32::from(value)).sum()
        };
        let starts = |zero_point: i32| -> Vec<i32> {
            (0..groups * columns).map(|i| -zero_point * sum(i / columns, i % columns)).collect()
        };
        let (q4_starts, q8_starts) = (starts(8), starts(128));
        let scales: Vec<f32> = (0..groups * columns).map(|i| 0.01 + i as f32 / 512.0).collect();
        let (scales, q4_starts, q8_starts) = (&scales[..], &q4_starts[..], &q8_starts[..]);
        let input =
            QuantizedBlock { columns, groups, values: &values, rows: &rows, scales, q4_starts, q8_starts };
        let mut same = |record: usize| {
            let mut panel: Vec<u8> = (0..groups / 2 * record).map(|_| random()).collect();
            for record in panel.chunks_exact_mut(record) {
                // Half-precision scales between 0.5 and 2, so that no sum is lost in another.
                record[1..64].iter_mut().step_by(2).for_each(|byte| *byte = 0x38 | *byte & 7);
            }
            let mut wanted = [[0.0; PANEL_ROWS]; BLOCK_COLUMNS];
            let mut found = [[1.0; PANEL_ROWS]; BLOCK_COLUMNS];
            let (wanted, found) = (&mut wanted[..columns], &mut found[..columns]);
            // SAFETY: the caller's promise; the panel has whole records, and the block was made with these lengths.
            unsafe {
                if record == Q4_RECORD {
                    (avx512vnni::PANELS.q4)(&panel, input, wanted);
                    multiply::<T, Q4_RECORD>(&panel, input, q4_starts, found);
                } else {
                    (avx512vnni::PANELS.q8)(&panel, input, wanted);
                    multiply::<T, Q8_RECORD>(&panel, input, q8_starts, found);
                }
            }
            wanted == found
        };
        same(Q4_RECORD) && same(Q8_RECORD)
    })
}
