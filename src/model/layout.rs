//! The tensors of a model, in file order, with their names and shapes: the one list that the reader, the
//! quantizer and the synthesizer share.
#![forbid(unsafe_code)]

use super::config::{
    Config, EmbedderConfig, EncoderConfig, Projection, StackConfig, T5Config, TokenDecoderConfig,
};
use crate::gguf::{ElementType, NewTensor};
use crate::quant::{PANEL_ROWS, WeightType};

/// What a tensor is for, as far as it decides its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Bias, or weight or bias of a norm: always f32.
    Vector,
    /// A table from which rows are looked up: read little, and costly in quality.
    Table,
    /// The vocabulary head.
    Head,
    /// Any other matrix.
    Matrix,
}

/// One tensor: its name, its purpose and its shape.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// Unique name.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Outputs, or entries of a table; 1 for a vector.
    pub rows: usize,
    /// Inputs, or the length of a vector.
    pub width: usize,
}

impl TensorSpec {
    /// Number of weights, without padding; `None` when that overflows.
    pub fn weights(&self) -> Option<usize> {
        self.rows.checked_mul(self.width)
    }

    /// How the container describes the tensor when it is stored as `kind`.
    pub fn describe(&self, kind: WeightType) -> NewTensor {
        let matrix = vec![self.width, self.rows];
        let (element, dimensions) = match kind {
            _ if self.role == Role::Vector => (ElementType::F32, vec![self.width]),
            WeightType::Q4 | WeightType::Q8 => {
                (ElementType::I8, vec![kind.panel_bytes(self.width), self.rows.div_ceil(PANEL_ROWS)])
            }
            WeightType::Bf16 => (ElementType::Bf16, matrix),
            WeightType::F16 => (ElementType::F16, matrix),
            WeightType::F32 => (ElementType::F32, matrix),
        };
        NewTensor {
            name: self.name.clone(),
            element,
            dimensions: dimensions.into_iter().map(|dimension| dimension as u64).collect(),
        }
    }
}

/// Names of the tensors that are not part of a layer.
pub(super) mod names {
    pub const EMBEDDER: &str = "embedder.embeddings";
    pub const POSITIONS: &str = "embedder.positions";
    pub const KINDS: &str = "embedder.token_types";
    pub const EMBEDDER_NORM: &str = "embedder.norm";
    pub const ENCODER: &str = "embedder";
    pub const PROJECTION: &str = "embedder.projection";
    pub const BLOCK_DECODER: &str = "block_decoder";
    pub const TOKEN_DECODER: &str = "token_decoder";
    pub const EXPANSION: &str = "token_decoder.expansion";
    pub const TOKEN_EMBEDDINGS: &str = "token_decoder.embeddings";
    pub const POSITION_BIAS: &str = "token_decoder.position_bias";
    pub const HEAD: &str = "token_decoder.head";
}

struct List(Vec<TensorSpec>);

impl List {
    fn push(&mut self, name: String, role: Role, rows: usize, width: usize) {
        self.0.push(TensorSpec { name, role, rows, width });
    }

    fn linear(&mut self, name: &str, rows: usize, width: usize) {
        self.optional_bias(name, rows, width, true);
    }

    fn optional_bias(&mut self, name: &str, rows: usize, width: usize, bias: bool) {
        self.push(format!("{name}.weight"), Role::Matrix, rows, width);
        if bias {
            self.push(format!("{name}.bias"), Role::Vector, 1, rows);
        }
    }

    fn norm(&mut self, name: &str, width: usize) {
        self.push(format!("{name}.weight"), Role::Vector, 1, width);
        self.push(format!("{name}.bias"), Role::Vector, 1, width);
    }

    fn encoder(&mut self, config: &EncoderConfig, vocabulary: usize) {
        let (hidden, wide) = (config.hidden, config.feed_forward);
        for (name, rows) in
            [(names::EMBEDDER, vocabulary), (names::POSITIONS, config.positions), (names::KINDS, 1)]
        {
            self.push(format!("{name}.weight"), Role::Table, rows, hidden);
        }
        self.norm(names::EMBEDDER_NORM, hidden);
        for layer in 0..config.layers {
            let layer = format!("{}.layers.{layer}", names::ENCODER);
            for part in ["query", "key", "value", "output"] {
                self.linear(&format!("{layer}.attention.{part}"), hidden, hidden);
            }
            self.norm(&format!("{layer}.attention_norm"), hidden);
            self.linear(&format!("{layer}.feed_forward.up"), wide, hidden);
            self.linear(&format!("{layer}.feed_forward.down"), hidden, wide);
            self.norm(&format!("{layer}.feed_forward_norm"), hidden);
        }
    }

