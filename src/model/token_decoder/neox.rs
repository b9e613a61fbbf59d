//! A token decoder that is a GPT-NeoX stack: the context is a prefix of pseudo tokens, or added to the tokens.

#![forbid(unsafe_code)]

use super::add;
use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::kernels::{Activations, Epilogue, Pass, Product, Term, multiply};
use crate::memory::grow;
use crate::model::config::{Config, PAD_TOKEN, StackConfig, Strategy};
use crate::model::segment::Segment;
use crate::model::stack::Scratch;
use crate::model::weights::{NeoxWeights, StackWeights};

/// A token decoder of a model, and its buffers.
pub(super) struct Neox {
    scratch: Scratch,
    contexts: Activations,
    /// `[blocks, expansion, hidden]`.
    expanded: Vec<f32>,
    /// Columns of the residual stream, `[columns, hidden]`.
    x: Vec<f32>,
    outputs: Activations,
}

/// The shape and the tensors of the decoder, for one call.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    pub(super) stack: &'a StackConfig,
    pub(super) strategy: Strategy,
    pub(super) expansion: usize,
    pub(super) weights: &'a NeoxWeights,
    pub(super) block_decoder: &'a StackWeights,
}

impl Neox {
    /// Buffers, still empty.
    pub(super) fn new(config: &Config, stack: &StackConfig, weights: &NeoxWeights) -> Self {
        Neox {
            scratch: Scratch::new(&weights.stack),
            contexts: Activations::new(
                config.block_decoder.hidden,
                weights.expansion.weight.kind().is_quantized(),
            ),
            expanded: Vec::new(),
            x: Vec::new(),
            outputs: Activations::new(stack.hidden, weights.head.kind().is_quantized()),
        }
    }

    /// As [`super::TokenDecoder::expand`].
    pub(super) fn expand(&mut self, pass: Pass<'_>, parts: Parts<'_>, contexts: &[f32]) -> Result<&[f32]> {
        let block = parts.block_decoder;
        let blocks = contexts.len() / block.config.hidden;
        self.contexts.reserve(pass.kernels, blocks)?;
        self.contexts.fill(pass, blocks, |index, output| {
            block.final_norm.apply(pass.kernels, &block.config, contexts, index, output);
        });
        let length = blocks * parts.expansion * parts.stack.hidden;
        grow(&mut self.expanded, length, "expanded contexts")?;
        let output = &mut self.expanded[..length];
        let terms = [parts.weights.expansion.term(&self.contexts)];
        pass.region.label("expansion");
        multiply(pass, Product { terms: &terms, epilogue: Epilogue::Store, output }, None);
        Ok(&self.expanded[..length])
    }

    /// Starts a pass without columns.
    pub(super) fn begin(&mut self) {
        self.x.clear();
    }

    /// As [`super::TokenDecoder::push`].
    pub(super) fn push(
        &mut self,
        parts: Parts<'_>,
        expanded: &[f32],
        tokens: &[u32],
        first: usize,
    ) -> Result<usize> {
        let (hidden, expansion) = (parts.stack.hidden, parts.expansion);
        let table = parts.weights.embeddings.view();
        let part = |part: usize| &expanded[part * hidden..][..hidden];
        let before = match parts.strategy {
            Strategy::Prefix => expansion,
            Strategy::Summation => 1,
        };
        let last = before + tokens.len();
        for position in first..last {
            let output = add(&mut self.x, hidden)?;
            match parts.strategy {
                Strategy::Prefix if position < expansion => output.copy_from_slice(part(position)),
                Strategy::Prefix => table.row(tokens[position - expansion] as usize, output),
                Strategy::Summation => {
                    let token = if position == 0 { PAD_TOKEN } else { tokens[position - 1] };
                    table.row(token as usize, output);
                    output.iter_mut().zip(part(position)).for_each(|(output, part)| *output += part);
                }
            }
        }
        Ok(last - first)
    }

    /// As [`super::TokenDecoder::logits`]; `rows` are wanted.
    pub(super) fn logits(
        &mut self,
        pass: Pass<'_>,
        parts: Parts<'_>,
        segments: &mut [Segment<'_>],
        (rows, column): (usize, impl Fn(usize) -> usize + Sync),
        logits: &mut [f32],
        interrupt: Option<&Interrupt>,
    ) -> Result<()> {
        let weights = parts.weights;
        self.outputs.reserve(pass.kernels, rows)?;
        weights.stack.forward(pass, &mut self.scratch, &mut self.x, segments, interrupt)?;
        let (norm, x) = (&weights.stack.final_norm, &self.x);
        self.outputs.fill(pass, rows, |row, output| {
            norm.apply(pass.kernels, parts.stack, x, column(row), output);
        });
        let terms = [Term { weights: weights.head.view(), bias: &[], input: &self.outputs }];
        pass.region.label("head");
        multiply(pass, Product { terms: &terms, epilogue: Epilogue::Store, output: logits }, None);
        Ok(())
    }
}
