//! Dense f32 matrices in row order, and the few products that calibration needs, on all cores.

use rayon::prelude::*;

use super::product::{Output, Part, add_product};

/// `[rows, columns]`, row after row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matrix {
    pub rows: usize,
    pub columns: usize,
    pub data: Vec<f32>,
}

impl Matrix {
    /// A matrix of given values.
    ///
    /// # Panics
    /// If there are not `rows * columns` of them.
    pub fn new(rows: usize, columns: usize, data: Vec<f32>) -> Matrix {
        assert_eq!(data.len(), rows * columns);
        Matrix { rows, columns, data }
    }

    /// A matrix of zeros.
    pub fn zeros(rows: usize, columns: usize) -> Matrix {
        Matrix::new(rows, columns, vec![0.0; rows * columns])
    }

    /// Row `row`.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.columns..][..self.columns]
    }

    /// Row `row`, to change.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.data[row * self.columns..][..self.columns]
    }

    /// Rows `first..first + rows`, borrowed.
    pub fn rows(&self, first: usize, rows: usize) -> View<'_> {
        self.view().rows_from(first, rows)
    }

    /// All of it, borrowed.
    pub fn view(&self) -> View<'_> {
        View {
            data: &self.data,
            rows: self.rows,
            columns: self.columns,
            row_stride: self.columns,
            column_stride: 1,
        }
    }

    /// Replaces as many rows and columns from `(row, column)` on by those of another matrix.
    fn set_part(&mut self, row: usize, column: usize, other: &Matrix) {
        for (index, values) in other.data.chunks_exact(other.columns).enumerate() {
            self.row_mut(row + index)[column..][..other.columns].copy_from_slice(values);
        }
    }

    /// Replaces the columns from `first` on by `(columns - sum) inverse`.
    fn solve_block(&mut self, first: usize, sum: &Matrix, inverse: View<'_>) {
        let mut part = self.view().columns_from(first, sum.columns).to_matrix();
        part.subtract_part(sum, 0);
        self.set_part(0, first, &part.view().times(inverse));
    }

    /// Adds `sign * a b` to rows `row..`, columns `column..`.
    fn add_product(&mut self, row: usize, column: usize, a: View<'_>, b: View<'_>, sign: f32, part: Part) {
        let data = &mut self.data[row * self.columns..][..a.rows() * self.columns];
        add_product(Output { data, stride: self.columns, first: column }, a, b, sign, part);
    }

    /// Adds another matrix of the same shape.
    pub fn add(&mut self, other: &Matrix) {
        assert_eq!((self.rows, self.columns), (other.rows, other.columns));
        self.data.iter_mut().zip(&other.data).for_each(|(value, other)| *value += other);
    }

    /// Adds as many columns of another matrix, from `first` on.
    pub fn add_part(&mut self, other: &Matrix, first: usize) {
        self.with_part(other, first, |value, other| *value += other);
    }

    /// Subtracts as many columns of another matrix, from `first` on.
    pub fn subtract_part(&mut self, other: &Matrix, first: usize) {
        self.with_part(other, first, |value, other| *value -= other);
    }

    fn with_part(&mut self, other: &Matrix, first: usize, each: impl Fn(&mut f32, f32) + Sync) {
        assert_eq!(self.rows, other.rows);
        if self.columns == 0 {
            return;
        }
        let rows = self.data.par_chunks_mut(self.columns).zip(other.data.par_chunks(other.columns));
        rows.for_each(|(row, other)| {
            row.iter_mut().zip(&other[first..]).for_each(|(value, other)| each(value, *other));
        });
    }

    /// Adds `row` to every row.
    pub fn add_row(&mut self, row: &[f32]) {
        for values in self.data.chunks_exact_mut(self.columns) {
            values.iter_mut().zip(row).for_each(|(value, other)| *value += other);
        }
    }

    /// The mean of the square blocks of `width` along the diagonal.
    pub fn mean_block(&self, width: usize) -> Matrix {
        let (mut mean, count) = (Matrix::zeros(width, width), self.rows / width);
        for at in 0..count * width {
            let block = &self.row(at)[at / width * width..][..width];
            mean.row_mut(at % width)
                .iter_mut()
                .zip(block)
                .for_each(|(mean, value)| *mean += value / count as f32);
        }
        mean
    }

    /// Sum of the diagonal over its length.
    pub fn mean_diagonal(&self) -> f32 {
        let sum: f64 = (0..self.rows).map(|i| f64::from(self.data[i * self.columns + i])).sum();
        (sum / self.rows.max(1) as f64) as f32
    }
}

