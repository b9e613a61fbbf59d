//! Arguments, files and surroundings that the program cannot work with.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use super::*;

#[test]
fn files_that_are_not_models_are_refused() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("folder")).unwrap();
    fifo(&path("pipe"));
    for (name, bytes) in [
        ("text", &b"The old house"[..]),
        ("page", b"\n<!DOCTYPE html><html>404</html>"),
        ("pointer", b"version https://git-lfs.github.com/spec/v1\n"),
        ("empty", b""),
        ("short", b"GG"),
        ("binary", b"\x1b[2J\n\n\x07\xff"),
        ("line\nbreak\x1b[31m", b"GGUF"),
    ] {
        fs::write(path(name), bytes).unwrap();
    }
    let cases = [
        ("folder", "found a directory"),
        ("pipe", "found a special file"),
        ("absent", "no such file"),
        ("text", "start of file: found \"The old \""),
        ("page", "an HTML page"),
        ("pointer", "a Git LFS pointer"),
        ("empty", "an empty file"),
        ("short", "the magic"),
        ("binary", "the magic"),
        ("line\nbreak\x1b[31m", "truncated"),
    ];
    for (name, expected) in cases {
        for verb in ["run", "inspect", "tokenize", "perplexity"] {
            refused(name, &[OsStr::new(verb), "-m".as_ref(), path(name).as_os_str()], expected);
        }
    }
    refused("device", &["inspect", "/dev/zero"], "found a special file");
    refused("no folder", &["quantize", text(&path("absent")), "-o", "x"], "no such file");
    refused("no checkpoint", &["quantize", text(&path("text")), "-o", "x"], "a folder with config.yaml");
    refused(
        "empty folder",
        &["quantize", text(&path("folder")), "-o", "x"],
        "weights: found none, expected model.safetensors",
    );
}

#[test]
fn arguments_out_of_range_are_refused() {
    let (folder, file) = quantize(&case("main"), "q4");
    let (model, odd) = (text(&file), folder.path().join("odd"));
    fs::write(&odd, [1, 2, 0xff]).unwrap();
    let absent = folder.path().join("absent");
    let (odd, absent, huge) = (text(&odd), text(&absent), "18446744073709551615");
    let cases: &[(&[&str], &str)] = &[
        (&["run", "-p", ""], "found 0 tokens, expected at least 1"),
        (&["run", "--tokens", ""], "found 0 tokens, expected at least 1"),
        (&["run", "-f", "/dev/null"], "found 0 tokens"),
        (&["run", "--tokens-file", "/dev/null"], "found 0 tokens"),
        (&["perplexity", "--tokens", " "], "found 0 tokens"),
        (&["run", "--tokens", "1,260"], "token id: found 260, expected less than 260"),
        (&["run", "--tokens", "4294967296"], "found \"4294967296\""),
        (&["run", "--tokens", "-1"], "found \"-1\""),
        (&["run", "--tokens", "1,,2"], "found \"\", expected a number"),
        (&["run", "--tokens-file", odd], "odd: token ids: found 3 bytes, expected an even number"),
        (&["run", "-f", odd], "not UTF-8"),
        (&["run", "-f", absent], "no such file"),
        (&["run", "--tokens", "1", "--stop", "a"], "no tokenizer"),
        (&["run", "--tokens", "1", "--threads", "1025"], "at most 1024"),
        (&["run", "--tokens", "1", "--threads", "-1"], "'-1'"),
        (&["run", "--tokens", "1", "-n", "-2"], "or -1 for no limit"),
        (&["run", "--tokens", "1", "--seed", "-2"], "or -1 for any seed"),
        (&["run", "--tokens", "1", "-n", "99999999999999999999"], "expected a whole number"),
        (&["run", "--tokens", "1", "--cache-blocks", huge], "cannot be allocated"),
        (&["run", "--tokens", "1", "--cache-blocks", "1000000"], "cannot be allocated"),
        (&["run", "--tokens", "1", "--cache-blocks", "0"], "expected more than the 4 pinned"),
        (&["run", "--tokens", "1", "--sink-blocks", huge], "expected more than the"),
        (&["run", "--tokens", "1", "--temp", "nan"], "temperature: found NaN"),
        (&["perplexity", "--tokens", "1,2,3,4,5,6,7,8", "--context-blocks", "1"], "expected at least 2"),
        (&["perplexity", "--tokens", "1,2,3,4,5,6,7,8", "--cache-blocks", huge], "cannot be allocated"),
        (&["logits", "--tokens", "1,2", "-o", "x"], "expected at least two blocks"),
    ];
    for (arguments, expected) in cases {
        let arguments = [*arguments, &["-m", model]].concat();
        refused(&arguments.join(" "), &arguments, expected);
    }
    let binary = OsStr::from_bytes(b"\xff\xfe");
    refused("not UTF-8", &[OsStr::new("run"), "-p".as_ref(), binary], "UTF-8");
    // A window is at most the text.
    let windows = ["perplexity", "-m", model, "--tokens", "1,2,3,4,5,6,7,8", "--context-blocks", huge];
    shell(PLAIN, &windows).success();
    // What `inspect` adds up must not overflow either.
    for blocks in [huge, "9223372036854775807", "1000000000000000"] {
        let text = shell(PLAIN, &["inspect", "-m", model, "--cache-blocks", blocks]).success();
        assert!(text.contains(blocks), "{text}");
    }
}

