//! The memory that `inspect` predicts is what each verb then takes.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value as Json, json};

use crate::common::{cinderblock, program, skipped_under_emulation};

/// Blocks of a cache that are far more than everything else takes.
const BLOCKS: usize = 2048;
/// Tokens that fill it.
const TOKENS: u32 = 4 * BLOCKS as u32;
/// Bytes of the program itself: code, stacks, the tokenizer, what a verb reads and prints.
const PROGRAM: u64 = 24 << 20;

/// The largest memory of a run of the program that succeeds, as it was seen while it ran: what the system reports after
/// the end counts the memory of this process too, of which the program is a fork.
fn peak(folder: &Path, arguments: &[&str]) -> u64 {
    let mut command = program();
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut most = 0;
    loop {
        let ended = child.try_wait().unwrap();
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let of_program = status.starts_with("Name:\tcinderblock\n");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).filter(|_| of_program);
        let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        most = most.max(kilobytes.unwrap_or(0) * 1024);
        if let Some(status) = ended {
            assert!(status.success(), "{arguments:?}");
            return most;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

#[test]
fn bench_reports_the_memory_of_the_model() {
    if skipped_under_emulation("its memory is the emulator's") || !cfg!(target_os = "linux") {
        return;
    }
    let arguments =
        ["bench", "--prefill", "8", "--decode", "0", "--speculate", "0", "--repeats", "1", "--json"];
    let peak = cinderblock(&arguments).json()[0]["peak_memory_bytes"].as_u64().unwrap();
    let expected = predicted(8, 1);
    assert!(peak < expected + PROGRAM, "predicted {expected}, reported {peak}");
}

fn predicted(blocks: usize, sequences: usize) -> u64 {
    let (blocks, sequences) = (blocks.to_string(), sequences.to_string());
    let arguments = ["inspect", "--json", "--cache-blocks", &blocks, "--batch", &sequences];
    let inspected: Json = cinderblock(&arguments).json();
    inspected["memory"]["total"].as_u64().unwrap()
}

#[test]
fn each_verb_takes_what_inspect_predicts() {
    // Only Linux says so while a program runs.
    if skipped_under_emulation("its memory is the emulator's") || !cfg!(target_os = "linux") {
        return;
    }
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path();
    let tokens: Vec<u16> = (0..TOKENS).map(|at| (300 + at * 7 % 3000) as u16).collect();
    fs::write(path.join("ids"), tokens.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
    let short = &tokens[..tokens.len() - 40];
    let line = json!({"id": 1, "tokens": short, "max_tokens": 3});
    fs::write(path.join("lines"), line.to_string()).unwrap();
    let line = json!({"id": 1, "tokens": short, "continuations": [[5, 6, 7]]});
    fs::write(path.join("scores"), line.to_string()).unwrap();
    // The shared beginning and its continuation are two sequences.
    let verbs: [(usize, &[&str]); 5] = [
        (1, &["run", "--tokens-file", "ids", "-n", "3", "--ignore-end"]),
        (1, &["batch", "-i", "lines", "-o", "/dev/null", "--batch", "1"]),
        (2, &["batch", "--score", "-i", "scores", "-o", "/dev/null", "--batch", "1"]),
        (1, &["perplexity", "--tokens-file", "ids"]),
        (1, &["logits", "--tokens-file", "ids", "-o", "/dev/null"]),
    ];
    for (sequences, verb) in verbs {
        let blocks = BLOCKS.to_string();
        let taken = peak(path, &[verb, &["--cache-blocks", &blocks]].concat());
        let expected = predicted(BLOCKS, sequences);
        println!("{}: predicted {expected}, taken {taken}", verb[..2].join(" "));
        assert!(taken < expected + PROGRAM, "{verb:?}: predicted {expected}, taken {taken}");
        assert!(taken > expected / 2, "{verb:?}: predicted {expected}, taken {taken}");
    }
}
