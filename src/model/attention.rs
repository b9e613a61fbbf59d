//! Attention of one layer: stores the keys and values of new columns, and attends from the caches.

use super::config::StackConfig;
use super::stack::{Segment, head_width};
use crate::cache::{Entries, Geometry, Storage};
use crate::kernels::{Attention, Kernels, KeyValue, QUERIES, score_floats};
use crate::threads::{Pieces, Region};

/// With as many segments for each thread, a thread takes whole segments; with fewer, the heads of a segment are shared.
const SEGMENTS_PER_THREAD: usize = 4;

/// Cosines and sines of a column, at its position and at the one where it meets the sinks.
#[derive(Clone, Default)]
pub(super) struct Angles {
    own: Vec<(f32, f32)>,
    sink: Vec<(f32, f32)>,
}

/// What a thread needs while it works on a head.
pub(super) struct HeadScratch {
    /// `[queries, width]`, as are the next two.
    queries: Vec<f32>,
    sink_queries: Vec<f32>,
    output: Vec<f32>,
    scores: Vec<f32>,
}

/// The columns of one segment in one layer, while several threads work on its heads.
struct Columns<'a> {
    config: &'a StackConfig,
    /// `[columns, heads, q|k|v, head_dim]`, of this segment.
    qkv: &'a [f32],
    angles: &'a [Angles],
    geometry: &'a Geometry,
    /// Columns before the first that attends.
    skipped: usize,
    /// Index of that one in the output.
    first: usize,
    storage: SharedStorage<'a>,
}

