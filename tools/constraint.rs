//! Constrained output: JSON schemas, regular expressions and grammars, by the llguidance crate.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use cinderblock::{Constraint, Error, Model, Result};
use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::Value as Json;

use crate::arguments::read_text;
use crate::input;

/// Bytes of a grammar.
const BYTES: usize = 64 << 10;
/// Brackets within brackets.
const DEPTH: usize = 100;

/// A restriction as it was written.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// A JSON schema.
    Json(Json),
    /// A regular expression, which the whole text matches.
    Regex(String),
    /// A grammar in the Lark syntax.
    Grammar(String),
}

/// Restrictions on the command line.
#[derive(clap::Args)]
#[group(multiple = false)]
pub struct ConstraintArguments {
    /// Generate JSON of the schema in FILE
    #[arg(long, value_name = "FILE")]
    json_schema: Option<PathBuf>,

    /// Generate a text that the regular expression matches
    #[arg(long, value_name = "PATTERN", allow_hyphen_values = true)]
    regex: Option<String>,

    /// Generate a text of the grammar in FILE, in llguidance's Lark syntax
    #[arg(long, value_name = "FILE")]
    grammar: Option<PathBuf>,
}

impl ConstraintArguments {
    /// The files that are read.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.json_schema.iter().chain(&self.grammar)
    }

    /// The restriction, if there is one.
    ///
    /// # Errors
    /// If a file cannot be read, or is not JSON.
    pub fn form(&self) -> Result<Option<Form>> {
        if let Some(path) = &self.json_schema {
            let schema = serde_json::from_str(&read_text(path, input::SMALL)?);
            let schema = schema
                .map_err(|error| Error::format(format!("JSON schema: {error}")).in_file(input::name(path)))?;
            return Ok(Some(Form::Json(schema)));
        }
        if let Some(path) = &self.grammar {
            return Ok(Some(Form::Grammar(read_text(path, input::SMALL)?)));
        }
        Ok(self.regex.clone().map(Form::Regex))
    }
}

/// Compiles restrictions for a model.
pub struct Constraints {
    model: Arc<Model>,
    /// Made when it is needed for the first time: it holds every token's bytes.
    factory: OnceLock<std::result::Result<ParserFactory, String>>,
}

impl Constraints {
    /// A compiler for a model.
    pub fn new(model: &Arc<Model>) -> Constraints {
        Constraints { model: Arc::clone(model), factory: OnceLock::new() }
    }

    /// Compiles a restriction.
    ///
    /// # Errors
    /// If the model carries no tokenizer, or the restriction is wrong, too large or takes too long.
    pub fn compile(&self, form: &Form) -> Result<Box<dyn Constraint>> {
        let (name, text) = match form {
            Form::Json(schema) => ("JSON schema", schema.to_string()),
            Form::Regex(text) => ("regex", text.clone()),
            Form::Grammar(text) => ("grammar", text.clone()),
        };
        if text.len() > BYTES {
            return Err(Error::argument(format!(
                "{name}: found {} bytes, expected at most {BYTES}",
                text.len()
            )));
        }
        if depth(&text) > DEPTH {
            return Err(Error::argument(format!(
                "{name}: found brackets {} deep, expected at most {DEPTH}",
                depth(&text)
            )));
        }
        let grammar = match form {
            Form::Json(schema) => TopLevelGrammar::from_json_schema(closely_spaced(schema)),
            Form::Regex(text) => TopLevelGrammar::from_regex(text),
            Form::Grammar(text) => TopLevelGrammar::from_lark(text.clone()),
        };
        let factory = self.factory.get_or_init(|| factory(&self.model));
        let factory = factory.as_ref().map_err(|error| Error::unsupported(error.clone()))?;
        let mut matcher = Matcher::new(factory.create_parser(grammar));
        if let Some(error) = matcher.get_error() {
            let error = error.lines().next().unwrap_or_default().to_lowercase();
            return Err(Error::argument(format!("{name}: {error}")));
        }
        let allowed = matcher.compute_mask().map_err(|error| wrong(&error))?;
        Ok(Box::new(Grammar { matcher, allowed, end: self.model.end_token() }))
    }
}

/// The same schema without white space of any length between values, which a small model may never end.
fn closely_spaced(schema: &Json) -> Json {
    let mut schema = schema.clone();
    if let Json::Object(map) = &mut schema
        && !map.contains_key("x-guidance")
    {
        map.insert("x-guidance".into(), serde_json::json!({"whitespace_flexible": false}));
    }
    schema
}

/// The deepest brackets of a text. Those in strings count as well.
fn depth(text: &str) -> usize {
    let (mut now, mut most) = (0usize, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => now += 1,
            b')' | b']' | b'}' => now = now.saturating_sub(1),
            _ => {}
        }
        most = most.max(now);
    }
    most
}

fn factory(model: &Model) -> std::result::Result<ParserFactory, String> {
    let wrong = |error: &dyn std::fmt::Display| {
        format!("constrained output: the tokenizer is not understood: {error}")
    };
    let json =
        model.tokenizer_json().ok_or("the model carries no tokenizer, which constrained output needs")?;
    let json: Json = serde_json::from_str(json).map_err(|error| wrong(&error))?;
    let words = llguidance::token_bytes_from_tokenizer_json(&json);
    let mut words = words.map_err(|error| wrong(&error))?;
    let vocabulary = model.config().vocabulary;
    words.resize(vocabulary, Vec::new());
    // Without an end token, one that no sampler can choose stands for it.
    let end = model.end_token().unwrap_or_else(|| {
        words.push(b"\xff<|end|>".to_vec());
        vocabulary as u32
    });
    let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, end), &words);
    let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    let mut factory = ParserFactory::new_simple(&environment).map_err(|error| wrong(&error))?;
    factory.quiet();
    *factory.limits_mut() = ParserLimits {
        max_items_in_row: 1000,
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 200_000,
        step_max_items: 50_000,
        max_lexer_states: 20_000,
        max_grammar_size: 100_000,
        precompute_large_lexemes: true,
        verbose_errors: false,
    };
    Ok(factory)
}

fn wrong(error: &dyn std::fmt::Display) -> Error {
    let text = error.to_string();
    Error::argument(format!("constraint: {}", text.lines().next().unwrap_or_default()))
}

/// A compiled restriction, and the tokens that it allows now.
struct Grammar {
    matcher: Matcher,
    allowed: SimpleVob,
    end: Option<u32>,
}

impl Constraint for Grammar {
    fn allowed(&mut self) -> Result<Option<&[u32]>> {
        if self.matcher.is_stopped() {
            return match self.matcher.get_error() {
                Some(error) => Err(wrong(&error)),
                None => Ok(None),
            };
        }
        Ok(Some(self.allowed.as_slice()))
    }

    fn accept(&mut self, token: u32) -> Result<()> {
        if self.end == Some(token) {
            // Ignored by the text, so the grammar does not hear of it.
            return Ok(());
        }
        self.matcher.consume_token(token).map_err(|error| wrong(&error))?;
        if !self.matcher.is_stopped() {
            self.allowed = self.matcher.compute_mask().map_err(|error| wrong(&error))?;
        }
        Ok(())
    }

    fn copy(&self) -> Box<dyn Constraint> {
        Box::new(Grammar { matcher: self.matcher.deep_clone(), allowed: self.allowed.clone(), end: self.end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_are_counted() {
        assert_eq!((depth("a(b[c]{d})"), depth(""), depth(")))(")), (2, 0, 1));
    }
}
