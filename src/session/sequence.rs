//! A sequence: a text of tokens in whole blocks, of which the cache remembers some, and an open one.
//!
//! The [`Alignment`] decides the layout of a first text that does not fill whole blocks. Text that is appended later
//! continues inside the open block: whole blocks pass through the block decoder alone, and the tokens of the last,
//! partial block are forced through the token decoder when its logits are wanted.

use super::ahead::Ahead;
use super::block_log::{self, BlockLog};
use super::open_block::OpenBlock;
use super::options::SessionOptions;
use super::runtime::Runtime;
use crate::cache::Cache;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Alignment, Model, ModelId, PAD_TOKEN};

/// A sequence: its cache and its open block.
pub struct Sequence {
    pub(super) model: ModelId,
    /// Keys and values of the block decoder.
    pub(super) cache: Cache,
    /// The tokens of the blocks in the cache.
    pub(super) log: BlockLog,
    /// Digest of all whole blocks.
    pub(super) digest: u64,
    pub(super) open: OpenBlock,
    /// What is known of the blocks after this text, if it goes on as guessed.
    pub(super) ahead: Ahead,
    pub(super) alignment: Alignment,
    /// Whether the padding of a first block is masked. Its digest then says how much there is.
    masks_padding: bool,
}

impl Runtime {
    /// An empty sequence.
    ///
    /// # Errors
    /// If an option is out of range or the cache cannot be allocated.
    pub fn sequence(&self, options: &SessionOptions) -> Result<Sequence> {
        let (model, config) = (self.model(), self.model().config());
        let cache = options.cache(model)?;
        let slots = cache.geometry().slots();
        let log = BlockLog::new(slots, config.block_length).ok_or_else(|| {
            Error::new(ErrorKind::Resource, format!("no memory for the tokens of {slots} blocks"))
        })?;
        Ok(Sequence {
            cache,
            log,
            digest: block_log::EMPTY,
            open: OpenBlock::new(model)?,
            ahead: Ahead::new(model)?,
            alignment: options.alignment.unwrap_or(config.alignment),
            masks_padding: config.embedder.masks_padding(),
            model: model.id(),
        })
    }
}

impl Sequence {
    /// A copy, which continues on its own.
    ///
    /// # Errors
    /// If its memory cannot be allocated.
    pub fn try_clone(&self) -> Result<Sequence> {
        Ok(Sequence {
            model: self.model.clone(),
            cache: self.cache.try_clone()?,
            log: self.log.try_clone()?,
            digest: self.digest,
            open: self.open.try_clone()?,
            ahead: self.ahead.try_clone()?,
            alignment: self.alignment,
            masks_padding: self.masks_padding,
        })
    }

    /// Number of tokens, the padding of the first block included.
    pub fn length(&self) -> u64 {
        self.blocks() * self.open.length() as u64 + self.open.tokens().len() as u64
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.cache_for_pass().clear();
        self.digest = block_log::EMPTY;
        self.open.clear();
    }

    /// The options it was created with; every field is set.
    pub fn options(&self) -> SessionOptions {
        let shape = self.cache.shape();
        SessionOptions {
            cache_blocks: Some(shape.sinks + shape.window),
            sink_blocks: shape.sinks,
            cache_type: Some(self.cache.kind()),
            alignment: Some(self.alignment),
        }
    }

    /// Number of whole blocks, forgotten ones included.
    pub fn blocks(&self) -> u64 {
        self.cache.length()
    }

    /// Whether the sequence is one of a model.
    pub fn belongs_to(&self, model: &Model) -> bool {
        self.model == model.id()
    }

    /// Whether no token has been added.
    pub fn is_empty(&self) -> bool {
        self.blocks() == 0 && self.open.tokens().is_empty()
    }

    /// Tokens until the open block is complete: at least 1, at most a block.
    pub fn left_in_block(&self) -> usize {
        self.open.length() - self.position_in_block()
    }

