//! Matrix products in parallel: panels go to threads in chunks, a tile of outputs at a time.

use super::{Activations, BLOCK_COLUMNS, Kernels};
use crate::quant::{PANEL_ROWS, Weights};
use crate::threads::{Crew, SendPointer};

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

/// A product with its output as an address, so that threads can write disjoint parts of it.
struct Job<'a> {
    terms: &'a [Term<'a>],
    epilogue: Epilogue,
    output: SendPointer<f32>,
    rows: usize,
    columns: usize,
    panels_per_chunk: usize,
    chunks: usize,
}

/// Computes up to two independent products in one parallel phase.
///
/// # Panics
/// If shapes disagree.
pub fn multiply(crew: &Crew, kernels: &Kernels, first: Product<'_>, second: Option<Product<'_>>) {
    let first = Job::new(first);
    let second = second.map(Job::new);
    let chunks = first.chunks + second.as_ref().map_or(0, |job| job.chunks);
    crew.run(chunks, |chunk| match &second {
        Some(second) if chunk >= first.chunks => second.run(kernels, chunk - first.chunks),
        _ => first.run(kernels, chunk),
    });
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
            output: SendPointer(product.output.as_mut_ptr()),
            rows,
            columns,
            panels_per_chunk,
            chunks: product.terms[0].weights.panels().div_ceil(panels_per_chunk),
        }
    }

    fn run(&self, kernels: &Kernels, chunk: usize) {
        let first = chunk * self.panels_per_chunk;
        let panels = self.terms[0].weights.panels();
        let mut tile = [[0.0; PANEL_ROWS]; BLOCK_COLUMNS];
        for panel in first..panels.min(first + self.panels_per_chunk) {
            for block in 0..self.columns.div_ceil(BLOCK_COLUMNS) {
                let column = block * BLOCK_COLUMNS;
                let tile = &mut tile[..BLOCK_COLUMNS.min(self.columns - column)];
                for term in self.terms {
                    kernels.multiply_panel(term.weights, panel, term.input, block, tile);
                    self.store(kernels, panel, column, term.bias, tile);
                }
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
        let bias = if bias.is_empty() { bias } else { &bias[row..row + rows] };
        for (c, values) in tile.iter_mut().enumerate() {
            // SAFETY: `row + rows <= self.rows` and `column + c < self.columns`, so the piece lies inside the
            // output, whose length `new` checked and which is borrowed mutably while the job lives. A panel
            // belongs to one chunk and a chunk to one thread, so no other piece overlaps it.
            let output = unsafe {
                let start = (column + c) * self.rows + row;
                std::slice::from_raw_parts_mut(self.output.0.add(start), rows)
            };
            let values = &mut values[..rows];
            for (value, bias) in values.iter_mut().zip(bias) {
                *value += bias;
            }
            match self.epilogue {
                Epilogue::Store => output.copy_from_slice(values),
                Epilogue::Gelu => {
                    kernels.gelu(values);
                    output.copy_from_slice(values);
                }
                Epilogue::Accumulate => {
                    for (output, value) in output.iter_mut().zip(values) {
                        *output += *value;
                    }
                }
            }
        }
    }
}
