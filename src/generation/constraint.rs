//! Constraints: what restricts a text to the tokens that a grammar allows.

use crate::error::{Error, Result};

/// Restricts the tokens of one text, each after those before it.
pub trait Constraint: Send {
    /// The tokens that may come next: token T is bit T % 32 of word T / 32. `None` if the text must end.
    ///
    /// # Errors
    /// If they cannot be computed, for example within a limit; the text fails then.
    fn allowed(&mut self) -> Result<Option<&[u32]>>;

    /// Advances by a token that was allowed.
    ///
    /// # Errors
    /// If it was not.
    fn accept(&mut self, token: u32) -> Result<()>;

    /// A copy in the same state.
    fn copy(&self) -> Box<dyn Constraint>;
}

impl Clone for Box<dyn Constraint> {
    fn clone(&self) -> Self {
        (**self).copy()
    }
}

/// What a sampler has no token for.
pub(super) fn nothing_allowed() -> Error {
    Error::argument("constraint: found no allowed token that the biases leave, expected at least 1")
}
