//! `batch --score`: log-likelihoods of given continuations of a prompt that is read once.

use std::collections::VecDeque;

use cinderblock::{Error, GenerateOptions, Model, Request, Result, SamplerOptions, Token, Tokenizer};
use serde_json::{Value as Json, json};

use super::journal::Name;
use super::lines::{Fields, Prompt, encode, ids};
use super::{Job, Run};

/// A line whose continuations are being scored.
pub struct Scores {
    name: Name,
    prompt_tokens: usize,
    /// What came of each continuation so far, in their order.
    scores: Vec<Option<Result<Json>>>,
}

/// Continuations of one prompt that wait until there is room for it.
pub struct Group {
    /// The line, as [`Run::scores`] knows it.
    line: u64,
    prompt: Vec<u32>,
    /// Which continuation, and its tokens.
    forced: Vec<(usize, Vec<u32>)>,
}

/// A list of texts or of lists of ids.
pub fn continuations(value: &Json) -> Option<Vec<Prompt>> {
    let one = |value: &Json| match value.as_str() {
        Some(text) => Some(Prompt::Text(text.to_string())),
        None => ids(value).map(Prompt::Ids),
    };
    value.as_array()?.iter().map(one).collect()
}

/// Splits a text as evaluation harnesses do: white space at its end belongs to what follows.
fn split(text: &str) -> (&str, &str) {
    // What Python calls white space.
    let is_space = |c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c);
    text.split_at(text.trim_end_matches(is_space).len())
}

/// What scores the tokens of a continuation: they are the text, whatever is likely.
pub fn scoring(forced: Vec<u32>) -> Request {
    let generate = GenerateOptions {
        max_tokens: forced.len(),
        ignore_end: true,
        logprobs: Some(1),
        ..GenerateOptions::default()
    };
    let sampler = SamplerOptions { temperature: 0.0, ..SamplerOptions::default() };
    Request { forced, sampler, generate, ..Request::default() }
}

/// The tokens that a continuation follows, and its own, by the rule of lm-evaluation-harness: the text of both is encoded
/// as a whole, and the first tokens of it, as many as the prompt alone has, are not the continuation's.
pub fn tokens_of(
    prompt: &Prompt,
    continuation: &Prompt,
    model: &Model,
    tokenizer: Option<&Tokenizer>,
) -> Result<(Vec<u32>, Vec<u32>)> {
    let (before, tokens) = match (prompt, continuation) {
        (Prompt::Text(before), Prompt::Text(text)) => {
            let (context, space) = split(before);
            let whole = encode(&format!("{context}{space}{text}"), tokenizer)?;
            let mut before = encode(context, tokenizer)?;
            let own = whole.get(before.len()..).unwrap_or_default().to_vec();
            if before.is_empty() {
                // A text that begins is one that follows an end.
                before.extend(model.end_token());
            }
            (before, own)
        }
        (prompt, Prompt::Text(text)) => (prompt.tokens(model, tokenizer)?, encode(text, tokenizer)?),
        (prompt, Prompt::Ids(ids)) => (prompt.tokens(model, tokenizer)?, ids.clone()),
    };
    if before.is_empty() {
        return Err(Error::format("prompt: found 0 tokens, expected at least 1"));
    }
    if tokens.is_empty() {
        return Err(Error::format("continuation: found 0 tokens, expected at least 1"));
    }
    model.check_tokens(&tokens)?;
    Ok((before, tokens))
}

/// What its tokens say about a continuation.
pub fn score(tokens: &[Token]) -> Json {
    let logprob: f64 = tokens.iter().filter_map(|token| token.logprob).map(f64::from).sum();
    let is_greedy = tokens.iter().all(|token| token.top.first().is_some_and(|top| top.0 == token.id));
    json!({"logprob": logprob, "tokens": tokens.len(), "is_greedy": is_greedy})
}

