//! The authors' trainer configuration, the `config.json` of a part or of a GPT-NeoX: which model a checkpoint holds.
//!
//! Every key of a section that describes the model is obeyed, known to change nothing, or refused by name.

mod t5;

use std::cell::Cell;
use std::path::Path;

use cinderblock::unstable::kernels::Activation;
use cinderblock::unstable::model::Strategy;
use cinderblock::{Error, Result};

use super::yaml::Value;
use crate::input::read_regular;
pub use t5::T5Facts;

/// No configuration is longer; it is read whole.
const MAX_BYTES: u64 = 32 << 10;

/// What a checkpoint holds, going by the names of its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A Block Transformer.
    Block,
    /// A GPT-NeoX, whose blocks are single tokens.
    Vanilla,
}

/// What is known of a model before its tensors are looked at. Sizes are compared with the tensors, which decide; what
/// is not given is found from them, as far as they decide it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    pub name: Option<String>,
    pub block_length: Option<usize>,
    pub max_length: Option<usize>,
    pub projection_layer: Option<bool>,
    pub embedding: Option<usize>,
    /// What is known of the embedder if it is a RoBERTa encoder.
    pub encoder: Option<EncoderFacts>,
    pub strategy: Option<Strategy>,
    /// Whether the first block of a text was padded from the left in training, by a random amount.
    pub padded: Option<bool>,
    pub expansion_ratio: Option<usize>,
    /// The name of the tokenizer, as the authors call it.
    pub tokenizer: Option<String>,
    /// That of a vanilla model is its only stack.
    pub block_decoder: StackFacts,
    pub token_decoder: StackFacts,
    /// What is known of the token decoder if it is a T5 decoder, instead of `token_decoder`.
    pub t5: Option<T5Facts>,
}

/// What is known of a RoBERTa encoder.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EncoderFacts {
    pub layers: Option<usize>,
    pub heads: Option<usize>,
    pub feed_forward: Option<usize>,
    pub epsilon: Option<f64>,
    /// Copies of `<s>` before each block: those of `roberta_cls`, none for `roberta`.
    pub start_tokens: usize,
}

/// What is known of one decoder.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StackFacts {
    pub layers: Option<usize>,
    pub hidden: Option<usize>,
    pub heads: Option<usize>,
    pub feed_forward: Option<usize>,
    pub vocabulary: Option<usize>,
    pub rotary_fraction: Option<f64>,
    pub rotary_base: Option<f64>,
    pub epsilon: Option<f64>,
    /// Whether the vocabulary head is the table of embeddings.
    pub tied: Option<bool>,
    /// Whether the linear layers of attention have biases.
    pub attention_bias: Option<bool>,
    pub parallel_residual: Option<bool>,
    pub activation: Option<Activation>,
}

impl StackFacts {
    /// Adds what another description of the same decoder gives.
    ///
    /// # Errors
    /// If the two contradict each other; `name` is that of the other.
    pub fn merge(&mut self, other: &StackFacts, name: &str) -> Result<()> {
        fn one<T: PartialEq + Copy + std::fmt::Display>(
            own: &mut Option<T>,
            other: Option<T>,
            key: &str,
            name: &str,
        ) -> Result<()> {
            match (*own, other) {
                (Some(own), Some(other)) if own != other => Err(Error::mismatch(
                    format!("{name}: {key}"),
                    other,
                    format!("{own}, as the trainer configuration has it"),
                )),
                _ => {
                    *own = own.or(other);
                    Ok(())
                }
            }
        }
        one(&mut self.layers, other.layers, "num_hidden_layers", name)?;
        one(&mut self.hidden, other.hidden, "hidden_size", name)?;
        one(&mut self.heads, other.heads, "num_attention_heads", name)?;
        one(&mut self.feed_forward, other.feed_forward, "intermediate_size", name)?;
        one(&mut self.rotary_fraction, other.rotary_fraction, "rotary_pct", name)?;
        one(&mut self.rotary_base, other.rotary_base, "rotary_emb_base", name)?;
        one(&mut self.epsilon, other.epsilon, "layer_norm_eps", name)?;
        one(&mut self.tied, other.tied, "tie_word_embeddings", name)?;
        one(&mut self.attention_bias, other.attention_bias, "attention_bias", name)?;
        one(&mut self.parallel_residual, other.parallel_residual, "use_parallel_residual", name)?;
        match (self.activation, other.activation) {
            (Some(own), Some(other)) if own != other => {
                let expected = format!("{}, as the trainer configuration has it", own.name());
                Err(Error::mismatch(format!("{name}: hidden_act"), other.name(), expected))
            }
            _ => {
                self.activation = self.activation.or(other.activation);
                Ok(())
            }
        }
    }
}

