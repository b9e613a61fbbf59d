//! The facts about a model: read from a file's metadata, written by the quantizer, validated once.

use std::io::{Seek, Write};

use crate::error::{Error, Result};
use crate::gguf::{Index, Writer};

/// `general.architecture` of every file.
pub const ARCHITECTURE: &str = "blocktransformer";

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
}

impl StackConfig {
    /// The authors' number of heads for models that do not say: heads of 32, 64 or 128.
    pub fn default_heads(hidden: usize) -> usize {
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
    /// Width of the embedder's table.
    pub embedding: usize,
    /// How a block embedding is made.
    pub projection: Projection,
    /// How a context embedding is used.
    pub strategy: Strategy,
    /// How a prompt is laid out in blocks unless a session is told otherwise.
    pub alignment: Alignment,
    /// Vectors that a context embedding expands to, each as wide as the token decoder.
    pub expansion: usize,
    /// The decoder over blocks.
    pub block_decoder: StackConfig,
    /// The decoder over the tokens of one block.
    pub token_decoder: StackConfig,
}

/// Far above any model, and small enough that sizes cannot overflow.
const MAX_WIDTH: usize = 1 << 17;
const MAX_LAYERS: usize = 1024;
const MAX_BLOCK: usize = 1024;
const MAX_VOCABULARY: usize = 1 << 24;

fn within(what: &str, value: usize, most: usize) -> Result<()> {
    if (1..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::mismatch(what, value, format!("1 to {most}")))
}

/// The alignment that a file names, left if it names none.
fn alignment(index: &Index) -> Result<Alignment> {
    let key = format!("{ARCHITECTURE}.prompt_alignment");
    if index.get(&key).is_none() {
        return Ok(Alignment::Left);
    }
    let name = index.text(&key)?;
    Alignment::from_name(name).ok_or_else(|| Error::mismatch("prompt_alignment", name, "left or tail"))
}

impl Config {
    /// Position in the token decoder of the output that predicts a block's first token, plus one.
    pub fn first_positions(&self) -> usize {
        match self.strategy {
            Strategy::Prefix => self.expansion,
            Strategy::Summation => 1,
        }
    }

    /// Positions that the token decoder ever sees: a block's last token is never fed to it.
    pub fn token_positions(&self) -> usize {
        self.first_positions() + self.block_length - 1
    }

    /// Reads and validates the metadata.
    ///
    /// # Errors
    /// If a key is missing, or its value is out of range or contradicts another.
    pub fn read(index: &Index) -> Result<Config> {
        let integer = |key: &str, max: usize| index.integer(&format!("{ARCHITECTURE}.{key}"), 1..=max as u64);
        let text = |key: &str| index.text(&format!("{ARCHITECTURE}.{key}"));
        let stack = |name: &str| -> Result<StackConfig> {
            Ok(StackConfig {
                layers: integer(&format!("{name}.block_count"), MAX_LAYERS)?,
                hidden: integer(&format!("{name}.embedding_length"), MAX_WIDTH)?,
                heads: integer(&format!("{name}.attention.head_count"), MAX_WIDTH)?,
                feed_forward: integer(&format!("{name}.feed_forward_length"), 8 * MAX_WIDTH)?,
                rotary: index
                    .integer(&format!("{ARCHITECTURE}.{name}.rope.dimension_count"), 0..=MAX_WIDTH as u64)?,
                rotary_base: index.float(&format!("{ARCHITECTURE}.{name}.rope.freq_base"))? as f32,
                epsilon: index.float(&format!("{ARCHITECTURE}.{name}.attention.layer_norm_epsilon"))? as f32,
            })
        };
        let strategy = text("token_decoder.strategy")?;
        let projection = text("embedder.projection")?;
        let config = Config {
            name: index.text("general.name")?.to_string(),
            block_length: integer("block_length", MAX_BLOCK)?,
            vocabulary: integer("vocab_size", MAX_VOCABULARY)?,
            trained_blocks: integer("context_blocks", 1 << 32)?,
            embedding: integer("embedder.embedding_length", MAX_WIDTH)?,
            projection: [Projection::Concat, Projection::Linear]
                .into_iter()
                .find(|p| p.name() == projection)
                .ok_or_else(|| Error::mismatch("embedder.projection", projection, "concat or linear"))?,
            strategy: Strategy::from_name(strategy)
                .ok_or_else(|| Error::mismatch("token_decoder.strategy", strategy, "prefix or summation"))?,
            alignment: alignment(index)?,
            expansion: integer("token_decoder.expansion_ratio", MAX_BLOCK)?,
            block_decoder: stack("block_decoder")?,
            token_decoder: stack("token_decoder")?,
        };
        config.validate()?;
        Ok(config)
    }

