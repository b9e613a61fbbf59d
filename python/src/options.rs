//! Keyword arguments as options, and prompts.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cinderblock::{
    Alignment, CacheType, Constraint, Error, GenerateOptions, Result, SamplerOptions, SessionOptions,
    Tokenizer,
};
use cinderblock_tools::unstable::{Constraints, Form, Prompt};
use numpy::{PyArray1, PyArrayMethods};
use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::error::raise;

/// Groups of options, of which a function takes some.
pub const SESSION: u8 = 1;
pub const SAMPLER: u8 = 2;
pub const GENERATE: u8 = 4;

/// All options, at their defaults where nothing was given.
#[derive(Default)]
pub struct Options {
    pub session: SessionOptions,
    pub sampler: SamplerOptions,
    pub generate: GenerateOptions,
    pub stops: Vec<String>,
    pub form: Option<Form>,
    /// Seeds of the texts of a batch, if each has its own.
    pub seeds: Vec<u64>,
}

fn alignment(name: &str) -> Result<Alignment> {
    let names = Alignment::ALL.map(Alignment::name).join(" or ");
    Alignment::from_name(name)
        .ok_or_else(|| Error::argument(format!("align: found {name:?}, expected {names}")))
}

fn cache_type(name: &str) -> Result<CacheType> {
    let names = CacheType::ALL.map(CacheType::name).join(", ");
    let found = CacheType::ALL.into_iter().find(|kind| kind.name() == name);
    found.ok_or_else(|| Error::argument(format!("cache type: found {name:?}, expected one of {names}")))
}

fn seconds(seconds: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| Error::argument(format!("time limit: found {seconds}, expected a number of seconds")))
}

fn schema(text: &str) -> Result<Form> {
    let schema = serde_json::from_str(text);
    schema.map(Form::Json).map_err(|error| Error::argument(format!("JSON schema: {error}")))
}

/// One text or several.
fn texts(value: &Bound<'_, PyAny>) -> PyResult<Vec<String>> {
    if value.cast::<PyString>().is_ok() { Ok(vec![value.extract()?]) } else { value.extract() }
}

impl Options {
    /// The options of some groups; `None` is the default of every option.
    pub fn read(groups: u8, given: Option<&Bound<'_, PyDict>>) -> PyResult<Options> {
        let mut options = Options::default();
        for (key, value) in given.into_iter().flatten() {
            let name: String = key.extract()?;
            if !options.set(groups, &name, &value)? {
                return Err(PyTypeError::new_err(format!("found an unexpected keyword argument {name:?}")));
            }
        }
        Ok(options)
    }

    /// Sets an option; `false` if there is none of that name.
    fn set(&mut self, groups: u8, name: &str, value: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = value.py();
        let fail = |error: Error| raise(py, &error);
        let Options { session, sampler, generate, .. } = self;
        let group = match name {
            "cache_blocks" | "sink_blocks" | "cache_type" | "align" => SESSION,
            "temperature" | "top_k" | "top_p" | "min_p" | "repetition_penalty" | "repetition_window"
            | "seed" | "logit_bias" => SAMPLER,
            "max_tokens" | "time_limit" | "stop" | "ignore_end" | "logprobs" | "json_schema" | "regex"
            | "grammar" => GENERATE,
            _ => 0,
        };
        if group & groups == 0 {
            return Ok(false);
        }
        if value.is_none() {
            return Ok(true);
        }
        match name {
            "cache_blocks" => session.cache_blocks = Some(value.extract()?),
            "sink_blocks" => session.sink_blocks = value.extract()?,
            "cache_type" => session.cache_type = Some(cache_type(&value.extract::<String>()?).map_err(fail)?),
            "align" => session.alignment = Some(alignment(&value.extract::<String>()?).map_err(fail)?),
            "temperature" => sampler.temperature = value.extract()?,
            "top_k" => sampler.top_k = value.extract()?,
            "top_p" => sampler.top_p = value.extract()?,
            "min_p" => sampler.min_p = value.extract()?,
            "repetition_penalty" => sampler.repetition_penalty = value.extract()?,
            "repetition_window" => sampler.repetition_window = value.extract()?,
            "seed" => match value.extract() {
                Ok(seed) => sampler.seed = seed,
                Err(_) => self.seeds = value.extract()?,
            },
            "logit_bias" => {
                let biases: std::collections::BTreeMap<u32, f32> = value.extract()?;
                sampler.logit_bias = biases.into_iter().collect();
            }
            "max_tokens" => generate.max_tokens = value.extract()?,
            "time_limit" => generate.time_limit = Some(seconds(value.extract()?).map_err(fail)?),
            "stop" => self.stops = texts(value)?,
            "ignore_end" => generate.ignore_end = value.extract()?,
            "logprobs" => generate.logprobs = Some(value.extract()?),
            "json_schema" => {
                let text = match value.cast::<PyString>() {
                    Ok(text) => text.to_string(),
                    Err(_) => py.import("json")?.call_method1("dumps", (value,))?.extract()?,
                };
                self.form = Some(schema(&text).map_err(fail)?);
            }
            "regex" => self.form = Some(Form::Regex(value.extract()?)),
            _ => self.form = Some(Form::Grammar(value.extract()?)),
        }
        Ok(true)
    }

    /// The same options for one text.
    ///
    /// # Errors
    /// If there are several seeds.
    pub fn of_one(self, py: Python<'_>) -> PyResult<Options> {
        if self.seeds.is_empty() {
            return Ok(self);
        }
        Err(raise(py, &Error::argument("seed: found several, expected one")))
    }
}

/// Compiles restrictions for a model, one at a time.
pub type Compiler = Arc<Mutex<Constraints>>;

/// Compiles a restriction, if there is one.
///
/// # Errors
/// As [`Constraints::compile`].
pub fn compile(compiler: &Compiler, form: Option<&Form>) -> Result<Option<Box<dyn Constraint>>> {
    let compiler = compiler.lock().unwrap_or_else(PoisonError::into_inner);
    form.map(|form| compiler.compile(form)).transpose()
}

/// A text, or token ids as an array or a sequence.
pub fn prompt(value: &Bound<'_, PyAny>) -> PyResult<Prompt> {
    if let Ok(text) = value.cast::<PyString>() {
        return Ok(Prompt::Text(text.extract()?));
    }
    if let Ok(array) = value.cast::<PyArray1<u32>>()
        && let Ok(array) = array.try_readonly()
    {
        return Ok(Prompt::Ids(array.as_array().to_vec()));
    }
    value.extract::<Vec<u32>>().map(Prompt::Ids).map_err(|error| {
        let py = value.py();
        if error.is_instance_of::<PyOverflowError>(py) {
            return raise(py, &Error::argument("token id: expected a number from 0 to 4294967295"));
        }
        error
    })
}

/// The tokens of a prompt, of which there may be none.
///
/// # Errors
/// If it is a text and there is no tokenizer.
pub fn tokens(prompt: Prompt, tokenizer: Option<&Tokenizer>) -> Result<Vec<u32>> {
    match prompt {
        Prompt::Ids(ids) => Ok(ids),
        Prompt::Text(text) => required(tokenizer)?.encode(&text),
    }
}

/// The tokenizer.
///
/// # Errors
/// If the model has none.
pub fn required(tokenizer: Option<&Tokenizer>) -> Result<&Tokenizer> {
    tokenizer
        .ok_or_else(|| Error::unsupported("the model carries no tokenizer: found text, expected token ids"))
}