/// Keys to pass over (`--ignore-key`): a whole path or its last part.
pub struct Ignored(Vec<(String, Cell<bool>)>);

impl Ignored {
    pub fn new(names: &[String]) -> Ignored {
        Ignored(names.iter().map(|name| (name.clone(), Cell::new(false))).collect())
    }

    fn has(&self, path: &str) -> bool {
        let names = |name: &str| {
            path.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
        };
        let found = self.0.iter().find(|(name, _)| names(name));
        found.inspect(|(_, used)| used.set(true)).is_some()
    }

    /// # Errors
    /// If a name was that of no key.
    pub fn check(&self) -> Result<()> {
        match self.0.iter().find(|(_, used)| !used.get()) {
            None => Ok(()),
            Some((name, _)) => {
                Err(Error::argument(format!("--ignore-key: the configuration has no key {name:?}")))
            }
        }
    }
}

/// A place in the document.
struct Section<'v> {
    path: String,
    value: &'v Value,
    ignored: &'v Ignored,
}

impl<'v> Section<'v> {
    fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_string() } else { format!("{}.{key}", self.path) }
    }

    /// The value of a key, null included.
    fn raw(&self, key: &str) -> Option<&'v Value> {
        self.value.get(key).filter(|_| !self.ignored.has(&self.path(key)))
    }

    fn get(&self, key: &str) -> Option<&'v Value> {
        self.raw(key).filter(|value| **value != Value::Null)
    }

    fn missing(&self, key: &str) -> Error {
        Error::format(format!("key {} is missing", self.path(key)))
    }

    fn mismatch(&self, key: &str, value: &Value, expected: &str) -> Error {
        Error::mismatch(self.path(key), value, expected)
    }

    fn optional(&self, key: &str) -> Result<Option<Section<'v>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        if !matches!(value, Value::Map(_)) {
            return Err(self.mismatch(key, value, "a section"));
        }
        Ok(Some(Section { path: self.path(key), value, ignored: self.ignored }))
    }

    fn section(&self, key: &str) -> Result<Section<'v>> {
        self.optional(key)?.ok_or_else(|| self.missing(key))
    }

    fn text(&self, key: &str) -> Result<Option<&'v str>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_text().map(Some).ok_or_else(|| self.mismatch(key, value, "text"))
    }

    fn required_text(&self, key: &str) -> Result<&'v str> {
        self.text(key)?.ok_or_else(|| self.missing(key))
    }

    fn integer(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_u64().filter(|number| (1..=1 << 32).contains(number));
        let number = number.ok_or_else(|| self.mismatch(key, value, "a positive integer"))?;
        Ok(Some(number as usize))
    }

    fn required_integer(&self, key: &str) -> Result<usize> {
        self.integer(key)?.ok_or_else(|| self.missing(key))
    }

    fn float(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_f64().filter(|number| number.is_finite() && *number >= 0.0);
        number.map(Some).ok_or_else(|| self.mismatch(key, value, "a non-negative number"))
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.mismatch(key, value, "true or false"))
    }

    /// A key that, where it is given, must have one of some values, because nothing else is implemented.
    fn only(&self, key: &str, expected: &[&str]) -> Result<()> {
        let Some(value) = self.get(key) else { return Ok(()) };
        let found = value.to_string();
        if expected.contains(&found.as_str()) {
            return Ok(());
        }
        let expected = expected.join(" and ");
        Err(Error::unsupported(format!("{}: found {found}, only {expected} is supported", self.path(key))))
    }

    fn required_only(&self, key: &str, expected: &[&str]) -> Result<()> {
        self.get(key).ok_or_else(|| self.missing(key))?;
        self.only(key, expected)
    }

    /// Refuses keys that nobody here knows: one of them may change what the model computes.
    fn known(&self, lists: &[&[&str]]) -> Result<()> {
        let Value::Map(entries) = self.value else { return Ok(()) };
        let unknown = |key: &&String| !lists.iter().any(|list| list.contains(&key.as_str()));
        match entries
            .iter()
            .map(|(key, _)| key)
            .filter(unknown)
            .find(|key| !self.ignored.has(&self.path(key)))
        {
            None => Ok(()),
            Some(key) => {
                let path = self.path(key);
                let detail =
                    format!("unknown key {path}: if it does not change the model, --ignore-key {path}");
                Err(Error::unsupported(detail))
            }
        }
    }
}

