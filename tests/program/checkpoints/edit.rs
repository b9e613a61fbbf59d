//! `edit`: a copy of a model file with other metadata.

use std::fs;

use serde_json::{Value as Json, json};

use super::Place;
use super::tokenizers::tokenizer;
use crate::common::cinderblock;

#[test]
fn edit_changes_what_is_asked_and_nothing_else() {
    let place = Place::new();
    place.plain("ck");
    place.model("ck", &["--type", "q4"]);
    place.write("tok/tokenizer.json", &tokenizer("<|endoftext|>"));
    let (model, copy, tokens) =
        (place.text("m.gguf"), place.text("copy.gguf"), place.text("tok/tokenizer.json"));
    let edit = |arguments: &[&str]| cinderblock(&[&["edit", &model, "-o", &copy][..], arguments].concat());
    edit(&["--tokenizer", &tokens, "--align", "left", "--name", "other"]).success();
    let [before, after] =
        [&model, &copy].map(|file| cinderblock(&["inspect", file, "--json", "--verify"]).json());
    assert_eq!((&after["name"], &after["end_token"]), (&json!("other"), &json!(28)));
    assert_eq!(after["prompt_alignment"], "left");
    for key in ["tensors", "weights", "block_decoder", "token_decoder", "trained_blocks"] {
        assert_eq!(before[key], after[key], "{key}");
    }
    let crc = "blocktransformer.tensor.crc32";
    assert_eq!(before["metadata"][crc], after["metadata"][crc]);
    assert!(before["metadata"].as_object().unwrap().keys().all(|key| after["metadata"].get(key).is_some()));
    let run = ["run", "-m", &copy, "-p", "abcdefgh", "-n", "8", "--temp", "0", "--ignore-end"];
    cinderblock(&run).success();

    // A name is shown without what a terminal would obey.
    let shown = edit(&["--name", "a\n\u{1b}[2Jb"]);
    assert!(shown.stdout.ends_with("name a??[2Jb\n"), "{shown:?}");

    edit(&["--end-token", "none"]).success();
    assert_eq!(cinderblock(&["inspect", &copy, "--json"]).json()["end_token"], Json::Null);
    // A second copy without changes of weight is the same as the first.
    edit(&["--align", "tail"]).success();
    let first = fs::read(&copy).unwrap();
    edit(&["--align", "tail"]).success();
    assert!(fs::read(&copy).unwrap() == first);

    assert_eq!(edit(&[]).code, Some(2));
    let same = cinderblock(&["edit", &model, "-o", &model, "--align", "left"]);
    assert!(
        same.code == Some(2) && same.stderr.contains("another file than those that are read"),
        "{same:?}"
    );
    // Damage is not copied under a checksum that hides it.
    let mut damaged = fs::read(&model).unwrap();
    let last = damaged.len() - 5;
    damaged[last] ^= 1;
    fs::write(place.path("m.gguf"), damaged).unwrap();
    assert!(edit(&["--align", "left"]).stderr.contains("checksum of tensor"));
}
