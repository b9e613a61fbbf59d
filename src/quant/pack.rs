//! Rows of floats, or of rounded groups, to panels.

use half::f16;

use super::WeightType;
use super::panel::{
    GROUP, LINE, PANEL_ROWS, Q8_RECORD, multiplier_at, quantized_panel_bytes, scale_at, weight_at,
};
use super::round::{Rounded, round_row};

/// Quantizes up to 16 rows of `width` floats into one panel, appended to `output`.
///
/// `rows` is `[rows, width]`. Each row is rounded on its own.
///
/// # Panics
/// If `kind` is not quantized or `rows` is not a whole number of rows, at most 16.
pub fn pack_panel(kind: WeightType, rows: &[f32], width: usize, output: &mut Vec<u8>) {
    assert!(rows.len().is_multiple_of(width));
    let groups: Vec<Rounded> =
        rows.chunks_exact(width).flat_map(|row| round_row(kind, row).expect("a quantized type")).collect();
    pack_groups(kind, &groups, width, output);
}

/// Packs up to 16 rows of groups that are rounded already into one panel, appended to `output`.
///
/// `groups` is `[rows, ceil(width / 32)]`; weights beyond the width are left out.
///
/// # Panics
/// If `kind` is not quantized or `groups` is not a whole number of rows, at most 16.
pub fn pack_groups(kind: WeightType, groups: &[Rounded], width: usize, output: &mut Vec<u8>) {
    let row_groups = width.div_ceil(GROUP);
    assert!(groups.len().is_multiple_of(row_groups) && groups.len() <= PANEL_ROWS * row_groups);
    let start = output.len();
    let zero = if kind == WeightType::Q4 { 0 } else { 0x80 };
    output.resize(start + quantized_panel_bytes(kind, width).expect("a quantized type"), zero);
    let panel = &mut output[start..];
    if kind == WeightType::Q8 {
        panel.chunks_exact_mut(Q8_RECORD).for_each(|record| record[..LINE].fill(0));
    }
    for (lane, row) in groups.chunks_exact(row_groups).enumerate() {
        for (group, rounded) in row.iter().enumerate() {
            let first = group * GROUP;
            let at = scale_at(kind, lane, first);
            let weights = &rounded.weights[..GROUP.min(width - first)];
            if kind == WeightType::Q4 {
                panel[at..at + 4].copy_from_slice(&rounded.scale.to_le_bytes());
                panel[multiplier_at(lane, first)] = rounded.multiplier | rounded.zero << 4;
                for k in first..first + GROUP {
                    let weight = weights.get(k - first).copied().unwrap_or(0);
                    let (at, shift) = weight_at(kind, lane, k);
                    panel[at] |= rounded.zero.wrapping_add_signed(weight) << shift;
                }
            } else {
                panel[at..at + 2].copy_from_slice(&f16::from_f32(rounded.scale).to_le_bytes());
                for (k, &weight) in weights.iter().enumerate() {
                    panel[weight_at(kind, lane, first + k).0] = weight as u8 ^ 0x80;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{Weights, panel_scale, panel_weight};
    use proptest::prelude::*;

    proptest! {
        /// Any shape packs to the size of the layout and reads back as its groups were rounded.
        #[test]
        fn panels_read_back(rows in 1usize..40, width in 1usize..300, q4: bool, seed in 0u32..1000) {
            let kind = if q4 { WeightType::Q4 } else { WeightType::Q8 };
            let mut state = seed;
            let values: Vec<f32> = (0..rows * width)
                .map(|_| {
                    state = state.wrapping_mul(1664525).wrapping_add(1013904223);
                    (state >> 8) as f32 / 8388608.0 - 1.0
                })
                .collect();
            let mut bytes = Vec::new();
            for panel in values.chunks(PANEL_ROWS * width) {
                pack_panel(kind, panel, width, &mut bytes);
            }
            let weights = Weights::new(kind, rows, width, &bytes).expect("size of the layout");
            let mut row = vec![0.0; width];
            for r in 0..rows {
                weights.row(r, &mut row);
                let rounded = round_row(kind, &values[r * width..][..width]).unwrap();
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
