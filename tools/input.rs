//! Reading files whole, of limited size: an endless one, such as `/dev/zero`, is an error and takes little memory.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use cinderblock::{Error, Result};

use crate::{interrupt, output};

/// Bytes of a text, or of a file of token ids.
pub const TEXT: u64 = 1 << 30;
/// Bytes of what a person writes: keys, rules, a schema, a grammar.
pub const SMALL: u64 = 1 << 20;

/// Reads a whole file, or standard input for `-`, of at most `most` bytes. While it waits for a pipe, the first signal
/// ends the program.
///
/// # Errors
/// If it cannot be read, or is larger.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    if is_standard(path) {
        let _waiting = interrupt::wait_for_input();
        return take(std::io::stdin().lock(), name(path), most);
    }
    let io = |error: std::io::Error| Error::io(path, &error);
    let metadata = std::fs::metadata(path).map_err(io)?;
    if !metadata.is_file() {
        let _waiting = interrupt::wait_for_input();
        return take(File::open(path).map_err(io)?, path, most);
    }
    if metadata.len() > most {
        return Err(too_large(path, output::bytes(metadata.len()), most));
    }
    take(File::open(path).map_err(io)?, path, most)
}

/// Whether a file is standard input.
pub fn is_standard(path: &Path) -> bool {
    path == Path::new("-")
}

/// The name of a file in messages.
pub fn name(path: &Path) -> &Path {
    if is_standard(path) { Path::new("standard input") } else { path }
}

/// Makes sure that at most one of some files is standard input: a second reader would find its end.
///
/// # Errors
/// If several are.
pub fn one_reader<P: AsRef<Path>>(files: impl IntoIterator<Item = P>) -> Result<()> {
    match files.into_iter().filter(|file| is_standard(file.as_ref())).count() {
        0 | 1 => Ok(()),
        found => {
            let detail =
                format!("standard input: found {found} arguments that read it, expected at most one");
            Err(Error::argument(detail))
        }
    }
}

/// Reads a regular file; others are refused before they are opened, because a pipe may let that wait.
///
/// # Errors
/// As [`read`], and if it is of another type.
pub fn read_regular(path: &Path, what: &str, most: u64) -> Result<Vec<u8>> {
    let metadata = std::fs::metadata(path).map_err(|error| Error::io(path, &error))?;
    if !metadata.is_file() {
        let found = if metadata.is_dir() { "a directory" } else { "a special file" };
        return Err(Error::mismatch("file type", found, what).in_file(path));
    }
    read(path, most)
}

/// The length of some files, such as those in `/proc`, is not that of their content.
fn take(source: impl Read, name: &Path, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(most + 1).read_to_end(&mut bytes).map_err(|error| Error::io(name, &error))?;
    if bytes.len() as u64 > most {
        return Err(too_large(name, format!("more than {}", output::bytes(most)), most));
    }
    Ok(bytes)
}

fn too_large(path: &Path, found: String, most: u64) -> Error {
    Error::mismatch("size", found, format!("at most {}", output::bytes(most))).in_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_limit() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, [7; 100]).unwrap();
        assert_eq!(read(&path, 100).unwrap(), [7; 100]);
        let error = read(&path, 99).unwrap_err().to_string();
        assert!(error.ends_with("file: size: found 100 B, expected at most 99 B"), "{error}");
        let error = read_regular(folder.path(), "a list", 99).unwrap_err().to_string();
        assert!(error.ends_with("file type: found a directory, expected a list"), "{error}");
        #[cfg(unix)]
        {
            let error = read(Path::new("/dev/zero"), SMALL).unwrap_err().to_string();
            assert!(error.starts_with("/dev/zero: size: found more than 1.0 MB, expected"), "{error}");
            assert!(read_regular(Path::new("/dev/zero"), "a list", SMALL).is_err());
        }
    }
}
