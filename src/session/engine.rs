//! One sequence of tokens and the engine that advances any number of them together.
//!
//! A sequence's [`Alignment`] says what becomes of a first text that does not fill whole blocks. What is appended
//! later continues inside the open block: whole blocks go through the block decoder alone, and the tokens of the
//! last, partial block are forced through the token decoder when its logits are asked for.
//!
//! Sequences that advance together share every pass over the weights. Each column of a product is computed
//! on its own, so a sequence's logits do not depend, to the bit, on what else is in the batch.

use std::borrow::BorrowMut;
use std::sync::Arc;

use super::block_log::{self, BlockLog};
use super::prefill::Append;
use super::room::{check_room, reserve, zeros};
use crate::cache::{Cache, CacheType};
use crate::error::{Error, ErrorKind, Result};
use crate::interrupt::Interrupt;
use crate::model::{Alignment, BATCH, BlockDecoder, Model, ModelId, PAD_TOKEN, Segment, TokenDecoder};
use crate::quant::WeightType;
use crate::threads::Team;

/// What a sequence is given.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionOptions {
    /// Blocks that the cache holds, pinned ones included.
    pub cache_blocks: usize,
    /// First blocks that stay for ever; fewer than `cache_blocks`.
    pub sink_blocks: usize,
    /// Type of the cache; `None` is f32 for a model of f32 weights and f16 for any other.
    pub cache_type: Option<CacheType>,
    /// How a first text is laid out in blocks; `None` is as the model was trained.
    pub alignment: Option<Alignment>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        SessionOptions { cache_blocks: 512, sink_blocks: 4, cache_type: None, alignment: None }
    }
}

impl SessionOptions {
    /// The type of the cache for a model.
    pub fn cache_type_for(&self, model: &Model) -> CacheType {
        let exact =
            model.weights().block_decoder.layers.iter().all(|l| l.qkv.weight.kind() == WeightType::F32);
        self.cache_type.unwrap_or(if exact { CacheType::F32 } else { CacheType::F16 })
    }

    /// The same options with so many more first blocks pinned that a prompt of `tokens` is never forgotten, the block
    /// included in which it ends.
    #[must_use]
    pub fn pin_prompt(self, model: &Model, tokens: usize) -> SessionOptions {
        let blocks = tokens.div_ceil(model.config().block_length);
        SessionOptions { sink_blocks: self.sink_blocks.max(blocks), ..self }
    }

    /// Blocks beside the pinned ones.
    pub(crate) fn window(&self) -> Result<usize> {
        let window = self.cache_blocks.checked_sub(self.sink_blocks).filter(|&window| window > 0);
        window.ok_or_else(|| {
            Error::argument(format!(
                "cache of {} blocks: expected more than the {} pinned ones",
                self.cache_blocks, self.sink_blocks
            ))
        })
    }

    /// The block decoder's cache of a sequence.
    ///
    /// # Errors
    /// If an option is out of range or the memory is not to be had.
    pub(crate) fn cache(&self, model: &Model) -> Result<Cache> {
        let window = self.window()?;
        let shape = BlockDecoder::cache_shape(model.config(), self.sink_blocks, window);
        Cache::new(self.cache_type_for(model), shape)
    }
}

/// A sequence: its caches and its open block. A clone goes on by itself.
#[derive(Clone)]
pub struct Sequence {
    model: ModelId,
    pub(super) blocks: Cache,
    /// The tokens of the blocks that the cache holds.
    pub(super) log: BlockLog,
    /// Digest of all whole blocks.
    pub(super) digest: u64,
    pub(super) tokens: Cache,
    /// Tokens of the open block; never a whole block.
    pub(super) open: Vec<u32>,
    /// The tokens of this block that the token decoder has seen; guesses that did not come true may be among them.
    pub(super) seen: Vec<u32>,
    /// The last block's column of the residual stream, `[block_hidden]`.
    pub(super) context: Vec<f32>,
    /// What the context expands to, once the block has been opened: `[expansion, token_hidden]`.
    pub(super) expanded: Vec<f32>,
    pub(super) opened: bool,
    pub(super) block_length: usize,
    pub(super) alignment: Alignment,
}

