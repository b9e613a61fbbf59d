//! A token decoder that is the vocabulary head alone: each block is one token, which its context predicts. No token is
//! ever fed to it, so it has neither layers nor keys.

#![forbid(unsafe_code)]

use super::add;
use crate::error::Result;
use crate::kernels::{Activations, Epilogue, Pass, Product, Term, multiply};
use crate::memory::reserve;
use crate::model::config::Config;
use crate::model::segment::Segment;
use crate::model::weights::{Matrix, StackWeights};

/// The vocabulary head of a model, and its buffers.
pub(super) struct Head {
    /// Contexts before the block decoder's final norm, `[blocks, hidden]`: what a block is opened with.
    opened: Vec<f32>,
    /// Those of the pass under way, `[columns, hidden]`.
    x: Vec<f32>,
    outputs: Activations,
}

impl Head {
    /// Buffers, still empty.
    pub(super) fn new(config: &Config, weights: &Matrix) -> Self {
        let outputs = Activations::new(config.block_decoder.hidden, weights.kind().is_quantized());
        Head { opened: Vec::new(), x: Vec::new(), outputs }
    }

    /// As [`super::TokenDecoder::expand`]: contexts are read as they are.
    pub(super) fn expand(&mut self, contexts: &[f32]) -> Result<&[f32]> {
        self.opened.clear();
        reserve(&mut self.opened, contexts.len(), "contexts")?;
        self.opened.extend_from_slice(contexts);
        Ok(&self.opened)
    }

    /// Starts a pass without columns.
    pub(super) fn begin(&mut self) {
        self.x.clear();
    }

    /// As [`super::TokenDecoder::push`].
    pub(super) fn push(&mut self, opened: &[f32]) -> Result<usize> {
        add(&mut self.x, opened.len())?.copy_from_slice(opened);
        Ok(1)
    }

    /// As [`super::TokenDecoder::logits`]; `rows` are wanted.
    pub(super) fn logits(
        &mut self,
        pass: Pass<'_>,
        (head, block_decoder): (&Matrix, &StackWeights),
        segments: &mut [Segment<'_>],
        (rows, column): (usize, impl Fn(usize) -> usize + Sync),
        logits: &mut [f32],
    ) -> Result<()> {
        self.outputs.reserve(pass.kernels, rows)?;
        let (norm, x) = (&block_decoder.final_norm, &self.x);
        self.outputs.fill(pass, rows, |row, output| {
            norm.apply(pass.kernels, &block_decoder.config, x, column(row), output);
        });
        let terms = [Term { weights: head.view(), bias: &[], input: &self.outputs }];
        pass.region.label("head");
        multiply(pass, Product { terms: &terms, epilogue: Epilogue::Store, output: logits }, None);
        for segment in segments {
            segment.cache.advance(segment.columns);
        }
        Ok(())
    }
}
