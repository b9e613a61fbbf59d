//! `batch`: many prompts from JSON lines to JSON lines, written together.

mod journal;
pub(crate) mod lines;
mod score;
pub(crate) mod unstable;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use cinderblock::{
    Alignment, Batch, End, Error, ErrorKind, Event, GenerateOptions, Model, PrefixCounts, Request, Result,
    SamplerOptions, SessionOptions, SpeculationCounts, Token, Tokenizer,
};
use indicatif::ProgressBar;
use serde_json::{Value as Json, json};

use crate::arguments::{
    BatchArguments, CacheArguments, ModelArguments, SpeculateArgument, parse_bytes, parse_max_tokens,
    unescape,
};
use crate::constraint::{ConstraintArguments, Constraints, Form};
use crate::sampling::SamplingArguments;
use crate::scoring::Scoring;
use crate::{input, interrupt, memory, output};
use journal::{Earlier, Journal, Name, RunKey};
use lines::{Fields, Line};
use score::Scores;

const EXAMPLES: &str = "\
Examples:
  cinderblock batch -m model.gguf -i prompts.jsonl -o answers.jsonl
  cinderblock batch -i prompts.jsonl -n 64 --temp 0 --memory 8GB > answers.jsonl
  echo '{\"id\": 1, \"prompt\": \"The rain had stopped.\"}' | cinderblock batch -n 32
  cinderblock batch --score -i questions.jsonl -o scores.jsonl";

/// Continue many prompts, several at a time
///
/// The input is one JSON object a line: {"id": a text or a whole number, "prompt": a text} or {"id", "tokens":
/// ids}, and what is to differ from the options: "max_tokens", "temp", "top_k", "top_p", "min_p",
/// "repetition_penalty", "repetition_window", "logit_bias", "seed", "stop" (a text or a list), "ignore_end",
/// "logprobs", "json_schema", "regex", "grammar". Any other column is kept and passed through. Each line is answered by one line, in the order in which
/// they end: {"id", "text", "tokens", "end", ...} or {"id", "line", "error"}. A seed that is not given follows from
/// --seed and the id, so an answer does not depend on what else is asked.
///
/// With -o, a run that was killed is resumed: lines that the file answers are not asked again, unless their answer is an
/// error that may have passed, such as too little memory. A file that holds anything but answers to the same model and
/// options is refused. The exit code is 1 as long as there are errors.
///
/// With --score, nothing is generated: a line has "continuations", a list of texts or of lists of ids, beside its
/// prompt, which is read once, as is the beginning that it shares with others, and is answered by their
/// log-likelihoods: {"id", "scores": [{"logprob", "tokens", "is_greedy"}, ...]}. White space at the end of a prompt counts to the continuation, as in lm-evaluation-harness.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,

    /// The file of prompts; - is standard input
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    input: PathBuf,

    /// Where the answers go; - is standard output [default: -]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Ask lines again that the output answers with an error
    #[arg(long, requires = "output")]
    retry_failed: bool,

    #[command(flatten)]
    batch: BatchArguments,

    /// Keep the caches of ended texts in at most SIZE of the memory, so that prompts that begin alike are read
    /// once; 0 keeps none [default: 256MB, at most a quarter of --memory, with --score; otherwise 0]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    prefix_cache: Option<u64>,

    /// Generate at most N tokens for each prompt; -1 sets no limit
    #[arg(short = 'n', long, alias = "n-predict", value_name = "N", default_value = "256", value_parser = parse_max_tokens, allow_negative_numbers = true)]
    max_tokens: usize,

    #[command(flatten, next_help_heading = "Constraint")]
    constraint: ConstraintArguments,

    #[command(flatten, next_help_heading = "Sampling")]
    sampling: SamplingArguments,

    /// End before TEXT (\n, \t and \\ are understood); may be repeated
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,

    /// Continue past the token that ends a text
    #[arg(long)]
    ignore_end: bool,

    /// Layout of a prompt in blocks [default: as the model was trained]
    #[arg(long, value_name = "HOW", value_parser = Alignment::ALL.map(Alignment::name))]
    align: Option<String>,

    /// Score given continuations by their log-likelihoods instead of generating
    #[arg(long)]
    score: bool,

    /// Print the summary at the end, on standard error, as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    speculate: SpeculateArgument,

    #[command(flatten)]
    cache: CacheArguments,
}

