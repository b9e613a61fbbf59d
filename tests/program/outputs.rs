//! An output is never an input, is tried before work begins, and is there whole or not at all.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::common::{Outcome, case, demo_model, program, run};
use tempfile::TempDir;

/// Runs a script in which `"$0"` is the program, in a folder.
fn shell(folder: &Path, script: &str) -> Outcome {
    let mut shell = Command::new("bash");
    shell.arg("-c").arg(script).arg(program().get_program()).current_dir(folder);
    run(&mut shell)
}

/// A folder with a checkpoint `ck`, the demo model `m`, a text `t`, ids `i`, a recipe `r` and links to all of them.
fn inputs() -> TempDir {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("ck")).unwrap();
    for name in ["config.yaml", "model.safetensors"] {
        fs::copy(case("main").join(name), path("ck").join(name)).unwrap();
    }
    fs::copy(demo_model(), path("m")).unwrap();
    fs::write(path("t"), "The old house stood upon the hill. ".repeat(20)).unwrap();
    let ids: Vec<u8> = (300u16..340).flat_map(u16::to_le_bytes).collect();
    fs::write(path("i"), ids).unwrap();
    fs::write(path("r"), "*=q4\n").unwrap();
    for name in ["m", "t", "i", "r"] {
        symlink(name, path(&format!("{name}.soft"))).unwrap();
        fs::hard_link(path(name), path(&format!("{name}.hard"))).unwrap();
    }
    folder
}

/// Every file in a folder, and what is in it.
fn content(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path)
            } else {
                found.push((path.clone(), fs::read(&path).unwrap()))
            }
        }
    }
    found.sort();
    found
}

#[test]
fn no_verb_writes_over_what_it_reads() {
    let folder = inputs();
    let before = content(folder.path());
    let bench = "bench -m m --prefill 16 --context= --speculate 0 --repeats 1";
    for command in [
        "quantize ck -o ck/model.safetensors",
        "quantize ck -o ck/config.yaml",
        // It would be read by the next one.
        "quantize ck -o ck/tokenizer.json",
        "quantize ck -o ck/../ck/model.safetensors.index.json",
        "quantize ck --recipe r -o ./r",
        "quantize ck --recipe r.hard -o r.soft",
        "logits -m m --tokens 5,6,7,8,9 -o m",
        "logits -m m.soft --tokens 5,6,7,8,9 -o m.hard",
        "logits -m m -f t -o ../$(basename $PWD)/t",
        "logits -m m --tokens-file i -o i.soft",
        "logits -m m -f - -o t < t",
        "run -m m -p The -n 1 --save m",
        "run -m m -p The -n 1 --prompt-cache m.hard",
        "run -m m -f t -n 1 --save t.soft",
        "run -m m -n 1 --save t < t",
        "run -m m -p The -n 1 --prompt-cache c --save c",
        "run -m m --tokens-file i -n 1 --save i",
        "perplexity -m m --tokens-file i --save-logits m",
        "perplexity -m m --tokens-file i --save-logits i.hard",
        "perplexity -m m --tokens-file i --reference m.hard --save-logits m.soft",
        &format!("{bench} --plot m"),
        &format!("{bench} --plot m.soft"),
    ] {
        let outcome = shell(folder.path(), &format!("\"$0\" {command}"));
        assert!(
            outcome.code == Some(2) && outcome.stderr.contains("output: found the "),
            "{command}: {outcome:?}"
        );
        assert!(content(folder.path()) == before, "{command}");
    }
    // What is said to a prompt line.
    let session = shell(folder.path(), "printf '/save m.soft\\n/save t\\n' | \"$0\" run -m m -f t -n 1 -i");
    assert!(session.stderr.matches("output: found the ").count() == 2, "{session:?}");
    assert!(content(folder.path()) == before);
}

#[test]
fn a_session_is_saved_over_the_one_that_was_loaded() {
    let folder = inputs();
    let save = "\"$0\" run -m m -p The -n 4 --ignore-end --save s";
    shell(folder.path(), save).success();
    let first = fs::read(folder.path().join("s")).unwrap();
    shell(folder.path(), "\"$0\" run -m m --load s --save s -n 4 --ignore-end").success();
    assert!(fs::read(folder.path().join("s")).unwrap() != first);
}

/// What was read and generated is saved, whatever becomes of standard output.
#[test]
#[cfg(target_os = "linux")]
fn files_are_written_also_where_standard_output_fails() {
    let folder = inputs();
    fs::write(folder.path().join("j"), "{\"id\":1,\"prompt\":\"The\"}\n").unwrap();
    let run = "run -m m -p 'The old house stood upon the hill.' -n 400 --ignore-end --seed 1";
    for (command, file) in [
        (format!("{run} --save s"), "s"),
        (format!("{run} --echo --save s"), "s"),
        (format!("{run} --echo --prompt-cache c"), "c"),
        (format!("{run} --json --save s"), "s"),
        (format!("{run} -i --save s < <(yes '')"), "s"),
        ("perplexity -m m -f t --save-logits l".into(), "l"),
        ("perplexity -m m -f t --plot p".into(), "p"),
        ("bench -m m --prefill 16 --context= --speculate 0 --repeats 1 --plot p".into(), "p"),
        ("logits -m m -f t -o l --json".into(), "l"),
        ("quantize ck -o q".into(), "q"),
        ("edit m -o e --name x".into(), "e"),
        ("batch -m m -n 9 -i j -o a".into(), "a"),
    ] {
        let file = folder.path().join(file);
        // Nobody reads; a device is full.
        for (output, code) in [("| true; exit ${PIPESTATUS[0]}", 0), ("> /dev/full", 1)] {
            if code == 1 && (command.contains("-i ") || command.starts_with("batch")) {
                // Each answer fails alone, or there is none.
                continue;
            }
            let outcome = shell(folder.path(), &format!("\"$0\" {command} {output}"));
            assert_eq!(outcome.code, Some(code), "{command} {output}: {outcome:?}");
            assert!(fs::metadata(&file).is_ok_and(|file| file.len() > 0), "{command} {output}: {outcome:?}");
            fs::remove_file(&file).unwrap();
        }
    }
    // The saved text continues.
    shell(folder.path(), &format!("\"$0\" {run} --save s | head -c 1; \"$0\" run -m m --load s -n 1"))
        .success();
}

