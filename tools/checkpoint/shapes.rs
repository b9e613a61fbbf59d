//! A model's shape from its tensors, compared with what a configuration repeats; what no configuration gives is
//! inferred as far as names and shapes decide it.

use std::path::Path;

use cinderblock::unstable::kernels::Activation;
use cinderblock::unstable::model::{
    Alignment, Config, EmbedderConfig, EncoderConfig, Projection, Residual, StackConfig, Strategy, T5Config,
    TokenDecoderConfig,
};
use cinderblock::{Error, Result};

use super::config::{EncoderFacts, Facts, Kind, StackFacts, T5Facts};
use super::safetensors::Tensors;

/// Pythia's settings, which decoders have that give no others.
const ROTARY_FRACTION: f64 = 0.25;
const ROTARY_BASE: f64 = 10000.0;
const EPSILON: f64 = 1e-5;
/// T5's settings.
const T5_EPSILON: f64 = 1e-6;
const T5_MAX_DISTANCE: usize = 128;
/// Tokens of the contexts that a model was trained with that gives no others: those of all published ones.
const CONTEXT: usize = 2048;

const PROJECTION: &str = "embedder.projection_layer.weight";
const EXPANSION: &str = "token_decoder.expansion_layer.weight";

/// The kind of a model.
///
/// # Errors
/// If the tensors are those of another architecture or a variant that is not supported.
pub fn find_kind(tensors: &Tensors) -> Result<Kind> {
    let with = |prefix: &str| tensors.names().any(|name| name.starts_with(prefix));
    let file = |error: Error| match tensors.files().next() {
        Some(path) => error.in_file(path),
        None => error,
    };
    for (prefix, what) in [
        ("block_decoder.transformer.", "a block decoder that is a GPT-Neo, only a GPT-NeoX is supported"),
        (
            "token_decoder.transformer.",
            "a token decoder that is a GPT-Neo, only a GPT-NeoX and a T5 are supported",
        ),
        (
            "embedder.encoder.block.",
            "an embedder that is a T5 encoder, only a table and a RoBERTa are supported",
        ),
    ] {
        if with(prefix) {
            return Err(file(Error::unsupported(format!("tensors: found {what}"))));
        }
    }
    if ["embedder.", "block_decoder.", "token_decoder."].into_iter().any(with) {
        return Ok(Kind::Block);
    }
    if with("expansion_layer.") || with("embeddings.weight") {
        return Err(file(one_part()));
    }
    if with("gpt_neox.") {
        return Ok(Kind::Vanilla);
    }
    match tensors.names().min() {
        // What is missing then says which tensor was expected.
        None => Ok(Kind::Block),
        Some(found) => {
            let expected = "those of a Block Transformer (embedder.*, block_decoder.*, token_decoder.*) or a GPT-NeoX (gpt_neox.*)";
            Err(file(Error::mismatch("tensors", format!("{found:?}"), expected)))
        }
    }
}

/// Why one part of an export is refused.
fn one_part() -> Error {
    Error::unsupported(
        "one part of a model: name the folder that holds embedder, block_decoder and token_decoder",
    )
}

/// A size that the configuration repeats must be that of the tensors.
fn agree(key: &str, given: Option<usize>, tensors: usize) -> Result<()> {
    match given {
        Some(given) if given != tensors => {
            Err(Error::mismatch(key, given, format!("{tensors}, as the tensors have it")))
        }
        _ => Ok(()),
    }
}

/// Derives a model's shape from its tensors.
pub struct Shapes<'t> {
    tensors: &'t Tensors,
    /// A line for each thing that no configuration gave.
    pub inferred: Vec<String>,
}

