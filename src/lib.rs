//! Runs Block Transformer language models on the CPU.
//!
//! A [Block Transformer](https://arxiv.org/abs/2406.02657) splits a language model in two. Its *block decoder* attends
//! over blocks of tokens (4 by default), and so caches keys and values of blocks. Its *token decoder* generates the
//! tokens of the next block from the block decoder's output, the *context*, and from the tokens of that block so far;
//! it sees nothing else. A prompt passes through the block decoder only.
//!
//! # Text
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! use cinderblock::{GenerateOptions, Runtime, SessionOptions, Tokenizer};
//!
//! # fn main() -> cinderblock::Result<()> {
//! # if !Tokenizer::AVAILABLE {
//! #     return Ok(());
//! # }
//! let runtime = Runtime::open("models/classics.q4.gguf")?;
//! let tokenizer = Tokenizer::of_model(runtime.model())?;
//!
//! let mut text = "The rain had stopped, and the village came out to look.".to_string();
//! let mut generator = runtime.generator(&SessionOptions::default())?;
//! generator.append(&tokenizer.encode(&text)?)?;
//!
//! let options = GenerateOptions { max_tokens: 20, ..GenerateOptions::default() };
//! let (end, tokens) = generator.generate(Some(&tokenizer), &options, |step| {
//!     text += &step.text;
//!     ControlFlow::Continue(())
//! })?;
//! println!("{text}\n{tokens} tokens, end: {}", end.name());
//! # Ok(())
//! # }
//! ```
//!
//! # From the bottom up
//!
//! 1. A [`Model`] is one GGUF file, mapped as it is: configuration and weights. Opening it checks the header and reads
//!    no weight.
//! 2. A [`Runtime`] is a model and a [`Team`] of threads. Clones are cheap and share both. Everything else is created
//!    by it.
//! 3. A [`Sequence`] is the state of one text: the block decoder's rolling cache and the open block. An [`Engine`]
//!    advances any number of sequences in shared passes over the weights.
//! 4. A [`Session`] is one sequence with its engine: token ids in, logits out. [`SessionOptions`] give the size and
//!    type of its cache. A [`Sampler`] chooses a token from logits.
//! 5. A [`Generator`] is a session with a sampler: it generates text, in whole characters, until a stop string or a
//!    limit. A [`Snapshot`] saves and restores it.
//! 6. A [`Batch`] generates many texts together as [`Request`]s come and go. Each equals, to the bit, the text that its
//!    prompt gets alone.
//!
//! A [`Scorer`] gives the loss of a text, a [`MemoryEstimate`] the memory of sequences before anything is allocated,
//! and an [`Interrupt`] stops work from another thread. The cache of a session is allocated once, and after the first
//! blocks, decoding allocates nothing. Every failure is an [`Error`] of one line. Input of any kind gives a result or
//! an error, never a panic; a mapped file must not be truncated while it is open ([`OpenOptions`] has the alternative).
//!
//! The repository's `docs/architecture.md` follows a token through the source, and `examples/` has programs for text,
//! streaming, batches and sessions.
//!
//! # Features
//!
//! - `tokenizer` (default): text in and out. Without it there are no values of [`Tokenizer`], everything else works
//!   with token ids, and the dependencies are about 20 crates instead of 75.
//! - `capi`: the exported functions of `include/cinderblock.h`, for programs in C.
#![warn(missing_docs)]

#[cfg(target_endian = "big")]
compile_error!("model files are little-endian and are mapped as they are");

mod cache;
#[cfg(feature = "capi")]
#[doc(hidden)]
pub mod capi;
mod error;
mod files;
mod generation;
mod gguf;
mod interrupt;
mod kernels;
mod memory;
mod model;
mod quant;
mod session;
mod threads;

pub use cache::CacheType;
pub use error::{Error, ErrorKind, Result};
pub use generation::batch::Batch;
pub use generation::completion::{End, GenerateOptions, Step, Token};
pub use generation::constraint::Constraint;
pub use generation::estimate::MemoryEstimate;
pub use generation::generator::Generator;
pub use generation::prefixes::PrefixCounts;
pub use generation::request::{BatchOptions, Event, Request};
pub use generation::sampler::Sampler;
pub use generation::sampler_options::SamplerOptions;
pub use generation::snapshot::Snapshot;
pub use generation::speculation::{Speculate, SpeculationCounts};
pub use generation::tokenizer::Tokenizer;
pub use interrupt::Interrupt;
pub use kernels::Activation;
pub use model::{
    Alignment, Config, EmbedderConfig, EncoderConfig, Model, OpenOptions, Projection, Residual, StackConfig,
    Strategy, T5Config, TokenDecoderConfig,
};
pub use session::{
    Append, Engine, Logits, Runtime, Scorer, Sequence, Session, SessionOptions, negative_log_likelihood,
};
pub use threads::{Processors, Team};

/// Internals that the tools, tests and benchmarks of this repository use. They change without notice.
#[doc(hidden)]
pub mod unstable {
    pub mod cache {
        pub use crate::cache::*;
    }
    pub mod files {
        pub use crate::files::*;
    }
    pub mod generation {
        pub use crate::generation::tokenizer::TextStream;
    }
    pub mod gguf {
        pub use crate::gguf::*;
    }
    pub mod kernels {
        pub use crate::kernels::*;
    }
    pub mod model {
        pub use crate::model::*;
    }
    pub mod quant {
        pub use crate::quant::*;
    }
    pub mod threads {
        pub use crate::threads::*;
    }
}
