//! A token decoder that is a T5 decoder: self-attention to the tokens of the block, with a bias by distance, then
//! cross-attention to the vectors of the context, then a feed-forward network with ReLU. Each is preceded by an RMSNorm
//! and added to the stream; nothing but the expansion has a bias, and scores are not divided by anything.
//!
//! A block has few positions, so keys and values are rows: those of the tokens in the slots of the block's cache, those
//! of the context in what the block is opened with, `[layers, key | value, expansion, heads, head_dim]`.

#![forbid(unsafe_code)]

use super::add;
use crate::cache::{Cache, Entries, Geometry, Storage};
use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::kernels::{Activation, Activations, Epilogue, Pass, Product, RowAttention, Term, multiply};
use crate::memory::{grow, reserve};
use crate::model::attention::head_width;
use crate::model::config::{Config, T5Config};
use crate::model::segment::{Kept, Segment, kept_columns};
use crate::model::weights::{Linear, Projections, StackWeights, T5Layer, T5Weights};

/// The token before a block's first one: T5's end of sequence, whatever it means to the tokenizer of the model.
const START: u32 = 1;

/// A token decoder of a model, and its buffers.
pub(super) struct T5 {
    /// `[blocks, block_hidden]`.
    contexts: Activations,
    /// The vectors that contexts expand to, `[blocks x expansion, hidden]`.
    vectors: Activations,
    /// Their keys and values in one layer, `[key | value, blocks x expansion, attention width]`.
    products: Vec<f32>,
    /// `[blocks, opened_floats]`.
    opened: Vec<f32>,
    /// Columns of the residual stream, `[columns, hidden]`.
    x: Vec<f32>,
    input: Activations,
    /// `[columns, attention width]`, as are the next three.
    attended: Activations,
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    feed_forward: Activations,
    /// Segment of each column, and its position in the block.
    places: Vec<(usize, usize)>,
    /// What is added to scores, `[heads, positions]`, the largest distance first; empty before the first pass.
    bias: Vec<f32>,
    outputs: Activations,
}

/// The shape and the tensors of the decoder, for one call.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    pub(super) decoder: &'a T5Config,
    pub(super) expansion: usize,
    pub(super) weights: &'a T5Weights,
    pub(super) block_decoder: &'a StackWeights,
}

/// The product of a matrix with its input.
fn product<'a>(terms: &'a [Term<'a>], epilogue: Epilogue, output: &'a mut [f32]) -> Product<'a> {
    Product { terms, epilogue, output }
}

impl T5 {
    /// Buffers, still empty.
    pub(super) fn new(config: &Config, decoder: &T5Config, weights: &T5Weights) -> Self {
        let quantized = |matrices: &[&Linear]| matrices.iter().any(|m| m.weight.kind().is_quantized());
        let input = |width: usize, quantized: &dyn Fn(&T5Layer) -> bool| {
            Activations::new(width, weights.layers.iter().any(quantized))
        };
        let inner = decoder.attention_width();
        T5 {
            contexts: Activations::new(
                config.block_decoder.hidden,
                weights.expansion.weight.kind().is_quantized(),
            ),
            vectors: input(decoder.hidden, &|l| {
                let Projections { key, value, .. } = &l.cross_attention;
                quantized(&[key, value])
            }),
            products: Vec::new(),
            opened: Vec::new(),
            x: Vec::new(),
            input: input(decoder.hidden, &|l| {
                let Projections { query, key, value, .. } = &l.attention;
                quantized(&[query, key, value, &l.cross_attention.query, &l.up])
            }),
            attended: input(inner, &|l| {
                let (own, cross) = (&l.attention.output, &l.cross_attention.output);
                quantized(&[own, cross])
            }),
            queries: Vec::new(),
            keys: Vec::new(),
            values: Vec::new(),
            feed_forward: input(decoder.feed_forward, &|l| quantized(&[&l.down])),
            places: Vec::new(),
            bias: Vec::new(),
            outputs: Activations::new(decoder.hidden, weights.head.kind().is_quantized()),
        }
    }

