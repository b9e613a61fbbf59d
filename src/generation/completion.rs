//! From sampled tokens to text: whole characters, stop strings, and what ends it.

use std::ops::Deref;
use std::time::{Duration, Instant};

use super::tokenizer::{Passed, StopMatcher, TextStream, Tokenizer};
use crate::error::{Error, ErrorKind, Result};
use crate::session::negative_log_likelihood;

/// Tokens before a text that may decide how its first ones read.
pub(crate) const LEAD_IN: usize = 32;

/// The reason why a generated text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As many tokens as were asked for.
    Length,
    /// The model ended its text.
    EndOfText,
    /// A stop string.
    Stop,
    /// The caller, who got a piece of text and wants no more.
    Caller,
    /// The time that was given for it.
    Time,
}

/// The limits of a generated text, and the details reported with each token.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// Tokens at most.
    pub max_tokens: usize,
    /// Time after which no token is begun.
    pub time_limit: Option<Duration>,
    /// Continues after the token that ends a text.
    pub ignore_end: bool,
    /// Computes the log-probability of every token, and those of this number of the most likely ones.
    pub logprobs: Option<usize>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        GenerateOptions { max_tokens: 256, time_limit: None, ignore_end: false, logprobs: None }
    }
}

/// A generated token.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// The natural logarithm of the probability that the model gave it, before anything that the sampler does, if it
    /// was asked for.
    pub logprob: Option<f32>,
    /// The most likely tokens with theirs, as many as were asked for, best first.
    pub top: Vec<(u32, f32)>,
}

/// A token and the text that it completes.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The token; `None` with text that was held back until the end.
    pub token: Option<Token>,
    /// Whole characters that are certain to be part of the text; may be empty.
    pub text: String,
    /// Whether the token was guessed, so that it shared the pass of the token before it.
    pub guessed: bool,
}

impl End {
    /// The name for people.
    pub fn name(self) -> &'static str {
        match self {
            End::Length => "length",
            End::EndOfText => "end of text",
            End::Stop => "stop",
            End::Caller => "caller",
            End::Time => "time",
        }
    }
}

/// One text that is being generated. Without a tokenizer, there is no text and no stop string.
pub(crate) struct Completion<T: Deref<Target = Tokenizer>> {
    stream: Option<TextStream<T>>,
    matcher: StopMatcher,
    end_token: Option<u32>,
    options: GenerateOptions,
    started: Instant,
    count: usize,
    /// Ids in the order of their likelihood.
    order: Vec<u32>,
}

impl<T: Deref<Target = Tokenizer>> Completion<T> {
    /// Starts a text after the last tokens of its context, and its time; `end_token` is the model's.
    pub(crate) fn new(
        tokenizer: Option<T>,
        context: &[u32],
        stops: &[String],
        options: &GenerateOptions,
        end_token: Option<u32>,
    ) -> Result<Self> {
        Ok(Completion {
            stream: tokenizer.map(|tokenizer| TextStream::after(tokenizer, context)).transpose()?,
            matcher: StopMatcher::new(stops),
            end_token: end_token.filter(|_| !options.ignore_end),
            options: options.clone(),
            started: Instant::now(),
            count: 0,
            order: Vec::new(),
        })
    }

    /// Bytes of the buffers that log-probabilities take.
    pub(crate) fn bytes(options: &GenerateOptions, vocabulary: usize) -> usize {
        let most = options.logprobs.unwrap_or(0).min(vocabulary);
        let order = if most > 0 { vocabulary * size_of::<u32>() } else { 0 };
        order + most * size_of::<(u32, f32)>()
    }

    /// Tokens so far.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Tokens that are still allowed.
    pub(crate) fn left(&self) -> usize {
        self.options.max_tokens.saturating_sub(self.count)
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
    ///
    /// # Errors
    /// If there is no memory for the list of the most likely ones.
    pub(crate) fn token(&mut self, id: u32, logits: &[f32]) -> Result<Token> {
        match self.options.logprobs {
            None => Ok(Token { id, logprob: None, top: Vec::new() }),
            Some(most) => with_logprobs(id, logits, most, &mut self.order),
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

/// `order` is a buffer for the ids of the vocabulary.
fn with_logprobs(id: u32, logits: &[f32], most: usize, order: &mut Vec<u32>) -> Result<Token> {
    let best = (0..).zip(logits).max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(id, _)| id);
    // The most likely token's likelihood gives that of all others.
    let sum = negative_log_likelihood(logits, best);
    let highest = logits[best as usize];
    let logprob = |id: u32| (f64::from(logits[id as usize] - highest) - sum) as f32;
    let most = most.min(logits.len());
    let mut top = Vec::new();
    if most > 0 {
        order.clear();
        order.try_reserve_exact(logits.len()).and_then(|()| top.try_reserve_exact(most)).map_err(|_| {
            let detail =
                format!("log-probabilities of {most} of {} tokens cannot be allocated", logits.len());
            Error::new(ErrorKind::Resource, detail)
        })?;
        order.extend(0..logits.len() as u32);
        let better = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        order.select_nth_unstable_by(most - 1, better);
        order.truncate(most);
        order.sort_unstable_by(better);
        top.extend(order.iter().map(|id| (*id, logprob(*id))));
    }
    Ok(Token { id, logprob: Some(logprob(id)), top })
}
