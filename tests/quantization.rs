//! Calibrated quantization and its measures, as a user meets them.

mod common;

use common::{case, cinderblock, ids, quantize};

/// Token ids that every reference case knows.
fn text(count: u32) -> String {
    ids(&(0..count).map(|i| 2 + i * i * 7 % 41).collect::<Vec<u32>>())
}

#[test]
fn divergence_from_a_model_and_from_its_saved_logits() {
    let (folder, exact) = quantize(&case("main_bf16"), "bf16");
    let (_other, rounded) = quantize(&case("main_bf16"), "q4");
    let (exact, rounded) = (exact.to_str().unwrap(), rounded.to_str().unwrap());
    let saved = folder.path().join("logits.npy");
    let saved = saved.to_str().unwrap();
    let tokens = text(150);
    // 37 blocks in windows of 8: the last has 5.
    let measure = |model: &str, more: &[&str]| {
        let base = ["perplexity", "-m", model, "--tokens", &tokens, "--context-blocks", "8", "--json"];
        cinderblock(&[&base[..], more].concat()).json()
    };
    let plain = measure(exact, &["--save-logits", saved]);
    assert_eq!(plain["reference"], serde_json::Value::Null);

    let same = &measure(exact, &["--reference", saved])["reference"];
    assert_eq!((same["top1_agreement"].as_f64(), same["perplexity_ratio"].as_f64()), (Some(1.0), Some(1.0)));
    assert!(same["kl_max"].as_f64().unwrap() < 1e-9);

    let from_file = measure(rounded, &["--reference", saved]);
    let from_model = measure(rounded, &["--reference", exact]);
    assert_eq!(from_file["reference"], from_model["reference"]);
    let figures = &from_file["reference"];
    let number = |key: &str| figures[key].as_f64().unwrap();
    assert!(number("kl_mean") > 1e-6 && number("kl_median") <= number("kl_p99"));
    assert!(number("kl_p99") <= number("kl_max"));
    let ratio = from_file["perplexity"].as_f64().unwrap() / plain["perplexity"].as_f64().unwrap();
    assert!((number("perplexity_ratio") - ratio).abs() < 1e-9);
}

#[test]
fn a_reference_that_does_not_fit_is_one_line() {
    let (folder, exact) = quantize(&case("main_bf16"), "bf16");
    let exact = exact.to_str().unwrap();
    let saved = folder.path().join("logits.npy");
    let saved = saved.to_str().unwrap();
    let (long, short) = (text(40), text(20));
    let measure = |tokens: &str, option: &str, file: &str| {
        cinderblock(&["perplexity", "-m", exact, "--tokens", tokens, option, file])
    };
    measure(&short, "--save-logits", saved).success();
    for (tokens, file, expected) in [
        (&long, saved, "expected 20 more"),
        (&text(12), saved, "expected as many"),
        (&long, common::demo_model().to_str().unwrap(), "vocabulary"),
    ] {
        let outcome = measure(tokens, "--reference", file);
        assert_eq!(outcome.code, Some(1));
        assert!(outcome.stderr.lines().count() == 1 && outcome.stderr.contains(expected), "{outcome:?}");
    }
}
