//! One matrix: what it should answer to the inputs that it will really see, and the rounding that comes closest.

use cinderblock::unstable::quant::{GROUP, Rounded, WeightType, Weights, pack_floats, round_row};
use rayon::prelude::*;

use super::matrix::Matrix;
use super::round::{Integers, Plan};

/// Part of the mean diagonal that is added to the diagonal of the moments.
const DAMPING: f32 = 0.01;
/// The same where the matrix is moved toward what makes up for the losses before it: more, because that answer
/// rests on the calibration text alone. On the demo model 0.01 gives 6 % more divergence than 0.1.
const TARGET_DAMPING: f32 = 0.5;
/// Rounds of improvement after the compensated rounding.
const SWEEPS: usize = 2;
/// Rows that are rounded together, so that the memory of a vocabulary head stays bounded.
const ROWS: usize = 8192;

/// Columns of inputs to one matrix.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// In the exact model, `[samples, columns]`.
    pub exact: &'a Matrix,
    /// In the model as far as it is rounded.
    pub rounded: &'a Matrix,
    /// How many of the last samples only judge.
    pub held_out: usize,
}

/// How a matrix was rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Each group on its own.
    Nearest,
    /// With compensated errors.
    Compensated,
    /// Not at all: a float type.
    Float,
}

impl Method {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        ["nearest", "compensated", "float"][self as usize]
    }
}

/// A matrix after calibration.
pub struct Calibrated {
    pub kind: WeightType,
    /// `[rows, columns / 32]`; empty for a float type.
    pub groups: Vec<Rounded>,
    /// What the file's weights stand for.
    pub values: Matrix,
    /// Empty if the matrix has none.
    pub bias: Vec<f32>,
    pub method: Method,
    /// Squared error of the outputs on held-out samples, relative to the outputs' variance: rounded to nearest,
    /// and as chosen.
    pub nearest_error: f64,
    pub error: f64,
}

/// Means and second moments of the training samples.
struct Moments {
    exact_mean: Vec<f32>,
    rounded_mean: Vec<f32>,
    /// Of the rounded inputs.
    own: Matrix,
    /// Of the exact inputs less the rounded ones, with the rounded inputs.
    gap: Matrix,
}

