//! The input of a product: columns of floats, and the same columns as int8 for quantized weights.
//!
//! Quantized columns are kept in blocks of 16, interleaved by fours: `[quad][column][4]`. What a kernel
//! broadcasts for one line of weights is then contiguous over the columns that share it. The last block is
//! as wide as it has columns, so that a single column is a plain row. AMX loads 32 consecutive inputs of each of 16
//! columns, so for it they are kept as plain rows besides.

use std::ops::Range;

use super::Kernels;
use crate::quant::{GROUP, RECORD_COLUMNS};
use crate::threads::{Crew, Pieces};

/// Columns of a block.
pub const BLOCK_COLUMNS: usize = 16;
/// Consecutive inputs of a column that lie together.
const QUAD: usize = 4;
/// Groups that one chunk of work quantizes.
const PIECE_GROUPS: usize = 32;

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
    starts: [Vec<i32>; 2],
}

/// One block of quantized columns.
#[derive(Clone, Copy)]
pub struct QuantizedBlock<'a> {
    /// Number of columns, 1 to 16.
    pub columns: usize,
    /// Groups of 32 in a column; even.
    pub groups: usize,
    /// `[groups * 8, columns, 4]`, each in -127..=127, zero beyond the width.
    pub values: &'a [i8],
    /// `[16, groups * 32]`: the values of each column, then anything; empty unless the kernels asked for it.
    pub rows: &'a [i8],
    /// `[groups, columns]`.
    pub scales: &'a [f32],
    /// `[groups, columns]`: -8 times the sum of a group, which makes sums over stored q4 weights exact.
    pub q4_starts: &'a [i32],
    /// `[groups, columns]`: -128 times the sum of a group, likewise for q8.
    pub q8_starts: &'a [i32],
}

impl QuantizedBlock<'_> {
    /// The 32 values of a group of a column.
    pub fn group(&self, column: usize, group: usize) -> [i8; GROUP] {
        let quad = |k: usize| (group * GROUP + k) / QUAD;
        std::array::from_fn(|k| self.values[(quad(k) * self.columns + column) * QUAD + k % QUAD])
    }
}

/// Where the quantizer puts one column of a block.
pub(super) struct ColumnWriter {
    values: *mut i8,
    /// Null if there are no plain rows.
    row: *mut i8,
    scales: *mut f32,
    starts: [*mut i32; 2],
    groups: usize,
    /// Columns of the block: the distance between quads, and between groups.
    stride: usize,
}

impl ColumnWriter {
    /// Groups that are still to be written.
    pub(super) fn groups(&self) -> usize {
        self.groups
    }

    /// Writes the next group.
    #[inline(always)]
    pub(super) fn put(&mut self, values: &[i8; GROUP], scale: f32, sum: i32) {
        assert!(self.groups > 0);
        self.groups -= 1;
        // SAFETY: the group exists, and `Target::write` made the writer for one column of a block that
        // has room for `groups` of them at this stride. Past the last one the pointers are not used.
        unsafe {
            for bytes in values.as_chunks::<QUAD>().0 {
                self.values.cast::<[i8; QUAD]>().write_unaligned(*bytes);
                self.values = self.values.wrapping_add(self.stride * QUAD);
            }
            if !self.row.is_null() {
                self.row.cast::<[i8; GROUP]>().write(*values);
                self.row = self.row.wrapping_add(GROUP);
            }
            self.scales.write(scale);
            self.scales = self.scales.wrapping_add(self.stride);
            for (starts, zero_point) in self.starts.iter_mut().zip([8, 128]) {
                starts.write(-zero_point * sum);
                *starts = starts.wrapping_add(self.stride);
            }
        }
    }
}

