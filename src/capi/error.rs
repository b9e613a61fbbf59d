//! The functions that read and free an error object.

use std::ffi::c_char;
use std::ptr;

use super::boundary::quietly;
use super::failure::*;
use super::pointer;

/// The name of a status, for logs: "CINDER_OK", or "unknown status".
///
/// @return A static string. Call from: any thread. Never fails.
#[unsafe(no_mangle)]
pub extern "C" fn cinder_status_name(status: cinder_status) -> *const c_char {
    let name = match status {
        CINDER_OK => c"CINDER_OK",
        CINDER_IO => c"CINDER_IO",
        CINDER_FORMAT => c"CINDER_FORMAT",
        CINDER_UNSUPPORTED => c"CINDER_UNSUPPORTED",
        CINDER_ARGUMENT => c"CINDER_ARGUMENT",
        CINDER_RESOURCE => c"CINDER_RESOURCE",
        CINDER_NUMERIC => c"CINDER_NUMERIC",
        CINDER_INTERNAL => c"CINDER_INTERNAL",
        CINDER_INTERRUPTED => c"CINDER_INTERRUPTED",
        CINDER_MISUSE => c"CINDER_MISUSE",
        CINDER_POISONED => c"CINDER_POISONED",
        CINDER_BUFFER => c"CINDER_BUFFER",
        _ => c"unknown status",
    };
    name.as_ptr()
}

/// The status that the failed call returned.
///
/// @param error May be null.
/// @return CINDER_OK for null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_error_status(error: *const cinder_error) -> cinder_status {
    quietly(CINDER_INTERNAL, || {
        // SAFETY: null or valid, as the header requires.
        unsafe { pointer::shared(error) }.map_or(CINDER_OK, |error| error.status)
    })
}

/// One line of UTF-8 text in lower case that names the file, what was found and what was expected.
///
/// @param error May be null.
/// @return Valid until the error is freed; "" for null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_error_message(error: *const cinder_error) -> *const c_char {
    quietly(c"".as_ptr(), || {
        // SAFETY: null or valid, as the header requires.
        unsafe { pointer::shared(error) }.map_or(c"".as_ptr(), |error| error.message.as_ptr())
    })
}

/// The file that the error is about, as the caller gave it.
///
/// @param error May be null.
/// @return Valid until the error is freed; null if the error is about no file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_error_file(error: *const cinder_error) -> *const c_char {
    quietly(ptr::null(), || {
        // SAFETY: null or valid, as the header requires.
        unsafe { pointer::shared(error) }
            .and_then(|error| error.file.as_ref())
            .map_or(ptr::null(), |file| file.as_ptr())
    })
}

/// The tensor, metadata key or argument that the error is about.
///
/// @param error May be null.
/// @return Valid until the error is freed; null if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_error_subject(error: *const cinder_error) -> *const c_char {
    quietly(ptr::null(), || {
        // SAFETY: null or valid, as the header requires.
        unsafe { pointer::shared(error) }
            .and_then(|error| error.subject.as_ref())
            .map_or(ptr::null(), |subject| subject.as_ptr())
    })
}

/// Frees an error and its strings.
///
/// @param error May be null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_error_free(error: *mut cinder_error) {
    quietly((), || {
        // SAFETY: null, or created by `boundary::call` and not freed, as the header requires.
        drop(unsafe { pointer::owned(error) });
    });
}
