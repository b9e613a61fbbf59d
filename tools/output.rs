//! Writing to people and to files: no panic on a closed pipe, nothing half written.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use cinderblock::unstable::files::AtomicFile;
use cinderblock::unstable::files::{Identity, Target};
use cinderblock::{Error, ErrorKind, Result, Snapshot};
use indicatif::{ProgressBar, ProgressStyle};

pub use crate::partial::create;

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

/// The files that a verb reads: none of them is written to.
#[derive(Clone)]
pub struct Inputs(Vec<(&'static str, Identity)>);

impl Inputs {
    /// Standard input, if that is a file.
    pub fn new() -> Inputs {
        Inputs(standard(&io::stdin()).map(|identity| ("standard input", identity)).into_iter().collect())
    }

    /// With a file more, if it is given, and what it is to people.
    #[must_use]
    pub fn with<P: AsRef<Path>>(mut self, what: &'static str, paths: impl IntoIterator<Item = P>) -> Inputs {
        let identities = paths.into_iter().filter_map(|path| Identity::of(path.as_ref()));
        self.0.extend(identities.map(|identity| (what, identity)));
        self
    }

    /// Makes sure that an output is none of them, and that it can be written: its folder is there and lets files be made.
    ///
    /// # Errors
    /// If it is, or cannot.
    pub fn try_output(&self, path: &Path) -> Result<()> {
        self.check(path)?;
        if is_standard(path) {
            return Ok(());
        }
        match Target::of(path)? {
            Target::Special => Ok(()),
            _ => AtomicFile::create(path).map(drop),
        }
    }

    /// Makes sure that an output is none of them.
    ///
    /// # Errors
    /// If it is.
    pub fn check(&self, path: &Path) -> Result<()> {
        let identity = if is_standard(path) { standard(&io::stdout()) } else { Identity::of(path) };
        // Devices are read and written at once.
        let is_device = std::fs::metadata(path).is_ok_and(|metadata| is_device(&metadata));
        match self.0.iter().find(|(_, input)| Some(input) == identity.as_ref() && !is_device) {
            None => Ok(()),
            Some((what, _)) => {
                let detail =
                    format!("output: found the {what}, expected another file than those that are read");
                Err(Error::argument(detail).in_file(path))
            }
        }
    }
}

fn is_device(metadata: &std::fs::Metadata) -> bool {
    #[cfg(unix)]
    return std::os::unix::fs::FileTypeExt::is_char_device(&metadata.file_type());
    #[cfg(not(unix))]
    return !metadata.is_file();
}

/// The file that standard input or output is, if it is one.
#[cfg(unix)]
fn standard(stream: &impl std::os::fd::AsFd) -> Option<Identity> {
    let file = File::from(stream.as_fd().try_clone_to_owned().ok()?);
    let metadata = file.metadata().ok()?;
    // Both ends of a socket, as remote shells give it, may be the same.
    Identity::of_metadata(&metadata).filter(|_| metadata.is_file())
}

/// The file that standard input or output is, if it is one.
#[cfg(not(unix))]
fn standard<T>(_: &T) -> Option<Identity> {
    None
}

/// Whether an output is standard output.
pub fn is_standard(path: &Path) -> bool {
    ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"].iter().any(|name| path == Path::new(name))
}

/// Refuses standard output where `what` is printed already.
///
/// # Errors
/// If `path` is standard output.
pub fn not_standard(path: &Path, what: &str) -> Result<()> {
    if is_standard(path) {
        let detail = format!("output: found standard output, which has {what}, expected a file");
        return Err(Error::argument(detail).in_file(path));
    }
    Ok(())
}

/// Makes sure that a file system has room for a file.
///
/// # Errors
/// If it has not.
pub fn check_space(path: &Path, bytes: u64) -> Result<()> {
    #[cfg(unix)]
    if let Ok(Target::File(target)) = Target::of(path)
        && !is_standard(path)
    {
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Ok(system) = rustix::fs::statvfs(folder.unwrap_or(Path::new("."))) {
            let free = system.f_bfree.saturating_mul(system.f_frsize);
            // Some file systems do not know.
            if system.f_blocks > 0 && free < bytes {
                let (free, bytes) = (self::bytes(free), self::bytes(bytes));
                let detail = format!("no space left on device: found {free} free, expected at least {bytes}");
                return Err(Error::new(ErrorKind::Io, detail).in_file(path));
            }
        }
    }
    #[cfg(not(unix))]
    let _ = (path, bytes);
    Ok(())
}

/// Where bytes go that come one after the other.
pub enum Sink {
    /// A file that appears when it is complete.
    File(AtomicFile, PathBuf),
    /// A pipe or a device.
    Stream(BufWriter<File>, PathBuf),
    /// Standard output.
    Standard(BufWriter<io::Stdout>),
}

impl Sink {
    /// Starts an output: `-` is standard output, and what is no regular file is written to as it is.
    ///
    /// # Errors
    /// If it cannot be written, or is a pipe that nobody reads.
    pub fn create(path: &Path) -> Result<Sink> {
        if is_standard(path) {
            return Ok(Sink::Standard(BufWriter::with_capacity(1 << 20, io::stdout())));
        }
        Ok(match Target::of(path)? {
            Target::Special => {
                Sink::Stream(BufWriter::with_capacity(1 << 16, open_special(path)?), path.to_path_buf())
            }
            _ => Sink::File(create(path)?, path.to_path_buf()),
        })
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Sink::File(file, path) => file.write_all(bytes).map_err(|error| Error::io(path, &error)),
            Sink::Stream(file, path) => file.write_all(bytes).map_err(|error| Error::io(path, &error)),
            Sink::Standard(out) => out.write_all(bytes).map_err(|error| stdout_error(&error)),
        }
    }

    /// Completes the output.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn commit(self) -> Result<()> {
        match self {
            Sink::File(file, _) => file.commit().map(drop),
            Sink::Stream(mut file, path) => file.flush().map_err(|error| Error::io(&path, &error)),
            Sink::Standard(mut out) => out.flush().map_err(|error| stdout_error(&error)),
        }
    }
}

