//! The tensors of a checkpoint: one file, or shards with an index. Headers are read at once, tensor data a
//! piece at a time, so that a checkpoint of any size fits.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use cinderblock::error::{Error, Result};
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::Metadata;

/// Headers of real models have a few hundred kilobytes.
const MAX_HEADER: u64 = 2 << 20;
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Where a tensor's data lies.
#[derive(Clone, Debug)]
pub struct Entry {
    pub shape: Vec<usize>,
    dtype: Dtype,
    shard: usize,
    start: u64,
}

/// The tensors of all shards, by name.
pub struct Tensors {
    shards: Vec<(PathBuf, File)>,
    entries: HashMap<String, Entry>,
}

impl Tensors {
    /// Reads the headers of all shards in a folder.
    pub fn open(folder: &Path) -> Result<Tensors> {
        let mut tensors = Tensors { shards: Vec::new(), entries: HashMap::new() };
        let (single, index) = (folder.join(SINGLE), folder.join(INDEX));
        if single.exists() || !index.exists() {
            tensors.add_shard(single)?;
            return Ok(tensors);
        }
        let map = read_index(&index)?;
        let mut files: Vec<&String> = map.values().collect();
        files.sort_unstable();
        files.dedup();
        for file in files {
            let path = Path::new(file);
            if path.file_name() != Some(path.as_os_str()) {
                return Err(Error::mismatch("shard", format!("{file:?}"), "the name of a file beside it")
                    .in_file(&index));
            }
            tensors.add_shard(folder.join(path))?;
        }
        for (name, file) in &map {
            let shard = tensors.entries.get(name).map(|entry| &tensors.shards[entry.shard].0);
            if shard != Some(&folder.join(file)) {
                let error =
                    Error::format(format!("tensor {name:?} is not in {file:?}, where the index has it"));
                return Err(error.in_file(&index));
            }
        }
        Ok(tensors)
    }

    /// The files of all tensors.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.shards.iter().map(|shard| shard.0.as_path())
    }

    fn add_shard(&mut self, path: PathBuf) -> Result<()> {
        let (file, data_start, metadata) = read_header(&path).map_err(|error| error.in_file(&path))?;
        let shard = self.shards.len();
        for (name, info) in metadata.tensors() {
            let start = data_start + info.data_offsets.0 as u64;
            let entry = Entry { shape: info.shape.clone(), dtype: info.dtype, shard, start };
            if self.entries.insert(name.clone(), entry).is_some() {
                return Err(Error::format(format!("tensor {name:?} is in two shards")).in_file(&path));
            }
        }
        self.shards.push((path, file));
        Ok(())
    }

    /// The entry of a tensor, and the file it is in.
    pub fn get(&self, name: &str) -> Result<&Entry> {
        self.entries.get(name).ok_or_else(|| {
            let path = self.shards.first().map(|shard| shard.0.clone()).unwrap_or_default();
            Error::format(format!("tensor {name:?} is missing")).in_file(&path)
        })
    }

    /// Names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The file that holds a tensor.
    pub fn path(&self, entry: &Entry) -> &Path {
        &self.shards[entry.shard].0
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
        let entry = self.get(name)?;
        let (path, file) = &self.shards[entry.shard];
        let size = match entry.dtype {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::BF16 => 2,
            other => {
                let error =
                    Error::mismatch(format!("tensor {name:?}"), format!("{other:?}"), "F32, F16 or BF16");
                return Err(error.in_file(path));
            }
        };
        bytes.resize(count * size, 0);
        let mut file: &File = file;
        file.seek(SeekFrom::Start(entry.start + (first * size) as u64))
            .and_then(|_| file.read_exact(bytes))
            .map_err(|error| Error::io(path, &error))?;
        output.clear();
        match entry.dtype {
            Dtype::F32 => output.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
            Dtype::F16 => output.extend(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())),
            _ => output.extend(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32())),
        }
        if let Some(at) = output.iter().position(|value| !value.is_finite()) {
            let subject = format!("tensor {name:?}, element {}", first + at);
            return Err(Error::mismatch(subject, output[at], "finite numbers").in_file(path));
        }
        Ok(())
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
    let header = u64::from_le_bytes(start);
    if header > MAX_HEADER.min(length - 8) {
        let expected = format!("at most {} (truncated, or no safetensors file?)", MAX_HEADER.min(length - 8));
        return Err(Error::mismatch("header length", header, expected));
    }
    let mut json = vec![0; header as usize];
    file.read_exact(&mut json).map_err(io)?;
    let metadata: Metadata = serde_json::from_slice(&json)
        .map_err(|error| Error::format(format!("header is not valid: {error}")))?;
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
    let io = |error: std::io::Error| Error::io(path, &error);
    let metadata = std::fs::metadata(path).map_err(io)?;
    if !metadata.is_file() {
        return Err(Error::mismatch("file type", "no regular file", "a shard index").in_file(path));
    }
    let length = metadata.len();
    if length > MAX_HEADER {
        return Err(Error::mismatch("index", format!("{length} bytes"), format!("at most {MAX_HEADER}"))
            .in_file(path));
    }
    let bytes = std::fs::read(path).map_err(io)?;
    let index: ShardIndex = serde_json::from_slice(&bytes)
        .map_err(|error| Error::format(format!("not a shard index: {error}")).in_file(path))?;
    if index.weight_map.is_empty() {
        return Err(Error::format("the shard index names no tensor").in_file(path));
    }
    Ok(index.weight_map)
}
