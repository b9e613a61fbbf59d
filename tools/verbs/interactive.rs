//! The prompt line of `run`: a line is added to the text, and the model goes on from there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cinderblock::Generator;
use cinderblock::error::{Error, ErrorKind, Result};
use cinderblock::generation::snapshot::Snapshot;
use rustyline::DefaultEditor;
use rustyline::config::Configurer;
use rustyline::error::ReadlineError;

use crate::verbs::run::{OPENING, Run};
use crate::{interrupt, memory, output};

const HELP: &str = "\
A line is added to the text, and the model goes on from there; an empty one lets it go on as it is.
Ctrl-C stops the answer, Ctrl-D ends the program.
  /save FILE   save the session
  /load FILE   go on with a saved one
  /undo        take the last line and its answer back
  /reset       forget the text
  /stats       what is remembered, and how fast it went
  /help        this
  /quit        end the program
";

/// Lines that are remembered between runs.
const MAX_HISTORY: usize = 1000;

/// A place in the text to which `/undo` goes back: whole blocks, and the tokens of the open one.
struct Mark {
    blocks: u64,
    open: Vec<u32>,
}

/// What `/stats` tells.
#[derive(Default)]
struct Last {
    read: (usize, Duration),
    written: (usize, Duration),
}

/// What a line asks for.
enum Request<'l> {
    Text(&'l str),
    Save(&'l Path),
    Load(&'l Path),
    Undo,
    Reset,
    Stats,
    Help,
    Quit,
    Unknown(&'l str),
}

impl Request<'_> {
    fn of(line: &str) -> Request<'_> {
        if !line.starts_with('/') {
            return Request::Text(line);
        }
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match (name, rest.trim()) {
            ("/save", file) if !file.is_empty() => Request::Save(Path::new(file)),
            ("/load", file) if !file.is_empty() => Request::Load(Path::new(file)),
            ("/undo", "") => Request::Undo,
            ("/reset", "") => Request::Reset,
            ("/stats", "") => Request::Stats,
            ("/help", "") => Request::Help,
            ("/quit" | "/exit", "") => Request::Quit,
            _ => Request::Unknown(line),
        }
    }
}

/// Where lines are remembered; `None` where there is no home.
fn history() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/state"));
    Some(state.or_else(home)?.join("cinderblock/history"))
}

fn terminal(error: &ReadlineError) -> Error {
    Error::new(ErrorKind::Io, format!("terminal: {error}").to_lowercase())
}

/// Asks for lines until there are no more.
pub fn run(run: &mut Run) -> Result<()> {
    let mut editor = DefaultEditor::new().map_err(|error| terminal(&error))?;
    let _ = editor.set_max_history_size(MAX_HISTORY);
    let history = history();
    // Without a history, lines can be edited all the same.
    if let Some(path) = &history {
        let _ = editor.load_history(path);
    }
    output::message("a line is continued, an empty one begins a story; /help tells more, Ctrl-D ends");
    let mut marks = Vec::new();
    let mut last = Last::default();
    let result = loop {
        let line = match editor.readline("> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break Ok(()),
            Err(error) => break Err(terminal(&error)),
        };
        let _ = editor.add_history_entry(&line);
        let done = match Request::of(&line) {
            Request::Quit => break Ok(()),
            Request::Text(text) => answer(run, text, &mut marks, &mut last),
            request => obey(run, &request, &mut marks, &last),
        };
        match done {
            // Nobody reads any more.
            Err(error) if output::is_closed_pipe(&error) => break Err(error),
            Err(error) => output::message(&format!("error: {error}")),
            Ok(()) => {}
        }
    };
    if let Some(path) = &history {
        let _ = path.parent().map(std::fs::create_dir_all);
        let _ = editor.save_history(path);
    }
    result
}

