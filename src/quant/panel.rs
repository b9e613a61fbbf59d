//! The panel: 16 rows of a quantized matrix, as a sequence of records.
//!
//! ```text
//! q8 panel    = [record of 64 columns] ...
//! record      = [scale line] [weight line 0] ... [weight line 15]
//! scale line  = 16 f16 scales of columns 0..32 | 16 f16 scales of columns 32..64          64 bytes
//! q8 line j   = [row 0: columns 4j..4j+4] [row 1: 4j..4j+4] ... [row 15]                  64 bytes
//!
//! q4 panel    = [16 f32 scales, one a row] [record of 128 columns] ...
//! record      = [multiplier line] [weight line 0] ... [weight line 15]
//! multipliers = [row 0] ... [row 15] of columns 0..32 | of 32..64 | of 64..96 | of 96..128   64 bytes
//! q4 line j   = q8 line 2j in the low nibbles, q8 line 2j + 1 in the high ones            64 bytes
//! ```
//!
//! A q8 weight is `scale * (byte - 128)`, a q4 weight `scale * (m * (nibble - z))`, where the low nibble of a multiplier
//! byte is `m` and the high one `z`; `m * (nibble - z)` is within -127..=127. Integers alone connect the groups of a
//! record, so a kernel adds up 128 columns before it turns a sum into a float: with a float scale for each 32 it
//! could not reach more than four fifths of the peak.
//!
//! A q8 line is one AVX-512 register, two AVX2 registers, four NEON registers and one row of an AMX tile; every
//! instruction set multiplies it by four broadcast activation bytes. Neighbouring lines share a q4 line, so that both
//! feed the accumulators of one group of 32 columns and `zip1`/`zip2` of the two nibbles give the operands of `smmla`.
//! Rows and columns beyond the matrix hold weight 0.

use half::f16;

use super::WeightType;
use super::round::{Rounded, round_row};

/// Rows of a panel.
pub const PANEL_ROWS: usize = 16;
/// Columns that share a scale in q8, a multiplier in q4.
pub const GROUP: usize = 32;
/// Columns of a q4 record; activations are quantized with one scale for as many.
pub const SPAN: usize = 128;
/// Columns of a q8 record.
const Q8_COLUMNS: usize = 64;
const LINE: usize = 64;
/// Bytes in front of the records of a q4 panel: a scale for each row.
pub const Q4_SCALES: usize = LINE;
/// Bytes of a q4 record: a line of multipliers and 16 of weights.
pub const Q4_RECORD: usize = 17 * LINE;
/// Bytes of a q8 record: a line of scales and 16 of weights.
pub const Q8_RECORD: usize = 17 * LINE;

/// Bytes of a panel of `columns` columns; `None` if the type is not quantized or that overflows.
pub(super) fn quantized_panel_bytes(kind: WeightType, columns: usize) -> Option<usize> {
    match kind {
        WeightType::Q4 => columns.div_ceil(SPAN).checked_mul(Q4_RECORD)?.checked_add(Q4_SCALES),
        WeightType::Q8 => columns.div_ceil(Q8_COLUMNS).checked_mul(Q8_RECORD),
        _ => None,
    }
}

/// Columns of a panel with what fills up its last record; 0 if the type is not quantized.
pub(super) fn stored_columns(kind: WeightType, panel: &[u8]) -> usize {
    match kind {
        WeightType::Q4 => (panel.len() - Q4_SCALES) / Q4_RECORD * SPAN,
        WeightType::Q8 => panel.len() / Q8_RECORD * Q8_COLUMNS,
        _ => 0,
    }
}

/// Byte within a panel of the scale of a row, for the group that holds a column.
fn scale_at(kind: WeightType, lane: usize, column: usize) -> usize {
    match kind {
        WeightType::Q4 => lane * 4,
        _ => column / Q8_COLUMNS * Q8_RECORD + (column % Q8_COLUMNS / GROUP * PANEL_ROWS + lane) * 2,
    }
}

/// Byte within a q4 panel of the multiplier of a row, for the group that holds a column.
fn multiplier_at(lane: usize, column: usize) -> usize {
    Q4_SCALES + column / SPAN * Q4_RECORD + column % SPAN / GROUP * PANEL_ROWS + lane
}

/// Byte within a panel, and shift within the byte, of a weight.
fn weight_at(kind: WeightType, lane: usize, column: usize) -> (usize, u32) {
    match kind {
        WeightType::Q4 => {
            let line = column % SPAN / 4;
            let record = Q4_SCALES + column / SPAN * Q4_RECORD;
            (record + LINE + line / 2 * LINE + lane * 4 + column % 4, (line % 2 * 4) as u32)
        }
        _ => {
            let line = column % Q8_COLUMNS / 4;
            (column / Q8_COLUMNS * Q8_RECORD + LINE + line * LINE + lane * 4 + column % 4, 0)
        }
    }
}

/// The scale of row `lane` of a panel for the group that holds `column`; in q4 it is the same for all of the row.
pub fn panel_scale(kind: WeightType, panel: &[u8], lane: usize, column: usize) -> f32 {
    let bytes = &panel[scale_at(kind, lane, column)..];
    match kind {
        WeightType::Q4 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
        _ => f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
    }
}

