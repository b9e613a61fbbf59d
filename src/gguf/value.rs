//! Metadata values. They borrow from the file: a hostile count cannot make the reader allocate.

use std::fmt;

use byteorder::{ByteOrder, LE};

/// The types a metadata value can have, with the numbers that stand for them in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
#[repr(u32)]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    const ALL: [ValueType; 13] = {
        use ValueType::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64]
    };

    /// The type that a number in a file stands for.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.get(code as usize).copied()
    }

    /// Bytes of a value of fixed size; `None` for strings and arrays.
    pub fn fixed_bytes(self) -> Option<usize> {
        use ValueType::*;
        match self {
            U8 | I8 | Bool => Some(1),
            U16 | I16 => Some(2),
            U32 | I32 | F32 => Some(4),
            U64 | I64 | F64 => Some(8),
            String | Array => None,
        }
    }
}

/// One metadata value, borrowed from the file's bytes.
#[derive(Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// Any unsigned integer.
    Unsigned(ValueType, u64),
    /// Any signed integer.
    Signed(ValueType, i64),
    /// A float of either width.
    Float(ValueType, f64),
    /// A truth value.
    Bool(bool),
    /// UTF-8 text.
    String(&'a str),
    /// A list of values of one type.
    Array(Array<'a>),
}

/// A list of values of one fixed-size type, or of strings.
#[derive(Clone, Copy, PartialEq)]
pub struct Array<'a> {
    pub(super) element: ValueType,
    pub(super) count: usize,
    pub(super) bytes: &'a [u8],
}

impl<'a> Value<'a> {
    /// Decodes a value of fixed size from exactly its bytes.
    pub(super) fn from_fixed(kind: ValueType, bytes: &[u8]) -> Option<Value<'static>> {
        use ValueType::*;
        Some(match kind {
            U8 | U16 | U32 | U64 => Value::Unsigned(kind, LE::read_uint(bytes, bytes.len())),
            I8 | I16 | I32 | I64 => Value::Signed(kind, LE::read_int(bytes, bytes.len())),
            F32 => Value::Float(kind, f64::from(LE::read_f32(bytes))),
            F64 => Value::Float(kind, LE::read_f64(bytes)),
            Bool => match bytes {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                _ => return None,
            },
            String | Array => return None,
        })
    }

    /// The value as an unsigned integer, if it is a non-negative integer of any width.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Value::Unsigned(_, value) => Some(value),
            Value::Signed(_, value) => u64::try_from(value).ok(),
            _ => None,
        }
    }

    /// The value as a float, if it is one.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Value::Float(_, value) => Some(value),
            _ => None,
        }
    }

    /// The value as text.
    pub fn as_str(&self) -> Option<&'a str> {
        match *self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The value as a list.
    pub fn as_array(&self) -> Option<Array<'a>> {
        match *self {
            Value::Array(array) => Some(array),
            _ => None,
        }
    }
}

impl<'a> Array<'a> {
    /// A list of values of fixed size from their little-endian bytes; `None` if these are not a whole number of them.
    pub fn of(element: ValueType, bytes: &'a [u8]) -> Option<Array<'a>> {
        let size = element.fixed_bytes()?;
        bytes.len().is_multiple_of(size).then_some(Array { element, count: bytes.len() / size, bytes })
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The elements, decoded one by one.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let Array { element, count, mut bytes } = *self;
        let mut left = count;
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            left -= 1;
            if let Some(size) = element.fixed_bytes() {
                let (head, tail) = bytes.split_at_checked(size)?;
                bytes = tail;
                return Value::from_fixed(element, head);
            }
            let (length, tail) = bytes.split_at_checked(8)?;
            let length = usize::try_from(LE::read_u64(length)).ok()?;
            let (text, tail) = tail.split_at_checked(length)?;
            bytes = tail;
            std::str::from_utf8(text).ok().map(Value::String)
        })
    }
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Unsigned(_, value) => write!(f, "{value}"),
            Value::Signed(_, value) => write!(f, "{value}"),
            Value::Float(_, value) => write!(f, "{value}"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::String(text) => write!(f, "{text:?}"),
            Value::Array(array) => write!(f, "[{} x {:?}]", array.count, array.element),
        }
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
