//! The tokenizer of a checkpoint, and the token that ends a text.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use cinderblock::{Error, Result, Tokenizer};
use serde_json::Value as Json;

use super::yaml::without_mark;
use crate::input::read_regular;

/// Beside a tokenizer and a model, files that may name the end token, the first that does counts: the file, and the key.
const END_FILES: [(&str, &str); 3] = [
    ("tokenizer_config.json", "eos_token"),
    ("special_tokens_map.json", "eos_token"),
    ("generation_config.json", "eos_token_id"),
];
/// Names that the end token usually has.
const END_NAMES: [&str; 4] = ["<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>"];
/// Real tokenizers have some million bytes.
const MAX_BYTES: u64 = 512 << 20;

/// The end token as a person gives it.
#[derive(Clone, Debug, PartialEq)]
pub enum EndToken {
    None,
    Id(u32),
    /// A token of the tokenizer.
    Text(String),
}

impl EndToken {
    /// Reads a number, `none`, or the text of a token.
    pub fn parse(text: &str) -> std::result::Result<EndToken, String> {
        Ok(match text.parse() {
            Ok(id) => EndToken::Id(id),
            Err(_) if text == "none" => EndToken::None,
            Err(_) if text.is_empty() => return Err("expected a token's id, its text, or none".to_string()),
            Err(_) => EndToken::Text(text.to_string()),
        })
    }

    /// The token's id.
    ///
    /// # Errors
    /// If there is no such token.
    pub fn resolve(&self, lexicon: Option<&Lexicon>, vocabulary: usize) -> Result<Option<u32>> {
        let id = match self {
            EndToken::None => return Ok(None),
            EndToken::Id(id) => *id,
            EndToken::Text(text) => {
                let lexicon = lexicon.ok_or_else(|| {
                    Error::argument("--end-token: found text but no tokenizer, expected the token's id")
                })?;
                lexicon.id(text).ok_or_else(|| {
                    Error::argument(format!("--end-token: the tokenizer has no token {text:?}"))
                })?
            }
        };
        if id as usize >= vocabulary {
            return Err(Error::argument(format!("--end-token: found {id}, expected less than {vocabulary}")));
        }
        Ok(Some(id))
    }
}

/// A tokenizer's tokens by name.
pub struct Lexicon(Tokenizer);

impl Lexicon {
    /// Of a tokenizer's JSON text.
    ///
    /// # Errors
    /// If it is none.
    pub fn from_json(json: &str) -> Result<Lexicon> {
        Ok(Lexicon(Tokenizer::from_json(json)?))
    }

    fn id(&self, token: &str) -> Option<u32> {
        self.0.token_id(token)
    }

    /// The end token, by the names that it usually has.
    fn usual_end(&self) -> Option<u32> {
        END_NAMES.iter().find_map(|name| self.id(name))
    }

    /// A token's text.
    pub fn text(&self, id: u32) -> String {
        self.0.token_text(id).unwrap_or_default()
    }
}

/// Reads a regular file of limited size, without a byte order mark.
fn read(path: &Path, what: &str) -> Result<Vec<u8>> {
    Ok(without_mark(&read_regular(path, what, MAX_BYTES)?).to_vec())
}

/// Reads a tokenizer: its JSON text, and its tokens.
///
/// # Errors
/// If the file cannot be read, or is none.
pub fn read_tokenizer(path: &Path) -> Result<(String, Lexicon)> {
    let text = String::from_utf8(read(path, "a tokenizer")?)
        .map_err(|_| Error::mismatch("tokenizer", "bytes that are not UTF-8", "JSON").in_file(path))?;
    let lexicon = Lexicon::from_json(&text).map_err(|error| error.in_file(path))?;
    Ok((text, lexicon))
}

/// Finds the tokenizer: where it is, its text, its tokens.
pub fn find(given: Option<&Path>, folders: &[PathBuf]) -> Result<Option<(PathBuf, String, Lexicon)>> {
    let path = match given {
        Some(path) if path.is_dir() => Some(path.join("tokenizer.json")),
        Some(path) => Some(path.to_path_buf()),
        None => folders.iter().map(|folder| folder.join("tokenizer.json")).find(|path| path.exists()),
    };
    let Some(path) = path else { return Ok(None) };
    let (text, lexicon) = read_tokenizer(&path)?;
    Ok(Some((path, text, lexicon)))
}

