//! A text of a batch while its prompt is read and its tokens are generated.

use std::sync::Arc;

use super::completion::{Completion, End, Step, Token};
use super::constraint::Constraint;
use super::drafter::REMEMBERED;
use super::guesser::{Guess, Guesser};
use super::request::Event;
use super::sampler::Sampler;
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::session::{Logits, Sequence};

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
    /// The token that was chosen last, until the text takes it.
    pub(super) choice: Option<Result<Choice>>,
    /// That token, if it completes the block and waits for the pass of the block decoder.
    pub(super) pending: Option<u32>,
    /// What guesses its tokens, if that is done at present.
    pub(super) guesser: Option<Guesser>,
    /// Tokens that might be guessed.
    pub(super) drafts: Vec<Guess>,
    /// Those that are, in the pass under way.
    pub(super) guess: Vec<u32>,
}

/// A token that a text has chosen.
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

    /// Whether tokens are generated.
    pub(super) fn is_writing(&self) -> bool {
        !self.left && !self.is_reading()
    }

    /// Whether it takes part in the next pass of the token decoder: its block is not about to be complete.
    pub(super) fn needs_logits(&self) -> bool {
        self.is_writing() && self.pending.is_none()
    }

    /// Tokens that it has still to choose in its open block.
    pub(super) fn left_in_block(&self) -> usize {
        self.sequence.left_in_block().min(self.completion.left()).max(1)
    }

    /// Drafts guesses at up to `most` of the tokens after the next `ahead`, which are chosen but not taken. Without a
    /// guesser there is no memory for them.
    pub(super) fn draft(&mut self, ahead: usize, most: usize) {
        self.drafts.clear();
        let Some(guesser) = &self.guesser else { return };
        // The last token of a text is followed by none.
        let most = most.min(self.completion.left().saturating_sub(ahead + 1));
        match self.forced.get(self.completion.count() + ahead..) {
            // These are no guesses.
            Some(forced) if !forced.is_empty() => {
                let sure = |token: &u32| Guess { token: *token, rate: 1.0 };
                self.drafts.extend(forced.iter().take(most).map(sure));
            }
            _ => guesser.guess(most, self.sampler.draws(), &mut self.drafts),
        }
    }

    /// Guesses the first `count` tokens that were drafted.
    pub(super) fn take_drafts(&mut self, count: usize) {
        self.guess.clear();
        self.guess.extend(self.drafts.iter().take(count).map(|guess| guess.token));
    }

    /// Ends the text if that was asked for, or if a limit forbids another token.
    pub(super) fn check_end(&mut self, each: &mut impl FnMut(u64, Event)) {
        if self.interrupt.check().is_err() {
            self.finish(End::Caller, each);
        } else if let Some(end) = self.completion.limit() {
            self.finish(end, each);
        }
    }

    /// Chooses tokens from the logits of a pass, of which row `first` is that of the next token, as long as the guess
    /// comes true, and takes them. One that completes the block waits for the block decoder instead.
    pub(super) fn draw(&mut self, logits: &Logits<'_>, first: usize, each: &mut impl FnMut(u64, Event)) {
        for index in 0..=self.guess.len() {
            if index > 0 {
                self.check_end(each);
                if self.left {
                    return;
                }
            }
            let Some(token) = self.choose(logits.row(first + index)) else {
                return self.take_choice(false, each);
            };
            if !self.sequence.add(token) {
                self.pending = Some(token);
                return;
            }
            let guessed = self.guess.get(index) == Some(&token);
            self.take_choice(guessed, each);
            if self.left || !guessed {
                return;
            }
        }
    }

    /// Takes what was chosen: a token, which may have been guessed, the end of the text, or a failure.
    pub(super) fn take_choice(&mut self, guessed: bool, each: &mut impl FnMut(u64, Event)) {
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
        each(self.id, Event::Step(Step { token: Some(token), text: passed.text, guessed }));
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
                    each(self.id, Event::Step(Step { token: None, text: passed.text, guessed: false }));
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

    /// Chooses a token, and returns it unless it is the last of its text, which is not added. Logits that are not finite
    /// end this text alone.
    fn choose(&mut self, logits: Result<&[f32]>) -> Option<u32> {
        let logits = match logits {
            Ok(logits) => logits,
            Err(error) => {
                self.choice = Some(Err(error));
                return None;
            }
        };
        let random = self.sampler.state().0;
        let draws = self.sampler.draws();
        let forced = self.forced.get(self.completion.count()).copied();
        let id = match forced {
            Some(id) => Ok(Some(id)),
            None => self.sampler.sample_within(logits, self.constraint.as_deref_mut()),
        };
        let token = id.and_then(|id| match id.filter(|id| !self.completion.ends(*id)) {
            None => Ok(None),
            Some(id) => self.completion.token(id, logits).map(Some),
        });
        let id = token.as_ref().ok().and_then(Option::as_ref).map(|token| token.id);
        self.choice = Some(token.map(|token| Choice { random, token }));
        if let (Some(guesser), Some(id)) = (&mut self.guesser, id) {
            match forced {
                Some(_) => guesser.extend(&[id]),
                None => {
                    guesser.draws = draws;
                    guesser.accept(id);
                }
            }
        }
        id.filter(|_| !self.completion.is_last())
    }

    /// Takes the choice of a token back that waits for the block decoder, and lets logits be computed again.
    pub(super) fn undo(&mut self) {
        if let Some(Ok(choice)) = self.choice.take() {
            self.sampler.undo(choice.random);
        }
        if self.pending.take().is_some()
            && let Some(guesser) = &mut self.guesser
        {
            guesser.restart(&self.sequence.recent(REMEMBERED));
        }
        self.sequence.reopen();
    }
}
