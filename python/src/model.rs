//! A model and its threads.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use cinderblock::{
    Error, ErrorKind, MemoryEstimate, Model, OpenOptions, Result, Runtime, Scorer, SessionOptions, Snapshot,
    Tokenizer,
};
use cinderblock_tools::unstable::{Constraints, Prompt};
use numpy::ndarray::Array2;
use numpy::{PyArray1, PyArray2};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::batch;
use crate::options::{Compiler, GENERATE, Options, SAMPLER, SESSION, prompt, required, tokens};
use crate::results::{Completion, Estimate, Score};
use crate::session::{Session, append, generate, prepare};
use crate::stream::Stream;
use crate::work::{self, Signals};

#[pyclass(frozen, module = "cinderblock", name = "Model")]
pub struct PyModel {
    runtime: Runtime,
    tokenizer: Option<Arc<Tokenizer>>,
    compiler: Compiler,
}

/// A continuation or several prompts: every one a text or token ids.
fn prompts(value: &Bound<'_, PyAny>) -> PyResult<Vec<Prompt>> {
    value.try_iter()?.map(|item| prompt(&item?)).collect()
}

/// Pairs of a prompt and its continuations.
fn questions(value: &Bound<'_, PyAny>) -> PyResult<Vec<(Prompt, Vec<Prompt>)>> {
    let question = |item: Bound<'_, PyAny>| {
        let (before, continuations): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item.extract()?;
        Ok((prompt(&before)?, prompts(&continuations)?))
    };
    value.try_iter()?.map(|item| question(item?)).collect()
}

impl PyModel {
    fn model(&self) -> &Arc<Model> {
        self.runtime.model()
    }

    fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_deref()
    }

    /// Teacher-forced logits of a text, row after row, and the number of rows.
    fn teacher_forced(&self, text: &[u32], signals: &mut Signals) -> Result<(usize, Vec<f32>)> {
        let config = self.model().config();
        let blocks = text.len().div_ceil(config.block_length);
        if blocks < 2 {
            let (found, length) = (text.len(), config.block_length);
            return Err(Error::argument(format!(
                "text: found {found} tokens in one block of {length}, expected at least two blocks"
            )));
        }
        let rows = (blocks - 1) * config.block_length;
        let mut values = rows_of("logits of tokens", rows, config.vocabulary)?;
        self.scorer(blocks)?.score(text, |_, logits| {
            values.extend_from_slice(logits);
            signals.poll()
        })?;
        Ok((rows, values))
    }

    /// Contexts of the blocks of a text, row after row, and the number of rows.
    fn contexts_of(&self, text: &[u32], signals: &mut Signals) -> Result<(usize, Vec<f32>)> {
        if text.is_empty() {
            return Err(Error::argument("text: found 0 tokens, expected at least 1"));
        }
        let config = self.model().config();
        let blocks = text.len().div_ceil(config.block_length);
        let mut values = rows_of("contexts of blocks", blocks, config.block_decoder.hidden)?;
        self.scorer(blocks)?.contexts(text, |context| {
            values.extend_from_slice(context);
            signals.poll()
        })?;
        Ok((blocks, values))
    }

    /// A scorer that forgets nothing of a text of this length.
    fn scorer(&self, blocks: usize) -> Result<Scorer> {
        let cache_blocks = Some(blocks);
        self.runtime.scorer(&SessionOptions { cache_blocks, sink_blocks: 0, ..SessionOptions::default() })
    }
}

/// Room for rows of numbers.
fn rows_of(what: &str, rows: usize, width: usize) -> Result<Vec<f32>> {
    let mut values = Vec::new();
    let has_room = rows.checked_mul(width).is_some_and(|length| values.try_reserve_exact(length).is_ok());
    let refused = || Error::new(ErrorKind::Resource, format!("{what}: {rows} rows cannot be allocated"));
    has_room.then_some(values).ok_or_else(refused)
}