    /// Tokens that the open block will have when the next one is chosen.
    pub(crate) fn position_in_block(&self) -> usize {
        // A first text that is shorter than a block will be filled up to one.
        if self.blocks() == 0 { 0 } else { self.open.tokens().len() }
    }

    /// Whether the sequence can be rewound to its first `blocks` whole blocks: to none, to pinned ones, to all of them,
    /// and to those whose last one saw nothing that is forgotten by now.
    pub fn can_rewind(&self, blocks: u64) -> bool {
        blocks == 0 || blocks == self.blocks() || self.cache.geometry().whole(blocks)
    }

    /// The longest beginning of a text, laid out in blocks as a first text, that this sequence begins with and can be
    /// rewound to: its whole blocks, and the tokens of `text` in them.
    pub fn common_prefix(&self, text: &[u32]) -> (u64, usize) {
        let (padding, length) = (self.padding(text.len()), self.open.length());
        let mut digest = self.empty(padding);
        let mut common = (0, 0);
        let mut block = vec![PAD_TOKEN; length];
        for position in 0..self.blocks().min(((padding + text.len()) / length) as u64) {
            let start = position as usize * length;
            for (index, token) in block.iter_mut().enumerate() {
                *token = (start + index).checked_sub(padding).map_or(PAD_TOKEN, |index| text[index]);
            }
            digest = block_log::extend(digest, &block);
            let end = position + 1;
            let own = |position| self.log.digest(self.cache.geometry().slot(position));
            let own = if end == self.blocks() { self.digest } else { own(position) };
            if own == digest && self.can_rewind(end) {
                common = (end, end as usize * length - padding);
            }
        }
        common
    }

    /// The last tokens, up to `max` of those that are remembered, oldest first.
    pub fn recent(&self, max: usize) -> Vec<u32> {
        let (geometry, length) = (self.cache.geometry(), self.open.length());
        let blocks = (max.div_ceil(length) as u64).min(self.blocks());
        // Pinned blocks are known as well, but once others have left, they are not the last ones.
        let window = geometry.window_start(self.blocks()).min(self.blocks());
        let window = if window <= self.cache.shape().sinks as u64 { 0 } else { window };
        let known = (self.blocks() - blocks).max(window);
        let closed = (known..self.blocks()).flat_map(|position| self.log.tokens(geometry.slot(position)));
        let mut all: Vec<u32> = closed.chain(self.open.tokens()).copied().collect();
        if known == 0 {
            // The padding of the first block is not part of the text.
            let padding = all.iter().take(length - 1).take_while(|token| **token == PAD_TOKEN).count();
            all.drain(..padding);
        }
        all.split_off(all.len().saturating_sub(max))
    }

    /// The block decoder's cache, the open block and the digest of all whole blocks: all else can be computed again
    /// from these, to the bit.
    pub(crate) fn state(&self) -> (&Cache, &OpenBlock, u64) {
        (&self.cache, &self.open, self.digest)
    }

    /// The tokens of each block in the cache, and the digest of the text up to its end.
    pub(crate) fn remembered(&self) -> impl Iterator<Item = (&[u32], u64)> {
        let geometry = self.cache.geometry();
        let slots = geometry.remembered().map(|position| geometry.slot(position));
        slots.map(|slot| (self.log.tokens(slot), self.log.digest(slot)))
    }

    /// Restores the state that [`Sequence::state`] and [`Sequence::remembered`] return. `fill` gets the cache and the
    /// context; `open` is less than a block.
    pub(crate) fn restore<'t>(
        &mut self,
        (open, digest): (&[u32], u64),
        remembered: impl Iterator<Item = (&'t [u32], u64)>,
        fill: impl FnOnce(&mut Cache, &mut [f32]),
    ) {
        self.clear();
        self.open.extend(open);
        self.digest = digest;
        fill(&mut self.cache, self.open.context_mut());
        let geometry = self.cache.geometry();
        for (position, (tokens, digest)) in geometry.remembered().zip(remembered) {
            self.log.set(geometry.slot(position), tokens, digest);
        }
    }