/// Bytes of ended texts that are kept for questions that begin alike, unless told otherwise.
const KEPT: u64 = 256_000_000;

/// How long a wait for input may last before a request to stop is looked for.
const PATIENCE: Duration = Duration::from_millis(100);

/// A text that is being written.
struct Job {
    name: Name,
    prompt_tokens: usize,
    tokens: Vec<Token>,
    text: String,
    logprobs: bool,
}

/// What has been done.
#[derive(Default)]
struct Counts {
    answered: u64,
    failed: u64,
    skipped: u64,
    /// Of those that were skipped, the ones whose answer is an error.
    skipped_errors: u64,
    prompt_tokens: usize,
    generated_tokens: usize,
    /// Sequences at a time at most.
    together: usize,
    /// Of passes.
    speculation: SpeculationCounts,
    /// Of prompts.
    prefixes: PrefixCounts,
}

/// What a line may leave out.
struct Defaults {
    sampler: SamplerOptions,
    generate: GenerateOptions,
    stops: Vec<String>,
    constraints: Constraints,
    form: Option<Form>,
}

/// A run from input to output.
struct Run {
    model: Arc<Model>,
    tokenizer: Option<Arc<Tokenizer>>,
    defaults: Defaults,
    batch: Batch,
    journal: Journal,
    /// Ids that the input has had.
    seen: HashSet<String>,
    jobs: HashMap<u64, Job>,
    /// Whether continuations are scored instead of texts generated.
    scores_only: bool,
    scoring: Scoring,
    /// The lines that are being scored, by number.
    scores: HashMap<u64, Scores>,
    counts: Counts,
    bar: ProgressBar,
}

/// Runs the verb.
///
/// # Errors
/// If the model or an option is refused, a file cannot be read or written, or a line fails; `Interrupted` by a signal.
pub fn run(arguments: Arguments) -> Result<()> {
    input::one_reader(arguments.constraint.files().chain([&arguments.input]))?;
    let files = Some(&arguments.input).filter(|path| !input::is_standard(path));
    let inputs =
        arguments.model.inputs().with("input", files).with("constraint", arguments.constraint.files());
    inputs.check(arguments.output.as_deref().unwrap_or(Path::new("-")))?;
    let model = arguments.model.open()?;
    let tokenizer = model.tokenizer_json().map(Tokenizer::from_json).transpose()?.map(Arc::new);
    if tokenizer.is_none() && !arguments.stop.is_empty() {
        return Err(Error::unsupported("the model carries no tokenizer, which --stop needs"));
    }
    let mut session = arguments.cache.options(SessionOptions::default());
    session.alignment = arguments.align.as_deref().and_then(Alignment::from_name);
    let mut options = arguments.batch.options(session.clone(), &arguments.speculate);
    let most = options.memory.map_or(KEPT, |bytes| KEPT.min(bytes / 4));
    options.prefix_cache = arguments.prefix_cache.unwrap_or(if arguments.score { most } else { 0 });
    let batch = arguments.model.runtime(&model)?.batch(tokenizer.clone(), options)?;
    let defaults = Defaults {
        sampler: arguments.sampling.over(&SamplingArguments::defaults(0)),
        generate: GenerateOptions {
            max_tokens: arguments.max_tokens,
            ignore_end: arguments.ignore_end,
            ..Default::default()
        },
        stops: arguments.stop.iter().map(|stop| unescape(stop)).collect(),
        constraints: Constraints::new(&model),
        form: arguments.constraint.form()?,
    };
    // Lines that can never be right are not worth an answer each.
    cinderblock::Sampler::new(defaults.sampler.clone(), model.config().vocabulary)?;
    let (input, bar) = open(&arguments.input)?;
    let lines = lines::read(input)?;
    let key = defaults.key(&model, &session, arguments.score);
    let journal = Journal::open(arguments.output.as_deref(), key, arguments.retry_failed)?;
    interrupt::listen_for(batch.interrupt());
    let mut run = Run {
        model,
        tokenizer,
        defaults,
        batch,
        journal,
        seen: HashSet::new(),
        jobs: HashMap::new(),
        scores_only: arguments.score,
        scoring: Scoring::default(),
        scores: HashMap::new(),
        counts: Counts::default(),
        bar,
    };
    let started = Instant::now();
    let result = run.work(&lines, 2 * arguments.batch.sequences);
    let result = result.map_err(|error| match error.path() {
        // An error of the input itself.
        None if error.kind() == ErrorKind::Io => error.in_file(input::name(&arguments.input)),
        _ => error,
    });
    run.bar.finish_and_clear();
    let Run { model, journal, counts, .. } = run;
    let written = journal.finish();
    output::message(&counts.tell(started.elapsed(), arguments.json, &model));
    result.and(written)?;
    match counts.failed + counts.skipped_errors {
        0 => Ok(()),
        failed => Err(Error::format(format!(
            "{failed} of {} lines failed; their answers say why",
            counts.failed + counts.answered + counts.skipped
        ))),
    }
}

