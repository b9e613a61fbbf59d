//! One GPT-NeoX stack over columns of a residual stream: parallel residual, fused QKV, partial rotary
//! embedding, exact GELU. Both decoders are stacks; they differ in what their caches are.

use super::config::StackConfig;
use super::weights::{Layer, Linear, Norm, StackWeights};
use crate::cache::{Cache, Geometry, Storage};
use crate::kernels::{
    Activations, Attention, Epilogue, Kernels, KeyValue, LANES, Product, QUERIES, Term, multiply,
    score_floats,
};
use crate::threads::Crew;

/// Consecutive columns that belong to one sequence, and follow what its cache holds.
pub struct Span<'c> {
    columns: usize,
    cache: &'c mut Cache,
}

impl<'c> Span<'c> {
    /// The next `columns` columns of the sequence that `cache` belongs to.
    ///
    /// # Panics
    /// If the cache has no room for so many at once.
    pub fn new(columns: usize, cache: &'c mut Cache) -> Self {
        assert!(columns <= cache.room(), "{columns} columns are more than the cache has room for");
        Span { columns, cache }
    }
}

/// Buffers of a forward pass. They grow to the largest number of columns, then stay.
pub struct Scratch {
    attention_input: Activations,
    feed_forward_input: Activations,
    attended: Activations,
    feed_forward: Activations,
    qkv: Vec<f32>,
    heads: Vec<HeadScratch>,
    angles: Vec<Angles>,
    frequencies: Vec<f64>,
}

/// What one head of one layer needs; heads are worked on in parallel.
struct HeadScratch {
    /// `[columns, width]`.
    output: Vec<f32>,
    queries: Vec<f32>,
    sink_queries: Vec<f32>,
    scores: Vec<f32>,
}

/// Cosines and sines of a column, at its position and at the one where it meets the sinks.
#[derive(Clone, Default)]
struct Angles {
    own: Vec<(f32, f32)>,
    sink: Vec<(f32, f32)>,
}

/// Dimensions of a head in the cache.
pub(super) fn head_width(head_dim: usize) -> usize {
    head_dim.next_multiple_of(LANES)
}

fn grow<T: Clone + Default>(buffer: &mut Vec<T>, length: usize) {
    if buffer.len() < length {
        buffer.resize(length, T::default());
    }
}

impl Scratch {
    /// Buffers for a stack, still empty.
    pub(super) fn new(weights: &StackWeights) -> Self {
        let config = &weights.config;
        let input = |width: usize, pick: fn(&Layer) -> &Linear| {
            Activations::new(
                width,
                weights.layers.iter().any(|layer| pick(layer).weight.kind().is_quantized()),
            )
        };
        let frequency =
            |i: usize| f64::from(config.rotary_base).powf(-((2 * i) as f64) / config.rotary as f64);
        let width = head_width(config.head_dim());
        let head = || HeadScratch {
            output: Vec::new(),
            queries: vec![0.0; QUERIES * width],
            sink_queries: vec![0.0; QUERIES * width],
            scores: Vec::new(),
        };
        Scratch {
            attention_input: input(config.hidden, |layer| &layer.qkv),
            feed_forward_input: input(config.hidden, |layer| &layer.up),
            attended: input(config.hidden, |layer| &layer.attention_output),
            feed_forward: input(config.feed_forward, |layer| &layer.down),
            qkv: Vec::new(),
            heads: (0..config.heads).map(|_| head()).collect(),
            angles: Vec::new(),
            frequencies: (0..config.rotary / 2).map(frequency).collect(),
        }
    }

    /// Bytes of the buffers once `columns` columns that see `positions` positions have passed.
    pub(super) fn bytes(config: &StackConfig, columns: usize, positions: usize) -> usize {
        let width = head_width(config.head_dim());
        let activations = 3 * Activations::bytes(config.hidden, columns, true)
            + Activations::bytes(config.feed_forward, columns, true)
            + 12 * columns * config.hidden;
        activations.saturating_add(
            (4 * config.heads).saturating_mul(score_floats(positions).saturating_add(columns * width)),
        )
    }

