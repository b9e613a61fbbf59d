//! `quantize`: a checkpoint to one model file.

use std::path::PathBuf;
use std::time::Instant;

use cinderblock::unstable::model::{Alignment, tensors};
use cinderblock::unstable::quant::WeightType;
use cinderblock::{Error, ErrorKind, Processors, Result};

use crate::arguments::parse_threads;
use crate::calibration::Calibration;
use crate::checkpoint::{Checkpoint, CheckpointOptions, EndToken};
use crate::output::{self, AtomicFile, Inputs};
use crate::progress::Bar;
pub use crate::progress::Progress;
use crate::quantize::{Rule, Source, Summary, Text, calibrate, recipe, report, solve, weights};
use crate::{input, interrupt};

const EXAMPLES: &str = "\
Examples:
  cinderblock quantize results/b4_300 -o m.gguf --tokenizer tokenizer.json
  cinderblock quantize model.safetensors --config b4_85.yaml --dry-run
  cinderblock quantize CHECKPOINT -o model.gguf --bits 4.6 --calibrate text.txt
  cinderblock quantize CHECKPOINT -o m.gguf --calibrate t.txt --draft t.txt
  cinderblock quantize CHECKPOINT -o exact.gguf --type f32 --report
  cinderblock quantize CHECKPOINT -o m.gguf --tensor-type '*.head.weight=q4'";

/// Quantize a checkpoint into one model file
///
/// CHECKPOINT is a training run's folder (its highest checkpoint-N is taken), a folder with model.safetensors
/// or shards, a .safetensors file, or a folder with embedder, block_decoder and token_decoder. The trainer's
/// configuration and the tokenizer are found beside it, or named.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// The checkpoint
    #[arg(value_name = "CHECKPOINT")]
    checkpoint: PathBuf,

    /// The file to write
    #[arg(short, long, value_name = "FILE", required_unless_present = "dry_run")]
    output: Option<PathBuf>,

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

    /// Learn a draft table, from which tokens are guessed, from this text and from what the model writes itself
    #[arg(long, value_name = "FILE")]
    draft: Option<PathBuf>,

    /// Let the model write N tokens for the draft table [default: 131072; 16384 in a file above 200 MB]
    #[arg(long, value_name = "N", requires = "draft")]
    draft_tokens: Option<usize>,

    /// A file of lines PATTERN=TYPE; those of --tensor-type follow it
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,

    /// Type of the tensors whose name matches; * stands for any text; may be repeated, the last match wins
    #[arg(long, value_name = "PATTERN=TYPE", value_parser = Rule::parse)]
    tensor_type: Vec<Rule>,

    /// The trainer configuration (YAML), if it is not beside the checkpoint
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// A key of the configuration to pass over; may be repeated
    #[arg(long, value_name = "NAME")]
    ignore_key: Vec<String>,

    /// The tokenizer.json, if it is not beside the checkpoint
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,

    /// The token that ends a text: its id, its text, or none [default: what the tokenizer's files say]
    #[arg(long, value_name = "TOKEN", value_parser = EndToken::parse)]
    end_token: Option<EndToken>,

    /// How prompts that are not whole blocks are laid out [default: as the model was trained, if that is known]
    #[arg(long, value_name = "ALIGNMENT", value_parser = Alignment::ALL.map(Alignment::name))]
    align: Option<String>,

    /// A name for the model [default: the name in the configuration, or of the run's folder]
    #[arg(long)]
    name: Option<String>,

    /// Threads; 0 is as many as the machine, affinity and quota allow
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = parse_threads)]
    threads: usize,

    /// Report the size and the error of every matrix
    #[arg(long)]
    report: bool,

    /// Check everything and show what would be written, but write nothing
    #[arg(long)]
    dry_run: bool,

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

impl Arguments {
    fn open(&self, say: &dyn Fn(&str) -> Result<()>) -> Result<Checkpoint> {
        let options = CheckpointOptions {
            config: self.config.clone(),
            tokenizer: self.tokenizer.clone(),
            end_token: self.end_token.clone(),
            alignment: self.align.as_deref().and_then(Alignment::from_name),
            name: self.name.clone(),
            ignore_keys: self.ignore_key.clone(),
        };
        Checkpoint::open(&self.checkpoint, &options, say)
    }

    fn rules(&self) -> Result<Vec<Rule>> {
        let texts = self.recipe.iter().chain(&self.calibrate).chain(&self.draft);
        input::one_reader(texts)?;
        let mut rules = self.recipe.as_deref().map(Rule::read).transpose()?.unwrap_or_default();
        rules.extend(self.tensor_type.iter().cloned());
        Ok(rules)
    }

    /// Checks that the output can be written and is no input, and starts it.
    fn create(&self, checkpoint: &Checkpoint, bytes: u64) -> Result<Option<(PathBuf, AtomicFile)>> {
        let Some(path) = &self.output else { return Ok(None) };
        output::not_standard(path, "no way back to its beginning")?;
        let inputs = Inputs::new().with("checkpoint", checkpoint.files()).with("configuration", &self.config);
        let inputs = inputs.with("recipe", &self.recipe).with("tokenizer", &self.tokenizer);
        let inputs = inputs.with("calibration text", &self.calibrate);
        inputs.with("text", &self.draft).check(path)?;
        output::check_space(path, bytes)?;
        Ok(Some((path.clone(), output::create(path)?)))
    }
}

