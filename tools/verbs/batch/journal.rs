//! The output: one line for each line of the input, in the order in which they end. A file remembers what is done and
//! to what it is the answer, so that a run that was killed is resumed.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use cinderblock::unstable::files::{Identity, Target, sync_folder};
use cinderblock::{Error, ErrorKind, Result};
use serde_json::{Map, Value as Json, json};
use sha2::{Digest, Sha256};

use crate::output;

/// Names of an answer's own fields; a column of the input that has one of them goes into [`COLUMNS`].
const OWN: [&str; 12] = [
    "id",
    "line",
    "request",
    "error",
    "retry",
    "text",
    "tokens",
    "end",
    "prompt_tokens",
    "logprobs",
    "scores",
    COLUMNS,
];
/// Bytes of an answer at most: far more than those of its line and of the longest text.
const MOST_BYTES: u64 = 256 << 20;
/// Holds the columns of the input that have the name of a field of the answer.
const COLUMNS: &str = "columns";

/// The first bytes of a SHA-256 in hexadecimal digits.
pub fn digest(bytes: impl AsRef<[u8]>, count: usize) -> String {
    Sha256::digest(bytes).iter().take(count).map(|byte| format!("{byte:02x}")).collect()
}

/// The model and the options of a run, each as hexadecimal digits.
#[derive(Clone, Debug, PartialEq)]
pub struct RunKey {
    pub model: String,
    pub options: String,
}

/// By what a line and its answer are known.
#[derive(Clone, Debug)]
pub struct Name {
    /// `null` where the line has none, or one that another line has: then it is known by its number.
    pub id: Json,
    /// From 1.
    pub line: u64,
    /// Of the content of the line.
    pub digest: String,
    /// What the line has beside the fields that are known, which its answer repeats.
    pub columns: Map<String, Json>,
}

impl Name {
    /// What is the same in the line's answers of all runs.
    fn key(&self) -> String {
        if self.id.is_null() { format!("line {}", self.line) } else { self.id.to_string() }
    }

    /// The beginning of an answer.
    pub fn answer(&self) -> Json {
        let mut answer = Map::new();
        let mut others = Map::new();
        for (name, value) in &self.columns {
            let place = if OWN.contains(&name.as_str()) { &mut others } else { &mut answer };
            place.insert(name.clone(), value.clone());
        }
        if !others.is_empty() {
            answer.insert(COLUMNS.to_string(), others.into());
        }
        answer.insert("id".to_string(), self.id.clone());
        answer.into()
    }

    /// Adds what is wrong to an answer. An error that another run need not have is marked.
    pub fn fail(&self, answer: &mut Json, error: &Error) {
        let text = error.to_string();
        answer["line"] = self.line.into();
        answer["error"] =
            format!("line {}: {}", self.line, text.strip_prefix("line: ").unwrap_or(&text)).into();
        if matches!(error.kind(), ErrorKind::Resource | ErrorKind::Interrupted | ErrorKind::Io) {
            answer["retry"] = true.into();
        }
    }

    /// The answer to a line that is wrong.
    pub fn failed(&self, error: &Error) -> Json {
        let mut answer = self.answer();
        self.fail(&mut answer, error);
        answer
    }
}

/// What an earlier run has written about a line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Earlier {
    /// Nothing that counts.
    Nothing,
    /// An answer.
    Answered,
    /// An error that the line would have again.
    Failed,
    /// An answer to another line of the same id.
    Other,
}

/// An answer in the file.
struct Entry {
    /// Of the content of the line.
    digest: String,
    failed: bool,
    retry: bool,
    /// Where it is, counted in lines from 0.
    index: usize,
}

/// Where answers go.
pub struct Journal {
    output: Output,
    run: RunKey,
    /// What the file had answered when it was opened.
    entries: HashMap<String, Entry>,
    retry_failed: bool,
    /// Whether answers have been written to lines that the file has an older error for.
    repeated: bool,
}

enum Output {
    Standard,
    /// A pipe or a device.
    Stream(File, PathBuf),
    /// A locked file, and its bytes of whole lines.
    File(File, PathBuf, u64),
}

