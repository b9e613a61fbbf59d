//! The authors' trainer configuration: which model a checkpoint holds.

use std::path::Path;

use cinderblock::error::{Error, Result};
use cinderblock::model::{Alignment, Strategy};
use serde_yaml_ng::Value;

/// No configuration is longer; it is read whole.
const MAX_BYTES: u64 = 32 << 10;

/// What the configuration says; sizes that it repeats are compared with the tensors, which decide.
pub struct TrainerConfig {
    pub name: String,
    pub block_length: usize,
    pub max_length: Option<usize>,
    pub projection_layer: bool,
    pub embedding: Option<usize>,
    pub strategy: Strategy,
    pub alignment: Alignment,
    pub expansion_ratio: Option<usize>,
    pub block_decoder: StackSection,
    pub token_decoder: StackSection,
}

/// The `config` of one decoder.
pub struct StackSection {
    pub layers: usize,
    pub hidden: Option<usize>,
    pub heads: Option<usize>,
    pub feed_forward: Option<usize>,
    pub vocabulary: Option<usize>,
    pub rotary_fraction: f64,
    pub rotary_base: f64,
    pub epsilon: f64,
}

/// A place in the document.
struct Section<'v> {
    path: String,
    value: &'v Value,
}

impl<'v> Section<'v> {
    fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_string() } else { format!("{}.{key}", self.path) }
    }

    fn get(&self, key: &str) -> Option<&'v Value> {
        self.value.get(key).filter(|value| !value.is_null())
    }

    fn missing(&self, key: &str) -> Error {
        Error::format(format!("key {} is missing", self.path(key)))
    }

    fn section(&self, key: &str) -> Result<Section<'v>> {
        let value = self.get(key).ok_or_else(|| self.missing(key))?;
        if !value.is_mapping() {
            return Err(Error::mismatch(self.path(key), text_of(value), "a section"));
        }
        Ok(Section { path: self.path(key), value })
    }

    fn text(&self, key: &str) -> Result<Option<&'v str>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let text = value.as_str();
        text.map(Some).ok_or_else(|| Error::mismatch(self.path(key), text_of(value), "text"))
    }

    fn required_text(&self, key: &str) -> Result<&'v str> {
        self.text(key)?.ok_or_else(|| self.missing(key))
    }

    fn integer(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_u64().filter(|number| (1..=1 << 32).contains(number));
        let number =
            number.ok_or_else(|| Error::mismatch(self.path(key), text_of(value), "a positive integer"))?;
        Ok(Some(number as usize))
    }

    fn required_integer(&self, key: &str) -> Result<usize> {
        self.integer(key)?.ok_or_else(|| self.missing(key))
    }

    fn float(&self, key: &str, default: f64) -> Result<f64> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let number = value.as_f64().filter(|number| number.is_finite() && *number >= 0.0);
        number.ok_or_else(|| Error::mismatch(self.path(key), text_of(value), "a non-negative number"))
    }

    /// A key that, where it is given, must have one value, because nothing else is implemented.
    fn only(&self, key: &str, expected: &str) -> Result<()> {
        let Some(value) = self.get(key) else { return Ok(()) };
        let found = text_of(value);
        if found == expected {
            return Ok(());
        }
        Err(Error::unsupported(format!("{}: found {found}, only {expected} is supported", self.path(key))))
    }

    fn required_only(&self, key: &str, expected: &str) -> Result<()> {
        self.get(key).ok_or_else(|| self.missing(key))?;
        self.only(key, expected)
    }
}

fn text_of(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Mapping(_) => "a section".to_string(),
        Value::Sequence(_) => "a list".to_string(),
        _ => serde_yaml_ng::to_string(value).unwrap_or_default().trim().to_string(),
    };
    text.chars().take(60).collect()
}

fn stack(document: &Section<'_>, name: &str) -> Result<StackSection> {
    let decoder = document.section(name)?;
    decoder.required_only("cls", "gpt-neo-x")?;
    let config = decoder.section("config")?;
    config.only("hidden_act", "gelu")?;
    config.only("use_parallel_residual", "true")?;
    config.only("attention_bias", "true")?;
    Ok(StackSection {
        layers: config.required_integer("num_hidden_layers")?,
        hidden: config.integer("hidden_size")?,
        heads: config.integer("num_attention_heads")?,
        feed_forward: config.integer("intermediate_size")?,
        vocabulary: config.integer("vocab_size")?,
        rotary_fraction: config.float("rotary_pct", 0.25)?,
        rotary_base: config.float("rotary_emb_base", 10000.0)?,
        epsilon: config.float("layer_norm_eps", 1e-5)?,
    })
}

/// The alignment that fits the training. Models that say nothing are padded as the authors' program pads.
fn alignment(document: &Section<'_>) -> Result<Alignment> {
    let key = "random_pad_first_block";
    let Some(value) = document.get(key) else { return Ok(Alignment::Left) };
    let padded = value.as_bool();
    let padded =
        padded.ok_or_else(|| Error::mismatch(document.path(key), text_of(value), "true or false"))?;
    Ok(if padded { Alignment::Left } else { Alignment::Tail })
}

/// Refuses YAML's anchors and aliases: no trainer writes them, and a few hundred bytes of them can stand for
/// gigabytes.
fn refuse_aliases(bytes: &[u8]) -> Result<()> {
    for window in bytes.windows(3) {
        let starts = b" \t\n[{,:-".contains(&window[0]);
        if starts && b"&*".contains(&window[1]) && !window[2].is_ascii_whitespace() {
            return Err(Error::unsupported("YAML anchors and aliases (& and *) are not supported"));
        }
    }
    Ok(())
}

