//! The tokenizer and the token that ends a text.

use std::fs;
use std::path::Path;

use serde_json::{Value as Json, json};

use super::Place;
use crate::common::cinderblock;

/// A tokenizer of single letters, whose last token has a name of its own.
pub fn tokenizer(last: &str) -> String {
    let letters: Vec<String> =
        ('a'..='z').enumerate().map(|(id, c)| format!("\"{c}\": {}", id + 2)).collect();
    format!(
        r#"{{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {{"type": "Split", "pattern": {{"String": ""}}, "behavior": "Isolated", "invert": false}},
        "post_processor": null, "decoder": null,
        "model": {{"type": "WordLevel", "vocab": {{"?": 1, {}, "{last}": 28}}, "unk_token": "?"}}}}"#,
        letters.join(", ")
    )
}

#[test]
fn tokenizer_and_end_token_are_found_or_named() {
    let place = Place::new();
    place.plain("ck");
    let end = |arguments: &[&str]| {
        let (_, printed) = place.model("ck", arguments);
        let line = printed.lines().find(|line| line.starts_with("end token")).unwrap().to_string();
        let inspected = cinderblock(&["inspect", &place.text("m.gguf"), "--json"]).json();
        (inspected["end_token"].as_u64(), line)
    };
    assert_eq!(end(&[]).0, None);
    assert_eq!(end(&["--end-token", "7"]).0, Some(7));
    place.refused("ck", &["--end-token", "z"], "found text but no tokenizer");
    place.refused("ck", &["--end-token", "260"], "found 260, expected less than 260");

    // Elsewhere, with a byte order mark.
    place.write("tok/tokenizer.json", &format!("\u{feff}{}", tokenizer("<|stop|>")));
    let (file, folder) = (place.text("tok/tokenizer.json"), place.text("tok"));
    let (found, line) = end(&["--tokenizer", &file]);
    assert!(found.is_none() && line.contains("--end-token names one"), "{line}");
    assert_eq!(end(&["--tokenizer", &folder, "--end-token", "<|stop|>"]).0, Some(28));
    place.refused("ck", &["--tokenizer", &file, "--end-token", "<|x|>"], "has no token \"<|x|>\"");

    // What the files beside it say, in this order.
    for (name, text, expected) in [
        ("generation_config.json", r#"{"eos_token_id": [9, 10]}"#, 9),
        ("special_tokens_map.json", r#"{"eos_token": {"content": "<|stop|>", "lstrip": false}}"#, 28),
        ("tokenizer_config.json", r#"{"eos_token": "b"}"#, 3),
    ] {
        place.write(&format!("tok/{name}"), text);
        let (found, line) = end(&["--tokenizer", &file]);
        assert!(found == Some(expected) && line.contains(name), "{line}");
    }
    assert_eq!(end(&["--tokenizer", &file, "--end-token", "none"]).0, None);
    place.write("ck/tokenizer.json", &tokenizer("<|end_of_text|>"));
    let (found, line) = end(&[]);
    assert!(found == Some(28) && line.contains("by its usual name"), "{line}");
}

#[test]
fn a_tokenizer_has_no_more_tokens_than_the_model_but_added_ones() {
    let place = Place::new();
    place.plain("ck");
    place.model("ck", &[]);
    let model = place.text("base.gguf");
    fs::rename(place.path("m.gguf"), &model).unwrap();
    let vocabulary = |count: usize, added: &str| {
        let words: Vec<String> = (0..count).map(|id| format!("\"w{id}\": {id}")).collect();
        format!(
            r#"{{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [{added}], "normalizer": null,
            "pre_tokenizer": {{"type": "WhitespaceSplit"}}, "post_processor": null, "decoder": null,
            "model": {{"type": "WordLevel", "vocab": {{{}}}, "unk_token": "w0"}}}}"#,
            words.join(", ")
        )
    };
    let pieces: Vec<Json> = (0..261).map(|id| json!([format!("w{id}"), -1.0])).collect();
    let unigram = vocabulary(1, "").replace(
        r#"{"type": "WordLevel", "vocab": {"w0": 0}, "unk_token": "w0"}"#,
        &json!({"type": "Unigram", "vocab": pieces, "unk_id": 0}).to_string(),
    );
    let (tokens, copy) = (place.text("t/tokenizer.json"), place.text("c.gguf"));
    for larger in [vocabulary(261, ""), unigram] {
        place.write("t/tokenizer.json", &larger);
        let expected = "tokenizer.json: tokenizer: found 261 tokens, expected at most the model's 260";
        place.refused("ck", &["--tokenizer", &tokens], expected);
        let edit = cinderblock(&["edit", &model, "-o", &copy, "--tokenizer", &tokens]);
        assert!(edit.code == Some(1) && edit.stderr.contains(expected), "{edit:?}");
        assert!(!Path::new(&copy).exists());
    }

    let added = r#"{"id": 260, "content": "<pad>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true}"#;
    place.write("t/tokenizer.json", &vocabulary(260, added));
    let line = cinderblock(&["edit", &model, "-o", &copy, "--tokenizer", &tokens]).success();
    assert!(line.contains("261 tokens, of which the model has the first 260"), "{line}");
    let printed = place.model("ck", &["--tokenizer", &tokens]).1;
    assert!(printed.contains("261 tokens, of which the model has the first 260"), "{printed}");
    let tokenize = |text: &str| cinderblock(&["tokenize", "-m", &copy, "-p", text, "--json"]);
    assert_eq!(tokenize("w3 w259").json()["tokens"], json!([3, 259]));
    for text in ["w3 <pad>", "<pad>"] {
        for verb in ["tokenize", "run", "perplexity"] {
            let outcome = cinderblock(&[verb, "-m", &copy, "-p", text]);
            let expected = "token id: found 260, expected less than 260";
            let fine = outcome.code == Some(2) && outcome.stderr.contains(expected);
            assert!(fine && outcome.stderr.lines().count() == 1, "{verb}: {outcome:?}");
        }
    }
}
