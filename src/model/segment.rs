//! The columns of one pass, segment by segment: a segment is the part that belongs to one sequence.

#![forbid(unsafe_code)]

use crate::cache::Cache;

/// Consecutive columns that belong to one sequence, and follow what its cache holds.
pub struct Segment<'c> {
    pub(super) columns: usize,
    /// Index of its first column among those of all segments.
    pub(super) first: usize,
    /// Number of its last columns that are wanted: the output of the last layer.
    pub(super) wanted: usize,
    /// Tokens of padding that its first block begins with, which an encoder masks.
    pub(super) padding: usize,
    pub(super) cache: &'c mut Cache,
    /// What a T5 decoder attends to: the context of its block, opened.
    pub(super) opened: &'c [f32],
}

/// Which columns a layer computes all of; of the others it computes only keys and values.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// All: the next layer reads them.
    All,
    /// Those that are wanted, in the last layer.
    Wanted,
}

impl<'c> Segment<'c> {
    /// The next `columns` columns of the sequence that `cache` belongs to.
    ///
    /// # Panics
    /// If the cache has no room for that many at once.
    pub fn new(columns: usize, cache: &'c mut Cache) -> Self {
        assert!(columns <= cache.room(), "{columns} columns are more than the cache has room for");
        Segment { columns, first: 0, wanted: columns, padding: 0, cache, opened: &[] }
    }

    /// The same, if only the last column's output is wanted. The others' keys and values are all that the last
    /// layer computes of them.
    pub fn ending(columns: usize, cache: &'c mut Cache) -> Self {
        Segment { wanted: columns.min(1), ..Segment::new(columns, cache) }
    }

    /// The same, if the first block of the segment begins with tokens of padding that are no part of the text.
    pub fn padded(self, padding: usize) -> Self {
        Segment { padding, ..self }
    }

    /// The same in a block that was opened, `[opened_floats]`.
    pub fn opened(self, opened: &'c [f32]) -> Self {
        Segment { opened, ..self }
    }

    /// Columns that are kept: the segment's last.
    pub(super) fn kept(&self, kept: Kept) -> usize {
        match kept {
            Kept::All => self.columns,
            Kept::Wanted => self.wanted,
        }
    }
}

/// Columns of all segments that are kept.
pub(super) fn kept_columns(segments: &[Segment<'_>], kept: Kept) -> usize {
    segments.iter().map(|segment| segment.kept(kept)).sum()
}

/// Moves the wanted columns of the residual stream `x` (`[columns, hidden]`) to its start.
pub(super) fn keep_wanted(x: &mut [f32], hidden: usize, segments: &[Segment<'_>]) {
    let mut target = 0;
    for segment in segments {
        let end = segment.first + segment.columns;
        x.copy_within((end - segment.wanted) * hidden..end * hidden, target);
        target += segment.wanted * hidden;
    }
}
