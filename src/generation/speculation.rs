//! Several tokens a pass without a second model: the next tokens are guessed from the text so far and from the model's
//! draft table, and one pass gives the logits after every guessed token. In a Block Transformer that is a pass of the
//! token decoder, and a guess ends with the block. Where a block is a single token, it is a pass of the block decoder,
//! and a guess is added with a token.
//!
//! A token is always sampled from the model's own logits, as it would be without speculation, and these do not depend
//! on what else is in the pass. A guess only decides whether the logits of the next token are at hand by then, so what
//! is guessed, and how often, changes the speed and never the text.

use std::time::Instant;

use super::drafter::{self, Drafter, LONGEST_MATCH};
use super::sampler::Draws;
use super::table_drafter::TableDrafter;
use crate::error::Result;
use crate::model::Model;
use crate::session::Session;

/// No guess, which is less probable than any.
const NO_GUESS: (u32, f64) = (u32::MAX, -1.0);

/// Whether tokens are guessed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speculate {
    /// Where it saves time, going by how often guesses came true and how long passes took.
    #[default]
    Auto,
    /// Wherever there is a guess.
    On,
    /// Never.
    Off,
}

impl Speculate {
    /// All of them.
    pub const ALL: [Speculate; 3] = [Speculate::Auto, Speculate::On, Speculate::Off];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Speculate::Auto => "auto",
            Speculate::On => "on",
            Speculate::Off => "off",
        }
    }

    /// The one with a name.
    pub fn from_name(name: &str) -> Option<Speculate> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

/// What speculation has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpeculationCounts {
    /// Passes that computed logits.
    pub passes: u64,
    /// Tokens that were chosen from their logits.
    pub tokens: u64,
    /// Tokens that were guessed and computed.
    pub guessed: u64,
}

impl SpeculationCounts {
    /// Tokens a pass; 1 before the first.
    pub fn tokens_per_pass(&self) -> f64 {
        if self.passes == 0 { 1.0 } else { self.tokens as f64 / self.passes as f64 }
    }
}

/// Bytes beside the logits.
pub(crate) const BYTES: usize = drafter::BYTES;

/// What a guessed column is taken to cost before it was measured, in passes of one token.
const COLUMN: f64 = 0.08;
/// Weight of one more outcome in the rate at which guesses come true.
const OUTCOME: f64 = 1.0 / 16.0;
/// Weight of one more time in that of a pass.
const TIME: f64 = 1.0 / 8.0;
/// How fast times that are not measured any more are forgotten, a pass.
const FORGETTING: f64 = 1.0 / 256.0;
/// No pass is taken to be more than this many times slower than those before it: someone else had the processor.
const SLOWEST: f64 = 1.5;

/// Seconds of passes with that number of guesses.
#[derive(Default)]
struct Times {
    seconds: Vec<f64>,
    /// Passes without guesses. The first one is not counted: it may wait for memory.
    measured: usize,
}

impl Times {
    fn new(rows: usize) -> Times {
        Times { seconds: vec![0.0; rows], measured: 0 }
    }

    fn known(&self) -> bool {
        self.measured > 1
    }

    /// Notes a pass. `step` is the time of a pass of one token.
    fn note(&mut self, guesses: usize, seconds: f64, step: f64) {
        self.measured += usize::from(guesses == 0);
        if guesses == 0 && self.measured <= 2 {
            self.seconds[0] = seconds;
            let step = if step > 0.0 { step } else { seconds };
            for guesses in 1..self.seconds.len() {
                self.seconds[guesses] = seconds + guesses as f64 * COLUMN * step;
            }
            return;
        }
        let base = self.seconds[0];
        for (count, known) in self.seconds.iter_mut().enumerate() {
            if count == guesses {
                *known += TIME * (seconds.min(SLOWEST * *known) - *known);
            } else if count > 0 {
                *known += FORGETTING * (base + count as f64 * COLUMN * step - *known);
            }
        }
    }
}

/// Guesses for one session, and what is known about their worth.
pub(crate) struct Speculation {
    mode: Speculate,
    drafter: Drafter,
    table: TableDrafter,
    /// The numbers that the next token and those after it are drawn with, as far as that is known.
    draws: Option<Draws>,
    /// How often a guess came true, by the length of the match that it comes from.
    rates: [f64; LONGEST_MATCH + 1],
    /// Of passes that open a block, and of others.
    times: [Times; 2],
    /// Tokens that can be guessed when one is added: none, unless blocks are single tokens.
    most_ahead: usize,
    /// Guesses and seconds of the pass that added the last token, if it is the first half of one.
    added: Option<(usize, f64)>,
    guess: Vec<u32>,
    counts: SpeculationCounts,
}

impl Speculation {
    /// No guesses yet.
    ///
    /// # Errors
    /// If its memory cannot be allocated.
    pub(crate) fn new(model: &Model) -> Result<Speculation> {
        let config = model.config();
        let rows = config.logits_a_pass();
        Ok(Speculation {
            mode: Speculate::default(),
            drafter: Drafter::new()?,
            table: TableDrafter::new(model.draft().cloned()),
            draws: None,
            rates: std::array::from_fn(|matching| matching as f64 / (matching + 4) as f64),
            times: [Times::new(rows), Times::new(rows)],
            most_ahead: config.guesses_ahead(),
            added: None,
            guess: Vec::with_capacity(rows),
            counts: SpeculationCounts::default(),
        })
    }

