//! One GPT-NeoX stack over columns of a residual stream: parallel residual, fused QKV, partial rotary
//! embedding, exact GELU. Both decoders are stacks; they differ in what their caches are.

use super::attention::{Angles, HeadScratch, attend};
use super::config::StackConfig;
use super::weights::{Layer, Linear, Norm, StackWeights};
use crate::cache::Cache;
use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::kernels::{Activations, Epilogue, Kernels, LANES, Product, Term, multiply};
use crate::threads::Region;

/// Consecutive columns that belong to one sequence, and follow what its cache holds.
pub struct Segment<'c> {
    pub(super) columns: usize,
    /// Index of its first column among those of all segments.
    pub(super) first: usize,
    /// How many of its last columns are wanted: what comes out of the last layer.
    pub(super) wanted: usize,
    /// Index of the first of those among the wanted ones of all segments.
    pub(super) first_wanted: usize,
    pub(super) cache: &'c mut Cache,
}

impl<'c> Segment<'c> {
    /// The next `columns` columns of the sequence that `cache` belongs to.
    ///
    /// # Panics
    /// If the cache has no room for so many at once.
    pub fn new(columns: usize, cache: &'c mut Cache) -> Self {
        assert!(columns <= cache.room(), "{columns} columns are more than the cache has room for");
        Segment { columns, first: 0, wanted: columns, first_wanted: 0, cache }
    }

    /// The same, if only the last column's output is wanted. The others' keys and values are all that the last
    /// layer computes of them.
    pub fn ending(columns: usize, cache: &'c mut Cache) -> Self {
        Segment { wanted: columns.min(1), ..Segment::new(columns, cache) }
    }
}

