//! A streaming writer: the header first, then tensor after tensor, so that memory holds one chunk at a time.
//!
//! Checksums are known only after the data, so their array is written as zeros and patched at the end. The
//! destination is any seekable stream; the caller makes it atomic (temporary file, fsync, rename).

use std::io::{self, Seek, SeekFrom, Write};

use super::{ALIGNMENT, ElementType, MAGIC, VERSION, Value, ValueType};

/// A tensor that will be written: name, type and shape (innermost dimension first).
#[derive(Clone, Debug)]
pub struct NewTensor {
    /// Unique name.
    pub name: String,
    /// Type of the elements.
    pub element: ElementType,
    /// Shape, innermost dimension first.
    pub dimensions: Vec<u64>,
}

impl NewTensor {
    /// Bytes of the tensor's data.
    pub fn bytes(&self) -> u64 {
        self.dimensions.iter().product::<u64>() * self.element.bytes()
    }
}

/// Builds the header in memory, then streams tensor data after it.
///
/// Order of calls: metadata, [`Writer::checksums`], [`Writer::begin`], then for every tensor in order its
/// bytes through [`Writer::write`] and one [`Writer::end_tensor`], and [`Writer::finish`].
pub struct Writer<W: Write + Seek> {
    output: W,
    header: Vec<u8>,
    keys: u64,
    tensors: Vec<NewTensor>,
    /// Where the list of checksums is to be, if there is to be one.
    checksums_at: Option<u64>,
    checksums: Vec<u32>,
    hasher: crc32fast::Hasher,
    written: u64,
}

impl<W: Write + Seek> Writer<W> {
    /// A writer of `tensors`, in this order.
    pub fn new(output: W, tensors: Vec<NewTensor>) -> Self {
        Writer {
            output,
            header: Vec::new(),
            keys: 0,
            tensors,
            checksums_at: None,
            checksums: Vec::new(),
            hasher: crc32fast::Hasher::new(),
            written: 0,
        }
    }

    fn raw_string(&mut self, text: &str) {
        self.header.extend((text.len() as u64).to_le_bytes());
        self.header.extend(text.as_bytes());
    }

    fn key(&mut self, key: &str, kind: ValueType) {
        self.raw_string(key);
        self.header.extend((kind as u32).to_le_bytes());
        self.keys += 1;
    }

    fn array(&mut self, key: &str, element: ValueType, count: usize) {
        self.key(key, ValueType::Array);
        self.header.extend((element as u32).to_le_bytes());
        self.header.extend((count as u64).to_le_bytes());
    }

    /// Adds text.
    pub fn text(&mut self, key: &str, value: &str) {
        self.key(key, ValueType::String);
        self.raw_string(value);
    }

    /// Adds an unsigned 32-bit integer.
    pub fn u32(&mut self, key: &str, value: u32) {
        self.key(key, ValueType::U32);
        self.header.extend(value.to_le_bytes());
    }

    /// Adds a 32-bit float.
    pub fn f32(&mut self, key: &str, value: f32) {
        self.key(key, ValueType::F32);
        self.header.extend(value.to_le_bytes());
    }

    /// Adds a value as it was read from another file.
    pub fn value(&mut self, key: &str, value: &Value<'_>) {
        let fixed = |kind: ValueType, bytes: [u8; 8]| (kind, bytes);
        let (kind, bytes) = match *value {
            Value::Unsigned(kind, value) => fixed(kind, value.to_le_bytes()),
            Value::Signed(kind, value) => fixed(kind, value.to_le_bytes()),
            Value::Float(ValueType::F32, value) => {
                fixed(ValueType::F32, u64::from((value as f32).to_bits()).to_le_bytes())
            }
            Value::Float(kind, value) => fixed(kind, value.to_le_bytes()),
            Value::Bool(value) => fixed(ValueType::Bool, u64::from(value).to_le_bytes()),
            Value::String(text) => return self.text(key, text),
            Value::Array(array) => {
                self.array(key, array.element, array.count);
                self.header.extend(array.bytes);
                return;
            }
        };
        self.key(key, kind);
        self.header.extend(&bytes[..kind.fixed_bytes().unwrap_or(bytes.len())]);
    }