/// Keys of a GPT-NeoX configuration that are read here.
const STACK_KEYS: [&str; 15] = [
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "rotary_pct",
    "partial_rotary_factor",
    "rotary_emb_base",
    "rope_theta",
    "rope_parameters",
    "rope_scaling",
    "layer_norm_eps",
    "hidden_act",
    "use_parallel_residual",
    "attention_bias",
];
/// Further ones that are read.
const MORE_STACK_KEYS: [&str; 3] = ["tie_word_embeddings", "bos_token_id", "model_type"];

/// Keys of any Hugging Face configuration that change nothing that is computed here: training, bookkeeping, and what
/// another part or the generating program reads.
const HARMLESS_KEYS: [&str; 74] = [
    "_name_or_path",
    "name_or_path",
    "_attn_implementation",
    "_attn_implementation_autoset",
    "attn_implementation",
    "architectures",
    "auto_map",
    "torch_dtype",
    "dtype",
    "transformers_version",
    "use_cache",
    "return_dict",
    "output_hidden_states",
    "output_attentions",
    "torchscript",
    "use_bfloat16",
    "tf_legacy_loss",
    "pruned_heads",
    "chunk_size_feed_forward",
    "gradient_checkpointing",
    "initializer_range",
    "hidden_dropout",
    "attention_dropout",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "max_position_embeddings",
    "eos_token_id",
    "pad_token_id",
    "sep_token_id",
    "cls_token_id",
    "mask_token_id",
    "decoder_start_token_id",
    "finetuning_task",
    "id2label",
    "label2id",
    "num_labels",
    "tokenizer_class",
    "prefix",
    "problem_type",
    "task_specific_params",
    "use_flash_attention_2",
    "max_length",
    "min_length",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "num_beams",
    "repetition_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
    "bad_words_ids",
    "length_penalty",
    "early_stopping",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "num_beam_groups",
    "diversity_penalty",
    "typical_p",
    "num_return_sequences",
    "output_scores",
    "return_dict_in_generate",
    "remove_invalid_values",
    "exponential_decay_length_penalty",
    "is_decoder",
    "is_encoder_decoder",
    "tie_encoder_decoder",
    "add_cross_attention",
    "cross_attention_hidden_size",
    "_commit_hash",
    "custom_pipelines",
];

/// One number that several keys may give; where more than one does, they agree.
fn agreeing(given: &[(String, Option<f64>)]) -> Result<Option<f64>> {
    let mut given = given.iter().filter_map(|(path, value)| Some((path, (*value)?)));
    let Some((path, value)) = given.next() else { return Ok(None) };
    match given.find(|(_, other)| *other != value) {
        None => Ok(Some(value)),
        Some((other, found)) => Err(Error::mismatch(other, found, format!("{value}, as {path} has it"))),
    }
}

/// Names of activation functions.
const ACTIVATIONS: [(&str, Activation); 6] = [
    ("gelu", Activation::Gelu),
    ("gelu_python", Activation::Gelu),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("relu", Activation::Relu),
];

