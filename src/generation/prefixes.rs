//! Prefixes: the caches of texts that have ended, from which a prompt that begins alike is not read again.

use std::collections::VecDeque;

use crate::session::Sequence;

/// Blocks that a prompt must have in common with another text: less is read as fast as it is copied.
pub(super) const LEAST: u64 = 4;

/// The use of the prefixes that a batch keeps ([`crate::BatchOptions::prefix_cache`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixCounts {
    /// Prompts of which a part was not read.
    pub hits: u64,
    /// Tokens of those parts.
    pub tokens: u64,
    /// Bytes of the sequences that are kept.
    pub bytes: u64,
}

/// Sequences that are kept, the one that was used last at the end.
pub(super) struct Prefixes {
    limit: u64,
    kept: VecDeque<(Sequence, u64)>,
    counts: PrefixCounts,
}

impl Prefixes {
    /// Room for sequences of `limit` bytes in all; 0 keeps none.
    pub(super) fn new(limit: u64) -> Prefixes {
        Prefixes { limit, kept: VecDeque::new(), counts: PrefixCounts::default() }
    }

    pub(super) fn is_on(&self) -> bool {
        self.limit > 0
    }

    pub(super) fn counts(&self) -> PrefixCounts {
        self.counts
    }

    /// Keeps a sequence of this size, and forgets those that it replaces.
    pub(super) fn keep(&mut self, sequence: Sequence, bytes: u64) {
        if bytes > self.limit || sequence.blocks() < LEAST || !sequence.is_complete() {
            return;
        }
        if let Some(place) = self.kept.iter().position(|(kept, _)| kept.begins_with(&sequence)) {
            self.touch(place);
            return;
        }
        self.kept.retain(|(kept, _)| !sequence.begins_with(kept));
        self.kept.push_back((sequence, bytes));
        self.count();
        while self.counts.bytes > self.limit && self.forget() {}
    }

    /// Forgets the sequence that has not been used for the longest time; whether there was one.
    pub(super) fn forget(&mut self) -> bool {
        let forgotten = self.kept.pop_front().is_some();
        self.count();
        forgotten
    }

    /// Lets a new sequence begin as a text that is kept or one of `running`, as far as a prompt agrees with it. Gives the number
    /// of tokens of the prompt that need not be read.
    pub(super) fn begin<'s>(
        &mut self,
        sequence: &mut Sequence,
        prompt: &[u32],
        running: impl Iterator<Item = &'s Sequence>,
    ) -> usize {
        if !self.is_on() {
            return 0;
        }
        let of = |other: &Sequence| sequence.shared(other, prompt);
        let kept = self.kept.iter().enumerate().map(|(place, (other, _))| (of(other), Some(place)));
        let best = kept.max_by_key(|((blocks, _), _)| *blocks);
        let other = running.map(|other| (of(other), other)).max_by_key(|((blocks, _), _)| *blocks);
        let kept_blocks = best.map_or(0, |((blocks, _), _)| blocks);
        let tokens = match other {
            Some(((blocks, tokens), other)) if blocks > kept_blocks && blocks >= LEAST => {
                sequence.begin_as(other, blocks);
                tokens
            }
            _ => match best {
                Some(((blocks, tokens), Some(place))) if blocks >= LEAST => {
                    sequence.begin_as(&self.kept[place].0, blocks);
                    self.touch(place);
                    tokens
                }
                _ => return 0,
            },
        };
        self.counts.hits += 1;
        self.counts.tokens += tokens as u64;
        tokens
    }

    fn touch(&mut self, place: usize) {
        if let Some(used) = self.kept.remove(place) {
            self.kept.push_back(used);
        }
    }

    fn count(&mut self) {
        self.counts.bytes = self.kept.iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes));
    }
}
