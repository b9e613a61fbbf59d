//! Arguments that several verbs share.

use std::borrow::Cow;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cinderblock::{
    BatchOptions, CacheType, Error, Model, OpenOptions, Result, Runtime, SessionOptions, Speculate, Tokenizer,
};

use crate::output::Inputs;
use crate::{input, memory};

/// Where a model is and how it is run.
#[derive(clap::Args)]
pub struct ModelArguments {
    /// The model file [default: the demo model, which is part of the program]
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,

    /// Read the model into memory instead of mapping its file, for storage that may change or vanish
    #[arg(long)]
    pub no_mmap: bool,

    /// Threads; 0 is one for each performance core that affinity and quota leave
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = parse_threads)]
    pub threads: usize,
}

/// More threads than any machine has are a typing error.
pub fn parse_threads(text: &str) -> std::result::Result<usize, String> {
    let threads: usize = text.parse().map_err(|_| "expected a number".to_string())?;
    if threads <= 1024 { Ok(threads) } else { Err("expected at most 1024".to_string()) }
}

/// The demo model's name in messages.
pub const DEMO: &str = "the demo model";

impl ModelArguments {
    /// The name of the file without its extension.
    #[cfg(feature = "serve")]
    pub fn name(&self) -> String {
        let stem = self.model.as_deref().and_then(|path| path.file_stem());
        stem.map_or("classics".to_string(), |stem| stem.to_string_lossy().into_owned())
    }

    /// The files that are read, of which the model is one.
    pub fn inputs(&self) -> Inputs {
        Inputs::new().with("model", &self.model)
    }

    /// Opens the model.
    ///
    /// # Errors
    /// If it cannot be read or is not a valid model.
    pub fn open(&self) -> Result<Arc<Model>> {
        match &self.model {
            Some(path) => self.open_file(path),
            None => Ok(Arc::new(demo_model().map_err(|error| error.in_file(Path::new(DEMO)))?)),
        }
    }

    /// Opens another model in the same way.
    ///
    /// # Errors
    /// If it cannot be read or is not a valid model.
    pub fn open_file(&self, path: &Path) -> Result<Arc<Model>> {
        if path.as_os_str().is_empty() {
            return Err(Error::argument("model: found an empty name, expected a file"));
        }
        let checkpoint = match path.is_dir() {
            true => path.join("config.yaml").exists() || path.join("config.json").exists(),
            false => path.extension().is_some_and(|extension| extension == "safetensors"),
        };
        if checkpoint {
            let expected = "a model file: cinderblock quantize CHECKPOINT_DIR -o model.gguf makes one";
            return Err(Error::mismatch("model", "a checkpoint", expected).in_file(path));
        }
        Ok(Arc::new(Model::open_with(path, OpenOptions { map: !self.no_mmap })?))
    }

    /// Starts the threads for a model.
    ///
    /// # Errors
    /// If the system has no more of them.
    pub fn runtime(&self, model: &Arc<Model>) -> Result<Runtime> {
        Runtime::new(Arc::clone(model), self.threads)
    }
}

/// The demo model, used where it is in the program.
#[cfg(feature = "demo")]
fn demo_model() -> Result<Model> {
    #[repr(C, align(64))]
    struct Aligned<B: ?Sized>(B);
    static DEMO: &Aligned<[u8]> = &Aligned(*include_bytes!("../models/classics.q4.gguf"));
    Model::from_static(&DEMO.0)
}

#[cfg(not(feature = "demo"))]
fn demo_model() -> Result<Model> {
    Err(Error::argument("not part of this program: give a model with -m"))
}

/// A count of which -1 is all there are, or no limit: `usize::MAX`. `all` is the word for it.
pub fn parse_count(text: &str, all: &str) -> std::result::Result<usize, String> {
    if text == "-1" {
        return Ok(usize::MAX);
    }
    text.parse().map_err(|_| format!("expected a whole number, or -1 for {all}"))
}

/// Tokens to generate at most.
pub fn parse_max_tokens(text: &str) -> std::result::Result<usize, String> {
    parse_count(text, "no limit")
}

/// A number of sequences that advance together: small enough that buffers for all of them can be counted.
pub fn parse_sequences(text: &str) -> std::result::Result<usize, String> {
    let sequences = text.parse().ok().filter(|sequences| (1..=65536).contains(sequences));
    sequences.ok_or_else(|| "expected 1 to 65536".to_string())
}

/// A number of bytes with a unit: B, kB, MB, GB, or their first letters.
pub fn parse_bytes(text: &str) -> std::result::Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        _ => return Err("expected a number of bytes, kB, MB or GB".to_string()),
    };
    let number: f64 = number.parse().map_err(|_| "expected a number of bytes, kB, MB or GB".to_string())?;
    Ok((number * scale) as u64)
}

