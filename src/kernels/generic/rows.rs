//! Products with float weights.

use super::lanes::{Element, Lanes, Simd, fma_lanes, partial, reduce};
use crate::kernels::operands::LANES;

/// Products of up to 16 rows with columns of `input` (`[columns, width]`): `output[c][r] = row r . column c`.
#[inline(always)]
pub(in crate::kernels) fn rows<S: Simd, E: Element>(
    rows: &[E],
    width: usize,
    input: &[f32],
    output: &mut [Lanes],
) {
    for (r, row) in rows.chunks_exact(width).enumerate() {
        let mut inputs = input.chunks_exact(width * 4);
        let mut outputs = output.chunks_exact_mut(4);
        for (input, output) in (&mut inputs).zip(&mut outputs) {
            let sums = dot::<S, E, 4>(row, input, width);
            for (sum, output) in sums.iter().zip(output) {
                output[r] = *sum;
            }
        }
        for (input, output) in inputs.remainder().chunks_exact(width).zip(outputs.into_remainder()) {
            [output[r]] = dot::<S, E, 1>(row, input, width);
        }
    }
}

#[inline(always)]
pub(super) fn dot<S: Simd, E: Element, const N: usize>(row: &[E], input: &[f32], width: usize) -> [f32; N] {
    let mut sums = [[0.0; LANES]; N];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for (index, chunk) in chunks.iter().enumerate() {
        let weights = E::load::<S>(chunk);
        for n in 0..N {
            let values = &input[n * width + index * LANES..][..LANES];
            sums[n] = fma_lanes::<S>(&weights, &partial(values, 0.0), &sums[n]);
        }
    }
    if !rest.is_empty() {
        let weights = E::load::<S>(&partial(rest, E::default()));
        for n in 0..N {
            let values = &input[n * width + chunks.len() * LANES..(n + 1) * width];
            sums[n] = fma_lanes::<S>(&weights, &partial(values, 0.0), &sums[n]);
        }
    }
    std::array::from_fn(|n| reduce(&sums[n], |a, b| a + b))
}
