//! The header of a model file, key by key: the twin of `docs/format.md`. The quantizer and the synthesizer write it, the
//! reader reads it.
#![forbid(unsafe_code)]

use std::io::{self, Seek, Write};

use super::config::{
    Alignment, Config, EmbedderConfig, EncoderConfig, MAX_BLOCK, MAX_BUCKETS, MAX_LAYERS, MAX_VOCABULARY,
    MAX_WIDTH, Projection, Residual, StackConfig, Strategy, T5Config, TokenDecoderConfig,
};
use super::layout::TensorSpec;
use crate::error::{Error, Result};
use crate::gguf::{Index, Writer};
use crate::kernels::Activation;
use crate::quant::WeightType;

/// `general.architecture` of every file.
pub const ARCHITECTURE: &str = "blocktransformer";

/// The keys that are not facts about the model's shape.
pub mod keys {
    /// The Hugging Face tokenizer, as JSON text.
    pub const TOKENIZER: &str = "tokenizer.huggingface.json";
    /// The token that ends a text.
    pub const END_TOKEN: &str = "tokenizer.ggml.eos_token_id";
    /// The type of each tensor, in file order.
    pub const TYPES: &str = "blocktransformer.tensor.types";
    /// The CRC-32 of each tensor, in file order.
    pub const CHECKSUMS: &str = "blocktransformer.tensor.crc32";
    /// How the types were chosen, as text.
    pub const RECIPE: &str = "blocktransformer.recipe";
    /// Why prompts are aligned as they are, as text; absent if nobody has said so.
    pub const ALIGNMENT_REASON: &str = "blocktransformer.prompt_alignment_reason";
    /// The calibration text and how much of it was used, as text; absent without calibration.
    pub const CALIBRATION: &str = "blocktransformer.calibration";
}

/// Everything that a file holds before its tensors.
pub struct Header<'a> {
    /// The facts about the model.
    pub config: &'a Config,
    /// Every tensor with its type, in file order.
    pub tensors: &'a [(&'a TensorSpec, WeightType)],
    /// Why prompts are aligned as `config` says.
    pub alignment_reason: Option<&'a str>,
    /// The Hugging Face tokenizer, as JSON text.
    pub tokenizer: Option<&'a str>,
    /// The token that ends a text.
    pub end_token: Option<u32>,
    /// How the types were chosen.
    pub recipe: &'a str,
    /// The calibration text and how much of it was used.
    pub calibration: Option<&'a str>,
}

impl Header<'_> {
    /// Writes the header; the tensors follow, in order.
    ///
    /// # Errors
    /// If the output cannot be written.
    pub fn begin<W: Write + Seek>(&self, output: W) -> io::Result<Writer<W>> {
        let tensors = self.tensors.iter().map(|(spec, kind)| spec.describe(*kind)).collect();
        let mut writer = Writer::new(output, tensors);
        self.config.write(&mut writer);
        if let Some(reason) = self.alignment_reason {
            writer.text(keys::ALIGNMENT_REASON, reason);
        }
        if let Some(json) = self.tokenizer {
            writer.text(keys::TOKENIZER, json);
        }
        if let Some(token) = self.end_token {
            writer.u32(keys::END_TOKEN, token);
        }
        writer.text(keys::RECIPE, self.recipe);
        if let Some(calibration) = self.calibration {
            writer.text(keys::CALIBRATION, calibration);
        }
        writer.texts(keys::TYPES, self.tensors.iter().map(|(_, kind)| kind.name()));
        writer.checksums(keys::CHECKSUMS);
        writer.begin()?;
        Ok(writer)
    }
}

/// The types of all tensors, in file order.
///
/// # Errors
/// If the list is missing, has another length, or names a type that does not exist.
pub(super) fn types(index: &Index) -> Result<Vec<WeightType>> {
    let list = index.list(keys::TYPES, index.tensors().len())?;
    list.iter()
        .map(|value| {
            value.as_str().and_then(WeightType::from_name).ok_or_else(|| {
                Error::mismatch(keys::TYPES, value, WeightType::ALL.map(WeightType::name).join(", "))
            })
        })
        .collect()
}

