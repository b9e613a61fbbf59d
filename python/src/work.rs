//! Work without the interpreter: others run meanwhile, and signals are looked at now and then.

use std::time::{Duration, Instant};

use cinderblock::{Error, ErrorKind, Result};
use pyo3::prelude::*;

use crate::error::raise;

/// The time between two looks at signals, which need the interpreter.
pub const PATIENCE: Duration = Duration::from_millis(50);

/// The signals that Python has received while it waited for us. Only its main thread handles them.
pub struct Signals {
    is_main: bool,
    next: Instant,
    failure: Option<PyErr>,
}

impl Signals {
    fn new(py: Python<'_>) -> PyResult<Signals> {
        let threading = py.import("threading")?;
        let is_main = threading.call_method0("current_thread")?.is(&threading.call_method0("main_thread")?);
        Ok(Signals { is_main, next: Instant::now() + PATIENCE, failure: None })
    }

    /// Lets Python handle its signals, if it is time for that.
    ///
    /// # Errors
    /// `Interrupted` if a handler has raised an exception, as that of Ctrl-C does.
    pub fn poll(&mut self) -> Result<()> {
        if !self.is_main || Instant::now() < self.next {
            return Ok(());
        }
        let outcome = Python::attach(|py| py.check_signals());
        self.next = Instant::now() + PATIENCE;
        outcome.map_err(|failure| {
            self.failure = Some(failure);
            Error::new(ErrorKind::Interrupted, "interrupted")
        })
    }
}

/// Runs `body` without the interpreter.
///
/// # Errors
/// Those of `body` as exceptions, or the exception of a signal.
pub fn run<T: Send>(py: Python<'_>, body: impl Send + FnOnce(&mut Signals) -> Result<T>) -> PyResult<T> {
    let mut signals = Signals::new(py)?;
    let result = py.detach(|| body(&mut signals));
    match signals.failure.take() {
        Some(failure) => Err(failure),
        None => result.map_err(|error| raise(py, &error)),
    }
}
