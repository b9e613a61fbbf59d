//! The engine: advances any number of sequences together.
//!
//! Sequences that advance together share every pass over the weights. Each column of a product is computed on its own,
//! so a sequence's logits do not depend, to the bit, on the other sequences of the batch.

use std::borrow::BorrowMut;

use super::runtime::Runtime;
use super::sequence::Sequence;
use crate::cache::CacheType;
use crate::error::{Error, ErrorKind, Result};
use crate::interrupt::Interrupt;
use crate::memory::{check_room, reserve};
use crate::model::{BlockDecoder, Model, Segment, TokenDecoder};

/// The buffers of passes over a model.
pub struct Engine {
    pub(super) runtime: Runtime,
    pub(super) block_decoder: BlockDecoder,
    token_decoder: TokenDecoder,
    /// Tokens of the blocks that the pass under way adds.
    pub(super) completed: Vec<u32>,
    contexts: Vec<f32>,
    /// Columns of each sequence in the pass under way.
    pub(super) columns: Vec<usize>,
    /// The column that each row of logits comes after, in the pass under way.
    rows: Vec<usize>,
    logits: Vec<f32>,
    pub(super) interrupt: Interrupt,
}

/// Logits of a pass, `[rows, vocabulary]`.
pub struct Logits<'e> {
    values: &'e [f32],
    vocabulary: usize,
    /// What the block decoder's cache holds, which may be the reason for logits that are not finite.
    cache: CacheType,
}

impl<'e> Logits<'e> {
    /// Logits `[rows, vocabulary]`.
    pub(super) fn new(values: &'e [f32], vocabulary: usize, cache: CacheType) -> Self {
        Logits { values, vocabulary, cache }
    }

    /// All rows, unchecked.
    pub(super) fn values(&self) -> &'e [f32] {
        self.values
    }

    /// A row, `[vocabulary]`.
    ///
    /// # Errors
    /// If it is not finite, as damaged weights make it, or keys or values that an f16 cache cannot hold.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> Result<&'e [f32]> {
        let logits = &self.values[row * self.vocabulary..(row + 1) * self.vocabulary];
        check_finite(logits, "logits", self.cache)?;
        Ok(logits)
    }
}

/// Makes sure that what a model computes is finite.
///
/// # Errors
/// If it is not, as damaged weights make it, or keys or values that an f16 cache cannot hold.
pub(super) fn check_finite(values: &[f32], what: &str, cache: CacheType) -> Result<()> {
    let Some(value) = values.iter().find(|value| !value.is_finite()) else { return Ok(()) };
    let reason = match cache {
        CacheType::F16 => "keys or values may exceed an f16 cache: try --cache-type f32",
        _ => "is the model file damaged?",
    };
    let detail = format!("{what}: found {value}, expected finite numbers ({reason})");
    Err(Error::new(ErrorKind::Numeric, detail))
}

impl Runtime {
    /// An engine without buffers; they grow with the passes it makes.
    pub fn engine(&self) -> Engine {
        let (config, weights) = (self.model().config(), self.model().weights());
        Engine {
            block_decoder: BlockDecoder::new(config, weights),
            token_decoder: TokenDecoder::new(config, weights),
            completed: Vec::new(),
            contexts: Vec::new(),
            columns: Vec::new(),
            rows: Vec::new(),
            logits: Vec::new(),
            interrupt: Interrupt::default(),
            runtime: self.clone(),
        }
    }
}

/// The guess of a sequence of a pass: none after the last one.
fn guess_of<'g>(guesses: &[&'g [u32]], index: usize) -> &'g [u32] {
    guesses.get(index).copied().unwrap_or_default()
}

impl Engine {
    /// The model and its threads.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Reserves the memory for passes of `sequences` sequences that see up to `blocks` blocks each.
    ///
    /// # Errors
    /// If it cannot be allocated.
    pub(crate) fn reserve(&mut self, sequences: usize, blocks: usize) -> Result<()> {
        let config = self.runtime.model().config();
        reserve(&mut self.logits, sequences.saturating_mul(config.vocabulary), "logits")?;
        let tokens = TokenDecoder::bytes(config).saturating_mul(sequences);
        check_room(BlockDecoder::bytes(config, sequences, blocks).saturating_add(tokens))
    }

    /// The model.
    pub fn model(&self) -> &Model {
        self.runtime.model()
    }

    /// Interrupts passes from another thread.
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// Gives back the memory of logits beyond those of a number of rows.
    pub(crate) fn shrink(&mut self, rows: usize) {
        self.logits.truncate(rows.saturating_mul(self.model().config().vocabulary));
        self.logits.shrink_to_fit();
    }