    pub(crate) fn mode(&self) -> Speculate {
        self.mode
    }

    pub(crate) fn set_mode(&mut self, mode: Speculate) {
        self.mode = mode;
    }

    pub(crate) fn counts(&self) -> SpeculationCounts {
        self.counts
    }

    /// Forgets the text, but not what was learned about speed, and begins with another one.
    pub(crate) fn restart(&mut self, text: &[u32]) {
        self.added = None;
        self.drafter.clear();
        self.drafter.extend(text);
    }

    /// Notes tokens that were given.
    pub(crate) fn extend(&mut self, tokens: &[u32]) {
        self.added = None;
        self.drafter.extend(tokens);
    }

    /// Notes a token that was sampled.
    pub(crate) fn accept(&mut self, token: u32) {
        self.counts.tokens += 1;
        // What would have been guessed is known also where nothing was: learning costs no pass.
        if let Some(guess) = self.drafter.next() {
            let rate = &mut self.rates[self.drafter.matching()];
            *rate += OUTCOME * (f64::from(u8::from(guess == token)) - *rate);
        }
        let draw = self.draws.map(|draws| draws.nth(0));
        self.table.learn(self.drafter.last_two(), draw, token);
        self.drafter.extend(&[token]);
    }

    /// The logits of the session's next token, `[vocabulary]`, and maybe of those after it. `draws` are the numbers that
    /// these tokens will be drawn with, if they are drawn.
    ///
    /// # Errors
    /// As [`Session::logits`].
    pub(crate) fn logits<'s>(&mut self, session: &'s mut Session, draws: Option<Draws>) -> Result<&'s [f32]> {
        self.draws = draws;
        if session.has_logits() {
            return session.logits();
        }
        let inside = usize::from(session.is_inside_block());
        self.draft(inside, session.left_in_block() - 1, draws);
        let started = Instant::now();
        session.logits_with_guess(&self.guess)?;
        let seconds = started.elapsed().as_secs_f64();
        let guesses = self.guess.len();
        match self.added.take() {
            Some((guesses, before)) => self.note(inside, guesses, before + seconds),
            // The block decoder had its pass with other tokens.
            None if self.most_ahead > 0 => self.counts.passes += 1,
            None => self.note(inside, guesses, seconds),
        }
        session.logits()
    }

    /// Adds a token that was sampled. Where a pass for that can take guesses, it does. `draws` are the numbers that the
    /// tokens after it will be drawn with, if they are drawn.
    ///
    /// # Errors
    /// As [`Session::append`]; then nothing was added.
    pub(crate) fn append(&mut self, session: &mut Session, token: u32, draws: Option<Draws>) -> Result<()> {
        if self.most_ahead == 0 || session.takes_ahead(token) {
            session.append(&[token])?;
            self.accept(token);
            return Ok(());
        }
        self.accept(token);
        // A caller that samples by itself does not use the sampler's numbers.
        let draws = draws.filter(|_| self.draws.is_some());
        self.draft(0, self.most_ahead, draws);
        let started = Instant::now();
        let result = session.append_with_guess(token, &self.guess);
        self.added = Some((self.guess.len(), started.elapsed().as_secs_f64()));
        result.inspect_err(|_| {
            self.counts.tokens -= 1;
            self.restart(&session.recent(drafter::REMEMBERED));
        })
    }

    /// Notes a pass with guesses.
    fn note(&mut self, inside: usize, guesses: usize, seconds: f64) {
        let step = self.step().seconds[0];
        self.times[inside].note(guesses, seconds, step);
        self.counts.passes += 1;
        self.counts.guessed += guesses as u64;
    }

    /// Guesses up to `most` tokens. With `auto`, as many as save most time, none if none do: each one that comes true
    /// with those before it saves a pass of one token.
    fn draft(&mut self, inside: usize, most: usize, draws: Option<Draws>) {
        self.guess.clear();
        let times = &self.times[inside];
        let auto = self.mode == Speculate::Auto;
        if self.mode == Speculate::Off || auto && !(times.known() && self.step().known()) {
            return;
        }
        let step = self.step().seconds[0];
        let matching = self.drafter.matching();
        // The continuation in the text, as long as the guess agrees with it.
        let mut text = Some(self.drafter.draft());
        let (mut before, mut last) = self.drafter.last_two();
        let (mut true_so_far, mut saved) = (1.0, 0.0);
        let mut best = (0, 0.0);
        for count in 1..=most {
            let repeated = text.as_mut().and_then(Iterator::next);
            let rate = self.rates[(matching + count - 1).min(LONGEST_MATCH)];
            let from_text = repeated.map_or(NO_GUESS, |token| (token, rate));
            let draw = draws.map(|draws| draws.nth(count - 1));
            let from_table = self.table.guess((before, last), draw).unwrap_or(NO_GUESS);
            let (token, rate) = if from_table.1 > from_text.1 { from_table } else { from_text };
            if rate < 0.0 {
                break;
            }
            if from_text.0 != token {
                text = None;
            }
            (before, last) = (last, Some(token));
            self.guess.push(token);
            true_so_far *= rate;
            saved += true_so_far * step;
            let gain = saved - (times.seconds[count] - times.seconds[0]);
            if gain > best.1 {
                best = (count, gain);
            }
        }
        if auto {
            self.guess.truncate(best.0);
        }
    }

    /// Times of the pass that a guess which comes true saves.
    fn step(&self) -> &Times {
        &self.times[usize::from(self.most_ahead == 0)]
    }
}