    fn prepare(&mut self, weights: &StackWeights, columns: usize, spans: &[Span<'_>]) {
        let config = &weights.config;
        let width = head_width(config.head_dim());
        grow(&mut self.qkv, columns * 3 * config.hidden);
        let slots = spans.iter().map(|span| span.cache.geometry().slots()).max().unwrap_or(0);
        for head in &mut self.heads {
            grow(&mut head.output, columns * width);
            grow(&mut head.scores, score_floats(slots));
        }
        grow(&mut self.angles, columns);
        let mut all = self.angles.iter_mut();
        for span in spans {
            for (position, angles) in (span.cache.length()..).zip(all.by_ref().take(span.columns)) {
                rotation(&self.frequencies, position, &mut angles.own);
                rotation(&self.frequencies, span.cache.geometry().sink_position(position), &mut angles.sink);
            }
        }
    }
}

/// Cosine and sine of `position x frequency`, in f64 so that any position is exact.
fn rotation(frequencies: &[f64], position: u64, output: &mut Vec<(f32, f32)>) {
    output.resize(frequencies.len(), (0.0, 0.0));
    for (output, frequency) in output.iter_mut().zip(frequencies) {
        let (sine, cosine) = (position as f64 * frequency).sin_cos();
        *output = (cosine as f32, sine as f32);
    }
}

/// Rotate-half: dimension `i` pairs with `i + rotary / 2`. The rest is copied, padding stays 0.
fn rotate(input: &[f32], angles: &[(f32, f32)], output: &mut [f32]) {
    let half = angles.len();
    output[..input.len()].copy_from_slice(input);
    for (i, (cosine, sine)) in angles.iter().enumerate() {
        let (a, b) = (input[i], input[i + half]);
        output[i] = a * cosine - b * sine;
        output[i + half] = b * cosine + a * sine;
    }
}

impl Linear {
    /// The product of this matrix with columns of activations.
    pub(super) fn term<'a>(&'a self, input: &'a Activations) -> Term<'a> {
        Term { weights: self.weight.view(), bias: &self.bias, input }
    }
}

impl Norm {
    /// LayerNorm of one column.
    pub(super) fn apply(&self, kernels: &Kernels, epsilon: f32, input: &[f32], output: &mut [f32]) {
        kernels.layer_norm(input, &self.weight, &self.bias, epsilon, output);
    }
}

impl StackWeights {
    /// Runs all layers over `x` (`[columns, hidden]`, the columns of the spans one after the other), in
    /// place and without the final norm, and adds the columns to their caches.
    pub(super) fn forward(
        &self,
        crew: &Crew,
        kernels: &Kernels,
        scratch: &mut Scratch,
        x: &mut [f32],
        spans: &mut [Span<'_>],
    ) {
        let columns = spans.iter().map(|span| span.columns).sum();
        assert_eq!(x.len(), columns * self.config.hidden);
        scratch.prepare(self, columns, spans);
        for index in 0..self.layers.len() {
            self.layer(crew, kernels, scratch, x, index, spans);
        }
        for span in spans {
            span.cache.advance(span.columns);
        }
    }

    fn layer(
        &self,
        crew: &Crew,
        kernels: &Kernels,
        scratch: &mut Scratch,
        x: &mut [f32],
        index: usize,
        spans: &mut [Span<'_>],
    ) {
        let layer = &self.layers[index];
        let (hidden, epsilon) = (self.config.hidden, self.config.epsilon);
        let columns = x.len() / hidden;
        let stream: &[f32] = x;
        let column = |c: usize| &stream[c * hidden..(c + 1) * hidden];
        scratch.attention_input.fill(crew, kernels, columns, |c, output| {
            layer.attention_norm.apply(kernels, epsilon, column(c), output);
        });
        scratch.feed_forward_input.fill(crew, kernels, columns, |c, output| {
            layer.feed_forward_norm.apply(kernels, epsilon, column(c), output);
        });

        // The two branches read the same stream, so their first products share a phase.
        let qkv = layer.qkv.term(&scratch.attention_input);
        let up = layer.up.term(&scratch.feed_forward_input);
        let qkv_output = &mut scratch.qkv[..columns * 3 * hidden];
        let up_output = scratch.feed_forward.floats_mut(columns);
        multiply(
            crew,
            kernels,
            Product { terms: &[qkv], epilogue: Epilogue::Store, output: qkv_output },
            Some(Product { terms: &[up], epilogue: Epilogue::Gelu, output: up_output }),
        );

        self.attention(crew, kernels, scratch, index, spans);

        let head_dim = self.config.head_dim();
        let width = head_width(head_dim);
        let heads = &scratch.heads;
        scratch.attended.fill(crew, kernels, columns, |c, output| {
            for (output, head) in output.chunks_exact_mut(head_dim).zip(heads) {
                output.copy_from_slice(&head.output[c * width..][..head_dim]);
            }
        });
        scratch.feed_forward.quantize(crew, kernels);

        // Both branches end in the same rows of the stream: one thread adds one after the other.
        let terms = [layer.attention_output.term(&scratch.attended), layer.down.term(&scratch.feed_forward)];
        multiply(crew, kernels, Product { terms: &terms, epilogue: Epilogue::Accumulate, output: x }, None);
    }

    /// Stores the keys and values of all columns and attends from the caches, head by head in parallel.
    fn attention(
        &self,
        crew: &Crew,
        kernels: &Kernels,
        scratch: &mut Scratch,
        layer: usize,
        spans: &mut [Span<'_>],
    ) {
        let Scratch { qkv, heads, angles, .. } = scratch;
        let mut start = 0;
        for span in spans {
            let end = start + span.columns;
            let (geometry, storage) = span.cache.parts();
            let range = geometry.layer(layer);
            let columns = Columns { stack: self, qkv, angles: &angles[start..end], start, geometry };
            let count = self.config.heads;
            match storage {
                Storage::F32(keys, values) => {
                    let parts = (&mut heads[..], &mut keys[range.clone()], &mut values[range]);
                    crew.split_three(count, parts, |index, head, keys, values| {
                        columns.attend(kernels, index, &mut head[0], keys, values);
                    });
                }
                Storage::F16(keys, values) => {
                    let parts = (&mut heads[..], &mut keys[range.clone()], &mut values[range]);
                    crew.split_three(count, parts, |index, head, keys, values| {
                        columns.attend(kernels, index, &mut head[0], keys, values);
                    });
                }
            }
            start = end;
        }
    }
}

/// The columns of one span in one layer.
struct Columns<'a> {
    stack: &'a StackWeights,
    /// `[columns, heads, q|k|v, head_dim]`, of all spans.
    qkv: &'a [f32],
    angles: &'a [Angles],
    start: usize,
    geometry: &'a Geometry,
}

impl Columns<'_> {
    /// Query, key or value (`which`) of a column.
    fn part(&self, column: usize, head: usize, which: usize) -> &[f32] {
        let config = &self.stack.config;
        let head_dim = config.head_dim();
        &self.qkv[(((self.start + column) * config.heads + head) * 3 + which) * head_dim..][..head_dim]
    }

    /// One head: stores all keys and values, then attends with four queries at a time.
    fn attend<E: KeyValue>(
        &self,
        kernels: &Kernels,
        index: usize,
        head: &mut HeadScratch,
        keys: &mut [E],
        values: &mut [E],
    ) {
        let head_dim = self.stack.config.head_dim();
        let width = head_width(head_dim);
        let scale = 1.0 / (head_dim as f32).sqrt();
        let (geometry, first) = (self.geometry, self.geometry.length());
        let row = &mut head.queries[..width];
        for (column, angles) in self.angles.iter().enumerate() {
            let slot = geometry.slot(first + column as u64);
            rotate(self.part(column, index, 1), &angles.own, row);
            E::store_key(kernels, row, slot, keys);
            row[..head_dim].copy_from_slice(self.part(column, index, 2));
            E::store(kernels, row, &mut values[slot * width..(slot + 1) * width]);
        }
        for (group, angles) in self.angles.chunks(QUERIES).enumerate() {
            let column = group * QUERIES;
            let rows = head.queries.chunks_exact_mut(width).zip(head.sink_queries.chunks_exact_mut(width));
            for (n, ((query, sink_query), angles)) in rows.zip(angles).enumerate() {
                rotate(self.part(column + n, index, 0), &angles.own, query);
                rotate(self.part(column + n, index, 0), &angles.sink, sink_query);
            }
            let position = first + column as u64;
            let count = angles.len();
            let attention = Attention {
                width,
                queries: &head.queries[..count * width],
                sink_queries: &head.sink_queries[..count * width],
                keys,
                values,
                visible: geometry.visible(position, position + count as u64 - 1),
                windows: std::array::from_fn(|n| {
                    let position = position + n as u64;
                    (geometry.window_start(position), position)
                }),
                scale,
            };
            let output = &mut head.output[(self.start + column) * width..][..count * width];
            E::attend(kernels, &attention, &mut head.scores, output);
        }
    }
}
