//! `batch` on the command line: every line is answered once, whatever is wrong with others and whoever kills it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::common::{Outcome, case, cinderblock, program, quantize, run};
use cinderblock::{Model, Runtime, SessionOptions, negative_log_likelihood};
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

    let runtime = Runtime::new(Model::open(crate::common::demo_model()).unwrap(), 2).unwrap();
    for (continuation, score) in continuations.iter().zip(answers["\"ids\""]["scores"].as_array().unwrap()) {
        let mut session = runtime.session(&SessionOptions::default()).unwrap();
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
        (b"{\"id\": 5, \"tokens\": [4096]}", "token id: found 4096"),
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
    let expected = wrong.iter().map(|wrong| wrong.1).chain(["found 2049 tokens, expected at most 1024"]);
    for (error, expected) in errors.iter().zip(expected) {
        assert!(error.contains(expected) && !error.contains('\n'), "{error}, expected {expected}");
    }
    // A second run with a file has nothing to do, and there are still errors.
    batch(folder.path(), &["-i", "in", "-n", "5", "-o", "out"]);
    let before = fs::read(folder.path().join("out")).unwrap();
    let again = batch(folder.path(), &["-i", "in", "-n", "5", "-o", "out"]);
    assert!(again.code == Some(1) && again.stderr.contains("failed 17, skipped 19"), "{again:?}");
    assert_eq!(fs::read(folder.path().join("out")).unwrap(), before);
}

#[test]
fn usage_errors_are_one_line() {
    let folder = tempfile::TempDir::new().unwrap();
    fs::write(folder.path().join("in"), "{\"id\": 1, \"prompt\": \"x\"}\n").unwrap();
    fs::write(folder.path().join("foreign"), "my notes\n").unwrap();
    for (arguments, code, text) in [
        (&["-i", "missing"][..], 1, "missing"),
        (&["-i", "in", "-o", "foreign"], 1, "expected an answer of this program"),
        (&["-i", "in", "--retry-failed"], 2, "--output"),
        (&["-i", "in", "--batch", "9223372036854775808"], 2, "expected 1 to 65536"),
        (&["-i", ".", "-o", "new"], 1, "error: .: is a directory"),
        (&["-i", "in", "-o", "."], 1, "directory"),
        (&["-i", "in", "--batch", "0"], 2, "expected 1 to 65536"),
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
        let arguments =
            ["-i", "in", "-n", "12", "--batch", "48", "--cache-blocks", "512", "--json", "--memory", memory];
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
    let output = folder.join("out");
    let length = || fs::metadata(&output).map_or(0, |metadata| metadata.len());
    'runs: loop {
        let mut child = command("out").spawn().unwrap();
        // Killed by its progress, not by the clock: a slow machine would never finish. Every fifth dies as it starts.
        let goal = if kills % 5 == 4 { 0 } else { length() + kills * 7919 % 60_000 };
        while length() <= goal {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success());
                break 'runs;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        // A kill seldom falls into a write; what it would leave is put there.
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
        let arguments =
            ["-i", "in", "-n", "60", "--ignore-end", "--cache-blocks", "512", "--json", "--memory", "4GB"];
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

/// Neither the questions nor the model are taken for answers, by whatever name.
#[test]
#[cfg(unix)]
fn an_output_is_never_an_input() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let questions = "{\"id\":1,\"prompt\":\"The old\"}\n{\"id\":2,\"prompt\":\"A new\"}";
    fs::write(path("in"), questions).unwrap();
    fs::copy(crate::common::demo_model(), path("model")).unwrap();
    fs::create_dir(path("deep")).unwrap();
    std::os::unix::fs::symlink("../in", path("deep/soft")).unwrap();
    fs::hard_link(path("in"), path("hard")).unwrap();
    let arguments = ["-m", "model", "-n", "2", "-i", "in", "-o"];
    for output in ["in", "./deep/../in", "deep/soft", "hard", "model"] {
        let outcome = batch(folder.path(), &[&arguments[..], &[output]].concat());
        assert!(outcome.code == Some(2) && outcome.stderr.contains("output: found the"), "{outcome:?}");
    }
    for redirected in
        ["batch -m model -n 2 -o in < in", "batch -m model -n 2 -i in >> in", "batch -m model < in >> in"]
    {
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &format!("exec \"$0\" {redirected}")]).arg(program().get_program());
        let outcome = run(shell.current_dir(folder.path()));
        assert!(outcome.code == Some(2) && outcome.stderr.contains("output: found the"), "{outcome:?}");
    }
    // A copy of the questions is no answer either.
    fs::copy(path("in"), path("copy")).unwrap();
    let outcome = batch(folder.path(), &[&arguments[..], &["copy"]].concat());
    assert!(outcome.code == Some(1) && outcome.stderr.contains("copy: output: line 1: found"), "{outcome:?}");
    for name in ["in", "copy"] {
        assert_eq!(fs::read_to_string(path(name)).unwrap(), questions);
    }
    assert_eq!(fs::read(path("model")).unwrap(), fs::read(crate::common::demo_model()).unwrap());
}

