//! Guesses how a text goes on: as it did after the last place that ended with the same tokens.

use crate::error::Result;
use crate::memory::{grow, reserve};

/// Tokens that are remembered at least; at most twice as many.
pub(crate) const REMEMBERED: usize = 1 << 13;
/// Slots of the index of each order.
const SLOTS: usize = 1 << 15;
/// Lengths of the sequences that are indexed, longest first: a longer match is a better guess.
const ORDERS: [usize; 3] = [4, 2, 1];
/// Longer matches are not told apart.
pub(crate) const LONGEST_MATCH: usize = 16;

/// The last tokens of a text and where their sequences were seen last. All its memory is allocated when it is made.
pub(crate) struct Drafter {
    tokens: Vec<u32>,
    /// For each order and hash, how many tokens the text had after the last such sequence; 0 is none.
    index: [Vec<u32>; ORDERS.len()],
    /// Where the text would go on if it repeats itself, and how many tokens before it match its end.
    source: Option<(usize, usize)>,
}

/// Bytes of a drafter.
pub(crate) const BYTES: usize = 4 * (2 * REMEMBERED + ORDERS.len() * SLOTS);

impl Drafter {
    /// A drafter without a text.
    ///
    /// # Errors
    /// If its memory cannot be allocated.
    pub(crate) fn new() -> Result<Drafter> {
        let mut drafter = Drafter { tokens: Vec::new(), index: Default::default(), source: None };
        reserve(&mut drafter.tokens, 2 * REMEMBERED, "tokens for guesses")?;
        for index in &mut drafter.index {
            grow(index, SLOTS, "an index for guesses")?;
        }
        Ok(drafter)
    }

    pub(crate) fn clear(&mut self) {
        self.tokens.clear();
        self.index.iter_mut().for_each(|index| index.fill(0));
        self.source = None;
    }

    /// Adds tokens to the text.
    pub(crate) fn extend(&mut self, tokens: &[u32]) {
        // What would leave again at once need not be indexed.
        let start = tokens.len().saturating_sub(2 * REMEMBERED);
        tokens[start..].iter().for_each(|token| self.push(*token));
    }

    fn push(&mut self, token: u32) {
        if self.tokens.len() == 2 * REMEMBERED {
            self.forget();
        }
        self.tokens.push(token);
        let end = self.tokens.len();
        self.source = None;
        for (order, index) in ORDERS.into_iter().zip(&mut self.index) {
            let Some(start) = end.checked_sub(order) else { continue };
            let slot = &mut index[hash(&self.tokens[start..])];
            let found = std::mem::replace(slot, end as u32) as usize;
            if self.source.is_none() && found > 0 {
                let matching = matching(&self.tokens, found);
                // The hashes of different sequences may be equal.
                self.source = (matching >= order).then_some((found, matching));
            }
        }
    }

    /// Keeps the younger half of the text.
    fn forget(&mut self) {
        self.tokens.drain(..REMEMBERED);
        for (order, index) in ORDERS.into_iter().zip(&mut self.index) {
            index.fill(0);
            for (start, sequence) in self.tokens.windows(order).enumerate() {
                index[hash(sequence)] = (start + order) as u32;
            }
        }
    }

    /// How many of the text's last tokens also stand before the place whose continuation [`Drafter::draft`] gives, up
    /// to [`LONGEST_MATCH`]; 0 if there is none.
    pub(crate) fn matching(&self) -> usize {
        self.source.map_or(0, |(_, matching)| matching)
    }

    /// The first token of [`Drafter::draft`].
    pub(crate) fn next(&self) -> Option<u32> {
        self.source.map(|(start, _)| self.tokens[start])
    }

    /// The two last tokens of the text, the last one second.
    pub(crate) fn last_two(&self) -> (Option<u32>, Option<u32>) {
        let mut last = self.tokens.iter().rev().copied();
        let (second, first) = (last.next(), last.next());
        (first, second)
    }

    /// The next tokens as they were after the last place that ended like this text; no end if there is one, and
    /// nothing if there is none.
    pub(crate) fn draft(&self) -> impl Iterator<Item = u32> {
        // After the end of the text, the guess itself goes on.
        let continuation = self.source.map_or(&[][..], |(start, _)| &self.tokens[start..]);
        continuation.iter().cycle().copied()
    }
}

/// How many tokens before `end` are those at the end of the text.
fn matching(tokens: &[u32], end: usize) -> usize {
    let pairs = tokens[..end].iter().rev().zip(tokens.iter().rev());
    pairs.take(LONGEST_MATCH).take_while(|(a, b)| a == b).count()
}

fn hash(sequence: &[u32]) -> usize {
    let mix = |hash: u32, token: &u32| (hash ^ token).wrapping_mul(0x9e37_79b1).rotate_left(15);
    let hash = sequence.iter().fold(0x85eb_ca6b, mix);
    (hash.wrapping_mul(0x9e37_79b1) >> (u32::BITS - SLOTS.trailing_zeros())) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(text: &[u32], count: usize) -> (usize, Vec<u32>) {
        let mut drafter = Drafter::new().unwrap();
        drafter.extend(text);
        (drafter.matching(), drafter.draft().take(count).collect())
    }

    #[test]
    fn the_longest_and_then_the_latest_match_counts() {
        assert_eq!(after(&[], 3), (0, vec![]));
        assert_eq!(after(&[1, 2, 3], 3), (0, vec![]));
        assert_eq!(after(&[1, 2, 3, 1], 2), (1, vec![2, 3]));
        assert_eq!(after(&[7, 8, 1, 5, 8, 2, 7, 8], 1), (2, vec![1]));
        assert_eq!(after(&[1, 2, 3, 4, 5, 9, 3, 4, 6, 1, 2, 3, 4], 2), (4, vec![5, 9]));
    }

    #[test]
    fn a_loop_goes_on() {
        assert_eq!(after(&[5, 6, 7, 5, 6, 7, 5, 6], 5), (5, vec![7, 5, 6, 7, 5]));
        assert_eq!(after(&[3; 40], 4), (LONGEST_MATCH, vec![3; 4]));
    }

    #[test]
    fn a_long_text_is_followed_in_constant_memory() {
        let mut drafter = Drafter::new().unwrap();
        let text = |i: usize| (i * 31 % 5003) as u32;
        let (mut found, mut all) = (0, 0);
        for i in 0..6 * REMEMBERED {
            drafter.extend(&[text(i)]);
            if i >= 5003 + LONGEST_MATCH {
                all += 1;
                // A sequence may have lost its slots to others, but then there is no guess.
                found += usize::from(
                    drafter.draft().next().inspect(|next| assert_eq!(*next, text(i + 1))).is_some(),
                );
            }
        }
        assert!(found * 100 > all * 98, "{found} of {all}");
        assert_eq!(drafter.tokens.capacity(), 2 * REMEMBERED);
        drafter.clear();
        assert_eq!((drafter.matching(), drafter.draft().next()), (0, None));
    }
}
