//! One file a verb. Each has `Arguments`, which [`crate::parse`] makes of words, and `run`.

pub mod batch;
pub mod bench;
pub mod edit;
pub mod inspect;
pub mod logits;
pub mod perplexity;
pub mod quantize;
pub mod run;
#[cfg(feature = "serve")]
pub mod serve;
pub mod synthesize;
pub mod tokenize;
