//! The embedder and the block decoder: blocks of tokens to context embeddings.

#![forbid(unsafe_code)]

use super::Model;
use super::attention::head_width;
use super::config::Config;
use super::embedder::Embedder;
use super::segment::{Kept, Segment, kept_columns};
use super::stack::Scratch;
use super::weights::ModelWeights;
use crate::cache::CacheShape;
use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::kernels::Pass;
use crate::memory::grow;
use crate::threads::Region;

/// Blocks that pass through the stack together: enough to reuse each weight, few enough to stay in cache.
pub(crate) const BATCH: usize = 128;

/// Buffers of the embedder and the block decoder.
pub struct BlockDecoder {
    scratch: Scratch,
    embedder: Embedder,
    x: Vec<f32>,
}

/// Blocks that can always be added together, and that a sequence can always be rewound by.
const SLACK: usize = 32;

impl BlockDecoder {
    /// Buffers, still empty.
    pub fn new(config: &Config, weights: &ModelWeights) -> Self {
        BlockDecoder {
            scratch: Scratch::new(&weights.block_decoder),
            embedder: Embedder::new(config, weights),
            x: Vec::new(),
        }
    }

    /// Shape of the cache of a sequence.
    pub fn cache_shape(config: &Config, sinks: usize, window: usize) -> CacheShape {
        let stack = &config.block_decoder;
        let width = head_width(stack.head_dim());
        let slack = SLACK + config.guesses_ahead();
        CacheShape { layers: stack.layers, heads: stack.heads, width, sinks, window, slack }
    }

    /// Bytes of the buffers once a long text has passed that sees `blocks` blocks, and `sequences` sequences
    /// together, `usize::MAX` if they are more.
    pub(crate) fn bytes(config: &Config, sequences: usize, blocks: usize) -> usize {
        let (stack, columns) = (&config.block_decoder, BATCH.max(sequences));
        let contexts = sequences.saturating_mul(4 * stack.hidden);
        Scratch::bytes(stack, columns, blocks)
            .saturating_add(Embedder::bytes(config, columns))
            .saturating_add(columns.saturating_mul(4 * stack.hidden))
            .saturating_add(contexts)
    }

    /// Runs blocks (`[blocks, block_length]` tokens, those of the segments one after the other) through the
    /// embedder and the stack, and returns the residual stream of the wanted ones, `[wanted, hidden]`, before the
    /// final norm.
    ///
    /// # Errors
    /// `Interrupted` on request, or `Resource` if there is no memory for the pass; then the sequences are as they were.
    pub(crate) fn forward(
        &mut self,
        region: &Region<'_>,
        model: &Model,
        tokens: &[u32],
        segments: &mut [Segment<'_>],
        interrupt: Option<&Interrupt>,
    ) -> Result<&[f32]> {
        let (config, weights) = (&model.config, &model.weights);
        let pass = Pass::new(region, model.kernels);
        let columns = tokens.len() / config.block_length;
        let hidden = config.block_decoder.hidden;
        grow(&mut self.x, columns * hidden, "contexts")?;
        self.embedder.reserve(pass, config, columns, segments.len())?;
        let x = &mut self.x[..columns * hidden];
        self.embedder.embed(pass, model, tokens, segments, x);
        weights.block_decoder.forward(pass, &mut self.scratch, x, segments, interrupt)?;
        Ok(&x[..kept_columns(segments, Kept::Wanted) * hidden])
    }

    /// The context of a block, `[hidden]`: its column of what [`BlockDecoder::forward`] returns, after the final norm.
    /// The token decoders begin with the same.
    pub(crate) fn context(model: &Model, stream: &[f32], column: usize, context: &mut [f32]) {
        let stack = &model.weights.block_decoder;
        stack.final_norm.apply(model.kernels, &stack.config, stream, column, context);
    }
}