impl Sequence {
    /// An empty sequence.
    ///
    /// # Errors
    /// If an option is out of range or the cache cannot be allocated.
    pub fn new(model: &Model, options: &SessionOptions) -> Result<Sequence> {
        let config = model.config();
        let blocks = options.cache(model)?;
        let slots = blocks.geometry().slots();
        let log = BlockLog::new(slots, config.block_length).ok_or_else(|| {
            Error::new(ErrorKind::Resource, format!("no memory for the tokens of {slots} blocks"))
        })?;
        Ok(Sequence {
            model: model.id(),
            blocks,
            log,
            digest: block_log::EMPTY,
            tokens: Cache::new(CacheType::F32, TokenDecoder::cache_shape(config))?,
            open: Vec::with_capacity(config.block_length),
            seen: Vec::with_capacity(config.block_length),
            context: zeros(config.block_decoder.hidden, "context")?,
            expanded: zeros(
                config.expansion.saturating_mul(config.token_decoder.hidden),
                "expanded context",
            )?,
            opened: false,
            block_length: config.block_length,
            alignment: options.alignment.unwrap_or(config.alignment),
        })
    }

    /// Whether it was made for this model.
    pub fn belongs_to(&self, model: &Model) -> bool {
        self.model == model.id()
    }

    /// Tokens so far, the padding of the first block included.
    pub fn length(&self) -> u64 {
        self.blocks.length() * self.block_length as u64 + self.open.len() as u64
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.blocks.clear();
        self.digest = block_log::EMPTY;
        self.open.clear();
        self.opened = false;
    }

    /// The options with which it was made; all of them are said.
    pub fn options(&self) -> SessionOptions {
        let shape = self.blocks.shape();
        SessionOptions {
            cache_blocks: shape.sinks + shape.window,
            sink_blocks: shape.sinks,
            cache_type: Some(self.blocks.kind()),
            alignment: Some(self.alignment),
        }
    }

    /// Whole blocks so far.
    pub fn blocks(&self) -> u64 {
        self.blocks.length()
    }

    /// Tokens until the open block is complete: at least 1, at most a block.
    pub fn left_in_block(&self) -> usize {
        self.block_length - self.position_in_block()
    }

    /// Tokens that the open block will have when the next one is chosen.
    pub(crate) fn position_in_block(&self) -> usize {
        // A first text that is shorter than a block will be filled up to one.
        if self.blocks() == 0 { 0 } else { self.open.len() }
    }

    /// Whether [`Engine::rewind`] can go back to so many whole blocks: to none, to pinned ones, to all of them, and to
    /// those whose last one saw nothing that is forgotten by now.
    pub fn can_rewind(&self, blocks: u64) -> bool {
        blocks == 0 || blocks == self.blocks() || self.blocks.geometry().whole(blocks)
    }

    /// How many of the first tokens of a text, as a first text is laid out in blocks, are whole blocks that this
    /// sequence begins with and can be rewound to: the blocks, and the tokens of `text` in them.
    pub fn common_prefix(&self, text: &[u32]) -> (u64, usize) {
        let padding = self.padding(text.len());
        let mut digest = block_log::EMPTY;
        let mut common = (0, 0);
        let mut block = vec![PAD_TOKEN; self.block_length];
        for position in 0..self.blocks().min(((padding + text.len()) / self.block_length) as u64) {
            let start = position as usize * self.block_length;
            for (index, token) in block.iter_mut().enumerate() {
                *token = (start + index).checked_sub(padding).map_or(PAD_TOKEN, |index| text[index]);
            }
            digest = block_log::extend(digest, &block);
            let end = position + 1;
            let own = |position| self.log.digest(self.blocks.geometry().slot(position));
            let own = if end == self.blocks() { self.digest } else { own(position) };
            if own == digest && self.can_rewind(end) {
                common = (end, end as usize * self.block_length - padding);
            }
        }
        common
    }

    /// The last tokens, up to `most` of those that are still known, oldest first.
    pub fn recent(&self, most: usize) -> Vec<u32> {
        let geometry = self.blocks.geometry();
        let blocks = (most.div_ceil(self.block_length) as u64).min(self.blocks());
        let known = (self.blocks() - blocks).max(geometry.window_start(self.blocks()).min(self.blocks()));
        let closed = (known..self.blocks()).flat_map(|position| self.log.tokens(geometry.slot(position)));
        let mut all: Vec<u32> = closed.chain(&self.open).copied().collect();
        if known == 0 {
            // What filled up the first block is not part of the text.
            let padding = all.iter().take(self.block_length).take_while(|token| **token == PAD_TOKEN).count();
            all.drain(..padding);
        }
        all.split_off(all.len().saturating_sub(most))
    }

    /// The block decoder's cache, the last block's context, the tokens of the open block and the digest of all whole
    /// blocks: from these all else can be computed again, to the bit.
    pub(crate) fn state(&self) -> (&Cache, &[f32], &[u32], u64) {
        (&self.blocks, &self.context, &self.open, self.digest)
    }