fn activation(config: &Section<'_>) -> Result<Option<Activation>> {
    config.only("hidden_act", &ACTIVATIONS.map(|(name, _)| name))?;
    let name = config.text("hidden_act")?;
    Ok(ACTIVATIONS.iter().find(|(own, _)| Some(*own) == name).map(|(_, activation)| *activation))
}

/// Reads the settings of a GPT-NeoX.
fn stack_settings(config: &Section<'_>) -> Result<StackFacts> {
    config.only("model_type", &["gpt_neox"])?;
    let (mut fraction, mut base) = (Vec::new(), Vec::new());
    for key in ["rotary_pct", "partial_rotary_factor"] {
        fraction.push((config.path(key), config.float(key)?));
    }
    for key in ["rotary_emb_base", "rope_theta"] {
        base.push((config.path(key), config.float(key)?));
    }
    for key in ["rope_parameters", "rope_scaling"] {
        let Some(rope) = config.optional(key)? else { continue };
        for kind in ["rope_type", "type"] {
            rope.only(kind, &["default"])?;
        }
        rope.known(&[&["rope_type", "type", "rope_theta", "partial_rotary_factor"]])?;
        fraction.push((rope.path("partial_rotary_factor"), rope.float("partial_rotary_factor")?));
        base.push((rope.path("rope_theta"), rope.float("rope_theta")?));
    }
    Ok(StackFacts {
        layers: config.integer("num_hidden_layers")?,
        hidden: config.integer("hidden_size")?,
        heads: config.integer("num_attention_heads")?,
        feed_forward: config.integer("intermediate_size")?,
        vocabulary: config.integer("vocab_size")?,
        rotary_fraction: agreeing(&fraction)?,
        rotary_base: agreeing(&base)?,
        epsilon: config.float("layer_norm_eps")?,
        tied: config.flag("tie_word_embeddings")?,
        attention_bias: config.flag("attention_bias")?,
        parallel_residual: config.flag("use_parallel_residual")?,
        activation: activation(config)?,
    })
}

/// Heads of the Pythia models: what a decoder has that was initialized from one of them whole, and a vanilla model whose
/// configuration does not change them.
const PYTHIA_HEADS: [(&str, usize); 10] = [
    ("pythia-14m", 4),
    ("pythia-31m", 8),
    ("pythia-70m", 8),
    ("pythia-160m", 12),
    ("pythia-410m", 16),
    ("pythia-1b", 8),
    ("pythia-1.4b", 16),
    ("pythia-2.8b", 32),
    ("pythia-6.9b", 32),
    ("pythia-12b", 40),
];

/// Reads one decoder of a trainer configuration. What its `config` leaves out is that of the model it names.
fn stack(document: &Section<'_>, name: &str) -> Result<StackFacts> {
    let decoder = document.section(name)?;
    decoder.required_only("cls", &["gpt-neo-x"])?;
    let config = decoder.section("config")?;
    config.required_integer("num_hidden_layers")?;
    let mut facts = stack_settings(&config)?;
    config.known(&[&STACK_KEYS, &MORE_STACK_KEYS, &HARMLESS_KEYS])?;
    let heads = pythia_heads(&decoder)?;
    // The trainer's rule for the number of heads is for decoders that are built from `config`; one that is loaded
    // whole keeps the heads that it has.
    if decoder.flag("use_pretrained_weights")? == Some(true) {
        facts.heads = facts.heads.or(heads);
    }
    Ok(facts)
}

/// Heads of the Pythia model that a section names, whose settings are those that the section leaves out.
fn pythia_heads(section: &Section<'_>) -> Result<Option<usize>> {
    let base = section.text("model_name_or_path")?.unwrap_or("EleutherAI/pythia-410m-deduped");
    let is_pythia = |part: &&str| part.starts_with("pythia-");
    let Some(size) = base.split('/').rfind(is_pythia) else {
        let path = section.path("model_name_or_path");
        return Err(Error::unsupported(format!(
            "{path}: found {base}, whose settings are not known here, only those of EleutherAI's pythia models; if \
             they are the same, --ignore-key {path}"
        )));
    };
    let names =
        |name: &str| size.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
    Ok(PYTHIA_HEADS.iter().find(|(name, _)| names(name)).map(|(_, heads)| *heads))
}

