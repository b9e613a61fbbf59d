//! `batch --score`: log-likelihoods of given continuations of a prompt that is read once.

use cinderblock::error::{Error, Result};
use cinderblock::generation::tokenizer::Tokenizer;
use cinderblock::{GenerateOptions, Request, SamplerOptions, Token};
use serde_json::{Value as Json, json};

use super::journal::Name;
use super::lines::{Fields, encode, ids};
use super::{Job, Run};

/// A line whose continuations are being scored.
pub struct Scores {
    name: Name,
    prompt_tokens: usize,
    /// Answers so far, in the order of the continuations.
    scores: Vec<Option<Json>>,
}

/// A continuation as a line has it.
enum Continuation {
    Text(String),
    Ids(Vec<u32>),
}

/// A list of texts or of lists of ids.
fn continuations(value: &Json) -> Option<Vec<Continuation>> {
    let one = |value: &Json| match value.as_str() {
        Some(text) => Some(Continuation::Text(text.to_string())),
        None => ids(value).map(Continuation::Ids),
    };
    value.as_array()?.iter().map(one).collect()
}

/// The tokens of a continuation: those behind the prompt's in the text of both, if the prompt's are the same there; else
/// those of the continuation alone.
fn tokens_of(
    continuation: Continuation,
    prompt: &(Option<String>, Vec<u32>),
    tokenizer: Option<&Tokenizer>,
) -> Result<Vec<u32>> {
    let (prompt_text, prompt) = prompt;
    let tokens = match (continuation, prompt_text) {
        (Continuation::Ids(ids), _) => ids,
        (Continuation::Text(text), None) => encode(&text, tokenizer)?,
        (Continuation::Text(text), Some(before)) => {
            let both = encode(&format!("{before}{text}"), tokenizer)?;
            match both.strip_prefix(prompt.as_slice()) {
                Some(rest) => rest.to_vec(),
                None => encode(&text, tokenizer)?,
            }
        }
    };
    if tokens.is_empty() {
        return Err(Error::format("continuation: found 0 tokens, expected at least 1"));
    }
    Ok(tokens)
}

/// What its tokens say about a continuation.
fn score(tokens: &[Token]) -> Json {
    let logprob: f64 = tokens.iter().filter_map(|token| token.logprob).map(f64::from).sum();
    let is_greedy = tokens.iter().all(|token| token.top.first().is_some_and(|top| top.0 == token.id));
    json!({"logprob": logprob, "tokens": tokens.len(), "is_greedy": is_greedy})
}

impl Run {
    /// Reads a line's prompt and submits its continuations.
    pub fn score(&mut self, name: &Name, mut fields: Fields) -> Result<()> {
        let tokenizer = self.tokenizer.as_deref();
        let text = fields.peek("prompt").and_then(|value| value.as_str().map(str::to_string));
        let prompt = (text, fields.prompt(&self.model, tokenizer)?);
        let found =
            fields.take("continuations", "a list of texts or of lists of token ids", continuations)?;
        fields.finish()?;
        let found = found.filter(|list| !list.is_empty());
        let found =
            found.ok_or_else(|| Error::format("line: found no \"continuations\", expected at least 1"))?;
        let mut forced = Vec::new();
        for continuation in found {
            let tokens = tokens_of(continuation, &prompt, tokenizer)?;
            self.model.check_tokens(&tokens)?;
            forced.push(tokens);
        }
        let longest = forced.iter().map(Vec::len).max().unwrap_or(0);
        let start = self.batch.begin(&prompt.1, longest)?;
        let id = name.id.to_string();
        let count = forced.len();
        for (index, forced) in forced.into_iter().enumerate() {
            let generate = GenerateOptions {
                max_tokens: forced.len(),
                ignore_end: true,
                logprobs: Some(1),
                ..GenerateOptions::default()
            };
            let sampler = SamplerOptions { temperature: 0.0, ..SamplerOptions::default() };
            let start = Some(start.clone());
            let request = Request { start, forced, sampler, generate, ..Request::default() };
            let number = self.batch.submit(request)?;
            let job = Job {
                name: name.clone(),
                prompt_tokens: prompt.1.len(),
                tokens: Vec::new(),
                text: String::new(),
                logprobs: false,
                scored: Some((id.clone(), index)),
            };
            self.jobs.insert(number, job);
        }
        let scores = Scores { name: name.clone(), prompt_tokens: prompt.1.len(), scores: vec![None; count] };
        self.scores.get_or_insert_default().insert(id, scores);
        Ok(())
    }

    /// Takes the score of a continuation; the last one answers the line. One that failed fails the line.
    pub fn scored(&mut self, id: &str, index: usize, tokens: Result<Vec<Token>>) -> Result<()> {
        let Some(lines) = &mut self.scores else { return Ok(()) };
        let tokens = match tokens {
            Ok(tokens) => tokens,
            Err(error) => {
                return match lines.remove(id) {
                    Some(line) => self.fail(&line.name, &error),
                    None => Ok(()),
                };
            }
        };
        // Another continuation may have failed the line.
        let Some(line) = lines.get_mut(id) else { return Ok(()) };
        line.scores[index] = Some(score(&tokens));
        self.counts.generated_tokens += tokens.len();
        if line.scores.iter().any(Option::is_none) {
            return Ok(());
        }
        let Some(Scores { name, prompt_tokens, scores }) = lines.remove(id) else { return Ok(()) };
        self.counts.answered += 1;
        self.counts.prompt_tokens += prompt_tokens;
        self.bar.inc(1);
        let mut answer = name.answer();
        answer["prompt_tokens"] = prompt_tokens.into();
        answer["scores"] = scores.into_iter().flatten().collect();
        self.journal.write(&answer)
    }
}