    /// The tokens of each block that the cache remembers, and the digest of the text up to its end.
    pub(crate) fn remembered(&self) -> impl Iterator<Item = (&[u32], u64)> {
        let geometry = self.blocks.geometry();
        let slots = geometry.remembered().map(|position| geometry.slot(position));
        slots.map(|slot| (self.log.tokens(slot), self.log.digest(slot)))
    }

    /// Replaces what [`Sequence::state`] and [`Sequence::remembered`] give. `fill` gets the cache and the context;
    /// `open` is less than a block.
    pub(crate) fn restore<'t>(
        &mut self,
        (open, digest): (&[u32], u64),
        remembered: impl Iterator<Item = (&'t [u32], u64)>,
        fill: impl FnOnce(&mut Cache, &mut [f32]),
    ) {
        self.clear();
        self.open.extend_from_slice(open);
        self.digest = digest;
        fill(&mut self.blocks, &mut self.context);
        let geometry = self.blocks.geometry();
        for (position, (tokens, digest)) in geometry.remembered().zip(remembered) {
            self.log.set(geometry.slot(position), tokens, digest);
        }
    }

    /// Lets the logits of the next token be computed once more.
    pub(crate) fn reopen(&mut self) {
        self.opened = false;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.blocks() == 0 && self.open.is_empty()
    }

    /// Tokens that fill up a first text.
    pub(super) fn padding(&self, tokens: usize) -> usize {
        match self.alignment {
            Alignment::Left => tokens.next_multiple_of(self.block_length) - tokens,
            Alignment::Tail => 0,
        }
    }

    /// Notes the tokens of blocks that have been added to the cache.
    pub(super) fn note(&mut self, tokens: &[u32]) {
        let geometry = self.blocks.geometry();
        let first = geometry.length() - (tokens.len() / self.block_length) as u64;
        for (position, block) in (first..).zip(tokens.chunks_exact(self.block_length)) {
            self.digest = block_log::extend(self.digest, block);
            self.log.set(geometry.slot(position), block, self.digest);
        }
    }

    /// Whether the next token completes the open block.
    fn completes(&self) -> bool {
        self.open.len() + 1 == self.block_length
    }

    /// Makes the token decoder forget guesses that did not come true, `first` being its positions before any token.
    /// Whether there is a token left for it to see.
    fn settle(&mut self, first: usize) -> bool {
        if self.tokens.length() < first as u64 {
            // The block's first pass was stopped.
            return true;
        }
        let agreeing = self.seen.iter().zip(&self.open).take_while(|(seen, open)| seen == open).count();
        self.seen.truncate(agreeing);
        self.tokens.rewind((first + agreeing) as u64);
        agreeing < self.open.len()
    }

    /// Notes that the open block has become part of the context.
    fn close(&mut self, stream: &[f32]) {
        self.context.copy_from_slice(stream);
        let open = std::mem::take(&mut self.open);
        self.note(&open);
        self.open = open;
        self.open.clear();
        self.opened = false;
    }
}

/// The buffers and the threads that advance sequences.
pub struct Engine {
    pub(super) model: Arc<Model>,
    pub(super) team: Arc<Team>,
    pub(super) blocks: BlockDecoder,
    pub(super) tokens: TokenDecoder,
    pub(super) completed: Vec<u32>,
    pub(super) contexts: Vec<f32>,
    /// Columns of each sequence in the pass that is under way.
    pub(super) columns: Vec<usize>,
    pub(super) logits: Vec<f32>,
    pub(super) interrupt: Interrupt,
}

impl Engine {
    /// An engine without buffers; they grow with what is asked of it.
    pub fn new(model: &Arc<Model>, team: &Arc<Team>) -> Engine {
        let (config, weights) = (model.config(), model.weights());
        Engine {
            blocks: BlockDecoder::new(config, weights),
            tokens: TokenDecoder::new(config, weights),
            completed: Vec::new(),
            contexts: Vec::new(),
            columns: Vec::new(),
            logits: Vec::new(),
            interrupt: Interrupt::default(),
            model: Arc::clone(model),
            team: Arc::clone(team),
        }
    }

