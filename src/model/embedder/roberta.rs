//! An embedder that is a RoBERTa encoder inside each block: attention in both directions, and a LayerNorm after each
//! residual sum. Blocks do not see each other, so they pass in groups of any size with the same bits.

#![forbid(unsafe_code)]

use crate::error::Result;
use crate::kernels::{Activation, Activations, Epilogue, Pass, Product, RowAttention, multiply};
use crate::memory::{grow, reserve};
use crate::model::config::{EncoderConfig, Projection};
use crate::model::segment::Segment;
use crate::model::weights::{EncoderLayer, EncoderWeights, Linear, Norm};
use crate::threads::Chunks;

/// Columns that pass together, unless a single block has more: enough to reuse each weight.
const COLUMNS: usize = 512;
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
    /// Tokens of padding that each block of the pass begins with.
    padding: Vec<usize>,
    /// What is added to the score of each column: minus infinity hides padding.
    mask: Vec<f32>,
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
            mask: Vec::new(),
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
            .saturating_add(columns.saturating_mul(16 * config.hidden + 20))
            .saturating_add(outputs)
    }

    /// As [`super::Embedder::reserve`].
    pub(super) fn reserve(
        &mut self,
        pass: Pass<'_>,
        block_length: usize,
        config: &EncoderConfig,
        (projected, blocks, segments): (bool, usize, usize),
    ) -> Result<()> {
        let length = config.start_tokens + block_length;
        let together = blocks.min(group_blocks(length));
        let (columns, what) = (together * length, "columns of the encoder");
        for activations in [&mut self.input, &mut self.attended, &mut self.feed_forward] {
            activations.reserve(pass.kernels, columns)?;
        }
        if projected {
            self.outputs.reserve(pass.kernels, together)?;
        }
        for buffer in [&mut self.x, &mut self.queries, &mut self.keys, &mut self.values] {
            grow(buffer, columns.saturating_mul(config.hidden), what)?;
        }
        self.padding.clear();
        self.ids.clear();
        self.mask.clear();
        reserve(&mut self.padding, blocks.max(segments), what)?;
        reserve(&mut self.ids, columns, what)?;
        reserve(&mut self.mask, columns, what)
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
        self.hide_padding(config, group, first);
        let mut norm = &weights.norm;
        for layer in &weights.layers {
            self.normalize(pass, config, norm, group);
            self.attend(pass, config, layer, group, first);
            let stream = group.columns() * config.hidden;
            pass.region.label("embedder");
            layer.attention_output.add_to(pass, &self.attended, &mut self.x[..stream]);
            self.normalize(pass, config, &layer.attention_norm, group);
            let terms = [layer.up.term(&self.input)];
            let up = self.feed_forward.floats_mut(group.columns());
            pass.region.label("embedder");
            multiply(
                pass,
                Product { terms: &terms, epilogue: Epilogue::Activate(Activation::Gelu), output: up },
                None,
            );
            self.feed_forward.quantize(pass);
            pass.region.label("embedder");
            layer.down.add_to(pass, &self.feed_forward, &mut self.x[..stream]);
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
        pass.region.label("embedder");
        multiply(pass, Product { terms: &terms, epilogue: Epilogue::Store, output }, None);
    }

    /// Sums the rows of the tables for each column into `x`.
    fn look_up(&mut self, pass: Pass<'_>, weights: &EncoderWeights, group: Group, tokens: &[u32]) {
        let (config, length) = (&weights.config, group.length);
        let blocks = tokens.chunks_exact(length - config.start_tokens);
        self.ids.clear();
        self.ids.extend(blocks.flat_map(|block| config.columns(block)));
        let x = &mut self.x[..group.columns() * config.hidden];
        let (words, positions) = (weights.words.view(), weights.positions.view());
        let (kinds, ids) = (weights.kinds.view(), &self.ids);
        // The rows that are added are read into buffers that are not in use yet.
        let (queries, keys) = (&mut self.queries[..x.len()], &mut self.keys[..x.len()]);
        let rows = |buffer, row: &(dyn Fn(usize, &mut [f32]) + Sync)| {
            pass.region.label("embedder");
            pass.region.run_parts(Chunks::of(buffer, config.hidden), row);
        };
        rows(&mut *x, &|column, output| words.row(ids[column].0 as usize, output));
        rows(&mut *queries, &|column, output| positions.row(ids[column].1, output));
        rows(&mut *keys, &|_, output| kinds.row(0, output));
        for ((x, position), kind) in x.iter_mut().zip(queries).zip(keys) {
            *x += *position + *kind;
        }
    }

    /// Sets the mask of blocks, the first of which is block `first` of the pass. Padding stands between `<s>` and the
    /// text.
    fn hide_padding(&mut self, config: &EncoderConfig, group: Group, first: usize) {
        self.mask.clear();
        for padding in &self.padding[first..first + group.blocks] {
            let hidden = config.start_tokens..config.start_tokens + padding;
            let bias = |column| if hidden.contains(&column) { f32::NEG_INFINITY } else { 0.0 };
            self.mask.extend((0..group.length).map(bias));
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

    /// Attention inside the blocks, whose first is block `first` of the pass.
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
        let [queries, keys, values] = [queries, keys, values].map(|buffer| &mut buffer[..floats]);
        let [query, key, value] = [&layer.query, &layer.key, &layer.value].map(|layer| [layer.term(input)]);
        let product = |terms, output| Product { terms, epilogue: Epilogue::Store, output };
        pass.region.label("embedder");
        multiply(pass, product(&query, &mut *queries), Some(product(&key, &mut *keys)));
        pass.region.label("embedder");
        multiply(pass, product(&value, &mut *values), None);
        let (hidden, length) = (config.hidden, group.length);
        let width = hidden / config.heads;
        let scale = 1.0 / (width as f32).sqrt();
        let (mask, padding) = (&self.mask, &self.padding[first..]);
        pass.region.label("attention");
        self.attended.fill(pass, group.columns(), |column, output| {
            let block = column / length;
            let first = block * length;
            let rows = first * hidden..(first + length) * hidden;
            let bias = if padding[block] > 0 { &mask[first..first + length] } else { &[] };
            for (head, output) in output.chunks_exact_mut(width).enumerate() {
                let attention = RowAttention {
                    query: &queries[column * hidden + head * width..][..width],
                    keys: &keys[rows.clone()][head * width..],
                    values: &values[rows.clone()][head * width..],
                    stride: hidden,
                    rows: length,
                    bias,
                    scale,
                };
                pass.kernels.attend_rows(&attention, output);
            }
        });
    }
}