impl Defaults {
    /// What decides an answer beside its line.
    fn key(&self, model: &Model, session: &SessionOptions, scoring: bool) -> RunKey {
        let session = SessionOptions {
            cache_type: Some(session.cache_type_for(model)),
            alignment: session.alignment.or(Some(model.config().alignment)),
            ..session.clone()
        };
        let options = match scoring {
            true => format!("score {session:?}"),
            false => {
                // An option that did not exist changes no key of before.
                let form = self.form.as_ref().map_or(String::new(), |form| format!(" {form:?}"));
                format!("{:?} {:?} {:?} {session:?}{form}", self.sampler, self.generate, self.stops)
            }
        };
        RunKey { model: format!("{:016x}", model.fingerprint()), options: journal::digest(options, 4) }
    }

    /// The request of a line.
    fn request(
        &self,
        model: &Model,
        tokenizer: Option<&Tokenizer>,
        id: &Json,
        mut fields: Fields,
    ) -> Result<Request> {
        let Defaults { sampler, generate, stops, constraints, form } = self;
        let prompt = fields.prompt()?.tokens(model, tokenizer)?;
        if fields.has("continuations") {
            return Err(Error::format("line: found \"continuations\" without --score, expected none"));
        }
        let bias = fields.take("logit_bias", "biases by token id", lines::biases)?;
        let form = fields.form()?.or_else(|| form.clone());
        let constraint = form.map(|form| constraints.compile(&form)).transpose()?;
        let seed = fields.seed()?.unwrap_or_else(|| mix(sampler.seed, id));
        Ok(Request {
            prompt,
            sampler: SamplerOptions {
                temperature: fields.float("temperature")?.unwrap_or(sampler.temperature),
                top_k: fields.size_or_all("top_k", 0)?.unwrap_or(sampler.top_k),
                top_p: fields.float("top_p")?.unwrap_or(sampler.top_p),
                min_p: fields.float("min_p")?.unwrap_or(sampler.min_p),
                repetition_penalty: fields.float("repetition_penalty")?.unwrap_or(sampler.repetition_penalty),
                repetition_window: fields
                    .size_or_all("repetition_window", usize::MAX)?
                    .unwrap_or(sampler.repetition_window),
                logit_bias: bias.unwrap_or_else(|| sampler.logit_bias.clone()),
                seed,
            },
            generate: GenerateOptions {
                max_tokens: fields.limit()?.unwrap_or(generate.max_tokens),
                ignore_end: fields
                    .take("ignore_end", "true or false", Json::as_bool)?
                    .unwrap_or(generate.ignore_end),
                logprobs: fields.size("logprobs")?,
                ..generate.clone()
            },
            stops: fields.take("stop", "a text or a list of texts", texts)?.unwrap_or_else(|| stops.clone()),
            constraint,
            ..Default::default()
        })
    }
}

