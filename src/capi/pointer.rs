//! Pointers from C, which are null or valid. Each function here states its meaning of "valid".

use std::ffi::{CStr, c_char};
use std::path::Path;

use super::failure::{CINDER_BUFFER, Failure};

/// A handle for reading.
///
/// # Safety
/// Null, or valid for reads during the lifetime of the result.
pub(super) unsafe fn shared<'a, T>(pointer: *const T) -> Option<&'a T> {
    // SAFETY: the caller's promise.
    unsafe { pointer.as_ref() }
}

/// A handle that is returned to be freed.
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
/// Null, or valid for a write during the lifetime of the result.
pub(super) unsafe fn place<'a, T>(pointer: *mut T, name: &'static str) -> Result<Place<'a, T>, Failure> {
    if pointer.is_null() {
        return Err(Failure::argument(name, "found null, expected a place for the result"));
    }
    Ok(Place(pointer, std::marker::PhantomData))
}

/// Memory of the caller for one result. It may be uninitialized.
pub(super) struct Place<'a, T>(*mut T, std::marker::PhantomData<&'a mut T>);

impl<T> Place<'_, T> {
    pub(super) fn set(&self, value: T) {
        // SAFETY: not null, and valid for a write by the promise made to `place`.
        unsafe { self.0.write(value) };
    }
}

/// Values for reading; null is accepted for none.
///
/// # Safety
/// Null, or valid for reads of `count` values during the lifetime of the result.
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
        let detail = format!("found {count} values, expected no more than memory can hold");
        return Err(Failure::argument(name, detail));
    }
    // SAFETY: not null, the caller's promise, and no object is longer than `isize::MAX` bytes.
    Ok(unsafe { std::slice::from_raw_parts(pointer, count) })
}

/// Copies values to a buffer of the caller if it holds all of them; writes their number to `needed` in either case.
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
    check_capacity(values.len() as u64, capacity)?;
    if values.is_empty() {
        return Ok(());
    }
    if buffer.is_null() {
        return Err(Failure::argument("buffer", format!("found null, expected {} values", values.len())));
    }
    // SAFETY: not null, and valid for `capacity` values, which are at least as many. Memory that C may write is not
    // memory that Rust reads, so the two do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), buffer, values.len()) };
    Ok(())
}

/// Refuses a capacity that is too small.
pub(super) fn check_capacity(needed: u64, capacity: usize) -> Result<(), Failure> {
    if needed <= capacity as u64 {
        return Ok(());
    }
    let detail = format!("found a capacity of {capacity}, expected {needed}");
    Err(Failure::with_status(CINDER_BUFFER, "buffer", &detail))
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
        Failure::argument(name, format!("found an invalid byte at {}, expected UTF-8", error.valid_up_to()))
    })
}

/// Text that ends with a null.
///
/// # Safety
/// Null, or a null-terminated string that outlives the result.
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
        text.to_str()
            .map(Path::new)
            .map_err(|_| Failure::argument(name, "found invalid bytes, expected UTF-8"))
    }
}