/// Reads a trainer configuration of a vanilla model. What its `model_config` leaves out is that of the model it names.
fn vanilla_trainer(document: &Section<'_>) -> Result<Facts> {
    document.only("model", &["gpt-neo-x"])?;
    let mut stack = StackFacts::default();
    if let Some(config) = document.optional("model_config")? {
        stack = stack_settings(&config)?;
        config.known(&[&STACK_KEYS, &MORE_STACK_KEYS, &HARMLESS_KEYS])?;
    }
    stack.heads = stack.heads.or(pythia_heads(document)?);
    Ok(Facts {
        name: document.text("name")?.map(String::from),
        block_length: Some(1),
        max_length: document.integer("max_length")?,
        tokenizer: tokenizer(document)?,
        block_decoder: stack,
        ..Facts::default()
    })
}

/// Reads the `config.json` of a vanilla model.
fn vanilla_config(document: &Section<'_>) -> Result<Facts> {
    let stack = stack_settings(document)?;
    document.known(&[&STACK_KEYS, &MORE_STACK_KEYS, &HARMLESS_KEYS])?;
    Ok(Facts {
        block_length: Some(1),
        max_length: document.integer("max_position_embeddings")?,
        block_decoder: stack,
        ..Facts::default()
    })
}

/// The length of a block, from either of the two keys that give it.
fn block_length(document: &Section<'_>) -> Result<usize> {
    let own = document.integer("block_length")?;
    let Some(split) = document.optional("block_split")? else {
        return document.required_integer("block_length");
    };
    split.only("distribution", &["fixed"])?;
    split.known(&[&["distribution", "distribution_kwargs"]])?;
    let Some(settings) = split.optional("distribution_kwargs")? else {
        return document.required_integer("block_length");
    };
    settings.known(&[&["length"]])?;
    match (own, settings.integer("length")?) {
        (Some(own), Some(length)) if own != length => {
            Err(Error::mismatch(settings.path("length"), length, format!("{own}, as block_length has it")))
        }
        (own, length) => own.or(length).ok_or_else(|| document.missing("block_length")),
    }
}

/// The tokenizer, of which there must be one: tokens are not mapped from one to another.
fn tokenizer(document: &Section<'_>) -> Result<Option<String>> {
    match document.get("tokenizer") {
        Some(Value::Text(name)) => return Ok(Some(name.clone())),
        None => return Ok(None),
        Some(_) => {}
    }
    let section = document.section("tokenizer")?;
    let (embedder, decoder) = (section.text("embedder")?, section.text("token_decoder")?);
    section.known(&[&["embedder", "token_decoder"]])?;
    if let (Some(embedder), Some(decoder)) = (embedder, decoder)
        && embedder != decoder
    {
        return Err(Error::unsupported(format!(
            "tokenizer: found {embedder} for the embedder and {decoder} for the token decoder, which takes a token \
             mapper; only one tokenizer for both is supported"
        )));
    }
    Ok(embedder.or(decoder).map(String::from))
}