    /// Adds one token to each of several sequences, none of them empty; those whose block it completes share one pass of
    /// the block decoder.
    ///
    /// # Errors
    /// If a token is not in the vocabulary or a sequence is empty, `Interrupted` on request, or if there is no memory for
    /// the pass; then nothing was added.
    ///
    /// # Panics
    /// If there is not one token a sequence.
    pub fn append_each<S: BorrowMut<Sequence>>(&mut self, sequences: &mut [S], tokens: &[u32]) -> Result<()> {
        self.append_each_with_guesses(sequences, tokens, &[])
    }

    /// As [`Engine::append_each`]. Where blocks are single tokens, the pass computes what comes after a guess at the
    /// tokens that follow as well, for each sequence that has one in `guesses`.
    ///
    /// # Errors
    /// As [`Engine::append_each`], also for the guesses.
    pub(crate) fn append_each_with_guesses<S: BorrowMut<Sequence>>(
        &mut self,
        sequences: &mut [S],
        tokens: &[u32],
        guesses: &[&[u32]],
    ) -> Result<()> {
        assert_eq!(sequences.len(), tokens.len());
        self.model().check_tokens(tokens)?;
        guesses.iter().try_for_each(|guess| self.model().check_tokens(guess))?;
        self.check(sequences)?;
        self.completed.clear();
        let length = self.model().config().block_length;
        let guessed: usize = guesses.iter().map(|guess| guess.len()).sum();
        let blocks = sequences.len().saturating_mul(length).saturating_add(guessed);
        reserve(&mut self.completed, blocks, "tokens of a pass")?;
        for (index, token) in tokens.iter().enumerate() {
            let sequence = sequences[index].borrow_mut();
            sequence.open.extend(&[*token]);
            if sequence.open.is_whole() {
                self.completed.extend(sequence.open.tokens());
                self.completed.extend(guess_of(guesses, index));
            }
        }
        if self.completed.is_empty() {
            return Ok(());
        }
        let (model, decoder, completed) = (self.runtime.model(), &mut self.block_decoder, &self.completed);
        let interrupt = Some(&self.interrupt);
        let hidden = model.config().block_decoder.hidden;
        let done = self.runtime.team().region(|region| {
            let mut stream = if let [sequence] = &mut *sequences {
                let columns = 1 + guess_of(guesses, 0).len();
                let segment = Segment::new(columns, sequence.borrow_mut().cache_for_pass());
                decoder.forward(region, model, completed, &mut [segment], interrupt)?
            } else {
                let whole = sequences.iter_mut().map(S::borrow_mut).enumerate();
                let whole = whole.filter(|(_, sequence)| sequence.open.is_whole());
                let segments =
                    whole.map(|(at, s)| Segment::new(1 + guess_of(guesses, at).len(), s.cache_for_pass()));
                decoder.forward(region, model, completed, &mut segments.collect::<Vec<_>>(), interrupt)?
            };
            let whole = sequences.iter_mut().map(S::borrow_mut).enumerate();
            for (index, sequence) in whole.filter(|(_, sequence)| sequence.open.is_whole()) {
                let guess = guess_of(guesses, index);
                let (context, rest) = stream.split_at(hidden);
                let (ahead, rest) = rest.split_at(guess.len() * hidden);
                stream = rest;
                sequence.close(context, guess, ahead);
            }
            Ok(())
        });
        if done.is_err() {
            sequences.iter_mut().map(S::borrow_mut).for_each(|sequence| sequence.open.pop());
        }
        done
    }

