//! The settings of an embedder: a lookup table, or a RoBERTa encoder.

use cinderblock::{Error, Result};

use super::section::{HARMLESS_KEYS, Section};

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
pub struct EmbedderFacts {
    pub projection_layer: bool,
    /// Width of the table.
    pub embedding: Option<usize>,
    pub encoder: Option<EncoderFacts>,
}

/// Reads the embedder.
pub fn embedder(document: &Section<'_>) -> Result<EmbedderFacts> {
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
