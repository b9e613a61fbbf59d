//! What quantization loses on the demo model, on held-out text that is not part of the repository.
//!
//! `CINDERBLOCK_HELD_OUT` names a file of token ids (little-endian u16).

mod common;

use common::{cinderblock, demo_checkpoint, demo_model, quantize};

fn perplexity(model: &str, ids: &str) -> f64 {
    let json = cinderblock(&["perplexity", "-m", model, "--tokens-file", ids, "--json"]).json();
    assert_eq!(json["tokens"], 65_280);
    json["perplexity"].as_f64().unwrap()
}

#[test]
fn quantized_models_keep_their_perplexity() {
    let Ok(ids) = std::env::var("CINDERBLOCK_HELD_OUT") else {
        println!("skipped: CINDERBLOCK_HELD_OUT does not name the held-out ids");
        return;
    };
    let (_folder, bf16) = quantize(&demo_checkpoint(), "bf16");
    let exact = perplexity(bf16.to_str().unwrap(), &ids);
    assert!((exact - 41.83).abs() < 0.05, "{exact}");
    for (kind, limit) in [("q8", 0.001), ("q4", 0.006)] {
        let (_folder, file) = quantize(&demo_checkpoint(), kind);
        let loss = perplexity(file.to_str().unwrap(), &ids) / exact - 1.0;
        println!("{kind}: {:+.3} %", 100.0 * loss);
        assert!(loss < limit, "{kind}: {:+.3} %", 100.0 * loss);
    }
}

/// The shipped file is what the quantizer makes of the shipped checkpoint.
#[test]
fn the_demo_model_is_up_to_date() {
    let (_folder, file) = quantize(&demo_checkpoint(), "q4");
    assert!(std::fs::read(file).unwrap() == std::fs::read(demo_model()).unwrap());
}
