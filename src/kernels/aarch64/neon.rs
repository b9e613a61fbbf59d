//! NEON as every AArch64 has it. `smull` and `smlal` multiply 8 signed bytes into int16: two rows by a quad of
//! inputs, so a register of weights takes two of them.
//!
//! Nothing saturates or wraps. q4: 8 quads of levels sum to at most 8 x 15 x 127 = 15240 in a lane, and their pairs
//! to 30480, so a whole group stays in int16. q8: two products are at most 2 x 128 x 127 = 32512; `sadalp` then
//! adds the pairs to int32. On a Cortex-A72 the multiplications have one pipe, which nothing else here needs.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{Neon, panel_kernels};
use crate::kernels::generic::float_kernels;
use crate::kernels::isa::with_features;
use crate::kernels::table::TilesKernel;

with_features!(neon, float_kernels!(Neon));
with_features!(neon, panel_kernels!(4 x 2, 2 x 4, 1 x 4));

const PAIRED: usize = usize::MAX;
/// Its multiplications of levels, which leave no time to others, are as many however they are shared.
const TILES: Option<(usize, TilesKernel)> = None;

/// Runs a step for each two quads of a group. Written out for one column: the compiler, which does not know how short
/// the instructions of `load_quad` are, would keep a loop.
macro_rules! in_pairs {
    ($columns:expr, $quads:ident, $step:ident; $pair:ident, $of_pair:ident => $call:expr) => {
        if $columns == 1 {
            let ($pair, $of_pair) = (0, $quads);
            $call;
            let ($pair, $of_pair) = (1, $of_pair.add($step));
            $call;
            let ($pair, $of_pair) = (2, $of_pair.add($step));
            $call;
            let ($pair, $of_pair) = (3, $of_pair.add($step));
            $call;
        } else {
            // Steps instead of products, which would be checked.
            let mut $of_pair = $quads;
            for $pair in 0..4 {
                $call;
                $of_pair = $of_pair.add($step);
            }
        }
    };
}

macro_rules! group {
    ($features:literal;) => {
        /// A quad in each lane. The compiler would load two, and move the upper weights down to multiply them.
        ///
        /// # Safety
        /// A quad can be read.
        #[target_feature(enable = $features)]
        #[inline]
        unsafe fn load_quad(quad: *const i32) -> int8x16_t {
            let values: int8x16_t;
            // SAFETY: the caller's promise.
            unsafe {
                asm!(
                    "ld1r {{{values:v}.4s}}, [{quad}]",
                    values = out(vreg) values, quad = in(reg) quad,
                    options(pure, readonly, nostack, preserves_flags),
                );
            }
            values
        }

        /// Adds the products of levels of two quads.
        ///
        /// # Safety
        /// As `group`.
        #[inline(always)]
        unsafe fn add_levels<const N: usize, const R: usize>(
            sums: &mut [[[int16x8_t; 2]; R]; N],
            line: *const u8,
            quads: *const i32,
            stride: usize,
        ) {
            // SAFETY: the caller's promise.
            unsafe {
                for r in 0..R {
                    let packed = vld1q_u8(line.add(16 * r));
                    let low = vreinterpretq_s8_u8(vandq_u8(packed, vdupq_n_u8(15)));
                    let high = vreinterpretq_s8_u8(vshrq_n_u8::<4>(packed));
                    for n in 0..N {
                        let even = load_quad(quads.add(n));
                        let odd = load_quad(quads.add(stride + n));
                        let [left, right] = &mut sums[n][r];
                        *left = vmlal_s8(*left, vget_low_s8(low), vget_low_s8(even));
                        *right = vmlal_high_s8(*right, low, even);
                        *left = vmlal_s8(*left, vget_low_s8(high), vget_low_s8(odd));
                        *right = vmlal_high_s8(*right, high, odd);
                    }
                }
            }
        }

        /// Adds the products of bytes of two quads.
        ///
        /// # Safety
        /// As `group`.
        #[inline(always)]
        unsafe fn add_bytes<const N: usize, const R: usize>(
            sums: &mut [[[int32x4_t; 2]; R]; N],
            lines: *const u8,
            quads: *const i32,
            stride: usize,
        ) {
            // SAFETY: the caller's promise.
            unsafe {
                for r in 0..R {
                    let mut weights = [vdupq_n_s8(0); 2];
                    for quad in 0..2 {
                        let stored = vld1q_u8(lines.add(64 * quad + 16 * r));
                        weights[quad] = vreinterpretq_s8_u8(veorq_u8(stored, vdupq_n_u8(128)));
                    }
                    for n in 0..N {
                        let even = load_quad(quads.add(n));
                        let odd = load_quad(quads.add(stride + n));
                        let [left, right] = &mut sums[n][r];
                        let products = vmull_s8(vget_low_s8(weights[0]), vget_low_s8(even));
                        let products = vmlal_s8(products, vget_low_s8(weights[1]), vget_low_s8(odd));
                        *left = vpadalq_s16(*left, products);
                        let products = vmull_high_s8(weights[0], even);
                        let products = vmlal_high_s8(products, weights[1], odd);
                        *right = vpadalq_s16(*right, products);
                    }
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
            _starts: *const i32,
        ) -> [[int32x4_t; R]; N] {
            // SAFETY: the caller's promise.
            unsafe {
                let (quads, step) = (values.cast::<i32>(), 2 * stride);
                let mut result = [[vdupq_n_s32(0); R]; N];
                if Q4 {
                    let mut sums = [[[vdupq_n_s16(0); 2]; R]; N];
                    in_pairs!(
                        N, quads, step;
                        pair, quads => add_levels(&mut sums, lines.add(64 * pair), quads, stride)
                    );
                    for n in 0..N {
                        for r in 0..R {
                            let [left, right] = sums[n][r];
                            result[n][r] = vpaddlq_s16(vpaddq_s16(left, right));
                        }
                    }
                } else {
                    let mut sums = [[[vdupq_n_s32(0); 2]; R]; N];
                    in_pairs!(
                        N, quads, step;
                        pair, quads => add_bytes(&mut sums, lines.add(128 * pair), quads, stride)
                    );
                    for n in 0..N {
                        for r in 0..R {
                            let [left, right] = sums[n][r];
                            result[n][r] = vpaddq_s32(left, right);
                        }
                    }
                }
                result
            }
        }
    };
}

with_features!(neon, group!());