#[test]
#[cfg(unix)]
fn pipes_and_devices_are_written_to() {
    let folder = tempfile::TempDir::new().unwrap();
    fs::write(folder.path().join("in"), "{\"id\":1,\"prompt\":\"The old\"}\n").unwrap();
    let expected = batch(folder.path(), &["-i", "in", "-n", "2"]).success();
    let shell = |script: &str| {
        let mut shell = std::process::Command::new("bash");
        shell.arg("-c").arg(script).arg(program().get_program()).current_dir(folder.path());
        let outcome = run(&mut shell);
        assert!(outcome.time < Duration::from_secs(60), "{script}: {outcome:?}");
        outcome
    };
    let batch = "\"$0\" batch -i in -n 2 -o";
    for script in [
        format!("{batch} -"),
        format!("{batch} /dev/stdout"),
        format!("{batch} /dev/stdout > file; cat file"),
        format!("mkfifo pipe; (sleep 0.2; cat pipe) & {batch} pipe; wait"),
        format!("{batch} >(cat > got); sleep 0.5; cat got"),
        format!("{batch} /dev/fd/5 5>got; cat got"),
        format!("{batch} /dev/null; {batch} out; cat out"),
    ] {
        assert_eq!(shell(&script).success(), expected, "{script}");
    }
    let nobody = shell(&format!("{batch} pipe"));
    assert!(nobody.code == Some(1) && nobody.stderr.contains("nobody reads"), "{nobody:?}");
    assert!(!folder.path().join("-").exists());
}

