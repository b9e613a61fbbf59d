//! Softmax attention of one query to a few rows of a stream: inside a block, or to the parts of a context.

use super::functions::exp;
use super::lanes::{Simd, fma};
use super::rows::dot;
use crate::kernels::operands::RowAttention;

/// `output = softmax(query . keys x scale + bias) . values`, one row after the other.
#[inline(always)]
pub(in crate::kernels) fn attend_rows<S: Simd>(attention: &RowAttention<'_>, output: &mut [f32]) {
    let RowAttention { rows, stride, values, .. } = *attention;
    let width = output.len();
    // Scores are computed twice: there are too few to keep.
    let mut max = f32::NEG_INFINITY;
    for row in 0..rows {
        let score = score::<S>(attention, row);
        max = if score > max { score } else { max };
    }
    output.fill(0.0);
    let mut total = 0.0;
    for row in 0..rows {
        let score = score::<S>(attention, row);
        let weight = exp::<S>(score - max);
        // A score that is not a number stays one, and is noticed in the end.
        let weight = if score == f32::NEG_INFINITY { 0.0 } else { weight };
        total += weight;
        let value = &values[row * stride..][..width];
        for i in 0..width {
            output[i] = fma::<S>(weight, value[i], output[i]);
        }
    }
    let inverse = 1.0 / total;
    for value in output {
        *value *= inverse;
    }
}

#[inline(always)]
fn score<S: Simd>(attention: &RowAttention<'_>, row: usize) -> f32 {
    let width = attention.query.len();
    let key = &attention.keys[row * attention.stride..][..width];
    let product = dot::<S>(key, attention.query);
    let score = product * attention.scale;
    if attention.bias.is_empty() { score } else { score + attention.bias[row] }
}
