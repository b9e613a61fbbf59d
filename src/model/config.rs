//! The facts about a model, validated once wherever they come from.
#![forbid(unsafe_code)]

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
        within(&format!("{name}: layers"), self.layers, MAX_LAYERS)?;
        within(&format!("{name}: hidden size"), self.hidden, MAX_WIDTH)?;
        within(&format!("{name}: attention heads"), self.heads, MAX_WIDTH)?;
        within(&format!("{name}: feed-forward size"), self.feed_forward, 8 * MAX_WIDTH)?;
        if !self.hidden.is_multiple_of(self.heads) {
            return Err(Error::mismatch(
                format!("{name}: attention heads"),
                self.heads,
                format!("a divisor of the hidden size {}", self.hidden),
            ));
        }
        if !self.rotary.is_multiple_of(2) || self.rotary > self.head_dim() {
            return Err(Error::mismatch(
                format!("{name}: rotated dimensions of a head"),
                self.rotary,
                format!("an even number up to {}", self.head_dim()),
            ));
        }
        let usable = |value: f32| value > 0.0 && value.is_finite();
        if !(usable(self.epsilon) && usable(self.rotary_base)) {
            return Err(Error::mismatch(
                format!("{name}: epsilon and rotary base"),
                format!("{} and {}", self.epsilon, self.rotary_base),
                "positive floats",
            ));
        }
        Ok(())
    }
}

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

    fn validate(&self, block_length: usize) -> Result<()> {
        within("embedder: layers", self.layers, MAX_LAYERS)?;
        within("embedder: hidden size", self.hidden, MAX_WIDTH)?;
        within("embedder: attention heads", self.heads, MAX_WIDTH)?;
        within("embedder: feed-forward size", self.feed_forward, 8 * MAX_WIDTH)?;
        within("embedder: positions", self.positions, MAX_WIDTH)?;
        if self.start_tokens > MAX_BLOCK {
            let expected = format!("up to {MAX_BLOCK}");
            return Err(Error::mismatch("embedder: leading tokens", self.start_tokens, expected));
        }
        if !self.hidden.is_multiple_of(self.heads) {
            let expected = format!("a divisor of the hidden size {}", self.hidden);
            return Err(Error::mismatch("embedder: attention heads", self.heads, expected));
        }
        // Rows 0 and 1 are those of no token and of the padding id.
        let needed = self.start_tokens + block_length + 2;
        if self.positions < needed {
            let expected = format!("at least {needed}");
            return Err(Error::mismatch("embedder: positions", self.positions, expected));
        }
        if !(self.epsilon > 0.0 && self.epsilon.is_finite()) {
            return Err(Error::mismatch("embedder: epsilon", self.epsilon, "a positive float"));
        }
        Ok(())
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
            TokenDecoderConfig::Head { .. } => "head",
        }
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        match self {
            TokenDecoderConfig::Neox { stack, .. } => stack.layers,
            TokenDecoderConfig::Head { .. } => 0,
        }
    }

    /// Width of the residual stream.
    pub fn hidden(&self) -> usize {
        match self {
            TokenDecoderConfig::Neox { stack, .. } => stack.hidden,
            TokenDecoderConfig::Head { hidden } => *hidden,
        }
    }

    /// Position of the output that predicts a block's first token, plus one.
    pub fn first_positions(&self) -> usize {
        match self {
            TokenDecoderConfig::Neox { strategy: Strategy::Prefix, expansion, .. } => *expansion,
            TokenDecoderConfig::Neox { strategy: Strategy::Summation, .. } => 1,
            TokenDecoderConfig::Head { .. } => 1,
        }
    }

    /// Floats that a context embedding becomes when its block is opened.
    pub fn opened_floats(&self) -> usize {
        match self {
            TokenDecoderConfig::Neox { stack, expansion, .. } => expansion.saturating_mul(stack.hidden),
            TokenDecoderConfig::Head { hidden } => *hidden,
        }
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

impl Config {
    /// Positions that the token decoder ever sees: a block's last token is never fed to it.
    pub fn token_positions(&self) -> usize {
        self.token_decoder.first_positions() + self.block_length - 1
    }

    /// Checks that the parts fit together. Called for every configuration, wherever it comes from.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn validate(&self) -> Result<()> {
        within("block length", self.block_length, MAX_BLOCK)?;
        within("vocabulary", self.vocabulary, MAX_VOCABULARY)?;
        self.block_decoder.validate("block decoder")?;
        match &self.embedder {
            EmbedderConfig::Lookup { width, projection } => {
                within("embedder: width of the table", *width, MAX_WIDTH)?;
                let wide = self.block_length * width;
                if *projection == Projection::Concat && wide != self.block_decoder.hidden {
                    return Err(Error::mismatch(
                        "embedder: width of the table",
                        width,
                        format!("{} / {}", self.block_decoder.hidden, self.block_length),
                    ));
                }
            }
            EmbedderConfig::Roberta { encoder, projection } => {
                encoder.validate(self.block_length)?;
                let wide = encoder.outputs(self.block_length) * encoder.hidden;
                if *projection == Projection::Concat && wide != self.block_decoder.hidden {
                    let expected = format!("{} in all outputs of a block", self.block_decoder.hidden);
                    return Err(Error::mismatch("embedder: concatenated width", wide, expected));
                }
            }
        }
        match &self.token_decoder {
            TokenDecoderConfig::Neox { stack, strategy, expansion } => {
                stack.validate("token decoder")?;
                within("token decoder: expansion ratio", *expansion, MAX_BLOCK)?;
                if *strategy == Strategy::Summation && *expansion < self.block_length {
                    return Err(Error::mismatch(
                        "token decoder: expansion ratio with summation",
                        expansion,
                        format!("at least the block length {}", self.block_length),
                    ));
                }
            }
            TokenDecoderConfig::Head { hidden } => {
                if self.block_length != 1 {
                    let expected = "1, as a vocabulary head alone predicts one token";
                    return Err(Error::mismatch("block length", self.block_length, expected));
                }
                if *hidden != self.block_decoder.hidden {
                    let expected = format!("{}, that of the block decoder", self.block_decoder.hidden);
                    return Err(Error::mismatch("token decoder: width of a context", hidden, expected));
                }
            }
        }
        Ok(())
    }
}