    fn stack(&mut self, name: &str, config: &StackConfig) {
        let (hidden, wide) = (config.hidden, config.feed_forward);
        for layer in 0..config.layers {
            let layer = format!("{name}.layers.{layer}");
            self.norm(&format!("{layer}.attention_norm"), hidden);
            self.norm(&format!("{layer}.feed_forward_norm"), hidden);
            let bias = config.attention_bias;
            self.optional_bias(&format!("{layer}.attention.qkv"), 3 * hidden, hidden, bias);
            self.optional_bias(&format!("{layer}.attention.output"), hidden, hidden, bias);
            self.linear(&format!("{layer}.feed_forward.up"), wide, hidden);
            self.linear(&format!("{layer}.feed_forward.down"), hidden, wide);
        }
        self.norm(&format!("{name}.final_norm"), hidden);
    }
}

/// The tensors of a T5 decoder's layers, and its last norm. Nothing has a bias.
impl List {
    fn t5(&mut self, config: &T5Config) {
        let (hidden, inner, wide) = (config.hidden, config.attention_width(), config.feed_forward);
        for layer in 0..config.layers {
            let layer = format!("{}.layers.{layer}", names::TOKEN_DECODER);
            let mut matrix =
                |name: &str, rows, width| self.optional_bias(&format!("{layer}.{name}"), rows, width, false);
            for attention in ["attention", "cross_attention"] {
                for part in ["query", "key", "value"] {
                    matrix(&format!("{attention}.{part}"), inner, hidden);
                }
                matrix(&format!("{attention}.output"), hidden, inner);
            }
            matrix("feed_forward.up", wide, hidden);
            matrix("feed_forward.down", hidden, wide);
            for norm in ["attention_norm", "cross_attention_norm", "feed_forward_norm"] {
                self.push(format!("{layer}.{norm}.weight"), Role::Vector, 1, hidden);
            }
        }
        self.push(format!("{}.final_norm.weight", names::TOKEN_DECODER), Role::Vector, 1, hidden);
    }
}

/// All tensors of a model of this shape, in file order.
pub fn tensors(config: &Config) -> Vec<TensorSpec> {
    let mut list = List(Vec::new());
    let block = &config.block_decoder;
    let table = |name: &str| format!("{name}.weight");
    match &config.embedder {
        EmbedderConfig::Lookup { width, projection } => {
            list.push(table(names::EMBEDDER), Role::Table, config.vocabulary, *width);
            if *projection == Projection::Linear {
                list.linear(names::PROJECTION, block.hidden, config.block_length * width);
            }
        }
        EmbedderConfig::Roberta { encoder, projection } => {
            list.encoder(encoder, config.vocabulary);
            if *projection == Projection::Linear {
                let outputs = encoder.outputs(config.block_length);
                list.linear(names::PROJECTION, block.hidden, outputs * encoder.hidden);
            }
        }
    }
    list.stack(names::BLOCK_DECODER, block);
    match &config.token_decoder {
        TokenDecoderConfig::Neox { stack, expansion, .. } => {
            list.linear(names::EXPANSION, expansion * stack.hidden, block.hidden);
            list.push(table(names::TOKEN_EMBEDDINGS), Role::Table, config.vocabulary, stack.hidden);
            list.stack(names::TOKEN_DECODER, stack);
            list.push(table(names::HEAD), Role::Head, config.vocabulary, stack.hidden);
        }
        TokenDecoderConfig::T5 { decoder, expansion } => {
            let (hidden, biases) = (decoder.hidden, decoder.buckets * decoder.heads);
            list.linear(names::EXPANSION, expansion * hidden, block.hidden);
            list.push(table(names::TOKEN_EMBEDDINGS), Role::Table, config.vocabulary, hidden);
            list.push(names::POSITION_BIAS.to_string(), Role::Vector, 1, biases);
            list.t5(decoder);
            list.push(table(names::HEAD), Role::Head, config.vocabulary, hidden);
        }
        TokenDecoderConfig::Head { hidden } => {
            list.push(table(names::HEAD), Role::Head, config.vocabulary, *hidden);
        }
    }
    list.0
}
