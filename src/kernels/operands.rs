//! The data that a kernel is given: tiles of quantized columns, the columns that meet a panel at a time, and the
//! queries, keys and values of attention.

use std::ops::Range;

use crate::quant::{GROUP, SPAN};

/// Floats that the generic routines handle at once; head dimensions in the cache are padded to it.
pub const LANES: usize = 16;
/// Queries that share each pass over keys and values.
pub const QUERIES: usize = 4;
/// Most columns of a tile.
pub(super) const TILE_COLUMNS: usize = 16;
/// Most tiles that meet a panel at a time.
pub(super) const INPUT_TILES: usize = 8;
/// Most columns that meet a panel at a time.
pub(super) const INPUT_COLUMNS: usize = INPUT_TILES * TILE_COLUMNS;
/// Consecutive inputs of a column that lie together.
pub(super) const QUAD: usize = 4;
/// Groups of a span, which shares a scale.
pub(super) const SPAN_GROUPS: usize = SPAN / GROUP;

/// Up to 16 quantized columns, interleaved so that what a kernel broadcasts for one line of weights is contiguous.
#[derive(Clone, Copy)]
pub struct ColumnTile<'a> {
    /// Number of columns, 1 to 16.
    pub columns: usize,
    /// Spans of 128 inputs in a column; a span has 4 groups of 32.
    pub spans: usize,
    /// `[spans * 32, columns, 4]`, each in -127..=127, zero beyond the width.
    pub values: &'a [i8],
    /// `[16, spans * 128]`: the values of each column, then anything; empty unless the kernels asked for it.
    pub rows: &'a [i8],
    /// `[spans, columns]`.
    pub scales: &'a [f32],
    /// `[spans, columns]`: -128 times the sum of a span, which makes sums over weights with 128 added exact.
    pub span_starts: &'a [i32],
    /// `[spans * 4, columns]`: -128 times the sum of a group.
    pub group_starts: &'a [i32],
    /// `[spans * 2, columns]`: minus the sums of two groups.
    pub group_pairs: &'a [[i16; 2]],
}

impl ColumnTile<'_> {
    /// No columns.
    pub(super) const EMPTY: Self = ColumnTile {
        columns: 0,
        spans: 0,
        values: &[],
        rows: &[],
        scales: &[],
        span_starts: &[],
        group_starts: &[],
        group_pairs: &[],
    };

    /// Value `k` of a column.
    pub fn value(&self, column: usize, k: usize) -> i8 {
        self.values[(k / QUAD * self.columns + column) * QUAD + k % QUAD]
    }
}

/// The columns that meet a panel at a time.
pub struct PanelInput<'a> {
    /// Floats of a column.
    pub(super) width: usize,
    /// Number of columns.
    pub(super) columns: usize,
    /// `[columns, width]`.
    pub(super) floats: &'a [f32],
    /// The same columns quantized; those beyond `columns` are empty.
    pub(super) tiles: [ColumnTile<'a>; INPUT_TILES],
}

impl<'a> PanelInput<'a> {
    /// The same columns quantized.
    pub(super) fn tiles(&self) -> &[ColumnTile<'a>] {
        &self.tiles[..self.columns.div_ceil(TILE_COLUMNS)]
    }
}

/// Where the quantizer puts one column of a tile.
pub(super) struct ColumnWriter {
    values: *mut i8,
    /// Null if there are no plain rows.
    row: *mut i8,
    scales: *mut f32,
    span_starts: *mut i32,
    group_starts: *mut i32,
    group_pairs: *mut [i16; 2],
    spans: usize,
    /// Columns of the tile: the distance between quads, between groups, and between spans.
    stride: usize,
}

impl ColumnWriter {
    /// A writer of `spans` spans from the addresses of a column's first items on, in a tile of `stride` columns; `starts`
    /// are those of spans and of groups, and `row` may be null.
    ///
    /// # Safety
    /// Every buffer has room for as many spans at this stride, and nobody else uses this column of it meanwhile.
    pub(super) unsafe fn new(
        values: *mut i8,
        row: *mut i8,
        scales: *mut f32,
        starts: [*mut i32; 2],
        group_pairs: *mut [i16; 2],
        spans: usize,
        stride: usize,
    ) -> Self {
        let [span_starts, group_starts] = starts;
        ColumnWriter { values, row, scales, span_starts, group_starts, group_pairs, spans, stride }
    }

