//! `edit`: a model file once more, with other metadata.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use cinderblock::unstable::gguf::{NewTensor, Value, ValueType, Writer};
use cinderblock::unstable::model::{ARCHITECTURE, Alignment, draft_keys, keys};
use cinderblock::{Error, ErrorKind, Model, Result};

use super::inspect::plain;
use crate::checkpoint::{
    EndToken, Lexicon, check_vocabulary, describe_tokenizer, find_end_token, read_tokenizer,
};
use crate::draft::Table;
use crate::interrupt;
use crate::output::{self, AtomicFile, Inputs};
use crate::progress::{Bar, Progress};

const EXAMPLES: &str = "\
Examples:
  cinderblock edit model.gguf -o chat.gguf --tokenizer tokenizer.json
  cinderblock edit model.gguf -o tail.gguf --align tail --name my-model
  cinderblock edit model.gguf -o endless.gguf --end-token none
  cinderblock edit model.gguf -o quick.gguf --draft text.txt";

/// Copy a model file with another tokenizer, end token, name, alignment or draft table
///
/// Tensors and their checksums are copied as they are, after the tensors have been compared with the checksums.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// The model file to copy
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    #[command(flatten)]
    changes: Changes,

    /// Let the model write N tokens for the draft table [default: 131072; 16384 in a file above 200 MB]
    #[arg(long, value_name = "N", requires = "draft", conflicts_with = "no_draft")]
    draft_tokens: Option<usize>,
}

/// What is to be different.
#[derive(clap::Args)]
#[group(required = true, multiple = true)]
struct Changes {
    /// A tokenizer.json; unless --end-token is given, its files decide which token ends a text
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,

    /// The token that ends a text: its id, its text, or none
    #[arg(long, value_name = "TOKEN", value_parser = EndToken::parse)]
    end_token: Option<EndToken>,

    /// A name for the model
    #[arg(long)]
    name: Option<String>,

    /// How prompts that are not whole blocks are laid out
    #[arg(long, value_name = "ALIGNMENT", value_parser = Alignment::ALL.map(Alignment::name))]
    align: Option<String>,

    /// Learn a draft table, from which tokens are guessed, from this text and from what the model writes itself
    #[arg(long, value_name = "FILE", conflicts_with = "tokenizer")]
    draft: Option<PathBuf>,

    /// Leave the draft table out
    #[arg(long, conflicts_with = "draft")]
    no_draft: bool,
}

/// Keys with new values; `None` is to be left out.
type Edits<'v> = Vec<(String, Option<Value<'v>>)>;

/// Runs the verb.
///
/// # Errors
/// If the model, the tokenizer or the output is refused; `Interrupted` by a signal.
pub fn run(arguments: Arguments) -> Result<()> {
    interrupt::listen();
    let (input, path, changes) = (&arguments.model, &arguments.output, &arguments.changes);
    let model = Model::open(input)?;
    let tokenizer = changes.tokenizer.as_deref().map(read_tokenizer).transpose()?;
    let vocabulary = model.config().vocabulary;
    if let (Some((json, _)), Some(from)) = (&tokenizer, &changes.tokenizer) {
        check_vocabulary(from, json, vocabulary)?;
    }
    let (end, mut lines) = end_token(&model, changes, tokenizer.as_ref().map(|(_, lexicon)| lexicon))?;
    output::not_standard(path, "no way back to its beginning")?;
    Inputs::new()
        .with("model", [input])
        .with("tokenizer", &changes.tokenizer)
        .with("text", &changes.draft)
        .check(path)?;
    output::check_space(path, model.file_bytes() as u64)?;
    let file = output::create(path)?;

    let mut edits: Edits = Vec::new();
    if let Some(name) = &changes.name {
        edits.push(("general.name".to_string(), Some(Value::String(name))));
        lines.push(format!("name {}", plain(name)));
    }
    if let Some(alignment) = &changes.align {
        edits.push((format!("{ARCHITECTURE}.prompt_alignment"), Some(Value::String(alignment))));
        edits.push((keys::ALIGNMENT_REASON.to_string(), Some(Value::String("chosen with --align"))));
        lines.push(format!("alignment {alignment}"));
    }
    if let (Some((json, lexicon)), Some(from)) = (&tokenizer, &changes.tokenizer) {
        edits.push((keys::TOKENIZER.to_string(), Some(Value::String(json))));
        lines.push(format!("tokenizer {}", describe_tokenizer(from, lexicon, vocabulary)));
    }
    if tokenizer.is_some() || changes.end_token.is_some() {
        let value = end.map(|id| Value::Unsigned(ValueType::U32, u64::from(id)));
        edits.push((keys::END_TOKEN.to_string(), value));
    }
    verify(&model)?;
    let learn =
        |text: &PathBuf| Table::learn(Model::open(input)?, text, arguments.draft_tokens, &Bar::default());
    let table = changes.draft.as_ref().map(learn).transpose()?;
    if let Some(table) = &table {
        lines.push(format!("draft table of {} contexts", table.len()));
    }
    if changes.no_draft {
        lines.push("no draft table".to_string());
    }
    edits.extend(draft(table.as_ref(), changes.no_draft));
    let bytes = copy(&model, input, file, path, edits)?;
    output::print(&format!("{}: {}; {}\n", path.display(), output::bytes(bytes), lines.join("; ")))
}

