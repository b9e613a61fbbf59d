//! Model files that lie.

use std::sync::Arc;

use cinderblock::error::ErrorKind;
use cinderblock::{Session, SessionOptions, Team};

use super::*;

#[test]
fn a_damaged_header_is_refused() {
    const NORM: &str = "block_decoder.layers.0.attention_norm.weight";
    const OTHER: &str = "block_decoder.layers.1.attention_norm.bias";
    const TYPES: &str = ".tensor.types";
    // Name of a key or tensor, distance from its end, what is written there, and what the error says. After a
    // key come its type (4 bytes) and value; after a tensor its rank (4), dimensions (8 each), type and offset.
    let cases: &[(&str, isize, &[u8], &str)] = &[
        ("", 0, b"GGUX", "start of file: found \"GGUX"),
        ("", 0, b"ggml", "the magic \"GGUF\""),
        ("", 4, &[2], "GGUF version: found 2, expected 3"),
        ("", 4, &[0, 0, 0, 3], "a big-endian file"),
        ("", 8, &le(u64::MAX), "tensor count: found 18446744073709551615"),
        ("", 8, &le(1 << 16), "tensor count: found 65536"),
        ("", 8, &le(0), "end of file"),
        ("", 8, &le(44), ""),
        ("", 8, &le(46), ""),
        ("", 16, &le(u64::MAX), "metadata count: found 18446744073709551615"),
        ("", 16, &le(9000), ""),
        ("", 16, &le(0), "metadata key \"general.architecture\" is missing"),
        ("general.architecture", 12, b"llama", "general.architecture: found \"llamatransformer\""),
        ("general.architecture", 12, &[0xff], "is not UTF-8"),
        ("general.architecture", 4, &le(u64::MAX), "expected 18446744073709551615"),
        ("general.name", 4, &le(1 << 40), "truncated file?"),
        ("general.name", 0, &[13], "type of metadata key \"general.name\": found 13, expected 0 to 12"),
        ("general.name", 0, &[7], ""),
        ("general.name", -4, b"xxxx", "metadata key \"general.name\" is missing"),
        ("general.alignment", 4, &[0], "general.alignment: found 0, expected a power of two"),
        ("general.alignment", 4, &[3], "general.alignment: found 3"),
        ("general.alignment", 4, &[0, 0, 2], "general.alignment: found 131072"),
        ("general.alignment", 4, &[128], "a multiple of 128"),
        ("general.alignment", 0, &[6], "general.alignment"),
        (TYPES, 0, &[8], ""),
        (TYPES, 4, &[9], "array of arrays"),
        (TYPES, 4, &[4], ""),
        (TYPES, 8, &le(u64::MAX), ""),
        (TYPES, 8, &le(1 << 61), ""),
        (TYPES, 24, b"q5", "found \"q5\", expected q4, q8, bf16, f16, f32"),
        (".block_decoder.block_count", -25, b"token", "block_count\" appears twice"),
        (".block_length", -1, b"x", "blocktransformer.block_length\" is missing"),
        (".block_length", 0, &[6], "expected an integer"),
        (".block_length", 4, &[0], "block_length: found 0, expected an integer from 1"),
        (".block_length", 4, &[255; 4], "block_length: found 4294967295"),
        (".block_length", 4, &[2], "width of the table"),
        (".vocab_size", 4, &[255; 4], "vocab_size: found 4294967295"),
        (".vocab_size", 4, &[0, 0, 0, 1], "embedder.embeddings.weight"),
        (".context_blocks", 4, &[0; 4], "context_blocks: found 0"),
        (".embedder.projection", 12, b"convol", "found convol"),
        (".embedder.projection", 12, b"linear", "embedder.projection.weight\" is missing"),
        (".token_decoder.strategy", 12, b"prefax", "found prefax"),
        (".token_decoder.expansion_ratio", 4, &[3], "token_decoder.expansion.weight"),
        (".block_decoder.block_count", 4, &[255; 4], "block_count: found 4294967295"),
        (".block_decoder.block_count", 4, &[0, 4], "layers.2.attention_norm.weight\" is missing"),
        (".block_decoder.block_count", 4, &[1], "does not belong to this model"),
        (".block_decoder.attention.head_count", 4, &[3], "attention heads: found 3"),
        (".block_decoder.attention.head_count", 4, &[0], "head_count: found 0"),
        (".block_decoder.rope.dimension_count", 4, &[7], "rotated dimensions of a head: found 7"),
        (".block_decoder.rope.dimension_count", 4, &[34], "an even number up to 32"),
        (".block_decoder.rope.freq_base", 4, &[0, 0, 128, 127], "a finite float"),
        (".block_decoder.rope.freq_base", 4, &[0; 4], "positive floats"),
        (".block_decoder.attention.layer_norm_epsilon", 4, &[255; 4], "a finite float"),
        (".block_decoder.attention.layer_norm_epsilon", 7, &[0xb7], "positive floats"),
        (OTHER, -21, b"0", "layers.0.attention_norm.bias\" appears twice"),
        (OTHER, -1, b"x", "does not belong to this model"),
        (NORM, 0, &[0], "rank: found 0, expected 1 to 4"),
        (NORM, 0, &[5], "rank: found 5"),
        (NORM, 4, &le(0), "dimension: found 0"),
        (NORM, 4, &le(63), "found F32 [63], expected F32 [64]"),
        (NORM, 4, &le(u64::MAX), "size: found 18446744073709551615 elements"),
        (NORM, 4, &le(1 << 40), "inside a file of"),
        ("embedder.embeddings.weight", 4, &le(1 << 63), "whose product fits"),
        (NORM, 12, &[2], "type: found 2, expected 0 (F32)"),
        (NORM, 12, &[30], "found BF16 [64], expected F32 [64]"),
        (NORM, 16, &le(1), "offset: found 1, expected a multiple of 64"),
        (NORM, 16, &le(0), "overlap"),
        (NORM, 16, &le(1 << 40), "inside a file of"),
        (NORM, 16, &le(u64::MAX - 63), "inside a file of"),
    ];
    let file = File::new("block1");
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.gguf");
    for (name, skip, bytes, expected) in cases {
        let case = format!("{name} {skip} {bytes:?}");
        let damaged = file.patched(file.after(name).strict_add_signed(*skip), bytes);
        let error = Model::from_bytes(&damaged).err().unwrap_or_else(|| panic!("{case} is accepted"));
        assert!(error.to_string().contains(expected), "{case}: {error}");
        fs::write(&path, damaged).unwrap();
        refused(&case, &["inspect", text(&path)], "model.gguf: ");
    }
    fs::write(&path, [&file.0[..], &[0; 64]].concat()).unwrap();
    refused("longer", &["inspect", text(&path)], "end of file");
}

