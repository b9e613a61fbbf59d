//! Quantization, with a callback.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::Builder;

use cinderblock::{Error, ErrorKind};
use cinderblock_tools::parse;
use cinderblock_tools::verbs::quantize::{Arguments, Progress, run_silently, stop};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::raise;
use crate::work::PATIENCE;

/// One at a time: each takes the whole machine, and all are stopped together.
static TURN: Mutex<()> = Mutex::new(());

enum Event {
    Begin(&'static str, u64),
    Add(u64),
}

struct Reporter(Sender<Event>);

impl Progress for Reporter {
    fn begin(&self, stage: &'static str, total: u64) {
        // Whoever does not listen any more has asked to stop.
        let _ = self.0.send(Event::Begin(stage, total));
    }

    fn add(&self, done: u64) {
        let _ = self.0.send(Event::Add(done));
    }

    fn end(&self) {}
}

/// Options as words of the command line.
struct Words(Vec<OsString>);

impl Words {
    fn option(&mut self, name: &str, value: Option<impl Into<OsString>>) {
        if let Some(value) = value {
            let mut word = OsString::from(name);
            word.push("=");
            word.push(value.into());
            self.0.push(word);
        }
    }
}

/// Quantizes a checkpoint into one model file.
#[pyfunction]
#[pyo3(signature = (
    checkpoint, output, *, r#type="q4", bits=None, calibrate=None, calibration_tokens=None, tensor_types=None,
    config=None, ignore_keys=None, tokenizer=None, end_token=None, align=None, name=None, threads=0, report=false,
    progress=None,
))]
#[expect(clippy::too_many_arguments, reason = "all but two are keywords")]
pub fn quantize<'py>(
    py: Python<'py>,
    checkpoint: PathBuf,
    output: PathBuf,
    r#type: &str,
    bits: Option<f64>,
    calibrate: Option<PathBuf>,
    calibration_tokens: Option<usize>,
    tensor_types: Option<&Bound<'py, PyDict>>,
    config: Option<PathBuf>,
    ignore_keys: Option<Vec<String>>,
    tokenizer: Option<PathBuf>,
    end_token: Option<&Bound<'py, PyAny>>,
    align: Option<String>,
    name: Option<String>,
    threads: usize,
    report: bool,
    progress: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let mut words = Words(Vec::new());
    words.option("--output", Some(output));
    words.option("--type", bits.is_none().then_some(r#type));
    words.option("--bits", bits.map(|bits| bits.to_string()));
    words.option("--calibrate", calibrate);
    words.option("--calibration-tokens", calibration_tokens.map(|tokens| tokens.to_string()));
    for (pattern, kind) in tensor_types.into_iter().flatten() {
        words.option("--tensor-type", Some(format!("{pattern}={kind}")));
    }
    words.option("--config", config);
    ignore_keys.into_iter().flatten().for_each(|key| words.option("--ignore-key", Some(key)));
    words.option("--tokenizer", tokenizer);
    words.option("--end-token", end_token.map(|token| token.to_string()));
    words.option("--align", align);
    words.option("--name", name);
    words.option("--threads", Some(threads.to_string()));
    if report {
        words.0.push("--report".into());
    }
    words.0.extend(["--".into(), checkpoint.into()]);
    let arguments: Arguments = parse(words.0).map_err(|error| raise(py, &error))?;
    let summary = run(py, arguments, progress.as_ref())?;
    py.import("json")?.call_method1("loads", (summary,))
}

/// Quantizes in a thread of its own, and gives the summary as JSON. This one calls back and handles signals.
fn run(py: Python<'_>, arguments: Arguments, progress: Option<&Bound<'_, PyAny>>) -> PyResult<String> {
    let _turn = loop {
        match TURN.try_lock() {
            Ok(turn) => break turn,
            Err(std::sync::TryLockError::Poisoned(turn)) => break turn.into_inner(),
            Err(std::sync::TryLockError::WouldBlock) => py.detach(|| std::thread::sleep(PATIENCE)),
        }
        py.check_signals()?;
    };
    let (sender, events) = channel();
    let events = Mutex::new(events);
    let work = move || run_silently(&arguments, &Reporter(sender));
    let thread = Builder::new().name("quantize".into()).spawn(work).map_err(|error| {
        raise(py, &Error::new(ErrorKind::Resource, format!("a thread could not be started: {error}")))
    })?;
    let mut state = BTreeMap::new();
    let mut follow = || -> PyResult<()> {
        let (mut stage, mut done, mut total) = ("", 0, 0);
        loop {
            let event = py.detach(|| {
                let events = events.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                events.recv_timeout(PATIENCE)
            });
            py.check_signals()?;
            match event {
                Ok(Event::Begin(name, all)) => (stage, done, total) = (name, 0, all),
                Ok(Event::Add(more)) => done += more,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            // No more calls than whole percents.
            let percent = (done * 100).checked_div(total).unwrap_or(100);
            if state.insert(stage, percent) != Some(percent)
                && let Some(progress) = progress
            {
                progress.call1((stage, done, total))?;
            }
        }
    };
    let outcome = follow();
    if outcome.is_err() {
        stop(true);
    }
    let result = py.detach(|| thread.join());
    stop(false);
    outcome?;
    let result = result.unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "quantizing has panicked")));
    result.map(|summary| summary.to_string()).map_err(|error| raise(py, &error))
}
