//! The header of a model file, key by key: the twin of `docs/format.md`. The quantizer and the synthesizer write it, the
//! reader reads it.
#![forbid(unsafe_code)]

use std::io::{self, Seek, Write};

use super::config::{
    Alignment, Config, MAX_BLOCK, MAX_LAYERS, MAX_VOCABULARY, MAX_WIDTH, Projection, StackConfig, Strategy,
};
use super::layout::TensorSpec;
use crate::error::{Error, Result};
use crate::gguf::{Index, Writer};
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

/// The alignment that a file names, left if it names none.
fn alignment(index: &Index) -> Result<Alignment> {
    let key = format!("{ARCHITECTURE}.prompt_alignment");
    if index.get(&key).is_none() {
        return Ok(Alignment::Left);
    }
    let name = index.text(&key)?;
    Alignment::from_name(name).ok_or_else(|| Error::mismatch("prompt_alignment", name, "left or tail"))
}

impl Config {
    /// Reads and validates the metadata.
    ///
    /// # Errors
    /// If a key is missing, or its value is out of range or contradicts another.
    pub fn read(index: &Index) -> Result<Config> {
        let integer = |key: &str, max: usize| index.integer(&format!("{ARCHITECTURE}.{key}"), 1..=max as u64);
        let text = |key: &str| index.text(&format!("{ARCHITECTURE}.{key}"));
        let stack = |name: &str| -> Result<StackConfig> {
            Ok(StackConfig {
                layers: integer(&format!("{name}.block_count"), MAX_LAYERS)?,
                hidden: integer(&format!("{name}.embedding_length"), MAX_WIDTH)?,
                heads: integer(&format!("{name}.attention.head_count"), MAX_WIDTH)?,
                feed_forward: integer(&format!("{name}.feed_forward_length"), 8 * MAX_WIDTH)?,
                rotary: index
                    .integer(&format!("{ARCHITECTURE}.{name}.rope.dimension_count"), 0..=MAX_WIDTH as u64)?,
                rotary_base: index.float(&format!("{ARCHITECTURE}.{name}.rope.freq_base"))? as f32,
                epsilon: index.float(&format!("{ARCHITECTURE}.{name}.attention.layer_norm_epsilon"))? as f32,
            })
        };
        let strategy = text("token_decoder.strategy")?;
        let projection = text("embedder.projection")?;
        let config = Config {
            name: index.text("general.name")?.to_string(),
            block_length: integer("block_length", MAX_BLOCK)?,
            vocabulary: integer("vocab_size", MAX_VOCABULARY)?,
            trained_blocks: integer("context_blocks", 1 << 32)?,
            embedding: integer("embedder.embedding_length", MAX_WIDTH)?,
            projection: [Projection::Concat, Projection::Linear]
                .into_iter()
                .find(|p| p.name() == projection)
                .ok_or_else(|| Error::mismatch("embedder.projection", projection, "concat or linear"))?,
            strategy: Strategy::from_name(strategy)
                .ok_or_else(|| Error::mismatch("token_decoder.strategy", strategy, "prefix or summation"))?,
            alignment: alignment(index)?,
            expansion: integer("token_decoder.expansion_ratio", MAX_BLOCK)?,
            block_decoder: stack("block_decoder")?,
            token_decoder: stack("token_decoder")?,
        };
        config.validate()?;
        Ok(config)
    }

    /// Writes the metadata that [`Config::read`] reads.
    pub fn write<W: Write + Seek>(&self, writer: &mut Writer<W>) {
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let key = |name: &str| format!("{ARCHITECTURE}.{name}");
        writer.text("general.architecture", ARCHITECTURE);
        writer.text("general.name", &self.name);
        writer.u32(&key("block_length"), number(self.block_length));
        writer.u32(&key("vocab_size"), number(self.vocabulary));
        writer.u32(&key("context_blocks"), number(self.trained_blocks));
        writer.text(&key("prompt_alignment"), self.alignment.name());
        writer.u32(&key("embedder.embedding_length"), number(self.embedding));
        writer.text(&key("embedder.projection"), self.projection.name());
        writer.text(&key("token_decoder.strategy"), self.strategy.name());
        writer.u32(&key("token_decoder.expansion_ratio"), number(self.expansion));
        for (name, stack) in [("block_decoder", &self.block_decoder), ("token_decoder", &self.token_decoder)]
        {
            writer.u32(&key(&format!("{name}.block_count")), number(stack.layers));
            writer.u32(&key(&format!("{name}.embedding_length")), number(stack.hidden));
            writer.u32(&key(&format!("{name}.feed_forward_length")), number(stack.feed_forward));
            writer.u32(&key(&format!("{name}.attention.head_count")), number(stack.heads));
            writer.f32(&key(&format!("{name}.attention.layer_norm_epsilon")), stack.epsilon);
            writer.u32(&key(&format!("{name}.rope.dimension_count")), number(stack.rotary));
            writer.f32(&key(&format!("{name}.rope.freq_base")), stack.rotary_base);
        }
    }
}
