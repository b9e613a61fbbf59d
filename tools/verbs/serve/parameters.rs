//! The parameters of requests: one table from which they are checked, refused by name, and documented.

use serde_json::{Map, Value as Json, json};

use super::problem::{Problem, SHOWN};
use crate::output;

/// What values a parameter takes.
pub enum Kind {
    /// A number from the first to the second.
    Number(f64, f64),
    /// A whole number from the first to the second.
    Integer(i64, u64),
    /// True or false.
    Flag,
    /// A text.
    Text,
    /// Whatever this JSON schema says; its reader checks it.
    Schema(&'static str),
    /// A parameter of OpenAI's that is not supported: these values, which ask for nothing, are accepted.
    Unsupported(&'static str),
}

/// A parameter of a request.
pub struct Parameter {
    pub name: &'static str,
    pub kind: Kind,
    pub about: &'static str,
}

const fn parameter(name: &'static str, kind: Kind, about: &'static str) -> Parameter {
    Parameter { name, kind, about }
}

const MAX_TOKENS: u64 = u32::MAX as u64;
const LARGEST: f64 = 1e9;
/// Texts that may end one answer.
pub const STOPS: usize = 16;
/// Bytes of one of them.
pub const STOP_BYTES: usize = 1024;
/// Tokens with a bias in one request.
pub const BIASES: usize = 1024;
/// Alternatives whose log-probabilities are reported.
pub const LOGPROBS: u64 = 20;

/// What says how a text is generated: of completions and chats alike.
const GENERATION: &[Parameter] = &[
    parameter("model", Kind::Text, "The name of the model; may be left out"),
    parameter("max_tokens", Kind::Integer(0, MAX_TOKENS), "Maximum number of tokens [default: 256]"),
    parameter("n", Kind::Integer(1, 128), "Number of answers, with seeds seed, seed+1, ... [default: 1]"),
    parameter(
        "temperature",
        Kind::Number(0.0, LARGEST),
        "0 takes the most likely token [default: 0.8, as run]",
    ),
    parameter(
        "top_p",
        Kind::Number(1e-9, 1.0),
        "Keep the likeliest tokens that reach this probability [default: 0.95]",
    ),
    parameter("top_k", Kind::Integer(0, MAX_TOKENS), "Keep this number of tokens; 0 keeps all [default: 40]"),
    parameter(
        "min_p",
        Kind::Number(0.0, 1.0),
        "Keep tokens this probable relative to the likeliest [default: 0.05]",
    ),
    parameter(
        "repetition_penalty",
        Kind::Number(1e-9, LARGEST),
        "Makes recent tokens less likely [default: 1]",
    ),
    parameter(
        "repetition_window",
        Kind::Integer(0, MAX_TOKENS),
        "Number of tokens that are recent [default: 64]",
    ),
    parameter("seed", Kind::Integer(0, u64::MAX), "The same seed gives the same text [default: any]"),
    parameter(
        "stop",
        Kind::Schema(
            r#"{"anyOf":[{"type":"string","maxLength":256},{"type":"array","maxItems":16,"items":{"type":"string","maxLength":256}}]}"#,
        ),
        "Texts that end the answer before them",
    ),
    parameter("ignore_end", Kind::Flag, "Continue past the token that ends a text [default: false]"),
    parameter(
        "logit_bias",
        Kind::Schema(
            r#"{"type":"object","maxProperties":1024,"additionalProperties":{"type":"number","minimum":-1e9,"maximum":1e9}}"#,
        ),
        "Numbers that are added to the logits of tokens, by id",
    ),
    parameter(
        "response_format",
        Kind::Schema(
            r#"{"type":"object","required":["type"],"properties":{"type":{"enum":["text","json_object","json_schema","regex","grammar"]},"json_schema":{"type":"object","required":["schema"],"properties":{"name":{"type":"string"},"description":{"type":"string"},"strict":{"type":["boolean","null"]},"schema":{"type":"object"}}},"regex":{"type":"string"},"grammar":{"type":"string"}},"additionalProperties":false}"#,
        ),
        "Restricts the answer to JSON, a JSON schema, a regular expression or a grammar in the Lark syntax",
    ),
    parameter("stream", Kind::Flag, "Send tokens as they come, as server-sent events [default: false]"),
    parameter(
        "stream_options",
        Kind::Schema(
            r#"{"type":"object","properties":{"include_usage":{"type":"boolean"},"include_obfuscation":{"type":"boolean"}},"additionalProperties":false}"#,
        ),
        "include_usage adds an event with the numbers of tokens",
    ),
    parameter("user", Kind::Text, "Ignored"),
    parameter("frequency_penalty", Kind::Unsupported("[0]"), "Not supported"),
    parameter("presence_penalty", Kind::Unsupported("[0]"), "Not supported"),
];

const COMPLETION: &[Parameter] = &[
    parameter(
        "prompt",
        Kind::Schema(
            r#"{"anyOf":[{"type":"string"},{"type":"array","items":{"type":"string"}},{"type":"array","items":{"type":"integer","minimum":0}},{"type":"array","items":{"type":"array","items":{"type":"integer","minimum":0}}}]}"#,
        ),
        "A text, token ids, or a list of either",
    ),
    parameter("echo", Kind::Flag, "Begin the answer with the prompt [default: false]"),
    parameter(
        "logprobs",
        Kind::Integer(0, LOGPROBS),
        "Report log-probabilities, and this number of alternatives",
    ),
    parameter("best_of", Kind::Unsupported("[1]"), "Not supported"),
    parameter("suffix", Kind::Unsupported("[\"\"]"), "Not supported"),
];

const CHAT: &[Parameter] = &[
    parameter(
        "messages",
        Kind::Schema(
            r#"{"type":"array","minItems":1,"items":{"type":"object","required":["role","content"],"properties":{"role":{"enum":["system","developer","user","assistant"]},"content":{"anyOf":[{"type":"string"},{"type":"array","items":{"type":"object","required":["type","text"],"properties":{"type":{"const":"text"},"text":{"type":"string"}},"additionalProperties":false}}]},"name":{"type":"string"}},"additionalProperties":false}}"#,
        ),
        "The conversation so far, which becomes a plain transcript",
    ),
    parameter("max_completion_tokens", Kind::Integer(0, MAX_TOKENS), "As max_tokens"),
    parameter("logprobs", Kind::Flag, "Report log-probabilities [default: false]"),
    parameter("top_logprobs", Kind::Integer(0, LOGPROBS), "Number of alternatives that are reported"),
    parameter("metadata", Kind::Schema(r#"{"type":"object"}"#), "Ignored"),
    parameter("store", Kind::Unsupported("[false]"), "Not supported"),
    parameter(
        "tools",
        Kind::Schema(r#"{"type":"array","items":{"type":"object"}}"#),
        "Offered and never called: no model is trained for it",
    ),
    parameter("tool_choice", Kind::Unsupported("[\"none\",\"auto\"]"), "A call cannot be required"),
    parameter("parallel_tool_calls", Kind::Unsupported("[true,false]"), "Of no effect"),
    parameter("functions", Kind::Unsupported("[[]]"), "Not supported"),
    parameter("function_call", Kind::Unsupported("[\"none\"]"), "Not supported"),
    parameter("modalities", Kind::Unsupported("[[\"text\"]]"), "Not supported"),
    parameter("audio", Kind::Unsupported("[]"), "Not supported"),
    parameter("prediction", Kind::Unsupported("[]"), "Not supported"),
    parameter("reasoning_effort", Kind::Unsupported("[]"), "Not supported"),
    parameter("web_search_options", Kind::Unsupported("[]"), "Not supported"),
    parameter("service_tier", Kind::Unsupported("[\"auto\",\"default\"]"), "Not supported"),
];

/// The body of a request: what it takes, and what it must have.
pub struct Shape {
    pub parameters: &'static [&'static [Parameter]],
    pub required: &'static [&'static str],
}

pub const COMPLETIONS: Shape = Shape { parameters: &[COMPLETION, GENERATION], required: &["prompt"] };
pub const CHATS: Shape = Shape { parameters: &[CHAT, GENERATION], required: &["messages"] };
pub const TOKENIZE: Shape =
    Shape { parameters: &[&[parameter("text", Kind::Text, "The text")]], required: &["text"] };
const IDS: &str = r#"{"type":"array","items":{"type":"integer","minimum":0}}"#;
pub const DETOKENIZE: Shape =
    Shape { parameters: &[&[parameter("tokens", Kind::Schema(IDS), "Token ids")]], required: &["tokens"] };
pub const SCORE: Shape = Shape {
    parameters: &[&[
        parameter("prompt", Kind::Text, "The text that the continuations follow"),
        parameter("tokens", Kind::Schema(IDS), "Token ids instead of a prompt"),
        parameter(
            "continuations",
            Kind::Schema(
                r#"{"type":"array","minItems":1,"items":{"anyOf":[{"type":"string"},{"type":"array","items":{"type":"integer","minimum":0}}]}}"#,
            ),
            "Texts or lists of token ids",
        ),
    ]],
    required: &["continuations"],
};

impl Kind {
    /// The JSON schema of a value.
    fn schema(&self) -> Json {
        match self {
            Kind::Number(least, most) => {
                json!({"type": ["number", "null"], "minimum": least, "maximum": most})
            }
            Kind::Integer(least, most) => {
                json!({"type": ["integer", "null"], "minimum": least, "maximum": most})
            }
            Kind::Flag => json!({"type": ["boolean", "null"]}),
            Kind::Text => json!({"type": ["string", "null"]}),
            Kind::Schema(text) => json!({"anyOf": [parsed(text), {"type": "null"}]}),
            Kind::Unsupported(values) => {
                let mut values = parsed(values);
                if let Some(values) = values.as_array_mut() {
                    values.push(Json::Null);
                }
                json!({"enum": values})
            }
        }
    }

    /// What was expected, if a value does not fit.
    fn refusal(&self, value: &Json) -> Option<String> {
        let (fits, expected) = match self {
            Kind::Number(least, most) => {
                let fits = value.as_f64().is_some_and(|value| value >= *least && value <= *most);
                (fits, format!("a number from {least} to {most}"))
            }
            Kind::Integer(least, most) => {
                let range = i128::from(*least)..=i128::from(*most);
                let fits = value.as_u64().is_some_and(|value| range.contains(&i128::from(value)));
                (fits, format!("a whole number from {least} to {most}"))
            }
            Kind::Flag => (value.is_boolean(), "true or false".to_string()),
            Kind::Text => (value.is_string(), "a text".to_string()),
            Kind::Schema(_) => (true, String::new()),
            Kind::Unsupported(values) => {
                let fits = parsed(values).as_array().is_some_and(|values| {
                    values.iter().any(|known| {
                        known == value || known.as_f64().is_some() && known.as_f64() == value.as_f64()
                    })
                });
                (fits, "none: it is not supported".to_string())
            }
        };
        if fits { None } else { Some(expected) }
    }
}

/// JSON of this program.
fn parsed(text: &str) -> Json {
    serde_json::from_str(text).unwrap_or_default()
}

impl Shape {
    fn all(&self) -> impl Iterator<Item = &'static Parameter> {
        self.parameters.iter().flat_map(|list| list.iter())
    }

    /// The JSON schema of the body.
    pub fn schema(&self) -> Json {
        let mut properties = Map::new();
        for parameter in self.all() {
            let mut schema = parameter.kind.schema();
            if self.required.contains(&parameter.name) {
                schema = match &parameter.kind {
                    Kind::Schema(text) => parsed(text),
                    _ => json!({"type": "string"}),
                };
            }
            schema["description"] = parameter.about.into();
            properties.insert(parameter.name.to_string(), schema);
        }
        json!({"type": "object", "properties": properties, "required": self.required, "additionalProperties": false})
    }

    /// Parses and checks a body.
    ///
    /// # Errors
    /// If it is not a JSON object, or a parameter is unknown, not supported or out of range; the error names it.
    pub fn read(&self, bytes: &[u8]) -> Result<Fields, Problem> {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let at = error.valid_up_to();
            Problem::bad(format!("body: found a byte at {at} that is not UTF-8, expected UTF-8"))
        })?;
        let json: Json = serde_json::from_str(text)
            .map_err(|error| Problem::bad(format!("body: {error}, expected a JSON object")))?;
        let Json::Object(map) = json else {
            return Err(Problem::bad(format!("body: found {}, expected a JSON object", shown(&json))));
        };
        let mut fields = Map::new();
        for (name, value) in map {
            let Some(parameter) = self.all().find(|parameter| parameter.name == name) else {
                return Err(self.unknown(&name));
            };
            if value.is_null() {
                continue;
            }
            if let Some(expected) = parameter.kind.refusal(&value) {
                return Err(wrong(parameter.name, &value, &expected));
            }
            if !matches!(parameter.kind, Kind::Unsupported(_)) {
                fields.insert(name, value);
            }
        }
        match self.required.iter().find(|name| !fields.contains_key(**name)) {
            Some(name) => Err(Problem::bad(format!("body: found no \"{name}\", expected one")).about(name)),
            None => Ok(Fields(fields)),
        }
    }

