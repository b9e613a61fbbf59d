//! A matrix to integers, so that `trace((targets - rounded) moments (targets - rounded)^T)` is small.
//!
//! First every group of columns is rounded in turn, and the columns that are still to come make up for its error
//! (GPTQ; here through the Cholesky factor of the moments themselves, which needs no inverse). Groups with the
//! largest moments come first. Then each group is rounded anew while all others stay, as long as that helps.

use std::ops::Range;

use cinderblock::unstable::quant::{GROUP, PANEL_ROWS, Rounded, WeightType};
use rayon::prelude::*;

use super::cholesky::Cholesky;
use super::group::{Choice, Coupling, Grid, LANES, Lanes, Rounding};
use super::matrix::Matrix;

/// Columns whose product with all others is computed at once.
const BATCH: usize = 8 * GROUP;

/// The moments of a matrix' inputs, prepared for rounding.
pub struct Plan {
    /// Column at each position; positions of a group are those of one group of columns. Columns beyond the
    /// matrix fill the last group.
    order: Vec<usize>,
    columns: usize,
    moments: Matrix,
    /// Lower Cholesky factor, each column divided by its diagonal.
    unit: Matrix,
    couplings: Vec<Coupling>,
    /// Inverses of the diagonal blocks of the moments, and how their errors are coupled.
    blocks: Vec<(Matrix, Coupling)>,
}

/// A rounded matrix.
pub struct Integers {
    /// `[rows, columns / 32]`.
    pub groups: Vec<Rounded>,
    /// What they stand for.
    pub values: Matrix,
}

impl Plan {
    /// Prepares moments `[columns, columns]` with a part of their mean diagonal added to the diagonal. `None` if
    /// they are not positive definite even so.
    pub fn new(moments: &Matrix, damping: f32) -> Option<Plan> {
        let columns = moments.columns;
        let padded = columns.next_multiple_of(GROUP);
        let mean = moments.mean_diagonal();
        let diagonal = |c: usize| if c < columns { moments.data[c * columns + c] } else { 0.0 };
        let mut groups: Vec<Vec<usize>> = (0..padded / GROUP)
            .map(|group| {
                let mut order: Vec<usize> = (group * GROUP..(group + 1) * GROUP).collect();
                order.sort_by(|a, b| diagonal(*a).total_cmp(&diagonal(*b)));
                order
            })
            .collect();
        let trace = |group: &Vec<usize>| group.iter().map(|&c| diagonal(c)).sum::<f32>();
        groups.sort_by(|a, b| trace(a).total_cmp(&trace(b)));
        let order: Vec<usize> = groups.concat();
        let mut permuted = Matrix::zeros(padded, padded);
        for (i, &row) in order.iter().enumerate() {
            let output = permuted.row_mut(i);
            if row < columns {
                let input = moments.row(row);
                for (output, &column) in output.iter_mut().zip(&order) {
                    *output = if column < columns { input[column] } else { 0.0 };
                }
                output[i] += damping * mean;
            } else {
                output[i] = mean;
            }
        }
        let mut unit = Cholesky::new(&permuted, 0.0)?.lower();
        let couplings = (0..padded / GROUP).map(|group| Coupling::new(&unit, group * GROUP)).collect();
        let blocks = (0..padded / GROUP)
            .map(|group| {
                let first = group * GROUP;
                let identity = Matrix::new(
                    GROUP,
                    GROUP,
                    (0..GROUP * GROUP).map(|i| f32::from(u8::from(i % (GROUP + 1) == 0))).collect(),
                );
                let block = permuted.rows(first, GROUP).columns_from(first, GROUP).times(identity.view());
                let factor = Cholesky::new(&block, 0.0)?;
                Some((factor.solve_rows(&identity), Coupling::new(&factor.lower(), 0)))
            })
            .collect::<Option<_>>()?;
        let inverse: Vec<f32> = (0..padded).map(|i| 1.0 / unit.data[i * padded + i]).collect();
        unit.data.par_chunks_mut(padded).for_each(|row| {
            row.iter_mut().zip(&inverse).for_each(|(value, inverse)| *value *= inverse);
        });
        Some(Plan { order, columns, moments: permuted, unit, couplings, blocks })
    }