impl TrainerConfig {
    /// Reads `config.yaml`.
    pub fn read(path: &Path) -> Result<TrainerConfig> {
        let io = |error: std::io::Error| Error::io(path, &error);
        let metadata = std::fs::metadata(path).map_err(io)?;
        if !metadata.is_file() || metadata.len() > MAX_BYTES {
            let error = Error::mismatch("configuration", format!("{} bytes", metadata.len()), "a small file");
            return Err(error.in_file(path));
        }
        let bytes = std::fs::read(path).map_err(io)?;
        Self::parse(&bytes).map_err(|error| error.in_file(path))
    }

    fn parse(bytes: &[u8]) -> Result<TrainerConfig> {
        refuse_aliases(bytes)?;
        let value: Value = serde_yaml_ng::from_slice(bytes)
            .map_err(|error| Error::format(format!("not valid YAML: {error}")))?;
        if !value.is_mapping() {
            return Err(Error::mismatch("configuration", text_of(&value), "YAML with sections"));
        }
        let document = Section { path: String::new(), value: &value };
        let embedder = document.section("embedder")?;
        embedder.required_only("cls", "lookup")?;
        embedder.only("n_embedding_tokens", "1")?;
        let projection = embedder.text("projection_method")?.unwrap_or("concat");
        if !["concat", "projection_layer"].contains(&projection) {
            return Err(Error::unsupported(format!(
                "embedder.projection_method: found {projection}, only concat and projection_layer are supported"
            )));
        }
        let embedding = match embedder.get("config") {
            None => None,
            Some(_) => embedder.section("config")?.integer("hidden_size")?,
        };
        let block_decoder = stack(&document, "block_decoder")?;
        let token_decoder = document.section("token_decoder")?;
        token_decoder.required_only("cls", "gpt-neo-x")?;
        token_decoder.only("expansion_method", "expansion_layer")?;
        let strategy = token_decoder.required_text("decoding_strategy")?;
        let strategy = Strategy::from_name(strategy).ok_or_else(|| {
            Error::unsupported(format!(
                "token_decoder.decoding_strategy: found {strategy}, only prefix and summation are supported"
            ))
        })?;
        Ok(TrainerConfig {
            name: document.text("name")?.unwrap_or("block-transformer").to_string(),
            block_length: document.required_integer("block_length")?,
            max_length: document.integer("max_length")?,
            projection_layer: projection == "projection_layer",
            embedding,
            strategy,
            alignment: alignment(&document)?,
            expansion_ratio: token_decoder.integer("expansion_ratio")?,
            block_decoder,
            token_decoder: stack(&document, "token_decoder")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIN: &str = include_str!("../../tests/cases/main/config.yaml");

    fn error(text: &str) -> String {
        TrainerConfig::parse(text.as_bytes()).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        assert!(TrainerConfig::parse(MAIN.as_bytes()).is_ok());
        for (from, to, expected) in [
            ("cls: lookup", "cls: roberta_cls", "embedder.cls: found roberta_cls, only lookup"),
            ("cls: lookup", "cls: t5", "embedder.cls: found t5, only lookup"),
            (
                "block_decoder:\n  cls: gpt-neo-x",
                "block_decoder:\n  cls: gpt-neo",
                "block_decoder.cls: found gpt-neo,",
            ),
            ("token_decoder:\n  cls: gpt-neo-x", "token_decoder:\n  cls: t5", "token_decoder.cls: found t5,"),
            ("n_embedding_tokens: 1", "n_embedding_tokens: 2", "n_embedding_tokens: found 2, only 1"),
            (
                "decoding_strategy: prefix",
                "decoding_strategy: cross_attention",
                "found cross_attention, only prefix",
            ),
            ("projection_method: concat", "projection_method: mean", "found mean, only concat"),
        ] {
            let text = MAIN.replacen(from, to, 1);
            assert_ne!(text, MAIN);
            assert!(error(&text).contains(expected), "{}", error(&text));
        }
    }

    #[test]
    fn models_trained_without_padding_are_not_padded() {
        let alignment = |line: &str| TrainerConfig::parse(format!("{line}\n{MAIN}").as_bytes());
        assert_eq!(alignment("").unwrap().alignment, Alignment::Left);
        assert_eq!(alignment("random_pad_first_block: true").unwrap().alignment, Alignment::Left);
        assert_eq!(alignment("random_pad_first_block: false").unwrap().alignment, Alignment::Tail);
        assert!(
            error(&format!("random_pad_first_block: 3\n{MAIN}")).contains("found 3, expected true or false")
        );
    }

    #[test]
    fn a_missing_key_is_named() {
        for key in
            ["block_length", "cls", "decoding_strategy", "num_hidden_layers", "embedder", "token_decoder"]
        {
            let at = MAIN.rfind(&format!("{key}:")).unwrap();
            let text = format!("{}x_{}", &MAIN[..at], &MAIN[at..]);
            assert!(error(&text).contains(&format!("{key} is missing")), "{key}: {}", error(&text));
        }
        for text in ["", "just text", "- a\n- b", "a: [", "block_length: four"] {
            assert_ne!(error(text), "");
        }
    }
}
