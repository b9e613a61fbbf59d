//! GGUF version 3: bytes to a validated index, and a streaming, atomic writer.
//!
//! This module knows the container only: neither kernels nor what the tensors mean. The reader is a pure
//! function over bytes that validates everything once; after it, no index can be out of bounds. What the
//! keys and tensors of a model file mean is in `docs/format.md`.
#![forbid(unsafe_code)]

mod reader;
mod value;
mod writer;

pub use reader::{Index, TensorInfo};
pub use value::{Array, Value, ValueType};
pub use writer::{NewTensor, Writer};

/// The four bytes that begin every file.
pub const MAGIC: [u8; 4] = *b"GGUF";
/// The only version that is read and written.
pub const VERSION: u32 = 3;
/// Alignment of tensor data in files written here: a cache line, and an AVX-512 register.
pub const ALIGNMENT: u64 = 64;

/// How the container describes a tensor's elements. Only types that need no block structure appear: panels
/// of quantized weights are stored as bytes (`I8`), and their meaning is recorded beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementType {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of a single.
    Bf16,
    /// Bytes.
    I8,
}

impl ElementType {
    const TABLE: [(ElementType, u32, &'static str, u64); 4] = [
        (ElementType::F32, 0, "F32", 4),
        (ElementType::F16, 1, "F16", 2),
        (ElementType::Bf16, 30, "BF16", 2),
        (ElementType::I8, 24, "I8", 1),
    ];

    fn row(self) -> (ElementType, u32, &'static str, u64) {
        Self::TABLE[self as usize]
    }

    /// The number that stands for the type in a file.
    pub fn code(self) -> u32 {
        self.row().1
    }

    /// The type that a number in a file stands for.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::TABLE.iter().find(|row| row.1 == code).map(|row| row.0)
    }

    /// The name that other tools print.
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// Bytes of one element.
    pub fn bytes(self) -> u64 {
        self.row().3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn element_table_is_in_order() {
        for (index, row) in ElementType::TABLE.iter().enumerate() {
            assert_eq!(row.0 as usize, index);
            assert_eq!(ElementType::from_code(row.0.code()), Some(row.0));
        }
    }
}