/// The token that ends a text, if the file names one.
///
/// # Errors
/// If it is not in the vocabulary.
pub(super) fn end_token(index: &Index, config: &Config) -> Result<Option<u32>> {
    match index.get(keys::END_TOKEN) {
        Some(_) => Ok(Some(index.integer(keys::END_TOKEN, 0..=config.vocabulary as u64 - 1)? as u32)),
        None => Ok(None),
    }
}

/// The value of a key that older files do not have.
fn text_or<'a>(index: &Index<'a>, key: &str, default: &'a str) -> Result<&'a str> {
    let key = format!("{ARCHITECTURE}.{key}");
    if index.get(&key).is_none() { Ok(default) } else { index.text(&key) }
}

/// Reads the keys of the architecture.
struct Reader<'i, 'a> {
    index: &'i Index<'a>,
}

impl Reader<'_, '_> {
    fn integer(&self, key: &str, max: usize) -> Result<usize> {
        self.index.integer(&format!("{ARCHITECTURE}.{key}"), 1..=max as u64)
    }

    fn text(&self, key: &str) -> Result<&str> {
        self.index.text(&format!("{ARCHITECTURE}.{key}"))
    }

    fn stack(&self, name: &str) -> Result<StackConfig> {
        let float = |key: &str| self.index.float(&format!("{ARCHITECTURE}.{name}.{key}"));
        Ok(StackConfig {
            layers: self.integer(&format!("{name}.block_count"), MAX_LAYERS)?,
            hidden: self.integer(&format!("{name}.embedding_length"), MAX_WIDTH)?,
            heads: self.integer(&format!("{name}.attention.head_count"), MAX_WIDTH)?,
            feed_forward: self.integer(&format!("{name}.feed_forward_length"), 8 * MAX_WIDTH)?,
            rotary: self
                .index
                .integer(&format!("{ARCHITECTURE}.{name}.rope.dimension_count"), 0..=MAX_WIDTH as u64)?,
            rotary_base: float("rope.freq_base")? as f32,
            epsilon: float("attention.layer_norm_epsilon")? as f32,
            residual: self.named(
                name,
                "residual",
                Residual::from_name,
                "parallel",
                "parallel or sequential",
            )?,
            activation: self.named(
                name,
                "activation",
                Activation::from_name,
                "gelu",
                "gelu, gelu_tanh or relu",
            )?,
            attention_bias: self.named(name, "attention.bias", bias_from_name, "yes", "yes or no")?,
        })
    }

    fn projection(&self) -> Result<Projection> {
        let projection = self.text("embedder.projection")?;
        [Projection::Concat, Projection::Linear]
            .into_iter()
            .find(|p| p.name() == projection)
            .ok_or_else(|| Error::mismatch("embedder.projection", projection, "concat or linear"))
    }

    fn encoder(&self) -> Result<EncoderConfig> {
        let start = format!("{ARCHITECTURE}.embedder.start_token_count");
        let epsilon = format!("{ARCHITECTURE}.embedder.attention.layer_norm_epsilon");
        Ok(EncoderConfig {
            layers: self.integer("embedder.block_count", MAX_LAYERS)?,
            hidden: self.integer("embedder.embedding_length", MAX_WIDTH)?,
            heads: self.integer("embedder.attention.head_count", MAX_WIDTH)?,
            feed_forward: self.integer("embedder.feed_forward_length", 8 * MAX_WIDTH)?,
            positions: self.integer("embedder.position_count", MAX_WIDTH)?,
            start_tokens: self.index.integer(&start, 0..=MAX_BLOCK as u64)?,
            epsilon: self.index.float(&epsilon)? as f32,
        })
    }

    /// A value by its name, under a key that older files do not have.
    fn named<T>(
        &self,
        stack: &str,
        key: &str,
        from_name: fn(&str) -> Option<T>,
        default: &str,
        expected: &str,
    ) -> Result<T> {
        let key = format!("{stack}.{key}");
        let name = text_or(self.index, &key, default)?;
        from_name(name).ok_or_else(|| Error::mismatch(key, name, expected))
    }

    fn embedder(&self) -> Result<EmbedderConfig> {
        match text_or(self.index, "embedder.type", "lookup")? {
            "lookup" => Ok(EmbedderConfig::Lookup {
                width: self.integer("embedder.embedding_length", MAX_WIDTH)?,
                projection: self.projection()?,
            }),
            "roberta" => {
                Ok(EmbedderConfig::Roberta { encoder: self.encoder()?, projection: self.projection()? })
            }
            other => Err(Error::mismatch("embedder.type", other, "lookup or roberta")),
        }
    }

