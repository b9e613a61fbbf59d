//! One group of 32 columns, for 16 rows at a time: integers and a scale of least error where the errors of
//! the columns are coupled.
//!
//! The error of a group is `sum over j of weight[j] (e[j] + sum over i > j of unit[i][j] e[i] + feedback[j])^2`:
//! the form that a Cholesky factor gives to a quadratic form. From the last column down, each is rounded after
//! the errors of those after it were added to it, and every candidate for the scale is tried in full.

use cinderblock::unstable::kernels::{Vectorized, vectorize};
use cinderblock::unstable::quant::{GROUP, ZERO_LEVELS, likely_zero, multiplier_limit, reaching_scale};
use half::f16;

use super::matrix::Matrix;

/// Rows that are worked on together.
pub const LANES: usize = 16;
/// A value of each row.
pub type Lanes = [f32; LANES];

/// What groups are rounded to.
#[derive(Clone, Copy)]
pub enum Grid {
    /// 16 levels, of which one is 0, times a multiple of the row's scale, which is given.
    Q4(Lanes),
    /// -127 to 127, times any scale that f16 has: -128 is not used, so that every product fits the pairwise int16 sums of AVX2.
    Q8,
}

/// Integers from `low` to `high`, times `scale`.
#[derive(Clone, Copy)]
pub struct Steps {
    pub scale: Lanes,
    /// The multiple of the row's scale; 1 in q8.
    pub multiplier: Lanes,
    pub low: Lanes,
    pub high: Lanes,
}

impl Steps {
    /// Zeros alone.
    pub const ZERO: Steps =
        Steps { scale: [0.0; LANES], multiplier: [0.0; LANES], low: [-8.0; LANES], high: [7.0; LANES] };
}

/// Multipliers that are tried with a zero level, up to the one with which its levels reach all values, and beyond.
const MULTIPLIERS: i32 = 5;
const BEYOND: i32 = 1;

impl Grid {
    /// Steps that may suit values from `-below` to `above`.
    #[inline(always)]
    fn candidates(&self, below: &Lanes, above: &Lanes) -> Vec<Steps> {
        match self {
            Grid::Q4(units) => {
                let tried = (-1..=1).flat_map(|shift| (0..MULTIPLIERS).map(move |less| (shift, less)));
                tried.map(|(shift, less)| q4_candidate(units, below, above, shift, less)).collect()
            }
            Grid::Q8 => {
                let scale =
                    |factor| std::array::from_fn(|lane| factor * below[lane].max(above[lane]) / 127.0);
                [1.0, 0.99].map(|factor| q8_steps(scale(factor))).to_vec()
            }
        }
    }

    /// Steps next to those that rounded values from `-below` to `above` before.
    #[inline(always)]
    fn neighbours(&self, steps: &Steps, below: &Lanes, above: &Lanes) -> Vec<Steps> {
        let Grid::Q4(units) = self else {
            return self.candidates(below, above);
        };
        let beside = |(up, more): (f32, f32)| {
            let mut beside = *steps;
            for (lane, unit) in units.iter().enumerate() {
                let zero = (up - steps.low[lane])
                    .clamp(f32::from(*ZERO_LEVELS.start()), f32::from(*ZERO_LEVELS.end()));
                let limit = f32::from(multiplier_limit(zero as u8));
                beside.low[lane] = -zero;
                beside.high[lane] = 15.0 - zero;
                beside.multiplier[lane] = (steps.multiplier[lane] + more).clamp(1.0, limit);
                beside.scale[lane] = beside.multiplier[lane] * unit;
            }
            beside
        };
        [(0.0, 0.0), (0.0, -1.0), (0.0, 1.0), (-1.0, 0.0), (1.0, 0.0)].map(beside).to_vec()
    }

    /// The steps whose scale is next to a given one, with the range of others.
    #[inline(always)]
    fn with_scale(&self, range: &Steps, scale: &Lanes) -> Steps {
        let Grid::Q4(units) = self else {
            return q8_steps(*scale);
        };
        let multiplier: Lanes = std::array::from_fn(|lane| {
            let wanted = if units[lane] > 0.0 { (scale[lane] / units[lane]).round() } else { 0.0 };
            wanted.clamp(0.0, f32::from(multiplier_limit(-range.low[lane] as u8)))
        });
        Steps { scale: std::array::from_fn(|lane| multiplier[lane] * units[lane]), multiplier, ..*range }
    }
}

/// The zero level that is `shift` from the likely one; `less` multipliers below the largest that is tried.
#[inline(always)]
fn q4_candidate(units: &Lanes, below: &Lanes, above: &Lanes, shift: i8, less: i32) -> Steps {
    let mut steps = Steps::ZERO;
    for lane in 0..LANES {
        let (unit, below, above) = (units[lane], below[lane], above[lane]);
        let zero = likely_zero(below, above).saturating_add_signed(shift);
        let zero = zero.clamp(*ZERO_LEVELS.start(), *ZERO_LEVELS.end());
        steps.low[lane] = -f32::from(zero);
        steps.high[lane] = f32::from(15 - zero);
        if unit > 0.0 {
            let limit = i32::from(multiplier_limit(zero));
            let largest = ((reaching_scale(below, above, zero) / unit).ceil() as i32).saturating_add(BEYOND);
            steps.multiplier[lane] = (largest.min(limit) - less).max(1) as f32;
            steps.scale[lane] = steps.multiplier[lane] * unit;
        }
    }
    steps
}

