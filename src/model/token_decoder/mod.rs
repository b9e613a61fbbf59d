//! The token decoder: a context embedding and the tokens of one block to logits of the next token.

#![forbid(unsafe_code)]

mod neox;

use super::Model;
use super::attention::head_width;
use super::config::{Config, TokenDecoderConfig};
use super::segment::Segment;
use super::stack::Scratch;
use super::weights::{ModelWeights, TokenDecoderWeights};
use crate::cache::CacheShape;
use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::kernels::Pass;
use crate::threads::Region;

/// The token decoder of a model, and its buffers.
pub struct TokenDecoder(Kind);

enum Kind {
    Neox(neox::Neox),
}

/// Shape and tensors of a decoder that is a GPT-NeoX stack.
fn neox_parts(model: &Model) -> neox::Parts<'_> {
    let TokenDecoderConfig::Neox { stack, strategy, expansion } = &model.config.token_decoder;
    let TokenDecoderWeights::Neox(weights) = &model.weights.token_decoder;
    let (strategy, expansion) = (*strategy, *expansion);
    neox::Parts { stack, strategy, expansion, weights, block_decoder: &model.weights.block_decoder }
}

impl TokenDecoder {
    /// Buffers, still empty.
    pub fn new(config: &Config, weights: &ModelWeights) -> Self {
        TokenDecoder(match (&config.token_decoder, &weights.token_decoder) {
            (TokenDecoderConfig::Neox { stack, .. }, TokenDecoderWeights::Neox(weights)) => {
                Kind::Neox(neox::Neox::new(config, stack, weights))
            }
        })
    }

    /// Shape of the cache of one block, which never rolls.
    pub fn cache_shape(config: &Config) -> CacheShape {
        let TokenDecoderConfig::Neox { stack, .. } = &config.token_decoder;
        CacheShape {
            layers: stack.layers,
            heads: stack.heads,
            width: head_width(stack.head_dim()),
            sinks: 0,
            window: config.token_positions(),
            rolls: false,
        }
    }

    /// Bytes of the buffers for one sequence.
    pub(crate) fn bytes(config: &Config) -> usize {
        let TokenDecoderConfig::Neox { stack, .. } = &config.token_decoder;
        let positions = config.token_positions();
        Scratch::bytes(stack, positions, positions) + 4 * positions * stack.hidden
    }

    /// Opens blocks: contexts (`[blocks, block_hidden]`, before the block decoder's final norm) become what the decoder
    /// reads of them, `[blocks, opened_floats]`; for a GPT-NeoX stack `[blocks, expansion, token_hidden]`.
    pub(crate) fn expand(&mut self, region: &Region<'_>, model: &Model, contexts: &[f32]) -> &[f32] {
        let pass = Pass::new(region, model.kernels);
        match &mut self.0 {
            Kind::Neox(decoder) => decoder.expand(pass, neox_parts(model), contexts),
        }
    }

    /// Starts a pass without columns.
    pub(crate) fn begin(&mut self) {
        match &mut self.0 {
            Kind::Neox(decoder) => decoder.begin(),
        }
    }

    /// Adds the columns of one block from position `first` to the one that predicts the token after `tokens`,
    /// and returns how many they are. `opened` is `[opened_floats]`.
    pub(crate) fn push(&mut self, model: &Model, opened: &[f32], tokens: &[u32], first: usize) -> usize {
        match &mut self.0 {
            Kind::Neox(decoder) => decoder.push(neox_parts(model), opened, tokens, first),
        }
    }

    /// Runs the columns that were added, those of the segments one after the other, and writes the logits after
    /// column `column(row)` to row `row` of `logits` (`[rows, vocabulary]`).
    ///
    /// # Errors
    /// `Interrupted` on request; then the caches are as they were.
    pub(crate) fn logits(
        &mut self,
        region: &Region<'_>,
        model: &Model,
        segments: &mut [Segment<'_>],
        column: impl Fn(usize) -> usize + Sync,
        logits: &mut [f32],
        interrupt: Option<&Interrupt>,
    ) -> Result<()> {
        let pass = Pass::new(region, model.kernels);
        let rows = (logits.len() / model.config.vocabulary, column);
        match &mut self.0 {
            Kind::Neox(decoder) => decoder.logits(pass, neox_parts(model), segments, rows, logits, interrupt),
        }
    }
}
