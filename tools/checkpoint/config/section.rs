//! Reading a configuration section by section: what is given is read under its own path, and no key is overlooked.

use std::cell::Cell;
use std::path::Path;

use cinderblock::{Error, Result};

use crate::checkpoint::yaml::Value;
use crate::input::read_regular;

/// No configuration is longer; it is read whole.
const MAX_BYTES: u64 = 32 << 10;

/// Keys to pass over (`--ignore-key`): a whole path or its last part.
pub struct Ignored(Vec<(String, Cell<bool>)>);

impl Ignored {
    /// The keys of these names.
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

    /// Makes sure that every name was needed.
    ///
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
pub struct Section<'v> {
    path: String,
    value: &'v Value,
    ignored: &'v Ignored,
}

impl<'v> Section<'v> {
    /// Makes sure that a document is one of sections.
    pub fn has_sections(&self) -> Result<()> {
        match self.value {
            Value::Map(_) => Ok(()),
            value => Err(Error::mismatch("configuration", value, "YAML with sections")),
        }
    }

    /// The name of a key from the top of the document.
    pub fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_string() } else { format!("{}.{key}", self.path) }
    }

    /// The value of a key, null included.
    pub fn raw(&self, key: &str) -> Option<&'v Value> {
        self.value.get(key).filter(|_| !self.ignored.has(&self.path(key)))
    }

    /// The value of a key; null is none.
    pub fn get(&self, key: &str) -> Option<&'v Value> {
        self.raw(key).filter(|value| **value != Value::Null)
    }

    /// The error of a key that is required.
    pub fn missing(&self, key: &str) -> Error {
        Error::format(format!("key {} is missing", self.path(key)))
    }

    fn mismatch(&self, key: &str, value: &Value, expected: &str) -> Error {
        Error::mismatch(self.path(key), value, expected)
    }

    /// The section under a key.
    pub fn optional(&self, key: &str) -> Result<Option<Section<'v>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        if !matches!(value, Value::Map(_)) {
            return Err(self.mismatch(key, value, "a section"));
        }
        Ok(Some(Section { path: self.path(key), value, ignored: self.ignored }))
    }

    /// The section under a key, which is required.
    pub fn section(&self, key: &str) -> Result<Section<'v>> {
        self.optional(key)?.ok_or_else(|| self.missing(key))
    }

    /// A text.
    pub fn text(&self, key: &str) -> Result<Option<&'v str>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_text().map(Some).ok_or_else(|| self.mismatch(key, value, "text"))
    }

    /// A text that is required.
    pub fn required_text(&self, key: &str) -> Result<&'v str> {
        self.text(key)?.ok_or_else(|| self.missing(key))
    }

    /// A number of things, at least 1.
    pub fn integer(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_u64().filter(|number| (1..=1 << 32).contains(number));
        let number = number.ok_or_else(|| self.mismatch(key, value, "a positive integer"))?;
        Ok(Some(number as usize))
    }

    /// A number that is required, at least 1.
    pub fn required_integer(&self, key: &str) -> Result<usize> {
        self.integer(key)?.ok_or_else(|| self.missing(key))
    }

    /// A number, not negative.
    pub fn float(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_f64().filter(|number| number.is_finite() && *number >= 0.0);
        number.map(Some).ok_or_else(|| self.mismatch(key, value, "a non-negative number"))
    }

    /// True or false.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.mismatch(key, value, "true or false"))
    }

    /// A key that, where it is given, must have one of some values, because nothing else is implemented.
    pub fn only(&self, key: &str, expected: &[&str]) -> Result<()> {
        let Some(value) = self.get(key) else { return Ok(()) };
        let found = value.to_string();
        if expected.contains(&found.as_str()) {
            return Ok(());
        }
        let expected = expected.join(" and ");
        Err(Error::unsupported(format!("{}: found {found}, only {expected} is supported", self.path(key))))
    }

    /// As [`Section::only`], of a key that is required.
    pub fn required_only(&self, key: &str, expected: &[&str]) -> Result<()> {
        self.get(key).ok_or_else(|| self.missing(key))?;
        self.only(key, expected)
    }

    /// Refuses keys that nobody here knows: one of them may change what the model computes.
    pub fn known(&self, lists: &[&[&str]]) -> Result<()> {
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

/// Reads a configuration as `parse` does.
///
/// # Errors
/// If it is no small regular file or no YAML, and as `parse`.
pub fn read<T>(path: &Path, ignored: &Ignored, parse: impl FnOnce(&Section<'_>) -> Result<T>) -> Result<T> {
    let parse = |bytes: Vec<u8>| {
        let value = Value::parse(&bytes)?;
        parse(&Section { path: String::new(), value: &value, ignored })
    };
    read_regular(path, "a configuration", MAX_BYTES).and_then(parse).map_err(|error| error.in_file(path))
}

/// Keys of any Hugging Face configuration that change nothing that is computed here: training, bookkeeping, and what
/// another part or the generating program reads.
pub const HARMLESS_KEYS: [&str; 74] = [
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