#[test]
fn endless_input_is_refused() {
    let folder = TempDir::new().unwrap();
    let hole = folder.path().join("hole");
    fs::File::create(&hole).unwrap().set_len(1 << 40).unwrap();
    let (hole, main) = (text(&hole), case("main"));
    let small = "size: found more than 1.0 MB, expected at most 1.0 MB";
    let cases: [(&[&str], &str); 9] = [
        (&["run", "-p", "a", "--json-schema", "/dev/zero"], small),
        (&["run", "-p", "a", "--grammar", "/dev/zero"], small),
        (&["serve", "--port", "0", "--api-key-file", "/dev/zero"], small),
        (&["quantize", text(&main), "-o", "x", "--recipe", "/dev/zero"], small),
        (&["quantize", text(&main), "-o", "x", "--config", "/dev/zero"], "found a special file"),
        (&["run", "-f", hole], "hole: size: found 1099.51 GB, expected at most 1.07 GB"),
        (&["perplexity", "--tokens-file", hole], "hole: size: found 1099.51 GB"),
        // Under this test's limit of memory; without one, at the limit of a text.
        (&["tokenize", "-f", "/dev/zero"], "/dev/zero: out of memory"),
        (&["batch", "-i", "/dev/null", "-o", hole], "hole: output: line 1: found something else"),
    ];
    for (arguments, expected) in cases {
        refused(arguments[0], arguments, expected);
    }
}

#[test]
fn impossible_outputs_are_refused() {
    let (folder, file) = quantize(&case("main"), "q4");
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("folder")).unwrap();
    fifo(&path("pipe"));
    let (model, main) = (text(&file), case("main"));
    let verbs = [&["quantize", text(&main)][..], &["logits", "-m", model, "--tokens", "1,2,3,4,5,6,7,8"]];
    for (name, expected) in [
        ("absent/model", "absent: no such file"),
        ("folder", "output: found a directory"),
        ("pipe", "output: found a special file"),
        ("q4.gguf/model", "q4.gguf: not a directory"),
    ] {
        for verb in verbs {
            refused(name, &[verb, &["-o", text(&path(name))]].concat(), expected);
        }
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    assert!(!fs::metadata(path("pipe")).unwrap().is_file());
}

