//! The seeds of the fuzz targets: each is one way in which a file has broken a program of this kind. All give a result or
//! an error of one line. `CINDERBLOCK_WRITE_SEEDS=1` writes them anew, after a change of a format.

#[path = "../../../fuzz/src/lib.rs"]
mod fuzz;

use cinderblock::unstable::quant::WeightType;
use cinderblock::{CacheType, SessionOptions};

use super::*;
use crate::common::damage::le;
use crate::common::root;
use fuzz::{TARGETS, tiny};

type Seeds = Vec<(String, Vec<u8>)>;

fn corpus() -> PathBuf {
    root().join("fuzz/corpus")
}

#[test]
fn every_seed_gives_a_result_or_an_error() {
    if std::env::var_os("CINDERBLOCK_WRITE_SEEDS").is_some() {
        write();
    }
    for (target, run) in TARGETS {
        let mut count = 0;
        for entry in fs::read_dir(corpus().join(target)).unwrap_or_else(|error| panic!("{target}: {error}")) {
            let path = entry.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            let result = std::panic::catch_unwind(|| run(&bytes));
            assert!(result.is_ok(), "{}", path.display());
            count += 1;
        }
        assert!(count > 0, "{target} has no seed");
    }
}

/// What the seeds that are modeled on published faults get for an answer.
#[test]
fn published_faults_are_refused_by_name() {
    for (name, bytes, expected) in damaged_models() {
        let found = match Model::from_bytes(&bytes) {
            Ok(_) => "opens".to_string(),
            Err(error) => error.to_string(),
        };
        assert!(found.contains(expected), "{name}: {found}");
        assert!(corpus().join("model").join(name).exists(), "{name} is no seed");
    }
}

fn write() {
    let all: Vec<(&str, Seeds)> = vec![
        ("batch_line", batch_lines()),
        ("checkpoint", checkpoints()),
        ("config", configs()),
        ("decoding", decodings()),
        ("header", named(&[("small", &small("small").0)])),
        ("journal", journals()),
        ("model", models()),
        ("model_shapes", shapes()),
        ("npy", npy()),
        ("recipe", named(&[("rules", b"*.qkv.weight=q8\n# all\n*=q4\nblock*layers*=bf16\n")])),
        ("safetensors", tensors()),
        (
            "sampler",
            named(&[("plain", &[11; 40]), ("zeros", &[0; 60]), ("mixed", &[200, 9, 130, 2, 70, 1, 1, 1])]),
        ),
        ("session", sessions()),
        ("tokenizer", tokenizers()),
        ("yaml", yaml()),
        ("capi", calls()),
    ];
    for (target, seeds) in all {
        let folder = corpus().join(target);
        fs::create_dir_all(&folder).unwrap();
        for (name, bytes) in seeds {
            fs::write(folder.join(name), bytes).unwrap();
        }
    }
}

fn named(seeds: &[(&str, &[u8])]) -> Seeds {
    seeds.iter().map(|(name, bytes)| (name.to_string(), bytes.to_vec())).collect()
}

/// A file of 5 kilobytes: one layer each, and only floats.
fn small(name: &str) -> File {
    let mut config = tiny::config();
    (config.name, config.block_decoder.layers) = (name.into(), 1);
    File(tiny::file(&config, None, |_| WeightType::F16))
}

const NORM: &str = "block_decoder.layers.0.attention_norm.weight";

