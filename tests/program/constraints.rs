//! Constrained output: the text is what the schema, the expression or the grammar says, the same for `run` and `batch`.

use std::fs;

use crate::common::cinderblock;
use serde_json::{Value as Json, json};

fn run(more: &[&str]) -> Json {
    cinderblock(&[&["run", "-p", "The old house", "--seed", "3", "-n", "60", "--json"], more].concat()).json()
}

fn schema() -> Json {
    json!({
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 6}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": false,
    })
}

#[test]
fn a_text_is_of_its_constraint() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_string()
    };
    for sampling in [&["--temp", "0"][..], &["--temp", "1.5", "--top-k", "0"]] {
        let answer = run(&[&["--regex", " (yes|no), [0-9]{3}"], sampling].concat());
        let text = answer["text"].as_str().unwrap();
        let (word, digits) = text.split_once(", ").unwrap();
        assert!(
            [" yes", " no"].contains(&word) && digits.len() == 3 && digits.parse::<u32>().is_ok(),
            "{text}"
        );
        assert_eq!(answer["end"], "end of text");
    }
    let grammar = file("grammar", "start: \" \" (\"red\" | \"green\") \" \" NUMBER\nNUMBER: /[1-9][0-9]?/\n");
    let text = run(&["--grammar", &grammar])["text"].as_str().unwrap().to_string();
    assert!(text.starts_with(" red ") || text.starts_with(" green "), "{text}");

    let json = file("schema.json", &schema().to_string());
    let alone = run(&["--json-schema", &json]);
    let person: Json = serde_json::from_str(alone["text"].as_str().unwrap()).unwrap();
    assert!(person["name"].is_string() && person["age"].is_u64(), "{person}");
    let line =
        json!({"id": 1, "prompt": "The old house", "seed": 3, "max_tokens": 60, "json_schema": schema()});
    let input = file("in", &line.to_string());
    let answer: Json = serde_json::from_str(&cinderblock(&["batch", "-i", &input]).success()).unwrap();
    assert_eq!((&answer["text"], &answer["tokens"]), (&alone["text"], &alone["tokens"]));
}

#[test]
fn a_wrong_constraint_is_one_line() {
    let deep = "(".repeat(50_000);
    let long = "x".repeat(70_000);
    for (pattern, text) in [("(", "regex: "), (&*deep, "deep"), (&*long, "bytes")] {
        let outcome = cinderblock(&["run", "-p", "a", "-n", "5", "--regex", pattern]);
        let stderr = &outcome.stderr;
        assert!(
            outcome.code == Some(2) && stderr.contains(text) && stderr.lines().count() == 1,
            "{stderr:.500}"
        );
    }
    let forbidden = cinderblock(&["run", "-p", "a", "--regex", "a", "--json-schema", "x"]);
    assert_eq!(forbidden.code, Some(2));
}