/// Opens the input, and a progress bar that knows how many lines a file has.
fn open(path: &Path) -> Result<(Box<dyn Read + Send>, ProgressBar)> {
    const COUNT: &str = "{pos} of {len} lines [{bar:30}] {elapsed}, {eta} left {msg}";
    if input::is_standard(path) {
        return Ok((Box::new(std::io::stdin()), output::progress(0, "{pos} lines {elapsed} {msg}")));
    }
    let open = || File::open(path).map_err(|error| Error::io(path, &error));
    let mut bar = output::progress(0, COUNT);
    if !bar.is_hidden() && path.is_file() {
        let mut lines = lines::count(open()?).map_err(|error| Error::io(path, &error))?;
        lines = lines.max(1);
        bar = output::progress(lines, COUNT);
    }
    Ok((Box::new(open()?), bar))
}

impl Run {
    /// Works until the input has ended and all of it is answered.
    fn work(&mut self, lines: &Receiver<Line>, ahead: usize) -> Result<()> {
        let mut ended = false;
        loop {
            while !ended && self.batch.waiting() < ahead && !self.scoring.is_waiting() {
                interrupt::check()?;
                let idle = self.batch.waiting() + self.batch.running() == 0;
                match if idle { lines.recv_timeout(PATIENCE) } else { now(lines) } {
                    Ok(line) => {
                        self.line(line)?;
                        self.begin_scoring()?;
                    }
                    Err(RecvTimeoutError::Timeout) if idle => {}
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => ended = true,
                }
            }
            self.begin_scoring()?;
            if self.batch.waiting() + self.batch.running() > 0 {
                self.advance()?;
            } else if ended && !self.scoring.is_waiting() {
                return Ok(());
            }
        }
    }

    /// Submits a line, or answers at once what is wrong with it.
    fn line(&mut self, Line { number, bytes }: Line) -> Result<()> {
        let (mut name, mut fields) = match bytes {
            Err(error) if error.kind() == ErrorKind::Io => return Err(error),
            bytes => lines::parse(number, bytes),
        };
        if !name.id.is_null() && !self.seen.insert(name.id.to_string()) {
            let found = format!("{} again", name.id.take());
            fields = Err(Error::mismatch("\"id\"", found, "one that no other line has"));
        }
        match self.journal.earlier(&name) {
            Earlier::Nothing => {}
            Earlier::Other => {
                self.counts.failed += 1;
                self.bar.inc(1);
                let error = "the output has an answer to another line of this id, expected none";
                self.bar.suspend(|| output::message(&format!("line {number}: id {}: {error}", name.id)));
                return Ok(());
            }
            earlier => {
                self.counts.skipped += 1;
                self.counts.skipped_errors += u64::from(earlier == Earlier::Failed);
                self.bar.inc(1);
                return Ok(());
            }
        }
        let submitted = fields.and_then(|fields| match self.scores_only {
            true => self.score(&name, fields),
            false => self.submit(&name, fields),
        });
        submitted.or_else(|error| self.fail(&name, &error))
    }

    /// Submits a line's prompt.
    fn submit(&mut self, name: &Name, fields: Fields) -> Result<()> {
        let request = self.defaults.request(&self.model, self.tokenizer.as_deref(), &name.id, fields)?;
        let (prompt_tokens, logprobs) = (request.prompt.len(), request.generate.logprobs.is_some());
        let number = self.batch.submit(request)?;
        let (tokens, text) = (Vec::new(), String::new());
        let job = Job { name: name.clone(), prompt_tokens, tokens, text, logprobs };
        self.jobs.insert(number, job);
        Ok(())
    }

    fn fail(&mut self, name: &Name, error: &Error) -> Result<()> {
        self.counts.failed += 1;
        self.bar.inc(1);
        self.journal.write(name, &name.failed(error))
    }

