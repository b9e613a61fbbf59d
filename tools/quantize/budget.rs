//! Which tensors deserve 8 bits: the model in q4 is compared with the exact one on a text, then again with one
//! tensor at a time in q8; the tensors whose bits buy most come first, while they fit the budget.

use std::io::BufWriter;
use std::sync::Arc;

use cinderblock::unstable::model::{Role, TensorSpec};
use cinderblock::unstable::quant::WeightType;
use cinderblock::{Error, Model, Result, Runtime, SessionOptions, Team};

use super::recipe::Rule;
use super::write::Source;
use crate::divergence::kullback_leibler;
use crate::interrupt;

/// Bits of all tensors, padding and vectors included.
pub fn bits(specs: &[TensorSpec], types: &[WeightType]) -> u64 {
    specs.iter().zip(types).map(|(spec, kind)| 8 * spec.describe(*kind).bytes()).sum()
}

/// Weights of all tensors.
pub fn weights(specs: &[TensorSpec]) -> u64 {
    specs.iter().map(|spec| (spec.rows * spec.width) as u64).sum()
}

/// All that can be in q4, where no rule says otherwise; but narrow matrices, which q4 would pad to more than q8, in q8.
pub fn smallest(specs: &[TensorSpec], rules: &[Rule]) -> Vec<WeightType> {
    let kind = |spec: &TensorSpec| match rules.iter().rev().find(|rule| rule.matches(spec)) {
        _ if spec.role == Role::Vector => WeightType::F32,
        Some(rule) => rule.kind,
        None => [WeightType::Q8, WeightType::Q4]
            .into_iter()
            .min_by_key(|kind| spec.describe(*kind).bytes())
            .expect("there are two"),
    };
    specs.iter().map(kind).collect()
}

/// The fewest bits that 8 bits for one of the tensors without a rule would cost.
pub fn cheapest(specs: &[TensorSpec], types: &[WeightType], rules: &[Rule]) -> Option<u64> {
    let free = specs
        .iter()
        .zip(types)
        .filter(|(spec, kind)| **kind == WeightType::Q4 && !rules.iter().any(|rule| rule.matches(spec)));
    let bytes = |spec: &TensorSpec, kind| spec.describe(kind).bytes();
    free.map(|(spec, _)| 8 * (bytes(spec, WeightType::Q8) - bytes(spec, WeightType::Q4))).min()
}

/// Compares variants of a model with its exact predictions for one text.
pub struct Judge {
    team: Arc<Team>,
    tokens: Vec<u32>,
    exact: Vec<f32>,
}

impl Judge {
    /// Takes the predictions of `exact`, in a float type.
    pub fn new(exact: &Source<'_>, tokens: &[u32], threads: usize) -> Result<Judge> {
        let team = Arc::new(Team::new(threads)?);
        let mut judge = Judge { team, tokens: tokens.to_vec(), exact: Vec::new() };
        let mut all = Vec::new();
        judge.predictions(exact, |logits| all.extend_from_slice(logits))?;
        judge.exact = all;
        Ok(judge)
    }

    fn predictions(&self, source: &Source<'_>, mut each: impl FnMut(&[f32])) -> Result<()> {
        let io = |error: std::io::Error| Error::io(&std::env::temp_dir(), &error);
        let file = BufWriter::with_capacity(1 << 20, tempfile::tempfile().map_err(io)?);
        let (file, ..) = source.write(file, false, io, |_| ())?;
        let file = file.into_inner().map_err(|failed| io(failed.into_error()))?;
        let model = Model::open_file(&file, None)?;
        let blocks = self.tokens.len() / model.config().block_length;
        let options =
            SessionOptions { cache_blocks: Some(blocks.max(1)), sink_blocks: 0, ..SessionOptions::default() };
        let runtime = Runtime::with_team(model, Arc::clone(&self.team));
        runtime.scorer(&options)?.score(&self.tokens, |_, logits| {
            each(logits);
            interrupt::check()
        })
    }

    /// Mean divergence of a variant from the exact model.
    pub fn divergence(&self, source: &Source<'_>) -> Result<f64> {
        let vocabulary = source.checkpoint.config.vocabulary;
        let mut exact = self.exact.chunks_exact(vocabulary);
        let mut sum = 0.0;
        self.predictions(source, |logits| {
            sum += exact.next().map_or(0.0, |exact| kullback_leibler(exact, logits));
        })?;
        Ok(sum / (self.exact.len() / vocabulary).max(1) as f64)
    }
}

/// A matrix that could get 8 bits.
pub struct Candidate {
    /// Its place among the tensors.
    pub index: usize,
    /// How much divergence that would take away.
    pub gain: f64,
    /// How many bits it would cost.
    pub cost: u64,
}

/// Measures what 8 bits would do for each tensor that is in q4 and that no rule fixes.
pub fn sensitivities(
    judge: &Judge,
    source: &Source<'_>,
    rules: &[Rule],
    mut done: impl FnMut(),
) -> Result<Vec<Candidate>> {
    let base = judge.divergence(source)?;
    let mut candidates = Vec::new();
    for (index, spec) in source.specs.iter().enumerate() {
        if source.types[index] != WeightType::Q4 || rules.iter().any(|rule| rule.matches(spec)) {
            continue;
        }
        let mut types = source.types.to_vec();
        types[index] = WeightType::Q8;
        let variant = Source { types: &types, ..*source };
        let gain = base - judge.divergence(&variant)?;
        let cost = bits(source.specs, &types) - bits(source.specs, source.types);
        candidates.push(Candidate { index, gain, cost });
        done();
    }
    Ok(candidates)
}

/// Gives 8 bits to the candidates that gain most for a bit, as long as they fit.
pub fn spend(candidates: &mut [Candidate], types: &mut [WeightType], mut left: u64) {
    candidates.sort_by(|a, b| (b.gain / b.cost as f64).total_cmp(&(a.gain / a.cost as f64)));
    for candidate in candidates.iter() {
        if candidate.cost <= left {
            types[candidate.index] = WeightType::Q8;
            left -= candidate.cost;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_go_where_they_gain_most() {
        let candidate = |index, gain, cost| Candidate { index, gain, cost };
        let mut candidates =
            [candidate(0, 1.0, 10), candidate(1, 5.0, 20), candidate(2, 0.1, 5), candidate(3, -1.0, 3)];
        let mut types = [WeightType::Q4; 4];
        spend(&mut candidates, &mut types, 26);
        assert_eq!(types, [WeightType::Q4, WeightType::Q8, WeightType::Q8, WeightType::Q4]);
    }
}
