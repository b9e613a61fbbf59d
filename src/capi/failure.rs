//! Statuses, failures on their way to the caller, and the error object that the caller receives.

use std::ffi::CString;

use crate::error::{Error, ErrorKind};

/// The result of a call: CINDER_OK, or the reason for the failure. Numbers are never changed or reused. Later versions
/// may add some, so treat an unknown status as a failure.
pub type cinder_status = i32;

/// Success.
pub const CINDER_OK: cinder_status = 0;
/// The operating system refused to read, write or map a file.
pub const CINDER_IO: cinder_status = 1;
/// The data is not valid: truncated, inconsistent, damaged, or saved with another model.
pub const CINDER_FORMAT: cinder_status = 2;
/// The data or request is valid, but not supported by this version, this build or this model.
pub const CINDER_UNSUPPORTED: cinder_status = 3;
/// An argument is out of range, or null where a value is required.
pub const CINDER_ARGUMENT: cinder_status = 4;
/// Memory could not be allocated, or threads could not be started.
pub const CINDER_RESOURCE: cinder_status = 5;
/// A computed number is not finite, as happens with damaged weights.
pub const CINDER_NUMERIC: cinder_status = 6;
/// A defect in this library. The session in use is poisoned; free it.
pub const CINDER_INTERNAL: cinder_status = 7;
/// Stopped on request, by a callback or by cinder_session_cancel.
pub const CINDER_INTERRUPTED: cinder_status = 8;
/// Another call is using the session, or the session was created before a fork by the parent process.
pub const CINDER_MISUSE: cinder_status = 9;
/// An earlier call on this session returned CINDER_INTERNAL; the session can only be freed.
pub const CINDER_POISONED: cinder_status = 10;
/// The buffer is too small; the required size was written.
pub const CINDER_BUFFER: cinder_status = 11;

/// The reason why a call failed. Created by the call, freed by the caller. It belongs to one thread at a time and
/// depends on no other handle.
pub struct cinder_error {
    pub(super) status: cinder_status,
    pub(super) message: CString,
    pub(super) file: Option<CString>,
    pub(super) subject: Option<CString>,
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
    /// An argument that is not valid.
    pub(super) fn argument(name: &'static str, problem: impl std::fmt::Display) -> Failure {
        Error::argument(format!("{name}: {problem}")).about(name).into()
    }

    /// A failure whose status no error kind has.
    pub(super) fn with_status(status: cinder_status, name: &'static str, problem: &str) -> Failure {
        Failure { status, error: Error::argument(format!("{name}: {problem}")).about(name) }
    }
}

/// The bytes before the first null.
pub(super) fn c_string(bytes: &[u8]) -> CString {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    CString::new(&bytes[..end]).unwrap_or_default()
}

impl cinder_error {
    pub(super) fn new(failure: &Failure) -> cinder_error {
        let error = &failure.error;
        cinder_error {
            status: failure.status,
            message: c_string(error.to_string().as_bytes()),
            file: error.path().map(|path| c_string(path.as_os_str().as_encoded_bytes())),
            subject: error.subject().map(|subject| c_string(subject.as_bytes())),
        }
    }
}
