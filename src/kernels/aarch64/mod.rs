//! The kernels for AArch64.
//!
//! All tiers share one walk over a panel, here; a tier says how a group of 32 inputs is multiplied, and for
//! which tiles. A tile is `N` columns by `R` registers of 4 rows, and has 32 registers: 4 `R` rows of a panel
//! need `N R` sums, their weights and activations. Wide tiles take a panel in two halves. What outlives a group
//! is touched once a group (in q4 the sums of a span, in q8 the float sums) or once a span (the float sums of
//! q4), so the part of it that finds no register costs little.
//!
//! With few columns, q4 levels are summed before they are multiplied, for two instructions a sum and group. To make
//! weights of them first would cost two for every register of weights, one of them a multiplication of bytes, which
//! takes longer than a dot product: many columns share that, by the walk of `span`. Where these loops make arrays they
//! do so in steps: closures passed to `map` and `from_fn` are not always inlined.

mod neon;
mod neon_dotprod;
mod neon_i8mm;
mod span;

use std::arch::aarch64::*;

use super::generic::Simd;
use super::isa::Isa;
use super::table::Kernels;

/// The table of an instruction set of this architecture.
pub(super) fn table(isa: Isa) -> Option<&'static Kernels> {
    static NEON: Kernels = Kernels { isa: Isa::Neon, panels: neon::PANELS, float: neon::FLOAT };
    static NEON_DOTPROD: Kernels =
        Kernels { isa: Isa::NeonDotprod, panels: neon_dotprod::PANELS, float: neon_dotprod::FLOAT };
    static NEON_I8MM: Kernels =
        Kernels { isa: Isa::NeonI8mm, panels: neon_i8mm::PANELS, float: neon_i8mm::FLOAT };
    match isa {
        Isa::Neon => Some(&NEON),
        Isa::NeonDotprod => Some(&NEON_DOTPROD),
        Isa::NeonI8mm => Some(&NEON_I8MM),
        _ => None,
    }
}

/// Whether a feature that was detected does what it should.
pub(super) fn is_trusted(_feature: &str) -> bool {
    true
}

/// Conversion of f16 with `fcvtl` and `fcvtn`, which every AArch64 has.
struct Neon;

impl Simd for Neon {
    const FMA: bool = true;
    const WIDE: bool = false;

    #[inline(always)]
    fn f16_to_f32(bits: &[u16; 16]) -> [f32; 16] {
        let mut out = [0.0; 16];
        for part in 0..4 {
            // SAFETY: NEON is part of the architecture; the addresses lie inside the two arrays.
            unsafe {
                let f16s = vreinterpret_f16_u16(vld1_u16(bits.as_ptr().add(4 * part)));
                vst1q_f32(out.as_mut_ptr().add(4 * part), vcvt_f32_f16(f16s));
            }
        }
        out
    }

    #[inline(always)]
    fn f32_to_f16(values: &[f32; 16]) -> [u16; 16] {
        let mut out = [0; 16];
        for part in 0..4 {
            // SAFETY: as above.
            unsafe {
                let f16s = vcvt_f16_f32(vld1q_f32(values.as_ptr().add(4 * part)));
                vst1_u16(out.as_mut_ptr().add(4 * part), vreinterpret_u16_f16(f16s));
            }
        }
        out
    }
}

