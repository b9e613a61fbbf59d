//! The one error type. Its text is a single line that names the file, what was found and what was
//! expected: lower case, no full stop.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::{Path, PathBuf};

/// What went wrong, coarsely: enough for a caller to decide what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused to read, write or map.
    Io,
    /// A file's bytes break its format: truncated, contradictory or damaged.
    Format,
    /// A well-formed file or request that this program does not implement.
    Unsupported,
    /// An argument is out of range.
    Argument,
    /// Memory could not be allocated, or threads not be started.
    Resource,
    /// A number left the range of floats, as damaged weights make it do.
    Numeric,
    /// A defect in this program.
    Internal,
    /// The user or the host program asked to stop.
    Interrupted,
}

/// An error: its kind, the file and the thing in it (a tensor, a key, an argument) that it is about, where known,
/// and a line of detail.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    path: Option<PathBuf>,
    subject: Option<String>,
    detail: String,
}

/// `std::result::Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `kind`; `detail` is one lower-case line without a full stop.
    pub fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        Error { kind, path: None, subject: None, detail: detail.into() }
    }

    /// A file whose bytes break its format.
    pub fn format(detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Format, detail)
    }

    /// `subject` is `found` where `expected` was required.
    pub fn mismatch(
        subject: impl fmt::Display,
        found: impl fmt::Display,
        expected: impl fmt::Display,
    ) -> Self {
        let subject = subject.to_string();
        Self::format(format!("{subject}: found {found}, expected {expected}")).about(subject)
    }

    /// Something well-formed that is not implemented.
    pub fn unsupported(detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, detail)
    }

    /// An argument out of range.
    pub fn argument(detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Argument, detail)
    }

    /// A failed call to the operating system, on `path`.
    pub fn io(path: &Path, error: &std::io::Error) -> Self {
        Self::io_text(error).in_file(path)
    }

    /// A failed call to the operating system, on a file without a name.
    pub fn io_text(error: &std::io::Error) -> Self {
        let mut text = error.to_string();
        if let Some(end) = text.find(" (os error") {
            text.truncate(end);
        }
        Self::new(ErrorKind::Io, text.to_lowercase())
    }

    /// Names the file that the error is about, unless an inner call has named one already.
    #[must_use]
    pub fn in_file(mut self, path: &Path) -> Self {
        self.path.get_or_insert_with(|| path.to_path_buf());
        self
    }

    /// Names the tensor, key or argument that the error is about.
    #[must_use]
    pub fn about(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// The coarse kind.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The file that the error is about.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The tensor, key or argument that the error is about.
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }

    /// The line of detail, without the file's name.
    pub fn detail(&self) -> &str {
        &self.detail
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write_line(f, &path.display().to_string())?;
            f.write_str(": ")?;
        }
        write_line(f, &self.detail)
    }
}

impl std::error::Error for Error {}

/// Characters of a path or a detail that are shown.
const MAX_SHOWN: usize = 400;

/// Names of files and tensors may hold line breaks and worse; the promise is one line.
fn write_line(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for (count, c) in text.chars().enumerate() {
        if count == MAX_SHOWN {
            return f.write_str("...");
        }
        if c.is_control() {
            write!(f, "{}", c.escape_default())?;
        } else {
            fmt::Write::write_char(f, c)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_one_line_that_names_the_file() {
        let error = Error::mismatch("tensor a\nb", 3, 4).in_file(Path::new("m.gguf"));
        assert_eq!(error.to_string(), "m.gguf: tensor a\\nb: found 3, expected 4");
        let outer = error.in_file(Path::new("other"));
        assert_eq!(outer.path(), Some(Path::new("m.gguf")));
    }
}
