//! `quantize`: a checkpoint to one model file.

mod budget;
mod recipe;
mod write;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use cinderblock::error::{Error, Result};
use cinderblock::generation::tokenizer::Tokenizer;
use cinderblock::model::{Role, TensorSpec, tensors};
use cinderblock::quant::WeightType;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::calibration::{Calibration, Calibrator, Finding};
use crate::checkpoint::Checkpoint;
use crate::interrupt;
use crate::output::{self, AtomicFile, Inputs};
use budget::Judge;
pub(crate) use recipe::{Rule, recipe};
use write::Source;

const EXAMPLES: &str = "\
Examples:
  cinderblock quantize CHECKPOINT_DIR -o model.gguf --type q4
  cinderblock quantize CHECKPOINT_DIR -o q4.gguf --bits 4.6 --calibrate text.txt
  cinderblock quantize CHECKPOINT_DIR -o exact.gguf --type f32 --report
  cinderblock quantize CHECKPOINT_DIR -o small.gguf --tensor-type '*.head.weight=q4'";

/// Quantize a checkpoint folder into one model file
///
/// The folder holds config.yaml (the authors' trainer format), model.safetensors (or shards with
/// model.safetensors.index.json) and, if there is one, tokenizer.json.
///
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// The folder of the checkpoint
    #[arg(value_name = "CHECKPOINT_DIR")]
    checkpoint: PathBuf,

    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// Type of the matrices; q4 keeps the embedding tables and the vocabulary head in q8
    #[arg(long = "type", value_name = "TYPE", default_value = "q4", value_parser = WeightType::ALL.map(WeightType::name))]
    kind: String,

    /// Choose the types by the loss of each tensor, for at most BITS a weight on average
    #[arg(long, value_name = "BITS", value_parser = parse_bits, conflicts_with = "kind", requires = "calibrate")]
    bits: Option<f64>,

    /// Round matrices for the inputs that this text gives them; it should resemble what the model will read
    #[arg(long, value_name = "FILE")]
    calibrate: Option<PathBuf>,

    /// Use at most N tokens of the calibration text [default: 32768; 12288 above 200 million weights]
    #[arg(long, value_name = "N", value_parser = parse_tokens, requires = "calibrate")]
    calibration_tokens: Option<usize>,

    /// A file of lines PATTERN=TYPE; those of --tensor-type follow it
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,

    /// Type of the tensors whose name matches; * stands for any text; may be repeated, the last match wins
    #[arg(long, value_name = "PATTERN=TYPE", value_parser = Rule::parse)]
    tensor_type: Vec<Rule>,

    /// Report the size and the error of every matrix
    #[arg(long)]
    report: bool,

    /// A name for the model [default: the name in config.yaml]
    #[arg(long)]
    name: Option<String>,

    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

/// All in q4 is the least there is.
fn parse_bits(text: &str) -> std::result::Result<f64, String> {
    let bits: f64 = text.parse().map_err(|_| "expected a number".to_string())?;
    if (4.25..=16.0).contains(&bits) { Ok(bits) } else { Err("expected 4.25 to 16".to_string()) }
}

fn parse_tokens(text: &str) -> std::result::Result<usize, String> {
    let tokens: usize = text.parse().map_err(|_| "expected a number".to_string())?;
    if tokens >= 1024 { Ok(tokens) } else { Err("expected at least 1024".to_string()) }
}

