//! One sequence of tokens and the engine that advances any number of them together.
//!
//! Only the very first text of a sequence is padded on the left to whole blocks. What is appended later
//! continues inside the open block: whole blocks go through the block decoder alone, and the tokens of the
//! last, partial block are forced through the token decoder when its logits are asked for.
//!
//! Sequences that advance together share every pass over the weights. Each column of a product is computed
//! on its own, so a sequence's logits do not depend, to the bit, on what else is in the batch.

use std::borrow::BorrowMut;
use std::sync::Arc;

use crate::cache::{Cache, CacheType};
use crate::error::{Error, ErrorKind, Result};
use crate::interrupt::Interrupt;
use crate::model::{BATCH, BlockDecoder, Model, PAD_TOKEN, Span, TokenDecoder};
use crate::quant::WeightType;
use crate::threads::Team;

/// What a sequence is given.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Blocks that the cache holds, pinned ones included.
    pub cache_blocks: usize,
    /// First blocks that stay for ever; fewer than `cache_blocks`.
    pub sink_blocks: usize,
    /// Type of the cache; `None` is f32 for a model of f32 weights and f16 for any other.
    pub cache_type: Option<CacheType>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        SessionOptions { cache_blocks: 512, sink_blocks: 4, cache_type: None }
    }
}

impl SessionOptions {
    /// The type of the cache for a model.
    pub fn cache_type_for(&self, model: &Model) -> CacheType {
        let exact =
            model.weights().block_decoder.layers.iter().all(|l| l.qkv.weight.kind() == WeightType::F32);
        self.cache_type.unwrap_or(if exact { CacheType::F32 } else { CacheType::F16 })
    }

    /// The block decoder's cache of a sequence.
    ///
    /// # Errors
    /// If an option is out of range or the memory is not to be had.
    pub(crate) fn cache(&self, model: &Model) -> Result<Cache> {
        let window = self.cache_blocks.checked_sub(self.sink_blocks).filter(|&window| window > 0);
        let window = window.ok_or_else(|| {
            Error::argument(format!(
                "cache of {} blocks: expected more than the {} pinned ones",
                self.cache_blocks, self.sink_blocks
            ))
        })?;
        let shape = BlockDecoder::cache_shape(model.config(), self.sink_blocks, window);
        Cache::new(self.cache_type_for(model), shape)
    }
}

/// What a session needs of memory, known before anything is allocated.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryEstimate {
    /// Bytes of the mapped file, all of which are read sooner or later.
    pub weights: u64,
    /// Bytes of the block decoder's cache.
    pub cache: u64,
    /// Bytes of all buffers.
    pub scratch: u64,
    /// Blocks that the cache holds.
    pub cache_blocks: usize,
}

impl MemoryEstimate {
    /// The estimate for one session.
    pub fn new(model: &Model, options: &SessionOptions) -> MemoryEstimate {
        let config = model.config();
        let kind = options.cache_type_for(model);
        let shape = BlockDecoder::cache_shape(config, 0, options.cache_blocks);
        let buffers =
            BlockDecoder::bytes(config, options.cache_blocks).saturating_add(TokenDecoder::bytes(config));
        MemoryEstimate {
            weights: model.file_bytes() as u64,
            cache: shape.bytes(kind).unwrap_or(usize::MAX) as u64,
            // Logits, and the sampler's candidates.
            scratch: buffers.saturating_add(12 * config.vocabulary) as u64,
            cache_blocks: options.cache_blocks,
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.cache).saturating_add(self.scratch)
    }
}

/// A sequence: its caches and its open block.
pub struct Sequence {
    blocks: Cache,
    tokens: Cache,
    /// Tokens of the open block; never a whole block.
    open: Vec<u32>,
    /// The last block's column of the residual stream, `[block_hidden]`.
    context: Vec<f32>,
    /// What the context expands to, once the block has been opened: `[expansion, token_hidden]`.
    expanded: Vec<f32>,
    opened: bool,
    block_length: usize,
}

