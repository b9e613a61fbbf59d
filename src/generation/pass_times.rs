//! The time that a pass takes with guesses, and the number of guesses that is worth it.

use super::guesser::Guess;

/// What a guessed column is taken to cost before it was measured, in passes of one token.
const COLUMN: f64 = 0.08;
/// Weight of one more time in that of a pass.
const TIME: f64 = 1.0 / 8.0;
/// How fast times that are not measured any more are forgotten, a pass.
const FORGETTING: f64 = 1.0 / 256.0;
/// A guess must gain more than this part of a pass of one token: rates and times are estimates, and the guesses that are
/// taken to gain a little are more often those that are estimated too well.
const DOUBT: f64 = 0.08;
/// No pass is taken to be more than this many times slower than those before it: someone else had the processor.
const SLOWEST: f64 = 1.5;

/// Seconds of passes with that number of guesses.
#[derive(Default)]
pub(crate) struct Times {
    seconds: Vec<f64>,
    /// The share of each time that is assumed, as it was not measured or not for long.
    assumed: Vec<f64>,
    /// Seconds that a guessed column is assumed to add.
    column: f64,
    /// Passes without guesses. The first one is not counted: it may wait for memory.
    measured: usize,
}

impl Times {
    /// No times yet, of passes with fewer than `rows` guesses.
    pub(crate) fn new(rows: usize) -> Times {
        Times { seconds: vec![0.0; rows], assumed: vec![1.0; rows], column: 0.0, measured: 0 }
    }

    /// Whether a pass without guesses has been measured.
    pub(crate) fn known(&self) -> bool {
        self.measured > 1
    }

    /// Seconds of a pass without guesses.
    pub(crate) fn plain(&self) -> f64 {
        self.seconds[0]
    }

    /// Seconds that guesses add to a pass.
    fn added(&self, guesses: usize) -> f64 {
        self.seconds[guesses] - self.seconds[0]
    }

    /// Notes a pass. `step` is the time of a pass of one token.
    pub(crate) fn note(&mut self, guesses: usize, seconds: f64, step: f64) {
        self.measured += usize::from(guesses == 0);
        if guesses == 0 && self.measured <= 2 {
            self.assumed.fill(1.0);
            self.column = COLUMN * if step > 0.0 { step } else { seconds };
            for (count, known) in self.seconds.iter_mut().enumerate() {
                *known = seconds + count as f64 * self.column;
            }
            return;
        }
        // A measurement takes the place of what was assumed.
        let weight = if guesses == 0 { TIME } else { self.assumed[guesses].max(TIME) };
        let seconds = seconds.min(SLOWEST * self.seconds[guesses]);
        self.seconds[guesses] += weight * (seconds - self.seconds[guesses]);
        self.assumed[guesses] *= 1.0 - weight;
        let base = self.seconds[0];
        self.column += FORGETTING * (COLUMN * step - self.column);
        if guesses > 0 {
            // It says something about other numbers of guesses.
            self.column += weight * ((seconds - base).max(0.0) / guesses as f64 - self.column);
        }
        let widths = self.seconds.iter_mut().zip(&mut self.assumed).enumerate().skip(1);
        for (count, (known, assumed)) in widths.filter(|(count, _)| *count != guesses) {
            let weight = if *assumed == 1.0 { 1.0 } else { FORGETTING };
            *known += weight * (base + count as f64 * self.column - *known);
            *assumed += FORGETTING * (1.0 - *assumed);
        }
    }

    /// How many tokens the guesses of a pass should reach, counted from those that are furthest from the end of their
    /// block: the number that saves most time, 0 if none does. A text that is nearer to the end by `slack` tokens, the
    /// number given with its guesses, needs that many fewer of them. A pass is saved if the guesses of all texts come
    /// true as far as that. `step` is the time of a pass of one token each.
    pub(crate) fn depth(&self, texts: &[(usize, &[Guess])], step: f64) -> usize {
        let (mut true_so_far, mut saved, mut columns) = (1.0, 0.0, 0);
        let mut best = (0, 0.0);
        for depth in 1..=self.seconds.len() {
            for (slack, guesses) in texts {
                let Some(index) = (depth - 1).checked_sub(*slack) else { continue };
                let Some(guess) = guesses.get(index) else { return best.0 };
                true_so_far *= guess.rate;
                columns += 1;
            }
            if columns >= self.seconds.len() {
                break;
            }
            saved += true_so_far * step;
            let gain = saved - self.added(columns) - columns as f64 * DOUBT * step;
            if gain > best.1 {
                best = (depth, gain);
            }
        }
        best.0
    }

