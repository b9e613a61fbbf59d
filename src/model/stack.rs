//! One GPT-NeoX stack over columns of a residual stream: parallel residual, fused QKV, partial rotary
//! embedding, exact GELU. Both decoders are stacks; they differ in what their caches are.

use super::config::StackConfig;
use super::weights::{Layer, Norm, StackWeights};
use crate::cache::Cache;
use crate::kernels::{Activations, Epilogue, Kernels, KeyValue, LANES, Product, Segment, Term, multiply};
use crate::threads::Crew;

/// Consecutive columns that belong to one sequence.
pub struct Span<'c, E> {
    /// Number of columns.
    pub columns: usize,
    /// Position of the first one.
    pub first: u64,
    /// What the sequence saw before; `None` if it starts here and is not continued.
    pub cache: Option<&'c mut Cache<E>>,
}

/// Buffers of a forward pass. They grow to the largest number of columns, then stay.
pub struct Scratch<E> {
    attention_input: Activations,
    feed_forward_input: Activations,
    attended: Activations,
    feed_forward: Activations,
    qkv: Vec<f32>,
    wide: Vec<f32>,
    heads: Vec<HeadScratch<E>>,
    angles: Vec<Angles>,
    frequencies: Vec<f64>,
}

/// What one head of one layer needs; heads are worked on in parallel.
struct HeadScratch<E> {
    /// `[columns, width]`, in the type of the cache, so that a column sees its batch as it sees the cache.
    keys: Vec<E>,
    values: Vec<E>,
    /// `[columns, width]`.
    output: Vec<f32>,
    row: Vec<f32>,
    sink_query: Vec<f32>,
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

impl<E: KeyValue> Scratch<E> {
    /// Buffers for a stack, still empty.
    pub(super) fn new(weights: &StackWeights) -> Self {
        let config = &weights.config;
        let quantized = |pick: fn(&Layer) -> bool| weights.layers.iter().any(pick);
        let half = config.rotary / 2;
        let frequency =
            |i: usize| f64::from(config.rotary_base).powf(-((2 * i) as f64) / config.rotary as f64);
        let head = || HeadScratch {
            keys: Vec::new(),
            values: Vec::new(),
            output: Vec::new(),
            row: vec![0.0; head_width(config.head_dim())],
            sink_query: vec![0.0; head_width(config.head_dim())],
            scores: Vec::new(),
        };
        Scratch {
            attention_input: Activations::new(
                config.hidden,
                quantized(|layer| layer.qkv.weight.kind().is_quantized()),
            ),
            feed_forward_input: Activations::new(
                config.hidden,
                quantized(|layer| layer.up.weight.kind().is_quantized()),
            ),
            attended: Activations::new(
                config.hidden,
                quantized(|layer| layer.attention_output.weight.kind().is_quantized()),
            ),
            feed_forward: Activations::new(
                config.feed_forward,
                quantized(|layer| layer.down.weight.kind().is_quantized()),
            ),
            qkv: Vec::new(),
            wide: Vec::new(),
            heads: (0..config.heads).map(|_| head()).collect(),
            angles: Vec::new(),
            frequencies: (0..half).map(frequency).collect(),
        }
    }

    /// Bytes of the buffers once `columns` columns that see `positions` positions have passed.
    pub(super) fn bytes(config: &StackConfig, columns: usize, positions: usize) -> usize {
        let width = head_width(config.head_dim());
        let head = columns * width * (2 * size_of::<E>() + 4) + 4 * (columns + positions);
        3 * Activations::bytes(config.hidden, columns, true)
            + Activations::bytes(config.feed_forward, columns, true)
            + 4 * columns * (3 * config.hidden + config.feed_forward)
            + config.heads * head
    }

