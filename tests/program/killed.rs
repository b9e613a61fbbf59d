//! A process that is killed while it saves leaves the old file or the new one.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::common::{cinderblock, demo_model, program};
use tempfile::TempDir;

const KILLS: u64 = 200;

/// Saves a session of the demo model after a prompt.
fn save(path: &Path, prompt: &str) -> Vec<u8> {
    let path = path.to_str().unwrap();
    cinderblock(&["run", "-p", prompt, "-n", "300", "--seed", "1", "--cache-blocks", "64", "--save", path])
        .success();
    fs::read(path).unwrap()
}

/// Loads two sessions in turn and saves each over the same file, until it is killed.
fn save_and_kill(folder: &Path, delay: Duration) {
    let mut child = program()
        .args(["run", "-i", "--load", "one", "-n", "0", "-m"])
        .arg(demo_model())
        .current_dir(folder)
        .env("HOME", folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        while input.write_all(b"/save saved\n/load two\n/save saved\n/load one\n").is_ok() {}
    });
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("saved") {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0, "the program ended before it saved anything");
        assert!(!line.starts_with("error"), "{line}");
    }
    std::thread::sleep(delay);
    child.kill().unwrap();
    child.wait().unwrap();
    writer.join().unwrap();
}

#[test]
fn a_killed_save_leaves_the_old_or_the_new_file() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    let sessions =
        [save(&folder.join("one"), "The old house"), save(&folder.join("two"), "It was a dark night")];
    assert!(sessions[0] != sessions[1]);
    let (mut seen, mut halfway) = ([0, 0], 0);
    for kill in 0..KILLS {
        save_and_kill(folder, Duration::from_micros(kill * 7919 % 5000));
        let found = fs::read(folder.join("saved")).unwrap();
        let which = sessions.iter().position(|session| *session == found);
        seen[which.unwrap_or_else(|| panic!("{} bytes that are neither session", found.len()))] += 1;
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "partial") {
                halfway += 1;
                fs::remove_file(path).unwrap();
            }
        }
    }
    println!("{KILLS} kills, {halfway} of them in the middle of a save; left behind: {seen:?}");
    assert!(halfway > 0 && seen.iter().all(|&count| count > 0), "{seen:?}, {halfway} in the middle");
}
