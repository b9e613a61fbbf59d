//! `perplexity`: how well a model predicts a text.

use std::path::Path;
use std::path::PathBuf;
use std::time::Instant;

use cinderblock::{Error, Result, SessionOptions, Tokenizer, negative_log_likelihood};
use serde_json::{Value as Json, json};

use crate::arguments::{CacheArguments, InputArguments, ModelArguments};
use crate::divergence::{Divergence, Reference};
use crate::output::{self, Sink};
use crate::positions::Positions;
use crate::statistics::Mean;
use crate::{interrupt, npy};

const EXAMPLES: &str = "\
Examples:
  cinderblock perplexity -m model.gguf -f text.txt
  cinderblock perplexity -m q4.gguf --reference bf16.gguf -f text.txt
  cinderblock perplexity -m bf16.gguf -f text.txt --save-logits bf16.npy
  cinderblock perplexity -m model.gguf -f text.txt --plot loss.svg
  cinderblock perplexity --tokens-file ids.u16 --context-blocks 128 --json";

/// Measure how well a model predicts a text
///
/// The text is cut into windows that do not overlap. Each starts fresh; its first block is context and is
/// not scored, all other tokens are. A trailing partial block is left out.
///
/// The loss is also printed by the position of a token in its block, and by the number of tokens before it in its
/// window, in powers of two.
///
/// With --reference, every prediction is also compared with that of another model, such as the same model
/// in bf16: Kullback-Leibler divergence (mean, median, 99th percentile, maximum), agreement of the likeliest
/// token, and the ratio of the perplexities, with standard errors.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,

    #[command(flatten)]
    input: InputArguments,

    /// Blocks of a window
    #[arg(long, value_name = "N", default_value_t = 256)]
    context_blocks: usize,

    /// A model, or the logits that it saved for the same text, to compare every prediction with
    #[arg(long, value_name = "FILE")]
    reference: Option<PathBuf>,

    /// Write the logits of all scored tokens to a NumPy file, for --reference
    #[arg(long, value_name = "FILE")]
    save_logits: Option<PathBuf>,

    /// Draw the loss by position in the block and in the context into an SVG file
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    cache: CacheArguments,
}

/// The first block of a window predicts nothing, so that a window has at least two.
fn at_least_two(blocks: usize) -> Result<()> {
    if blocks >= 2 {
        return Ok(());
    }
    Err(Error::argument(format!("--context-blocks: found {blocks}, expected at least 2")))
}

/// Tries the place of the logits before anything is measured.
fn try_saving_logits(arguments: &Arguments) -> Result<()> {
    let Some(path) = &arguments.save_logits else { return Ok(()) };
    output::not_standard(path, "the figures")?;
    let inputs = arguments.model.inputs().with("reference", &arguments.reference);
    inputs.with("text", arguments.input.files()).try_output(path)
}

