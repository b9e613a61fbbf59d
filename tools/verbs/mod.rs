//! One file a verb.

pub mod batch;
pub mod bench;
pub mod inspect;
mod interactive;
pub mod logits;
pub mod perplexity;
pub mod run;
pub mod synthesize;
pub mod tokenize;