impl<'t> Shapes<'t> {
    pub fn new(tensors: &'t Tensors) -> Shapes<'t> {
        Shapes { tensors, inferred: Vec::new() }
    }

    /// A dimension of a tensor of a known rank.
    fn dimension(&self, name: &str, rank: usize, axis: usize) -> Result<usize> {
        let entry = self.tensors.get(name)?;
        let positive = entry.shape.iter().all(|&n| n > 0);
        if entry.shape.len() != rank || !positive {
            let found = format!("shape {:?}", entry.shape);
            let error =
                Error::mismatch(format!("tensor {name:?}"), found, format!("{rank} positive dimensions"));
            return Err(error.in_file(self.tensors.path(entry)));
        }
        Ok(entry.shape[axis])
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.names().any(|found| found == name)
    }

    /// The layers whose tensors are there.
    fn layers(&self, prefix: &str) -> usize {
        let number = |name: &str| -> Option<usize> {
            name.strip_prefix(prefix)?.strip_prefix(".layers.")?.split('.').next()?.parse().ok()
        };
        self.tensors.names().filter_map(number).max().map_or(0, |last| last.saturating_add(1))
    }

    fn stack(&mut self, name: &str, prefix: &str, facts: &StackFacts) -> Result<StackConfig> {
        let hidden = self.dimension(&format!("{prefix}.final_layer_norm.weight"), 1, 0)?;
        let up = format!("{prefix}.layers.0.mlp.dense_h_to_4h.weight");
        let feed_forward = self.dimension(&up, 2, 0)?;
        let layers = facts.layers.unwrap_or_else(|| self.layers(prefix));
        let beyond = format!("{prefix}.layers.{layers}.");
        if let Some(extra) = self.tensors.names().find(|tensor| tensor.starts_with(&beyond)) {
            let found = format!("{layers}, but the checkpoint has {extra:?}");
            return Err(Error::mismatch(format!("{name}.config.num_hidden_layers"), found, "every layer"));
        }
        agree(&format!("{name}.config.hidden_size"), facts.hidden, hidden)?;
        agree(&format!("{name}.config.intermediate_size"), facts.feed_forward, feed_forward)?;
        let heads = facts.heads.unwrap_or(StackConfig::default_heads(hidden));
        if heads == 0 || !hidden.is_multiple_of(heads) {
            let expected = format!("a divisor of the hidden size {hidden}");
            return Err(Error::mismatch(format!("{name}: attention heads"), heads, expected));
        }
        let fraction = facts.rotary_fraction.unwrap_or(ROTARY_FRACTION);
        let base = facts.rotary_base.unwrap_or(ROTARY_BASE);
        let epsilon = facts.epsilon.unwrap_or(EPSILON);
        self.inferred
            .push(format!("{name}: {layers} layers of {hidden}, feed-forward {feed_forward} (its tensors)"));
        if facts.heads.is_none() {
            let width = hidden / heads;
            self.inferred.push(format!("{name}: {heads} heads of {width} (the authors' rule for {hidden})"));
        }
        if facts.rotary_fraction.is_none() {
            self.inferred.push(format!(
                "{name}: {} % of each head rotated, base {base}, epsilon {epsilon} (as Pythia has it)",
                100.0 * fraction
            ));
        }
        Ok(StackConfig {
            layers,
            hidden,
            heads,
            feed_forward,
            rotary: ((hidden / heads) as f64 * fraction) as usize,
            rotary_base: base as f32,
            epsilon: epsilon as f32,
            residual: match facts.parallel_residual {
                Some(false) => Residual::Sequential,
                _ => Residual::Parallel,
            },
            activation: facts.activation.unwrap_or(Activation::Gelu),
            attention_bias: facts.attention_bias != Some(false),
        })
    }

    /// The encoder of an embedder of this width.
    fn encoder(&self, facts: &EncoderFacts, hidden: usize) -> Result<EncoderConfig> {
        let number = |name: &str| -> Option<usize> {
            name.strip_prefix("embedder.encoder.layer.")?.split('.').next()?.parse().ok()
        };
        let found = self.tensors.names().filter_map(number).max().map_or(0, |last| last.saturating_add(1));
        agree("embedder.config.num_hidden_layers", facts.layers, found)?;
        let up = "embedder.encoder.layer.0.intermediate.dense.weight";
        let feed_forward = self.dimension(up, 2, 0)?;
        agree("embedder.config.intermediate_size", facts.feed_forward, feed_forward)?;
        Ok(EncoderConfig {
            layers: found,
            hidden,
            heads: facts.heads.unwrap_or(StackConfig::default_heads(hidden)),
            feed_forward,
            positions: self.dimension("embedder.embeddings.position_embeddings.weight", 2, 0)?,
            start_tokens: facts.start_tokens,
            epsilon: facts.epsilon.unwrap_or(EPSILON) as f32,
        })
    }

    /// A T5 decoder.
    fn t5(&self, facts: &T5Facts) -> Result<T5Config> {
        let prefix = "token_decoder.decoder";
        let number = |name: &str| -> Option<usize> {
            name.strip_prefix("token_decoder.decoder.block.")?.split('.').next()?.parse().ok()
        };
        let layers = self.tensors.names().filter_map(number).max().map_or(0, |last| last.saturating_add(1));
        let first = format!("{prefix}.block.0.layer");
        if self.has(&format!("{first}.2.DenseReluDense.wi_0.weight")) {
            return Err(Error::unsupported("token decoder: found a T5 with gates, only ReLU is supported"));
        }
        let table = format!("{first}.0.SelfAttention.relative_attention_bias.weight");
        let (buckets, heads) = (self.dimension(&table, 2, 0)?, self.dimension(&table, 2, 1)?);
        let inner = self.dimension(&format!("{first}.0.SelfAttention.q.weight"), 2, 0)?;
        let hidden = self.dimension(&format!("{prefix}.final_layer_norm.weight"), 1, 0)?;
        let feed_forward = self.dimension(&format!("{first}.2.DenseReluDense.wi.weight"), 2, 0)?;
        if !inner.is_multiple_of(heads) {
            let expected = format!("a divisor of the width of attention {inner}");
            return Err(Error::mismatch("token_decoder: attention heads", heads, expected));
        }
        let agree = |key: &str, given, found| agree(&format!("token_decoder.config.{key}"), given, found);
        agree("num_decoder_layers", facts.layers, layers)?;
        agree("d_model", facts.hidden, hidden)?;
        agree("d_ff", facts.feed_forward, feed_forward)?;
        agree("num_heads", facts.heads, heads)?;
        agree("d_kv", facts.head_dim, inner / heads)?;
        agree("relative_attention_num_buckets", facts.buckets, buckets)?;
        Ok(T5Config {
            layers,
            hidden,
            heads,
            head_dim: inner / heads,
            feed_forward,
            buckets,
            max_distance: facts.max_distance.unwrap_or(T5_MAX_DISTANCE),
            epsilon: facts.epsilon.unwrap_or(T5_EPSILON) as f32,
            output_scale: if facts.tied == Some(false) { 1.0 } else { (hidden as f32).sqrt().recip() },
            summation: facts.summation,
        })
    }

    /// Tokens of a block, and how their embeddings become one.
    fn blocks(&mut self, facts: &Facts, hidden: usize, embedding: usize) -> Result<(usize, Projection)> {
        let layer = self.has(PROJECTION);
        if let Some(given) = facts.projection_layer
            && given != layer
        {
            let (found, has) = if given { ("projection_layer", "no") } else { ("concat", "a") };
            let expected = format!("what the tensors say, among which there is {has} {PROJECTION}");
            return Err(Error::mismatch("embedder.projection_method", found, expected));
        }
        if let Some(length) = facts.block_length {
            return Ok((length, if layer { Projection::Linear } else { Projection::Concat }));
        }
        let length = if layer { self.dimension(PROJECTION, 3, 2)? } else { (hidden / embedding).max(1) };
        let why = if layer {
            "taps of the projection layer".to_string()
        } else {
            format!("width {hidden} of the block decoder / {embedding} of the embedder")
        };
        self.inferred.push(format!("blocks of {length} tokens ({why})"));
        Ok((length, if layer { Projection::Linear } else { Projection::Concat }))
    }

    /// How a context reaches the token decoder, where no configuration says so.
    fn strategy(&mut self, expansion: usize, block_length: usize) -> Result<Strategy> {
        if expansion == block_length {
            return Err(Error::unsupported(format!(
                "decoding strategy: found no configuration and {expansion} vectors a context for blocks of \
                 {block_length}, which fits prefix and summation alike; give the configuration with --config"
            )));
        }
        self.inferred.push(format!(
            "a prefix of {expansion} (rows of the expansion layer; summation takes {block_length})"
        ));
        Ok(Strategy::Prefix)
    }

    /// The shape of the model. Prompts are aligned by others.
    ///
    /// # Errors
    /// If a tensor is missing, or tensors and facts contradict each other; `place` is where the facts are from.
    pub fn config(&mut self, facts: &Facts, name: &str, place: &Path) -> Result<Config> {
        let named = |error: Error| error.in_file(place);
        let encoded = self.tensors.names().any(|name| name.starts_with("embedder.encoder."));
        if encoded != facts.encoder.is_some() {
            let [found, expected] = if encoded { ["roberta", "lookup"] } else { ["lookup", "roberta"] };
            let what = "embedder of the checkpoint";
            let expected = format!("{expected}, as no configuration says otherwise; give one with --config");
            return Err(named(Error::mismatch(what, found, expected)));
        }
        let embeddings = match encoded {
            false => "embedder.embeddings.weight",
            true => "embedder.embeddings.word_embeddings.weight",
        };
        let vocabulary = self.dimension(embeddings, 2, 0)?;
        let embedding = self.dimension(embeddings, 2, 1)?;
        let block_decoder =
            self.stack("block_decoder", "block_decoder.gpt_neox", &facts.block_decoder).map_err(named)?;
        agree("embedder.config.hidden_size", facts.embedding, embedding).map_err(named)?;
        let (block_length, projection) =
            self.blocks(facts, block_decoder.hidden, embedding).map_err(named)?;
        let given = facts.t5.as_ref().map_or(facts.token_decoder.vocabulary, |t5| t5.vocabulary);
        agree("token_decoder.config.vocab_size", given, vocabulary).map_err(named)?;
        let token_decoder = self.token_decoder(facts, block_length).map_err(named)?;
        let context = facts.max_length.unwrap_or(CONTEXT);
        if facts.max_length.is_none() {
            self.inferred
                .push(format!("contexts of {context} tokens in training (as all published models had)"));
        }
        Ok(Config {
            name: facts.name.clone().unwrap_or_else(|| name.to_string()),
            block_length,
            vocabulary,
            trained_blocks: (context / block_length).max(1),
            alignment: Alignment::Tail,
            embedder: match &facts.encoder {
                None => EmbedderConfig::Lookup { width: embedding, projection },
                Some(facts) => {
                    let encoder = self.encoder(facts, embedding).map_err(named)?;
                    EmbedderConfig::Roberta { encoder, projection }
                }
            },
            block_decoder,
            token_decoder,
        })
    }

    /// The token decoder of a model with blocks of `block_length` tokens.
    fn token_decoder(&mut self, facts: &Facts, block_length: usize) -> Result<TokenDecoderConfig> {
        let wide = self.dimension(EXPANSION, 3, 0)?;
        let expansion = |hidden: usize| {
            if wide.is_multiple_of(hidden) {
                return Ok(wide / hidden);
            }
            let expected = format!("a multiple of the hidden size {hidden}");
            Err(Error::mismatch(format!("tensor {EXPANSION:?}"), format!("{wide} rows"), expected))
        };
        let is_t5 = self.tensors.names().any(|name| name.starts_with("token_decoder.decoder."));
        if is_t5 != facts.t5.is_some() {
            let [found, expected] = if is_t5 { ["t5", "gpt-neo-x"] } else { ["gpt-neo-x", "t5"] };
            let expected = format!("{expected}, as no configuration says otherwise; give one with --config");
            return Err(Error::mismatch("token decoder of the checkpoint", found, expected));
        }
        if let Some(t5) = &facts.t5 {
            let decoder = self.t5(t5)?;
            let expansion = expansion(decoder.hidden)?;
            agree("token_decoder.expansion_ratio", facts.expansion_ratio, expansion)?;
            return Ok(TokenDecoderConfig::T5 { decoder, expansion });
        }
        let stack = self.stack("token_decoder", "token_decoder.gpt_neox", &facts.token_decoder)?;
        let expansion = expansion(stack.hidden)?;
        let strategy = match facts.strategy {
            Some(strategy) => strategy,
            None => self.strategy(expansion, block_length)?,
        };
        if strategy == Strategy::Prefix {
            agree("token_decoder.expansion_ratio", facts.expansion_ratio, expansion)?;
        }
        Ok(TokenDecoderConfig::Neox { stack, strategy, expansion })
    }

    /// The shape of a vanilla model: its blocks are single tokens, and its token decoder is the vocabulary head.
    ///
    /// # Errors
    /// As [`Shapes::config`], and if nothing gives the number of heads.
    pub fn vanilla(&mut self, facts: &Facts, name: &str, place: &Path) -> Result<Config> {
        let named = |error: Error| error.in_file(place);
        let stack = &facts.block_decoder;
        if stack.tied != Some(true) && !self.has("embed_out.weight") {
            return Err(named(one_part()));
        }
        if stack.heads.is_none() {
            let detail = "num_attention_heads is missing: the tensors do not decide it";
            return Err(named(Error::format(detail)));
        }
        let table = "gpt_neox.embed_in.weight";
        let vocabulary = self.dimension(table, 2, 0)?;
        let width = self.dimension(table, 2, 1)?;
        agree("vocab_size", stack.vocabulary, vocabulary).map_err(named)?;
        let stack = self.stack("gpt_neox", "gpt_neox", stack).map_err(named)?;
        Ok(Config {
            name: facts.name.clone().unwrap_or_else(|| name.to_string()),
            block_length: 1,
            vocabulary,
            trained_blocks: facts.max_length.unwrap_or(CONTEXT),
            alignment: Alignment::Tail,
            embedder: EmbedderConfig::Lookup { width, projection: Projection::Concat },
            token_decoder: TokenDecoderConfig::Head { hidden: stack.hidden },
            block_decoder: stack,
        })
    }
}
