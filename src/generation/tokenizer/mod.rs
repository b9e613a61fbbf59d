//! Text to tokens and back, with the Hugging Face tokenizer that a model file carries.

#[cfg(not(feature = "tokenizer"))]
mod absent;
#[cfg(feature = "tokenizer")]
mod bounded;
#[cfg(feature = "tokenizer")]
mod decoder;
#[cfg(feature = "tokenizer")]
mod hugging_face;
mod stops;
#[cfg(all(test, feature = "tokenizer"))]
mod tests;

use std::ops::Deref;

#[cfg(not(feature = "tokenizer"))]
use self::absent::{Backend, Decoding};
#[cfg(feature = "tokenizer")]
use self::hugging_face::{Backend, Decoding};
pub use self::stops::{Passed, StopMatcher};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::model::Model;

/// A tokenizer. A build without the feature `tokenizer` has the type and no value of it.
pub struct Tokenizer(Backend);

impl Tokenizer {
    /// Whether this build can read tokenizers.
    pub const AVAILABLE: bool = Backend::AVAILABLE;

    /// Parses a `tokenizer.json`.
    ///
    /// # Errors
    /// If it is not one, or this build has no tokenizer.
    pub fn from_json(json: &str) -> Result<Tokenizer> {
        Backend::from_json(json).map(Tokenizer)
    }

    /// The tokenizer of a model.
    ///
    /// # Errors
    /// If the model carries none, or this build has no tokenizer.
    pub fn of_model(model: &Model) -> Result<Tokenizer> {
        match model.tokenizer_json() {
            Some(json) => Self::from_json(json),
            None => Err(Error::unsupported("the model carries no tokenizer: found text, expected token ids")),
        }
    }

    /// Whether decoding shows special tokens, such as `<|endoftext|>`; at first it does not.
    pub fn show_special(&mut self, show: bool) {
        self.0.show_special(show);
    }

    /// Whether encoding takes the names of special tokens in a text for those tokens; at first it does.
    pub fn parse_special(&mut self, parse: bool) {
        self.0.parse_special(parse);
    }

    /// The tokens of a text, without added special tokens.
    ///
    /// # Errors
    /// If the tokenizer cannot represent the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.0.encode(text)
    }

    /// As [`Tokenizer::encode`], for long texts: stops between two words on request.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`]; `Interrupted` on request.
    pub fn encode_until(&self, text: &str, interrupt: &Interrupt) -> Result<Vec<u32>> {
        self.0.encode_until(text, interrupt)
    }

    /// The text of tokens, without special tokens unless they are to be shown. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        let mut stream = TextStream::new(self);
        let mut text = String::new();
        for token in tokens {
            text += &stream.push(*token)?;
        }
        Ok(text + &stream.finish()?)
    }

    /// The id of a token, special ones included.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.0.token(token)
    }

    /// A token as the vocabulary spells it, special ones included.
    pub fn token_text(&self, id: u32) -> Option<String> {
        self.0.text(id)
    }

    /// Number of tokens, special ones included.
    pub fn vocabulary(&self) -> usize {
        self.0.vocabulary()
    }
}

/// Turns tokens into text as they come. The pieces together are exactly what [`Tokenizer::decode`] gives for all
/// tokens: text that a later token could change is held back, so that no character is ever split. Tokens of one or two
/// characters are held, a row of tokens like `<0x0A>`, and everything with the few decoders that replace a pattern after
/// they have joined all tokens.
/// It borrows its tokenizer, or shares it.
pub struct TextStream<T: Deref<Target = Tokenizer>> {
    tokenizer: T,
    decoding: Decoding,
}

impl<T: Deref<Target = Tokenizer>> TextStream<T> {
    /// An empty stream.
    pub fn new(tokenizer: T) -> Self {
        let decoding = tokenizer.0.start();
        TextStream { tokenizer, decoding }
    }

    /// A stream that goes on after other tokens, of which the last few are enough. Their text is left out, but decides
    /// for example whether a space precedes the first word; a character that they leave incomplete stays so.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn after(tokenizer: T, context: &[u32]) -> Result<Self> {
        let mut stream = Self::new(tokenizer);
        for token in context {
            stream.push(*token)?;
        }
        stream.tokenizer.0.cut(&mut stream.decoding)?;
        Ok(stream)
    }

    /// Adds a token and returns the text that is certain by then, which may be empty.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn push(&mut self, token: u32) -> Result<String> {
        self.tokenizer.0.push(&mut self.decoding, token)
    }

    /// Returns what was held back, when no more tokens come.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn finish(&mut self) -> Result<String> {
        self.tokenizer.0.finish(&mut self.decoding)
    }
}