/// The keys of a draft table, or their absence.
fn draft(table: Option<&Table>, none: bool) -> Edits<'_> {
    let values = table.map(|table| table.values().map(|(key, value)| (key.to_string(), value)).to_vec());
    let absent = || draft_keys::ALL.map(|key| (key.to_string(), None)).to_vec();
    values.unwrap_or_else(|| if none { absent() } else { Vec::new() })
}

/// Adds a draft table to a file that was just written; gives the bytes of the file.
///
/// # Errors
/// As [`Table::learn`], and if the file cannot be written.
pub(super) fn add_draft(
    path: &Path,
    text: &Path,
    tokens: Option<usize>,
    progress: &dyn Progress,
) -> Result<u64> {
    let table = Table::learn(Model::open(path)?, text, tokens, progress)?;
    copy(&Model::open(path)?, path, output::create(path)?, path, draft(Some(&table), false))
}

/// The end token after the changes, and lines on it.
fn end_token(
    model: &Model,
    changes: &Changes,
    lexicon: Option<&Lexicon>,
) -> Result<(Option<u32>, Vec<String>)> {
    if changes.end_token.is_none() && lexicon.is_none() {
        return Ok((None, Vec::new()));
    }
    let own = match (lexicon, model.tokenizer_json()) {
        (None, Some(json)) => Some(Lexicon::from_json(json)?),
        _ => None,
    };
    let folders: Vec<PathBuf> =
        changes.tokenizer.iter().filter_map(|path| path.parent()).map(PathBuf::from).collect();
    let vocabulary = model.config().vocabulary;
    let (end, line) =
        find_end_token(changes.end_token.as_ref(), lexicon.or(own.as_ref()), &folders, vocabulary)?;
    Ok((end, vec![format!("end token {line}")]))
}

/// Compares the tensors with their checksums: a copy of damage would hide it.
fn verify(model: &Model) -> Result<()> {
    let bar =
        output::progress(model.file_bytes() as u64, "checking [{bar:30}] {bytes}/{total_bytes} left {eta}");
    model.verify_with(|done, _| {
        bar.set_position(done);
        if interrupt::asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    bar.finish_and_clear();
    Ok(())
}

/// Writes the model with other metadata; answers the bytes of the file.
fn copy(model: &Model, input: &Path, file: AtomicFile, path: &Path, edits: Edits<'_>) -> Result<u64> {
    let index = model.index();
    let tensors = index.tensors().iter().map(|info| NewTensor {
        name: info.name.to_string(),
        element: info.element,
        dimensions: info.dimensions.clone(),
    });
    let io = AtomicFile::error(path);
    let read = |error: std::io::Error| Error::io(input, &error);
    let mut writer = Writer::new(file, tensors.collect());
    // The writer adds its own alignment of the data.
    let kept = index.metadata().iter().filter(|(key, _)| *key != "general.alignment");
    for (key, value) in kept.filter(|(key, _)| edits.iter().all(|(edited, _)| edited != key)) {
        writer.value(key, value);
    }
    for (key, value) in &edits {
        if let Some(value) = value {
            writer.value(key, value);
        }
    }
    writer.begin().map_err(&io)?;
    let mut source = File::open(input).map_err(read)?;
    let mut chunk = vec![0; 1 << 20];
    for info in index.tensors() {
        writer.begin_tensor().map_err(&io)?;
        source.seek(SeekFrom::Start(info.start as u64)).map_err(read)?;
        let mut left = info.bytes;
        while left > 0 {
            interrupt::check()?;
            let part = left.min(chunk.len());
            source.read_exact(&mut chunk[..part]).map_err(read)?;
            writer.write(&chunk[..part]).map_err(&io)?;
            left -= part;
        }
        writer.end_tensor();
    }
    let (file, bytes) = writer.finish().map_err(&io)?;
    file.commit()?;
    Model::open(path)
        .map_err(|error| Error::new(ErrorKind::Internal, format!("the copy cannot be read: {error}")))?;
    Ok(bytes)
}
