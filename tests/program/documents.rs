//! README and docs: their commands run, except those of `NOT_RUN`, and the file sizes and token ids of the demo model
//! are true. `tests/examples.rs` runs the Rust programs.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{
    binary, case_with_tokenizer, cinderblock, demo_checkpoint, demo_model, quantize, root, run,
};
use tempfile::TempDir;

/// Beginnings of commands that are not run here, and why.
const NOT_RUN: &[(&str, &str)] = &[
    ("cargo bench", "a measurement of minutes"),
    ("cargo build", "it would build what runs here again"),
    ("cargo cinstall", "it needs cargo-c, and tools/install.sh does the same"),
    ("cargo install", "it would build what runs here again"),
    ("cargo test", "it is what runs here"),
    ("tools/install.sh ", "the tests of the C library run it"),
    ("OPENAI_API_BASE_URL=", "it starts another program, which stays"),
    ("benches/", "a measurement of minutes, against other programs"),
    ("python3 benches/", "a measurement of minutes, with numpy"),
    ("python3 -m venv ", "python/test.sh makes an environment of its own"),
    ("pip install ", "python/test.sh installs the package"),
    ("ray start ", "python/tests/test_ray.py has a cluster of its own"),
    ("python -m cinderblock.", "python/test.sh tests it, and the tasks are downloaded"),
    ("venv/bin/pip install ", "python/test.sh installs the package"),
    ("time ", "a measurement of minutes"),
    ("/usr/bin/time", "a measurement of minutes, of a checkpoint of gigabytes"),
    (".ci/", "it runs this test"),
    ("cinderblock serve", "it runs until it is ended; `serve` has its tests"),
    ("tests/serve/run.sh", "it needs the network"),
    ("sudo ", "it changes the system"),
    ("rustup ", "it changes the toolchain"),
    ("git ", "it needs the network"),
    ("scp ", "it needs another machine"),
    ("ssh ", "it needs another machine"),
    ("export CARGO_TARGET_", "it is for another machine"),
    ("CARGO_BUILD_TARGET=", "it is for another machine"),
    ("RUSTC_BOOTSTRAP=1 ", "it builds everything once more"),
    ("pip", "it needs the network"),
    ("curl ", "it needs the network"),
    ("huggingface-cli ", "it needs the network"),
    ("hf ", "it needs the network"),
];

/// Text of books: what a user would bring along.
const PROSE: &str = "The old man lit his lamp and looked out at the sea. It was late, and the wind had fallen; there was \
    no sound but the water on the stones. \"They will not come tonight,\" said the woman by the fire. He did not answer.\n";

/// The repository's pages with commands, and their text.
fn pages() -> Vec<(String, String)> {
    let docs = fs::read_dir(root().join("docs")).expect("docs").map(|entry| entry.expect("entry").path());
    let mut pages: Vec<_> = docs.filter(|path| path.extension().is_some_and(|end| end == "md")).collect();
    pages.extend(
        ["README.md", "CONTRIBUTING.md"]
            .map(|name| root().join(name))
            .into_iter()
            .filter(|path| path.exists()),
    );
    pages.sort();
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    pages.iter().map(|path| (name(path), fs::read_to_string(path).expect("a page"))).collect()
}

/// The commands of a page: its indented lines, and those in fences of a shell. A line that ends in a backslash continues.
fn commands(text: &str) -> Vec<String> {
    let (mut commands, mut fence, mut open, mut after_text) = (Vec::new(), None, false, false);
    for line in text.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            fence = if fence.is_none() { Some(language) } else { None };
            continue;
        }
        let command = match fence {
            Some("sh" | "bash" | "shell" | "console") => line.trim(),
            Some(_) => continue,
            None => match line.strip_prefix("    ") {
                Some(indented) if !after_text => indented.trim(),
                // Text, or the next line of a list's item.
                _ => {
                    after_text = !line.trim().is_empty();
                    continue;
                }
            },
        };
        let command = command.strip_prefix("$ ").unwrap_or(command);
        if command.is_empty() || command.starts_with('#') {
            continue;
        }
        let (part, continues) = match command.strip_suffix('\\') {
            Some(part) => (part, true),
            None => (command, false),
        };
        match commands.last_mut() {
            Some(last) if open => *last = format!("{last} {}", part.trim()),
            _ => commands.push(part.trim().to_string()),
        }
        open = continues;
    }
    commands
}

