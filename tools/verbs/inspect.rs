//! `inspect`: what a model file holds, whether it is whole, and what running it takes.

use std::path::{Path, PathBuf};

use cinderblock::unstable::gguf::Value;
use cinderblock::unstable::kernels::Activation;
use cinderblock::unstable::kernels::{Isa, Kernels};
use cinderblock::unstable::model::{Config, EmbedderConfig, Residual, StackConfig, TokenDecoderConfig, keys};
use cinderblock::{MemoryEstimate, Model, Processors, Result, SessionOptions};
use serde_json::{Value as Json, json};

use crate::arguments::{CacheArguments, DEMO, ModelArguments, parse_sequences};
use crate::checkpoint::Lexicon;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  cinderblock inspect -m model.gguf
  cinderblock inspect -m model.gguf --verify
  cinderblock inspect -m model.gguf --cache-blocks 2048 --json
  cinderblock inspect -m model.gguf --cache-blocks 512 --batch 32
  cinderblock inspect --cpu";

/// Show what a model file holds and what running it takes
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// The model file; the same as -m FILE
    #[arg(value_name = "FILE", conflicts_with = "model")]
    file: Option<PathBuf>,

    #[command(flatten)]
    model: ModelArguments,

    /// Compare every tensor with its stored checksum
    #[arg(long)]
    verify: bool,

    /// List all metadata and tensors
    #[arg(long)]
    all: bool,

    /// Show this machine's instruction sets and which one is used, instead of a model
    #[arg(long)]
    cpu: bool,

    /// Memory for N sequences that advance together, each with a cache of its own
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_sequences)]
    batch: usize,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    cache: CacheArguments,
}

/// Runs the verb.
///
/// # Errors
/// If the model is refused, or a tensor differs from its checksum.
pub fn run(mut arguments: Arguments) -> Result<()> {
    if arguments.cpu {
        return cpu(arguments.json);
    }
    if arguments.file.is_some() {
        arguments.model.model = arguments.file.take();
    }
    let model = arguments.model.open()?;
    if arguments.verify {
        // A model without a path is the demo model.
        model.verify().map_err(|error| error.in_file(Path::new(DEMO)))?;
    }
    let options = arguments.cache.options(SessionOptions::default());
    let estimate = MemoryEstimate::of_batch(&model, &options, arguments.batch);
    if arguments.json {
        return output::print_json(&json_of(&model, &estimate, arguments.verify));
    }
    let mut text = summary(&model, arguments.model.model.as_deref(), &estimate);
    if arguments.verify {
        text += "checksums  all tensors are as they were written\n";
    }
    if arguments.all {
        text += &listing(&model);
    }
    output::print(&text)
}

/// Text from a file or an option, without what a terminal would obey.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn stack_line(name: &str, stack: &StackConfig) -> String {
    format!(
        "{name:14} {} layers, hidden {}, {} heads of {}, feed-forward {}{}{}{}\n",
        stack.layers,
        stack.hidden,
        stack.heads,
        stack.head_dim(),
        stack.feed_forward,
        if stack.activation == Activation::Gelu { "" } else { ", " },
        if stack.activation == Activation::Gelu { "" } else { stack.activation.name() },
        if stack.residual == Residual::Parallel { "" } else { ", sequential residual" },
    )
}

