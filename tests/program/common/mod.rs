//! Shared by the tests: the reference cases, a quantizer, and a runner of the program with a time limit.

pub mod damage;
pub mod reference;
pub mod tensors;

use std::ffi::OsString;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cinderblock::Model;
use cinderblock::unstable::gguf::{Array, NewTensor, Value, ValueType, Writer};
use cinderblock::unstable::model::draft_keys;
use tempfile::TempDir;

/// The reference cases that are part of the repository.
pub const CASES: [&str; 14] = [
    "block1",
    "block8",
    "cls_cross_attn",
    "cls_sum",
    "main",
    "main_bf16",
    "megabyte",
    "neox_hf",
    "neox_sequential",
    "prefix1",
    "roberta_prefix",
    "uptrain",
    "vanilla",
    "wide_heads",
];

/// A model file once more, with lists added to its metadata.
pub fn with_lists(file: &[u8], lists: &[(&str, ValueType, &[u8])]) -> Vec<u8> {
    let model = Model::from_bytes(file).unwrap();
    let index = model.index();
    let tensors = index.tensors().iter().map(|info| NewTensor {
        name: info.name.to_string(),
        element: info.element,
        dimensions: info.dimensions.clone(),
    });
    let mut writer = Writer::new(Cursor::new(Vec::new()), tensors.collect());
    for (key, value) in index.metadata().iter().filter(|(key, _)| *key != "general.alignment") {
        writer.value(key, value);
    }
    for (key, element, bytes) in lists {
        writer.value(key, &Value::Array(Array::of(*element, bytes).unwrap()));
    }
    writer.begin().unwrap();
    for info in index.tensors() {
        writer.begin_tensor().unwrap();
        writer.write(&file[info.start..][..info.bytes]).unwrap();
        writer.end_tensor();
    }
    writer.finish().unwrap().0.into_inner()
}

/// The lists of a draft table: what follows each context, `before << 16 | last` (65535 for no token before), how often
/// in 255ths, and what follows it second.
pub fn draft_lists(entries: &[(u32, [u16; 2], u8)]) -> [(&'static str, ValueType, Vec<u8>); 3] {
    [
        (
            draft_keys::CONTEXTS,
            ValueType::U32,
            entries.iter().flat_map(|(c, _, _)| c.to_le_bytes()).collect(),
        ),
        (
            draft_keys::TOKENS,
            ValueType::U16,
            entries.iter().flat_map(|(_, tokens, _)| tokens.map(u16::to_le_bytes)).flatten().collect(),
        ),
        (draft_keys::SHARES, ValueType::U8, entries.iter().map(|(_, _, share)| *share).collect()),
    ]
}

/// The file of the program.
pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_cinderblock"))
}

/// What runs the program: nothing, or the emulator of a foreign processor with its arguments (`CINDERBLOCK_RUNNER`).
fn runner() -> Vec<String> {
    let words = std::env::var("CINDERBLOCK_RUNNER").unwrap_or_default();
    words.split_whitespace().map(String::from).collect()
}

/// Whether an emulator runs the program.
pub fn emulated() -> bool {
    !runner().is_empty()
}

/// The cases that a test of the runtime walks through: all of them, or under an emulator, which is slow, one of each
/// kind of embedder and token decoder. The parity tests compare all on every processor.
pub fn cases() -> impl Iterator<Item = &'static str> {
    let kinds = ["main", "neox_sequential", "megabyte", "roberta_prefix", "cls_cross_attn"];
    CASES.into_iter().filter(move |name| !emulated() || kinds.contains(name))
}

/// Reports that a check is left out. Written past the capture of passing tests: `.ci/run` counts these lines.
pub fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

/// Reports a missing tool, and fails where `CINDERBLOCK_REQUIRE_TOOLS` forbids that.
pub fn skip_for_tool(name: &str) {
    assert!(std::env::var_os("CINDERBLOCK_REQUIRE_TOOLS").is_none(), "{name} is missing");
    skip(&format!("{name} is missing"));
}

/// Reports that a test cannot run under an emulator, and why; false where the processor is real.
pub fn skipped_under_emulation(why: &str) -> bool {
    if emulated() {
        skip(&format!("under emulation: {why}"));
    }
    emulated()
}

/// The file of held-out token ids (little-endian u16) that `CINDERBLOCK_HELD_OUT` names: it is not part of the repository.
pub fn held_out() -> Option<PathBuf> {
    let file = std::env::var_os("CINDERBLOCK_HELD_OUT").map(PathBuf::from);
    if file.is_none() {
        skip("CINDERBLOCK_HELD_OUT does not name the held-out ids");
    }
    file
}

/// The program, ready to be given arguments.
pub fn program() -> Command {
    with_runner(Command::new)
}

/// Lets the programs that a test starts be interrupted, also where the tests run in the background of a script, whose
/// jobs ignore Ctrl-C.
#[cfg(unix)]
pub fn heed_interrupts() {
    // SAFETY: the default action is no function, so nothing can run in a handler.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
}

