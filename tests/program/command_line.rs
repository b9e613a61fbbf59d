//! The program as a user meets it.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use crate::common::{case, cinderblock, demo_model, program, quantize, run, skip};

/// The prompt of the README and of `--help`.
const PROMPT: &str = "The rain had stopped, and the village came out to look.";

/// Runs the program with standard input: what it prints, its messages, and its exit code.
fn piped(arguments: &[&str], input: &[u8]) -> (String, String, Option<i32>) {
    let mut command = program();
    let command = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The program may end before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code())
}

#[test]
fn the_demo_model_continues_a_prompt() {
    let outcome = cinderblock(&["run", "-p", PROMPT, "--echo", "-n", "40", "--seed", "1"]);
    let line = outcome.stderr.trim().to_string();
    assert!(line.lines().count() == 1 && line.starts_with("prompt ") && line.contains("tok/s"), "{line}");
    let text = outcome.success();
    assert!(text.starts_with(PROMPT) && text.len() > 100, "{text}");
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
    assert!(cinderblock(&["inspect"]).success().starts_with("name           classics (the demo model)"));
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
fn help_has_examples_and_fits_the_terminal() {
    let verbs =
        ["run", "batch", "quantize", "perplexity", "logits", "inspect", "tokenize", "bench", "synthesize"];
    for verb in verbs {
        for columns in [80, 100] {
            let help = run(program().args([verb, "--help"]).env("COLUMNS", columns.to_string())).success();
            assert!(help.contains("Example") && help.contains("cinderblock"), "{help}");
            let long = help.lines().find(|line| line.chars().count() > columns);
            assert!(long.is_none(), "{verb}: {long:?}");
        }
    }
}

#[test]
fn a_bare_program_prints_its_help_and_fails() {
    let absent: &[&str] = &[];
    let outcome = cinderblock(absent);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""));
    for part in ["Usage: cinderblock", "tokenize", "Turn text into token ids"] {
        assert!(outcome.stderr.contains(part), "{}", outcome.stderr);
    }
}

#[test]
fn completions_exist_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(cinderblock(&["completions", shell]).success().contains("cinderblock"));
    }
    assert!(cinderblock(&["--version"]).success().starts_with("cinderblock "));
}

#[test]
fn usage_errors_are_one_line_and_exit_2() {
    for arguments in [
        &["frobnicate"][..],
        &["run", "--nonsense"],
        &["run", "-p", "a", "--tokens", "1"],
        &["quantize", "somewhere"],
        &["quantize", "a", "-o", "b", "--type", "q3"],
        &["run", "-p", "a", "--temp", "-1"],
        &["run", "-p", "a", "--top-p", "0"],
        &["run", "-p", "a", "--cache-blocks", "4"],
        &["perplexity", "--tokens", "1,2,3"],
        &["run", "--tokens", "1,x"],
        &["run", "--tokens", "1", "-n", "-2"],
        &["run", "--tokens", "1", "--seed", "18446744073709551616"],
        &["bench", "--repeats", "0"],
        &["bench", "--context", "999999999"],
        &["bench", "--batch", "0"],
        &["batch", "--batch", "9223372036854775808"],
        &["inspect", "-m", ""],
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
        .args(["run", "-p", PROMPT, "-n", "2000", "--ignore-end"])
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

/// Sends a signal.
#[cfg(unix)]
fn signal(child: &std::process::Child, signal: i32) {
    // SAFETY: a plain call on a child that has not been waited for.
    unsafe { libc::kill(child.id() as i32, signal) };
}

/// Ctrl-C ends the text cleanly: the closing line still comes, and the parent sees the signal.
#[cfg(unix)]
#[test]
fn ctrl_c_ends_the_text_and_shows_the_figures() {
    use std::os::unix::process::ExitStatusExt;
    crate::common::heed_interrupts();
    let mut child = program()
        .args(["run", "-p", PROMPT, "-n", "-1", "--ignore-end"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut story = child.stdout.take().unwrap();
    story.read_exact(&mut [0; 500]).unwrap();
    signal(&child, libc::SIGINT);
    story.read_to_end(&mut Vec::new()).unwrap();
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGINT));
    assert!(text.contains("ended by interrupted") && text.lines().count() == 1, "{text}");
}

/// What a shell reports of a program that a signal has ended is 128 + the signal.
#[cfg(unix)]
#[test]
fn a_shell_sees_which_signal_ended_the_program() {
    if crate::common::skipped_under_emulation("the signal would end the emulator") {
        return;
    }
    crate::common::heed_interrupts();
    for (signal, code) in [("INT", "130"), ("TERM", "143"), ("HUP", "129")] {
        // In the foreground, because the background jobs of a script ignore Ctrl-C.
        let script = format!(
            "(while ! [ -s text ]; do sleep 0.05; done; kill -{signal} $(cat pid)) &\n\
             sh -c 'echo $$ > pid; exec \"$0\" run -p The -n -1 --ignore-end' \"$0\" > text 2> errors; echo $?"
        );
        let folder = tempfile::TempDir::new().unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).arg(crate::common::binary());
        assert_eq!(run(shell.current_dir(folder.path())).stdout.trim(), code, "{signal}");
    }
}

/// As `nohup` does it, and scripts with their background jobs.
#[cfg(unix)]
#[test]
fn a_signal_that_was_ignored_stays_ignored() {
    use std::os::unix::process::ExitStatusExt;
    let mut command = crate::common::with_runner(|first| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' INT HUP; exec \"$0\" \"$@\""]).arg(first);
        shell
    });
    let command = command.args(["run", "-p", PROMPT, "-n", "-1", "--ignore-end"]);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut text = child.stdout.take().unwrap();
    text.read_exact(&mut [0; 100]).unwrap();
    signal(&child, libc::SIGHUP);
    signal(&child, libc::SIGINT);
    text.read_exact(&mut [0; 2000]).unwrap();
    assert!(child.try_wait().unwrap().is_none());
    signal(&child, libc::SIGTERM);
    text.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
}

