//! Sequences of tokens, and the engine that advances any number of them together.
#![forbid(unsafe_code)]

mod ahead;
pub(crate) mod block_log;
mod engine;
mod open_block;
mod options;
mod prefill;
mod rewind;
mod runtime;
mod score;
mod sequence;
#[allow(clippy::module_inception, reason = "the room is named after its main type")]
mod session;
mod share;

pub use engine::{Engine, Logits};
pub use options::SessionOptions;
pub use prefill::Append;
pub use runtime::Runtime;
pub use score::{Scorer, negative_log_likelihood};
pub use sequence::Sequence;
pub(crate) use session::KnownLogits;
pub use session::Session;
