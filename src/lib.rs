//! cinderblock runs Block Transformer language models (arXiv 2406.02657) on the CPU.
#![warn(missing_docs)]

#[cfg(target_endian = "big")]
compile_error!("model files are little-endian and are mapped as they are");

pub mod cache;
#[cfg(feature = "capi")]
pub mod capi;
pub mod error;
#[doc(hidden)]
pub mod files;
pub mod generation;
pub mod gguf;
pub mod interrupt;
pub mod kernels;
pub mod model;
pub mod quant;
pub mod session;
pub mod threads;

pub use cache::CacheType;
pub use error::{Error, ErrorKind, Result};
pub use generation::batch::Batch;
pub use generation::completion::{End, GenerateOptions, Step, Token};
pub use generation::estimate::MemoryEstimate;
pub use generation::generator::Generator;
pub use generation::request::{BatchOptions, Event, Request};
pub use generation::sampler::{Sampler, SamplerOptions};
pub use generation::snapshot::Snapshot;
pub use generation::speculation::{Speculate, SpeculationCounts};
pub use generation::tokenizer::Tokenizer;
pub use interrupt::Interrupt;
pub use model::{Alignment, Model, OpenOptions};
pub use session::{
    Append, Engine, Runtime, Scorer, Sequence, Session, SessionOptions, negative_log_likelihood,
};
pub use threads::{Processors, Team};