/// The integer weight of row `lane` of a panel at `column`, multiplier included: -128 to 127.
pub fn panel_weight(kind: WeightType, panel: &[u8], lane: usize, column: usize) -> i32 {
    let (at, shift) = weight_at(kind, lane, column);
    match kind {
        WeightType::Q4 => {
            let multiplier = i32::from(panel[multiplier_at(lane, column)]);
            (multiplier & 15) * (i32::from(panel[at] >> shift & 15) - (multiplier >> 4))
        }
        _ => i32::from(panel[at]) - 128,
    }
}

/// Writes row `lane` of a panel into `output` as floats.
pub(super) fn unpack_row(kind: WeightType, panel: &[u8], lane: usize, output: &mut [f32]) {
    for (group, values) in output.chunks_mut(GROUP).enumerate() {
        let first = group * GROUP;
        let scale = panel_scale(kind, panel, lane, first);
        for (column, value) in values.iter_mut().enumerate() {
            *value = scale * panel_weight(kind, panel, lane, first + column) as f32;
        }
    }
}

/// Quantizes up to 16 rows of `columns` floats into one panel, appended to `output`.
///
/// `rows` is `[rows, columns]`. Each row is rounded on its own.
///
/// # Panics
/// If `kind` is not quantized or `rows` is not a whole number of rows, at most 16.
pub fn pack_panel(kind: WeightType, rows: &[f32], columns: usize, output: &mut Vec<u8>) {
    assert!(rows.len().is_multiple_of(columns));
    let groups: Vec<Rounded> =
        rows.chunks_exact(columns).flat_map(|row| round_row(kind, row).expect("a quantized type")).collect();
    pack_groups(kind, &groups, columns, output);
}

/// Packs up to 16 rows of groups that are rounded already into one panel, appended to `output`.
///
/// `groups` is `[rows, ceil(columns / 32)]`; weights beyond the columns are left out.
///
/// # Panics
/// If `kind` is not quantized or `groups` is not a whole number of rows, at most 16.
pub fn pack_groups(kind: WeightType, groups: &[Rounded], columns: usize, output: &mut Vec<u8>) {
    let width = columns.div_ceil(GROUP);
    assert!(groups.len().is_multiple_of(width) && groups.len() <= PANEL_ROWS * width);
    let start = output.len();
    let zero = if kind == WeightType::Q4 { 0 } else { 0x80 };
    output.resize(start + quantized_panel_bytes(kind, columns).expect("a quantized type"), zero);
    let panel = &mut output[start..];
    if kind == WeightType::Q8 {
        panel.chunks_exact_mut(Q8_RECORD).for_each(|record| record[..LINE].fill(0));
    }
    for (lane, row) in groups.chunks_exact(width).enumerate() {
        for (group, rounded) in row.iter().enumerate() {
            let first = group * GROUP;
            let at = scale_at(kind, lane, first);
            let weights = &rounded.weights[..GROUP.min(columns - first)];
            if kind == WeightType::Q4 {
                panel[at..at + 4].copy_from_slice(&rounded.scale.to_le_bytes());
                panel[multiplier_at(lane, first)] = rounded.multiplier | rounded.zero << 4;
                for column in first..first + GROUP {
                    let weight = weights.get(column - first).copied().unwrap_or(0);
                    let (at, shift) = weight_at(kind, lane, column);
                    panel[at] |= rounded.zero.wrapping_add_signed(weight) << shift;
                }
            } else {
                panel[at..at + 2].copy_from_slice(&f16::from_f32(rounded.scale).to_le_bytes());
                for (column, &weight) in weights.iter().enumerate() {
                    panel[weight_at(kind, lane, first + column).0] = weight as u8 ^ 0x80;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::Weights;
    use proptest::prelude::*;

    proptest! {
        /// Any shape packs to the size of the layout and reads back as its groups were rounded.
        #[test]
        fn panels_read_back(rows in 1usize..40, columns in 1usize..300, q4: bool, seed in 0u32..1000) {
            let kind = if q4 { WeightType::Q4 } else { WeightType::Q8 };
            let mut state = seed;
            let values: Vec<f32> = (0..rows * columns)
                .map(|_| {
                    state = state.wrapping_mul(1664525).wrapping_add(1013904223);
                    (state >> 8) as f32 / 8388608.0 - 1.0
                })
                .collect();
            let mut bytes = Vec::new();
            for panel in values.chunks(PANEL_ROWS * columns) {
                pack_panel(kind, panel, columns, &mut bytes);
            }
            let weights = Weights::new(kind, rows, columns, &bytes).expect("size of the layout");
            let mut row = vec![0.0; columns];
            for r in 0..rows {
                weights.row(r, &mut row);
                let rounded = round_row(kind, &values[r * columns..][..columns]).unwrap();
                for (group, rounded) in row.chunks(GROUP).zip(rounded) {
                    for (i, value) in group.iter().enumerate() {
                        prop_assert_eq!(*value, rounded.value(i));
                    }
                }
            }
        }
    }

    #[test]
    fn padding_is_weight_zero() {
        let mut bytes = Vec::new();
        pack_panel(WeightType::Q4, &[1.0; 3], 3, &mut bytes);
        assert_eq!(panel_weight(WeightType::Q4, &bytes, 0, 3), 0);
        assert_eq!(panel_weight(WeightType::Q4, &bytes, 15, 127), 0);
        assert_eq!(panel_scale(WeightType::Q4, &bytes, 1, 0), 0.0);
    }
}