#[cfg(unix)]
#[test]
fn ctrl_c_shows_the_samples_so_far() {
    crate::common::heed_interrupts();
    let arguments = ["run", "-p", PROMPT, "-n", "-1", "--ignore-end", "--samples", "3"];
    let mut command = program();
    let command = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(3));
    signal(&child, libc::SIGINT);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.matches("ended by interrupted\n").count(), 3, "{text}");
    assert!(text.len() > 200, "{text}");
}

/// On the command line, that is one line instead of a bus error; a model that was read does not care.
#[cfg(target_os = "linux")]
#[test]
fn a_model_file_that_shrinks_ends_in_one_line() {
    if crate::common::skipped_under_emulation("the emulator handles bus errors") {
        return;
    }
    let folder = tempfile::TempDir::new().unwrap();
    let model = folder.path().join("model.gguf");
    for read in [false, true] {
        std::fs::copy(demo_model(), &model).unwrap();
        let mut command = program();
        command
            .args(["run", "-p", PROMPT, "--ignore-end", "--time-limit", "3", "-n", "-1", "-m"])
            .arg(&model);
        if read {
            command.arg("--no-mmap");
        }
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut text = child.stdout.take().unwrap();
        text.read_exact(&mut [0; 20]).unwrap();
        std::fs::File::options().write(true).open(&model).unwrap().set_len(4096).unwrap();
        text.read_to_end(&mut Vec::new()).unwrap();
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(i32::from(!read)), "{errors}");
        assert!(errors.lines().count() == 1 && errors.contains("--no-mmap") != read, "{errors}");
    }
}

#[test]
fn minus_one_is_no_limit_every_token_and_any_seed() {
    let arguments = ["run", "-p", PROMPT, "-n", "-1", "--top-k", "-1", "--seed", "-1", "--ignore-end"];
    let json = cinderblock(&[&arguments[..], &["--time-limit", "0.5", "--json"]].concat()).json();
    assert_eq!(json["end"], "time");
    assert!(json["seed"].is_u64(), "{json}");
    let samples = ["run", "-p", PROMPT, "-n", "-1", "--time-limit", "0.5", "--samples", "2", "--json"];
    assert_eq!(cinderblock(&samples).json()["samples"].as_array().unwrap().len(), 2);
}

#[test]
fn the_last_of_equal_options_wins() {
    let json =
        cinderblock(&["run", "-p", "a", "-p", PROMPT, "-n", "9", "-n", "3", "--json", "--json"]).json();
    assert_eq!((&json["generated_tokens"], &json["prompt_tokens"]), (&3.into(), &13.into()));
}

#[test]
fn an_option_that_does_not_exist_is_named_with_one_that_does() {
    let outcome = cinderblock(&["run", "--max-token", "3"]);
    assert!(outcome.stderr.contains("did you mean --max-tokens?"), "{}", outcome.stderr);
    assert!(cinderblock(&["rum"]).stderr.contains("did you mean run?"));
}

