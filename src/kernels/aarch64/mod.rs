//! The kernels for AArch64.
//!
//! All tiers share one walk over a panel, here; a tier says how a group of 32 columns is multiplied, and for
//! which tiles. A tile is `N` columns by `R` registers of 4 rows, and has 32 registers: 4 `R` rows of a panel
//! need `N R` sums, their weights and activations. Wide tiles take a panel in two halves. The float sums are
//! touched once a group, so those that find no register cost little.

mod neon;
mod neon_dotprod;
mod neon_i8mm;

use std::arch::aarch64::*;

use super::{Isa, Kernels};

pub(super) static NEON: Kernels = Kernels { isa: Isa::Neon, panels: neon::PANELS, float: neon::FLOAT };
pub(super) static NEON_DOTPROD: Kernels =
    Kernels { isa: Isa::NeonDotprod, panels: neon_dotprod::PANELS, float: neon_dotprod::FLOAT };
pub(super) static NEON_I8MM: Kernels =
    Kernels { isa: Isa::NeonI8mm, panels: neon_i8mm::PANELS, float: neon_i8mm::FLOAT };

/// Half-precision conversion with `fcvtl` and `fcvtn`, which every AArch64 has.
struct Neon;

impl super::generic::Simd for Neon {
    const FMA: bool = true;

    #[inline(always)]
    fn widen(bits: &[u16; 16]) -> [f32; 16] {
        let mut out = [0.0; 16];
        for part in 0..4 {
            // SAFETY: NEON is part of the architecture; the addresses lie inside the two arrays.
            unsafe {
                let halves = vreinterpret_f16_u16(vld1_u16(bits.as_ptr().add(4 * part)));
                vst1q_f32(out.as_mut_ptr().add(4 * part), vcvt_f32_f16(halves));
            }
        }
        out
    }

    #[inline(always)]
    fn narrow(values: &[f32; 16]) -> [u16; 16] {
        let mut out = [0; 16];
        for part in 0..4 {
            // SAFETY: as above.
            unsafe {
                let halves = vcvt_f16_f32(vld1q_f32(values.as_ptr().add(4 * part)));
                vst1_u16(out.as_mut_ptr().add(4 * part), vreinterpret_u16_f16(halves));
            }
        }
        out
    }
}

/// The table of a tier's panel kernels: `panel_kernels!("features"; N x R, ...)`, widest tile first.
///
/// The tier has `group::<RECORD, N, R>(lines, values, stride, starts) -> [[int32x4_t; R]; N]`: the integer
/// products of the `4 R` rows whose first weight line of a group is at `lines` with `N` columns, whose first
/// quads are at `values`, `stride` columns from one quad to the next. `starts` are theirs for stored weights.
macro_rules! panel_kernels {
    ($features:literal; $($n:literal x $r:literal),+) => {
        use crate::kernels::{PanelKernels, QuantizedBlock};
        use crate::quant::{PANEL_ROWS, Q4_RECORD, Q8_RECORD};

        pub(super) const PANELS: PanelKernels = PanelKernels { q4, q8 };

        #[target_feature(enable = $features)]
        unsafe fn q4(panel: &[u8], input: QuantizedBlock<'_>, tile: &mut [[f32; PANEL_ROWS]]) {
            // SAFETY: the caller's promise is passed on.
            unsafe { multiply::<Q4_RECORD>(panel, input, input.q4_starts, tile) }
        }

        #[target_feature(enable = $features)]
        unsafe fn q8(panel: &[u8], input: QuantizedBlock<'_>, tile: &mut [[f32; PANEL_ROWS]]) {
            // SAFETY: the caller's promise is passed on.
            unsafe { multiply::<Q8_RECORD>(panel, input, input.q8_starts, tile) }
        }

        /// # Safety
        /// `panel` has the records of `input.groups` groups; the slices of `input`, `starts` and `tile` have the
        /// lengths of its groups and columns.
        #[target_feature(enable = $features)]
        unsafe fn multiply<const RECORD: usize>(
            panel: &[u8],
            input: QuantizedBlock<'_>,
            starts: &[i32],
            tile: &mut [[f32; PANEL_ROWS]],
        ) {
            let mut column = 0;
            $(
                while input.columns - column >= $n {
                    for first_row in (0..PANEL_ROWS).step_by(4 * $r) {
                        // SAFETY: the columns and rows exist.
                        unsafe { part::<RECORD, $n, $r>(panel, input, starts, column, first_row, tile) };
                    }
                    column += $n;
                }
            )+
        }

        /// Rows `first_row..first_row + 4 R` of a panel with columns `column..column + N` of the block.
        ///
        /// # Safety
        /// As `multiply`; the rows and columns exist.
        #[target_feature(enable = $features)]
        unsafe fn part<const RECORD: usize, const N: usize, const R: usize>(
            panel: &[u8],
            input: QuantizedBlock<'_>,
            starts: &[i32],
            column: usize,
            first_row: usize,
            tile: &mut [[f32; PANEL_ROWS]],
        ) {
            let stride = input.columns;
            let mut floats = [[vdupq_n_f32(0.0); R]; N];
            // SAFETY: every address lies inside the panel's records or inside the block's slices, by the
            // caller's promise; loads are unaligned.
            unsafe {
                let mut values = input.values.as_ptr().add(4 * column);
                let mut starts = starts.as_ptr().add(column);
                let mut activation_scales = input.scales.as_ptr().add(column);
                let mut record = panel.as_ptr();
                for _ in 0..input.groups / 2 {
                    for half in 0..2 {
                        let lines = record.add(64 + half * (RECORD - 64) / 2 + 4 * first_row);
                        let sums = group::<RECORD, N, R>(lines, values, stride, starts);
                        let scales = record.add(half * 32 + 2 * first_row).cast::<u16>();
                        for r in 0..R {
                            let halves = vreinterpret_f16_u16(vld1_u16(scales.add(4 * r)));
                            let weight_scale = vcvt_f32_f16(halves);
                            for n in 0..N {
                                let scale = vmulq_n_f32(weight_scale, *activation_scales.add(n));
                                floats[n][r] = vfmaq_f32(floats[n][r], vcvtq_f32_s32(sums[n][r]), scale);
                            }
                        }
                        values = values.add(32 * stride);
                        starts = starts.add(stride);
                        activation_scales = activation_scales.add(stride);
                    }
                    record = record.add(RECORD);
                }
                for n in 0..N {
                    for r in 0..R {
                        let output = tile.get_unchecked_mut(column + n).as_mut_ptr();
                        vst1q_f32(output.add(first_row + 4 * r), floats[n][r]);
                    }
                }
            }
        }
    };
}
use panel_kernels;

/// The quads of the first 4 of `N` columns, or of all, 1 or 2, if they are fewer.
///
/// # Safety
/// As many can be read at `quads`.
#[inline(always)]
unsafe fn load_quads<const N: usize>(quads: *const i8) -> int8x16_t {
    // SAFETY: the caller's promise.
    unsafe {
        match N {
            1 => vreinterpretq_s8_s32(vsetq_lane_s32::<0>(
                quads.cast::<i32>().read_unaligned(),
                vdupq_n_s32(0),
            )),
            2 => vreinterpretq_s8_s64(vsetq_lane_s64::<0>(
                quads.cast::<i64>().read_unaligned(),
                vdupq_n_s64(0),
            )),
            _ => vld1q_s8(quads),
        }
    }
}
