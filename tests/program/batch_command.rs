//! `batch` on the command line: every line is answered once, whatever is wrong with others and whoever kills it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use crate::common::{Outcome, case, cinderblock, program, quantize, run};
use cinderblock::session::negative_log_likelihood;
use cinderblock::{Model, Session, SessionOptions, Team};
use serde_json::{Value as Json, json};

fn batch(folder: &Path, more: &[&str]) -> Outcome {
    run(program().arg("batch").args(more).current_dir(folder))
}

/// The answers by id, each once.
fn answers(text: &str) -> BTreeMap<String, Json> {
    let mut answers = BTreeMap::new();
    for line in text.lines() {
        let answer: Json = serde_json::from_str(line).unwrap();
        let before = answers.insert(answer["id"].to_string(), answer);
        assert_eq!(before, None);
    }
    answers
}

/// What `run` says to the same prompt is what `batch` says, in any company.
#[test]
fn answers_equal_those_of_run() {
    let folder = tempfile::TempDir::new().unwrap();
    let prompts =
        ["The old house", "It", "He said, \"I", "Upon the hill there stood a very old and very grey"];
    let mut lines = String::new();
    for (id, prompt) in prompts.iter().enumerate() {
        lines += &format!("{}\n", json!({"id": id, "prompt": prompt, "seed": id, "max_tokens": 20 + id}));
    }
    lines += &format!(
        "{}\n",
        json!({"id": "stops", "tokens": [300, 301], "temperature": 0, "stop": "e", "logprobs": 1})
    );
    fs::write(folder.path().join("in"), lines).unwrap();
    let outcome = batch(folder.path(), &["-i", "in", "--json"]);
    let summary: Json = serde_json::from_str(&outcome.stderr).unwrap();
    assert!(summary["answered"] == 5 && summary["failed"] == 0, "{summary}");
    let answers = answers(&outcome.success());
    for (id, prompt) in prompts.iter().enumerate() {
        let (seed, most) = (id.to_string(), (20 + id).to_string());
        let alone = cinderblock(&["run", "-p", prompt, "--seed", &seed, "-n", &most, "--json"]).json();
        let answer = &answers[&seed];
        for field in ["text", "tokens", "end", "prompt_tokens"] {
            assert_eq!(answer[field], alone[field], "{field} of {prompt}");
        }
    }
    let alone = cinderblock(&[
        "run",
        "--tokens",
        "300,301",
        "--temp",
        "0",
        "--stop",
        "e",
        "--json",
        "--logprobs",
        "1",
    ])
    .json();
    let answer = &answers["\"stops\""];
    assert!(answer["text"] == alone["text"] && answer["end"] == "stop", "{answer}");
    assert_eq!(answer["logprobs"], alone["logprobs"]);
}