/// Reads the settings of a RoBERTa encoder. What its `config` leaves out is that of `roberta-base`.
fn encoder(embedder: &Section<'_>, start_tokens: usize) -> Result<EncoderFacts> {
    if embedder.flag("use_pretrained_weights")? != Some(true) {
        embedder.section("config")?;
    }
    embedder.only("model_name_or_path", &["roberta-base", "FacebookAI/roberta-base"])?;
    let Some(config) = embedder.optional("config")? else {
        return Ok(EncoderFacts { start_tokens, ..EncoderFacts::default() });
    };
    config.only("model_type", &["roberta"])?;
    config.only("hidden_act", &["gelu", "gelu_python"])?;
    config.only("position_embedding_type", &["absolute"])?;
    config.only("type_vocab_size", &["1"])?;
    // Both decide which rows of the tables are read.
    config.only("pad_token_id", &["1"])?;
    config.only("bos_token_id", &["0"])?;
    config.only("is_decoder", &["false"])?;
    let keys = [
        "num_hidden_layers",
        "hidden_size",
        "num_attention_heads",
        "intermediate_size",
        "vocab_size",
        "layer_norm_eps",
        "hidden_act",
        "position_embedding_type",
        "type_vocab_size",
        "bos_token_id",
        "model_type",
    ];
    config.known(&[&keys, &HARMLESS_KEYS])?;
    Ok(EncoderFacts {
        layers: config.integer("num_hidden_layers")?,
        heads: config.integer("num_attention_heads")?,
        feed_forward: config.integer("intermediate_size")?,
        epsilon: config.float("layer_norm_eps")?,
        start_tokens,
    })
}

/// What a section says of an embedder.
struct EmbedderFacts {
    projection_layer: bool,
    /// Width of the table.
    embedding: Option<usize>,
    encoder: Option<EncoderFacts>,
}

/// Reads the embedder.
fn embedder(document: &Section<'_>) -> Result<EmbedderFacts> {
    let embedder = document.section("embedder")?;
    embedder.required_only("cls", &["lookup", "roberta", "roberta_cls"])?;
    embedder.only("n_embedding_tokens", &["1"])?;
    let encoder = match embedder.required_text("cls")? {
        "roberta" => Some(encoder(&embedder, 0)?),
        "roberta_cls" => Some(encoder(&embedder, embedder.integer("n_cls_tokens")?.unwrap_or(1))?),
        _ => None,
    };
    let default = if encoder.is_some() { "projection_layer" } else { "concat" };
    let projection = embedder.text("projection_method")?.unwrap_or(default);
    if !["concat", "projection_layer"].contains(&projection) {
        return Err(Error::unsupported(format!(
            "embedder.projection_method: found {projection}, only concat and projection_layer are supported"
        )));
    }
    let config = embedder.optional("config")?;
    let embedding = config.as_ref().map(|config| config.integer("hidden_size")).transpose()?.flatten();
    embedder.known(&[&[
        "cls",
        "model_name_or_path",
        "use_pretrained_weights",
        "n_cls_tokens",
        "n_embedding_tokens",
        "projection_method",
        "projection_hidden_size",
        "init_projection",
        "attn_implementation",
        "config",
    ]])?;
    if let (Some(config), None) = (config, &encoder) {
        config.known(&[&["vocab_size", "hidden_size", "bos_token_id", "model_type"], &HARMLESS_KEYS])?;
    }
    Ok(EmbedderFacts { projection_layer: projection == "projection_layer", embedding, encoder })
}

/// How a context reaches a token decoder that is a GPT-NeoX stack.
fn strategy(token: &Section<'_>) -> Result<Strategy> {
    let strategy = token.required_text("decoding_strategy")?;
    Strategy::from_name(strategy).ok_or_else(|| {
        Error::unsupported(format!(
            "token_decoder.decoding_strategy: found {strategy}, only prefix and summation are supported"
        ))
    })
}

/// Reads a small regular file.
fn read(path: &Path) -> Result<Vec<u8>> {
    read_regular(path, "a configuration", MAX_BYTES)
}

impl Facts {
    /// Reads the configuration of a model of that kind: a trainer's, or a `config.json`.
    ///
    /// # Errors
    /// If it cannot be read, a key is missing, unknown or has no sensible value, or the model is of another kind or one
    /// that is not supported.
    pub fn read(path: &Path, kind: Kind, ignored: &Ignored) -> Result<Facts> {
        Self::parse(&read(path)?, kind, ignored).map_err(|error| error.in_file(path))
    }

