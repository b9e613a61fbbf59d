//! Bytes to a validated index. Every count is compared with the bytes that remain before it is used, every
//! sum and product is checked, and every tensor is in bounds, aligned and disjoint from the others.

use std::collections::HashMap;

use byteorder::{ByteOrder, LE};

use super::{ElementType, MAGIC, VERSION, Value, ValueType, value::Array};
use crate::error::{Error, Result};

/// Far above any model (thousands), far below what would cost memory.
const MAX_ENTRIES: u64 = 1 << 16;
/// What the specification says of a file that does not give `general.alignment`.
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_ALIGNMENT: u64 = 1 << 16;

/// A validated view of a file: its metadata and where its tensors lie.
pub struct Index<'a> {
    metadata: Vec<(&'a str, Value<'a>)>,
    keys: HashMap<&'a str, usize>,
    tensors: Vec<TensorInfo<'a>>,
    data_start: u64,
}

/// A tensor's entry: name, type, shape and the bytes it occupies.
#[derive(Clone, Debug)]
pub struct TensorInfo<'a> {
    /// Unique name.
    pub name: &'a str,
    /// Type of the elements.
    pub element: ElementType,
    /// Shape, innermost dimension first; 1 to 4 entries, none of them 0.
    pub dimensions: Vec<u64>,
    /// First byte, counted from the start of the file.
    pub start: usize,
    /// Number of bytes.
    pub bytes: usize,
}

impl<'a> Index<'a> {
    /// Reads and validates the whole header of a file of which `file` is every byte.
    ///
    /// A file whose `general.architecture` is not `architecture` is refused before its tensors are looked
    /// at, because other architectures use tensor types that are unknown here.
    ///
    /// # Errors
    /// The first thing that is wrong, with what was found and what was expected.
    pub fn parse(file: &'a [u8], architecture: &str) -> Result<Self> {
        let mut cursor = Cursor { file, at: 0 };
        let magic = cursor.take(4, "magic").map_err(|_| not_gguf(file))?;
        if magic != MAGIC {
            return Err(not_gguf(file));
        }
        let version = cursor.u32("version")?;
        if version != VERSION {
            let hint = if version.swap_bytes() == VERSION { " (a big-endian file)" } else { "" };
            return Err(Error::mismatch("GGUF version", format!("{version}{hint}"), VERSION));
        }
        // An entry of either table occupies at least 13 bytes. A file with holes can be long and have none of them, so
        // that the tables grow with what is read.
        let tensor_count = cursor.count("tensor count", 13)?;
        let key_count = cursor.count("metadata count", 13)?;

        let mut metadata = Vec::new();
        let mut keys = HashMap::new();
        for _ in 0..key_count {
            let key = cursor.string("metadata key")?;
            let value = cursor.value(key)?;
            if keys.insert(key, metadata.len()).is_some() {
                return Err(Error::format(format!("metadata key {key:?} appears twice")));
            }
            metadata.push((key, value));
        }
        let mut index = Index { metadata, keys, tensors: Vec::new(), data_start: 0 };

        let found = index.text("general.architecture")?;
        if found != architecture {
            return Err(Error::unsupported(format!(
                "general.architecture: found {found:?}, expected {architecture:?}"
            )));
        }
        let alignment = match index.get("general.alignment") {
            None => DEFAULT_ALIGNMENT,
            Some(value) => value
                .as_u64()
                .filter(|a| a.is_power_of_two() && *a <= MAX_ALIGNMENT)
                .ok_or_else(|| Error::mismatch("general.alignment", value, "a power of two up to 65536"))?,
        };

        let mut infos = Vec::new();
        let mut names = HashMap::new();
        for position in 0..tensor_count {
            let info = cursor.tensor_info(alignment)?;
            if names.insert(info.name, position).is_some() {
                return Err(Error::format(format!("tensor name {:?} appears twice", info.name)));
            }
            infos.push(info);
        }
        index.data_start = (cursor.at as u64)
            .checked_next_multiple_of(alignment)
            .ok_or_else(|| Error::format("the header overflows"))?;
        index.place(infos, file.len() as u64, alignment)?;
        Ok(index)
    }

