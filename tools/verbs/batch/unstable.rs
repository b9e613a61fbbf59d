//! Lines and the journal without files and threads.

use std::path::Path;

use cinderblock::{
    BatchOptions, Event, GenerateOptions, Result, Runtime, SamplerOptions, SessionOptions, Tokenizer,
};
use serde_json::Value as Json;

use super::journal::{Earlier, Journal, Name, RunKey};
use super::{Defaults, lines};
use crate::constraint::Constraints;

/// Answers lines with a model, which generates a number of tokens for each at most.
pub fn batch(runtime: &Runtime, lines: &[&[u8]], most: usize) -> Result<Vec<String>> {
    let model = runtime.model();
    let tokenizer = model.tokenizer_json().map(Tokenizer::from_json).transpose()?.map(std::sync::Arc::new);
    let session = SessionOptions { cache_blocks: Some(16), ..SessionOptions::default() };
    let options = BatchOptions { session, sequences: 4, memory: Some(64 << 20), ..BatchOptions::default() };
    let mut batch = runtime.batch(tokenizer.clone(), options)?;
    let defaults = Defaults {
        sampler: SamplerOptions::default(),
        generate: GenerateOptions { max_tokens: most, ..Default::default() },
        stops: Vec::new(),
        constraints: Constraints::new(model),
        form: None,
    };
    let mut answers = Vec::new();
    let mut names = std::collections::HashMap::new();
    for (number, line) in (1..).zip(lines) {
        let (name, fields) = lines::parse(number, Ok(line.to_vec()));
        let request =
            fields.and_then(|fields| defaults.request(model, tokenizer.as_deref(), &name.id, fields));
        let submitted = request.and_then(|mut request| {
            // A number that is merely large would take long; one beyond all sense is submitted as it is.
            if request.generate.max_tokens < 1 << 20 {
                request.generate.max_tokens = request.generate.max_tokens.min(most);
            }
            batch.submit(request)
        });
        match submitted {
            Ok(id) => drop(names.insert(id, name)),
            Err(error) => answers.push(name.failed(&error).to_string()),
        }
    }
    for _ in 0..4 * most {
        if batch.waiting() + batch.running() == 0 {
            break;
        }
        batch.advance(|id, event| {
            let name: &Name = &names[&id];
            match event {
                Event::Step(_) => {}
                Event::Ended(..) => answers.push(name.answer().to_string()),
                Event::Failed(error) => answers.push(name.failed(&error).to_string()),
            }
        })?;
    }
    Ok(answers)
}

/// Resumes a file of answers as a run does that has one line left.
pub fn journal(path: &Path) -> Result<()> {
    let run = RunKey { model: "1234".into(), options: "ab".into() };
    let mut journal = Journal::open(Some(path), run, false)?;
    for id in [Json::Null, 1.into(), "a".into()] {
        let name = Name { id, line: 1, digest: "d".into(), columns: serde_json::Map::new() };
        if journal.earlier(&name) == Earlier::Nothing {
            journal.write(&name, &name.answer())?;
        }
    }
    journal.finish()
}
