//! The tensors of a checkpoint: one file, or shards with an index. Headers are read at once, tensor data a
//! piece at a time, so that a checkpoint of any size fits.

use std::collections::{HashMap, HashSet};
use std::fmt::{Display, Formatter};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use byteorder::{ByteOrder, LE};
use cinderblock::{Error, ErrorKind, Result};
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::yaml::without_mark;
use crate::input::read_regular;
use crate::interrupt;

/// Headers of real models have a few hundred kilobytes, and some megabytes where they carry other metadata. The format
/// allows 100 MB, which parse to gigabytes where they are made to.
const MAX_HEADER: u64 = 4 << 20;
/// Indexes of real models have a few hundred kilobytes.
const MAX_INDEX: u64 = 2 << 20;
/// Words that wrappers of a model put in front of its tensors' names: data parallelism, and `torch.compile`.
const WRAPPERS: [&str; 2] = ["module.", "_orig_mod."];
/// Bytes that are compared at a time.
const CHUNK: usize = 1 << 20;

/// Where a tensor's data lies.
#[derive(Clone, Debug)]
pub struct Entry {
    pub shape: Vec<usize>,
    dtype: Dtype,
    file: usize,
    start: u64,
}

/// The tensors of all files, by name.
#[derive(Default)]
pub struct Tensors {
    files: Vec<(PathBuf, File)>,
    entries: HashMap<String, Entry>,
}

/// The name of a tensor in the whole model: without wrappers, and with the name of its part in front.
fn whole_name(name: &str, part: &str) -> String {
    let mut name = name;
    while let Some(rest) = WRAPPERS.iter().find_map(|wrapper| name.strip_prefix(wrapper)) {
        name = rest;
    }
    // A part may have been compiled by itself.
    let name = name.replace("._orig_mod.", ".");
    if name.starts_with(part) { name } else { format!("{part}{name}") }
}

impl Tensors {
    /// Adds the tensors of a file; `part` is what stands before their names in the whole model.
    ///
    /// # Errors
    /// If it is no safetensors file, or a tensor is there already.
    pub fn add_file(&mut self, path: PathBuf, part: &str) -> Result<()> {
        let (file, data_start, metadata) = read_header(&path).map_err(|error| error.in_file(&path))?;
        let index = self.files.len();
        for (name, info) in metadata.tensors() {
            let start = data_start + info.data_offsets.0 as u64;
            let entry = Entry { shape: info.shape.clone(), dtype: info.dtype, file: index, start };
            let name = whole_name(&name, part);
            if self.entries.contains_key(&name) {
                return Err(Error::format(format!("tensor {name:?} appears twice")).in_file(&path));
            }
            self.entries.insert(name, entry);
        }
        self.files.push((path, file));
        Ok(())
    }

    /// Adds the tensors of all shards that an index lists.
    ///
    /// # Errors
    /// As [`Tensors::add_file`], and if the index and the shards contradict each other.
    pub fn add_shards(&mut self, index: &Path, part: &str) -> Result<()> {
        let map = read_index(index)?;
        let folder = index.parent().unwrap_or(Path::new(""));
        let mut files: Vec<&String> = map.values().collect();
        files.sort_unstable();
        files.dedup();
        for file in files {
            let path = Path::new(file);
            if path.file_name() != Some(path.as_os_str()) {
                return Err(Error::mismatch("shard", format!("{file:?}"), "the name of a file beside it")
                    .in_file(index));
            }
            self.add_file(folder.join(path), part)?;
        }
        for (name, file) in &map {
            let shard = self.entries.get(&whole_name(name, part)).map(|entry| &self.files[entry.file].0);
            if shard != Some(&folder.join(file)) {
                let error =
                    Error::format(format!("tensor {name:?} is not in {file:?}, where the index has it"));
                return Err(error.in_file(index));
            }
        }
        Ok(())
    }

