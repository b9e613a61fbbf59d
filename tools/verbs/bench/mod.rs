//! `bench`: tokens a second, and how much of the memory's bandwidth they use.

mod profile;
mod speculation;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cinderblock::unstable::model::tensors;
use cinderblock::{
    CacheType, Config, Engine, Error, ErrorKind, MemoryEstimate, Model, Result, Runtime, Sequence,
    SessionOptions,
};
use serde_json::{Value as Json, json};

use self::profile::{Decoder, Profile};
use crate::arguments::{CacheTypeArgument, ModelArguments};
use crate::output::{self, Sink};
use crate::plot::{Line, plot};
use crate::{interrupt, memory};

const EXAMPLES: &str = "\
Examples:
  cinderblock bench -m model.gguf
  cinderblock bench --prefill 2048 --context 0,1024 --batch 1,16 --json
  cinderblock bench -m model.gguf --prefill= --context= --speculate 1024
  cinderblock bench -m model.gguf --threads-sweep 1,2,4 --plot speed.svg";

/// Measure prefill and decode
///
/// Decoding is measured at every combination of context depth (tokens) and batch size. Each measurement is warmed up
/// and repeated; the median counts. A plain read of memory is measured in the same run, for comparison with the bytes
/// of weights and of cache that decoding reads; its buffer of 512 MB, at most a quarter of what is free, is gone before
/// the model is measured.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,

    #[command(flatten)]
    cache: CacheTypeArgument,

    /// Prompt lengths in tokens, separated by commas; empty skips prefill
    #[arg(long, value_name = "LENGTHS", default_value = "512,2048")]
    prefill: String,

    /// Tokens to decode for each sequence
    #[arg(long, value_name = "N", default_value = "32", value_parser = parse_tokens)]
    decode: usize,

    /// Tokens of context before decoding, separated by commas; empty skips decoding
    #[arg(long, value_name = "DEPTHS", default_value = "0,1024")]
    context: String,

    /// Numbers of sequences to decode together, separated by commas
    #[arg(long, value_name = "SIZES", default_value = "1,8")]
    batch: String,

    /// Tokens of each text that speculation is measured with; 0 skips it
    #[arg(long, value_name = "N", default_value = "256", value_parser = parse_tokens)]
    speculate: usize,

    /// Numbers of threads to measure with, separated by commas, instead of --threads
    #[arg(long, value_name = "COUNTS")]
    threads_sweep: Option<String>,

    /// Repeat each measurement N times
    #[arg(long, value_name = "N", default_value = "3", value_parser = parse_repeats)]
    repeats: usize,

    /// Add where the time goes: the phases of each decoder (products by kind, attention, norms and quantization, head),
    /// waiting in them, and the work of each thread; in the JSON also the multiply-adds a second that the kernels reach
    /// from the caches
    #[arg(long)]
    profile: bool,

    /// Draw tokens a second against batch and context into an SVG file
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,

    /// Print one JSON array of measurements
    #[arg(long)]
    json: bool,
}

/// Tokens of a measurement at most, so that positions and products of them can be counted.
const MAX_TOKENS: usize = 1 << 24;

fn parse_tokens(text: &str) -> std::result::Result<usize, String> {
    let tokens = text.parse().ok().filter(|&tokens: &usize| tokens <= MAX_TOKENS);
    tokens.ok_or_else(|| format!("expected 0 to {MAX_TOKENS}"))
}

fn parse_repeats(text: &str) -> std::result::Result<usize, String> {
    let repeats = text.parse().ok().filter(|repeats| (1..=10000).contains(repeats));
    repeats.ok_or_else(|| "expected 1 to 10000".to_string())
}

/// Numbers from `least` to `most`, separated by commas.
fn list(name: &str, text: &str, least: usize, most: usize) -> Result<Vec<usize>> {
    let parse = |item: &str| {
        let item = item.trim();
        let number = item.parse().ok().filter(|number| (least..=most).contains(number));
        number.ok_or_else(|| {
            Error::argument(format!("--{name}: found {item:?}, expected numbers from {least} to {most}"))
        })
    };
    text.split(',').filter(|item| !item.trim().is_empty()).map(parse).collect()
}

/// Median and relative spread, (largest - smallest) / median.
fn median(mut values: Vec<f64>) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    let middle =
        if values.len().is_multiple_of(2) { (values[half - 1] + values[half]) / 2.0 } else { values[half] };
    (middle, (values[values.len() - 1] - values[0]) / middle)
}

