//! NumPy files of f32 matrices.

use std::io::{BufRead, ErrorKind};
use std::path::Path;

use byteorder::{ByteOrder, LE};
use cinderblock::{Error, Result};

const MAGIC: &[u8; 8] = b"\x93NUMPY\x01\x00";

/// Header of a version 1 `.npy` file of little-endian f32, padded to 64 bytes.
pub fn header(rows: usize, columns: usize) -> Vec<u8> {
    let mut text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    let length = (10 + text.len() + 1).next_multiple_of(64) - 10;
    text += &" ".repeat(length - text.len() - 1);
    text.push('\n');
    let mut header = MAGIC.to_vec();
    header.extend((text.len() as u16).to_le_bytes());
    header.extend(text.as_bytes());
    header
}

/// Reads the header of a matrix of f32, and leaves `file` at the first row: `(rows, columns)`. `None`, with
/// nothing consumed, if this is no NumPy file.
///
/// # Errors
/// If it is one, but of another version, type, order or rank.
pub fn read_header(file: &mut impl BufRead) -> Result<Option<(usize, usize)>> {
    let io = |error: std::io::Error| match error.kind() {
        ErrorKind::UnexpectedEof => Error::mismatch("NumPy header", "the end of the file", "a header"),
        _ => Error::io(Path::new("NumPy file"), &error),
    };
    // No other file that is read begins with this byte.
    if file.fill_buf().map_err(io)?.first() != MAGIC.first() {
        return Ok(None);
    }
    let mut start = [0; 10];
    file.read_exact(&mut start).map_err(io)?;
    if start[..6] != MAGIC[..6] {
        return Err(Error::mismatch("NumPy header", "another magic", "\\x93NUMPY"));
    }
    if start[6..8] != MAGIC[6..] {
        let found = format!("version {}.{}", start[6], start[7]);
        return Err(Error::mismatch("NumPy file", found, "version 1.0"));
    }
    let mut text = vec![0; usize::from(LE::read_u16(&start[8..]))];
    file.read_exact(&mut text).map_err(io)?;
    let text = String::from_utf8_lossy(&text);
    let shape = text.split_once("'shape': (").and_then(|(_, rest)| rest.split_once(')'));
    let sizes: Vec<usize> = shape.map_or(Vec::new(), |(shape, _)| {
        shape.split(',').filter_map(|size| size.trim().parse().ok()).collect()
    });
    match sizes[..] {
        [rows, columns] if text.contains("'<f4'") && text.contains("'fortran_order': False") => {
            Ok(Some((rows, columns)))
        }
        _ => Err(Error::mismatch("NumPy header", text.trim(), "two dimensions of '<f4' in C order")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_aligned_and_read_back() {
        for rows in [1, 99, 12345678] {
            let header = header(rows, 50304);
            assert_eq!(header.len() % 64, 0);
            assert_eq!(header.last(), Some(&b'\n'));
            assert_eq!(read_header(&mut &header[..]).unwrap(), Some((rows, 50304)));
        }
        assert_eq!(read_header(&mut &b"GGUF"[..]).unwrap(), None);
        for bytes in [&b"\x93NUM"[..], &header(1, 2)[..30], b"\x93NUMBER\x01\x00ab"] {
            assert!(read_header(&mut &*bytes).is_err());
        }
        let error = read_header(&mut &b"\x93NUMPY\x02\x00abcd"[..]).unwrap_err().to_string();
        assert_eq!(error, "NumPy file: found version 2.0, expected version 1.0");
    }
}
