//! Plain loops for any processor, and the oracle of every other instruction set.

use half::f16;

use super::generic::{Simd, float_kernels};
use super::{LANES, PanelKernels, QuantizedColumns};
use crate::quant::{GROUP, PANEL_ROWS, RECORD_COLUMNS, WeightType, panel_scale, panel_weight};

pub(super) const PANELS: PanelKernels = PanelKernels { q4, q8 };

struct Scalar;

impl Simd for Scalar {
    const FMA: bool = false;

    #[inline(always)]
    fn widen(bits: &[u16; LANES]) -> [f32; LANES] {
        // A half's exponent and fraction, moved into a single's place, are 2^112 too small; this also makes
        // subnormals right. Infinities become 65536 and more: the cache never holds one.
        bits.map(|half| {
            let magnitude = f32::from_bits(u32::from(half & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
            f32::from_bits(magnitude.to_bits() | u32::from(half & 0x8000) << 16)
        })
    }

    #[inline(always)]
    fn narrow(values: &[f32; LANES]) -> [u16; LANES] {
        values.map(|value| f16::from_f32(value).to_bits())
    }
}

float_kernels!(; Scalar);

unsafe fn q4(panels: &[u8], input: &QuantizedColumns<'_>, tile: &mut [[f32; PANEL_ROWS]]) {
    multiply(WeightType::Q4, panels, input, tile);
}

unsafe fn q8(panels: &[u8], input: &QuantizedColumns<'_>, tile: &mut [[f32; PANEL_ROWS]]) {
    multiply(WeightType::Q8, panels, input, tile);
}

/// The exact integer sums of one group: `sums[r]` over `columns` of one panel and one input column.
pub(super) fn group_sums(kind: WeightType, panel: &[u8], first: usize, values: &[i8]) -> [i32; PANEL_ROWS] {
    std::array::from_fn(|lane| {
        let weight = |k: usize| panel_weight(kind, panel, lane, first + k);
        values.iter().enumerate().map(|(k, &value)| weight(k) * i32::from(value)).sum()
    })
}

fn multiply(kind: WeightType, panels: &[u8], input: &QuantizedColumns<'_>, tile: &mut [[f32; PANEL_ROWS]]) {
    let panel_bytes = input.padded / RECORD_COLUMNS * kind.record_bytes().unwrap_or(1);
    for (panel, tile) in panels.chunks_exact(panel_bytes).zip(tile.chunks_exact_mut(input.columns)) {
        for (column, tile) in tile.iter_mut().enumerate() {
            *tile = [0.0; PANEL_ROWS];
            for (group, (values, scale)) in input.groups(column).enumerate() {
                let first = group * GROUP;
                for (lane, sum) in group_sums(kind, panel, first, values).into_iter().enumerate() {
                    tile[lane] += sum as f32 * (panel_scale(kind, panel, lane, first) * scale);
                }
            }
        }
    }
}
