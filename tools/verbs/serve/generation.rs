//! Completions and chats: from the body of a request to texts of the batch.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use cinderblock::{
    Alignment, GenerateOptions, Interrupt, Model, Request, SamplerOptions, SessionOptions, Tokenizer,
};
use serde_json::Value as Json;

use super::echo::{Echo, prompt_scoring};
use super::parameters::{BIASES, CHATS, COMPLETIONS, Fields, STOP_BYTES, STOPS, wrong};
use super::problem::{Problem, quoted};
use crate::constraint::{Constraints, Form};
use crate::prompt::{encode, ids};
use crate::verbs::batch::lines::biases;

/// What decides what a request may ask for.
#[derive(Clone)]
pub struct Limits {
    /// Tokens of an answer at most.
    pub max_tokens: usize,
    /// Tokens of an answer if the request says nothing.
    pub default_tokens: usize,
    /// Time of an answer at most.
    pub time: Duration,
    /// Texts of one request at most.
    pub texts: usize,
    /// The cache that a prompt must fit into.
    pub session: SessionOptions,
}

/// Which of the two interfaces a request has used.
#[derive(Clone, Copy, PartialEq)]
pub enum Interface {
    Completion,
    Chat,
}

/// What is to be reported about tokens.
#[derive(Clone, Copy, PartialEq)]
pub enum Logprobs {
    None,
    /// With this number of alternatives.
    Most(usize),
}

/// A request that was understood.
pub struct Plan {
    pub interface: Interface,
    pub requests: Vec<Request>,
    /// Of each answer: what it repeats of its prompt.
    pub echo: Vec<Arc<Echo>>,
    /// What scores the prompts that are repeated with log-probabilities, and the answers that repeat each.
    pub scoring: Vec<(Request, Range<usize>)>,
    /// Of each answer: the place of its first token in its block.
    pub places: Vec<usize>,
    pub prompt_tokens: usize,
    /// Tokens of prompts that are repeated with log-probabilities, in all answers.
    repeated_tokens: usize,
    pub logprobs: Logprobs,
    pub stream: bool,
    pub include_usage: bool,
}

/// Tokens of prompts that the answers of one request repeat with log-probabilities.
const REPEATED: usize = 1 << 16;
/// Between two turns of a transcript.
const USER: &str = "\nUser:";

/// Reads a request.
///
/// # Errors
/// If a parameter is wrong; the error names it.
pub fn read(
    interface: Interface,
    bytes: &[u8],
    (model, name): (&Model, &str),
    tokenizer: Option<&Tokenizer>,
    constraints: &Constraints,
    limits: &Limits,
) -> Result<Plan, Problem> {
    let mut fields = match interface {
        Interface::Completion => COMPLETIONS.read(bytes)?,
        Interface::Chat => CHATS.read(bytes)?,
    };
    if let Some(asked) = fields.text("model").filter(|asked| asked != name) {
        let message = format!("\"model\": found {}, expected {name:?}", quoted(&asked));
        return Err(Problem::new(StatusCode::NOT_FOUND, message).about("model"));
    }
    let prompts = match interface {
        Interface::Completion => prompts(&mut fields)?,
        Interface::Chat => {
            let objects = |value: &Json| value.as_array()?.iter().all(Json::is_object).then_some(());
            fields.read("tools", "a list of objects", objects)?;
            vec![Prompt::Text(transcript(&mut fields)?)]
        }
    };
    let count = fields.size("n").unwrap_or(1);
    let texts = prompts.len().saturating_mul(count);
    if texts > limits.texts {
        let message = format!("found {texts} answers, expected at most {}", limits.texts);
        return Err(Problem::bad(message).about("n"));
    }
    let logprobs = logprobs(&mut fields, interface)?;
    let echo = interface == Interface::Completion && fields.flag("echo");
    let mut request = request(&mut fields, interface, tokenizer, logprobs, limits)?;
    let form =
        fields.read("response_format", "an object with a \"type\" and what that needs", form)?.flatten();
    let compiled = form.map(|form| constraints.compile(&form)).transpose();
    request.constraint = compiled.map_err(|error| Problem::from(error).about("response_format"))?;
    let stream = fields.flag("stream");
    let include_usage = include_usage(&mut fields)?;

    let mut plan = Plan {
        interface,
        requests: Vec::new(),
        echo: Vec::new(),
        scoring: Vec::new(),
        places: Vec::new(),
        prompt_tokens: 0,
        repeated_tokens: 0,
        logprobs,
        stream,
        include_usage,
    };
    for prompt in prompts {
        plan.add(&prompt, &request, (count, echo), (model, tokenizer), limits)?;
    }
    Ok(plan)
}

