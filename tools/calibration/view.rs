//! Borrowed matrices, which a transpose or a part of them only reads in another order.

/// A borrowed matrix: a part of another, or its transpose.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// From the first element on.
    data: &'a [f32],
    rows: usize,
    columns: usize,
    /// Distance of neighbours in a column, and in a row.
    row_stride: usize,
    column_stride: usize,
}

impl<'a> View<'a> {
    /// `[rows, columns]`, row after row.
    ///
    /// # Panics
    /// If there are fewer elements.
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> View<'a> {
        View { data: &data[..rows * columns], rows, columns, row_stride: columns, column_stride: 1 }
    }
}

impl View<'_> {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// An element.
    #[inline(always)]
    pub fn at(&self, row: usize, column: usize) -> f32 {
        self.data[row * self.row_stride + column * self.column_stride]
    }

    /// Whether the elements of a row are next to each other.
    pub fn has_whole_rows(&self) -> bool {
        self.column_stride == 1
    }

    /// A row of a view with whole rows.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.row_stride..][..self.columns]
    }

    /// Rows become columns.
    pub fn transposed(self) -> Self {
        View {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// Rows `first..first + rows`.
    pub fn rows_from(self, first: usize, rows: usize) -> Self {
        assert!(first + rows <= self.rows);
        // The first element of no rows may lie outside.
        let data = self.data.get(first * self.row_stride..).unwrap_or_default();
        View { data, rows, ..self }
    }

    /// Columns `first..first + columns`.
    pub fn columns_from(self, first: usize, columns: usize) -> Self {
        self.transposed().rows_from(first, columns).transposed()
    }
}