    fn prepare(&mut self, weights: &StackWeights, columns: usize, spans: &[Span<'_, E>]) {
        let config = &weights.config;
        let width = head_width(config.head_dim());
        grow(&mut self.qkv, columns * 3 * config.hidden);
        grow(&mut self.wide, columns * config.feed_forward);
        let cached = |span: &Span<'_, E>| {
            span.cache.as_ref().map_or(0, |cache| cache.shape().sinks + cache.shape().window)
        };
        let positions = columns + spans.iter().map(cached).max().unwrap_or(0);
        for head in &mut self.heads {
            grow(&mut head.keys, columns * width);
            grow(&mut head.values, columns * width);
            grow(&mut head.output, columns * width);
            grow(&mut head.scores, positions);
        }
        grow(&mut self.angles, columns);
        let mut all = self.angles.iter_mut();
        for span in spans {
            for (position, angles) in (span.first..).zip(all.by_ref().take(span.columns)) {
                let sink = span.cache.as_ref().map_or(position, |cache| cache.sink_position(position));
                rotation(&self.frequencies, position, &mut angles.own);
                rotation(&self.frequencies, sink, &mut angles.sink);
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

impl Norm {
    /// LayerNorm of one column.
    pub(super) fn apply(&self, kernels: &Kernels, epsilon: f32, input: &[f32], output: &mut [f32]) {
        kernels.layer_norm(input, &self.weight, &self.bias, epsilon, output);
    }
}

impl StackWeights {
    /// Runs all layers over `x` (`[columns, hidden]`, the columns of the spans one after the other), in
    /// place and without the final norm, and adds the columns to their caches.
    pub(super) fn forward<E: KeyValue>(
        &self,
        crew: &Crew,
        kernels: &Kernels,
        scratch: &mut Scratch<E>,
        x: &mut [f32],
        spans: &mut [Span<'_, E>],
    ) {
        let columns = spans.iter().map(|span| span.columns).sum();
        assert_eq!(x.len(), columns * self.config.hidden);
        scratch.prepare(self, columns, spans);
        for (index, layer) in self.layers.iter().enumerate() {
            self.layer(crew, kernels, scratch, x, columns, index, layer, spans);
        }
        for span in spans {
            if let Some(cache) = &mut span.cache {
                cache.advance(span.columns);
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn layer<E: KeyValue>(
        &self,
        crew: &Crew,
        kernels: &Kernels,
        scratch: &mut Scratch<E>,
        x: &mut [f32],
        columns: usize,
        index: usize,
        layer: &Layer,
        spans: &mut [Span<'_, E>],
    ) {
        let (hidden, epsilon) = (self.config.hidden, self.config.epsilon);
        let stream: &[f32] = x;
        let column = |c: usize| &stream[c * hidden..(c + 1) * hidden];
        scratch.attention_input.fill(crew, kernels, columns, |c, output| {
            layer.attention_norm.apply(kernels, epsilon, column(c), output);
        });
        scratch.feed_forward_input.fill(crew, kernels, columns, |c, output| {
            layer.feed_forward_norm.apply(kernels, epsilon, column(c), output);
        });

        // The two branches read the same stream, so their first products share a phase.
        let qkv =
            Term { weights: layer.qkv.weight.view(), bias: &layer.qkv.bias, input: &scratch.attention_input };
        let up = Term {
            weights: layer.up.weight.view(),
            bias: &layer.up.bias,
            input: &scratch.feed_forward_input,
        };
        multiply(
            crew,
            kernels,
            Product {
                terms: &[qkv],
                epilogue: Epilogue::Store,
                output: &mut scratch.qkv[..columns * 3 * hidden],
            },
            Some(Product {
                terms: &[up],
                epilogue: Epilogue::Gelu,
                output: &mut scratch.wide[..columns * self.config.feed_forward],
            }),
        );

        self.attention(crew, kernels, scratch, columns, index, spans);

        let head_dim = self.config.head_dim();
        let width = head_width(head_dim);
        let heads = &scratch.heads;
        scratch.attended.fill(crew, kernels, columns, |c, output| {
            for (output, head) in output.chunks_exact_mut(head_dim).zip(heads) {
                output.copy_from_slice(&head.output[c * width..][..head_dim]);
            }
        });
        let wide = &scratch.wide;
        scratch.feed_forward.fill(crew, kernels, columns, |c, output| {
            output.copy_from_slice(&wide[c * output.len()..][..output.len()]);
        });

        // Both branches end in the same rows of the stream: one thread adds one after the other.
        let output = &layer.attention_output;
        let terms = [
            Term { weights: output.weight.view(), bias: &output.bias, input: &scratch.attended },
            Term { weights: layer.down.weight.view(), bias: &layer.down.bias, input: &scratch.feed_forward },
        ];
        multiply(crew, kernels, Product { terms: &terms, epilogue: Epilogue::Accumulate, output: x }, None);
    }

    fn attention<E: KeyValue>(
        &self,
        crew: &Crew,
        kernels: &Kernels,
        scratch: &mut Scratch<E>,
        columns: usize,
        layer: usize,
        spans: &mut [Span<'_, E>],
    ) {
        let head_dim = self.config.head_dim();
        let width = head_width(head_dim);
        let scale = 1.0 / (head_dim as f32).sqrt();
        let (qkv, angles) = (&scratch.qkv, &scratch.angles);
        let shared: &[Span<'_, E>] = spans;
        // A column's fused output is [heads][q|k|v][head_dim].
        let part = |column: usize, head: usize, which: usize| {
            &qkv[((column * self.config.heads + head) * 3 + which) * head_dim..][..head_dim]
        };
        crew.split(&mut scratch.heads, 1, |index, head| {
            let head = &mut head[0];
            for column in 0..columns {
                let stored = column * width..(column + 1) * width;
                rotate(part(column, index, 1), &angles[column].own, &mut head.row);
                E::store(kernels, &head.row, &mut head.keys[stored.clone()]);
                head.row[..head_dim].copy_from_slice(part(column, index, 2));
                E::store(kernels, &head.row, &mut head.values[stored]);
            }
            let mut start = 0;
            for span in shared {
                for column in start..start + span.columns {
                    rotate(part(column, index, 0), &angles[column].own, &mut head.row);
                    rotate(part(column, index, 0), &angles[column].sink, &mut head.sink_query);
                    head.attend(kernels, span, (layer, index), start, column, width, scale);
                }
                start += span.columns;
            }
        });
        for (index, head) in scratch.heads.iter().enumerate() {
            let mut start = 0;
            for span in &mut *spans {
                if let Some(cache) = &mut span.cache {
                    let stored = start * width..(start + span.columns) * width;
                    cache.store(layer, index, span.first, &head.keys[stored.clone()], &head.values[stored]);
                }
                start += span.columns;
            }
        }
    }
}

impl<E: KeyValue> HeadScratch<E> {
    /// Attention of `column`, whose queries are in `row` and `sink_query`, over what its span's cache holds
    /// and over the span's own columns up to it, in order of position.
    #[allow(clippy::too_many_arguments)]
    fn attend(
        &mut self,
        kernels: &Kernels,
        span: &Span<'_, E>,
        (layer, head): (usize, usize),
        start: usize,
        column: usize,
        width: usize,
        scale: f32,
    ) {
        let position = span.first + (column - start) as u64;
        let own = |query, from: usize, to: usize| {
            let range = from.min(to) * width..to * width;
            Segment { query, keys: &self.keys[range.clone()], values: &self.values[range] }
        };
        let output = &mut self.output[column * width..(column + 1) * width];
        let Some(cache) = &span.cache else {
            let segments = [own(&self.row, start, column + 1)];
            return E::attend(kernels, &segments, scale, &mut self.scores, output);
        };
        let (keys, values) = cache.head(layer, head);
        let cached = |query, slots: std::ops::Range<usize>| {
            let range = slots.start * width..slots.end * width;
            Segment { query, keys: &keys[range.clone()], values: &values[range] }
        };
        let visible = cache.visible(position);
        let [older, newer] = visible.window;
        // The span's own columns: sinks first, then those inside the window.
        let sinks = cache.shape().sinks as u64;
        let column_at = |position: u64| start + position.saturating_sub(span.first) as usize;
        let sinks_end = column_at(sinks).min(column + 1);
        let window = column_at(cache.window_start(position).max(sinks)).max(start);
        let segments = [
            cached(&self.sink_query, visible.sinks),
            own(&self.sink_query, start, sinks_end),
            cached(&self.row, older),
            cached(&self.row, newer),
            own(&self.row, window, column + 1),
        ];
        E::attend(kernels, &segments, scale, &mut self.scores, output);
    }
}
