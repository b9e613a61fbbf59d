//! The results of calls.

use cinderblock::{End, MemoryEstimate, Step, Token};
use numpy::PyArray1;
use pyo3::prelude::*;

/// A token, and the text that it completes.
#[pyclass(frozen, module = "cinderblock", name = "Step")]
pub struct PyStep {
    #[pyo3(get)]
    text: String,
    #[pyo3(get)]
    token: Option<u32>,
    #[pyo3(get)]
    logprob: Option<f32>,
    #[pyo3(get)]
    top: Vec<(u32, f32)>,
}

#[pymethods]
impl PyStep {
    fn __str__(&self) -> &str {
        &self.text
    }

    fn __repr__(&self) -> String {
        format!("Step(text={:?}, token={})", self.text, self.token.map_or("None".into(), |id| id.to_string()))
    }
}

impl From<Step> for PyStep {
    fn from(Step { token, text, .. }: Step) -> PyStep {
        let (token, logprob, top) =
            token.map_or((None, None, Vec::new()), |token| (Some(token.id), token.logprob, token.top));
        PyStep { text, token, logprob, top }
    }
}

/// A text that is being collected.
#[derive(Default)]
pub struct Text {
    pub text: String,
    pub tokens: Vec<Token>,
    pub end: Option<End>,
}

impl Text {
    pub fn push(&mut self, step: Step) {
        self.text += &step.text;
        self.tokens.extend(step.token);
    }
}

/// A generated text.
#[pyclass(frozen, module = "cinderblock")]
pub struct Completion {
    #[pyo3(get)]
    text: String,
    #[pyo3(get)]
    end: &'static str,
    tokens: Py<PyArray1<u32>>,
    logprobs: Option<Py<PyArray1<f32>>>,
    #[pyo3(get)]
    top: Vec<Vec<(u32, f32)>>,
}

impl Completion {
    pub fn new(py: Python<'_>, text: Text) -> Completion {
        let ids = text.tokens.iter().map(|token| token.id).collect();
        let logprobs: Option<Vec<f32>> = text.tokens.iter().map(|token| token.logprob).collect();
        let logprobs = logprobs.filter(|logprobs| !logprobs.is_empty());
        Completion {
            text: text.text,
            end: text.end.map_or("interrupted", End::name),
            tokens: PyArray1::from_vec(py, ids).unbind(),
            logprobs: logprobs.map(|logprobs| PyArray1::from_vec(py, logprobs).unbind()),
            top: text.tokens.into_iter().map(|token| token.top).filter(|top| !top.is_empty()).collect(),
        }
    }
}

#[pymethods]
impl Completion {
    #[getter]
    fn tokens(&self, py: Python<'_>) -> Py<PyArray1<u32>> {
        self.tokens.clone_ref(py)
    }

    #[getter]
    fn logprobs(&self, py: Python<'_>) -> Option<Py<PyArray1<f32>>> {
        self.logprobs.as_ref().map(|logprobs| logprobs.clone_ref(py))
    }

    fn __str__(&self) -> &str {
        &self.text
    }

    fn __repr__(&self) -> String {
        format!("Completion(text={:?}, end={:?})", self.text, self.end)
    }
}

/// The log-likelihood of a continuation.
#[pyclass(frozen, get_all, module = "cinderblock")]
pub struct Score {
    pub logprob: f64,
    pub tokens: usize,
    pub is_greedy: bool,
}

impl From<cinderblock_tools::unstable::Score> for Score {
    fn from(score: cinderblock_tools::unstable::Score) -> Score {
        Score { logprob: score.logprob, tokens: score.tokens, is_greedy: score.is_greedy }
    }
}

#[pymethods]
impl Score {
    fn __repr__(&self) -> String {
        let is_greedy = if self.is_greedy { "True" } else { "False" };
        format!("Score(logprob={}, tokens={}, is_greedy={is_greedy})", self.logprob, self.tokens)
    }
}

/// The memory of sequences, in bytes.
#[pyclass(frozen, get_all, module = "cinderblock")]
pub struct Estimate {
    weights: u64,
    cache: u64,
    scratch: u64,
    total: u64,
    cache_blocks: usize,
}

impl From<MemoryEstimate> for Estimate {
    fn from(estimate: MemoryEstimate) -> Estimate {
        let total = estimate.total();
        let MemoryEstimate { weights, cache, scratch, cache_blocks } = estimate;
        Estimate { weights, cache, scratch, total, cache_blocks }
    }
}

#[pymethods]
impl Estimate {
    fn __repr__(&self) -> String {
        let Estimate { weights, cache, scratch, total, cache_blocks } = self;
        format!(
            "Estimate(weights={weights}, cache={cache}, scratch={scratch}, total={total}, \
             cache_blocks={cache_blocks})"
        )
    }
}
