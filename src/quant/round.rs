//! Rows of floats to integers and scales.
//!
//! In q8 every group of up to 32 inputs has a scale of its own. In q4 a row has one scale; a group multiplies it by a
//! small integer, and says which of the 16 levels stands for 0.

use half::f16;

use super::WeightType;
use super::panel::GROUP;

/// A rounded group: `value ~ scale * (multiplier * weight)`. Only as many weights are set as the group has floats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rounded {
    /// The scale, as it is stored: of the group and exact in f16 in q8, of the whole row in q4.
    pub scale: f32,
    /// 1 in q8; 0 to [`multiplier_limit`] in q4.
    pub multiplier: u8,
    /// The stored level that stands for 0: 0 in q8, from [`ZERO_LEVELS`] in q4.
    pub zero: u8,
    /// The integers: -127 to 127 in q8, `-zero` to `15 - zero` in q4.
    pub weights: [i8; GROUP],
}

impl Rounded {
    /// A group of zeros.
    pub const ZERO: Rounded = Rounded { scale: 0.0, multiplier: 0, zero: 8, weights: [0; GROUP] };

    /// The value of weight `index`.
    pub fn value(&self, index: usize) -> f32 {
        self.scale * f32::from(i16::from(self.multiplier) * i16::from(self.weights[index]))
    }
}

/// The levels that may stand for 0 in q4.
pub const ZERO_LEVELS: std::ops::RangeInclusive<u8> = 4..=11;

/// Multipliers that a row's scale is laid out for: its widest group gets about this one.
const WIDEST: f32 = 11.0;
/// Fractions of the scale that maps the widest group of a row to [`WIDEST`] which are tried.
const FRACTIONS: [f32; 4] = [1.0, 0.95, 0.9, 0.85];
/// Multipliers that are tried for a group and a zero level.
const MULTIPLIERS: i32 = 4;

/// The largest multiplier with which every level of a group stays within -127..=127.
pub fn multiplier_limit(zero: u8) -> u8 {
    127 / zero.max(15 - zero)
}

/// The least scale of a group whose levels reach from `-below` to `above`.
pub fn reaching_scale(below: f32, above: f32, zero: u8) -> f32 {
    (above / f32::from(15 - zero)).max(below / f32::from(zero))
}

/// The level for 0 that suits a group from `-below` to `above` best; its neighbours may do as well.
pub fn likely_zero(below: f32, above: f32) -> u8 {
    let share = 15.0 * below / (below + above).max(f32::MIN_POSITIVE);
    (share.round() as u8).clamp(*ZERO_LEVELS.start(), *ZERO_LEVELS.end())
}

/// How far values reach below and above 0.
fn reach(values: &[f32]) -> (f32, f32) {
    values.iter().fold((0.0, 0.0), |(below, above): (f32, f32), &value| (below.max(-value), above.max(value)))
}

/// A q4 row scale as it is stored: 12 significant bits, so that its products with levels are exact, and small enough
/// for them to be finite.
pub fn row_scale(scale: f32) -> f32 {
    f32::from_bits(scale.min(f32::MAX / 128.0).to_bits() & !0xfff)
}

/// The scale with which the widest group of a row gets about [`WIDEST`]: an upper limit of the scales worth trying.
fn widest_scale(row: &[f32]) -> f32 {
    let scale = |group: &[f32]| {
        let (below, above) = reach(group);
        ZERO_LEVELS.map(|zero| reaching_scale(below, above, zero)).fold(f32::INFINITY, f32::min)
    };
    row.chunks(GROUP).map(scale).fold(0.0, f32::max) / WIDEST
}

/// Rounds a row, of any length; `None` if the type is not quantized.
pub fn round_row(kind: WeightType, row: &[f32]) -> Option<Vec<Rounded>> {
    match kind {
        WeightType::Q4 => Some(round_row_q4(row)),
        WeightType::Q8 => Some(row.chunks(GROUP).map(round_q8).collect()),
        _ => None,
    }
}

fn round_row_q4(row: &[f32]) -> Vec<Rounded> {
    let widest = widest_scale(row);
    let mut best = (f64::INFINITY, Vec::new());
    for fraction in FRACTIONS {
        let scale = row_scale(fraction * widest);
        let (groups, errors): (Vec<_>, Vec<_>) =
            row.chunks(GROUP).map(|group| round_q4(group, scale)).unzip();
        let error = errors.into_iter().map(f64::from).sum();
        if error < best.0 || best.1.is_empty() {
            best = (error, groups);
        }
    }
    best.1
}

