//! `perplexity` by position: in the block and in the context.

use std::fs;

use serde_json::Value as Json;
use tempfile::TempDir;

use crate::common::{case, cinderblock, ids, quantize, read_npy};

/// Number of tokens of a list of positions, and their mean loss.
fn total(rows: &Json) -> (u64, f64) {
    let rows = rows.as_array().expect("a list");
    let tokens = |row: &Json| row["tokens"].as_u64().expect("a count");
    let count = rows.iter().map(tokens).sum();
    let sum: f64 = rows.iter().map(|row| row["nll"].as_f64().expect("a number") * tokens(row) as f64).sum();
    (count, sum / count as f64)
}

#[test]
fn losses_by_position_are_those_of_the_saved_logits_and_add_up_to_the_loss_of_the_text() {
    let tokens: Vec<u32> = (0..52).map(|i| 5 + 7 * i % 43).collect();
    for (name, length) in [("main", 4), ("vanilla", 1), ("block8", 8)] {
        let (folder, model) = quantize(&case(name), "f32");
        let saved = folder.path().join("logits.npy");
        let (model, file, ids) = (model.to_str().unwrap(), saved.to_str().unwrap(), ids(&tokens));
        let base = ["perplexity", "-m", model, "--tokens", &ids, "--json", "--save-logits", file];
        let json = cinderblock(&base).json();
        for list in ["by_block_position", "by_context_position"] {
            let (count, nll) = total(&json[list]);
            assert_eq!(Some(count), json["tokens"].as_u64(), "{name}: {list}");
            assert!((nll - json["nll"].as_f64().unwrap()).abs() < 1e-9, "{name}: {list}: {json}");
        }
        let logits = read_npy(&saved).1;
        let vocabulary = logits.len() / (tokens.len() - tokens.len() % length - length);
        let mut sums = vec![0.0; length];
        for (row, position) in logits.chunks_exact(vocabulary).zip(length..) {
            let total: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
            sums[position % length] += total.ln() - f64::from(row[tokens[position] as usize]);
        }
        for (position, sum) in sums.iter().enumerate() {
            let row = &json["by_block_position"][position];
            assert_eq!(row["position"], position);
            let expected = sum / row["tokens"].as_f64().unwrap();
            assert!((row["nll"].as_f64().unwrap() - expected).abs() < 1e-4, "{name}: {row}, {expected}");
        }
        let first = &json["by_context_position"][0];
        let bounds = ["from", "to"].map(|bound| first[bound].as_u64().unwrap() as usize);
        assert_eq!(bounds, [length, 2 * length - 1]);
    }
}

#[test]
fn losses_by_position_are_printed_and_drawn() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("loss.svg");
    let tokens = ids(&(0..40).map(|i| 5 + 61 * i % 4000).collect::<Vec<u32>>());
    let text = cinderblock(&["perplexity", "--tokens", &tokens, "--plot", file.to_str().unwrap()]).success();
    for part in ["in the block 3 ", "in the context 4 to 7 ", "in the context 32 to 39 "] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let drawing = fs::read_to_string(file).unwrap();
    assert!(drawing.starts_with("<svg") && drawing.contains("position in the block"), "{drawing}");
}

/// A comparison with numbers that are none says nothing, and must not look like a perfect match.
#[test]
fn saved_logits_that_are_not_finite_or_not_whole_are_refused() {
    let (folder, model) = quantize(&case("main"), "f32");
    let saved = folder.path().join("saved.npy");
    let (model, file) = (model.to_str().unwrap(), saved.to_str().unwrap());
    let text = ["perplexity", "-m", model, "--tokens", "5,6,7,8,9,10,11,12,13,14,15,16"];
    cinderblock(&[&text[..], &["--save-logits", file]].concat()).success();
    let good = fs::read(&saved).unwrap();
    let start = good.len() - good.len() % 4 - read_npy(&saved).1.len() * 4;
    let columns = read_npy(&saved).1.len() / 8;
    let patched = |at: usize, value: f32| {
        let mut bytes = good.clone();
        bytes[start + 4 * at..][..4].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    let mut version = good.clone();
    version[6] = 2;
    let cases = [
        (patched(0, f32::NAN), "row 0, column 0: found NaN"),
        (patched(5 * columns + 3, f32::INFINITY), "row 5, column 3: found inf"),
        (patched(7 * columns, f32::NEG_INFINITY), "row 7, column 0: found -inf"),
        (good[..good.len() - 4].to_vec(), "found the end of the file, expected 8 rows"),
        ([&good[..], &[0]].concat(), "found bytes after the last row"),
        (version, "found version 2.0, expected version 1.0"),
        (Vec::new(), "found no NumPy header"),
        (good[..5].to_vec(), "found the end of the file, expected a header"),
    ];
    for (bytes, expected) in cases {
        fs::write(&saved, bytes).unwrap();
        let outcome = cinderblock(&[&text[..], &["--reference", file]].concat());
        let stderr = &outcome.stderr;
        assert!(outcome.code == Some(1) && stderr.contains(expected), "{expected}: {outcome:?}");
        assert!(stderr.contains("saved.npy: ") && stderr.lines().count() == 1, "{stderr}");
    }
    fs::write(&saved, good).unwrap();
    let text = cinderblock(&[&text[..], &["--reference", file]].concat()).success();
    assert!(text.contains("KL mean 0.000000"), "{text}");
}
