//! Blocks after the end of a sequence, computed from a guess at its next tokens.
//!
//! Where a block is a single token, the block decoder itself is the part that a guess can share a pass of. The cache
//! then has keys and values of the guessed blocks beyond its length, and this file their columns of the residual stream.
//! A guess that comes true costs no pass; any other write to the cache makes the rest worthless.

use crate::error::Result;
use crate::memory::{copy, reserve};
use crate::model::{Model, TokenDecoder};

/// The guessed tokens that are still to come, and their contexts.
pub(super) struct Ahead {
    tokens: Vec<u32>,
    /// Columns of the residual stream, `[tokens, block_hidden]`.
    contexts: Vec<f32>,
    /// How many of the tokens have come.
    taken: usize,
    hidden: usize,
}

impl Ahead {
    /// No blocks, and room for as many as the model can guess.
    ///
    /// # Errors
    /// If that cannot be allocated.
    pub(super) fn new(model: &Model) -> Result<Ahead> {
        let (most, hidden) = (model.config().guesses_ahead(), model.config().block_decoder.hidden);
        let mut contexts = Vec::new();
        reserve(&mut contexts, most.saturating_mul(hidden), "contexts of a guess")?;
        Ok(Ahead { tokens: Vec::with_capacity(most), contexts, taken: 0, hidden })
    }

    /// A copy.
    ///
    /// # Errors
    /// If its memory cannot be allocated.
    pub(super) fn try_clone(&self) -> Result<Ahead> {
        let contexts = copy(&self.contexts, "contexts of a guess")?;
        Ok(Ahead { tokens: self.tokens.clone(), contexts, ..*self })
    }

    /// The tokens that are still to come.
    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens[self.taken..]
    }

    /// Forgets the guess.
    pub(super) fn clear(&mut self) {
        self.tokens.clear();
        self.contexts.clear();
        self.taken = 0;
    }

    /// Keeps a guess and its contexts.
    pub(super) fn set(&mut self, tokens: &[u32], contexts: &[f32]) {
        self.clear();
        self.tokens.extend(tokens);
        self.contexts.extend(contexts);
    }

    /// The context of the next token, if it was guessed.
    pub(super) fn take(&mut self, token: u32) -> Option<&[f32]> {
        if self.tokens().first() != Some(&token) {
            return None;
        }
        self.taken += 1;
        Some(&self.contexts[(self.taken - 1) * self.hidden..][..self.hidden])
    }

    /// Adds the columns after the first `count` tokens to a pass of the token decoder. Returns their number.
    ///
    /// # Errors
    /// If there is no memory for them.
    pub(super) fn push_columns(
        &self,
        decoder: &mut TokenDecoder,
        model: &Model,
        count: usize,
    ) -> Result<usize> {
        let contexts = self.contexts[self.taken * self.hidden..].chunks_exact(self.hidden.max(1));
        contexts.take(count).map(|context| decoder.push(model, context, &[], 0)).sum()
    }
}
