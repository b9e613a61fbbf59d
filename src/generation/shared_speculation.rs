//! Speculation for texts that are written together, while they are few.
//!
//! All texts share the passes of a block, which has as many as the text with most of them. So all guess as far from the
//! end of their blocks as the others, and a pass is saved if all of them guess right. A text that is further on needs no
//! guesses until the others have come as far. Where blocks are single tokens, no text waits for another: each one that
//! comes true saves its text a pass of the block decoder.

use super::estimate;
use super::guesser::{Guess, Guesser};
use super::pass_times::Times;
use super::running::Running;
use super::speculation::{MAX_TEXTS, Speculate, SpeculationCounts};
use crate::model::Model;

/// A pass that is under way: its texts, its guesses, and whether it opens no block.
#[derive(Clone, Copy)]
pub(super) struct PassShape {
    texts: usize,
    guesses: usize,
    inside: bool,
}

/// Guessers that are lent to texts, and what is known about their worth.
pub(super) struct SharedSpeculation {
    mode: Speculate,
    /// Those that no text has now.
    idle: Vec<Guesser>,
    /// Guessers in all.
    count: usize,
    /// Bytes of each.
    bytes: u64,
    /// By the number of texts of a pass, less 1: of passes that open a block, and of others.
    times: Vec<[Times; 2]>,
    /// Tokens that can be guessed when one is added: none, unless blocks are single tokens.
    max_ahead: usize,
    /// The pass of the block decoder that is the first half of one, and its seconds.
    added: Option<(PassShape, f64)>,
    counts: SpeculationCounts,
}

impl SharedSpeculation {
    /// No guessers yet.
    pub(super) fn new(model: &Model, mode: Speculate) -> SharedSpeculation {
        let config = model.config();
        let rows = |texts: usize| 1 + config.guesses_ahead() + texts * (config.block_length - 1);
        SharedSpeculation {
            mode,
            idle: Vec::new(),
            count: 0,
            bytes: estimate::of_guesses(model),
            times: (1..=MAX_TEXTS).map(|texts| [Times::new(rows(texts)), Times::new(rows(texts))]).collect(),
            max_ahead: config.guesses_ahead(),
            added: None,
            counts: SpeculationCounts::default(),
        }
    }

    pub(super) fn counts(&self) -> SpeculationCounts {
        self.counts
    }

    /// Bytes of all guessers.
    pub(super) fn bytes(&self) -> u64 {
        self.count as u64 * self.bytes
    }

    /// Whether so few texts guess.
    pub(super) fn suits(&self, texts: usize) -> bool {
        self.mode != Speculate::Off && (1..=MAX_TEXTS).contains(&texts)
    }

    /// Bytes that another text would take to guess: none if there is a guesser that no text has.
    pub(super) fn next_bytes(&self) -> u64 {
        if self.idle.is_empty() { self.bytes } else { 0 }
    }

    /// A guesser for a text, which gives it back at its end; `None` if there is no memory for one.
    pub(super) fn lend(&mut self, model: &Model, text: &[u32]) -> Option<Guesser> {
        let mut guesser = match self.idle.pop() {
            Some(guesser) => guesser,
            None => {
                // Without it, tokens are not guessed.
                let guesser = Guesser::new(model).ok()?;
                self.count += 1;
                guesser
            }
        };
        guesser.restart(text);
        Some(guesser)
    }

    /// Ends all guessing, for want of memory.
    pub(super) fn turn_off(&mut self) {
        self.mode = Speculate::Off;
    }

    /// Takes a guesser back.
    pub(super) fn take_back(&mut self, guesser: Option<Guesser>) {
        self.idle.extend(guesser);
    }

    /// Gives up the memory of all guessers, which no text has.
    pub(super) fn clear(&mut self) {
        self.idle = Vec::new();
        self.count = 0;
    }