#[test]
fn a_full_disk_leaves_no_file() {
    let (_folder, file) = quantize(&case("main"), "q4");
    let model = text(&file);
    let tokens = vec!["1"; 400].join(",");
    for arguments in [&["quantize", text(&case("main"))][..], &["logits", "-m", model, "--tokens", &tokens]] {
        let folder = TempDir::new().unwrap();
        let output = folder.path().join("out");
        let output = text(&output);
        // The mount is gone with its namespace.
        let script = format!(
            "exec 3>&1; unshare -m sh -c 'mount -t tmpfs -o size=64k none \"$1\" || exit 77; shift; \"$@\"; \
             code=$?; ls -A {0}; exit $code' sh {0} \"$0\" \"$@\"",
            text(folder.path())
        );
        let outcome = shell(&script, &[arguments, &["-o", output]].concat());
        if outcome.code == Some(77) || outcome.stderr.contains("unshare") {
            skip(&format!("no small file system can be mounted here: {}", outcome.stderr.trim()));
            return;
        }
        failed(arguments[0], &outcome, "out: no space left on device");
    }
    let full = r#"exec "$0" "$@" >/dev/full"#;
    for arguments in [
        &["run", "-m", model, "--tokens", "1", "-n", "4"][..],
        &["run", "-m", model, "--tokens", "1", "-n", "4", "--json"],
        &["inspect", model],
        &["inspect", "--cpu"],
        &["perplexity", "-m", model, "--tokens", "1,2,3,4,5,6,7,8"],
        &["completions", "bash"],
        &["--help"],
        &["run", "--help"],
        &["--version"],
    ] {
        failed(&arguments.join(" "), &shell(full, arguments), "standard output: no space left on device");
    }
}

/// A reader that never reads is no failure.
#[test]
fn a_closed_pipe_is_not_a_failure() {
    let (_folder, file) = quantize(&case("main"), "q4");
    let model = text(&file);
    for arguments in [
        &["run", "-m", model, "--tokens", "1", "-n", "100"][..],
        &["run", "-m", model, "--tokens", "1", "-n", "4", "--json"],
        &["inspect", model, "--all"],
        &["perplexity", "-m", model, "--tokens", "1,2,3,4,5,6,7,8"],
        &["completions", "bash"],
        &["--help"],
    ] {
        let mut child = spawn(arguments, Stdio::null());
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*stderr), (Some(0), ""), "{arguments:?}");
    }
}

/// The first signal ends a run soon, whatever it is doing, and a second one does not leave half a file.
#[test]
fn a_signal_ends_every_verb_and_leaves_nothing() {
    let checkpoint = Checkpoint::new();
    checkpoint.enlarge(1 << 21);
    let ids = checkpoint.file("ids");
    fs::write(&ids, [5, 0].repeat(2_000_000)).unwrap();
    let quantize = checkpoint.arguments();
    let quantize = quantize.each_ref().map(String::as_str);
    let logits = ["logits", "--tokens-file", text(&ids), "--cache-blocks", "9", "-o", quantize[3]];
    let pipe = checkpoint.0.path().join("pipe");
    fifo(&pipe);
    let recipe = [&quantize[..], &["--recipe", text(&pipe)]].concat();
    for (arguments, signals) in [
        (&["run", "-n", "1", "--tokens-file", text(&ids)][..], 1),
        (&["run", "-n", "1", "-f", "-"], 1),
        (&logits, 1),
        (&recipe, 1),
        (&["perplexity", "-p", "One, two, three, four, five, six.", "--reference", text(&pipe)], 1),
        (&quantize, 1),
        (&quantize, 2),
    ] {
        // Standard input stays open and silent.
        let mut child = spawn(arguments, Stdio::piped());
        std::thread::sleep(Duration::from_millis(300));
        assert!(child.try_wait().unwrap().is_none(), "{arguments:?} is too fast");
        let started = Instant::now();
        for _ in 0..signals {
            // SAFETY: a plain call on a child that has not been waited for.
            unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
            std::thread::sleep(Duration::from_millis(1));
        }
        while started.elapsed() < Duration::from_secs(2) && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(libc::SIGTERM), "{arguments:?} {signals} {status}");
        assert_eq!(checkpoint.leftovers(), [] as [PathBuf; 0], "{arguments:?} {signals}");
    }
}