/// Buffers of a forward pass. They grow to the largest number of columns, then stay.
pub struct Scratch {
    attention_input: Activations,
    feed_forward_input: Activations,
    attended: Activations,
    feed_forward: Activations,
    qkv: Vec<f32>,
    /// One for each thread.
    heads: Vec<HeadScratch>,
    angles: Vec<Angles>,
    frequencies: Vec<f64>,
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
        Scratch {
            attention_input: input(config.hidden, |layer| &layer.qkv),
            feed_forward_input: input(config.hidden, |layer| &layer.up),
            attended: input(config.hidden, |layer| &layer.attention_output),
            feed_forward: input(config.feed_forward, |layer| &layer.down),
            qkv: Vec::new(),
            heads: Vec::new(),
            angles: Vec::new(),
            frequencies: (0..config.rotary / 2).map(frequency).collect(),
        }
    }

    /// Bytes of the buffers once `columns` columns that see `positions` positions have passed.
    pub(super) fn bytes(config: &StackConfig, columns: usize, positions: usize) -> usize {
        let activations = 3 * Activations::bytes(config.hidden, columns, true)
            + Activations::bytes(config.feed_forward, columns, true)
            + 12 * columns * config.hidden;
        let head = HeadScratch::bytes(head_width(config.head_dim()), positions);
        activations.saturating_add(config.heads.saturating_mul(head))
    }

    fn prepare(
        &mut self,
        config: &StackConfig,
        threads: usize,
        columns: usize,
        segments: &mut [Segment<'_>],
    ) {
        grow(&mut self.qkv, columns * 3 * config.hidden);
        let slots = segments.iter().map(|segment| segment.cache.geometry().slots()).max().unwrap_or(0);
        let width = head_width(config.head_dim());
        self.heads.resize_with(threads.max(self.heads.len()), || HeadScratch::new(width));
        self.heads.iter_mut().for_each(|head| head.prepare(slots));
        grow(&mut self.angles, columns);
        let (mut first, mut first_wanted) = (0, 0);
        for segment in segments {
            (segment.first, segment.first_wanted) = (first, first_wanted);
            first_wanted += segment.wanted;
            first += segment.columns;
            for (position, angles) in (segment.cache.length()..).zip(&mut self.angles[segment.first..first]) {
                angles.set(&self.frequencies, segment.cache.geometry(), position);
            }
        }
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
    /// Runs all layers over `x` (`[columns, hidden]`, the columns of the segments one after the other), in
    /// place and without the final norm, and adds the columns to their caches. Afterwards `x` begins with the
    /// wanted columns.
    ///
    /// # Errors
    /// `Interrupted` on request, between two layers; then the caches remember what they did before.
    pub(super) fn forward(
        &self,
        region: &Region,
        kernels: &Kernels,
        scratch: &mut Scratch,
        x: &mut [f32],
        segments: &mut [Segment<'_>],
        interrupt: Option<&Interrupt>,
    ) -> Result<()> {
        let columns = segments.iter().map(|segment| segment.columns).sum();
        assert_eq!(x.len(), columns * self.config.hidden);
        scratch.prepare(&self.config, region.threads(), columns, segments);
        for index in 0..self.layers.len() {
            if let Err(error) = interrupt.map_or(Ok(()), Interrupt::check) {
                segments.iter_mut().for_each(|segment| segment.cache.mark_overwritten(segment.columns));
                return Err(error);
            }
            self.layer(region, kernels, scratch, x, index, segments);
        }
        for segment in segments {
            segment.cache.advance(segment.columns);
        }
        Ok(())
    }

    fn layer(
        &self,
        region: &Region,
        kernels: &Kernels,
        scratch: &mut Scratch,
        x: &mut [f32],
        index: usize,
        segments: &mut [Segment<'_>],
    ) {
        let layer = &self.layers[index];
        let (hidden, epsilon) = (self.config.hidden, self.config.epsilon);
        let columns = x.len() / hidden;
        let wanted: usize = segments.iter().map(|segment| segment.wanted).sum();
        let narrows = index + 1 == self.layers.len() && wanted < columns;
        let norms = [&layer.attention_norm, &layer.feed_forward_norm];
        if narrows {
            let stream: &[f32] = x;
            scratch.attention_input.fill(region, kernels, columns, |c, output| {
                norms[0].apply(kernels, epsilon, &stream[c * hidden..(c + 1) * hidden], output);
            });
            keep_wanted(x, hidden, segments);
            let stream: &[f32] = x;
            scratch.feed_forward_input.fill(region, kernels, wanted, |c, output| {
                norms[1].apply(kernels, epsilon, &stream[c * hidden..(c + 1) * hidden], output);
            });
        } else {
            let stream: &[f32] = x;
            let inputs = [&mut scratch.attention_input, &mut scratch.feed_forward_input];
            Activations::fill_both(inputs, region, kernels, columns, |which, c, output| {
                norms[which].apply(kernels, epsilon, &stream[c * hidden..(c + 1) * hidden], output);
            });
        }
        let kept = if narrows { wanted } else { columns };

        // The two branches read the same stream, so their first products share a phase.
        let qkv = layer.qkv.term(&scratch.attention_input);
        let up = layer.up.term(&scratch.feed_forward_input);
        let qkv_output = &mut scratch.qkv[..columns * 3 * hidden];
        let up_output = scratch.feed_forward.floats_mut(kept);
        multiply(
            region,
            kernels,
            Product { terms: &[qkv], epilogue: Epilogue::Store, output: qkv_output },
            Some(Product { terms: &[up], epilogue: Epilogue::Gelu, output: up_output }),
        );

        let Scratch { qkv, angles, heads, attended, feed_forward, .. } = &mut *scratch;
        let output = attended.floats_mut(kept);
        attend(region, kernels, &self.config, (index, narrows), (qkv, angles), segments, heads, output);
        Activations::quantize_both([attended, feed_forward], region, kernels);

        // Both branches end in the same rows of the stream: one thread adds one after the other.
        let terms = [layer.attention_output.term(&scratch.attended), layer.down.term(&scratch.feed_forward)];
        let output = &mut x[..kept * hidden];
        multiply(region, kernels, Product { terms: &terms, epilogue: Epilogue::Accumulate, output }, None);
    }
}

/// Moves the wanted columns of `x` (`[columns, hidden]`) to its start.
fn keep_wanted(x: &mut [f32], hidden: usize, segments: &[Segment<'_>]) {
    for segment in segments {
        let source = segment.first + segment.columns - segment.wanted;
        x.copy_within(source * hidden..(source + segment.wanted) * hidden, segment.first_wanted * hidden);
    }
}
