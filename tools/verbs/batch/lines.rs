//! The lines of the input: JSON objects, each checked on its own, so that one that is wrong stops no other.

use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, sync_channel};

use cinderblock::Model;
use cinderblock::error::{Error, Result};
use cinderblock::generation::tokenizer::Tokenizer;
use serde_json::{Map, Value as Json};

/// Bytes of a line at most.
const MOST_BYTES: u64 = 16 << 20;
/// Lines that are read ahead.
const AHEAD: usize = 64;
/// Characters of a value that an error shows.
const SHOWN: usize = 60;

/// A line and its number, from 1.
pub struct Line {
    pub number: u64,
    pub bytes: Result<Vec<u8>>,
}

/// Reads lines in a thread of its own, because a pipe may let it wait. Lines of white space are left out.
pub fn read(input: impl Read + Send + 'static) -> Receiver<Line> {
    let (sender, receiver) = sync_channel(AHEAD);
    std::thread::spawn(move || {
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
    receiver
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

/// The fields of a line that have not been asked for yet.
pub struct Fields(Map<String, Json>);

fn wrong(name: &str, found: &Json, expected: &str) -> Error {
    let mut found = found.to_string();
    if let Some((end, _)) = found.char_indices().nth(SHOWN) {
        found.truncate(end);
        found += "...";
    }
    Error::mismatch(format!("\"{name}\""), found, expected)
}

impl Fields {
    /// Parses a line, and takes its id: a text or a whole number.
    ///
    /// # Errors
    /// If it is no JSON object or has no id.
    pub fn parse(line: &[u8]) -> Result<(Json, Fields)> {
        let text = std::str::from_utf8(line).map_err(|error| {
            let at = error.valid_up_to();
            Error::mismatch("line", format!("a byte at {at} that is not UTF-8"), "UTF-8")
        })?;
        let json = serde_json::from_str(text)
            .map_err(|error| Error::format(format!("line: {error}, expected a JSON object")))?;
        let Json::Object(mut map) = json else { return Err(wrong("line", &json, "a JSON object")) };
        let id = map.remove("id").unwrap_or(Json::Null);
        if id.is_string() || id.is_u64() || id.is_i64() {
            return Ok((id, Fields(map)));
        }
        Err(wrong("id", &id, "a text or a whole number"))
    }

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

    /// A field that stays to be taken.
    pub fn peek(&self, name: &str) -> Option<&Json> {
        self.0.get(name)
    }

    /// Takes a number.
    pub fn float(&mut self, name: &str) -> Result<Option<f32>> {
        self.take(name, "a number", |value| value.as_f64().map(|value| value as f32))
    }

    /// Takes a whole number that is not negative.
    pub fn integer(&mut self, name: &str) -> Result<Option<u64>> {
        self.take(name, "a whole number", Json::as_u64)
    }

    /// Takes a size.
    pub fn size(&mut self, name: &str) -> Result<Option<usize>> {
        Ok(self.integer(name)?.map(|value| usize::try_from(value).unwrap_or(usize::MAX)))
    }

    /// Takes the prompt: `prompt` as a text or `tokens` as ids.
    ///
    /// # Errors
    /// If there is none, or both, or an empty one.
    pub fn prompt(&mut self, model: &Model, tokenizer: Option<&Tokenizer>) -> Result<Vec<u32>> {
        let text = self.take("prompt", "a text", |value| value.as_str().map(str::to_string))?;
        let ids = self.take("tokens", "a list of token ids", ids)?;
        let tokens = match (text, ids) {
            (Some(text), None) => encode(&text, tokenizer)?,
            (None, Some(ids)) => ids,
            (Some(_), Some(_)) => {
                return Err(Error::format("line: found \"prompt\" and \"tokens\", expected one of them"));
            }
            (None, None) => {
                return Err(Error::format("line: found no \"prompt\", expected one, or \"tokens\""));
            }
        };
        if tokens.is_empty() {
            return Err(Error::format("prompt: found 0 tokens, expected at least 1"));
        }
        model.check_tokens(&tokens)?;
        Ok(tokens)
    }

    /// Makes sure that every field has been taken.
    ///
    /// # Errors
    /// The first one that has not.
    pub fn finish(self) -> Result<()> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(Error::format(format!("line: found a field {name:?} that is not known"))),
        }
    }
}

/// A list of token ids.
pub fn ids(value: &Json) -> Option<Vec<u32>> {
    value.as_array()?.iter().map(|id| u32::try_from(id.as_u64()?).ok()).collect()
}

/// The tokens of a text; none of an empty one.
pub fn encode(text: &str, tokenizer: Option<&Tokenizer>) -> Result<Vec<u32>> {
    let tokenizer = tokenizer.ok_or_else(|| {
        Error::unsupported("the model carries no tokenizer: found text, expected token ids")
    })?;
    if text.is_empty() { Ok(Vec::new()) } else { tokenizer.encode(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_numbered_and_may_be_too_long() {
        let mut text = b"a\n\n  \r\nb\r\n".to_vec();
        text.extend(vec![b'x'; MOST_BYTES as usize + 5]);
        text.extend(b"\nlast");
        let lines: Vec<Line> = read(std::io::Cursor::new(text)).iter().collect();
        let numbers: Vec<u64> = lines.iter().map(|line| line.number).collect();
        assert_eq!(numbers, [1, 4, 5, 6]);
        assert!(lines[2].bytes.as_ref().is_err_and(|error| error.detail().contains("more than")));
        assert_eq!(lines[3].bytes.as_ref().unwrap(), b"last");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let error = |line: &str| {
            let (_, mut fields) = Fields::parse(line.as_bytes())?;
            fields.size("max_tokens")?;
            fields.finish()
        };
        assert!(error(r#"{"id": "a", "max_tokens": 3}"#).is_ok());
        for (line, text) in [
            ("{", "expected a JSON object"),
            ("[1]", "found [1], expected a JSON object"),
            ("{}", "\"id\": found null, expected a text or a whole number"),
            (r#"{"id": 1.5}"#, "found 1.5"),
            (r#"{"id": 1, "max_tokens": -3}"#, "\"max_tokens\": found -3, expected a whole number"),
            (r#"{"id": 1, "other": 2}"#, "found a field \"other\""),
        ] {
            let error = error(line).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
        assert!(Fields::parse(b"\xff").is_err_and(|error| error.detail().contains("at 0")));
    }
}
