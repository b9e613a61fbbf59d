//! The program as a user meets it.

use std::io::Read;
use std::process::{Command, Stdio};

use crate::common::{case, cinderblock, demo_model, program, quantize, run, skip};

#[test]
fn the_demo_model_tells_a_story() {
    let outcome = cinderblock(&["run", "-n", "40", "--seed", "1"]);
    let line = outcome.stderr.trim().to_string();
    assert!(line.lines().count() == 1 && line.starts_with("prompt ") && line.contains("tok/s"), "{line}");
    let text = outcome.success();
    assert!(text.starts_with("The old man lit his lamp") && text.len() > 100, "{text}");
}

#[test]
fn the_same_seed_prints_the_same_text() {
    let text = |threads: &str, seed: &str| {
        cinderblock(&["run", "-p", "It was late", "-n", "50", "--seed", seed, "--threads", threads]).success()
    };
    let first = text("1", "5");
    assert_eq!(text("2", "5"), first);
    assert_eq!(text("5", "5"), first);
    assert_ne!(text("2", "6"), first);
}

#[test]
fn json_contains_the_printed_text() {
    let plain = cinderblock(&["run", "-p", "The sea", "-n", "30", "--temp", "0"]).success();
    let json = cinderblock(&["run", "-p", "The sea", "-n", "30", "--temp", "0", "--json"]).json();
    assert_eq!(json["text"].as_str().unwrap(), plain.trim_end_matches('\n'));
    assert_eq!(json["tokens"].as_array().unwrap().len(), 30);
    assert_eq!(json["generated_tokens"], 30);
    assert_eq!(json["end"], "length");
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let all = cinderblock(&["run", "-p", "The sea", "-n", "30", "--temp", "0"]).success();
    // A piece that begins and ends inside tokens.
    let stop = &all[20..27];
    let cut =
        cinderblock(&["run", "-p", "The sea", "-n", "30", "--temp", "0", "--stop", stop, "--json"]).json();
    assert_eq!(cut["end"], "stop");
    assert_eq!(cut["text"].as_str().unwrap(), &all[..all.find(stop).unwrap()]);
}

#[test]
fn a_model_without_a_tokenizer_works_with_ids() {
    let (_folder, file) = quantize(&case("main"), "q4");
    let file = file.to_str().unwrap();
    let json =
        cinderblock(&["run", "-m", file, "--tokens", "5,6,7", "-n", "6", "--temp", "0", "--json"]).json();
    assert_eq!(json["text"], serde_json::Value::Null);
    let plain = cinderblock(&["run", "-m", file, "--tokens", "5,6,7", "-n", "6", "--temp", "0"]).success();
    let ids: Vec<u32> = plain.trim().split(',').map(|id| id.parse().unwrap()).collect();
    assert_eq!(json["tokens"], serde_json::json!(ids));
    let outcome = cinderblock(&["run", "-m", file, "-p", "text", "-n", "1"]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("carries no tokenizer"), "{}", outcome.stderr);
}

#[test]
fn tokenize_encodes_and_decodes() {
    let text = "“The sea,” said he — naïve as ever…";
    let ids = cinderblock(&["tokenize", "-p", text]).success();
    assert_eq!(cinderblock(&["tokenize", "--decode", ids.trim()]).success().trim_end_matches('\n'), text);
    let json = cinderblock(&["tokenize", "-p", text, "--json"]).json();
    assert_eq!(json["text"], text);
    assert_eq!(json["tokens"].as_array().unwrap().len(), ids.split(',').count());
}

/// The demo model's own prose, scored by it: text, ids and windows agree.
#[test]
fn perplexity_of_text_equals_perplexity_of_its_ids() {
    let folder = tempfile::TempDir::new().unwrap();
    let written =
        cinderblock(&["run", "-p", "The house", "-n", "600", "--seed", "2", "--ignore-end", "--json"]).json();
    let (text_file, ids_file) = (folder.path().join("text.txt"), folder.path().join("ids.u16"));
    let text = format!("The house{}", written["text"].as_str().unwrap());
    std::fs::write(&text_file, &text).unwrap();
    let ids = cinderblock(&["tokenize", "-f", text_file.to_str().unwrap()]).success();
    let bytes: Vec<u8> =
        ids.trim().split(',').flat_map(|id| id.parse::<u16>().unwrap().to_le_bytes()).collect();
    std::fs::write(&ids_file, &bytes).unwrap();
    let of_text = cinderblock(&["perplexity", "-f", text_file.to_str().unwrap(), "--json"]).json();
    let of_ids = cinderblock(&["perplexity", "--tokens-file", ids_file.to_str().unwrap(), "--json"]).json();
    assert_eq!(of_text["nll"], of_ids["nll"]);
    // Sampled with a narrowed distribution, its own text surprises it less than books do.
    assert!(of_text["perplexity"].as_f64().unwrap() < 25.0, "{of_text}");
    let tokens = bytes.len() / 2;
    assert_eq!(of_text["tokens"].as_u64().unwrap() as usize, tokens - tokens % 4 - 4);
    let ids_file = ids_file.to_str().unwrap();
    let windows =
        cinderblock(&["perplexity", "--tokens-file", ids_file, "--context-blocks", "10", "--json"]).json();
    let count = windows["windows"].as_u64().unwrap() as usize;
    assert_eq!(count, (tokens / 4).div_ceil(10));
    assert_eq!(windows["tokens"].as_u64().unwrap() as usize, tokens - tokens % 4 - 4 * count);
    assert!(windows["nll"].as_f64().unwrap() > of_text["nll"].as_f64().unwrap());
}

