//! The input of a product: columns of floats, and the same columns as int8 for quantized weights.
//!
//! Quantized columns are kept in tiles of 16, interleaved by fours: `[quad][column][4]`. The bytes that a kernel
//! broadcasts for one line of weights are then contiguous over the columns that share it. The last tile is
//! as wide as it has columns, so that a single column is a plain row. AMX loads 32 consecutive inputs of each of 16
//! columns, so for it they are kept as plain rows besides.

use std::ops::Range;

use super::isa::Isa;
use super::operands::{
    ColumnTile, ColumnWriter, INPUT_COLUMNS, INPUT_TILES, PanelInput, QUAD, SPAN_GROUPS, TILE_COLUMNS,
};
use super::pass::Pass;
use super::table::Kernels;
use crate::error::Result;
use crate::memory::reserve;
use crate::quant::{GROUP, SPAN};
use crate::threads::Pieces;

/// Spans that one chunk of work quantizes.
const PIECE_SPANS: usize = 8;
/// Name of the phases that make the inputs of products.
const LABEL: &str = "norms and quantization";

/// Columns of activations `[columns, width]`, kept as floats and, if asked for, quantized.
///
/// Buffers grow to the largest number of columns ever asked for, then stay.
pub struct Activations {
    width: usize,
    padded: usize,
    columns: usize,
    quantized: bool,
    floats: Vec<f32>,
    values: Vec<i8>,
    /// Whether the columns are in `rows` too.
    has_rows: bool,
    rows: Vec<i8>,
    scales: Vec<f32>,
    span_starts: Vec<i32>,
    group_starts: Vec<i32>,
    group_pairs: Vec<[i16; 2]>,
}

impl Activations {
    /// No columns yet, of `width` floats; `quantized` if any product with them has quantized weights.
    pub fn new(width: usize, quantized: bool) -> Self {
        Activations {
            width,
            padded: width.next_multiple_of(SPAN),
            columns: 0,
            quantized,
            floats: Vec::new(),
            values: Vec::new(),
            has_rows: false,
            rows: Vec::new(),
            scales: Vec::new(),
            span_starts: Vec::new(),
            group_starts: Vec::new(),
            group_pairs: Vec::new(),
        }
    }

    /// Floats of a column.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes that `columns` columns of `width` need, `usize::MAX` if they are more.
    pub fn bytes(width: usize, columns: usize, quantized: bool) -> usize {
        let padded = width.next_multiple_of(SPAN);
        let rows = if quantized && Isa::chosen_takes_rows() {
            columns.checked_next_multiple_of(TILE_COLUMNS).unwrap_or(usize::MAX)
        } else {
            0
        };
        let quantized = if quantized { padded + padded / SPAN * 16 + padded / GROUP * 4 } else { 0 };
        columns.saturating_mul(width * 4 + quantized).saturating_add(rows.saturating_mul(padded))
    }

    /// Makes room for `columns` columns: to set as many takes no memory then.
    ///
    /// # Errors
    /// If it cannot be allocated.
    pub(crate) fn reserve(&mut self, kernels: &Kernels, columns: usize) -> Result<()> {
        let what = "activations";
        reserve(&mut self.floats, columns.saturating_mul(self.width), what)?;
        if self.quantized {
            let spans = columns.saturating_mul(self.padded / SPAN);
            reserve(&mut self.values, columns.saturating_mul(self.padded), what)?;
            if kernels.isa().takes_rows() {
                let columns = columns.checked_next_multiple_of(TILE_COLUMNS).unwrap_or(usize::MAX);
                reserve(&mut self.rows, columns.saturating_mul(self.padded), what)?;
            }
            reserve(&mut self.scales, spans, what)?;
            reserve(&mut self.span_starts, spans, what)?;
            reserve(&mut self.group_starts, spans.saturating_mul(SPAN_GROUPS), what)?;
            reserve(&mut self.group_pairs, spans.saturating_mul(SPAN_GROUPS / 2), what)?;
        }
        Ok(())
    }

