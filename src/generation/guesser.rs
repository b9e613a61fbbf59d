//! Guesses the next tokens of one text, and knows how often its guesses come true: from the text so far, or from the
//! model's draft table.

use super::drafter::{Drafter, LONGEST_MATCH};
use super::sampler::Draws;
use super::table_drafter::TableDrafter;
use crate::error::Result;
use crate::model::Model;

/// No guess, which is less probable than any.
const NO_GUESS: Guess = Guess { token: u32::MAX, rate: -1.0 };
/// Weight of one more outcome in the rate at which guesses come true.
const OUTCOME: f64 = 1.0 / 16.0;

/// A token that may come next if those guessed before it come true.
#[derive(Clone, Copy)]
pub(crate) struct Guess {
    pub(crate) token: u32,
    /// How often such guesses come true.
    pub(crate) rate: f64,
}

/// Guesses for one text at a time.
pub(crate) struct Guesser {
    drafter: Drafter,
    table: TableDrafter,
    /// How often a guess came true, by the length of the match that it comes from.
    rates: [f64; LONGEST_MATCH + 1],
    /// The numbers that the next token and those after it are drawn with, as far as that is known.
    pub(crate) draws: Option<Draws>,
}

impl Guesser {
    /// A guesser without a text.
    ///
    /// # Errors
    /// If its memory cannot be allocated.
    pub(crate) fn new(model: &Model) -> Result<Guesser> {
        Ok(Guesser {
            drafter: Drafter::new()?,
            table: TableDrafter::new(model.draft().cloned()),
            rates: std::array::from_fn(|matching| matching as f64 / (matching + 4) as f64),
            draws: None,
        })
    }

    /// Forgets the text, but not what was learned about guesses, and begins with another one.
    pub(crate) fn restart(&mut self, text: &[u32]) {
        self.drafter.clear();
        self.drafter.extend(text);
    }

    /// Notes tokens that were given.
    pub(crate) fn extend(&mut self, tokens: &[u32]) {
        self.drafter.extend(tokens);
    }

    /// Notes a token that was sampled.
    pub(crate) fn accept(&mut self, token: u32) {
        // What would have been guessed is known also where nothing was: learning costs no pass.
        if let Some(guess) = self.drafter.next() {
            let rate = &mut self.rates[self.drafter.matching()];
            *rate += OUTCOME * (f64::from(u8::from(guess == token)) - *rate);
        }
        let draw = self.draws.map(|draws| draws.nth(0));
        self.table.learn(self.drafter.last_two(), draw, token);
        self.drafter.extend(&[token]);
    }

    /// Guesses up to `most` tokens. `draws` are the numbers that they will be drawn with, if they are drawn.
    pub(crate) fn guess(&self, most: usize, draws: Option<Draws>, guesses: &mut Vec<Guess>) {
        guesses.clear();
        let matching = self.drafter.matching();
        // The continuation in the text, as long as the guess agrees with it.
        let mut text = Some(self.drafter.draft());
        let (mut before, mut last) = self.drafter.last_two();
        for ahead in 0..most {
            let repeated = text.as_mut().and_then(Iterator::next);
            let rate = self.rates[(matching + ahead).min(LONGEST_MATCH)];
            let from_text = repeated.map_or(NO_GUESS, |token| Guess { token, rate });
            let draw = draws.map(|draws| draws.nth(ahead));
            let from_table = self.table.guess((before, last), draw);
            let from_table = from_table.map_or(NO_GUESS, |(token, rate)| Guess { token, rate });
            let guess = if from_table.rate > from_text.rate { from_table } else { from_text };
            if guess.rate < 0.0 {
                break;
            }
            if from_text.token != guess.token {
                text = None;
            }
            (before, last) = (last, Some(guess.token));
            guesses.push(guess);
        }
    }
}
