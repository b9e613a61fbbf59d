//! The embedder: the tokens of blocks to block embeddings.

#![forbid(unsafe_code)]

use super::Model;
use super::config::{Config, EmbedderConfig, Projection};
use super::weights::{EmbedderWeights, Linear, ModelWeights};
use crate::kernels::{Activations, Epilogue, Pass, Product, multiply};
use crate::threads::Chunks;

/// Buffers of the embedder.
pub(super) struct Embedder {
    /// The inputs of the projection, `[blocks, block_length x width]`.
    embedded: Activations,
}

impl Embedder {
    /// Buffers, still empty.
    pub(super) fn new(config: &Config, weights: &ModelWeights) -> Self {
        let (EmbedderConfig::Lookup { width, .. }, EmbedderWeights::Lookup { projection, .. }) =
            (&config.embedder, &weights.embedder);
        let quantized = |layer: &Linear| layer.weight.kind().is_quantized();
        let quantized = projection.as_ref().is_some_and(quantized);
        Embedder { embedded: Activations::new(config.block_length * width, quantized) }
    }

    /// Bytes of the buffers once `blocks` blocks have passed together, `usize::MAX` if they are more.
    pub(super) fn bytes(config: &Config, blocks: usize) -> usize {
        match &config.embedder {
            EmbedderConfig::Lookup { projection: Projection::Concat, .. } => 0,
            EmbedderConfig::Lookup { projection: Projection::Linear, width } => {
                Activations::bytes(config.block_length * width, blocks, true)
            }
        }
    }

    /// The embeddings of blocks (`[blocks, block_length]` tokens), `[blocks, block_hidden]`.
    pub(super) fn embed(&mut self, pass: Pass<'_>, model: &Model, tokens: &[u32], output: &mut [f32]) {
        let EmbedderConfig::Lookup { width, .. } = model.config.embedder;
        let EmbedderWeights::Lookup { table, projection } = &model.weights.embedder;
        let (length, table) = (model.config.block_length, table.view());
        let rows = |block: usize, output: &mut [f32]| {
            let block = &tokens[block * length..][..length];
            for (token, output) in block.iter().zip(output.chunks_exact_mut(width)) {
                table.row(*token as usize, output);
            }
        };
        let Some(projection) = projection else {
            return pass.region.run_parts(Chunks::of(output, length * width), rows);
        };
        self.embedded.fill(pass, tokens.len() / length, rows);
        let terms = [projection.term(&self.embedded)];
        multiply(pass, Product { terms: &terms, epilogue: Epilogue::Store, output }, None);
    }
}