/// Undoes the escapes `\n`, `\t` and `\\`: shells do not make it easy to pass a line break.
pub fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, chars.clone().next()) {
            ('\\', Some('n')) => out.push('\n'),
            ('\\', Some('t')) => out.push('\t'),
            ('\\', Some('\\')) => out.push('\\'),
            _ => {
                out.push(c);
                continue;
            }
        }
        chars.next();
    }
    out
}

/// How special tokens, such as <|endoftext|>, are read and shown.
#[derive(clap::Args)]
pub struct SpecialArguments {
    /// Show special tokens, such as <|endoftext|>, in text
    #[arg(long)]
    special: bool,

    /// Read the names of special tokens in a prompt as plain text
    #[arg(long)]
    no_parse_special: bool,
}

impl SpecialArguments {
    /// The model's tokenizer, if it carries one.
    ///
    /// # Errors
    /// If it cannot be parsed.
    pub fn tokenizer(&self, model: &Model) -> Result<Option<Tokenizer>> {
        let Some(json) = model.tokenizer_json() else { return Ok(None) };
        let mut tokenizer = Tokenizer::from_json(json)?;
        tokenizer.show_special(self.special);
        tokenizer.parse_special(!self.no_parse_special);
        Ok(Some(tokenizer))
    }
}

/// The block decoder's cache.
#[derive(clap::Args)]
pub struct CacheArguments {
    /// Blocks that the cache remembers, pinned blocks included
    #[arg(long, value_name = "N")]
    pub cache_blocks: Option<usize>,

    /// Number of first blocks that are never forgotten
    #[arg(long, value_name = "N")]
    pub sink_blocks: Option<usize>,

    #[command(flatten)]
    pub cache_type: CacheTypeArgument,
}

/// What the block decoder's cache keeps.
#[derive(clap::Args)]
pub struct CacheTypeArgument {
    /// Type of the cache; q8 takes about half the bytes of f16 [default: f32 for a model of f32 weights, else f16]
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
            cache_blocks: self.cache_blocks.or(default.cache_blocks),
            sink_blocks: self.sink_blocks.unwrap_or(default.sink_blocks),
            cache_type: self.cache_type.kind().or(default.cache_type),
            ..default
        }
    }
}

/// How many texts advance together, and in which memory.
#[derive(clap::Args)]
pub struct BatchArguments {
    /// Advance at most N sequences together
    #[arg(long = "batch", value_name = "N", default_value = "32", value_parser = parse_sequences)]
    pub sequences: usize,

    /// Memory for weights, caches and buffers, for example 800MB or 4GB [default: three quarters of
    /// what is free]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    memory: Option<u64>,
}

impl BatchArguments {
    /// The options of a batch that keeps no prefixes.
    pub fn options(&self, session: SessionOptions, speculate: &SpeculateArgument) -> BatchOptions {
        BatchOptions {
            session,
            sequences: self.sequences,
            memory: self.memory.or_else(|| memory::available().map(|bytes| bytes / 4 * 3)),
            prefix_cache: 0,
            speculate: speculate.mode(),
        }
    }
}

/// Whether tokens are guessed.
#[derive(clap::Args)]
pub struct SpeculateArgument {
    /// Guess tokens from the text so far, and from the file's draft table, and compute several in one pass: auto
    /// where that saves time, on wherever
    /// there is a guess, off never; the text is the same
    #[arg(long, value_name = "WHEN", default_value = Speculate::Auto.name(), value_parser = Speculate::ALL.map(Speculate::name))]
    speculate: String,
}

impl SpeculateArgument {
    /// The mode.
    pub fn mode(&self) -> Speculate {
        Speculate::from_name(&self.speculate).unwrap_or_default()
    }
}

/// Text or token ids to work on.
#[derive(clap::Args, Default)]
#[group(multiple = false)]
pub struct InputArguments {
    /// The text
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: Option<String>,

    /// A file of text; - is standard input
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// Token ids, separated by commas
    #[arg(long, value_name = "IDS", allow_hyphen_values = true)]
    pub tokens: Option<String>,

    /// A file of token ids, little-endian u16 or a list as text, which commas, brackets or a line break tell from
    /// numbers; - is standard input
    #[arg(long, value_name = "FILE")]
    pub tokens_file: Option<PathBuf>,
}

