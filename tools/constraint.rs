//! Constrained output: JSON schemas, regular expressions and grammars, by the llguidance crate.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use cinderblock::{Constraint, Error, ErrorKind, Model, Result};
use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::Value as Json;

use crate::arguments::read_text;
use crate::{input, output};

/// Bytes of a grammar.
const BYTES: usize = 64 << 10;
/// Brackets within brackets.
const DEPTH: usize = 100;
/// Bytes of the stack that compiles: rules that lead to rules, as many as [`BYTES`] hold, need some 40 MB.
const STACK: usize = if cfg!(target_pointer_width = "64") { 256 << 20 } else { 64 << 20 };
/// What a slow step adds to a measure of which every quick one takes 1 away.
const SLOW: u32 = 4;
/// The most of that measure: one or a few slow steps may be those of a busy machine.
const SLOWEST: u32 = 4 * SLOW;
/// Characters of a message that are shown.
const SHOWN: usize = 300;

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
    /// The time of a step, if others wait for it.
    step: Option<Duration>,
    /// Held while one is compiled: each may take tens of megabytes for a moment.
    turn: Mutex<()>,
}

impl Constraints {
    /// A compiler for a model.
    pub fn new(model: &Arc<Model>) -> Constraints {
        Constraints { model: Arc::clone(model), factory: OnceLock::new(), step: None, turn: Mutex::default() }
    }

    /// A compiler whose restrictions fail if they take longer than `step` for token after token.
    #[cfg(feature = "serve")]
    pub fn with_step_limit(model: &Arc<Model>, step: Duration) -> Constraints {
        Constraints { step: Some(step), ..Constraints::new(model) }
    }

    /// Compiles a restriction. Others wait until it is done.
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
        let factory = self.factory.get_or_init(|| factory(&self.model, self.step.is_some()));
        let factory = factory.as_ref().map_err(|error| Error::unsupported(error.clone()))?;
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let build = || {
            let mut matcher = Matcher::new(factory.create_parser(grammar));
            if let Some(error) = matcher.get_error() {
                return Err(Error::argument(format!("{name}: {}", cause(&error))));
            }
            let allowed = matcher
                .compute_mask()
                .map_err(|error| Error::argument(format!("{name}: {}", cause(&error.to_string()))))?;
            Ok((matcher, allowed))
        };
        let (matcher, allowed) = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("compile".into()).stack_size(STACK);
            let thread = thread.spawn_scoped(scope, build).map_err(|error| {
                Error::new(ErrorKind::Resource, format!("{name}: no thread to compile it: {error}"))
            })?;
            let panicked = |_| Error::argument(format!("{name}: {}", cause("panic")));
            thread.join().map_err(panicked)?
        })?;
        Ok(Box::new(Grammar { matcher, allowed, end: self.model.end_token(), step: self.step, slow: 0 }))
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

fn factory(model: &Model, others_wait: bool) -> std::result::Result<ParserFactory, String> {
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
    // An expression of n optional parts takes n * n. Where others wait, this allows some thousands of parts, and a step
    // of 15 ms for the most ambiguous grammars.
    let (initial_lexer_fuel, step_lexer_fuel, step_max_items) =
        if others_wait { (50_000, 20_000, 5_000) } else { (500_000, 200_000, 50_000) };
    *factory.limits_mut() = ParserLimits {
        max_items_in_row: 1000,
        initial_lexer_fuel,
        step_lexer_fuel,
        step_max_items,
        max_lexer_states: 20_000,
        max_grammar_size: 100_000,
        precompute_large_lexemes: true,
        verbose_errors: false,
    };
    Ok(factory)
}

/// One line of an error of llguidance, whose reason may stand some lines below, as the user has written it.
fn cause(error: &str) -> String {
    let first = error.lines().next().unwrap_or_default().trim();
    if first.starts_with("panic") {
        return "found numbers or parts too large to compute with, expected smaller ones".to_string();
    }
    if first.is_empty() || first.contains("NoExtensionBias") {
        return "found no text that it allows, expected at least 1".to_string();
    }
    let reason = error.lines().skip(1).find_map(|line| line.trim().strip_prefix("error: "));
    let line = match reason {
        Some(reason) => format!("{}: {reason}", first.trim_end_matches(':')),
        None => first.to_string(),
    };
    let (start, more) = output::beginning(&line, SHOWN);
    format!("{start}{more}")
}

fn wrong(error: &dyn std::fmt::Display) -> Error {
    Error::argument(format!("constraint: {}", cause(&error.to_string())))
}

/// A compiled restriction, and the tokens that it allows now.
struct Grammar {
    matcher: Matcher,
    allowed: SimpleVob,
    end: Option<u32>,
    /// The time of a step, if it is limited.
    step: Option<Duration>,
    /// How slow the last steps were: see [`SLOW`].
    slow: u32,
}

impl Grammar {
    fn note(&mut self, time: Duration) -> Result<()> {
        let Some(limit) = self.step else { return Ok(()) };
        self.slow = if time > limit { self.slow + SLOW } else { self.slow.saturating_sub(1) };
        if self.slow > SLOWEST {
            let limit = limit.as_millis();
            return Err(Error::argument(format!(
                "constraint: found tokens that take it more than {limit} ms each, expected a simpler one"
            )));
        }
        Ok(())
    }
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
        let started = Instant::now();
        self.matcher.consume_token(token).map_err(|error| wrong(&error))?;
        if !self.matcher.is_stopped() {
            self.allowed = self.matcher.compute_mask().map_err(|error| wrong(&error))?;
        }
        self.note(started.elapsed())
    }

    fn copy(&self) -> Box<dyn Constraint> {
        // The states of expressions are shared, so that the answers of one request take the memory of one.
        let (matcher, allowed) = (self.matcher.clone(), self.allowed.clone());
        Box::new(Grammar { matcher, allowed, ..*self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_one_line_in_the_words_of_the_user() {
        let error =
            "invalid regex \"ABC[\" (in regex): regex parse error:\n    ABC[\n       ^\nerror: unclosed";
        assert_eq!(cause(error), "invalid regex \"ABC[\" (in regex): regex parse error: unclosed");
        assert_eq!(
            cause("regex parse error:\n  (\n  ^\nerror: unclosed group"),
            "regex parse error: unclosed group"
        );
        assert_eq!(cause("unknown name: \"T\"\n"), "unknown name: \"T\"");
        assert!(cause("NoExtensionBias").contains("no text") && cause("panic: at x").contains("too large"));
        assert!(cause(&"x".repeat(1000)).len() < 400);
    }

    #[test]
    fn brackets_are_counted() {
        assert_eq!((depth("a(b[c]{d})"), depth(""), depth(")))(")), (2, 0, 1));
    }
}
