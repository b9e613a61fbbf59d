//! From a checkpoint to the tensors of a model file: which type each gets, and how it is rounded.

mod budget;
mod recipe;
mod summary;
mod write;

use std::collections::HashMap;
use std::path::Path;

use cinderblock::unstable::model::TensorSpec;
use cinderblock::unstable::quant::WeightType;
use cinderblock::{Error, Result, Tokenizer};
use sha2::{Digest, Sha256};

use crate::calibration::{Calibration, Calibrator};
use crate::checkpoint::{Checkpoint, without_mark};
use crate::input;
use crate::progress::Progress;
use budget::Judge;
pub use budget::weights;
pub use recipe::{Rule, recipe};
pub use summary::{Summary, report};
pub use write::Source;

/// A calibration text.
pub struct Text {
    tokens: Vec<u32>,
    sha256: String,
    block_length: usize,
}

impl Text {
    pub fn read(path: &Path, checkpoint: &Checkpoint) -> Result<Text> {
        let bytes = input::read(path, input::TEXT)?;
        let path = input::name(path);
        let sha256 = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let text = String::from_utf8(without_mark(&bytes).to_vec()).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            Error::mismatch("text", format!("a byte at {at} that is not UTF-8"), "UTF-8").in_file(path)
        })?;
        let Some(json) = &checkpoint.tokenizer else {
            return Err(Error::argument(
                "--calibrate: found no tokenizer.json in the checkpoint, expected one; --tokenizer names one elsewhere",
            ));
        };
        let tokens = Tokenizer::from_json(json)?.encode(&text)?;
        let vocabulary = checkpoint.config.vocabulary;
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
            let expected = format!("less than {vocabulary}");
            return Err(Error::mismatch("token of the calibration text", token, expected).in_file(path));
        }
        let block_length = checkpoint.config.block_length;
        let least = LEAST_BLOCKS * block_length;
        if tokens.len() < least {
            let error = Error::mismatch(
                "calibration text",
                format!("{} tokens", tokens.len()),
                format!("at least {least}"),
            );
            return Err(error.in_file(path));
        }
        Ok(Text { tokens, sha256, block_length })
    }

    /// The tokens to calibrate on: the first `most`, but never too few.
    pub fn training(&self, most: usize) -> &[u32] {
        let most = most.max(LEAST_BLOCKS * self.block_length);
        &self.tokens[..self.tokens.len().min(most)]
    }

    /// Tokens to compare variants on: the last ones, which calibration has not seen if there is enough text. The
    /// larger the model, the fewer; even so every token compares a whole vocabulary.
    fn judging(&self, weights: u64) -> &[u32] {
        let count = (JUDGED_WEIGHTS / weights.max(1)).clamp(256, 2048) as usize;
        let count = count.min(self.tokens.len()) / self.block_length * self.block_length;
        &self.tokens[self.tokens.len() - count..]
    }

    pub fn provenance(&self, most: usize) -> String {
        format!("sha256:{}, {} tokens", self.sha256, self.training(most).len())
    }
}

/// Fewer blocks would say nothing about a layer's inputs.
const LEAST_BLOCKS: usize = 16;
/// Weights times tokens of one comparison.
const JUDGED_WEIGHTS: u64 = 1 << 35;

/// Rounds the matrices for a text.
///
/// # Errors
/// If a tensor cannot be read, or on request.
pub fn calibrate(
    checkpoint: &Checkpoint,
    specs: &[TensorSpec],
    types: &[WeightType],
    tokens: &[u32],
    progress: &dyn Progress,
) -> Result<Calibration> {
    progress.begin("calibrating", budget::weights(specs));
    let done = |weights: usize| progress.add(weights as u64);
    let calibration = Calibrator::new(checkpoint, specs, types, &done)?.run(tokens)?;
    progress.end();
    Ok(calibration)
}

/// Chooses types of at most `budget` bits a weight, over all tensors: as small as can be, then the tensors that
/// gain most in 8 bits.
///
/// # Errors
/// As [`calibrate`], and if there is no memory for a comparison.
pub fn solve(
    checkpoint: &Checkpoint,
    specs: &[TensorSpec],
    rules: &[Rule],
    budget: f64,
    (text, tokens): (&Text, usize),
    (threads, progress): (usize, &dyn Progress),
) -> Result<(Vec<WeightType>, Calibration)> {
    let training = text.training(tokens);
    let mut types = budget::smallest(specs, rules);
    let calibration = calibrate(checkpoint, specs, &types, training, progress)?;
    let (least, weights) = (budget::bits(specs, &types), budget::weights(specs));
    let left = ((budget * weights as f64) as u64).saturating_sub(least);
    let judged = specs.iter().zip(&types).filter(|(_, kind)| **kind == WeightType::Q4).count();
    let cheapest = budget::cheapest(specs, &types, rules);
    if cheapest.is_none_or(|cheapest| cheapest > left) {
        return Ok((types, calibration));
    }
    progress.begin("measuring tensors", judged as u64);
    let floats: Vec<WeightType> = types
        .iter()
        .map(|kind| if *kind == WeightType::F32 { WeightType::F32 } else { WeightType::Bf16 })
        .collect();
    let rounded =
        Source { checkpoint, specs, types: &types, ready: &calibration.bytes, recipe: "", calibration: None };
    let exact = Source { types: &floats, ready: &HashMap::new(), ..rounded };
    let judge = Judge::new(&exact, text.judging(weights), threads)?;
    let mut candidates = budget::sensitivities(&judge, &rounded, rules, || progress.add(1))?;
    progress.end();
    budget::spend(&mut candidates, &mut types, left);
    let calibration = calibrate(checkpoint, specs, &types, training, progress)?;
    Ok((types, calibration))
}
