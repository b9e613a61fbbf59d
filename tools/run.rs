//! `run`: a prompt to text, as it is decoded.

use std::time::{Duration, Instant};

use cinderblock::error::{Error, Result};
use cinderblock::tokenizer::{StopMatcher, TextStream, Tokenizer};
use cinderblock::{Sampler, SamplerOptions, Session, SessionOptions};
use serde_json::json;

use crate::arguments::{CacheArguments, InputArguments, ModelArguments};
use crate::{interrupt, memory, output};

/// Continue a prompt
///
/// Without a prompt, the demo model tells a story.
///
/// Examples:
///   cinderblock run -p "The old house" -n 200
///   cinderblock run -m model.gguf -f prompt.txt --temp 0 --stop "\n\n"
///   cinderblock run -m model.gguf --tokens 5,6,7 -n 16 --json
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

    /// Temperature; 0 takes the most likely token
    #[arg(long, visible_alias = "temperature", value_name = "T", default_value_t = 0.8)]
    temp: f32,

    /// Keep the K most likely tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = 40)]
    top_k: usize,

    /// Keep the most likely tokens that together reach probability P
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    top_p: f32,

    /// Keep tokens at least P times as probable as the most likely one
    #[arg(long, value_name = "P", default_value_t = 0.05)]
    min_p: f32,

    /// Make recent tokens less likely; 1 does not
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    repetition_penalty: f32,

    /// How many of the last tokens are recent
    #[arg(long, value_name = "N", default_value_t = 64)]
    repetition_window: usize,

    /// Seed; the same one gives the same text [default: the time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

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

    #[command(flatten)]
    cache: CacheArguments,
}

/// Blocks of a prompt between looks at whether the user has asked to stop.
const PIECE_BLOCKS: usize = 512;

/// What begins a story when nothing else does.
const OPENING: &str = "The old man lit his lamp, and began to tell us of the night when";

/// Why generation ended.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Length,
    Eos,
    Stop,
    Interrupted,
}

impl End {
    fn name(self) -> &'static str {
        match self {
            End::Length => "length",
            End::Eos => "end of text",
            End::Stop => "stop",
            End::Interrupted => "interrupted",
        }
    }
}

/// Shows text or, for a model without a tokenizer, ids.
struct Display<'t> {
    stream: Option<TextStream<&'t Tokenizer>>,
    stops: StopMatcher,
    shown: String,
    quiet: bool,
}

impl Display<'_> {
    fn show(&mut self, text: &str) -> Result<()> {
        self.shown.push_str(text);
        if self.quiet || text.is_empty() { Ok(()) } else { output::print(text) }
    }

    /// Adds a token; tells whether a stop string was reached.
    fn push(&mut self, token: u32, index: usize) -> Result<bool> {
        let Some(stream) = &mut self.stream else {
            let separator = if index == 0 { "" } else { "," };
            return if self.quiet {
                Ok(false)
            } else {
                output::print(&format!("{separator}{token}")).map(|()| false)
            };
        };
        let passed = self.stops.push(&stream.push(token)?);
        self.show(&passed.text)?;
        Ok(passed.stopped)
    }

    /// Shows what was held back, unless a stop string cut it off.
    fn finish(&mut self, stopped: bool) -> Result<()> {
        if let Some(stream) = self.stream.as_mut().filter(|_| !stopped) {
            let rest = self.stops.push(&stream.finish()?);
            self.show(&rest.text)?;
            let held = self.stops.finish();
            if !rest.stopped {
                self.show(&held)?;
            }
        }
        if self.quiet { Ok(()) } else { output::print("\n") }
    }
}

