//! NEON with the int8 matrix extension, whose instructions take unsigned weights as they are stored.
//!
//! Few columns use `usdot` as `sdot` is used without the extension. From 4 columns of q8, and with 4 of q4, `usmmla` multiplies 2 rows
//! by 8 inputs of weights with 8 x 2 activations: `zip1` and `zip2` of two neighbouring lines, taken as 32-bit
//! quads, are rows {0, 1} and {2, 3} with 8 inputs each, and those of two neighbouring quads of activations
//! are columns {0, 1} and {2, 3}. A sum holds 2 x 2 results; `uzp1` and `uzp2` of the sums of neighbouring rows
//! give back one column with 4 rows. More columns of q4 share signed weights, which the walk of `span` zips beforehand.

use std::arch::aarch64::*;
use std::arch::asm;

use super::span::span_kernels;
use super::{Neon, panel_kernels};
use crate::kernels::generic::float_kernels;
use crate::kernels::isa::with_features;

with_features!(neon_i8mm, float_kernels!(Neon));
with_features!(neon_i8mm, panel_kernels!(8 x 2, 4 x 4, 2 x 4, 1 x 4));
with_features!(neon_i8mm, span_kernels!(4, true; 4, 2, 1));

const PAIRED: usize = 4;

macro_rules! group {
    ($features:literal;) => {
        /// Adds to each row's sum its 4 weights times quad `LANE` of `values`.
        #[target_feature(enable = $features)]
        #[inline]
        fn dot<const LANE: usize>(mut sum: int32x4_t, weights: uint8x16_t, values: int8x16_t) -> int32x4_t {
            // SAFETY: registers only; the caller has the instruction.
            unsafe {
                asm!(
                    "usdot {sum:v}.4s, {weights:v}.16b, {values:v}.4b[{lane}]",
                    sum = inout(vreg) sum, weights = in(vreg) weights, values = in(vreg) values,
                    lane = const LANE, options(pure, nomem, nostack, preserves_flags),
                );
            }
            sum
        }

        /// Adds the products of 2 rows and 2 columns, `[row][column]`, over 8 inputs.
        #[target_feature(enable = $features)]
        #[inline]
        fn matrix(mut sum: int32x4_t, weights: uint8x16_t, values: int8x16_t) -> int32x4_t {
            // SAFETY: registers only; the caller has the instruction.
            unsafe {
                asm!(
                    "usmmla {sum:v}.4s, {weights:v}.16b, {values:v}.16b",
                    sum = inout(vreg) sum, weights = in(vreg) weights, values = in(vreg) values,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
            sum
        }

        /// The weights of 4 rows in quads `2 pair` and `2 pair + 1` of a group.
        ///
        /// # Safety
        /// The lines can be read.
        #[target_feature(enable = $features)]
        #[inline]
        unsafe fn load<const Q4: bool>(lines: *const u8, pair: usize) -> [uint8x16_t; 2] {
            // SAFETY: the caller's promise.
            unsafe {
                if Q4 {
                    let packed = vld1q_u8(lines.add(64 * pair));
                    [vandq_u8(packed, vdupq_n_u8(15)), vshrq_n_u8::<4>(packed)]
                } else {
                    [vld1q_u8(lines.add(128 * pair)), vld1q_u8(lines.add(128 * pair + 64))]
                }
            }
        }

        /// # Safety
        /// As `panel_kernels` says: the lines of a group and the `N` columns of its 8 quads can be read.
        #[target_feature(enable = $features)]
        #[inline]
        unsafe fn group<const Q4: bool, const N: usize, const R: usize>(
            lines: *const u8,
            values: *const i8,
            stride: usize,
            starts: *const i32,
        ) -> [[int32x4_t; R]; N] {
            // SAFETY: the caller's promise.
            unsafe {
                let mut sums = [[vdupq_n_s32(0); R]; N];
                if !Q4 {
                    for n in 0..N {
                        sums[n] = [vdupq_n_s32(*starts.add(n)); R];
                    }
                }
                // Steps instead of products: a checked multiplication would keep the loops from being unrolled.
                let (mut quads, step) = (values, 4 * stride);
                if N < PAIRED {
                    for pair in 0..4 {
                        let even = super::load_quads::<N>(quads);
                        let odd = super::load_quads::<N>(quads.add(step));
                        quads = quads.add(2 * step);
                        for r in 0..R {
                            let [first, second] = load::<Q4>(lines.add(16 * r), pair);
                            sums[0][r] = dot::<0>(dot::<0>(sums[0][r], first, even), second, odd);
                            if N == 2 {
                                sums[1][r] = dot::<1>(dot::<1>(sums[1][r], first, even), second, odd);
                            }
                        }
                    }
                    return sums;
                }
                // Columns `n` and `n + 1` of rows {0, 1} are kept at `n`, of rows {2, 3} at `n + 1`.
                for n in (0..N).step_by(2) {
                    let both = vzip1q_s32(sums[n][0], sums[n + 1][0]);
                    sums[n] = [both; R];
                    sums[n + 1] = [both; R];
                }
                for pair in 0..4 {
                    let mut columns = [vdupq_n_s8(0); N];
                    for first in (0..N).step_by(4) {
                        let even = vreinterpretq_s32_s8(vld1q_s8(quads.add(4 * first)));
                        let odd = vreinterpretq_s32_s8(vld1q_s8(quads.add(step + 4 * first)));
                        columns[first / 2] = vreinterpretq_s8_s32(vzip1q_s32(even, odd));
                        columns[first / 2 + 1] = vreinterpretq_s8_s32(vzip2q_s32(even, odd));
                    }
                    quads = quads.add(2 * step);
                    for r in 0..R {
                        let [first, second] = load::<Q4>(lines.add(16 * r), pair);
                        let (first, second) = (vreinterpretq_u32_u8(first), vreinterpretq_u32_u8(second));
                        let upper = vreinterpretq_u8_u32(vzip1q_u32(first, second));
                        let lower = vreinterpretq_u8_u32(vzip2q_u32(first, second));
                        for n in (0..N).step_by(2) {
                            sums[n][r] = matrix(sums[n][r], upper, columns[n / 2]);
                            sums[n + 1][r] = matrix(sums[n + 1][r], lower, columns[n / 2]);
                        }
                    }
                }
                sums
            }
        }

        /// The same as `matrix` with signed weights.
        #[target_feature(enable = $features)]
        #[inline]
        fn signed_matrix(mut sum: int32x4_t, weights: int8x16_t, values: int8x16_t) -> int32x4_t {
            // SAFETY: registers only; the caller has the instruction.
            unsafe {
                asm!(
                    "smmla {sum:v}.4s, {weights:v}.16b, {values:v}.16b",
                    sum = inout(vreg) sum, weights = in(vreg) weights, values = in(vreg) values,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
            sum
        }

        /// # Safety
        /// As `span_kernels` says: `N` columns of a span can be read.
        #[target_feature(enable = $features)]
        #[inline]
        unsafe fn products<const N: usize>(
            weights: &SpanWeights,
            mut quads: *const i8,
            stride: usize,
        ) -> [[int32x4_t; PANEL_ROWS / 4]; N] {
            // Of two columns, rows {0, 1} and {2, 3}.
            let mut sums = [[[vdupq_n_s32(0); 2]; PANEL_ROWS / 4]; 2];
            let pairs = N.div_ceil(2);
            for weights in weights {
                // SAFETY: the caller's promise.
                let (even, odd) = unsafe {
                    let even = super::load_quads::<N>(quads);
                    let odd = super::load_quads::<N>(quads.add(4 * stride));
                    (vreinterpretq_s32_s8(even), vreinterpretq_s32_s8(odd))
                };
                quads = quads.wrapping_add(8 * stride);
                let columns = [
                    vreinterpretq_s8_s32(vzip1q_s32(even, odd)),
                    vreinterpretq_s8_s32(vzip2q_s32(even, odd)),
                ];
                for r in 0..PANEL_ROWS / 4 {
                    for pair in 0..pairs {
                        for half in 0..2 {
                            sums[pair][r][half] = signed_matrix(sums[pair][r][half], weights[r][half], columns[pair]);
                        }
                    }
                }
            }
            let mut separate = [[vdupq_n_s32(0); PANEL_ROWS / 4]; N];
            for n in 0..N {
                for r in 0..PANEL_ROWS / 4 {
                    let [upper, lower] = sums[n / 2][r];
                    separate[n][r] = if n % 2 == 0 { vuzp1q_s32(upper, lower) } else { vuzp2q_s32(upper, lower) };
                }
            }
            separate
        }
    };
}

with_features!(neon_i8mm, group!());
