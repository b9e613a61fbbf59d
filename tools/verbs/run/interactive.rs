//! The interactive mode of `run`: a line is added to the text, and the model continues it.

use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cinderblock::{Error, ErrorKind, Generator, Result};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{Behavior, CompletionType, Config, Context, Editor, Helper};

use crate::arguments::BYTE_ORDER_MARK;
use crate::conversation::{Conversation, Destination};
use crate::interrupt::{self, Activity};
use crate::{memory, output, signals};

const HELP: &str = "\
A line is added to the text, and the model continues it; after an empty line it continues the text as it is.
Ctrl-C stops the answer, Ctrl-D ends the program. A line of text that begins with / is written with two: //
  /save FILE   save the session
  /load FILE   continue a saved session
  /undo        take back the last line and its answer
  /reset       forget the text
  /stats       how much is remembered, and how fast it went
  /help        this list
  /quit        end the program
";

/// What an empty line begins a text with.
const OPENING: &str = "The old man lit his lamp, and began to tell us of the night when";

/// Lines that are remembered between runs.
const MAX_HISTORY: usize = 1000;

/// A place in the text to which `/undo` goes back: whole blocks, and the tokens of the open one.
struct Mark {
    blocks: u64,
    open: Vec<u32>,
}

/// What `/stats` reports about the last line.
#[derive(Default)]
struct Last {
    /// Tokens and the time they took, if a block passed through the model.
    read: (usize, Option<Duration>),
    written: (usize, Duration),
}

/// The meaning of a line.
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
        if line.starts_with("//") {
            return Request::Text(&line[1..]);
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

/// The file that remembers lines between runs: in the folder for such files if it exists, else hidden in the home
/// folder; `None` where there is no home. No folder is ever created.
fn history() -> Option<PathBuf> {
    let folder = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = folder("HOME").filter(|home| home.is_dir());
    let state = folder("XDG_STATE_HOME").or_else(|| Some(home.as_ref()?.join(".local/state")));
    match state.filter(|state| state.is_dir()) {
        Some(state) => Some(state.join("cinderblock_history")),
        None => Some(home?.join(".cinderblock_history")),
    }
}

fn terminal(error: &ReadlineError) -> Error {
    Error::new(ErrorKind::Io, format!("terminal: {error}").to_lowercase())
}

/// Completes the names of requests; elsewhere the Tab key types a tab.
struct Keys;

impl Completer for Keys {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        const NAMES: [&str; 7] = ["/help", "/load ", "/quit", "/reset", "/save ", "/stats", "/undo"];
        let begun = &line[..position];
        if !begun.starts_with('/') || begun.starts_with("//") || begun.contains(char::is_whitespace) {
            return Ok((position, vec!["\t".to_string()]));
        }
        let names = NAMES.into_iter().filter(|name| name.starts_with(begun));
        Ok((0, names.map(str::to_string).collect()))
    }
}

impl Hinter for Keys {
    type Hint = String;
}

impl Highlighter for Keys {}
impl Validator for Keys {}
impl Helper for Keys {}

/// Where lines come from.
enum Lines {
    /// A person, whose lines are edited and remembered.
    Editor { editor: Box<Editor<Keys, FileHistory>>, history: Option<PathBuf> },
    /// A pipe or a file; whether its first line has been read.
    Pipe(bool),
}

impl Lines {
    fn open() -> Result<Lines> {
        if !std::io::stdin().is_terminal() {
            return Ok(Lines::Pipe(false));
        }
        signals::remember_terminal();
        // The prompt must not go where the text goes.
        let piped = !std::io::stdout().is_terminal();
        let behavior = if piped { Behavior::PreferTerm } else { Behavior::Stdio };
        let config = Config::builder().behavior(behavior).completion_type(CompletionType::List);
        let config = config.max_history_size(MAX_HISTORY).map_err(|error| terminal(&error))?.build();
        let mut editor = Editor::with_config(config).map_err(|error| terminal(&error))?;
        editor.set_helper(Some(Keys));
        let history = history();
        // Without a history, lines can be edited all the same.
        if let Some(path) = &history {
            let _ = editor.load_history(path);
        }
        Ok(Lines::Editor { editor: Box::new(editor), history })
    }

