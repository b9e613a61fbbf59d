//! Where a model's bytes are: a mapped file, or memory that the host program gave.

use std::fs::{self, File};
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// A cache line, so that memory has the alignment that a map has.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

enum Kind {
    Map(Mmap),
    Memory { lines: Vec<Line>, length: usize },
    Empty,
}

/// All bytes of a model file, aligned to 64.
pub(super) struct Storage(Kind);

impl Storage {
    /// Maps a file. What the map holds is read when it is touched, shared between processes, and can be
    /// evicted by the operating system at any time.
    pub(super) fn open(path: &Path) -> Result<Storage> {
        let io = |error: std::io::Error| Error::io(path, &error);
        let metadata = fs::metadata(path).map_err(io)?;
        // Checked before the file is opened, because opening a pipe waits for its other end.
        if !metadata.is_file() {
            let found = if metadata.is_dir() { "a directory" } else { "a special file" };
            return Err(Error::mismatch("file type", found, "a GGUF file").in_file(path));
        }
        if metadata.len() == 0 {
            return Ok(Storage(Kind::Empty));
        }
        let file = File::open(path).map_err(io)?;
        // SAFETY: the map is read-only and private to this process. Its invariant is outside this program: no
        // other program may truncate the file while it is mapped. Quantizing replaces files by renaming, which
        // leaves a mapped file whole; `docs/format.md` states the rule for other writers.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(Storage(Kind::Map(map)))
    }

    /// Copies bytes that are not in a file.
    pub(super) fn copy(bytes: &[u8]) -> Storage {
        let mut lines = vec![Line([0; 64]); bytes.len().div_ceil(64)];
        bytemuck::cast_slice_mut(&mut lines)[..bytes.len()].copy_from_slice(bytes);
        Storage(Kind::Memory { lines, length: bytes.len() })
    }
}

impl Deref for Storage {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Kind::Map(map) => map,
            Kind::Memory { lines, length } => &bytemuck::cast_slice(lines)[..*length],
            Kind::Empty => &[],
        }
    }
}

/// Part of a [`Storage`], which it keeps alive.
#[derive(Clone)]
pub(super) struct Bytes {
    storage: Arc<Storage>,
    start: usize,
    length: usize,
}

impl Bytes {
    /// Bytes `start..start + length`, which exist: the index of the file has been validated.
    pub(super) fn new(storage: &Arc<Storage>, start: usize, length: usize) -> Bytes {
        assert!(start.checked_add(length).is_some_and(|end| end <= storage.len()));
        Bytes { storage: Arc::clone(storage), start, length }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.length]
    }
}
