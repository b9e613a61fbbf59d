//! Cholesky factors: block after block, so that nearly all of the work is in products of matrices.

use super::matrix::Matrix;
use super::product::Part;
use super::view::View;

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
            solve_block(&mut output, first, &sum, inverse.view().transposed());
        }
        for (first, inverse) in blocks().rev() {
            let after = first + inverse.rows;
            let others = self.lower.rows(after, n - after).columns_from(first, inverse.rows);
            let sum = output.view().columns_from(after, n - after).times(others);
            solve_block(&mut output, first, &sum, inverse.view());
        }
        output
    }

    /// The lower triangle, with zeros above it.
    pub fn lower(self) -> Matrix {
        self.lower
    }
}

/// Replaces the columns of a matrix from `first` on by `(columns - sum) inverse`.
fn solve_block(matrix: &mut Matrix, first: usize, sum: &Matrix, inverse: View<'_>) {
    let mut part = matrix.view().columns_from(first, sum.columns).to_matrix();
    part.subtract_part(sum, 0);
    matrix.set_part(0, first, &part.view().times(inverse));
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
    fn a_factor_of_a_small_matrix_solves() {
        let gram = Matrix::new(2, 2, vec![35.0, 49.0, 49.0, 69.0]);
        let factor = Cholesky::new(&gram, 0.0).unwrap();
        let lower = &factor.lower;
        lower.view().times(lower.view().transposed()).assert_close(&gram, 1e-3);
        let right = Matrix::new(1, 2, vec![35.0 + 98.0, 49.0 + 138.0]);
        factor.solve_rows(&right).assert_close(&Matrix::new(1, 2, vec![1.0, 2.0]), 1e-3);
    }

    #[test]
    fn a_matrix_that_is_not_positive_definite_has_no_factor() {
        assert!(Cholesky::new(&Matrix::new(1, 1, vec![-1.0]), 0.0).is_none());
    }

    #[test]
    fn factors_of_several_blocks_solve() {
        for n in [63, 64, 65, 200] {
            let samples = Matrix::random(2 * n, n);
            let gram = samples.view().gram();
            let factor = Cholesky::new(&gram, 1.0).unwrap();
            let mut damped = gram.clone();
            (0..n).for_each(|i| damped.data[i * n + i] += 1.0);
            let right = Matrix::random(5, n);
            let solved = factor.solve_rows(&right.view().times(damped.view()));
            solved.assert_close(&right, 1e-3);
            let lower = factor.lower();
            lower.view().times(lower.view().transposed()).assert_close(&damped, 1e-3);
            assert!((0..n).all(|i| lower.row(i)[i + 1..].iter().all(|value| *value == 0.0)));
        }
    }
}
