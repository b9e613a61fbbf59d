//! Matrix products in parallel: panels go to threads in chunks, a tile of outputs at a time.

use std::ops::Range;

use super::{Activations, BLOCK_COLUMNS, Kernels, TILE_COLUMNS};
use crate::quant::{PANEL_ROWS, Weights};
use crate::threads::{Pieces, Region};

/// Bytes of weights in a chunk of work: enough to hide taking it, few enough to share evenly.
const CHUNK_BYTES: usize = 64 << 10;

/// `weights . input + bias`. An empty bias is none.
#[derive(Clone, Copy)]
pub struct Term<'a> {
    /// `[rows, width]`.
    pub weights: Weights<'a>,
    /// `[rows]`, or empty.
    pub bias: &'a [f32],
    /// `[columns, width]`.
    pub input: &'a Activations,
}

/// What happens to a product before it is stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Epilogue {
    /// Nothing.
    Store,
    /// Exact GELU.
    Gelu,
    /// It is added to what is there: the residual stream.
    Accumulate,
}

/// One output `[columns, rows]` and the terms that make it, applied in order.
pub struct Product<'a> {
    /// All of one shape.
    pub terms: &'a [Term<'a>],
    /// How each term is stored; every term but the first should accumulate.
    pub epilogue: Epilogue,
    /// `[columns, rows]`.
    pub output: &'a mut [f32],
}

/// A product whose output is shared, so that threads can write disjoint parts of it.
struct Job<'a> {
    terms: &'a [Term<'a>],
    epilogue: Epilogue,
    output: Pieces<'a, f32>,
    rows: usize,
    columns: usize,
    panels_per_chunk: usize,
    chunks: usize,
}

/// Computes up to two independent products in one parallel phase.
///
/// # Panics
/// If shapes disagree.
pub fn multiply(region: &Region, kernels: &Kernels, first: Product<'_>, second: Option<Product<'_>>) {
    let first = Job::new(first);
    let Some(second) = second.map(Job::new) else {
        return region.run(first.chunks, |chunk| first.run(kernels, chunk));
    };
    region.run_both(
        (first.chunks, |chunk| first.run(kernels, chunk)),
        (second.chunks, |chunk| second.run(kernels, chunk)),
    );
}

impl<'a> Job<'a> {
    fn new(product: Product<'a>) -> Self {
        let (rows, columns) = (product.terms[0].weights.rows(), product.terms[0].input.columns());
        let mut panel_bytes = 0;
        for term in product.terms {
            assert!(term.weights.rows() == rows && term.input.columns() == columns);
            assert!(term.bias.is_empty() || term.bias.len() == rows);
            panel_bytes += term.weights.kind().panel_bytes(term.weights.columns());
        }
        assert_eq!(product.output.len(), rows * columns);
        let panels_per_chunk = (CHUNK_BYTES / panel_bytes).max(1);
        Job {
            terms: product.terms,
            epilogue: product.epilogue,
            output: Pieces::new(product.output),
            rows,
            columns,
            panels_per_chunk,
            chunks: product.terms[0].weights.panels().div_ceil(panels_per_chunk),
        }
    }

    fn run(&self, kernels: &Kernels, chunk: usize) {
        let first = chunk * self.panels_per_chunk;
        let panels = self.terms[0].weights.panels();
        let chunk = first..panels.min(first + self.panels_per_chunk);
        // Most products have few columns, and clearing a large tile would take longer than their chunks.
        if self.columns <= BLOCK_COLUMNS {
            self.multiply_columns(kernels, chunk, 0, &mut [[0.0; PANEL_ROWS]; BLOCK_COLUMNS]);
        } else {
            let mut tile = [[0.0; PANEL_ROWS]; TILE_COLUMNS];
            for column in (0..self.columns).step_by(TILE_COLUMNS) {
                self.multiply_columns(kernels, chunk.clone(), column, &mut tile);
            }
        }
    }

    /// Products of panels with the columns of a tile, from `first` on.
    fn multiply_columns(
        &self,
        kernels: &Kernels,
        panels: Range<usize>,
        first: usize,
        tile: &mut [[f32; PANEL_ROWS]],
    ) {
        for term in self.terms {
            let input = term.input.tile(first);
            let tile = &mut tile[..input.columns];
            for panel in panels.clone() {
                kernels.multiply_panel(term.weights, panel, &input, tile);
                self.store(kernels, panel, first, term.bias, tile);
            }
        }
    }

    fn store(
        &self,
        kernels: &Kernels,
        panel: usize,
        column: usize,
        bias: &[f32],
        tile: &mut [[f32; PANEL_ROWS]],
    ) {
        let row = panel * PANEL_ROWS;
        let rows = PANEL_ROWS.min(self.rows - row);
        if !bias.is_empty() {
            let mut lanes = [0.0; PANEL_ROWS];
            lanes[..rows].copy_from_slice(&bias[row..row + rows]);
            for values in tile.iter_mut() {
                values.iter_mut().zip(lanes).for_each(|(value, bias)| *value += bias);
            }
        }
        if self.epilogue == Epilogue::Gelu {
            kernels.gelu(tile.as_flattened_mut());
        }
        for (c, values) in tile.iter().enumerate() {
            let start = (column + c) * self.rows + row;
            // SAFETY: a panel's rows belong to one chunk and a chunk to one thread, so no other piece that is in
            // use has an element of this one.
            let output = unsafe { self.output.piece(start..start + rows) };
            let add = self.epilogue == Epilogue::Accumulate;
            match output.as_mut_array::<PANEL_ROWS>() {
                Some(output) if add => {
                    let sums: [f32; PANEL_ROWS] = std::array::from_fn(|row| output[row] + values[row]);
                    *output = sums;
                }
                Some(output) => *output = *values,
                None if add => output.iter_mut().zip(values).for_each(|(o, value)| *o += value),
                None => output.copy_from_slice(&values[..rows]),
            }
        }
    }
}
