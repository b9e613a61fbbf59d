//! Text to tokens and back, with the Hugging Face tokenizer that a model file carries.

use std::ops::Deref;

use crate::error::{Error, Result};
use crate::model::Model;

/// A tokenizer. A build without the feature `tokenizer` has the type and no value of it.
pub struct Tokenizer(backend::Backend);

/// The tokenizers crate, where it is part of the build.
#[cfg(feature = "tokenizer")]
mod backend {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use crate::error::{Error, Result};

    pub struct Backend(tokenizers::Tokenizer);

    /// Calls the tokenizers crate, which panics on some files that contradict themselves.
    fn guard<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
        match catch_unwind(AssertUnwindSafe(call)) {
            Ok(result) => result.map_err(|error| Error::format(format!("tokenizer: {error}"))),
            Err(_) => Err(Error::format("tokenizer: the file contradicts itself")),
        }
    }

    impl Backend {
        pub const AVAILABLE: bool = true;

        pub fn from_json(json: &str) -> Result<Backend> {
            let mut tokenizer = guard(|| tokenizers::Tokenizer::from_bytes(json))?;
            // Settings for training batches, which some files carry, would shorten or lengthen the text.
            let _ = tokenizer.with_truncation(None);
            tokenizer.with_padding(None);
            Ok(Backend(tokenizer))
        }

        pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
            Ok(guard(|| self.0.encode_fast(text, false))?.get_ids().to_vec())
        }

        pub fn decode(&self, tokens: &[u32]) -> Result<String> {
            guard(|| self.0.decode(tokens, true))
        }

        pub fn token(&self, name: &str) -> Option<u32> {
            self.0.token_to_id(name)
        }
    }
}

/// No tokenizer: the type has no value, so nothing can be asked of one.
#[cfg(not(feature = "tokenizer"))]
mod backend {
    use crate::error::{Error, Result};

    pub enum Backend {}

    impl Backend {
        pub const AVAILABLE: bool = false;

        pub fn from_json(_: &str) -> Result<Backend> {
            let detail = "this build of the library has no tokenizer: found text, expected token ids";
            Err(Error::unsupported(detail))
        }

        pub fn encode(&self, _: &str) -> Result<Vec<u32>> {
            match *self {}
        }

        pub fn decode(&self, _: &[u32]) -> Result<String> {
            match *self {}
        }

        pub fn token(&self, _: &str) -> Option<u32> {
            match *self {}
        }
    }
}

impl Tokenizer {
    /// Whether this build can read tokenizers.
    pub const AVAILABLE: bool = backend::Backend::AVAILABLE;

    /// Parses a `tokenizer.json`.
    ///
    /// # Errors
    /// If it is not one, or this build has no tokenizer.
    pub fn from_json(json: &str) -> Result<Tokenizer> {
        backend::Backend::from_json(json).map(Tokenizer)
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

    /// The tokens of a text, without added special tokens.
    ///
    /// # Errors
    /// If the tokenizer cannot represent the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.0.encode(text)
    }

    /// The text of tokens, without special tokens. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.0.decode(tokens)
    }

    /// The token that ends a text, by the names that it usually has.
    pub fn end_token(&self) -> Option<u32> {
        ["<|endoftext|>", "</s>", "<eos>"].iter().find_map(|name| self.0.token(name))
    }
}

/// Turns tokens into text as they come, and never splits a character: what does not yet end one is held back.
/// It borrows its tokenizer, or shares it.
pub struct TextStream<T: Deref<Target = Tokenizer>> {
    tokenizer: T,
    /// Tokens before `shown` give the decoder its context; those after are not shown yet.
    tokens: Vec<u32>,
    shown: usize,
}

/// A character of UTF-8 has at most 4 bytes; more tokens than that which end in no character never will.
const MAX_HELD: usize = 4;

impl<T: Deref<Target = Tokenizer>> TextStream<T> {
    /// An empty stream.
    pub fn new(tokenizer: T) -> Self {
        TextStream { tokenizer, tokens: Vec::new(), shown: 0 }
    }

