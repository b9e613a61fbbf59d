//! One GPT-NeoX stack over columns of a residual stream: parallel or sequential residual, fused QKV, partial rotary
//! embedding. Both decoders are stacks; they differ in what their caches are.

#![forbid(unsafe_code)]

use super::attention::{Angles, AttentionScratch, HeadScratch, LayerAttention, head_width};
use super::config::{Residual, StackConfig};
use super::segment::{Kept, Segment, keep_wanted, kept_columns};
use super::weights::{Layer, Linear, Norm, StackWeights};
use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::kernels::{Activation, Activations, Epilogue, Kernels, Pass, Product, Term, multiply};
use crate::memory::grow;

/// Buffers of a forward pass. They grow to the largest number of columns, then stay.
pub struct Scratch {
    attention_input: Activations,
    feed_forward_input: Activations,
    attended: Activations,
    feed_forward: Activations,
    qkv: Vec<f32>,
    attention: AttentionScratch,
    angles: Vec<Angles>,
    frequencies: Vec<f64>,
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
            attention: AttentionScratch::default(),
            angles: Vec::new(),
            frequencies: (0..config.rotary / 2).map(frequency).collect(),
        }
    }

    /// Bytes of the buffers once `columns` columns that see `positions` positions have passed, `usize::MAX` if they are
    /// more.
    pub(super) fn bytes(config: &StackConfig, columns: usize, positions: usize) -> usize {
        let head = HeadScratch::bytes(head_width(config.head_dim()), positions);
        Activations::bytes(config.hidden, columns, true)
            .saturating_mul(3)
            .saturating_add(Activations::bytes(config.feed_forward, columns, true))
            .saturating_add(columns.saturating_mul(12 * config.hidden))
            .saturating_add(columns.saturating_mul(size_of::<Angles>() + 8 * config.rotary))
            .saturating_add(head.saturating_mul(config.heads))
    }

    /// Grows for a pass of `columns` columns, numbers those of the segments, and sets their angles.
    ///
    /// # Errors
    /// If the memory cannot be allocated; then nothing has happened.
    fn prepare(
        &mut self,
        config: &StackConfig,
        pass: Pass<'_>,
        columns: usize,
        segments: &mut [Segment<'_>],
    ) -> Result<()> {
        let Scratch { attention_input, feed_forward_input, attended, feed_forward, .. } = self;
        for activations in [attention_input, feed_forward_input, attended, feed_forward] {
            activations.reserve(pass.kernels, columns)?;
        }
        grow(&mut self.qkv, columns * 3 * config.hidden, "queries, keys and values")?;
        grow(&mut self.angles, columns, "angles")?;
        self.angles[..columns].iter_mut().try_for_each(|angles| angles.reserve(self.frequencies.len()))?;
        let slots = segments.iter().map(|segment| segment.cache.geometry().slots()).max().unwrap_or(0);
        self.attention.prepare(pass.region.threads(), head_width(config.head_dim()), slots)?;
        let mut first = 0;
        for segment in segments {
            segment.first = first;
            first += segment.columns;
            let angles = &mut self.angles[segment.first..first];
            for (position, angles) in (segment.cache.length()..).zip(angles) {
                angles.set(&self.frequencies, segment.cache.geometry(), position);
            }
        }
        Ok(())
    }
}

impl Linear {
    /// The product of this matrix with columns of activations.
    pub(super) fn term<'a>(&'a self, input: &'a Activations) -> Term<'a> {
        Term { weights: self.weight.view(), bias: self.bias.as_deref().unwrap_or(&[]), input }
    }

    /// Adds the product of this matrix with columns of activations to `x`, `[columns, rows]`: the residual stream.
    pub(super) fn add_to(&self, pass: Pass<'_>, input: &Activations, x: &mut [f32]) {
        let terms = [self.term(input)];
        multiply(pass, Product { terms: &terms, epilogue: Epilogue::Accumulate, output: x }, None);
    }
}

impl Norm {
    /// LayerNorm of column `column` of a stream (`[columns, hidden]`).
    pub(super) fn apply(
        &self,
        kernels: &Kernels,
        config: &StackConfig,
        stream: &[f32],
        column: usize,
        output: &mut [f32],
    ) {
        let input = &stream[column * config.hidden..][..config.hidden];
        kernels.layer_norm(input, &self.weight, &self.bias, config.epsilon, output);
    }
}