    /// Whether both hold the same tensors with the same values.
    pub fn equals(&self, other: &Tensors) -> Result<bool> {
        let shapes = |name: &String, entry: &Entry| {
            other.entries.get(name).is_some_and(|found| found.shape == entry.shape)
        };
        if self.entries.len() != other.entries.len()
            || !self.entries.iter().all(|(name, entry)| shapes(name, entry))
        {
            return Ok(false);
        }
        let [mut raw, mut other_raw] = [Vec::new(), Vec::new()];
        let [mut floats, mut other_floats] = [Vec::new(), Vec::new()];
        for (name, entry) in &self.entries {
            let found = &other.entries[name];
            let count: usize = entry.shape.iter().product();
            for first in (0..count).step_by(CHUNK) {
                interrupt::check()?;
                let part = CHUNK.min(count - first);
                self.raw(entry, first, part, &mut raw)?;
                other.raw(found, first, part, &mut other_raw)?;
                if entry.dtype == found.dtype {
                    if raw != other_raw {
                        return Ok(false);
                    }
                } else if !is_float(entry.dtype) || !is_float(found.dtype) {
                    return Ok(false);
                } else {
                    to_floats(entry.dtype, &raw, &mut floats);
                    to_floats(found.dtype, &other_raw, &mut other_floats);
                    if floats != other_floats {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    /// Reads `count` elements of a tensor from element `first` on, as they are stored.
    fn raw(&self, entry: &Entry, first: usize, count: usize, bytes: &mut Vec<u8>) -> Result<()> {
        let (path, file) = &self.files[entry.file];
        let bits = entry.dtype.bitsize();
        bytes.resize((count * bits).div_ceil(8), 0);
        let mut file: &File = file;
        file.seek(SeekFrom::Start(entry.start + (first * bits / 8) as u64))
            .and_then(|_| file.read_exact(bytes))
            .map_err(|error| Error::io(path, &error))
    }

    /// The entry of a tensor, and the file it is in.
    pub fn get(&self, name: &str) -> Result<&Entry> {
        self.entries.get(name).ok_or_else(|| {
            let path = self.files.first().map(|file| file.0.clone()).unwrap_or_default();
            Error::format(format!("tensor {name:?} is missing")).in_file(&path)
        })
    }

    /// Names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The file that holds a tensor.
    pub fn path(&self, entry: &Entry) -> &Path {
        &self.files[entry.file].0
    }

    /// All files, in the order in which they were added.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.0.as_path())
    }

    /// # Errors
    /// If a tensor's elements are no floats that are read here.
    pub fn check_floats(&self, name: &str) -> Result<&Entry> {
        let entry = self.get(name)?;
        if is_float(entry.dtype) {
            return Ok(entry);
        }
        let found = format!("{:?}", entry.dtype);
        Err(Error::mismatch(format!("tensor {name:?}"), found, "F32, F16 or BF16").in_file(self.path(entry)))
    }

    /// Reads `count` elements of a tensor from element `first` on, as floats, into `output`.
    ///
    /// # Errors
    /// If the element type is not a float type, the file ends early, or a value is not finite.
    pub fn read(
        &self,
        name: &str,
        first: usize,
        count: usize,
        bytes: &mut Vec<u8>,
        output: &mut Vec<f32>,
    ) -> Result<()> {
        let entry = self.check_floats(name)?;
        self.raw(entry, first, count, bytes)?;
        to_floats(entry.dtype, bytes, output);
        if let Some(at) = output.iter().position(|value| !value.is_finite()) {
            let subject = format!("tensor {name:?}, element {}", first + at);
            return Err(Error::mismatch(subject, output[at], "finite numbers").in_file(self.path(entry)));
        }
        Ok(())
    }
}

fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

/// Elements of a float type as floats.
fn to_floats(dtype: Dtype, bytes: &[u8], output: &mut Vec<f32>) {
    output.clear();
    match dtype {
        Dtype::F32 => output.extend(bytes.chunks_exact(4).map(LE::read_f32)),
        Dtype::F16 => output.extend(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())),
        _ => output.extend(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32())),
    }
}

/// The tensors of a header. Its metadata is skipped: entries of two bytes each would take thirty times as much memory.
struct Header(Vec<(String, TensorInfo)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Header, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
                let (mut tensors, mut names) = (Vec::new(), HashSet::new());
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    if !names.insert(name.clone()) {
                        return Err(A::Error::custom(format_args!("tensor {name:?} appears twice")));
                    }
                    tensors.push((name, map.next_value()?));
                }
                Ok(Header(tensors))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

fn read_header(path: &Path) -> Result<(File, u64, Metadata)> {
    let io = |error: std::io::Error| Error::io(path, &error);
    let length = std::fs::metadata(path).map_err(io)?;
    if !length.is_file() {
        return Err(Error::mismatch("file type", "no regular file", "a safetensors file"));
    }
    let length = length.len();
    let mut file = File::open(path).map_err(io)?;
    let mut start = [0; 8];
    if length < 8 {
        return Err(Error::mismatch("size", format!("{length} bytes"), "at least 8 (truncated?)"));
    }
    file.read_exact(&mut start).map_err(io)?;
    if start == *b"version " {
        let mut rest = [0; 16];
        let pointer = file.read(&mut rest).map_err(io)?;
        if rest[..pointer].starts_with(b"https://git-lfs") {
            return Err(Error::unsupported("a Git LFS pointer, not the file itself: run git lfs pull"));
        }
    }
    let header = LE::read_u64(&start);
    if header > MAX_HEADER.min(length - 8) {
        let expected = format!("at most {} (truncated, or no safetensors file?)", MAX_HEADER.min(length - 8));
        return Err(Error::mismatch("header length", header, expected));
    }
    let mut json = Vec::new();
    json.try_reserve_exact(header as usize).map_err(|_| {
        Error::new(ErrorKind::Resource, format!("header: {header} bytes cannot be allocated"))
    })?;
    json.resize(header as usize, 0);
    file.read_exact(&mut json).map_err(io)?;
    let invalid = |error: &dyn Display| Error::format(format!("header is not valid: {error}"));
    let Header(mut tensors) = serde_json::from_slice(&json).map_err(|error| invalid(&error))?;
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let metadata = Metadata::new(None, tensors).map_err(|error| invalid(&error))?;
    // The crate checks that tensors cover the data without gaps, but not that the data is there.
    let expected = (8 + header).saturating_add(metadata.data_len() as u64);
    if expected != length {
        return Err(Error::mismatch("size", format!("{length} bytes"), expected));
    }
    for (name, info) in metadata.tensors() {
        let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |bits, &n| bits.checked_mul(n));
        let bytes = info.data_offsets.1.checked_sub(info.data_offsets.0).and_then(|n| n.checked_mul(8));
        if bits != bytes || bits.is_none() {
            return Err(Error::format(format!("tensor {name:?}: its shape and its bytes disagree")));
        }
    }
    Ok((file, 8 + header, metadata))
}

#[derive(serde::Deserialize)]
struct ShardIndex {
    weight_map: HashMap<String, String>,
}

fn read_index(path: &Path) -> Result<HashMap<String, String>> {
    let bytes = read_regular(path, "a shard index", MAX_INDEX)?;
    let index: ShardIndex = serde_json::from_slice(without_mark(&bytes))
        .map_err(|error| Error::format(format!("not a shard index: {error}")).in_file(path))?;
    if index.weight_map.is_empty() {
        return Err(Error::format("the shard index names no tensor").in_file(path));
    }
    Ok(index.weight_map)
}
