//! `run` for people: lines that are edited, an answer that Ctrl-C stops, requests that begin with a slash; and for pipes.

use std::ffi::CStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::program;
use tempfile::TempDir;

fn at_home(home: &Path, arguments: &[&str]) -> Command {
    let mut command = program();
    command.args(arguments).env("HOME", home).env("TERM", "xterm").env_remove("XDG_STATE_HOME");
    command.current_dir(home);
    command
}

/// Standard output and error after some standard input.
fn piped(home: &Path, arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
    let mut command = at_home(home, arguments);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// What a Unix tool does: standard input is the prompt, standard output only what was asked for.
#[test]
fn piped_input_is_a_prompt() {
    let home = TempDir::new().unwrap();
    let arguments = ["run", "-n", "12", "--temp", "0"];
    let (code, continued, _) = piped(home.path(), &arguments, "The old house\n");
    assert_eq!(code, Some(0));
    let mut given = at_home(home.path(), &arguments);
    let given = given.args(["-p", "The old house"]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(continued.as_bytes(), given.stdout);
}

#[test]
fn slash_commands_work() {
    let home = TempDir::new().unwrap();
    let input = "The old house\n/save a.session\n/stats\nwas dark\n/undo\n/save b.session\n/reset\n/stats\n\
                 /load a.session\n/stats\n/nonsense\n/undo\n/load none\n/quit\nnever\n";
    // With this seed, neither of the answers has a line break.
    let (code, text, messages) = piped(home.path(), &["run", "-i", "-n", "9", "--seed", "4"], input);
    assert_eq!(code, Some(1), "{messages}");
    assert!(messages.ends_with("error: 3 of the lines failed\n"), "{messages}");
    assert_eq!(text.lines().count(), 2, "{text}");
    let stats: Vec<&str> = messages.lines().filter(|line| line.starts_with("text ")).collect();
    assert!(
        stats.len() == 3 && stats[1].starts_with("text 0 tokens") && !stats[0].contains("text 0"),
        "{messages}"
    );
    assert_eq!(stats[0].split(" | read").next(), stats[2].split(" | read").next(), "{messages}");
    let errors: Vec<&str> = messages.lines().filter(|line| line.starts_with("error")).collect();
    assert_eq!(errors.len(), 4, "{messages}");
    assert!(errors[0].contains("/nonsense") && errors[1].contains("undo") && errors[2].contains("none"));
    // Without the sampler, whose random numbers go on, what was undone left no trace.
    let [first, second] = ["a.session", "b.session"].map(|name| fs::read(home.path().join(name)).unwrap());
    assert!(first.len() == second.len() && first[..first.len() - 400] == second[..first.len() - 400]);
}

/// Each answer is of the constraint, and sampled as the options say, also after the text was replaced.
#[test]
fn options_hold_for_every_answer_and_every_session() {
    let home = TempDir::new().unwrap();
    let saved = ["run", "-p", "x", "-n", "9", "--temp", "1", "--seed", "1", "--save", "i"];
    assert!(at_home(home.path(), &saved).output().unwrap().status.success());
    let input = "The old\n\n/load i\nmore\n/reset\nThe old\n/undo\nagain\n";
    let arguments = ["run", "-i", "-n", "9", "--temp", "0", "--regex", "[0-9]{3}"];
    let (code, text, messages) = piped(home.path(), &arguments, input);
    assert_eq!(code, Some(0), "{messages}");
    let digits = |line: &str| line.len() == 3 && line.bytes().all(|byte| byte.is_ascii_digit());
    assert!(text.lines().count() == 5 && text.lines().all(digits), "{text}");
    // The most likely tokens, as if the session were continued by an option.
    let continued = |more: &[&str], input: &str| {
        let arguments = ["run", "-n", "9", "--temp", "0", "--stop", "\n"];
        piped(home.path(), &[&arguments[..], more].concat(), input).1
    };
    assert_eq!(continued(&["-i"], "/load i\n\n"), continued(&["--load", "i"], ""));
}

/// A terminal and the program in it.
struct Terminal {
    child: Child,
    master: File,
    seen: String,
}

impl Terminal {
    fn start(home: &Path, arguments: &[&str]) -> Terminal {
        Terminal::start_with(home, arguments, |_| {})
    }

    fn start_with(home: &Path, arguments: &[&str], change: impl FnOnce(&mut Command)) -> Terminal {
        // Closed on exec from the start: a terminal that a child of another test inherits would never hang up.
        // SAFETY: a plain call that returns a descriptor.
        let master = unsafe { libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC) };
        assert!(master >= 0);
        // SAFETY: a descriptor that was opened just now and belongs to nobody else.
        let master = unsafe { File::from_raw_fd(master) };
        let mut name = [0; 64];
        // SAFETY: calls on an open descriptor, and a buffer with its length.
        let named = unsafe {
            let master = master.as_raw_fd();
            libc::grantpt(master) == 0
                && libc::unlockpt(master) == 0
                && libc::ptsname_r(master, name.as_mut_ptr(), name.len()) == 0
        };
        assert!(named);
        // SAFETY: `ptsname_r` has written a string.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_str().unwrap();
        let slave =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(name).unwrap();
        let end = || Stdio::from(slave.try_clone().unwrap());
        let mut command = at_home(home, arguments);
        change(&mut command);
        command.stdin(end()).stdout(end()).stderr(end());
        // SAFETY: system calls alone, so that Ctrl-C in the terminal reaches the child.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY, 0);
                Ok(())
            });
        }
        Terminal { child: command.spawn().unwrap(), master, seen: String::new() }
    }

    /// Waits until the program has written something since the last call.
    fn expect(&mut self, text: &str) {
        let started = Instant::now();
        let mut bytes = [0; 4096];
        while !self.seen.contains(text) {
            assert!(started.elapsed() < Duration::from_secs(60), "{text:?} is not in {:?}", self.seen);
            match self.master.read(&mut bytes) {
                Ok(count) if count > 0 => self.seen += &String::from_utf8_lossy(&bytes[..count]),
                end => panic!("{text:?} is not in {:?}, then {end:?}", self.seen),
            }
        }
        self.seen = self.seen.split_once(text).unwrap().1.to_string();
    }

    fn send(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }
}

