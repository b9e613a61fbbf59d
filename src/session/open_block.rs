//! The open block of a sequence: the tokens since the last whole block, and the token decoder's work on them.

use crate::cache::{Cache, CacheType};
use crate::error::Result;
use crate::memory::{copy, zeros};
use crate::model::{Model, PAD_TOKEN, Segment, TokenDecoder};

/// The tokens of a sequence that are not a whole block yet, with the context that they are decoded in.
pub(crate) struct OpenBlock {
    /// Tokens of a block.
    length: usize,
    /// Never a whole block between two calls.
    tokens: Vec<u32>,
    /// Of these, padding at the start of a first text: none, unless the block is about to enter the cache.
    padding: usize,
    /// The last whole block's column of the residual stream, `[block_hidden]`.
    context: Vec<f32>,
    /// The expanded context, `[opened_floats]`, if the block is opened.
    expanded: Vec<f32>,
    /// Whether the context has been expanded for this block.
    opened: bool,
    /// Keys and values of the token decoder.
    cache: Cache,
    /// The tokens in `cache`; wrong guesses may be among them.
    seen: Vec<u32>,
}

impl OpenBlock {
    /// An empty block of a model.
    ///
    /// # Errors
    /// If its memory cannot be allocated.
    pub(super) fn new(model: &Model) -> Result<OpenBlock> {
        let config = model.config();
        Ok(OpenBlock {
            length: config.block_length,
            tokens: Vec::with_capacity(config.block_length),
            padding: 0,
            context: zeros(config.block_decoder.hidden, "context")?,
            expanded: zeros(config.token_decoder.opened_floats(), "expanded context")?,
            opened: false,
            cache: Cache::new(CacheType::F32, TokenDecoder::cache_shape(config))?,
            seen: Vec::with_capacity(config.block_length),
        })
    }

    /// A copy.
    ///
    /// # Errors
    /// If its memory cannot be allocated.
    pub(super) fn try_clone(&self) -> Result<OpenBlock> {
        Ok(OpenBlock {
            tokens: self.tokens.clone(),
            context: copy(&self.context, "context")?,
            expanded: copy(&self.expanded, "expanded context")?,
            cache: self.cache.try_clone()?,
            seen: self.seen.clone(),
            ..*self
        })
    }

    /// Tokens of a block.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// The tokens so far.
    pub(crate) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The last whole block's column of the residual stream, `[block_hidden]`.
    pub(crate) fn context(&self) -> &[f32] {
        &self.context
    }

    /// Whether the block is complete: it is about to enter the cache.
    pub(super) fn is_whole(&self) -> bool {
        self.tokens.len() == self.length
    }

    /// Adds tokens.
    pub(super) fn extend(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
    }

    /// Removes the last token.
    pub(super) fn pop(&mut self) {
        self.tokens.pop();
    }

    /// Fills the block up from the left, and returns the number of tokens that took.
    pub(super) fn pad(&mut self) -> usize {
        let padding = self.length - self.tokens.len();
        self.tokens.splice(..0, std::iter::repeat_n(PAD_TOKEN, padding));
        self.padding = padding;
        padding
    }

    /// Takes the tokens of [`OpenBlock::pad`] back.
    pub(super) fn unpad(&mut self, padding: usize) {
        self.tokens.drain(..padding);
        self.padding = 0;
    }

    /// Tokens of padding that the block begins with.
    pub(super) fn padding(&self) -> usize {
        self.padding
    }

    /// Notes that a first block, which is about to enter the cache once more, begins with padding.
    pub(super) fn note_padding(&mut self, padding: usize) {
        self.padding = padding;
    }

    /// Forgets the tokens.
    pub(super) fn clear(&mut self) {
        self.tokens.clear();
        self.padding = 0;
        self.opened = false;
    }

    /// Becomes the empty block after the one whose column of the residual stream is `context`.
    pub(super) fn follow(&mut self, context: &[f32]) {
        self.context.copy_from_slice(context);
        self.clear();
    }

    /// The context, to be replaced.
    pub(super) fn context_mut(&mut self) -> &mut [f32] {
        &mut self.context
    }

    /// Whether the context has been expanded.
    pub(super) fn is_opened(&self) -> bool {
        self.opened
    }

    /// Starts decoding from the expanded context, `[opened_floats]`.
    pub(super) fn open(&mut self, expanded: &[f32]) {
        self.expanded.copy_from_slice(expanded);
        self.cache.clear();
        self.seen.clear();
        self.opened = true;
    }

    /// Lets the logits of the next token be computed once more.
    pub(super) fn reopen(&mut self) {
        self.opened = false;
    }

    /// Makes the token decoder forget wrong guesses; `first` is the number of its positions before any token. Returns
    /// whether there is a token that it has not seen.
    pub(super) fn settle(&mut self, first: usize) -> bool {
        if self.cache.length() < first as u64 {
            // The block's first pass was interrupted.
            return true;
        }
        let agreeing = self.seen.iter().zip(&self.tokens).take_while(|(seen, token)| seen == token).count();
        self.seen.truncate(agreeing);
        self.cache.rewind((first + agreeing) as u64);
        agreeing < self.tokens.len()
    }

    /// Adds the columns of the tokens that the decoder has not seen, those of a guess after them, to its pass. Returns
    /// their number.
    ///
    /// # Errors
    /// If there is no memory for them.
    pub(super) fn push_columns(
        &mut self,
        decoder: &mut TokenDecoder,
        model: &Model,
        guess: &[u32],
    ) -> Result<usize> {
        self.tokens.extend(guess);
        let columns = decoder.push(model, &self.expanded, &self.tokens, self.cache.length() as usize);
        self.tokens.truncate(self.tokens.len() - guess.len());
        columns
    }

    /// The next `columns` columns of the token decoder.
    pub(super) fn segment(&mut self, columns: usize) -> Segment<'_> {
        Segment::new(columns, &mut self.cache).opened(&self.expanded)
    }

    /// Notes that a pass has seen all tokens and a guess.
    pub(super) fn note_seen(&mut self, guess: &[u32]) {
        self.seen.clear();
        self.seen.extend(self.tokens.iter().chain(guess));
    }
}