/// A score is the sum of what a session says about each token.
#[test]
fn scores_are_log_likelihoods() {
    let folder = tempfile::TempDir::new().unwrap();
    let continuations: [&[u32]; 3] = [&[11, 290], &[262], &[5, 6, 7, 8, 9, 10]];
    let prompt = [464, 1468, 2156, 318, 13];
    let lines = [
        json!({"id": "ids", "tokens": prompt, "continuations": continuations}),
        json!({"id": "texts", "prompt": "The old house", "continuations": [" was", " xylophone"]}),
        json!({"id": "none", "tokens": prompt, "continuations": []}),
        json!({"id": "empty", "tokens": prompt, "continuations": [[1], []]}),
        json!({"id": "foreign", "tokens": prompt, "continuations": [[4_000_000]]}),
        json!({"id": "long", "tokens": vec![1; 4000], "continuations": [[1]]}),
    ];
    fs::write(folder.path().join("in"), lines.map(|line| format!("{line}\n")).concat()).unwrap();
    let outcome = batch(folder.path(), &["--score", "-i", "in"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let answers = answers(&outcome.stdout);
    for (id, error) in [
        ("none", "found no \"continuations\""),
        ("empty", "continuation: found 0 tokens"),
        ("foreign", "4000000"),
        ("long", "found 4000 tokens"),
    ] {
        let answer = &answers[&format!("\"{id}\"")];
        assert!(answer["error"].as_str().is_some_and(|text| text.contains(error)), "{answer}");
    }
    let texts = &answers["\"texts\""]["scores"];
    assert!(texts[0]["logprob"].as_f64() > texts[1]["logprob"].as_f64(), "{texts}");

    let model = Arc::new(Model::open(crate::common::demo_model()).unwrap());
    let team = Arc::new(Team::new(2).unwrap());
    for (continuation, score) in continuations.iter().zip(answers["\"ids\""]["scores"].as_array().unwrap()) {
        let mut session = Session::new(&model, &team, &SessionOptions::default()).unwrap();
        session.append(&prompt).unwrap();
        let (mut sum, mut greedy) = (0.0, true);
        for token in *continuation {
            let logits = session.logits().unwrap();
            sum -= negative_log_likelihood(logits, *token);
            greedy &= logits.iter().all(|logit| *logit <= logits[*token as usize]);
            session.append(&[*token]).unwrap();
        }
        assert!((score["logprob"].as_f64().unwrap() - sum).abs() < 1e-4, "{score} {sum}");
        assert_eq!(
            (score["tokens"].as_u64(), score["is_greedy"].as_bool()),
            (Some(continuation.len() as u64), Some(greedy))
        );
    }
}

#[test]
fn a_wrong_line_is_answered_and_the_others_continue() {
    let folder = tempfile::TempDir::new().unwrap();
    let wrong: &[(&[u8], &str)] = &[
        (b"{\"id\": \"a\", \"prompt\": \"again\"}", "found \"a\" again"),
        (b"nonsense", "expected a JSON object"),
        (b"[]", "found [], expected a JSON object"),
        (b"{\"prompt\": \"x\"}", "\"id\": found null"),
        (b"{\"id\": {}, \"prompt\": \"x\"}", "\"id\": found {}"),
        (b"{\"id\": 1}", "found no \"prompt\""),
        (b"{\"id\": 2, \"prompt\": \"\"}", "prompt: found 0 tokens"),
        (b"{\"id\": 3, \"prompt\": 4}", "\"prompt\": found 4, expected a text"),
        (b"{\"id\": 4, \"tokens\": [1, -2]}", "\"tokens\": found [1,-2], expected a list of token ids"),
        (b"{\"id\": 5, \"tokens\": [4096]}", "token id 4096"),
        (b"{\"id\": 6, \"tokens\": [5], \"prompt\": \"x\"}", "expected one of them"),
        (b"{\"id\": 7, \"prompt\": \"x\", \"max_token\": 4}", "found a field \"max_token\""),
        (b"{\"id\": 8, \"prompt\": \"x\", \"max_tokens\": \"4\"}", "found \"4\", expected a whole number"),
        (b"{\"id\": 9, \"prompt\": \"x\", \"temperature\": -1}", "temperature"),
        (b"{\"id\": 10, \"prompt\": \"\xff\"}", "not UTF-8"),
        (b"{\"id\": 11, \"prompt\": \"x\", \"stop\": [1]}", "\"stop\": found [1]"),
    ];
    let mut input = b"{\"id\": \"a\", \"prompt\": \"The\"}\n\n".to_vec();
    for (line, _) in wrong {
        input.extend(*line);
        input.push(b'\n');
    }
    let long: Vec<u32> = vec![300; 2049];
    input.extend(json!({"id": 12, "tokens": long}).to_string().as_bytes());
    input.extend(b"\r\n{\"id\": \"z\", \"prompt\": \"The\"}");
    fs::write(folder.path().join("in"), input).unwrap();
    let outcome = batch(folder.path(), &["-i", "in", "-n", "5"]);
    assert!(outcome.code == Some(1) && outcome.stderr.contains("17 of 19 lines failed"), "{outcome:?}");
    let lines: Vec<Json> = outcome.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (failed, answered): (Vec<&Json>, Vec<&Json>) =
        lines.iter().partition(|line| line.get("error").is_some());
    assert_eq!(answered.len(), 2);
    let errors: Vec<&str> = failed.iter().map(|line| line["error"].as_str().unwrap()).collect();
    let expected = wrong.iter().map(|wrong| wrong.1).chain(["found 2049 tokens, expected at most 2048"]);
    for (error, expected) in errors.iter().zip(expected) {
        assert!(error.contains(expected) && !error.contains('\n'), "{error}, expected {expected}");
    }
    // A second run with a file has nothing to do, and says nothing is wrong with what it did not look at.
    batch(folder.path(), &["-i", "in", "-n", "5", "-o", "out"]);
    let before = fs::read(folder.path().join("out")).unwrap();
    let again = batch(folder.path(), &["-i", "in", "-n", "5", "-o", "out"]);
    assert!(again.code == Some(0) && again.stderr.contains("skipped 19"), "{again:?}");
    assert_eq!(fs::read(folder.path().join("out")).unwrap(), before);
}

#[test]
fn usage_errors_are_one_line() {
    let folder = tempfile::TempDir::new().unwrap();
    fs::write(folder.path().join("in"), "{\"id\": 1, \"prompt\": \"x\"}\n").unwrap();
    fs::write(folder.path().join("foreign"), "my notes\n").unwrap();
    for (arguments, code, text) in [
        (&["-i", "missing"][..], 1, "missing"),
        (&["-i", "in", "-o", "foreign"], 1, "an answer with an id"),
        (&["-i", "in", "-o", "."], 1, "directory"),
        (&["-i", "in", "--batch", "0"], 2, "found 0"),
        (&["-i", "in", "--memory", "4 parsecs"], 2, "kB, MB or GB"),
        (&["-i", "in", "--memory", "1MB"], 1, "1 of 1 lines failed"),
        (&["-i", "in", "--temp=-1"], 2, "temperature"),
        (&["-i", "in", "--cache-blocks", "4"], 2, "pinned"),
    ] {
        let outcome = batch(folder.path(), arguments);
        assert_eq!(outcome.code, Some(code), "{arguments:?} {outcome:?}");
        assert!(outcome.stderr.contains(text), "{arguments:?} {outcome:?}");
    }
    assert_eq!(fs::read(folder.path().join("foreign")).unwrap(), b"my notes\n");
}

/// What the process uses stays within the budget and what the program itself is: a text and its tokenizer.
#[test]
fn memory_stays_within_the_budget() {
    let folder = tempfile::TempDir::new().unwrap();
    let mut lines = String::new();
    for id in 0..48 {
        let prompt: Vec<u32> = (0..1500 + 10 * id).map(|i| 300 + i * 7 % 3000).collect();
        lines += &format!("{}\n", json!({"id": id, "tokens": prompt}));
    }
    fs::write(folder.path().join("in"), lines).unwrap();
    let peak = |memory: &str| {
        let arguments = ["-i", "in", "-n", "12", "--batch", "48", "--json", "--memory", memory];
        let outcome = batch(folder.path(), &arguments);
        let summary: Json = serde_json::from_str(outcome.stderr.trim()).unwrap();
        assert_eq!(summary["answered"], 48, "{summary}");
        (summary["peak_memory_bytes"].as_u64().unwrap(), summary["together"].as_u64().unwrap())
    };
    let mut last = 0;
    for megabytes in [40, 80, 160] {
        let (peak, together) = peak(&format!("{megabytes}MB"));
        println!("budget {megabytes} MB: peak {} MB, {together} at a time", peak / 1_000_000);
        assert!(peak < megabytes * 1_000_000 + (32 << 20), "{peak} of {megabytes} MB");
        assert!(together > last, "{together} at a time with {megabytes} MB");
        last = together;
    }
}

/// 10,000 prompts, killed at random moments until they are done: each is answered once, as without the kills.
#[test]
#[cfg(unix)]
fn kills_lose_nothing_and_repeat_nothing() {
    const LINES: u64 = 10_000;
    let (folder, model) = quantize(&case("main"), "q4");
    let folder = folder.path();
    let mut lines = String::new();
    for id in 0..LINES {
        let prompt: Vec<u64> = (0..1 + id % 13).map(|i| (id * 31 + i * 7) % 256).collect();
        lines +=
            &format!("{}\n", json!({"id": format!("n{id}"), "tokens": prompt, "max_tokens": 1 + id % 5}));
    }
    fs::write(folder.join("in"), lines).unwrap();
    let command = |output: &str| {
        let mut command = program();
        command.arg("batch").arg("-m").arg(&model).args(["-i", "in", "-o", output, "--batch", "64"]);
        command.current_dir(folder).stdin(Stdio::null()).stderr(Stdio::null());
        command
    };
    assert!(command("whole").status().unwrap().success());
    let (mut kills, mut torn) = (0u64, 0);
    loop {
        let mut child = command("out").spawn().unwrap();
        std::thread::sleep(Duration::from_micros(20_000 + kills * 7919 % 60_000));
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        // A kill seldom falls into a write; what it would leave is put there.
        let output = folder.join("out");
        if kills.is_multiple_of(3)
            && let Ok(bytes) = fs::read(&output)
            && let Some(end) = bytes.len().checked_sub(1 + kills as usize % 7)
        {
            torn += 1;
            fs::write(&output, &bytes[..end]).unwrap();
        }
    }
    println!("{kills} kills, {torn} torn lines");
    assert!(kills > 3 && torn > 0, "{kills} kills");
    let read = |name| answers(&fs::read_to_string(folder.join(name)).unwrap());
    let (out, whole) = (read("out"), read("whole"));
    assert_eq!(out.len() as u64, LINES);
    assert!(out == whole);
    assert!(out.values().all(|answer| answer.get("error").is_none()));
}

/// Samples are what `run` writes with their seeds.
#[test]
fn samples_equal_runs_with_successive_seeds() {
    let plain = ["run", "-p", "It was a dark", "-n", "21", "--seed", "5", "--samples", "3"];
    let json = cinderblock(&[&plain[..], &["--json"]].concat()).json();
    let shown = cinderblock(&plain).success();
    for (index, seed) in ["5", "6", "7"].iter().enumerate() {
        let sample = &json["samples"][index];
        let alone = cinderblock(&["run", "-p", "It was a dark", "-n", "21", "--seed", seed, "--json"]).json();
        for field in ["seed", "tokens", "text", "end"] {
            assert_eq!(sample[field], alone[field], "{field} of seed {seed}");
        }
        let header = format!("--- sample {}, seed {seed}, ended by", index + 1);
        assert!(shown.contains(&header) && shown.contains(alone["text"].as_str().unwrap()), "{shown}");
    }
    for more in [&["--samples", "0"][..], &["--samples", "2", "--save", "x"], &["--samples", "2", "-i"]] {
        assert_eq!(cinderblock(&[&["run", "-p", "x"], more].concat()).code, Some(2));
    }
}

/// What `inspect` says for a batch is what it then takes, beside the program itself.
#[test]
fn inspect_reports_the_memory_of_a_batch() {
    let estimate = |batch: &str| {
        let json = cinderblock(&["inspect", "--cache-blocks", "512", "--batch", batch, "--json"]).json();
        json["memory"]["total"].as_u64().unwrap()
    };
    let (predicted, one) = (estimate("32"), estimate("1"));
    let folder = tempfile::TempDir::new().unwrap();
    let measure = |count: u32| {
        let prompt: Vec<u32> = (0..2030).map(|i| 300 + i * 7 % 3000).collect();
        let lines: Vec<String> =
            (0..count).map(|id| json!({"id": id, "tokens": prompt}).to_string()).collect();
        fs::write(folder.path().join("in"), lines.join("\n")).unwrap();
        let arguments = ["-i", "in", "-n", "60", "--ignore-end", "--json", "--memory", "4GB"];
        let outcome = batch(folder.path(), &arguments);
        let summary: Json = serde_json::from_str(outcome.stderr.trim()).unwrap();
        assert_eq!(summary["together"], count, "{summary}");
        summary["peak_memory_bytes"].as_u64().unwrap()
    };
    let (taken, least) = (measure(32), measure(1));
    let (more, expected) = ((taken - least) as f64, (predicted - one) as f64);
    println!("31 more sequences: predicted {expected}, taken {more}");
    assert!((more / expected - 1.0).abs() < 0.05, "predicted {expected}, taken {more}");
}
