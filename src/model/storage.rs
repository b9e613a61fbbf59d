//! Where a model's bytes are: a mapped file, memory, or the program itself.

use std::fs::{self, File, Metadata};
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use memmap2::{Mmap, MmapOptions};

use crate::error::{Error, ErrorKind, Result};

/// A cache line of bytes, so that memory has the alignment that a map has.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Aligned([u8; 64]);

/// How a model file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// Maps the file (the default): it opens at once, its pages are shared between processes, and the file must
    /// neither shrink nor vanish while the model is in use. Otherwise the file is read into memory first, for
    /// storage that may change.
    pub map: bool,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions { map: true }
    }
}

enum Kind {
    Map(Mmap),
    Memory { lines: Vec<Aligned>, length: usize },
    Static(&'static [u8]),
    Empty,
}

/// All bytes of a model file, aligned to 64.
pub(super) struct Storage(Kind);

impl Storage {
    /// Opens a file. Mapped bytes are read when they are touched, shared between processes, and can be evicted by
    /// the operating system at any time.
    pub(super) fn open(path: &Path, options: OpenOptions) -> Result<Storage> {
        let io = |error: io::Error| Error::io(path, &error);
        // Checked before the file is opened, because opening a pipe waits for its other end.
        check_regular(&fs::metadata(path).map_err(io)?).map_err(|error| error.in_file(path))?;
        let file = File::open(path).map_err(io)?;
        Self::open_part(&file, None, options).map_err(|error| error.in_file(path))
    }

    /// Opens part of a file, which may be closed afterwards; `None` is all of it.
    pub(super) fn open_part(file: &File, part: Option<Range<u64>>, options: OpenOptions) -> Result<Storage> {
        let io = |error: io::Error| Error::io_text(&error);
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
        let length = part.end - part.start;
        let length = usize::try_from(length).map_err(|_| no_memory(length))?;
        if length == 0 {
            return Ok(Storage(Kind::Empty));
        }
        if !options.map {
            return Self::fill(length, |bytes| read_at(file, bytes, part.start).map_err(io));
        }
        // SAFETY: the map is read-only and private to this process. Its invariant is outside this program: no
        // other program may truncate the file while it is mapped. Quantizing replaces files by renaming, which
        // leaves a mapped file whole; `docs/format.md` states the rule for other writers.
        let map = unsafe { MmapOptions::new().offset(part.start).len(length).map(file) }.map_err(io)?;
        Ok(Storage(Kind::Map(map)))
    }

    /// Bytes that are part of the program.
    pub(super) fn from_static(bytes: &'static [u8]) -> Result<Storage> {
        if !bytes.as_ptr().addr().is_multiple_of(64) {
            return Err(Error::argument(format!(
                "model in memory: found address {:#x}, expected a multiple of 64",
                bytes.as_ptr().addr()
            )));
        }
        Ok(Storage(Kind::Static(bytes)))
    }

    /// Copies bytes that are not in a file.
    pub(super) fn copy(bytes: &[u8]) -> Result<Storage> {
        Self::fill(bytes.len(), |copy| {
            copy.copy_from_slice(bytes);
            Ok(())
        })
    }

    /// Memory of `length` bytes that `fill` writes.
    fn fill(length: usize, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Storage> {
        let count = length.div_ceil(64);
        let mut lines = Vec::new();
        lines.try_reserve_exact(count).map_err(|_| no_memory(length as u64))?;
        lines.resize(count, Aligned([0; 64]));
        fill(&mut bytemuck::cast_slice_mut(&mut lines)[..length])?;
        Ok(Storage(Kind::Memory { lines, length }))
    }
}

fn no_memory(length: u64) -> Error {
    Error::new(
        ErrorKind::Resource,
        format!("a model of {length} bytes: there is not enough memory for a copy"),
    )
}

/// Reads all of `bytes` from `offset` on. On Unix the file's own position does not move.
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset);
    #[cfg(not(unix))]
    {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = file;
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(bytes)
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
            Kind::Static(bytes) => bytes,
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
