//! From sampled tokens to text: whole characters, stop strings, and what ends it.

use std::ops::Deref;
use std::time::Instant;

use crate::error::Result;
use crate::generation::generator::{End, GenerateOptions, Token};
use crate::generation::tokenizer::{Passed, StopMatcher, TextStream, Tokenizer};
use crate::session::negative_log_likelihood;

/// One text that is being generated. Without a tokenizer, there is no text and no stop string.
pub(crate) struct Completion<T: Deref<Target = Tokenizer>> {
    stream: Option<TextStream<T>>,
    matcher: StopMatcher,
    end_token: Option<u32>,
    options: GenerateOptions,
    started: Instant,
    count: usize,
}

impl<T: Deref<Target = Tokenizer>> Completion<T> {
    /// Starts a text, and its time; `end_token` is the model's.
    pub(crate) fn new(
        tokenizer: Option<T>,
        stops: &[String],
        options: &GenerateOptions,
        end_token: Option<u32>,
    ) -> Self {
        Completion {
            stream: tokenizer.map(TextStream::new),
            matcher: StopMatcher::new(stops),
            end_token: end_token.filter(|_| !options.ignore_end),
            options: options.clone(),
            started: Instant::now(),
            count: 0,
        }
    }

    /// Tokens so far.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// What forbids another token.
    pub(crate) fn limit(&self) -> Option<End> {
        if self.count >= self.options.max_tokens {
            return Some(End::Length);
        }
        self.options.time_limit.filter(|limit| self.started.elapsed() >= *limit).map(|_| End::Time)
    }

    /// Whether the next token is the last one that is allowed.
    pub(crate) fn is_last(&self) -> bool {
        self.count + 1 >= self.options.max_tokens
    }

    /// Whether a token ends the text and is not part of it.
    pub(crate) fn ends(&self, id: u32) -> bool {
        self.end_token == Some(id)
    }

    /// A token with what was asked to be told about it.
    pub(crate) fn token(&self, id: u32, logits: &[f32]) -> Token {
        match self.options.logprobs {
            None => Token { id, logprob: None, top: Vec::new() },
            Some(most) => with_logprobs(id, logits, most),
        }
    }

    /// Counts a token. Gives the text that is certain by then, and whether it ends here.
    pub(crate) fn push(&mut self, id: u32) -> Result<Passed> {
        self.count += 1;
        let text = self.stream.as_mut().map_or(Ok(String::new()), |stream| stream.push(id))?;
        Ok(self.matcher.push(&text))
    }

    /// The text that was held back, when no more tokens come, and whether a stop string ended it.
    pub(crate) fn finish(&mut self) -> Result<Passed> {
        let rest = self.stream.as_mut().map_or(Ok(String::new()), TextStream::finish)?;
        let mut passed = self.matcher.push(&rest);
        if !passed.stopped {
            passed.text += &self.matcher.finish();
        }
        Ok(passed)
    }
}

fn with_logprobs(id: u32, logits: &[f32], most: usize) -> Token {
    let best = (0..).zip(logits).max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(id, _)| id);
    // The most likely token's likelihood gives that of all others.
    let sum = negative_log_likelihood(logits, best);
    let highest = logits[best as usize];
    let logprob = |id: u32| (f64::from(logits[id as usize] - highest) - sum) as f32;
    let mut top: Vec<u32> = (0..logits.len() as u32).collect();
    let order = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if most < top.len() {
        if most > 0 {
            top.select_nth_unstable_by(most - 1, order);
        }
        top.truncate(most);
    }
    top.sort_unstable_by(order);
    let top = top.into_iter().map(|id| (id, logprob(id))).collect();
    Token { id, logprob: Some(logprob(id)), top }
}