/// A folder with the repository's files, and those that the pages speak of.
fn surroundings() -> TempDir {
    // A small checkpoint: calibrating the demo model takes a minute.
    let (folder, checkpoint) = case_with_tokenizer("main");
    let path = |name: &str| folder.path().join(name);
    for entry in fs::read_dir(root()).expect("repository").map(|entry| entry.expect("entry")) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != "target" && !name.starts_with('.') {
            std::os::unix::fs::symlink(entry.path().canonicalize().expect("path"), path(&name))
                .expect("link");
        }
    }
    fs::rename(checkpoint, path("CHECKPOINT_DIR")).expect("checkpoint");
    fs::copy(demo_model(), path("bf16.gguf")).expect("model");
    for name in ["text.txt", "other-text.txt", "calibration.txt"] {
        fs::write(path(name), PROSE.repeat(12)).expect("text");
    }
    fs::write(
        path("IDS.u16"),
        (0..400u16).flat_map(|i| (300 + i * 7 % 3000).to_le_bytes()).collect::<Vec<u8>>(),
    )
    .expect("ids");
    fs::write(
        path("prompts.jsonl"),
        "{\"id\": 1, \"prompt\": \"The old house\", \"max_tokens\": 8}\n{\"id\": 2, \"prompt\": \"The sea\", \"max_tokens\": 8}\n",
    )
    .expect("prompts");
    fs::write(
        path("questions.jsonl"),
        "{\"id\": 1, \"prompt\": \"The old man lit his\", \"continuations\": [\" lamp\", \" stone\"]}\n",
    )
    .expect("questions");
    fs::create_dir(path("bin")).expect("folder");
    std::os::unix::fs::symlink(binary(), path("bin/cinderblock")).expect("link");
    folder
}

/// Whether a command needs the installed C library.
fn is_of_c(command: &str) -> bool {
    ["/usr/local", "pkg-config", "./", "ldconfig"].iter().any(|word| command.contains(word))
}

/// Runs the commands of every page in turn, as they stand there, but for those that are known not to. `prefix` is where
/// the C library is installed for those that need it, which are the only ones then.
fn run_commands(prefix: Option<&Path>) {
    for (page, text) in pages() {
        let commands: Vec<String> =
            commands(&text).into_iter().filter(|command| is_of_c(command) == prefix.is_some()).collect();
        if commands.is_empty() {
            continue;
        }
        let folder = surroundings();
        for command in commands {
            if let Some((_, why)) = NOT_RUN.iter().find(|(start, _)| command.starts_with(start)) {
                println!("{page}: not run, {why}: {command}");
                continue;
            }
            fs::copy(demo_model(), folder.path().join("model.gguf")).expect("model");
            // The program is built already, and the system stays as it is. Standard input is a prompt.
            let script = command.replace("cargo run --release -- ", "cinderblock ");
            let script = format!("printf 'The old house' | {{\n{script}\n}}");
            let mut shell = Command::new("sh");
            let path = std::env::var("PATH").unwrap_or_default();
            shell.env("PATH", format!("{}:{path}", folder.path().join("bin").display()));
            if let Some(prefix) = prefix {
                // As `ldconfig` does for the system's folders.
                shell
                    .env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"))
                    .env("LD_LIBRARY_PATH", prefix.join("lib"));
                shell.arg("-ec").arg(script.replace("/usr/local", &prefix.to_string_lossy()));
            } else {
                shell.arg("-ec").arg(script);
            }
            let outcome = run(shell.current_dir(folder.path()).env("HOME", folder.path()));
            assert_eq!(outcome.code, Some(0), "{page}: {command}: {}{}", outcome.stdout, outcome.stderr);
            println!("{page}: {:.1} s: {command}", outcome.time.as_secs_f64());
        }
    }
}

#[test]
fn commands_of_the_pages_run() {
    run_commands(None);
}

#[test]
fn commands_of_the_pages_for_c_run() {
    if let Some(prefix) = crate::c_library::prefix_for_pages() {
        run_commands(Some(prefix));
    }
}

/// Cells of the first table row of a page that begins with some text, without their marks.
pub fn row(page: &str, start: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(page)).expect("a page");
    let line = text.lines().find(|line| line.starts_with(start));
    let line = line.unwrap_or_else(|| panic!("{page} has no table row {start:?}"));
    line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect()
}

#[test]
fn sizes_in_the_readme_are_those_of_the_files() {
    for kind in ["bf16", "q8", "q4"] {
        let (_folder, file) = quantize(&demo_checkpoint(), kind);
        let bytes = fs::metadata(file).expect("model").len();
        assert_eq!(row("README.md", &format!("| `{kind}`"))[2], format!("{:.1} MB", bytes as f64 / 1e6));
    }
}

#[test]
fn tokens_in_the_pages_are_those_of_the_demo_model() {
    let example = include_str!("../../examples/tokens.rs");
    let (_, prompt) = example.split_once("// \"").expect("the text of the ids");
    let (prompt, _) = prompt.split_once('"').expect("the end of the text");
    let ids = cinderblock(&["tokenize", "-p", prompt]).success();
    let ids = ids.trim().replace(',', ", ");
    assert!(example.contains(&format!("[{ids}]")), "{prompt:?} is {ids}");
}
