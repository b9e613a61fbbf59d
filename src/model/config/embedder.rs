//! Shapes of embedders.

#![forbid(unsafe_code)]

use super::{MAX_BLOCK, MAX_WIDTH, Projection, check_layers, divides, positive, within};
use crate::error::{Error, Result};

/// The id of `<s>`, copies of which stand before each block. Its row in the table is also that of id 0 in a text.
const START: u32 = 0;
/// RoBERTa's padding id. It is not counted by positions, wherever it stands, but is attended to like any other.
const UNCOUNTED: u32 = 1;

/// Shape of a RoBERTa encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// Number of layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width inside the feed-forward network.
    pub feed_forward: usize,
    /// Rows of the table of positions.
    pub positions: usize,
    /// Copies of `<s>` before each block, whose outputs alone go on; 0 if those of the tokens do.
    pub start_tokens: usize,
    /// Epsilon of every LayerNorm.
    pub epsilon: f32,
}

impl EncoderConfig {
    /// Outputs of a block of `block_length` tokens, each as wide as the encoder.
    pub fn outputs(&self, block_length: usize) -> usize {
        if self.start_tokens > 0 { self.start_tokens } else { block_length }
    }

    /// The columns that a block of tokens passes through the encoder: the id of each, and its row in the table of
    /// positions. Counting begins at row 2; RoBERTa's padding id is not counted and gets row 1, wherever it stands.
    pub fn columns(&self, block: &[u32]) -> impl Iterator<Item = (u32, usize)> {
        let mut counted = 0;
        std::iter::repeat_n(START, self.start_tokens).chain(block.iter().copied()).map(move |id| {
            counted += usize::from(id != UNCOUNTED);
            (id, if id == UNCOUNTED { 1 } else { 1 + counted })
        })
    }

    fn validate(&self, block_length: usize) -> Result<()> {
        let name = "embedder";
        check_layers(name, self.layers, self.hidden, self.heads, self.feed_forward)?;
        divides(name, self.hidden, self.heads)?;
        within("embedder: positions", self.positions, MAX_WIDTH)?;
        if self.start_tokens > MAX_BLOCK {
            let expected = format!("up to {MAX_BLOCK}");
            return Err(Error::mismatch("embedder: leading tokens", self.start_tokens, expected));
        }
        // Rows 0 and 1 are those of no token and of the padding id.
        let needed = self.start_tokens + block_length + 2;
        if self.positions < needed {
            let expected = format!("at least {needed}");
            return Err(Error::mismatch("embedder: positions", self.positions, expected));
        }
        positive("embedder: epsilon", self.epsilon)
    }
}

/// Shape of the embedder.
#[derive(Clone, Debug, PartialEq)]
pub enum EmbedderConfig {
    /// A row of a table for each token.
    Lookup {
        /// Width of the table.
        width: usize,
        /// How the rows of a block become one vector.
        projection: Projection,
    },
    /// A RoBERTa encoder inside each block.
    Roberta {
        /// The encoder.
        encoder: EncoderConfig,
        /// How its outputs become one vector.
        projection: Projection,
    },
}

impl EmbedderConfig {
    /// Whether the padding of a first block is masked: then the same tokens with other padding are another text.
    pub fn masks_padding(&self) -> bool {
        matches!(self, EmbedderConfig::Roberta { .. })
    }

    /// The name in files and in the authors' configurations.
    pub fn name(&self) -> &'static str {
        match self {
            EmbedderConfig::Lookup { .. } => "lookup",
            EmbedderConfig::Roberta { .. } => "roberta",
        }
    }

    /// Checks the shape for blocks of `block_length` tokens that become vectors of `hidden`.
    pub(super) fn validate(&self, block_length: usize, hidden: usize) -> Result<()> {
        match self {
            EmbedderConfig::Lookup { width, projection } => {
                within("embedder: width of the table", *width, MAX_WIDTH)?;
                if *projection == Projection::Concat && block_length * width != hidden {
                    let expected = format!("{hidden} / {block_length}");
                    return Err(Error::mismatch("embedder: width of the table", width, expected));
                }
            }
            EmbedderConfig::Roberta { encoder, projection } => {
                encoder.validate(block_length)?;
                let wide = encoder.outputs(block_length) * encoder.hidden;
                if *projection == Projection::Concat && wide != hidden {
                    let expected = format!("{hidden} in all outputs of a block");
                    return Err(Error::mismatch("embedder: concatenated width", wide, expected));
                }
            }
        }
        Ok(())
    }
}
