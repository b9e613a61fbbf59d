//! The output: one line for each line of the input, in the order in which they end. A file remembers what is done, so
//! that a run that was killed goes on where it was.

use std::collections::HashSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use cinderblock::error::{Error, Result};
use serde_json::{Value as Json, json};

use crate::output;

/// Where answers go.
pub struct Journal {
    /// `None` is standard output.
    file: Option<(File, PathBuf)>,
    /// Keys of what earlier runs have answered.
    done: HashSet<String>,
}

/// By what a line is known: its id, or its number where it has none or one that another line has.
#[derive(Clone, Debug)]
pub struct Name {
    pub id: Json,
    pub line: Option<u64>,
}

impl Name {
    fn key(&self) -> String {
        match self.line {
            Some(line) => format!("line {line}"),
            None => self.id.to_string(),
        }
    }

    /// The beginning of an answer.
    pub fn answer(&self) -> Json {
        match self.line {
            Some(line) => json!({"id": self.id, "line": line}),
            None => json!({"id": self.id}),
        }
    }

    /// The answer to a line that is wrong.
    pub fn failed(&self, error: &Error) -> Json {
        let mut answer = self.answer();
        answer["error"] = error.to_string().into();
        answer
    }

    /// What an answer is the answer to.
    fn of(answer: &Json) -> Option<Name> {
        let line = answer.get("line");
        Some(Name {
            id: answer.get("id")?.clone(),
            line: line.map(|line| line.as_u64().ok_or(())).transpose().ok()?,
        })
    }
}

impl Journal {
    /// Standard output, or a file that is made or gone on with: a last line that a kill has torn is cut off.
    ///
    /// # Errors
    /// If the file cannot be read or written, is in use by another process, or holds something else.
    pub fn open(path: Option<&Path>) -> Result<Journal> {
        let Some(path) = path else { return Ok(Journal { file: None, done: HashSet::new() }) };
        let failed = |error: std::io::Error| Error::io(path, &error);
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let found = "a file that another process writes";
                return Err(Error::mismatch("output", found, "one of its own").in_file(path));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let (mut done, mut whole, mut number) = (HashSet::new(), 0, 0);
        let mut reader = BufReader::new(&file);
        loop {
            let mut line = Vec::new();
            let length = reader.read_until(b'\n', &mut line).map_err(failed)?;
            if line.last() != Some(&b'\n') {
                break;
            }
            number += 1;
            let name = serde_json::from_slice(&line).ok().and_then(|answer| Name::of(&answer));
            let name = name.ok_or_else(|| {
                Error::mismatch(format!("line {number}"), "something else", "an answer with an id")
                    .in_file(path)
            })?;
            done.insert(name.key());
            whole += length as u64;
        }
        file.set_len(whole).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Journal { file: Some((file, path.to_path_buf())), done })
    }

    /// Whether an earlier run has answered.
    pub fn has(&self, name: &Name) -> bool {
        self.done.contains(&name.key())
    }

    /// Writes an answer: one line in one piece.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&mut self, answer: &Json) -> Result<()> {
        match &mut self.file {
            None => output::print_json(answer),
            Some((file, path)) => {
                let line = format!("{answer}\n");
                file.write_all(line.as_bytes()).map_err(|error| Error::io(path, &error))
            }
        }
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// If the operating system says so.
    pub fn finish(self) -> Result<()> {
        match self.file {
            None => Ok(()),
            Some((file, path)) => file.sync_all().map_err(|error| Error::io(&path, &error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_line_is_cut_off_and_the_rest_is_done() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("out");
        let name = |id: Json, line| Name { id, line };
        let whole = "{\"id\":\"a\",\"text\":\"x\"}\n{\"id\":null,\"line\":2,\"error\":\"x\"}\n";
        for torn in ["", "{", "{\"id\":\"b\",\"text\":\"y\"}", "\0\0"] {
            std::fs::write(&path, format!("{whole}{torn}")).unwrap();
            let mut journal = Journal::open(Some(&path)).unwrap();
            assert!(
                Journal::open(Some(&path)).is_err_and(|error| error.detail().contains("another process"))
            );
            assert!(journal.has(&name("a".into(), None)) && journal.has(&name(Json::Null, Some(2))));
            assert!(!journal.has(&name("b".into(), None)) && !journal.has(&name("a".into(), Some(1))));
            journal.write(&name(7.into(), None).answer()).unwrap();
            journal.finish().unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{whole}{{\"id\":7}}\n"));
        }
        // Somebody else's file stays as it is.
        for foreign in ["text\nmore", "{\"other\":1}\n"] {
            std::fs::write(&path, foreign).unwrap();
            assert!(Journal::open(Some(&path)).is_err());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), foreign);
        }
    }
}
