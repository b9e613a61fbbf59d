//! The embedder: the tokens of blocks to block embeddings.

#![forbid(unsafe_code)]

mod lookup;
mod roberta;

use super::Model;
use super::config::{Config, EmbedderConfig, Projection};
use super::segment::Segment;
use super::weights::{EmbedderWeights, ModelWeights};
use crate::error::Result;
use crate::kernels::Pass;
use lookup::Lookup;
use roberta::Roberta;

/// The embedder of a model, and its buffers.
pub(super) enum Embedder {
    Lookup(Lookup),
    Roberta(Box<Roberta>),
}

impl Embedder {
    /// Buffers, still empty.
    pub(super) fn new(config: &Config, weights: &ModelWeights) -> Self {
        match &weights.embedder {
            EmbedderWeights::Lookup { table, projection } => {
                let width = config.block_length * table.view().width();
                Embedder::Lookup(Lookup::new(width, projection.as_ref()))
            }
            EmbedderWeights::Roberta(encoder) => {
                Embedder::Roberta(Box::new(Roberta::new(config.block_length, encoder)))
            }
        }
    }

    /// Bytes of the buffers once `blocks` blocks have passed together, `usize::MAX` if they are more.
    pub(super) fn bytes(config: &Config, blocks: usize) -> usize {
        match &config.embedder {
            EmbedderConfig::Lookup { width, projection } => {
                Lookup::bytes(config.block_length * width, *projection, blocks)
            }
            EmbedderConfig::Roberta { encoder, projection } => {
                Roberta::bytes(config.block_length, encoder, *projection, blocks)
            }
        }
    }

    /// Makes room for a pass of `blocks` blocks of some segments.
    ///
    /// # Errors
    /// If it cannot be allocated.
    pub(super) fn reserve(
        &mut self,
        pass: Pass<'_>,
        config: &Config,
        blocks: usize,
        segments: usize,
    ) -> Result<()> {
        match (self, &config.embedder) {
            (Embedder::Lookup(embedder), EmbedderConfig::Lookup { projection, .. }) => match projection {
                Projection::Concat => Ok(()),
                Projection::Linear => embedder.reserve(pass, blocks),
            },
            (Embedder::Roberta(embedder), EmbedderConfig::Roberta { encoder, projection }) => {
                let projected = *projection == Projection::Linear;
                embedder.reserve(pass, config.block_length, encoder, (projected, blocks, segments))
            }
            _ => unreachable!("the buffers were made for this model"),
        }
    }

    /// The embeddings of blocks (`[blocks, block_length]` tokens, those of the segments one after the other),
    /// `[blocks, block_hidden]`.
    pub(super) fn embed(
        &mut self,
        pass: Pass<'_>,
        model: &Model,
        tokens: &[u32],
        segments: &[Segment<'_>],
        output: &mut [f32],
    ) {
        let length = model.config.block_length;
        match (self, &model.weights.embedder) {
            (Embedder::Lookup(embedder), EmbedderWeights::Lookup { table, projection }) => {
                embedder.embed(pass, length, table, projection.as_ref(), tokens, output);
            }
            (Embedder::Roberta(embedder), EmbedderWeights::Roberta(weights)) => {
                embedder.embed(pass, length, weights, tokens, segments, output);
            }
            _ => unreachable!("the buffers were made for this model"),
        }
    }
}
