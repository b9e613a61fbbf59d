//! Damaged and malicious input: each ends in one line, soon, in little memory, and leaves nothing behind.

mod checkpoint;
mod model;
mod program;
mod seeds;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::damage::{DAMAGE, File};
use crate::common::{
    Outcome, case, emulated, program, quantize, run, skip, skipped_under_emulation, with_runner,
};
use cinderblock::Model;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

/// Runs `script` in a shell in which `"$0" "$@"` is the program with its arguments, and in which every process
/// has a second of processor time and 64 MB of memory; mapped files, which are read-only, do not count. An emulator
/// needs more than that for itself, so nothing is limited there.
fn shell<S: AsRef<OsStr>>(script: &str, arguments: &[S]) -> Outcome {
    let limits = if emulated() { "" } else { "ulimit -d 65536; ulimit -t 1; " };
    let start = |first| {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("{limits}{script}")).arg(first);
        shell
    };
    run(with_runner(start).args(arguments))
}

const PLAIN: &str = r#"exec "$0" "$@""#;

/// Checks a run that must have failed with one clean line that contains `expected`.
fn failed(name: &str, outcome: &Outcome, expected: &str) {
    let line = outcome.stderr.strip_suffix('\n').unwrap_or_default();
    assert!(matches!(outcome.code, Some(1 | 2)), "{name}: {outcome:?}");
    assert!(!line.trim().is_empty() && !line.chars().any(char::is_control), "{name}: {outcome:?}");
    assert!(!line.contains("panicked") && line.len() < 2000, "{name}: {outcome:?}");
    assert!(line.contains(expected), "{name}: expected {expected:?} in {line:?}");
    assert_eq!(outcome.stdout, "", "{name}");
    // Processor time is limited to a second; waiting must not add much to it, even on a busy machine.
    assert!(outcome.time.as_secs() < 10, "{name}: {outcome:?}");
}

fn refused<S: AsRef<OsStr>>(name: &str, arguments: &[S], expected: &str) {
    failed(name, &shell(PLAIN, arguments), expected);
}

/// Starts the program; its output is piped.
fn spawn(arguments: &[&str], input: Stdio) -> Child {
    let mut command = program();
    let command = command.args(arguments).stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the program starts")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary folder has a plain name")
}

fn fifo(path: &Path) {
    let status = Command::new("mkfifo").arg(path).status();
    assert!(status.expect("mkfifo").success());
}

/// A copy of the case `main` to damage, with an empty folder for output beside it.
struct Checkpoint(TempDir);

impl Checkpoint {
    fn new() -> Checkpoint {
        let folder = TempDir::new().expect("temporary folder");
        let copy = Checkpoint(folder);
        fs::create_dir(copy.folder()).expect("folder");
        fs::create_dir(copy.output()).expect("folder");
        for file in ["config.yaml", "model.safetensors"] {
            fs::copy(case("main").join(file), copy.file(file)).expect("copy");
        }
        copy
    }

    fn folder(&self) -> PathBuf {
        self.0.path().join("checkpoint")
    }

    fn output(&self) -> PathBuf {
        self.0.path().join("output")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// Rewrites the tensors: `edit` gets the JSON header, and the data behind it.
    fn edit(&self, edit: impl FnOnce(&mut Json, &mut Vec<u8>)) {
        let bytes = fs::read(self.file("model.safetensors")).expect("tensors");
        let (length, rest) = bytes.split_at(8);
        let (header, data) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
        let (mut header, mut data) = (serde_json::from_slice(header).expect("JSON"), data.to_vec());
        edit(&mut header, &mut data);
        self.write(&header.to_string(), &data);
    }

    fn write(&self, header: &str, data: &[u8]) {
        let length = (header.len() as u64).to_le_bytes();
        let bytes = [&length, header.as_bytes(), data].concat();
        fs::write(self.file("model.safetensors"), bytes).expect("tensors");
    }

    /// Makes the tensors a shard of an index that is `index`.
    fn shard(&self, index: &str) {
        fs::rename(self.file("model.safetensors"), self.file("shard.safetensors")).expect("shard");
        fs::write(self.file("model.safetensors.index.json"), index).expect("index");
    }

    /// Gives the tables `rows` rows of zeros, in a sparse file.
    fn enlarge(&self, rows: u64) {
        let mut added = 0;
        self.edit(|header, data| {
            let mut end = data.len() as u64;
            for (name, width) in [
                ("embedder.embeddings.weight", 16),
                ("token_decoder.gpt_neox.embed_in.weight", 64),
                ("token_decoder.embed_out.weight", 64),
            ] {
                header[format!("{name}.old")] = header[name].take();
                let start = end;
                end += rows * width * 4;
                header[name] = json!({"dtype": "F32", "shape": [rows, width], "data_offsets": [start, end]});
            }
            added = end - data.len() as u64;
        });
        let path = self.file("model.safetensors");
        let length = fs::metadata(&path).expect("tensors").len() + added;
        let tensors = fs::OpenOptions::new().write(true).open(path).expect("tensors");
        tensors.set_len(length).expect("sparse file");
        let config = fs::read_to_string(self.file("config.yaml")).expect("configuration");
        let config = config.replace("vocab_size: 260", &format!("vocab_size: {rows}"));
        fs::write(self.file("config.yaml"), config).expect("configuration");
    }

    fn arguments(&self) -> [String; 4] {
        let output = self.output().join("model.gguf");
        ["quantize", text(&self.folder()), "-o", text(&output)].map(String::from)
    }

    fn leftovers(&self) -> Vec<PathBuf> {
        fs::read_dir(self.output()).expect("folder").map(|entry| entry.expect("entry").path()).collect()
    }

    fn refused(&self, name: &str, expected: &str) {
        refused(name, &self.arguments(), expected);
        assert_eq!(self.leftovers(), [] as [PathBuf; 0], "{name}");
    }
}
