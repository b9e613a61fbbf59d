//! Typed views of the tensors in a mapped file.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

use super::config::{
    Config, EmbedderConfig, EncoderConfig, Projection, StackConfig, T5Config, TokenDecoderConfig,
};
use super::format;
use super::layout::{Role, TensorSpec, names, tensors};
use super::storage::{Bytes, Storage};
use crate::error::{Error, Result};
use crate::gguf::{Index, TensorInfo};
use crate::quant::{WeightType, Weights};

/// A weight matrix in the file.
pub struct Matrix {
    kind: WeightType,
    rows: usize,
    width: usize,
    bytes: Bytes,
}

impl Matrix {
    /// The matrix as the kernels take it.
    pub fn view(&self) -> Weights<'_> {
        Weights::new(self.kind, self.rows, self.width, &self.bytes).expect("size checked when opened")
    }

    /// Type of the weights.
    pub fn kind(&self) -> WeightType {
        self.kind
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// A vector of f32 in the file.
pub struct Vector(Bytes);

impl Deref for Vector {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        bytemuck::cast_slice(&self.0)
    }
}

/// A matrix, and a bias if the layer has one.
pub struct Linear {
    pub(crate) weight: Matrix,
    pub(crate) bias: Option<Vector>,
}

/// Weight and bias of a LayerNorm.
pub struct Norm {
    pub(crate) weight: Vector,
    pub(crate) bias: Vector,
}

/// One layer of a stack.
pub struct Layer {
    pub(crate) attention_norm: Norm,
    pub(crate) feed_forward_norm: Norm,
    pub(crate) qkv: Linear,
    pub(crate) attention_output: Linear,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
}

/// A GPT-NeoX stack.
pub struct StackWeights {
    pub(crate) config: StackConfig,
    pub(crate) layers: Vec<Layer>,
    pub(crate) final_norm: Norm,
}

/// The tensors of an embedder.
pub(crate) enum EmbedderWeights {
    /// A table, and a projection if the rows of a block are not just concatenated.
    Lookup { table: Matrix, projection: Option<Linear> },
    /// A RoBERTa encoder.
    Roberta(Box<EncoderWeights>),
}

/// A RoBERTa encoder.
pub(crate) struct EncoderWeights {
    pub(crate) config: EncoderConfig,
    pub(crate) words: Matrix,
    pub(crate) positions: Matrix,
    /// Embeddings of token types, of which there is one.
    pub(crate) kinds: Matrix,
    pub(crate) norm: Norm,
    pub(crate) layers: Vec<EncoderLayer>,
    pub(crate) projection: Option<Linear>,
}

/// One layer of an encoder; each norm follows the residual sum.
pub(crate) struct EncoderLayer {
    pub(crate) query: Linear,
    pub(crate) key: Linear,
    pub(crate) value: Linear,
    pub(crate) attention_output: Linear,
    pub(crate) attention_norm: Norm,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
    pub(crate) feed_forward_norm: Norm,
}

/// The tensors of a token decoder.
pub(crate) enum TokenDecoderWeights {
    /// A GPT-NeoX stack.
    Neox(Box<NeoxWeights>),
    /// A T5 decoder.
    T5(Box<T5Weights>),
    /// The vocabulary head alone.
    Head(Matrix),
}

/// The tensors of a token decoder that is a GPT-NeoX stack.
pub(crate) struct NeoxWeights {
    pub(crate) expansion: Linear,
    pub(crate) embeddings: Matrix,
    pub(crate) stack: StackWeights,
    pub(crate) head: Matrix,
}

/// The tensors of a token decoder that is a T5 decoder.
pub(crate) struct T5Weights {
    pub(crate) expansion: Linear,
    pub(crate) embeddings: Matrix,
    /// Added to the scores of self-attention in every layer, `[buckets, heads]`.
    pub(crate) position_bias: Vector,
    pub(crate) layers: Vec<T5Layer>,
    pub(crate) final_norm: Vector,
    pub(crate) head: Matrix,
}

/// One layer of a T5 decoder; each norm precedes its part.
pub(crate) struct T5Layer {
    pub(crate) attention_norm: Vector,
    pub(crate) attention: Projections,
    pub(crate) cross_attention_norm: Vector,
    pub(crate) cross_attention: Projections,
    pub(crate) feed_forward_norm: Vector,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
}