#[test]
fn outputs_are_tried_before_work_begins() {
    let folder = inputs();
    let before = content(folder.path());
    let bench = "bench -m m --prefill 512 --context= --speculate 0 --repeats 9";
    fs::create_dir(folder.path().join("d")).unwrap();
    for output in ["nowhere/x", "d", "m/x", "absent/"] {
        for command in [
            "quantize ck --calibrate t -o",
            "run -m m -p The -n 30000 --ignore-end --save",
            "run -m m -p The -n 30000 --ignore-end --prompt-cache",
            "logits -m m -f t -o",
            "perplexity -m m -f t --save-logits",
            &format!("{bench} --plot"),
            "synthesize --preset block_main_b4_5 -o",
        ] {
            let outcome = shell(folder.path(), &format!("ulimit -t 20; \"$0\" {command} {output}"));
            assert!(matches!(outcome.code, Some(1 | 2)), "{command} {output}: {outcome:?}");
            assert!(outcome.stdout.is_empty() && outcome.stderr.lines().count() == 1, "{outcome:?}");
        }
    }
    assert!(content(folder.path()) == before);
}

#[test]
fn special_files_are_written_to_or_refused() {
    let folder = inputs();
    let logits = "\"$0\" logits -m m --tokens 5,6,7,8,9";
    shell(folder.path(), &format!("{logits} -o plain && mkfifo p && ln -s plain2 link")).success();
    let plain = fs::read(folder.path().join("plain")).unwrap();
    for script in [
        format!("{logits} -o - > got"),
        format!("{logits} -o - --json > got"),
        format!("{logits} -o /dev/stdout | cat > got"),
        format!("cat p > got & {logits} -o p; wait"),
        format!("{logits} -o >(cat > got); sleep 0.5"),
        format!("{logits} -o link && cp plain2 got"),
        format!("{logits} -o /dev/null && cp plain got"),
        "\"$0\" perplexity -m m --tokens 5,6,7,8,9,10,11,12 --save-logits >(cat > got) && sleep 0.5 && cp plain got".to_string(),
        "\"$0\" run -m m -p The -n 2 --save /dev/null && cp plain got".to_string(),
    ] {
        shell(folder.path(), &script).success();
        assert!(fs::read(folder.path().join("got")).unwrap() == plain, "{script}");
        fs::remove_file(folder.path().join("got")).unwrap();
    }
    assert!(fs::symlink_metadata(folder.path().join("link")).unwrap().is_symlink());
    let before = content_without_pipe(folder.path());
    for (command, found) in [
        ("quantize ck -o -", "found standard output"),
        ("quantize ck -o p", "found a special file"),
        ("quantize ck -o /dev/null", "found a special file"),
        ("quantize ck -o /dev/fd/1", "found standard output"),
        ("synthesize --preset block_main_b4_5 -o >(cat)", "found a special file"),
        ("run -m m -p The --save -", "found standard output"),
        ("perplexity -m m -f t --save-logits /dev/stdout", "found standard output"),
        ("bench -m m --plot -", "found standard output"),
        ("logits -m m -f t -o p", "found a special file that nobody reads"),
    ] {
        let outcome = shell(folder.path(), &format!("\"$0\" {command}"));
        assert!(
            matches!(outcome.code, Some(1 | 2)) && outcome.stderr.contains(found),
            "{command}: {outcome:?}"
        );
        assert!(outcome.stderr.lines().count() == 1 && outcome.time < Duration::from_secs(60), "{outcome:?}");
    }
    assert!(content_without_pipe(folder.path()) == before);
}

fn content_without_pipe(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    fs::remove_file(folder.join("p")).unwrap();
    let content = content(folder);
    Command::new("mkfifo").arg(folder.join("p")).status().unwrap();
    content
}

/// A limit on the size of files, or a kill, leaves nothing that stays.
#[test]
#[cfg(target_os = "linux")]
fn what_is_not_complete_does_not_stay() {
    let folder = inputs();
    let before = content(folder.path());
    for command in ["quantize ck -o q", "logits -m m -f t -o l", "synthesize --preset block_main_b4_5 -o s"] {
        let outcome = shell(folder.path(), &format!("ulimit -f 20; \"$0\" {command}"));
        assert!(
            outcome.code == Some(1) && outcome.stderr.contains("file too large"),
            "{command}: {outcome:?}"
        );
        assert!(content(folder.path()) == before, "{command}");
    }
    let partial = || {
        let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().ends_with(".partial")).count()
    };
    let mut child = program()
        .args(["synthesize", "--preset", "block_main_b4_1.2b", "-o", "s"])
        .current_dir(folder.path())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while partial() == 0 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
        std::thread::sleep(Duration::from_millis(1));
    }
    // A file that is being written is nobody else's to remove.
    shell(folder.path(), "\"$0\" logits -m m --tokens 5,6,7,8,9 -o s").success();
    assert_eq!(partial(), 1);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(partial(), 1);
    shell(folder.path(), "\"$0\" logits -m m --tokens 5,6,7,8,9 -o s").success();
    assert_eq!(partial(), 0);
}
