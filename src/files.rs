//! Files that are small enough to be in memory: read with a limit, written so that they are there whole or not.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

/// Opens a regular file; tells how long it is.
///
/// # Errors
/// If it is none, or cannot be opened.
pub(crate) fn open(path: &Path) -> Result<(File, u64)> {
    let io = |error: std::io::Error| Error::io(path, &error);
    let metadata = fs::metadata(path).map_err(io)?;
    // Checked before the file is opened, because opening a pipe waits for its other end.
    if !metadata.is_file() {
        let found = if metadata.is_dir() { "a directory" } else { "a special file" };
        return Err(Error::mismatch("file type", found, "a regular file").in_file(path));
    }
    Ok((File::open(path).map_err(io)?, metadata.len()))
}

/// Reads the next `length` bytes, or what there is of them.
///
/// # Errors
/// If there is no memory for them, or they cannot be read.
pub(crate) fn read(file: &mut File, path: &Path, length: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let room = usize::try_from(length).ok().filter(|&length| bytes.try_reserve_exact(length).is_ok());
    if room.is_none() {
        let detail = format!("{length} bytes, for which there is no memory");
        return Err(Error::new(ErrorKind::Resource, detail).in_file(path));
    }
    file.take(length).read_to_end(&mut bytes).map_err(|error| Error::io(path, &error))?;
    Ok(bytes)
}

/// Replaces a file: what is at `path` is the old content or the new one, whatever happens. Only the owner may
/// read the new file.
///
/// # Errors
/// If the file cannot be written; then nothing has changed.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let io = |error: std::io::Error| Error::io(path, &error);
    let Some(name) = path.file_name().filter(|_| !path.as_os_str().as_encoded_bytes().ends_with(b"/")) else {
        return Err(Error::mismatch("output", "a folder", "the name of a file").in_file(path));
    };
    // Renaming over a device or a pipe would replace it.
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return Err(Error::mismatch("output", "a folder or special file", "a regular file").in_file(path));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (mut file, partial) = create(folder, name).map_err(io)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    drop(file);
    if let Err(error) = written.and_then(|()| fs::rename(&partial, path)) {
        let _ = fs::remove_file(&partial);
        return Err(io(error));
    }
    // The name is durable only when the folder is; where folders cannot be opened, that is the system's affair.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// A new file beside the one that it will replace.
fn create(folder: &Path, name: &std::ffi::OsStr) -> std::io::Result<(File, PathBuf)> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut attempt = 0;
    loop {
        let mut partial = std::ffi::OsString::from(".");
        partial.push(name);
        partial.push(format!(".{}-{attempt}.partial", std::process::id()));
        let partial = folder.join(partial);
        match options.open(&partial) {
            // Another thread is writing the same file, or one that was killed has left it.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && attempt < 1000 => attempt += 1,
            result => return Ok((result?, partial)),
        }
    }
}
