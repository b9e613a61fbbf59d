//! Model files that lie.

use cinderblock::unstable::gguf::{NewTensor, ValueType};
use cinderblock::unstable::model::{EmbedderConfig, Header, Projection, tensors};
use cinderblock::unstable::quant::WeightType;
use cinderblock::{ErrorKind, MemoryEstimate, Runtime, SessionOptions};

use super::*;
use crate::common::{draft_lists, with_lists};

#[test]
fn a_damaged_header_is_refused() {
    let file = File::new("block1");
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.gguf");
    for (name, skip, bytes, expected) in DAMAGE {
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

/// A draft table that is incomplete, in disorder, or beyond the vocabulary.
#[test]
fn a_damaged_draft_table_is_refused() {
    let file = File::new("main").0;
    let vocabulary = Model::from_bytes(&file).unwrap().config().vocabulary as u32;
    let refused = |case: &str, lists: &[(&str, ValueType, Vec<u8>)], expected: &str| {
        let lists: Vec<_> = lists.iter().map(|(key, element, bytes)| (*key, *element, &bytes[..])).collect();
        let error = Model::from_bytes(&with_lists(&file, &lists)).err();
        let error = error.unwrap_or_else(|| panic!("{case} is accepted")).to_string();
        assert!(error.contains(expected), "{case}: {error}");
        assert!(!error.contains('\n'), "{case}: {error}");
    };
    let none = 0xffff << 16;
    let sound = [(1 << 16 | 2, [3, 4], 255), (none | 2, [5, 5], 0)];
    let lists = draft_lists(&sound);
    let borrowed = lists.each_ref().map(|(key, element, bytes)| (*key, *element, &bytes[..]));
    assert_eq!(Model::from_bytes(&with_lists(&file, &borrowed)).unwrap().draft().unwrap().len(), 2);

    for missing in 1..3 {
        let mut lists = draft_lists(&sound).to_vec();
        let key = lists.remove(missing).0;
        refused("incomplete", &lists, &format!("{key}\" is missing"));
    }
    for list in 1..3 {
        let mut lists = draft_lists(&sound);
        lists[list].2.pop();
        if list == 1 {
            lists[list].2.pop();
        }
        refused("short", &lists, "expected a list of");
    }
    let order = "expected pairs of tokens in ascending order";
    for contexts in
        [[2 << 16, 1 << 16], [1 << 16, 1 << 16], [1, vocabulary << 16], [1, vocabulary], [1, none | 0xffff]]
    {
        refused("contexts", &draft_lists(&contexts.map(|context| (context, [0, 0], 1))), order);
    }
    for tokens in [[vocabulary as u16, 0], [0, vocabulary as u16], [0, 0xffff]] {
        refused("tokens", &draft_lists(&[(1, tokens, 1)]), "draft.tokens: found");
    }
    let mut floats = draft_lists(&sound);
    floats[0].1 = ValueType::F32;
    refused("floats", &floats, order);
    let mut shares = draft_lists(&sound);
    (shares[2].1, shares[2].2) = (ValueType::U16, vec![0, 1, 0, 0]);
    refused("shares", &shares, "expected 0 to 255");
}

/// The next token's logits, from a small cache.
fn logits(model: Model) -> cinderblock::Result<Vec<f32>> {
    let options = SessionOptions { cache_blocks: Some(4), sink_blocks: 1, ..Default::default() };
    let mut session = Runtime::new(model, 1)?.session(&options)?;
    session.append(&[0, 1, 2, 3, 4, 5, 0])?;
    // In a block that stays open, so that the token decoder sees it.
    session.append(&[0])?;
    Ok(session.logits()?.to_vec())
}

/// A file of a few kilobytes, most of it a hole, may declare shapes whose buffers no machine has.
#[test]
fn shapes_beyond_all_memory_are_refused_in_one_line() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.gguf");
    let mut config = File::new("uptrain").model().config().clone();
    // Logits of a block: 68.7 GB.
    (config.block_length, config.vocabulary, config.trained_blocks) = (1024, 1 << 24, 1);
    config.embedder = EmbedderConfig::Lookup { width: 2, projection: Projection::Linear };
    let specs = tensors(&config);
    let typed: Vec<_> = specs.iter().map(|spec| (spec, WeightType::F16)).collect();
    let lengths: Vec<u64> =
        typed.iter().map(|(spec, kind)| NewTensor::bytes(&spec.describe(*kind))).collect();
    let file = fs::File::create(&path).unwrap();
    let header = Header {
        config: &config,
        alignment_reason: None,
        tensors: &typed,
        tokenizer: None,
        end_token: None,
        recipe: "f16",
        calibration: None,
    };
    header.begin(file.try_clone().unwrap()).unwrap();
    let header = file.metadata().unwrap().len();
    let end = lengths.iter().fold(header, |end, length| end.next_multiple_of(64) + length);
    file.set_len(end).unwrap();

    let runtime = Runtime::new(Model::open(&path).unwrap(), 1).unwrap();
    let error = runtime.session(&SessionOptions::default()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Resource, "{error}");
    assert!(error.to_string().contains("68719476736 bytes"), "{error}");
    let estimate = MemoryEstimate::new(runtime.model(), &SessionOptions::default());
    assert!(estimate.scratch > 2 * 68_719_476_736, "{estimate:?}");
    refused("run", &["run", "-m", text(&path), "--tokens", "1"], "cannot be allocated");
}

/// What still opens must still run: a changed shape must not send a kernel out of bounds.
#[test]
fn a_flipped_bit_of_the_header_never_panics() {
    let file = File::new("block1");
    let original = file.model();
    let mut bytes = file.0.clone();
    let (mut opened, mut ran) = (0, 0);
    for bit in 0..original.index().data_start() as usize * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(model) = Model::from_bytes(&bytes) {
            opened += 1;
            let _ = (model.verify(), model.types(), model.tokenizer_json());
            if model.config() != original.config() {
                ran += usize::from(logits(model).is_ok());
            }
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(opened > 1000 && ran > 50, "{opened} {ran}");
}

/// Someone copies another file over a model in use.
#[test]
fn a_header_that_is_written_over_is_an_error() {
    use std::io::Write;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, &File::new("block1").0).unwrap();
    let model = cinderblock::Model::open(&path).unwrap();
    let before = model.fingerprint();
    fs::OpenOptions::new().write(true).open(&path).unwrap().write_all(&[0xff; 256]).unwrap();
    if model.fingerprint() != before {
        // Not a copy in memory.
        model.verify().unwrap_err();
        assert_eq!(model.tokenizer_json(), None);
    }
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
    for name in ["main", "uptrain", "wide_heads"] {
        let file = File::new(name);
        let model = file.model();
        assert!(logits(file.model()).is_ok());
        for (info, kind) in model.index().tensors().iter().zip(model.types()) {
            // Bias and norm hold singles, and so do the scales that a q4 panel begins with; those of q8 are halves.
            let values: &[&[u8]] = if kind == WeightType::Q8 {
                &[&[0, 0x7e], &[0, 0x7c]]
            } else {
                &[&[0, 0, 0xc0, 0x7f], &[0, 0, 0x80, 0x7f]]
            };
            for value in values {
                let damaged = Model::from_bytes(&file.patched(info.start, value)).unwrap();
                let error = logits(damaged).err();
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
