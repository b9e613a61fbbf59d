//! Prompts and continuations as requests have them: texts or token ids.

use cinderblock::{Error, Model, Result, Tokenizer};
use serde_json::Value as Json;

/// A text or tokens.
pub enum Prompt {
    /// A text, which the model's tokenizer encodes.
    Text(String),
    /// Token ids.
    Ids(Vec<u32>),
}

impl Prompt {
    /// Its tokens, all in the vocabulary.
    ///
    /// # Errors
    /// If there are none, or there is no tokenizer for a text.
    pub fn tokens(&self, model: &Model, tokenizer: Option<&Tokenizer>) -> Result<Vec<u32>> {
        let tokens = match self {
            Prompt::Text(text) => encode(text, tokenizer)?,
            Prompt::Ids(ids) => ids.clone(),
        };
        if tokens.is_empty() {
            return Err(Error::format("prompt: found 0 tokens, expected at least 1"));
        }
        model.check_tokens(&tokens)?;
        Ok(tokens)
    }
}

/// A list of token ids.
pub fn ids(value: &Json) -> Option<Vec<u32>> {
    value.as_array()?.iter().map(|id| u32::try_from(id.as_u64()?).ok()).collect()
}

/// The tokens of a text; none of an empty one.
pub fn encode(text: &str, tokenizer: Option<&Tokenizer>) -> Result<Vec<u32>> {
    let tokenizer = tokenizer.ok_or_else(|| {
        Error::unsupported("the model carries no tokenizer: found text, expected token ids")
    })?;
    if text.is_empty() { Ok(Vec::new()) } else { tokenizer.encode(text) }
}

/// A list of texts or of lists of ids.
pub fn continuations(value: &Json) -> Option<Vec<Prompt>> {
    let one = |value: &Json| match value.as_str() {
        Some(text) => Some(Prompt::Text(text.to_string())),
        None => ids(value).map(Prompt::Ids),
    };
    value.as_array()?.iter().map(one).collect()
}