/// A line whose error may pass is asked again, one that was put right too, any other only when it is wanted.
#[test]
fn a_run_is_resumed_only_as_the_same_run() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let long: Vec<u32> = vec![300; 1500];
    let line = |id: &str, more: Json| {
        let mut line = json!({"id": id, "max_tokens": 4});
        line.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        format!("{line}\n")
    };
    let good = line("good", json!({"prompt": "The old", "label": 7}));
    let large = line("large", json!({"tokens": long}));
    let wrong = line("wrong", json!({"prompt": "The", "temp": -1}));
    fs::write(path("in"), [&good[..], &large, &wrong].concat()).unwrap();
    let ask = |more: &[&str]| {
        batch(folder.path(), &[&["-i", "in", "-o", "out", "--cache-blocks", "512"], more].concat())
    };
    let read = || answers(&fs::read_to_string(path("out")).unwrap());
    // Each says what it needs alone.
    let small =
        answers(&batch(folder.path(), &["-i", "in", "--cache-blocks", "512", "--memory", "1"]).stdout);
    let needed = |id: &str| -> u64 {
        let error = small[id]["error"].as_str().unwrap();
        error.split_once("at least ").unwrap().1.split(' ').next().unwrap().parse().unwrap()
    };
    let between = (needed("\"good\"") + needed("\"large\"")) / 2;
    let first = ask(&["--memory", &between.to_string()]);
    assert!(first.code == Some(1) && first.stderr.contains("answered 1, failed 2, skipped 0"), "{first:?}");
    let before = read();
    assert_eq!((&before["\"large\""]["retry"], &before["\"wrong\""]["retry"]), (&json!(true), &Json::Null));
    assert_eq!((&before["\"wrong\""]["line"], &before["\"good\""]["label"]), (&json!(3), &json!(7)));

    let second = ask(&[]);
    assert!(
        second.code == Some(1) && second.stderr.contains("answered 1, failed 1, skipped 2"),
        "{second:?}"
    );
    assert!(read()["\"large\""].get("error").is_none());
    let third = ask(&["--retry-failed"]);
    assert!(third.code == Some(1) && third.stderr.contains("answered 0, failed 1, skipped 2"), "{third:?}");
    assert_eq!(read()["\"good\""], before["\"good\""]);

    // Another prompt under an id that is answered; and a line that was put right.
    let other = line("good", json!({"prompt": "The new", "label": 7}));
    let right = line("wrong", json!({"prompt": "The", "temp": 1}));
    fs::write(path("in"), [&other[..], &large, &right].concat()).unwrap();
    let fourth = ask(&[]);
    assert!(
        fourth.code == Some(1) && fourth.stderr.contains("answered 1, failed 1, skipped 1"),
        "{fourth:?}"
    );
    assert!(
        fourth.stderr.contains("line 1: id \"good\": the output has an answer to another line"),
        "{fourth:?}"
    );
    let whole = fs::read(path("out")).unwrap();
    assert!(read().len() == 3 && read()["\"wrong\""].get("error").is_none());

    // Other options and another model.
    let (_cases, case) = quantize(&case("main"), "q4");
    for (more, found) in [
        (&["--temp", "0"][..], "line 1: found an answer to \"good\" of other options"),
        (&["-n", "5"], "of other options"),
        (&["--cache-blocks", "64"], "of other options"),
        (&["--score"], "of other options"),
        (&["-m", case.to_str().unwrap()], "line 1: found an answer to \"good\" of another model"),
    ] {
        let refused = ask(more);
        assert!(refused.code == Some(1) && refused.stderr.contains(found), "{refused:?}");
    }
    // How the work is done is not what is done.
    fs::write(path("in"), [&good[..], &large, &right].concat()).unwrap();
    let last = ask(&["--batch", "2", "--threads", "1", "--memory", "1GB", "--prefix-cache", "1MB"]);
    assert!(last.code == Some(0) && last.stderr.contains("skipped 3"), "{last:?}");
    assert_eq!(fs::read(path("out")).unwrap(), whole);
}

/// The tokens are those that lm-evaluation-harness scores.
#[test]
fn scores_are_split_as_harnesses_split() {
    let folder = tempfile::TempDir::new().unwrap();
    let lines = [
        json!({"id": "space", "prompt": "The old house ", "continuations": ["was"]}),
        json!({"id": "spaces", "prompt": "The old house \n ", "continuations": ["was"]}),
        json!({"id": "moved", "prompt": "The old house", "continuations": [" was", " \n was"]}),
        // The prompt ends inside of what is one token of the text of both.
        json!({"id": "merged", "prompt": "The old hou", "continuations": ["se was grey and old"]}),
        json!({"id": "one empty", "prompt": "The old", "continuations": [" house", "", [4_000_000], " man"]}),
        json!({"id": "begins", "prompt": "", "continuations": ["The old"]}),
        json!({"id": "mixed", "prompt": "The old ", "continuations": ["man", [300]]}),
    ];
    fs::write(folder.path().join("in"), lines.map(|line| format!("{line}\n")).concat()).unwrap();
    let outcome = batch(folder.path(), &["--score", "-i", "in"]);
    assert!(outcome.code == Some(1) && outcome.stderr.contains("1 of 7 lines failed"), "{outcome:?}");
    let answers = answers(&outcome.stdout);
    let scores = |id: &str| answers[&format!("\"{id}\"")]["scores"].clone();
    assert_eq!(scores("space")[0], scores("moved")[0]);
    assert_eq!(scores("spaces")[0], scores("moved")[1]);

    let runtime = Runtime::new(Model::open(crate::common::demo_model()).unwrap(), 2).unwrap();
    let tokenizer = cinderblock::Tokenizer::of_model(runtime.model()).unwrap();
    let reference = |context: &[u32], own: &[u32]| {
        let mut session = runtime.session(&SessionOptions::default()).unwrap();
        session.append(context).unwrap();
        let mut sum = 0.0;
        for token in own {
            sum -= negative_log_likelihood(session.logits().unwrap(), *token);
            session.append(&[*token]).unwrap();
        }
        sum
    };
    let (whole, context) = (
        tokenizer.encode("The old house was grey and old").unwrap(),
        tokenizer.encode("The old hou").unwrap(),
    );
    let expected = reference(&context, &whole[context.len()..]);
    let merged = &scores("merged")[0];
    assert!((merged["logprob"].as_f64().unwrap() - expected).abs() < 1e-4, "{merged} {expected}");
    let begun = reference(&[runtime.model().end_token().unwrap()], &tokenizer.encode("The old").unwrap());
    assert!((scores("begins")[0]["logprob"].as_f64().unwrap() - begun).abs() < 1e-4);

    let one = &answers["\"one empty\""];
    assert!(one["scores"][0]["logprob"].is_f64() && one["scores"][3]["logprob"].is_f64(), "{one}");
    for (index, text) in [(1, "found 0 tokens"), (2, "4000000")] {
        assert!(one["scores"][index]["error"].as_str().unwrap().contains(text), "{one}");
    }
    assert!(one["error"].as_str().unwrap().starts_with("line 5: continuation: found 0 tokens"), "{one}");
    let alone = reference(&tokenizer.encode("The old ").unwrap(), &[300]);
    assert!((scores("mixed")[1]["logprob"].as_f64().unwrap() - alone).abs() < 1e-4);
}

