//! Loss by the position of a token: in its block, and in its context.

use serde_json::{Value as Json, json};

use crate::plot::{Line, plot};
use crate::statistics::Mean;

/// Means of the losses of tokens by their position.
pub struct Positions {
    block: Vec<Mean>,
    /// By powers of two: entry `k` has the tokens with 2^k to 2^(k + 1) - 1 tokens before them.
    context: Vec<Mean>,
    /// Tokens of a window.
    window: usize,
}

impl Positions {
    /// None yet, of blocks of `length` tokens in windows of `window` tokens.
    pub fn new(length: usize, window: usize) -> Positions {
        let means = |count| std::iter::repeat_with(Mean::default).take(count).collect();
        Positions { block: means(length), context: means(window.ilog2() as usize + 1), window }
    }

    /// Adds the loss of the token that has `before > 0` tokens before it in its window.
    pub fn add(&mut self, before: usize, loss: f64) {
        let length = self.block.len();
        self.block[before % length].add(loss);
        self.context[before.ilog2() as usize].add(loss);
    }

    /// First and last position of each bucket with tokens, and its mean.
    fn buckets(&self) -> impl Iterator<Item = (usize, usize, &Mean)> {
        let bounds = |k: usize| ((1 << k).max(self.block.len()), (2 << k).min(self.window) - 1);
        let scored = self.context.iter().enumerate().filter(|(_, mean)| mean.count() > 0);
        scored.map(move |(k, mean)| (bounds(k).0, bounds(k).1, mean))
    }

    /// Adds both lists to the figures of a text.
    pub fn json(&self, figures: &mut Json) {
        let figure = |mean: &Mean| {
            let (nll, error) = (mean.mean(), mean.standard_error());
            json!({ "nll": nll, "nll_standard_error": error, "tokens": mean.count() })
        };
        let block = self.block.iter().enumerate().map(|(position, mean)| {
            let mut figure = figure(mean);
            figure["position"] = position.into();
            figure
        });
        figures["by_block_position"] = block.collect();
        let context = self.buckets().map(|(from, to, mean)| {
            let mut figure = figure(mean);
            (figure["from"], figure["to"]) = (from.into(), to.into());
            figure
        });
        figures["by_context_position"] = context.collect();
    }

    /// Lines for people.
    pub fn text(&self) -> String {
        let line = |name: &str, mean: &Mean| {
            let (nll, error, tokens) = (mean.mean(), mean.standard_error(), mean.count());
            format!("{name:28} nll {nll:.6} +- {error:.6}, {tokens} tokens\n")
        };
        let mut text = String::new();
        // With one token a block there is nothing to compare.
        for (position, mean) in self.block.iter().enumerate().filter(|_| self.block.len() > 1) {
            text += &line(&format!("in the block {position}"), mean);
        }
        for (from, to, mean) in self.buckets() {
            text += &line(&format!("in the context {from} to {to}"), mean);
        }
        text
    }

    /// Both as an SVG.
    pub fn drawing(&self) -> String {
        let line = |points: Vec<(f64, f64)>| vec![Line { name: "nll of a token".to_string(), points }];
        let block = self.block.iter().enumerate().map(|(position, mean)| (position as f64, mean.mean()));
        let context = self.buckets().map(|(from, _, mean)| ((from as f64).log2(), mean.mean()));
        let (block, context) = (line(block.collect()), line(context.collect()));
        plot("nll", &[("position in the block", block), ("log2 of the position in the context", context)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_is_in_one_position_of_a_block_and_one_bucket_of_the_context() {
        let mut positions = Positions::new(4, 24);
        (4..24).for_each(|before| positions.add(before, before as f64));
        let buckets: Vec<_> = positions.buckets().map(|(from, to, mean)| (from, to, mean.count())).collect();
        assert_eq!(buckets, [(4, 7, 4), (8, 15, 8), (16, 23, 8)]);
    }
}
