//! Text that comes in pieces is the decoding of its tokens, by the tokenizers crate itself.

use proptest::prelude::*;

use super::*;

/// Tokens that decoders treat in different ways, alone and beside each other.
const VOCABULARY: [&str; 36] = [
    "a", "b", "▁", "▁a", "a▁", "▁▁", " ", "  ", " .", "##b", "##", "b</w>", "</w>", "a</w>b", "é",
    "\u{fffd}", "<0xE2>", "<0x82>", "<0xAC>", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "<0x41>", "<0xZZ>",
    "Ã", "©", "â", "Ĥ", "¬", "¬â", "ðŁĺ", "Ģð", "Ġ", "|", "<pad>",
];
/// Ids of a special token, an added token, and none.
const SPECIAL: u32 = VOCABULARY.len() as u32;

fn json(decoder: &str) -> String {
    let tokens: Vec<String> = (0..).zip(VOCABULARY).map(|(id, token)| format!("\"{token}\":{id}")).collect();
    let added = |id: u32, content: &str, special: bool| {
        format!(
            r#"{{"id":{id},"content":"{content}","single_word":false,"lstrip":false,"rstrip":false,
               "normalized":false,"special":{special}}}"#
        )
    };
    format!(
        r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{},{}],"normalizer":null,
           "pre_tokenizer":null,"post_processor":null,"decoder":{decoder},
           "model":{{"type":"WordLevel","vocab":{{{}}},"unk_token":"a"}}}}"#,
        added(SPECIAL, "<end>", true),
        added(SPECIAL + 1, "<é>", false),
        tokens.join(",")
    )
}

const BYTE_LEVEL: &str =
    r#"{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}"#;
