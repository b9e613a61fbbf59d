//! `logits`: every teacher-forced logit of a text, as a NumPy file.

use std::path::PathBuf;

use cinderblock::{Error, Result, SessionOptions, Tokenizer};
use serde_json::json;

use crate::arguments::{CacheArguments, InputArguments, ModelArguments};
use crate::output::{self, Sink};
use crate::{interrupt, npy};

const EXAMPLES: &str = "\
Example:
  cinderblock logits -m model.gguf --tokens 5,6,7,8,9 -o logits.npy";

/// Write the logits of every token after the first block to a NumPy file
///
/// The text is padded on the left to whole blocks. The file holds f32 of shape
/// [(blocks - 1) * block length, vocabulary]. Unless --cache-blocks is given, nothing is forgotten.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,

    #[command(flatten)]
    input: InputArguments,

    /// The file to write; - is standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// Print a summary as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    cache: CacheArguments,
}

/// Runs the verb.
///
/// # Errors
/// If the model, the text or an option is refused, or the file cannot be written; `Interrupted` by a signal.
pub fn run(arguments: Arguments) -> Result<()> {
    let path = &arguments.output;
    arguments.model.inputs().with("text", arguments.input.files()).try_output(path)?;
    let model = arguments.model.open()?;
    let input = arguments.input.or_pipe()?;
    let tokens = input.tokens(&model, |text| Tokenizer::of_model(&model)?.encode(text))?;
    interrupt::listen();
    let config = model.config();
    let blocks = tokens.len().div_ceil(config.block_length);
    if blocks < 2 {
        return Err(Error::argument(format!(
            "text: found {} tokens in one block of {}, expected at least two blocks",
            tokens.len(),
            config.block_length
        )));
    }
    let default = SessionOptions { cache_blocks: Some(blocks), sink_blocks: 0, ..Default::default() };
    let runtime = arguments.model.runtime(&model)?;
    let mut scorer = runtime.scorer(&arguments.cache.options(default))?;

    let rows = (blocks - 1) * config.block_length;
    output::check_space(path, 4 * (rows * config.vocabulary) as u64)?;
    let mut file = Sink::create(path)?;
    file.put(&npy::header(rows, config.vocabulary))?;
    let bar = output::progress(rows as u64, "logits [{bar:30}] {percent}% {elapsed} left {eta}");
    let mut bytes = Vec::new();
    scorer.score(&tokens, |_, logits| {
        interrupt::check()?;
        bytes.clear();
        bytes.extend(logits.iter().flat_map(|logit| logit.to_le_bytes()));
        bar.inc(1);
        file.put(&bytes)
    })?;
    bar.finish_and_clear();
    file.commit()?;
    if arguments.json {
        let shape = [rows, config.vocabulary];
        let summary = json!({"file": path.display().to_string(), "shape": shape});
        if output::is_standard(path) {
            output::message(&summary.to_string());
        } else {
            output::print_json(&summary)?;
        }
    }
    Ok(())
}
