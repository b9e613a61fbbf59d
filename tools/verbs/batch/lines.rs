//! The lines of the input: JSON objects, each checked on its own, so that one that is wrong stops no other.

use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, sync_channel};

use cinderblock::{Error, ErrorKind, Result};
use serde_json::{Map, Value as Json};

use super::journal::{Name, digest};
use crate::constraint::Form;
use crate::output;
use crate::prompt::{Prompt, ids};

/// Bytes of a line at most.
const MOST_BYTES: u64 = 16 << 20;
/// Lines that are read ahead.
const AHEAD: usize = 64;
/// What some editors write before the first line.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Bytes of the digest of a line.
const DIGEST: usize = 8;
/// Characters of a value that an error shows.
const SHOWN: usize = 60;

/// A line and its number, from 1.
pub struct Line {
    pub number: u64,
    pub bytes: Result<Vec<u8>>,
}

/// Reads lines in a thread of its own, because a pipe may let it wait. Lines of white space are left out.
///
/// # Errors
/// `Resource` if the thread cannot be started.
pub fn read(input: impl Read + Send + 'static) -> Result<Receiver<Line>> {
    let (sender, receiver) = sync_channel(AHEAD);
    let thread = std::thread::Builder::new().name("lines".into());
    let started = thread.spawn(move || {
        let mut input = BufReader::new(input);
        for number in 1.. {
            let bytes = match next(&mut input) {
                Ok(Some(bytes)) => bytes,
                Ok(None) => break,
                Err(error) => {
                    let _ = sender.send(Line { number, bytes: Err(Error::io_text(&error)) });
                    break;
                }
            };
            // Files that were joined have one in the middle, too.
            let bytes = match bytes.strip_prefix(BYTE_ORDER_MARK) {
                Some(rest) => rest.to_vec(),
                None => bytes,
            };
            let blank = bytes.iter().all(u8::is_ascii_whitespace);
            let bytes = if bytes.len() as u64 > MOST_BYTES {
                Err(Error::mismatch("line", format!("more than {MOST_BYTES} bytes"), "fewer"))
            } else {
                Ok(bytes)
            };
            if !blank && sender.send(Line { number, bytes }).is_err() {
                break;
            }
        }
    });
    match started {
        Ok(_) => Ok(receiver),
        Err(error) => Err(Error::new(
            ErrorKind::Resource,
            format!("thread of the input: {}", Error::io_text(&error).detail()),
        )),
    }
}

/// How many lines there are, those of white space included.
pub fn count(input: impl Read) -> std::io::Result<u64> {
    let mut input = BufReader::new(input);
    let mut lines = 0;
    while input.skip_until(b'\n')? > 0 {
        lines += 1;
    }
    Ok(lines)
}

/// The next line without its end, and of one that is too long a bit more than is allowed; `None` at the end.
fn next(input: &mut impl BufRead) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    if input.take(MOST_BYTES + 2).read_until(b'\n', &mut bytes)? == 0 {
        return Ok(None);
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    } else if bytes.len() as u64 > MOST_BYTES {
        input.skip_until(b'\n')?;
    }
    Ok(Some(bytes))
}

/// What a line may say, and the options' own names where these differ.
const FIELDS: [&str; 20] = [
    "id",
    "prompt",
    "tokens",
    "max_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "repetition_window",
    "logit_bias",
    "seed",
    "stop",
    "ignore_end",
    "logprobs",
    "continuations",
    "json_schema",
    "regex",
    "grammar",
    "temp",
];

/// The field that a name is, with `-` for `_` as in options.
fn field(name: &str) -> Option<&'static str> {
    let name = name.replace('-', "_");
    let known = FIELDS.into_iter().find(|field| *field == name)?;
    Some(if known == "temp" { "temperature" } else { known })
}

/// The field that a name is a misspelling of: one letter away. Of a short one, where another letter makes other words,
/// one with a letter more or fewer, or with two of them exchanged.
fn meant(name: &str) -> Option<&'static str> {
    let name = name.to_lowercase().replace(['-', ' '], "_");
    let near = |field: &&str| match field.len() {
        0..3 => *field == name,
        3..5 => {
            let substituted = field.len() == name.len() && strsim::hamming(field, &name) == Ok(1);
            !substituted && strsim::damerau_levenshtein(field, &name) <= 1
        }
        _ => strsim::damerau_levenshtein(field, &name) <= 1,
    };
    FIELDS.into_iter().find(near)
}

