//! Guesses a token from the model's draft table, which says how texts usually go on, and from the random number that the
//! token will be drawn with.
//!
//! A sampler puts tokens in the order of their probabilities and takes the one that its number falls on. The number is
//! known before the logits are: a low one falls on the likeliest token, a high one does not.

use std::sync::Arc;

use crate::model::{DraftEntry, DraftTable};

/// Tokens that an entry names.
const TOKENS: usize = 2;
/// Probabilities and numbers that are told apart.
const SHARES: usize = 8;
const DRAWS: usize = 8;
/// Weight of one more outcome in a rate.
const OUTCOME: f64 = 1.0 / 32.0;

/// How often each token of an entry comes true.
type Rates = [f64; TOKENS];

/// A draft table, and what is known about its worth for a text.
pub(crate) struct TableDrafter {
    table: Option<Arc<DraftTable>>,
    /// By the probability of the first token and by the number drawn; the last one is for tokens that are not drawn.
    rates: [[Rates; DRAWS + 1]; SHARES],
}

impl TableDrafter {
    pub(crate) fn new(table: Option<Arc<DraftTable>>) -> TableDrafter {
        let middle = |at: usize, of: usize| (at as f64 + 0.5) / of as f64;
        let rates = std::array::from_fn(|share| {
            let share = middle(share, SHARES);
            std::array::from_fn(|draw| match draw {
                DRAWS => [share, (1.0 - share) / 4.0],
                _ => drawn(share, middle(draw, DRAWS)),
            })
        });
        TableDrafter { table, rates }
    }

    /// A guess at the token after the two last ones, and how probable it is. `draw` is the number that it will be drawn
    /// with.
    pub(crate) fn guess(
        &self,
        (before, last): (Option<u32>, Option<u32>),
        draw: Option<f64>,
    ) -> Option<(u32, f64)> {
        let entry = self.table.as_ref()?.after(before, last?)?;
        let [first, second] = self.rates[share(entry)][number(draw)];
        let (token, rate) =
            if first >= second { (entry.tokens[0], first) } else { (entry.tokens[1], second) };
        Some((u32::from(token), rate))
    }

    /// Notes the token that followed.
    pub(crate) fn learn(
        &mut self,
        (before, last): (Option<u32>, Option<u32>),
        draw: Option<f64>,
        token: u32,
    ) {
        let Some(entry) = last.and_then(|last| self.table.as_ref()?.after(before, last)) else { return };
        let rates = &mut self.rates[share(entry)][number(draw)];
        for (rate, guess) in rates.iter_mut().zip(entry.tokens) {
            *rate += OUTCOME * (f64::from(u8::from(u32::from(guess) == token)) - *rate);
        }
    }
}

/// Rates to begin with, close to those of the demo model's own text: the table's probabilities are not the model's, so
/// that a number near the edge may fall on either side.
fn drawn(share: f64, draw: f64) -> Rates {
    let below = 1.0 / (1.0 + (7.0 * (draw - share - 0.05)).exp());
    [(0.55 + 0.45 * share) * below, (1.0 - share) * if draw > share { 0.25 } else { 0.1 }]
}

fn share(entry: &DraftEntry) -> usize {
    usize::from(entry.share) * SHARES / 256
}

fn number(draw: Option<f64>) -> usize {
    draw.map_or(DRAWS, |draw| ((draw * DRAWS as f64) as usize).min(DRAWS - 1))
}
