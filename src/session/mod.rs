//! Sequences of tokens, and the engine that advances any number of them together.

pub(crate) mod block_log;
mod engine;
mod prefill;
mod room;
mod score;
#[allow(clippy::module_inception, reason = "the room is named after its main type")]
mod session;

pub(crate) use engine::check_finite;
pub use engine::{Engine, Sequence, SessionOptions};
pub use prefill::Append;
pub use score::{Scorer, negative_log_likelihood};
pub use session::Session;