    /// Adds a list of texts.
    pub fn texts<'t>(&mut self, key: &str, values: impl ExactSizeIterator<Item = &'t str>) {
        self.array(key, ValueType::String, values.len());
        for value in values {
            self.raw_string(value);
        }
    }

    /// Adds a list of unsigned 32-bit integers.
    pub fn u32s(&mut self, key: &str, values: impl ExactSizeIterator<Item = u32>) {
        self.array(key, ValueType::U32, values.len());
        for value in values {
            self.header.extend(value.to_le_bytes());
        }
    }

    /// Adds the list of CRC-32 checksums, one a tensor, that [`Writer::finish`] fills in.
    pub fn checksums(&mut self, key: &str) {
        let count = self.tensors.len();
        self.array(key, ValueType::U32, count);
        self.checksums_at = Some(self.header.len() as u64);
        self.header.resize(self.header.len() + 4 * count, 0);
    }

    /// Writes the header. `general.alignment` is added here.
    ///
    /// # Errors
    /// If the output cannot be written.
    pub fn begin(&mut self) -> io::Result<()> {
        self.u32("general.alignment", ALIGNMENT as u32);
        let mut start = Vec::with_capacity(24);
        start.extend(MAGIC);
        start.extend(VERSION.to_le_bytes());
        start.extend((self.tensors.len() as u64).to_le_bytes());
        start.extend(self.keys.to_le_bytes());
        self.checksums_at = self.checksums_at.map(|at| at + start.len() as u64);

        let mut offset = 0u64;
        for tensor in std::mem::take(&mut self.tensors) {
            self.raw_string(&tensor.name);
            self.header.extend((tensor.dimensions.len() as u32).to_le_bytes());
            for dimension in &tensor.dimensions {
                self.header.extend(dimension.to_le_bytes());
            }
            self.header.extend(tensor.element.code().to_le_bytes());
            self.header.extend(offset.to_le_bytes());
            offset = (offset + tensor.bytes()).next_multiple_of(ALIGNMENT);
        }
        self.output.write_all(&start)?;
        self.output.write_all(&self.header)?;
        self.written = (start.len() + self.header.len()) as u64;
        self.header = Vec::new();
        Ok(())
    }

    /// Pads to the alignment. Called before data, never after it: a file ends with its last tensor, so that
    /// a file that is one byte short is noticed.
    fn pad(&mut self) -> io::Result<()> {
        let gap = self.written.next_multiple_of(ALIGNMENT) - self.written;
        self.output.write_all(&[0; ALIGNMENT as usize][..gap as usize])?;
        self.written += gap;
        Ok(())
    }

    /// Starts the next tensor.
    ///
    /// # Errors
    /// If the output cannot be written.
    pub fn begin_tensor(&mut self) -> io::Result<()> {
        self.hasher = crc32fast::Hasher::new();
        self.pad()
    }

    /// Appends bytes to the current tensor.
    ///
    /// # Errors
    /// If the output cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.output.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Ends the current tensor and notes its checksum.
    pub fn end_tensor(&mut self) {
        self.checksums.push(std::mem::take(&mut self.hasher).finalize());
    }

    /// Fills in the checksums and returns the stream and the number of bytes written.
    ///
    /// # Errors
    /// If the output cannot be written.
    pub fn finish(mut self) -> io::Result<(W, u64)> {
        if let Some(at) = self.checksums_at {
            self.output.seek(SeekFrom::Start(at))?;
            for checksum in &self.checksums {
                self.output.write_all(&checksum.to_le_bytes())?;
            }
        }
        self.output.flush()?;
        Ok((self.output, self.written))
    }
}
