//! `run`: a prompt to text, as it is decoded; without a prompt on a terminal, line after line.

mod interactive;
mod samples;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cinderblock::{
    Alignment, Error, GenerateOptions, Generator, Request, Result, Runtime, SessionOptions, Token, Tokenizer,
};
use serde_json::json;

use crate::arguments::{
    CacheArguments, InputArguments, ModelArguments, SpecialArguments, SpeculateArgument, parse_max_tokens,
    unescape,
};
use crate::constraint::{ConstraintArguments, Constraints};
use crate::conversation::{self, Answer, Conversation, Destination};
use crate::output::Inputs;
use crate::sampling::SamplingArguments;
use crate::{input, interrupt, memory, output};
use samples::Samples;

const EXAMPLES: &str = "\
Examples:
  cinderblock run -p 'The rain had stopped, and the village came out to look.'
  cinderblock run -m model.gguf -f prompt.txt -n 400 --temp 0 --stop '\\n\\n'
  cinderblock run -m model.gguf --tokens 5,6,7 -n 16 --json
  cinderblock run -f prompt.txt --samples 8 --seed 1
  fortune | cinderblock run --save tale.session
  cinderblock run --load tale.session --save tale.session
  cinderblock run -f rules.txt --pin-prompt --prompt-cache rules.session -i";

/// Continue a prompt
///
/// Without a prompt option, text piped in is the prompt; on a terminal, lines are read and continued one after the
/// other (/help explains). Ctrl-C ends the text.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,

    #[command(flatten)]
    input: InputArguments,

    /// Generate at most N tokens; -1 sets no limit
    #[arg(short = 'n', long, alias = "n-predict", value_name = "N", default_value = "256", value_parser = parse_max_tokens, allow_negative_numbers = true)]
    max_tokens: usize,

    /// Stop after SECONDS
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    time_limit: Option<Duration>,

    /// End before TEXT (\n, \t and \\ are understood); may be repeated
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,

    /// Continue past the token that ends a text
    #[arg(long)]
    ignore_end: bool,

    /// Print the prompt before its continuation
    #[arg(long)]
    echo: bool,

    #[command(flatten)]
    special: SpecialArguments,

    /// Print one JSON object at the end instead of text
    #[arg(long)]
    json: bool,

    /// With --json, report the log-probability of every token and of the K most likely ones
    #[arg(long, value_name = "K", requires = "json")]
    logprobs: Option<usize>,

    /// Generate N samples with seeds SEED, SEED+1, ...; the prompt is read once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096), conflicts_with_all = ["interactive", "load", "save", "prompt_cache"])]
    samples: u32,

    /// After the prompt, read lines and continue each
    #[arg(short, long, conflicts_with = "json")]
    interactive: bool,

    #[command(flatten, next_help_heading = "Sampling")]
    sampling: SamplingArguments,

    #[command(flatten, next_help_heading = "Constraint")]
    constraint: ConstraintArguments,

    #[command(flatten, next_help_heading = "Session")]
    session: SessionArguments,
}

/// The session and its cache.
#[derive(clap::Args)]
struct SessionArguments {
    /// Continue a saved session; a prompt is added to it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["cache_blocks", "sink_blocks", "cache_type", "align", "pin_prompt", "prompt_cache"])]
    load: Option<PathBuf>,

    /// Save the session at the end
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,

    /// Cache the state after the prompt in FILE, and reuse it for prompts that begin alike
    #[arg(long, value_name = "FILE")]
    prompt_cache: Option<PathBuf>,

    /// Never forget the prompt
    #[arg(long)]
    pin_prompt: bool,

    /// Layout of a prompt in blocks: left pads its first block, tail leaves its last block open
    /// [default: as the model was trained]
    #[arg(long, value_name = "LAYOUT", value_parser = Alignment::ALL.map(Alignment::name))]
    align: Option<String>,

    #[command(flatten)]
    speculate: SpeculateArgument,

    #[command(flatten)]
    cache: CacheArguments,
}

fn parse_seconds(text: &str) -> std::result::Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| "expected a number of seconds".to_string())
}

