//! NEON with `sdot`: a register of weights, 4 rows by 4 inputs, times a quad of activations that the
//! instruction picks from a register by its lane. The columns of a tile lie next to each other, so one load
//! brings the quads of 4 columns.
//!
//! q4 levels fit in signed bytes as they are stored; q8 weights, which would not, are made signed by flipping their
//! highest bit.

use std::arch::aarch64::*;
use std::arch::asm;

use super::span::span_kernels;
use super::{Neon, panel_kernels};
use crate::kernels::generic::float_kernels;
use crate::kernels::isa::with_features;

with_features!(neon_dotprod, float_kernels!(Neon));
with_features!(neon_dotprod, panel_kernels!(8 x 2, 4 x 4, 2 x 4, 1 x 4));
with_features!(neon_dotprod, span_kernels!(8, false; 4, 2, 1));

const PAIRED: usize = usize::MAX;

macro_rules! group {
    ($features:literal;) => {
        /// Adds to each row's sum its 4 weights times quad `LANE` of `values`.
        #[target_feature(enable = $features)]
        #[inline]
        fn dot<const LANE: usize>(mut sum: int32x4_t, weights: int8x16_t, values: int8x16_t) -> int32x4_t {
            // SAFETY: registers only; the caller has the instruction.
            unsafe {
                asm!(
                    "sdot {sum:v}.4s, {weights:v}.16b, {values:v}.4b[{lane}]",
                    sum = inout(vreg) sum, weights = in(vreg) weights, values = in(vreg) values,
                    lane = const LANE, options(pure, nomem, nostack, preserves_flags),
                );
            }
            sum
        }

        /// # Safety
        /// As `panel_kernels` says: the lines of a group and the `N` columns of its 8 quads can be read.
        #[target_feature(enable = $features)]
        #[inline]
        unsafe fn group<const Q4: bool, const N: usize, const R: usize>(
            lines: *const u8,
            values: *const i8,
            stride: usize,
            _starts: *const i32,
        ) -> [[int32x4_t; R]; N] {
            // SAFETY: the caller's promise.
            unsafe {
                let mut sums = [[vdupq_n_s32(0); R]; N];
                // Steps instead of products: a checked multiplication would keep the loop from being unrolled.
                let (mut quads, step) = (values, 4 * stride);
                for pair in 0..4 {
                    for odd in 0..2 {
                        let mut weights = [vdupq_n_s8(0); R];
                        for r in 0..R {
                            weights[r] = vreinterpretq_s8_u8(if Q4 {
                                let packed = vld1q_u8(lines.add(64 * pair + 16 * r));
                                if odd == 0 { vandq_u8(packed, vdupq_n_u8(15)) } else { vshrq_n_u8::<4>(packed) }
                            } else {
                                let stored = vld1q_u8(lines.add(64 * (2 * pair + odd) + 16 * r));
                                veorq_u8(stored, vdupq_n_u8(128))
                            });
                        }
                        for first in (0..N).step_by(4) {
                            let values = super::load_quads::<N>(quads.add(4 * first));
                            for r in 0..R {
                                sums[first][r] = dot::<0>(sums[first][r], weights[r], values);
                                if N > 1 {
                                    sums[first + 1][r] = dot::<1>(sums[first + 1][r], weights[r], values);
                                }
                                if N > 2 {
                                    sums[first + 2][r] = dot::<2>(sums[first + 2][r], weights[r], values);
                                    sums[first + 3][r] = dot::<3>(sums[first + 3][r], weights[r], values);
                                }
                            }
                        }
                        quads = quads.add(step);
                    }
                }
                sums
            }
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
            let mut sums = [[vdupq_n_s32(0); PANEL_ROWS / 4]; N];
            for weights in weights {
                for odd in 0..2 {
                    // SAFETY: the caller's promise.
                    let values = unsafe { super::load_quads::<N>(quads) };
                    for r in 0..PANEL_ROWS / 4 {
                        let weights = weights[r][odd];
                        sums[0][r] = dot::<0>(sums[0][r], weights, values);
                        if N > 1 {
                            sums[1][r] = dot::<1>(sums[1][r], weights, values);
                        }
                        if N > 2 {
                            sums[2][r] = dot::<2>(sums[2][r], weights, values);
                            sums[3][r] = dot::<3>(sums[3][r], weights, values);
                        }
                    }
                    quads = quads.wrapping_add(4 * stride);
                }
            }
            sums
        }
    };
}

with_features!(neon_dotprod, group!());
