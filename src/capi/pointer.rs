//! What C hands over: pointers that are null or valid. Every function here says what "valid" must mean.

use std::ffi::{CStr, c_char};
use std::path::Path;

use super::error::{CINDER_BUFFER, Failure};
use crate::error::Error;

/// A handle for reading.
///
/// # Safety
/// Null, or valid for reads while the result lives.
pub(super) unsafe fn shared<'a, T>(pointer: *const T) -> Option<&'a T> {
    // SAFETY: the caller's promise.
    unsafe { pointer.as_ref() }
}

/// A handle that comes back to be freed.
///
/// # Safety
/// Null, or from `Box::into_raw` and not freed.
pub(super) unsafe fn owned<T>(pointer: *mut T) -> Option<Box<T>> {
    // SAFETY: the caller's promise.
    (!pointer.is_null()).then(|| unsafe { Box::from_raw(pointer) })
}

/// A place for a result.
///
/// # Safety
/// Null, or valid for a write, while the result lives.
pub(super) unsafe fn place<'a, T>(pointer: *mut T, name: &'static str) -> Result<Place<'a, T>, Failure> {
    if pointer.is_null() {
        return Err(Failure::argument(name, "found null, expected a place for the result"));
    }
    Ok(Place(pointer, std::marker::PhantomData))
}

/// Memory that C gave for one result and that may be uninitialized.
pub(super) struct Place<'a, T>(*mut T, std::marker::PhantomData<&'a mut T>);

impl<T> Place<'_, T> {
    pub(super) fn set(&self, value: T) {
        // SAFETY: not null, and valid for a write by the promise made to `place`.
        unsafe { self.0.write(value) };
    }
}

/// Values for reading; null is fine for none.
///
/// # Safety
/// Null, or valid for reads of `count` values while the result lives.
pub(super) unsafe fn values<'a, T>(
    pointer: *const T,
    count: usize,
    name: &'static str,
) -> Result<&'a [T], Failure> {
    if count == 0 {
        return Ok(&[]);
    }
    if pointer.is_null() {
        return Err(Failure::argument(name, format!("found null, expected {count} values")));
    }
    if count > isize::MAX as usize / size_of::<T>().max(1) {
        return Err(Failure::argument(
            name,
            format!("found {count} values, expected fewer than memory holds"),
        ));
    }
    // SAFETY: not null, the caller's promise, and no object is longer than `isize::MAX` bytes.
    Ok(unsafe { std::slice::from_raw_parts(pointer, count) })
}

/// Copies values into a buffer of C, if it holds them all; stores in `needed` how many there are in either case.
///
/// # Safety
/// `buffer` is null or valid for writes of `capacity` values.
pub(super) unsafe fn copy_out<T: Copy>(
    values: &[T],
    buffer: *mut T,
    capacity: usize,
    needed: Option<Place<'_, usize>>,
) -> Result<(), Failure> {
    if let Some(needed) = needed {
        needed.set(values.len());
    }
    room(values.len() as u64, capacity)?;
    if values.is_empty() {
        return Ok(());
    }
    if buffer.is_null() {
        return Err(Failure::argument("buffer", format!("found null, expected {} values", values.len())));
    }
    // SAFETY: not null, and valid for `capacity` values, which are at least as many; memory that C may write is
    // not memory that Rust reads.
    unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), buffer, values.len()) };
    Ok(())
}

/// Refuses a capacity that is too small.
pub(super) fn room(needed: u64, capacity: usize) -> Result<(), Failure> {
    if needed <= capacity as u64 {
        return Ok(());
    }
    let detail = format!("buffer: found room for {capacity}, expected {needed}");
    Err(Failure { status: CINDER_BUFFER, error: Error::argument(detail).about("buffer") })
}

/// Text of a given length.
///
/// # Safety
/// As [`values`].
pub(super) unsafe fn utf8<'a>(
    pointer: *const c_char,
    size: usize,
    name: &'static str,
) -> Result<&'a str, Failure> {
    // SAFETY: the caller's promise.
    let bytes = unsafe { values(pointer.cast::<u8>(), size, name) }?;
    std::str::from_utf8(bytes).map_err(|error| {
        Failure::argument(
            name,
            format!("found a byte at {} that is not UTF-8, expected UTF-8", error.valid_up_to()),
        )
    })
}

/// Text that ends with a null.
///
/// # Safety
/// Null, or a string that ends with a null and lives as long as the result.
pub(super) unsafe fn string<'a>(pointer: *const c_char, name: &'static str) -> Result<&'a CStr, Failure> {
    if pointer.is_null() {
        return Err(Failure::argument(name, "found null, expected a string"));
    }
    // SAFETY: not null, and the caller's promise.
    Ok(unsafe { CStr::from_ptr(pointer) })
}

/// The name of a file: bytes where the system's names are bytes, UTF-8 elsewhere.
///
/// # Safety
/// As [`string`].
pub(super) unsafe fn path<'a>(pointer: *const c_char, name: &'static str) -> Result<&'a Path, Failure> {
    // SAFETY: the caller's promise.
    let text = unsafe { string(pointer, name) }?;
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        Ok(Path::new(std::ffi::OsStr::from_bytes(text.to_bytes())))
    }
    #[cfg(not(unix))]
    {
        text.to_str().map(Path::new).map_err(|_| Failure::argument(name, "found bytes, expected UTF-8"))
    }
}
