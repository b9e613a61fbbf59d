//! The authors' trainer configuration, the `config.json` of a part or of a GPT-NeoX: which model a checkpoint holds.
//!
//! Every key of a section that describes the model is obeyed, known to change nothing, or refused by name.

mod embedder;
mod section;
mod stack;
mod t5;

use std::path::Path;

use cinderblock::unstable::model::Strategy;
use cinderblock::{Error, Result};

use super::yaml::Value;
pub use embedder::EncoderFacts;
use embedder::{EmbedderFacts, embedder};
pub use section::Ignored;
use section::Section;
pub use stack::StackFacts;
pub use t5::T5Facts;

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

/// Reads a trainer configuration of a vanilla model. What its `model_config` leaves out is that of the model it names.
fn vanilla_trainer(document: &Section<'_>) -> Result<Facts> {
    document.only("model", &["gpt-neo-x"])?;
    let mut stack = StackFacts::default();
    if let Some(config) = document.optional("model_config")? {
        stack = stack::settings(&config)?;
    }
    stack.heads = stack.heads.or(stack::pythia_heads(document)?);
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
    let stack = stack::settings(document)?;
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

/// How a context reaches a token decoder that is a GPT-NeoX stack.
fn strategy(token: &Section<'_>) -> Result<Strategy> {
    let strategy = token.required_text("decoding_strategy")?;
    Strategy::from_name(strategy).ok_or_else(|| {
        Error::unsupported(format!(
            "token_decoder.decoding_strategy: found {strategy}, only prefix and summation are supported"
        ))
    })
}

impl Facts {
    /// Reads the configuration of a model of that kind: a trainer's, or a `config.json`.
    ///
    /// # Errors
    /// If it cannot be read, a key is missing, unknown or has no sensible value, or the model is of another kind or one
    /// that is not supported.
    pub fn read(path: &Path, kind: Kind, ignored: &Ignored) -> Result<Facts> {
        section::read(path, ignored, |document| Facts::parse(document, kind))
    }

    /// Whether the vocabulary head is the table of the decoder that it follows.
    pub fn is_tied(&self, kind: Kind) -> bool {
        match (kind, &self.t5) {
            (Kind::Vanilla, _) => self.block_decoder.tied == Some(true),
            (Kind::Block, None) => self.token_decoder.tied == Some(true),
            (Kind::Block, Some(t5)) => t5.tied != Some(false),
        }
    }

    fn parse(document: &Section<'_>, kind: Kind) -> Result<Facts> {
        document.has_sections()?;
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
            return if trainer { vanilla_trainer(document) } else { vanilla_config(document) };
        }
        let EmbedderFacts { projection_layer, embedding, encoder } = embedder(document)?;
        let block_decoder = stack::decoder(document, "block_decoder")?;
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
            block_length: Some(block_length(document)?),
            max_length: document.integer("max_length")?,
            projection_layer: Some(projection_layer),
            embedding,
            encoder,
            strategy,
            padded: document.flag("random_pad_first_block")?,
            expansion_ratio: token.integer("expansion_ratio")?,
            tokenizer: tokenizer(document)?,
            block_decoder,
            token_decoder: match t5 {
                Some(_) => StackFacts::default(),
                None => stack::decoder(document, "token_decoder")?,
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
    let name = |document: &Section<'_>| Ok(document.text("model_type")?.map(String::from));
    section::read(path, &Ignored::new(&[]), name).ok()?
}