/// Makes sure that a model can have every token that text becomes. Added tokens may be beyond its vocabulary: people
/// add some, such as one for padding, that a model never sees.
///
/// # Errors
/// If it cannot.
pub fn check_vocabulary(path: &Path, json: &str, vocabulary: usize) -> Result<()> {
    #[derive(serde::Deserialize)]
    struct File {
        model: Tokens,
    }
    #[derive(serde::Deserialize)]
    struct Tokens {
        vocab: Vocabulary,
    }
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Vocabulary {
        Ids(HashMap<String, u32>),
        Pieces(Vec<(String, f64)>),
    }
    // What the tokenizers crate reads and this does not is of a kind that has no such table.
    let Ok(file) = serde_json::from_str::<File>(json) else { return Ok(()) };
    let tokens = match file.model.vocab {
        Vocabulary::Ids(ids) => ids.into_values().max().map_or(0, |id| id as usize + 1),
        Vocabulary::Pieces(pieces) => pieces.len(),
    };
    if tokens > vocabulary {
        let (found, expected) = (format!("{tokens} tokens"), format!("at most the model's {vocabulary}"));
        return Err(Error::mismatch("tokenizer", found, expected).in_file(path));
    }
    Ok(())
}

/// A line on a tokenizer.
pub fn describe(path: &Path, lexicon: &Lexicon, vocabulary: usize) -> String {
    let tokens = lexicon.0.vocabulary();
    let more = if tokens > vocabulary {
        format!(", of which the model has the first {vocabulary}: a text with the others is refused")
    } else {
        String::new()
    };
    format!("{}, {tokens} tokens{more}", path.display())
}

/// A line on the tokenizer of a checkpoint without one.
pub fn none(name: Option<&str>) -> String {
    let hint = match name {
        Some("pythia") => "; pythia is the tokenizer.json of EleutherAI/gpt-neox-20b".to_string(),
        Some(name) => format!("; the model was trained with {name}"),
        None => String::new(),
    };
    format!("none found, so the model takes token ids alone; --tokenizer FILE adds one{hint}")
}

/// The end token that a file names, as id or as text.
fn named(path: &Path, key: &str) -> Result<Option<EndToken>> {
    let json: Json = serde_json::from_slice(&read(path, "JSON")?)
        .map_err(|error| Error::format(format!("not valid JSON: {error}")).in_file(path))?;
    let value = &json[key];
    // An added token is an object; a list of ids begins with the one that transformers pads with.
    let value = value.get("content").or(value.get(0)).unwrap_or(value);
    let id = value.as_u64().and_then(|id| u32::try_from(id).ok()).map(EndToken::Id);
    Ok(id.or_else(|| value.as_str().map(|text| EndToken::Text(text.to_string()))))
}

/// Finds the token that ends a text, and a line on where it is from.
///
/// # Errors
/// If the token that a person gave does not exist, or a file cannot be read.
pub fn end_token(
    given: Option<&EndToken>,
    lexicon: Option<&Lexicon>,
    folders: &[PathBuf],
    vocabulary: usize,
) -> Result<(Option<u32>, String)> {
    let line = |id: u32, from: &str| {
        let text = lexicon.map(|lexicon| lexicon.text(id)).unwrap_or_default();
        let space = if text.is_empty() { "" } else { " " };
        (Some(id), format!("{id}{space}{text}, {from}"))
    };
    if let Some(given) = given {
        return Ok(match given.resolve(lexicon, vocabulary)? {
            Some(id) => line(id, "chosen with --end-token"),
            None => (None, "none, as chosen with --end-token".to_string()),
        });
    }
    for (file, key) in END_FILES {
        for path in folders.iter().map(|folder| folder.join(file)).filter(|path| path.exists()) {
            let found =
                named(&path, key)?.and_then(|token| token.resolve(lexicon, vocabulary).ok().flatten());
            if let Some(id) = found {
                return Ok(line(id, &format!("from {}", path.display())));
            }
        }
    }
    let usual = lexicon.and_then(Lexicon::usual_end).filter(|&id| (id as usize) < vocabulary);
    Ok(match usual {
        Some(id) => line(id, "by its usual name"),
        None => (None, "none found, so texts go on to their limit; --end-token names one".to_string()),
    })
}