/// Runs the verb.
///
/// # Errors
/// If the model, the text or an option is refused; `Interrupted` by a signal.
pub fn run(arguments: Arguments) -> Result<()> {
    try_saving_logits(&arguments)?;
    let plot = arguments.plot.as_deref().map(|path| open_plot(path, &arguments)).transpose()?;
    let model = arguments.model.open()?;
    let input = arguments.input.or_pipe()?;
    let tokens = input.tokens(&model, |text| Tokenizer::of_model(&model)?.encode(text))?;
    interrupt::listen();
    let length = model.config().block_length;
    at_least_two(arguments.context_blocks)?;
    let whole = whole_blocks(&tokens, length)?;
    // A window is at most the text.
    let window = arguments.context_blocks.saturating_mul(length).min(whole);
    let default = SessionOptions {
        cache_blocks: Some(arguments.context_blocks.min(whole / length)),
        sink_blocks: 0,
        ..SessionOptions::default()
    };
    let runtime = arguments.model.runtime(&model)?;
    let options = arguments.cache.options(default);
    let mut scorer = runtime.scorer(&options)?;
    let reference = arguments.reference.as_deref();
    let mut reference =
        reference.map(|path| Reference::open(path, &arguments.model, &runtime, &options)).transpose()?;
    let scored = whole - whole.div_ceil(window) * length;
    let path = arguments.save_logits.as_deref();
    let mut saved = path.map(|path| open_rows(path, scored, model.config().vocabulary)).transpose()?;

    let started = Instant::now();
    let bar = output::progress(whole as u64, "{msg} [{bar:30}] {percent}% {elapsed} left {eta}");
    let (mut mean, mut divergence, mut expected) = (Mean::default(), Divergence::default(), Vec::new());
    let mut positions = Positions::new(length, window);
    for window in tokens[..whole].chunks(window) {
        if let Some(reference) = &mut reference {
            reference.window(window, window.len() - length, &mut expected)?;
        }
        let mut rows = expected.chunks_exact(model.config().vocabulary);
        let mut before = length;
        scorer.score(window, |token, logits| {
            let loss = negative_log_likelihood(logits, token);
            mean.add(loss);
            positions.add(before, loss);
            before += 1;
            if let Some(row) = rows.next() {
                divergence.add(token, row, logits);
            }
            if let Some(file) = &mut saved {
                file.put(bytemuck::cast_slice(logits))?;
            }
            interrupt::check()
        })?;
        bar.inc(window.len() as u64);
        bar.set_message(format!("perplexity {:.3}", mean.mean().exp()));
    }
    bar.finish_and_clear();
    if let Some(reference) = &mut reference {
        reference.finish()?;
    }
    if let Some(file) = saved {
        file.commit()?;
    }
    if let Some(mut file) = plot {
        file.put(positions.drawing().as_bytes())?;
        file.commit()?;
    }
    let seconds = started.elapsed().as_secs_f64();
    if !arguments.json {
        let divergence = reference.as_ref().map(|_| &mut divergence);
        return output::print(&summary(&mean, &positions, divergence, seconds));
    }
    let mut figures = figures(&mean, seconds);
    positions.json(&mut figures);
    figures["windows"] = whole.div_ceil(window).into();
    figures["context_blocks"] = arguments.context_blocks.into();
    figures["isa"] = model.kernels().isa().name().into();
    figures["threads"] = runtime.team().threads().into();
    if reference.is_some() {
        figures["reference"] = divergence.json();
    }
    output::print_json(&figures)
}

/// The figures of the text, for programs.
fn figures(mean: &Mean, seconds: f64) -> Json {
    let (nll, error) = (mean.mean(), mean.standard_error());
    json!({
        "nll": nll,
        "nll_standard_error": error,
        "perplexity": nll.exp(),
        "perplexity_standard_error": nll.exp() * error,
        "tokens": mean.count(),
        "seconds": seconds,
        "tok_s": mean.count() as f64 / seconds,
    })
}

/// Tokens of a text that are in whole blocks, at least two of them.
fn whole_blocks(tokens: &[u32], length: usize) -> Result<usize> {
    let whole = tokens.len() - tokens.len() % length;
    if whole < 2 * length {
        let found = tokens.len();
        let detail = format!("text: found {found} tokens, expected at least two blocks of {length}");
        return Err(Error::argument(detail));
    }
    Ok(whole)
}

/// The file of the plot, which is none of those that are read or written otherwise.
fn open_plot(path: &Path, arguments: &Arguments) -> Result<Sink> {
    output::not_standard(path, "the figures")?;
    let inputs = arguments.model.inputs().with("reference", &arguments.reference);
    let inputs = inputs.with("saved logits", &arguments.save_logits);
    inputs.with("text", arguments.input.files()).check(path)?;
    Sink::create(path)
}

/// A NumPy file for `rows` rows of logits.
fn open_rows(path: &Path, rows: usize, vocabulary: usize) -> Result<Sink> {
    output::check_space(path, 4 * (rows * vocabulary) as u64)?;
    let mut file = Sink::create(path)?;
    file.put(&npy::header(rows, vocabulary))?;
    Ok(file)
}

/// The figures for people, those against a reference last.
fn summary(mean: &Mean, positions: &Positions, divergence: Option<&mut Divergence>, seconds: f64) -> String {
    let (nll, error) = (mean.mean(), mean.standard_error());
    format!(
        "nll {nll:.6} +- {error:.6}, perplexity {:.4} +- {:.4} over {} tokens ({:.0} tok/s)\n{}{}",
        nll.exp(),
        nll.exp() * error,
        mean.count(),
        mean.count() as f64 / seconds,
        positions.text(),
        divergence.map_or(String::new(), |divergence| divergence.text()),
    )
}