    /// Spans that are still to be written.
    pub(super) fn spans(&self) -> usize {
        self.spans
    }

    /// Writes the next span, with the sum of each of its groups.
    #[inline(always)]
    pub(super) fn put(&mut self, values: &[i8; SPAN], scale: f32, sums: [i32; SPAN_GROUPS]) {
        assert!(self.spans > 0);
        self.spans -= 1;
        // SAFETY: the span exists, so there is room for it by the promise of `new`. After the last one the pointers are
        // not used.
        unsafe {
            for bytes in values.as_chunks::<QUAD>().0 {
                self.values.cast::<[i8; QUAD]>().write_unaligned(*bytes);
                self.values = self.values.wrapping_add(self.stride * QUAD);
            }
            if !self.row.is_null() {
                self.row.cast::<[i8; SPAN]>().write(*values);
                self.row = self.row.wrapping_add(SPAN);
            }
            self.scales.write(scale);
            self.scales = self.scales.wrapping_add(self.stride);
            self.span_starts.write(-128 * sums.iter().sum::<i32>());
            self.span_starts = self.span_starts.wrapping_add(self.stride);
            for sum in sums {
                self.group_starts.write(-128 * sum);
                self.group_starts = self.group_starts.wrapping_add(self.stride);
            }
            for pair in sums.as_chunks::<2>().0 {
                self.group_pairs.write(pair.map(|sum| -sum as i16));
                self.group_pairs = self.group_pairs.wrapping_add(self.stride);
            }
        }
    }
}

/// A type in which keys and values are stored.
pub trait Stored: Copy + Default + Send + Sync + 'static {
    /// Scales of a position: none, or one for the key and one for the value.
    const SCALES: usize = 0;
}

impl Stored for f32 {}

/// The bits of an f16.
impl Stored for u16 {}

impl Stored for i8 {
    const SCALES: usize = 2;
}

/// Consecutive positions in consecutive slots.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Their slots.
    pub slots: Range<usize>,
    /// The first of them.
    pub position: u64,
}

/// The slots that queries at consecutive positions see between them.
#[derive(Clone, Debug, PartialEq)]
pub struct Visible {
    /// Slots of pinned positions: all queries see them.
    pub sinks: Range<usize>,
    /// The windows, in two runs where the ring wraps.
    pub window: [Run; 2],
}

impl Visible {
    /// Number of slots.
    pub(super) fn slots(&self) -> usize {
        self.sinks.len() + self.window.iter().map(|run| run.slots.len()).sum::<usize>()
    }
}

/// Up to four queries at consecutive positions, and what they see.
pub struct Attention<'a, E> {
    /// Dimensions of a head, a multiple of 16.
    pub width: usize,
    /// `[queries, width]`, rotated at their own positions.
    pub queries: &'a [f32],
    /// `[queries, width]`, rotated at the positions where they meet the sinks.
    pub sink_queries: &'a [f32],
    /// Keys of a head, `[slots / 16, width, 16]`.
    pub keys: &'a [E],
    /// Values of a head, `[slots, width]`.
    pub values: &'a [E],
    /// Scales of a head, `[slots / 16, key | value, 16]` if the type has scales, else empty.
    pub scales: &'a [f32],
    /// The slots that the queries see between them.
    pub visible: Visible,
    /// For each query, the first position of its window, and its own, which is the last that it sees.
    pub windows: [(u64, u64); QUERIES],
    /// Factor of the scores.
    pub scale: f32,
}

/// One query and the rows that it attends to, which are parts of longer rows.
pub struct RowAttention<'a> {
    /// `[width]`.
    pub query: &'a [f32],
    /// Row `i` is the `width` floats from `i * stride` on.
    pub keys: &'a [f32],
    /// As the keys.
    pub values: &'a [f32],
    /// Floats from one row to the next.
    pub stride: usize,
    /// Number of rows.
    pub rows: usize,
    /// Added to the scores, `[rows]`, or empty; minus infinity where the query does not see the row, which it must do
    /// somewhere.
    pub bias: &'a [f32],
    /// Factor of the products of query and keys.
    pub scale: f32,
}

/// Floats of scratch for queries that see `slots` slots between them.
pub fn score_floats(slots: usize) -> usize {
    // Each of the three runs may begin and end inside a slot group.
    slots.saturating_add(7 * LANES).saturating_mul(QUERIES)
}