/// Runs the verb.
///
/// # Errors
/// If the checkpoint or an option is refused, or a file cannot be read or written; `Interrupted` by a signal.
pub fn run(arguments: Arguments) -> Result<()> {
    let started = Instant::now();
    let checkpoint = Checkpoint::open(&arguments.checkpoint)?;
    let kind = WeightType::from_name(&arguments.kind).expect("clap has checked the name");
    let specs = tensors(&checkpoint.config);
    let mut rules = match &arguments.recipe {
        Some(path) => Rule::read(path)?,
        None => Vec::new(),
    };
    rules.extend(arguments.tensor_type.iter().cloned());
    // A rule that matches nothing is an error whatever the types are chosen by.
    let mut types = recipe(kind, &specs, &rules)?;
    for spec in &specs {
        checkpoint.check(spec)?;
    }
    let path = &arguments.output;
    output::not_standard(path, "no way back to its beginning")?;
    let inputs = Inputs::new().with("checkpoint", checkpoint.files()).with("recipe", &arguments.recipe);
    inputs.with("calibration text", &arguments.calibrate).check(path)?;
    interrupt::listen();
    // Calibration takes long; an output that cannot be is found before.
    let output = output::create(path)?;
    let most = if budget::weights(&specs) > 200_000_000 { 12288 } else { 32768 };
    let most = arguments.calibration_tokens.unwrap_or(most);
    let text = arguments.calibrate.as_deref().map(|path| Text::read(path, &checkpoint)).transpose()?;
    let mut base = kind.to_string();
    let mut calibration = Calibration::default();
    if let Some(budget) = arguments.bits {
        base = format!("bits {budget}");
        let text = text.as_ref().ok_or_else(|| Error::argument("--bits: expected --calibrate with it"))?;
        (types, calibration) = solve(&checkpoint, &specs, &rules, budget, text, most)?;
    } else if let Some(text) = &text {
        calibration = calibrate(&checkpoint, &specs, &types, text.training(most))?;
    }

    let rules: String = rules.iter().map(|rule| format!(", {}={}", rule.pattern, rule.kind)).collect();
    let provenance = text.as_ref().map(|text| text.provenance(most));
    let source = Source {
        checkpoint: &checkpoint,
        specs: &specs,
        types: &types,
        ready: &calibration.bytes,
        name: arguments.name.as_deref(),
        recipe: &format!("{base}{rules}"),
        calibration: provenance.as_deref(),
    };
    let size = specs.iter().zip(&types).map(|(spec, kind)| spec.describe(*kind).bytes()).sum();
    output::check_space(path, size)?;
    let bar = output::progress(budget::weights(&specs), PROGRESS);
    bar.set_message("quantizing");
    let done = |weights: usize| bar.inc(weights as u64);
    let (file, bytes, errors) = source.write(output, arguments.report, AtomicFile::error(path), done)?;
    file.commit()?;
    bar.finish_and_clear();

    let mut summary = Summary::new(&specs, &types, bytes, checkpoint.unused(&specs).len());
    if arguments.report {
        summary.tensors = report(&specs, &types, &errors, &calibration.findings);
    }
    if arguments.json {
        output::print_json(&summary.json(path, started))
    } else {
        summary.print(path, started)
    }
}

const PROGRESS: &str = "{msg} [{bar:30}] {percent}% {elapsed} left {eta}";

/// A calibration text.
struct Text {
    tokens: Vec<u32>,
    sha256: String,
    block_length: usize,
}

impl Text {
    fn read(path: &Path, checkpoint: &Checkpoint) -> Result<Text> {
        let bytes = std::fs::read(path).map_err(|error| Error::io(path, &error))?;
        let sha256 = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            Error::mismatch("text", format!("a byte at {at} that is not UTF-8"), "UTF-8").in_file(path)
        })?;
        let Some((json, _)) = &checkpoint.tokenizer else {
            return Err(Error::argument(
                "--calibrate: found no tokenizer.json in the checkpoint, expected one",
            ));
        };
        let tokens = Tokenizer::from_json(json)?.encode(&text)?;
        let vocabulary = checkpoint.config.vocabulary;
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
            let expected = format!("less than {vocabulary}");
            return Err(Error::mismatch("token of the calibration text", token, expected).in_file(path));
        }
        let block_length = checkpoint.config.block_length;
        let least = LEAST_BLOCKS * block_length;
        if tokens.len() < least {
            let error = Error::mismatch(
                "calibration text",
                format!("{} tokens", tokens.len()),
                format!("at least {least}"),
            );
            return Err(error.in_file(path));
        }
        Ok(Text { tokens, sha256, block_length })
    }

    /// The tokens to calibrate on: the first `most`, but never too few.
    fn training(&self, most: usize) -> &[u32] {
        let most = most.max(LEAST_BLOCKS * self.block_length);
        &self.tokens[..self.tokens.len().min(most)]
    }

    /// Tokens to compare variants on: the last ones, which calibration has not seen if there is enough text. The
    /// larger the model, the fewer; even so every token compares a whole vocabulary.
    fn judging(&self, weights: u64) -> &[u32] {
        let count = (JUDGED_WEIGHTS / weights.max(1)).clamp(256, 2048) as usize;
        let count = count.min(self.tokens.len()) / self.block_length * self.block_length;
        &self.tokens[self.tokens.len() - count..]
    }

    fn provenance(&self, most: usize) -> String {
        format!("sha256:{}, {} tokens", self.sha256, self.training(most).len())
    }
}

