//! Matrix products in parallel: panels go to threads in chunks, a tile of outputs at a time.

use std::ops::Range;

use super::activations::Activations;
use super::operands::{INPUT_COLUMNS, TILE_COLUMNS};
use super::pass::Pass;
use super::table::{Activation, Kernels};
use crate::quant::{PANEL_ROWS, Weights};
use crate::threads::{Strip, Strips};

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

/// The last step before a product is stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Epilogue {
    /// Nothing.
    Store,
    /// An activation function.
    Activate(Activation),
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

/// A product without its output, whose chunks are panels and so strips of the output.
struct Job<'a> {
    kernels: &'a Kernels,
    terms: &'a [Term<'a>],
    epilogue: Epilogue,
    rows: usize,
    columns: usize,
    panels_per_chunk: usize,
}

/// Computes up to two independent products in one parallel phase.
///
/// # Panics
/// If shapes disagree.
pub fn multiply(pass: Pass<'_>, first: Product<'_>, second: Option<Product<'_>>) {
    let (strips, first) = Job::new(pass.kernels, first);
    let first = |chunk, mut strip: Strip<'_, f32>| first.run(chunk, &mut strip);
    let Some(second) = second else {
        return pass.region.run_parts(strips, first);
    };
    let (second_strips, second) = Job::new(pass.kernels, second);
    let second = |chunk, mut strip: Strip<'_, f32>| second.run(chunk, &mut strip);
    pass.region.run_both((strips, first), (second_strips, second));
}

impl<'a> Job<'a> {
    /// The output in strips, and what fills a strip.
    fn new(kernels: &'a Kernels, product: Product<'a>) -> (Strips<'a, f32>, Self) {
        let Product { terms, epilogue, output } = product;
        let (rows, columns) = (terms[0].weights.rows(), terms[0].input.columns());
        let mut panel_bytes = 0;
        for term in terms {
            assert!(term.weights.rows() == rows && term.input.columns() == columns);
            assert!(term.bias.is_empty() || term.bias.len() == rows);
            panel_bytes += term.weights.kind().panel_bytes(term.weights.width());
        }
        assert_eq!(output.len(), rows * columns);
        let panels_per_chunk = (CHUNK_BYTES / panel_bytes).max(1);
        let strips = Strips::new(output, rows, panels_per_chunk * PANEL_ROWS);
        (strips, Job { kernels, terms, epilogue, rows, columns, panels_per_chunk })
    }

    fn run(&self, chunk: usize, output: &mut Strip<'_, f32>) {
        let first = chunk * self.panels_per_chunk;
        let panels = first..self.terms[0].weights.panels().min(first + self.panels_per_chunk);
        // Most products have few columns, and clearing a large tile would take longer than their chunks.
        if self.columns <= TILE_COLUMNS {
            self.multiply_columns(panels, 0, &mut [[0.0; PANEL_ROWS]; TILE_COLUMNS], output);
        } else {
            let mut tile = [[0.0; PANEL_ROWS]; INPUT_COLUMNS];
            for column in (0..self.columns).step_by(INPUT_COLUMNS) {
                self.multiply_columns(panels.clone(), column, &mut tile, output);
            }
        }
    }

    /// Products of a chunk's panels with the columns of a tile, from `first` on.
    fn multiply_columns(
        &self,
        panels: Range<usize>,
        first: usize,
        tile: &mut [[f32; PANEL_ROWS]],
        output: &mut Strip<'_, f32>,
    ) {
        for term in self.terms {
            let input = term.input.panel_input(first);
            let tile = &mut tile[..input.columns];
            for (at, panel) in panels.clone().enumerate() {
                self.kernels.multiply_panel(term.weights, panel, &input, tile);
                let row = panel * PANEL_ROWS;
                let rows = PANEL_ROWS.min(self.rows - row);
                if !term.bias.is_empty() {
                    add_bias(&term.bias[row..row + rows], tile);
                }
                if let Epilogue::Activate(activation) = self.epilogue {
                    self.kernels.activate(activation, tile.as_flattened_mut());
                }
                for (column, values) in tile.iter().enumerate() {
                    let output = &mut output.row(first + column)[at * PANEL_ROWS..][..rows];
                    self.store(values, output);
                }
            }
        }
    }

    /// Stores one column of a panel's products; the last panel may have fewer rows.
    #[inline]
    fn store(&self, values: &[f32; PANEL_ROWS], output: &mut [f32]) {
        let add = self.epilogue == Epilogue::Accumulate;
        match output.as_mut_array::<PANEL_ROWS>() {
            Some(output) if add => {
                let sums: [f32; PANEL_ROWS] = std::array::from_fn(|row| output[row] + values[row]);
                *output = sums;
            }
            Some(output) => *output = *values,
            None if add => output.iter_mut().zip(values).for_each(|(o, value)| *o += value),
            None => output.copy_from_slice(&values[..output.len()]),
        }
    }
}

/// Adds the biases of a panel's rows to each column of a tile.
fn add_bias(bias: &[f32], tile: &mut [[f32; PANEL_ROWS]]) {
    let mut lanes = [0.0; PANEL_ROWS];
    lanes[..bias.len()].copy_from_slice(bias);
    for values in tile {
        values.iter_mut().zip(lanes).for_each(|(value, bias)| *value += bias);
    }
}