    /// Lets texts guess the tokens that a pass computes logits after, and gives the shape of that pass.
    pub(super) fn guess(&self, texts: &mut [&mut Running]) -> PassShape {
        let inside = texts.iter().all(|text| text.sequence.is_opened());
        let most = texts.iter().map(|text| text.left_in_block()).max().unwrap_or(0);
        for text in &mut *texts {
            text.guess.clear();
            // Those whose blocks are computed already.
            text.guess.extend(text.sequence.guessed());
        }
        if self.max_ahead == 0 && most > 1 && self.suits(texts.len()) {
            self.guess_inside(texts, most, inside);
        }
        let guesses = texts.iter().map(|text| text.guess.len()).sum();
        PassShape { texts: texts.len(), guesses, inside }
    }

    /// Lets texts, of which one has `most` tokens left in its block, guess inside the block.
    fn guess_inside(&self, texts: &mut [&mut Running], most: usize, inside: bool) {
        let [opening, step] = &self.times[texts.len() - 1];
        let times = if inside { step } else { opening };
        let auto = self.mode == Speculate::Auto;
        if auto && !(times.known() && step.known()) {
            return;
        }
        for text in &mut *texts {
            text.draft(0, text.left_in_block() - 1);
        }
        let depth = match auto {
            true => {
                let drafts = texts.iter().map(|text| (most - text.left_in_block(), &text.drafts[..]));
                times.depth(&drafts.collect::<Vec<_>>(), step.plain())
            }
            false => most,
        };
        for text in texts {
            let count = depth.saturating_sub(most - text.left_in_block());
            text.take_drafts(count);
        }
    }

    /// Lets texts guess the tokens after those that a pass of the block decoder is about to add, and gives the shape of
    /// that pass. Only where blocks are single tokens.
    pub(super) fn guess_ahead(&self, texts: &mut [&mut Running]) -> PassShape {
        texts.iter_mut().for_each(|text| text.guess.clear());
        if self.max_ahead > 0 && self.suits(texts.len()) {
            let times = &self.times[texts.len() - 1][0];
            let auto = self.mode == Speculate::Auto;
            if !auto || times.known() {
                // All together as many as one text alone.
                let most = self.max_ahead / texts.len();
                texts.iter_mut().for_each(|text| text.draft(1, most));
                let drafts: Vec<&[Guess]> = texts.iter().map(|text| &text.drafts[..]).collect();
                let counts = match auto {
                    true => times.shares(&drafts, times.plain()),
                    false => drafts.iter().map(|drafts| drafts.len()).collect(),
                };
                texts.iter_mut().zip(counts).for_each(|(text, count)| text.take_drafts(count));
            }
        }
        let guesses = texts.iter().map(|text| text.guess.len()).sum();
        PassShape { texts: texts.len(), guesses, inside: false }
    }

    /// Notes the seconds of the pass of the block decoder that [`SharedSpeculation::guess_ahead`] has described.
    pub(super) fn note_added(&mut self, pass: PassShape, seconds: f64) {
        self.added = (self.max_ahead > 0).then_some((pass, seconds));
    }

    /// Notes the seconds of a pass that [`SharedSpeculation::guess`] has described.
    pub(super) fn note(&mut self, pass: PassShape, seconds: f64) {
        self.counts.passes += 1;
        self.counts.guessed += pass.guesses as u64;
        let measured = match (self.max_ahead > 0, self.added.take()) {
            (false, _) => Some((pass, seconds)),
            // The second half of a pass of the same texts.
            (true, Some((first, before))) if first.texts == pass.texts => Some((first, before + seconds)),
            (true, _) => None,
        };
        let Some((pass, seconds)) = measured.filter(|(pass, _)| self.suits(pass.texts)) else { return };
        let times = &mut self.times[pass.texts - 1];
        let step = times[usize::from(self.max_ahead == 0)].plain();
        times[usize::from(pass.inside)].note(pass.guesses, seconds, step);
    }

    /// Notes tokens that were chosen.
    pub(super) fn note_tokens(&mut self, tokens: usize) {
        self.counts.tokens += tokens as u64;
    }
}