impl Journal {
    /// Standard output, a pipe, or a file that is made or resumed: a last line that a kill has torn is cut off.
    ///
    /// # Errors
    /// If it cannot be read or written, is in use by another process, or holds anything but answers to the same
    /// model and options; then nothing has changed.
    pub fn open(path: Option<&Path>, run: RunKey, retry_failed: bool) -> Result<Journal> {
        let (entries, repeated) = (HashMap::new(), false);
        let Some(path) = path.filter(|path| !output::is_standard(path)) else {
            return Ok(Journal { output: Output::Standard, run, entries, retry_failed, repeated });
        };
        let target = match Target::of(path)? {
            Target::Folder => return Err(mismatch(path, "output", "a directory", "a file")),
            Target::Special => {
                let output = Output::Stream(output::open_special(path)?, path.to_path_buf());
                return Ok(Journal { output, run, entries, retry_failed, repeated });
            }
            Target::File(target) => target,
        };
        let (mut file, existed) = open_locked(path)?;
        let Answers { entries, lines, length } = read(&file, path, &run)?;
        let repeated = entries.len() < lines;
        // Errors that are asked again are taken out at the end, which takes a second file beside this one.
        if repeated || entries.values().any(|entry| entry.failed && (entry.retry || retry_failed)) {
            output::AtomicFile::create(path)?;
        }
        let failed = |error: std::io::Error| Error::io(path, &error);
        file.set_len(length).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        if !existed {
            sync_folder(&target);
        }
        let output = Output::File(file, path.to_path_buf(), length);
        Ok(Journal { output, run, entries, retry_failed, repeated })
    }

    /// What an earlier run has written about a line.
    pub fn earlier(&self, name: &Name) -> Earlier {
        match self.entries.get(&name.key()) {
            None => Earlier::Nothing,
            Some(entry) if entry.failed => {
                // A line that was put right is another one.
                let again = entry.retry || self.retry_failed || entry.digest != name.digest;
                if again { Earlier::Nothing } else { Earlier::Failed }
            }
            Some(entry) if entry.digest == name.digest => Earlier::Answered,
            Some(_) => Earlier::Other,
        }
    }

    /// Writes an answer: one line in one piece. A file has it whole or not at all.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&mut self, name: &Name, answer: &Json) -> Result<()> {
        let RunKey { model, options } = &self.run;
        let fields = answer.to_string();
        // First, so that the beginning of a line already says whose it is.
        let line = format!("{{\"request\":\"{model}-{options}-{}\",{}\n", name.digest, &fields[1..]);
        match &mut self.output {
            Output::Standard => output::print(&line),
            Output::Stream(file, path) => {
                file.write_all(line.as_bytes()).map_err(|error| Error::io(path, &error))
            }
            Output::File(file, path, length) => {
                if let Err(error) = file.write_all(line.as_bytes()) {
                    // The disk may be full; what fitted is no answer.
                    let _ = file.set_len(*length).and_then(|()| file.seek(SeekFrom::End(0)));
                    return Err(Error::io(path, &error));
                }
                *length += line.len() as u64;
                self.repeated |= self.entries.contains_key(&name.key());
                Ok(())
            }
        }
    }

    /// Makes what was written durable, and takes out errors that a later answer has replaced.
    ///
    /// # Errors
    /// If the operating system says so.
    pub fn finish(self) -> Result<()> {
        let Output::File(file, path, _) = self.output else { return Ok(()) };
        file.sync_all().map_err(|error| Error::io(&path, &error))?;
        if !self.repeated {
            return Ok(());
        }
        let io = output::AtomicFile::error(&path);
        let answers = read(&File::open(&path).map_err(&io)?, &path, &self.run)?;
        let last: HashSet<usize> = answers.entries.values().map(|entry| entry.index).collect();
        let mut whole = output::create(&path)?;
        let reader = BufReader::new(File::open(&path).map_err(&io)?);
        for (index, line) in reader.split(b'\n').enumerate() {
            let line = line.map_err(&io)?;
            if last.contains(&index) {
                whole.write_all(&line).and_then(|()| whole.write_all(b"\n")).map_err(&io)?;
            }
        }
        whole.commit().map(drop)
    }
}