/// A borrowed matrix: a part of another, or its transpose.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// From the first element on.
    data: &'a [f32],
    rows: usize,
    columns: usize,
    /// Distance of neighbours in a column, and in a row.
    row_stride: usize,
    column_stride: usize,
}

impl View<'_> {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// An element.
    #[inline(always)]
    pub fn at(&self, row: usize, column: usize) -> f32 {
        self.data[row * self.row_stride + column * self.column_stride]
    }

    /// Whether the elements of a row are next to each other.
    pub fn has_whole_rows(&self) -> bool {
        self.column_stride == 1
    }

    /// A row of a view with whole rows.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.row_stride..][..self.columns]
    }

    /// Rows become columns.
    pub fn transposed(self) -> Self {
        View {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// Rows `first..first + rows`.
    pub fn rows_from(self, first: usize, rows: usize) -> Self {
        assert!(first + rows <= self.rows);
        // The first element of no rows may lie outside.
        let data = self.data.get(first * self.row_stride..).unwrap_or_default();
        View { data, rows, ..self }
    }

    /// Columns `first..first + columns`.
    pub fn columns_from(self, first: usize, columns: usize) -> Self {
        self.transposed().rows_from(first, columns).transposed()
    }

    /// A copy.
    pub fn to_matrix(self) -> Matrix {
        let mut output = Matrix::zeros(self.rows, self.columns);
        for row in 0..self.rows {
            let values = output.row_mut(row).iter_mut().enumerate();
            values.for_each(|(column, value)| *value = self.at(row, column));
        }
        output
    }

    /// The matrix product; of nothing, it is 0.
    pub fn times(self, other: View<'_>) -> Matrix {
        let mut output = Matrix::zeros(self.rows, other.columns);
        output.add_product(0, 0, self, other, 1.0, Part::All);
        output
    }

    /// The product of the transpose with this: half of the work of any other, for it is symmetric.
    pub fn gram(self) -> Matrix {
        let n = self.columns;
        let mut output = Matrix::zeros(n, n);
        output.add_product(0, 0, self.transposed(), self, 1.0, Part::Lower);
        for row in 0..n {
            for column in row + 1..n {
                output.data[row * n + column] = output.data[column * n + row];
            }
        }
        output
    }
}

/// Columns of a factor that are computed together.
const BLOCK: usize = 64;

/// A factor `L` with `L L^T = matrix + damping I`.
pub struct Cholesky {
    /// With zeros above the diagonal.
    lower: Matrix,
    /// Inverses of the blocks on the diagonal.
    inverses: Vec<Matrix>,
}

impl Cholesky {
    /// Factors a symmetric matrix; `None` if it is not positive definite.
    pub fn new(matrix: &Matrix, damping: f32) -> Option<Cholesky> {
        let n = matrix.rows;
        let mut lower = matrix.clone();
        for i in 0..n {
            lower.data[i * n + i] += damping;
        }
        let mut inverses = Vec::new();
        for first in (0..n).step_by(BLOCK) {
            let width = BLOCK.min(n - first);
            let after = first + width;
            let block = lower.rows(first, width).columns_from(first, width);
            let (factor, inverse) = factor_block(block)?;
            let below = lower.rows(after, n - after).columns_from(first, width);
            let below = below.times(inverse.view().transposed());
            lower.set_part(first, first, &factor);
            lower.set_part(after, first, &below);
            lower.add_product(after, after, below.view(), below.view().transposed(), -1.0, Part::Lower);
            inverses.push(inverse);
        }
        for row in 0..n {
            lower.row_mut(row)[row + 1..].fill(0.0);
        }
        Some(Cholesky { lower, inverses })
    }

    /// `right (matrix + damping I)^-1`.
    pub fn solve_rows(&self, right: &Matrix) -> Matrix {
        let mut output = right.clone();
        let n = output.columns;
        let blocks = || self.inverses.iter().enumerate().map(|(block, inverse)| (block * BLOCK, inverse));
        // First X L^T = right from the left, then X L = that from the right.
        for (first, inverse) in blocks() {
            let others = self.lower.rows(first, inverse.rows).columns_from(0, first).transposed();
            let sum = output.view().columns_from(0, first).times(others);
            output.solve_block(first, &sum, inverse.view().transposed());
        }
        for (first, inverse) in blocks().rev() {
            let after = first + inverse.rows;
            let others = self.lower.rows(after, n - after).columns_from(first, inverse.rows);
            let sum = output.view().columns_from(after, n - after).times(others);
            output.solve_block(first, &sum, inverse.view());
        }
        output
    }

    /// The lower triangle, with zeros above it.
    pub fn lower(self) -> Matrix {
        self.lower
    }
}

/// The factor of a small matrix, and its inverse; `None` if the matrix is not positive definite.
fn factor_block(matrix: View<'_>) -> Option<(Matrix, Matrix)> {
    let n = matrix.rows();
    let (mut factor, mut inverse) = (vec![0.0f64; n * n], vec![0.0f64; n * n]);
    for i in 0..n {
        for j in 0..=i {
            let products = (0..j).map(|k| factor[i * n + k] * factor[j * n + k]);
            let left = f64::from(matrix.at(i, j)) - products.sum::<f64>();
            factor[i * n + j] = if i == j { left.sqrt() } else { left / factor[j * n + j] };
        }
        let diagonal = factor[i * n + i];
        if !(diagonal as f32 > 0.0 && diagonal.is_finite()) {
            return None;
        }
        for j in 0..=i {
            let products = (j..i).map(|k| factor[i * n + k] * inverse[k * n + j]).sum::<f64>();
            inverse[i * n + j] = (f64::from(u8::from(i == j)) - products) / diagonal;
        }
    }
    let single = |values: Vec<f64>| Matrix::new(n, n, values.into_iter().map(|value| value as f32).collect());
    Some((single(factor), single(inverse)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_and_solutions() {
        let a = Matrix::new(3, 2, vec![1.0, 2.0, 3.0, 4.0, 5.0, 7.0]);
        let gram = a.view().gram();
        assert_eq!(gram.data, [35.0, 49.0, 49.0, 69.0]);
        assert_eq!(gram, a.view().transposed().times(a.view()));
        let factor = Cholesky::new(&gram, 0.0).unwrap();
        let lower = &factor.lower;
        let product = lower.view().times(lower.view().transposed());
        assert!(product.data.iter().zip(&gram.data).all(|(a, b)| (a - b).abs() < 1e-3));
        let right = Matrix::new(1, 2, vec![35.0 + 98.0, 49.0 + 138.0]);
        let solved = factor.solve_rows(&right);
        assert!((solved.data[0] - 1.0).abs() < 1e-3 && (solved.data[1] - 2.0).abs() < 1e-3);
        assert!(Cholesky::new(&Matrix::new(1, 1, vec![-1.0]), 0.0).is_none());
    }

    /// Values from -1 to 1.
    fn random(rows: usize, columns: usize) -> Matrix {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 8) as f32 / 8388608.0 - 1.0
        };
        Matrix::new(rows, columns, (0..rows * columns).map(|_| next()).collect())
    }

    fn assert_close(found: &Matrix, expected: &Matrix, tolerance: f32) {
        assert_eq!((found.rows, found.columns), (expected.rows, expected.columns));
        for (index, (found, expected)) in found.data.iter().zip(&expected.data).enumerate() {
            assert!((found - expected).abs() <= tolerance, "{index}: {found}, expected {expected}");
        }
    }

    /// Shapes around those of tiles and blocks, transposes and parts.
    #[test]
    fn products_equal_plain_sums() {
        for (m, k, n) in [(1, 1, 1), (5, 7, 3), (6, 256, 16), (7, 257, 17), (100, 300, 33), (3, 0, 4)] {
            let (a, b) = (random(m, k), random(k, n));
            let mut expected = Matrix::zeros(m, n);
            for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                let terms = (0..k).map(|l| f64::from(a.data[i * k + l]) * f64::from(b.data[l * n + j]));
                expected.data[i * n + j] = terms.sum::<f64>() as f32;
            }
            assert_close(&a.view().times(b.view()), &expected, 1e-4);
            let (a, b) = (a.view().transposed().to_matrix(), b.view().transposed().to_matrix());
            assert_close(&a.view().transposed().times(b.view().transposed()), &expected, 1e-4);
        }
    }

    #[test]
    fn factors_of_several_blocks_solve() {
        for n in [63, 64, 65, 200] {
            let samples = random(2 * n, n);
            let gram = samples.view().gram();
            assert_close(&gram, &samples.view().transposed().times(samples.view()), 0.0);
            let factor = Cholesky::new(&gram, 1.0).unwrap();
            let mut damped = gram.clone();
            (0..n).for_each(|i| damped.data[i * n + i] += 1.0);
            let right = random(5, n);
            let solved = factor.solve_rows(&right.view().times(damped.view()));
            assert_close(&solved, &right, 1e-3);
            let lower = factor.lower();
            assert_close(&lower.view().times(lower.view().transposed()), &damped, 1e-3);
            assert!((0..n).all(|i| lower.row(i)[i + 1..].iter().all(|value| *value == 0.0)));
        }
    }
}
