//! The token decoder: a context embedding and the tokens of one block to logits of the next token.

#![forbid(unsafe_code)]

mod head;
mod neox;
mod t5;

use super::Model;
use super::attention::head_width;
use super::config::{Config, TokenDecoderConfig};
use super::segment::Segment;
use super::stack::Scratch;
use super::weights::{Matrix, ModelWeights, StackWeights, TokenDecoderWeights};
use crate::cache::CacheShape;
use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::kernels::{Activations, Pass};
use crate::memory::refused;
use crate::threads::Region;

/// The token decoder of a model, and its buffers.
pub struct TokenDecoder(Kind);

enum Kind {
    Neox(Box<neox::Neox>),
    T5(Box<t5::T5>),
    Head(Box<head::Head>),
}

/// Adds `floats` zeros to the residual stream of a pass.
///
/// # Errors
/// If there is no memory for them.
fn add(x: &mut Vec<f32>, floats: usize) -> Result<&mut [f32]> {
    let start = x.len();
    // Columns come one by one, so that the room grows by more than is asked for.
    x.try_reserve(floats).map_err(|_| refused("columns of a block", 4 * (start + floats)))?;
    x.resize(start + floats, 0.0);
    Ok(&mut x[start..])
}

/// Shape and tensors of a decoder that is a GPT-NeoX stack.
fn neox_parts(model: &Model) -> neox::Parts<'_> {
    let (TokenDecoderConfig::Neox { stack, strategy, expansion }, TokenDecoderWeights::Neox(weights)) =
        (&model.config.token_decoder, &model.weights.token_decoder)
    else {
        unreachable!("the decoder was made for this model")
    };
    let (strategy, expansion) = (*strategy, *expansion);
    neox::Parts { stack, strategy, expansion, weights, block_decoder: &model.weights.block_decoder }
}

/// Shape and tensors of a T5 decoder.
fn t5_parts(model: &Model) -> t5::Parts<'_> {
    let (TokenDecoderConfig::T5 { decoder, expansion }, TokenDecoderWeights::T5(weights)) =
        (&model.config.token_decoder, &model.weights.token_decoder)
    else {
        unreachable!("the decoder was made for this model")
    };
    t5::Parts { decoder, expansion: *expansion, weights, block_decoder: &model.weights.block_decoder }
}

/// Tensors of a decoder that is a vocabulary head: its own, and the block decoder, whose final norm comes before it.
fn head_parts(model: &Model) -> (&Matrix, &StackWeights) {
    let TokenDecoderWeights::Head(head) = &model.weights.token_decoder else {
        unreachable!("the decoder was made for this model")
    };
    (head, &model.weights.block_decoder)
}

impl TokenDecoder {
    /// Buffers, still empty.
    ///
    /// # Panics
    /// If the weights are not those of a model of this configuration.
    pub fn new(config: &Config, weights: &ModelWeights) -> Self {
        TokenDecoder(match (&config.token_decoder, &weights.token_decoder) {
            (TokenDecoderConfig::Neox { stack, .. }, TokenDecoderWeights::Neox(weights)) => {
                Kind::Neox(Box::new(neox::Neox::new(config, stack, weights)))
            }
            (TokenDecoderConfig::T5 { decoder, .. }, TokenDecoderWeights::T5(weights)) => {
                Kind::T5(Box::new(t5::T5::new(config, decoder, weights)))
            }
            (_, TokenDecoderWeights::Head(weights)) => Kind::Head(Box::new(head::Head::new(config, weights))),
            _ => panic!("weights of another model"),
        })
    }

    /// Shape of the cache of one block, which never rolls.
    pub fn cache_shape(config: &Config) -> CacheShape {
        let (layers, heads, head_dim) = match &config.token_decoder {
            TokenDecoderConfig::Neox { stack, .. } => (stack.layers, stack.heads, stack.head_dim()),
            TokenDecoderConfig::T5 { decoder, .. } => (decoder.layers, decoder.heads, decoder.head_dim),
            TokenDecoderConfig::Head { .. } => (0, 1, 1),
        };
        let window = config.token_positions().max(1 + config.guesses_ahead());
        CacheShape { layers, heads, width: head_width(head_dim), sinks: 0, window, slack: 0 }
    }

    /// Bytes of the buffers for one sequence.
    pub(crate) fn bytes(config: &Config) -> usize {
        match &config.token_decoder {
            TokenDecoderConfig::Neox { stack, .. } => {
                let positions = config.token_positions();
                Scratch::bytes(stack, positions, positions) + 4 * positions * stack.hidden
            }
            TokenDecoderConfig::T5 { decoder, expansion } => t5::T5::bytes(config, decoder, *expansion),
            TokenDecoderConfig::Head { hidden } => {
                let columns = config.logits_a_pass();
                8 * columns * hidden + Activations::bytes(*hidden, columns, true)
            }
        }
    }

    /// Opens blocks: contexts (`[blocks, block_hidden]`, before the block decoder's final norm) become what the decoder
    /// reads of them, `[blocks, opened_floats]`; for a GPT-NeoX stack `[blocks, expansion, token_hidden]`, for a T5
    /// decoder also the keys and values of cross-attention.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub(crate) fn expand(&mut self, region: &Region<'_>, model: &Model, contexts: &[f32]) -> Result<&[f32]> {
        let pass = Pass::new(region, model.kernels);
        match &mut self.0 {
            Kind::Neox(decoder) => decoder.expand(pass, neox_parts(model), contexts),
            Kind::T5(decoder) => decoder.expand(pass, t5_parts(model), contexts),
            Kind::Head(decoder) => decoder.expand(contexts),
        }
    }

    /// Starts a pass without columns.
    pub(crate) fn begin(&mut self) {
        match &mut self.0 {
            Kind::Neox(decoder) => decoder.begin(),
            Kind::T5(decoder) => decoder.begin(),
            Kind::Head(decoder) => decoder.begin(),
        }
    }

    /// Adds the columns of one block from position `first` to the one that predicts the token after `tokens`,
    /// and returns how many they are. `opened` is `[opened_floats]`.
    ///
    /// # Errors
    /// If there is no memory for them.
    pub(crate) fn push(
        &mut self,
        model: &Model,
        opened: &[f32],
        tokens: &[u32],
        first: usize,
    ) -> Result<usize> {
        match &mut self.0 {
            Kind::Neox(decoder) => decoder.push(neox_parts(model), opened, tokens, first),
            Kind::T5(decoder) => decoder.push(t5_parts(model), opened, tokens, first),
            Kind::Head(decoder) => decoder.push(opened),
        }
    }

    /// Runs the columns that were added, those of the segments one after the other, and writes the logits after
    /// column `column(row)` to row `row` of `logits` (`[rows, vocabulary]`).
    ///
    /// # Errors
    /// `Interrupted` on request, or `Resource` if there is no memory for the pass; then the caches are as they were.
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
            Kind::T5(decoder) => decoder.logits(pass, t5_parts(model), segments, rows, logits, interrupt),
            Kind::Head(decoder) => {
                interrupt.map_or(Ok(()), Interrupt::check)?;
                decoder.logits(pass, head_parts(model), segments, rows, logits)
            }
        }
    }
}
