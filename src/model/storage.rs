//! Where a model's bytes are: a mapped file, or memory that the host program gave.

use std::fs::{self, File, Metadata};
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use memmap2::{Mmap, MmapOptions};

use crate::error::{Error, ErrorKind, Result};

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
        // Checked before the file is opened, because opening a pipe waits for its other end.
        check_regular(&fs::metadata(path).map_err(io)?).map_err(|error| error.in_file(path))?;
        Self::open_part(&File::open(path).map_err(io)?, None).map_err(|error| error.in_file(path))
    }

    /// Maps part of an open file, which may be closed afterwards; `None` is all of it.
    pub(super) fn open_part(file: &File, part: Option<Range<u64>>) -> Result<Storage> {
        let io = |error: std::io::Error| Error::io_text(&error);
        let metadata = file.metadata().map_err(io)?;
        check_regular(&metadata)?;
        let part = part.unwrap_or(0..metadata.len());
        if part.start > part.end || part.end > metadata.len() {
            let found = format!("bytes {} to {}", part.start, part.end);
            return Err(Error::argument(format!(
                "part of a file: found {found}, expected them inside a file of {} bytes",
                metadata.len()
            )));
        }
        // Vectors and panels of weights are read where they are.
        if !part.start.is_multiple_of(64) {
            return Err(Error::argument(format!(
                "part of a file: found offset {}, expected a multiple of 64",
                part.start
            )));
        }
        let Some(length) = usize::try_from(part.end - part.start).ok().filter(|&length| length > 0) else {
            return Ok(Storage(Kind::Empty));
        };
        // SAFETY: the map is read-only and private to this process. Its invariant is outside this program: no
        // other program may truncate the file while it is mapped. Quantizing replaces files by renaming, which
        // leaves a mapped file whole; `docs/format.md` states the rule for other writers.
        let map = unsafe { MmapOptions::new().offset(part.start).len(length).map(file) }.map_err(io)?;
        Ok(Storage(Kind::Map(map)))
    }

    /// Copies bytes that are not in a file.
    pub(super) fn copy(bytes: &[u8]) -> Result<Storage> {
        let count = bytes.len().div_ceil(64);
        let mut lines = Vec::new();
        lines.try_reserve_exact(count).map_err(|_| {
            let detail = format!("a model of {} bytes: there is not the memory for a copy", bytes.len());
            Error::new(ErrorKind::Resource, detail)
        })?;
        lines.resize(count, Line([0; 64]));
        bytemuck::cast_slice_mut(&mut lines)[..bytes.len()].copy_from_slice(bytes);
        Ok(Storage(Kind::Memory { lines, length: bytes.len() }))
    }
}

fn check_regular(metadata: &Metadata) -> Result<()> {
    if metadata.is_file() {
        return Ok(());
    }
    let found = if metadata.is_dir() { "a directory" } else { "a special file" };
    Err(Error::mismatch("file type", found, "a GGUF file"))
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