/// The products of an attention.
pub(crate) struct Projections {
    pub(crate) query: Linear,
    pub(crate) key: Linear,
    pub(crate) value: Linear,
    pub(crate) output: Linear,
}

/// Every tensor of a model.
pub struct ModelWeights {
    pub(crate) embedder: EmbedderWeights,
    pub(crate) block_decoder: StackWeights,
    pub(crate) token_decoder: TokenDecoderWeights,
}

struct Loader<'a> {
    storage: &'a Arc<Storage>,
    specs: HashMap<String, TensorSpec>,
    found: HashMap<&'a str, (&'a TensorInfo<'a>, WeightType)>,
}

impl Loader<'_> {
    fn take(&self, name: &str) -> Result<(WeightType, &TensorSpec, Bytes)> {
        let spec = &self.specs[name];
        let (info, kind) =
            *self.found.get(name).ok_or_else(|| Error::format(format!("tensor {name:?} is missing")))?;
        let kind = if spec.role == Role::Vector { WeightType::F32 } else { kind };
        if kind.matrix_bytes(spec.rows, spec.width).is_none() {
            return Err(Error::format(format!("tensor {name:?}: its shape overflows")));
        }
        let expected = spec.describe(kind);
        if info.element != expected.element || info.dimensions != expected.dimensions {
            let text = |element: crate::gguf::ElementType, dimensions: &[u64]| {
                format!("{} {dimensions:?}", element.name())
            };
            return Err(Error::mismatch(
                format!("tensor {name:?}"),
                text(info.element, &info.dimensions),
                text(expected.element, &expected.dimensions),
            ));
        }
        if !info.start.is_multiple_of(64) {
            return Err(Error::mismatch(format!("tensor {name:?}: alignment"), info.start % 64, 0));
        }
        Ok((kind, spec, Bytes::new(self.storage, info.start, info.bytes)))
    }

    fn matrix(&self, name: &str) -> Result<Matrix> {
        let (kind, spec, bytes) = self.take(&format!("{name}.weight"))?;
        Ok(Matrix { kind, rows: spec.rows, width: spec.width, bytes })
    }

    fn vector(&self, name: &str) -> Result<Vector> {
        Ok(Vector(self.take(name)?.2))
    }

    fn linear(&self, name: &str) -> Result<Linear> {
        let weight = self.matrix(name)?;
        let bias = format!("{name}.bias");
        let bias = self.specs.contains_key(&bias).then(|| self.vector(&bias)).transpose()?;
        Ok(Linear { weight, bias })
    }

    fn norm(&self, name: &str) -> Result<Norm> {
        let part = |part: &str| self.vector(&format!("{name}.{part}"));
        Ok(Norm { weight: part("weight")?, bias: part("bias")? })
    }

    fn projection(&self, projection: Projection) -> Result<Option<Linear>> {
        match projection {
            Projection::Concat => Ok(None),
            Projection::Linear => Ok(Some(self.linear(names::PROJECTION)?)),
        }
    }

    fn encoder(&self, config: &EncoderConfig, projection: Projection) -> Result<EncoderWeights> {
        let layers = (0..config.layers).map(|layer| {
            let part = |part: &str| format!("{}.layers.{layer}.{part}", names::ENCODER);
            Ok(EncoderLayer {
                query: self.linear(&part("attention.query"))?,
                key: self.linear(&part("attention.key"))?,
                value: self.linear(&part("attention.value"))?,
                attention_output: self.linear(&part("attention.output"))?,
                attention_norm: self.norm(&part("attention_norm"))?,
                up: self.linear(&part("feed_forward.up"))?,
                down: self.linear(&part("feed_forward.down"))?,
                feed_forward_norm: self.norm(&part("feed_forward_norm"))?,
            })
        });
        Ok(EncoderWeights {
            config: config.clone(),
            words: self.matrix(names::EMBEDDER)?,
            positions: self.matrix(names::POSITIONS)?,
            kinds: self.matrix(names::KINDS)?,
            norm: self.norm(names::EMBEDDER_NORM)?,
            layers: layers.collect::<Result<_>>()?,
            projection: self.projection(projection)?,
        })
    }

    fn t5(&self, config: &T5Config) -> Result<T5Weights> {
        let layers = (0..config.layers).map(|layer| {
            let part = |part: &str| format!("{}.layers.{layer}.{part}", names::TOKEN_DECODER);
            let norm = |name: &str| self.vector(&part(&format!("{name}.weight")));
            let projections = |name: &str| {
                let linear = |of: &str| self.linear(&part(&format!("{name}.{of}")));
                Ok::<_, Error>(Projections {
                    query: linear("query")?,
                    key: linear("key")?,
                    value: linear("value")?,
                    output: linear("output")?,
                })
            };
            Ok(T5Layer {
                attention_norm: norm("attention_norm")?,
                attention: projections("attention")?,
                cross_attention_norm: norm("cross_attention_norm")?,
                cross_attention: projections("cross_attention")?,
                feed_forward_norm: norm("feed_forward_norm")?,
                up: self.linear(&part("feed_forward.up"))?,
                down: self.linear(&part("feed_forward.down"))?,
            })
        });
        Ok(T5Weights {
            expansion: self.linear(names::EXPANSION)?,
            embeddings: self.matrix(names::TOKEN_EMBEDDINGS)?,
            position_bias: self.vector(names::POSITION_BIAS)?,
            layers: layers.collect::<Result<_>>()?,
            final_norm: self.vector(&format!("{}.final_norm.weight", names::TOKEN_DECODER))?,
            head: self.matrix(names::HEAD)?,
        })
    }

    fn stack(&self, name: &str, config: &StackConfig) -> Result<StackWeights> {
        let layers = (0..config.layers).map(|layer| {
            let part = |part: &str| format!("{name}.layers.{layer}.{part}");
            Ok(Layer {
                attention_norm: self.norm(&part("attention_norm"))?,
                feed_forward_norm: self.norm(&part("feed_forward_norm"))?,
                qkv: self.linear(&part("attention.qkv"))?,
                attention_output: self.linear(&part("attention.output"))?,
                up: self.linear(&part("feed_forward.up"))?,
                down: self.linear(&part("feed_forward.down"))?,
            })
        });
        Ok(StackWeights {
            config: config.clone(),
            layers: layers.collect::<Result<_>>()?,
            final_norm: self.norm(&format!("{name}.final_norm"))?,
        })
    }
}

