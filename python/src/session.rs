//! One text: tokens in, logits and text out.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use cinderblock::{Generator, Interrupt, Result, SamplerOptions, Tokenizer};
use cinderblock_tools::unstable::Prompt;
use numpy::PyArray1;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::options::{Compiler, GENERATE, Options, SAMPLER, compile, prompt, tokens};
use crate::results::{Completion, Text};
use crate::slot::Slot;
use crate::stream::Stream;
use crate::work::{self, Signals};

/// Adds a prompt, looking at signals after every pass over the weights.
pub fn append(generator: &mut Generator, tokens: &[u32], signals: &mut Signals) -> Result<()> {
    // Many tokens are appended without a pass: one call less for those.
    if tokens.is_empty() {
        return Ok(());
    }
    generator.append_with_progress(tokens, |_, _| signals.poll())
}

/// Generates a text.
pub fn generate(
    generator: &mut Generator,
    tokenizer: Option<&Tokenizer>,
    options: &Options,
    compiler: &Compiler,
    signals: &mut Signals,
) -> Result<Text> {
    prepare(generator, options, compiler)?;
    let mut text = Text::default();
    let mut outcome = Ok(());
    let (end, _) = generator.generate(tokenizer, &options.generate, |step| {
        text.push(step);
        outcome = signals.poll();
        if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    outcome?;
    text.end = Some(end);
    Ok(text)
}

/// Sets what holds for the next text.
pub fn prepare(generator: &mut Generator, options: &Options, compiler: &Compiler) -> Result<()> {
    generator.set_constraint(compile(compiler, options.form.as_ref())?);
    generator.set_stops(options.stops.clone());
    Ok(())
}

#[pyclass(frozen, module = "cinderblock")]
pub struct Session {
    slot: Arc<Slot<Generator>>,
    interrupt: Interrupt,
    tokenizer: Option<Arc<Tokenizer>>,
    compiler: Compiler,
}

impl Session {
    pub fn new(generator: Generator, tokenizer: Option<Arc<Tokenizer>>, compiler: Compiler) -> Session {
        let interrupt = generator.interrupt().clone();
        Session { slot: Slot::new(generator), interrupt, tokenizer, compiler }
    }

    /// Runs `body` with the session.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        body: impl Send + FnOnce(&mut Generator, &mut Signals) -> Result<T>,
    ) -> PyResult<T> {
        work::run(py, |signals| {
            let mut generator = self.slot.take(signals)?;
            body(&mut generator, signals)
        })
    }
}

#[pymethods]
impl Session {
    #[pyo3(signature = (prompt, /))]
    fn append(&self, py: Python<'_>, #[pyo3(from_py_with = prompt)] prompt: Prompt) -> PyResult<()> {
        let tokenizer = self.tokenizer.as_deref();
        self.with(py, |generator, signals| append(generator, &tokens(prompt, tokenizer)?, signals))
    }

    fn logits<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let logits = self.with(py, |generator, _| generator.logits().map(<[f32]>::to_vec))?;
        Ok(PyArray1::from_vec(py, logits))
    }

    fn next_token(&self, py: Python<'_>) -> PyResult<u32> {
        self.with(py, |generator, _| generator.next_token())
    }

    #[pyo3(signature = (**options))]
    fn generate(&self, py: Python<'_>, options: Option<&Bound<'_, PyDict>>) -> PyResult<Completion> {
        let options = Options::read(GENERATE, options)?;
        let (tokenizer, compiler) = (self.tokenizer.as_deref(), &self.compiler);
        let text =
            self.with(py, |generator, signals| generate(generator, tokenizer, &options, compiler, signals))?;
        Ok(Completion::new(py, text))
    }

    #[pyo3(signature = (**options))]
    fn stream(&self, py: Python<'_>, options: Option<&Bound<'_, PyDict>>) -> PyResult<Stream> {
        let options = Options::read(GENERATE, options)?;
        work::run(py, |signals| {
            let mut generator = self.slot.take(signals)?;
            prepare(&mut generator, &options, &self.compiler)?;
            Stream::new(generator.lend(), Vec::new(), self.tokenizer.clone(), options.generate)
        })
    }

    #[pyo3(signature = (**options))]
    fn set_sampler(&self, py: Python<'_>, options: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        let options: SamplerOptions = Options::read(SAMPLER, options)?.of_one(py)?.sampler;
        self.with(py, |generator, _| generator.set_sampler(options))
    }

    #[pyo3(signature = (blocks, /))]
    fn rewind(&self, py: Python<'_>, blocks: u64) -> PyResult<()> {
        self.with(py, |generator, _| generator.rewind(blocks))
    }

    #[pyo3(signature = (blocks, /))]
    fn can_rewind(&self, py: Python<'_>, blocks: u64) -> PyResult<bool> {
        self.with(py, |generator, _| Ok(generator.can_rewind(blocks)))
    }

    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |generator, _| generator.clear())
    }

    #[pyo3(signature = (path, /))]
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        self.with(py, |generator, _| generator.save()?.write(&path))
    }

    #[pyo3(signature = (max_tokens, /))]
    fn recent<'py>(&self, py: Python<'py>, max_tokens: usize) -> PyResult<Bound<'py, PyArray1<u32>>> {
        let tokens = self.with(py, |generator, _| Ok(generator.recent(max_tokens)))?;
        Ok(PyArray1::from_vec(py, tokens))
    }

    /// From another thread.
    fn interrupt(&self) {
        self.interrupt.trigger();
    }

    #[getter]
    fn length(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, |generator, _| Ok(generator.length()))
    }

    #[getter]
    fn blocks(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, |generator, _| Ok(generator.blocks()))
    }

    #[getter]
    fn left_in_block(&self, py: Python<'_>) -> PyResult<usize> {
        self.with(py, |generator, _| Ok(generator.left_in_block()))
    }
}