    fn t5(&self) -> Result<TokenDecoderConfig> {
        let name = "token_decoder";
        let float = |key: &str| self.index.float(&format!("{ARCHITECTURE}.{name}.{key}"));
        let integer = |key: &str, max: usize| self.integer(&format!("{name}.{key}"), max);
        let strategy = self.text("token_decoder.strategy")?;
        let decoder = T5Config {
            layers: integer("block_count", MAX_LAYERS)?,
            hidden: integer("embedding_length", MAX_WIDTH)?,
            heads: integer("attention.head_count", MAX_WIDTH)?,
            head_dim: integer("attention.key_length", MAX_WIDTH)?,
            feed_forward: integer("feed_forward_length", 8 * MAX_WIDTH)?,
            buckets: integer("attention.relative_buckets_count", MAX_BUCKETS)?,
            max_distance: integer("attention.relative_max_distance", u32::MAX as usize)?,
            epsilon: float("attention.layer_norm_rms_epsilon")? as f32,
            output_scale: float("output_scale")? as f32,
            summation: T5_STRATEGIES
                .into_iter()
                .find(|(own, _)| *own == strategy)
                .map(|(_, summation)| summation)
                .ok_or_else(|| {
                    Error::mismatch("token_decoder.strategy", strategy, "cross_attention or summation")
                })?,
        };
        Ok(TokenDecoderConfig::T5 { decoder, expansion: integer("expansion_ratio", MAX_BLOCK)? })
    }

    fn token_decoder(&self, block_decoder: &StackConfig) -> Result<TokenDecoderConfig> {
        match text_or(self.index, "token_decoder.type", "gpt-neo-x")? {
            "gpt-neo-x" => {
                let strategy = self.text("token_decoder.strategy")?;
                Ok(TokenDecoderConfig::Neox {
                    stack: self.stack("token_decoder")?,
                    strategy: Strategy::from_name(strategy).ok_or_else(|| {
                        Error::mismatch("token_decoder.strategy", strategy, "prefix or summation")
                    })?,
                    expansion: self.integer("token_decoder.expansion_ratio", MAX_BLOCK)?,
                })
            }
            "t5" => self.t5(),
            "head" => Ok(TokenDecoderConfig::Head { hidden: block_decoder.hidden }),
            other => Err(Error::mismatch("token_decoder.type", other, "gpt-neo-x, t5 or head")),
        }
    }
}

fn bias_from_name(name: &str) -> Option<bool> {
    [("yes", true), ("no", false)].into_iter().find(|(own, _)| *own == name).map(|(_, bias)| bias)
}

/// Names of the strategies of a T5 decoder, and whether the vectors of a context are added to the tokens as well.
const T5_STRATEGIES: [(&str, bool); 2] = [("cross_attention", false), ("summation", true)];

/// The alignment that a file names, left if it names none.
fn alignment(index: &Index) -> Result<Alignment> {
    let name = text_or(index, "prompt_alignment", "left")?;
    Alignment::from_name(name).ok_or_else(|| Error::mismatch("prompt_alignment", name, "left or tail"))
}

/// Writes the keys of a decoder.
fn write_stack<W: Write + Seek>(writer: &mut Writer<W>, name: &str, stack: &StackConfig) {
    let key = |key: &str| format!("{ARCHITECTURE}.{name}.{key}");
    writer.u32(&key("block_count"), number(stack.layers));
    writer.u32(&key("embedding_length"), number(stack.hidden));
    writer.u32(&key("feed_forward_length"), number(stack.feed_forward));
    writer.u32(&key("attention.head_count"), number(stack.heads));
    writer.f32(&key("attention.layer_norm_epsilon"), stack.epsilon);
    writer.u32(&key("rope.dimension_count"), number(stack.rotary));
    writer.f32(&key("rope.freq_base"), stack.rotary_base);
    writer.text(&key("residual"), stack.residual.name());
    writer.text(&key("activation"), stack.activation.name());
    writer.text(&key("attention.bias"), if stack.attention_bias { "yes" } else { "no" });
}

