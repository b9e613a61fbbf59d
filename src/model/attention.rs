//! Attention of one layer: stores the keys and values of new columns, and attends from the caches.

#![forbid(unsafe_code)]

use super::config::StackConfig;
use super::segment::{Kept, Segment};
use crate::cache::{Entries, Geometry, Storage};
use crate::error::Result;
use crate::kernels::{Attention, Kernels, KeyValue, LANES, Pass, QUERIES, score_floats};
use crate::memory::{grow, reserve, zeros};
use crate::threads::{Chunks, Divide, Ranges, Strip, Strips};

/// With as many segments for each thread, a thread takes whole segments; with fewer, the heads of a segment are shared.
const SEGMENTS_PER_THREAD: usize = 4;

/// Dimensions of a head in the cache.
pub(super) fn head_width(head_dim: usize) -> usize {
    head_dim.next_multiple_of(LANES)
}

/// Cosines and sines of a column, at its position and at the one where it meets the sinks.
#[derive(Clone, Default)]
pub(super) struct Angles {
    own: Vec<(f32, f32)>,
    sink: Vec<(f32, f32)>,
}

/// Scratch of a thread while it works on a head.
pub(super) struct HeadScratch {
    /// `[queries, width]`, as are the next two.
    queries: Vec<f32>,
    sink_queries: Vec<f32>,
    output: Vec<f32>,
    scores: Vec<f32>,
}

impl Angles {
    /// Makes room for those of `frequencies` frequencies.
    pub(super) fn reserve(&mut self, frequencies: usize) -> Result<()> {
        reserve(&mut self.own, frequencies, "angles")?;
        reserve(&mut self.sink, frequencies, "angles")
    }

