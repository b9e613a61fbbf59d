//! The positions that a cache remembers, in an order that does not depend on where the slots are: for saving and
//! loading.
//!
//! Position after position, oldest first; in each, layer after layer; in each, head after head, the key's
//! `[width]` and then the value's `[width]` and the scales of both if the type has any, little-endian. Only positions
//! that a later query can see count.

use bytemuck::{Pod, bytes_of, cast_slice, pod_read_unaligned};

use super::{Cache, CacheShape, CacheType, Entries, Geometry, Storage};
use crate::kernels::{KeyValue, LANES};

impl Cache {
    /// Number of positions that a cache of `shape` remembers for later queries after `length` of them.
    pub(crate) fn remembered(shape: &CacheShape, length: u64) -> u64 {
        // The next query is at `length` and is itself one of its window.
        let window = shape.window as u64 - 1;
        length.min(shape.sinks as u64) + length.saturating_sub(shape.sinks as u64).min(window)
    }

    /// Bytes of one position.
    pub(crate) fn position_bytes(shape: &CacheShape, kind: CacheType) -> usize {
        kind.bytes(shape.width) * shape.layers * shape.heads
    }

    /// Appends everything that is remembered.
    pub(crate) fn write(&self, output: &mut Vec<u8>) {
        match &self.storage {
            Storage::F32(entries) => write(&self.geometry, entries, output),
            Storage::F16(entries) => write(&self.geometry, entries, output),
            Storage::Q8(entries) => write(&self.geometry, entries, output),
        }
    }

    /// Replaces everything by what [`Cache::write`] wrote after `length` positions.
    ///
    /// # Panics
    /// If `bytes` are not as many as [`Cache::remembered`] and [`Cache::position_bytes`] say.
    pub(crate) fn read(&mut self, length: u64, bytes: &[u8]) {
        self.geometry.length = length;
        self.geometry.oldest = self.geometry.window_start(length);
        match &mut self.storage {
            Storage::F32(entries) => read(&self.geometry, entries, bytes),
            Storage::F16(entries) => read(&self.geometry, entries, bytes),
            Storage::Q8(entries) => read(&self.geometry, entries, bytes),
        }
    }
}

impl Cache {
    /// Becomes the first positions of another cache of the same type, of which neither has forgotten any.
    pub(crate) fn copy_start(&mut self, other: &Cache, positions: usize) {
        self.clear();
        let geometry = &self.geometry;
        match (&mut self.storage, &other.storage) {
            (Storage::F32(to), Storage::F32(from)) => copy(geometry, to, &other.geometry, from, positions),
            (Storage::F16(to), Storage::F16(from)) => copy(geometry, to, &other.geometry, from, positions),
            (Storage::Q8(to), Storage::Q8(from)) => copy(geometry, to, &other.geometry, from, positions),
            _ => return,
        }
        self.geometry.length = positions as u64;
    }
}

/// Copies the slot groups of the first positions, head after head.
fn copy<E: KeyValue + Copy>(
    geometry: &Geometry,
    to: &mut Entries<E>,
    other: &Geometry,
    from: &Entries<E>,
    positions: usize,
) {
    fn part<T: Copy>(to: &mut [T], at: usize, from: &[T], from_at: usize, count: usize) {
        to[at..at + count].copy_from_slice(&from[from_at..from_at + count]);
    }
    let CacheShape { layers, heads, width, .. } = geometry.shape;
    let slots = positions.next_multiple_of(LANES);
    for head in 0..layers * heads {
        let (own, others) = (head * geometry.slots, head * other.slots);
        part(&mut to.keys, own * width, &from.keys, others * width, slots * width);
        part(&mut to.values, own * width, &from.values, others * width, slots * width);
        let scales = E::SCALES;
        part(&mut to.scales, own * scales, &from.scales, others * scales, slots * scales);
    }
}

impl Geometry {
    /// The remembered positions, oldest first.
    pub(crate) fn remembered(&self) -> impl Iterator<Item = u64> + use<> {
        let length = self.length;
        (0..length.min(self.shape.sinks as u64)).chain(self.window_start(length)..length)
    }
}

/// Where the key, the value and the scales of a slot are, head after head: the key's elements are `LANES` apart from
/// the first, the value's next to each other.
fn places<E: KeyValue>(
    geometry: &Geometry,
    slot: usize,
) -> impl Iterator<Item = (usize, usize, impl Iterator<Item = usize>)> {
    let CacheShape { layers, heads, width, .. } = geometry.shape;
    let slots = geometry.slots;
    (0..layers * heads).map(move |head| {
        let (first, scales) = (head * slots * width, head * slots * E::SCALES);
        let key = first + slot / LANES * LANES * width + slot % LANES;
        (key, first + slot * width, E::scale_places(slot).map(move |place| scales + place))
    })
}

fn write<E: KeyValue + Pod>(geometry: &Geometry, entries: &Entries<E>, output: &mut Vec<u8>) {
    let width = geometry.shape.width;
    for position in geometry.remembered() {
        for (key, value, scales) in places::<E>(geometry, geometry.slot(position)) {
            for element in entries.keys[key..].iter().step_by(LANES).take(width) {
                output.extend_from_slice(bytes_of(element));
            }
            output.extend_from_slice(cast_slice(&entries.values[value..value + width]));
            scales.for_each(|place| output.extend_from_slice(bytes_of(&entries.scales[place])));
        }
    }
}

fn read<E: KeyValue + Pod>(geometry: &Geometry, entries: &mut Entries<E>, mut bytes: &[u8]) {
    fn next<T: Pod>(bytes: &mut &[u8]) -> T {
        let (first, rest) = bytes.split_at(size_of::<T>());
        *bytes = rest;
        pod_read_unaligned(first)
    }
    let width = geometry.shape.width;
    for position in geometry.remembered() {
        for (key, value, scales) in places::<E>(geometry, geometry.slot(position)) {
            let key = entries.keys[key..].iter_mut().step_by(LANES).take(width);
            key.chain(&mut entries.values[value..value + width])
                .for_each(|element| *element = next(&mut bytes));
            scales.for_each(|place| entries.scales[place] = next(&mut bytes));
        }
    }
    assert!(bytes.is_empty(), "more bytes than positions");
}
