//! Shapes of token decoders.

#![forbid(unsafe_code)]

use super::{MAX_BLOCK, MAX_WIDTH, StackConfig, Strategy, check_layers, positive, within};
use crate::error::{Error, Result};

/// Most rows of a table of relative positions.
pub(in crate::model) const MAX_BUCKETS: usize = 1 << 16;

/// Shape of a T5 decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct T5Config {
    /// Number of layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Attention heads.
    pub heads: usize,
    /// Dimensions of a head; all heads together need not be as wide as the residual stream.
    pub head_dim: usize,
    /// Width inside the feed-forward network.
    pub feed_forward: usize,
    /// Rows of the table of relative positions, which all layers share.
    pub buckets: usize,
    /// The distance from which on all positions share the last row.
    pub max_distance: usize,
    /// Epsilon of every RMSNorm.
    pub epsilon: f32,
    /// Factor of the outputs before the vocabulary head: `hidden^-0.5` if the head is the table of embeddings, else 1.
    pub output_scale: f32,
    /// Whether the vectors of a context are also added to the token embeddings, one a position.
    pub summation: bool,
}

impl T5Config {
    /// Width of all heads together.
    pub fn attention_width(&self) -> usize {
        self.heads.saturating_mul(self.head_dim)
    }

    /// The row of the table of relative positions for a query and the key `distance` positions before it: the distance
    /// itself in the first half of the table, then logarithmic.
    pub fn bucket(&self, distance: usize) -> usize {
        let exact = self.buckets / 2;
        if distance < exact {
            return distance;
        }
        let ratio = |distance: usize| (distance as f64 / exact as f64).ln();
        let further = ratio(distance) / ratio(self.max_distance) * (self.buckets - exact) as f64;
        (exact + further as usize).min(self.buckets - 1)
    }

    /// Keys and values of a context in all layers, and its vectors where they are added.
    fn opened_floats(&self, expansion: usize) -> usize {
        let keys_and_values = self.attention_width().saturating_mul(2 * self.layers);
        let added = if self.summation { self.hidden } else { 0 };
        keys_and_values.saturating_add(added).saturating_mul(expansion)
    }

    fn validate(&self) -> Result<()> {
        let name = "token decoder";
        check_layers(name, self.layers, self.hidden, self.heads, self.feed_forward)?;
        within("token decoder: width of attention", self.attention_width(), MAX_WIDTH)?;
        let buckets = "token decoder: buckets of relative positions";
        if !(2..=MAX_BUCKETS).contains(&self.buckets) {
            return Err(Error::mismatch(buckets, self.buckets, format!("2 to {MAX_BUCKETS}")));
        }
        if self.max_distance <= self.buckets / 2 {
            let expected = format!("more than {}, half the buckets", self.buckets / 2);
            return Err(Error::mismatch("token decoder: largest distance", self.max_distance, expected));
        }
        positive("token decoder: epsilon", self.epsilon)?;
        positive("token decoder: output scale", self.output_scale)
    }
}

/// Shape of the token decoder.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenDecoderConfig {
    /// A GPT-NeoX stack.
    Neox {
        /// The stack.
        stack: StackConfig,
        /// How a context embedding is used.
        strategy: Strategy,
        /// Vectors that a context embedding expands to, each as wide as the stack.
        expansion: usize,
    },
    /// A T5 decoder that attends to the vectors of a context (cross-attention).
    T5 {
        /// The decoder.
        decoder: T5Config,
        /// Vectors that a context embedding expands to, each as wide as the decoder.
        expansion: usize,
    },
    /// The vocabulary head alone: a context predicts the one token of the next block.
    Head {
        /// Width of a context.
        hidden: usize,
    },
}

impl TokenDecoderConfig {
    /// The name in files and in the authors' configurations.
    pub fn name(&self) -> &'static str {
        match self {
            TokenDecoderConfig::Neox { .. } => "gpt-neo-x",
            TokenDecoderConfig::T5 { .. } => "t5",
            TokenDecoderConfig::Head { .. } => "head",
        }
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        match self {
            TokenDecoderConfig::Neox { stack, .. } => stack.layers,
            TokenDecoderConfig::T5 { decoder, .. } => decoder.layers,
            TokenDecoderConfig::Head { .. } => 0,
        }
    }

    /// Width of the residual stream.
    pub fn hidden(&self) -> usize {
        match self {
            TokenDecoderConfig::Neox { stack, .. } => stack.hidden,
            TokenDecoderConfig::T5 { decoder, .. } => decoder.hidden,
            TokenDecoderConfig::Head { hidden } => *hidden,
        }
    }

    /// Position of the output that predicts a block's first token, plus one.
    pub fn first_positions(&self) -> usize {
        match self {
            TokenDecoderConfig::Neox { strategy: Strategy::Prefix, expansion, .. } => *expansion,
            TokenDecoderConfig::Neox { strategy: Strategy::Summation, .. } => 1,
            TokenDecoderConfig::T5 { .. } | TokenDecoderConfig::Head { .. } => 1,
        }
    }

    /// Floats that a context embedding becomes when its block is opened.
    pub fn opened_floats(&self) -> usize {
        match self {
            TokenDecoderConfig::Neox { stack, expansion, .. } => expansion.saturating_mul(stack.hidden),
            TokenDecoderConfig::T5 { decoder, expansion } => decoder.opened_floats(*expansion),
            TokenDecoderConfig::Head { hidden } => *hidden,
        }
    }

    /// Checks the shape for blocks of `block_length` tokens whose contexts are `width` wide.
    pub(super) fn validate(&self, block_length: usize, width: usize) -> Result<()> {
        let ratio = |expansion: usize, summation: bool| {
            within("token decoder: expansion ratio", expansion, MAX_BLOCK)?;
            if summation && expansion < block_length {
                let expected = format!("at least the block length {block_length}");
                return Err(Error::mismatch(
                    "token decoder: expansion ratio with summation",
                    expansion,
                    expected,
                ));
            }
            Ok(())
        };
        match self {
            TokenDecoderConfig::Neox { stack, strategy, expansion } => {
                stack.validate("token decoder")?;
                ratio(*expansion, *strategy == Strategy::Summation)
            }
            TokenDecoderConfig::T5 { decoder, expansion } => {
                decoder.validate()?;
                ratio(*expansion, decoder.summation)
            }
            TokenDecoderConfig::Head { hidden } => {
                if block_length != 1 {
                    let expected = "1, as a vocabulary head alone predicts one token";
                    return Err(Error::mismatch("block length", block_length, expected));
                }
                if *hidden != width {
                    let expected = format!("{width}, that of the block decoder");
                    return Err(Error::mismatch("token decoder: width of a context", hidden, expected));
                }
                Ok(())
            }
        }
    }
}
