//! The settings of a T5 token decoder. What a configuration leaves out is that of `t5-small`.

use std::path::Path;

use cinderblock::{Error, Result};

use super::section::{self, HARMLESS_KEYS, Ignored, Section};

/// What is known of a T5 decoder.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct T5Facts {
    pub layers: Option<usize>,
    pub hidden: Option<usize>,
    pub heads: Option<usize>,
    pub head_dim: Option<usize>,
    pub feed_forward: Option<usize>,
    pub vocabulary: Option<usize>,
    pub buckets: Option<usize>,
    pub max_distance: Option<usize>,
    pub epsilon: Option<f64>,
    /// Whether the vocabulary head is the table of embeddings.
    pub tied: Option<bool>,
    /// Whether the vectors of a context are added to the token embeddings as well.
    pub summation: bool,
}

const KEYS: [&str; 18] = [
    "d_model",
    "d_kv",
    "d_ff",
    "num_layers",
    "num_decoder_layers",
    "num_heads",
    "vocab_size",
    "relative_attention_num_buckets",
    "relative_attention_max_distance",
    "layer_norm_epsilon",
    "feed_forward_proj",
    "dense_act_fn",
    "is_gated_act",
    "tie_word_embeddings",
    "bos_token_id",
    "model_type",
    // These change nothing that is computed here.
    "dropout_rate",
    "initializer_factor",
];
const MORE_HARMLESS_KEYS: [&str; 2] = ["n_positions", "output_past"];

/// Reads the settings of a T5.
fn settings(config: &Section<'_>) -> Result<T5Facts> {
    config.only("model_type", &["t5"])?;
    config.only("feed_forward_proj", &["relu"])?;
    config.only("dense_act_fn", &["relu"])?;
    config.only("is_gated_act", &["false"])?;
    // The token that stands before a block's first one.
    config.only("bos_token_id", &["1"])?;
    config.only("eos_token_id", &["1"])?;
    config.known(&[&KEYS, &MORE_HARMLESS_KEYS, &HARMLESS_KEYS])?;
    Ok(T5Facts {
        layers: config.integer("num_decoder_layers")?,
        hidden: config.integer("d_model")?,
        heads: config.integer("num_heads")?,
        head_dim: config.integer("d_kv")?,
        feed_forward: config.integer("d_ff")?,
        vocabulary: config.integer("vocab_size")?,
        buckets: config.integer("relative_attention_num_buckets")?,
        max_distance: config.integer("relative_attention_max_distance")?,
        epsilon: config.float("layer_norm_epsilon")?,
        tied: config.flag("tie_word_embeddings")?,
        summation: false,
    })
}

/// Reads a T5 token decoder of a trainer configuration.
pub fn decoder(token: &Section<'_>) -> Result<T5Facts> {
    token.only("model_name_or_path", &["t5-small", "google-t5/t5-small"])?;
    let strategy = token.required_text("decoding_strategy")?;
    if !["cross_attention", "summation"].contains(&strategy) {
        return Err(Error::unsupported(format!(
            "token_decoder.decoding_strategy: found {strategy}, only cross_attention and summation are supported \
             with t5"
        )));
    }
    let facts = match token.optional("config")? {
        Some(config) => settings(&config)?,
        None => T5Facts::default(),
    };
    Ok(T5Facts { summation: strategy == "summation", ..facts })
}

impl T5Facts {
    /// Adds what the `config.json` of an export gives.
    ///
    /// # Errors
    /// If it cannot be read, or contradicts the trainer configuration.
    pub fn merge(&mut self, path: &Path, ignored: &Ignored) -> Result<()> {
        let other = section::read(path, ignored, settings)?;
        let name = path.display();
        for (own, other, key) in [
            (&mut self.layers, other.layers, "num_decoder_layers"),
            (&mut self.hidden, other.hidden, "d_model"),
            (&mut self.heads, other.heads, "num_heads"),
            (&mut self.head_dim, other.head_dim, "d_kv"),
            (&mut self.feed_forward, other.feed_forward, "d_ff"),
            (&mut self.buckets, other.buckets, "relative_attention_num_buckets"),
            (&mut self.max_distance, other.max_distance, "relative_attention_max_distance"),
        ] {
            if let (Some(own), Some(other)) = (*own, other)
                && own != other
            {
                let expected = format!("{own}, as the trainer configuration has it");
                return Err(Error::mismatch(format!("{name}: {key}"), other, expected));
            }
            *own = own.or(other);
        }
        self.epsilon = self.epsilon.or(other.epsilon);
        self.tied = self.tied.or(other.tied);
        Ok(())
    }
}