/// A file of ids, by its content.
#[derive(Debug, PartialEq)]
enum IdsFile<'b> {
    /// A list as text.
    List(Cow<'b, str>),
    /// Numbers of two bytes.
    Binary(&'b [u8]),
    /// Digits that may be either.
    Either,
    /// Text that is no list, which as numbers of two bytes would be tokens that nobody has written.
    Text,
}

/// Bytes of a file that are text by chance alone at most: ids below 8192 have a byte that is no text.
const CHANCE: usize = 16;

impl IdsFile<'_> {
    fn of(bytes: &[u8]) -> IdsFile<'_> {
        let text = match bytes {
            [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes).map(Cow::Owned),
            [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes).map(Cow::Owned),
            bytes => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
        };
        let Some(text) = text else { return IdsFile::Binary(bytes) };
        let content = text.trim_start_matches(BYTE_ORDER_MARK).trim();
        let is_list =
            |byte: u8| byte.is_ascii_digit() || b",[]".contains(&byte) || byte.is_ascii_whitespace();
        let object = content.starts_with('{') && content.ends_with('}');
        if object || content.bytes().all(is_list) && content.bytes().any(|byte| byte.is_ascii_digit()) {
            let alone = content.len() == bytes.len() && content.bytes().all(|byte| byte.is_ascii_digit());
            return if alone && bytes.len().is_multiple_of(2) {
                IdsFile::Either
            } else {
                IdsFile::List(text)
            };
        }
        let is_text = |byte: u8| (b' '..=b'~').contains(&byte) || byte.is_ascii_whitespace();
        if bytes.len() >= CHANCE && content.bytes().all(is_text) {
            return IdsFile::Text;
        }
        IdsFile::Binary(bytes)
    }
}

/// A text in UTF-16.
fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Option<String> {
    let (units, rest) = bytes.as_chunks();
    let text = String::from_utf16(&units.iter().map(|bytes| unit(*bytes)).collect::<Vec<u16>>()).ok()?;
    // Other ids than those of a list's characters are just ids after a mark.
    (rest.is_empty() && text.is_ascii()).then_some(text)
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

    /// The same arguments; where nothing was given, piped text is the prompt.
    ///
    /// # Errors
    /// If nothing was given and standard input is a terminal, or not UTF-8.
    pub fn or_pipe(self) -> Result<InputArguments> {
        if self.is_given() {
            return Ok(self);
        }
        if std::io::stdin().is_terminal() {
            return Err(Error::argument(
                "nothing to work on: give --prompt, --file, --tokens or --tokens-file, or pipe text in",
            ));
        }
        Ok(InputArguments { prompt: Some(piped_text()?), ..self })
    }

    /// The text, if text was given.
    ///
    /// # Errors
    /// If the file cannot be read or is not UTF-8.
    pub fn text(&self) -> Result<Option<String>> {
        match &self.file {
            Some(file) => Ok(Some(read_text(file, input::TEXT)?)),
            None => Ok(self.prompt.clone()),
        }
    }

    /// The tokens, all of them in the vocabulary; `encode` makes them of text.
    ///
    /// # Errors
    /// If the input cannot be read, or a token is not in the vocabulary.
    pub fn ids(&self, model: &Model, encode: impl FnOnce(&str) -> Result<Vec<u32>>) -> Result<Vec<u32>> {
        let tokens = if let Some(list) = &self.tokens {
            parse_tokens(list)?
        } else if let Some(file) = &self.tokens_file {
            self.file_ids(model, file)?
        } else {
            let text = self.text()?.unwrap_or_default();
            if text.is_empty() { Vec::new() } else { encode(&text)? }
        };
        model.check_tokens(&tokens)?;
        Ok(tokens)
    }

    fn file_ids(&self, model: &Model, file: &Path) -> Result<Vec<u32>> {
        let bytes = input::read(file, input::TEXT)?;
        let file = input::name(file);
        let wrong =
            |found: &str, expected: &str| Err(Error::mismatch("token ids", found, expected).in_file(file));
        let bytes = match IdsFile::of(&bytes) {
            IdsFile::List(list) => return parse_tokens(&list).map_err(|error| error.in_file(file)),
            IdsFile::Either => {
                return wrong(
                    "digits alone, which may be numbers of two bytes",
                    "a line break after a list as text",
                );
            }
            IdsFile::Text => return wrong("a text", "a list of numbers, or little-endian u16"),
            IdsFile::Binary(bytes) => bytes,
        };
        let (ids, rest) = bytes.as_chunks::<2>();
        if !rest.is_empty() {
            let found = format!("{} bytes", bytes.len());
            return Err(Error::mismatch("token ids", found, "an even number, two a token").in_file(file));
        }
        let mut ids: Vec<u32> = ids.iter().map(|id| u32::from(u16::from_le_bytes(*id))).collect();
        // A byte order mark, unless it is a token.
        if ids.first() == Some(&0xfeff) && model.config().vocabulary <= 0xfeff {
            ids.remove(0);
        }
        Ok(ids)
    }

    /// As [`InputArguments::ids`], at least one of them.
    ///
    /// # Errors
    /// As [`InputArguments::ids`], and if there is none.
    pub fn tokens(&self, model: &Model, encode: impl FnOnce(&str) -> Result<Vec<u32>>) -> Result<Vec<u32>> {
        let tokens = self.ids(model, encode)?;
        if tokens.is_empty() {
            return Err(Error::argument("the prompt is empty: found 0 tokens, expected at least 1"));
        }
        Ok(tokens)
    }
}

