//! Products with float weights.
//!
//! A product is one sum in each of 16 lanes, then the sum of the lanes as a tree, whatever the number of rows and columns
//! that are computed together.

use super::lanes::{Element, Lanes, Simd, fma_lanes, partial, reduce};
use crate::kernels::operands::LANES;

/// Columns that meet a part of the rows before the next part: with it they fill half of a first-level cache of 32 KB.
const COLUMNS: usize = 6;
/// Inputs of a part.
const PART: usize = 512;

/// Products of up to 16 rows with columns of `input` (`[columns, width]`): `output[c][r] = row r . column c`.
#[inline(always)]
pub(in crate::kernels) fn rows<S: Simd, E: Element>(
    rows: &[E],
    width: usize,
    input: &[f32],
    output: &mut [Lanes],
) {
    for (input, output) in input.chunks(COLUMNS * width).zip(output.chunks_mut(COLUMNS)) {
        let mut sums = [[[0.0; LANES]; COLUMNS]; LANES];
        for first in (0..width).step_by(PART) {
            let part = first..width.min(first + PART);
            for (rows, sums) in rows.chunks(2 * width).zip(sums.chunks_exact_mut(2)) {
                if rows.len() < 2 * width {
                    tiles::<S, E, 1>([&rows[part.clone()]], input, width, first, &mut sums[..1]);
                } else {
                    let (a, b) = rows.split_at(width);
                    tiles::<S, E, 2>([&a[part.clone()], &b[part.clone()]], input, width, first, sums);
                }
            }
        }
        for (column, output) in output.iter_mut().enumerate() {
            for (sums, output) in sums.iter().zip(output) {
                *output = reduce(&sums[column], |a, b| a + b);
            }
        }
    }
}

/// Adds a part of `R` rows, from input `first` on, to their sums with up to six columns: three at a time, so that the
/// sums of two rows are twelve registers of AVX2.
#[inline(always)]
fn tiles<S: Simd, E: Element, const R: usize>(
    rows: [&[E]; R],
    input: &[f32],
    width: usize,
    first: usize,
    sums: &mut [[Lanes; COLUMNS]],
) {
    let columns = input.len() / width;
    let mut column = 0;
    while column < columns {
        let input = &input[column * width + first..];
        match columns - column {
            1 => tile::<S, E, R, 1>(rows, input, width, sums, column),
            2 => tile::<S, E, R, 2>(rows, input, width, sums, column),
            _ => tile::<S, E, R, 3>(rows, input, width, sums, column),
        }
        column += 3;
    }
}

#[inline(always)]
fn tile<S: Simd, E: Element, const R: usize, const C: usize>(
    rows: [&[E]; R],
    input: &[f32],
    width: usize,
    sums: &mut [[Lanes; COLUMNS]],
    column: usize,
) {
    let length = rows[0].len();
    let mut columns: [&[f32]; C] = [&[]; C];
    for (c, column) in columns.iter_mut().enumerate() {
        *column = &input[c * width..][..length];
    }
    let mut tile = [[[0.0; LANES]; C]; R];
    for r in 0..R {
        for c in 0..C {
            tile[r][c] = sums[r][column + c];
        }
    }
    let whole = length - length % LANES;
    for k in (0..whole).step_by(LANES) {
        let mut values = [[0.0; LANES]; C];
        for c in 0..C {
            values[c].copy_from_slice(&columns[c][k..k + LANES]);
        }
        for r in 0..R {
            let mut weights = [E::default(); LANES];
            weights.copy_from_slice(&rows[r][k..k + LANES]);
            let weights = E::load::<S>(&weights);
            for c in 0..C {
                tile[r][c] = fma_lanes::<S>(&weights, &values[c], &tile[r][c]);
            }
        }
    }
    if whole < length {
        for r in 0..R {
            let weights = E::load::<S>(&partial(&rows[r][whole..], E::default()));
            for c in 0..C {
                tile[r][c] = fma_lanes::<S>(&weights, &partial(&columns[c][whole..], 0.0), &tile[r][c]);
            }
        }
    }
    for r in 0..R {
        for c in 0..C {
            sums[r][column + c] = tile[r][c];
        }
    }
}

/// The product of two rows.
#[inline(always)]
pub(super) fn dot<S: Simd>(a: &[f32], b: &[f32]) -> f32 {
    let mut sum = [0.0; LANES];
    let ((a, last_a), (b, last_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        sum = fma_lanes::<S>(a, b, &sum);
    }
    if !last_a.is_empty() {
        sum = fma_lanes::<S>(&partial(last_a, 0.0), &partial(last_b, 0.0), &sum);
    }
    reduce(&sum, |a, b| a + b)
}