#[test]
fn a_byte_order_mark_is_not_part_of_a_text() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("prompt.txt");
    let marked = [b"\xef\xbb\xbf", PROMPT.as_bytes()].concat();
    std::fs::write(&file, &marked).unwrap();
    let expected = cinderblock(&["tokenize", "-p", PROMPT]).success();
    assert_eq!(cinderblock(&["tokenize", "-f", file.to_str().unwrap()]).success(), expected);
    assert_eq!(piped(&["tokenize"], &marked).0, expected);
    let ids = ["--tokens", "\u{feff}5,6"];
    assert_eq!(cinderblock(&[&["tokenize"][..], &ids].concat()).success(), "5,6\n");
    std::fs::write(&file, b"\xff\xfe5\0,\0").unwrap();
    let outcome = cinderblock(&["tokenize", "-f", file.to_str().unwrap()]);
    assert!(outcome.stderr.contains("found UTF-16, expected UTF-8"), "{}", outcome.stderr);
}

#[test]
fn an_empty_pipe_is_an_empty_prompt() {
    for arguments in
        [&["run", "-n", "8"][..], &["run", "--json"], &["run", "--samples", "2"], &["perplexity"]]
    {
        let (text, errors, code) = piped(arguments, b"");
        assert_eq!((text.as_str(), code), ("", Some(2)), "{errors}");
        assert!(errors.contains("the prompt is empty"), "{errors}");
    }
}

#[test]
fn tokenize_takes_nothing_pipes_and_its_own_json() {
    assert_eq!(cinderblock(&["tokenize", "-p", ""]).success(), "\n");
    assert_eq!(cinderblock(&["tokenize", "-p", "", "--json"]).json()["tokens"], serde_json::json!([]));
    assert_eq!(piped(&["tokenize"], b""), ("\n".to_string(), String::new(), Some(0)));
    let ids = cinderblock(&["tokenize", "-p", PROMPT]).success();
    assert_eq!(piped(&["tokenize"], format!("{PROMPT}\n").as_bytes()).0, ids);
    let json = cinderblock(&["tokenize", "-p", PROMPT, "--json"]).success();
    let list = serde_json::from_str::<serde_json::Value>(&json).unwrap()["tokens"].to_string();
    for list in [ids.trim(), &json, &list, "-"] {
        let (text, errors, _) = piped(&["tokenize", "--decode", list], json.as_bytes());
        assert_eq!(text.trim_end(), PROMPT, "{list}: {errors}");
    }
    assert_eq!(cinderblock(&["tokenize", "--decode", ""]).success(), "\n");
}

#[test]
fn special_tokens_are_shown_and_read_as_text_on_request() {
    let name = "<|endoftext|>";
    let id = cinderblock(&["tokenize", "-p", name]).success();
    assert!(!id.contains(','), "{id}");
    assert_eq!(cinderblock(&["tokenize", "--decode", id.trim()]).success(), "\n");
    let shown = cinderblock(&["tokenize", "--decode", id.trim(), "--special"]).success();
    assert_eq!(shown.trim_end(), name);
    let plain = cinderblock(&["tokenize", "-p", name, "--no-parse-special"]).success();
    assert!(plain.contains(','), "{plain}");
    assert_eq!(cinderblock(&["tokenize", "--decode", plain.trim()]).success().trim_end(), name);
}

#[test]
fn a_checkpoint_given_as_a_model_is_named() {
    for path in [case("main"), case("main").join("model.safetensors")] {
        let outcome = cinderblock(&["run", "-p", "a", "-m", path.to_str().unwrap()]);
        assert_eq!((outcome.code, outcome.stderr.lines().count()), (Some(1), 1), "{outcome:?}");
        assert!(outcome.stderr.contains("cinderblock quantize"), "{}", outcome.stderr);
    }
}

#[test]
fn a_prompt_shorter_than_a_block_has_no_rate() {
    let json = cinderblock(&["run", "--tokens", "5,6,7", "--align", "tail", "-n", "4", "--json"]).json();
    assert_eq!(json["prompt_tok_s"], serde_json::Value::Null);
    let outcome = cinderblock(&["run", "--tokens", "5,6,7", "--align", "tail", "-n", "4"]);
    assert!(outcome.stderr.starts_with("prompt 3 tokens | generated 4 tokens, "), "{}", outcome.stderr);
    assert!(cinderblock(&["run", "-p", PROMPT, "-n", "1", "--json"]).json()["prompt_tok_s"].is_f64());
}

#[test]
fn an_empty_file_is_a_new_prompt_cache_and_that_of_another_model_is_named() {
    let cache = tempfile::NamedTempFile::new().unwrap();
    let path = cache.path().to_str().unwrap();
    let run = ["run", "-p", PROMPT, "-n", "1", "--json", "--prompt-cache", path];
    assert_eq!(cinderblock(&run).json()["reused_tokens"], 0);
    assert!(cinderblock(&run).json()["reused_tokens"].as_u64() > Some(0));
    let (_folder, other) = quantize(&case("main"), "q4");
    let tokens = ["run", "--tokens", "5,6,7,8,9", "-m", other.to_str().unwrap(), "--prompt-cache", path];
    let outcome = cinderblock(&tokens);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("another model or quantization"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("delete it or name another"), "{}", outcome.stderr);
}