    /// Sets the angles of the column at `position`.
    pub(super) fn set(&mut self, frequencies: &[f64], geometry: &Geometry, position: u64) {
        rotation(frequencies, position, &mut self.own);
        rotation(frequencies, geometry.sink_position(position), &mut self.sink);
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

impl HeadScratch {
    /// Room for a head of `width` dimensions.
    ///
    /// # Errors
    /// If it cannot be allocated.
    pub(super) fn new(width: usize) -> Result<Self> {
        let rows = || zeros(QUERIES * width, "queries of a head");
        Ok(HeadScratch { queries: rows()?, sink_queries: rows()?, output: rows()?, scores: Vec::new() })
    }

    /// Bytes for a head of `width` dimensions that sees `positions` positions.
    pub(super) fn bytes(width: usize, positions: usize) -> usize {
        score_floats(positions).saturating_add(3 * QUERIES * width).saturating_mul(4)
    }

    /// Grows so that `slots` slots can be seen.
    ///
    /// # Errors
    /// If there is no memory for that.
    pub(super) fn prepare(&mut self, slots: usize) -> Result<()> {
        grow(&mut self.scores, score_floats(slots), "scores of a head")
    }
}

/// Scratch of the attention of all segments. It grows to the largest pass, then stays.
#[derive(Default)]
pub(super) struct AttentionScratch {
    /// One for each thread.
    heads: Vec<HeadScratch>,
    /// Edges between the segments' columns of the output.
    edges: Vec<usize>,
}

impl AttentionScratch {
    /// Grows for heads of `width` dimensions on `threads` threads, and so that `slots` slots can be seen.
    ///
    /// # Errors
    /// If there is no memory for that.
    pub(super) fn prepare(&mut self, threads: usize, width: usize, slots: usize) -> Result<()> {
        reserve(&mut self.heads, threads, "scratch of threads")?;
        while self.heads.len() < threads {
            self.heads.push(HeadScratch::new(width)?);
        }
        self.heads.iter_mut().try_for_each(|head| head.prepare(slots))
    }
}

/// The attention of one layer over the columns of all segments.
pub(super) struct LayerAttention<'a> {
    /// Shape of the stack.
    pub(super) config: &'a StackConfig,
    /// Index of the layer in its stack.
    pub(super) layer: usize,
    /// The columns that attend; of the others only keys and values are stored.
    pub(super) kept: Kept,
    /// `[columns, heads, q|k|v, head_dim]`.
    pub(super) qkv: &'a [f32],
    /// `[columns]`.
    pub(super) angles: &'a [Angles],
}

impl LayerAttention<'_> {
    /// Stores the keys and values of all columns in the caches of their segments, and writes what each kept column
    /// attends to, to `output` (`[kept, hidden]`).
    pub(super) fn run(
        &self,
        pass: Pass<'_>,
        segments: &mut [Segment<'_>],
        scratch: &mut AttentionScratch,
        output: &mut [f32],
    ) {
        let AttentionScratch { heads, edges } = scratch;
        edges.clear();
        edges.push(0);
        edges.extend(segments.iter().scan(0, |end, segment| {
            *end += segment.kept(self.kept);
            Some(*end)
        }));
        let whole_segments = segments.len() >= SEGMENTS_PER_THREAD * pass.region.threads();
        let parts = (Chunks::of(segments, 1), Ranges::new(output, edges, self.config.hidden));
        if whole_segments {
            pass.region.label("attention");
            pass.region.run_with(heads, parts, |scratch, _, (segments, output)| {
                segments.iter_mut().for_each(|segment| {
                    self.segment(segment, Workers::One(pass.kernels, scratch), output);
                });
            });
        } else {
            parts.visit(|_, (segments, output)| {
                segments.iter_mut().for_each(|segment| {
                    self.segment(segment, Workers::Team(pass, heads), output);
                });
            });
        }
    }

    /// All heads of a segment.
    fn segment(&self, segment: &mut Segment<'_>, workers: Workers<'_>, output: &mut [f32]) {
        let (config, range) = (self.config, segment.first..segment.first + segment.columns);
        let qkv = &self.qkv[range.start * 3 * config.hidden..range.end * 3 * config.hidden];
        let skipped = segment.columns - segment.kept(self.kept);
        let (geometry, storage) = segment.cache.parts();
        let columns = Columns { config, qkv, angles: &self.angles[range], geometry, skipped };
        match storage {
            Storage::F32(entries) => columns.attend(workers, self.layer, entries, output),
            Storage::F16(entries) => columns.attend(workers, self.layer, entries, output),
            Storage::Q8(entries) => columns.attend(workers, self.layer, entries, output),
        }
    }
}

/// Who works on the heads of a segment.
enum Workers<'a> {
    /// The team shares them.
    Team(Pass<'a>, &'a mut [HeadScratch]),
    /// One thread, which has the whole segment.
    One(&'static Kernels, &'a mut HeadScratch),
}

/// The columns of one segment in one layer.
struct Columns<'a> {
    config: &'a StackConfig,
    /// `[columns, heads, q|k|v, head_dim]`.
    qkv: &'a [f32],
    angles: &'a [Angles],
    geometry: &'a Geometry,
    /// Columns before the first that attends.
    skipped: usize,
}

/// One head of a segment in one layer: its part of the cache and of the output.
struct Head<'a, E> {
    /// Its index.
    index: usize,
    /// `[slots / 16, width, 16]`.
    keys: &'a mut [E],
    /// `[slots, width]`.
    values: &'a mut [E],
    /// `[slots / 16, key | value, 16]`, or empty.
    scales: &'a mut [f32],
    /// `[kept, head_dim]`.
    output: Strip<'a, f32>,
}