/// Without the key, tensors are aligned to 32, which is too little for the kernels half of the time.
#[test]
fn a_missing_alignment_is_noticed() {
    let checkpoint = Checkpoint::new();
    let mut refused = 0;
    for length in 0..16 {
        let name = "x".repeat(4 * length);
        let arguments = checkpoint.arguments();
        let arguments = arguments.iter().map(String::as_str).chain(["--name", &name]);
        shell(PLAIN, &arguments.collect::<Vec<_>>()).success();
        let file = File(fs::read(checkpoint.output().join("model.gguf")).unwrap());
        if let Err(error) = Model::from_bytes(&file.patched(file.after("general.alignment") - 1, b"x")) {
            assert!(error.to_string().contains("alignment") || error.to_string().contains("end of file"));
            refused += 1;
        }
    }
    assert!((4..=12).contains(&refused), "{refused}");
}

#[test]
fn a_model_truncated_anywhere_is_refused() {
    let file = File::new("block1");
    std::thread::scope(|scope| {
        for offset in 0..2 {
            let bytes = &file.0;
            scope.spawn(move || {
                for length in (offset..bytes.len()).step_by(2) {
                    assert!(Model::from_bytes(&bytes[..length]).is_err(), "{length} bytes");
                }
            });
        }
    });
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.gguf");
    for length in (0..file.0.len()).step_by(4999) {
        fs::write(&path, &file.0[..length]).unwrap();
        refused("truncated", &["run", "-m", text(&path), "--tokens", "1"], "model.gguf: ");
    }
}

