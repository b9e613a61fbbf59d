//! The library's errors as exceptions: the classes are in `cinderblock._errors`.

use std::path::Path;

use cinderblock::{Error, ErrorKind};
use pyo3::prelude::*;

/// The class of a kind.
fn class(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Io => "IoError",
        ErrorKind::Format => "FormatError",
        ErrorKind::Unsupported => "UnsupportedError",
        ErrorKind::Argument => "ArgumentError",
        ErrorKind::Resource => "ResourceError",
        ErrorKind::Numeric => "NumericError",
        ErrorKind::Interrupted => "Interrupted",
        _ => "InternalError",
    }
}

/// The exception of an error, or why it could not be made.
pub fn raise(py: Python<'_>, error: &Error) -> PyErr {
    let exception = || {
        let class = py.import("cinderblock._errors")?.getattr(class(error.kind()))?;
        let exception = class.call1((error.to_string(),))?;
        exception.setattr("detail", error.detail())?;
        exception.setattr("path", error.path().map(Path::as_os_str))?;
        exception.setattr("subject", error.subject())?;
        Ok::<_, PyErr>(PyErr::from_value(exception))
    };
    exception().unwrap_or_else(|failure| failure)
}
