//! What `quantize` does with a sound checkpoint, and with values that it cannot keep.

use std::fs;

use super::shapes::{shapes, sparse};
use super::{Place, TABLE};
use crate::common::tensors::floats;
use crate::common::{Golden, cinderblock, ids};

#[test]
fn values_that_a_type_cannot_hold_are_refused_by_name() {
    let mut place = Place::new();
    let name = "block_decoder.gpt_neox.layers.0.attention.dense.weight";
    place.tensors.get_mut(name).unwrap().2[4 * 70..4 * 71].copy_from_slice(&1e5f32.to_le_bytes());
    place.plain("ck");
    let expected = format!("tensor \"{name}\", element 70: found 100000, expected at most 65504 in f16");
    place.refused("ck", &["--type", "f16"], &expected);
    place.refused("ck", &["--type", "f16"], "types that hold it: q4, q8, bf16, f32");
    for kind in ["q4", "q8", "bf16", "f32"] {
        place.model("ck", &["--type", kind]);
    }
}

#[test]
fn a_cache_of_f16_that_overflows_says_which_type_holds_it() {
    let mut place = Place::new();
    // A bias that makes every key of a head large, which changes no score by more than rounding.
    let bias = &mut place
        .tensors
        .get_mut("block_decoder.gpt_neox.layers.0.attention.query_key_value.bias")
        .unwrap()
        .2;
    bias[4 * 63..4 * 64].copy_from_slice(&floats(&[1e5]));
    place.plain("ck");
    place.model("ck", &["--type", "q8"]);
    let model = place.text("m.gguf");
    let tokens = ids(&Golden::read("main").tokens[..20]);
    let base = ["run", "-m", &model, "--tokens", &tokens, "-n", "4", "--temp", "0", "--json"];
    let outcome = cinderblock(&base);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(
        outcome.stderr.contains("--cache-type f32") && !outcome.stderr.contains("damaged"),
        "{outcome:?}"
    );
    cinderblock(&[&base[..], &["--cache-type", "f32"]].concat()).success();
}

#[test]
fn what_can_fail_early_fails_before_the_weights_are_read() {
    let mut place = Place::new();
    // Reading this tensor would fail.
    place.tensors.get_mut(TABLE).unwrap().2[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    place.plain("ck");
    let quantize = |output: &str| cinderblock(&["quantize", &place.text("ck"), "-o", output]);
    let failed = |output: &str, expected: &str| {
        let outcome = quantize(output);
        assert!(outcome.code != Some(0) && outcome.stderr.contains(expected), "{outcome:?}");
        assert!(!outcome.stderr.contains("NaN"), "{outcome:?}");
    };
    failed(&place.text("absent/m.gguf"), "no such file");
    failed(&place.text("ck"), "directory");
    for input in ["config.yaml", "model.safetensors"] {
        failed(&place.text(&format!("ck/{input}")), "another file than those that are read");
        fs::hard_link(place.path(&format!("ck/{input}")), place.path(&format!("link-{input}"))).unwrap();
        failed(&place.text(&format!("link-{input}")), "another file than those that are read");
    }
    assert!(quantize(&place.text("m.gguf")).stderr.contains("NaN"));
    // A checkpoint that is larger than any disk here.
    sparse(&place.path("big/model.safetensors"), &shapes(64, 4, [1, 64, 1, 64, 2, 0]));
    let dry = cinderblock(&["quantize", &place.text("big"), "--dry-run"]).success();
    assert!(dry.contains("nothing written"), "{dry}");
}

#[test]
fn quantize_takes_a_number_of_threads_and_gives_the_same_file() {
    let place = Place::new();
    place.plain("ck");
    let files = ["1", "2"].map(|threads| place.model("ck", &["--type", "q4", "--threads", threads]).0);
    assert!(files[0] == files[1]);
}
