//! Several tokens a pass without a second model: the next tokens are guessed from the text so far and from the model's
//! draft table, and one pass gives the logits after every guessed token. In a Block Transformer that is a pass of the
//! token decoder, and a guess ends with the block. Where a block is a single token, it is a pass of the block decoder,
//! and a guess is added with a token.
//!
//! A token is always sampled from the model's own logits, as it would be without speculation, and these do not depend
//! on what else is in the pass. A guess only decides whether the logits of the next token are at hand by then, so what
//! is guessed, and how often, changes the speed and never the text.

use std::time::Instant;

use super::drafter::REMEMBERED;
use super::guesser::{Guess, Guesser};
use super::pass_times::Times;
use super::sampler::Draws;
use crate::error::Result;
use crate::model::Model;
use crate::session::Session;

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

/// Texts that are written at a time, at most, while tokens are guessed. With more, the columns fill a pass anyway, and
/// a guess of each hardly ever comes true at once.
pub(crate) const MAX_TEXTS: usize = 4;

/// Guesses for one session, and what is known about their worth.
pub(crate) struct Speculation {
    mode: Speculate,
    guesser: Guesser,
    /// Of passes that open a block, and of others.
    times: [Times; 2],
    /// Tokens that can be guessed when one is added: none, unless blocks are single tokens.
    max_ahead: usize,
    /// Guesses and seconds of the pass that added the last token, if it is the first half of one.
    added: Option<(usize, f64)>,
    drafts: Vec<Guess>,
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
            guesser: Guesser::new(model)?,
            times: [Times::new(rows), Times::new(rows)],
            max_ahead: config.guesses_ahead(),
            added: None,
            drafts: Vec::with_capacity(rows),
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
        self.guesser.restart(text);
    }

    /// Notes tokens that were given.
    pub(crate) fn extend(&mut self, tokens: &[u32]) {
        self.added = None;
        self.guesser.extend(tokens);
    }

    /// Notes a token that was sampled.
    pub(crate) fn accept(&mut self, token: u32) {
        self.counts.tokens += 1;
        self.guesser.accept(token);
    }

    /// The logits of the session's next token, `[vocabulary]`, and maybe of those after it. `draws` are the numbers that
    /// these tokens will be drawn with, if they are drawn.
    ///
    /// # Errors
    /// As [`Session::logits`].
    pub(crate) fn logits<'s>(&mut self, session: &'s mut Session, draws: Option<Draws>) -> Result<&'s [f32]> {
        self.guesser.draws = draws;
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
            None if self.max_ahead > 0 => self.counts.passes += 1,
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
        if self.max_ahead == 0 || session.takes_ahead(token) {
            session.append(&[token])?;
            self.accept(token);
            return Ok(());
        }
        self.accept(token);
        // A caller that samples by itself does not use the sampler's numbers.
        let draws = draws.filter(|_| self.guesser.draws.is_some());
        self.draft(0, self.max_ahead, draws);
        let started = Instant::now();
        let result = session.append_with_guess(token, &self.guess);
        self.added = Some((self.guess.len(), started.elapsed().as_secs_f64()));
        result.inspect_err(|_| {
            self.counts.tokens -= 1;
            self.restart(&session.recent(REMEMBERED));
        })
    }

    /// Notes a pass with guesses.
    fn note(&mut self, inside: usize, guesses: usize, seconds: f64) {
        let step = self.step().plain();
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
        self.guesser.guess(most, draws, &mut self.drafts);
        let count = match auto {
            true => times.depth(&[(0, &self.drafts)], self.step().plain()),
            false => self.drafts.len(),
        };
        self.guess.extend(self.drafts[..count].iter().map(|guess| guess.token));
    }

    /// Times of the pass that a guess which comes true saves.
    fn step(&self) -> &Times {
        &self.times[usize::from(self.max_ahead == 0)]
    }
}
