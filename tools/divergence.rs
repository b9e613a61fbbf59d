//! How far a model's predictions are from those of a reference: its file, or logits that it saved.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cinderblock::{Error, Result, Runtime, Scorer, SessionOptions, negative_log_likelihood};
use serde_json::json;

use crate::arguments::ModelArguments;
use crate::npy;
use crate::statistics::Mean;

/// Where the reference's logits come from.
pub enum Reference {
    /// A model, which reads the same windows.
    Model(Box<Scorer>),
    /// A NumPy file of all scored rows, in order.
    Saved { path: PathBuf, file: BufReader<File>, columns: usize, rows: usize, left: usize },
}

impl Reference {
    /// Opens a NumPy file of logits, known by its first bytes, or a model file, opened `how` the model was.
    pub fn open(
        path: &Path,
        how: &ModelArguments,
        runtime: &Runtime,
        options: &SessionOptions,
    ) -> Result<Reference> {
        let model = runtime.model();
        let vocabulary = model.config().vocabulary;
        let io = |error| Error::io(path, &error);
        let waiting = crate::interrupt::wait_for_input();
        let mut file = BufReader::new(File::open(path).map_err(io)?);
        drop(waiting);
        if let Some((rows, columns)) = npy::read_header(&mut file).map_err(|error| error.in_file(path))? {
            same_vocabulary(path, columns, vocabulary)?;
            return Ok(Reference::Saved { path: path.to_path_buf(), file, columns, rows, left: rows });
        }
        if path.extension().is_some_and(|extension| extension == "npy") {
            return Err(
                Error::mismatch("reference", "no NumPy header", "one, as the name says").in_file(path)
            );
        }
        let reference = how.open_file(path)?;
        same_vocabulary(path, reference.config().vocabulary, vocabulary)?;
        let (found, expected) = (reference.config().block_length, model.config().block_length);
        if found != expected {
            return Err(Error::mismatch("reference: block length", found, expected).in_file(path));
        }
        let runtime = Runtime::with_team(reference, Arc::clone(runtime.team()));
        Ok(Reference::Model(Box::new(runtime.scorer(options)?)))
    }

    /// The logits `[rows, vocabulary]` of a window with `rows` scored tokens.
    pub fn window(&mut self, tokens: &[u32], rows: usize, output: &mut Vec<f32>) -> Result<()> {
        output.clear();
        match self {
            Reference::Model(scorer) => scorer.score(tokens, |_, logits| {
                output.extend_from_slice(logits);
                crate::interrupt::check()
            }),
            Reference::Saved { path, file, columns, rows: total, left } => {
                if *left < rows {
                    let expected = format!("{} more", rows - *left);
                    return Err(Error::mismatch("rows of saved logits", "the end", expected).in_file(path));
                }
                let first = *total - *left;
                *left -= rows;
                output.resize(rows * *columns, 0.0);
                let bytes = bytemuck::cast_slice_mut(output);
                file.read_exact(bytes).map_err(|error| match error.kind() {
                    std::io::ErrorKind::UnexpectedEof => {
                        let expected = format!("{total} rows of {columns} numbers, as its header says");
                        Error::mismatch("saved logits", "the end of the file", expected).in_file(path)
                    }
                    _ => Error::io(path, &error),
                })?;
                match output.iter().position(|logit| !logit.is_finite()) {
                    None => Ok(()),
                    Some(at) => {
                        let subject =
                            format!("saved logits: row {}, column {}", first + at / *columns, at % *columns);
                        Err(Error::mismatch(subject, output[at], "a finite number").in_file(path))
                    }
                }
            }
        }
    }

    /// Checks that nothing is left over.
    pub fn finish(&mut self) -> Result<()> {
        match self {
            Reference::Saved { path, left, .. } if *left > 0 => {
                let found = format!("{left} more than the text has");
                Err(Error::mismatch("rows of saved logits", found, "as many").in_file(path))
            }
            Reference::Saved { path, file, rows, columns, .. } => {
                if file.fill_buf().map_err(|error| Error::io(path, &error))?.is_empty() {
                    return Ok(());
                }
                let expected = format!("{rows} rows of {columns} numbers, as its header says");
                Err(Error::mismatch("saved logits", "bytes after the last row", expected).in_file(path))
            }
            Reference::Model(_) => Ok(()),
        }
    }
}

fn same_vocabulary(path: &Path, found: usize, expected: usize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::mismatch("reference: vocabulary", found, expected).in_file(path))
}

/// The comparison of many predictions.
#[derive(Default)]
pub struct Divergence {
    /// Kullback-Leibler divergence of each prediction from the reference's, in nats.
    each: Vec<f64>,
    mean: Mean,
    agreed: Mean,
    /// Difference of the negative log-likelihoods: paired, so that most of the text's own spread cancels.
    difference: Mean,
}

