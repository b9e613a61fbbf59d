//! cinderblock runs Block Transformer language models (arXiv 2406.02657) on the CPU.
#![deny(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs)]

#[cfg(target_endian = "big")]
compile_error!("model files are little-endian and are mapped as they are");

#[cfg(feature = "tokenizer")]
pub mod batch;
pub mod cache;
#[cfg(feature = "capi")]
pub mod capi;
mod drafter;
pub mod error;
mod files;
pub mod generator;
pub mod gguf;
mod history;
pub mod interrupt;
pub mod kernels;
pub mod model;
pub mod processors;
pub mod quant;
pub mod sampler;
pub mod score;
pub mod sequence;
pub mod session;
pub mod snapshot;
mod speculation;
pub mod threads;
#[cfg(feature = "tokenizer")]
pub mod tokenizer;
#[cfg(feature = "tokenizer")]
mod writer;

#[cfg(feature = "tokenizer")]
pub use batch::{Batch, BatchOptions, Event, Request};
pub use cache::CacheType;
pub use error::{Error, ErrorKind, Result};
pub use generator::{End, GenerateOptions, Generator, Step, Token};
pub use interrupt::Interrupt;
pub use model::{Alignment, Model};
pub use processors::Processors;
pub use sampler::{Sampler, SamplerOptions};
pub use score::Scorer;
pub use sequence::{Engine, MemoryEstimate, Sequence, SessionOptions, Text};
pub use session::Session;
pub use speculation::{Speculate, SpeculationCounts};
pub use threads::Team;
