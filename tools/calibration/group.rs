//! One group of 32 columns, for 16 rows at a time: integers and a scale of least error where the errors of
//! the columns are coupled.
//!
//! The error of a group is `sum over j of weight[j] (e[j] + sum over i > j of unit[i][j] e[i] + feedback[j])^2`:
//! the form that a Cholesky factor gives to a quadratic form. From the last column down, each is rounded after
//! the errors of those behind it were added to it, and every candidate for the scale is tried in full.

use cinderblock::quant::GROUP;
use half::f16;

use super::matrix::Matrix;

/// Rows that are worked on together.
pub const LANES: usize = 16;
/// A value of each row.
pub type Lanes = [f32; LANES];

/// The integers of a type and how many scales are tried.
#[derive(Clone, Copy, Debug)]
pub struct Levels {
    pub low: f32,
    pub high: f32,
    /// The extreme value is mapped to these multiples of the lowest level.
    candidates: &'static [f32],
}

/// -8 to 7.
pub const Q4: Levels = Levels {
    low: -8.0,
    high: 7.0,
    candidates: &[
        1.2, 1.175, 1.15, 1.125, 1.1, 1.075, 1.05, 1.025, 1.0, 0.975, 0.95, 0.925, 0.9, 0.875, 0.85, 0.825,
        0.8, 0.75, -1.0, -0.925, -0.85,
    ],
};
/// -127 to 127: -128 is not used, so that every product fits the pairwise int16 sums of AVX2.
pub const Q8: Levels = Levels { low: -127.0, high: 127.0, candidates: &[-1.0, -1.01] };

/// How the errors of the columns of a group are coupled.
pub struct Coupling {
    unit: [[f32; GROUP]; GROUP],
    weight: [f32; GROUP],
}

/// 16 rounded groups.
#[derive(Clone)]
pub struct Choice {
    /// Scales, exact in f16.
    pub scale: Lanes,
    /// Integers.
    pub weights: [Lanes; GROUP],
    /// Errors as above.
    pub loss: Lanes,
}

impl Coupling {
    /// From the block of a lower Cholesky factor at `first`.
    pub fn new(lower: &Matrix, first: usize) -> Coupling {
        let value = |i: usize, j: usize| lower.data[(first + i) * lower.columns + first + j];
        Coupling {
            unit: std::array::from_fn(|i| {
                std::array::from_fn(|j| if i > j { value(i, j) / value(j, j) } else { 0.0 })
            }),
            weight: std::array::from_fn(|j| value(j, j) * value(j, j)),
        }
    }

    /// `value[j] + sum over i > j of unit[i][j] value[i]`.
    fn spread(&self, values: &[Lanes; GROUP]) -> [Lanes; GROUP] {
        let mut output = *values;
        for (i, value) in values.iter().enumerate() {
            for (output, unit) in output[..i].iter_mut().zip(&self.unit[i]) {
                for lane in 0..LANES {
                    output[lane] += unit * value[lane];
                }
            }
        }
        output
    }

    /// Error of integers with a scale, for spread targets and integers.
    fn loss(&self, targets: &[Lanes; GROUP], weights: &[Lanes; GROUP], scale: &Lanes) -> Lanes {
        let mut loss = [0.0; LANES];
        for ((target, value), weight) in targets.iter().zip(weights).zip(&self.weight) {
            for lane in 0..LANES {
                let error = target[lane] - scale[lane] * value[lane];
                loss[lane] += weight * error * error;
            }
        }
        loss
    }

    /// Error of values that are given.
    pub fn loss_of(&self, errors: &[Lanes; GROUP]) -> Lanes {
        self.loss(&self.spread(errors), &[[0.0; LANES]; GROUP], &[0.0; LANES])
    }

    /// Rounds with one scale: `targets` are the spread targets with their feedback.
    fn with_scale(&self, targets: &[Lanes; GROUP], levels: Levels, scale: Lanes) -> Choice {
        let inverse = scale.map(|scale| if scale == 0.0 { 0.0 } else { 1.0 / scale });
        // What is left of a target once the chosen levels of the columns behind it are taken off.
        let mut left = *targets;
        let mut choice = Choice { scale, weights: [[0.0; LANES]; GROUP], loss: [0.0; LANES] };
        for j in (0..GROUP).rev() {
            let weights = &mut choice.weights[j];
            let mut value = [0.0; LANES];
            for lane in 0..LANES {
                // Adding and subtracting 1.5 x 2^23 rounds to the nearest integer, ties to even.
                let level = (left[j][lane] * inverse[lane]).max(levels.low).min(levels.high);
                weights[lane] = (level + 12_582_912.0) - 12_582_912.0;
                value[lane] = weights[lane] * scale[lane];
                let error = left[j][lane] - value[lane];
                choice.loss[lane] += self.weight[j] * error * error;
            }
            for (left, unit) in left[..j].iter_mut().zip(&self.unit[j]) {
                for lane in 0..LANES {
                    left[lane] -= unit * value[lane];
                }
            }
        }
        choice
    }

    /// Rounds `targets`, to whose columns `feedback` of other groups is added.
    pub fn round(&self, targets: &[Lanes; GROUP], feedback: &[Lanes; GROUP], levels: Levels) -> Choice {
        let mut spread = self.spread(targets);
        let mut extreme = [0.0f32; LANES];
        for ((spread, feedback), target) in spread.iter_mut().zip(feedback).zip(targets) {
            for lane in 0..LANES {
                spread[lane] += feedback[lane];
                let value = target[lane] + feedback[lane];
                if value.abs() > extreme[lane].abs() {
                    extreme[lane] = value;
                }
            }
        }
        let scales = |factor: f32| extreme.map(|extreme| stored(extreme / (levels.low * factor)));
        let mut best = self.with_scale(&spread, levels, scales(1.0));
        for factor in levels.candidates {
            best.keep_better(&self.with_scale(&spread, levels, scales(*factor)));
        }
        // The best scale of the integers, and the best integers of that scale.
        for _ in 0..2 {
            let weights = self.spread(&best.weights);
            let (mut product, mut square) = ([0.0; LANES], [0.0; LANES]);
            for ((target, value), weight) in spread.iter().zip(&weights).zip(&self.weight) {
                for lane in 0..LANES {
                    product[lane] += weight * target[lane] * value[lane];
                    square[lane] += weight * value[lane] * value[lane];
                }
            }
            let scale: Lanes = std::array::from_fn(|lane| {
                if square[lane] > 0.0 { stored(product[lane] / square[lane]) } else { best.scale[lane] }
            });
            let loss = self.loss(&spread, &weights, &scale);
            best.keep_better(&Choice { scale, weights: best.weights, loss });
            best.keep_better(&self.with_scale(&spread, levels, scale));
        }
        best
    }
}

impl Choice {
    /// Takes from another choice the rows that have less error there.
    pub fn keep_better(&mut self, other: &Choice) {
        for lane in 0..LANES {
            if other.loss[lane] < self.loss[lane] {
                self.loss[lane] = other.loss[lane];
                self.scale[lane] = other.scale[lane];
                for (weights, other) in self.weights.iter_mut().zip(&other.weights) {
                    weights[lane] = other[lane];
                }
            }
        }
    }
}

/// A scale as the file keeps it.
fn stored(scale: f32) -> f32 {
    f16::from_f32(scale.clamp(-65504.0, 65504.0)).to_f32()
}
