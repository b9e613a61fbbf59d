//! A session: one sequence with an engine of its own. Text goes in at any time and in any pieces, logits come out.

use std::sync::Arc;

use super::engine::{Engine, Logits};
use super::options::SessionOptions;
use super::runtime::Runtime;
use super::sequence::Sequence;
use crate::cache::CacheType;
use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::memory::reserve;
use crate::model::Model;

/// A sequence and the engine that advances it.
pub struct Session {
    engine: Engine,
    sequence: Sequence,
    known: KnownLogits,
}

/// The logits that a session has at hand: those of its next token, and of the tokens after a guess that came true.
pub(crate) struct KnownLogits {
    /// Of the next token, and after each token of the guess: `[1 + guess, vocabulary]`.
    values: Vec<f32>,
    vocabulary: usize,
    cache: CacheType,
    guess: Vec<u32>,
    /// The row of the next token.
    row: Option<usize>,
}

impl KnownLogits {
    /// No logits, and room for those of a pass.
    ///
    /// # Errors
    /// If that cannot be allocated.
    fn new(model: &Model, cache: CacheType) -> Result<KnownLogits> {
        let config = model.config();
        let mut values = Vec::new();
        reserve(&mut values, config.logits_a_pass().saturating_mul(config.vocabulary), "logits of a pass")?;
        Ok(KnownLogits {
            values,
            vocabulary: config.vocabulary,
            cache,
            guess: Vec::with_capacity(config.logits_a_pass()),
            row: None,
        })
    }

    /// Whether the logits of the next token are known.
    pub(crate) fn is_current(&self) -> bool {
        self.row.is_some()
    }

    /// Keeps the logits of the next token, and those after each token of a guess.
    pub(crate) fn keep(&mut self, logits: &[f32], guess: &[u32]) {
        self.values.clear();
        self.values.extend_from_slice(logits);
        self.guess.clear();
        self.guess.extend(guess);
        self.row = Some(0);
    }

    /// The logits of the next token, `[vocabulary]`, if they are known.
    ///
    /// # Errors
    /// If they are not finite.
    pub(crate) fn current(&self) -> Option<Result<&[f32]>> {
        Some(Logits::new(&self.values, self.vocabulary, self.cache).row(self.row?))
    }

    /// Whether the logits after a token are known as well.
    fn continues(&self, token: u32) -> bool {
        self.row.is_some_and(|row| self.guess.get(row) == Some(&token))
    }

    /// Follows tokens that were added: the logits after them are known if all were guessed and the block is still open.
    fn follow(&mut self, tokens: &[u32], inside: bool) {
        let row = self.row.take().filter(|_| inside);
        self.row = row.filter(|row| self.guess[*row..].starts_with(tokens)).map(|row| row + tokens.len());
    }
}

impl Runtime {
    /// An empty session.
    ///
    /// # Errors
    /// If an option is out of range, or cache and buffers cannot be allocated.
    pub fn session(&self, options: &SessionOptions) -> Result<Session> {
        let sequence = self.sequence(options)?;
        let mut engine = self.engine();
        engine.reserve(1, options.cache_blocks_for(self.model()))?;
        let known = KnownLogits::new(self.model(), sequence.cache.kind())?;
        Ok(Session { engine, sequence, known })
    }
}

impl Session {
    /// The model and its threads.
    pub fn runtime(&self) -> &Runtime {
        self.engine.runtime()
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        self.runtime().model()
    }

    /// Number of tokens, the padding of the first block included.
    pub fn length(&self) -> u64 {
        self.sequence.length()
    }

    /// The options it was created with; every field is set.
    pub fn options(&self) -> SessionOptions {
        self.sequence.options()
    }

    /// Number of whole blocks, forgotten ones included.
    pub fn blocks(&self) -> u64 {
        self.sequence.blocks()
    }

    /// Tokens until the open block is complete: at least 1, at most a block.
    pub fn left_in_block(&self) -> usize {
        self.sequence.left_in_block()
    }

    /// Whether a token was guessed by the last pass, and can be added without one.
    pub(crate) fn takes_ahead(&self, token: u32) -> bool {
        self.sequence.takes_ahead(token)
    }

    /// Whether the open block has a token.
    pub(crate) fn is_inside_block(&self) -> bool {
        !self.sequence.open.tokens().is_empty()
    }

    /// As [`Sequence::can_rewind`].
    pub fn can_rewind(&self, blocks: u64) -> bool {
        self.sequence.can_rewind(blocks)
    }

    /// As [`Sequence::recent`].
    pub fn recent(&self, max: usize) -> Vec<u32> {
        self.sequence.recent(max)
    }

    /// As [`Sequence::common_prefix`].
    pub fn common_prefix(&self, text: &[u32]) -> (u64, usize) {
        self.sequence.common_prefix(text)
    }