    /// Checks that the parts fit together. Called for every configuration, wherever it comes from.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn validate(&self) -> Result<()> {
        for (name, stack) in [("block decoder", &self.block_decoder), ("token decoder", &self.token_decoder)]
        {
            within(&format!("{name}: layers"), stack.layers, MAX_LAYERS)?;
            within(&format!("{name}: hidden size"), stack.hidden, MAX_WIDTH)?;
            within(&format!("{name}: attention heads"), stack.heads, MAX_WIDTH)?;
            within(&format!("{name}: feed-forward size"), stack.feed_forward, 8 * MAX_WIDTH)?;
            if !stack.hidden.is_multiple_of(stack.heads) {
                return Err(Error::mismatch(
                    format!("{name}: attention heads"),
                    stack.heads,
                    format!("a divisor of the hidden size {}", stack.hidden),
                ));
            }
            if !stack.rotary.is_multiple_of(2) || stack.rotary > stack.head_dim() {
                return Err(Error::mismatch(
                    format!("{name}: rotated dimensions of a head"),
                    stack.rotary,
                    format!("an even number up to {}", stack.head_dim()),
                ));
            }
            let usable = |value: f32| value > 0.0 && value.is_finite();
            if !(usable(stack.epsilon) && usable(stack.rotary_base)) {
                return Err(Error::mismatch(
                    format!("{name}: epsilon and rotary base"),
                    format!("{} and {}", stack.epsilon, stack.rotary_base),
                    "positive floats",
                ));
            }
        }
        within("block length", self.block_length, MAX_BLOCK)?;
        within("vocabulary", self.vocabulary, MAX_VOCABULARY)?;
        within("embedder: width of the table", self.embedding, MAX_WIDTH)?;
        within("token decoder: expansion ratio", self.expansion, MAX_BLOCK)?;
        let wide = self.block_length * self.embedding;
        if self.projection == Projection::Concat && wide != self.block_decoder.hidden {
            return Err(Error::mismatch(
                "embedder: width of the table",
                self.embedding,
                format!("{} / {}", self.block_decoder.hidden, self.block_length),
            ));
        }
        if self.strategy == Strategy::Summation && self.expansion < self.block_length {
            return Err(Error::mismatch(
                "token decoder: expansion ratio with summation",
                self.expansion,
                format!("at least the block length {}", self.block_length),
            ));
        }
        Ok(())
    }

    /// Writes the metadata that [`Config::read`] reads.
    pub fn write<W: Write + Seek>(&self, writer: &mut Writer<W>) {
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let key = |name: &str| format!("{ARCHITECTURE}.{name}");
        writer.text("general.architecture", ARCHITECTURE);
        writer.text("general.name", &self.name);
        writer.u32(&key("block_length"), number(self.block_length));
        writer.u32(&key("vocab_size"), number(self.vocabulary));
        writer.u32(&key("context_blocks"), number(self.trained_blocks));
        writer.text(&key("prompt_alignment"), self.alignment.name());
        writer.u32(&key("embedder.embedding_length"), number(self.embedding));
        writer.text(&key("embedder.projection"), self.projection.name());
        writer.text(&key("token_decoder.strategy"), self.strategy.name());
        writer.u32(&key("token_decoder.expansion_ratio"), number(self.expansion));
        for (name, stack) in [("block_decoder", &self.block_decoder), ("token_decoder", &self.token_decoder)]
        {
            writer.u32(&key(&format!("{name}.block_count")), number(stack.layers));
            writer.u32(&key(&format!("{name}.embedding_length")), number(stack.hidden));
            writer.u32(&key(&format!("{name}.feed_forward_length")), number(stack.feed_forward));
            writer.u32(&key(&format!("{name}.attention.head_count")), number(stack.heads));
            writer.f32(&key(&format!("{name}.attention.layer_norm_epsilon")), stack.epsilon);
            writer.u32(&key(&format!("{name}.rope.dimension_count")), number(stack.rotary));
            writer.f32(&key(&format!("{name}.rope.freq_base")), stack.rotary_base);
        }
    }
}
