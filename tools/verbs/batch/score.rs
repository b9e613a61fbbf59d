//! `batch --score`: log-likelihoods of given continuations of a prompt that is read once.

use cinderblock::{Error, Result};
use serde_json::json;

use super::Run;
use super::journal::Name;
use super::lines::Fields;
use crate::prompt::continuations;
use crate::scoring::{Place, Refused, Score};

/// A line whose continuations are being scored.
pub struct Scores {
    name: Name,
    prompt_tokens: usize,
    /// What came of each continuation so far, in their order.
    scores: Vec<Option<Result<Score>>>,
}

impl Run {
    /// Makes a line's continuations wait for their turn.
    pub fn score(&mut self, name: &Name, mut fields: Fields) -> Result<()> {
        let prompt = fields.prompt()?;
        let expected = "a list of texts or of lists of token ids";
        let found = fields.take("continuations", expected, continuations)?;
        let found = found
            .filter(|list| !list.is_empty())
            .ok_or_else(|| Error::format("line: found no \"continuations\", expected at least 1"))?;
        let tokenizer = self.tokenizer.as_deref();
        let (prompt_tokens, wrong) = self.scoring.ask(name.line, &prompt, &found, &self.model, tokenizer);
        let mut scores: Vec<Option<Result<Score>>> = found.iter().map(|_| None).collect();
        for (index, error) in wrong {
            scores[index] = Some(Err(error));
        }
        self.scores.insert(name.line, Scores { name: name.clone(), prompt_tokens, scores });
        self.answer_scores(name.line)
    }

    /// Reads the prompts for which there is room, and submits their continuations.
    pub fn begin_scoring(&mut self) -> Result<()> {
        while let Some(refused) = self.scoring.begin(&mut self.batch)? {
            for Refused { question, continuation, error } in refused {
                match continuation {
                    Some(index) => self.scored((question, index), Err(error))?,
                    None => self.fail_scores(question, &error)?,
                }
            }
        }
        Ok(())
    }

    /// Takes the score of a continuation, or why it has none.
    pub fn scored(&mut self, (line, index): Place, score: Result<Score>) -> Result<()> {
        // The line may have failed.
        let Some(scores) = self.scores.get_mut(&line) else { return Ok(()) };
        self.counts.generated_tokens += score.as_ref().map_or(0, |score| score.tokens);
        scores.scores[index] = Some(score);
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
        let scores: Vec<Result<Score>> = scores.into_iter().flatten().collect();
        let mut answer = name.answer();
        answer["prompt_tokens"] = prompt_tokens.into();
        let shown = |score: &Result<Score>| match score {
            Ok(score) => score.json(),
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