/// One measured point.
struct Measurement {
    phase: &'static str,
    batch: usize,
    context: usize,
    tokens: usize,
    threads: usize,
    seconds: f64,
    spread: f64,
    /// Of the whole measurement.
    work: Work,
    profile: Option<Profile>,
    /// Multiply-adds a second of the layers' kernel, if profiled.
    multiply_adds_s: Option<f64>,
    memory_gb_s: f64,
    isa: &'static str,
}

impl Measurement {
    /// Tokens a second; `None` of a prompt shorter than a block, which only waits and takes no time.
    fn tok_s(&self) -> Option<f64> {
        let passed = self.work.multiply_adds > 0.0;
        passed.then(|| (self.batch * self.tokens) as f64 / self.seconds)
    }

    fn gb_s(&self) -> Option<f64> {
        let passed = self.work.multiply_adds > 0.0;
        passed.then(|| (self.work.weight_bytes + self.work.cache_bytes) / self.seconds / 1e9)
    }

    fn json(&self) -> Json {
        let tokens = (self.batch * self.tokens) as f64;
        let mut json = json!({
            "phase": self.phase,
            "batch": self.batch,
            "context": self.context,
            "tokens": self.tokens,
            "threads": self.threads,
            "tok_s": self.tok_s(),
            "spread": self.spread,
            "bytes_per_token": (self.work.weight_bytes + self.work.cache_bytes) / tokens,
            "gb_s": self.gb_s(),
            "memory_gb_s": self.memory_gb_s,
            "memory_share": self.gb_s().map(|rate| rate / self.memory_gb_s),
            "isa": self.isa,
            "peak_memory_bytes": memory::peak(),
        });
        if let Some(profile) = &self.profile {
            json["seconds"] = self.seconds.into();
            json["weight_bytes"] = self.work.weight_bytes.into();
            json["cache_bytes"] = self.work.cache_bytes.into();
            json["multiply_adds"] = self.work.multiply_adds.into();
            json["multiply_adds_s"] = self.multiply_adds_s.into();
            json["profile"] = profile.json();
        }
        json
    }
}

/// What a measurement has to do.
#[derive(Clone, Copy)]
struct Work {
    weight_bytes: f64,
    cache_bytes: f64,
    /// Of products and of attention.
    multiply_adds: f64,
}

/// Bytes and number of the weights that a pass reads.
#[derive(Clone, Copy, Default)]
struct Size {
    bytes: f64,
    weights: f64,
}

/// The weights that one pass reads, by decoder.
struct PassWeights {
    block_decoder: Size,
    expansion: Size,
    token_layers: Size,
    head: Size,
}

impl PassWeights {
    fn of(model: &Model) -> PassWeights {
        let index = model.index();
        let specs = tensors(model.config());
        let sum = |pick: &dyn Fn(&str) -> bool| -> Size {
            let read = index.tensors().iter().zip(&specs).filter(|(info, _)| pick(info.name));
            read.fold(Size::default(), |sum, (info, spec)| Size {
                bytes: sum.bytes + info.bytes as f64,
                weights: sum.weights + (spec.rows * spec.width) as f64,
            })
        };
        PassWeights {
            block_decoder: sum(&|name| name.starts_with("block_decoder.") || name.contains("projection")),
            expansion: sum(&|name| name.contains(".expansion.")),
            token_layers: sum(&|name| name.starts_with("token_decoder.layers.")),
            head: sum(&|name| name.contains(".head.")),
        }
    }

    /// The work of a prompt of `blocks` blocks. The last layer computes only keys and values, a quarter of its weights,
    /// and half of the positions of a causal square are seen.
    fn prefill(&self, config: &Config, blocks: f64) -> Work {
        if blocks < 1.0 {
            return Work { weight_bytes: 0.0, cache_bytes: 0.0, multiply_adds: 0.0 };
        }
        let stack = &config.block_decoder;
        let layers = stack.layers as f64;
        let weights = self.block_decoder.weights * (1.0 - 0.75 / layers);
        let attention = (layers - 1.0) * stack.hidden as f64 * blocks;
        Work {
            weight_bytes: self.block_decoder.bytes,
            cache_bytes: 0.0,
            multiply_adds: blocks * (weights + attention),
        }
    }