/// The next token's logits, from a small cache.
fn logits(model: Model, team: &Arc<Team>) -> cinderblock::Result<Vec<f32>> {
    let options = SessionOptions { cache_blocks: 4, sink_blocks: 1, cache_type: None };
    let mut session = Session::new(&Arc::new(model), team, &options)?;
    session.append(&[0, 1, 2, 3, 4, 5, 0])?;
    // In a block that stays open, so that the token decoder sees it.
    session.append(&[0])?;
    Ok(session.logits()?.to_vec())
}

/// What still opens must still run: a changed shape must not send a kernel out of bounds.
#[test]
fn a_flipped_bit_of_the_header_never_panics() {
    let file = File::new("block1");
    let original = file.model();
    let team = Arc::new(Team::new(1).unwrap());
    let mut bytes = file.0.clone();
    let (mut opened, mut ran) = (0, 0);
    for bit in 0..original.index().data_start() as usize * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(model) = Model::from_bytes(&bytes) {
            opened += 1;
            let _ = (model.verify(), model.types(), model.tokenizer_json());
            if model.config() != original.config() {
                ran += usize::from(logits(model, &team).is_ok());
            }
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(opened > 1000 && ran > 50, "{opened} {ran}");
}

#[test]
fn a_changed_weight_is_found_and_named() {
    let file = File::new("block1");
    let model = file.model();
    model.verify().unwrap();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.gguf");
    for info in model.index().tensors() {
        for at in [info.start, info.start + info.bytes - 1] {
            let damaged = file.patched(at, &[file.0[at] ^ 1]);
            let error = Model::from_bytes(&damaged).unwrap().verify().unwrap_err().to_string();
            assert!(error.contains(&format!("{:?}", info.name)), "{error}");
            fs::write(&path, damaged).unwrap();
        }
        refused(info.name, &["inspect", "--verify", text(&path)], &format!("tensor {:?}", info.name));
    }
    let checksums = file.after(".tensor.crc32");
    for (at, bytes) in [(checksums - 1, &b"x"[..]), (checksums + 4, &[6])] {
        assert!(Model::from_bytes(&file.patched(at, bytes)).unwrap().verify().is_err());
    }
}

/// Whichever weight is not a number, the logits must not look as if all were well.
#[test]
fn a_weight_that_is_not_a_number_is_an_error() {
    let team = Arc::new(Team::new(1).unwrap());
    for name in ["main", "uptrain", "wide_heads"] {
        let file = File::new(name);
        let model = file.model();
        assert!(logits(file.model(), &team).is_ok());
        for (info, kind) in model.index().tensors().iter().zip(model.types()) {
            // Bias and norm hold singles; a record begins with its scales, which are halves.
            let values: &[&[u8]] = if kind.is_quantized() {
                &[&[0, 0x7e], &[0, 0x7c]]
            } else {
                &[&[0, 0, 0xc0, 0x7f], &[0, 0, 0x80, 0x7f]]
            };
            for value in values {
                let damaged = Model::from_bytes(&file.patched(info.start, value)).unwrap();
                let error = logits(damaged, &team).err();
                let kind = error.map(|error| error.kind());
                assert_eq!(kind, Some(ErrorKind::Numeric), "{name}: {} {value:?}", info.name);
            }
        }
    }
}

#[test]
fn a_damaged_weight_ends_every_verb_with_one_line() {
    let file = File::new("main");
    let norm = "token_decoder.final_norm.bias";
    let model = file.model();
    let info = model.index().tensors().iter().find(|info| info.name == norm).unwrap().clone();
    let folder = TempDir::new().unwrap();
    let (path, output) = (folder.path().join("model.gguf"), folder.path().join("logits.npy"));
    fs::write(&path, file.patched(info.start, &f32::NAN.to_le_bytes())).unwrap();
    let input = ["-m", text(&path), "--tokens", "1,2,3,4,5,6,7,8"];
    for verb in [&["run"][..], &["run", "--json"], &["perplexity"], &["logits", "-o", text(&output)]] {
        refused(verb[0], &[verb, &input].concat(), "logits: found NaN, expected finite numbers");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
