//! From logits to text: sampling, tokenizing, speculation, stopping, batches and saved sessions.
#![forbid(unsafe_code)]

pub mod batch;
mod budget;
pub(crate) mod completion;
pub(crate) mod constraint;
pub(crate) mod drafter;
pub(crate) mod estimate;
pub mod generator;
pub(crate) mod guesser;
pub(crate) mod pass_times;
pub(crate) mod prefixes;
pub(crate) mod request;
mod running;
pub mod sampler;
pub(crate) mod sampler_options;
mod shared_speculation;
pub mod snapshot;
pub(crate) mod speculation;
mod step;
pub(crate) mod table_drafter;
pub mod tokenizer;
mod writing;