    /// Makes sure of the memory for passes of so many sequences that see up to `blocks` blocks each.
    ///
    /// # Errors
    /// If it cannot be allocated.
    pub(crate) fn reserve(&mut self, sequences: usize, blocks: usize) -> Result<()> {
        let config = self.model.config();
        reserve(&mut self.logits, sequences.saturating_mul(config.vocabulary), "logits")?;
        let tokens = TokenDecoder::bytes(config).saturating_mul(sequences);
        check_room(BlockDecoder::bytes(config, sequences, blocks).saturating_add(tokens))
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// What stops [`Engine::append`] between two passes of a long text.
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// Goes back to a sequence's first `blocks` whole blocks, as if nothing had been added since.
    ///
    /// # Errors
    /// If [`Sequence::can_rewind`] says no; then nothing has changed. A full cache can go back by at least 32 blocks,
    /// however small it is.
    pub fn rewind(&mut self, sequence: &mut Sequence, blocks: u64) -> Result<()> {
        if !sequence.can_rewind(blocks) {
            let last = sequence.blocks();
            let first = sequence.blocks.geometry().first_end().min(last);
            return Err(Error::argument(format!(
                "rewind: found block {blocks}, expected 0, a pinned one, or one from {first} to {last}"
            )));
        }
        if blocks == 0 {
            sequence.clear();
        }
        sequence.open.clear();
        sequence.opened = false;
        if blocks < sequence.blocks() {
            // The last block's context is not kept; its tokens give it again.
            let slot = sequence.blocks.geometry().slot(blocks - 1);
            let digest = sequence.log.digest(slot);
            let tokens = sequence.log.tokens(slot).to_vec();
            sequence.blocks.rewind(blocks - 1);
            self.pass(&mut [Append { sequence, tokens: &tokens }], BATCH, false)?;
            sequence.digest = digest;
            sequence.log.set(slot, &tokens, digest);
        }
        Ok(())
    }

    /// Adds one token to each of several sequences that have had a text; those whose block it completes share
    /// one pass of the block decoder.
    ///
    /// # Errors
    /// If a token is not in the vocabulary or a sequence is empty, or `Interrupted` on request; then nothing was added.
    ///
    /// # Panics
    /// If there is not one token a sequence.
    pub fn append_each<S: BorrowMut<Sequence>>(&mut self, sequences: &mut [S], tokens: &[u32]) -> Result<()> {
        assert_eq!(sequences.len(), tokens.len());
        self.model.check_tokens(tokens)?;
        if sequences.iter().any(|s| s.borrow().is_empty()) {
            return Err(empty());
        }
        self.completed.clear();
        for (sequence, token) in sequences.iter_mut().map(S::borrow_mut).zip(tokens) {
            let completes = sequence.completes();
            sequence.open.push(*token);
            if completes {
                self.completed.extend(&sequence.open);
            }
        }
        if self.completed.is_empty() {
            return Ok(());
        }
        let (model, decoder, completed) = (&self.model, &mut self.blocks, &self.completed);
        let interrupt = Some(&self.interrupt);
        let whole = |sequence: &&mut Sequence| sequence.open.len() == sequence.block_length;
        let done = self.team.region(|region| {
            let stream = if let [sequence] = &mut *sequences {
                let segment = Segment::new(1, &mut sequence.borrow_mut().blocks);
                decoder.forward(region, model, completed, &mut [segment], interrupt)?
            } else {
                let segments = sequences
                    .iter_mut()
                    .map(S::borrow_mut)
                    .filter(whole)
                    .map(|s| Segment::new(1, &mut s.blocks));
                decoder.forward(region, model, completed, &mut segments.collect::<Vec<_>>(), interrupt)?
            };
            let columns = stream.chunks_exact(model.config().block_decoder.hidden);
            sequences
                .iter_mut()
                .map(S::borrow_mut)
                .filter(whole)
                .zip(columns)
                .for_each(|(s, column)| s.close(column));
            Ok(())
        });
        if done.is_err() {
            sequences.iter_mut().map(S::borrow_mut).for_each(|s| {
                s.open.pop();
            });
        }
        done
    }

    /// The logits of the next token of each sequence, `[sequences, vocabulary]`. Call it once for each token. A text
    /// that is still shorter than a block is filled up from the left.
    ///
    /// # Errors
    /// If a sequence is empty or has had no token since the last call, or logits are not finite, as damaged
    /// weights make them; `Interrupted` on request.
    pub fn logits<S: BorrowMut<Sequence>>(&mut self, sequences: &mut [S]) -> Result<&[f32]> {
        self.logits_ahead(sequences, &[])
    }

    /// As [`Engine::logits`], but not checked.
    pub(crate) fn predict<S: BorrowMut<Sequence>>(&mut self, sequences: &mut [S]) -> Result<&[f32]> {
        self.ahead(sequences, &[])
    }

    /// As [`Engine::logits`], and for a single sequence also the logits behind each token of a guess at those that come
    /// next, `[1 + guess, vocabulary]`, of which only the first are known to be finite. The guess leaves at least the
    /// last token of the block open, and the sequence does not change.
    pub(crate) fn logits_ahead<S: BorrowMut<Sequence>>(
        &mut self,
        sequences: &mut [S],
        guess: &[u32],
    ) -> Result<&[f32]> {
        let own = sequences.len() * self.model.config().vocabulary;
        let logits = self.ahead(sequences, guess)?;
        check_finite(&logits[..own])?;
        Ok(logits)
    }

    /// As [`Engine::logits_ahead`], but not checked.
    fn ahead<S: BorrowMut<Sequence>>(&mut self, sequences: &mut [S], guess: &[u32]) -> Result<&[f32]> {
        if sequences.iter().map(S::borrow).any(Sequence::is_empty) {
            return Err(empty());
        }
        let first = self.model.config().first_positions();
        let mut opened = sequences.iter_mut().map(S::borrow_mut).filter(|s| s.opened);
        if !opened.all(|s| s.settle(first)) {
            return Err(Error::argument("logits: expected a new token since they were last computed"));
        }
        for sequence in sequences.iter_mut().map(S::borrow_mut).filter(|s| s.blocks() == 0) {
            let padding = sequence.block_length - sequence.open.len();
            sequence.open.splice(..0, std::iter::repeat_n(PAD_TOKEN, padding));
            if let Err(error) = self.append(sequence, &[]) {
                sequence.open.drain(..padding);
                return Err(error);
            }
        }
        let vocabulary = self.model.config().vocabulary;
        let rows = sequences.len() + guess.len();
        assert!(guess.is_empty() || rows - 1 < sequences[0].borrow().left_in_block());
        let length = rows * vocabulary;
        if self.logits.len() < length {
            reserve(&mut self.logits, length, "logits")?;
            self.logits.resize(length, 0.0);
        }
        let Engine { model, team, tokens: decoder, contexts, columns, logits, interrupt, .. } = self;
        let interrupt = Some(&*interrupt);
        let logits = &mut logits[..length];
        team.region(|region| {
            contexts.clear();
            let closed = sequences.iter().map(S::borrow).filter(|s| !s.opened);
            closed.for_each(|s| contexts.extend(&s.context));
            if !contexts.is_empty() {
                let expanded = decoder.expand(region, model, contexts);
                let mut rows = expanded.chunks_exact(sequences[0].borrow().expanded.len());
                let closed = sequences.iter_mut().map(S::borrow_mut).filter(|s| !s.opened);
                for (sequence, row) in closed.zip(&mut rows) {
                    sequence.expanded.copy_from_slice(row);
                    sequence.tokens.clear();
                    sequence.seen.clear();
                    sequence.opened = true;
                }
            }
            decoder.begin();
            columns.clear();
            for s in sequences.iter_mut().map(S::borrow_mut) {
                s.open.extend(guess);
                columns.push(decoder.push(model, &s.expanded, &s.open, s.tokens.length() as usize));
                s.open.truncate(s.open.len() - guess.len());
            }
            let last = |row: usize| match columns[..] {
                // The first row is behind the last token that is not a guess.
                [columns] => columns - rows + row,
                _ => columns[..=row].iter().sum::<usize>() - 1,
            };
            if let [sequence] = &mut *sequences {
                let segment = Segment::new(columns[0], &mut sequence.borrow_mut().tokens);
                decoder.logits(region, model, &mut [segment], last, logits, interrupt)
            } else {
                let segments = sequences
                    .iter_mut()
                    .map(S::borrow_mut)
                    .zip(&*columns)
                    .map(|(s, n)| Segment::new(*n, &mut s.tokens));
                decoder.logits(region, model, &mut segments.collect::<Vec<_>>(), last, logits, interrupt)
            }
        })?;
        for s in sequences.iter_mut().map(S::borrow_mut) {
            s.seen.clear();
            s.seen.extend(s.open.iter().chain(guess));
        }
        Ok(logits)
    }
}

fn empty() -> Error {
    Error::argument("the prompt is empty: found 0 tokens, expected at least 1")
}

/// Refuses logits that are not finite.
pub(crate) fn check_finite(logits: &[f32]) -> Result<()> {
    match logits.iter().find(|value| !value.is_finite()) {
        None => Ok(()),
        Some(value) => Err(Error::new(
            ErrorKind::Numeric,
            format!("logits: found {value}, expected finite numbers (is the model file damaged?)"),
        )),
    }
}
