//! Matrix products on all cores: tiles of 6 x 16 sums in registers, over operands packed in the order in which the
//! tiles read them.

use cinderblock::unstable::kernels::{Vectorized, vectorize};
use rayon::prelude::*;

use super::view::View;

/// Rows and columns of a tile: 12 registers of AVX2.
const TILE_ROWS: usize = 6;
const TILE_COLUMNS: usize = 16;
/// Terms of a sum that are added in one go: 16 columns of them stay in the first-level cache.
const DEPTH: usize = 256;
/// Most rows that a thread takes at once: `DEPTH` terms of them stay in the second-level cache.
const MOST_ROWS: usize = 16 * TILE_ROWS;

/// Where a product goes: columns `first..` of whole rows of `stride` elements.
pub struct Output<'a> {
    pub data: &'a mut [f32],
    pub stride: usize,
    pub first: usize,
}

/// The elements of a product that are wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    All,
    /// Those on and below the diagonal. Some of the others are computed too.
    Lower,
}

/// Adds `sign * a b` to the output.
pub fn add_product(output: Output<'_>, a: View<'_>, b: View<'_>, sign: f32, part: Part) {
    let Output { data, stride, first } = output;
    assert!(a.columns() == b.rows() && data.len() == a.rows() * stride && first + b.columns() <= stride);
    if data.is_empty() || b.columns() == 0 {
        return;
    }
    let share = a.rows().div_ceil(4 * rayon::current_num_threads());
    let rows = share.next_multiple_of(TILE_ROWS).min(MOST_ROWS);
    for start in (0..a.columns()).step_by(DEPTH) {
        let depth = DEPTH.min(a.columns() - start);
        let right = pack(b.rows_from(start, depth).transposed());
        data.par_chunks_mut(rows * stride).enumerate().for_each(|(index, data)| {
            let row = index * rows;
            let left = pack(a.rows_from(row, data.len() / stride).columns_from(start, depth));
            let output = Output { data, stride, first };
            let below = if part == Part::Lower { row } else { b.columns() };
            vectorize(Tiles { output, left: &left, right: &right, depth, columns: b.columns(), sign, below });
        });
    }
}

/// The rows of a matrix in bundles of `N`, `[bundles][columns][N]`, filled up with zeros.
fn pack<const N: usize>(view: View<'_>) -> Vec<[f32; N]> {
    let depth = view.columns();
    let mut packed = vec![[0.0; N]; view.rows().div_ceil(N) * depth];
    packed.par_chunks_exact_mut(depth).enumerate().for_each(|(bundle, packed)| {
        let first = bundle * N;
        let lanes = N.min(view.rows() - first);
        if view.has_whole_rows() {
            for lane in 0..lanes {
                let values = packed.iter_mut().zip(view.row(first + lane));
                values.for_each(|(packed, value)| packed[lane] = *value);
            }
        } else {
            for (column, packed) in packed.iter_mut().enumerate() {
                let lanes = packed[..lanes].iter_mut().enumerate();
                lanes.for_each(|(lane, packed)| *packed = view.at(first + lane, column));
            }
        }
    });
    packed
}

/// The products of some packed rows with all packed columns.
struct Tiles<'a> {
    output: Output<'a>,
    left: &'a [[f32; TILE_ROWS]],
    right: &'a [[f32; TILE_COLUMNS]],
    depth: usize,
    columns: usize,
    sign: f32,
    /// The column that lies on the diagonal in the first row; tiles to the right of it are left out.
    below: usize,
}

impl Vectorized for Tiles<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Output { data, stride, first } = self.output;
        for (tile, right) in self.right.chunks_exact(self.depth).enumerate() {
            let column = tile * TILE_COLUMNS;
            let columns = TILE_COLUMNS.min(self.columns - column);
            let rows = data.chunks_mut(TILE_ROWS * stride);
            for (index, (left, rows)) in self.left.chunks_exact(self.depth).zip(rows).enumerate() {
                if column >= self.below + (index + 1) * TILE_ROWS {
                    continue;
                }
                let sums = tile_sums::<FMA>(left, right);
                for (row, sums) in rows.chunks_exact_mut(stride).zip(&sums) {
                    let output = &mut row[first + column..][..columns];
                    output.iter_mut().zip(sums).for_each(|(output, sum)| *output += self.sign * sum);
                }
            }
        }
    }
}

#[inline(always)]
fn tile_sums<const FMA: bool>(
    left: &[[f32; TILE_ROWS]],
    right: &[[f32; TILE_COLUMNS]],
) -> [[f32; TILE_COLUMNS]; TILE_ROWS] {
    let mut sums = [[0.0f32; TILE_COLUMNS]; TILE_ROWS];
    for (left, right) in left.iter().zip(right) {
        for row in 0..TILE_ROWS {
            for lane in 0..TILE_COLUMNS {
                let sum = &mut sums[row][lane];
                *sum =
                    if FMA { left[row].mul_add(right[lane], *sum) } else { left[row] * right[lane] + *sum };
            }
        }
    }
    sums
}