/// The fields of a line that have not been asked for yet.
#[derive(Debug)]
pub struct Fields(Map<String, Json>);

fn wrong(name: &str, found: &Json, expected: &str) -> Error {
    let found = found.to_string();
    let (start, more) = output::beginning(&found, SHOWN);
    Error::mismatch(format!("\"{name}\""), format!("{start}{more}"), expected)
}

/// Parses a line: by what it is known, and its fields or what is wrong with it.
pub fn parse(number: u64, line: Result<Vec<u8>>) -> (Name, Result<Fields>) {
    let mut name = Name { id: Json::Null, line: number, digest: String::new(), columns: Map::new() };
    let map = line.and_then(|bytes| {
        name.digest = digest(&bytes, DIGEST);
        object(&bytes)
    });
    let mut map = match map {
        Ok(map) => map,
        Err(error) => return (name, Err(error)),
    };
    // The order of fields and white space are no content.
    let mut content = Json::Object(map.clone());
    content.sort_all_objects();
    name.digest = digest(content.to_string(), DIGEST);
    let id = map.remove("id").unwrap_or(Json::Null);
    let known = id.is_string() || id.is_u64() || id.is_i64();
    let mut fields = Map::new();
    for (column, value) in map {
        let Some(field) = field(&column) else {
            if let Some(field) = meant(&column) {
                name.id = if known { id } else { Json::Null };
                let detail = format!("line: found a field {column:?}, expected {field:?} or another name");
                return (name, Err(Error::format(detail)));
            }
            name.columns.insert(column, value);
            continue;
        };
        if fields.insert(field.to_string(), value).is_some() {
            name.id = if known { id } else { Json::Null };
            let detail = format!("line: found {field:?} by two names, expected one");
            return (name, Err(Error::format(detail)));
        }
    }
    if !known {
        return (name, Err(wrong("id", &id, "a text or a whole number")));
    }
    name.id = id;
    (name, Ok(Fields(fields)))
}

/// A line as a JSON object.
fn object(line: &[u8]) -> Result<Map<String, Json>> {
    let text = std::str::from_utf8(line).map_err(|error| {
        let at = error.valid_up_to();
        Error::mismatch("line", format!("a byte at {at} that is not UTF-8"), "UTF-8")
    })?;
    let json = serde_json::from_str(text).map_err(|error| {
        // Its own line is always the first.
        let text = error.to_string();
        let what = text.split(" at line ").next().unwrap_or_default();
        Error::format(format!("line: column {}: {what}, expected a JSON object", error.column()))
    })?;
    match json {
        Json::Object(map) => Ok(map),
        other => Err(wrong("line", &other, "a JSON object")),
    }
}

