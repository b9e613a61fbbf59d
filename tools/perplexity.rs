//! `perplexity`: how well a model predicts a text.

use std::time::Instant;

use cinderblock::error::{Error, Result};
use cinderblock::score::negative_log_likelihood;
use cinderblock::tokenizer::Tokenizer;
use cinderblock::{Scorer, SessionOptions};
use serde_json::json;

use crate::arguments::{CacheArguments, InputArguments, ModelArguments};
use crate::{interrupt, output};

/// Measure how well a model predicts a text
///
/// The text is cut into windows that do not overlap. Each starts fresh; its first block is context and is
/// not scored, all other tokens are. A trailing partial block is left out.
///
/// Examples:
///   cinderblock perplexity -m model.gguf -f text.txt
///   cinderblock perplexity -m model.gguf --tokens-file ids.u16 --context-blocks 128 --json
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,

    #[command(flatten)]
    input: InputArguments,

    /// Blocks of a window
    #[arg(long, value_name = "N", default_value_t = 256)]
    context_blocks: usize,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    cache: CacheArguments,
}

/// Mean and standard error of a stream of numbers (Welford's method).
#[derive(Default)]
struct Mean {
    count: u64,
    mean: f64,
    squares: f64,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.count += 1;
        let before = value - self.mean;
        self.mean += before / self.count as f64;
        self.squares += before * (value - self.mean);
    }

    fn standard_error(&self) -> f64 {
        if self.count < 2 {
            return 0.0;
        }
        (self.squares / (self.count - 1) as f64 / self.count as f64).sqrt()
    }
}

pub fn run(arguments: Arguments) -> Result<()> {
    let model = arguments.model.open()?;
    let tokens = arguments.input.tokens(&model, || Tokenizer::of_model(&model))?;
    interrupt::listen();
    let length = model.config().block_length;
    let window = arguments.context_blocks.checked_mul(length).filter(|_| arguments.context_blocks >= 2);
    let window = window.ok_or_else(|| {
        let most = usize::MAX / length;
        Error::argument(format!("--context-blocks: found {}, expected 2 to {most}", arguments.context_blocks))
    })?;
    let whole = tokens.len() - tokens.len() % length;
    if whole < 2 * length {
        return Err(Error::argument(format!(
            "text: found {} tokens, expected at least two blocks of {length}",
            tokens.len()
        )));
    }
    let default = SessionOptions {
        cache_blocks: arguments.context_blocks.min(whole / length),
        sink_blocks: 0,
        ..SessionOptions::default()
    };
    let team = arguments.model.team()?;
    let mut scorer = Scorer::new(&model, &team, &arguments.cache.options(default))?;

    let started = Instant::now();
    let bar = output::progress(whole as u64, "{msg} [{bar:30}] {percent}% {elapsed} left {eta}");
    let mut mean = Mean::default();
    for window in tokens[..whole].chunks(window) {
        scorer.score(window, |token, logits| {
            mean.add(negative_log_likelihood(logits, token));
            interrupt::check()
        })?;
        bar.inc(window.len() as u64);
        bar.set_message(format!("perplexity {:.3}", mean.mean.exp()));
    }
    bar.finish_and_clear();
    let seconds = started.elapsed().as_secs_f64();
    let (nll, error) = (mean.mean, mean.standard_error());
    if arguments.json {
        return output::print_json(&json!({
            "nll": nll,
            "nll_standard_error": error,
            "perplexity": nll.exp(),
            "perplexity_standard_error": nll.exp() * error,
            "tokens": mean.count,
            "windows": whole.div_ceil(window),
            "context_blocks": arguments.context_blocks,
            "seconds": seconds,
            "tok_s": mean.count as f64 / seconds,
            "isa": model.kernels().isa().name(),
            "threads": team.threads(),
        }));
    }
    output::print(&format!(
        "nll {nll:.6} +- {error:.6}, perplexity {:.4} +- {:.4} over {} tokens ({:.0} tok/s)\n",
        nll.exp(),
        nll.exp() * error,
        mean.count,
        mean.count as f64 / seconds,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_standard_error() {
        let mut mean = Mean::default();
        [1.0, 2.0, 3.0, 4.0].into_iter().for_each(|value| mean.add(value));
        assert!((mean.mean - 2.5).abs() < 1e-12);
        assert!((mean.standard_error() - (5.0f64 / 3.0 / 4.0).sqrt()).abs() < 1e-12);
    }
}
