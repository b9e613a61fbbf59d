//! The options of a session.

use crate::cache::{Cache, CacheShape, CacheType};
use crate::error::{Error, Result};
use crate::model::{Alignment, BlockDecoder, Model};
use crate::quant::WeightType;

/// The options that a sequence is created with.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionOptions {
    /// Blocks that the cache holds, pinned ones included; `None` is the context that the model was trained with.
    pub cache_blocks: Option<usize>,
    /// First blocks that are never forgotten; fewer than `cache_blocks`.
    pub sink_blocks: usize,
    /// Type of the cache; `None` is f32 for a model of f32 weights and f16 for any other.
    pub cache_type: Option<CacheType>,
    /// Layout of a first text in blocks; `None` is the model's.
    pub alignment: Option<Alignment>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        SessionOptions { cache_blocks: None, sink_blocks: 4, cache_type: None, alignment: None }
    }
}

impl SessionOptions {
    /// Makes sure that a prompt fits into the cache, by its number of tokens.
    ///
    /// # Errors
    /// If it does not.
    pub fn check_prompt(&self, model: &Model, tokens: usize) -> Result<()> {
        let (length, blocks) = (model.config().block_length, self.cache_blocks_for(model));
        if tokens.div_ceil(length) > blocks {
            let most = blocks.saturating_mul(length);
            return Err(Error::argument(format!("prompt: found {tokens} tokens, expected at most {most}")));
        }
        Ok(())
    }

    /// Blocks that the cache holds for a model, pinned ones included.
    pub fn cache_blocks_for(&self, model: &Model) -> usize {
        self.cache_blocks
            .unwrap_or_else(|| model.config().trained_blocks.max(self.sink_blocks.saturating_add(1)))
    }

    /// The type of the cache for a model.
    pub fn cache_type_for(&self, model: &Model) -> CacheType {
        let exact =
            model.weights().block_decoder.layers.iter().all(|l| l.qkv.weight.kind() == WeightType::F32);
        self.cache_type.unwrap_or(if exact { CacheType::F32 } else { CacheType::F16 })
    }

    /// The same options with enough first blocks pinned that a prompt of `tokens` is never forgotten, the block
    /// included in which it ends.
    #[must_use]
    pub fn pin_prompt(self, model: &Model, tokens: usize) -> SessionOptions {
        let blocks = tokens.div_ceil(model.config().block_length);
        SessionOptions { sink_blocks: self.sink_blocks.max(blocks), ..self }
    }

    /// The shape of the block decoder's cache of a sequence.
    ///
    /// # Errors
    /// If all blocks of the cache are pinned.
    pub(crate) fn cache_shape(&self, model: &Model) -> Result<CacheShape> {
        let blocks = self.cache_blocks_for(model);
        let window = blocks.checked_sub(self.sink_blocks).filter(|&window| window > 0);
        let window = window.ok_or_else(|| {
            Error::argument(format!(
                "cache of {blocks} blocks: expected more than the {} pinned ones",
                self.sink_blocks
            ))
        })?;
        Ok(BlockDecoder::cache_shape(model.config(), self.sink_blocks, window))
    }

    /// The block decoder's cache of a sequence.
    ///
    /// # Errors
    /// If an option is out of range or the cache cannot be allocated.
    pub(crate) fn cache(&self, model: &Model) -> Result<Cache> {
        Cache::new(self.cache_type_for(model), self.cache_shape(model)?)
    }
}
