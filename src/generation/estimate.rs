//! The memory that running a model takes, known before anything is allocated.

use super::drafter;
use super::speculation::MAX_TEXTS;
use crate::cache::CacheType;
use crate::model::{BlockDecoder, Model, TokenDecoder};
use crate::session::{SessionOptions, block_log};

/// The memory that one or more sequences need.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryEstimate {
    /// Bytes of the mapped file, all of which are read sooner or later.
    pub weights: u64,
    /// Bytes of the block decoder's caches.
    pub cache: u64,
    /// Bytes of all buffers.
    pub scratch: u64,
    /// Blocks that the cache of a sequence holds.
    pub cache_blocks: usize,
}

/// Bytes of one more sequence: of its cache, and of everything else.
pub(crate) fn of_sequence(model: &Model, options: &SessionOptions) -> (u64, u64) {
    let (config, blocks) = (model.config(), options.cache_blocks_for(model));
    let shape = BlockDecoder::cache_shape(config, 0, blocks);
    let cache = shape.bytes(options.cache_type_for(model)).unwrap_or(usize::MAX);
    let tokens = TokenDecoder::cache_shape(config).bytes(CacheType::F32).unwrap_or(usize::MAX);
    // Tokens and digests of the cached blocks; logits, and the sampler's candidates.
    let rest = TokenDecoder::bytes(config)
        .saturating_add(tokens)
        .saturating_add(block_log::bytes(blocks, config.block_length))
        // The contexts after guessed blocks.
        .saturating_add(4 * config.guesses_ahead() * config.block_decoder.hidden)
        .saturating_add(12 * config.vocabulary);
    (cache as u64, rest as u64)
}

/// Bytes of the buffers that up to `sequences` sequences share, each of which sees up to `blocks` blocks.
pub(crate) fn shared(model: &Model, sequences: usize, blocks: usize) -> u64 {
    BlockDecoder::bytes(model.config(), sequences, blocks) as u64
}

/// Bytes that the guesses of a text of a batch take: logits after each token, and what it comes from.
pub(crate) fn of_guesses(model: &Model) -> u64 {
    let config = model.config();
    let logits = 4 * (config.logits_a_pass() - 1) * config.vocabulary;
    logits.saturating_add(drafter::BYTES) as u64
}

/// Bytes of a model's draft table.
pub(crate) fn draft_table(model: &Model) -> u64 {
    model.draft().map_or(0, |table| table.bytes() as u64)
}

impl MemoryEstimate {
    /// The estimate for one session.
    pub fn new(model: &Model, options: &SessionOptions) -> MemoryEstimate {
        let one = Self::of_batch(model, options, 1);
        // A session keeps the logits of a pass.
        let kept = 4 * model.config().logits_a_pass() * model.config().vocabulary;
        MemoryEstimate { scratch: one.scratch.saturating_add(kept as u64), ..one }
    }

    /// The estimate for several sequences that advance together, each with a cache of its own.
    pub fn of_batch(model: &Model, options: &SessionOptions, sequences: usize) -> MemoryEstimate {
        let (cache, rest) = of_sequence(model, options);
        let (count, blocks) = (sequences as u64, options.cache_blocks_for(model));
        let guesses = of_guesses(model).saturating_mul(count.min(MAX_TEXTS as u64));
        MemoryEstimate {
            weights: model.file_bytes() as u64,
            cache: cache.saturating_mul(count),
            scratch: rest
                .saturating_mul(count)
                .saturating_add(shared(model, sequences, blocks))
                .saturating_add(guesses)
                .saturating_add(draft_table(model)),
            cache_blocks: blocks,
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.cache).saturating_add(self.scratch)
    }
}
