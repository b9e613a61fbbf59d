//! Checkpoints that lie.

use super::*;

#[test]
fn damaged_tensors_are_refused_by_name() {
    const NORM: &str = "token_decoder.gpt_neox.final_layer_norm.weight";
    fn rename(header: &mut Json, from: &str, to: &str) {
        let entry = header.as_object_mut().unwrap().remove(from).unwrap();
        header[to] = entry;
    }
    fn fill(header: &Json, data: &mut [u8], value: f32) {
        let end = header[NORM]["data_offsets"][1].as_u64().unwrap() as usize;
        data[end - 4..end].copy_from_slice(&value.to_le_bytes());
    }
    type Edit = fn(&mut Json, &mut Vec<u8>);
    let cases: [(&str, Edit, &str); 16] = [
        ("rank", |h, _| h[NORM]["shape"] = json!([8, 8]), "1 positive dimensions"),
        ("axes", |h, _| h["token_decoder.embed_out.weight"]["shape"] = json!([64, 260]), "[260, 64]"),
        ("size", |h, _| h[NORM]["shape"] = json!([63]), "header is not valid"),
        ("negative", |h, _| h[NORM]["shape"] = json!([-64]), "header is not valid"),
        ("overflow", |h, _| h[NORM]["shape"] = json!([1u64 << 62, 1u64 << 62]), "header is not valid"),
        ("rank bomb", |h, _| h[NORM]["shape"] = json!(vec![1; 3_000_000]), "header"),
        ("missing", |h, _| rename(h, NORM, "other"), "final_layer_norm.weight\" is missing"),
        ("first", |h, _| rename(h, "embedder.embeddings.weight", "other"), "embeddings.weight\" is missing"),
        ("gap", |h, _| h[NORM] = json!({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}), "header"),
        ("offsets", |h, _| h[NORM]["data_offsets"] = json!([u64::MAX, 0]), "header"),
        ("NaN", |h, d| fill(h, d, f32::NAN), "final_layer_norm.weight\", element 63: found NaN"),
        ("inf", |h, d| fill(h, d, f32::INFINITY), "final_layer_norm.weight\", element 63: found inf"),
        ("dtype", |h, _| h[NORM]["dtype"] = json!("Q9_9"), "header is not valid"),
        ("integers", |h, _| h[NORM]["dtype"] = json!("I32"), "found I32, expected F32, F16 or BF16"),
        ("short", |_, d| d.truncate(d.len() - 1), "size: found"),
        ("long", |_, d| d.push(0), "size: found"),
    ];
    for (name, edit, expected) in cases {
        let checkpoint = Checkpoint::new();
        checkpoint.edit(edit);
        checkpoint.refused(name, expected);
    }
    // Metadata is nobody's: entries of two bytes take no memory, within the limit of these programs.
    let checkpoint = Checkpoint::new();
    checkpoint.edit(|header, _| {
        let entries = (0..150_000).map(|entry| (entry.to_string(), json!("")));
        header["__metadata__"] = entries.collect::<serde_json::Map<_, _>>().into();
    });
    shell(PLAIN, &checkpoint.arguments()).success();
    let checkpoint = Checkpoint::new();
    // Sizes that each fit, but whose sum does not.
    let mut header = json!({});
    for index in 0..8u64 {
        let (size, start) = ((1u64 << 61) - 1, index * ((1 << 61) - 1));
        header[format!("t{index}")] =
            json!({"dtype": "U8", "shape": [size], "data_offsets": [start, start + size]});
    }
    let end = u64::MAX - 7;
    header["t8"] = json!({"dtype": "U8", "shape": [6], "data_offsets": [end, end + 6]});
    let texts = ["", "{}", "[]", "{\"a\":", "\u{0}", &header.to_string(), &"[".repeat(100_000)];
    for (index, header) in texts.into_iter().enumerate() {
        checkpoint.write(header, &[]);
        checkpoint.refused(&format!("header {index}"), "model.safetensors");
    }
    for bytes in [&b"version https://git-lfs.github.com/spec/v1"[..], b"<!DOCTYPE html><html>", b"PK\x03\x04"]
    {
        fs::write(checkpoint.file("model.safetensors"), bytes).unwrap();
        checkpoint.refused("no tensors", "model.safetensors");
    }
}

