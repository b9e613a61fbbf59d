//! `run`: a prompt to text, as it is decoded; without a prompt on a terminal, line after line.

use std::io::{IsTerminal, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cinderblock::error::{Error, ErrorKind, Result};
use cinderblock::generation::snapshot::Snapshot;
use cinderblock::generation::tokenizer::Tokenizer;
use cinderblock::{
    Alignment, End, GenerateOptions, Generator, Model, Request, SessionOptions, Speculate, Step, Team, Token,
};
use serde_json::json;

use crate::arguments::{CacheArguments, InputArguments, ModelArguments};
use crate::output::Inputs;
use crate::samples::Samples;
use crate::sampling::SamplingArguments;
use crate::verbs::interactive;
use crate::{interrupt, memory, output};

/// Continue a prompt
///
/// Without a prompt, text that is piped in is the prompt; on a terminal, you are asked for one, line after
/// line (/help tells more). Where there is neither, the demo model tells a story.
///
/// Examples:
///   cinderblock run -p "The old house" -n 200
///   cinderblock run -m model.gguf -f prompt.txt --temp 0 --stop "\n\n"
///   cinderblock run -m model.gguf --tokens 5,6,7 -n 16 --json
///   cinderblock run -p "The old house" --samples 8 --seed 1
///   fortune | cinderblock run --save tale.session
///   cinderblock run --load tale.session --save tale.session
///   cinderblock run -f rules.txt --pin-prompt --prompt-cache rules.session -i
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,

    #[command(flatten)]
    input: InputArguments,

    /// Tokens to generate at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 256)]
    max_tokens: usize,

    /// Begin no token after so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    time_limit: Option<Duration>,

    #[command(flatten)]
    sampling: SamplingArguments,

    /// End before this text (\n, \t and \\ are understood); may be repeated
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,

    /// Go on past the token that ends a text
    #[arg(long)]
    ignore_end: bool,

    /// Print the prompt before its continuation
    #[arg(long)]
    echo: bool,

    /// Print one JSON object at the end instead of text
    #[arg(long)]
    json: bool,

    /// With --json, give the log-probability of every token and of the K most likely ones
    #[arg(long, value_name = "K", requires = "json")]
    logprobs: Option<usize>,

    /// Write so many texts together, with seeds that count on from --seed; the prompt is read once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096), conflicts_with_all = ["interactive", "load", "save", "prompt_cache"])]
    samples: u32,

    /// After the prompt, ask for more, line after line
    #[arg(short, long, conflicts_with = "json")]
    interactive: bool,

    /// Go on with a saved session; the prompt, if there is one, is added to it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["cache_blocks", "sink_blocks", "cache_type", "align", "pin_prompt", "prompt_cache"])]
    load: Option<PathBuf>,

    /// Save the session at the end
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,

    /// Keep the state behind the prompt in a file, and reuse as much of it as the prompt begins with
    #[arg(long, value_name = "FILE")]
    prompt_cache: Option<PathBuf>,

    /// Never forget the prompt
    #[arg(long)]
    pin_prompt: bool,

    /// How a prompt is laid out in blocks: left fills its first block up, tail leaves its last block
    /// open [default: as the model was trained]
    #[arg(long, value_name = "HOW", value_parser = Alignment::ALL.map(Alignment::name))]
    align: Option<String>,

    /// Guess tokens from the text so far and compute several in one pass: auto where it saves time, on wherever
    /// there is a guess, off never; the text is the same
    #[arg(long, value_name = "WHEN", default_value = Speculate::Auto.name(), value_parser = Speculate::ALL.map(Speculate::name))]
    speculate: String,

    #[command(flatten)]
    cache: CacheArguments,
}

fn parse_seconds(text: &str) -> std::result::Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| "expected a number of seconds".to_string())
}

/// What begins a story when nothing else does.
pub const OPENING: &str = "The old man lit his lamp, and began to tell us of the night when";