impl Fields {
    /// Takes a field; `null` is as good as none.
    ///
    /// # Errors
    /// If `read` does not take it.
    pub fn take<T>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&Json) -> Option<T>,
    ) -> Result<Option<T>> {
        match self.0.remove(name) {
            None | Some(Json::Null) => Ok(None),
            Some(value) => read(&value).map(Some).ok_or_else(|| wrong(name, &value, expected)),
        }
    }

    /// Whether there is a field.
    pub fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|value| !value.is_null())
    }

    /// Takes a number.
    pub fn float(&mut self, name: &str) -> Result<Option<f32>> {
        self.take(name, "a number", |value| value.as_f64().map(|value| value as f32))
    }

    /// Takes a whole number that is not negative.
    pub fn size(&mut self, name: &str) -> Result<Option<usize>> {
        let size = |value: &Json| value.as_u64().map(|value| usize::try_from(value).unwrap_or(usize::MAX));
        self.take(name, "a whole number", size)
    }

    /// Takes a size of which -1 is all there are: `all`.
    pub fn size_or_all(&mut self, name: &str, all: usize) -> Result<Option<usize>> {
        let size = |value: &Json| match value.as_i64() {
            Some(-1) => Some(all),
            _ => value.as_u64().map(|value| usize::try_from(value).unwrap_or(usize::MAX)),
        };
        self.take(name, "a whole number, or -1 for all", size)
    }

    /// Takes the limit of a text. There is always one: a line without an end would keep the others waiting.
    pub fn limit(&mut self) -> Result<Option<usize>> {
        let size = |value: &Json| value.as_u64().map(|value| usize::try_from(value).unwrap_or(usize::MAX));
        self.take("max_tokens", "a whole number; without it, -n is the limit", size)
    }

    /// Takes the seed. An answer that any seed may give could not be told from another run's.
    pub fn seed(&mut self) -> Result<Option<u64>> {
        self.take("seed", "a whole number; without it, --seed and the id give one", Json::as_u64)
    }

    /// Takes what restricts the answer: one of `json_schema`, `regex` and `grammar`.
    ///
    /// # Errors
    /// If there are several.
    pub fn form(&mut self) -> Result<Option<Form>> {
        let text = |value: &Json| value.as_str().map(str::to_string);
        let schema = self.take("json_schema", "a JSON schema", |value| match value {
            Json::Object(_) | Json::Bool(_) => Some(Form::Json(value.clone())),
            _ => None,
        })?;
        let regex = self.take("regex", "a text", text)?.map(Form::Regex);
        let grammar = self.take("grammar", "a text", text)?.map(Form::Grammar);
        let mut forms = schema.into_iter().chain(regex).chain(grammar);
        match (forms.next(), forms.next()) {
            (form, None) => Ok(form),
            _ => Err(Error::format(
                "line: found several of \"json_schema\", \"regex\" and \"grammar\", expected one",
            )),
        }
    }

    /// Takes the prompt: `prompt` as a text or `tokens` as ids.
    ///
    /// # Errors
    /// If there is none, or both.
    pub fn prompt(&mut self) -> Result<Prompt> {
        let text = self.take("prompt", "a text", |value| value.as_str().map(str::to_string))?;
        let ids = self.take("tokens", "a list of token ids", ids)?;
        match (text, ids) {
            (Some(text), None) => Ok(Prompt::Text(text)),
            (None, Some(ids)) => Ok(Prompt::Ids(ids)),
            (Some(_), Some(_)) => {
                Err(Error::format("line: found \"prompt\" and \"tokens\", expected one of them"))
            }
            (None, None) => Err(Error::format("line: found no \"prompt\", expected one, or \"tokens\"")),
        }
    }
}