/// The table of a tier's panel kernels: `panel_kernels!("features"; N x R, ...)`, widest tile first.
///
/// The tier has `group::<Q4, N, R>(lines, values, stride, starts) -> [[int32x4_t; R]; N]`: the integer products of
/// the `4 R` rows whose first weight line of a group is at `lines` with `N` columns, whose first quads are at
/// `values`, `stride` columns from one quad to the next. In q4 they are those of the levels; in q8 `starts` are
/// theirs for stored weights. From `PAIRED` columns on, a sum is of two rows and two columns: see [`separate`]. `TILES` is
/// its kernel for many columns of q4.
macro_rules! panel_kernels {
    ($features:literal; $($n:literal x $r:literal),+) => {
        use crate::kernels::operands::ColumnTile;
        use crate::kernels::table::{PanelKernels, quantized_kernels};
        use crate::quant::{PANEL_ROWS, Q4_RECORD, Q4_SCALES, Q8_RECORD};

        pub(super) const PANELS: PanelKernels = PanelKernels { q4, q8, q4_tiles: TILES, q8_tiles: None };

        quantized_kernels!($features);

        /// # Safety
        /// `panel` has the records of a matrix as wide as `input`; the slices of `input` and `output` have the lengths of
        /// its spans and columns.
        #[target_feature(enable = $features)]
        unsafe fn multiply<const Q4: bool>(
            panel: &[u8],
            input: ColumnTile<'_>,
            output: &mut [[f32; PANEL_ROWS]],
        ) {
            let mut column = 0;
            $(
                while input.columns - column >= $n {
                    for first_row in (0..PANEL_ROWS).step_by(4 * $r) {
                        // SAFETY: the columns and rows exist.
                        unsafe { part::<Q4, $n, $r>(panel, input, column, first_row, output) };
                    }
                    column += $n;
                }
            )+
        }

        /// Rows `first_row..first_row + 4 R` of a panel with columns `column..column + N` of the tile.
        ///
        /// # Safety
        /// As `multiply`; the rows and columns exist.
        #[target_feature(enable = $features)]
        unsafe fn part<const Q4: bool, const N: usize, const R: usize>(
            panel: &[u8],
            input: ColumnTile<'_>,
            column: usize,
            first_row: usize,
            output: &mut [[f32; PANEL_ROWS]],
        ) {
            // SAFETY: the caller's promise is passed on; the floats are those of rows and columns that exist.
            unsafe {
                let floats = if Q4 {
                    q4_part::<N, R>(panel, input, column, first_row)
                } else {
                    q8_part::<N, R>(panel, input, column, first_row)
                };
                for n in 0..N {
                    for r in 0..R {
                        let output = output.get_unchecked_mut(column + n).as_mut_ptr();
                        vst1q_f32(output.add(first_row + 4 * r), floats[n][r]);
                    }
                }
            }
        }

        /// # Safety
        /// As `part`.
        #[target_feature(enable = $features)]
        unsafe fn q4_part<const N: usize, const R: usize>(
            panel: &[u8],
            input: ColumnTile<'_>,
            column: usize,
            first_row: usize,
        ) -> [[float32x4_t; R]; N] {
            let stride = input.columns;
            let mut floats = [[vdupq_n_f32(0.0); R]; N];
            // SAFETY: every address lies inside the panel's scales and records or inside the tile's slices, by the
            // caller's promise; loads are unaligned.
            unsafe {
                let mut values = input.values.as_ptr().add(4 * column);
                let mut starts = input.group_starts.as_ptr().add(column);
                let mut activation_scales = input.scales.as_ptr().add(column);
                for record in panel.get_unchecked(Q4_SCALES..).chunks_exact(Q4_RECORD) {
                    let mut multipliers = record.as_ptr().add(first_row);
                    let mut lines = record.as_ptr().add(64 + 4 * first_row);
                    let mut sums = [[vdupq_n_s32(0); R]; N];
                    for _ in 0..4 {
                        let levels = group::<true, N, R>(lines, values, stride, starts);
                        sums = super::finish(N >= PAIRED, sums, levels, multipliers, starts);
                        multipliers = multipliers.add(PANEL_ROWS);
                        lines = lines.add(4 * 64);
                        values = values.add(32 * stride);
                        starts = starts.add(stride);
                    }
                    if N >= PAIRED {
                        sums = super::separate(sums);
                    }
                    for n in 0..N {
                        let scale = *activation_scales.add(n);
                        for r in 0..R {
                            floats[n][r] = vfmaq_n_f32(floats[n][r], vcvtq_f32_s32(sums[n][r]), scale);
                        }
                    }
                    activation_scales = activation_scales.add(stride);
                }
                let row_scales = panel.as_ptr().cast::<f32>().add(first_row);
                for r in 0..R {
                    let scales = vld1q_f32(row_scales.add(4 * r));
                    for n in 0..N {
                        floats[n][r] = vmulq_f32(floats[n][r], scales);
                    }
                }
            }
            floats
        }

        /// # Safety
        /// As `part`.
        #[target_feature(enable = $features)]
        unsafe fn q8_part<const N: usize, const R: usize>(
            panel: &[u8],
            input: ColumnTile<'_>,
            column: usize,
            first_row: usize,
        ) -> [[float32x4_t; R]; N] {
            let stride = input.columns;
            let mut floats = [[vdupq_n_f32(0.0); R]; N];
            // SAFETY: as `q4_part`.
            unsafe {
                let mut values = input.values.as_ptr().add(4 * column);
                let mut starts = input.group_starts.as_ptr().add(column);
                for (at, record) in panel.chunks_exact(Q8_RECORD).enumerate() {
                    // Two records make a span.
                    let activation_scales = input.scales.as_ptr().add(at / 2 * stride + column);
                    let mut scales = record.as_ptr().add(2 * first_row).cast::<u16>();
                    let mut lines = record.as_ptr().add(64 + 4 * first_row);
                    for _ in 0..2 {
                        let mut sums = group::<false, N, R>(lines, values, stride, starts);
                        if N >= PAIRED {
                            sums = super::separate(sums);
                        }
                        for r in 0..R {
                            let f16s = vreinterpret_f16_u16(vld1_u16(scales.add(4 * r)));
                            let weight_scale = vcvt_f32_f16(f16s);
                            for n in 0..N {
                                let scale = vmulq_n_f32(weight_scale, *activation_scales.add(n));
                                floats[n][r] = vfmaq_f32(floats[n][r], vcvtq_f32_s32(sums[n][r]), scale);
                            }
                        }
                        scales = scales.add(PANEL_ROWS);
                        lines = lines.add(8 * 64);
                        values = values.add(32 * stride);
                        starts = starts.add(stride);
                    }
                }
            }
            floats
        }
    };
}
use panel_kernels;