/// Few-shot questions: the same examples, and an ending of its own for each.
fn few_shot(examples: u32, questions: u32) -> String {
    let line = |question: u32| {
        let own = (0..8).map(|i| 700 + 10 * question + i);
        let prompt: Vec<u32> = (300..300 + examples).chain(own).collect();
        json!({"id": question, "tokens": prompt, "continuations": [[11, 290], [262], [5, 6, 7, 8, 9]]})
    };
    (0..questions).map(|question| format!("{}\n", line(question))).collect()
}

#[test]
fn examples_that_questions_share_are_read_once() {
    let folder = tempfile::TempDir::new().unwrap();
    fs::write(folder.path().join("in"), few_shot(64, 20)).unwrap();
    for align in ["tail", "left"] {
        let score = |more: &[&str]| {
            let base = ["-i", "in", "--score", "--json", "--align", align, "--cache-blocks", "64"];
            let outcome = batch(folder.path(), &[&base[..], &["--batch", "4"], more].concat());
            let summary: Json = serde_json::from_str(outcome.stderr.trim()).unwrap();
            assert_eq!((&summary["answered"], &summary["prompt_tokens"]), (&json!(20), &json!(20 * 72)));
            let prefixes = ["prefix_hits", "prefix_tokens"].map(|key| summary[key].as_u64().unwrap());
            (answers(&outcome.stdout), prefixes)
        };
        let (separate, none) = score(&["--prefix-cache", "0"]);
        assert_eq!(none, [0, 0]);
        let (shared, counts) = score(&[]);
        // All but the first question read their own 8 tokens.
        assert_eq!(counts, [19, 19 * 64], "{align}");
        // Numbers are printed to the last bit.
        assert!(shared == separate, "{align}");
        for more in [["--memory", "24MB"], ["--prefix-cache", "200kB"]] {
            let (little, [hits, _]) = score(&more);
            assert!(little == separate && hits > 0, "{align}, {more:?}: {hits}");
        }
    }
    let told = batch(folder.path(), &["-i", "in", "--score"]);
    assert!(told.stderr.contains("prompts 1440 tokens, 1216 of them not read again"), "{}", told.stderr);
}

#[test]
fn prompts_that_are_continued_share_what_they_begin_with_if_told_to() {
    let folder = tempfile::TempDir::new().unwrap();
    let lines = (0..12).map(|id| {
        let prompt: Vec<u32> = (300..400).chain([700 + id]).collect();
        format!("{}\n", json!({"id": id, "tokens": prompt, "max_tokens": 8}))
    });
    fs::write(folder.path().join("in"), lines.collect::<String>()).unwrap();
    let generate = |more: &[&str]| {
        let outcome = batch(folder.path(), &[&["-i", "in", "--json"], more].concat());
        let summary: Json = serde_json::from_str(outcome.stderr.trim()).unwrap();
        (answers(&outcome.success()), summary["prefix_hits"].as_u64())
    };
    let (separate, none) = generate(&[]);
    let (shared, hits) = generate(&["--prefix-cache", "64MB"]);
    assert_eq!((none, hits), (Some(0), Some(11)));
    assert!(shared == separate);
}