/// Where the prompt comes from.
#[derive(Clone, Copy, PartialEq)]
enum Source {
    /// The options or a pipe.
    Prompt,
    /// Lines, after the prompt of the options if there is one.
    Lines,
    /// A saved session alone.
    Session,
}

impl Source {
    /// The source, and the input with piped text in it; `text` is whether the model has a tokenizer.
    fn find(arguments: &Arguments, input: InputArguments, text: bool) -> Result<(Source, InputArguments)> {
        let terminal = std::io::stdin().is_terminal();
        let loaded = arguments.session.load.is_some();
        let files = || arguments.constraint.files().chain(input.files()).map(PathBuf::as_path);
        input::one_reader(files())?;
        let with_pipe = || input::one_reader(files().chain([Path::new("-")]));
        if arguments.interactive {
            if !terminal {
                with_pipe()?;
            }
            return Ok((Source::Lines, input));
        }
        if input.is_given() {
            return Ok((Source::Prompt, input));
        }
        if terminal && text && !arguments.json && arguments.samples == 1 {
            return Ok((Source::Lines, input));
        }
        if loaded && (terminal || !text) {
            return Ok((Source::Session, input));
        }
        with_pipe()?;
        let input = input.or_pipe()?;
        let empty = input.prompt.as_ref().is_some_and(String::is_empty);
        if loaded && empty {
            return Ok((Source::Session, InputArguments { prompt: None, ..input }));
        }
        Ok((Source::Prompt, input))
    }
}

/// Tokens of a text.
fn encode(tokenizer: Option<&Tokenizer>, text: &str) -> Result<Vec<u32>> {
    let none = || Error::unsupported("the model carries no tokenizer: found text, expected --tokens");
    tokenizer.ok_or_else(none)?.encode(text)
}

/// The files that are read, and nothing is written to. A session may be saved over the one that was loaded.
fn inputs(arguments: &Arguments) -> Result<Inputs> {
    let inputs = arguments.model.inputs().with("prompt", arguments.input.files());
    let inputs = inputs.with("constraint", arguments.constraint.files());
    let SessionArguments { prompt_cache, save, .. } = &arguments.session;
    if let Some(path) = prompt_cache {
        output::not_standard(path, "the text")?;
        // One that is there may be no more than read.
        if path.exists() { inputs.check(path)? } else { inputs.try_output(path)? }
    }
    let inputs = inputs.with("prompt cache", prompt_cache);
    if let Some(path) = save {
        output::not_standard(path, "the text")?;
        inputs.try_output(path)?;
    }
    Ok(inputs)
}

impl Arguments {
    /// When a text ends.
    fn generate(&self) -> GenerateOptions {
        GenerateOptions {
            max_tokens: self.max_tokens,
            time_limit: self.time_limit,
            ignore_end: self.ignore_end,
            logprobs: self.logprobs,
        }
    }
}