/// Writes the keys of a T5 decoder.
fn write_t5<W: Write + Seek>(writer: &mut Writer<W>, decoder: &T5Config) {
    let key = |key: &str| format!("{ARCHITECTURE}.token_decoder.{key}");
    writer.u32(&key("block_count"), number(decoder.layers));
    writer.u32(&key("embedding_length"), number(decoder.hidden));
    writer.u32(&key("feed_forward_length"), number(decoder.feed_forward));
    writer.u32(&key("attention.head_count"), number(decoder.heads));
    writer.u32(&key("attention.key_length"), number(decoder.head_dim));
    writer.u32(&key("attention.relative_buckets_count"), number(decoder.buckets));
    writer.u32(&key("attention.relative_max_distance"), number(decoder.max_distance));
    writer.f32(&key("attention.layer_norm_rms_epsilon"), decoder.epsilon);
    writer.f32(&key("output_scale"), decoder.output_scale);
}

fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

impl Config {
    /// Reads and validates the metadata.
    ///
    /// # Errors
    /// If a key is missing, or its value is out of range or contradicts another.
    pub fn read(index: &Index) -> Result<Config> {
        let reader = Reader { index };
        let block_decoder = reader.stack("block_decoder")?;
        let config = Config {
            name: index.text("general.name")?.to_string(),
            block_length: reader.integer("block_length", MAX_BLOCK)?,
            vocabulary: reader.integer("vocab_size", MAX_VOCABULARY)?,
            trained_blocks: reader.integer("context_blocks", u32::MAX as usize)?,
            alignment: alignment(index)?,
            embedder: reader.embedder()?,
            token_decoder: reader.token_decoder(&block_decoder)?,
            block_decoder,
        };
        config.validate()?;
        Ok(config)
    }

    /// Writes the metadata that [`Config::read`] reads.
    pub fn write<W: Write + Seek>(&self, writer: &mut Writer<W>) {
        let key = |name: &str| format!("{ARCHITECTURE}.{name}");
        writer.text("general.architecture", ARCHITECTURE);
        writer.text("general.name", &self.name);
        writer.u32(&key("block_length"), number(self.block_length));
        writer.u32(&key("vocab_size"), number(self.vocabulary));
        writer.u32(&key("context_blocks"), number(self.trained_blocks));
        writer.text(&key("prompt_alignment"), self.alignment.name());
        writer.text(&key("embedder.type"), self.embedder.name());
        match &self.embedder {
            EmbedderConfig::Lookup { width, projection } => {
                writer.u32(&key("embedder.embedding_length"), number(*width));
                writer.text(&key("embedder.projection"), projection.name());
            }
            EmbedderConfig::Roberta { encoder, projection } => {
                writer.u32(&key("embedder.block_count"), number(encoder.layers));
                writer.u32(&key("embedder.embedding_length"), number(encoder.hidden));
                writer.u32(&key("embedder.feed_forward_length"), number(encoder.feed_forward));
                writer.u32(&key("embedder.attention.head_count"), number(encoder.heads));
                writer.f32(&key("embedder.attention.layer_norm_epsilon"), encoder.epsilon);
                writer.u32(&key("embedder.position_count"), number(encoder.positions));
                writer.u32(&key("embedder.start_token_count"), number(encoder.start_tokens));
                writer.text(&key("embedder.projection"), projection.name());
            }
        }
        write_stack(writer, "block_decoder", &self.block_decoder);
        writer.text(&key("token_decoder.type"), self.token_decoder.name());
        match &self.token_decoder {
            TokenDecoderConfig::Neox { stack, strategy, expansion } => {
                writer.text(&key("token_decoder.strategy"), strategy.name());
                writer.u32(&key("token_decoder.expansion_ratio"), number(*expansion));
                write_stack(writer, "token_decoder", stack);
            }
            TokenDecoderConfig::T5 { decoder, expansion } => {
                writer.text(&key("token_decoder.strategy"), T5_STRATEGIES[usize::from(decoder.summation)].0);
                writer.u32(&key("token_decoder.expansion_ratio"), number(*expansion));
                write_t5(writer, decoder);
            }
            TokenDecoderConfig::Head { .. } => {}
        }
    }
}