#[test]
fn a_damaged_configuration_is_refused_by_name() {
    let cases = [
        ("block_length: 4\n", "", "block_length is missing"),
        ("embedder:\n  cls", "other:\n  cls", "key embedder is missing"),
        ("  cls: lookup\n", "", "embedder.cls is missing"),
        ("\nblock_decoder:\n", "\nother:\n", "key block_decoder is missing"),
        ("\nblock_decoder:\n  cls: gpt-neo-x\n", "\nblock_decoder:\n", "block_decoder.cls is missing"),
        ("deduped\n  config:", "deduped\n  other:", "block_decoder.config is missing"),
        ("    num_hidden_layers: 2\n", "", "block_decoder.config.num_hidden_layers is missing"),
        ("\ntoken_decoder:\n", "\nother:\n", "key token_decoder is missing"),
        ("\ntoken_decoder:\n  cls: gpt-neo-x\n", "\ntoken_decoder:\n", "token_decoder.cls is missing"),
        ("  decoding_strategy: prefix\n", "", "token_decoder.decoding_strategy is missing"),
        ("prefix\n  config:", "prefix\n  other:", "token_decoder.config is missing"),
        ("cls: lookup", "cls: roberta", "embedder of the checkpoint: found lookup, expected roberta"),
        ("\nblock_decoder:\n  cls: gpt-neo-x", "\nblock_decoder:\n  cls: gpt-neo", "found gpt-neo, only"),
        (
            "\ntoken_decoder:\n  cls: gpt-neo-x",
            "\ntoken_decoder:\n  cls: gpt-j",
            "token_decoder.cls: found gpt-j",
        ),
        ("n_embedding_tokens: 1", "n_embedding_tokens: 2", "n_embedding_tokens: found 2, only 1"),
        ("decoding_strategy: prefix", "decoding_strategy: cross", "found cross, only prefix and summation"),
        ("decoding_strategy: prefix", "decoding_strategy: summation", "expansion ratio with summation"),
        ("expansion_ratio: 2", "expansion_ratio: 3", "expansion_ratio: found 3"),
        ("block_length: 4", "block_length: 0", "block_length: found 0, expected a positive integer"),
        ("block_length: 4", "block_length: -4", "block_length: found -4"),
        ("block_length: 4", "block_length: 1e400", "block_length"),
        ("block_length: 4", "block_length: 3", "width of the table: found 16"),
        ("block_length: 4", "block_length: 4294967296", "block length: found 4294967296"),
        ("block_length: 4", "block_length: [4]", "block_length: found a list"),
        ("num_hidden_layers: 2", "num_hidden_layers: 3", "layers.2.input_layernorm.weight\" is missing"),
        ("num_hidden_layers: 2", "num_hidden_layers: 1", "num_hidden_layers: found 1"),
        ("num_hidden_layers: 2", "num_hidden_layers: 4000000000", ""),
        ("hidden_size: 64", "hidden_size: 128", "block_decoder.config.hidden_size: found 128"),
        ("hidden_size: 64", "num_attention_heads: 3", "attention heads: found 3"),
        ("hidden_size: 64", "num_attention_heads: 0", "num_attention_heads: found 0"),
        ("hidden_size: 64", "rotary_pct: 1.5", "rotated dimensions of a head"),
        ("hidden_size: 64", "rotary_pct: 1.0e+300", "rotated dimensions of a head"),
        ("hidden_size: 64", "rotary_emb_base: 1.0e+300", "rotary base"),
        ("hidden_size: 64", "layer_norm_eps: 1.0e-300", "epsilon"),
        ("hidden_size: 64", "layer_norm_eps: 1.0e+300", "epsilon"),
        ("hidden_size: 64", "layer_norm_eps: .nan", "layer_norm_eps: found .nan"),
        ("name: main", "name: [a, b]", "name: found a list, expected text"),
        ("name: main", "name: \"a\\nb\\eb\"\nblock_length: 4", "config.yaml"),
    ];
    let checkpoint = Checkpoint::new();
    let config = fs::read_to_string(checkpoint.file("config.yaml")).unwrap();
    for (from, to, expected) in cases {
        let damaged = config.replacen(from, to, 1);
        assert_ne!(damaged, config, "{from}");
        fs::write(checkpoint.file("config.yaml"), damaged).unwrap();
        checkpoint.refused(&format!("{from:?} to {to:?}"), expected);
    }
    let list = |name: &str, of: &str| format!("{name}: &{name} [{}]\n", [of; 40].join(","));
    let bomb: String = [("b", "*a"), ("c", "*b"), ("d", "*c"), ("e", "*d"), ("f", "*e"), ("g", "*f")]
        .map(|(name, of)| list(name, of))
        .concat();
    let long = "# comment\n".repeat(200_000);
    let (maps, wide) = (
        "{a: ".repeat(200_000),
        format!("a: &a [{}x]\nb: [{}x]\n", "x,".repeat(200_000), "*a,".repeat(150_000)),
    );
    let texts: [(&str, &[u8]); 11] = [
        ("nested sections", maps.as_bytes()),
        ("wide aliases", wide.as_bytes()),
        ("empty", b""),
        ("text", b"just text"),
        ("list", b"- a\n- b"),
        ("open", b"a: ["),
        ("control", b"a: \0\x01\x02"),
        ("not UTF-8", b"name: \xff\xfe\xfd"),
        ("huge", long.as_bytes()),
        ("nested", &[b'['; 100_000]),
        ("aliases", &[list("a", "x").as_bytes(), bomb.as_bytes()].concat()),
    ];
    for (name, bytes) in texts {
        fs::write(checkpoint.file("config.yaml"), bytes).unwrap();
        checkpoint.refused(name, "config.yaml: ");
    }
}

