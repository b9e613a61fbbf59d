//! The tokenizers crate.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokenizers::decoders::DecoderWrapper;
use tokenizers::models::ModelWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{Model, OffsetType, PreTokenizer, TokenizerImpl};

use super::bounded::{self, Bounded, within};
use super::decoder::{self, Stage};
use crate::error::{Error, ErrorKind, Result};
use crate::interrupt::Interrupt;

/// The crate's tokenizer, whose normalizer is bounded.
type Inner = TokenizerImpl<ModelWrapper, Bounded, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

pub struct Backend {
    tokenizer: Inner,
    /// Stages before the first token; `None` if the decoder needs all tokens at once.
    stages: Option<Vec<Stage>>,
    show_special: bool,
}

/// How far the decoding of some tokens has come.
pub enum Decoding {
    Stages(Vec<Stage>),
    /// All tokens, and how many of them are context.
    Whole(Vec<u32>, usize),
}

/// Calls the tokenizers crate, which panics on some files that contradict themselves, and on some texts of which too much
/// would be made. `bytes` is the length of what it may normalize.
fn guard<T>(bytes: usize, call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    let wrong = |error: tokenizers::Error| Error::format(format!("tokenizer: {error}"));
    match catch_unwind(AssertUnwindSafe(|| within(bytes, call))) {
        Ok(result) => result.map_err(wrong),
        Err(_) => {
            bounded::check_left().map_err(wrong)?;
            Err(Error::format("tokenizer: the file contradicts itself"))
        }
    }
}

impl Backend {
    pub const AVAILABLE: bool = true;

    pub fn from_json(json: &str) -> Result<Backend> {
        let mut tokenizer = guard(json.len(), || Inner::from_bytes(json))?;
        guard(0, || bounded::check(tokenizer.get_pre_tokenizer(), tokenizer.get_decoder()))?;
        // Settings for training batches, which some files carry, would shorten or lengthen the text.
        let _ = tokenizer.with_truncation(None);
        tokenizer.with_padding(None);
        // It adds special tokens, and may repeat the text; offsets are not looked at.
        tokenizer.with_post_processor(None::<PostProcessorWrapper>);
        let stages = decoder::stages(tokenizer.get_decoder());
        Ok(Backend { tokenizer, stages, show_special: false })
    }

    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(guard(text.len(), || self.tokenizer.encode_fast(text, false))?.get_ids().to_vec())
    }

    /// As `encode`, step by step, so that it can stop between two words.
    pub fn encode_until(&self, text: &str, interrupt: &Interrupt) -> Result<Vec<u32>> {
        let mut words = guard(text.len(), || {
            let added = self.tokenizer.get_added_vocabulary();
            let mut words = added.extract_and_normalize(self.tokenizer.get_normalizer(), text);
            if let Some(pre_tokenizer) = self.tokenizer.get_pre_tokenizer() {
                pre_tokenizer.pre_tokenize(&mut words)?;
            }
            Ok(words)
        })?;
        let stopped = Cell::new(false);
        let ids = guard(0, || {
            words.tokenize(|word| {
                if interrupt.check().is_err() {
                    stopped.set(true);
                    return Err("interrupted".into());
                }
                self.tokenizer.get_model().tokenize(word.get())
            })?;
            words.into_encoding(None, 0, OffsetType::None)
        });
        if stopped.get() {
            return Err(Error::new(ErrorKind::Interrupted, "interrupted"));
        }
        Ok(ids?.get_ids().to_vec())
    }

    pub fn token(&self, name: &str) -> Option<u32> {
        self.tokenizer.token_to_id(name)
    }

    pub fn text(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    pub fn vocabulary(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    pub fn show_special(&mut self, show: bool) {
        self.show_special = show;
    }

    pub fn parse_special(&mut self, parse: bool) {
        self.tokenizer.set_encode_special_tokens(!parse);
    }

    pub fn start(&self) -> Decoding {
        match &self.stages {
            Some(stages) => Decoding::Stages(stages.clone()),
            None => Decoding::Whole(Vec::new(), 0),
        }
    }

    pub fn push(&self, decoding: &mut Decoding, token: u32) -> Result<String> {
        let mut text = String::new();
        match decoding {
            Decoding::Whole(tokens, _) => tokens.push(token),
            Decoding::Stages(stages) => {
                if let Some(element) = self.element(token) {
                    guard(0, || decoder::feed(stages, element, &mut text))?;
                }
            }
        }
        Ok(text)
    }

    pub fn cut(&self, decoding: &mut Decoding) -> Result<()> {
        match decoding {
            Decoding::Stages(stages) => guard(0, || decoder::cut(stages)),
            Decoding::Whole(tokens, context) => {
                *context = tokens.len();
                Ok(())
            }
        }
    }

    pub fn finish(&self, decoding: &mut Decoding) -> Result<String> {
        match decoding {
            Decoding::Stages(stages) => {
                let mut text = String::new();
                guard(0, || decoder::finish(stages, &mut text))?;
                Ok(text)
            }
            Decoding::Whole(tokens, 0) => self.whole(tokens),
            Decoding::Whole(tokens, context) => {
                let (before, all) = (self.whole(&tokens[..*context])?, self.whole(tokens)?);
                match all.strip_prefix(&before) {
                    Some(text) => Ok(text.to_string()),
                    // The context reads differently with what follows, so that the text has no place in it.
                    None => self.whole(&tokens[*context..]),
                }
            }
        }
    }

    /// The string of a token, if it has one and is not special, or special tokens are to be shown.
    fn element(&self, token: u32) -> Option<String> {
        let special = self.tokenizer.get_added_vocabulary();
        self.tokenizer
            .id_to_token(token)
            .filter(|element| self.show_special || !special.is_special_token(element))
    }

    /// Some decoders do not expect that there may be nothing, and some make a text of it.
    fn whole(&self, tokens: &[u32]) -> Result<String> {
        let nothing = tokens.iter().all(|token| self.element(*token).is_none());
        if nothing && !decoder::takes_nothing(self.tokenizer.get_decoder()) {
            return Ok(String::new());
        }
        guard(0, || self.tokenizer.decode(tokens, !self.show_special))
    }
}
