//! A text as an iterator. A thread of its own generates it, one step whenever one is asked for: a session has exactly
//! the tokens that its stream has given.

use std::ops::{ControlFlow, DerefMut};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use cinderblock::{End, Error, ErrorKind, GenerateOptions, Generator, Interrupt, Result, Step, Tokenizer};
use pyo3::prelude::*;

use crate::results::PyStep;
use crate::slot::Slot;
use crate::work::{self, PATIENCE, Signals};

/// What the thread answers.
enum Answer {
    Step(Step),
    End(End),
    Failed(Error),
}

/// A thread that generates.
struct Source {
    /// One for each step.
    asks: Sender<()>,
    answers: Receiver<Answer>,
    thread: JoinHandle<()>,
    interrupt: Interrupt,
}

impl Source {
    /// Waits for the thread, which gives its session back. It was not asked for anything, so it does not work.
    fn end(self) {
        let Source { asks, answers, thread, interrupt } = self;
        drop((asks, answers));
        let _ = thread.join();
        interrupt.clear();
    }

    fn next(&self, signals: &mut Signals) -> Result<Answer> {
        let gone = || Error::new(ErrorKind::Internal, "the thread of a stream has ended");
        self.asks.send(()).map_err(|_| gone())?;
        loop {
            match self.answers.recv_timeout(PATIENCE) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Disconnected) => return Err(gone()),
                Err(RecvTimeoutError::Timeout) => signals.poll().inspect_err(|_| self.interrupt.trigger())?,
            }
        }
    }
}

/// Generates with a session: appends the prompt when it is first asked.
fn generate(
    generator: &mut Generator,
    prompt: &[u32],
    tokenizer: Option<&Tokenizer>,
    options: &GenerateOptions,
    (asks, answers): (&Receiver<()>, &Sender<Answer>),
) {
    if asks.recv().is_err() {
        return;
    }
    let appended = if prompt.is_empty() { Ok(()) } else { generator.append(prompt) };
    let result = appended.and_then(|()| {
        generator.generate(tokenizer, options, |step| {
            let asked = answers.send(Answer::Step(step)).is_ok() && asks.recv().is_ok();
            if asked { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
    });
    // Nobody listens to a stream that was closed.
    let _ = answers.send(match result {
        Ok((end, _)) => Answer::End(end),
        Err(error) => Answer::Failed(error),
    });
}

#[pyclass(frozen, module = "cinderblock")]
pub struct Stream {
    source: Arc<Slot<Option<Source>>>,
    end: Mutex<Option<End>>,
}

impl Stream {
    /// A stream of a session, which it returns at its end.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn new(
        mut generator: impl DerefMut<Target = Generator> + Send + 'static,
        prompt: Vec<u32>,
        tokenizer: Option<Arc<Tokenizer>>,
        options: GenerateOptions,
    ) -> Result<Stream> {
        let interrupt = generator.interrupt().clone();
        let (asks, asked) = channel();
        let (answer, answers) = channel();
        let work = move || {
            let tokenizer = tokenizer.as_deref();
            generate(&mut generator, &prompt, tokenizer, &options, (&asked, &answer));
        };
        let thread = Builder::new().name("stream".into()).spawn(work).map_err(|error| {
            Error::new(ErrorKind::Resource, format!("a thread could not be started: {error}"))
        })?;
        let source = Slot::new(Some(Source { asks, answers, thread, interrupt }));
        Ok(Stream { source, end: Mutex::new(None) })
    }

    fn next(&self, signals: &mut Signals) -> Result<Option<Step>> {
        let mut held = self.source.take(signals)?;
        let Some(source) = held.take() else { return Ok(None) };
        match source.next(signals) {
            Ok(Answer::Step(step)) => {
                *held = Some(source);
                Ok(Some(step))
            }
            Ok(Answer::End(end)) => {
                source.end();
                *self.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
                Ok(None)
            }
            Ok(Answer::Failed(error)) | Err(error) => {
                source.end();
                Err(error)
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Its thread waits to be asked, and never takes the interpreter.
        if let Some(source) = Arc::get_mut(&mut self.source).and_then(Slot::get_mut).and_then(Option::take) {
            source.end();
        }
    }
}

#[pymethods]
impl Stream {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<PyStep>> {
        work::run(py, |signals| self.next(signals)).map(|step| step.map(PyStep::from))
    }

    fn __aiter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __anext__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        slf.py().import("cinderblock._stream")?.call_method1("next_step", (slf,))
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        work::run(py, |signals| {
            if let Some(source) = self.source.take(signals)?.take() {
                source.end();
            }
            Ok(())
        })
    }

    #[getter]
    fn end(&self) -> Option<&'static str> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).map(End::name)
    }
}
