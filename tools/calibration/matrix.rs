//! Dense f32 matrices in row order, and the few products that calibration needs, on all cores.

use rayon::prelude::*;

use super::product::{Output, Part, add_product};
use super::view::View;

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
        View::new(&self.data, self.rows, self.columns)
    }

    /// Replaces as many rows and columns from `(row, column)` on by those of another matrix.
    pub fn set_part(&mut self, row: usize, column: usize, other: &Matrix) {
        for (index, values) in other.data.chunks_exact(other.columns).enumerate() {
            self.row_mut(row + index)[column..][..other.columns].copy_from_slice(values);
        }
    }

    /// Adds `sign * a b` to rows `row..`, columns `column..`.
    pub fn add_product(
        &mut self,
        row: usize,
        column: usize,
        a: View<'_>,
        b: View<'_>,
        sign: f32,
        part: Part,
    ) {
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

/// What makes a matrix of its own.
impl View<'_> {
    /// A copy.
    pub fn to_matrix(self) -> Matrix {
        let mut output = Matrix::zeros(self.rows(), self.columns());
        for row in 0..self.rows() {
            let values = output.row_mut(row).iter_mut().enumerate();
            values.for_each(|(column, value)| *value = self.at(row, column));
        }
        output
    }

    /// The matrix product; of nothing, it is 0.
    pub fn times(self, other: View<'_>) -> Matrix {
        let mut output = Matrix::zeros(self.rows(), other.columns());
        output.add_product(0, 0, self, other, 1.0, Part::All);
        output
    }

    /// The product of the transpose with this: half of the work of any other, for it is symmetric.
    pub fn gram(self) -> Matrix {
        let n = self.columns();
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

#[cfg(test)]
mod tests {
    use super::*;

    impl Matrix {
        /// Values from -1 to 1.
        pub fn random(rows: usize, columns: usize) -> Matrix {
            let mut state = 1u32;
            let mut next = || {
                state = state.wrapping_mul(1664525).wrapping_add(1013904223);
                (state >> 8) as f32 / 8388608.0 - 1.0
            };
            Matrix::new(rows, columns, (0..rows * columns).map(|_| next()).collect())
        }

        pub fn assert_close(&self, expected: &Matrix, tolerance: f32) {
            assert_eq!((self.rows, self.columns), (expected.rows, expected.columns));
            for (index, (found, expected)) in self.data.iter().zip(&expected.data).enumerate() {
                assert!((found - expected).abs() <= tolerance, "{index}: {found}, expected {expected}");
            }
        }
    }

    #[test]
    fn a_gram_matrix_is_the_product_with_the_transpose() {
        let a = Matrix::new(3, 2, vec![1.0, 2.0, 3.0, 4.0, 5.0, 7.0]);
        let gram = a.view().gram();
        assert_eq!(gram.data, [35.0, 49.0, 49.0, 69.0]);
        assert_eq!(gram, a.view().transposed().times(a.view()));
        for columns in [63, 64, 65, 200] {
            let a = Matrix::random(2 * columns, columns);
            a.view().gram().assert_close(&a.view().transposed().times(a.view()), 0.0);
        }
    }

    /// Shapes around those of tiles and blocks, transposes and parts.
    #[test]
    fn products_equal_plain_sums() {
        for (m, k, n) in [(1, 1, 1), (5, 7, 3), (6, 256, 16), (7, 257, 17), (100, 300, 33), (3, 0, 4)] {
            let (a, b) = (Matrix::random(m, k), Matrix::random(k, n));
            let mut expected = Matrix::zeros(m, n);
            for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                let terms = (0..k).map(|l| f64::from(a.data[i * k + l]) * f64::from(b.data[l * n + j]));
                expected.data[i * n + j] = terms.sum::<f64>() as f32;
            }
            a.view().times(b.view()).assert_close(&expected, 1e-4);
            let (a, b) = (a.view().transposed().to_matrix(), b.view().transposed().to_matrix());
            a.view().transposed().times(b.view().transposed()).assert_close(&expected, 1e-4);
        }
    }
}
