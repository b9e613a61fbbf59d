//! An embedder that is a RoBERTa encoder inside each block: attention in both directions, and a LayerNorm after each
//! residual sum. Blocks do not see each other, so they pass in groups of any size with the same bits.

#![forbid(unsafe_code)]

use crate::kernels::{Activation, Activations, Epilogue, Pass, Product, multiply};
use crate::model::config::{EncoderConfig, Projection};
use crate::model::segment::Segment;
use crate::model::weights::{EncoderLayer, EncoderWeights, Linear, Norm};
use crate::threads::Chunks;

/// Columns that pass together, unless a single block has more: enough to reuse each weight.
const COLUMNS: usize = 512;
/// The id of `<s>`, copies of which stand before each block. Its row in the table is also that of id 0 in a text.
const START: u32 = 0;
/// RoBERTa's padding id. It is not counted by positions, wherever it stands, but is attended to like any other.
const UNCOUNTED: u32 = 1;

/// Buffers. A column is a token of a block, or one of the copies of `<s>` before it.
pub(in crate::model) struct Roberta {
    /// Inputs of products with the residual stream, `[columns, hidden]`.
    input: Activations,
    attended: Activations,
    feed_forward: Activations,
    /// Inputs of the projection, `[blocks, outputs x hidden]`.
    outputs: Activations,
    /// Sums before their norm, `[columns, hidden]`, as are the next three.
    x: Vec<f32>,
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    /// Id and row of the position table of each column.
    ids: Vec<(u32, usize)>,
    /// Tokens of padding that each block begins with.
    padding: Vec<usize>,
}

/// A group of blocks that pass together.
#[derive(Clone, Copy)]
struct Group {
    blocks: usize,
    /// Columns of a block.
    length: usize,
}

impl Group {
    fn columns(self) -> usize {
        self.blocks * self.length
    }
}

/// Blocks of `length` columns that pass together.
fn group_blocks(length: usize) -> usize {
    (COLUMNS / length).max(1)
}

fn grow<T: Clone + Default>(buffer: &mut Vec<T>, length: usize) {
    if buffer.len() < length {
        buffer.resize(length, T::default());
    }
}

impl Roberta {
    /// Buffers for blocks of `block_length` tokens, still empty.
    pub(super) fn new(block_length: usize, weights: &EncoderWeights) -> Self {
        let config = &weights.config;
        let input = |width: usize, pick: &dyn Fn(&EncoderLayer) -> [&Linear; 4]| {
            let quantized = |layer: &Linear| layer.weight.kind().is_quantized();
            Activations::new(width, weights.layers.iter().any(|layer| pick(layer).into_iter().any(quantized)))
        };
        let projected = weights.projection.as_ref().is_some_and(|layer| layer.weight.kind().is_quantized());
        Roberta {
            input: input(config.hidden, &|l| [&l.query, &l.key, &l.value, &l.up]),
            attended: input(config.hidden, &|l| [&l.attention_output; 4]),
            feed_forward: input(config.feed_forward, &|l| [&l.down; 4]),
            outputs: Activations::new(config.outputs(block_length) * config.hidden, projected),
            x: Vec::new(),
            queries: Vec::new(),
            keys: Vec::new(),
            values: Vec::new(),
            ids: Vec::new(),
            padding: Vec::new(),
        }
    }

    /// As [`super::Embedder::bytes`].
    pub(super) fn bytes(
        block_length: usize,
        config: &EncoderConfig,
        projection: Projection,
        blocks: usize,
    ) -> usize {
        let length = config.start_tokens + block_length;
        let together = blocks.min(group_blocks(length));
        let columns = together * length;
        let outputs = match projection {
            Projection::Concat => 0,
            Projection::Linear => {
                Activations::bytes(config.outputs(block_length) * config.hidden, together, true)
            }
        };
        Activations::bytes(config.hidden, columns, true)
            .saturating_mul(2)
            .saturating_add(Activations::bytes(config.feed_forward, columns, true))
            .saturating_add(columns.saturating_mul(16 * config.hidden + 16))
            .saturating_add(outputs)
    }

