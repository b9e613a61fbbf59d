//! The work of the fuzz targets: each module has one idea, and a function `run` that takes any bytes. The tests of the
//! program feed the seeds to the same functions.

pub mod batch_line;
pub mod checkpoint;
pub mod config;
pub mod decoding;
pub mod header;
pub mod journal;
pub mod model;
pub mod model_shapes;
pub mod npy;
pub mod recipe;
pub mod safetensors;
pub mod sampler;
pub mod session;
pub mod tiny;
pub mod tokenizer;
pub mod yaml;

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::AtomicUsize;

use cinderblock::Error;
use tempfile::TempDir;

/// The name of a target, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// The targets that need no feature of the library.
pub const TARGETS: [Target; 15] = [
    ("batch_line", batch_line::run),
    ("checkpoint", checkpoint::run),
    ("config", config::run),
    ("decoding", decoding::run),
    ("header", header::run),
    ("journal", journal::run),
    ("model", model::run),
    ("model_shapes", model_shapes::run),
    ("npy", npy::run),
    ("recipe", recipe::run),
    ("safetensors", safetensors::run),
    ("sampler", sampler::run),
    ("session", session::run),
    ("tokenizer", tokenizer::run),
    ("yaml", yaml::run),
];

/// Bytes that are allocated, and the most that were, where the target counts them.
pub static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
pub static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The value of a result; an error must be one line without control characters.
pub fn check<T>(result: Result<T, Error>) -> Option<T> {
    result.map_err(|error| check_line(&error.to_string())).ok()
}

fn check_line(line: &str) {
    // Two texts of 400 characters, each perhaps an escape.
    let fine = !line.is_empty() && line.chars().count() < 6000 && !line.chars().any(char::is_control);
    assert!(fine, "not one line: {line:?}");
}

/// A file of this process, in memory where the system has such a folder.
pub fn scratch(name: &str) -> PathBuf {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        TempDir::with_prefix_in("fuzz", "/dev/shm").or_else(|_| TempDir::new()).expect("a folder")
    });
    folder.path().join(name)
}

/// Takes decisions from bytes; zeros follow them.
pub struct Choices<'b>(pub &'b [u8]);

impl<'b> Choices<'b> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn number<const N: usize>(&mut self) -> [u8; N] {
        let (taken, rest) = self.0.split_at(self.0.len().min(N));
        self.0 = rest;
        let mut number = [0; N];
        number[..taken.len()].copy_from_slice(taken);
        number
    }

    pub fn byte(&mut self) -> u8 {
        self.number::<1>()[0]
    }

    pub fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// At most `most` of the next bytes.
    pub fn some(&mut self, most: usize) -> &'b [u8] {
        let count = usize::from(self.byte()).min(most).min(self.0.len());
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    /// A number, often a remarkable one.
    pub fn size(&mut self) -> u64 {
        const REMARKABLE: [u64; 16] = [
            0,
            1,
            2,
            63,
            255,
            1 << 16,
            (1 << 31) - 1,
            1 << 31,
            (1 << 32) - 1,
            1 << 32,
            1 << 40,
            1 << 61,
            1 << 62,
            1 << 63,
            u64::MAX - 1,
            u64::MAX,
        ];
        match self.byte() {
            kind @ 0..=63 => REMARKABLE[usize::from(kind) % REMARKABLE.len()],
            64..=127 => u64::from_le_bytes(self.number()),
            kind => u64::from(kind & 63),
        }
    }

    /// A float, often a remarkable one.
    pub fn float(&mut self) -> f32 {
        const REMARKABLE: [f32; 16] = [
            0.0,
            -0.0,
            1.0,
            -1.0,
            0.5,
            1e-39,
            f32::MIN_POSITIVE,
            f32::MAX,
            f32::MIN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            1e-7,
            1e30,
            -1e30,
            100.0,
        ];
        match self.byte() {
            kind @ 0..=127 => REMARKABLE[usize::from(kind) % REMARKABLE.len()],
            128..=191 => f32::from_le_bytes(self.number()),
            kind => f32::from(kind & 63) / 16.0 - 2.0,
        }
    }
}