fn summary(model: &Model, path: Option<&Path>, estimate: &MemoryEstimate) -> String {
    let config: &Config = model.config();
    let index = model.index();
    let recipe = index
        .get(cinderblock::unstable::model::keys::RECIPE)
        .and_then(|value| value.as_str())
        .unwrap_or("unknown");
    let (weights, stored) = weight_counts(model);
    let of_demo = if path.is_none() { format!(" ({DEMO})") } else { String::new() };
    let mut text = format!("{:14} {}{of_demo}\n", "name", plain(&config.name));
    text += &format!(
        "{:14} {}, {} weights, {:.3} bits a weight, recipe {recipe}\n",
        "file",
        output::bytes(model.file_bytes() as u64),
        weights,
        8.0 * stored as f64 / weights as f64,
    );
    text += &format!(
        "{:14} blocks of {} tokens, vocabulary {}, trained with {} blocks of context\n",
        "shape", config.block_length, config.vocabulary, config.trained_blocks
    );
    let reason = alignment_reason(model).map_or(String::new(), |reason| format!(": {}", plain(&reason)));
    text += &format!("{:14} aligned {}{reason}\n", "prompts", config.alignment.name());
    text += &match &config.embedder {
        EmbedderConfig::Lookup { width, projection } => {
            format!("{:14} lookup, table of width {width}, {}\n", "embedder", projection.name())
        }
        EmbedderConfig::Roberta { encoder, projection } => format!(
            "{:14} roberta, {} layers of {}, {} heads, feed-forward {}, {} leading tokens, {}\n",
            "embedder",
            encoder.layers,
            encoder.hidden,
            encoder.heads,
            encoder.feed_forward,
            encoder.start_tokens,
            projection.name()
        ),
    };
    text += &stack_line("block decoder", &config.block_decoder);
    match &config.token_decoder {
        TokenDecoderConfig::Neox { stack, strategy, expansion } => {
            text += &stack_line("token decoder", stack);
            text += &format!("{:14} by {}, expansion {expansion}\n", "context", strategy.name());
        }
        TokenDecoderConfig::T5 { decoder, expansion } => {
            text += &format!(
                "{:14} t5, {} layers of {}, {} heads of {}, feed-forward {}\n",
                "token decoder",
                decoder.layers,
                decoder.hidden,
                decoder.heads,
                decoder.head_dim,
                decoder.feed_forward
            );
            let added = if decoder.summation { " and summation" } else { "" };
            text += &format!("{:14} by cross-attention{added}, expansion {expansion}\n", "context");
        }
        TokenDecoderConfig::Head { .. } => {
            text += &format!("{:14} the vocabulary head alone\n", "token decoder");
        }
    }
    let tokenizer = if model.tokenizer_json().is_some() { "in the file" } else { "none" };
    text += &format!("{:14} {tokenizer}\n{:14} {}\n", "tokenizer", "end token", plain(&end_token(model)));
    if let Some(table) = model.draft() {
        text += &format!("{:14} table of {} contexts\n", "draft", table.len());
    }
    text += &format!(
        "{:14} {} = weights {} + cache {} ({} blocks = {} tokens) + buffers {}\n",
        "memory",
        output::bytes(estimate.total()),
        output::bytes(estimate.weights),
        output::bytes(estimate.cache),
        estimate.cache_blocks,
        estimate.cache_blocks.saturating_mul(config.block_length),
        output::bytes(estimate.scratch),
    );
    text += &format!("{:14} {}\n", "kernels", model.kernels().isa());
    text
}

/// Why prompts are aligned as they are, if the file says so.
fn alignment_reason(model: &Model) -> Option<String> {
    Some(model.index().get(keys::ALIGNMENT_REASON)?.as_str()?.to_string())
}

/// The token that ends a text, by id and text.
fn end_token(model: &Model) -> String {
    let Some(id) = model.end_token() else { return "none: texts go on to their limit".to_string() };
    let lexicon = model.tokenizer_json().and_then(|json| Lexicon::from_json(json).ok());
    format!("{id} {}", lexicon.map_or(String::new(), |lexicon| lexicon.text(id))).trim_end().to_string()
}

/// Weights without padding, and the bytes that they take.
fn weight_counts(model: &Model) -> (usize, usize) {
    let specs = cinderblock::unstable::model::tensors(model.config());
    let weights = specs.iter().map(|spec| spec.rows * spec.width).sum();
    (weights, model.index().tensors().iter().map(|info| info.bytes).sum())
}

fn listing(model: &Model) -> String {
    let index = model.index();
    let mut text = String::from("\n");
    for (key, value) in index.metadata() {
        let value = value.to_string();
        let (start, more) = output::beginning(&value, 80);
        text += &format!("{} = {}{more}\n", plain(key), plain(start));
    }
    text += &format!("\n{:52} {:5} {:>10}  shape in the file\n", "tensor", "type", "bytes");
    for (info, kind) in index.tensors().iter().zip(model.types()) {
        text += &format!("{:52} {kind:5} {:>10}  {:?}\n", info.name, info.bytes, info.dimensions);
    }
    text
}

fn json_of_stack(stack: &StackConfig) -> Json {
    json!({
        "layers": stack.layers,
        "hidden": stack.hidden,
        "heads": stack.heads,
        "head_dim": stack.head_dim(),
        "feed_forward": stack.feed_forward,
        "rotary": stack.rotary,
        "residual": stack.residual.name(),
        "activation": stack.activation.name(),
        "attention_bias": stack.attention_bias,
    })
}

fn json_of_embedder(config: &Config) -> Json {
    match &config.embedder {
        EmbedderConfig::Lookup { width, projection } => {
            json!({"type": config.embedder.name(), "width": width, "projection": projection.name()})
        }
        EmbedderConfig::Roberta { encoder, projection } => json!({
            "type": config.embedder.name(),
            "layers": encoder.layers,
            "hidden": encoder.hidden,
            "heads": encoder.heads,
            "feed_forward": encoder.feed_forward,
            "positions": encoder.positions,
            "start_tokens": encoder.start_tokens,
            "projection": projection.name(),
        }),
    }
}

