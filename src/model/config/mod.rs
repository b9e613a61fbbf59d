//! The facts about a model, validated once wherever they come from.
#![forbid(unsafe_code)]

mod embedder;
mod token_decoder;

pub use embedder::{EmbedderConfig, EncoderConfig};
pub(super) use token_decoder::MAX_BUCKETS;
pub use token_decoder::{T5Config, TokenDecoderConfig};

use crate::error::{Error, Result};
use crate::kernels::Activation;

/// The token that fills the first, partial block from the left.
pub const PAD_TOKEN: u32 = 0;

/// How a context embedding reaches the token decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// As pseudo tokens before the tokens of the block.
    Prefix,
    /// Added to the token embeddings, one part a position.
    Summation,
}

impl Strategy {
    /// The name in files and in the authors' configurations.
    pub fn name(self) -> &'static str {
        match self {
            Strategy::Prefix => "prefix",
            Strategy::Summation => "summation",
        }
    }

    /// The strategy with a name.
    pub fn from_name(name: &str) -> Option<Strategy> {
        [Strategy::Prefix, Strategy::Summation].into_iter().find(|s| s.name() == name)
    }
}

/// What becomes of a first text that does not fill whole blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alignment {
    /// Its first block is filled up from the left with [`PAD_TOKEN`], as the authors do it: right for models that
    /// were trained so.
    Left,
    /// Its blocks are whole from the first token on, and its last tokens are forced through the token decoder. Only a
    /// text that is still shorter than a block when its logits are asked for is filled up from the left.
    Tail,
}

impl Alignment {
    /// Both.
    pub const ALL: [Alignment; 2] = [Alignment::Left, Alignment::Tail];

    /// The name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Alignment::Left => "left",
            Alignment::Tail => "tail",
        }
    }

    /// The alignment with a name.
    pub fn from_name(name: &str) -> Option<Alignment> {
        Self::ALL.into_iter().find(|alignment| alignment.name() == name)
    }
}

/// How the token embeddings of a block become one block embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projection {
    /// They are concatenated.
    Concat,
    /// They are concatenated and multiplied by a matrix (the authors' Conv1d over the block).
    Linear,
}

impl Projection {
    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Projection::Concat => "concat",
            Projection::Linear => "linear",
        }
    }
}

/// What the feed-forward part of a layer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residual {
    /// What attention reads: the two parts are added to the stream together.
    Parallel,
    /// The stream with the output of attention added.
    Sequential,
}

impl Residual {
    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Residual::Parallel => "parallel",
            Residual::Sequential => "sequential",
        }
    }

    /// The one with a name.
    pub fn from_name(name: &str) -> Option<Residual> {
        [Residual::Parallel, Residual::Sequential].into_iter().find(|residual| residual.name() == name)
    }
}

/// Shape of one of the two GPT-NeoX stacks.
#[derive(Clone, Debug, PartialEq)]
pub struct StackConfig {
    /// Number of layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width inside the feed-forward network.
    pub feed_forward: usize,
    /// Leading dimensions of each head that are rotated; even.
    pub rotary: usize,
    /// Base of the rotary frequencies.
    pub rotary_base: f32,
    /// Epsilon of every LayerNorm.
    pub epsilon: f32,
    /// What the feed-forward part of a layer reads.
    pub residual: Residual,
    /// Inside the feed-forward network.
    pub activation: Activation,
    /// Whether the two products of attention have biases.
    pub attention_bias: bool,
}

impl StackConfig {
    /// The authors' number of heads for models that do not say: heads of 32, 64 or 128.
    pub const fn default_heads(hidden: usize) -> usize {
        hidden
            / if hidden <= 256 {
                32
            } else if hidden <= 1536 {
                64
            } else {
                128
            }
    }

    /// Dimensions of a head.
    pub fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }

    /// Checks the shape of the stack with this name.
    fn validate(&self, name: &str) -> Result<()> {
        check_layers(name, self.layers, self.hidden, self.heads, self.feed_forward)?;
        divides(name, self.hidden, self.heads)?;
        if !self.rotary.is_multiple_of(2) || self.rotary > self.head_dim() {
            return Err(Error::mismatch(
                format!("{name}: rotated dimensions of a head"),
                self.rotary,
                format!("an even number up to {}", self.head_dim()),
            ));
        }
        positive(&format!("{name}: epsilon"), self.epsilon)?;
        positive(&format!("{name}: rotary base"), self.rotary_base)
    }
}