/// Biases of tokens: `{"ID": BIAS}` or `[[ID, BIAS]]`, with `"-inf"` or `false` for tokens that are forbidden.
pub fn biases(value: &Json) -> Option<Vec<(u32, f32)>> {
    let bias = |value: &Json| match value {
        Json::Bool(false) => Some(f32::NEG_INFINITY),
        Json::String(text) if text == "-inf" => Some(f32::NEG_INFINITY),
        value => value.as_f64().map(|bias| bias as f32),
    };
    match value {
        Json::Object(map) => map.iter().map(|(id, value)| Some((id.parse().ok()?, bias(value)?))).collect(),
        value => {
            let pair = |pair: &Json| match pair.as_array()?.as_slice() {
                [id, value] => Some((u32::try_from(id.as_u64()?).ok()?, bias(value)?)),
                _ => None,
            };
            value.as_array()?.iter().map(pair).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_numbered_and_may_be_too_long() {
        let mut text = b"a\n\n  \r\nb\r\n".to_vec();
        text.extend(vec![b'x'; MOST_BYTES as usize + 5]);
        text.extend(b"\nlast");
        let lines: Vec<Line> = read(std::io::Cursor::new(text)).unwrap().iter().collect();
        let numbers: Vec<u64> = lines.iter().map(|line| line.number).collect();
        assert_eq!(numbers, [1, 4, 5, 6]);
        assert!(lines[2].bytes.as_ref().is_err_and(|error| error.detail().contains("more than")));
        assert_eq!(lines[3].bytes.as_ref().unwrap(), b"last");
    }

    #[test]
    fn a_byte_order_mark_is_no_content() {
        let text = b"\xef\xbb\xbf{}\n\xef\xbb\xbf{}\n{\"a\":\"\xef\xbb\xbf\"}\n\xef\xbb\xbf";
        let lines: Vec<Line> = read(std::io::Cursor::new(text)).unwrap().iter().collect();
        let lines: Vec<Vec<u8>> = lines.into_iter().map(|line| line.bytes.unwrap()).collect();
        assert_eq!(lines, [&b"{}"[..], b"{}", b"{\"a\":\"\xef\xbb\xbf\"}"]);
    }

    #[test]
    fn minus_one_is_all_there_are_or_refused_with_what_to_write() {
        let fields = |line: &str| parse(7, Ok(line.as_bytes().to_vec())).1.unwrap();
        let mut line = fields(r#"{"id": 1, "max_tokens": -1, "top_k": -1, "seed": -1}"#);
        assert_eq!(line.size_or_all("top_k", 0).unwrap(), Some(0));
        let error = line.seed().unwrap_err().to_string();
        assert!(error.ends_with("found -1, expected a whole number; without it, --seed and the id give one"));
        let error = line.limit().unwrap_err().to_string();
        assert!(error.ends_with("found -1, expected a whole number; without it, -n is the limit"), "{error}");
        let mut line =
            fields(r#"{"id": 1, "repetition_window": -2, "top_k": 3, "seed": 18446744073709551615}"#);
        let error = line.size_or_all("repetition_window", usize::MAX).unwrap_err().to_string();
        assert!(error.ends_with("found -2, expected a whole number, or -1 for all"), "{error}");
        assert_eq!((line.size_or_all("top_k", 0).unwrap(), line.seed().unwrap()), (Some(3), Some(u64::MAX)));
    }

    #[test]
    fn errors_of_a_line_name_what_is_wrong() {
        let error = |line: &str| {
            let (_, fields) = parse(7, Ok(line.as_bytes().to_vec()));
            let mut fields = fields?;
            fields.take("logit_bias", "biases", biases)?;
            fields.limit()
        };
        assert!(error(r#"{"id": "a", "max_tokens": 3}"#).is_ok());
        for (line, text) in [
            ("{", "line: column 1: EOF while parsing an object, expected a JSON object"),
            ("[1]", "found [1], expected a JSON object"),
            ("{}", "\"id\": found null, expected a text or a whole number"),
            (r#"{"id": 1.5}"#, "found 1.5"),
            (r#"{"id": 1, "max_tokens": -3}"#, "\"max_tokens\": found -3, expected a whole number"),
            (r#"{"id": 1, "max_token": 2}"#, "found a field \"max_token\", expected \"max_tokens\""),
            (r#"{"id": 1, "stops": "x"}"#, "found a field \"stops\", expected \"stop\" or another name"),
            (r#"{"id": 1, "seeds": 2}"#, "expected \"seed\""),
            (r#"{"id": 1, "Seed": 2}"#, "expected \"seed\""),
            (r#"{"id": 1, "Temp": 2}"#, "expected \"temp\""),
            (r#"{"id": 1, "tmep": 2}"#, "expected \"temp\""),
            (r#"{"ID": 1}"#, "expected \"id\""),
            (r#"{"id": 1, "temp": 2, "temperature": 1}"#, "\"temperature\" by two names"),
            (r#"{"id": 1, "logit_bias": [[1]]}"#, "found [[1]]"),
        ] {
            let error = error(line).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
        assert!(parse(7, Ok(b"\xff".to_vec())).1.is_err_and(|error| error.detail().contains("at 0")));
    }

    #[test]
    fn other_columns_are_kept_and_options_go_by_their_names() {
        let line = br#"{"label": [1], "max-tokens": 3, "step": 4, "id": 5, "temp": 0.5}"#;
        let (name, fields) = parse(7, Ok(line.to_vec()));
        let mut fields = fields.unwrap();
        assert_eq!((fields.limit().unwrap(), fields.float("temperature").unwrap()), (Some(3), Some(0.5)));
        assert_eq!(Json::Object(name.columns), serde_json::json!({"label": [1], "step": 4}));
        // White space and order are not content.
        let same = br#"{"id":5,"temp":0.5,"max-tokens":3,"label":[1],"step":4}"#;
        assert_eq!(parse(8, Ok(same.to_vec())).0.digest, name.digest);
        let biased = |text: &str| biases(&serde_json::from_str(text).unwrap());
        let expected = vec![(7, -1.5), (8, f32::NEG_INFINITY)];
        assert_eq!(biased(r#"{"7": -1.5, "8": "-inf"}"#), Some(expected.clone()));
        assert_eq!(biased(r#"[[7, -1.5], [8, false]]"#), Some(expected));
        assert_eq!(biased(r#"{"x": 1}"#), None);
    }
}
