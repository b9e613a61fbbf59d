//! What quantization loses on the demo model, on held-out text that is not part of the repository.

use std::path::Path;
use std::sync::OnceLock;

use crate::common::{cinderblock, demo_checkpoint, demo_model, held_out, quantize};

fn perplexity(model: &str, ids: &Path) -> f64 {
    perplexity_with(&[], model, ids)
}

fn perplexity_with(more: &[&str], model: &str, ids: &Path) -> f64 {
    let base = ["perplexity", "-m", model, "--tokens-file", ids.to_str().unwrap(), "--json"];
    let json = cinderblock(&[&base[..], more].concat()).json();
    assert_eq!(json["tokens"], 65_280);
    json["perplexity"].as_f64().unwrap()
}

/// The perplexity of the checkpoint as it is.
fn exact_perplexity(ids: &Path) -> f64 {
    static EXACT: OnceLock<f64> = OnceLock::new();
    *EXACT.get_or_init(|| {
        let (_folder, bf16) = quantize(&demo_checkpoint(), "bf16");
        perplexity(bf16.to_str().unwrap(), ids)
    })
}

#[test]
fn quantized_models_keep_their_perplexity() {
    let Some(ids) = held_out() else { return };
    let exact = exact_perplexity(&ids);
    assert!((exact - 41.83).abs() < 0.05, "{exact}");
    for (kind, limit) in [("q8", 0.001), ("q4", 0.006)] {
        let (_folder, file) = quantize(&demo_checkpoint(), kind);
        let loss = perplexity(file.to_str().unwrap(), &ids) / exact - 1.0;
        println!("{kind}: {:+.3} %", 100.0 * loss);
        assert!(loss < limit, "{kind}: {:+.3} %", 100.0 * loss);
    }
}

#[test]
fn an_int8_cache_keeps_the_perplexity() {
    let Some(ids) = held_out() else { return };
    let model = demo_model();
    let of = |kind| perplexity_with(&["--cache-type", kind], model.to_str().unwrap(), &ids);
    let loss = of("q8") / of("f16") - 1.0;
    println!("q8 cache: {:+.4} %", 100.0 * loss);
    assert!(loss.abs() < 0.0005, "{:+.4} %", 100.0 * loss);
}

/// All matrices at 4 bits, calibrated on a part of the text that lies beside the held-out ids.
#[test]
fn calibration_lowers_the_loss_of_perplexity() {
    let Some(ids) = held_out() else { return };
    let text = ids.with_file_name("calibration.txt");
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("m.gguf");
    let (demo, output, text) = (demo_checkpoint(), output.to_str().unwrap(), text.to_str().unwrap());
    let base = ["quantize", demo.to_str().unwrap(), "-o", output, "--json", "--tensor-type", "*=q4"];
    let summary =
        cinderblock(&[&base[..], &["--calibrate", text, "--calibration-tokens", "8192"]].concat()).json();
    assert!(summary["bits_per_weight"].as_f64().unwrap() < 4.6);
    let loss = perplexity(output, &ids) / exact_perplexity(&ids) - 1.0;
    println!("calibrated q4: {:+.3} %", 100.0 * loss);
    assert!(loss < 0.004, "{:+.3} %", 100.0 * loss);
}

/// The tensors of the shipped file are those that the quantizer makes of the shipped checkpoint.
#[test]
fn the_demo_model_is_up_to_date() {
    let (_folder, file) = quantize(&demo_checkpoint(), "q4");
    let tensors = |path: &std::path::Path| {
        let bytes = std::fs::read(path).unwrap();
        let start = cinderblock::Model::from_bytes(&bytes).unwrap().index().data_start();
        bytes[start as usize..].to_vec()
    };
    assert!(tensors(&file) == tensors(&demo_model()));
}