/// Shape of a whole model.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// A name for people.
    pub name: String,
    /// Tokens of a block.
    pub block_length: usize,
    /// Number of tokens.
    pub vocabulary: usize,
    /// Blocks of the contexts that the model was trained with.
    pub trained_blocks: usize,
    /// How a prompt is laid out in blocks unless a session is told otherwise.
    pub alignment: Alignment,
    /// The tokens of a block to one block embedding.
    pub embedder: EmbedderConfig,
    /// The decoder over blocks.
    pub block_decoder: StackConfig,
    /// The decoder over the tokens of one block.
    pub token_decoder: TokenDecoderConfig,
}

/// Far above any model, and small enough that sizes cannot overflow.
pub(super) const MAX_WIDTH: usize = 1 << 17;
pub(super) const MAX_LAYERS: usize = 1024;
pub(super) const MAX_BLOCK: usize = 1024;
pub(super) const MAX_VOCABULARY: usize = 1 << 24;

fn within(what: &str, value: usize, most: usize) -> Result<()> {
    if (1..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::mismatch(what, value, format!("1 to {most}")))
}

/// The sizes that layers of every kind have.
fn check_layers(name: &str, layers: usize, hidden: usize, heads: usize, feed_forward: usize) -> Result<()> {
    within(&format!("{name}: layers"), layers, MAX_LAYERS)?;
    within(&format!("{name}: hidden size"), hidden, MAX_WIDTH)?;
    within(&format!("{name}: attention heads"), heads, MAX_WIDTH)?;
    within(&format!("{name}: feed-forward size"), feed_forward, 8 * MAX_WIDTH)
}

/// Heads that share the hidden size.
fn divides(name: &str, hidden: usize, heads: usize) -> Result<()> {
    if hidden.is_multiple_of(heads) {
        return Ok(());
    }
    let expected = format!("a divisor of the hidden size {hidden}");
    Err(Error::mismatch(format!("{name}: attention heads"), heads, expected))
}

fn positive(what: &str, value: f32) -> Result<()> {
    if value > 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(Error::mismatch(what, value, "a positive float"))
}

/// Guesses that the block decoder takes in one pass: as many as products have columns at little cost.
const MAX_GUESSES: usize = 15;

impl Config {
    /// Positions that the token decoder ever sees: a block's last token is never fed to it.
    pub fn token_positions(&self) -> usize {
        self.token_decoder.first_positions() + self.block_length - 1
    }

    /// Tokens after the next one whose logits one pass of the block decoder can give if they are guessed. None where a
    /// token decoder does that inside a block.
    pub fn guesses_ahead(&self) -> usize {
        match self.token_decoder {
            TokenDecoderConfig::Head { .. } => MAX_GUESSES,
            TokenDecoderConfig::Neox { .. } | TokenDecoderConfig::T5 { .. } => 0,
        }
    }

    /// Most rows of logits that a pass computes for one sequence: after its last token and after each guessed one.
    pub fn logits_a_pass(&self) -> usize {
        self.block_length.max(1 + self.guesses_ahead())
    }

    /// Checks that the parts fit together. Called for every configuration, wherever it comes from.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn validate(&self) -> Result<()> {
        within("block length", self.block_length, MAX_BLOCK)?;
        within("vocabulary", self.vocabulary, MAX_VOCABULARY)?;
        if matches!(self.token_decoder, TokenDecoderConfig::T5 { .. }) && self.vocabulary < 2 {
            let expected = "at least 2, as token 1 stands before a block";
            return Err(Error::mismatch("vocabulary", self.vocabulary, expected));
        }
        self.block_decoder.validate("block decoder")?;
        self.embedder.validate(self.block_length, self.block_decoder.hidden)?;
        self.token_decoder.validate(self.block_length, self.block_decoder.hidden)
    }
}