fn mismatch(path: &Path, subject: &str, found: &str, expected: &str) -> Error {
    Error::mismatch(subject, found, expected).in_file(path)
}

/// Opens a file to which only this process writes, and says whether it was there before.
fn open_locked(path: &Path) -> Result<(File, bool)> {
    let failed = |error: std::io::Error| Error::io(path, &error);
    loop {
        let existed = path.exists();
        let file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let found = "a file that another process writes";
                return Err(mismatch(path, "output", found, "one of its own"));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // Another process may have put a new file in its place before it gave up the lock.
        let opened = Identity::of_metadata(&file.metadata().map_err(failed)?);
        if opened.is_none() || opened == Identity::of(path) {
            return Ok((file, existed));
        }
    }
}

/// The answers in a file.
struct Answers {
    /// Of each line of the input, the last one.
    entries: HashMap<String, Entry>,
    /// Whole lines, and their bytes.
    lines: usize,
    length: u64,
}

/// Reads the answers in a file.
fn read(file: &File, path: &Path, run: &RunKey) -> Result<Answers> {
    let own = format!("{{\"request\":\"{}-{}-", run.model, run.options);
    let mut answers = Answers { entries: HashMap::new(), lines: 0, length: 0 };
    let mut reader = BufReader::new(file);
    for index in 0.. {
        let mut line = Vec::new();
        let start = reader.fill_buf().map_err(|error| Error::io(path, &error))?;
        let foreign = index == 0 && !start.is_empty() && !start.starts_with(b"{\"request\":\"");
        let most = if foreign { start.len() as u64 } else { MOST_BYTES };
        let bytes = reader.by_ref().take(most).read_until(b'\n', &mut line);
        let length = bytes.map_err(|error| Error::io(path, &error))?;
        if length == 0 {
            break;
        }
        let wrong = |found: &str, expected: &str| {
            let subject = format!("output: line {}", index + 1);
            Err(mismatch(path, &subject, found, expected))
        };
        if length as u64 == MOST_BYTES {
            return wrong("a line without an end", "an answer of this program");
        }
        if line.last() != Some(&b'\n') {
            // Torn. After whole answers it is one of them, whatever is there.
            if index == 0 && !line.starts_with(own.as_bytes()) {
                return wrong("something else", "an answer of this program, or an empty file");
            }
            break;
        }
        let answer: Option<Json> = serde_json::from_slice(&line).ok();
        let Some((key, entry, (model, options))) = answer.and_then(|answer| parse(&answer, index)) else {
            return wrong("something else", "an answer of this program");
        };
        for (own, found, expected) in [
            (model == run.model, "another model", "one of this model: name another output"),
            (options == run.options, "other options", "one with these: name another output"),
        ] {
            if !own {
                return wrong(&format!("an answer to {key} of {found}"), expected);
            }
        }
        answers.entries.insert(key, entry);
        answers.lines += 1;
        answers.length += length as u64;
    }
    Ok(answers)
}

