//! An embedder that looks up a row of a table for each token.

#![forbid(unsafe_code)]

use crate::error::Result;
use crate::kernels::{Activations, Epilogue, Pass, Product, multiply};
use crate::model::config::Projection;
use crate::model::weights::{Linear, Matrix};
use crate::threads::Chunks;

/// Buffers.
pub(in crate::model) struct Lookup {
    /// The inputs of the projection, `[blocks, block_length x width]`.
    embedded: Activations,
}

impl Lookup {
    /// Buffers for blocks of `width` floats, still empty.
    pub(super) fn new(width: usize, projection: Option<&Linear>) -> Self {
        let quantized = projection.is_some_and(|layer| layer.weight.kind().is_quantized());
        Lookup { embedded: Activations::new(width, quantized) }
    }

    /// As [`super::Embedder::bytes`].
    pub(super) fn bytes(width: usize, projection: Projection, blocks: usize) -> usize {
        match projection {
            Projection::Concat => 0,
            Projection::Linear => Activations::bytes(width, blocks, true),
        }
    }

    /// As [`super::Embedder::reserve`], if there is a projection.
    pub(super) fn reserve(&mut self, pass: Pass<'_>, blocks: usize) -> Result<()> {
        self.embedded.reserve(pass.kernels, blocks)
    }

    /// As [`super::Embedder::embed`], for blocks of `length` tokens.
    pub(super) fn embed(
        &mut self,
        pass: Pass<'_>,
        length: usize,
        table: &Matrix,
        projection: Option<&Linear>,
        tokens: &[u32],
        output: &mut [f32],
    ) {
        let table = table.view();
        let width = table.width();
        let rows = |block: usize, output: &mut [f32]| {
            let block = &tokens[block * length..][..length];
            for (token, output) in block.iter().zip(output.chunks_exact_mut(width)) {
                table.row(*token as usize, output);
            }
        };
        let Some(projection) = projection else {
            pass.region.label("embedder");
            return pass.region.run_parts(Chunks::of(output, length * width), rows);
        };
        self.embedded.fill(pass, tokens.len() / length, rows);
        let terms = [projection.term(&self.embedded)];
        pass.region.label("embedder");
        multiply(pass, Product { terms: &terms, epilogue: Epilogue::Store, output }, None);
    }
}