impl Run {
    /// Makes a line's continuations wait for their turn.
    pub fn score(&mut self, name: &Name, mut fields: Fields) -> Result<()> {
        let tokenizer = self.tokenizer.as_deref();
        let prompt = fields.prompt()?;
        let expected = "a list of texts or of lists of token ids";
        let found = fields.take("continuations", expected, continuations)?;
        let found = found
            .filter(|list| !list.is_empty())
            .ok_or_else(|| Error::format("line: found no \"continuations\", expected at least 1"))?;
        let mut line = Scores { name: name.clone(), prompt_tokens: 0, scores: Vec::new() };
        let mut groups: VecDeque<Group> = VecDeque::new();
        for (index, continuation) in found.iter().enumerate() {
            let tokens = tokens_of(&prompt, continuation, &self.model, tokenizer);
            line.scores.push(None);
            match tokens {
                Err(error) => line.scores[index] = Some(Err(error)),
                Ok((before, own)) => match groups.iter_mut().find(|group| group.prompt == before) {
                    Some(group) => group.forced.push((index, own)),
                    None => {
                        line.prompt_tokens += before.len();
                        let forced = vec![(index, own)];
                        groups.push_back(Group { line: name.line, prompt: before, forced });
                    }
                },
            }
        }
        self.scores.insert(name.line, line);
        self.groups.extend(groups);
        self.answer_scores(name.line)
    }

    /// Reads the prompts for which there is room, and submits their continuations.
    pub fn begin_groups(&mut self) -> Result<()> {
        while let Some(group) = self.groups.front() {
            let longest = group.forced.iter().map(|(_, tokens)| tokens.len()).max().unwrap_or(0);
            let busy = self.batch.running() + self.batch.waiting() > 0;
            if busy && !self.batch.has_room(group.prompt.len(), longest) {
                break;
            }
            let start = match self.batch.begin(&group.prompt, longest) {
                // The group is read when the program is asked for it again.
                Err(error) if error.kind() == cinderblock::ErrorKind::Interrupted => return Err(error),
                start => start,
            };
            let Some(Group { line, prompt, forced }) = self.groups.pop_front() else { break };
            let start = match start {
                Ok(start) => start,
                Err(error) => {
                    self.fail_scores(line, &error)?;
                    continue;
                }
            };
            for (index, forced) in forced {
                match self.batch.submit(Request { start: Some(start.clone()), ..scoring(forced) }) {
                    Ok(number) => {
                        self.jobs.insert(number, Job::scoring(line, index, prompt.len()));
                    }
                    Err(error) => self.scored(line, index, Err(error))?,
                }
            }
        }
        Ok(())
    }

    /// Takes the score of a continuation, or why it has none.
    pub fn scored(&mut self, line: u64, index: usize, tokens: Result<Vec<Token>>) -> Result<()> {
        // The line may have failed.
        let Some(scores) = self.scores.get_mut(&line) else { return Ok(()) };
        self.counts.generated_tokens += tokens.as_ref().map_or(0, Vec::len);
        scores.scores[index] = Some(tokens.map(|tokens| score(&tokens)));
        self.answer_scores(line)
    }

    /// Fails a line whose prompt cannot be read.
    fn fail_scores(&mut self, line: u64, error: &Error) -> Result<()> {
        match self.scores.remove(&line) {
            Some(line) => self.fail(&line.name, error),
            None => Ok(()),
        }
    }

    /// Answers a line when all its continuations are scored. One that cannot be has an error in its place, and the
    /// line has the first of them.
    fn answer_scores(&mut self, line: u64) -> Result<()> {
        if self.scores.get(&line).is_none_or(|line| line.scores.iter().any(Option::is_none)) {
            return Ok(());
        }
        let Some(Scores { name, prompt_tokens, scores }) = self.scores.remove(&line) else { return Ok(()) };
        let scores: Vec<Result<Json>> = scores.into_iter().flatten().collect();
        let mut answer = name.answer();
        answer["prompt_tokens"] = prompt_tokens.into();
        let shown = |score: &Result<Json>| match score {
            Ok(score) => score.clone(),
            Err(error) => json!({"error": error.to_string()}),
        };
        answer["scores"] = scores.iter().map(shown).collect();
        self.bar.inc(1);
        match scores.iter().find_map(|score| score.as_ref().err()) {
            Some(error) => {
                name.fail(&mut answer, error);
                self.counts.failed += 1;
            }
            None => {
                self.counts.answered += 1;
                self.counts.prompt_tokens += prompt_tokens;
            }
        }
        self.journal.write(&name, &answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_at_the_end_belongs_to_what_follows() {
        assert_eq!(split("The old house \n"), ("The old house", " \n"));
        assert_eq!(split("x\u{a0}\x1f"), ("x", "\u{a0}\x1f"));
        assert_eq!((split(" "), split(""), split("x")), (("", " "), ("", ""), ("x", "")));
    }
}