/// Fewer blocks would say nothing about a layer's inputs.
const LEAST_BLOCKS: usize = 16;
/// Weights times tokens of one comparison.
const JUDGED_WEIGHTS: u64 = 1 << 35;

fn calibrate(
    checkpoint: &Checkpoint,
    specs: &[TensorSpec],
    types: &[WeightType],
    tokens: &[u32],
) -> Result<Calibration> {
    let bar = output::progress(budget::weights(specs), PROGRESS);
    bar.set_message("calibrating");
    let done = |weights: usize| bar.inc(weights as u64);
    let calibration = Calibrator::new(checkpoint, specs, types, &done)?.run(tokens)?;
    bar.finish_and_clear();
    Ok(calibration)
}

/// Chooses types of at most `budget` bits a weight, over all tensors: as small as can be, then the tensors that
/// gain most in 8 bits.
fn solve(
    checkpoint: &Checkpoint,
    specs: &[TensorSpec],
    rules: &[Rule],
    budget: f64,
    text: &Text,
    tokens: usize,
) -> Result<(Vec<WeightType>, Calibration)> {
    let training = text.training(tokens);
    let mut types = budget::smallest(specs, rules);
    let calibration = calibrate(checkpoint, specs, &types, training)?;
    let (least, weights) = (budget::bits(specs, &types), budget::weights(specs));
    let left = ((budget * weights as f64) as u64).saturating_sub(least);
    let judged = specs.iter().zip(&types).filter(|(_, kind)| **kind == WeightType::Q4).count();
    let cheapest = budget::cheapest(specs, &types, rules);
    if cheapest.is_none_or(|cheapest| cheapest > left) {
        return Ok((types, calibration));
    }
    let bar = output::progress(judged as u64, PROGRESS);
    bar.set_message("measuring tensors");
    let floats: Vec<WeightType> = types
        .iter()
        .map(|kind| if *kind == WeightType::F32 { WeightType::F32 } else { WeightType::Bf16 })
        .collect();
    let rounded = Source {
        checkpoint,
        specs,
        types: &types,
        ready: &calibration.bytes,
        name: None,
        recipe: "",
        calibration: None,
    };
    let exact = Source { types: &floats, ready: &HashMap::new(), ..rounded };
    let judge = Judge::new(&exact, text.judging(weights))?;
    let mut candidates = budget::sensitivities(&judge, &rounded, rules, || bar.inc(1))?;
    bar.finish_and_clear();
    budget::spend(&mut candidates, &mut types, left);
    let calibration = calibrate(checkpoint, specs, &types, training)?;
    Ok((types, calibration))
}

/// One line a matrix: where the bits went, and what they left out.
fn report(
    specs: &[TensorSpec],
    types: &[WeightType],
    errors: &[f64],
    findings: &[Finding],
) -> Vec<serde_json::Value> {
    let total: u64 = budget::bits(specs, types);
    let matrices = specs.iter().zip(types).zip(errors).filter(|((spec, _), _)| spec.role != Role::Vector);
    matrices
        .map(|((spec, kind), error)| {
            let bytes = spec.describe(*kind).bytes();
            let mut row = json!({
                "name": spec.name,
                "type": kind.name(),
                "weights": spec.rows * spec.width,
                "bytes": bytes,
                "share": 8.0 * bytes as f64 / total as f64,
                "weight_error": error,
            });
            if let Some(finding) = findings.iter().find(|finding| finding.name == spec.name) {
                row["rounding"] = json!(finding.method);
                row["output_error"] = json!(finding.error);
                row["output_error_nearest"] = json!(finding.nearest_error);
            }
            row
        })
        .collect()
}

