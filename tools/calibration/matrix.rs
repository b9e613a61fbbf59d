//! Dense f32 matrices in row order, and the few products that calibration needs, on all cores.

use faer::linalg::matmul::{matmul, triangular};
use faer::{Accum, MatMut, MatRef, Side, get_global_parallelism};
use rayon::prelude::*;

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
        View(MatRef::from_row_major_slice(
            &self.data[first * self.columns..][..rows * self.columns],
            rows,
            self.columns,
        ))
    }

    /// All of it, borrowed.
    pub fn view(&self) -> View<'_> {
        self.rows(0, self.rows)
    }

    fn faer_mut(&mut self) -> MatMut<'_, f32> {
        MatMut::from_row_major_slice_mut(&mut self.data, self.rows, self.columns)
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
pub struct View<'a>(MatRef<'a, f32>);

impl View<'_> {
    /// Rows become columns.
    pub fn transposed(self) -> Self {
        View(self.0.transpose())
    }

    /// Columns `first..first + columns`.
    pub fn columns(self, first: usize, columns: usize) -> Self {
        View(self.0.subcols(first, columns))
    }

    /// A copy.
    pub fn to_matrix(self) -> Matrix {
        let mut output = Matrix::zeros(self.0.nrows(), self.0.ncols());
        output.faer_mut().copy_from(self.0);
        output
    }

    /// The matrix product; of nothing, it is 0.
    pub fn times(self, other: View<'_>) -> Matrix {
        let mut output = Matrix::zeros(self.0.nrows(), other.0.ncols());
        matmul(output.faer_mut(), Accum::Replace, self.0, other.0, 1.0, get_global_parallelism());
        output
    }

    /// The product of the transpose with this: half of the work of any other, for it is symmetric.
    pub fn gram(self) -> Matrix {
        use triangular::BlockStructure::{Rectangular, TriangularLower};
        let n = self.0.ncols();
        let mut output = Matrix::zeros(n, n);
        triangular::matmul(
            output.faer_mut(),
            TriangularLower,
            Accum::Replace,
            self.0.transpose(),
            Rectangular,
            self.0,
            Rectangular,
            1.0,
            get_global_parallelism(),
        );
        let lower = output.clone();
        output.faer_mut().copy_from_strict_triangular_upper(lower.view().0.transpose());
        output
    }
}

/// A factor `L` with `L L^T = matrix + damping I`.
pub struct Cholesky(faer::linalg::solvers::Llt<f32>);

impl Cholesky {
    /// Factors a symmetric matrix; `None` if it is not positive definite.
    pub fn new(matrix: &Matrix, damping: f32) -> Option<Cholesky> {
        let mut damped = matrix.clone();
        for i in 0..matrix.rows {
            damped.data[i * matrix.columns + i] += damping;
        }
        let factor = damped.view().0.llt(Side::Lower).ok()?;
        let finite = (0..matrix.rows).all(|i| factor.L()[(i, i)].is_finite() && factor.L()[(i, i)] > 0.0);
        finite.then_some(Cholesky(factor))
    }

    /// `right (matrix + damping I)^-1`.
    pub fn solve_rows(&self, right: &Matrix) -> Matrix {
        use faer::linalg::solvers::Solve;
        let mut output = right.clone();
        // The matrix is symmetric: solving for the transpose is solving from the right.
        self.0.solve_in_place(output.faer_mut().transpose_mut());
        output
    }

    /// The lower triangle, with zeros above it.
    pub fn lower(&self) -> Matrix {
        let factor = self.0.L();
        let mut output = Matrix::zeros(factor.nrows(), factor.nrows());
        output.faer_mut().copy_from_triangular_lower(factor);
        output
    }
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
        let lower = factor.lower();
        let product = lower.view().times(lower.view().transposed());
        assert!(product.data.iter().zip(&gram.data).all(|(a, b)| (a - b).abs() < 1e-3));
        let right = Matrix::new(1, 2, vec![35.0 + 98.0, 49.0 + 138.0]);
        let solved = factor.solve_rows(&right);
        assert!((solved.data[0] - 1.0).abs() < 1e-3 && (solved.data[1] - 2.0).abs() < 1e-3);
        assert!(Cholesky::new(&Matrix::new(1, 1, vec![-1.0]), 0.0).is_none());
    }
}