/// Reads a text file, or standard input for `-`, without a byte order mark.
///
/// # Errors
/// If it cannot be read, has more than `most` bytes or is not UTF-8.
pub fn read_text(path: &Path, most: u64) -> Result<String> {
    let bytes = input::read(path, most)?;
    let name = input::name(path);
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(Error::mismatch("text", "UTF-16", "UTF-8").in_file(name));
    }
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Error::mismatch("text", format!("a byte at {at} that is not UTF-8"), "UTF-8").in_file(name)
    })?;
    if text.starts_with(BYTE_ORDER_MARK) {
        text.drain(..BYTE_ORDER_MARK.len_utf8());
    }
    Ok(text)
}

/// Begins text files of some editors.
pub const BYTE_ORDER_MARK: char = '\u{feff}';

/// Standard input as a prompt, without the line break that `echo` adds.
///
/// # Errors
/// If it cannot be read or is not UTF-8.
pub fn piped_text() -> Result<String> {
    let mut text = read_text(Path::new("-"), input::TEXT)?;
    let end = text.strip_suffix('\n').map(|text| text.strip_suffix('\r').unwrap_or(text).len());
    text.truncate(end.unwrap_or(text.len()));
    Ok(text)
}

/// Token ids separated by commas, as a JSON list, or in the field "tokens" of a JSON object; spaces are allowed.
///
/// # Errors
/// If one is not a number.
pub fn parse_tokens(list: &str) -> Result<Vec<u32>> {
    let list = list.trim_start_matches(BYTE_ORDER_MARK).trim();
    if list.starts_with('{') {
        #[derive(serde::Deserialize)]
        struct Tokens {
            tokens: Vec<u32>,
        }
        let error =
            |error| Error::argument(format!("token ids: found {error}, expected \"tokens\", a list of ids"));
        return Ok(serde_json::from_str::<Tokens>(list).map_err(error)?.tokens);
    }
    let list = list.strip_prefix('[').and_then(|list| list.strip_suffix(']')).unwrap_or(list);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_undone() {
        assert_eq!(unescape(r"a\n\tb\\n\x\"), "a\n\tb\\n\\x\\");
    }

    #[test]
    fn token_ids_are_read_from_lists_and_objects() {
        for list in ["73,74", " 73 , 74\n", "[73, 74]", "\u{feff}73,74", r#"{"text":"x","tokens":[73,74]}"#] {
            assert_eq!(parse_tokens(list).unwrap(), [73, 74], "{list}");
        }
        assert!(parse_tokens("").unwrap().is_empty() && parse_tokens("[]").unwrap().is_empty());
        for list in ["1,,2", "[1", "-1", "{}", "4294967296"] {
            assert!(parse_tokens(list).is_err(), "{list}");
        }
    }

    #[test]
    fn a_file_of_ids_may_be_a_list() {
        let utf16 = |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
        let lists = ["1,2,3", "\u{feff}[1, 2]\n", "[1]", "123\n", "12\n", "1", "123", "{\"tokens\": [1]}"];
        for list in lists.map(|list| list.as_bytes().to_vec()).into_iter().chain([utf16("\u{feff}1,2\r\n")]) {
            let IdsFile::List(text) = IdsFile::of(&list) else { panic!("{list:?}") };
            assert!(text.contains('1') && parse_tokens(&text).is_ok_and(|ids| !ids.is_empty()), "{text}");
        }
        for binary in [&b""[..], b"\x01\0\x02\0", b"1,x2", b"\xff\xfe\x01\x20\x02\x10", b"  "] {
            assert_eq!(IdsFile::of(binary), IdsFile::Binary(binary));
        }
        // Numbers of two bytes, or one of two digits.
        assert_eq!([&b"12"[..], b"123456"].map(IdsFile::of), [IdsFile::Either, IdsFile::Either]);
        assert_eq!(IdsFile::of(b"[1, 2, three, 4, 5]\n"), IdsFile::Text);
    }

    #[test]
    fn minus_one_is_no_limit() {
        assert_eq!(parse_max_tokens("-1"), Ok(usize::MAX));
        assert_eq!(parse_max_tokens("7"), Ok(7));
        let error = parse_max_tokens("-2").unwrap_err();
        assert!(error.contains("-1 for no limit"), "{error}");
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [("7", 7), ("1.5 kB", 1500), ("800MB", 800_000_000), ("4g", 4_000_000_000)] {
            assert_eq!(parse_bytes(text), Ok(bytes));
        }
        assert!(["", "GB", "4 TB", "-1", "1.2.3"].iter().all(|text| parse_bytes(text).is_err()));
    }
}