impl Columns<'_> {
    fn attend<E: KeyValue>(
        &self,
        workers: Workers<'_>,
        layer: usize,
        entries: &mut Entries<E>,
        output: &mut [f32],
    ) {
        let (config, geometry) = (self.config, self.geometry);
        let elements = geometry.layer(layer, head_width(config.head_dim()));
        let scales = geometry.layer(layer, E::SCALES);
        let heads = (
            Chunks::into(&mut entries.keys[elements.clone()], config.heads),
            Chunks::into(&mut entries.values[elements], config.heads),
            Chunks::into(&mut entries.scales[scales], config.heads),
            Strips::new(output, config.hidden, config.head_dim()),
        );
        let run = |kernels, scratch: &mut HeadScratch, index, (keys, values, scales, output)| {
            let mut head = Head { index, keys, values, scales, output };
            self.store(kernels, &mut head, &mut scratch.queries);
            self.attend_head(kernels, &mut head, scratch);
        };
        match workers {
            Workers::Team(pass, scratch) => {
                pass.region.label("attention");
                pass.region.run_with(scratch, heads, |scratch, index, head| {
                    run(pass.kernels, scratch, index, head);
                });
            }
            Workers::One(kernels, scratch) => {
                heads.visit(|index, head| run(kernels, scratch, index, head));
            }
        }
    }

    /// Query, key or value (`which`) of a column.
    fn part(&self, column: usize, head: usize, which: usize) -> &[f32] {
        let head_dim = self.config.head_dim();
        &self.qkv[((column * self.config.heads + head) * 3 + which) * head_dim..][..head_dim]
    }

    /// Stores the keys and values of all columns; `row` is scratch of at least a head's width, 0 in its padding.
    fn store<E: KeyValue>(&self, kernels: &Kernels, head: &mut Head<'_, E>, row: &mut [f32]) {
        let head_dim = self.config.head_dim();
        let width = head_width(head_dim);
        let row = &mut row[..width];
        for (position, (column, angles)) in (self.geometry.length()..).zip(self.angles.iter().enumerate()) {
            let slot = self.geometry.slot(position);
            rotate(self.part(column, head.index, 1), &angles.own, row);
            let key_scale = E::store_key(kernels, row, slot, head.keys);
            row[..head_dim].copy_from_slice(self.part(column, head.index, 2));
            let value_scale = E::store(kernels, row, &mut head.values[slot * width..(slot + 1) * width]);
            for (place, scale) in E::scale_places(slot).zip([key_scale, value_scale]) {
                head.scales[place] = scale;
            }
        }
    }

    /// Attends with four queries at a time.
    fn attend_head<E: KeyValue>(&self, kernels: &Kernels, head: &mut Head<'_, E>, scratch: &mut HeadScratch) {
        let (geometry, head_dim) = (self.geometry, self.config.head_dim());
        let width = head_width(head_dim);
        let scale = 1.0 / (head_dim as f32).sqrt();
        for (group, angles) in self.angles[self.skipped..].chunks(QUERIES).enumerate() {
            let (column, count) = (self.skipped + group * QUERIES, angles.len());
            let rows =
                scratch.queries.chunks_exact_mut(width).zip(scratch.sink_queries.chunks_exact_mut(width));
            for (n, ((query, sink_query), angles)) in rows.zip(angles).enumerate() {
                rotate(self.part(column + n, head.index, 0), &angles.own, query);
                rotate(self.part(column + n, head.index, 0), &angles.sink, sink_query);
            }
            let position = geometry.length() + column as u64;
            let attention = Attention {
                width,
                queries: &scratch.queries[..count * width],
                sink_queries: &scratch.sink_queries[..count * width],
                keys: head.keys,
                values: head.values,
                scales: head.scales,
                visible: geometry.visible(position, position + count as u64 - 1),
                windows: std::array::from_fn(|n| {
                    let position = position + n as u64;
                    (geometry.window_start(position), position)
                }),
                scale,
            };
            let rows = &mut scratch.output[..count * width];
            E::attend(kernels, &attention, &mut scratch.scores, rows);
            for (n, row) in rows.chunks_exact(width).enumerate() {
                head.output.row(group * QUERIES + n).copy_from_slice(&row[..head_dim]);
            }
        }
    }
}
