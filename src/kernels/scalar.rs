//! Plain loops for any processor, and the oracle of every other instruction set.

use half::f16;

use super::generic::{Simd, float_kernels};
use super::isa::Isa;
use super::operands::{ColumnTile, LANES};
use super::table::{Kernels, PanelKernels};
use crate::quant::{GROUP, PANEL_ROWS, SPAN, WeightType, panel_scale, panel_weight};

pub(super) static KERNELS: Kernels = Kernels { isa: Isa::Scalar, panels: PANELS, float: FLOAT };

const PANELS: PanelKernels = PanelKernels { q4, q8, q4_tiles: None, q8_tiles: None };

struct Scalar;

impl Simd for Scalar {
    const FMA: bool = false;
    const WIDE: bool = false;

    #[inline(always)]
    fn f16_to_f32(bits: &[u16; LANES]) -> [f32; LANES] {
        // The exponent and fraction of an f16, moved to their places in an f32, are 2^112 too small; this also makes
        // subnormals right. Infinities become 65536 and more: the cache never holds one.
        bits.map(|bits| {
            let magnitude = f32::from_bits(u32::from(bits & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
            f32::from_bits(magnitude.to_bits() | u32::from(bits & 0x8000) << 16)
        })
    }

    #[inline(always)]
    fn f32_to_f16(values: &[f32; LANES]) -> [u16; LANES] {
        values.map(|value| f16::from_f32(value).to_bits())
    }
}

float_kernels!(; Scalar);

unsafe fn q4(panel: &[u8], input: ColumnTile<'_>, output: &mut [[f32; PANEL_ROWS]]) {
    multiply(WeightType::Q4, panel, input, output);
}

unsafe fn q8(panel: &[u8], input: ColumnTile<'_>, output: &mut [[f32; PANEL_ROWS]]) {
    multiply(WeightType::Q8, panel, input, output);
}

/// Sums in the order of all kernels: q4 spans, or q8 groups, one after the other; the row's scale last in q4.
fn multiply(kind: WeightType, panel: &[u8], input: ColumnTile<'_>, output: &mut [[f32; PANEL_ROWS]]) {
    let step = if kind == WeightType::Q4 { SPAN } else { GROUP };
    for (column, output) in output.iter_mut().enumerate() {
        *output = [0.0; PANEL_ROWS];
        for first in (0..kind.stored_width(panel)).step_by(step) {
            let activation_scale = input.scales[first / SPAN * input.columns + column];
            for (lane, output) in output.iter_mut().enumerate() {
                let product =
                    |k: usize| panel_weight(kind, panel, lane, k) * i32::from(input.value(column, k));
                let sum = (first..first + step).map(product).sum::<i32>() as f32;
                *output += match kind {
                    WeightType::Q4 => sum * activation_scale,
                    _ => sum * (panel_scale(kind, panel, lane, first) * activation_scale),
                };
            }
        }
        if kind == WeightType::Q4 {
            for (lane, output) in output.iter_mut().enumerate() {
                *output *= panel_scale(kind, panel, lane, 0);
            }
        }
    }
}
