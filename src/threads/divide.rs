//! Data in disjoint parts, one for each chunk of a job, so that code without `unsafe` can share it among threads.
//!
//! A division takes its data by mutable borrow and is itself taken by value, so each part is handed out once and none
//! overlaps another.

use std::marker::PhantomData;
use std::ops::Range;

/// Data that has been divided into parts.
///
/// # Safety
/// `parts` never changes, parts with different indices do not overlap, and a part may be made and used on any thread.
pub(crate) unsafe trait Divide: Sync + Sized {
    /// The share of one chunk of a job.
    type Part;

    /// Number of parts.
    fn parts(&self) -> usize;

    /// Part `index`.
    ///
    /// # Safety
    /// The index is below [`Divide::parts`], and this is the only call with it.
    unsafe fn part(&self, index: usize) -> Self::Part;

    /// Calls `each` with every part in order, on this thread.
    fn visit(self, mut each: impl FnMut(usize, Self::Part)) {
        for index in 0..self.parts() {
            // SAFETY: `self` is consumed here, so each part is asked for once.
            each(index, unsafe { self.part(index) });
        }
    }
}

/// A slice whose disjoint pieces go to different threads.
pub(crate) struct Pieces<'a, T> {
    start: *mut T,
    length: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: a piece is a mutable borrow that another thread may have, as `T: Send` says; that the pieces are
// disjoint is promised by the callers of `piece`.
unsafe impl<T: Send> Sync for Pieces<'_, T> {}

impl<'a, T> Pieces<'a, T> {
    /// The slice is borrowed for as long as pieces of it live.
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Pieces { start: slice.as_mut_ptr(), length: slice.len(), slice: PhantomData }
    }

    /// A piece of the slice.
    ///
    /// # Safety
    /// No element of the range may be in a piece that is still in use.
    ///
    /// # Panics
    /// If the range reaches beyond the slice.
    pub(crate) unsafe fn piece(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(
            range.start <= range.end && range.end <= self.length,
            "{range:?} of {} elements",
            self.length
        );
        // SAFETY: the range lies inside the slice, which is borrowed mutably for 'a; the caller promises the rest.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

// SAFETY: the parts are numbers.
unsafe impl Divide for Range<usize> {
    type Part = usize;

    fn parts(&self) -> usize {
        self.len()
    }

    unsafe fn part(&self, index: usize) -> usize {
        self.start + index
    }
}

/// A slice in consecutive chunks of one size.
pub(crate) struct Chunks<'a, T> {
    pieces: Pieces<'a, T>,
    size: usize,
    count: usize,
}

impl<'a, T> Chunks<'a, T> {
    /// Chunks of `size` elements; the last may be shorter.
    ///
    /// # Panics
    /// If `size` is 0.
    pub(crate) fn of(slice: &'a mut [T], size: usize) -> Self {
        let count = slice.len().div_ceil(size);
        Chunks { pieces: Pieces::new(slice), size, count }
    }

    /// `count` chunks of equal size, which may be 0.
    ///
    /// # Panics
    /// If the slice has no such chunks.
    pub(crate) fn into(slice: &'a mut [T], count: usize) -> Self {
        assert!(count > 0 && slice.len().is_multiple_of(count), "{count} of {} elements", slice.len());
        let size = slice.len() / count;
        Chunks { pieces: Pieces::new(slice), size, count }
    }
}

// SAFETY: each chunk begins where the one before it ends.
unsafe impl<'a, T: Send> Divide for Chunks<'a, T> {
    type Part = &'a mut [T];

    fn parts(&self) -> usize {
        self.count
    }

    unsafe fn part(&self, index: usize) -> &'a mut [T] {
        let start = index * self.size;
        // SAFETY: no other chunk has these elements, and the caller asks for each chunk once.
        unsafe { self.pieces.piece(start..self.pieces.length.min(start + self.size)) }
    }
}

/// A matrix in consecutive ranges of whole rows, of any sizes.
pub(crate) struct Ranges<'a, T> {
    pieces: Pieces<'a, T>,
    edges: &'a [usize],
    width: usize,
}

impl<'a, T> Ranges<'a, T> {
    /// Range `i` of `matrix` (`[rows, width]`) is rows `edges[i]..edges[i + 1]`.
    ///
    /// # Panics
    /// If the edges decrease or reach beyond the matrix.
    pub(crate) fn new(matrix: &'a mut [T], edges: &'a [usize], width: usize) -> Self {
        assert!(edges.is_sorted(), "edges of ranges must not decrease");
        let end = edges.last().map_or(Some(0), |last| last.checked_mul(width));
        assert!(end.is_some_and(|end| end <= matrix.len()), "{end:?} of {} elements", matrix.len());
        Ranges { pieces: Pieces::new(matrix), edges, width }
    }
}

// SAFETY: the edges do not decrease, and nobody can change them while they are borrowed.
unsafe impl<'a, T: Send> Divide for Ranges<'a, T> {
    type Part = &'a mut [T];