/// Rounds one group of a row with a given scale; with its squared error.
fn round_q4(values: &[f32], scale: f32) -> (Rounded, f32) {
    let (below, above) = reach(values);
    let mut floats = [0.0; GROUP];
    floats[..values.len()].copy_from_slice(values);
    let mut best =
        (Rounded { scale, ..Rounded::ZERO }, floats.iter().map(|value| value * value).sum::<f32>());
    if scale == 0.0 || best.1 == 0.0 {
        return best;
    }
    let likely = likely_zero(below, above);
    for zero in (likely - 1).max(*ZERO_LEVELS.start())..=(likely + 1).min(*ZERO_LEVELS.end()) {
        let limit = i32::from(multiplier_limit(zero));
        let largest = (reaching_scale(below, above, zero) / scale).ceil() as i32;
        for multiplier in (largest.min(limit) - MULTIPLIERS + 1).max(1)..=largest.clamp(1, limit) {
            let step = scale * multiplier as f32;
            let mut weights = [0.0; GROUP];
            let mut error = 0.0;
            for (weight, value) in weights.iter_mut().zip(&floats) {
                *weight = nearest(value / step, -f32::from(zero), f32::from(15 - zero));
                error += (value - step * *weight) * (value - step * *weight);
            }
            if error < best.1 {
                let weights = weights.map(|weight| weight as i8);
                best = (Rounded { scale, multiplier: multiplier as u8, zero, weights }, error);
            }
        }
    }
    best
}

/// Rounds to the nearest integer from `low` to `high`, ties to even: adding and subtracting 1.5 x 2^23 does it.
fn nearest(value: f32, low: f32, high: f32) -> f32 {
    (value.max(low).min(high) + 12_582_912.0) - 12_582_912.0
}

/// Rounds to -127..=127. -128 is not used, so that every product fits the pairwise int16 sums of AVX2.
pub fn round_q8(values: &[f32]) -> Rounded {
    let (below, above) = reach(values);
    // A scale above the range of f16 would make every weight infinite; saturating keeps them finite.
    let scale = f16::from_f32((below.max(above) / 127.0).min(65504.0)).to_f32();
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let mut weights = [0; GROUP];
    for (weight, value) in weights.iter_mut().zip(values) {
        *weight = nearest(value * inverse, -127.0, 127.0) as i8;
    }
    Rounded { scale, multiplier: 1, zero: 0, weights }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 8) as f32 / 8388608.0 - 1.0
        };
        (0..count).map(|_| next() + next() + next()).collect()
    }

    fn error(values: &[f32], groups: &[Rounded]) -> f32 {
        let of = |(values, group): (&[f32], &Rounded)| {
            values.iter().enumerate().map(|(i, value)| (value - group.value(i)).powi(2)).sum::<f32>()
        };
        values.chunks(GROUP).zip(groups).map(of).sum()
    }

    /// With its 4.25 bits and a row's scale, q4 is as good as a scale of its own for every group of levels -8 to 7.
    #[test]
    fn multipliers_and_zero_levels_beat_plain_scales() {
        let (mut searched, mut plain) = (0.0, 0.0);
        for seed in 0..20 {
            let row = random(320, seed);
            searched += error(&row, &round_row_q4(&row));
            for group in row.chunks(GROUP) {
                let extreme =
                    group.iter().fold(0.0, |max: f32, v| if v.abs() > max.abs() { *v } else { max });
                let step = extreme / -8.0;
                plain += group.iter().map(|v| (v - step * nearest(v / step, -8.0, 7.0)).powi(2)).sum::<f32>();
            }
        }
        assert!(searched < 0.9 * plain, "{searched} against {plain}");
    }

    /// The few candidates that are tried find nearly the best of all.
    #[test]
    fn the_search_misses_little() {
        let (mut found, mut possible) = (0.0, 0.0);
        for seed in 0..40 {
            let group = random(GROUP, seed);
            let scale = row_scale(widest_scale(&group) * (0.9 + seed as f32 * 0.02));
            found += round_q4(&group, scale).1;
            let all = ZERO_LEVELS.flat_map(|zero| (1..=multiplier_limit(zero)).map(move |m| (zero, m)));
            let errors = all.map(|(zero, multiplier)| {
                let step = scale * f32::from(multiplier);
                let level = |v: &f32| nearest(v / step, -f32::from(zero), f32::from(15 - zero));
                group.iter().map(|v| (v - step * level(v)).powi(2)).sum::<f32>()
            });
            possible += errors.fold(f32::INFINITY, f32::min);
        }
        assert!(found < 1.02 * possible, "{found} against {possible}");
    }

    #[test]
    fn levels_stay_in_range() {
        for seed in 0..50 {
            for group in round_row_q4(&random(100, seed)) {
                assert!(
                    group.multiplier <= multiplier_limit(group.zero) && ZERO_LEVELS.contains(&group.zero)
                );
                let (low, high) = (-(group.zero as i8), 15 - group.zero as i8);
                assert!(group.weights.iter().all(|weight| (low..=high).contains(weight)));
            }
        }
    }

    #[test]
    fn extremes_stay_finite() {
        for values in
            [[0.0f32; 4], [f32::MAX; 4], [-f32::MAX; 4], [f32::MIN_POSITIVE; 4], [1e-8, -1e-8, 0.0, 1e-9]]
        {
            for kind in [WeightType::Q4, WeightType::Q8] {
                let groups = round_row(kind, &values).unwrap();
                assert!((0..4).all(|i| groups[0].value(i).is_finite()));
            }
        }
        assert_eq!(round_q8(&[-1.0, 1.0]).weights[..2], [-127, 127]);
    }
}