#[test]
fn inspect_describes_a_file() {
    let file = demo_model();
    let file = file.to_str().unwrap();
    let json = cinderblock(&["inspect", "-m", file, "--json", "--verify"]).json();
    assert_eq!((json["weights"].as_u64(), json["verified"].as_bool()), (Some(18_031_872), Some(true)));
    assert_eq!(json["tensors"].as_array().unwrap().len(), 105);
    let text = cinderblock(&["inspect", file, "--all"]).success();
    for part in ["vocabulary 4096", "block_decoder.layers.3.attention.qkv.weight", "general.alignment = 64"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let cpu = cinderblock(&["inspect", "--cpu", "--json"]).json();
    assert!(cpu["instruction_sets"].as_array().unwrap().iter().any(|isa| isa["name"] == cpu["chosen"]));
}

#[test]
fn an_instruction_set_can_be_forced() {
    let isa = |name: &str| run(program().args(["inspect", "--cpu", "--json"]).env("CINDERBLOCK_ISA", name));
    assert_eq!(isa("scalar").json()["chosen"], "scalar");
    let outcome = isa("mmx");
    assert_eq!(outcome.code, Some(2));
    assert!(outcome.stderr.contains("CINDERBLOCK_ISA") && outcome.stderr.lines().count() == 1);
}

#[test]
fn help_has_examples_and_shells_have_completions() {
    for verb in ["run", "quantize", "perplexity", "logits", "inspect", "tokenize"] {
        let help = cinderblock(&[verb, "--help"]).success();
        assert!(help.contains("Example") && help.contains("cinderblock"), "{help}");
    }
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(cinderblock(&["completions", shell]).success().contains("cinderblock"));
    }
    assert!(cinderblock(&["--version"]).success().starts_with("cinderblock "));
}

#[test]
fn usage_errors_are_one_line_and_exit_2() {
    let absent: &[&str] = &[];
    for arguments in [
        absent,
        &["frobnicate"],
        &["run", "--nonsense"],
        &["run", "-p", "a", "--tokens", "1"],
        &["quantize", "somewhere"],
        &["quantize", "a", "-o", "b", "--type", "q3"],
        &["run", "-p", "a", "--temp", "-1"],
        &["run", "-p", "a", "--top-p", "0"],
        &["run", "-p", "a", "--cache-blocks", "4"],
        &["perplexity", "--tokens", "1,2,3"],
        &["run", "--tokens", "1,x"],
    ] {
        let outcome = cinderblock(arguments);
        assert_eq!(outcome.code, Some(2), "{arguments:?} {outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{arguments:?} {outcome:?}");
        assert_eq!(outcome.stdout, "");
    }
}

/// A reader that goes away early, as `head` does, is no failure and no panic.
#[test]
fn a_closed_pipe_ends_the_program_silently() {
    let mut child = program()
        .args(["run", "-n", "2000", "--ignore-end"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 16];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let outcome = child.wait_with_output().unwrap();
    assert_eq!(outcome.status.code(), Some(0), "{outcome:?}");
    assert!(outcome.stderr.is_empty(), "{}", String::from_utf8_lossy(&outcome.stderr));
}

/// Ctrl-C ends the text cleanly: the closing line still comes.
#[cfg(unix)]
#[test]
fn ctrl_c_prints_the_closing_line_and_exits_130() {
    let mut child = program()
        .args(["run", "-n", "1000000", "--ignore-end"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut story = child.stdout.take().unwrap();
    // Longer than the opening, which is shown before it is read.
    story.read_exact(&mut [0; 500]).unwrap();
    // SAFETY: a plain call on a child that has not been waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    story.read_to_end(&mut Vec::new()).unwrap();
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(text.contains("ended by interrupted") && text.lines().count() == 1, "{text}");
}

/// A foreign reader opens the file and finds every key and tensor.
#[test]
fn the_gguf_package_reads_our_files() {
    let Ok(python) = std::env::var("CINDERBLOCK_PYTHON") else {
        skip("CINDERBLOCK_PYTHON does not name a Python that has the gguf package");
        return;
    };
    let script = "import sys, zlib, gguf\n\
        r = gguf.GGUFReader(sys.argv[1])\n\
        crc = r.fields['blocktransformer.tensor.crc32'].contents()\n\
        types = r.fields['blocktransformer.tensor.types'].contents()\n\
        assert len(crc) == len(types) == len(r.tensors)\n\
        for t, c in zip(r.tensors, crc):\n    assert zlib.crc32(t.data.tobytes()) == c, t.name\n\
        print(len(r.tensors), r.fields['general.architecture'].contents())";
    for kind in ["q4", "q8", "bf16", "f16", "f32"] {
        let (_folder, file) = quantize(&case("uptrain"), kind);
        let outcome = run(Command::new(&python).args(["-c", script]).arg(&file));
        assert_eq!(outcome.success().trim(), "47 blocktransformer");
    }
}