    fn unknown(&self, name: &str) -> Problem {
        let near = |known: &&Parameter| {
            known.name.len() > 3 && strsim::damerau_levenshtein(known.name, &name.to_lowercase()) <= 2
        };
        let meant = match self.all().find(near) {
            Some(known) => format!("; did you mean \"{}\"?", known.name),
            None => String::new(),
        };
        let (shown, _) = output::beginning(name, SHOWN);
        Problem::bad(format!("body: found an unknown parameter {shown:?}, expected a known one{meant}"))
            .about(shown)
    }
}

fn shown(value: &Json) -> String {
    let text = value.to_string();
    let (start, more) = output::beginning(&text, SHOWN);
    format!("{start}{more}")
}

/// A parameter that is `found` where `expected` was required.
pub fn wrong(name: &str, found: &Json, expected: &str) -> Problem {
    Problem::bad(format!("\"{name}\": found {}, expected {expected}", shown(found))).about(name)
}

/// The parameters of a request that were given; each can be taken once.
pub struct Fields(Map<String, Json>);

impl Fields {
    /// Takes a parameter.
    pub fn take(&mut self, name: &str) -> Option<Json> {
        self.0.remove(name)
    }

    /// Takes a parameter that `read` understands.
    ///
    /// # Errors
    /// If it does not.
    pub fn read<T>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&Json) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        let Some(value) = self.take(name) else { return Ok(None) };
        read(&value).map(Some).ok_or_else(|| wrong(name, &value, expected))
    }

    /// Takes a number.
    pub fn number(&mut self, name: &str) -> Option<f32> {
        self.take(name)?.as_f64().map(|value| value as f32)
    }

    /// Takes a whole number.
    pub fn integer(&mut self, name: &str) -> Option<u64> {
        self.take(name)?.as_u64()
    }

    /// Takes a size.
    pub fn size(&mut self, name: &str) -> Option<usize> {
        self.integer(name).map(|value| usize::try_from(value).unwrap_or(usize::MAX))
    }

    /// Takes a flag.
    pub fn flag(&mut self, name: &str) -> bool {
        self.take(name).and_then(|value| value.as_bool()).unwrap_or(false)
    }

    /// Takes a text.
    pub fn text(&mut self, name: &str) -> Option<String> {
        self.take(name)?.as_str().map(str::to_string)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_is_json() {
        for shape in [COMPLETIONS, CHATS, TOKENIZE, DETOKENIZE, SCORE] {
            for parameter in shape.all() {
                if let Kind::Schema(text) | Kind::Unsupported(text) = &parameter.kind {
                    assert!(serde_json::from_str::<Json>(text).is_ok(), "{}", parameter.name);
                }
            }
        }
    }

    #[test]
    fn a_wrong_parameter_is_named() {
        let message = |body: &str| COMPLETIONS.read(body.as_bytes()).err().map(|problem| problem.message);
        assert_eq!(message(r#"{"prompt": "x", "seed": 18446744073709551615, "suffix": null}"#), None);
        for (body, text) in [
            ("[1]", "body: found [1], expected a JSON object"),
            ("{", "body: EOF while parsing"),
            ("{}", "found no \"prompt\""),
            (r#"{"prompt": "x", "max_token": 3}"#, "did you mean \"max_tokens\"?"),
            (r#"{"prompt": "x", "n": -3}"#, "\"n\": found -3, expected a whole number from 1 to 128"),
            (r#"{"prompt": "x", "n": 1.5}"#, "\"n\": found 1.5"),
            (r#"{"prompt": "x", "temperature": -1}"#, "\"temperature\": found -1"),
            (
                r#"{"prompt": "x", "suffix": "y"}"#,
                "\"suffix\": found \"y\", expected none: it is not supported",
            ),
        ] {
            let message = message(body).unwrap_or_default();
            assert!(message.contains(text), "{message}");
        }
        assert!(COMPLETIONS.read(b"\xff").is_err());
        let deep = format!("{{\"prompt\": {}", "[".repeat(100_000));
        assert!(COMPLETIONS.read(deep.as_bytes()).is_err());
    }
}