/// Adds to the sums of a span those of the levels of one of its groups: `m (levels - z activations)`.
///
/// # Safety
/// The multipliers of `4 R` rows and the starts of `N` columns can be read. `R` is even; `N` is 1, 2 or a multiple of
/// 4, which it is if `paired`.
#[inline(always)]
unsafe fn finish<const N: usize, const R: usize>(
    paired: bool,
    mut sums: [[int32x4_t; R]; N],
    levels: [[int32x4_t; R]; N],
    multipliers: *const u8,
    starts: *const i32,
) -> [[int32x4_t; R]; N] {
    // SAFETY: the caller's promise.
    unsafe {
        // Minus the sum of a column's activations, at most 32 x 127, in as many lanes as there are rows.
        let mut minus = [vdup_n_s16(0); N];
        for first in (0..N).step_by(4) {
            let starts = vreinterpretq_s32_s8(load_quads::<N>(starts.add(first).cast()));
            let four = vshrn_n_s32::<7>(starts);
            if paired {
                let pairs = vreinterpret_s32_s16(four);
                let [left, right] = [vdup_lane_s32::<0>(pairs), vdup_lane_s32::<1>(pairs)];
                minus[first] = vreinterpret_s16_s32(left);
                minus[first + 1] = minus[first];
                minus[first + 2] = vreinterpret_s16_s32(right);
                minus[first + 3] = minus[first + 2];
            } else {
                minus[first] = vdup_lane_s16::<0>(four);
                if N > 1 {
                    minus[first + 1] = vdup_lane_s16::<1>(four);
                }
                if N > 2 {
                    minus[first + 2] = vdup_lane_s16::<2>(four);
                    minus[first + 3] = vdup_lane_s16::<3>(four);
                }
            }
        }
        for r in (0..R).step_by(2) {
            let stored = vld1_u8(multipliers.add(4 * r));
            let m = vand_u8(stored, vdup_n_u8(15));
            // At most 15 x 15 in each byte.
            let zeros = vreinterpretq_s16_u16(vmovl_u8(vmul_u8(m, vshr_n_u8::<4>(stored))));
            let m = vmovl_u8(m);
            let m =
                [vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(m))), vreinterpretq_s32_u32(vmovl_high_u16(m))];
            let zeros = [vget_low_s16(zeros), vget_high_s16(zeros)];
            for odd in 0..2 {
                // Of the rows of even sums and of odd ones, which differ if a sum has but two rows.
                let (m, zeros) = if paired {
                    let (m, zeros) = (m[odd], zeros[odd]);
                    ([vzip1q_s32(m, m), vzip2q_s32(m, m)], [vzip1_s16(zeros, zeros), vzip2_s16(zeros, zeros)])
                } else {
                    ([m[odd]; 2], [zeros[odd]; 2])
                };
                for n in 0..N {
                    let sum = &mut sums[n][r + odd];
                    *sum = vmlaq_s32(*sum, levels[n][r + odd], m[n % 2]);
                    *sum = vmlal_s16(*sum, zeros[n % 2], minus[n]);
                }
            }
        }
        sums
    }
}

/// Gives each column a sum of its own: of columns `n` and `n + 1`, `sums[n]` holds `[row][column]` of rows {0, 1},
/// and `sums[n + 1]` that of rows {2, 3}.
#[inline(always)]
fn separate<const N: usize, const R: usize>(mut sums: [[int32x4_t; R]; N]) -> [[int32x4_t; R]; N] {
    for n in (0..N).step_by(2) {
        for r in 0..R {
            let (upper, lower) = (sums[n][r], sums[n + 1][r]);
            // SAFETY: registers only; NEON is part of the architecture.
            unsafe {
                sums[n][r] = vuzp1q_s32(upper, lower);
                sums[n + 1][r] = vuzp2q_s32(upper, lower);
            }
        }
    }
    sums
}

/// The quads, or other 4 bytes, of the first 4 of `N` columns, or of all, 1 or 2, if they are fewer.
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