    /// Checks that the tensors are in bounds, disjoint, and followed by nothing, then records them.
    fn place(&mut self, infos: Vec<RawTensor<'a>>, file_bytes: u64, alignment: u64) -> Result<()> {
        let mut placed = Vec::with_capacity(infos.len());
        for (position, info) in infos.iter().enumerate() {
            let start = self.data_start.checked_add(info.offset);
            let end = start.and_then(|start| start.checked_add(info.bytes));
            match (start, end) {
                (Some(start), Some(end)) if end <= file_bytes => placed.push((start, end, position)),
                _ => {
                    return Err(Error::mismatch(
                        format!("tensor {:?}", info.name),
                        format!("{} bytes at offset {}", info.bytes, info.offset),
                        format!("them inside a file of {file_bytes} bytes"),
                    ));
                }
            }
        }
        placed.sort_unstable();
        for pair in placed.windows(2) {
            let ((_, end, first), (start, _, second)) = (pair[0], pair[1]);
            if start < end {
                let (first, second) = (infos[first].name, infos[second].name);
                return Err(Error::format(format!("tensors {first:?} and {second:?} overlap")));
            }
        }
        let end = placed.last().map_or(self.data_start, |last| last.1);
        if file_bytes.saturating_sub(end) >= alignment {
            return Err(Error::mismatch("end of file", format!("{file_bytes} bytes"), format!("{end}")));
        }
        for info in infos {
            // In bounds of a slice, hence within usize.
            let start = (self.data_start + info.offset) as usize;
            self.tensors.push(TensorInfo {
                name: info.name,
                element: info.element,
                dimensions: info.dimensions,
                start,
                bytes: info.bytes as usize,
            });
        }
        Ok(())
    }

    /// All metadata in file order.
    pub fn metadata(&self) -> &[(&'a str, Value<'a>)] {
        &self.metadata
    }

    /// All tensors in file order.
    pub fn tensors(&self) -> &[TensorInfo<'a>] {
        &self.tensors
    }

    /// First byte of tensor data, counted from the start of the file.
    pub fn data_start(&self) -> u64 {
        self.data_start
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        self.keys.get(key).map(|&at| self.metadata[at].1)
    }

    fn require<T>(&self, key: &str, expected: &str, read: impl Fn(&Value<'a>) -> Option<T>) -> Result<T> {
        let value = self
            .get(key)
            .ok_or_else(|| Error::format(format!("metadata key {key:?} is missing, expected {expected}")))?;
        read(&value).ok_or_else(|| Error::mismatch(key, value, expected))
    }

    /// A key that must hold text.
    ///
    /// # Errors
    /// If the key is missing or holds anything else.
    pub fn text(&self, key: &str) -> Result<&'a str> {
        self.require(key, "text", Value::as_str)
    }

    /// A key that must hold an integer in `range`.
    ///
    /// # Errors
    /// If the key is missing or holds anything else.
    pub fn integer(&self, key: &str, range: std::ops::RangeInclusive<u64>) -> Result<usize> {
        let expected = format!("an integer from {} to {}", range.start(), range.end());
        let read = |v: &Value| v.as_u64().filter(|v| range.contains(v)).and_then(|v| v.try_into().ok());
        self.require(key, &expected, read)
    }

    /// A key that must hold a finite float.
    ///
    /// # Errors
    /// If the key is missing or holds anything else.
    pub fn float(&self, key: &str) -> Result<f64> {
        self.require(key, "a finite float", |v| v.as_f64().filter(|v| v.is_finite()))
    }

    /// A key that must hold a list of `count` values.
    ///
    /// # Errors
    /// If the key is missing or holds anything else.
    pub fn list(&self, key: &str, count: usize) -> Result<Array<'a>> {
        let expected = format!("a list of {count}");
        self.require(key, &expected, |v| v.as_array().filter(|a| a.len() == count))
    }
}

fn not_gguf(file: &[u8]) -> Error {
    let start = file.trim_ascii_start();
    let begins = |text: &[u8]| start.get(..text.len()).is_some_and(|s| s.eq_ignore_ascii_case(text));
    let found = if file.is_empty() {
        "an empty file".to_string()
    } else if begins(b"<!doctype") || begins(b"<html") {
        "an HTML page (a failed download?)".to_string()
    } else if begins(b"version https://git-lfs") {
        "a Git LFS pointer".to_string()
    } else {
        format!("{:?}", String::from_utf8_lossy(&file[..file.len().min(8)]))
    };
    Error::mismatch("start of file", found, "the magic \"GGUF\"")
}

struct RawTensor<'a> {
    name: &'a str,
    element: ElementType,
    dimensions: Vec<u64>,
    offset: u64,
    bytes: u64,
}