/// Adds a line and generates.
fn answer(run: &mut Run, line: &str, marks: &mut Vec<Mark>, last: &mut Last) -> Result<()> {
    interrupt::forget();
    let empty = run.generator.length() == 0;
    let text = match (line, empty) {
        ("", true) => {
            output::print(OPENING)?;
            OPENING.to_string()
        }
        ("", false) => String::new(),
        (line, true) => line.to_string(),
        (line, false) => format!("\n{line}"),
    };
    let tokens = match &run.tokenizer {
        Some(tokenizer) if !text.is_empty() => tokenizer.encode(&text)?,
        _ => Vec::new(),
    };
    marks.push(mark(&run.generator, run.model.config().block_length));
    let started = std::time::Instant::now();
    run.generator.append(&tokens)?;
    last.read = (tokens.len(), started.elapsed());
    let outcome = run.generate(false)?;
    last.written = (outcome.tokens.len(), outcome.time);
    if outcome.end.is_none() {
        // What was held back of the last piece of text is still part of the session.
        output::print("\n")?;
    }
    Ok(())
}

fn mark(generator: &Generator, block_length: usize) -> Mark {
    let blocks = generator.blocks();
    let open = generator.length() - blocks * block_length as u64;
    Mark { blocks, open: generator.recent(open as usize) }
}

fn obey(run: &mut Run, request: &Request, marks: &mut Vec<Mark>, last: &Last) -> Result<()> {
    match request {
        Request::Save(path) => {
            run.inputs.check(path)?;
            let snapshot = run.generator.save()?;
            output::save(&snapshot, path)?;
            output::message(&format!("saved {}", output::bytes(snapshot.bytes().len() as u64)));
        }
        Request::Load(path) => {
            let snapshot = Snapshot::read(&run.model, path)?;
            let generator = Generator::load(&snapshot, &run.model, &run.team);
            let speculate = run.generator.speculation();
            run.generator = generator.map_err(|error| error.in_file(path))?;
            run.generator.set_stops(run.stops.clone());
            run.generator.set_speculation(speculate);
            interrupt::listen_for(run.generator.interrupt());
            marks.clear();
            output::message(&format!("{} tokens", run.generator.length()));
        }
        Request::Undo => {
            let Some(Mark { blocks, open }) = marks.pop() else {
                return Err(Error::argument("undo: found no line, expected one"));
            };
            run.generator.rewind(blocks)?;
            run.generator.append(&open)?;
        }
        Request::Reset => {
            run.generator.clear()?;
            marks.clear();
        }
        Request::Stats => output::message(&stats(run, last)),
        Request::Unknown(line) => {
            return Err(Error::argument(format!("found {line:?}, expected a line of text or /help")));
        }
        Request::Help | Request::Text(_) | Request::Quit => output::message(HELP.trim_end()),
    }
    Ok(())
}

fn stats(run: &Run, last: &Last) -> String {
    let options = run.generator.options();
    let blocks = run.generator.blocks();
    let held = blocks.min(options.cache_blocks as u64);
    let rate = |(tokens, time): (usize, Duration)| output::rate(tokens, time);
    let memory = memory::peak().map_or("unknown".to_string(), output::bytes);
    format!(
        "text {} tokens, {blocks} blocks | remembered {held} of {} blocks, {} of them pinned | read {} tokens, {:.0} \
         tok/s | wrote {} tokens, {:.1} tok/s | memory {memory} at most",
        run.generator.length(),
        options.cache_blocks,
        options.sink_blocks.min(blocks as usize),
        last.read.0,
        rate(last.read),
        last.written.0,
        rate(last.written),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_text_or_requests() {
        assert!(matches!(Request::of("The old house"), Request::Text("The old house")));
        assert!(matches!(Request::of(""), Request::Text("")));
        assert!(
            matches!(Request::of("/save  a b.session "), Request::Save(p) if p == Path::new("a b.session"))
        );
        assert!(matches!(Request::of("/load x"), Request::Load(_)));
        assert!(matches!(Request::of("/undo"), Request::Undo));
        for unknown in ["/save", "/undo 3", "/nonsense", "/"] {
            assert!(matches!(Request::of(unknown), Request::Unknown(_)), "{unknown}");
        }
    }
}