/// Where the prompt comes from.
enum Source {
    /// The arguments.
    Given,
    /// Standard input, which has been read.
    Piped(String),
    /// A person at a terminal.
    Lines,
    /// Nowhere: a saved session goes on, or a story begins.
    Nothing,
}

impl Source {
    fn find(arguments: &Arguments, tokenizer: bool) -> Result<Source> {
        if arguments.input.is_given() {
            return Ok(Source::Given);
        }
        let terminal = std::io::stdin().is_terminal();
        if arguments.interactive || (terminal && std::io::stdout().is_terminal() && !arguments.json) {
            return Ok(Source::Lines);
        }
        if terminal || !tokenizer {
            return Ok(Source::Nothing);
        }
        let mut bytes = Vec::new();
        let name = Path::new("standard input");
        std::io::stdin().lock().read_to_end(&mut bytes).map_err(|error| Error::io(name, &error))?;
        let mut text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            Error::mismatch("text", format!("a byte at {at} that is not UTF-8"), "UTF-8").in_file(name)
        })?;
        // What `echo` adds is not meant.
        let end = text.strip_suffix('\n').map(|text| text.strip_suffix('\r').unwrap_or(text).len());
        text.truncate(end.unwrap_or(text.len()));
        Ok(if text.is_empty() { Source::Nothing } else { Source::Piped(text) })
    }
}

/// A session, and how it generates.
pub struct Run {
    pub model: Arc<Model>,
    pub team: Arc<Team>,
    pub tokenizer: Option<Tokenizer>,
    pub generator: Generator,
    pub options: GenerateOptions,
    pub stops: Vec<String>,
    /// The files that are read.
    pub inputs: Inputs,
}

/// What came of generating.
pub struct Outcome {
    /// `None` if it was interrupted.
    pub end: Option<End>,
    pub tokens: Vec<Token>,
    pub text: String,
    pub time: Duration,
}

impl Outcome {
    fn name(&self) -> &'static str {
        self.end.map_or("interrupted", End::name)
    }
}