/// What an answer is the answer to, and the model and options that it was given with.
fn parse(answer: &Json, index: usize) -> Option<(String, Entry, (String, String))> {
    let mut parts = answer.get("request")?.as_str()?.split('-');
    let (model, options, digest) = (parts.next()?, parts.next()?, parts.next()?);
    let id = answer.get("id")?.clone();
    let line = answer.get("line").map_or(Some(0), Json::as_u64)?;
    let entry = Entry {
        digest: digest.to_string(),
        failed: answer.get("error").is_some(),
        retry: answer.get("retry") == Some(&json!(true)),
        index,
    };
    let name = Name { id, line, digest: String::new(), columns: Map::new() };
    Some((name.key(), entry, (model.to_string(), options.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> RunKey {
        RunKey { model: "1234".into(), options: "ab".into() }
    }

    fn open(path: &Path) -> Result<Journal> {
        Journal::open(Some(path), run(), false)
    }

    fn name(id: impl Into<Json>, line: u64, digest: &str) -> Name {
        Name { id: id.into(), line, digest: digest.into(), columns: Map::new() }
    }

    #[test]
    fn a_torn_line_is_cut_off_and_the_rest_is_done() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("out");
        let whole = "{\"request\":\"1234-ab-c\",\"id\":\"a\",\"text\":\"x\"}\n\
                     {\"request\":\"1234-ab-d\",\"id\":null,\"line\":2,\"error\":\"x\"}\n";
        for torn in ["", "{", "{\"request\":\"1234-ab-e\",\"id\":\"b\",\"text\":\"y\"}", "\0\0"] {
            std::fs::write(&path, format!("{whole}{torn}")).unwrap();
            let mut journal = open(&path).unwrap();
            assert!(open(&path).is_err_and(|error| error.detail().contains("another process")));
            assert_eq!(journal.earlier(&name("a", 1, "c")), Earlier::Answered);
            assert_eq!(journal.earlier(&name("a", 1, "e")), Earlier::Other);
            assert_eq!(journal.earlier(&name(Json::Null, 2, "d")), Earlier::Failed);
            // It was put right.
            assert_eq!(journal.earlier(&name(Json::Null, 2, "e")), Earlier::Nothing);
            assert_eq!(journal.earlier(&name("b", 3, "e")), Earlier::Nothing);
            let seven = name(7, 3, "f");
            journal.write(&seven, &seven.answer()).unwrap();
            journal.finish().unwrap();
            let expected = format!("{whole}{{\"request\":\"1234-ab-f\",\"id\":7}}\n");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        }
    }

    #[test]
    fn a_foreign_file_stays_as_it_is() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("out");
        for (foreign, found) in [
            ("text\nmore", "something else"),
            ("text", "something else"),
            ("{\"other\":1}\n", "something else"),
            ("{\"id\":1,\"prompt\":\"x\"}\n", "something else"),
            ("{\"id\":1,\"prompt\":\"x\"}", "something else"),
            ("{", "something else"),
            ("{\"request\":\"1234-cd-e\",\"id\":1}\n", "other options"),
            ("{\"request\":\"5678-ab-e\",\"id\":1}\n", "another model"),
            ("{\"request\":\"5678-ab-e\",\"id\":", "something else"),
        ] {
            std::fs::write(&path, foreign).unwrap();
            let error = open(&path).err().unwrap().to_string();
            assert!(error.contains(found), "{foreign}: {error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), foreign);
        }
        // The only answer may be torn.
        std::fs::write(&path, "{\"request\":\"1234-ab-e\",\"id\":").unwrap();
        open(&path).unwrap().finish().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    }

    #[test]
    fn passing_errors_are_tried_again_and_replaced() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("out");
        let names = [name("memory", 1, "a"), name("wrong", 2, "b")];
        let mut journal = open(&path).unwrap();
        for (name, kind) in names.iter().zip([ErrorKind::Resource, ErrorKind::Format]) {
            journal.write(name, &name.failed(&Error::new(kind, "line: x"))).unwrap();
        }
        journal.finish().unwrap();
        let mut journal = open(&path).unwrap();
        assert_eq!(names.each_ref().map(|name| journal.earlier(name)), [Earlier::Nothing, Earlier::Failed]);
        journal.write(&names[0], &names[0].answer()).unwrap();
        // The last one counts, also before the older one is taken out.
        drop(journal);
        let journal = open(&path).unwrap();
        assert_eq!(journal.earlier(&names[0]), Earlier::Answered);
        drop(journal);
        let mut journal = Journal::open(Some(&path), run(), true).unwrap();
        assert_eq!(journal.earlier(&names[1]), Earlier::Nothing);
        journal.write(&names[1], &names[1].answer()).unwrap();
        journal.finish().unwrap();
        let expected =
            "{\"request\":\"1234-ab-a\",\"id\":\"memory\"}\n{\"request\":\"1234-ab-b\",\"id\":\"wrong\"}\n";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
    }

    #[test]
    fn columns_are_passed_through() {
        let columns = json!({"label": 3, "text": "mine"}).as_object().unwrap().clone();
        let name = Name { columns, ..name("a", 4, "c") };
        assert_eq!(name.answer(), json!({"id": "a", "label": 3, "columns": {"text": "mine"}}));
        let failed = name.failed(&Error::format("line: x"));
        assert_eq!((&failed["line"], &failed["error"]), (&json!(4), &json!("line 4: x")));
    }
}
