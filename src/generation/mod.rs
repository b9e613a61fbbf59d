//! From logits to text: sampling, tokenizing, speculation, stopping, batches and saved sessions.

#[cfg(feature = "tokenizer")]
pub mod batch;
#[cfg(feature = "tokenizer")]
pub(crate) mod completion;
pub(crate) mod drafter;
pub(crate) mod estimate;
pub mod generator;
pub mod sampler;
pub mod snapshot;
pub(crate) mod speculation;
#[cfg(feature = "tokenizer")]
pub mod tokenizer;
