//! A text of a batch while its prompt is read and its tokens are generated.

use std::sync::Arc;

use super::completion::{Completion, End, Step, Token};
use super::constraint::Constraint;
use super::request::Event;
use super::sampler::Sampler;
use super::step::Writer;
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::session::Sequence;

/// A text that is being read or written.
pub(super) struct Running {
    pub(super) id: u64,
    pub(super) sequence: Sequence,
    pub(super) sampler: Sampler,
    pub(super) completion: Completion<Arc<Tokenizer>>,
    /// Tokens of the prompt, and how many of them have been read.
    pub(super) prompt: Vec<u32>,
    pub(super) read: usize,
    pub(super) forced: Vec<u32>,
    pub(super) constraint: Option<Box<dyn Constraint>>,
    pub(super) interrupt: Interrupt,
    pub(super) bytes: u64,
    pub(super) left: bool,
    /// Whether it has left by an error.
    pub(super) failed: bool,
    /// The outcome of the step under way, if it takes part in it.
    pub(super) choice: Option<Result<Choice>>,
}

/// A token that a text has chosen in the step under way.
pub(super) struct Choice {
    /// The state of the sampler before.
    pub(super) random: u64,
    /// `None` for the token that ends a text.
    pub(super) token: Option<Token>,
}

impl Running {
    pub(super) fn is_reading(&self) -> bool {
        self.read < self.prompt.len()
    }

    /// Whether it is its turn when the open blocks have `position` tokens.
    pub(super) fn writes_at(&self, position: usize) -> bool {
        !self.left && !self.is_reading() && self.sequence.position_in_block() == position
    }

    /// Takes the outcome of a step: a token, the end of the text, or a failure.
    pub(super) fn take_choice(&mut self, each: &mut impl FnMut(u64, Event)) {
        let token = match self.choice.take() {
            None => return,
            Some(Err(error)) => return self.fail(error, each),
            Some(Ok(choice)) => choice.token,
        };
        let Some(token) = token else { return self.finish(End::EndOfText, each) };
        self.sampler.accept(token.id);
        if let Some(constraint) = &mut self.constraint
            && let Err(error) = constraint.accept(token.id)
        {
            return self.fail(error, each);
        }
        let passed = match self.completion.push(token.id) {
            Ok(passed) => passed,
            Err(error) => return self.fail(error, each),
        };
        each(self.id, Event::Step(Step { token: Some(token), text: passed.text }));
        if passed.stopped {
            self.leave(End::Stop, each);
        } else if let Some(end) = self.completion.limit() {
            self.finish(end, each);
        }
    }

    /// Ends the text with what was held back of it.
    pub(super) fn finish(&mut self, end: End, each: &mut impl FnMut(u64, Event)) {
        match self.completion.finish() {
            Ok(passed) => {
                if !passed.text.is_empty() {
                    each(self.id, Event::Step(Step { token: None, text: passed.text }));
                }
                self.leave(if passed.stopped { End::Stop } else { end }, each);
            }
            Err(error) => self.fail(error, each),
        }
    }

    /// Tokens of the prompt that another one begins with as well and that this text will read, but has not.
    pub(super) fn will_share(&self, prompt: &[u32]) -> usize {
        let common = self.prompt.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        if self.is_reading() { common.saturating_sub(self.read) } else { 0 }
    }

    fn leave(&mut self, end: End, each: &mut impl FnMut(u64, Event)) {
        self.left = true;
        each(self.id, Event::Ended(end, self.completion.count()));
    }

    pub(super) fn fail(&mut self, error: Error, each: &mut impl FnMut(u64, Event)) {
        (self.left, self.failed) = (true, true);
        each(self.id, Event::Failed(error));
    }
}

impl Writer for Running {
    fn sequence(&mut self) -> &mut Sequence {
        &mut self.sequence
    }

    /// Chooses a token, but adds none that is the last of its text. Logits that are not finite end this text alone.
    fn choose(&mut self, logits: Option<Result<&[f32]>>) -> Result<Option<u32>> {
        let logits = match logits {
            Some(Ok(logits)) => logits,
            Some(Err(error)) => {
                self.choice = Some(Err(error));
                return Ok(None);
            }
            None => return Ok(None),
        };
        let random = self.sampler.state().0;
        let id = match self.forced.get(self.completion.count()) {
            Some(id) => Ok(Some(*id)),
            None => self.sampler.sample_within(logits, self.constraint.as_deref_mut()),
        };
        let token = id.and_then(|id| match id.filter(|id| !self.completion.ends(*id)) {
            None => Ok(None),
            Some(id) => self.completion.token(id, logits).map(Some),
        });
        self.choice = Some(token.map(|token| Choice { random, token }));
        let token = self.choice.iter().flatten().find_map(|choice| choice.token.as_ref());
        Ok(token.map(|token| token.id).filter(|_| !self.completion.is_last()))
    }

    fn undo(&mut self) {
        if let Some(Ok(choice)) = self.choice.take() {
            self.sampler.undo(choice.random);
        }
        self.sequence.reopen();
    }
}