/// Runs the verb.
///
/// # Errors
/// If the checkpoint or an option is refused, or a file cannot be read or written; `Interrupted` by a signal.
pub fn run(arguments: Arguments) -> Result<()> {
    interrupt::listen();
    let started = Instant::now();
    let say = |line: &str| {
        if !arguments.json {
            return output::print(&format!("{line}\n"));
        }
        output::message(line);
        Ok(())
    };
    let (summary, written) = on_threads(&arguments, &say, &Bar::default())?;
    if arguments.json {
        output::print_json(&summary.json(written.as_deref(), started))
    } else {
        summary.print(written.as_deref(), started)
    }
}

/// As [`run`], without a word and without listening for signals; gives what `--json` prints. [`stop`] interrupts it.
///
/// # Errors
/// As [`run`].
pub fn run_silently(arguments: &Arguments, progress: &dyn Progress) -> Result<serde_json::Value> {
    let started = Instant::now();
    let (summary, written) = on_threads(arguments, &|_| Ok(()), progress)?;
    Ok(summary.json(written.as_deref(), started))
}

/// Stops quantizing, or takes that back. It holds for the whole process.
pub fn stop(stop: bool) {
    if stop { interrupt::ask() } else { interrupt::forget() }
}

/// The summary, and the file that was written.
fn on_threads(
    arguments: &Arguments,
    say: &(dyn Fn(&str) -> Result<()> + Sync),
    progress: &dyn Progress,
) -> Result<(Summary, Option<PathBuf>)> {
    let threads = if arguments.threads == 0 { Processors::detect().threads() } else { arguments.threads };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().map_err(|error| {
        Error::new(ErrorKind::Resource, format!("{threads} threads could not be started: {error}"))
    })?;
    pool.install(|| quantize(arguments, threads, say, progress))
}

fn quantize(
    arguments: &Arguments,
    threads: usize,
    say: &dyn Fn(&str) -> Result<()>,
    progress: &dyn Progress,
) -> Result<(Summary, Option<PathBuf>)> {
    let checkpoint = arguments.open(say)?;
    let kind = WeightType::from_name(&arguments.kind).expect("clap has checked the name");
    let specs = tensors(&checkpoint.config);
    let rules = arguments.rules()?;
    // A rule that matches nothing is an error whatever the types are chosen by.
    let mut types = recipe(kind, &specs, &rules)?;
    for spec in &specs {
        checkpoint.check(spec)?;
    }
    let most = if weights(&specs) > 200_000_000 { 12288 } else { 32768 };
    let most = arguments.calibration_tokens.unwrap_or(most);
    let text = arguments.calibrate.as_deref().map(|path| Text::read(path, &checkpoint)).transpose()?;
    if arguments.draft.is_some() && checkpoint.tokenizer.is_none() {
        let expected = "expected one; --tokenizer names one elsewhere";
        return Err(Error::argument(format!(
            "--draft: found no tokenizer.json in the checkpoint, {expected}"
        )));
    }
    let tokenizer = checkpoint.tokenizer.as_ref().map_or(0, |json| json.len() as u64);
    let stored: u64 = match arguments.bits {
        Some(bits) => (bits * weights(&specs) as f64 / 8.0) as u64,
        None => specs.iter().zip(&types).map(|(spec, kind)| spec.describe(*kind).bytes()).sum(),
    };
    let predicted = stored + tokenizer;
    let output = arguments.create(&checkpoint, predicted)?;
    let Some((path, file)) = output.filter(|_| !arguments.dry_run) else {
        return Ok((Summary::new(&specs, &types, predicted, &checkpoint), None));
    };

    let mut base = kind.to_string();
    let mut calibration = Calibration::default();
    if let Some(budget) = arguments.bits {
        base = format!("bits {budget}");
        let text = text.as_ref().ok_or_else(|| Error::argument("--bits: expected --calibrate with it"))?;
        (types, calibration) = solve(&checkpoint, &specs, &rules, budget, (text, most), (threads, progress))?;
    } else if let Some(text) = &text {
        calibration = calibrate(&checkpoint, &specs, &types, text.training(most), progress)?;
    }
    let rules: String = rules.iter().map(|rule| format!(", {}={}", rule.pattern, rule.kind)).collect();
    let provenance = text.as_ref().map(|text| text.provenance(most));
    let source = Source {
        checkpoint: &checkpoint,
        specs: &specs,
        types: &types,
        ready: &calibration.bytes,
        recipe: &format!("{base}{rules}"),
        calibration: provenance.as_deref(),
    };
    progress.begin("quantizing", weights(&specs));
    let done = |weights: usize| progress.add(weights as u64);
    let (file, bytes, errors) = source.write(file, arguments.report, AtomicFile::error(&path), done)?;
    file.commit()?;
    progress.end();
    let bytes = match &arguments.draft {
        Some(text) => super::edit::add_draft(&path, text, arguments.draft_tokens, progress)?,
        None => bytes,
    };

    let mut summary = Summary::new(&specs, &types, bytes, &checkpoint);
    if arguments.report {
        summary.tensors = report(&specs, &types, &errors, &calibration.findings);
    }
    Ok((summary, Some(path)))
}