fn json_of_token_decoder(config: &Config) -> Json {
    let mut token_decoder = match &config.token_decoder {
        TokenDecoderConfig::Neox { stack: shape, strategy, expansion } => {
            let mut json = json_of_stack(shape);
            json["strategy"] = json!(strategy.name());
            json["expansion"] = json!(expansion);
            json
        }
        TokenDecoderConfig::T5 { decoder, expansion } => json!({
            "layers": decoder.layers,
            "hidden": decoder.hidden,
            "heads": decoder.heads,
            "head_dim": decoder.head_dim,
            "feed_forward": decoder.feed_forward,
            "strategy": if decoder.summation { "summation" } else { "cross_attention" },
            "expansion": expansion,
        }),
        TokenDecoderConfig::Head { hidden } => json!({"hidden": hidden}),
    };
    token_decoder["type"] = json!(config.token_decoder.name());
    token_decoder
}

fn json_of(model: &Model, estimate: &MemoryEstimate, verified: bool) -> Json {
    let config = model.config();
    let index = model.index();
    let metadata: serde_json::Map<String, Json> =
        index.metadata().iter().map(|(key, value)| ((*key).to_string(), json_of_value(value))).collect();
    let tensors: Vec<Json> = index
        .tensors()
        .iter()
        .zip(model.types())
        .map(|(info, kind)| {
            json!({"name": info.name, "type": kind.name(), "dimensions": info.dimensions, "bytes": info.bytes})
        })
        .collect();
    let (weights, stored) = weight_counts(model);
    json!({
        "name": config.name,
        "file_bytes": model.file_bytes(),
        "weights": weights,
        "bits_per_weight": 8.0 * stored as f64 / weights as f64,
        "block_length": config.block_length,
        "vocabulary": config.vocabulary,
        "trained_blocks": config.trained_blocks,
        "prompt_alignment": config.alignment.name(),
        "prompt_alignment_reason": alignment_reason(model),
        "end_token": model.end_token(),
        "embedder": json_of_embedder(config),
        "block_decoder": json_of_stack(&config.block_decoder),
        "token_decoder": json_of_token_decoder(config),
        "memory": {
            "weights": estimate.weights,
            "cache": estimate.cache,
            "scratch": estimate.scratch,
            "total": estimate.total(),
            "cache_blocks": estimate.cache_blocks,
        },
        "isa": model.kernels().isa().name(),
        "verified": verified,
        "metadata": metadata,
        "tensors": tensors,
    })
}

/// Long texts, such as the tokenizer, are named by their size.
fn json_of_value(value: &Value) -> Json {
    match value {
        Value::Unsigned(_, value) => json!(value),
        Value::Signed(_, value) => json!(value),
        Value::Float(_, value) => json!(value),
        Value::Bool(value) => json!(value),
        Value::String(text) if text.len() > 1000 => json!(format!("text of {} bytes", text.len())),
        Value::String(text) => json!(text),
        Value::Array(array) => array.iter().map(|value| json_of_value(&value)).collect(),
    }
}

fn cpu(as_json: bool) -> Result<()> {
    let chosen = Kernels::choose()?.isa();
    let forced = std::env::var_os("CINDERBLOCK_ISA").is_some_and(|name| !name.is_empty());
    let why = if forced { "CINDERBLOCK_ISA names it" } else { "the best that this machine has" };
    let processors = Processors::detect();
    let features = Isa::detected_features();
    if as_json {
        let list: Vec<Json> = Isa::ALL
            .iter()
            .map(|isa| {
                json!({
                    "name": isa.name(),
                    "built": isa.is_built(),
                    "available": isa.is_available(),
                    "missing": isa.missing_features(),
                })
            })
            .collect();
        let caches: serde_json::Map<String, Json> =
            processors.caches.iter().map(|(name, bytes)| (name.clone(), json!(bytes))).collect();
        return output::print_json(&json!({
            "processor": processors.name,
            "features": features,
            "instruction_sets": list,
            "chosen": chosen.name(),
            "why": why,
            "threads": processors.threads(),
            "processors": {
                "allowed": processors.allowed,
                "performance": processors.performance,
                "available": processors.available,
            },
            "caches": caches,
        }));
    }
    let mut text = String::new();
    if !processors.name.is_empty() {
        text += &format!("processor: {}\n", processors.name);
    }
    text += &format!("features: {}\n", features.join(" "));
    for isa in Isa::ALL {
        let state = match isa.missing_features() {
            None => "not of this architecture".to_string(),
            Some(missing) if missing.is_empty() => "available".to_string(),
            Some(missing) => format!("this machine lacks {}", missing.join(", ")),
        };
        let mark = if isa == chosen { "*" } else { " " };
        text += &format!("{mark} {isa:12} {state}\n");
    }
    text += &format!("chosen: {chosen}, {why}\n");
    let caches: Vec<String> =
        processors.caches.iter().map(|(name, bytes)| format!("{name} {} KiB", bytes >> 10)).collect();
    if !caches.is_empty() {
        text += &format!("caches: {}\n", caches.join(", "));
    }
    let Processors { allowed, performance, available, .. } = processors;
    text += &format!(
        "threads: {} ({allowed} processors allowed, {performance} of them performance cores, {available} by \
         affinity and quota)\n",
        processors.threads()
    );
    output::print(&text)
}
