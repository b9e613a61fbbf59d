//! The requests of a batch, and its events.

use std::sync::Arc;

use super::completion::{End, GenerateOptions, Step};
use super::constraint::Constraint;
use super::sampler_options::SamplerOptions;
use super::speculation::Speculate;
use crate::error::Error;
use crate::interrupt::Interrupt;
use crate::session::{Sequence, SessionOptions};

/// The options that all texts of a batch share.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchOptions {
    /// The cache of a sequence; one that needs fewer blocks gets no more than it needs.
    pub session: SessionOptions,
    /// Sequences at a time.
    pub sequences: usize,
    /// Bytes of weights, caches and buffers, all together, that are not exceeded; `None` is no limit.
    pub memory: Option<u64>,
    /// Bytes of ended texts that are kept. A prompt that shares whole leading blocks with a kept or running text skips
    /// them; so does [`crate::Batch::begin`]. Part of `memory`, and given up where texts need it; 0 keeps none.
    pub prefix_cache: u64,
    /// Whether tokens are guessed while few texts are written. This changes how fast they are, and nothing else.
    pub speculate: Speculate,
}

impl Default for BatchOptions {
    fn default() -> Self {
        BatchOptions {
            session: SessionOptions::default(),
            sequences: 32,
            memory: None,
            prefix_cache: 0,
            speculate: Speculate::default(),
        }
    }
}

/// A text to be generated.
#[derive(Clone, Default)]
pub struct Request {
    /// The tokens it follows.
    pub prompt: Vec<u32>,
    /// A sequence with the beginning of the prompt, which `prompt` continues. Requests can share it: each continues a
    /// copy.
    pub start: Option<Arc<Sequence>>,
    /// Tokens that come first, however unlikely. With [`GenerateOptions::logprobs`], this scores them.
    pub forced: Vec<u32>,
    /// The choice of the tokens after those.
    pub sampler: SamplerOptions,
    /// The limits of the text.
    pub generate: GenerateOptions,
    /// What restricts the choice, if anything does.
    pub constraint: Option<Box<dyn Constraint>>,
    /// Strings that the text ends before.
    pub stops: Vec<String>,
    /// Ends the text as it is, from any thread.
    pub interrupt: Interrupt,
}

/// An event in the life of a text.
#[derive(Debug)]
pub enum Event {
    /// A token, or text that was held back until the end.
    Step(Step),
    /// It ended, after a number of tokens; [`End::Caller`] if by its [`Request::interrupt`].
    Ended(End, usize),
    /// It failed.
    Failed(Error),
}