/// Text that is shown is not kept.
#[cfg(target_os = "linux")]
#[test]
fn endless_text_takes_no_memory() {
    if crate::common::skipped_under_emulation("its memory is the emulator's") {
        return;
    }
    let (_folder, model) = quantize(&case("main"), "q4");
    let memory = |tokens: &str| -> f64 {
        let arguments =
            ["run", "--tokens", "5,6,7,8", "--cache-blocks", "16", "--ignore-end", "--threads", "1"];
        let outcome = cinderblock(&[&arguments[..], &["-n", tokens, "-m", model.to_str().unwrap()]].concat());
        let (_, rest) = outcome.stderr.split_once("memory ").unwrap();
        let (megabytes, _) = rest.split_once(" MB").unwrap_or_else(|| panic!("{}", outcome.stderr));
        megabytes.parse().unwrap()
    };
    let (few, many) = (memory("1000"), memory("60000"));
    // The tokens alone would take 2.4 MB.
    assert!(many < few + 1.0, "{few} MB, then {many} MB");
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

/// A list is told from numbers of two bytes by what it has, or refused.
#[test]
fn a_file_of_ids_is_read_as_what_it_is() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("ids");
    let read = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        cinderblock(&["tokenize", "--tokens-file", file.to_str().unwrap()])
    };
    let utf16: Vec<u8> = "\u{feff}123,12\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (bytes, ids) in [
        (&b"123\n"[..], "123\n"),
        (b"12\n", "12\n"),
        (b"1", "1\n"),
        (b"[123]", "123\n"),
        (b"{\"text\": \"x\", \"tokens\": [1, 12]}", "1,12\n"),
        (&utf16, "123,12\n"),
        (b"\x2c\x01\x2d\x01", "300,301\n"),
    ] {
        assert_eq!(read(bytes).success(), ids, "{bytes:?}");
    }
    for (bytes, found) in
        [(&b"12"[..], "digits alone"), (b"1234", "digits alone"), (b"12, 13, x, 14, 15", "a text")]
    {
        let outcome = read(bytes);
        assert!(outcome.code == Some(1) && outcome.stderr.contains(found), "{outcome:?}");
    }
}

/// The second reader would find its end, and blame what it reads.
#[test]
fn standard_input_has_one_reader() {
    for arguments in [
        &["batch", "--json-schema", "-"][..],
        &["batch", "-i", "-", "--grammar", "-"],
        &["run", "-f", "-", "--json-schema", "-"],
        &["run", "--tokens-file", "-", "--grammar", "-"],
        &["run", "--json-schema", "-"],
        &["run", "-i", "-f", "-"],
        &["run", "-i", "--grammar", "-"],
    ] {
        let (_, stderr, code) = piped(arguments, b"{\"type\":\"object\"}");
        assert!(
            code == Some(2) && stderr.contains("standard input: found 2 arguments"),
            "{arguments:?}: {stderr}"
        );
    }
    let (_, stderr, code) = piped(&["run", "-p", "x", "--json-schema", "-"], b"{");
    assert!(code == Some(1) && stderr.contains("standard input: JSON schema: EOF"), "{stderr}");
}

#[test]
fn bench_has_no_rate_for_a_prompt_that_only_waits() {
    let arguments = ["bench", "--prefill", "3,4", "--context=", "--speculate", "0", "--repeats", "1"];
    let json = cinderblock(&[&arguments[..], &["--json"]].concat()).json();
    assert!(["tok_s", "gb_s", "memory_share"].iter().all(|rate| json[0][rate].is_null()), "{json}");
    assert!(["tok_s", "gb_s", "memory_share"].iter().all(|rate| json[1][rate].is_f64()), "{json}");
    let text = cinderblock(&arguments).success();
    let line = text.lines().find(|line| line.starts_with("prefill")).unwrap();
    assert_eq!(line.split_whitespace().skip(4).collect::<Vec<_>>(), ["3", "-", "-", "-", "-"], "{text}");
}

#[test]
fn tokens_of_a_draft_table_belong_to_one() {
    for more in [&[][..], &["--no-draft"]] {
        let arguments = [&["edit", "m", "-o", "n", "--draft-tokens", "5"], more].concat();
        let outcome = cinderblock(&arguments);
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(!outcome.stderr.contains("no such file"), "{outcome:?}");
    }
}
