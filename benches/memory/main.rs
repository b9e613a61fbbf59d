//! What the rolling cache keeps, for how long, and at what cost; `docs/memory.md` tells what came out.
//!
//!     cargo bench --bench memory -- alignment MODEL IDS
//!     cargo bench --bench memory -- loss MODEL IDS CHART.svg
//!     cargo bench --bench memory -- endless MODEL FOLDER TOKENS
//!     cargo bench --bench memory -- cancel MODEL
//!
//! MODEL is a model file; IDS is a file of token ids, little-endian u16.

mod alignment;
mod cancel;
mod chart;
mod endless;
mod loss;

use std::path::Path;
use std::process::ExitCode;

use cinderblock::{Error, Result, Runtime};

fn ids(path: &str) -> Result<Vec<u32>> {
    let bytes = std::fs::read(path).map_err(|error| Error::io(Path::new(path), &error))?;
    Ok(bytes.as_chunks::<2>().0.iter().map(|bytes| u16::from_le_bytes(*bytes).into()).collect())
}

fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (count, sum) = values.into_iter().fold((0u64, 0.0), |(count, sum), value| (count + 1, sum + value));
    sum / count as f64
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn run(arguments: &[&str]) -> Result<()> {
    match arguments {
        ["alignment", model, file] => alignment::run(&Runtime::open(model)?, &ids(file)?),
        ["loss", model, file, chart] => loss::run(&Runtime::open(model)?, &ids(file)?, Path::new(chart)),
        ["endless", model, folder, tokens] => match tokens.parse() {
            Ok(tokens) => endless::run(&Runtime::open(model)?, Path::new(folder), tokens),
            Err(_) => Err(Error::argument(format!("found {tokens:?}, expected a number of tokens"))),
        },
        ["cancel", model] => cancel::run(&Runtime::open(model)?),
        _ => Err(Error::argument(
            "expected alignment MODEL IDS, loss MODEL IDS CHART.svg, endless MODEL FOLDER TOKENS or cancel MODEL",
        )),
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