/// The program as arguments of another command, which `start` makes of the first word.
pub fn with_runner(start: impl FnOnce(OsString) -> Command) -> Command {
    let mut words: Vec<OsString> = runner().into_iter().map(OsString::from).collect();
    words.push(binary().into());
    let first = words.remove(0);
    let mut command = start(first);
    command.args(words);
    command
}

/// The folder of the repository.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The folder of a reference case.
pub fn case(name: &str) -> PathBuf {
    root().join("tests/cases").join(name)
}

/// The folder of the demo model's checkpoint.
pub fn demo_checkpoint() -> PathBuf {
    root().join("models/classics")
}

/// The demo model.
pub fn demo_model() -> PathBuf {
    root().join("models/classics.q4.gguf")
}

/// How a run of the program ended.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub time: Duration,
}

impl Outcome {
    /// Standard output of a run that must have succeeded.
    pub fn success(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// Standard output as JSON.
    pub fn json(self) -> serde_json::Value {
        let text = self.success();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

/// Runs the program with arguments, killing it after five minutes, when it hangs.
pub fn cinderblock<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Outcome {
    run(program().args(arguments))
}

/// Runs a command, killing it after five minutes, when it hangs.
pub fn run(command: &mut Command) -> Outcome {
    let started = Instant::now();
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let read = |mut pipe: Box<dyn std::io::Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = pipe.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let stdout = read(Box::new(child.stdout.take().expect("piped")));
    let stderr = read(Box::new(child.stderr.take().expect("piped")));
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait") {
            break status;
        }
        if started.elapsed() > Duration::from_secs(300) {
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let time = started.elapsed();
    let [stdout, stderr] = [stdout, stderr].map(|thread| thread.join().expect("reader"));
    Outcome { code: status.code(), stdout, stderr, time }
}

/// Quantizes a checkpoint into a temporary folder.
pub fn quantize(checkpoint: &Path, kind: &str) -> (TempDir, PathBuf) {
    let folder = TempDir::new().expect("temporary folder");
    let file = folder.path().join(format!("{kind}.gguf"));
    // The reference fills up first blocks from the left, whatever its configurations say.
    let arguments =
        [checkpoint.as_os_str(), "-o".as_ref(), file.as_os_str(), "--type".as_ref(), kind.as_ref()];
    run(program().arg("quantize").args(arguments).args(["--align", "left"])).success();
    (folder, file)
}

/// A copy of a reference case with a tokenizer of single letters.
pub fn case_with_tokenizer(name: &str) -> (TempDir, PathBuf) {
    let folder = TempDir::new().expect("temporary folder");
    let checkpoint = folder.path().join(name);
    std::fs::create_dir(&checkpoint).unwrap();
    for entry in std::fs::read_dir(case(name)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, checkpoint.join(path.file_name().unwrap())).unwrap();
        }
    }
    let letters: Vec<String> =
        ('a'..='z').enumerate().map(|(id, c)| format!("\"{c}\": {}", id + 2)).collect();
    let tokenizer = format!(
        r#"{{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {{"type": "Split", "pattern": {{"String": ""}}, "behavior": "Isolated", "invert": false}},
        "post_processor": null, "decoder": null,
        "model": {{"type": "WordLevel", "vocab": {{"?": 1, {}}}, "unk_token": "?"}}}}"#,
        letters.join(", ")
    );
    std::fs::write(checkpoint.join("tokenizer.json"), tokenizer).unwrap();
    (folder, checkpoint)
}

/// Token ids as the command line takes them.
pub fn ids(tokens: &[u32]) -> String {
    tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// What the authors' implementation gives for a case.
pub struct Golden {
    pub tokens: Vec<u32>,
    pub nll: f64,
    /// Prompt length and continuation.
    pub greedy: Vec<(usize, Vec<u32>)>,
    /// `[(blocks - 1) * block_length, vocabulary]`.
    pub logits: Vec<f32>,
}

impl Golden {
    pub fn read(name: &str) -> Golden {
        let folder = case(name);
        let text = std::fs::read_to_string(folder.join("golden.json")).expect("golden.json");
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let list = |value: &serde_json::Value| -> Vec<u32> {
            value.as_array().expect("list").iter().map(|id| id.as_u64().expect("id") as u32).collect()
        };
        let greedy = json["greedy"].as_object().expect("object").iter();
        Golden {
            tokens: list(&json["tokens"]),
            nll: json["nll"].as_f64().expect("number"),
            greedy: greedy.map(|(n, tokens)| (n.parse().expect("length"), list(tokens))).collect(),
            logits: read_npy(&folder.join("logits.npy")).1,
        }
    }
}

/// Shape text and numbers of a version 1 `.npy` file of f32.
pub fn read_npy(path: &Path) -> (String, Vec<f32>) {
    let bytes = std::fs::read(path).expect("npy");
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let text = String::from_utf8_lossy(&bytes[10..header]).into_owned();
    assert!(text.contains("'<f4'") && text.contains("False"), "{text}");
    let values = bytes[header..].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    (text, values)
}
