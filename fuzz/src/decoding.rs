//! Decoders of any kind, in any order, over tokens made for them: the text is that of the tokenizers crate, whole or
//! in pieces.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use cinderblock::Tokenizer;
use cinderblock::unstable::generation::TextStream;
use serde_json::{Value as Json, json};

use super::{Choices, check};

/// Texts of which tokens are made.
const PIECES: [&str; 40] = [
    "a", "b", "▁", "▁a", "a▁", " ", "  ", " .", "##b", "##", "</w>", "a</w>b", "é", "\u{fffd}", "<0xE2>",
    "<0x82>", "<0xAC>", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "<0x41>", "<0xZZ>", "Ã", "©", "â", "Ĥ", "¬",
    "ðŁĺ", "Ģ", "Ġ", "|", "<pad>", "n't", " '", "😀", "", "\n", "ab", "'s",
];

fn decoder(choices: &mut Choices) -> Json {
    let text = |choices: &mut Choices| choices.pick(&PIECES).to_string();
    match choices.below(10) {
        0 => json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}),
        1 => {
            let from = text(choices);
            let pattern = match choices.below(4) {
                0 => json!({"Regex": "b+"}),
                1 => json!({"Regex": "^ "}),
                _ => json!({"String": from}),
            };
            json!({"type": "Replace", "pattern": pattern, "content": text(choices)})
        }
        2 => json!({"type": "ByteFallback"}),
        3 => json!({"type": "Fuse"}),
        4 => {
            let content = choices.pick(&[' ', 'a', '▁', '\u{fffd}']);
            json!({"type": "Strip", "content": content, "start": choices.below(4), "stop": choices.below(4)})
        }
        5 => {
            let scheme = choices.pick(&["always", "first", "never"]);
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true})
        }
        6 => json!({"type": "WordPiece", "prefix": "##", "cleanup": choices.byte().is_multiple_of(2)}),
        7 => json!({"type": "BPEDecoder", "suffix": text(choices)}),
        8 => json!({
            "type": "CTC", "pad_token": text(choices), "word_delimiter_token": text(choices),
            "cleanup": choices.byte().is_multiple_of(2)
        }),
        _ => Json::Null,
    }
}

/// Tokens: the pieces, pairs of them, a special one, and an id that none has.
const PAIRS: usize = 88;
const SPECIAL: usize = PIECES.len() + PAIRS;

/// A tokenizer with a decoder, by us and by the tokenizers crate.
struct Pair(Tokenizer, tokenizers::Tokenizer);

impl Pair {
    fn new(decoder: &Json) -> Option<Pair> {
        let pairs = (0..PAIRS).map(|at| [PIECES[at % 40], PIECES[(at * 7 + 3) % 40]].concat());
        let mut vocabulary = serde_json::Map::new();
        for (id, token) in PIECES.iter().map(|piece| piece.to_string()).chain(pairs).enumerate() {
            vocabulary.entry(token).or_insert(id.into());
        }
        let added = json!([{
            "id": SPECIAL, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true
        }]);
        let json = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
            "pre_tokenizer": null, "post_processor": null, "decoder": decoder,
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "a"}
        })
        .to_string();
        let tokenizer = check(Tokenizer::from_json(&json))?;
        Some(Pair(tokenizer, tokenizers::Tokenizer::from_bytes(&json).expect("the same bytes")))
    }
}

thread_local! {
    /// Making one takes far longer than using it.
    static PAIRS_MADE: RefCell<HashMap<String, Option<Rc<Pair>>>> = RefCell::default();
}

/// Tokenizers that are kept.
const MOST_KEPT: usize = 2000;

pub fn run(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let decoders: Vec<Json> =
        (0..choices.below(5)).map(|_| decoder(&mut choices)).filter(|decoder| !decoder.is_null()).collect();
    let decoder = match decoders.len() {
        0 => Json::Null,
        1 => decoders[0].clone(),
        _ => json!({"type": "Sequence", "decoders": decoders}),
    };
    let pair = PAIRS_MADE.with_borrow_mut(|made| {
        if made.len() == MOST_KEPT {
            made.clear();
        }
        made.entry(decoder.to_string()).or_insert_with(|| Pair::new(&decoder).map(Rc::new)).clone()
    });
    let Some(pair) = pair else { return };
    let tokens: Vec<u32> =
        choices.0.iter().take(24).map(|byte| u32::from(*byte) % (SPECIAL as u32 + 2)).collect();
    compare(&pair.0, &pair.1, &tokens, &decoder);
}

fn compare(tokenizer: &Tokenizer, oracle: &tokenizers::Tokenizer, tokens: &[u32], json: &Json) {
    let whole = check(tokenizer.decode(tokens));
    let mut stream = TextStream::new(tokenizer);
    let pieces: Option<Vec<String>> = tokens.iter().map(|token| check(stream.push(*token))).collect();
    let pieces = pieces.and_then(|pieces| Some(pieces.concat() + &check(stream.finish())?));
    assert_eq!(pieces, whole, "{tokens:?} {json}");
    // Some decoders of the crate panic on contradictions and on nothing.
    let call = std::panic::AssertUnwindSafe(|| oracle.decode(tokens, true).ok());
    if let Ok(Some(expected)) = std::panic::catch_unwind(call) {
        assert_eq!(whole, Some(expected), "{tokens:?} {json}");
    }
}