    /// As [`super::TokenDecoder::bytes`].
    pub(super) fn bytes(config: &Config, decoder: &T5Config, expansion: usize) -> usize {
        let (positions, inner) = (config.token_positions(), decoder.attention_width());
        let rows = |width: usize, columns: usize| Activations::bytes(width, columns, true);
        let opening = rows(config.block_decoder.hidden, 1)
            .saturating_add(rows(decoder.hidden, expansion))
            .saturating_add(expansion.saturating_mul(8 * inner));
        let columns = rows(decoder.hidden, positions)
            .saturating_add(rows(inner, positions))
            .saturating_add(rows(decoder.feed_forward, positions))
            .saturating_add(
                positions.saturating_mul(4 * decoder.hidden + 12 * inner + 4 * decoder.heads + 16),
            );
        // Those of the sequence, and those of the pass that opens its block.
        let opened = config.token_decoder.opened_floats().saturating_mul(8);
        opening.saturating_add(columns).saturating_add(opened).saturating_add(rows(decoder.hidden, 1))
    }

    /// As [`super::TokenDecoder::expand`].
    pub(super) fn expand(&mut self, pass: Pass<'_>, parts: Parts<'_>, contexts: &[f32]) -> Result<&[f32]> {
        let Parts { decoder, expansion, weights, block_decoder: block } = parts;
        let blocks = contexts.len() / block.config.hidden;
        self.contexts.reserve(pass.kernels, blocks)?;
        self.vectors.reserve(pass.kernels, blocks * expansion)?;
        self.contexts.fill(pass, blocks, |index, output| {
            block.final_norm.apply(pass.kernels, &block.config, contexts, index, output);
        });
        let vectors = self.vectors.floats_mut(blocks * expansion);
        pass.region.label("expansion");
        multiply(pass, product(&[weights.expansion.term(&self.contexts)], Epilogue::Store, vectors), None);
        self.vectors.quantize(pass);
        let block_rows = expansion * decoder.attention_width();
        let rows = blocks * block_rows;
        grow(&mut self.products, 2 * rows, "keys and values of contexts")?;
        let added = if decoder.summation { expansion * decoder.hidden } else { 0 };
        let floats = 2 * decoder.layers * block_rows + added;
        grow(&mut self.opened, blocks * floats, "expanded contexts")?;
        let opened = &mut self.opened[..blocks * floats];
        for (index, layer) in weights.layers.iter().enumerate() {
            let (keys, values) = self.products[..2 * rows].split_at_mut(rows);
            let Projections { key, value, .. } = &layer.cross_attention;
            let [key, value] = [key, value].map(|layer| [layer.term(&self.vectors)]);
            let values = product(&value, Epilogue::Store, values);
            pass.region.label("keys and values of contexts");
            multiply(pass, product(&key, Epilogue::Store, keys), Some(values));
            let (keys, values) = self.products[..2 * rows].split_at(rows);
            let of_blocks = keys.chunks_exact(block_rows).zip(values.chunks_exact(block_rows));
            for (opened, (keys, values)) in opened.chunks_exact_mut(floats).zip(of_blocks) {
                let opened = &mut opened[2 * index * block_rows..][..2 * block_rows];
                opened[..block_rows].copy_from_slice(keys);
                opened[block_rows..].copy_from_slice(values);
            }
        }
        if decoder.summation {
            let of_blocks = self.vectors.floats().chunks_exact(added);
            for (opened, vectors) in opened.chunks_exact_mut(floats).zip(of_blocks) {
                opened[floats - added..].copy_from_slice(vectors);
            }
        }
        Ok(opened)
    }

    /// Starts a pass without columns.
    pub(super) fn begin(&mut self) {
        self.x.clear();
    }

    /// As [`super::TokenDecoder::push`].
    pub(super) fn push(
        &mut self,
        parts: Parts<'_>,
        opened: &[f32],
        tokens: &[u32],
        first: usize,
    ) -> Result<usize> {
        let hidden = parts.decoder.hidden;
        let table = parts.weights.embeddings.view();
        let added = opened.rchunks(parts.expansion * hidden).next().unwrap_or(&[]);
        for position in first..=tokens.len() {
            let output = add(&mut self.x, hidden)?;
            let token = if position == 0 { START } else { tokens[position - 1] };
            table.row(token as usize, output);
            if parts.decoder.summation {
                let added = &added[position * hidden..][..hidden];
                output.iter_mut().zip(added).for_each(|(output, added)| *output += added);
            }
        }
        Ok(tokens.len() + 1 - first)
    }

