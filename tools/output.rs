//! Writing to people and to files: no panic on a closed pipe, nothing half written.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cinderblock::error::{Error, ErrorKind, Result};
use indicatif::{ProgressBar, ProgressStyle};
use tempfile::NamedTempFile;

const CLOSED: &str = "standard output is closed";

fn stdout_error(error: &io::Error) -> Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Error::new(ErrorKind::Io, CLOSED);
    }
    Error::io(Path::new("standard output"), error)
}

/// Whether an error means that nobody reads standard output any more.
pub fn is_closed_pipe(error: &Error) -> bool {
    error.kind() == ErrorKind::Io && error.detail() == CLOSED
}

/// Writes to standard output and flushes it.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| stdout_error(&error))
}

/// Writes a JSON value as one line.
pub fn print_json(value: &serde_json::Value) -> Result<()> {
    print(&format!("{value}\n"))
}

/// Writes a line to standard error; where that is closed there is nobody to tell.
pub fn message(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A progress bar on standard error that counts to `length`; invisible when it is no terminal.
pub fn progress(length: u64, template: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style.progress_chars("=> "))
}

/// The partial file that is being written, if there is one: a verb writes at most one.
static PARTIAL: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Removes the partial file of a process that is about to end without unwinding.
pub fn abandon() {
    if let Some(path) = PARTIAL.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = std::fs::remove_file(path);
    }
}

/// A file that appears under its name only when it is complete.
pub struct AtomicFile {
    file: BufWriter<NamedTempFile>,
    path: PathBuf,
}

impl AtomicFile {
    /// Starts a file that will replace `path`.
    pub fn create(path: &Path) -> Result<AtomicFile> {
        if path.file_name().is_none() || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return Err(Error::mismatch("output", "a folder", "the name of a file").in_file(path));
        }
        // Renaming over a device or a pipe would replace it.
        if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            let found = if path.is_dir() { "a directory" } else { "a special file" };
            return Err(Error::mismatch("output", found, "the name of a regular file").in_file(path));
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        builder.prefix(".cinderblock-").suffix(".partial");
        #[cfg(unix)]
        {
            // What `File::create` would give; the umask applies.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let file = builder.tempfile_in(folder).map_err(|error| Error::io(folder, &error))?;
        *PARTIAL.lock().unwrap_or_else(PoisonError::into_inner) = Some(file.path().to_path_buf());
        Ok(AtomicFile { file: BufWriter::with_capacity(1 << 20, file), path: path.to_path_buf() })
    }

    /// Names the destination in an error.
    pub fn error(path: &Path) -> impl Fn(io::Error) -> Error {
        move |error| Error::io(path, &error)
    }

    /// Makes the file durable and gives it its name.
    pub fn commit(self) -> Result<()> {
        let AtomicFile { file, path } = self;
        let error = |error: io::Error| Error::io(&path, &error);
        let file = file.into_inner().map_err(|failed| error(failed.into_error()))?;
        file.as_file().sync_all().map_err(error)?;
        file.persist(&path).map_err(|failed| error(failed.error))?;
        #[cfg(unix)]
        {
            // The name is durable only when the folder is.
            let folder = path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
            if let Ok(folder) = std::fs::File::open(folder) {
                let _ = folder.sync_all();
            }
        }
        Ok(())
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl io::Seek for AtomicFile {
    fn seek(&mut self, position: io::SeekFrom) -> io::Result<u64> {
        self.file.seek(position)
    }
}

/// Bytes for people.
pub fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.2} GB")
}

/// Tokens a second; 0 where no time has passed.
pub fn rate(tokens: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
}