    /// Computes the logits of the next token of each sequence, and those after each token of a guess at its next tokens:
    /// `[1 + guess, vocabulary]`, sequence by sequence. A guess leaves at least the last token of the block open, or is
    /// one that the last pass has computed the blocks of. It does not become part of the sequence. Sequences after the
    /// last one of `guesses` have none. A first text that is shorter than a block is filled up from the left.
    ///
    /// # Errors
    /// If a sequence is empty, or has had no token since the last call; `Interrupted` on request; if there is no memory
    /// for the pass.
    ///
    /// # Panics
    /// If a guess does not fit the open block.
    pub fn logits<S: BorrowMut<Sequence>>(
        &mut self,
        sequences: &mut [S],
        guesses: &[&[u32]],
    ) -> Result<Logits<'_>> {
        self.settle(sequences)?;
        let vocabulary = self.model().config().vocabulary;
        for (index, sequence) in sequences.iter().map(S::borrow).enumerate() {
            let guess = guess_of(guesses, index);
            assert!(guess.len() < sequence.left_in_block() || sequence.ahead.tokens().starts_with(guess));
        }
        let guessed: usize = (0..sequences.len()).map(|index| guess_of(guesses, index).len()).sum();
        let length = (sequences.len() + guessed) * vocabulary;
        if self.logits.len() < length {
            reserve(&mut self.logits, length, "logits")?;
            self.logits.resize(length, 0.0);
        }
        let Engine { runtime, token_decoder: decoder, contexts, columns, rows, logits, interrupt, .. } = self;
        let (model, interrupt) = (runtime.model(), Some(&*interrupt));
        let logits = &mut logits[..length];
        runtime.team().region(|region| {
            contexts.clear();
            let closed = || sequences.iter().map(S::borrow).filter(|s| !s.open.is_opened());
            reserve(contexts, closed().count() * model.config().block_decoder.hidden, "contexts")?;
            closed().for_each(|s| contexts.extend(s.open.context()));
            if !contexts.is_empty() {
                let expanded = decoder.expand(region, model, contexts)?;
                let width = model.config().token_decoder.opened_floats();
                let closed = sequences.iter_mut().map(S::borrow_mut).filter(|s| !s.open.is_opened());
                closed.zip(expanded.chunks_exact(width)).for_each(|(s, expanded)| s.open.open(expanded));
            }
            decoder.begin();
            columns.clear();
            rows.clear();
            reserve(columns, sequences.len(), "columns of a pass")?;
            reserve(rows, length / vocabulary, "rows of a pass")?;
            let mut end = 0;
            for (index, sequence) in sequences.iter_mut().map(S::borrow_mut).enumerate() {
                let guess = guess_of(guesses, index);
                let open = sequence.open.push_columns(decoder, model, guess)?;
                columns.push(open + sequence.ahead.push_columns(decoder, model, guess.len())?);
                end += columns[index];
                // The first row is that after the last token that is not a guess.
                rows.extend(end - 1 - guess.len()..end);
            }
            let last = |row: usize| rows[row];
            if let [sequence] = &mut *sequences {
                let segment = sequence.borrow_mut().open.segment(columns[0]);
                decoder.logits(region, model, &mut [segment], last, logits, interrupt)
            } else {
                let sequences = sequences.iter_mut().map(S::borrow_mut).zip(&*columns);
                let mut segments: Vec<_> = sequences.map(|(s, columns)| s.open.segment(*columns)).collect();
                decoder.logits(region, model, &mut segments, last, logits, interrupt)
            }
        })?;
        for (index, sequence) in sequences.iter_mut().map(S::borrow_mut).enumerate() {
            sequence.open.note_seen(guess_of(guesses, index));
        }
        let cache = sequences.first().map_or(CacheType::F32, |sequence| sequence.borrow().cache.kind());
        Ok(Logits::new(logits, vocabulary, cache))
    }

    /// Prepares sequences for a pass of the token decoder: none is empty, each has a token that the decoder has not seen,
    /// and a first text that is shorter than a block becomes a whole one.
    fn settle<S: BorrowMut<Sequence>>(&mut self, sequences: &mut [S]) -> Result<()> {
        self.check(sequences)?;
        let first = self.model().config().token_decoder.first_positions();
        let mut opened = sequences.iter_mut().map(S::borrow_mut).filter(|s| s.open.is_opened());
        if !opened.all(|s| s.open.settle(first)) {
            return Err(Error::argument("logits: expected a new token since they were last computed"));
        }
        for sequence in sequences.iter_mut().map(S::borrow_mut).filter(|s| s.blocks() == 0) {
            let padding = sequence.open.pad();
            if let Err(error) = self.append(sequence, &[]) {
                sequence.open.unpad(padding);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Checks that a sequence belongs to this engine's model.
    pub(super) fn check_own(&self, sequence: &Sequence) -> Result<()> {
        if sequence.belongs_to(self.model()) {
            return Ok(());
        }
        Err(Error::argument("sequence: found another model's, expected one of the engine's model"))
    }

    /// Checks that sequences belong to this engine's model and that none is empty.
    fn check<S: BorrowMut<Sequence>>(&self, sequences: &[S]) -> Result<()> {
        for sequence in sequences.iter().map(S::borrow) {
            self.check_own(sequence)?;
            if sequence.is_empty() {
                return Err(Error::argument("the prompt is empty: found 0 tokens, expected at least 1"));
            }
        }
        Ok(())
    }
}