    /// As [`super::TokenDecoder::logits`]; `rows` are wanted.
    pub(super) fn logits(
        &mut self,
        pass: Pass<'_>,
        parts: Parts<'_>,
        segments: &mut [Segment<'_>],
        (rows, column): (usize, impl Fn(usize) -> usize + Sync),
        logits: &mut [f32],
        interrupt: Option<&Interrupt>,
    ) -> Result<()> {
        let Parts { decoder, weights, .. } = parts;
        self.outputs.reserve(pass.kernels, rows)?;
        self.prepare(pass, decoder, weights, segments)?;
        for (index, layer) in weights.layers.iter().enumerate() {
            if let Err(error) = interrupt.map_or(Ok(()), Interrupt::check) {
                segments.iter_mut().for_each(|segment| segment.cache.mark_overwritten(segment.columns));
                return Err(error);
            }
            self.layer(pass, parts, (index, layer), segments);
        }
        for segment in segments {
            segment.cache.advance(segment.columns);
        }
        let (norm, x, hidden) = (&weights.final_norm, &self.x, decoder.hidden);
        self.outputs.fill(pass, rows, |row, output| {
            pass.kernels.rms_norm(&x[column(row) * hidden..][..hidden], norm, decoder.epsilon, output);
            output.iter_mut().for_each(|output| *output *= decoder.output_scale);
        });
        let terms = [Term { weights: weights.head.view(), bias: &[], input: &self.outputs }];
        pass.region.label("head");
        multiply(pass, product(&terms, Epilogue::Store, logits), None);
        Ok(())
    }

    /// Grows for a pass, and numbers the columns of the segments.
    ///
    /// # Errors
    /// If there is no memory for that.
    fn prepare(
        &mut self,
        pass: Pass<'_>,
        decoder: &T5Config,
        weights: &T5Weights,
        segments: &mut [Segment<'_>],
    ) -> Result<()> {
        let columns = kept_columns(segments, Kept::All);
        assert_eq!(self.x.len(), columns * decoder.hidden);
        for activations in [&mut self.input, &mut self.attended, &mut self.feed_forward] {
            activations.reserve(pass.kernels, columns)?;
        }
        for buffer in [&mut self.queries, &mut self.keys, &mut self.values] {
            grow(buffer, columns * decoder.attention_width(), "queries, keys and values")?;
        }
        if let (true, Some(segment)) = (self.bias.is_empty(), segments.first()) {
            let floats = decoder.heads.saturating_mul(segment.cache.shape().window);
            reserve(&mut self.bias, floats, "biases of positions")?;
            let distances = (0..segment.cache.shape().window).rev();
            let bias =
                |head, distance| weights.position_bias[decoder.bucket(distance) * decoder.heads + head];
            let of_head = |head| distances.clone().map(move |distance| bias(head, distance));
            self.bias.extend((0..decoder.heads).flat_map(of_head));
        }
        self.places.clear();
        reserve(&mut self.places, columns, "columns of a block")?;
        for (index, segment) in segments.iter_mut().enumerate() {
            segment.first = self.places.len();
            let position = segment.cache.length() as usize;
            self.places.extend((position..position + segment.columns).map(|position| (index, position)));
        }
        Ok(())
    }

    /// `x += attention(norm(x)); x += cross_attention(norm(x)); x += feed_forward(norm(x))`.
    fn layer(
        &mut self,
        pass: Pass<'_>,
        parts: Parts<'_>,
        (index, layer): (usize, &T5Layer),
        segments: &mut [Segment<'_>],
    ) {
        let (decoder, columns) = (parts.decoder, self.places.len());
        let floats = columns * decoder.attention_width();
        self.norm(pass, decoder, &layer.attention_norm);
        let Projections { query, key, value, output } = &layer.attention;
        let [query, key, value] = [query, key, value].map(|layer| [layer.term(&self.input)]);
        let keys = product(&key, Epilogue::Store, &mut self.keys[..floats]);
        pass.region.label("query and key");
        multiply(pass, product(&query, Epilogue::Store, &mut self.queries[..floats]), Some(keys));
        pass.region.label("value");
        multiply(pass, product(&value, Epilogue::Store, &mut self.values[..floats]), None);
        self.store(decoder, index, segments);
        self.attend(pass, decoder, index, segments);
        pass.region.label("attention output");
        output.add_to(pass, &self.attended, &mut self.x);

        self.norm(pass, decoder, &layer.cross_attention_norm);
        let Projections { query, output, .. } = &layer.cross_attention;
        let query = [query.term(&self.input)];
        pass.region.label("query of the context");
        multiply(pass, product(&query, Epilogue::Store, &mut self.queries[..floats]), None);
        self.attend_to_context(pass, decoder, (index, parts.expansion), segments);
        pass.region.label("attention output");
        output.add_to(pass, &self.attended, &mut self.x);

        self.norm(pass, decoder, &layer.feed_forward_norm);
        let up = self.feed_forward.floats_mut(columns);
        let terms = [layer.up.term(&self.input)];
        pass.region.label("up");
        multiply(pass, product(&terms, Epilogue::Activate(Activation::Relu), up), None);
        self.feed_forward.quantize(pass);
        pass.region.label("down");
        layer.down.add_to(pass, &self.feed_forward, &mut self.x);
    }

    /// The input of products: the norm of the stream.
    fn norm(&mut self, pass: Pass<'_>, decoder: &T5Config, weight: &[f32]) {
        let (x, hidden) = (&self.x, decoder.hidden);
        self.input.fill(pass, self.places.len(), |column, output| {
            pass.kernels.rms_norm(&x[column * hidden..][..hidden], weight, decoder.epsilon, output);
        });
    }

    /// Stores the keys and values of all columns in the caches of their segments.
    fn store(&self, decoder: &T5Config, layer: usize, segments: &mut [Segment<'_>]) {
        let (inner, head_dim) = (decoder.attention_width(), decoder.head_dim);
        for (column, (segment, position)) in self.places.iter().enumerate() {
            let (geometry, storage) = segments[*segment].cache.parts();
            let Storage::F32(entries) = storage else { unreachable!("the cache of a block is exact") };
            for head in 0..decoder.heads {
                let own = column * inner + head * head_dim..column * inner + (head + 1) * head_dim;
                let slot = first_slot(geometry, decoder, layer, head) + position * head_width(head_dim);
                entries.keys[slot..slot + head_dim].copy_from_slice(&self.keys[own.clone()]);
                entries.values[slot..slot + head_dim].copy_from_slice(&self.values[own]);
            }
        }
    }

    /// Each column attends to the positions of its block up to its own.
    fn attend(&mut self, pass: Pass<'_>, decoder: &T5Config, layer: usize, segments: &[Segment<'_>]) {
        let (inner, head_dim) = (decoder.attention_width(), decoder.head_dim);
        let T5 { queries, places, bias, attended, .. } = self;
        let positions = bias.len() / decoder.heads;
        pass.region.label("attention");
        attended.fill(pass, places.len(), |column, output| {
            let (segment, position) = places[column];
            let cache = &*segments[segment].cache;
            let entries = entries(cache);
            for (head, output) in output.chunks_exact_mut(head_dim).enumerate() {
                let first = first_slot(cache.geometry(), decoder, layer, head);
                let attention = RowAttention {
                    query: &queries[column * inner + head * head_dim..][..head_dim],
                    keys: &entries.keys[first..],
                    values: &entries.values[first..],
                    stride: head_width(head_dim),
                    rows: position + 1,
                    bias: &bias[(head + 1) * positions - position - 1..(head + 1) * positions],
                    scale: 1.0,
                };
                pass.kernels.attend_rows(&attention, output);
            }
        });
    }

    /// Each column attends to the vectors of its block's context.
    fn attend_to_context(
        &mut self,
        pass: Pass<'_>,
        decoder: &T5Config,
        (layer, expansion): (usize, usize),
        segments: &[Segment<'_>],
    ) {
        let (inner, head_dim) = (decoder.attention_width(), decoder.head_dim);
        let T5 { queries, places, attended, .. } = self;
        pass.region.label("attention");
        attended.fill(pass, places.len(), |column, output| {
            let opened = &segments[places[column].0].opened[2 * layer * expansion * inner..];
            let (keys, values) = opened[..2 * expansion * inner].split_at(expansion * inner);
            for (head, output) in output.chunks_exact_mut(head_dim).enumerate() {
                let attention = RowAttention {
                    query: &queries[column * inner + head * head_dim..][..head_dim],
                    keys: &keys[head * head_dim..],
                    values: &values[head * head_dim..],
                    stride: inner,
                    rows: expansion,
                    bias: &[],
                    scale: 1.0,
                };
                pass.kernels.attend_rows(&attention, output);
            }
        });
    }
}

/// Keys and values of a block.
fn entries(cache: &Cache) -> &Entries<f32> {
    let Storage::F32(entries) = cache.storage() else { unreachable!("the cache of a block is exact") };
    entries
}

/// Where the rows of a head begin in a cache.
fn first_slot(geometry: &Geometry, decoder: &T5Config, layer: usize, head: usize) -> usize {
    let width = head_width(decoder.head_dim);
    geometry.layer(layer, width).start + head * geometry.slots() * width
}
