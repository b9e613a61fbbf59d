//! A safetensors file: its header, and every tensor read.

use super::{check, scratch};

pub fn run(bytes: &[u8]) {
    let path = scratch("file.safetensors");
    std::fs::write(&path, bytes).expect("a file");
    check(cinderblock_tools::unstable::safetensors(&path));
}