impl Sequence {
    /// An empty sequence.
    ///
    /// # Errors
    /// If an option is out of range or the cache cannot be allocated.
    pub fn new(model: &Model, options: &SessionOptions) -> Result<Sequence> {
        let config = model.config();
        Ok(Sequence {
            blocks: options.cache(model)?,
            tokens: Cache::new(CacheType::F32, TokenDecoder::cache_shape(config))?,
            open: Vec::with_capacity(config.block_length),
            context: vec![0.0; config.block_decoder.hidden],
            expanded: vec![0.0; config.expansion * config.token_decoder.hidden],
            opened: false,
            block_length: config.block_length,
        })
    }

    /// Tokens so far, the padding of the first block included.
    pub fn length(&self) -> u64 {
        self.blocks.length() * self.block_length as u64 + self.open.len() as u64
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.blocks.clear();
        self.open.clear();
        self.opened = false;
    }

    /// The block decoder's cache, the last block's context and the tokens of the open block: from these all else
    /// can be computed again, to the bit.
    pub(crate) fn state(&self) -> (&Cache, &[f32], &[u32]) {
        (&self.blocks, &self.context, &self.open)
    }

    /// Replaces what [`Sequence::state`] gives. `fill` gets the cache and the context; `open` is less than a block.
    pub(crate) fn restore(
        &mut self,
        open: impl Iterator<Item = u32>,
        fill: impl FnOnce(&mut Cache, &mut [f32]),
    ) {
        self.clear();
        self.open.extend(open.take(self.block_length - 1));
        fill(&mut self.blocks, &mut self.context);
    }

    fn is_empty(&self) -> bool {
        self.blocks.length() == 0
    }

    /// Whether the next token completes the open block.
    fn completes(&self) -> bool {
        self.open.len() + 1 == self.block_length
    }

    /// Notes that the open block has become part of the context.
    fn close(&mut self, stream: &[f32]) {
        self.context.copy_from_slice(stream);
        self.open.clear();
        self.opened = false;
    }
}

/// The buffers and the threads that advance sequences.
pub struct Engine {
    model: Arc<Model>,
    team: Arc<Team>,
    blocks: BlockDecoder,
    tokens: TokenDecoder,
    completed: Vec<u32>,
    contexts: Vec<f32>,
    /// Columns of each sequence in the pass that is under way.
    columns: Vec<usize>,
    logits: Vec<f32>,
    interrupt: Interrupt,
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

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// What stops [`Engine::append`] between two passes of a long text.
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// Adds a text to one sequence, in time proportional to its length.
    ///
    /// # Errors
    /// If a token is not in the vocabulary; then nothing was added. `Interrupted` on request; then the blocks that
    /// were done by then have been added.
    pub fn append(&mut self, sequence: &mut Sequence, tokens: &[u32]) -> Result<()> {
        self.model.check_tokens(tokens)?;
        if tokens.is_empty() {
            return Ok(());
        }
        let length = sequence.block_length;
        if sequence.is_empty() && sequence.open.is_empty() {
            sequence.open.resize(tokens.len().next_multiple_of(length) - tokens.len(), PAD_TOKEN);
        }
        let (fill, rest) = tokens.split_at((length - sequence.open.len()).min(tokens.len()));
        sequence.open.extend(fill);
        if sequence.open.len() < length {
            return Ok(());
        }
        let (whole, open) = rest.split_at(rest.len() - rest.len() % length);
        let (model, decoder, interrupt) = (&self.model, &mut self.blocks, &self.interrupt);
        let done = self.team.region(|crew| {
            let Sequence { blocks, context, open, .. } = sequence;
            let mut run = |mut tokens: &[u32], check: &dyn Fn() -> Result<()>| {
                while !tokens.is_empty() {
                    check()?;
                    let columns = BATCH.min(tokens.len() / length).min(blocks.room());
                    let (batch, rest) = tokens.split_at(columns * length);
                    let stream = decoder.forward(crew, model, batch, &mut [Span::new(columns, blocks)]);
                    let last = stream.len() - context.len();
                    context.copy_from_slice(&stream[last..]);
                    tokens = rest;
                }
                Ok(())
            };
            // The open block is part of the sequence already, so it is not interrupted.
            run(open, &|| Ok(()))?;
            run(whole, &|| interrupt.check())
        });
        sequence.open.clear();
        sequence.opened = false;
        done?;
        sequence.open.extend(open);
        Ok(())
    }