    /// Work of a person's line is an answer, which Ctrl-C stops; that of a pipe is the whole program's.
    fn activity(&self) -> Activity {
        match self {
            Lines::Editor { .. } => Activity::Answer,
            Lines::Pipe(_) => Activity::Work,
        }
    }

    /// The end, where a script learns that lines have failed; a person has seen it.
    fn end(&self, failed: usize) -> Result<()> {
        match self {
            Lines::Pipe(_) if failed > 0 => Err(Error::format(format!("{failed} of the lines failed"))),
            _ => Ok(()),
        }
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// `Format` for a line that is not text, after which others may come.
    fn next(&mut self) -> Result<Option<String>> {
        match self {
            Lines::Pipe(begun) => {
                interrupt::begin(Activity::Input);
                let mut bytes = Vec::new();
                let name = Path::new("standard input");
                let read = std::io::stdin().lock().read_until(b'\n', &mut bytes);
                if read.map_err(|error| Error::io(name, &error))? == 0 {
                    return Ok(None);
                }
                let line = String::from_utf8(bytes).map_err(|error| {
                    let at = error.utf8_error().valid_up_to();
                    Error::mismatch("line", format!("a byte at {at} that is not UTF-8"), "UTF-8")
                })?;
                let mut line = line.strip_suffix('\n').unwrap_or(&line);
                line = line.strip_suffix('\r').unwrap_or(line);
                if !std::mem::replace(begun, true) {
                    line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
                }
                Ok(Some(line.to_string()))
            }
            Lines::Editor { editor, history } => loop {
                interrupt::begin(Activity::Editor);
                match editor.readline("> ") {
                    Ok(line) => {
                        let _ = editor.add_history_entry(&line);
                        // Saved at once, because a signal may end the program.
                        let _ = history.as_ref().map(|path| editor.append_history(path));
                        return Ok(Some(line));
                    }
                    Err(ReadlineError::Interrupted) => output::message("Ctrl-D or /quit ends the program"),
                    Err(ReadlineError::Eof) => return Ok(None),
                    Err(ReadlineError::Io(error)) if error.kind() == std::io::ErrorKind::InvalidData => {
                        return Err(Error::mismatch("line", "a byte that is not UTF-8", "UTF-8"));
                    }
                    Err(error) => return Err(terminal(&error)),
                }
            },
        }
    }
}

/// Reads lines until there are no more.
///
/// # Errors
/// If lines cannot be read, or nobody reads the text any more. An error of one line is reported, and the next line is
/// read; after the lines of a pipe, such errors are one of the program.
pub fn run(conversation: &mut Conversation) -> Result<()> {
    let mut lines = Lines::open()?;
    output::message("a line is continued, an empty line begins a story; /help explains, Ctrl-D ends");
    let (mut marks, mut last, mut failed) = (Vec::new(), Last::default(), 0);
    loop {
        let line = match lines.next() {
            Ok(Some(line)) => line,
            Ok(None) => {
                interrupt::forget();
                return lines.end(failed);
            }
            Err(error) if error.kind() == ErrorKind::Format => {
                output::message(&format!("error: {error}"));
                failed += 1;
                continue;
            }
            Err(error) => return Err(error),
        };
        interrupt::forget();
        interrupt::begin(lines.activity());
        let done = match Request::of(&line) {
            Request::Quit => return lines.end(failed),
            Request::Text(text) => answer(conversation, text, &mut marks, &mut last),
            Request::Help => {
                let file = match &lines {
                    Lines::Editor { history: Some(path), .. } => {
                        format!("\nLines are remembered in {}", path.display())
                    }
                    _ => String::new(),
                };
                output::message(&format!("{}{file}", HELP.trim_end()));
                Ok(())
            }
            request => obey(conversation, &request, &mut marks, &last),
        };
        match done {
            // Nobody reads any more.
            Err(error) if output::is_closed_pipe(&error) => return Err(error),
            Err(error) => {
                output::message(&format!("error: {error}"));
                failed += 1;
            }
            Ok(()) => {}
        }
        // A person's Ctrl-C has stopped the answer; other signals, and all of them for a pipe, end the program.
        let ended = interrupt::signal();
        if ended.is_some_and(|signal| lines.activity() == Activity::Work || signal != signals::INTERRUPT) {
            return Ok(());
        }
    }
}

/// Adds a line and generates.
fn answer(conversation: &mut Conversation, line: &str, marks: &mut Vec<Mark>, last: &mut Last) -> Result<()> {
    let empty = conversation.generator.length() == 0;
    let text = match (line, empty) {
        ("", true) => {
            output::print(OPENING)?;
            OPENING.to_string()
        }
        ("", false) => String::new(),
        (line, true) => line.to_string(),
        (line, false) => format!("\n{line}"),
    };
    let tokens = match &conversation.tokenizer {
        Some(tokenizer) if !text.is_empty() => tokenizer.encode(&text)?,
        _ => Vec::new(),
    };
    marks.push(mark(&conversation.generator, conversation.runtime.model().config().block_length));
    let (started, before) = (std::time::Instant::now(), conversation.generator.blocks());
    conversation.generator.append(&tokens)?;
    let passed = conversation.generator.blocks() > before;
    last.read = (tokens.len(), passed.then(|| started.elapsed()));
    let answer = conversation.generate(Destination::Shown)?;
    last.written = (answer.count, answer.time);
    if answer.end.is_none() {
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

fn obey(
    conversation: &mut Conversation,
    request: &Request,
    marks: &mut Vec<Mark>,
    last: &Last,
) -> Result<()> {
    match request {
        Request::Save(path) => {
            conversation.inputs.check(path)?;
            let snapshot = conversation.generator.save()?;
            output::save(&snapshot, path)?;
            output::message(&format!("saved {}", output::bytes(snapshot.bytes().len() as u64)));
        }
        Request::Load(path) => {
            conversation.replace(path)?;
            marks.clear();
            output::message(&format!("{} tokens", conversation.generator.length()));
        }
        Request::Undo => {
            let Some(Mark { blocks, open }) = marks.pop() else {
                return Err(Error::argument("undo: found no line, expected one"));
            };
            conversation.generator.rewind(blocks)?;
            conversation.generator.append(&open)?;
            output::message(&format!("{} tokens", conversation.generator.length()));
        }
        Request::Reset => {
            conversation.generator.clear()?;
            marks.clear();
        }
        Request::Stats => output::message(&stats(conversation, last)),
        Request::Unknown(line) => {
            return Err(Error::argument(format!(
                "found {line:?}, expected text, // before text that begins with /, or one of /help"
            )));
        }
        Request::Help | Request::Text(_) | Request::Quit => {}
    }
    Ok(())
}

fn stats(conversation: &Conversation, last: &Last) -> String {
    let options = conversation.generator.options();
    let blocks = conversation.generator.blocks();
    let capacity = options.cache_blocks_for(conversation.runtime.model());
    let held = blocks.min(capacity as u64);
    let (read, time) = last.read;
    let read_rate = time.map_or(String::new(), |time| format!(", {:.0} tok/s", output::rate(read, time)));
    let memory = memory::peak().map_or("unknown".to_string(), output::bytes);
    format!(
        "text {} tokens, {blocks} blocks | remembered {held} of {} blocks, {} of them pinned | read {read} \
         tokens{read_rate} | wrote {} tokens, {:.1} tok/s | memory {memory} at most",
        conversation.generator.length(),
        capacity,
        options.sink_blocks.min(blocks as usize),
        last.written.0,
        output::rate(last.written.0, last.written.1),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_text_or_requests() {
        assert!(matches!(Request::of("The old house"), Request::Text("The old house")));
        assert!(matches!(Request::of(""), Request::Text("")));
        assert!(matches!(Request::of("//etc/passwd"), Request::Text("/etc/passwd")));
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