#[inline(always)]
fn q8_steps(scale: Lanes) -> Steps {
    let scale = scale.map(|scale| f16::from_f32(scale.clamp(-65504.0, 65504.0)).to_f32());
    Steps { scale, multiplier: [1.0; LANES], low: [-127.0; LANES], high: [127.0; LANES] }
}

/// How the errors of the columns of a group are coupled.
pub struct Coupling {
    unit: [[f32; GROUP]; GROUP],
    weight: [f32; GROUP],
}

/// 16 rounded groups.
#[derive(Clone)]
pub struct Choice {
    pub steps: Steps,
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
    #[inline(always)]
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
    #[inline(always)]
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

    /// Rounds with given steps: `targets` are the spread targets with their feedback.
    #[inline(always)]
    fn with_steps(&self, targets: &[Lanes; GROUP], steps: Steps) -> Choice {
        let Steps { scale, low, high, .. } = steps;
        let inverse = scale.map(|scale| if scale == 0.0 { 0.0 } else { 1.0 / scale });
        // What is left of a target once the chosen levels of the columns after it are taken off.
        let mut left = *targets;
        let mut choice = Choice { steps, weights: [[0.0; LANES]; GROUP], loss: [0.0; LANES] };
        for j in (0..GROUP).rev() {
            let weights = &mut choice.weights[j];
            let mut value = [0.0; LANES];
            for lane in 0..LANES {
                // Adding and subtracting 1.5 x 2^23 rounds to the nearest integer, ties to even.
                let level = (left[j][lane] * inverse[lane]).max(low[lane]).min(high[lane]);
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
}

/// Targets of a group, to whose columns `feedback` of other groups is added, to be rounded; with steps next to
/// `known` ones, if there are any.
pub struct Rounding<'a> {
    pub coupling: &'a Coupling,
    pub targets: &'a [Lanes; GROUP],
    pub feedback: &'a [Lanes; GROUP],
    pub grid: &'a Grid,
    pub known: Option<&'a Steps>,
}

impl Rounding<'_> {
    /// The best choice. It takes the most time of rounding, so it is compiled for the widest registers.
    pub fn best(self) -> Choice {
        vectorize(self)
    }
}

impl Vectorized for Rounding<'_> {
    type Output = Choice;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> Choice {
        let Rounding { coupling, targets, feedback, grid, known } = self;
        let mut spread = coupling.spread(targets);
        let (mut below, mut above) = ([0.0f32; LANES], [0.0f32; LANES]);
        for ((spread, feedback), target) in spread.iter_mut().zip(feedback).zip(targets) {
            for lane in 0..LANES {
                spread[lane] += feedback[lane];
                let value = target[lane] + feedback[lane];
                below[lane] = below[lane].max(-value);
                above[lane] = above[lane].max(value);
            }
        }
        let mut best = coupling.with_steps(&spread, Steps::ZERO);
        let candidates = match known {
            Some(steps) => grid.neighbours(steps, &below, &above),
            None => grid.candidates(&below, &above),
        };
        for steps in candidates {
            best.keep_better(&coupling.with_steps(&spread, steps));
        }
        // The best scale of the integers, and the best integers of that scale.
        for _ in 0..2 {
            let weights = coupling.spread(&best.weights);
            let (mut product, mut square) = ([0.0; LANES], [0.0; LANES]);
            for ((target, value), weight) in spread.iter().zip(&weights).zip(&coupling.weight) {
                for lane in 0..LANES {
                    product[lane] += weight * target[lane] * value[lane];
                    square[lane] += weight * value[lane] * value[lane];
                }
            }
            let scale: Lanes = std::array::from_fn(|lane| {
                if square[lane] > 0.0 { product[lane] / square[lane] } else { best.steps.scale[lane] }
            });
            let steps = grid.with_scale(&best.steps, &scale);
            let loss = coupling.loss(&spread, &weights, &steps.scale);
            best.keep_better(&Choice { steps, weights: best.weights, loss });
            best.keep_better(&coupling.with_steps(&spread, steps));
        }
        best
    }
}

impl Choice {
    /// Nothing but zeros, of any loss.
    pub const ZERO: Choice =
        Choice { steps: Steps::ZERO, weights: [[0.0; LANES]; GROUP], loss: [0.0; LANES] };

    /// Takes from another choice the rows that have less error there.
    #[inline(always)]
    pub fn keep_better(&mut self, other: &Choice) {
        for lane in 0..LANES {
            if other.loss[lane] < self.loss[lane] {
                self.loss[lane] = other.loss[lane];
                self.steps.scale[lane] = other.steps.scale[lane];
                self.steps.multiplier[lane] = other.steps.multiplier[lane];
                self.steps.low[lane] = other.steps.low[lane];
                self.steps.high[lane] = other.steps.high[lane];
                for (weights, other) in self.weights.iter_mut().zip(&other.weights) {
                    weights[lane] = other[lane];
                }
            }
        }
    }
}