    /// Whether the vocabulary head is the table of the decoder that it follows.
    pub fn is_tied(&self, kind: Kind) -> bool {
        match (kind, &self.t5) {
            (Kind::Vanilla, _) => self.block_decoder.tied == Some(true),
            (Kind::Block, None) => self.token_decoder.tied == Some(true),
            (Kind::Block, Some(t5)) => t5.tied != Some(false),
        }
    }

    fn parse(bytes: &[u8], kind: Kind, ignored: &Ignored) -> Result<Facts> {
        let value = Value::parse(bytes)?;
        if !matches!(value, Value::Map(_)) {
            return Err(Error::mismatch("configuration", value, "YAML with sections"));
        }
        let document = Section { path: String::new(), value: &value, ignored };
        let name = document.text("name")?;
        let found = match document.get("embedder").or(document.get("block_decoder")) {
            None if ["model", "model_type"].iter().any(|key| document.get(key).is_some()) => Kind::Vanilla,
            None => kind,
            Some(_) => Kind::Block,
        };
        if found != kind {
            let expected = format!("that of {}, as the tensors are", kind.name());
            return Err(Error::mismatch("configuration", format!("that of {}", found.name()), expected));
        }
        if kind == Kind::Vanilla {
            let trainer = document.get("model").is_some();
            return if trainer { vanilla_trainer(&document) } else { vanilla_config(&document) };
        }
        let EmbedderFacts { projection_layer, embedding, encoder } = embedder(&document)?;
        let block_decoder = stack(&document, "block_decoder")?;
        let token = document.section("token_decoder")?;
        token.required_only("cls", &["gpt-neo-x", "t5"])?;
        if token.raw("expansion_method") == Some(&Value::Null) {
            return Err(Error::unsupported(
                "token_decoder.expansion_method: found null, only expansion_layer is supported",
            ));
        }
        token.only("expansion_method", &["expansion_layer"])?;
        let t5 = match token.required_text("cls")? {
            "t5" => Some(t5::decoder(&token)?),
            _ => None,
        };
        let strategy = if t5.is_some() { None } else { Some(strategy(&token)?) };
        let facts = Facts {
            name: name.map(String::from),
            block_length: Some(block_length(&document)?),
            max_length: document.integer("max_length")?,
            projection_layer: Some(projection_layer),
            embedding,
            encoder,
            strategy,
            padded: document.flag("random_pad_first_block")?,
            expansion_ratio: token.integer("expansion_ratio")?,
            tokenizer: tokenizer(&document)?,
            block_decoder,
            token_decoder: match t5 {
                Some(_) => StackFacts::default(),
                None => stack(&document, "token_decoder")?,
            },
            t5,
        };
        if strategy == Some(Strategy::Summation) {
            // The token that stands before a block's first one.
            token.section("config")?.only("bos_token_id", &["0"])?;
        }
        let decoder =
            ["cls", "model_name_or_path", "use_pretrained_weights", "attn_implementation", "config"];
        document.section("block_decoder")?.known(&[&decoder, &["loss_name"]])?;
        let own = ["expansion_method", "expansion_ratio", "decoding_strategy", "init_expansion"];
        token.known(&[&decoder, &own])?;
        Ok(facts)
    }
}

impl StackFacts {
    /// Reads the `config.json` that a decoder was saved with.
    ///
    /// # Errors
    /// As [`Facts::read`].
    pub fn read(path: &Path, ignored: &Ignored) -> Result<StackFacts> {
        let parse = |bytes: Vec<u8>| {
            let value = Value::parse(&bytes)?;
            let section = Section { path: String::new(), value: &value, ignored };
            let facts = stack_settings(&section)?;
            section.known(&[&STACK_KEYS, &MORE_STACK_KEYS, &HARMLESS_KEYS])?;
            Ok(facts)
        };
        read(path).and_then(parse).map_err(|error: Error| error.in_file(path))
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Block => "a Block Transformer",
            Kind::Vanilla => "a GPT-NeoX",
        }
    }
}

/// The architecture that a `config.json` names.
pub fn model_type(path: &Path) -> Option<String> {
    Some(Value::parse(&read(path).ok()?).ok()?.get("model_type")?.as_text()?.to_string())
}
