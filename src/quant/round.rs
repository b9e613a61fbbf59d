//! A group of up to 32 floats to integers and one f16 scale.

use half::f16;

use super::panel::GROUP;

/// A rounded group: `value ~ scale * weight`. Only as many weights are set as the group has floats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rounded {
    /// The scale, as it is stored.
    pub scale: f16,
    /// The integers.
    pub weights: [i8; GROUP],
}

impl Rounded {
    /// Rounds with a given scale to the integers from `low` to `high`.
    fn with_scale(values: &[f32], scale: f32, low: i8, high: i8) -> Self {
        // A scale above the range of f16 would make every weight infinite; saturating keeps them finite.
        let scale = f16::from_f32(scale.clamp(-65504.0, 65504.0));
        let inverse = if scale.to_f32() == 0.0 { 0.0 } else { 1.0 / scale.to_f32() };
        let mut weights = [0; GROUP];
        for (weight, value) in weights.iter_mut().zip(values) {
            *weight = (value * inverse).round_ties_even().clamp(f32::from(low), f32::from(high)) as i8;
        }
        Rounded { scale, weights }
    }
}

/// The value of largest magnitude, with its sign.
fn extreme(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most: f32, &value| if value.abs() > most.abs() { value } else { most })
}

/// Rounds to -127..=127. -128 is not used, so that every product fits the pairwise int16 sums of AVX2.
pub fn round_q8(values: &[f32]) -> Rounded {
    Rounded::with_scale(values, extreme(values).abs() / 127.0, -127, 127)
}

/// Rounds to -8..=7, with the scale of least squared error among a few.
///
/// The scale may be negative: the extreme value gets the longer, negative side. For a candidate, the best
/// scale of its integers q is `sum(x q) / sum(q q)`, which leaves the error `sum(x x) - sum(x q)^2 / sum(q q)`.
pub fn round_q4(values: &[f32]) -> Rounded {
    let extreme = extreme(values);
    if extreme == 0.0 {
        return Rounded::with_scale(values, 0.0, -8, 7);
    }
    let (mut best_scale, mut best_gain) = (extreme / -8.0, f32::NEG_INFINITY);
    for step in 0..=16 {
        let inverse = (-9.6 + 0.2 * step as f32) / extreme;
        let (mut product, mut square) = (0.0, 0.0);
        for value in values {
            let weight = (value * inverse).round_ties_even().clamp(-8.0, 7.0);
            product += value * weight;
            square += weight * weight;
        }
        let gain = if square > 0.0 { product * product / square } else { 0.0 };
        if gain > best_gain {
            (best_scale, best_gain) = (product / square, gain);
        }
    }
    Rounded::with_scale(values, best_scale, -8, 7)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(values: &[f32], rounded: &Rounded) -> f32 {
        let scale = rounded.scale.to_f32();
        values.iter().zip(rounded.weights).map(|(v, w)| (v - scale * f32::from(w)).powi(2)).sum()
    }

    #[test]
    fn searched_scales_beat_plain_rounding() {
        let mut state = 7u32;
        let (mut searched, mut plain) = (0.0, 0.0);
        for _ in 0..200 {
            let values: [f32; GROUP] = std::array::from_fn(|_| {
                state = state.wrapping_mul(1664525).wrapping_add(1013904223);
                (state >> 8) as f32 / 8388608.0 - 1.0
            });
            searched += error(&values, &round_q4(&values));
            plain += error(&values, &Rounded::with_scale(&values, extreme(&values) / -8.0, -8, 7));
        }
        assert!(searched < 0.95 * plain, "{searched} against {plain}");
    }

    #[test]
    fn extremes_stay_finite() {
        for values in [[0.0f32; 4], [f32::MAX; 4], [f32::MIN_POSITIVE; 4], [1e-8, -1e-8, 0.0, 1e-9]] {
            for rounded in [round_q4(&values), round_q8(&values)] {
                assert!(rounded.scale.is_finite());
            }
        }
        assert_eq!(round_q8(&[-1.0, 1.0]).weights[..2], [-127, 127]);
    }
}