const LLAMA: &str = r#"{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},
    {"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]}"#;

/// Every kind of decoder, in the orders that model files have and in some that they have not.
fn decoders() -> Vec<(&'static str, String)> {
    let metaspace = |scheme: &str| {
        format!(r#"{{"type":"Metaspace","replacement":"▁","prepend_scheme":"{scheme}","split":true}}"#)
    };
    let word_piece =
        |cleanup: bool| format!(r###"{{"type":"WordPiece","prefix":"##","cleanup":{cleanup}}}"###);
    let suffix = r#"{"type":"BPEDecoder","suffix":"</w>"}"#;
    let ctc = r#"{"type":"CTC","pad_token":"<pad>","word_delimiter_token":"|","cleanup":true}"#;
    let fuse = r#"{"type":"Fuse"}"#;
    let fallback = r#"{"type":"ByteFallback"}"#;
    let replace = r#"{"type":"Replace","pattern":{"String":"ab"},"content":"-"}"#;
    let pattern = r#"{"type":"Replace","pattern":{"Regex":"b+"},"content":"_"}"#;
    let sequence = |stages: &[&str]| format!(r#"{{"type":"Sequence","decoders":[{}]}}"#, stages.join(","));
    vec![
        ("none", "null".into()),
        ("ByteLevel", BYTE_LEVEL.into()),
        ("Llama", LLAMA.into()),
        (
            "Gemma",
            sequence(&[r#"{"type":"Replace","pattern":{"String":"▁"},"content":" "}"#, fallback, fuse]),
        ),
        ("ByteFallback", fallback.into()),
        ("Metaspace, always", metaspace("always")),
        ("Metaspace, first", metaspace("first")),
        ("Metaspace, never", metaspace("never")),
        ("ByteFallback, Metaspace", sequence(&[fallback, &metaspace("always")])),
        ("Fuse, Metaspace", sequence(&[fuse, &metaspace("always")])),
        ("WordPiece", word_piece(false)),
        ("WordPiece with clean-up", word_piece(true)),
        ("Fuse, WordPiece", sequence(&[fuse, &word_piece(false)])),
        ("Fuse, WordPiece with clean-up", sequence(&[fuse, &word_piece(true)])),
        ("BPEDecoder", suffix.into()),
        ("BPEDecoder, Fuse", sequence(&[suffix, fuse])),
        ("Replace, BPEDecoder", sequence(&[pattern, suffix])),
        ("CTC", ctc.into()),
        ("CTC, Metaspace", sequence(&[ctc, &metaspace("always")])),
        ("Fuse, Replace", sequence(&[fuse, replace])),
        ("Replace, Fuse", sequence(&[replace, pattern, fuse])),
        ("ByteLevel, Strip", sequence(&[BYTE_LEVEL, r#"{"type":"Strip","content":" ","start":2,"stop":0}"#])),
        ("Strip", r#"{"type":"Strip","content":"▁","start":1,"stop":0}"#.into()),
    ]
}

fn pieces(stream: &mut TextStream<&Tokenizer>, tokens: &[u32]) -> Vec<String> {
    let mut pieces: Vec<String> = tokens.iter().map(|token| stream.push(*token).unwrap()).collect();
    pieces.push(stream.finish().unwrap());
    pieces
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pieces_are_the_decoding_of_their_tokens(tokens in prop::collection::vec(0..SPECIAL + 3, 1..24)) {
        for (name, decoder) in decoders() {
            let json = json(&decoder);
            let oracle = tokenizers::Tokenizer::from_bytes(&json).unwrap();
            let tokenizer = Tokenizer::from_json(&json).unwrap();
            // BPEDecoder counts on a token.
            let silent = tokens.iter().all(|token| *token == SPECIAL || *token == SPECIAL + 2);
            let expected = if silent { String::new() } else { oracle.decode(&tokens, true).unwrap() };
            let mut stream = TextStream::new(&tokenizer);
            prop_assert_eq!(pieces(&mut stream, &tokens).concat(), expected.clone(), "{}", name);
            prop_assert_eq!(tokenizer.decode(&tokens).unwrap(), expected, "{}", name);
        }
    }

    #[test]
    fn a_text_goes_on_from_its_context(
        context in prop::collection::vec(0..16u32, 1..8),
        tokens in prop::collection::vec(0..SPECIAL + 3, 1..16),
    ) {
        for (name, decoder) in decoders() {
            let tokenizer = Tokenizer::from_json(&json(&decoder)).unwrap();
            let before = tokenizer.decode(&context).unwrap();
            let all = tokenizer.decode(&[&*context, &*tokens].concat()).unwrap();
            // A character that the context leaves incomplete is not completed.
            let whole = !before.ends_with('\u{fffd}');
            if let Some(expected) = all.strip_prefix(&before).filter(|_| whole) {
                let mut stream = TextStream::after(&tokenizer, &context).unwrap();
                prop_assert_eq!(pieces(&mut stream, &tokens).concat(), expected, "{}", name);
            }
        }
    }
}

#[test]
fn the_end_of_a_context_is_not_repeated() {
    let tokenizer = Tokenizer::from_json(&json(r#"{"type":"BPEDecoder","suffix":"</w>"}"#)).unwrap();
    // A word that ends inside a token, then a token without text.
    for (context, tokens, expected) in
        [(13, [SPECIAL].as_slice(), ""), (11, &[SPECIAL], ""), (11, &[0], " a")]
    {
        let mut stream = TextStream::after(&tokenizer, &[context]).unwrap();
        assert_eq!(pieces(&mut stream, tokens).concat(), expected);
    }
}

/// Byte-level tokens, a character of the vocabulary for each byte.
fn byte_level(tokens: &[&str]) -> Tokenizer {
    let tokens: Vec<String> = (0..).zip(tokens).map(|(id, token)| format!("\"{token}\":{id}")).collect();
    let json = format!(
        r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
           "pre_tokenizer":{BYTE_LEVEL},"post_processor":null,"decoder":{BYTE_LEVEL},
           "model":{{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,
           "end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,"vocab":{{{}}},"merges":[]}}}}"#,
        tokens.join(",")
    );
    Tokenizer::from_json(&json).unwrap()
}

#[test]
fn characters_are_never_split() {
    let tokenizer = byte_level(&["a", "b", "Ã", "©", "â", "Ĥ", "¬", "Ġ"]);
    let text = "aé€b é";
    let tokens = tokenizer.encode(text).unwrap();
    assert_eq!(tokens.len(), 10);
    let pieces = pieces(&mut TextStream::new(&tokenizer), &tokens);
    assert_eq!(pieces, ["a", "", "é", "", "", "€", "b", " ", "", "é", ""]);
}

#[test]
fn a_character_that_never_ends_does_not_hold_up_others() {
    let tokenizer = byte_level(&["a", "b", "Ã", "©", "â", "Ĥ", "¬", "Ġ"]);
    let pieces = pieces(&mut TextStream::new(&tokenizer), &[4, 0, 1, 4, 2, 3, 4]);
    assert_eq!(pieces, ["", "\u{fffd}a", "b", "", "\u{fffd}", "é", "", "\u{fffd}"]);
}

/// As GPT-2 has them (`¬â` joins the end of one character with the beginning of the next), in rows of 4 and of 63.
#[test]
fn characters_that_cross_tokens_in_a_row_of_any_length_are_whole() {
    // "€" is E2 82 AC, an emoji F0 9F 98 80.
    let tokenizer = byte_level(&["âĤ", "¬âĤ", "¬", "ðŁ", "ĺĢðŁ", "ĺĢ", "¬ðŁ"]);
    for length in [4, 8, 63, 1000] {
        for (row, character) in [([0, 1, 2], "€"), ([3, 4, 5], "😀")] {
            let mut tokens = vec![row[0]];
            tokens.extend(std::iter::repeat_n(row[1], length));
            tokens.push(row[2]);
            let pieces = pieces(&mut TextStream::new(&tokenizer), &tokens);
            assert_eq!(pieces.concat(), character.repeat(length + 1));
            assert!(pieces[1..=length].iter().all(|piece| piece == character), "{pieces:?}");
        }
    }
    assert_eq!(pieces(&mut TextStream::new(&tokenizer), &[0, 6, 5]), ["", "€", "😀", ""]);
}

#[test]
fn the_first_word_after_a_prompt_keeps_its_space() {
    let tokenizer = Tokenizer::from_json(&json(LLAMA)).unwrap();
    let (word, byte) = (3, 16);
    assert_eq!(TextStream::new(&tokenizer).push(word).unwrap(), "a");
    assert_eq!(TextStream::after(&tokenizer, &[0]).unwrap().push(word).unwrap(), " a");
    // A special token is no text.
    assert_eq!(TextStream::after(&tokenizer, &[SPECIAL]).unwrap().push(word).unwrap(), "a");
    // A character that the prompt leaves incomplete is not the text's.
    let mut stream = TextStream::after(&tokenizer, &[0, byte]).unwrap();
    assert_eq!(pieces(&mut stream, &[17, 18, 0]).concat(), "\u{fffd}\u{fffd}a");
}

#[test]
fn no_tokens_are_no_text() {
    for (name, decoder) in decoders() {
        let tokenizer = Tokenizer::from_json(&json(&decoder)).unwrap();
        assert_eq!(tokenizer.decode(&[]).unwrap(), "", "{name}");
        assert_eq!(tokenizer.decode(&[SPECIAL, SPECIAL + 2]).unwrap(), "", "{name}");
    }
}

/// A step that joins all tokens makes a string of none too, which a later one may turn into a text.
#[test]
fn the_text_of_no_tokens_is_that_of_the_decoder() {
    let ctc = |cleanup: bool| {
        format!(r#"{{"type":"CTC","pad_token":"a","word_delimiter_token":"","cleanup":{cleanup}}}"#)
    };
    let suffix = r#"{"type":"BPEDecoder","suffix":"</w>"}"#;
    for (decoders, expected) in [
        (format!("{BYTE_LEVEL},{}", ctc(true)), " "),
        (format!("{BYTE_LEVEL},{}", ctc(false)), ""),
        (format!("{suffix},{BYTE_LEVEL},{}", ctc(true)), ""),
        (format!("{BYTE_LEVEL},{},{suffix}", ctc(true)), " "),
    ] {
        let json = json(&format!(r#"{{"type":"Sequence","decoders":[{decoders}]}}"#));
        let tokenizer = Tokenizer::from_json(&json).unwrap();
        // No tokens, a special one, one that does not exist.
        for tokens in [&[][..], &[SPECIAL], &[SPECIAL + 2, SPECIAL]] {
            assert_eq!(tokenizer.decode(tokens).unwrap(), expected, "{decoders}");
        }
        // What follows a context begins where that ends.
        let mut stream = TextStream::after(&tokenizer, &[1]).unwrap();
        assert_eq!(stream.finish().unwrap(), "", "{decoders}");
    }
}

#[test]
fn nothing_is_kept_of_an_endless_text() {
    let tokenizer = byte_level(&["a", "¬âĤ", "âĤ"]);
    let mut stream = TextStream::new(&tokenizer);
    for _ in 0..10_000 {
        stream.push(1).unwrap();
    }
    let Decoding::Stages(stages) = &stream.decoding else { panic!("byte-level text is streamed") };
    let [decoder::Stage::Bytes(held)] = &**stages else { panic!("one stage") };
    assert!(held.len() < 4 && held.capacity() < 64, "{held:?}");
}

/// The tokenizer of these tests with another part, and the error of reading it and of a text.
fn with_part(part: &str, value: &str, text: &str) -> Option<String> {
    let json = json("null").replace(&format!("\"{part}\":null"), &format!("\"{part}\":{value}"));
    let encoded = Tokenizer::from_json(&json).and_then(|tokenizer| {
        let interrupt = Interrupt::default();
        let whole = tokenizer.encode(text).map(drop).map_err(|error| error.to_string());
        let stepwise = tokenizer.encode_until(text, &interrupt).map(drop).map_err(|error| error.to_string());
        assert_eq!(whole, stepwise);
        tokenizer.encode(text)
    });
    encoded.err().map(|error| error.to_string())
}

#[test]
fn a_file_chooses_no_length() {
    let sequence = |name: &str, step: &str, count: usize| {
        let steps = vec![step.to_string(); count].join(",");
        format!(r#"{{"type":"Sequence","{name}":[{steps}]}}"#)
    };
    let hundred = "a".repeat(100);
    let replace =
        |pattern: &str| format!(r#"{{"type":"Replace","pattern":{{{pattern}}},"content":"{hundred}"}}"#);
    let string = replace(r#""String":"a""#);
    for normalizer in [
        sequence("normalizers", &string, 8),
        sequence("normalizers", &replace(r#""Regex":"x*""#), 8),
        sequence("normalizers", &sequence("normalizers", &string, 3), 3),
        format!(r#"{{"type":"Prepend","prepend":"{}"}}"#, "z".repeat(2 << 20)),
        // 4 GB of a trie in 4 bytes, and one that is a byte short.
        r#"{"type":"Precompiled","precompiled_charsmap":"AAAA/w=="}"#.to_string(),
        r#"{"precompiled_charsmap":"BAAAAAAAAA=="}"#.to_string(),
    ] {
        let error = with_part("normalizer", &normalizer, "a b").unwrap_or_default();
        assert!(error.contains("too long") || error.contains("precompiled"), "{error}: {normalizer:.200}");
    }
    // Each text is short, and their prefixes together are not.
    let prefix = format!(r#"{{"type":"Prepend","prepend":"{}"}}"#, "z".repeat(1000));
    let error = with_part("normalizer", &prefix, &"<end>a".repeat(2000)).unwrap_or_default();
    assert!(error.contains("too long"), "{error}");
    let level = r#"{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}"#;
    let error =
        with_part("pre_tokenizer", &sequence("pretokenizers", level, 40), "\u{e9}").unwrap_or_default();
    assert!(error.contains("too long"), "{error}");
    let error = with_part("decoder", &sequence("decoders", &string, 8), "a").unwrap_or_default();
    assert!(error.contains("too long"), "{error}");
}

#[test]
fn what_real_files_lengthen_is_not_refused() {
    let llama = r#"{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"\u2581"},
        {"type":"Replace","pattern":{"String":" "},"content":"\u2581"},{"type":"NFKC"},
        {"type":"Replace","pattern":{"Regex":" {2,}"},"content":"\u2581"}]}"#;
    for text in ["", "a", &"a b  \u{fdfa}".repeat(300_000)] {
        assert_eq!(with_part("normalizer", llama, text), None);
    }
    assert_eq!(with_part("pre_tokenizer", BYTE_LEVEL, &"\u{e9}".repeat(2_000_000)), None);
}

#[test]
fn a_text_is_not_repeated_by_a_file() {
    let twice = r#"{"type":"TemplateProcessing","single":[{"Sequence":{"id":"A","type_id":0}},
        {"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{}}"#;
    let json = json("null").replace("\"post_processor\":null", &format!("\"post_processor\":{twice}"));
    let tokenizer = Tokenizer::from_json(&json).unwrap();
    assert_eq!(tokenizer.encode("a").unwrap().len(), 1);
}