struct Cursor<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, bytes: usize, what: &str) -> Result<&'a [u8]> {
        let left = &self.file[self.at..];
        let taken = left.get(..bytes).ok_or_else(|| {
            Error::mismatch(
                format!("{what} at byte {}", self.at),
                format!("{} bytes", left.len()),
                format!("{bytes} (truncated file?)"),
            )
        })?;
        self.at += bytes;
        Ok(taken)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(LE::read_u32(self.take(4, what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(LE::read_u64(self.take(8, what)?))
    }

    /// A count of entries that each occupy at least `least` bytes of what remains.
    fn count(&mut self, what: &str, least: u64) -> Result<usize> {
        let count = self.u64(what)?;
        let room = (self.file.len() - self.at) as u64 / least;
        if count > room.min(MAX_ENTRIES) {
            let expected = format!("at most {}", room.min(MAX_ENTRIES));
            return Err(Error::mismatch(what, count, expected));
        }
        Ok(count as usize)
    }

    fn string(&mut self, what: &str) -> Result<&'a str> {
        let at = self.at;
        let length = self.u64(what)?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let bytes = self.take(length, what)?;
        std::str::from_utf8(bytes).map_err(|_| Error::format(format!("{what} at byte {at} is not UTF-8")))
    }

    fn value_type(&mut self, key: &str) -> Result<ValueType> {
        let code = self.u32(key)?;
        ValueType::from_code(code)
            .ok_or_else(|| Error::mismatch(format!("type of metadata key {key:?}"), code, "0 to 12"))
    }

    fn value(&mut self, key: &str) -> Result<Value<'a>> {
        let kind = self.value_type(key)?;
        if let Some(size) = kind.fixed_bytes() {
            let bytes = self.take(size, key)?;
            return Value::from_fixed(kind, bytes)
                .ok_or_else(|| Error::mismatch(format!("metadata key {key:?}"), bytes[0], "0 or 1"));
        }
        if kind == ValueType::String {
            return Ok(Value::String(self.string(key)?));
        }
        let element = self.value_type(key)?;
        let count = self.u64(key)?;
        let start = self.at;
        self.skip_elements(key, element, count)?;
        // Every element occupies at least a byte that was just passed, so the count fits.
        Ok(Value::Array(Array { element, count: count as usize, bytes: &self.file[start..self.at] }))
    }

    fn skip_elements(&mut self, key: &str, element: ValueType, count: u64) -> Result<()> {
        match element {
            ValueType::String => {
                for _ in 0..count {
                    self.string(key)?;
                }
            }
            // Nested arrays are legal, used by nobody, and a way to build a bomb.
            ValueType::Array => {
                return Err(Error::unsupported(format!("metadata key {key:?} holds an array of arrays")));
            }
            _ => {
                let size = element.fixed_bytes().unwrap_or(1) as u64;
                let bytes = count.checked_mul(size).and_then(|bytes| usize::try_from(bytes).ok());
                let taken = self.take(bytes.unwrap_or(usize::MAX), key)?;
                if element == ValueType::Bool && taken.iter().any(|&byte| byte > 1) {
                    return Err(Error::format(format!("metadata key {key:?} holds a bool above 1")));
                }
            }
        }
        Ok(())
    }

    fn tensor_info(&mut self, alignment: u64) -> Result<RawTensor<'a>> {
        let name = self.string("tensor name")?;
        let subject = |what: &str| format!("tensor {name:?}, {what}");
        let rank = self.u32("tensor rank")?;
        if !(1..=4).contains(&rank) {
            return Err(Error::mismatch(subject("rank"), rank, "1 to 4"));
        }
        let mut dimensions = Vec::with_capacity(rank as usize);
        let mut elements = 1u64;
        for _ in 0..rank {
            let dimension = self.u64("tensor dimension")?;
            elements = elements.checked_mul(dimension).filter(|&n| n > 0).ok_or_else(|| {
                Error::mismatch(subject("dimension"), dimension, "a positive one whose product fits")
            })?;
            dimensions.push(dimension);
        }
        let code = self.u32("tensor type")?;
        let element = ElementType::from_code(code).ok_or_else(|| {
            Error::mismatch(subject("type"), code, "0 (F32), 1 (F16), 24 (I8) or 30 (BF16)")
        })?;
        let bytes = elements
            .checked_mul(element.bytes())
            .ok_or_else(|| Error::mismatch(subject("size"), format!("{elements} elements"), "fewer"))?;
        let offset = self.u64("tensor offset")?;
        if !offset.is_multiple_of(alignment) {
            return Err(Error::mismatch(subject("offset"), offset, format!("a multiple of {alignment}")));
        }
        Ok(RawTensor { name, element, dimensions, offset, bytes })
    }
}
