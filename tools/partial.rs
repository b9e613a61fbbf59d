//! Files that are being written, which are removed when the program is ended at once.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cinderblock::Result;
use cinderblock::unstable::files::AtomicFile;

/// Where files are written that are not complete.
static PARTIAL: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Removes what is not complete; called before the process is ended at once.
pub fn abandon() {
    for path in PARTIAL.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        let _ = std::fs::remove_file(path);
    }
}

/// Starts a file that appears under its name only when it is complete.
///
/// # Errors
/// As [`AtomicFile::create`].
pub fn create(path: &Path) -> Result<AtomicFile> {
    let file = AtomicFile::create(path)?;
    PARTIAL.lock().unwrap_or_else(PoisonError::into_inner).push(file.partial().to_path_buf());
    Ok(file)
}
