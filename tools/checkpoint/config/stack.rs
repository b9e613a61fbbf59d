//! The settings of a GPT-NeoX stack: of a decoder, or of a vanilla model.

use std::path::Path;

use cinderblock::unstable::kernels::Activation;
use cinderblock::{Error, Result};

use super::section::{self, HARMLESS_KEYS, Ignored, Section};

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
    /// Reads the `config.json` that a decoder was saved with.
    ///
    /// # Errors
    /// If it cannot be read, a key is unknown or has no sensible value, or the model is one that is not supported.
    pub fn read(path: &Path, ignored: &Ignored) -> Result<StackFacts> {
        section::read(path, ignored, settings)
    }

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

/// Keys of a GPT-NeoX configuration that are read here.
const KEYS: [&str; 18] = [
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
    "tie_word_embeddings",
    "bos_token_id",
    "model_type",
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
pub fn settings(config: &Section<'_>) -> Result<StackFacts> {
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
    let facts = StackFacts {
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
    };
    config.known(&[&KEYS, &HARMLESS_KEYS])?;
    Ok(facts)
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
pub fn decoder(document: &Section<'_>, name: &str) -> Result<StackFacts> {
    let decoder = document.section(name)?;
    decoder.required_only("cls", &["gpt-neo-x"])?;
    let config = decoder.section("config")?;
    config.required_integer("num_hidden_layers")?;
    let mut facts = settings(&config)?;
    let heads = pythia_heads(&decoder)?;
    // The trainer's rule for the number of heads is for decoders that are built from `config`; one that is loaded
    // whole keeps the heads that it has.
    if decoder.flag("use_pretrained_weights")? == Some(true) {
        facts.heads = facts.heads.or(heads);
    }
    Ok(facts)
}

/// Heads of the Pythia model that a section names, whose settings are those that the section leaves out.
pub fn pythia_heads(section: &Section<'_>) -> Result<Option<usize>> {
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