impl Divergence {
    /// Adds the prediction of one token.
    pub fn add(&mut self, token: u32, reference: &[f32], logits: &[f32]) {
        let divergence = kullback_leibler(reference, logits);
        self.each.push(divergence);
        self.mean.add(divergence);
        self.agreed.add(f64::from(u8::from(top(reference) == top(logits))));
        let nll = |logits| negative_log_likelihood(logits, token);
        self.difference.add(nll(logits) - nll(reference));
    }

    /// Perplexity divided by the reference's.
    pub fn perplexity_ratio(&self) -> f64 {
        self.difference.mean().exp()
    }

    fn percentile(&mut self, fraction: f64) -> f64 {
        let last = self.each.len().saturating_sub(1);
        let at = (last as f64 * fraction).round() as usize;
        if self.each.is_empty() { 0.0 } else { *self.each.select_nth_unstable_by(at, f64::total_cmp).1 }
    }

    /// All figures as JSON.
    pub fn json(&mut self) -> serde_json::Value {
        let (ratio, error) = (self.perplexity_ratio(), self.difference.standard_error());
        json!({
            "kl_mean": self.mean.mean(),
            "kl_standard_error": self.mean.standard_error(),
            "kl_median": self.percentile(0.5),
            "kl_p99": self.percentile(0.99),
            "kl_max": self.percentile(1.0),
            "top1_agreement": self.agreed.mean(),
            "top1_standard_error": self.agreed.standard_error(),
            "perplexity_ratio": ratio,
            "perplexity_ratio_standard_error": ratio * error,
        })
    }

    /// All figures for people.
    pub fn text(&mut self) -> String {
        let (ratio, error) = (self.perplexity_ratio(), self.difference.standard_error());
        format!(
            "against the reference: perplexity {:+.4} % +- {:.4} %, KL mean {:.6} +- {:.6}, median {:.6}, \
             p99 {:.5}, max {:.4}, top-1 agreement {:.2} % +- {:.2} %\n",
            100.0 * (ratio - 1.0),
            100.0 * ratio * error,
            self.mean.mean(),
            self.mean.standard_error(),
            self.percentile(0.5),
            self.percentile(0.99),
            self.percentile(1.0),
            100.0 * self.agreed.mean(),
            100.0 * self.agreed.standard_error(),
        )
    }
}

/// Index of the largest logit; the first of equals.
fn top(logits: &[f32]) -> usize {
    (1..logits.len()).fold(0, |best, at| if logits[at] > logits[best] { at } else { best })
}

/// KL(softmax(reference) || softmax(logits)), in f64.
pub fn kullback_leibler(reference: &[f32], logits: &[f32]) -> f64 {
    let largest = |logits: &[f32]| f64::from(logits.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b)));
    let (p_most, q_most) = (largest(reference), largest(logits));
    let (mut p_sum, mut q_sum, mut difference) = (0.0, 0.0, 0.0);
    for (&p, &q) in reference.iter().zip(logits) {
        let (p, q) = (f64::from(p) - p_most, f64::from(q) - q_most);
        let weight = p.exp();
        p_sum += weight;
        q_sum += q.exp();
        difference += weight * (p - q);
    }
    let divergence = difference / p_sum + q_sum.ln() - p_sum.ln();
    // Rounding may leave a hair below 0; what is not a number stays so.
    if divergence < 0.0 { 0.0 } else { divergence }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_of_two_known_distributions() {
        let reference = [0.5f32.ln() + 3.0, 0.25f32.ln() + 3.0, 0.25f32.ln() + 3.0];
        let logits = [0.25f32.ln(), 0.5f32.ln(), 0.25f32.ln()];
        let expected = 0.5 * 2f64.ln() - 0.25 * 2f64.ln();
        assert!((kullback_leibler(&reference, &logits) - expected).abs() < 1e-6);
        assert!(kullback_leibler(&reference, &reference) < 1e-12);
        for odd in [f32::NAN, f32::INFINITY] {
            assert!(kullback_leibler(&[odd; 3], &logits).is_nan());
            assert!(kullback_leibler(&reference, &[odd; 3]).is_nan());
        }
    }

    #[test]
    fn figures_of_equal_predictions() {
        let mut divergence = Divergence::default();
        for token in 0..3 {
            divergence.add(token, &[1.0, 2.0, 0.5], &[1.0, 2.0, 0.5]);
        }
        let json = divergence.json();
        assert_eq!(
            (json["top1_agreement"].as_f64(), json["perplexity_ratio"].as_f64()),
            (Some(1.0), Some(1.0))
        );
        assert!(json["kl_max"].as_f64().unwrap() < 1e-12);
    }
}