    /// How many of their guesses texts should have in a pass after which each advances on its own, as far as its guesses
    /// come true. One that does saves its text a pass, which all of them share.
    pub(crate) fn shares(&self, texts: &[&[Guess]], step: f64) -> Vec<usize> {
        let reach = |text: &[Guess], count: usize| -> f64 { text[..count].iter().map(|g| g.rate).product() };
        let mut counts = vec![0; texts.len()];
        let mut taken = counts.clone();
        let (mut saved, mut best) = (0.0, 0.0);
        for columns in 1..self.seconds.len() {
            let next = |index: usize| {
                let text = texts[index];
                (taken[index] < text.len()).then(|| (reach(text, taken[index] + 1), index))
            };
            let likeliest = (0..texts.len()).filter_map(next).max_by(|a, b| a.0.total_cmp(&b.0));
            let Some((reached, index)) = likeliest else { break };
            taken[index] += 1;
            saved += reached * step / texts.len() as f64;
            let gain = saved - self.added(columns) - columns as f64 * DOUBT * step;
            if gain > best {
                best = gain;
                counts.clone_from(&taken);
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times of passes in which a guess adds a tenth.
    fn times() -> Times {
        let mut times = Times::new(13);
        times.note(0, 1.0, 1.0);
        times.note(0, 1.0, 1.0);
        (0..13).for_each(|guesses| times.seconds[guesses] = 1.0 + 0.1 * guesses as f64);
        times
    }

    fn guesses<const N: usize>(rates: [f64; N]) -> [Guess; N] {
        rates.map(|rate| Guess { token: 7, rate })
    }

    #[test]
    fn a_text_alone_guesses_as_far_as_it_gains() {
        let depth = |rates| times().depth(&[(0, &guesses(rates))], 1.0);
        assert_eq!(depth([0.9, 0.9, 0.9]), 3);
        assert_eq!(depth([0.5, 0.15, 0.9]), 1);
        assert_eq!(depth([0.5, 0.19, 1.0]), 1);
        assert_eq!(depth([0.05, 0.9, 0.9]), 0);
        assert_eq!(times().depth(&[(0, &[])], 1.0), 0);
    }

    #[test]
    fn a_pass_is_saved_if_all_guesses_come_true() {
        let (sure, even) = (guesses([1.0, 1.0, 1.0]), guesses([0.7, 0.7, 0.7]));
        let depth = |texts: &[(usize, &[Guess])]| times().depth(texts, 1.0);
        assert_eq!(depth(&[(0, &sure), (0, &sure), (0, &sure), (0, &sure)]), 3);
        assert_eq!(depth(&[(0, &even), (0, &even)]), 1);
        assert_eq!(depth(&[(0, &even), (0, &even), (0, &even), (0, &even)]), 0);
        // A text that is two tokens ahead does not hold up the other one.
        assert_eq!(depth(&[(0, &sure), (2, &guesses([0.0]))]), 2);
        assert_eq!(depth(&[(0, &sure), (0, &[])]), 0);
    }

    #[test]
    fn a_first_measurement_counts_for_all_that_is_assumed() {
        let mut times = Times::new(4);
        (0..2).for_each(|_| times.note(0, 1.0, 1.0));
        assert!((times.added(1) - COLUMN).abs() < 1e-9);
        times.note(2, 1.6, 1.0);
        assert!((times.added(2) - 0.6).abs() < 1e-9, "{}", times.added(2));
        assert!((times.added(1) - 0.3).abs() < 0.01 && (times.added(3) - 0.9).abs() < 0.01);
        // Not all at once, from then on.
        times.note(2, 1.2, 1.0);
        assert!((times.added(2) - 0.55).abs() < 0.01);
        // Nor for ever.
        (0..3000).for_each(|_| times.note(0, 1.0, 1.0));
        assert!((times.added(2) - 2.0 * COLUMN).abs() < 0.01);
        // Someone else had the processor.
        times.note(1, 9.0, 1.0);
        assert!(times.added(1) < 0.7);
    }

    #[test]
    fn texts_that_advance_on_their_own_share_columns() {
        let (sure, even) = (guesses([1.0; 3]), guesses([0.5; 3]));
        let shares = |texts: &[&[Guess]]| times().shares(texts, 1.0);
        assert_eq!(shares(&[&sure]), [3]);
        assert_eq!(shares(&[&even]), [2]);
        assert_eq!(shares(&[&sure, &even]), [3, 1]);
        assert_eq!(shares(&[&[], &guesses([0.1, 0.9])]), [0, 0]);
    }
}
