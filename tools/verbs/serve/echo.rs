//! A prompt that is repeated before its answer, with the log-probabilities of its tokens if they are asked for.

use cinderblock::unstable::generation::TextStream;
use cinderblock::{Alignment, Model, Request, Result, Token, Tokenizer};

use crate::scoring::scoring;

/// What an answer repeats of its prompt.
#[derive(Clone, Default)]
pub struct Echo {
    pub text: String,
    /// Its tokens, if log-probabilities are asked for. Those that nothing is before have none.
    pub tokens: Vec<Token>,
    /// Characters of the text before each token.
    pub offsets: Vec<usize>,
}

impl Echo {
    /// Adds the tokens of the prompt, none of them scored.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn list(&mut self, prompt: &[u32], tokenizer: Option<&Tokenizer>) -> Result<()> {
        let mut stream = tokenizer.map(TextStream::new);
        let mut offset = 0;
        for id in prompt {
            self.offsets.push(offset);
            self.tokens.push(Token { id: *id, logprob: None, top: Vec::new() });
            if let Some(stream) = &mut stream {
                offset += stream.push(*id)?.chars().count();
            }
        }
        Ok(())
    }

    /// Takes the scores of the prompt's last tokens.
    pub fn take(&mut self, scored: Vec<Token>) {
        let unscored = self.tokens.len().saturating_sub(scored.len());
        self.tokens.truncate(unscored);
        self.tokens.extend(scored);
    }
}

/// What scores a prompt as it lies in blocks when it is read: all its tokens but those of the first block. `None` if it
/// has no more.
pub fn prompt_scoring(prompt: &[u32], model: &Model, logprobs: Option<usize>) -> Option<Request> {
    let length = model.config().block_length;
    let first = match model.config().alignment {
        Alignment::Left => (prompt.len() + length - 1) % length + 1,
        Alignment::Tail => length,
    };
    let (first, rest) = prompt.split_at_checked(first).filter(|(_, rest)| !rest.is_empty())?;
    let mut request = Request { prompt: first.to_vec(), ..scoring(rest.to_vec()) };
    request.generate.logprobs = logprobs;
    Some(request)
}