/// What was written, by type.
struct Summary {
    rows: Vec<(WeightType, usize, usize, u64)>,
    bytes: u64,
    unused: usize,
    /// One object a matrix, if a report was asked for.
    tensors: Vec<serde_json::Value>,
}

impl Summary {
    fn new(specs: &[TensorSpec], types: &[WeightType], bytes: u64, unused: usize) -> Summary {
        let rows = WeightType::ALL.into_iter().filter_map(|kind| {
            let of_kind = || specs.iter().zip(types).filter(move |(_, k)| **k == kind).map(|(spec, _)| spec);
            let weights = of_kind().map(|spec| spec.rows * spec.width).sum();
            let stored = of_kind().map(|spec| spec.describe(kind).bytes()).sum();
            (weights > 0).then(|| (kind, of_kind().count(), weights, stored))
        });
        Summary { rows: rows.collect(), bytes, unused, tensors: Vec::new() }
    }

    fn total(&self) -> (usize, usize, u64) {
        self.rows.iter().fold((0, 0, 0), |sum, row| (sum.0 + row.1, sum.1 + row.2, sum.2 + row.3))
    }

    fn print(&self, path: &Path, started: Instant) -> Result<()> {
        let mut text = self.tensors_text();
        text += &format!(
            "{:6} {:>8} {:>14} {:>14} {:>13}\n",
            "type", "tensors", "weights", "bytes", "bits a weight"
        );
        let (tensors, weights, stored) = self.total();
        let total = ("total", tensors, weights, stored);
        let rows = self.rows.iter().map(|row| (row.0.name(), row.1, row.2, row.3));
        for (name, tensors, weights, stored) in rows.chain([total]) {
            let bits = 8.0 * stored as f64 / weights as f64;
            text += &format!("{name:6} {tensors:>8} {weights:>14} {stored:>14} {bits:>13.3}\n");
        }
        text += &format!(
            "{}: {} in {:.1} s; left out {} tensors that inference does not use\n",
            path.display(),
            output::bytes(self.bytes),
            started.elapsed().as_secs_f64(),
            self.unused
        );
        output::print(&text)
    }

    /// The report for people: errors are squared and relative, in thousandths.
    fn tensors_text(&self) -> String {
        if self.tensors.is_empty() {
            return String::new();
        }
        let mut text = format!(
            "{:46} {:5} {:>7} {:>9} {:>9} {:>9}\n",
            "tensor (errors squared, in thousandths)", "type", "bytes %", "weights", "nearest", "outputs"
        );
        for row in &self.tensors {
            let number = |key: &str, scale: f64| {
                row[key].as_f64().map_or(String::new(), |value| format!("{:.3}", scale * value))
            };
            text += &format!(
                "{:46} {:5} {:>7} {:>9} {:>9} {:>9}\n",
                row["name"].as_str().unwrap_or_default(),
                row["type"].as_str().unwrap_or_default(),
                number("share", 100.0),
                number("weight_error", 1e3),
                number("output_error_nearest", 1e3),
                number("output_error", 1e3),
            );
        }
        text + "\n"
    }

    fn json(&self, path: &Path, started: Instant) -> serde_json::Value {
        let (tensors, weights, stored) = self.total();
        let types: Vec<_> = self
            .rows
            .iter()
            .map(|(kind, tensors, weights, stored)| {
                json!({"type": kind.name(), "tensors": tensors, "weights": weights, "bytes": stored})
            })
            .collect();
        let mut summary = json!({
            "file": path.display().to_string(),
            "bytes": self.bytes,
            "tensors": tensors,
            "weights": weights,
            "bits_per_weight": 8.0 * stored as f64 / weights as f64,
            "types": types,
            "unused_tensors": self.unused,
            "seconds": started.elapsed().as_secs_f64(),
        });
        if !self.tensors.is_empty() {
            summary["report"] = json!(self.tensors);
        }
        summary
    }
}
