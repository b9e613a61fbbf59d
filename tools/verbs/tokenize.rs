//! `tokenize`: text to token ids, and back.

use std::path::Path;

use cinderblock::{Error, Result};
use serde_json::json;

use crate::arguments::{InputArguments, ModelArguments, SpecialArguments, parse_tokens, read_text};
use crate::{input, output};

const EXAMPLES: &str = "\
Examples:
  cinderblock tokenize -p 'The rain had stopped.'
  cinderblock tokenize -m model.gguf -f book.txt --json
  echo 'The rain had stopped.' | cinderblock tokenize
  cinderblock tokenize --decode 491,3364,347,1966,15";

/// Turn text into token ids, or ids into text
///
/// Text comes from an option or a pipe.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,

    #[command(flatten)]
    input: InputArguments,

    /// Turn token ids into text: a list as this verb prints it, with or without --json; - is standard input
    #[arg(long, value_name = "IDS", allow_hyphen_values = true, conflicts_with_all = ["prompt", "file", "tokens", "tokens_file"])]
    decode: Option<String>,

    #[command(flatten)]
    special: SpecialArguments,

    /// Print one JSON object with the ids and the text of each
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// If the model carries no tokenizer, or the input cannot be read or holds an id that is not in the vocabulary.
pub fn run(arguments: Arguments) -> Result<()> {
    let model = arguments.model.open()?;
    let tokenizer = arguments.special.tokenizer(&model)?;
    let tokenizer = tokenizer.ok_or_else(|| Error::unsupported("the model carries no tokenizer"))?;
    let tokens = match arguments.decode.as_deref() {
        Some("-") => parse_tokens(&read_text(Path::new("-"), input::TEXT)?)?,
        Some(list) => parse_tokens(list)?,
        None => arguments.input.or_pipe()?.ids(&model, |text| tokenizer.encode(text))?,
    };
    model.check_tokens(&tokens)?;
    if arguments.json {
        let pieces = tokens.iter().map(|token| tokenizer.decode(&[*token])).collect::<Result<Vec<_>>>()?;
        let text = tokenizer.decode(&tokens)?;
        return output::print_json(&json!({"tokens": tokens, "pieces": pieces, "text": text}));
    }
    if arguments.decode.is_some() {
        return output::print(&format!("{}\n", tokenizer.decode(&tokens)?));
    }
    let list: Vec<String> = tokens.iter().map(u32::to_string).collect();
    output::print(&format!("{}\n", list.join(",")))
}
