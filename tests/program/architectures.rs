//! The program of another architecture computes what this one does.
//!
//! `CINDERBLOCK_FOREIGN` is a command that runs it: an emulator with its arguments, and the program.

use std::path::Path;
use std::process::Command;

use crate::common::{demo_checkpoint, held_out, ids, program, quantize, read_npy, run, skip};
use tempfile::TempDir;

/// Both programs, or `None` if there is no foreign one.
fn pair() -> Option<[impl Fn() -> Command; 2]> {
    let Ok(words) = std::env::var("CINDERBLOCK_FOREIGN") else {
        skip("CINDERBLOCK_FOREIGN does not name a program of another architecture");
        return None;
    };
    Some([None, Some(words)].map(|words| {
        move || match &words {
            None => program(),
            Some(words) => {
                let mut words = words.split_whitespace();
                let mut command = Command::new(words.next().expect("a command"));
                command.args(words);
                command
            }
        }
    }))
}

fn model(kind: &str) -> (TempDir, String) {
    let (folder, file) = quantize(&demo_checkpoint(), kind);
    (folder, file.to_str().expect("a temporary folder has a plain name").into())
}

fn logits(mut program: Command, model: &str, output: &Path) -> Vec<f32> {
    let tokens = ids(&(0..48).map(|i| 5 + 61 * i % 4000).collect::<Vec<u32>>());
    run(program.args(["logits", "-m", model, "--tokens", &tokens, "-o"]).arg(output)).success();
    read_npy(output).1
}

/// Integer sums are equal; what the rounding of the float parts leaves is 1e-5 of the largest logit.
#[test]
fn logits_agree_with_another_architecture() {
    let Some([ours, theirs]) = pair() else { return };
    for kind in ["q4", "q8"] {
        let (folder, model) = model(kind);
        let ours = logits(ours(), &model, &folder.path().join("ours.npy"));
        let theirs = logits(theirs(), &model, &folder.path().join("theirs.npy"));
        assert_eq!(ours.len(), theirs.len());
        let largest = ours.iter().fold(0.0, |largest: f32, logit| largest.max(logit.abs()));
        let pairs = ours.iter().zip(&theirs);
        let difference = pairs.fold(0.0, |largest: f32, (a, b)| largest.max((a - b).abs())) / largest;
        println!("{kind}: logits differ by {difference:.1e} of the largest");
        assert!(difference < 1e-5, "{kind}: {difference:e}");
    }
}

/// A few windows of the held-out text are enough: what is compared is the arithmetic, not the model.
#[test]
fn perplexities_agree_with_another_architecture() {
    let Some(programs) = pair() else { return };
    let Some(held_out) = held_out() else { return };
    let (folder, model) = model("q4");
    let file = folder.path().join("ids.u16");
    std::fs::write(&file, &std::fs::read(held_out).expect("held-out ids")[..2 * 1024]).expect("write");
    let [ours, theirs] = programs.map(|program| {
        let arguments = ["perplexity", "-m", &model, "--json", "--tokens-file"];
        let json = run(program().args(arguments).arg(&file)).json();
        json["perplexity"].as_f64().expect("a number")
    });
    println!("perplexity {ours} and {theirs}");
    assert!((theirs / ours - 1.0).abs() < 1e-5, "{ours} {theirs}");
}
