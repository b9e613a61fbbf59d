//! LayerNorm, RMSNorm, the exponential and GELU in both forms.

use super::lanes::{Simd, fma, map, partial, reduce};
use crate::kernels::operands::LANES;

/// Adding and subtracting 1.5 x 2^23 rounds to the nearest integer, ties to even, and leaves it in the low bits.
pub(super) const ROUND: f32 = 12582912.0;

/// LayerNorm with bias: `(x - mean) / sqrt(variance + epsilon) * weight + bias`.
#[inline(always)]
pub(in crate::kernels) fn layer_norm<S: Simd>(
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    epsilon: f32,
    output: &mut [f32],
) {
    let sum_of = |f: &dyn Fn(f32) -> f32| sum_lanes(x, f);
    let mean = sum_of(&|v| v) / x.len() as f32;
    let variance = sum_of(&|v| (v - mean) * (v - mean)) / x.len() as f32;
    let inverse = 1.0 / (variance + epsilon).sqrt();
    for (((out, x), weight), bias) in output.iter_mut().zip(x).zip(weight).zip(bias) {
        *out = fma::<S>((x - mean) * inverse, *weight, *bias);
    }
}

/// RMSNorm, which subtracts no mean and adds no bias: `x / sqrt(mean of x^2 + epsilon) * weight`.
#[inline(always)]
pub(in crate::kernels) fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, output: &mut [f32]) {
    let square = sum_lanes(x, |v| v * v) / x.len() as f32;
    let inverse = 1.0 / (square + epsilon).sqrt();
    for ((out, x), weight) in output.iter_mut().zip(x).zip(weight) {
        *out = x * inverse * weight;
    }
}

#[inline(always)]
fn sum_lanes(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            sums[lane] += f(chunk[lane]);
        }
    }
    for (sum, value) in sums.iter_mut().zip(rest) {
        *sum += f(*value);
    }
    reduce(&sums, |a, b| a + b)
}

/// e^x for x <= 88, to 2e-7 relative; 0 would be reached below -87, where it stays at e^-87.
///
/// x = n ln 2 + r; the polynomial for e^r is that of the Cephes library (`expf`).
#[inline(always)]
pub(super) fn exp<S: Simd>(x: f32) -> f32 {
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = fma::<S>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fma::<S>(n, -0.693_359_4, x);
    let r = fma::<S>(n, 2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        p = fma::<S>(p, r, c);
    }
    let p = fma::<S>(p * r, r, r + 1.0);
    let power = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    p * f32::from_bits(power)
}

/// Exact GELU, `x Phi(x)`, to 1e-6 relative in both tails.
///
/// `Phi(-a) = exp(-a^2 / 2) Q(a)` where `Q(a) = erfcx(a / sqrt 2) / 2` is smooth: a polynomial of degree 9 in
/// `t = (a - 3) / (a + 3)`, fitted on 0..13.5 for least relative error (7e-9). The rounding error of `a^2` is
/// put back, because the exponential would multiply it.
#[inline(always)]
fn gelu_of<S: Simd>(x: f32) -> f32 {
    let a = x.abs();
    let a = if a < 13.0 { a } else { 13.0 };
    let t = (a - 3.0) / (a + 3.0);
    let mut q = 5.416_116_2e-5;
    for c in [
        1.160_548_6e-4,
        -3.399_127e-4,
        -9.841_96e-4,
        2.904_700_4e-3,
        6.132_186_3e-3,
        -4.621_331_3e-2,
        0.123_225_02,
        -0.206_402_62,
        0.121_513_95,
    ] {
        q = fma::<S>(q, t, c);
    }
    let square = a * a;
    let lost =
        if S::FMA { a.mul_add(a, -square) } else { (f64::from(a) * f64::from(a) - f64::from(square)) as f32 };
    let tail = exp::<S>(-0.5 * square) * fma::<S>(lost, -0.5, 1.0) * q;
    x * if x < 0.0 { tail } else { 1.0 - tail }
}

/// GELU by the hyperbolic tangent, `x (1 + tanh u) / 2` with `u = sqrt(2 / pi) (x + 0.044715 x^3)`, to 2e-6 relative
/// where `|u|` is below 4; further out in the negative tail the rounding error of `u` counts, which is a few 1e-7 of it.
///
/// `(1 + tanh u) / 2` is `1 / (1 + t)` for positive `u` and `t / (1 + t)` for negative, with `t = exp(-2 |u|)`.
#[inline(always)]
fn gelu_tanh_of<S: Simd>(x: f32) -> f32 {
    let a = x.abs();
    // The exponential ends there.
    let a = if a < 13.0 { a } else { 13.0 };
    let twice = a * fma::<S>(a * a, 2.0 * 0.797_884_6 * 0.044_715, 2.0 * 0.797_884_6);
    let t = exp::<S>(-twice);
    x * (if x < 0.0 { t } else { 1.0 }) / (1.0 + t)
}

#[inline(always)]
fn apply(values: &mut [f32], f: impl Fn(f32) -> f32) {
    let (chunks, rest) = values.as_chunks_mut::<LANES>();
    for chunk in chunks {
        *chunk = map(chunk, &f);
    }
    let done = map(&partial(rest, 0.0), &f);
    rest.copy_from_slice(&done[..rest.len()]);
}

/// [`gelu_of`] on every element.
#[inline(always)]
pub(in crate::kernels) fn gelu<S: Simd>(values: &mut [f32]) {
    apply(values, gelu_of::<S>);
}

/// [`gelu_tanh_of`] on every element.
#[inline(always)]
pub(in crate::kernels) fn gelu_tanh<S: Simd>(values: &mut [f32]) {
    apply(values, gelu_tanh_of::<S>);
}