    /// Interrupts the work of this session from another thread.
    pub fn interrupt(&self) -> &Interrupt {
        self.engine.interrupt()
    }

    /// The sequence.
    pub(crate) fn sequence(&self) -> &Sequence {
        &self.sequence
    }

    /// The sequence, to be replaced.
    pub(crate) fn sequence_mut(&mut self) -> &mut Sequence {
        self.known.row = None;
        &mut self.sequence
    }

    /// The parts that a pass over several sessions needs. Whoever adds a token calls [`Session::follow`].
    pub(crate) fn parts(&mut self) -> (&mut Engine, &mut Sequence, &mut KnownLogits) {
        (&mut self.engine, &mut self.sequence, &mut self.known)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.sequence_mut().clear();
    }

    /// Rewinds to the first `blocks` whole blocks, as if nothing had been added since.
    ///
    /// # Errors
    /// As [`Engine::rewind`].
    pub fn rewind(&mut self, blocks: u64) -> Result<()> {
        self.engine.rewind(&mut self.sequence, blocks)?;
        self.known.row = None;
        Ok(())
    }

    /// Adds tokens, in time proportional to their number. The session's alignment decides the layout of a first text
    /// that does not fill whole blocks.
    ///
    /// # Errors
    /// If a token is not in the vocabulary; then nothing was added. `Interrupted` on request, and `Resource` if there
    /// is no memory for a pass; then the blocks of the passes before have been added.
    pub fn append(&mut self, tokens: &[u32]) -> Result<()> {
        if let [token] = tokens
            && self.sequence.take_ahead(*token)
        {
            self.known.follow(tokens, true);
            return Ok(());
        }
        let before = self.length();
        let result = self.engine.append(&mut self.sequence, tokens);
        // A failed call may have added blocks as well.
        if self.length() != before {
            self.follow(tokens);
        }
        result
    }

    /// As [`Session::append`] of one token. If that takes a pass, and the model's blocks are single tokens, the pass
    /// computes what comes after a guess at the next tokens as well, so that the logits after each of them are at hand
    /// after [`Session::logits`]. Other models guess inside a block only: [`Session::logits_with_guess`].
    ///
    /// # Errors
    /// As [`Session::append`], also for the guess.
    pub fn append_with_guess(&mut self, token: u32, guess: &[u32]) -> Result<()> {
        if self.sequence.takes_ahead(token) {
            return self.append(&[token]);
        }
        let guess = &guess[..guess.len().min(self.model().config().guesses_ahead())];
        if guess.is_empty() || self.sequence.is_empty() {
            return self.append(&[token]);
        }
        let sequence = std::slice::from_mut(&mut self.sequence);
        self.engine.append_each_with_guesses(sequence, &[token], &[guess])?;
        self.follow(&[token]);
        Ok(())
    }

    /// Follows tokens that were added to the sequence.
    pub(crate) fn follow(&mut self, tokens: &[u32]) {
        // Fewer tokens than the open block has: they did not complete one.
        let inside = self.sequence.open.tokens().len() >= tokens.len() && self.is_inside_block();
        self.known.follow(tokens, inside);
    }

    /// The logits of the next token, `[vocabulary]`.
    ///
    /// # Errors
    /// If the sequence is empty, or the logits are not finite, as damaged weights make them; `Interrupted` on request;
    /// `Resource` if there is no memory for the pass. No token was added, and the call can be repeated.
    pub fn logits(&mut self) -> Result<&[f32]> {
        self.logits_with_guess(&[])
    }

    /// As [`Session::logits`]. If that takes a pass, the pass computes the logits after each token of a guess as well, so
    /// that they are at hand if the next tokens are these. The part of the guess after the open block is ignored.
    ///
    /// # Errors
    /// As [`Session::logits`], and if a token is not in the vocabulary.
    pub fn logits_with_guess(&mut self, guess: &[u32]) -> Result<&[f32]> {
        if !self.known.is_current() {
            let ahead = self.sequence.ahead.tokens().to_vec();
            let inside = &guess[..guess.len().min(self.left_in_block() - 1)];
            let guess = if ahead.is_empty() { inside } else { &ahead };
            self.model().check_tokens(guess)?;
            let logits = self.engine.logits(std::slice::from_mut(&mut self.sequence), &[guess])?;
            self.known.keep(logits.values(), guess);
        }
        self.known.current().expect("kept above")
    }

    /// Whether the last pass has guessed a token that comes next.
    pub(crate) fn has_guessed(&self, token: u32) -> bool {
        self.known.continues(token)
    }

    /// Whether [`Session::logits`] needs no pass.
    pub fn has_logits(&self) -> bool {
        self.known.is_current()
    }
}
