//! The options of a sampler.

use crate::error::{Error, Result};

/// The options of a sampler. The default suits prose, and the command line and the C interface share it: temperature
/// 0.8, top-k 40, top-p 0.95, min-p 0.05. [`SamplerOptions::plain`] samples the model's distribution as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerOptions {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// Keeps the most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the most likely tokens that together reach this probability.
    pub top_p: f32,
    /// Keeps tokens at least this probable, relative to the most likely one.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of recent tokens; 1 is none.
    pub repetition_penalty: f32,
    /// Number of the last tokens that are recent.
    pub repetition_window: usize,
    /// Seed of the draws.
    pub seed: u64,
    /// Tokens and what is added to their logits; negative infinity forbids a token.
    pub logit_bias: Vec<(u32, f32)>,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        SamplerOptions { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, ..Self::plain() }
    }
}

impl SamplerOptions {
    /// Sampling from the model's own distribution: temperature 1, no filter, no penalty, seed 0.
    pub fn plain() -> Self {
        SamplerOptions {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            repetition_window: 64,
            seed: 0,
            logit_bias: Vec::new(),
        }
    }

    /// Recent tokens that are remembered: none if repetition is not penalized.
    pub(super) fn window(&self) -> usize {
        if self.repetition_penalty == 1.0 { 0 } else { self.repetition_window.min(MAX_WINDOW) }
    }

    /// Checks every option.
    ///
    /// # Errors
    /// If one is out of range, or no token is left that may be chosen.
    pub(super) fn check(&self, vocabulary: usize) -> Result<()> {
        let check = |name: &str, value: f32, expected: &str, fine: bool| {
            if fine {
                Ok(())
            } else {
                Err(Error::argument(format!("{name}: found {value}, expected {expected}")))
            }
        };
        let &SamplerOptions { temperature, top_p, min_p, repetition_penalty, .. } = self;
        let positive = |value: f32| value.is_finite() && value > 0.0;
        check("temperature", temperature, "0 or more", temperature == 0.0 || positive(temperature))?;
        check("top-p", top_p, "more than 0, up to 1", top_p > 0.0 && top_p <= 1.0)?;
        check("min-p", min_p, "0 to 1", (0.0..=1.0).contains(&min_p))?;
        check("repetition penalty", repetition_penalty, "more than 0", positive(repetition_penalty))?;
        check_bias(&self.logit_bias, vocabulary)
    }
}

/// More recent tokens than this are not remembered.
pub(crate) const MAX_WINDOW: usize = 1 << 20;

fn check_bias(biases: &[(u32, f32)], vocabulary: usize) -> Result<()> {
    let mut forbidden = std::collections::BTreeSet::new();
    for (token, bias) in biases {
        if *token as usize >= vocabulary {
            let detail = format!("bias: found token {token}, expected less than {vocabulary}");
            return Err(Error::argument(detail));
        }
        if bias.is_nan() || *bias == f32::INFINITY {
            let detail = format!("bias of token {token}: found {bias}, expected a number or -inf");
            return Err(Error::argument(detail));
        }
        if *bias == f32::NEG_INFINITY {
            forbidden.insert(*token);
        }
    }
    if forbidden.len() >= vocabulary {
        return Err(Error::argument("bias: found all tokens forbidden, expected one that is not"));
    }
    Ok(())
}