    /// Adds a token and returns the text that it completes, which may be empty.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn push(&mut self, token: u32) -> Result<String> {
        self.tokens.push(token);
        self.take(self.tokens.len() - self.shown > MAX_HELD)
    }

    /// Returns what was held back.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn finish(&mut self) -> Result<String> {
        self.take(true)
    }

    fn take(&mut self, all: bool) -> Result<String> {
        let before = self.tokenizer.decode(&self.tokens[..self.shown])?;
        let text = self.tokenizer.decode(&self.tokens)?;
        if text.ends_with('\u{fffd}') && !all {
            return Ok(String::new());
        }
        // The context is one earlier piece of text: decoders treat the start of a text specially.
        let piece = text.get(before.len()..).unwrap_or_default().to_string();
        // Special tokens decode to nothing and must not pile up.
        if !piece.is_empty() || self.tokens.len() - self.shown > MAX_HELD {
            self.tokens.drain(..self.shown);
            self.shown = self.tokens.len();
        }
        Ok(piece)
    }
}

/// Cuts a stream of text at the first of some stop strings, which may begin in one piece and end in another.
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
}

/// What a [`StopMatcher`] lets through.
#[derive(Debug, PartialEq)]
pub struct Passed {
    /// Text that is not, and will not become, part of a stop string.
    pub text: String,
    /// Whether a stop string was found; the text ends before it.
    pub stopped: bool,
}

impl StopMatcher {
    /// A matcher; empty strings are ignored.
    pub fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        StopMatcher { stops, held: String::new() }
    }

    /// Adds a piece of text.
    pub fn push(&mut self, piece: &str) -> Passed {
        self.held.push_str(piece);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(at);
            return Passed { text: std::mem::take(&mut self.held), stopped: true };
        }
        // Hold back the longest end that begins a stop string.
        let begins = |at: usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[at..]));
        let keep =
            self.held.char_indices().map(|(at, _)| at).find(|&at| begins(at)).unwrap_or(self.held.len());
        let text = self.held[..keep].to_string();
        self.held.drain(..keep);
        Passed { text, stopped: false }
    }

    /// Returns what was held back, when no more text comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(all(test, feature = "tokenizer"))]
mod tests {
    use super::*;

    const BYTES: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},
        "post_processor":null,"decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,
        "use_regex":true},"model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,
        "end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,
        "vocab":{"a":0,"b":1,"Ã":2,"©":3,"â":4,"Ĥ":5,"¬":6,"Ġ":7},"merges":[]}}"#;

    #[test]
    fn characters_are_never_split() {
        let tokenizer = Tokenizer::from_json(BYTES).unwrap();
        let text = "aé€b é";
        let tokens = tokenizer.encode(text).unwrap();
        assert_eq!(tokens.len(), 10);
        let mut stream = TextStream::new(&tokenizer);
        let mut pieces: Vec<String> = tokens.iter().map(|&token| stream.push(token).unwrap()).collect();
        pieces.push(stream.finish().unwrap());
        assert_eq!(pieces.concat(), text);
        assert!(pieces.iter().all(|piece| !piece.contains('\u{fffd}')));
        // A character that never ends comes out at the end, and does not hold up what follows for long.
        let mut stream = TextStream::new(&tokenizer);
        let mut shown = stream.push(4).unwrap();
        assert_eq!(shown, "");
        for token in [0, 1, 4] {
            shown += &stream.push(token).unwrap();
        }
        assert_eq!(shown + &stream.finish().unwrap(), "\u{fffd}ab\u{fffd}");
    }

    #[test]
    fn stops_are_found_across_pieces() {
        let mut matcher = StopMatcher::new(&["END".into(), "\n\n".into(), String::new()]);
        assert_eq!(matcher.push("one E"), Passed { text: "one ".into(), stopped: false });
        assert_eq!(matcher.push("N"), Passed { text: String::new(), stopped: false });
        assert_eq!(matcher.push("O\n"), Passed { text: "ENO".into(), stopped: false });
        assert_eq!(matcher.push("\nrest"), Passed { text: String::new(), stopped: true });
        let mut matcher = StopMatcher::new(&["ab".into()]);
        assert_eq!(matcher.push("xa"), Passed { text: "x".into(), stopped: false });
        assert_eq!(matcher.finish(), "a");
    }
}