    /// Rounds a matrix, then improves it `sweeps` times. The row scales of q4 are those of `nearest`, which rounded
    /// about the same weights without plan: what is compensated changes them, but hardly how large the largest are.
    pub fn round(&self, kind: WeightType, targets: &Matrix, nearest: &Integers, sweeps: usize) -> Integers {
        let mut work = Work::new(self, kind, targets, nearest);
        work.compensate();
        for _ in 0..sweeps {
            work.descend();
        }
        work.finish()
    }
}

/// A matrix on the way to integers; columns are in the plan's order, rows in bundles of 16.
struct Work<'p> {
    plan: &'p Plan,
    rows: usize,
    targets: Matrix,
    /// Targets less what the integers stand for.
    errors: Matrix,
    /// `[bundles][groups]`.
    choices: Vec<Choice>,
    /// Of each bundle.
    grids: Vec<Grid>,
}

/// 32 columns of 16 rows, columns first.
fn gather(rows: &[f32], width: usize, first: usize) -> [Lanes; GROUP] {
    std::array::from_fn(|j| std::array::from_fn(|lane| rows[lane * width + first + j]))
}

impl<'p> Work<'p> {
    fn new(plan: &'p Plan, kind: WeightType, targets: &Matrix, nearest: &Integers) -> Work<'p> {
        let (rows, width) = (targets.rows.next_multiple_of(LANES), plan.order.len());
        let mut permuted = Matrix::zeros(rows, width);
        for row in 0..targets.rows {
            let input = targets.row(row);
            for (output, &column) in permuted.row_mut(row).iter_mut().zip(&plan.order) {
                *output = if column < plan.columns { input[column] } else { 0.0 };
            }
        }
        let choices = vec![Choice::ZERO; rows / LANES * (width / GROUP)];
        let scales: Vec<f32> =
            nearest.groups.chunks_exact(width / GROUP).map(|groups| groups[0].scale).collect();
        let grids = scales.chunks(LANES).map(|scales| grid(kind, scales)).collect();
        Work { plan, rows: targets.rows, errors: permuted.clone(), targets: permuted, choices, grids }
    }

    /// Calls `each(bundle targets, bundle errors, bundle of the product, choice, grid)` for a group of all rows.
    fn each(
        &mut self,
        group: usize,
        product: &Matrix,
        each: impl Fn(&[f32], &mut [f32], &[f32], &mut Choice, &Grid) + Sync,
    ) {
        let width = self.plan.order.len();
        let errors = self.errors.data.par_chunks_mut(LANES * width);
        let targets = self.targets.data.par_chunks(LANES * width);
        let product = product.data.par_chunks(LANES * GROUP);
        let choices = self.choices.par_chunks_mut(width / GROUP);
        let bundles = errors.zip(targets).zip(product).zip(choices).zip(&self.grids);
        bundles.for_each(|((((errors, targets), product), choices), grid)| {
            each(targets, errors, product, &mut choices[group], grid);
        });
    }

    /// Rounds group after group from the last; those before make up for the errors.
    fn compensate(&mut self) {
        let width = self.plan.order.len();
        for batch in self.batches() {
            let unit =
                self.plan.unit.rows(batch.end, width - batch.end).columns_from(batch.start, batch.len());
            let behind = self.errors.view().columns_from(batch.end, width - batch.end).times(unit);
            for first in batch.clone().step_by(GROUP).rev() {
                let after = first + GROUP;
                let unit = self.plan.unit.rows(after, batch.end - after).columns_from(first, GROUP);
                let mut feedback = self.errors.view().columns_from(after, batch.end - after).times(unit);
                feedback.add_part(&behind, first - batch.start);
                let group = first / GROUP;
                let coupling = &self.plan.couplings[group];
                self.each(group, &feedback, |targets, errors, feedback, choice, grid| {
                    let targets = gather(targets, width, first);
                    let feedback = gather(feedback, GROUP, 0);
                    *choice =
                        Rounding { coupling, targets: &targets, feedback: &feedback, grid, known: None }
                            .best();
                    store_errors(&targets, choice, errors, width, first);
                });
            }
        }
    }

    /// Rounds each group anew while the others stay.
    fn descend(&mut self) {
        let width = self.plan.order.len();
        for batch in self.batches() {
            let before = self.errors.view().columns_from(batch.start, batch.len()).to_matrix();
            let moments = self.plan.moments.view();
            let gradients = self.errors.view().times(moments.columns_from(batch.start, batch.len()));
            for first in batch.clone().step_by(GROUP).rev() {
                let after = first + GROUP;
                let mut moved = self.errors.view().columns_from(after, batch.end - after).to_matrix();
                moved.subtract_part(&before, after - batch.start);
                let moments = self.plan.moments.rows(after, batch.end - after).columns_from(first, GROUP);
                let mut gradient = moved.view().times(moments);
                gradient.add_part(&gradients, first - batch.start);
                let group = first / GROUP;
                let (inverse, coupling) = &self.plan.blocks[group];
                let step = gradient.view().times(inverse.view());
                self.each(group, &step, |targets, errors, step, choice, grid| {
                    let targets = gather(targets, width, first);
                    let step = gather(step, GROUP, 0);
                    // The free optimum of this group.
                    let mut wanted = step;
                    for (wanted, weights) in wanted.iter_mut().zip(&choice.weights) {
                        for lane in 0..LANES {
                            wanted[lane] += choice.steps.scale[lane] * weights[lane];
                        }
                    }
                    choice.loss = coupling.loss_of(&step).map(|loss| loss * 0.9999);
                    let (feedback, known) = (&[[0.0; LANES]; GROUP], Some(&choice.steps));
                    let better = Rounding { coupling, targets: &wanted, feedback, grid, known }.best();
                    choice.keep_better(&better);
                    store_errors(&targets, choice, errors, width, first);
                });
            }
        }
    }

    /// Positions of consecutive groups, from the last ones on. What comes from all other columns is computed once for a
    /// batch: alone, a group would read all errors for a product of 32 columns.
    fn batches(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let width = self.plan.order.len();
        (0..width).step_by(BATCH).rev().map(move |start| start..width.min(start + BATCH))
    }

    fn finish(self) -> Integers {
        let (plan, width) = (self.plan, self.plan.order.len());
        let groups_of_row = width / GROUP;
        let mut groups = vec![Rounded::ZERO; self.rows * groups_of_row];
        let mut values = Matrix::zeros(self.rows, plan.columns);
        for row in 0..self.rows {
            let (bundle, lane) = (row / LANES, row % LANES);
            let choices = &self.choices[bundle * groups_of_row..][..groups_of_row];
            for (choice, order) in choices.iter().zip(plan.order.chunks_exact(GROUP)) {
                let steps = &choice.steps;
                let rounded = &mut groups[row * groups_of_row + order[0] / GROUP];
                (rounded.scale, rounded.multiplier, rounded.zero) = match &self.grids[bundle] {
                    Grid::Q4(units) => (units[lane], steps.multiplier[lane] as u8, -steps.low[lane] as u8),
                    Grid::Q8 => (steps.scale[lane], 1, 0),
                };
                for (weights, &column) in choice.weights.iter().zip(order) {
                    rounded.weights[column % GROUP] = weights[lane] as i8;
                    if column < plan.columns {
                        values.data[row * plan.columns + column] = steps.scale[lane] * weights[lane];
                    }
                }
            }
        }
        Integers { groups, values }
    }
}

/// What a bundle of rows is rounded to.
fn grid(kind: WeightType, scales: &[f32]) -> Grid {
    if kind != WeightType::Q4 {
        return Grid::Q8;
    }
    let mut units = [0.0; LANES];
    units[..scales.len()].copy_from_slice(scales);
    Grid::Q4(units)
}

fn store_errors(targets: &[Lanes; GROUP], choice: &Choice, errors: &mut [f32], width: usize, first: usize) {
    for (j, (target, weights)) in targets.iter().zip(&choice.weights).enumerate() {
        for lane in 0..LANES {
            errors[lane * width + first + j] = target[lane] - choice.steps.scale[lane] * weights[lane];
        }
    }
}

const _: () = assert!(LANES == PANEL_ROWS);

#[cfg(test)]
mod tests {
    use super::super::tensor::nearest;
    use super::*;
    use cinderblock::unstable::quant::multiplier_limit;

