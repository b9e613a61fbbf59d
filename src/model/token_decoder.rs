//! The token decoder: a context embedding and the tokens of one block to logits of the next token.

#![forbid(unsafe_code)]

use super::Model;
use super::attention::head_width;
use super::config::{Config, PAD_TOKEN, Strategy};
use super::segment::Segment;
use super::stack::Scratch;
use super::weights::ModelWeights;
use crate::cache::CacheShape;
use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::kernels::{Activations, Epilogue, Pass, Product, Term, multiply};
use crate::threads::Region;

/// Buffers of the token decoder.
pub struct TokenDecoder {
    scratch: Scratch,
    contexts: Activations,
    /// `[blocks, expansion, hidden]`.
    expanded: Vec<f32>,
    /// Columns of the residual stream, `[columns, hidden]`.
    x: Vec<f32>,
    outputs: Activations,
}

impl TokenDecoder {
    /// Buffers, still empty.
    pub fn new(config: &Config, weights: &ModelWeights) -> Self {
        let quantized = weights.expansion.weight.kind().is_quantized();
        TokenDecoder {
            scratch: Scratch::new(&weights.token_decoder),
            contexts: Activations::new(config.block_decoder.hidden, quantized),
            expanded: Vec::new(),
            x: Vec::new(),
            outputs: Activations::new(config.token_decoder.hidden, weights.head.kind().is_quantized()),
        }
    }

    /// Shape of the cache of one block, which never rolls.
    pub fn cache_shape(config: &Config) -> CacheShape {
        let stack = &config.token_decoder;
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
        let (stack, positions) = (&config.token_decoder, config.token_positions());
        Scratch::bytes(stack, positions, positions) + 4 * positions * stack.hidden
    }

    /// Expands contexts (`[blocks, block_hidden]`, before the block decoder's final norm) to
    /// `[blocks, expansion, token_hidden]`.
    pub(crate) fn expand(&mut self, region: &Region<'_>, model: &Model, contexts: &[f32]) -> &[f32] {
        let (config, weights) = (&model.config, &model.weights);
        let pass = Pass::new(region, model.kernels);
        let blocks = contexts.len() / config.block_decoder.hidden;
        let norm = &weights.block_decoder.final_norm;
        self.contexts.fill(pass, blocks, |block, output| {
            norm.apply(pass.kernels, &config.block_decoder, contexts, block, output);
        });
        let length = blocks * config.expansion * config.token_decoder.hidden;
        if self.expanded.len() < length {
            self.expanded.resize(length, 0.0);
        }
        let output = &mut self.expanded[..length];
        let terms = [weights.expansion.term(&self.contexts)];
        multiply(pass, Product { terms: &terms, epilogue: Epilogue::Store, output }, None);
        &self.expanded[..length]
    }

    /// Starts a pass without columns.
    pub(crate) fn begin(&mut self) {
        self.x.clear();
    }

    /// Adds the columns of one block from position `first` to the one that predicts the token after `tokens`,
    /// and returns how many they are. `expanded` is `[expansion, hidden]`.
    pub(crate) fn push(&mut self, model: &Model, expanded: &[f32], tokens: &[u32], first: usize) -> usize {
        let (config, hidden) = (&model.config, model.config.token_decoder.hidden);
        let table = model.weights.token_embeddings.view();
        let part = |part: usize| &expanded[part * hidden..][..hidden];
        let last = config.first_positions() + tokens.len();
        for position in first..last {
            let start = self.x.len();
            self.x.resize(start + hidden, 0.0);
            let output = &mut self.x[start..];
            match config.strategy {
                Strategy::Prefix if position < config.expansion => output.copy_from_slice(part(position)),
                Strategy::Prefix => table.row(tokens[position - config.expansion] as usize, output),
                Strategy::Summation => {
                    let token = if position == 0 { PAD_TOKEN } else { tokens[position - 1] };
                    table.row(token as usize, output);
                    output.iter_mut().zip(part(position)).for_each(|(output, part)| *output += part);
                }
            }
        }
        last - first
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
        let (config, weights) = (&model.config, &model.weights);
        let pass = Pass::new(region, model.kernels);
        weights.token_decoder.forward(pass, &mut self.scratch, &mut self.x, segments, interrupt)?;
        let (norm, x) = (&weights.token_decoder.final_norm, &self.x);
        self.outputs.fill(pass, logits.len() / config.vocabulary, |row, output| {
            norm.apply(pass.kernels, &config.token_decoder, x, column(row), output);
        });
        let terms = [Term { weights: weights.head.view(), bias: &[], input: &self.outputs }];
        multiply(pass, Product { terms: &terms, epilogue: Epilogue::Store, output: logits }, None);
        Ok(())
    }
}
