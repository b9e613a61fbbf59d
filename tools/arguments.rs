//! Arguments that several verbs share.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cinderblock::error::{Error, Result};
use cinderblock::generation::tokenizer::Tokenizer;
use cinderblock::{CacheType, Model, SessionOptions, Team};

use crate::output::Inputs;

/// Where a model is and how it is run.
#[derive(clap::Args)]
pub struct ModelArguments {
    /// The model file; without it, the demo model that ships with the program
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,

    /// Threads to use; 0 is as many as the machine, affinity and quota allow
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = parse_threads)]
    pub threads: usize,
}

/// More threads than any machine has are a typing error.
fn parse_threads(text: &str) -> std::result::Result<usize, String> {
    let threads: usize = text.parse().map_err(|_| "expected a number".to_string())?;
    if threads <= 1024 { Ok(threads) } else { Err("expected at most 1024".to_string()) }
}

const DEMO: &str = "models/classics.q4.gguf";

impl ModelArguments {
    /// The model's file.
    pub fn path(&self) -> Result<PathBuf> {
        self.model.clone().map_or_else(demo_model, Ok)
    }

    /// The files that are read, of which the model is one.
    pub fn inputs(&self) -> Result<Inputs> {
        Ok(Inputs::new().with("model", [self.path()?]))
    }

    /// Opens the model.
    pub fn open(&self) -> Result<Arc<Model>> {
        Ok(Arc::new(Model::open(self.path()?)?))
    }

    /// Starts the threads.
    pub fn team(&self) -> Result<Arc<Team>> {
        Ok(Arc::new(Team::new(self.threads)?))
    }
}

/// The demo model: in `CINDERBLOCK_HOME`, above the program, or where it was built.
fn demo_model() -> Result<PathBuf> {
    let mut places: Vec<PathBuf> =
        std::env::var_os("CINDERBLOCK_HOME").map(PathBuf::from).into_iter().collect();
    if let Ok(program) = std::env::current_exe() {
        places.extend(program.ancestors().skip(1).take(4).map(Path::to_path_buf));
    }
    places.push(PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/..")));
    places.into_iter().map(|place| place.join(DEMO)).find(|path| path.is_file()).ok_or_else(|| {
        Error::argument(format!(
            "no model: give one with -m, or set CINDERBLOCK_HOME to the folder of {DEMO}"
        ))
    })
}

/// The block decoder's cache.
#[derive(clap::Args)]
pub struct CacheArguments {
    /// Blocks that the cache remembers, pinned ones included
    #[arg(long, value_name = "N")]
    pub cache_blocks: Option<usize>,

    /// First blocks that are never forgotten
    #[arg(long, value_name = "N")]
    pub sink_blocks: Option<usize>,

    #[command(flatten)]
    pub cache_type: CacheTypeArgument,
}

/// What the block decoder's cache keeps.
#[derive(clap::Args)]
pub struct CacheTypeArgument {
    /// Type of the cache [default: f32 for a model of f32 weights, else f16]; q8 needs about half the bytes of f16
    #[arg(long, value_name = "TYPE", value_parser = CacheType::ALL.map(CacheType::name))]
    cache_type: Option<String>,
}

impl CacheTypeArgument {
    /// The type, if one is given.
    pub fn kind(&self) -> Option<CacheType> {
        let name = self.cache_type.as_ref()?;
        CacheType::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl CacheArguments {
    /// The options; what is not given comes from `default`.
    pub fn options(&self, default: SessionOptions) -> SessionOptions {
        SessionOptions {
            cache_blocks: self.cache_blocks.unwrap_or(default.cache_blocks),
            sink_blocks: self.sink_blocks.unwrap_or(default.sink_blocks),
            cache_type: self.cache_type.kind().or(default.cache_type),
            ..default
        }
    }
}

/// Text or token ids to work on.
#[derive(clap::Args)]
#[group(multiple = false)]
pub struct InputArguments {
    /// Text
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: Option<String>,

    /// A file of text; - is standard input
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// Token ids, separated by commas
    #[arg(long, value_name = "IDS", allow_hyphen_values = true)]
    pub tokens: Option<String>,

    /// A file of token ids, little-endian u16; - is standard input
    #[arg(long, value_name = "FILE")]
    pub tokens_file: Option<PathBuf>,
}

impl InputArguments {
    /// Whether anything was given.
    pub fn is_given(&self) -> bool {
        self.prompt.is_some() || self.file.is_some() || self.tokens.is_some() || self.tokens_file.is_some()
    }

    /// The files it is read from.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.file.iter().chain(&self.tokens_file)
    }

    /// The text, if it was text that was given.
    pub fn text(&self) -> Result<Option<String>> {
        if let Some(file) = &self.file {
            let bytes = read(file)?;
            let text = String::from_utf8(bytes).map_err(|error| {
                let at = error.utf8_error().valid_up_to();
                Error::mismatch("text", format!("a byte at {at} that is not UTF-8"), "UTF-8").in_file(file)
            })?;
            return Ok(Some(text));
        }
        Ok(self.prompt.clone())
    }

    /// The tokens, at least one of them, all in the vocabulary.
    pub fn tokens(&self, model: &Model, tokenizer: impl FnOnce() -> Result<Tokenizer>) -> Result<Vec<u32>> {
        let tokens = if let Some(list) = &self.tokens {
            parse_tokens(list)?
        } else if let Some(file) = &self.tokens_file {
            let bytes = read(file)?;
            let (ids, rest) = bytes.as_chunks::<2>();
            if !rest.is_empty() {
                let found = format!("{} bytes", bytes.len());
                return Err(Error::mismatch("token ids", found, "an even number, two a token").in_file(file));
            }
            ids.iter().map(|id| u32::from(u16::from_le_bytes(*id))).collect()
        } else if let Some(text) = self.text()? {
            if text.is_empty() { Vec::new() } else { tokenizer()?.encode(&text)? }
        } else {
            return Err(Error::argument(
                "nothing to work on: give --prompt, --file, --tokens or --tokens-file",
            ));
        };
        if tokens.is_empty() {
            return Err(Error::argument("the prompt is empty: found 0 tokens, expected at least 1"));
        }
        model.check_tokens(&tokens)?;
        Ok(tokens)
    }
}

/// Reads a whole file, or standard input for `-`.
fn read(path: &Path) -> Result<Vec<u8>> {
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        let read = std::io::stdin().lock().read_to_end(&mut bytes);
        read.map_err(|error| Error::io(Path::new("standard input"), &error))?;
        return Ok(bytes);
    }
    std::fs::read(path).map_err(|error| Error::io(path, &error))
}

/// Token ids separated by commas; spaces are allowed.
pub fn parse_tokens(list: &str) -> Result<Vec<u32>> {
    if list.trim().is_empty() {
        return Ok(Vec::new());
    }
    let parse = |item: &str| {
        item.trim()
            .parse()
            .map_err(|_| Error::argument(format!("token ids: found {item:?}, expected a number")))
    };
    list.split(',').map(parse).collect()
}
