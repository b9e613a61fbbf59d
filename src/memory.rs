//! Memory whose size a model file or an option decides: asked for before it is used, and an error if there is none.

#![forbid(unsafe_code)]

use crate::error::{Error, ErrorKind, Result};

/// The error of memory that is not available.
pub(crate) fn refused(what: &str, bytes: usize) -> Error {
    Error::new(ErrorKind::Resource, format!("{what}: {bytes} bytes cannot be allocated"))
}

/// Makes room in a buffer for `length` values in all.
///
/// # Errors
/// If that cannot be allocated.
pub(crate) fn reserve<T>(buffer: &mut Vec<T>, length: usize, what: &str) -> Result<()> {
    let more = length.saturating_sub(buffer.len());
    buffer.try_reserve_exact(more).map_err(|_| refused(what, length.saturating_mul(size_of::<T>())))
}

/// Makes a buffer at least `length` long.
///
/// # Errors
/// If that cannot be allocated.
pub(crate) fn grow<T: Clone + Default>(buffer: &mut Vec<T>, length: usize, what: &str) -> Result<()> {
    if buffer.len() < length {
        reserve(buffer, length, what)?;
        buffer.resize(length, T::default());
    }
    Ok(())
}

/// Zeros.
///
/// # Errors
/// If they cannot be allocated.
pub(crate) fn zeros(length: usize, what: &str) -> Result<Vec<f32>> {
    let mut values = Vec::new();
    grow(&mut values, length, what)?;
    Ok(values)
}

/// A copy of some values.
///
/// # Errors
/// If it cannot be allocated.
pub(crate) fn copy<T: Copy>(values: &[T], what: &str) -> Result<Vec<T>> {
    let mut copy = Vec::new();
    reserve(&mut copy, values.len(), what)?;
    copy.extend_from_slice(values);
    Ok(copy)
}

/// Whether buffers of `bytes` in all, which grow during the first passes, can be allocated at present.
///
/// # Errors
/// If they cannot.
pub(crate) fn check_room(bytes: usize) -> Result<()> {
    Vec::<u8>::new().try_reserve_exact(bytes).map_err(|_| refused("buffers of a pass", bytes))
}