    /// Uniform numbers from -1 to 1.
    fn random(rows: usize, columns: usize, seed: u32) -> Matrix {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 8) as f32 / 8388608.0 - 1.0
        };
        Matrix::new(rows, columns, (0..rows * columns).map(|_| next()).collect())
    }

    fn loss(targets: &Matrix, values: &Matrix, moments: &Matrix) -> f64 {
        let mut error = targets.clone();
        error.data.iter_mut().zip(&values.data).for_each(|(error, value)| *error -= value);
        let weighed = error.view().times(moments.view());
        weighed.data.iter().zip(&error.data).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }

    /// Inputs with few directions, as those of real layers; widths that are no multiple of anything.
    #[test]
    fn compensation_beats_nearest_and_sweeps_improve_it() {
        for (rows, columns) in [(1, 5), (17, 64), (33, 77), (48, 160)] {
            let mixing = random(columns, columns.div_ceil(4), 3);
            let samples = random(400, columns.div_ceil(4), 5).view().times(mixing.view().transposed());
            let mut moments = samples.view().transposed().times(samples.view());
            moments.data.iter_mut().for_each(|value| *value /= 400.0);
            let targets = random(rows, columns, 7);
            let plan = Plan::new(&moments, 0.01).unwrap();
            for kind in [WeightType::Q4, WeightType::Q8] {
                let nearest = nearest(kind, &targets);
                let plain = loss(&targets, &nearest.values, &moments);
                let once = loss(&targets, &plan.round(kind, &targets, &nearest, 0).values, &moments);
                let rounded = plan.round(kind, &targets, &nearest, 3);
                let improved = loss(&targets, &rounded.values, &moments);
                assert!(once < 0.8 * plain, "{kind} {rows} x {columns}: {once} against {plain}");
                assert!(improved < 1.02 * once, "{kind} {rows} x {columns}: {improved} against {once}");
                check_groups(kind, &rounded);
            }
        }
    }

    /// The integers are in range and give exactly the values.
    fn check_groups(kind: WeightType, rounded: &Integers) {
        let columns = rounded.values.columns;
        for (row, groups) in rounded.groups.chunks_exact(columns.div_ceil(GROUP)).enumerate() {
            assert!(kind == WeightType::Q8 || groups.iter().all(|group| group.scale == groups[0].scale));
            for (column, value) in rounded.values.row(row).iter().enumerate() {
                let group = &groups[column / GROUP];
                let (weight, zero) = (group.weights[column % GROUP], group.zero as i8);
                let range = if kind == WeightType::Q4 { -zero..=15 - zero } else { -127..=127 };
                assert!(range.contains(&weight));
                assert!(kind == WeightType::Q8 || group.multiplier <= multiplier_limit(group.zero));
                assert_eq!(*value, group.value(column % GROUP));
            }
        }
    }

    #[test]
    fn moments_of_nothing_are_refused() {
        assert!(Plan::new(&Matrix::zeros(40, 40), 0.01).is_none());
    }

    #[test]
    fn a_matrix_of_zeros_stays_zero() {
        let moments = random(64, 64, 1);
        let moments = moments.view().transposed().times(moments.view());
        let zeros = Matrix::zeros(3, 64);
        let plain = nearest(WeightType::Q4, &zeros);
        let rounded = Plan::new(&moments, 0.01).unwrap().round(WeightType::Q4, &zeros, &plain, 2);
        assert!(rounded.values.data.iter().all(|value| *value == 0.0));
    }
}
