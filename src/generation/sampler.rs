//! Logits to a token: repetition penalty and bias, then temperature, top-k, top-p and min-p, then a draw.

use super::constraint::{Constraint, nothing_allowed};
use super::sampler_options::SamplerOptions;
use crate::error::Result;
use crate::memory::reserve;

/// A sampler and its state: the random numbers and the recent tokens. All its memory is allocated at its creation.
pub struct Sampler {
    options: SamplerOptions,
    random: u64,
    recent: Vec<u32>,
    next_recent: usize,
    candidates: Vec<(f32, u32)>,
}

/// What the state of SplitMix64 moves by.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The numbers that a sampler will draw tokens with, one a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Draws(u64);

impl Draws {
    /// The one of the token after the next `ahead` tokens: at least 0 and less than 1. SplitMix64: its sequence is part
    /// of what a seed promises.
    pub(crate) fn nth(self, ahead: usize) -> f64 {
        let mut z = self.0.wrapping_add(STEP.wrapping_mul(ahead as u64 + 1));
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) >> 11) as f64 / (1u64 << 53) as f64
    }
}

impl Sampler {
    /// A sampler for a vocabulary.
    ///
    /// # Errors
    /// If an option is out of range, or no token is left that may be chosen.
    pub fn new(options: SamplerOptions, vocabulary: usize) -> Result<Sampler> {
        options.check(vocabulary)?;
        let (mut recent, mut candidates) = (Vec::new(), Vec::new());
        reserve(&mut recent, options.window(), "sampler")?;
        reserve(&mut candidates, vocabulary, "sampler")?;
        Ok(Sampler { random: options.seed, recent, next_recent: 0, candidates, options })
    }

    /// Bytes that a sampler takes.
    pub(crate) fn bytes(options: &SamplerOptions, vocabulary: usize) -> usize {
        let candidates = vocabulary.saturating_mul(size_of::<(f32, u32)>());
        candidates.saturating_add(options.window() * size_of::<u32>())
    }

    /// The options it was created with.
    pub fn options(&self) -> &SamplerOptions {
        &self.options
    }

    /// The state of the random numbers, the recent tokens, and which of them is the oldest once the window is
    /// full.
    pub(crate) fn state(&self) -> (u64, &[u32], usize) {
        (self.random, &self.recent, self.next_recent)
    }

    /// Replaces what [`Sampler::state`] gives; `None` if no sampler with these options could have it.
    pub(crate) fn restore(mut self, random: u64, recent: &[u32], oldest: usize) -> Option<Sampler> {
        let window = self.options.window();
        let full = recent.len() == window && window > 0;
        if recent.len() > window || oldest >= if full { window } else { 1 } {
            return None;
        }
        self.recent.extend_from_slice(recent);
        (self.random, self.next_recent) = (random, oldest);
        Some(self)
    }

    /// Takes the last draw back, if `random` was the state before it.
    pub(crate) fn undo(&mut self, random: u64) {
        self.random = random;
    }

    /// Replaces the recent tokens, oldest first.
    pub(crate) fn remember(&mut self, tokens: &[u32]) {
        self.recent.clear();
        self.next_recent = 0;
        tokens.iter().for_each(|token| self.accept(*token));
    }

    fn uniform(&mut self) -> f64 {
        let drawn = Draws(self.random).nth(0);
        self.random = self.random.wrapping_add(STEP);
        drawn
    }

    /// The numbers that the next tokens will be drawn with; `None` if they are not drawn.
    pub(crate) fn draws(&self) -> Option<Draws> {
        (self.options.temperature > 0.0).then_some(Draws(self.random))
    }

    /// Notes a token of the text, so that repeating it can be penalized.
    pub fn accept(&mut self, token: u32) {
        let window = self.options.window();
        if window == 0 {
            return;
        }
        if self.recent.len() < window {
            self.recent.push(token);
        } else {
            self.recent[self.next_recent] = token;
            self.next_recent = (self.next_recent + 1) % window;
        }
    }

