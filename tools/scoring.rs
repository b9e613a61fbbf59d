//! Log-likelihoods of given continuations: how texts are split into tokens, and the requests of a batch that score
//! them.
//!
//! What continuations of a prompt share is read once; what prompts share is too, if the batch keeps prefixes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use cinderblock::{
    Batch, Error, ErrorKind, Event, GenerateOptions, Model, Request, Result, SamplerOptions, Token, Tokenizer,
};
use serde_json::{Value as Json, json};

use crate::prompt::{Prompt, encode};

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

/// The log-likelihood of a continuation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// The sum over its tokens, as a natural logarithm.
    pub logprob: f64,
    /// Number of its tokens.
    pub tokens: usize,
    /// Whether each of them is the likeliest.
    pub is_greedy: bool,
}

impl Score {
    /// What its tokens say about a continuation.
    pub fn new(tokens: &[Token]) -> Score {
        Score {
            logprob: tokens.iter().filter_map(|token| token.logprob).map(f64::from).sum(),
            tokens: tokens.len(),
            is_greedy: tokens.iter().all(|token| token.top.first().is_some_and(|top| top.0 == token.id)),
        }
    }

    /// As an answer has it.
    pub fn json(&self) -> Json {
        json!({"logprob": self.logprob, "tokens": self.tokens, "is_greedy": self.is_greedy})
    }
}

/// A question, and which of its continuations.
pub type Place = (u64, usize);

/// Continuations of one prompt that wait until there is room for it.
struct Group {
    question: u64,
    prompt: Vec<u32>,
    /// Which continuation, and its tokens.
    forced: Vec<(usize, Vec<u32>)>,
}

/// A continuation that a batch refuses, or all of a prompt.
pub struct Refused {
    /// The question.
    pub question: u64,
    /// The continuation; none if it is the prompt.
    pub continuation: Option<usize>,
    /// The reason.
    pub error: Error,
}

/// Questions whose continuations are scored in a batch.
#[derive(Default)]
pub struct Scoring {
    waiting: VecDeque<Group>,
    /// By the numbers of their requests.
    running: HashMap<u64, (Place, Vec<Token>)>,
}

impl Scoring {
    /// Adds a question. Gives the number of tokens that its continuations follow, and why some of these cannot be
    /// scored.
    pub fn ask(
        &mut self,
        question: u64,
        prompt: &Prompt,
        continuations: &[Prompt],
        model: &Model,
        tokenizer: Option<&Tokenizer>,
    ) -> (usize, Vec<(usize, Error)>) {
        let (mut groups, mut wrong): (Vec<Group>, _) = (Vec::new(), Vec::new());
        for (index, continuation) in continuations.iter().enumerate() {
            match tokens_of(prompt, continuation, model, tokenizer) {
                Err(error) => wrong.push((index, error)),
                Ok((before, own)) => match groups.iter_mut().find(|group| group.prompt == before) {
                    Some(group) => group.forced.push((index, own)),
                    None => groups.push(Group { question, prompt: before, forced: vec![(index, own)] }),
                },
            }
        }
        let tokens = groups.iter().map(|group| group.prompt.len()).sum();
        self.waiting.extend(groups);
        (tokens, wrong)
    }

    /// Whether prompts wait for room.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Reads the next prompt, if there is room for it or nothing else runs, and submits its continuations. Gives what
    /// is refused of them; `None` if nothing was read.
    ///
    /// # Errors
    /// `Interrupted` on request; the prompt is the next one again.
    pub fn begin(&mut self, batch: &mut Batch) -> Result<Option<Vec<Refused>>> {
        let Some(group) = self.waiting.front() else { return Ok(None) };
        let longest = group.forced.iter().map(|(_, tokens)| tokens.len()).max().unwrap_or(0);
        let busy = batch.running() + batch.waiting() > 0;
        if busy && !batch.has_room(group.prompt.len(), longest) {
            return Ok(None);
        }
        let start = match batch.begin(&group.prompt, longest) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
            start => start,
        };
        let Some(Group { question, forced, .. }) = self.waiting.pop_front() else { return Ok(None) };
        let start = match start {
            Err(error) => return Ok(Some(vec![Refused { question, continuation: None, error }])),
            Ok(start) => start,
        };
        let mut refused = Vec::new();
        for (index, forced) in forced {
            match batch.submit(Request { start: Some(Arc::clone(&start)), ..scoring(forced) }) {
                Ok(number) => drop(self.running.insert(number, ((question, index), Vec::new()))),
                Err(error) => refused.push(Refused { question, continuation: Some(index), error }),
            }
        }
        Ok(Some(refused))
    }

    /// Takes an event of the batch. Gives the score of a continuation that has ended, or why it has none.
    pub fn take(&mut self, number: u64, event: Event) -> Option<(Place, Result<Score>)> {
        if let Event::Step(step) = event {
            if let Some((_, tokens)) = self.running.get_mut(&number) {
                tokens.extend(step.token);
            }
            return None;
        }
        let (place, tokens) = self.running.remove(&number)?;
        match event {
            Event::Failed(error) => Some((place, Err(error))),
            _ => Some((place, Ok(Score::new(&tokens)))),
        }
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