    /// Whether the token decoder has opened the block.
    pub(crate) fn is_opened(&self) -> bool {
        self.open.is_opened()
    }

    /// Lets the logits of the next token be computed once more.
    pub(crate) fn reopen(&mut self) {
        self.open.reopen();
    }

    /// Tokens of padding before `tokens`: none unless they are a first text.
    pub(crate) fn padding_of(&self, tokens: &[u32]) -> usize {
        if self.is_empty() && !tokens.is_empty() { self.padding(tokens.len()) } else { 0 }
    }

    /// Tokens that fill up a first text.
    pub(super) fn padding(&self, tokens: usize) -> usize {
        match self.alignment {
            Alignment::Left => tokens.next_multiple_of(self.open.length()) - tokens,
            Alignment::Tail => 0,
        }
    }

    /// The digest of an empty text before `padding` tokens of padding.
    fn empty(&self, padding: usize) -> u64 {
        block_log::padded(if self.masks_padding { padding } else { 0 })
    }

    /// Tokens of padding in a first block, which has these tokens and this digest, as far as the model masks them.
    pub(super) fn masked_padding(&self, block: &[u32], digest: u64) -> usize {
        let known = |padding: &usize| block_log::extend(self.empty(*padding), block) == digest;
        (0..block.len()).find(known).unwrap_or(0)
    }

    /// Notes that blocks have entered the cache: their tokens, of which the first `padding` are padding, and the last
    /// one's column of the residual stream.
    pub(super) fn note(&mut self, tokens: &[u32], padding: usize, context: &[f32]) {
        if padding > 0 {
            self.digest = self.empty(padding);
        }
        note(&self.cache, &mut self.log, &mut self.digest, tokens);
        self.open.follow(context);
    }

    /// The cache, to be written to.
    pub(super) fn cache_for_pass(&mut self) -> &mut Cache {
        self.ahead.clear();
        &mut self.cache
    }

    /// Whether a token can be added without a pass.
    pub(super) fn takes_ahead(&self, token: u32) -> bool {
        self.ahead.tokens().first() == Some(&token)
    }

    /// Adds a token without a pass, if it was guessed by one. If not, the guess is worthless from now on.
    pub(super) fn take_ahead(&mut self, token: u32) -> bool {
        let Some(context) = self.ahead.take(token) else {
            self.ahead.clear();
            return false;
        };
        self.cache.advance(1);
        note(&self.cache, &mut self.log, &mut self.digest, &[token]);
        self.open.follow(context);
        true
    }

    /// Adds a token if that takes no pass: the block stays open, or the last pass has computed it from a guess. Returns
    /// whether it did.
    pub(crate) fn add(&mut self, token: u32) -> bool {
        if self.left_in_block() == 1 {
            return self.take_ahead(token);
        }
        self.open.extend(&[token]);
        true
    }

    /// The tokens that the last pass has computed blocks of, as far as they are still to come.
    pub(crate) fn guessed(&self) -> &[u32] {
        self.ahead.tokens()
    }

    /// Notes that the open block, which is whole, has entered the cache, and with it the blocks of a guess and their
    /// columns of the residual stream.
    pub(super) fn close(&mut self, context: &[f32], guess: &[u32], ahead: &[f32]) {
        if !guess.is_empty() {
            // It is no part of the sequence.
            self.cache.rewind(self.cache.length() - guess.len() as u64);
        }
        note(&self.cache, &mut self.log, &mut self.digest, self.open.tokens());
        self.open.follow(context);
        self.ahead.set(guess, ahead);
    }
}

/// Logs the tokens of the last blocks of a cache, and extends the digest by them.
fn note(cache: &Cache, log: &mut BlockLog, digest: &mut u64, tokens: &[u32]) {
    let (geometry, length) = (cache.geometry(), log.block_length());
    let first = geometry.length() - (tokens.len() / length) as u64;
    for (position, block) in (first..).zip(tokens.chunks_exact(length)) {
        *digest = block_log::extend(*digest, block);
        log.set(geometry.slot(position), block, *digest);
    }
}
