//! Calibrated quantization and its measures, as a user meets them.

use crate::common::{case, case_with_tokenizer, cinderblock, ids, quantize, root};

/// Token ids that every reference case knows.
fn text(count: u32) -> String {
    ids(&(0..count).map(|i| 2 + i * i * 7 % 41).collect::<Vec<u32>>())
}

#[test]
fn divergence_from_a_model_and_from_its_saved_logits_agree() {
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
fn a_reference_that_does_not_fit_is_an_error_of_one_line() {
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
        (&long, crate::common::demo_model().to_str().unwrap(), "vocabulary"),
    ] {
        let outcome = measure(tokens, "--reference", file);
        assert_eq!(outcome.code, Some(1));
        assert!(outcome.stderr.lines().count() == 1 && outcome.stderr.contains(expected), "{outcome:?}");
    }
}

/// A text of the repository: the calibration text of the demo is not part of it.
fn calibration_text() -> String {
    root().join("docs/format.md").to_str().unwrap().to_string()
}

/// Quantizes the demo with arguments, and gives the summary and the divergence from bf16 on one more text.
fn quantize_demo(arguments: &[&str]) -> (serde_json::Value, f64) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let demo = crate::common::demo_checkpoint();
    let (output, exact) = (path("m.gguf"), path("exact.gguf"));
    cinderblock(&["quantize", demo.to_str().unwrap(), "-o", &exact, "--type", "bf16"]).success();
    let base = ["quantize", demo.to_str().unwrap(), "-o", &output, "--json", "--report"];
    let summary = cinderblock(&[&base[..], arguments].concat()).json();
    cinderblock(&["inspect", "-m", &output, "--verify"]).success();
    let story = cinderblock(&["run", "-n", "400", "--seed", "3", "-p", "The sea"]).success();
    let story = &story[..story.floor_char_boundary(1500)];
    let measured = ["perplexity", "-m", &output, "--reference", &exact, "-p", story, "--json"];
    let divergence = cinderblock(&measured).json()["reference"]["kl_mean"].as_f64().unwrap();
    (summary, divergence)
}

#[test]
fn calibration_lowers_divergence_at_the_same_size() {
    let text = calibration_text();
    let (plain, before) = quantize_demo(&["--tensor-type", "*=q4"]);
    let (summary, after) = quantize_demo(&["--tensor-type", "*=q4", "--calibrate", &text]);
    assert_eq!(summary["bits_per_weight"], plain["bits_per_weight"]);
    // Even a text that is nothing like a novel.
    assert!(after < 0.7 * before, "{after} against {before}");
    let report = summary["report"].as_array().unwrap();
    assert_eq!(report.len(), 36);
    for row in report {
        let number = |key: &str| row[key].as_f64().unwrap();
        assert!(number("output_error") <= number("output_error_nearest"), "{row}");
        assert!(number("weight_error") > 0.0 && number("share") > 0.0, "{row}");
    }
}

/// Quantizes a checkpoint with arguments: the summary, and the bytes of the file.
fn quantize_with(checkpoint: &std::path::Path, arguments: &[&str]) -> (serde_json::Value, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("m.gguf");
    let output = output.to_str().unwrap();
    let base = ["quantize", checkpoint.to_str().unwrap(), "-o", output, "--json", "--report"];
    let summary = cinderblock(&[&base[..], arguments].concat()).json();
    cinderblock(&["perplexity", "-m", output, "--tokens", &text(40)]).success();
    (summary, std::fs::read(output).unwrap())
}

#[test]
fn a_budget_is_kept_and_a_recipe_overrides_it() {
    let (folder, checkpoint) = case_with_tokenizer("main");
    let recipe = folder.path().join("recipe.txt");
    let rules = "# the first layers in bf16\n*layers.0*output* = bf16\n\n*head* = q4 # not q8\n";
    std::fs::write(&recipe, rules).unwrap();
    let bits = |summary: &serde_json::Value| summary["bits_per_weight"].as_f64().unwrap();
    let recipe = recipe.to_str().unwrap();
    let text = calibration_text();
    let within = |budget: &str| {
        let options =
            ["--calibrate", &text, "--calibration-tokens", "1024", "--recipe", recipe, "--bits", budget];
        quantize_with(&checkpoint, &options)
    };
    // A budget that nothing fits gives the smallest file.
    let (least, _) = within("4.5");
    let most = quantize_with(&checkpoint, &["--type", "q8", "--recipe", recipe]).0;
    let budget = (bits(&least) + bits(&most)) / 2.0;
    let budget_text = format!("{budget:.3}");
    let (summary, file) = within(&budget_text);
    assert!(bits(&summary) <= budget + 0.001 && bits(&summary) > bits(&least), "{summary}");
    for row in summary["report"].as_array().unwrap() {
        let name = row["name"].as_str().unwrap();
        if name.contains("layers.0.attention.output") {
            assert_eq!(row["type"], "bf16");
        } else if name.contains("head") {
            assert_eq!(row["type"], "q4");
        }
    }
    let provenance = format!("bits {budget_text}, *layers.0*output*=bf16, *head*=q4");
    for wanted in [provenance.as_str(), "blocktransformer.calibration", "sha256:"] {
        assert!(file.windows(wanted.len()).any(|bytes| bytes == wanted.as_bytes()), "{wanted}");
    }
    assert!(within(&budget_text).1 == file, "the same command gives the same file");
}

#[test]
fn calibration_works_for_every_variant() {
    let text = calibration_text();
    for name in crate::common::CASES {
        let (_folder, checkpoint) = case_with_tokenizer(name);
        let (summary, _) =
            quantize_with(&checkpoint, &["--calibrate", &text, "--calibration-tokens", "1024"]);
        for row in summary["report"].as_array().unwrap() {
            let number = |key: &str| row[key].as_f64();
            // The small tables of an encoder are rounded to nearest.
            let plain = ["embedder.positions.weight", "embedder.token_types.weight"];
            if plain.iter().any(|plain| row["name"] == *plain) {
                continue;
            }
            assert!(
                number("output_error").unwrap() <= number("output_error_nearest").unwrap(),
                "{name}: {row}"
            );
        }
    }
}

#[test]
fn calibration_errors_are_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let (short, binary, recipe, output) = (path("short"), path("binary"), path("recipe"), path("m.gguf"));
    std::fs::write(&short, "too short").unwrap();
    std::fs::write(&binary, b"\xff\xfe").unwrap();
    std::fs::write(&recipe, "# one\n*=q5\n").unwrap();
    let demo = crate::common::demo_checkpoint();
    let bare = case("main");
    let text = calibration_text();
    for (checkpoint, arguments, expected) in [
        (&demo, &["--calibrate", &short][..], "expected at least 64"),
        (&demo, &["--calibrate", &binary], "UTF-8"),
        (&demo, &["--calibrate", "no such file"], "no such file"),
        (&demo, &["--recipe", &recipe], "line 2"),
        (&demo, &["--bits", "4.6"], "--calibrate"),
        (&demo, &["--bits", "3", "--calibrate", &text], "expected 4.25 to 16"),
        (&bare, &["--calibrate", &text], "tokenizer"),
    ] {
        let base = ["quantize", checkpoint.to_str().unwrap(), "-o", &output];
        let outcome = cinderblock(&[&base[..], arguments].concat());
        assert!(matches!(outcome.code, Some(1 | 2)), "{outcome:?}");
        assert!(outcome.stderr.lines().count() == 1 && outcome.stderr.contains(expected), "{outcome:?}");
        assert!(!std::path::Path::new(&output).exists());
    }
}