impl StackWeights {
    /// Runs all layers over `x` (`[columns, hidden]`, the columns of the segments one after the other), in
    /// place and without the final norm, and adds the columns to their caches. Afterwards `x` begins with the
    /// wanted columns.
    ///
    /// # Errors
    /// `Interrupted` on request, between two layers, or `Resource` if there is no memory for the pass; then the caches
    /// remember what they did before.
    pub(super) fn forward(
        &self,
        pass: Pass<'_>,
        scratch: &mut Scratch,
        x: &mut [f32],
        segments: &mut [Segment<'_>],
        interrupt: Option<&Interrupt>,
    ) -> Result<()> {
        let columns = kept_columns(segments, Kept::All);
        assert_eq!(x.len(), columns * self.config.hidden);
        scratch.prepare(&self.config, pass, columns, segments)?;
        for index in 0..self.layers.len() {
            if let Err(error) = interrupt.map_or(Ok(()), Interrupt::check) {
                segments.iter_mut().for_each(|segment| segment.cache.mark_overwritten(segment.columns));
                return Err(error);
            }
            self.layer(pass, index, scratch, x, segments);
        }
        for segment in segments {
            segment.cache.advance(segment.columns);
        }
        Ok(())
    }

    /// Parallel: `x += attention(norm(x)) + feed_forward(norm(x))`. The two branches read the same stream, so each
    /// phase does the work of both. Sequential: `x += attention(norm(x)); x += feed_forward(norm(x))`. The last layer
    /// computes of an unwanted column only its key and value, and leaves the wanted columns at the start of `x`.
    fn layer(
        &self,
        pass: Pass<'_>,
        index: usize,
        scratch: &mut Scratch,
        x: &mut [f32],
        segments: &mut [Segment<'_>],
    ) {
        let (layer, config) = (&self.layers[index], &self.config);
        let narrows =
            index + 1 == self.layers.len() && kept_columns(segments, Kept::Wanted) * config.hidden < x.len();
        let kept = if narrows { Kept::Wanted } else { Kept::All };
        if config.residual == Residual::Sequential {
            return self.sequential_layer(pass, (index, kept), scratch, x, segments);
        }
        match kept {
            Kept::All => scratch.norms(pass, config, layer, x),
            Kept::Wanted => scratch.norms_of_wanted(pass, config, layer, x, segments),
        }
        scratch.first_products(pass, config, layer);
        scratch.attend(pass, config, (index, kept), segments);
        Activations::quantize_both([&mut scratch.attended, &mut scratch.feed_forward], pass);
        scratch.add_branches(pass, layer, &mut x[..kept_columns(segments, kept) * config.hidden]);
    }

    fn sequential_layer(
        &self,
        pass: Pass<'_>,
        (index, kept): (usize, Kept),
        scratch: &mut Scratch,
        x: &mut [f32],
        segments: &mut [Segment<'_>],
    ) {
        let (layer, config) = (&self.layers[index], &self.config);
        scratch.attention_norm(pass, config, layer, x);
        scratch.queries_keys_values(pass, layer);
        scratch.attend(pass, config, (index, kept), segments);
        scratch.attended.quantize(pass);
        if kept == Kept::Wanted {
            keep_wanted(x, config.hidden, segments);
        }
        let x = &mut x[..kept_columns(segments, kept) * config.hidden];
        pass.region.label("attention output");
        layer.attention_output.add_to(pass, &scratch.attended, x);
        scratch.feed_forward_norm(pass, config, layer, x);
        scratch.upward(pass, config.activation, layer);
        scratch.feed_forward.quantize(pass);
        pass.region.label("down");
        layer.down.add_to(pass, &scratch.feed_forward, x);
    }
}

/// The phases of a layer.
impl Scratch {
    /// The inputs of both branches: two norms of `x` (`[columns, hidden]`).
    fn norms(&mut self, pass: Pass<'_>, config: &StackConfig, layer: &Layer, x: &[f32]) {
        let norms = [&layer.attention_norm, &layer.feed_forward_norm];
        let inputs = [&mut self.attention_input, &mut self.feed_forward_input];
        Activations::fill_both(inputs, pass, x.len() / config.hidden, |which, column, output| {
            norms[which].apply(pass.kernels, config, x, column, output);
        });
    }

    /// The same if only the wanted columns go on: attention still needs the keys and values of all. Moves the wanted
    /// columns of `x` to its start.
    fn norms_of_wanted(
        &mut self,
        pass: Pass<'_>,
        config: &StackConfig,
        layer: &Layer,
        x: &mut [f32],
        segments: &[Segment<'_>],
    ) {
        self.attention_norm(pass, config, layer, x);
        keep_wanted(x, config.hidden, segments);
        let wanted = kept_columns(segments, Kept::Wanted) * config.hidden;
        self.feed_forward_norm(pass, config, layer, &x[..wanted]);
    }

    /// The input of attention: the norm of `x` (`[columns, hidden]`).
    fn attention_norm(&mut self, pass: Pass<'_>, config: &StackConfig, layer: &Layer, x: &[f32]) {
        self.attention_input.fill(pass, x.len() / config.hidden, |column, output| {
            layer.attention_norm.apply(pass.kernels, config, x, column, output);
        });
    }

    /// The input of the feed-forward part: the norm of `x` (`[columns, hidden]`).
    fn feed_forward_norm(&mut self, pass: Pass<'_>, config: &StackConfig, layer: &Layer, x: &[f32]) {
        self.feed_forward_input.fill(pass, x.len() / config.hidden, |column, output| {
            layer.feed_forward_norm.apply(pass.kernels, config, x, column, output);
        });
    }

    /// The first product of each branch: queries, keys and values, and the upward projection of the feed-forward part.
    fn first_products(&mut self, pass: Pass<'_>, config: &StackConfig, layer: &Layer) {
        let qkv = [layer.qkv.term(&self.attention_input)];
        let up = [layer.up.term(&self.feed_forward_input)];
        let rows = layer.qkv.weight.view().rows();
        let output = &mut self.qkv[..self.attention_input.columns() * rows];
        let qkv = Product { terms: &qkv, epilogue: Epilogue::Store, output };
        let output = self.feed_forward.floats_mut(self.feed_forward_input.columns());
        let up = Product { terms: &up, epilogue: Epilogue::Activate(config.activation), output };
        pass.region.label("qkv and up");
        multiply(pass, qkv, Some(up));
    }

    /// The first product of attention alone.
    fn queries_keys_values(&mut self, pass: Pass<'_>, layer: &Layer) {
        let terms = [layer.qkv.term(&self.attention_input)];
        let rows = layer.qkv.weight.view().rows();
        let output = &mut self.qkv[..self.attention_input.columns() * rows];
        pass.region.label("qkv");
        multiply(pass, Product { terms: &terms, epilogue: Epilogue::Store, output }, None);
    }

    /// The first product of the feed-forward part alone.
    fn upward(&mut self, pass: Pass<'_>, activation: Activation, layer: &Layer) {
        let terms = [layer.up.term(&self.feed_forward_input)];
        let output = self.feed_forward.floats_mut(self.feed_forward_input.columns());
        pass.region.label("up");
        multiply(pass, Product { terms: &terms, epilogue: Epilogue::Activate(activation), output }, None);
    }

    /// Attention of the kept columns.
    fn attend(
        &mut self,
        pass: Pass<'_>,
        config: &StackConfig,
        (layer, kept): (usize, Kept),
        segments: &mut [Segment<'_>],
    ) {
        let attention = LayerAttention { config, layer, kept, qkv: &self.qkv, angles: &self.angles };
        let output = self.attended.floats_mut(kept_columns(segments, kept));
        attention.run(pass, segments, &mut self.attention, output);
    }

    /// The last product of each branch, added to `x` (`[kept, hidden]`). Both end in the same rows of the stream: one
    /// thread adds one after the other.
    fn add_branches(&self, pass: Pass<'_>, layer: &Layer, x: &mut [f32]) {
        let terms = [layer.attention_output.term(&self.attended), layer.down.term(&self.feed_forward)];
        pass.region.label("attention output and down");
        multiply(pass, Product { terms: &terms, epilogue: Epilogue::Accumulate, output: x }, None);
    }
}
