//! Floats to narrower types: activations to int8 with their sums, and cached keys and values.

use super::functions::ROUND;
use super::lanes::{Simd, partial};
use crate::kernels::operands::{ColumnWriter, LANES};
use crate::quant::{GROUP, SPAN};

/// Activations to int8: per span of 128, `scale = max |x| / 127`, and per group of 32 the sum of the integers. What
/// lies beyond the input is 0.
#[inline(always)]
pub(in crate::kernels) fn quantize(input: &[f32], output: &mut ColumnWriter) {
    let (whole, rest) = input.as_chunks::<SPAN>();
    // A plain loop: an iterator's closure would be compiled without the features of the caller.
    for floats in whole {
        quantize_span(floats, output);
    }
    if output.spans() > 0 {
        let mut floats = [0.0; SPAN];
        floats[..rest.len()].copy_from_slice(rest);
        quantize_span(&floats, output);
    }
}

/// The largest magnitude. Magnitudes compare like their bits, where NaN is largest: it ends up in the scale and is
/// noticed.
#[inline(always)]
pub(in crate::kernels) fn max_magnitude(floats: &[f32]) -> f32 {
    f32::from_bits(floats.iter().map(|float| float.abs().to_bits()).fold(0, u32::max))
}

#[inline(always)]
fn round_q8(value: f32) -> i32 {
    let value = (value + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    value.clamp(-127, 127)
}

#[inline(always)]
fn quantize_span(floats: &[f32; SPAN], output: &mut ColumnWriter) {
    let max = max_magnitude(floats);
    let inverse = if max > 0.0 { 127.0 / max } else { 0.0 };
    let mut values = [0i8; SPAN];
    let mut sums = [0; SPAN / GROUP];
    let groups = values.as_chunks_mut::<GROUP>().0.iter_mut().zip(floats.as_chunks::<GROUP>().0);
    for (sum, (values, floats)) in sums.iter_mut().zip(groups) {
        let mut rounded = [0i32; GROUP];
        for (rounded, float) in rounded.iter_mut().zip(floats) {
            *rounded = round_q8(float * inverse);
        }
        for (value, rounded) in values.iter_mut().zip(&rounded) {
            *value = *rounded as i8;
        }
        // First the two sets of lanes, so that the loop is one of lanes.
        let (sets, _) = rounded.as_chunks::<LANES>();
        let mut lanes = sets[0];
        for (lane, value) in lanes.iter_mut().zip(&sets[1]) {
            *lane = lane.wrapping_add(*value);
        }
        *sum = lanes.into_iter().fold(0, i32::wrapping_add);
    }
    // Whole in memory, or the compiler takes the quads out of the register byte by byte.
    let values = std::hint::black_box(&values);
    output.put(values, max / 127.0, sums);
}

/// f32 to f16.
#[inline(always)]
pub(in crate::kernels) fn f32_to_f16<S: Simd>(values: &[f32], bits: &mut [u16]) {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let (outputs, last) = bits.as_chunks_mut::<LANES>();
    for (chunk, output) in chunks.iter().zip(outputs) {
        *output = S::f32_to_f16(chunk);
    }
    last.copy_from_slice(&S::f32_to_f16(&partial(rest, 0.0))[..rest.len()]);
}

/// f32 times `inverse` to integers of 8 bits.
#[inline(always)]
pub(in crate::kernels) fn f32_to_q8(values: &[f32], inverse: f32, output: &mut [i8]) {
    for (output, value) in output.iter_mut().zip(values) {
        *output = round_q8(value * inverse) as i8;
    }
}