enum SharedStorage<'a> {
    F32(SharedEntries<'a, f32>),
    F16(SharedEntries<'a, u16>),
    Q8(SharedEntries<'a, i8>),
}

/// A layer's part of [`Entries`].
struct SharedEntries<'a, E> {
    keys: Pieces<'a, E>,
    values: Pieces<'a, E>,
    scales: Pieces<'a, f32>,
}

impl<'a, E: KeyValue> SharedEntries<'a, E> {
    fn new(entries: &'a mut Entries<E>, geometry: &Geometry, width: usize, layer: usize) -> Self {
        let elements = geometry.layer(layer, width);
        SharedEntries {
            keys: Pieces::new(&mut entries.keys[elements.clone()]),
            values: Pieces::new(&mut entries.values[elements]),
            scales: Pieces::new(&mut entries.scales[geometry.layer(layer, E::SCALES)]),
        }
    }
}

impl Angles {
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
    pub(super) fn new(width: usize) -> Self {
        let rows = || vec![0.0; QUERIES * width];
        HeadScratch { queries: rows(), sink_queries: rows(), output: rows(), scores: Vec::new() }
    }

    /// Bytes for a head of `width` dimensions that sees `positions` positions.
    pub(super) fn bytes(width: usize, positions: usize) -> usize {
        score_floats(positions).saturating_add(3 * QUERIES * width).saturating_mul(4)
    }

    /// Grows so that `slots` slots can be seen.
    pub(super) fn prepare(&mut self, slots: usize) {
        let length = score_floats(slots).max(self.scores.len());
        self.scores.resize(length, 0.0);
    }
}

/// Stores the keys and values of all columns of `qkv` (`[columns, heads, q|k|v, head_dim]`) in the caches of
/// their segments, and writes what each column attends to, to `output` (`[columns, hidden]`); if the layer `narrows`,
/// only for the wanted columns.
#[allow(clippy::too_many_arguments, reason = "the parts of a stack's scratch, borrowed one by one")]
pub(super) fn attend(
    region: &Region,
    kernels: &Kernels,
    config: &StackConfig,
    layer: (usize, bool),
    (qkv, angles): (&[f32], &[Angles]),
    segments: &mut [Segment<'_>],
    scratch: &mut [HeadScratch],
    output: &mut [f32],
) {
    let (output, threads) = (Pieces::new(output), region.threads());
    if segments.len() >= SEGMENTS_PER_THREAD * threads {
        let count = segments.len();
        let segments = Pieces::new(segments);
        region.run_with(scratch, count, |scratch, index| {
            // SAFETY: no other chunk has this segment.
            let segment = &mut unsafe { segments.piece(index..index + 1) }[0];
            let columns = Columns::new(config, layer, qkv, angles, segment);
            (0..config.heads).for_each(|head| columns.head(kernels, head, scratch, &output));
        });
    } else {
        for segment in segments {
            let columns = Columns::new(config, layer, qkv, angles, segment);
            region.run_with(scratch, config.heads, |scratch, head| {
                columns.head(kernels, head, scratch, &output)
            });
        }
    }
}

impl<'a> Columns<'a> {
    fn new(
        config: &'a StackConfig,
        (layer, narrows): (usize, bool),
        qkv: &'a [f32],
        angles: &'a [Angles],
        segment: &'a mut Segment<'_>,
    ) -> Self {
        let (range, row) = (segment.first..segment.first + segment.columns, 3 * config.hidden);
        let (geometry, storage) = segment.cache.parts();
        let width = head_width(config.head_dim());
        let storage = match storage {
            Storage::F32(entries) => SharedStorage::F32(SharedEntries::new(entries, geometry, width, layer)),
            Storage::F16(entries) => SharedStorage::F16(SharedEntries::new(entries, geometry, width, layer)),
            Storage::Q8(entries) => SharedStorage::Q8(SharedEntries::new(entries, geometry, width, layer)),
        };
        let qkv = &qkv[range.start * row..range.end * row];
        let (skipped, first) = if narrows {
            (segment.columns - segment.wanted, segment.first_wanted)
        } else {
            (0, segment.first)
        };
        Columns { config, qkv, angles: &angles[range], geometry, skipped, first, storage }
    }

    /// One head, which belongs to one chunk of work.
    fn head(&self, kernels: &Kernels, head: usize, scratch: &mut HeadScratch, output: &Pieces<'_, f32>) {
        match &self.storage {
            SharedStorage::F32(entries) => self.attend(kernels, head, scratch, entries, output),
            SharedStorage::F16(entries) => self.attend(kernels, head, scratch, entries, output),
            SharedStorage::Q8(entries) => self.attend(kernels, head, scratch, entries, output),
        }
    }

    /// Query, key or value (`which`) of a column.
    fn part(&self, column: usize, head: usize, which: usize) -> &[f32] {
        let head_dim = self.config.head_dim();
        &self.qkv[((column * self.config.heads + head) * 3 + which) * head_dim..][..head_dim]
    }

    /// Stores all keys and values, then attends with four queries at a time.
    fn attend<E: KeyValue>(
        &self,
        kernels: &Kernels,
        head: usize,
        scratch: &mut HeadScratch,
        entries: &SharedEntries<'_, E>,
        output: &Pieces<'_, f32>,
    ) {
        let (hidden, head_dim) = (self.config.hidden, self.config.head_dim());
        let width = head_width(head_dim);
        let scale = 1.0 / (head_dim as f32).sqrt();
        let (geometry, first) = (self.geometry, self.geometry.length());
        let of_head = |size: usize| head * geometry.slots() * size..(head + 1) * geometry.slots() * size;
        let SharedEntries { keys, values, scales } = entries;
        // SAFETY: no other chunk has this head of this segment.
        let (keys, values, scales) = unsafe {
            (keys.piece(of_head(width)), values.piece(of_head(width)), scales.piece(of_head(E::SCALES)))
        };
        let row = &mut scratch.queries[..width];
        for (column, angles) in self.angles.iter().enumerate() {
            let slot = geometry.slot(first + column as u64);
            rotate(self.part(column, head, 1), &angles.own, row);
            let key_scale = E::store_key(kernels, row, slot, keys);
            row[..head_dim].copy_from_slice(self.part(column, head, 2));
            let value_scale = E::store(kernels, row, &mut values[slot * width..(slot + 1) * width]);
            for (place, scale) in E::scale_places(slot).zip([key_scale, value_scale]) {
                scales[place] = scale;
            }
        }
        for (group, angles) in self.angles[self.skipped..].chunks(QUERIES).enumerate() {
            let column = self.skipped + group * QUERIES;
            let rows =
                scratch.queries.chunks_exact_mut(width).zip(scratch.sink_queries.chunks_exact_mut(width));
            for (n, ((query, sink_query), angles)) in rows.zip(angles).enumerate() {
                rotate(self.part(column + n, head, 0), &angles.own, query);
                rotate(self.part(column + n, head, 0), &angles.sink, sink_query);
            }
            let position = first + column as u64;
            let count = angles.len();
            let attention = Attention {
                width,
                queries: &scratch.queries[..count * width],
                sink_queries: &scratch.sink_queries[..count * width],
                keys,
                values,
                scales,
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
                let start = (self.first + group * QUERIES + n) * hidden + head * head_dim;
                // SAFETY: as above: no other chunk has this head of these columns.
                unsafe { output.piece(start..start + head_dim) }.copy_from_slice(&row[..head_dim]);
            }
        }
    }
}