    /// One block for all.
    fn advance(&mut self) -> Result<()> {
        let (mut ended, mut scored) = (Vec::new(), Vec::new());
        let (jobs, scoring, scores_only) = (&mut self.jobs, &mut self.scoring, self.scores_only);
        let advanced = self.batch.advance(|number, event| match event {
            event if scores_only => scored.extend(scoring.take(number, event)),
            Event::Step(step) => {
                if let Some(job) = jobs.get_mut(&number) {
                    job.tokens.extend(step.token);
                    job.text += &step.text;
                }
            }
            Event::Ended(end, _) => ended.push((number, Ok(end))),
            Event::Failed(error) => ended.push((number, Err(error))),
        });
        self.counts.speculation = self.batch.speculation_counts();
        self.counts.prefixes = self.batch.prefixes();
        // Those that ended in this advance ran together with those that go on.
        self.counts.together = self.counts.together.max(self.batch.running() + ended.len() + scored.len());
        for (place, score) in scored {
            self.scored(place, score)?;
        }
        for (number, end) in ended {
            let Some(job) = self.jobs.remove(&number) else { continue };
            match end {
                Ok(end) => {
                    self.counts.answered += 1;
                    self.counts.prompt_tokens += job.prompt_tokens;
                    self.counts.generated_tokens += job.tokens.len();
                    self.bar.inc(1);
                    let name = job.name.clone();
                    self.journal.write(&name, &job.answer(end, self.tokenizer.is_some()))?;
                }
                Err(error) => self.fail(&job.name, &error)?,
            }
        }
        let rate = output::rate(self.counts.generated_tokens, self.bar.elapsed());
        self.bar.set_message(format!("| {} at a time, {rate:.0} tok/s", self.batch.running()));
        advanced
    }
}

/// The next line if it is there already.
fn now(lines: &Receiver<Line>) -> std::result::Result<Line, RecvTimeoutError> {
    lines.try_recv().map_err(|error| match error {
        TryRecvError::Empty => RecvTimeoutError::Timeout,
        TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
    })
}

/// A text, or a list of them.
fn texts(value: &Json) -> Option<Vec<String>> {
    let text = |value: &Json| value.as_str().map(str::to_string);
    match value {
        Json::Array(values) => values.iter().map(text).collect(),
        value => Some(vec![text(value)?]),
    }
}

/// A seed of its own for each id: FNV-1a.
fn mix(seed: u64, id: &Json) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    id.to_string().bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, step)
}

impl Job {
    fn answer(self, end: End, text: bool) -> Json {
        let mut answer = self.name.answer();
        answer["text"] = text.then_some(self.text).into();
        answer["tokens"] = self.tokens.iter().map(|token| token.id).collect();
        answer["end"] = end.name().into();
        answer["prompt_tokens"] = self.prompt_tokens.into();
        if self.logprobs {
            let one = |token: &Token| json!({"logprob": token.logprob, "top": token.top});
            answer["logprobs"] = self.tokens.iter().map(one).collect();
        }
        answer
    }
}

impl Counts {
    fn tell(&self, time: Duration, as_json: bool, model: &Model) -> String {
        let rate = output::rate(self.generated_tokens, time);
        let peak = memory::peak();
        if as_json {
            return json!({
                "answered": self.answered,
                "failed": self.failed + self.skipped_errors,
                "skipped": self.skipped,
                "prompt_tokens": self.prompt_tokens,
                "prefix_hits": self.prefixes.hits,
                "prefix_tokens": self.prefixes.tokens,
                "generated_tokens": self.generated_tokens,
                "seconds": time.as_secs_f64(),
                "tok_s": rate,
                "together": self.together,
                "tokens_per_pass": self.speculation.tokens_per_pass(),
                "guessed_tokens": self.speculation.guessed,
                "peak_memory_bytes": peak,
                "isa": model.kernels().isa().name(),
            })
            .to_string();
        }
        let memory = peak.map_or(String::new(), |bytes| format!(" | memory {}", output::bytes(bytes)));
        let together = match self.together {
            0 => String::new(),
            count => format!(", up to {count} at a time"),
        };
        let shared = match self.prefixes.tokens {
            0 => String::new(),
            tokens => format!(", {tokens} of them not read again"),
        };
        format!(
            "answered {}, failed {}, skipped {} | prompts {} tokens{shared} | generated {} tokens, {rate:.1} tok/s{together}{memory}",
            self.answered,
            self.failed + self.skipped_errors,
            self.skipped,
            self.prompt_tokens,
            self.generated_tokens,
        )
    }
}