impl Activations {
    /// No columns yet, of `width` floats; `quantized` if any product with them has quantized weights.
    pub fn new(width: usize, quantized: bool) -> Self {
        Activations {
            width,
            padded: width.next_multiple_of(RECORD_COLUMNS),
            columns: 0,
            quantized,
            floats: Vec::new(),
            values: Vec::new(),
            has_rows: false,
            rows: Vec::new(),
            scales: Vec::new(),
            starts: [Vec::new(), Vec::new()],
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

    /// Bytes that `columns` columns of `width` need.
    pub fn bytes(width: usize, columns: usize, quantized: bool) -> usize {
        let padded = width.next_multiple_of(RECORD_COLUMNS);
        columns * (width * 4 + if quantized { padded + padded / GROUP * 12 } else { 0 })
    }

    /// Columns `first..first + columns` as floats, `[columns, width]`.
    pub fn floats(&self, first: usize, columns: usize) -> &[f32] {
        &self.floats[first * self.width..][..columns * self.width]
    }

    /// Block `index` of the quantized columns.
    ///
    /// # Panics
    /// If the block does not exist, or the columns were not to be quantized.
    pub fn block(&self, index: usize) -> QuantizedBlock<'_> {
        let first = index * BLOCK_COLUMNS;
        assert!(self.quantized && first < self.columns);
        let columns = BLOCK_COLUMNS.min(self.columns - first);
        let groups = self.padded / GROUP;
        let of_groups = first * groups..(first + columns) * groups;
        QuantizedBlock {
            columns,
            groups,
            values: &self.values[first * self.padded..][..columns * self.padded],
            rows: if self.has_rows {
                &self.rows[first * self.padded..][..BLOCK_COLUMNS * self.padded]
            } else {
                &[]
            },
            scales: &self.scales[of_groups.clone()],
            q4_starts: &self.starts[0][of_groups.clone()],
            q8_starts: &self.starts[1][of_groups],
        }
    }

    /// Room for the floats of `columns` columns, `[columns, width]`, to be quantized later.
    pub fn floats_mut(&mut self, columns: usize) -> &mut [f32] {
        self.columns = columns;
        grow(&mut self.floats, columns * self.width);
        &mut self.floats[..columns * self.width]
    }

    /// Sets all columns: `write(column, floats)` fills each one, in parallel, and it is quantized.
    pub fn fill(
        &mut self,
        crew: &Crew,
        kernels: &Kernels,
        columns: usize,
        write: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let target = self.target(kernels, columns);
        crew.run(columns, |column| target.fill(kernels, column, |floats| write(column, floats)));
    }

    /// [`Activations::fill`] for two at once: `write(which, column, floats)` fills each column of each.
    pub fn fill_both(
        [first, second]: [&mut Activations; 2],
        crew: &Crew,
        kernels: &Kernels,
        columns: usize,
        write: impl Fn(usize, usize, &mut [f32]) + Sync,
    ) {
        let targets = [first.target(kernels, columns), second.target(kernels, columns)];
        crew.run(2 * columns, |chunk| {
            let (which, column) = (chunk / columns, chunk % columns);
            targets[which].fill(kernels, column, |floats| write(which, column, floats));
        });
    }

    /// Quantizes the columns that were written to [`Activations::floats_mut`] of the two.
    pub fn quantize_both([first, second]: [&mut Activations; 2], crew: &Crew, kernels: &Kernels) {
        let targets = [first, second].map(|activations| activations.target(kernels, activations.columns));
        let [first, second] = &targets;
        crew.run_both(
            (first.pieces(), |piece| first.quantize(kernels, piece)),
            (second.pieces(), |piece| second.quantize(kernels, piece)),
        );
    }

    fn target(&mut self, kernels: &Kernels, columns: usize) -> Target<'_> {
        self.floats_mut(columns);
        self.has_rows = self.quantized && kernels.isa().takes_rows();
        let (width, padded, groups) = (self.width, self.padded, self.padded / GROUP);
        if self.quantized {
            grow(&mut self.values, columns * padded);
            if self.has_rows {
                grow(&mut self.rows, columns.next_multiple_of(BLOCK_COLUMNS) * padded);
            }
            grow(&mut self.scales, columns * groups);
            self.starts.iter_mut().for_each(|starts| grow(starts, columns * groups));
        }
        Target {
            width,
            groups,
            columns,
            quantized: self.quantized,
            floats: Pieces::new(&mut self.floats[..columns * width]),
            values: self.values.as_mut_ptr(),
            rows: if self.has_rows { self.rows.as_mut_ptr() } else { std::ptr::null_mut() },
            scales: self.scales.as_mut_ptr(),
            starts: self.starts.each_mut().map(|starts| starts.as_mut_ptr()),
        }
    }
}

/// The buffers of activations while threads write to them.
struct Target<'a> {
    width: usize,
    groups: usize,
    columns: usize,
    quantized: bool,
    floats: Pieces<'a, f32>,
    /// `[columns, groups * 32]`, in blocks.
    values: *mut i8,
    /// `[columns, groups * 32]`, plain; or null.
    rows: *mut i8,
    /// `[columns, groups]`, in blocks.
    scales: *mut f32,
    starts: [*mut i32; 2],
}

// SAFETY: the pointers are those of the vectors that `'a` borrows mutably, and are written to only for columns
// and groups that one thread has: see `write`.
unsafe impl Sync for Target<'_> {}

impl Target<'_> {
    /// Pieces of columns that can be quantized in parallel.
    fn pieces(&self) -> usize {
        if self.quantized { self.columns * self.groups.div_ceil(PIECE_GROUPS) } else { 0 }
    }

    fn quantize(&self, kernels: &Kernels, piece: usize) {
        let pieces = self.groups.div_ceil(PIECE_GROUPS);
        let first = piece % pieces * PIECE_GROUPS;
        self.write(kernels, piece / pieces, first..self.groups.min(first + PIECE_GROUPS), |_| ());
    }

    fn fill(&self, kernels: &Kernels, column: usize, write: impl FnOnce(&mut [f32])) {
        self.write(kernels, column, 0..self.groups, write);
    }

    /// Lets `write` set the floats of some groups of a column, and quantizes them. A chunk of parallel work calls
    /// this for groups that no other chunk has.
    fn write(&self, kernels: &Kernels, column: usize, groups: Range<usize>, write: impl FnOnce(&mut [f32])) {
        let edge = |group: usize| column * self.width + self.width.min(group * GROUP);
        // SAFETY: no other chunk has these groups.
        let floats = unsafe { self.floats.piece(edge(groups.start)..edge(groups.end)) };
        write(floats);
        if !self.quantized {
            return;
        }
        let block = column - column % BLOCK_COLUMNS;
        let stride = BLOCK_COLUMNS.min(self.columns - block);
        let lane = column - block;
        let group = block * self.groups + groups.start * stride + lane;
        // SAFETY: `target` grew the buffers to `columns` columns. A block of columns begins where plain rows
        // would; this column's quads and groups begin at its lane, and no other column has that lane.
        let mut writer = unsafe {
            ColumnWriter {
                values: self.values.add(group * GROUP - lane * (GROUP - QUAD)),
                row: if self.rows.is_null() {
                    self.rows
                } else {
                    self.rows.add((column * self.groups + groups.start) * GROUP)
                },
                scales: self.scales.add(group),
                starts: self.starts.map(|starts| starts.add(group)),
                groups: groups.len(),
                stride,
            }
        };
        kernels.quantize(floats, &mut writer);
    }
}

/// Makes a buffer at least `length` long.
fn grow<T: Clone + Default>(buffer: &mut Vec<T>, length: usize) {
    if buffer.len() < length {
        buffer.resize(length, T::default());
    }
}