#[test]
fn a_checkpoint_truncated_anywhere_is_refused() {
    if skipped_under_emulation("it starts the program thousands of times, which takes minutes there") {
        return;
    }
    // Descending, because a shorter file is cheap to make of a longer one.
    let worker = |offset: usize| {
        let checkpoint = Checkpoint::new();
        let path = checkpoint.file("model.safetensors");
        let whole = fs::metadata(&path).unwrap().len() as usize;
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        let lengths = [whole - 1, whole - 2].into_iter().chain((2000..whole).step_by(8191).rev());
        for length in lengths.chain((0..2000).rev()).skip(offset).step_by(2) {
            file.set_len(length as u64).unwrap();
            let output = program().args(checkpoint.arguments()).output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!((output.status.code(), stderr.lines().count()), (Some(1), 1), "{length}: {stderr}");
            assert!(
                stderr.contains("model.safetensors: ") && !stderr.contains("panicked"),
                "{length}: {stderr}"
            );
        }
        assert_eq!(checkpoint.leftovers(), [] as [PathBuf; 0]);
    };
    std::thread::scope(|scope| [0, 1].map(|offset| scope.spawn(move || worker(offset))).map(drop));
}

#[test]
fn a_damaged_shard_index_is_refused() {
    for (index, expected) in [
        ("", "not a shard index"),
        ("[1, 2]", "not a shard index"),
        (r#"{"weight_map": 3}"#, "not a shard index"),
        (r#"{"weight_map": {}}"#, "names no tensor"),
        (r#"{"weight_map": {"a": "absent.safetensors"}}"#, "absent.safetensors: no such file"),
        (r#"{"weight_map": {"a": "a\nb\u001b[31m"}}"#, "no such file"),
        (r#"{"weight_map": {"a": "shard.safetensors"}}"#, "tensor \"a\" is not in \"shard.safetensors\""),
        (r#"{"weight_map": {"a": "../checkpoint/shard.safetensors"}}"#, "the name of a file beside it"),
        (r#"{"weight_map": {"a": "/etc/passwd"}}"#, "the name of a file beside it"),
        (r#"{"weight_map": {"a": ".."}}"#, "the name of a file beside it"),
        (r#"{"weight_map": {"a": ""}}"#, "the name of a file beside it"),
        (r#"{"weight_map": {"a": "config.yaml"}}"#, "config.yaml: header length"),
    ] {
        let checkpoint = Checkpoint::new();
        checkpoint.shard(index);
        checkpoint.refused(index, expected);
    }
}

#[test]
fn a_special_file_in_a_checkpoint_does_not_hang() {
    for name in ["config.yaml", "model.safetensors", "model.safetensors.index.json", "tokenizer.json"] {
        for device in [None, Some("/dev/zero")] {
            let checkpoint = Checkpoint::new();
            if name.ends_with("index.json") {
                checkpoint.shard("");
            }
            let path = checkpoint.file(name);
            let _ = fs::remove_file(&path);
            match device {
                None => fifo(&path),
                Some(device) => std::os::unix::fs::symlink(device, &path).unwrap(),
            }
            checkpoint.refused(name, name);
        }
    }
}

const TOKENIZER: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
    "pre_tokenizer":null,"post_processor":null,"decoder":null,"model":{"type":"BPE","dropout":null,"unk_token":null,
    "continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,
    "vocab":{"a":0,"b":1,"ab":2},"merges":[["a","b"]]}}"#;

#[test]
fn a_hostile_tokenizer_is_refused() {
    let checkpoint = Checkpoint::new();
    let nested = "[".repeat(100_000);
    for json in [&b""[..], b"{}", b"[]", b"{\"version\":\"1.0\"", b"\xff\xfe", nested.as_bytes()] {
        fs::write(checkpoint.file("tokenizer.json"), json).unwrap();
        checkpoint.refused("tokenizer", "tokenizer.json: ");
    }
    // What parses, or looks as if it did, but stops the crate that reads it with a panic.
    let part =
        |key: &str, value: &str| TOKENIZER.replace(&format!("\"{key}\":null"), &format!("\"{key}\":{value}"));
    let replace =
        format!(r#"{{"type":"Replace","pattern":{{"String":"a"}},"content":"{}"}}"#, "a".repeat(100));
    let strip = r#"{"type":"Strip","content":"a","start":0,"stop":9}"#;
    let cases = [
        part("continuing_subword_prefix", "\"#####\""),
        part("normalizer", r#"{"type":"Precompiled","precompiled_charsmap":"AAAA"}"#),
        part("normalizer", r#"{"type":"Precompiled","precompiled_charsmap":"CAAAAP////8AAAAAAAA="}"#),
        part("normalizer", r#"{"type":"Precompiled","precompiled_charsmap":"AAAA/w=="}"#),
        part("normalizer", &format!(r#"{{"type":"Sequence","normalizers":[{}]}}"#, [&*replace; 8].join(","))),
        part("pre_tokenizer", r#"{"type":"FixedLength","length":0}"#),
        part("decoder", strip),
        part("decoder", r#"{"type":"BPEDecoder","suffix":""}"#),
    ];
    for (index, json) in cases.into_iter().enumerate() {
        fs::write(checkpoint.file("tokenizer.json"), &json).unwrap();
        let arguments = checkpoint.arguments();
        let model = arguments[3].as_str();
        let verbs = [
            &arguments.each_ref().map(String::as_str)[..],
            &["tokenize", "-m", model, "-p", "aabab"],
            &["tokenize", "-m", model, "--decode", "0,0"],
            &["run", "-m", model, "--tokens", "0", "-n", "40", "--seed", "1"],
        ];
        for verb in verbs {
            let outcome = shell(PLAIN, verb);
            if outcome.code != Some(0) && (verb[0] == "quantize" || Path::new(model).exists()) {
                failed(&format!("tokenizer {index}"), &outcome, "tokenizer");
            }
        }
    }
}