/// Runs the verb.
///
/// # Errors
/// If the model, the prompt or an option is refused; `Interrupted` if a signal has ended the text.
pub fn run(mut arguments: Arguments) -> Result<()> {
    let inputs = inputs(&arguments)?;
    let model = arguments.model.open()?;
    let tokenizer = arguments.special.tokenizer(&model)?;
    if tokenizer.is_none() && !arguments.stop.is_empty() {
        return Err(Error::unsupported("the model carries no tokenizer, which --stop needs"));
    }
    let input = std::mem::take(&mut arguments.input);
    if tokenizer.is_none() && (arguments.interactive || !input.is_given() && arguments.session.load.is_none())
    {
        return Err(Error::argument("the model carries no tokenizer: give the prompt with --tokens"));
    }
    let (source, input) = Source::find(&arguments, input, tokenizer.is_some())?;
    let prompt = match source {
        Source::Prompt => input.tokens(&model, |text| encode(tokenizer.as_ref(), text))?,
        Source::Lines if input.is_given() => input.tokens(&model, |text| encode(tokenizer.as_ref(), text))?,
        _ => Vec::new(),
    };
    let shown = if arguments.echo && !arguments.json { input.text()? } else { None };
    let runtime = arguments.model.runtime(&model)?;

    let mut options = arguments.session.cache.options(SessionOptions::default());
    options.alignment = arguments.session.align.as_deref().and_then(Alignment::from_name);
    if arguments.session.pin_prompt {
        options = options.pin_prompt(&model, prompt.len());
    }
    let generate = arguments.generate();
    let form = arguments.constraint.form()?;
    let constraint = form.map(|form| Constraints::new(&model).compile(&form)).transpose()?;
    let stops: Vec<String> = arguments.stop.iter().map(|stop| unescape(stop)).collect();
    if arguments.samples > 1 {
        if let Some(text) = shown {
            output::print(&format!("{text}\n"))?;
        }
        let request = Request {
            sampler: arguments.sampling.options(),
            generate,
            stops,
            constraint,
            ..Default::default()
        };
        let (count, json) = (arguments.samples, arguments.json);
        let samples = Samples { count, prompt, request, speculate: arguments.session.speculate.mode(), json };
        return samples.run(&runtime, tokenizer, options);
    }
    let (generator, reused) = open_session(&arguments, &runtime, &options, &prompt)?;
    let mut conversation = Conversation {
        runtime,
        tokenizer,
        generator,
        options: generate,
        stops,
        constraint,
        sampling: arguments.sampling.clone(),
        speculate: arguments.session.speculate.mode(),
        inputs,
    };
    // While standard input was read, Ctrl-C kept its usual meaning.
    conversation.prepare();
    let generator = &mut conversation.generator;
    // What cannot be shown is no reason to lose what is asked for as files.
    let shown = shown.map_or(Ok(()), |text| output::print(&text));

    let (started, before) = (Instant::now(), generator.blocks());
    generator.append(&prompt[reused..])?;
    let time = started.elapsed();
    let blocks = generator.blocks() - before;
    // Only whole blocks are reused, so without new ones the file is as good as it was.
    if let Some(path) = arguments.session.prompt_cache.as_deref().filter(|_| blocks > 0) {
        output::save(&generator.save()?, path)?;
    }
    let reading = Reading { tokens: prompt.len(), reused, time, passed: blocks > 0 };
    finish(&arguments, conversation, source, &reading, shown)
}

/// Generates if the prompt could be shown, and saves the session, also where standard output has failed.
fn finish(
    arguments: &Arguments,
    mut conversation: Conversation,
    source: Source,
    reading: &Reading,
    shown: Result<()>,
) -> Result<()> {
    let destination = if arguments.json { Destination::Kept } else { Destination::Shown };
    let answer = shown.and_then(|()| match source {
        Source::Lines => interactive::run(&mut conversation).map(|()| None),
        _ => conversation.generate(destination).map(Some),
    });
    if let Some(path) = &arguments.session.save {
        output::save(&conversation.generator.save()?, path)?;
    }
    let interrupted = match answer? {
        None => interrupt::asked(),
        Some(answer) => {
            report(arguments, &conversation, reading, &answer)?;
            answer.end.is_none()
        }
    };
    if interrupted { Err(interrupt::reported()) } else { Ok(()) }
}

/// A session for the prompt, and the number of tokens of the prompt that it holds already.
fn open_session(
    arguments: &Arguments,
    runtime: &Runtime,
    options: &SessionOptions,
    prompt: &[u32],
) -> Result<(Generator, usize)> {
    if let Some(path) = &arguments.session.load {
        return Ok((conversation::load(path, runtime, &arguments.sampling)?, 0));
    }
    let cache = arguments.session.prompt_cache.as_deref();
    let found = cache.map(|path| cached(path, runtime, options, prompt)).transpose()?.flatten();
    let (mut generator, reused) = match found {
        Some(found) => found,
        None => (runtime.generator(options)?, 0),
    };
    generator.set_sampler(arguments.sampling.options())?;
    Ok((generator, reused))
}