    /// The columns from `first` on, a multiple of [`TILE_COLUMNS`]: the rest of them or [`INPUT_COLUMNS`].
    ///
    /// # Panics
    /// If there are none.
    pub(super) fn panel_input(&self, first: usize) -> PanelInput<'_> {
        assert!(first < self.columns && first.is_multiple_of(TILE_COLUMNS));
        let columns = INPUT_COLUMNS.min(self.columns - first);
        let mut tiles = [ColumnTile::EMPTY; INPUT_TILES];
        if self.quantized {
            for (at, tile) in tiles[..columns.div_ceil(TILE_COLUMNS)].iter_mut().enumerate() {
                *tile = self.column_tile(first / TILE_COLUMNS + at);
            }
        }
        let floats = &self.floats[first * self.width..][..columns * self.width];
        PanelInput { width: self.width, columns, floats, tiles }
    }

    /// Tile `index` of the quantized columns.
    ///
    /// # Panics
    /// If the tile does not exist, or the columns were not to be quantized.
    pub fn column_tile(&self, index: usize) -> ColumnTile<'_> {
        let first = index * TILE_COLUMNS;
        assert!(self.quantized && first < self.columns);
        let columns = TILE_COLUMNS.min(self.columns - first);
        let spans = self.padded / SPAN;
        let of_spans = first * spans..(first + columns) * spans;
        let of_pairs = of_spans.start * SPAN_GROUPS / 2..of_spans.end * SPAN_GROUPS / 2;
        let of_groups = of_spans.start * SPAN_GROUPS..of_spans.end * SPAN_GROUPS;
        ColumnTile {
            columns,
            spans,
            values: &self.values[first * self.padded..][..columns * self.padded],
            rows: if self.has_rows {
                &self.rows[first * self.padded..][..TILE_COLUMNS * self.padded]
            } else {
                &[]
            },
            scales: &self.scales[of_spans.clone()],
            span_starts: &self.span_starts[of_spans],
            group_starts: &self.group_starts[of_groups],
            group_pairs: &self.group_pairs[of_pairs],
        }
    }

    /// Room for the floats of `columns` columns, `[columns, width]`, to be quantized later.
    pub fn floats_mut(&mut self, columns: usize) -> &mut [f32] {
        self.columns = columns;
        grow(&mut self.floats, columns * self.width);
        &mut self.floats[..columns * self.width]
    }

    /// Sets all columns: `write(column, floats)` fills each one, in parallel, and it is quantized.
    pub fn fill(&mut self, pass: Pass<'_>, columns: usize, write: impl Fn(usize, &mut [f32]) + Sync) {
        let target = self.target(pass.kernels, columns);
        pass.region.label(LABEL);
        pass.region.run(columns, |column| {
            target.fill(pass.kernels, column, |floats| write(column, floats));
        });
    }

    /// [`Activations::fill`] for two at once: `write(which, column, floats)` fills each column of each.
    pub fn fill_both(
        both: [&mut Activations; 2],
        pass: Pass<'_>,
        columns: usize,
        write: impl Fn(usize, usize, &mut [f32]) + Sync,
    ) {
        let kernels = pass.kernels;
        let targets = both.map(|activations| activations.target(kernels, columns));
        let [first, second] = &targets;
        pass.region.label(LABEL);
        pass.region.run_both(
            (0..columns, |_, column| first.fill(kernels, column, |floats| write(0, column, floats))),
            (0..columns, |_, column| second.fill(kernels, column, |floats| write(1, column, floats))),
        );
    }

    /// All columns as floats, `[columns, width]`.
    pub fn floats(&self) -> &[f32] {
        &self.floats[..self.columns * self.width]
    }

    /// Quantizes the columns that were written to [`Activations::floats_mut`].
    pub fn quantize(&mut self, pass: Pass<'_>) {
        let target = self.target(pass.kernels, self.columns);
        pass.region.label(LABEL);
        pass.region.run(target.pieces(), |piece| target.quantize(pass.kernels, piece));
    }

    /// [`Activations::quantize`] for two at once.
    pub fn quantize_both(both: [&mut Activations; 2], pass: Pass<'_>) {
        let kernels = pass.kernels;
        let targets = both.map(|activations| activations.target(kernels, activations.columns));
        let [first, second] = &targets;
        pass.region.label(LABEL);
        pass.region.run_both(
            (0..first.pieces(), |_, piece| first.quantize(kernels, piece)),
            (0..second.pieces(), |_, piece| second.quantize(kernels, piece)),
        );
    }

    fn target(&mut self, kernels: &Kernels, columns: usize) -> Target<'_> {
        self.floats_mut(columns);
        self.has_rows = self.quantized && kernels.isa().takes_rows();
        let (width, padded, spans) = (self.width, self.padded, self.padded / SPAN);
        if self.quantized {
            grow(&mut self.values, columns * padded);
            if self.has_rows {
                grow(&mut self.rows, columns.next_multiple_of(TILE_COLUMNS) * padded);
            }
            grow(&mut self.scales, columns * spans);
            grow(&mut self.span_starts, columns * spans);
            grow(&mut self.group_starts, columns * spans * SPAN_GROUPS);
            grow(&mut self.group_pairs, columns * spans * SPAN_GROUPS / 2);
        }
        Target {
            width,
            spans,
            columns,
            quantized: self.quantized,
            floats: Pieces::new(&mut self.floats[..columns * width]),
            values: self.values.as_mut_ptr(),
            rows: if self.has_rows { self.rows.as_mut_ptr() } else { std::ptr::null_mut() },
            scales: self.scales.as_mut_ptr(),
            span_starts: self.span_starts.as_mut_ptr(),
            group_starts: self.group_starts.as_mut_ptr(),
            group_pairs: self.group_pairs.as_mut_ptr(),
        }
    }
}

