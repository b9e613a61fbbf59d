//! The embedder and the block decoder: blocks of tokens to context embeddings.

use super::config::Config;
use super::stack::{Scratch, Span, head_width};
use super::weights::ModelWeights;
use crate::cache::{Cache, CacheShape};
use crate::error::Result;
use crate::kernels::{Activations, Epilogue, Kernels, Product, Term, multiply};
use crate::session::CacheType;
use crate::threads::Crew;

/// Blocks that pass through the stack together: enough to reuse each weight, few enough to stay in cache.
pub(crate) const BATCH: usize = 128;

/// The block decoder's cache and buffers, in the type that the user chose for the cache.
enum BlockCache {
    /// Single precision, for parity.
    F32(Cache<f32>, Scratch<f32>),
    /// Half precision.
    F16(Cache<u16>, Scratch<u16>),
}

/// Blocks to contexts, for one sequence.
pub struct BlockDecoder {
    cache: BlockCache,
    embedded: Activations,
    x: Vec<f32>,
}

impl BlockDecoder {
    /// An empty sequence with room for `sinks + window` blocks.
    ///
    /// # Errors
    /// If the cache cannot be allocated.
    pub fn new(
        config: &Config,
        weights: &ModelWeights,
        kind: CacheType,
        sinks: usize,
        window: usize,
    ) -> Result<Self> {
        let shape = Self::cache_shape(config, sinks, window);
        let stack = &weights.block_decoder;
        let cache = match kind {
            CacheType::F32 => BlockCache::F32(Cache::new(shape)?, Scratch::new(stack)),
            CacheType::F16 => BlockCache::F16(Cache::new(shape)?, Scratch::new(stack)),
        };
        let quantized = weights.projection.as_ref().is_some_and(|p| p.weight.kind().is_quantized());
        let embedded = Activations::new(config.block_length * config.embedding, quantized);
        Ok(BlockDecoder { cache, embedded, x: Vec::new() })
    }

    /// Shape of the cache of a model.
    pub fn cache_shape(config: &Config, sinks: usize, window: usize) -> CacheShape {
        let stack = &config.block_decoder;
        let width = head_width(stack.head_dim());
        CacheShape { layers: stack.layers, heads: stack.heads, width, sinks, window }
    }

    /// Bytes of the cache of a sequence of `blocks` blocks, and of the buffers once a long text has passed.
    pub(crate) fn memory(config: &Config, kind: CacheType, blocks: usize) -> (usize, usize) {
        let stack = &config.block_decoder;
        let elements = Self::cache_shape(config, 0, blocks).elements().unwrap_or(usize::MAX);
        let buffers = match kind {
            CacheType::F32 => Scratch::<f32>::bytes(stack, BATCH, blocks),
            CacheType::F16 => Scratch::<u16>::bytes(stack, BATCH, blocks),
        };
        (elements.saturating_mul(2 * kind.bytes()), buffers + 4 * BATCH * stack.hidden)
    }

    /// Blocks seen so far.
    pub fn length(&self) -> u64 {
        match &self.cache {
            BlockCache::F32(cache, _) => cache.length(),
            BlockCache::F16(cache, _) => cache.length(),
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        match &mut self.cache {
            BlockCache::F32(cache, _) => cache.clear(),
            BlockCache::F16(cache, _) => cache.clear(),
        }
    }

    /// Runs up to [`BATCH`] blocks (`[blocks, block_length]` tokens) through the embedder and the stack, and
    /// returns the residual stream `[blocks, hidden]`, before the final norm.
    pub(crate) fn forward(
        &mut self,
        crew: &Crew,
        kernels: &Kernels,
        config: &Config,
        weights: &ModelWeights,
        tokens: &[u32],
    ) -> &[f32] {
        let columns = tokens.len() / config.block_length;
        let hidden = config.block_decoder.hidden;
        if self.x.len() < columns * hidden {
            self.x.resize(columns * hidden, 0.0);
        }
        let x = &mut self.x[..columns * hidden];
        let table = weights.embedder.view();
        let embed = |column: usize, output: &mut [f32]| {
            let block = &tokens[column * config.block_length..][..config.block_length];
            for (token, output) in block.iter().zip(output.chunks_exact_mut(config.embedding)) {
                table.row(*token as usize, output);
            }
        };
        match &weights.projection {
            None => crew.split(x, hidden, embed),
            Some(projection) => {
                self.embedded.fill(crew, kernels, columns, embed);
                let term =
                    Term { weights: projection.weight.view(), bias: &projection.bias, input: &self.embedded };
                let product = Product { terms: &[term], epilogue: Epilogue::Store, output: &mut *x };
                multiply(crew, kernels, product, None);
            }
        }
        let stack = &weights.block_decoder;
        match &mut self.cache {
            BlockCache::F32(cache, scratch) => {
                let first = cache.length();
                stack.forward(crew, kernels, scratch, x, &mut [Span { columns, first, cache: Some(cache) }]);
            }
            BlockCache::F16(cache, scratch) => {
                let first = cache.length();
                stack.forward(crew, kernels, scratch, x, &mut [Span { columns, first, cache: Some(cache) }]);
            }
        }
        x
    }
}