impl Plan {
    /// Adds the answers of a prompt, with seeds from that of `request` on.
    fn add(
        &mut self,
        prompt: &Prompt,
        request: &Request,
        (count, echo): (usize, bool),
        (model, tokenizer): (&Model, Option<&Tokenizer>),
        limits: &Limits,
    ) -> Result<(), Problem> {
        let tokens = prompt.tokens(model, tokenizer)?;
        let fits = limits.session.check_prompt(model, tokens.len());
        fits.map_err(|error| Problem::from(error).about("prompt"))?;
        self.prompt_tokens += tokens.len();
        let mut repeated = Echo::default();
        if echo {
            repeated.text = shown(prompt, tokenizer)?;
        }
        if echo && self.logprobs != Logprobs::None {
            self.repeated_tokens += tokens.len().saturating_mul(count);
            if self.repeated_tokens > REPEATED {
                let message = format!(
                    "\"echo\" with \"logprobs\": found more than {REPEATED} tokens in all prompts, expected fewer"
                );
                return Err(Problem::bad(message).about("echo"));
            }
            repeated.list(&tokens, tokenizer)?;
            let answers = self.requests.len()..self.requests.len() + count;
            let scoring = prompt_scoring(&tokens, model, request.generate.logprobs);
            self.scoring.extend(scoring.map(|scoring| (scoring, answers)));
        }
        let block = model.config().block_length;
        let repeated = Arc::new(repeated);
        let place = match model.config().alignment {
            Alignment::Tail if tokens.len() >= block => tokens.len() % block,
            _ => 0,
        };
        for index in 0..count as u64 {
            let seed = request.sampler.seed.wrapping_add(index);
            let sampler = SamplerOptions { seed, ..request.sampler.clone() };
            // Each ends on its own.
            let interrupt = Interrupt::default();
            self.requests.push(Request { prompt: tokens.clone(), sampler, interrupt, ..request.clone() });
            self.echo.push(Arc::clone(&repeated));
            self.places.push(place);
        }
        Ok(())
    }
}

/// The text of a prompt.
fn shown(prompt: &Prompt, tokenizer: Option<&Tokenizer>) -> Result<String, Problem> {
    Ok(match prompt {
        Prompt::Text(text) => text.clone(),
        Prompt::Ids(ids) => tokenizer.map_or(Ok(String::new()), |tokenizer| tokenizer.decode(ids))?,
    })
}

/// The log probabilities that are asked for.
fn logprobs(fields: &mut Fields, interface: Interface) -> Result<Logprobs, Problem> {
    if interface == Interface::Completion {
        return Ok(fields.size("logprobs").map_or(Logprobs::None, Logprobs::Most));
    }
    let most = fields.size("top_logprobs");
    if fields.flag("logprobs") {
        return Ok(Logprobs::Most(most.unwrap_or(0)));
    }
    if most.is_some_and(|most| most > 0) {
        let message = "\"top_logprobs\": found without \"logprobs\", expected with it";
        return Err(Problem::bad(message).about("top_logprobs"));
    }
    Ok(Logprobs::None)
}