/// Rows of numbers as an array, `[rows, width]`.
fn array(py: Python<'_>, (rows, values): (usize, Vec<f32>)) -> PyResult<Bound<'_, PyArray2<f32>>> {
    let width = values.len() / rows.max(1);
    let array = Array2::from_shape_vec((rows, width), values)
        .map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
    Ok(PyArray2::from_owned_array(py, array))
}

#[pymethods]
impl PyModel {
    #[staticmethod]
    #[pyo3(signature = (path, *, threads=0, in_memory=false))]
    fn open(py: Python<'_>, path: PathBuf, threads: usize, in_memory: bool) -> PyResult<PyModel> {
        work::run(py, |_| {
            let model = Arc::new(Model::open_with(path, OpenOptions { map: !in_memory })?);
            let tokenizer = match model.tokenizer_json() {
                Some(json) => Some(Arc::new(Tokenizer::from_json(json)?)),
                None => None,
            };
            let compiler = Arc::new(Mutex::new(Constraints::new(&model)));
            Ok(PyModel { runtime: Runtime::new(model, threads)?, tokenizer, compiler })
        })
    }

    #[pyo3(signature = (text, /))]
    fn tokenize<'py>(&self, py: Python<'py>, text: String) -> PyResult<Bound<'py, PyArray1<u32>>> {
        let ids = work::run(py, |_| required(self.tokenizer())?.encode(&text))?;
        Ok(PyArray1::from_vec(py, ids))
    }

    #[pyo3(signature = (ids, /))]
    fn detokenize(&self, py: Python<'_>, #[pyo3(from_py_with = prompt)] ids: Prompt) -> PyResult<String> {
        work::run(py, |_| match ids {
            Prompt::Text(_) => Err(Error::argument("ids: found a text, expected token ids")),
            Prompt::Ids(ids) => {
                self.model().check_tokens(&ids)?;
                required(self.tokenizer())?.decode(&ids)
            }
        })
    }

    #[pyo3(signature = (prompt, /, **options))]
    fn generate(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = prompt)] prompt: Prompt,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Completion> {
        let options = Options::read(SESSION | SAMPLER | GENERATE, options)?.of_one(py)?;
        let text = work::run(py, |signals| {
            let mut generator = self.runtime.generator(&options.session)?;
            generator.set_sampler(options.sampler.clone())?;
            append(&mut generator, &tokens(prompt, self.tokenizer())?, signals)?;
            generate(&mut generator, self.tokenizer(), &options, &self.compiler, signals)
        })?;
        Ok(Completion::new(py, text))
    }

    #[pyo3(signature = (prompt, /, **options))]
    fn stream(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = prompt)] prompt: Prompt,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Stream> {
        let options = Options::read(SESSION | SAMPLER | GENERATE, options)?.of_one(py)?;
        work::run(py, |_| {
            let mut generator = self.runtime.generator(&options.session)?;
            generator.set_sampler(options.sampler.clone())?;
            prepare(&mut generator, &options, &self.compiler)?;
            let prompt = tokens(prompt, self.tokenizer())?;
            Stream::new(Box::new(generator), prompt, self.tokenizer.clone(), options.generate)
        })
    }

    #[pyo3(signature = (prompts, /, *, sequences=32, memory=None, prefix_cache=0, progress=None, **options))]
    #[allow(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn batch(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = prompts)] prompts: Vec<Prompt>,
        sequences: usize,
        memory: Option<u64>,
        prefix_cache: u64,
        progress: Option<Py<PyAny>>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Vec<Completion>> {
        let options = Options::read(SESSION | SAMPLER | GENERATE, options)?;
        let mut failure = None;
        let texts = work::run(py, |signals| {
            let report = |done: usize, total: usize| {
                let Some(progress) = &progress else { return Ok(()) };
                Python::attach(|py| progress.call1(py, (done, total))).map(drop).map_err(|error| {
                    failure = Some(error);
                    Error::new(ErrorKind::Interrupted, "interrupted by its progress callback")
                })
            };
            let job = batch::Job {
                runtime: &self.runtime,
                tokenizer: self.tokenizer.clone(),
                sequences,
                memory,
                prefix_cache,
                session: options.session.clone(),
            };
            job.generate(prompts, &options, &self.compiler, signals, report)
        });
        if let Some(error) = failure {
            return Err(error);
        }
        Ok(texts?.into_iter().map(|text| Completion::new(py, text)).collect())
    }

    #[pyo3(signature = (prompt, continuations, /))]
    fn score(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = prompt)] prompt: Prompt,
        #[pyo3(from_py_with = prompts)] continuations: Vec<Prompt>,
    ) -> PyResult<Vec<Score>> {
        let job = batch::Job::new(&self.runtime, self.tokenizer.clone());
        let scores = work::run(py, |signals| job.score(&[(prompt, continuations)], signals))?;
        Ok(scores.into_iter().flatten().map(Score::from).collect())
    }

    #[pyo3(signature = (questions, /, *, sequences=32, memory=None, prefix_cache=0, **options))]
    fn score_batch(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = questions)] questions: Vec<(Prompt, Vec<Prompt>)>,
        sequences: usize,
        memory: Option<u64>,
        prefix_cache: u64,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Vec<Vec<Score>>> {
        let session = Options::read(SESSION, options)?.session;
        let job = batch::Job {
            runtime: &self.runtime,
            tokenizer: self.tokenizer.clone(),
            sequences,
            memory,
            prefix_cache,
            session,
        };
        let scores = work::run(py, |signals| job.score(&questions, signals))?;
        Ok(scores.into_iter().map(|scores| scores.into_iter().map(Score::from).collect()).collect())
    }

    #[pyo3(signature = (text, /))]
    fn logits<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = prompt)] text: Prompt,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let rows = work::run(py, |signals| self.teacher_forced(&tokens(text, self.tokenizer())?, signals))?;
        array(py, rows)
    }

    /// Contexts of the blocks of a text, float32 [blocks, hidden]: row i is what the token decoder predicts block i + 1
    /// from. The first block is padded on the left.
    #[pyo3(signature = (text, /))]
    fn contexts<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = prompt)] text: Prompt,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let rows = work::run(py, |signals| self.contexts_of(&tokens(text, self.tokenizer())?, signals))?;
        array(py, rows)
    }

    #[pyo3(signature = (**options))]
    fn session(&self, py: Python<'_>, options: Option<&Bound<'_, PyDict>>) -> PyResult<Session> {
        let options = Options::read(SESSION | SAMPLER, options)?.of_one(py)?;
        work::run(py, |_| {
            let mut generator = self.runtime.generator(&options.session)?;
            generator.set_sampler(options.sampler)?;
            Ok(Session::new(generator, self.tokenizer.clone(), Arc::clone(&self.compiler)))
        })
    }

    #[pyo3(signature = (path, /))]
    fn load(&self, py: Python<'_>, path: PathBuf) -> PyResult<Session> {
        work::run(py, |_| {
            let snapshot = Snapshot::read(self.model(), &path)?;
            let generator = self.runtime.load(&snapshot).map_err(|error| error.in_file(&path))?;
            Ok(Session::new(generator, self.tokenizer.clone(), Arc::clone(&self.compiler)))
        })
    }

    #[pyo3(signature = (*, sequences=1, **options))]
    fn estimate(&self, sequences: usize, options: Option<&Bound<'_, PyDict>>) -> PyResult<Estimate> {
        let options = Options::read(SESSION, options)?.session;
        Ok(match sequences {
            1 => MemoryEstimate::new(self.model(), &options).into(),
            _ => MemoryEstimate::of_batch(self.model(), &options, sequences).into(),
        })
    }

    #[getter]
    fn name(&self) -> &str {
        &self.model().config().name
    }

    #[getter]
    fn block_length(&self) -> usize {
        self.model().config().block_length
    }

    #[getter]
    fn vocabulary(&self) -> usize {
        self.model().config().vocabulary
    }

    #[getter]
    fn trained_blocks(&self) -> usize {
        self.model().config().trained_blocks
    }

    #[getter]
    fn align(&self) -> &'static str {
        self.model().config().alignment.name()
    }

    #[getter]
    fn end_token(&self) -> Option<u32> {
        self.model().end_token()
    }

    #[getter]
    fn has_tokenizer(&self) -> bool {
        self.tokenizer.is_some()
    }

    #[getter]
    fn threads(&self) -> usize {
        self.runtime.team().threads()
    }

    #[getter]
    fn file_bytes(&self) -> usize {
        self.model().file_bytes()
    }

    fn __repr__(&self) -> String {
        let config = self.model().config();
        let (name, length, vocabulary) = (&config.name, config.block_length, config.vocabulary);
        format!("Model(name={name:?}, block_length={length}, vocabulary={vocabulary})")
    }
}