/// Reads a prompt cache that fits the options: a generator that has the longest common prefix with the prompt, and the
/// number of tokens in it. An empty file is a new cache.
fn cached(
    path: &Path,
    runtime: &Runtime,
    options: &SessionOptions,
    prompt: &[u32],
) -> Result<Option<(Generator, usize)>> {
    match path.metadata() {
        Ok(metadata) if metadata.is_file() && metadata.len() == 0 => return Ok(None),
        Ok(_) => {}
        Err(_) => return Ok(None),
    }
    // A file that is not a prompt cache of this model is refused, so that it is not overwritten.
    let model = runtime.model();
    let snapshot = conversation::read_snapshot(model, path).map_err(|error| {
        let detail = format!("{}; delete it or name another --prompt-cache", error.detail());
        Error::new(error.kind(), detail).in_file(path)
    })?;
    let wanted = SessionOptions {
        cache_blocks: Some(options.cache_blocks_for(model)),
        cache_type: Some(options.cache_type_for(model)),
        alignment: options.alignment.or(Some(model.config().alignment)),
        ..options.clone()
    };
    if snapshot.options() != wanted {
        return Ok(None);
    }
    let in_file = |error: Error| error.in_file(path);
    let mut generator = runtime.load(&snapshot).map_err(in_file)?;
    let (blocks, tokens) = generator.common_prefix(prompt);
    generator.rewind(blocks)?;
    Ok(Some((generator, tokens)))
}

/// How the prompt was read.
struct Reading {
    tokens: usize,
    /// Tokens that were in the prompt cache.
    reused: usize,
    time: Duration,
    /// Whether a block has passed through the model: tokens alone only wait in the open block, which takes no time.
    passed: bool,
}

impl Reading {
    /// Tokens a second, where that means anything.
    fn rate(&self) -> Option<f64> {
        self.passed.then(|| output::rate(self.tokens - self.reused, self.time))
    }
}

/// Prints the JSON object, if it was asked for, and the line of figures.
fn report(
    arguments: &Arguments,
    conversation: &Conversation,
    prompt: &Reading,
    answer: &Answer,
) -> Result<()> {
    let Conversation { generator, runtime, tokenizer, .. } = conversation;
    let per_pass = generator.speculation_counts().tokens_per_pass();
    let seed = generator.sampler_options().seed;
    let decode_rate = output::rate(answer.count, answer.time);
    if arguments.json {
        let ids: Vec<u32> = answer.tokens.iter().map(|token| token.id).collect();
        let mut report = json!({
            "tokens": ids,
            "text": tokenizer.is_some().then_some(&answer.text),
            "prompt_tokens": prompt.tokens,
            "reused_tokens": prompt.reused,
            "generated_tokens": answer.count,
            "session_tokens": generator.length(),
            "end": answer.end_name(),
            "seed": seed,
            "prompt_seconds": prompt.time.as_secs_f64(),
            "decode_seconds": answer.time.as_secs_f64(),
            "prompt_tok_s": prompt.rate(),
            "decode_tok_s": decode_rate,
            "tokens_per_pass": per_pass,
            "peak_memory_bytes": memory::peak(),
            "isa": runtime.model().kernels().isa().name(),
            "threads": runtime.team().threads(),
        });
        if arguments.logprobs.is_some() {
            let one = |token: &Token| json!({"logprob": token.logprob, "top": token.top});
            report["logprobs"] = answer.tokens.iter().map(one).collect();
        }
        output::print_json(&report)?;
    }
    let memory = memory::peak().map_or(String::new(), |bytes| format!(" | memory {}", output::bytes(bytes)));
    let reused = if prompt.reused == 0 { String::new() } else { format!(" ({} reused)", prompt.reused) };
    let rate = prompt.rate().map_or(String::new(), |rate| format!(", {rate:.0} tok/s"));
    output::message(&format!(
        "prompt {} tokens{reused}{rate} | generated {} tokens, {decode_rate:.1} tok/s, {per_pass:.2} a pass{memory} | \
         seed {seed} | ended by {}",
        prompt.tokens,
        answer.count,
        answer.end_name(),
    ));
    Ok(())
}
