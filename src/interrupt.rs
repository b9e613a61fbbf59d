//! A request to stop that any thread can make.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// Stops the work of the session it belongs to. Clones are the same request.
///
/// A request stays until some work has obeyed it: one that comes while nothing runs stops what runs next.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Asks to stop.
    pub fn trigger(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Takes the request back.
    pub fn clear(&self) {
        self.0.store(false, Ordering::Release);
    }

    /// Obeys the request, if there is one.
    ///
    /// # Errors
    /// `Interrupted` if there was; it is gone then.
    pub fn check(&self) -> Result<()> {
        // Only a request pays for the exclusive access that taking it needs.
        if self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::AcqRel) {
            return Err(Error::new(ErrorKind::Interrupted, "interrupted"));
        }
        Ok(())
    }
}