pub fn run(arguments: Arguments) -> Result<()> {
    let model = arguments.model.open()?;
    let tokenizer = match model.tokenizer_json() {
        Some(json) => Some(Tokenizer::from_json(json)?),
        None => None,
    };
    if tokenizer.is_none() && !arguments.stop.is_empty() {
        return Err(Error::unsupported("the model carries no tokenizer, which --stop needs"));
    }
    let mut input = arguments.input;
    let mut echo = arguments.echo;
    if !input.is_given() {
        if tokenizer.is_none() {
            return Err(Error::argument("the model carries no tokenizer: give the prompt with --tokens"));
        }
        input.prompt = Some(OPENING.to_string());
        echo = true;
    }
    let prompt = input.tokens(&model, || Tokenizer::of_model(&model))?;
    // While standard input is read, Ctrl-C keeps its usual meaning.
    interrupt::listen();
    let seed = arguments.seed.unwrap_or_else(|| {
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        time.map_or(0, |time| time.as_nanos() as u64) % 1_000_000
    });
    let options = SamplerOptions {
        temperature: arguments.temp,
        top_k: arguments.top_k,
        top_p: arguments.top_p,
        min_p: arguments.min_p,
        repetition_penalty: arguments.repetition_penalty,
        repetition_window: arguments.repetition_window,
        seed,
    };
    let mut sampler = Sampler::new(options, model.config().vocabulary)?;
    let team = arguments.model.team()?;
    let mut session = Session::new(&model, &team, &arguments.cache.options(SessionOptions::default()))?;
    let stops: Vec<String> = arguments.stop.iter().map(|stop| unescape(stop)).collect();
    let mut display = Display {
        stream: tokenizer.as_ref().map(TextStream::new),
        stops: StopMatcher::new(&stops),
        shown: String::new(),
        quiet: arguments.json,
    };
    if let Some(text) = input.text()?.filter(|_| echo && !arguments.json) {
        output::print(&text)?;
    }

    let started = Instant::now();
    // A long prompt goes in in pieces, so that it can be interrupted. Only the first piece is padded to whole
    // blocks, so it is the odd one.
    let piece = PIECE_BLOCKS * model.config().block_length;
    let (first, rest) = prompt.split_at(prompt.len() - (prompt.len() - 1) / piece * piece);
    for piece in std::iter::once(first).chain(rest.chunks(piece)) {
        interrupt::check()?;
        session.append(piece)?;
    }
    for token in &prompt {
        sampler.accept(*token);
    }
    let prompt_time = started.elapsed();
    let started = Instant::now();
    let mut tokens: Vec<u32> = Vec::new();
    let mut end = End::Length;
    while tokens.len() < arguments.max_tokens {
        if interrupt::asked() {
            end = End::Interrupted;
            break;
        }
        let token = sampler.sample(session.logits()?);
        if model.end_token() == Some(token) && !arguments.ignore_end {
            end = End::Eos;
            break;
        }
        tokens.push(token);
        sampler.accept(token);
        if display.push(token, tokens.len() - 1)? {
            end = End::Stop;
            break;
        }
        if tokens.len() < arguments.max_tokens {
            session.append(&[token])?;
        }
    }
    let decode_time = started.elapsed();
    display.finish(end == End::Stop)?;

    let report = Report { prompt: prompt.len(), generated: tokens.len(), prompt_time, decode_time, seed };
    if arguments.json {
        let text = tokenizer.is_some().then_some(&display.shown);
        output::print_json(&json!({
            "tokens": tokens,
            "text": text,
            "prompt_tokens": report.prompt,
            "generated_tokens": report.generated,
            "end": end.name(),
            "seed": seed,
            "prompt_seconds": prompt_time.as_secs_f64(),
            "decode_seconds": decode_time.as_secs_f64(),
            "prompt_tok_s": output::rate(report.prompt, prompt_time),
            "decode_tok_s": output::rate(report.generated, decode_time),
            "peak_memory_bytes": memory::peak(),
            "isa": model.kernels().isa().name(),
            "threads": team.threads(),
        }))?;
    }
    output::message(&report.line(end));
    if end == End::Interrupted { std::process::exit(130) } else { Ok(()) }
}

struct Report {
    prompt: usize,
    generated: usize,
    prompt_time: Duration,
    decode_time: Duration,
    seed: u64,
}

impl Report {
    fn line(&self, end: End) -> String {
        let memory =
            memory::peak().map_or(String::new(), |bytes| format!(" | memory {}", output::bytes(bytes)));
        format!(
            "prompt {} tokens, {:.0} tok/s | generated {} tokens, {:.1} tok/s{memory} | seed {} | ended by {}",
            self.prompt,
            output::rate(self.prompt, self.prompt_time),
            self.generated,
            output::rate(self.generated, self.decode_time),
            self.seed,
            end.name(),
        )
    }
}

/// Shells do not make it easy to pass a line break.
fn unescape(text: &str) -> String {
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
