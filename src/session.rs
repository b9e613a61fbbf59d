//! One sequence with an engine of its own: text in, at any time and in any pieces, and logits out.

use std::sync::Arc;

use crate::error::Result;
use crate::model::Model;
use crate::sequence::{Engine, Sequence, SessionOptions};
use crate::threads::Team;

/// A sequence and what advances it.
pub struct Session {
    engine: Engine,
    sequence: Sequence,
    logits: Vec<f32>,
    /// Whether `logits` are those of the sequence as it is.
    current: bool,
}

impl Session {
    /// An empty sequence.
    ///
    /// # Errors
    /// If an option is out of range or the cache cannot be allocated.
    pub fn new(model: &Arc<Model>, team: &Arc<Team>, options: &SessionOptions) -> Result<Session> {
        Ok(Session {
            engine: Engine::new(model, team),
            sequence: Sequence::new(model, options)?,
            logits: vec![0.0; model.config().vocabulary],
            current: false,
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        self.engine.model()
    }

    /// Tokens so far, the padding of the first block included.
    pub fn length(&self) -> u64 {
        self.sequence.length()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.sequence.clear();
        self.current = false;
    }

    /// Adds tokens, in time proportional to their number. Only the first text is padded to whole blocks.
    ///
    /// # Errors
    /// If a token is not in the vocabulary; then nothing was added.
    pub fn append(&mut self, tokens: &[u32]) -> Result<()> {
        self.engine.append(&mut self.sequence, tokens)?;
        self.current &= tokens.is_empty();
        Ok(())
    }

    /// The logits of the next token, `[vocabulary]`.
    ///
    /// # Errors
    /// If the sequence is empty, or the logits are not finite, as damaged weights make them.
    pub fn logits(&mut self) -> Result<&[f32]> {
        if !self.current {
            let sequences = std::slice::from_mut(&mut self.sequence);
            self.logits.copy_from_slice(self.engine.logits(sequences)?);
            self.current = true;
        }
        Ok(&self.logits)
    }
}