    /// The work of `tokens` tokens of each of `batch` sequences that see `cached` blocks of `block_bytes` each.
    fn decode(&self, config: &Config, (batch, tokens): (f64, f64), cached: f64, block_bytes: f64) -> Work {
        let stack = &config.block_decoder;
        let blocks = (tokens / config.block_length as f64).ceil();
        let attention = 2.0 * cached * (stack.layers * stack.hidden) as f64;
        let columns = config.token_positions() as f64;
        let block = self.block_decoder.weights + self.expansion.weights + attention;
        let block = block + columns * self.token_layers.weights;
        Work {
            weight_bytes: blocks * (self.block_decoder.bytes + self.expansion.bytes)
                + tokens * (self.token_layers.bytes + self.head.bytes),
            cache_bytes: blocks * batch * cached * block_bytes,
            multiply_adds: batch * (blocks * block + tokens * self.head.weights),
        }
    }
}

struct Bench {
    model: Arc<Model>,
    runtime: Runtime,
    engine: Engine,
    weights: PassWeights,
    /// A sequence with a context, and its tokens and room: other batches begin with a copy of it.
    start: Option<((usize, usize), Sequence)>,
    profiled: bool,
    profile: Option<Profile>,
    multiply_adds_s: Option<f64>,
    repeats: usize,
    cache_type: Option<CacheType>,
    memory_gb_s: f64,
}

/// Token ids that repeat late.
fn random_tokens(model: &Model, count: usize) -> Vec<u32> {
    let vocabulary = model.config().vocabulary as u64;
    (0..count as u64).map(|i| ((i * 7919 + 13) * (i + 101) % vocabulary) as u32).collect()
}

impl Bench {
    fn new(model: &Arc<Model>, threads: usize, arguments: &Arguments) -> Result<Bench> {
        let runtime = Runtime::new(Arc::clone(model), threads)?;
        let index = model.index();
        let mut types = index.tensors().iter().zip(model.types());
        let kind = types.find(|(info, _)| info.name.ends_with(".qkv.weight")).map(|(_, kind)| kind);
        let multiply_adds = |kind| profile::multiply_adds(runtime.team(), model, kind);
        Ok(Bench {
            engine: runtime.engine(),
            weights: PassWeights::of(model),
            start: None,
            profiled: arguments.profile,
            profile: None,
            multiply_adds_s: kind.filter(|_| arguments.profile).map(multiply_adds),
            memory_gb_s: memory::read_bandwidth(runtime.team())? / 1e9,
            model: Arc::clone(model),
            runtime,
            repeats: arguments.repeats,
            cache_type: arguments.cache.kind(),
        })
    }

    fn options(&self, cache_blocks: usize) -> SessionOptions {
        SessionOptions { cache_blocks: Some(cache_blocks), cache_type: self.cache_type, ..Default::default() }
    }

    /// An empty sequence with room for `tokens` tokens, if there is memory for `count` of them.
    fn sequence(&self, count: usize, tokens: usize) -> Result<Sequence> {
        let blocks = tokens.div_ceil(self.model.config().block_length) + 2;
        let options = self.options(blocks.max(8));
        let needed = MemoryEstimate::of_batch(&self.model, &options, count).total();
        if let Some(free) = memory::available().filter(|&free| free < needed) {
            let [needed, free] = [needed, free].map(output::bytes);
            let detail =
                format!("{count} sequences of {tokens} tokens need {needed}, of which {free} are free");
            return Err(Error::new(ErrorKind::Resource, detail));
        }
        self.runtime.sequence(&options)
    }

    fn measure(
        &mut self,
        phase: &'static str,
        (batch, context, tokens): (usize, usize, usize),
        work: Work,
        mut once: impl FnMut(&mut Engine, &mut Option<Profile>) -> Result<f64>,
    ) -> Result<Measurement> {
        let mut times = Vec::new();
        for round in 0..=self.repeats {
            interrupt::check()?;
            // The first round warms up.
            if round == 1 && self.profiled {
                self.profile = Some(Profile::start(self.runtime.team()));
            }
            let seconds = once(&mut self.engine, &mut self.profile)?;
            if let Some(profile) = &mut self.profile {
                profile.end_round(seconds);
            }
            if round > 0 {
                times.push(seconds);
            }
        }
        let (seconds, spread) = median(times);
        Ok(Measurement {
            phase,
            batch,
            context,
            tokens,
            threads: self.runtime.team().threads(),
            seconds,
            spread,
            work,
            profile: self.profile.take(),
            multiply_adds_s: self.multiply_adds_s,
            memory_gb_s: self.memory_gb_s,
            isa: self.model.kernels().isa().name(),
        })
    }