/// How long a pipe may be without a reader.
#[cfg(unix)]
const PATIENCE: Duration = Duration::from_secs(3);

/// Opens a pipe, a device or an open file of this process.
///
/// # Errors
/// If it cannot be opened, or nobody reads it.
pub fn open_special(path: &Path) -> Result<File> {
    let failed = |error: io::Error| Error::io(path, &error);
    let mut options = OpenOptions::new();
    options.write(true);
    let metadata = std::fs::metadata(path).map_err(failed)?;
    #[cfg(unix)]
    if std::os::unix::fs::FileTypeExt::is_fifo(&metadata.file_type()) {
        // Without a reader, opening would wait without end; with one that is held open, it does not.
        let mut now = OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut now, rustix::fs::OFlags::NONBLOCK.bits() as i32);
        now.write(true);
        let started = std::time::Instant::now();
        loop {
            match now.open(path) {
                Ok(_held) => return options.open(path).map_err(failed),
                Err(error) if error.raw_os_error() != Some(rustix::io::Errno::NXIO.raw_os_error()) => {
                    return Err(failed(error));
                }
                Err(_) if started.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(10)),
                Err(_) => {
                    let detail = "output: found a special file that nobody reads, expected a reader";
                    return Err(Error::new(ErrorKind::Io, detail).in_file(path));
                }
            }
            crate::interrupt::check()?;
        }
    }
    if metadata.is_dir() {
        return Err(Error::mismatch("output", "a directory", "a file").in_file(path));
    }
    // An open file of this process.
    options.truncate(metadata.is_file());
    options.open(path).map_err(failed)
}

/// Saves a session, also to what is no regular file.
///
/// # Errors
/// As [`Snapshot::write`].
pub fn save(snapshot: &Snapshot<'_>, path: &Path) -> Result<()> {
    if Target::of(path)? != Target::Special {
        return snapshot.write(path);
    }
    open_special(path)?.write_all(snapshot.bytes()).map_err(|error| Error::io(path, &error))
}

/// The first `max` characters of a text, and what stands for the rest: "..." if there is one.
pub fn beginning(text: &str, max: usize) -> (&str, &str) {
    match text.char_indices().nth(max) {
        Some((end, _)) => (&text[..end], "..."),
        None => (text, ""),
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