    /// As [`super::Embedder::embed`], for blocks of `length` tokens.
    pub(super) fn embed(
        &mut self,
        pass: Pass<'_>,
        length: usize,
        weights: &EncoderWeights,
        tokens: &[u32],
        segments: &[Segment<'_>],
        output: &mut [f32],
    ) {
        self.padding.clear();
        for segment in segments {
            self.padding.push(segment.padding);
            self.padding.extend(std::iter::repeat_n(0, segment.columns - 1));
        }
        let columns = weights.config.start_tokens + length;
        let hidden = output.len() / (tokens.len() / length);
        let blocks = group_blocks(columns);
        let groups = tokens.chunks(blocks * length).zip(output.chunks_mut(blocks * hidden));
        for (index, (tokens, output)) in groups.enumerate() {
            let group = Group { blocks: tokens.len() / length, length: columns };
            self.group(pass, weights, group, tokens, index * blocks, output);
        }
    }

    /// The embeddings of a group, whose first block is block `first` of the pass.
    fn group(
        &mut self,
        pass: Pass<'_>,
        weights: &EncoderWeights,
        group: Group,
        tokens: &[u32],
        first: usize,
        output: &mut [f32],
    ) {
        let (config, length) = (&weights.config, group.length);
        self.look_up(pass, weights, group, tokens);
        let mut norm = &weights.norm;
        for layer in &weights.layers {
            self.normalize(pass, config, norm, group);
            self.attend(pass, config, layer, group, first);
            self.add(pass, &layer.attention_output, Branch::Attention, group);
            self.normalize(pass, config, &layer.attention_norm, group);
            let terms = [layer.up.term(&self.input)];
            let up = self.feed_forward.floats_mut(group.columns());
            multiply(
                pass,
                Product { terms: &terms, epilogue: Epilogue::Activate(Activation::Gelu), output: up },
                None,
            );
            self.feed_forward.quantize(pass);
            self.add(pass, &layer.down, Branch::FeedForward, group);
            norm = &layer.feed_forward_norm;
        }
        let (hidden, x) = (config.hidden, &self.x);
        let last = |block: usize, output: &mut [f32]| {
            let columns = x[block * length * hidden..].chunks_exact(hidden);
            for (column, output) in columns.zip(output.chunks_exact_mut(hidden)) {
                pass.kernels.layer_norm(column, &norm.weight, &norm.bias, config.epsilon, output);
            }
        };
        let Some(projection) = &weights.projection else {
            return pass.region.run_parts(Chunks::of(output, output.len() / group.blocks), last);
        };
        self.outputs.fill(pass, group.blocks, last);
        let terms = [projection.term(&self.outputs)];
        multiply(pass, Product { terms: &terms, epilogue: Epilogue::Store, output }, None);
    }

    /// Sums the rows of the tables for each column into `x`.
    fn look_up(&mut self, pass: Pass<'_>, weights: &EncoderWeights, group: Group, tokens: &[u32]) {
        let (config, length) = (&weights.config, group.length);
        let start = config.start_tokens;
        self.ids.clear();
        for block in tokens.chunks_exact(length - start) {
            let mut counted = 0;
            let ids = std::iter::repeat_n(START, start).chain(block.iter().copied());
            self.ids.extend(ids.map(|id| {
                counted += usize::from(id != UNCOUNTED);
                (id, if id == UNCOUNTED { 1 } else { 1 + counted })
            }));
        }
        grow(&mut self.x, group.columns() * config.hidden);
        let x = &mut self.x[..group.columns() * config.hidden];
        let (words, positions) = (weights.words.view(), weights.positions.view());
        let (kinds, ids) = (weights.kinds.view(), &self.ids);
        // The rows that are added are read into buffers that are not in use yet.
        for buffer in [&mut self.queries, &mut self.keys] {
            grow(buffer, x.len());
        }
        let (queries, keys) = (&mut self.queries[..x.len()], &mut self.keys[..x.len()]);
        let rows = |buffer, row: &(dyn Fn(usize, &mut [f32]) + Sync)| {
            pass.region.run_parts(Chunks::of(buffer, config.hidden), row);
        };
        rows(&mut *x, &|column, output| words.row(ids[column].0 as usize, output));
        rows(&mut *queries, &|column, output| positions.row(ids[column].1, output));
        rows(&mut *keys, &|_, output| kinds.row(0, output));
        for ((x, position), kind) in x.iter_mut().zip(queries).zip(keys) {
            *x += *position + *kind;
        }
    }

    /// `x` becomes its norm, and the input of products.
    fn normalize(&mut self, pass: Pass<'_>, config: &EncoderConfig, norm: &Norm, group: Group) {
        let x = &mut self.x[..group.columns() * config.hidden];
        self.input.fill(pass, group.columns(), |column, output| {
            let column = &x[column * config.hidden..][..config.hidden];
            pass.kernels.layer_norm(column, &norm.weight, &norm.bias, config.epsilon, output);
        });
        x.copy_from_slice(self.input.floats());
    }

    /// Attention inside the blocks, whose first is block `first` of the pass, in plain loops: a block has few columns.
    fn attend(
        &mut self,
        pass: Pass<'_>,
        config: &EncoderConfig,
        layer: &EncoderLayer,
        group: Group,
        first: usize,
    ) {
        let floats = group.columns() * config.hidden;
        let Roberta { input, queries, keys, values, .. } = self;
        let [queries, keys, values] = [queries, keys, values].map(|buffer| {
            grow(buffer, floats);
            &mut buffer[..floats]
        });
        let [query, key, value] = [&layer.query, &layer.key, &layer.value].map(|layer| [layer.term(input)]);
        let product = |terms, output| Product { terms, epilogue: Epilogue::Store, output };
        multiply(pass, product(&query, &mut *queries), Some(product(&key, &mut *keys)));
        multiply(pass, product(&value, &mut *values), None);
        let (hidden, length) = (config.hidden, group.length);
        let width = hidden / config.heads;
        let scale = 1.0 / (width as f32).sqrt();
        let padding = &self.padding[first..];
        self.attended.fill(pass, group.columns(), |column, output| {
            let block = column / length;
            // Padding stands between `<s>` and the text; nothing attends to it.
            let masked = config.start_tokens..config.start_tokens + padding[block];
            let part = |column: usize, head: usize| column * hidden + head * width..;
            for (head, output) in output.chunks_exact_mut(width).enumerate() {
                let query = &queries[part(column, head)][..width];
                let scores = || {
                    (0..length).filter(|at| !masked.contains(at)).map(|at| {
                        let at = block * length + at;
                        let key = &keys[part(at, head)][..width];
                        (at, dot(query, key) * scale)
                    })
                };
                let max = scores().fold(f32::NEG_INFINITY, |max, (_, score)| max.max(score));
                output.fill(0.0);
                let mut total = 0.0;
                for (at, score) in scores() {
                    let weight = f64::from(score - max).exp() as f32;
                    total += weight;
                    let value = &values[part(at, head)][..width];
                    output.iter_mut().zip(value).for_each(|(output, value)| *output += weight * value);
                }
                output.iter_mut().for_each(|output| *output /= total);
            }
        });
    }

    /// Adds a branch's last product to `x`.
    fn add(&mut self, pass: Pass<'_>, layer: &Linear, branch: Branch, group: Group) {
        let input = match branch {
            Branch::Attention => &self.attended,
            Branch::FeedForward => &self.feed_forward,
        };
        let terms = [layer.term(input)];
        let output = &mut self.x[..group.columns() * layer.weight.view().rows()];
        multiply(pass, Product { terms: &terms, epilogue: Epilogue::Accumulate, output }, None);
    }
}

/// A branch of a layer.
enum Branch {
    Attention,
    FeedForward,
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