#[test]
fn a_terminal_holds_a_conversation() {
    let home = TempDir::new().unwrap();
    let mut terminal = Terminal::start(home.path(), &["run", "-n", "100000000", "--ignore-end"]);
    terminal.expect("> ");
    // A slip of the finger, two steps back.
    terminal.send("The old huse\x1b[D\x1b[D\x1b[Do\r");
    terminal.expect("\n");
    terminal.expect("\n");
    // The answer has no end, so it is Ctrl-C that brings the prompt back.
    terminal.send("\x03");
    terminal.expect("> ");
    terminal.send("/stats\r");
    terminal.expect("remembered");
    terminal.expect("> ");
    terminal.send("\x1b[A\r");
    terminal.expect("remembered");
    terminal.expect("> ");
    terminal.send("\x04");
    assert_eq!(terminal.child.wait().unwrap().code(), Some(0));
    let history = fs::read_to_string(home.path().join(".cinderblock_history")).unwrap();
    assert!(history.contains("The old house"), "{history}");
}

#[test]
fn no_folder_is_created_for_the_history() {
    let home = TempDir::new().unwrap();
    let absent = home.path().join("absent");
    let mut terminal = Terminal::start_with(home.path(), &["run", "-n", "1"], |command| {
        command.env("HOME", &absent).env("XDG_STATE_HOME", absent.join("state"));
    });
    terminal.expect("> ");
    terminal.send("/quit\r");
    assert_eq!(terminal.child.wait().unwrap().code(), Some(0));
    assert!(!absent.exists());
}

#[test]
fn a_tab_is_typed_and_names_of_commands_are_completed() {
    let home = TempDir::new().unwrap();
    let mut terminal = Terminal::start(home.path(), &["run", "-n", "1"]);
    terminal.expect("> ");
    terminal.send("/st\t\r");
    terminal.expect("remembered");
    terminal.expect("> ");
    terminal.send("/nonsense\tx\r");
    terminal.expect("error");
    terminal.expect("> ");
    terminal.send("a\tb\r");
    terminal.expect("\n");
    terminal.expect("> ");
    terminal.send("/quit\r");
    assert_eq!(terminal.child.wait().unwrap().code(), Some(0));
    let history = fs::read_to_string(home.path().join(".cinderblock_history")).unwrap();
    assert!(history.contains("a\tb"), "{history:?}");
}

/// At the prompt, where no work could stop, termination ends the program and gives the terminal back.
#[test]
fn termination_ends_the_line_editor() {
    use std::os::unix::process::ExitStatusExt;
    let home = TempDir::new().unwrap();
    let mut terminal = Terminal::start(home.path(), &["run", "-n", "1"]);
    terminal.expect("> ");
    // SAFETY: a plain call on a child that has not been waited for.
    unsafe { libc::kill(terminal.child.id() as i32, libc::SIGTERM) };
    assert_eq!(terminal.child.wait().unwrap().signal(), Some(libc::SIGTERM));
}

#[test]
fn a_doubled_slash_begins_a_line_of_text() {
    let home = TempDir::new().unwrap();
    let arguments = ["run", "-i", "-n", "0", "--seed", "1"];
    let (code, _, messages) = piped(home.path(), &arguments, "//etc\n/save a.session\n");
    assert_eq!((code, messages.contains("error")), (Some(0), false), "{messages}");
    let mut given =
        at_home(home.path(), &["run", "-p", "/etc", "-n", "0", "--seed", "1", "--save", "b.session"]);
    assert!(given.stdin(Stdio::null()).output().unwrap().status.success());
    let [first, second] = ["a.session", "b.session"].map(|name| fs::read(home.path().join(name)).unwrap());
    assert_eq!(first, second);
}

#[test]
fn a_line_that_is_not_text_does_not_end_a_pipe() {
    let home = TempDir::new().unwrap();
    let mut command = at_home(home.path(), &["run", "-i", "-n", "0"]);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let input = b"\xef\xbb\xbf/stats\none \xff two\nThe rain\n/stats\n";
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let messages = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(messages.contains("text 0 tokens") && messages.contains("read 2 tokens"), "{messages}");
    let errors: Vec<&str> = messages.lines().filter(|line| line.starts_with("error")).collect();
    let line = "error: line: found a byte at 4 that is not UTF-8, expected UTF-8";
    assert_eq!(errors, [line, "error: 1 of the lines failed"]);
}