    /// Adds one token to each of several sequences that have had a text; those whose block it completes share
    /// one pass of the block decoder.
    ///
    /// # Errors
    /// If a token is not in the vocabulary or a sequence is empty; then nothing was added.
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
        let whole = |sequence: &&mut Sequence| sequence.open.len() == sequence.block_length;
        self.team.region(|crew| {
            let stream = if let [sequence] = &mut *sequences {
                decoder.forward(
                    crew,
                    model,
                    completed,
                    &mut [Span::new(1, &mut sequence.borrow_mut().blocks)],
                )
            } else {
                let spans = sequences
                    .iter_mut()
                    .map(S::borrow_mut)
                    .filter(whole)
                    .map(|s| Span::new(1, &mut s.blocks));
                decoder.forward(crew, model, completed, &mut spans.collect::<Vec<_>>())
            };
            let columns = stream.chunks_exact(model.config().block_decoder.hidden);
            sequences
                .iter_mut()
                .map(S::borrow_mut)
                .filter(whole)
                .zip(columns)
                .for_each(|(s, column)| s.close(column));
        });
        Ok(())
    }

    /// The logits of the next token of each sequence, `[sequences, vocabulary]`. Call it once for each token.
    ///
    /// # Errors
    /// If a sequence is empty or has had no token since the last call, or logits are not finite, as damaged
    /// weights make them.
    pub fn logits<S: BorrowMut<Sequence>>(&mut self, sequences: &mut [S]) -> Result<&[f32]> {
        let all = || sequences.iter().map(S::borrow);
        if all().any(Sequence::is_empty) {
            return Err(empty());
        }
        let first = self.model.config().first_positions();
        if all().any(|s| s.opened && s.tokens.length() as usize == first + s.open.len()) {
            return Err(Error::argument("logits: expected a new token since they were last computed"));
        }
        let vocabulary = self.model.config().vocabulary;
        let length = sequences.len() * vocabulary;
        if self.logits.len() < length {
            self.logits.resize(length, 0.0);
        }
        let Engine { model, team, tokens: decoder, contexts, columns, logits, .. } = self;
        let logits = &mut logits[..length];
        team.region(|crew| {
            contexts.clear();
            let closed = sequences.iter().map(S::borrow).filter(|s| !s.opened);
            closed.for_each(|s| contexts.extend(&s.context));
            if !contexts.is_empty() {
                let expanded = decoder.expand(crew, model, contexts);
                let mut rows = expanded.chunks_exact(sequences[0].borrow().expanded.len());
                let closed = sequences.iter_mut().map(S::borrow_mut).filter(|s| !s.opened);
                for (sequence, row) in closed.zip(&mut rows) {
                    sequence.expanded.copy_from_slice(row);
                    sequence.tokens.clear();
                    sequence.opened = true;
                }
            }
            decoder.begin();
            columns.clear();
            for s in sequences.iter().map(S::borrow) {
                columns.push(decoder.push(model, &s.expanded, &s.open, s.tokens.length() as usize));
            }
            let last = |row: usize| columns[..=row].iter().sum::<usize>() - 1;
            if let [sequence] = &mut *sequences {
                let span = Span::new(columns[0], &mut sequence.borrow_mut().tokens);
                decoder.logits(crew, model, &mut [span], last, logits);
            } else {
                let spans = sequences
                    .iter_mut()
                    .map(S::borrow_mut)
                    .zip(&*columns)
                    .map(|(s, n)| Span::new(*n, &mut s.tokens));
                decoder.logits(crew, model, &mut spans.collect::<Vec<_>>(), last, logits);
            }
        });
        check_finite(logits)?;
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