impl Run {
    /// Generates and, unless it is to be quiet, shows text or, for a model without a tokenizer, ids.
    pub fn generate(&mut self, quiet: bool) -> Result<Outcome> {
        let (mut tokens, mut text): (Vec<Token>, _) = (Vec::new(), String::new());
        let mut shown = Ok(());
        let ids = self.tokenizer.is_none();
        let started = Instant::now();
        let each = |step: Step| {
            let separator = if tokens.is_empty() { "" } else { "," };
            if !quiet {
                shown = match &step.token {
                    Some(token) if ids => output::print(&format!("{separator}{}", token.id)),
                    _ if step.text.is_empty() => Ok(()),
                    _ => output::print(&step.text),
                };
            }
            tokens.extend(step.token);
            text.push_str(&step.text);
            if shown.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let end = match self.generator.generate(self.tokenizer.as_ref(), &self.options, each) {
            Ok((end, _)) => Some(end),
            Err(error) if error.kind() == ErrorKind::Interrupted => None,
            Err(error) => return Err(error),
        };
        shown?;
        let time = started.elapsed();
        if !quiet {
            output::print("\n")?;
        }
        Ok(Outcome { end, tokens, text, time })
    }
}

/// Reads a prompt cache that fits the options: a generator that has the longest common prefix with the prompt, and the
/// number of tokens in it.
fn cached(
    path: &Path,
    (model, team): (&Arc<Model>, &Arc<Team>),
    options: &SessionOptions,
    prompt: &[u32],
) -> Result<Option<(Generator, usize)>> {
    if !path.exists() {
        return Ok(None);
    }
    // A file that is not a prompt cache of this model is refused, so that it is not overwritten.
    let snapshot = Snapshot::read(model, path)?;
    let wanted = SessionOptions {
        cache_type: Some(options.cache_type_for(model)),
        alignment: options.alignment.or(Some(model.config().alignment)),
        ..options.clone()
    };
    if snapshot.options() != wanted {
        return Ok(None);
    }
    let in_file = |error: Error| error.in_file(path);
    let mut generator = Generator::load(&snapshot, model, team).map_err(in_file)?;
    let (blocks, tokens) = generator.common_prefix(prompt);
    generator.rewind(blocks)?;
    Ok(Some((generator, tokens)))
}

/// The files that are read, and nothing is written to. A session may be saved over the one that was loaded.
fn inputs(arguments: &Arguments) -> Result<Inputs> {
    let inputs = arguments.model.inputs()?.with("prompt", arguments.input.files());
    if let Some(path) = &arguments.prompt_cache {
        output::not_standard(path, "the text")?;
        // One that is there may be no more than read.
        if path.exists() { inputs.check(path)? } else { inputs.try_output(path)? }
    }
    let inputs = inputs.with("prompt cache", &arguments.prompt_cache);
    if let Some(path) = &arguments.save {
        output::not_standard(path, "the text")?;
        inputs.try_output(path)?;
    }
    Ok(inputs)
}

pub fn run(arguments: Arguments) -> Result<()> {
    let inputs = inputs(&arguments)?;
    let model = arguments.model.open()?;
    let tokenizer = model.tokenizer_json().map(Tokenizer::from_json).transpose()?;
    if tokenizer.is_none() && !arguments.stop.is_empty() {
        return Err(Error::unsupported("the model carries no tokenizer, which --stop needs"));
    }
    let source = Source::find(&arguments, tokenizer.is_some())?;
    let interactive = arguments.interactive || matches!(source, Source::Lines);
    let nothing = matches!(source, Source::Nothing) && arguments.load.is_none();
    if tokenizer.is_none() && (interactive || nothing) {
        return Err(Error::argument("the model carries no tokenizer: give the prompt with --tokens"));
    }
    let Arguments { mut input, mut echo, cache, .. } = arguments;
    match source {
        Source::Piped(text) => input.prompt = Some(text),
        Source::Nothing if nothing => (input.prompt, echo) = (Some(OPENING.to_string()), true),
        _ => {}
    }
    let prompt = match input.is_given() {
        true => input.tokens(&model, || Tokenizer::of_model(&model))?,
        false => Vec::new(),
    };
    let team = arguments.model.team()?;

    let mut options = cache.options(SessionOptions::default());
    options.alignment = arguments.align.as_deref().and_then(Alignment::from_name);
    if arguments.pin_prompt {
        options = options.pin_prompt(&model, prompt.len());
    }
    let generate = GenerateOptions {
        max_tokens: arguments.max_tokens,
        time_limit: arguments.time_limit,
        ignore_end: arguments.ignore_end,
        logprobs: arguments.logprobs,
    };
    let stops: Vec<String> = arguments.stop.iter().map(|stop| unescape(stop)).collect();
    if arguments.samples > 1 && !interactive {
        let request =
            Request { sampler: arguments.sampling.options(), generate, stops, ..Default::default() };
        let shown = input.text()?.filter(|_| echo && !arguments.json);
        if let Some(text) = shown {
            output::print(&format!("{text}\n"))?;
        }
        let samples = Samples { count: arguments.samples, prompt, request, json: arguments.json };
        return samples.run(&model, &team, tokenizer, options);
    }
    let place = (&model, &team);
    let found = arguments.prompt_cache.as_deref().map(|path| cached(path, place, &options, &prompt));
    let (mut generator, reused) = match (&arguments.load, found.transpose()?.flatten()) {
        (Some(path), _) => {
            let snapshot = Snapshot::read(&model, path)?;
            let generator = Generator::load(&snapshot, &model, &team);
            (generator.map_err(|error| error.in_file(path))?, 0)
        }
        (None, Some(found)) => found,
        (None, None) => (Generator::new(&model, &team, &options)?, 0),
    };
    match arguments.load {
        None => generator.set_sampler(arguments.sampling.options())?,
        // A saved sampler goes on where it was, unless it is to be another one.
        Some(_) if arguments.sampling.is_given() => {
            generator.set_sampler(arguments.sampling.over(generator.sampler_options()))?;
        }
        Some(_) => {}
    }
    generator.set_stops(stops.clone());
    generator.set_speculation(Speculate::from_name(&arguments.speculate).unwrap_or_default());
    // While standard input was read, Ctrl-C kept its usual meaning.
    interrupt::listen_for(generator.interrupt());
    if let Some(text) = input.text()?.filter(|_| echo && !arguments.json) {
        output::print(&text)?;
    }

    let (started, before) = (Instant::now(), generator.blocks());
    generator.append(&prompt[reused..])?;
    let prompt_time = started.elapsed();
    // Only whole blocks are reused, so without new ones the file is as good as it was.
    if let Some(path) = arguments.prompt_cache.as_deref().filter(|_| generator.blocks() > before) {
        output::save(&generator.save()?, path)?;
    }
    let mut run = Run { model, team, tokenizer, generator, options: generate, stops, inputs };
    if interactive {
        interactive::run(&mut run)?;
        return arguments.save.map_or(Ok(()), |path| output::save(&run.generator.save()?, &path));
    }
    let outcome = run.generate(arguments.json)?;
    if let Some(path) = &arguments.save {
        output::save(&run.generator.save()?, path)?;
    }

    let generated = outcome.tokens.len();
    let per_pass = run.generator.speculation_counts().tokens_per_pass();
    let seed = run.generator.sampler_options().seed;
    let (prompt_rate, decode_rate) =
        (output::rate(prompt.len() - reused, prompt_time), output::rate(generated, outcome.time));
    if arguments.json {
        let ids: Vec<u32> = outcome.tokens.iter().map(|token| token.id).collect();
        let mut report = json!({
            "tokens": ids,
            "text": run.tokenizer.is_some().then_some(&outcome.text),
            "prompt_tokens": prompt.len(),
            "reused_tokens": reused,
            "generated_tokens": generated,
            "session_tokens": run.generator.length(),
            "end": outcome.name(),
            "seed": seed,
            "prompt_seconds": prompt_time.as_secs_f64(),
            "decode_seconds": outcome.time.as_secs_f64(),
            "prompt_tok_s": prompt_rate,
            "decode_tok_s": decode_rate,
            "tokens_per_pass": per_pass,
            "peak_memory_bytes": memory::peak(),
            "isa": run.model.kernels().isa().name(),
            "threads": run.team.threads(),
        });
        if arguments.logprobs.is_some() {
            let one = |token: &Token| json!({"logprob": token.logprob, "top": token.top});
            report["logprobs"] = outcome.tokens.iter().map(one).collect();
        }
        output::print_json(&report)?;
    }
    let memory = memory::peak().map_or(String::new(), |bytes| format!(" | memory {}", output::bytes(bytes)));
    let reused = if reused == 0 { String::new() } else { format!(" ({reused} reused)") };
    output::message(&format!(
        "prompt {} tokens{reused}, {prompt_rate:.0} tok/s | generated {generated} tokens, {decode_rate:.1} \
         tok/s, {per_pass:.2} a pass{memory} | seed {seed} | ended by {}",
        prompt.len(),
        outcome.name(),
    ));
    if outcome.end.is_none() { std::process::exit(130) } else { Ok(()) }
}

/// Shells do not make it easy to pass a line break.
pub fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, chars.clone().next()) {
            ('\\', Some('n')) => out.push('\n'),
            ('\\', Some('t')) => out.push('\t'),
            ('\\', Some('\\')) => out.push('\\'),
            _ => {
                out.push(c);
                continue;
            }
        }
        chars.next();
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn escapes_are_undone() {
        assert_eq!(super::unescape(r"a\n\tb\\n\x\"), "a\n\tb\\n\\x\\");
    }
}