    fn prefill(&mut self, tokens: usize) -> Result<Measurement> {
        let prompt = random_tokens(&self.model, tokens);
        let mut sequence = self.sequence(1, tokens)?;
        let config = self.model.config();
        let work = self.weights.prefill(config, (tokens / config.block_length) as f64);
        let team = Arc::clone(self.runtime.team());
        self.measure("prefill", (1, 0, tokens), work, |engine, profile| {
            sequence.clear();
            let started = Instant::now();
            Profile::pass(profile, &team, Decoder::Block, || engine.append(&mut sequence, &prompt))?;
            Ok(started.elapsed().as_secs_f64())
        })
    }

    /// `batch` sequences with `context` tokens, each with a cache of its own, and room for `total`.
    fn decoded(&mut self, batch: usize, context: usize, total: usize) -> Result<Vec<Sequence>> {
        let empty = self.sequence(batch, total)?;
        let start = match self.start.take() {
            Some((of, sequence)) if of == (context, total) => sequence,
            _ => {
                let mut sequence = empty;
                self.engine.append(&mut sequence, &random_tokens(&self.model, context))?;
                sequence
            }
        };
        let sequences = (0..batch).map(|_| start.try_clone()).collect::<Result<Vec<_>>>()?;
        self.start = Some(((context, total), start));
        Ok(sequences)
    }

    fn decode(&mut self, batch: usize, context: usize, tokens: usize) -> Result<Measurement> {
        let config = self.model.config().clone();
        // Decoding starts after at least one block.
        let prompt = context.max(config.block_length);
        let mut sequences = self.decoded(batch, prompt, prompt + tokens * (self.repeats + 1))?;
        let blocks = (tokens as f64 / config.block_length as f64).ceil();
        let stack = &config.block_decoder;
        let cached = (context / config.block_length) as f64 + blocks / 2.0;
        let kind = self.options(0).cache_type_for(&self.model);
        let block_bytes = (stack.layers * stack.heads * kind.bytes(stack.head_dim())) as f64;
        let work = self.weights.decode(&config, (batch as f64, tokens as f64), cached, block_bytes);
        let mut chosen = vec![0u32; batch];
        let team = Arc::clone(self.runtime.team());
        self.measure("decode", (batch, context, tokens), work, |engine, profile| {
            let started = Instant::now();
            for _ in 0..tokens {
                let logits =
                    Profile::pass(profile, &team, Decoder::Token, || engine.logits(&mut sequences, &[]))?;
                for (row, token) in chosen.iter_mut().enumerate() {
                    let best = logits.row(row)?.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
                    *token = best.map_or(0, |best| best.0 as u32);
                }
                Profile::pass(profile, &team, Decoder::Block, || {
                    engine.append_each(&mut sequences, &chosen)
                })?;
            }
            Ok(started.elapsed().as_secs_f64())
        })
    }
}

/// Runs the verb.
///
/// # Errors
/// If the model or an option is refused, memory does not suffice, or a file cannot be written; `Interrupted` by a
/// signal.
pub fn run(arguments: Arguments) -> Result<()> {
    interrupt::listen();
    let mut plot = None;
    if let Some(path) = &arguments.plot {
        output::not_standard(path, "the figures")?;
        arguments.model.inputs().check(path)?;
        plot = Some(Sink::create(path)?);
    }
    let started = Instant::now();
    let model = arguments.model.open()?;
    let load = started.elapsed();
    let prefill = list("prefill", &arguments.prefill, 1, MAX_TOKENS)?;
    let contexts = list("context", &arguments.context, 0, MAX_TOKENS)?;
    let batches = list("batch", &arguments.batch, 1, 65536)?;
    let threads = match &arguments.threads_sweep {
        Some(text) => list("threads-sweep", text, 1, 1024)?,
        None => vec![arguments.model.threads],
    };
    let (mut measurements, mut speedups) = (Vec::new(), Vec::new());
    let points = threads.len() * (prefill.len() + contexts.len() * batches.len());
    let bar = output::progress(points as u64, "measuring [{bar:30}] {pos}/{len} {elapsed}");
    for &threads in &threads {
        let mut bench = Bench::new(&model, threads, &arguments)?;
        for &tokens in &prefill {
            measurements.push(bench.prefill(tokens)?);
            bar.inc(1);
        }
        for &context in contexts.iter().filter(|_| arguments.decode > 0) {
            for &batch in &batches {
                measurements.push(bench.decode(batch, context, arguments.decode)?);
                bar.inc(1);
            }
        }
        if arguments.speculate > 0 {
            speedups.extend(speculation::measure(&bench.runtime, arguments.speculate)?);
        }
    }
    bar.finish_and_clear();
    if let Some(mut file) = plot {
        file.put(drawing(&measurements).as_bytes())?;
        file.commit()?;
    }
    if arguments.json {
        let rows = measurements.iter().map(Measurement::json);
        return output::print_json(&rows.chain(speedups.iter().map(speculation::Speedup::json)).collect());
    }
    output::print(&table(&model, load, &measurements, &speedups))
}

