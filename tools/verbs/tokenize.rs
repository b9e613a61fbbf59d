//! `tokenize`: text to token ids, and back.

use cinderblock::error::Result;
use cinderblock::generation::tokenizer::Tokenizer;
use serde_json::json;

use crate::arguments::{InputArguments, ModelArguments, parse_tokens};
use crate::output;

/// Turn text into token ids, or ids into text
///
/// Examples:
///   cinderblock tokenize -p "The old house"
///   cinderblock tokenize -m model.gguf -f book.txt --json
///   cinderblock tokenize --decode 464,1468,2156
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,

    #[command(flatten)]
    input: InputArguments,

    /// Token ids to turn into text
    #[arg(long, value_name = "IDS", conflicts_with_all = ["prompt", "file", "tokens", "tokens_file"])]
    decode: Option<String>,

    /// Print one JSON object with the ids and the text of each
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: Arguments) -> Result<()> {
    let model = arguments.model.open()?;
    let tokenizer = Tokenizer::of_model(&model)?;
    let (tokens, decode) = match &arguments.decode {
        Some(list) => (parse_tokens(list)?, true),
        None => (arguments.input.tokens(&model, || Tokenizer::of_model(&model))?, false),
    };
    model.check_tokens(&tokens)?;
    if arguments.json {
        let pieces = tokens.iter().map(|token| tokenizer.decode(&[*token])).collect::<Result<Vec<_>>>()?;
        let text = tokenizer.decode(&tokens)?;
        return output::print_json(&json!({"tokens": tokens, "pieces": pieces, "text": text}));
    }
    if decode {
        return output::print(&format!("{}\n", tokenizer.decode(&tokens)?));
    }
    let list: Vec<String> = tokens.iter().map(u32::to_string).collect();
    output::print(&format!("{}\n", list.join(",")))
}