fn column_means(matrix: &Matrix, samples: usize) -> Vec<f32> {
    let mut sum = vec![0.0f64; matrix.columns];
    for row in 0..samples {
        sum.iter_mut().zip(matrix.row(row)).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    sum.into_iter().map(|sum| (sum / samples as f64) as f32).collect()
}

/// A product of samples, `a^T b`, as the covariance `a^T b / samples - a_mean b_mean^T`.
fn covariance(mut product: Matrix, a_mean: &[f32], b_mean: &[f32], samples: usize) -> Matrix {
    let columns = product.columns;
    product.data.par_chunks_exact_mut(columns).zip(a_mean).for_each(|(row, a_mean)| {
        for (value, b_mean) in row.iter_mut().zip(b_mean) {
            *value = *value / samples as f32 - a_mean * b_mean;
        }
    });
    product
}

impl Moments {
    /// `centred` where a bias can take up the means.
    fn new(inputs: Inputs<'_>, centred: bool) -> Moments {
        let samples = inputs.exact.rows - inputs.held_out;
        let mean = |matrix: &Matrix| {
            if centred { column_means(matrix, samples) } else { vec![0.0; matrix.columns] }
        };
        let (exact_mean, rounded_mean) = (mean(inputs.exact), mean(inputs.rounded));
        let own = covariance(inputs.rounded.rows(0, samples).gram(), &rounded_mean, &rounded_mean, samples);
        let cross = inputs.exact.rows(0, samples).transposed().times(inputs.rounded.rows(0, samples));
        let mut gap = covariance(cross, &exact_mean, &rounded_mean, samples);
        gap.subtract_part(&own, 0);
        Moments { own, gap, exact_mean, rounded_mean }
    }

    /// The bias that makes the mean of the outputs right.
    fn bias(&self, exact: &Matrix, bias: &[f32], values: &Matrix) -> Vec<f32> {
        let dot =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let row = |(row, bias): (usize, &f32)| {
            let wanted = f64::from(*bias) + dot(exact.row(row), &self.exact_mean);
            (wanted - dot(values.row(row), &self.rounded_mean)) as f32
        };
        bias.iter().enumerate().map(row).collect()
    }
}

/// Rounds each row on its own.
pub fn nearest(kind: WeightType, weights: &Matrix) -> Integers {
    let mut values = Matrix::zeros(weights.rows, weights.columns);
    let output = values.data.par_chunks_mut(weights.columns);
    let groups = output.zip(weights.data.par_chunks(weights.columns)).flat_map_iter(|(output, row)| {
        let groups = round_row(kind, row).expect("a quantized type");
        for (output, rounded) in output.chunks_mut(GROUP).zip(&groups) {
            output.iter_mut().enumerate().for_each(|(i, output)| *output = rounded.value(i));
        }
        groups
    });
    Integers { groups: groups.collect(), values }
}

/// What rounded weights make of the rounded inputs of the held-out samples, `[held_out, rows]`, without bias.
fn outputs(inputs: Inputs<'_>, values: &Matrix) -> Matrix {
    let first = inputs.rounded.rows - inputs.held_out;
    inputs.rounded.rows(first, inputs.held_out).times(values.view().transposed())
}

/// Squared error of outputs, to which `bias` is added, against what the exact matrix makes of the exact inputs.
fn judge(wanted: &Matrix, outputs: &Matrix, bias: &[f32]) -> f64 {
    let rows = wanted.data.par_chunks(wanted.columns).zip(outputs.data.par_chunks(wanted.columns));
    rows.map(|(wanted, output)| {
        let each = wanted.iter().zip(output).enumerate();
        let error = |(row, (wanted, output)): (usize, (&f32, &f32))| {
            f64::from(wanted - output - bias.get(row).copied().unwrap_or(0.0)).powi(2)
        };
        each.map(error).sum::<f64>()
    })
    // One after the other, so that the sum never depends on which thread was first.
    .collect::<Vec<f64>>()
    .into_iter()
    .sum()
}

/// What the held-out samples should give, `[held_out, rows]`, and its variance summed over all of it.
fn wanted(inputs: Inputs<'_>, weights: &Matrix, bias: &[f32]) -> (Matrix, f64) {
    let first = inputs.exact.rows - inputs.held_out;
    let mut wanted = inputs.exact.rows(first, inputs.held_out).times(weights.view().transposed());
    let means = column_means(&wanted, wanted.rows);
    let square = |(row, value): (usize, &f32)| f64::from(value - means[row % weights.rows]).powi(2);
    let variance = wanted.data.iter().enumerate().map(square).sum();
    if !bias.is_empty() {
        wanted.add_row(bias);
    }
    (wanted, variance)
}

/// Rounds a matrix for its inputs.
pub fn calibrate(kind: WeightType, weights: &Matrix, bias: &[f32], inputs: Inputs<'_>) -> Calibrated {
    if !kind.is_quantized() {
        return float(kind, weights, bias);
    }
    let moments = Moments::new(inputs, !bias.is_empty());
    // The least-squares answer to what the rounded model feeds in lies off the exact weights by
    // weights gap own^-1.
    let plan = Plan::new(&moments.own, DAMPING);
    let factor = super::cholesky::Cholesky::new(&moments.own, TARGET_DAMPING * moments.own.mean_diagonal());

    let mut all = Calibrated {
        kind,
        groups: Vec::new(),
        values: Matrix::zeros(0, weights.columns),
        bias: Vec::new(),
        method: Method::Nearest,
        nearest_error: 0.0,
        error: 0.0,
    };
    let mut variance = 0.0;
    for first in (0..weights.rows).step_by(ROWS) {
        let rows = ROWS.min(weights.rows - first);
        let part = |matrix: &Matrix| {
            let range = first * matrix.columns..(first + rows) * matrix.columns;
            Matrix::new(rows, matrix.columns, matrix.data[range].to_vec())
        };
        let exact = part(weights);
        let own_bias = if bias.is_empty() { bias } else { &bias[first..first + rows] };
        let (wanted, own_variance) = wanted(inputs, &exact, own_bias);
        variance += own_variance;

        let plain = nearest(kind, &exact);
        let plain_bias = moments.bias(&exact, own_bias, &plain.values);
        let plain_outputs = outputs(inputs, &plain.values);
        let nearest_error = judge(&wanted, &plain_outputs, own_bias);
        let mut best = (judge(&wanted, &plain_outputs, &plain_bias), plain, plain_bias);
        if let (Some(plan), Some(factor)) = (&plan, &factor) {
            let offset = exact.view().times(moments.gap.view());
            let mut targets = factor.solve_rows(&offset);
            targets.add(&exact);
            let rounded = plan.round(kind, &targets, &best.1, SWEEPS);
            let bias = moments.bias(&exact, own_bias, &rounded.values);
            let error = judge(&wanted, &outputs(inputs, &rounded.values), &bias);
            if error < best.0 {
                best = (error, rounded, bias);
                all.method = Method::Compensated;
            }
        }
        all.nearest_error += nearest_error;
        all.error += best.0;
        all.groups.extend(best.1.groups);
        all.values.data.extend(best.1.values.data);
        all.values.rows += rows;
        all.bias.extend(best.2);
    }
    all.nearest_error /= variance.max(f64::MIN_POSITIVE);
    all.error /= variance.max(f64::MIN_POSITIVE);
    all
}

/// Rounds a table whose rows are looked up; `sensitivity` `[columns, columns]` weighs their errors.
pub fn calibrate_table(kind: WeightType, table: &Matrix, sensitivity: &Matrix) -> Calibrated {
    if !kind.is_quantized() {
        return float(kind, table, &[]);
    }
    let weigh = |difference: &Matrix| {
        let weighed = difference.view().times(sensitivity.view());
        let products = weighed.data.iter().zip(&difference.data);
        products.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
    };
    let error = |values: &Matrix| {
        let mut difference = values.clone();
        difference.data.iter_mut().zip(&table.data).for_each(|(value, exact)| *value -= exact);
        weigh(&difference) / weigh(table).max(f64::MIN_POSITIVE)
    };
    let plain = nearest(kind, table);
    let nearest_error = error(&plain.values);
    let mut best = (nearest_error, plain, Method::Nearest);
    if let Some(plan) = Plan::new(sensitivity, DAMPING) {
        let rounded = plan.round(kind, table, &best.1, SWEEPS);
        let error = error(&rounded.values);
        if error < best.0 {
            best = (error, rounded, Method::Compensated);
        }
    }
    let (error, Integers { groups, values }, method) = best;
    Calibrated { kind, groups, values, bias: Vec::new(), method, nearest_error, error }
}

/// A matrix that is kept in a float type.
fn float(kind: WeightType, weights: &Matrix, bias: &[f32]) -> Calibrated {
    let mut bytes = Vec::new();
    pack_floats(kind, &weights.data, &mut bytes);
    let view = Weights::new(kind, weights.rows, weights.columns, &bytes);
    let mut values = Matrix::zeros(weights.rows, weights.columns);
    if let Some(view) = view {
        (0..weights.rows).for_each(|row| view.row(row, values.row_mut(row)));
    }
    let (groups, bias) = (Vec::new(), bias.to_vec());
    Calibrated { kind, groups, values, bias, method: Method::Float, nearest_error: 0.0, error: 0.0 }
}
