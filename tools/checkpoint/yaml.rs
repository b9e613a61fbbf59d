//! YAML (and JSON, which is nearly YAML) as people and PyYAML write it, read into plain values.
//!
//! Anchors, aliases and merge keys are followed, within a budget: a few hundred bytes of them can stand for gigabytes.
//! Tags of other languages' objects have no effect.

use std::cell::Cell;
use std::fmt;

use cinderblock::{Error, Result};
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};

/// One value of a document.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Value>),
    Map(Vec<(String, Value)>),
}

/// Values and bytes of text that a document may expand to. The authors' configurations have about a hundred values.
const BUDGET: usize = 1 << 20;

/// What a byte order mark is in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Bytes without a byte order mark in front.
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes)
}

impl Value {
    /// Reads a document.
    ///
    /// # Errors
    /// If it is not valid, names a key twice, or is more than one document.
    pub fn parse(bytes: &[u8]) -> Result<Value> {
        let left = Cell::new(BUDGET);
        Expand(&left)
            .deserialize(serde_yaml_ng::Deserializer::from_slice(without_mark(bytes)))
            .map_err(|error| Error::format(format!("not valid YAML: {error}")))
    }

    /// The value of a key of a section.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let Value::Map(entries) = self else { return None };
        entries.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// The text, if it is text.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The integer, if it is one that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Value::Integer(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// The number. PyYAML writes and reads `1e-05` as text.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Integer(value) => Some(*value as f64),
            Value::Float(value) => Some(*value),
            Value::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// The truth value. `yes`, `no`, `on` and `off` are some to PyYAML, and text to YAML 1.2.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            Value::Text(text) => match text.to_ascii_lowercase().as_str() {
                "yes" | "on" => Some(true),
                "no" | "off" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }
}

/// As an error shows it: one line, not too long.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Integer(value) => write!(f, "{value}"),
            Value::Float(value) if value.is_nan() => f.write_str(".nan"),
            Value::Float(value) => write!(f, "{value}"),
            Value::Text(text) => f.write_str(&text.chars().take(60).collect::<String>()),
            Value::List(_) => f.write_str("a list"),
            Value::Map(_) => f.write_str("a section"),
        }
    }
}

/// Builds values; each, with the bytes of its text, is taken from a budget.
#[derive(Clone, Copy)]
struct Expand<'b>(&'b Cell<usize>);

impl Expand<'_> {
    fn take<E: serde::de::Error>(self, amount: usize) -> std::result::Result<(), E> {
        let left = self.0.get().checked_sub(1 + amount);
        self.0.set(left.ok_or_else(|| E::custom("its aliases expand to too much"))?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Expand<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, input: D) -> std::result::Result<Value, D::Error> {
        self.take(0)?;
        input.deserialize_any(self)
    }
}

macro_rules! visit {
    ($($name:ident($type:ty) => $make:expr;)*) => {
        $(fn $name<E: serde::de::Error>(self, value: $type) -> std::result::Result<Value, E> {
            Ok($make(value))
        })*
    };
}

impl<'de> Visitor<'de> for Expand<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("plain values, lists and sections, without tags")
    }

    visit! {
        visit_bool(bool) => Value::Bool;
        visit_i64(i64) => |value| Value::Integer(i128::from(value));
        visit_u64(u64) => |value| Value::Integer(i128::from(value));
        visit_i128(i128) => Value::Integer;
        visit_f64(f64) => Value::Float;
    }

    fn visit_unit<E: serde::de::Error>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<Value, E> {
        self.take(text.len())?;
        Ok(Value::Text(text.to_string()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> std::result::Result<Value, A::Error> {
        let (mut entries, mut merged) = (Vec::new(), Vec::new());
        while let Some(key) = items.next_key_seed(self)? {
            let (key, value) = (key.to_string(), items.next_value_seed(self)?);
            match value {
                Value::Map(_) if key == "<<" => merged.push(value),
                Value::List(list) if key == "<<" => merged.extend(list),
                _ if entries.iter().any(|(name, _)| *name == key) => {
                    return Err(serde::de::Error::custom(format!("key {key} appears twice")));
                }
                _ => entries.push((key, value)),
            }
        }
        // A merge key fills in what the section itself does not say; of several, the first counts.
        for value in merged {
            let Value::Map(inherited) = value else { continue };
            for (key, value) in inherited {
                if entries.iter().all(|(name, _)| *name != key) {
                    entries.push((key, value));
                }
            }
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Value {
        Value::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn comments_quotes_anchors_and_merge_keys_are_read() {
        let value = parse(
            "\u{feff}# *** main run ***\nnotes: \"fish &chips\"\nglob: '*.txt'\na: &id001\n  x: 1\n  y: 1e-05\n\
             b: *id001\nc:\n  <<: *id001\n  x: 2\nd: [on, 'off', ~, .nan, 0x10]\n",
        );
        assert_eq!(value.get("notes").unwrap().as_text(), Some("fish &chips"));
        assert_eq!(value.get("glob").unwrap().as_text(), Some("*.txt"));
        assert_eq!(value.get("a"), value.get("b"));
        let merged = value.get("c").unwrap();
        assert_eq!(merged.get("x").unwrap().as_u64(), Some(2));
        assert_eq!(merged.get("y").unwrap().as_f64(), Some(1e-5));
        let Value::List(list) = value.get("d").unwrap() else { panic!() };
        assert_eq!((list[0].as_bool(), list[1].as_bool(), &list[2]), (Some(true), Some(false), &Value::Null));
        assert_eq!((list[3].to_string(), list[4].as_u64()), (".nan".to_string(), Some(16)));
        assert_eq!(parse("{\"eps\": 1e-05}").get("eps").unwrap().as_f64(), Some(1e-5));
    }

    #[test]
    fn what_aliases_expand_to_is_bounded() {
        let list = |name: &str, of: &str| format!("{name}: &{name} [{}]\n", [of; 30].join(","));
        let levels = [("a", "x"), ("b", "*a"), ("c", "*b"), ("d", "*c"), ("e", "*d"), ("f", "*e")];
        let bomb: String = levels.map(|(name, of)| list(name, of)).concat();
        let text = format!("a: &a {}\nb: [{}]", "x".repeat(20_000), "*a,".repeat(4000));
        for bomb in [bomb, text, "a: &a [*a]".to_string()] {
            assert!(Value::parse(bomb.as_bytes()).is_err());
        }
    }

    #[test]
    fn what_is_no_document_is_an_error() {
        for text in ["", "a: 1\na: 2", "a: [", "a: 1\n---\nb: 2", "a: *b"] {
            let error = Value::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("not valid YAML") && error.lines().count() == 1, "{text}: {error}");
        }
    }
}