/// Name, file and answer.
fn damaged_models() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let file = small("small");
    let at =
        |name: &str, skip: isize, bytes: &[u8]| file.patched(file.after(name).strict_add_signed(skip), bytes);
    // Two dimensions instead of one are 8 bytes more, which the file's name gives up.
    let shape = |dimensions: [u64; 2]| {
        let table = "embedder.embeddings.weight";
        at(table, 4, &dimensions.map(u64::to_le_bytes).concat())
    };
    vec![
        ("cve-2024-21802-dimensions", shape([1 << 63, 2]), "whose product fits"),
        ("cve-2024-21825-array-count", at(".tensor.types", 8, &le(u64::MAX / 4)), "tensor.types"),
        ("cve-2024-21836-tensor-count", at("", 8, &le((1 << 61) + 1)), "tensor count"),
        ("cve-2024-23496-string-length", at("general.name", 4, &le(u64::MAX)), "truncated file?"),
        ("cve-2024-23605-key-count", at("", 16, &le(u64::MAX / 2)), "metadata count"),
        ("cve-2025-53630-sizes-add-up", at(NORM, 16, &le(u64::MAX - 63)), "inside a file of"),
        ("cve-2026-27940-size-after-check", at(NORM, 4, &le(1 << 62)), "expected fewer"),
        ("pr-24759-padding-wraps", at(NORM, 4, &le((1 << 62) - 8)), "inside a file of"),
        ("issue-27203-elements-wrap", shape([1 << 32, 1 << 32]), "whose product fits"),
        ("cve-2026-33298-bytes-wrap", shape([1 << 31, 1 << 32]), "expected fewer"),
        ("cve-2025-49847-length-as-int", at("general.name", 4, &le((1 << 32) + 4)), "truncated file?"),
        ("cve-2026-7482-data-after-the-end", at(NORM, 16, &le(1 << 20)), "inside a file of"),
        ("candle-3533-alignment-zero", at("general.alignment", 4, &[0]), "a power of two"),
        ("candle-3712-rank", at(NORM, 0, &[255; 4]), "rank"),
        ("candle-3876-dimension-zero", at(NORM, 4, &le(0)), "dimension: found 0"),
        ("ollama-17032-24-bytes", file.0[..24].to_vec(), "count"),
        ("ollama-17033-36-bytes", file.0[..36].to_vec(), "count"),
        ("pr-25821-layers", at(".block_decoder.block_count", 4, &[0, 4, 0, 0]), "layers.1."),
        ("openvino-4170-heads", at(".block_decoder.attention.head_count", 4, &[0]), "head_count: found 0"),
        ("cve-2024-34359-template", template(), "opens"),
    ]
}

/// A template that would run code somewhere else is a text like any other here.
fn template() -> Vec<u8> {
    small("{{ ''.__class__.__mro__[1].__subclasses__() }}{% include '/etc/passwd' %}").0
}

fn models() -> Seeds {
    let mut seeds = vec![("sound".to_string(), small("small").0), ("mixed".to_string(), tiny::mixed())];
    seeds.extend(damaged_models().into_iter().map(|(name, bytes, _)| (name.to_string(), bytes)));
    seeds
}

fn shapes() -> Seeds {
    let plain = [0u8; 40];
    let linear =
        [1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 0, 0, 2, 1, 3, 4, 1, 1, 0, 2, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0];
    let wide =
        [0, 12, 1, 6, 2, 0, 0, 0, 12, 0, 7, 1, 0, 0, 1, 1, 2, 6, 0, 0, 1, 1, 4, 4, 4, 4, 3, 3, 3, 3, 7];
    named(&[("plain", &plain), ("linear", &linear), ("wide", &wide)])
}

fn session(options: &SessionOptions, tokens: usize) -> Vec<u8> {
    let mut generator = tiny::runtime().generator(options).unwrap();
    let tokens: Vec<u32> = (0..tokens as u32).map(|at| at * 5 % 12).collect();
    generator.append(&tokens).unwrap();
    generator.save().unwrap().bytes().to_vec()
}

