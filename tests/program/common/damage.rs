//! Model files that lie: what is changed in a sound one, and what the error then says.

use std::fs;

use cinderblock::Model;
use cinderblock::unstable::model::ARCHITECTURE;

use super::{case, quantize};

const NORM: &str = "block_decoder.layers.0.attention_norm.weight";
const OTHER: &str = "block_decoder.layers.1.attention_norm.bias";
const TYPES: &str = ".tensor.types";

/// Name of a key or tensor, distance from its end, what is written there, and what the error says. After a
/// key come its type (4 bytes) and value; after a tensor its rank (4), dimensions (8 each), type and offset.
pub const DAMAGE: &[(&str, isize, &[u8], &str)] = &[
    ("", 0, b"GGUX", "start of file: found \"GGUX"),
    ("", 0, b"ggml", "the magic \"GGUF\""),
    ("", 4, &[2], "GGUF version: found 2, expected 3"),
    ("", 4, &[0, 0, 0, 3], "a big-endian file"),
    ("", 8, &le(u64::MAX), "tensor count: found 18446744073709551615"),
    ("", 8, &le(1 << 16), "tensor count: found 65536"),
    ("", 8, &le(0), "end of file"),
    ("", 8, &le(44), ""),
    ("", 8, &le(46), ""),
    ("", 16, &le(u64::MAX), "metadata count: found 18446744073709551615"),
    ("", 16, &le(9000), ""),
    ("", 16, &le(0), "metadata key \"general.architecture\" is missing"),
    ("general.architecture", 12, b"llama", "general.architecture: found \"llamatransformer\""),
    ("general.architecture", 12, &[0xff], "is not UTF-8"),
    ("general.architecture", 4, &le(u64::MAX), "expected 18446744073709551615"),
    ("general.name", 4, &le(1 << 40), "truncated file?"),
    ("general.name", 0, &[13], "type of metadata key \"general.name\": found 13, expected 0 to 12"),
    ("general.name", 0, &[7], ""),
    ("general.name", -4, b"xxxx", "metadata key \"general.name\" is missing"),
    ("general.alignment", 4, &[0], "general.alignment: found 0, expected a power of two"),
    ("general.alignment", 4, &[3], "general.alignment: found 3"),
    ("general.alignment", 4, &[0, 0, 2], "general.alignment: found 131072"),
    ("general.alignment", 4, &[128], "a multiple of 128"),
    ("general.alignment", 0, &[6], "general.alignment"),
    (TYPES, 0, &[8], ""),
    (TYPES, 4, &[9], "array of arrays"),
    (TYPES, 4, &[4], ""),
    (TYPES, 8, &le(u64::MAX), ""),
    (TYPES, 8, &le(1 << 61), ""),
    (TYPES, 24, b"q5", "found \"q5\", expected q4, q8, bf16, f16, f32"),
    (".block_decoder.block_count", -25, b"token", "block_count\" appears twice"),
    (".block_length", -1, b"x", "blocktransformer.block_length\" is missing"),
    (".block_length", 0, &[6], "expected an integer"),
    (".block_length", 4, &[0], "block_length: found 0, expected an integer from 1"),
    (".block_length", 4, &[255; 4], "block_length: found 4294967295"),
    (".block_length", 4, &[2], "width of the table"),
    (".vocab_size", 4, &[255; 4], "vocab_size: found 4294967295"),
    (".vocab_size", 4, &[0, 0, 0, 1], "embedder.embeddings.weight"),
    (".context_blocks", 4, &[0; 4], "context_blocks: found 0"),
    (".embedder.projection", 12, b"convol", "found convol"),
    (".embedder.projection", 12, b"linear", "embedder.projection.weight\" is missing"),
    (".token_decoder.strategy", 12, b"prefax", "found prefax"),
    (".token_decoder.expansion_ratio", 4, &[3], "token_decoder.expansion.weight"),
    (".block_decoder.block_count", 4, &[255; 4], "block_count: found 4294967295"),
    (".block_decoder.block_count", 4, &[0, 4], "layers.2.attention_norm.weight\" is missing"),
    (".block_decoder.block_count", 4, &[1], "does not belong to this model"),
    (".block_decoder.attention.head_count", 4, &[3], "attention heads: found 3"),
    (".block_decoder.attention.head_count", 4, &[0], "head_count: found 0"),
    (".block_decoder.rope.dimension_count", 4, &[7], "rotated dimensions of a head: found 7"),
    (".block_decoder.rope.dimension_count", 4, &[34], "an even number up to 32"),
    (".block_decoder.rope.freq_base", 4, &[0, 0, 128, 127], "a finite float"),
    (".block_decoder.rope.freq_base", 4, &[0; 4], "a positive float"),
    (".block_decoder.attention.layer_norm_epsilon", 4, &[255; 4], "a finite float"),
    (".block_decoder.attention.layer_norm_epsilon", 7, &[0xb7], "a positive float"),
    (OTHER, -21, b"0", "layers.0.attention_norm.bias\" appears twice"),
    (OTHER, -1, b"x", "does not belong to this model"),
    (NORM, 0, &[0], "rank: found 0, expected 1 to 4"),
    (NORM, 0, &[5], "rank: found 5"),
    (NORM, 4, &le(0), "dimension: found 0"),
    (NORM, 4, &le(63), "found F32 [63], expected F32 [64]"),
    (NORM, 4, &le(u64::MAX), "size: found 18446744073709551615 elements"),
    (NORM, 4, &le(1 << 40), "inside a file of"),
    ("embedder.embeddings.weight", 4, &le(1 << 63), "whose product fits"),
    (NORM, 12, &[2], "type: found 2, expected 0 (F32)"),
    (NORM, 12, &[30], "found BF16 [64], expected F32 [64]"),
    (NORM, 16, &le(1), "offset: found 1, expected a multiple of 64"),
    (NORM, 16, &le(0), "overlap"),
    (NORM, 16, &le(1 << 40), "inside a file of"),
    (NORM, 16, &le(u64::MAX - 63), "inside a file of"),
];

/// A model file in memory, and the places in it that its header describes.
pub struct File(pub Vec<u8>);

impl File {
    pub fn new(name: &str) -> File {
        let (_folder, file) = quantize(&case(name), "q4");
        File(fs::read(file).expect("model"))
    }

    /// First byte after a name in the header; the start of the file for no name. A leading dot stands for the
    /// architecture.
    pub fn after(&self, name: &str) -> usize {
        if name.is_empty() {
            return 0;
        }
        let name = if name.starts_with('.') { format!("{ARCHITECTURE}{name}") } else { name.to_string() };
        let wanted = [&(name.len() as u64).to_le_bytes(), name.as_bytes()].concat();
        let at = self.0.windows(wanted.len()).position(|bytes| bytes == wanted);
        at.unwrap_or_else(|| panic!("{name} is not in the header")) + wanted.len()
    }

    pub fn patched(&self, at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut file = self.0.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    }

    pub fn model(&self) -> Model {
        Model::from_bytes(&self.0).expect("undamaged")
    }
}

pub const fn le(value: u64) -> [u8; 8] {
    value.to_le_bytes()
}