/// The options of all answers.
fn request(
    fields: &mut Fields,
    interface: Interface,
    tokenizer: Option<&Tokenizer>,
    logprobs: Logprobs,
    limits: &Limits,
) -> Result<Request, Problem> {
    let newer = fields.size("max_completion_tokens");
    let asked = fields.size("max_tokens");
    let max_tokens = newer.or(asked).unwrap_or(limits.default_tokens.min(limits.max_tokens));
    if max_tokens > limits.max_tokens {
        let name = if newer.is_some() { "max_completion_tokens" } else { "max_tokens" };
        let message = format!("\"{name}\": found {max_tokens}, expected at most {}", limits.max_tokens);
        return Err(Problem::bad(message).about(name));
    }
    let mut stops = fields.read("stop", "a text or a list of texts", texts)?.unwrap_or_default();
    if stops.len() > STOPS || stops.iter().any(|stop| stop.len() > STOP_BYTES) {
        let message = format!("\"stop\": expected at most {STOPS} texts of at most {STOP_BYTES} bytes");
        return Err(Problem::bad(message).about("stop"));
    }
    if !stops.is_empty() && tokenizer.is_none() {
        return Err(Problem::bad("\"stop\": the model carries no tokenizer, expected none").about("stop"));
    }
    if interface == Interface::Chat {
        stops.push(USER.to_string());
    }
    let bias = fields.read("logit_bias", "numbers by token id", biases)?.unwrap_or_default();
    if bias.len() > BIASES {
        let message = format!("\"logit_bias\": found {} tokens, expected at most {BIASES}", bias.len());
        return Err(Problem::bad(message).about("logit_bias"));
    }
    let default = SamplerOptions::default();
    let sampler = SamplerOptions {
        temperature: fields.number("temperature").unwrap_or(default.temperature),
        top_k: fields.size("top_k").unwrap_or(default.top_k),
        top_p: fields.number("top_p").unwrap_or(default.top_p),
        min_p: fields.number("min_p").unwrap_or(default.min_p),
        repetition_penalty: fields.number("repetition_penalty").unwrap_or(default.repetition_penalty),
        repetition_window: fields.size("repetition_window").unwrap_or(default.repetition_window),
        seed: fields.integer("seed").unwrap_or_else(any_seed),
        logit_bias: bias,
    };
    let generate = GenerateOptions {
        max_tokens,
        time_limit: Some(limits.time),
        ignore_end: fields.flag("ignore_end"),
        logprobs: match logprobs {
            Logprobs::None => None,
            Logprobs::Most(most) => Some(most),
        },
    };
    Ok(Request { sampler, generate, stops, ..Request::default() })
}

/// Some seed, short enough to be typed again.
fn any_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64 / 100)
        % 1_000_000_000
}

fn include_usage(fields: &mut Fields) -> Result<bool, Problem> {
    let Some(options) = fields.take("stream_options") else { return Ok(false) };
    let expected = "an object with \"include_usage\", true or false";
    let map = options.as_object().ok_or_else(|| wrong("stream_options", &options, expected))?;
    let known = |(name, value): (&String, &Json)| {
        matches!(name.as_str(), "include_usage" | "include_obfuscation")
            && (value.is_boolean() || value.is_null())
    };
    if !map.iter().all(known) {
        return Err(wrong("stream_options", &options, expected));
    }
    Ok(map.get("include_usage").and_then(Json::as_bool).unwrap_or(false))
}

/// What restricts an answer, `Some(None)` if nothing does.
fn form(value: &Json) -> Option<Option<Form>> {
    let map = value.as_object()?;
    let own = match map.get("type")?.as_str()? {
        kind @ ("json_schema" | "regex" | "grammar") => Some(kind),
        "text" | "json_object" => None,
        _ => return None,
    };
    if !map.keys().all(|key| key == "type" || Some(key.as_str()) == own) {
        return None;
    }
    let text = |name: &str| map.get(name)?.as_str().map(str::to_string);
    match map.get("type")?.as_str()? {
        "text" => Some(None),
        "json_object" => Some(Some(Form::Json(serde_json::json!({"type": "object"})))),
        "regex" => Some(Some(Form::Regex(text("regex")?))),
        "grammar" => Some(Some(Form::Grammar(text("grammar")?))),
        _ => {
            let schema = map.get("json_schema")?.as_object()?.get("schema")?;
            Some(Some(Form::Json(schema.as_object().map(|_| schema.clone())?)))
        }
    }
}

