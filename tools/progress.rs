//! Progress of long work, such as quantization: whoever asks for it follows it stage after stage.

use std::sync::{Mutex, PoisonError};

use indicatif::ProgressBar;

use crate::output;

/// Follows the work, stage after stage.
pub trait Progress: Sync {
    /// A stage begins, which has that many units of work.
    fn begin(&self, stage: &'static str, total: u64);

    /// Units were done; from any thread.
    fn add(&self, done: u64);

    /// The stage is done.
    fn end(&self);
}

/// A bar on standard error.
#[derive(Default)]
pub struct Bar(Mutex<Option<ProgressBar>>);

impl Bar {
    fn with(&self, each: impl FnOnce(&ProgressBar)) {
        if let Some(bar) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            each(bar);
        }
    }
}

impl Progress for Bar {
    fn begin(&self, stage: &'static str, total: u64) {
        let bar = output::progress(total, "{msg} [{bar:30}] {percent}% {elapsed} left {eta}");
        bar.set_message(stage);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar);
    }

    fn add(&self, done: u64) {
        self.with(|bar| bar.inc(done));
    }

    fn end(&self) {
        self.with(ProgressBar::finish_and_clear);
    }
}
