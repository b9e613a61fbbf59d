//! The input of a product: columns of floats, and the same columns as int8 for quantized weights.

use super::Kernels;
use crate::quant::{GROUP, RECORD_COLUMNS};
use crate::threads::{Crew, SendPointer};

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
    scales: Vec<f32>,
    sums: Vec<i32>,
}

/// A view of quantized columns.
pub struct QuantizedColumns<'a> {
    /// Number of columns.
    pub columns: usize,
    /// Width, rounded up to whole records of 64.
    pub padded: usize,
    /// `[columns, padded]`, each in -127..=127, zero beyond the width.
    pub values: &'a [i8],
    /// `[columns, padded / 32]`.
    pub scales: &'a [f32],
    /// `[columns, padded / 32]`: the sums of the values.
    pub sums: &'a [i32],
}

impl<'a> QuantizedColumns<'a> {
    /// The groups of a column: 32 values and their scale.
    pub fn groups(&self, column: usize) -> impl Iterator<Item = (&'a [i8], f32)> + use<'a> {
        let values = &self.values[column * self.padded..][..self.padded];
        let groups = self.padded / GROUP;
        let scales = &self.scales[column * groups..][..groups];
        values.chunks_exact(GROUP).zip(scales.iter().copied())
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
            scales: Vec::new(),
            sums: Vec::new(),
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
        columns * (width * 4 + if quantized { padded + padded / GROUP * 8 } else { 0 })
    }

    /// Column `column` as floats.
    pub fn column(&self, column: usize) -> &[f32] {
        &self.floats[column * self.width..][..self.width]
    }

    /// Columns `first..first + columns` as floats, `[columns, width]`.
    pub fn floats(&self, first: usize, columns: usize) -> &[f32] {
        &self.floats[first * self.width..][..columns * self.width]
    }

    /// Columns `first..first + columns`, quantized.
    ///
    /// # Panics
    /// If the columns do not exist, or were not to be quantized.
    pub fn quantized(&self, first: usize, columns: usize) -> QuantizedColumns<'_> {
        assert!(self.quantized && first + columns <= self.columns);
        let (padded, groups) = (self.padded, self.padded / GROUP);
        QuantizedColumns {
            columns,
            padded,
            values: &self.values[first * padded..][..columns * padded],
            scales: &self.scales[first * groups..][..columns * groups],
            sums: &self.sums[first * groups..][..columns * groups],
        }
    }

    /// Sets all columns: `write(column, floats)` fills each one, in parallel, and it is quantized.
    pub fn fill(
        &mut self,
        crew: &Crew,
        kernels: &Kernels,
        columns: usize,
        write: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let (width, padded, groups) = (self.width, self.padded, self.padded / GROUP);
        self.columns = columns;
        grow(&mut self.floats, columns * width);
        if !self.quantized {
            return crew.split(&mut self.floats[..columns * width], width, write);
        }
        grow(&mut self.values, columns * padded);
        grow(&mut self.scales, columns * groups);
        grow(&mut self.sums, columns * groups);
        let floats = SendPointer(self.floats.as_mut_ptr());
        let values = SendPointer(self.values.as_mut_ptr());
        let scales = SendPointer(self.scales.as_mut_ptr());
        let sums = SendPointer(self.sums.as_mut_ptr());
        crew.run(columns, |column| {
            let (floats, values, scales, sums) = (&floats, &values, &scales, &sums);
            // SAFETY: every column is handed out once, and its four pieces lie inside the buffers that were
            // just grown to `columns` of them; `self` is borrowed mutably for the whole call.
            let (floats, values, scales, sums) = unsafe {
                (
                    std::slice::from_raw_parts_mut(floats.0.add(column * width), width),
                    std::slice::from_raw_parts_mut(values.0.add(column * padded), padded),
                    std::slice::from_raw_parts_mut(scales.0.add(column * groups), groups),
                    std::slice::from_raw_parts_mut(sums.0.add(column * groups), groups),
                )
            };
            write(column, floats);
            kernels.quantize(floats, values, scales, sums);
        });
    }
}

/// Makes a buffer at least `length` long.
fn grow<T: Clone + Default>(buffer: &mut Vec<T>, length: usize) {
    if buffer.len() < length {
        buffer.resize(length, T::default());
    }
}
