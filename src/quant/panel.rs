//! The panel: 16 rows of a quantized matrix, as a sequence of records of 64 columns each.
//!
//! ```text
//! record = [scale line] [weight line] ...
//! scale line  = 16 f16 scales of columns 0..32 | 16 f16 scales of columns 32..64          64 bytes
//! q8 line j   = [row 0: columns 4j..4j+4] [row 1: 4j..4j+4] ... [row 15]   (j < 16)       64 bytes
//! q4 line j   = q8 line 2j in the low nibbles, q8 line 2j + 1 in the high ones (j < 8)    64 bytes
//! ```
//!
//! Weights are stored unsigned: `weight + 128` in q8, `weight + 8` in q4. A q8 line is one AVX-512 register,
//! two AVX2 registers, four NEON registers and one row of an AMX tile; every instruction set multiplies it by
//! four broadcast activation bytes. Neighbouring lines share a q4 line, so that both feed the accumulators of
//! one group of 32 columns and `zip1`/`zip2` of the two nibbles give the operands of `smmla`.
//! Rows and columns beyond the matrix hold weight 0 and scale 0.

use half::f16;

use super::WeightType;
use super::round::Rounded;

/// Rows of a panel.
pub const PANEL_ROWS: usize = 16;
/// Columns of a record.
pub const RECORD_COLUMNS: usize = 64;
/// Columns that share a scale.
pub const GROUP: usize = 32;
const LINE: usize = 64;
/// Bytes of a q4 record: a line of scales and 8 of weights.
pub const Q4_RECORD: usize = 9 * LINE;
/// Bytes of a q8 record: a line of scales and 16 of weights.
pub const Q8_RECORD: usize = 17 * LINE;

/// Byte within a record of the scale of a row and of the group that holds a column.
fn scale_at(lane: usize, column: usize) -> usize {
    (column % RECORD_COLUMNS / GROUP * PANEL_ROWS + lane) * 2
}

/// Byte within a record, and shift within the byte, of a weight.
fn weight_at(kind: WeightType, lane: usize, column: usize) -> (usize, u32) {
    let column = column % RECORD_COLUMNS;
    let (line, in_line) = (column / 4, lane * 4 + column % 4);
    match kind {
        WeightType::Q4 => (LINE + line / 2 * LINE + in_line, (line % 2 * 4) as u32),
        _ => (LINE + line * LINE + in_line, 0),
    }
}

fn record(kind: WeightType, panel: &[u8], column: usize) -> &[u8] {
    let bytes = kind.record_bytes().expect("a quantized type");
    &panel[column / RECORD_COLUMNS * bytes..][..bytes]
}

/// The scale of row `lane` of a panel for the group that holds `column`.
pub fn panel_scale(kind: WeightType, panel: &[u8], lane: usize, column: usize) -> f32 {
    let record = record(kind, panel, column);
    let at = scale_at(lane, column);
    f16::from_le_bytes([record[at], record[at + 1]]).to_f32()
}

/// The integer weight of row `lane` of a panel at `column`: -8 to 7 in q4, -128 to 127 in q8.
pub fn panel_weight(kind: WeightType, panel: &[u8], lane: usize, column: usize) -> i32 {
    let (at, shift) = weight_at(kind, lane, column);
    let byte = record(kind, panel, column)[at];
    match kind {
        WeightType::Q4 => i32::from(byte >> shift & 15) - 8,
        _ => i32::from(byte) - 128,
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
/// `rows` is `[rows, columns]`. Each group of 32 columns is rounded on its own.
///
/// # Panics
/// If `kind` is not quantized or `rows` is not a whole number of rows, at most 16.
pub fn pack_panel(kind: WeightType, rows: &[f32], columns: usize, output: &mut Vec<u8>) {
    assert!(rows.len().is_multiple_of(columns));
    let groups: Vec<Rounded> = rows
        .chunks_exact(columns)
        .flat_map(|row| row.chunks(GROUP).map(|group| kind.round(group).expect("a quantized type")))
        .collect();
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
    let record_bytes = kind.record_bytes().expect("a quantized type");
    let zero = if kind == WeightType::Q4 { 0x88 } else { 0x80 };
    for first in (0..columns).step_by(RECORD_COLUMNS) {
        let start = output.len();
        output.resize(start + LINE, 0);
        output.resize(start + record_bytes, zero);
        let record = &mut output[start..];
        for (lane, row) in groups.chunks_exact(width).enumerate() {
            for group in (first..columns.min(first + RECORD_COLUMNS)).step_by(GROUP) {
                let rounded = &row[group / GROUP];
                let at = scale_at(lane, group);
                record[at..at + 2].copy_from_slice(&rounded.scale.to_le_bytes());
                for (column, &weight) in rounded.weights[..GROUP.min(columns - group)].iter().enumerate() {
                    let (at, shift) = weight_at(kind, lane, group + column);
                    match kind {
                        WeightType::Q4 => {
                            record[at] = record[at] & !(15 << shift) | ((weight + 8) as u8) << shift;
                        }
                        _ => record[at] = weight as u8 ^ 0x80,
                    }
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
        fn panels_read_back(rows in 1usize..40, columns in 1usize..200, q4: bool, seed in 0u32..1000) {
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
                for (group, wanted) in row.chunks(GROUP).zip(values[r * columns..][..columns].chunks(GROUP)) {
                    let rounded = kind.round(wanted).unwrap();
                    for (i, value) in group.iter().enumerate() {
                        prop_assert_eq!(*value, rounded.scale.to_f32() * f32::from(rounded.weights[i]));
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
        assert_eq!(panel_weight(WeightType::Q4, &bytes, 15, 63), 0);
        assert_eq!(panel_scale(WeightType::Q4, &bytes, 1, 0), 0.0);
    }
}
