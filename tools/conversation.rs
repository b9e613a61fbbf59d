//! A session and the text it continues: what `run` and its interactive mode share.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use cinderblock::{
    Constraint, End, Error, ErrorKind, GenerateOptions, Generator, Model, Result, Runtime, Snapshot,
    Speculate, Step, Token, Tokenizer,
};

use crate::interrupt;
use crate::output::{self, Inputs};
use crate::sampling::SamplingArguments;

/// A session, and how it generates.
pub struct Conversation {
    pub runtime: Runtime,
    pub tokenizer: Option<Tokenizer>,
    pub generator: Generator,
    pub options: GenerateOptions,
    pub stops: Vec<String>,
    /// What restricts each answer.
    pub constraint: Option<Box<dyn Constraint>>,
    /// Options that replace those of a saved sampler.
    pub sampling: SamplingArguments,
    pub speculate: Speculate,
    /// The files that are read.
    pub inputs: Inputs,
}

/// Where generated text goes.
#[derive(Clone, Copy, PartialEq)]
pub enum Destination {
    /// To standard output as it comes; nothing is kept, so endless text takes no more memory than short text.
    Shown,
    /// To the [`Answer`].
    Kept,
}

/// One generated text.
pub struct Answer {
    /// `None` if it was interrupted.
    pub end: Option<End>,
    /// Number of tokens.
    pub count: usize,
    pub time: Duration,
    /// The tokens, if they were to be kept.
    pub tokens: Vec<Token>,
    /// The text, if it was to be kept.
    pub text: String,
}

impl Answer {
    /// The name of its end.
    pub fn end_name(&self) -> &'static str {
        end_name(self.end)
    }
}

/// The name of an end; `None` is an interruption.
pub fn end_name(end: Option<End>) -> &'static str {
    end.map_or("interrupted", End::name)
}

impl Conversation {
    /// Gives the generator what no saved session has, and lets signals stop it.
    pub fn prepare(&mut self) {
        self.generator.set_stops(self.stops.clone());
        self.generator.set_speculation(self.speculate);
        interrupt::listen_for(self.generator.interrupt());
    }

    /// Continues a saved session in place of the present one.
    ///
    /// # Errors
    /// As [`load`]; then nothing has changed.
    pub fn replace(&mut self, path: &Path) -> Result<()> {
        self.generator = load(path, &self.runtime, &self.sampling)?;
        self.prepare();
        Ok(())
    }

    /// Generates. Text that is shown ends with a line break; a model without a tokenizer shows ids.
    pub fn generate(&mut self, destination: Destination) -> Result<Answer> {
        let (mut count, mut tokens, mut text) = (0, Vec::new(), String::new());
        let mut shown = Ok(());
        let ids = self.tokenizer.is_none();
        let started = Instant::now();
        // A constraint holds for one text.
        self.generator.set_constraint(self.constraint.clone());
        let each = |step: Step| {
            if destination == Destination::Shown {
                let separator = if count == 0 { "" } else { "," };
                shown = match &step.token {
                    Some(token) if ids => output::print(&format!("{separator}{}", token.id)),
                    _ if step.text.is_empty() => Ok(()),
                    _ => output::print(&step.text),
                };
            }
            count += usize::from(step.token.is_some());
            if destination == Destination::Kept {
                tokens.extend(step.token);
                text.push_str(&step.text);
            }
            if shown.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let end = match self.generator.generate(self.tokenizer.as_ref(), &self.options, each) {
            Ok((end, _)) => Some(end),
            Err(error) if error.kind() == ErrorKind::Interrupted => None,
            Err(error) => return Err(error),
        };
        shown?;
        let time = started.elapsed();
        if destination == Destination::Shown {
            output::print("\n")?;
        }
        Ok(Answer { end, count, time, tokens, text })
    }
}

/// Reads a session file.
///
/// # Errors
/// If it cannot be read, is damaged or was saved with another model.
pub fn read_snapshot(model: &Model, path: &Path) -> Result<Snapshot<'static>> {
    Snapshot::read(model, path).map_err(|error| match error.subject() {
        Some("model of the session") => {
            let found = "one of another model or quantization";
            Error::mismatch("session", found, "one of this model").in_file(path)
        }
        _ => error,
    })
}

/// Loads a session file. Its sampler continues, unless options replace it.
///
/// # Errors
/// As [`read_snapshot`], and if its cache cannot be allocated or an option is out of range.
pub fn load(path: &Path, runtime: &Runtime, sampling: &SamplingArguments) -> Result<Generator> {
    let snapshot = read_snapshot(runtime.model(), path)?;
    let damaged = |error: Error| match error.kind() {
        // A value in the file, not one of the command line.
        ErrorKind::Argument => Error::format(error.detail()).in_file(path),
        _ => error.in_file(path),
    };
    let mut generator = runtime.load(&snapshot).map_err(damaged)?;
    if sampling.is_given() {
        generator.set_sampler(sampling.over(generator.sampler_options()))?;
    }
    Ok(generator)
}