/// The figures for people.
fn table(
    model: &Model,
    load: Duration,
    measurements: &[Measurement],
    speedups: &[speculation::Speedup],
) -> String {
    let mut text = format!(
        "{} on {}, opened in {:.1} ms\n{:8} {:>7} {:>5} {:>7} {:>6} {:>10} {:>7} {:>7} {:>9}\n",
        model.config().name,
        model.kernels().isa(),
        load.as_secs_f64() * 1e3,
        "phase",
        "threads",
        "batch",
        "context",
        "tokens",
        "tok/s",
        "spread",
        "GB/s",
        "of memory"
    );
    for m in measurements {
        text += &format!("{:8} {:>7} {:>5} {:>7} {:>6} ", m.phase, m.threads, m.batch, m.context, m.tokens);
        text += &match (m.tok_s(), m.gb_s()) {
            (Some(tok_s), Some(gb_s)) => format!(
                "{tok_s:>10.1} {:>6.1}% {gb_s:>7.1} {:>8.0}%\n",
                100.0 * m.spread,
                100.0 * gb_s / m.memory_gb_s
            ),
            _ => format!("{:>10} {:>7} {:>7} {:>9}\n", "-", "-", "-", "-"),
        };
    }
    for m in measurements {
        if let Some(profile) = &m.profile {
            text += &format!(
                "{}, {} threads, batch {}, context {}, {} tokens:\n{}",
                m.phase,
                m.threads,
                m.batch,
                m.context,
                m.tokens,
                profile.table()
            );
        }
    }
    if !speedups.is_empty() {
        text += &speculation::Speedup::header();
        text.extend(speedups.iter().map(speculation::Speedup::line));
    }
    let peak = memory::peak().map_or("unknown".to_string(), output::bytes);
    if let Some(Measurement { memory_gb_s: read, .. }) = measurements.first() {
        text += &format!("plain memory read {read:.1} GB/s, ");
    }
    text += &format!("peak memory {peak}\n");
    text
}

/// Tokens a second of decoding against batch, a line a context, and against context, a line a batch.
fn drawing(measurements: &[Measurement]) -> String {
    let decode: Vec<&Measurement> = measurements.iter().filter(|m| m.phase == "decode").collect();
    let lines = |name: &str, of: fn(&Measurement) -> usize, x: fn(&Measurement) -> usize| -> Vec<Line> {
        let mut keys: Vec<usize> = decode.iter().map(|m| of(m)).collect();
        keys.sort_unstable();
        keys.dedup();
        let points = |key: usize| decode.iter().filter(move |m| of(m) == key);
        let line = |key: usize| Line {
            name: format!("{name} {key}"),
            points: points(key).filter_map(|m| Some((x(m) as f64, m.tok_s()?))).collect(),
        };
        keys.into_iter().map(line).collect()
    };
    plot(
        "tokens a second",
        &[
            ("batch", lines("context", |m| m.context, |m| m.batch)),
            ("tokens of context", lines("batch", |m| m.batch, |m| m.context)),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_lists() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), (2.0, 1.0));
        assert_eq!(median(vec![3.0, 1.0]), (2.0, 1.0));
        assert_eq!(list("x", " 1, 2,", 0, 9).unwrap(), [1, 2]);
        assert!(list("x", "1,a", 0, 9).is_err() && list("x", "", 0, 9).unwrap().is_empty());
        let error = list("x", "10", 1, 9).unwrap_err();
        assert_eq!(error.to_string(), "--x: found \"10\", expected numbers from 1 to 9");
    }
}