fn texts(value: &Json) -> Option<Vec<String>> {
    let text = |value: &Json| value.as_str().map(str::to_string);
    match value {
        Json::Array(values) => values.iter().map(text).collect(),
        value => Some(vec![text(value)?]),
    }
}

enum Prompt {
    Text(String),
    Ids(Vec<u32>),
}

impl Prompt {
    fn tokens(&self, model: &Model, tokenizer: Option<&Tokenizer>) -> Result<Vec<u32>, Problem> {
        let tokens = match self {
            Prompt::Text(text) => encode(text, tokenizer)?,
            Prompt::Ids(ids) => ids.clone(),
        };
        if tokens.is_empty() {
            return Err(Problem::bad("\"prompt\": found 0 tokens, expected at least 1").about("prompt"));
        }
        model.check_tokens(&tokens)?;
        Ok(tokens)
    }
}

/// The prompts of a completion: a text, ids, or a list of either.
fn prompts(fields: &mut Fields) -> Result<Vec<Prompt>, Problem> {
    let one = |value: &Json| match value {
        Json::String(text) => Some(Prompt::Text(text.clone())),
        value => ids(value).map(Prompt::Ids),
    };
    let all = |value: &Json| match value {
        Json::Array(list) if list.first().is_some_and(|first| !first.is_number()) => {
            list.iter().map(one).collect()
        }
        value => Some(vec![one(value)?]),
    };
    Ok(fields.read("prompt", "a text, token ids, or a list of either", all)?.unwrap_or_default())
}

/// A conversation as a plain transcript, for models without a format of their own.
fn transcript(fields: &mut Fields) -> Result<String, Problem> {
    let expected =
        "a list of messages, each with a \"role\" (system, user or assistant) and a \"content\" of text";
    let all = |value: &Json| {
        let list = value.as_array().filter(|list| !list.is_empty())?;
        let mut text = String::new();
        for message in list {
            let map = message.as_object()?;
            if !map.keys().all(|key| matches!(key.as_str(), "role" | "content" | "name")) {
                return None;
            }
            let prefix = match map.get("role")?.as_str()? {
                "system" | "developer" => "",
                "user" => "User: ",
                "assistant" => "Assistant: ",
                _ => return None,
            };
            let content = match map.get("content")? {
                Json::String(content) => content.clone(),
                Json::Array(parts) => parts.iter().map(part).collect::<Option<String>>()?,
                _ => return None,
            };
            text += prefix;
            text += content.trim();
            text += "\n\n";
        }
        Some(text + "Assistant:")
    };
    Ok(fields.read("messages", expected, all)?.unwrap_or_default())
}

/// The text of a part of a message.
fn part(value: &Json) -> Option<&str> {
    let map = value.as_object().filter(|map| map.keys().all(|key| key == "type" || key == "text"))?;
    map.get("type")?.as_str().filter(|kind| *kind == "text")?;
    map.get("text")?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_becomes_a_transcript() {
        let body = r#"{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Hello"}]}]}"#;
        let mut fields = CHATS.read(body.as_bytes()).unwrap();
        assert_eq!(transcript(&mut fields).unwrap(), "Be brief.\n\nUser: Hello\n\nAssistant:");
        for wrong in [r#"[]"#, r#"[{"role": "robot", "content": ""}]"#, r#"[{"role": "user"}]"#, r#""x""#] {
            let mut fields = CHATS.read(format!("{{\"messages\": {wrong}}}").as_bytes()).unwrap();
            assert!(transcript(&mut fields).is_err(), "{wrong}");
        }
    }
}