    /// Chooses a token. `logits` are finite and not empty; ties go to the smaller id.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        let greedy = self.options.temperature == 0.0;
        if greedy && self.recent.is_empty() && self.options.logit_bias.is_empty() {
            let better = |best: usize, token: usize| {
                if logits[token].total_cmp(&logits[best]).is_gt() { token } else { best }
            };
            return (1..logits.len()).fold(0, better) as u32;
        }
        self.adjust(logits);
        self.draw()
    }

    /// As [`Sampler::sample`], among the tokens that a constraint allows; `None` if it ends the text.
    ///
    /// # Errors
    /// As [`Constraint::allowed`], and if all allowed tokens are forbidden by biases.
    pub(crate) fn sample_within(
        &mut self,
        logits: &[f32],
        constraint: Option<&mut (dyn Constraint + '_)>,
    ) -> Result<Option<u32>> {
        let Some(constraint) = constraint else { return Ok(Some(self.sample(logits))) };
        let Some(allowed) = constraint.allowed()? else { return Ok(None) };
        self.adjust(logits);
        let bit =
            |token: u32| allowed.get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1);
        self.candidates.retain(|(logit, token)| *logit > f32::NEG_INFINITY && bit(*token));
        if self.candidates.is_empty() {
            return Err(nothing_allowed());
        }
        Ok(Some(self.draw()))
    }

    /// Chooses one of the candidates.
    fn draw(&mut self) -> u32 {
        let greedy = self.options.temperature == 0.0;
        let best = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        let most = *self.candidates.iter().min_by(|a, b| best(a, b)).expect("a vocabulary is not empty");
        if greedy {
            return most.1;
        }
        self.candidates.retain(|candidate| candidate.0 > f32::NEG_INFINITY);
        let k = self.options.top_k;
        if k > 0 && k < self.candidates.len() {
            self.candidates.select_nth_unstable_by(k - 1, best);
            self.candidates.truncate(k);
        }
        let temperature = f64::from(self.options.temperature);
        let weight = |logit: f32| (f64::from(logit - most.0) / temperature).exp();
        let least = f64::from(self.options.min_p);
        if least > 0.0 {
            self.candidates.retain(|candidate| weight(candidate.0) >= least);
        }
        // From here on in a fixed order, because it decides which token a draw falls on.
        self.candidates.sort_unstable_by(best);
        let mut total: f64 = self.candidates.iter().map(|candidate| weight(candidate.0)).sum();
        if self.options.top_p < 1.0 {
            let wanted = total * f64::from(self.options.top_p);
            let (mut kept, mut sum) = (0, 0.0);
            while kept < self.candidates.len() && (kept == 0 || sum < wanted) {
                sum += weight(self.candidates[kept].0);
                kept += 1;
            }
            self.candidates.truncate(kept);
            total = sum;
        }
        let mut left = self.uniform() * total;
        for (logit, token) in &self.candidates {
            left -= weight(*logit);
            if left < 0.0 {
                return *token;
            }
        }
        // The sum was rounded: the last of those that can be drawn.
        let drawn = self.candidates.iter().rev().find(|candidate| weight(candidate.0) > 0.0);
        drawn.map_or(most.1, |candidate| candidate.1)
    }

    /// Makes the candidates of the logits. Whatever the options add up to, a candidate is finite, unless it is forbidden:
    /// then it is negative infinity.
    fn adjust(&mut self, logits: &[f32]) {
        let finite = |logit: f32| logit.clamp(f32::MIN, f32::MAX);
        let penalty = self.options.repetition_penalty;
        self.candidates.clear();
        self.candidates.extend(logits.iter().copied().zip(0..));
        for token in &self.recent {
            if let Some((logit, _)) = self.candidates.get_mut(*token as usize) {
                // From the given logits, so that a token that came twice is penalized once.
                let given = logits[*token as usize];
                *logit = finite(if given > 0.0 { given / penalty } else { given * penalty });
            }
        }
        for (token, bias) in &self.options.logit_bias {
            let logit = &mut self.candidates[*token as usize].0;
            let forbidden = logit.min(*bias) == f32::NEG_INFINITY;
            *logit = if forbidden { f32::NEG_INFINITY } else { finite(*logit + bias) };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sampler(options: SamplerOptions) -> Sampler {
        Sampler::new(options, 4).unwrap()
    }

    fn counts(options: SamplerOptions, logits: &[f32]) -> [u32; 4] {
        let mut sampler = sampler(options);
        let mut counts = [0; 4];
        for _ in 0..10_000 {
            counts[sampler.sample(logits) as usize] += 1;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_first_of_the_best() {
        let mut sampler = sampler(SamplerOptions { temperature: 0.0, ..SamplerOptions::plain() });
        assert_eq!(sampler.sample(&[1.0, 3.0, 3.0, -1.0]), 1);
    }

    #[test]
    fn draws_follow_the_distribution() {
        let logits = [0.5f32, 0.25, 0.125, 0.125].map(f32::ln);
        let counts = counts(SamplerOptions::plain(), &logits);
        for (count, expected) in counts.into_iter().zip([5000, 2500, 1250, 1250]) {
            assert!(count.abs_diff(expected) < 200, "{counts:?}");
        }
    }

    #[test]
    fn filters_keep_what_they_say() {
        let logits = [0.5f32, 0.25, 0.15, 0.1].map(f32::ln);
        let plain = SamplerOptions::plain();
        assert_eq!(counts(SamplerOptions { top_k: 2, ..plain.clone() }, &logits)[2..], [0, 0]);
        assert_eq!(counts(SamplerOptions { top_p: 0.7, ..plain.clone() }, &logits)[2..], [0, 0]);
        assert_eq!(counts(SamplerOptions { min_p: 0.25, ..plain.clone() }, &logits)[3], 0);
        assert_eq!(counts(SamplerOptions { top_p: 0.01, ..plain }, &logits)[0], 10_000);
    }

    #[test]
    fn a_penalty_turns_away_from_recent_tokens() {
        let options = SamplerOptions {
            temperature: 0.0,
            repetition_penalty: 2.0,
            repetition_window: 2,
            ..SamplerOptions::plain()
        };
        let mut sampler = sampler(options);
        let logits = [4.0, 3.0, 2.5, -1.0];
        let mut text = Vec::new();
        for _ in 0..4 {
            let token = sampler.sample(&logits);
            sampler.accept(token);
            text.push(token);
        }
        assert_eq!(text, [0, 1, 2, 0]);
    }

    #[test]
    fn a_bias_is_added_and_forbids() {
        let logits = [4.0, 3.0, 2.5, -1.0];
        let greedy = |bias: &[(u32, f32)]| {
            let options =
                SamplerOptions { temperature: 0.0, logit_bias: bias.to_vec(), ..SamplerOptions::plain() };
            sampler(options).sample(&logits)
        };
        assert_eq!(greedy(&[(0, -2.0)]), 1);
        assert_eq!(greedy(&[(3, 3.0), (3, 3.0)]), 3);
        let bias = [(0, f32::NEG_INFINITY), (2, f32::NEG_INFINITY)];
        assert_eq!(greedy(&bias), 1);
        let options = SamplerOptions { logit_bias: bias.to_vec(), ..SamplerOptions::plain() };
        let counts = counts(options, &logits);
        assert!(counts[0] == 0 && counts[1] > 0 && counts[2] == 0 && counts[3] > 0, "{counts:?}");
    }

    /// The tokens that come of many draws, with the last two recent.
    fn drawn(options: SamplerOptions, logits: &[f32]) -> [u32; 4] {
        let mut sampler = sampler(SamplerOptions { repetition_window: 2, ..options });
        let mut counts = [0; 4];
        for _ in 0..1000 {
            sampler.remember(&[2, 3]);
            counts[sampler.sample(logits) as usize] += 1;
        }
        counts
    }

    #[test]
    fn numbers_beyond_f32_choose_what_they_mean() {
        const MAX: f32 = f32::MAX;
        const NEVER: f32 = f32::NEG_INFINITY;
        let logits = [4.0, 3.0, 2.5, -1.0];
        for temperature in [0.0, 1e-45, 1e-39, 1.0, MAX] {
            let with = |penalty: f32, bias: &[(u32, f32)]| {
                let options = SamplerOptions {
                    temperature,
                    top_k: usize::MAX,
                    repetition_penalty: penalty,
                    logit_bias: bias.to_vec(),
                    ..Default::default()
                };
                drawn(options, &logits)
            };
            // Far above all others, by as much as fits.
            if temperature <= 1.0 {
                assert_eq!(with(1.0, &[(3, MAX), (3, MAX), (3, MAX)]), [0, 0, 0, 1000]);
                // 2.5 / 1e-39 is more than f32 has, -1 * 1e-39 next to nothing.
                assert_eq!(with(1e-39, &[]), [0, 0, 1000, 0]);
                assert_eq!(with(1e-45, &[]), [0, 0, 1000, 0]);
                // Unlikely beyond measure, and not forbidden: there is nothing else.
                let down = [(0, NEVER), (1, NEVER), (2, NEVER), (3, -MAX), (3, -MAX)];
                assert_eq!(with(1.0, &down), [0, 0, 0, 1000]);
                assert_eq!(with(MAX, &down), [0, 0, 0, 1000]);
            }
            // A forbidden token stays so, whatever else is said about it.
            let counts = with(1e-39, &[(2, MAX), (2, NEVER), (2, MAX), (2, MAX)]);
            assert_eq!((counts[2], counts.iter().sum::<u32>()), (0, 1000));
            let counts = with(MAX, &[(0, NEVER), (1, NEVER)]);
            assert_eq!(counts[0] + counts[1], 0);
        }
    }

    #[test]
    fn a_draw_at_the_end_of_the_sum_is_no_token_without_weight() {
        // As many that cannot be drawn as it takes to be the last ones.
        let mut logits = vec![-1e30f32; 1000];
        logits[..3].copy_from_slice(&[0.1, 0.2, 0.3]);
        let bias = (500..1000).map(|token| (token, f32::NEG_INFINITY)).collect();
        let options = SamplerOptions { logit_bias: bias, ..Default::default() };
        let mut sampler = Sampler::new(options, 1000).unwrap();
        for seed in 0..20_000u64 {
            sampler.undo(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            assert!(sampler.sample(&logits) < 3);
        }
    }

    #[test]
    fn a_vocabulary_without_end_is_an_error() {
        let error = Sampler::new(SamplerOptions::default(), usize::MAX).err().unwrap();
        assert_eq!(error.kind(), crate::ErrorKind::Resource);
        assert!(
            Sampler::new(SamplerOptions { repetition_window: usize::MAX, ..Default::default() }, 4).is_ok()
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Any options that are accepted choose a token that is not forbidden, and among the most likely `top_k`.
        #[test]
        fn no_options_choose_a_forbidden_token(
            temperature in prop_oneof![Just(0.0), 0f32..1e-38, 0f32..2.0, Just(f32::MAX)],
            top_k in prop_oneof![0..5usize, Just(usize::MAX)],
            top_p in prop_oneof![Just(f32::MIN_POSITIVE), 0.01f32..=1.0],
            min_p in 0f32..=1.0,
            penalty in prop_oneof![f32::from_bits(1)..1e-37, 0.5f32..2.0, 1e37..f32::MAX],
            biases in prop::collection::vec((0..6u32, any::<f32>()), 0..8),
            logits in prop::collection::vec(prop::num::f32::NORMAL | prop::num::f32::ZERO, 6),
            recent in prop::collection::vec(0..8u32, 0..8),
            seed: u64,
        ) {
            let forbidden = |token: u32| biases.contains(&(token, f32::NEG_INFINITY));
            let options = SamplerOptions {
                temperature,
                top_k,
                top_p,
                min_p,
                repetition_penalty: penalty,
                repetition_window: 4,
                seed,
                logit_bias: biases.clone(),
            };
            if let Ok(mut sampler) = Sampler::new(options, 6) {
                recent.iter().for_each(|token| sampler.accept(*token));
                for _ in 0..8 {
                    let token = sampler.sample(&logits);
                    prop_assert!(token < 6 && !forbidden(token));
                    let finite = |candidate: &(f32, u32)| !candidate.0.is_nan() && candidate.0 < f32::INFINITY;
                    prop_assert!(sampler.candidates.iter().all(finite));
                }
            }
        }
    }

    #[test]
    fn options_out_of_range_are_refused() {
        for options in [
            SamplerOptions { temperature: -1.0, ..SamplerOptions::plain() },
            SamplerOptions { temperature: f32::NAN, ..SamplerOptions::plain() },
            SamplerOptions { top_p: 0.0, ..SamplerOptions::plain() },
            SamplerOptions { min_p: 2.0, ..SamplerOptions::plain() },
            SamplerOptions { repetition_penalty: 0.0, ..SamplerOptions::plain() },
            SamplerOptions { logit_bias: vec![(4, 0.0)], ..SamplerOptions::plain() },
            SamplerOptions { logit_bias: vec![(0, f32::NAN)], ..SamplerOptions::plain() },
            SamplerOptions { logit_bias: vec![(0, f32::INFINITY)], ..SamplerOptions::plain() },
            SamplerOptions {
                logit_bias: (0..4).map(|token| (token, f32::NEG_INFINITY)).collect(),
                ..SamplerOptions::plain()
            },
        ] {
            assert!(Sampler::new(options, 4).is_err());
        }
    }
}
