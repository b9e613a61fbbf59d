//! Plain loops for any processor, and the oracle of every other instruction set.

use half::f16;

use super::generic::{Simd, float_kernels};
use super::{LANES, PanelKernels, QuantizedBlock};
use crate::quant::{GROUP, PANEL_ROWS, SPAN, WeightType, panel_scale, panel_weight};

pub(super) const PANELS: PanelKernels = PanelKernels { q4, q8, q4_blocks: None };

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

unsafe fn q4(panel: &[u8], input: QuantizedBlock<'_>, tile: &mut [[f32; PANEL_ROWS]]) {
    multiply(WeightType::Q4, panel, input, tile);
}

unsafe fn q8(panel: &[u8], input: QuantizedBlock<'_>, tile: &mut [[f32; PANEL_ROWS]]) {
    multiply(WeightType::Q8, panel, input, tile);
}

/// Sums in the order of all kernels: q4 spans, or q8 groups, one after the other; the row's scale last in q4.
fn multiply(kind: WeightType, panel: &[u8], input: QuantizedBlock<'_>, tile: &mut [[f32; PANEL_ROWS]]) {
    let width = if kind == WeightType::Q4 { SPAN } else { GROUP };
    for (column, tile) in tile.iter_mut().enumerate() {
        *tile = [0.0; PANEL_ROWS];
        for first in (0..kind.stored_columns(panel)).step_by(width) {
            let activation_scale = input.scales[first / SPAN * input.columns + column];
            for (lane, tile) in tile.iter_mut().enumerate() {
                let product =
                    |k: usize| panel_weight(kind, panel, lane, k) * i32::from(input.value(column, k));
                let sum = (first..first + width).map(product).sum::<i32>() as f32;
                *tile += match kind {
                    WeightType::Q4 => sum * activation_scale,
                    _ => sum * (panel_scale(kind, panel, lane, first) * activation_scale),
                };
            }
        }
        if kind == WeightType::Q4 {
            for (lane, tile) in tile.iter_mut().enumerate() {
                *tile *= panel_scale(kind, panel, lane, 0);
            }
        }
    }
}