    fn parts(&self) -> usize {
        self.edges.len().saturating_sub(1)
    }

    unsafe fn part(&self, index: usize) -> &'a mut [T] {
        let (start, end) = (self.edges[index] * self.width, self.edges[index + 1] * self.width);
        // SAFETY: no other range has these elements, and the caller asks for each range once.
        unsafe { self.pieces.piece(start..end) }
    }
}

/// A matrix in vertical strips of one width.
pub(crate) struct Strips<'a, T> {
    pieces: Pieces<'a, T>,
    width: usize,
    strip: usize,
}

impl<'a, T> Strips<'a, T> {
    /// Strips, `strip` elements wide, of `matrix` (`[rows, width]`); the last may be narrower.
    ///
    /// # Panics
    /// If a width is 0 or the matrix has not whole rows.
    pub(crate) fn new(matrix: &'a mut [T], width: usize, strip: usize) -> Self {
        assert!(strip > 0 && matrix.len().is_multiple_of(width), "{} elements of {width}", matrix.len());
        Strips { pieces: Pieces::new(matrix), width, strip }
    }
}

/// One vertical strip of a matrix: as many elements of each row.
pub(crate) struct Strip<'a, T> {
    /// First element of row 0.
    start: *mut T,
    rows: usize,
    stride: usize,
    width: usize,
    matrix: PhantomData<&'a mut [T]>,
}

impl<T> Strip<'_, T> {
    /// The strip's elements of row `row` of the matrix.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline]
    pub(crate) fn row(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        // SAFETY: the row exists, and no other strip has these elements of it; the strip itself is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.stride), self.width) }
    }
}

// SAFETY: strips with different indices have different columns of the matrix.
unsafe impl<'a, T: Send> Divide for Strips<'a, T> {
    type Part = Strip<'a, T>;

    fn parts(&self) -> usize {
        self.width.div_ceil(self.strip)
    }

    unsafe fn part(&self, index: usize) -> Strip<'a, T> {
        let first = index * self.strip;
        assert!(first < self.width, "strip {index} of {}", self.parts());
        Strip {
            start: self.pieces.start.wrapping_add(first),
            rows: self.pieces.length / self.width,
            stride: self.width,
            width: self.strip.min(self.width - first),
            matrix: PhantomData,
        }
    }
}

macro_rules! divide_tuple {
    ($($name:ident $index:tt),+) => {
        // SAFETY: the parts of one index are those that the members give for it.
        unsafe impl<$($name: Divide),+> Divide for ($($name,)+) {
            type Part = ($($name::Part,)+);

            /// # Panics
            /// If the members have different numbers of parts.
            fn parts(&self) -> usize {
                let parts = self.0.parts();
                $(assert_eq!(self.$index.parts(), parts, "parts of member {}", $index);)+
                parts
            }

            unsafe fn part(&self, index: usize) -> Self::Part {
                // SAFETY: the caller's promise is passed on.
                unsafe { ($(self.$index.part(index),)+) }
            }
        }
    };
}
divide_tuple!(A 0, B 1);
divide_tuple!(A 0, B 1, C 2, D 3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_in_one_part() {
        let mut data = [0; 30];
        Chunks::of(&mut data, 7).visit(|index, chunk| chunk.iter_mut().for_each(|x| *x += 1 + index));
        let expected: Vec<usize> = (0..30).map(|at| 1 + at / 7).collect();
        assert_eq!(data[..], expected);

        let mut data = [0; 30];
        Ranges::new(&mut data, &[1, 1, 4, 6], 5).visit(|index, range| range.fill(1 + index));
        let expected: Vec<usize> = (0..30).map(|at| [0, 2, 2, 2, 3, 3][at / 5]).collect();
        assert_eq!(data[..], expected);

        let mut data = [0; 30];
        Strips::new(&mut data, 10, 4).visit(|index, mut strip| {
            (0..3).for_each(|row| strip.row(row).iter_mut().for_each(|x| *x += 10 * row + index));
        });
        let expected: Vec<usize> = (0..30).map(|at| 10 * (at / 10) + at % 10 / 4).collect();
        assert_eq!(data[..], expected);
    }

    #[test]
    fn empty_data_may_have_parts() {
        let mut count = 0;
        (Chunks::into(&mut [0u8; 0], 3), 0..3).visit(|index, (chunk, number)| {
            assert!(chunk.is_empty() && index == number);
            count += 1;
        });
        assert_eq!(count, 3);
        Chunks::of(&mut [0u8; 0], 3).visit(|_, _| panic!("nothing to visit"));
    }

    #[test]
    #[should_panic(expected = "parts of member 1")]
    fn members_of_a_tuple_have_equal_numbers_of_parts() {
        (0..3, 0..2).visit(|_, _| ());
    }

    #[test]
    #[should_panic(expected = "must not decrease")]
    fn ranges_do_not_overlap() {
        Ranges::new(&mut [0; 30], &[0, 4, 3], 5).visit(|_, _| ());
    }
}