fn sessions() -> Seeds {
    let options = |kind, blocks| SessionOptions {
        cache_type: Some(kind),
        cache_blocks: Some(blocks),
        sink_blocks: 1,
        ..Default::default()
    };
    let sound = session(&options(CacheType::F16, 4), 5);
    let patched = |at: usize, bytes: &[u8]| {
        let mut file = sound.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    vec![
        ("empty".into(), session(&options(CacheType::F32, 4), 0)),
        ("rolled".into(), session(&options(CacheType::Q8, 3), 21)),
        ("cache-of-2-to-62-blocks".into(), patched(32, &le(1 << 62))),
        ("cache-of-2-to-32-blocks".into(), patched(32, &le(1 << 32))),
        ("length-2-to-63".into(), patched(48, &le(1 << 63))),
        ("open-tokens".into(), patched(56, &[255; 4])),
        ("sound".into(), sound),
    ]
}

fn tokenizers() -> Seeds {
    let with = |json: &str, text: &str| [json.as_bytes(), text.as_bytes(), &[0, 1, 4, 5, 6, 11]].join(&0xff);
    let model = |model: &str, decoder: &str| {
        format!(
            r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,"pre_tokenizer":null,"post_processor":null,"decoder":{decoder},"model":{model}}}"#
        )
    };
    let bytes = r#"{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]}"#;
    let bpe = r#"{"type":"BPE","dropout":null,"unk_token":"<unk>","continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":true,"byte_fallback":true,"vocab":{"<unk>":0,"<0x-1>":1,"<0xE2>":2,"▁":3,"a":4,"▁a":5},"merges":[["▁","a"]]}"#;
    let unigram = r#"{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0.0],["a",-1.0],["ab",-1.5]],"byte_fallback":false}"#;
    let word = r###"{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":100,"vocab":{"[UNK]":0,"a":1,"##b":2}}"###;
    let prefix = r#"{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":"\u0023#####","end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,"vocab":{"a":0,"b":1,"ab":2},"merges":[["a","b"]]}"#;
    vec![
        ("byte-level".into(), with(tiny::TOKENIZER, "ab é\ncd")),
        ("pr-25969-byte-token".into(), with(&model(bpe, bytes), "aa€")),
        ("cve-2025-52566-long-text".into(), with(tiny::TOKENIZER, &"ab".repeat(400))),
        ("unigram".into(), with(&model(unigram, "null"), "abab")),
        (
            "word-piece".into(),
            with(&model(word, r###"{"type":"WordPiece","prefix":"##","cleanup":true}"###), "abb"),
        ),
        ("prefix-longer-than-tokens".into(), with(&model(prefix, "null"), "ab")),
        ("tokenizers-2094-merge".into(), with(&tiny::TOKENIZER.replace("a b\"", "a b\",\"ab cd\""), "abcd")),
        ("qxotic-3-id".into(), with(&tiny::TOKENIZER.replace("\"cd\":10", "\"cd\":4294967295"), "abcd")),
        ("nested".into(), "[".repeat(3000).into_bytes()),
    ]
}

fn decodings() -> Seeds {
    named(&[
        ("byte-level", &[1, 0, 25, 23, 24, 25, 26, 27, 28, 29]),
        ("llama", &[4, 1, 2, 3, 6, 2, 3, 4, 0, 1, 0, 14, 15, 16, 2, 3, 22, 14]),
        ("suffix", &[1, 7, 10, 11, 10, 0, 1, 11]),
        ("ctc", &[1, 8, 32, 31, 0, 0, 0, 32, 1, 31, 31]),
        ("word-piece", &[2, 3, 6, 0, 8, 0, 9, 33, 34]),
        ("pr-25969-byte-token", &[1, 2, 22, 14, 22, 15]),
    ])
}

fn configs() -> Seeds {
    let trainer = fs::read(case("main").join("config.yaml")).unwrap();
    let part = br#"{"model_type": "gpt_neox", "hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2, "rotary_pct": 0.25, "layer_norm_eps": 1e-05, "tie_word_embeddings": false, "rope_scaling": null}"#;
    let summation = String::from_utf8(fs::read(case("uptrain").join("config.yaml")).unwrap()).unwrap();
    named(&[
        ("trainer", &trainer),
        ("part", part),
        ("summation", summation.replace("prefix", "summation").as_bytes()),
        ("vanilla", b"name: vanilla_31\nmodel:\n  cls: gpt-neo-x\n"),
    ])
}

fn yaml() -> Seeds {
    let bomb = b"a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b]\n";
    named(&[
        ("merge", b"a: &id001\n  x: 1\n  y: 1e-05\nb: *id001\nc:\n  <<: *id001\n  x: 2\nd: [on, 'off', ~, .nan, 0x10]\n"),
        ("bomb", bomb),
        ("cve-2026-2069-nesting", "[{a: ".repeat(600).as_bytes()),
        ("tag", b"a: !!python/object/apply:os.system ['id']\nb: !!binary aGk=\n"),
        ("numbers", b"[1e400, -1e-400, 99999999999999999999999999999999999999999, -0, 0o17, 0b1, +.inf]\n"),
    ])
}

fn batch_lines() -> Seeds {
    named(&[
        ("text", br#"{"id": 1, "prompt": "ab cd", "max_tokens": 3, "temp": 0.5, "logit_bias": {"3": -1}}"#),
        ("tokens", br#"{"id": "a", "tokens": [1, 2, 3], "logprobs": 2, "stop": ["a", "b"], "seed": 7, "label": [1]}"#),
        ("cve-2026-21869-negative", br#"{"id": 1, "prompt": "a", "max_tokens": -1, "top_k": -9223372036854775808}"#),
        ("cve-2026-2069-nesting", "[".repeat(3000).as_bytes()),
        (
            "constraints",
            br#"{"id": 1, "prompt": "ab", "json_schema": {"type": "object", "properties": {"a": {"enum": ["b", 1]}}, "required": ["a"]}}
{"id": 2, "prompt": "ab", "regex": "(ab|cd){2,3}a*"}
{"id": 3, "prompt": "ab", "grammar": "start: \"a\" x\nx: /[b-d]+/ | \"a\" x"}"#,
        ),
        (
            "numbers",
            br#"{"id": 1, "tokens": [1], "max_tokens": 18446744073709551615, "repetition_window": 18446744073709551615, "repetition_penalty": 1e-39, "logit_bias": [[1, 3e38], [1, 3e38], [2, false]]}
{"id": 2, "tokens": [4294967295]}
{"id": 3, "tokens": []}"#,
        ),
    ])
}

fn journals() -> Seeds {
    let whole = b"{\"request\":\"1234-ab-d\",\"id\":\"a\",\"text\":\"x\"}\n{\"request\":\"1234-ab-d\",\"id\":null,\"line\":1,\"error\":\"x\",\"retry\":true}\n";
    named(&[
        ("whole", whole),
        ("torn", &whole[..60]),
        ("foreign", b"text\nmore"),
        ("other-model", b"{\"request\":\"12-ab-d\",\"id\":1}\n"),
        ("empty", b""),
        ("no-line", &[0; 9000]),
    ])
}

fn npy() -> Seeds {
    let header = cinderblock_tools::unstable::npy_header(3, 5);
    let long =
        [b"\x93NUMPY\x01\x00\xff\xff{'descr': '<f4', 'shape': (18446744073709551616, 1)".as_slice(), &header]
            .concat();
    named(&[("sound", &header), ("long", &long)])
}

fn container(header: &str, data: usize) -> Vec<u8> {
    [&le(header.len() as u64), header.as_bytes(), &vec![0; data]].concat()
}

fn tensors() -> Seeds {
    let one = |shape: &str, offsets: &str| {
        container(&format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#), 16)
    };
    let two = r#"{"a":{"dtype":"F16","shape":[4],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[2,2],"data_offsets":[4,12]}}"#;
    let mut polyglot = one("[2,2]", "[0,16]");
    polyglot.extend(b"PK\x03\x04");
    vec![
        ("sound".into(), one("[2,2]", "[0,16]")),
        ("overlap".into(), container(two, 12)),
        ("rez0-shape-wraps".into(), one("[4611686018427387904,4]", "[0,16]")),
        ("cve-2026-7482-data-after-the-end".into(), one("[4096]", "[0,16384]")),
        (
            "stable-diffusion-1396-shape-and-bytes".into(),
            container(r#"{"weight":{"dtype":"F64","shape":[4],"data_offsets":[0,16]}}"#, 16),
        ),
        ("offsets-backwards".into(), one("[4]", "[16,0]")),
        ("header-length".into(), [&le(u64::MAX)[..], b"{}"].concat()),
        ("trail-of-bits-polyglot".into(), polyglot),
        (
            "twice".into(),
            container(
                r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#,
                1,
            ),
        ),
    ]
}

/// The case `main`, smaller.
fn checkpoints() -> Seeds {
    let bytes = fs::read(case("main").join("model.safetensors")).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Map<String, Json> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let (mut small, mut end) = (serde_json::Map::new(), 0);
    for (name, entry) in header.iter().filter(|(name, _)| *name != "__metadata__") {
        let size = |n: &Json| match n.as_u64().unwrap() {
            260 => 12,
            64 => 8,
            256 | 128 => 16,
            192 => 24,
            16 => 2,
            other => other,
        };
        let shape: Vec<u64> = entry["shape"].as_array().unwrap().iter().map(size).collect();
        let bytes = 4 * shape.iter().product::<u64>();
        small.insert(
            name.clone(),
            json!({"dtype": "F32", "shape": shape, "data_offsets": [end, end + bytes]}),
        );
        end += bytes;
    }
    let header = Json::Object(small.clone()).to_string();
    let heads = "hidden_size: 8\n    num_attention_heads: 2\n    intermediate_size: 16";
    let config = fs::read_to_string(case("main").join("config.yaml")).unwrap();
    let config =
        config.replace("hidden_size: 64", heads).replace("260", "12").replacen(heads, "hidden_size: 2", 1);
    let map: serde_json::Map<String, Json> =
        small.keys().map(|name| (name.clone(), "shard.safetensors".into())).collect();
    let index = json!({"weight_map": map}).to_string();
    let wrapped = header.replace("\"block_decoder", "\"module.block_decoder");
    let seed = |parts: [&str; 4]| parts.map(str::as_bytes).join(&0xff);
    let escape = r#"{"weight_map": {"a": "../../etc/passwd"}}"#;
    vec![
        ("sound".into(), seed([&config, &header, "", ""])),
        ("inferred".into(), seed(["", &wrapped, "", ""])),
        ("shards".into(), seed([&config, &header, &index, tiny::TOKENIZER])),
        ("shard-of-another-folder".into(), seed([&config, "{}", escape, ""])),
    ]
}

fn calls() -> Seeds {
    let every: Vec<u8> = [1, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 2, 130, 1, 0, 2, 0, 0]
        .into_iter()
        .chain((0..26u8).flat_map(|call| [call, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]))
        .collect();
    named(&[("every-call", &every), ("none", &[0])])
}