/// The buffers of activations while threads write to them.
struct Target<'a> {
    width: usize,
    spans: usize,
    columns: usize,
    quantized: bool,
    floats: Pieces<'a, f32>,
    /// `[columns, spans * 128]`, in tiles.
    values: *mut i8,
    /// `[columns, spans * 128]`, plain; or null.
    rows: *mut i8,
    /// `[columns, spans]`, in tiles.
    scales: *mut f32,
    span_starts: *mut i32,
    /// `[columns, spans * 4]`, in tiles.
    group_starts: *mut i32,
    /// `[columns, spans * 2]`, in tiles.
    group_pairs: *mut [i16; 2],
}

// SAFETY: the pointers are those of the vectors that `'a` borrows mutably, and are written to only for columns
// and spans that one thread has: see `write`.
unsafe impl Sync for Target<'_> {}

impl Target<'_> {
    /// Pieces of columns that can be quantized in parallel.
    fn pieces(&self) -> usize {
        if self.quantized { self.columns * self.spans.div_ceil(PIECE_SPANS) } else { 0 }
    }

    fn quantize(&self, kernels: &Kernels, piece: usize) {
        let pieces = self.spans.div_ceil(PIECE_SPANS);
        let first = piece % pieces * PIECE_SPANS;
        self.write(kernels, piece / pieces, first..self.spans.min(first + PIECE_SPANS), |_| ());
    }

    fn fill(&self, kernels: &Kernels, column: usize, write: impl FnOnce(&mut [f32])) {
        self.write(kernels, column, 0..self.spans, write);
    }

    /// Lets `write` set the floats of some spans of a column, and quantizes them. A chunk of parallel work calls
    /// this for spans that no other chunk has.
    fn write(&self, kernels: &Kernels, column: usize, spans: Range<usize>, write: impl FnOnce(&mut [f32])) {
        let edge = |span: usize| column * self.width + self.width.min(span * SPAN);
        // SAFETY: no other chunk has these spans.
        let floats = unsafe { self.floats.piece(edge(spans.start)..edge(spans.end)) };
        write(floats);
        if !self.quantized {
            return;
        }
        let first = column - column % TILE_COLUMNS;
        let stride = TILE_COLUMNS.min(self.columns - first);
        let slot = column - first;
        // The first span, pair of groups and group of this column.
        let [span, pair, group] =
            [1, SPAN_GROUPS / 2, SPAN_GROUPS].map(|n| n * (first * self.spans + spans.start * stride) + slot);
        // SAFETY: `target` grew the buffers to `columns` columns, and plain rows are as long or null. A tile begins where
        // plain rows would; this column's quads, groups and spans begin at its slot, and no other column has that slot.
        let mut writer = unsafe {
            let row = if self.rows.is_null() {
                self.rows
            } else {
                self.rows.add((column * self.spans + spans.start) * SPAN)
            };
            ColumnWriter::new(
                self.values.add(span * SPAN - slot * (SPAN - QUAD)),
                row,
                self.scales.add(span),
                [self.span_starts.add(span), self.group_starts.add(group)],
                self.group_pairs.add(pair),
                spans.len(),
                stride,
            )
        };
        kernels.quantize(floats, &mut writer);
    }
}

/// Makes a buffer at least `length` long. Passes have reserved the room for it.
fn grow<T: Clone + Default>(buffer: &mut Vec<T>, length: usize) {
    if buffer.len() < length {
        buffer.resize(length, T::default());
    }
}