/// Prompts that are scored count to the memory as those that are continued.
#[test]
fn scoring_stays_within_the_budget() {
    let folder = tempfile::TempDir::new().unwrap();
    let mut lines = String::new();
    for id in 0..40 {
        let prompt: Vec<u32> = (0..1500 + 10 * id).map(|i| 300 + i * 7 % 3000).collect();
        lines += &format!("{}\n", json!({"id": id, "tokens": prompt, "continuations": [[5], [6, 7], [8]]}));
    }
    fs::write(folder.path().join("in"), lines).unwrap();
    let score = |memory: &str| {
        let outcome = batch(
            folder.path(),
            &["-i", "in", "--score", "--json", "--cache-blocks", "512", "--memory", memory],
        );
        let summary: Json = serde_json::from_str(outcome.stderr.trim()).unwrap();
        assert_eq!(summary["answered"], 40, "{summary}");
        (answers(&outcome.stdout), summary["peak_memory_bytes"].as_u64().unwrap())
    };
    let (all, free) = score("4GB");
    for megabytes in [24, 48] {
        let (limited, peak) = score(&format!("{megabytes}MB"));
        println!("budget {megabytes} MB: peak {} MB of {}", peak / 1_000_000, free / 1_000_000);
        assert!(peak < megabytes * 1_000_000 + (32 << 20), "{peak} of {megabytes} MB");
        assert!(limited == all);
    }
}

#[test]
fn lines_are_taken_as_people_have_them() {
    let folder = tempfile::TempDir::new().unwrap();
    let input = concat!(
        "\u{feff}{\"id\":1,\"prompt\":\"The\",\"temp\":0,\"logit_bias\":{\"262\":\"-inf\"},\"label\":[1],\"text\":\"mine\"}\n",
        "{\"id\":2,\"tokens\":[300],\"max_tokens\":18446744073709551615,\"stop\":[\"e\",\" \"],\"logprobs\":18446744073709551615}\n",
        "{\"id\":3,\n",
        "{\"id\":4,\"tokens\":[300],\"continuations\":[\"x\"]}\n",
    );
    fs::write(folder.path().join("in"), input).unwrap();
    let outcome = batch(folder.path(), &["-i", "in", "-n", "4"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(!outcome.stderr.contains("up to 0 at a time"), "{outcome:?}");
    let answers = answers(&outcome.stdout);
    let first = &answers["1"];
    assert_eq!((&first["label"], &first["columns"]), (&json!([1]), &json!({"text": "mine"})));
    assert!(first["tokens"].as_array().unwrap().iter().all(|token| *token != 262), "{first}");
    assert_eq!(answers["2"]["end"], "stop");
    assert!(answers["null"]["error"].as_str().unwrap().starts_with("line 3: column 8: EOF"), "{answers:?}");
    assert!(answers["4"]["error"].as_str().unwrap().contains("without --score"));
}

/// Where threads are short, there is an answer or an error; a limit of the user holds for all but root.
#[test]
#[cfg(target_os = "linux")]
fn a_thread_that_cannot_be_started_is_an_error() {
    use crate::common::{binary, run, skip};
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::TempDir::new().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(folder.path().join("in"), "{\"id\": 1, \"prompt\": \"x\", \"max_tokens\": 2}\n").unwrap();
    let limited = |threads: usize, arguments: &[&str]| {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid=61301", "--clear-groups", "prlimit", &format!("--nproc={threads}")]);
        run(command.arg(binary()).args(arguments).current_dir(folder.path()))
    };
    if std::process::Command::new("setpriv").arg("--version").output().is_err()
        || limited(99, &["--version"]).code != Some(0)
    {
        return skip("setpriv cannot run the program as another user");
    }
    let mut codes = Vec::new();
    for threads in 1..6 {
        let outcome = limited(threads, &["batch", "-i", "in", "--threads", "1"]);
        assert!(!outcome.stderr.contains("defect"), "{threads}: {outcome:?}");
        assert_eq!(outcome.code == Some(1), outcome.stderr.contains("error: "), "{threads}: {outcome:?}");
        codes.push(outcome.code);
    }
    assert!(codes.contains(&Some(0)) && codes[0] == Some(1), "{codes:?}");
}