impl ModelWeights {
    /// Finds every tensor that `config` asks for and checks its type, shape and place.
    pub(super) fn load(storage: &Arc<Storage>, index: &Index, config: &Config) -> Result<ModelWeights> {
        let types = format::types(index)?;
        let specs = tensors(config);
        let known: HashMap<String, TensorSpec> =
            specs.into_iter().map(|spec| (spec.name.clone(), spec)).collect();
        if let Some(info) = index.tensors().iter().find(|info| !known.contains_key(info.name)) {
            return Err(Error::format(format!("tensor {:?} does not belong to this model", info.name)));
        }
        let found = index.tensors().iter().zip(types).map(|(info, kind)| (info.name, (info, kind)));
        let loader = Loader { storage, specs: known, found: found.collect() };
        let embedder = match &config.embedder {
            EmbedderConfig::Lookup { projection, .. } => EmbedderWeights::Lookup {
                table: loader.matrix(names::EMBEDDER)?,
                projection: loader.projection(*projection)?,
            },
            EmbedderConfig::Roberta { encoder, projection } => {
                EmbedderWeights::Roberta(Box::new(loader.encoder(encoder, *projection)?))
            }
        };
        let token_decoder = match &config.token_decoder {
            TokenDecoderConfig::Neox { stack, .. } => TokenDecoderWeights::Neox(Box::new(NeoxWeights {
                expansion: loader.linear(names::EXPANSION)?,
                embeddings: loader.matrix(names::TOKEN_EMBEDDINGS)?,
                stack: loader.stack(names::TOKEN_DECODER, stack)?,
                head: loader.matrix(names::HEAD)?,
            })),
            TokenDecoderConfig::T5 { decoder, .. } => TokenDecoderWeights::T5(Box::new(loader.t5(decoder)?)),
            TokenDecoderConfig::Head { .. } => TokenDecoderWeights::Head(loader.matrix(names::HEAD)?),
        };
        let block_decoder = loader.stack(names::BLOCK_DECODER, &config.block_decoder)?;
        Ok(ModelWeights { embedder, block_decoder, token_decoder })
    }
}
