//! Statuses, and the error object that says more.

use std::ffi::{CString, c_char};
use std::ptr;

use super::boundary::quietly;
use super::pointer;
use crate::error::{Error, ErrorKind};

/// What became of a call: CINDER_OK or the reason why not. Numbers are never changed and never used again; later
/// versions may add some, so treat an unknown one as a failure.
pub type cinder_status = i32;

/// Done.
pub const CINDER_OK: cinder_status = 0;
/// The operating system refused to read, write or map.
pub const CINDER_IO: cinder_status = 1;
/// Bytes break their format: truncated, contradictory, damaged, or of another model.
pub const CINDER_FORMAT: cinder_status = 2;
/// Well-formed, but not implemented, or not part of this build or this model.
pub const CINDER_UNSUPPORTED: cinder_status = 3;
/// An argument is out of range or null where it must not be.
pub const CINDER_ARGUMENT: cinder_status = 4;
/// Memory or threads are not to be had.
pub const CINDER_RESOURCE: cinder_status = 5;
/// A number left the range of floats, as damaged weights make it do.
pub const CINDER_NUMERIC: cinder_status = 6;
/// A defect in this library. The handle that was used is poisoned; free it.
pub const CINDER_INTERNAL: cinder_status = 7;
/// Stopped as was asked: by a callback or by cinder_session_cancel.
pub const CINDER_INTERRUPTED: cinder_status = 8;
/// The handle is in use by another call, or was made before a fork by the parent process.
pub const CINDER_MISUSE: cinder_status = 9;
/// An earlier call on this handle ended with CINDER_INTERNAL; it can only be freed.
pub const CINDER_POISONED: cinder_status = 10;
/// The buffer is too small; the size that it needs has been stored.
pub const CINDER_BUFFER: cinder_status = 11;

/// Why a call failed. Made by the call, freed by the caller. It belongs to one thread at a time and depends on no
/// other handle.
pub struct cinder_error {
    status: cinder_status,
    message: CString,
    file: Option<CString>,
    subject: Option<CString>,
}

/// A failure on its way to the caller.
pub(super) struct Failure {
    pub(super) status: cinder_status,
    pub(super) error: Error,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let status = match error.kind() {
            ErrorKind::Io => CINDER_IO,
            ErrorKind::Format => CINDER_FORMAT,
            ErrorKind::Unsupported => CINDER_UNSUPPORTED,
            ErrorKind::Argument => CINDER_ARGUMENT,
            ErrorKind::Resource => CINDER_RESOURCE,
            ErrorKind::Numeric => CINDER_NUMERIC,
            ErrorKind::Internal => CINDER_INTERNAL,
            ErrorKind::Interrupted => CINDER_INTERRUPTED,
        };
        Failure { status, error }
    }
}

impl Failure {
    /// An argument that is not as it must be.
    pub(super) fn argument(name: &'static str, problem: impl std::fmt::Display) -> Failure {
        Error::argument(format!("{name}: {problem}")).about(name).into()
    }

    /// A handle that must not be used now, or at all.
    pub(super) fn handle(status: cinder_status, name: &'static str, problem: &str) -> Failure {
        Failure { status, error: Error::argument(format!("{name}: {problem}")).about(name) }
    }
}

/// Bytes up to the first null.
pub(super) fn text(bytes: &[u8]) -> CString {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    CString::new(&bytes[..end]).unwrap_or_default()
}

impl cinder_error {
    pub(super) fn new(failure: &Failure) -> cinder_error {
        let error = &failure.error;
        cinder_error {
            status: failure.status,
            message: text(error.to_string().as_bytes()),
            file: error.path().map(|path| text(path.as_os_str().as_encoded_bytes())),
            subject: error.subject().map(|subject| text(subject.as_bytes())),
        }
    }
}

/// The name of a status, for logs: "CINDER_OK", or "unknown status".
///
/// @return A static string. Any thread. Never fails.
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

/// The status of the call that failed.
///
/// @param error May be null.
/// @return CINDER_OK for null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_error_status(error: *const cinder_error) -> cinder_status {
    quietly(CINDER_INTERNAL, || {
        // SAFETY: null or valid, as the header asks.
        unsafe { pointer::shared(error) }.map_or(CINDER_OK, |error| error.status)
    })
}

/// One line, UTF-8, in lower case, that names the file, what was found and what was expected.
///
/// @param error May be null.
/// @return Lives as long as the error; "" for null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_error_message(error: *const cinder_error) -> *const c_char {
    quietly(c"".as_ptr(), || {
        // SAFETY: null or valid, as the header asks.
        unsafe { pointer::shared(error) }.map_or(c"".as_ptr(), |error| error.message.as_ptr())
    })
}

/// The file that the error is about, as it was given.
///
/// @param error May be null.
/// @return Lives as long as the error; null if it is about no file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_error_file(error: *const cinder_error) -> *const c_char {
    quietly(ptr::null(), || {
        // SAFETY: null or valid, as the header asks.
        unsafe { pointer::shared(error) }
            .and_then(|error| error.file.as_ref())
            .map_or(ptr::null(), |t| t.as_ptr())
    })
}

/// The tensor, metadata key or argument that the error is about.
///
/// @param error May be null.
/// @return Lives as long as the error; null if that is not known.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_error_subject(error: *const cinder_error) -> *const c_char {
    quietly(ptr::null(), || {
        // SAFETY: null or valid, as the header asks.
        unsafe { pointer::shared(error) }
            .and_then(|error| error.subject.as_ref())
            .map_or(ptr::null(), |t| t.as_ptr())
    })
}

/// Frees an error and its texts.
///
/// @param error May be null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_error_free(error: *mut cinder_error) {
    quietly((), || {
        // SAFETY: null or made by `boundary::call` and not freed, as the header asks.
        drop(unsafe { pointer::owned(error) });
    });
}
