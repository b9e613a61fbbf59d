//! What a cache remembers, in an order that does not depend on where the slots are: for saving and loading.
//!
//! Position after position, oldest first; in each, layer after layer; in each, head after head, the key's
//! `[width]` and then the value's `[width]`, little-endian. Only positions that a later query can see count.

use bytemuck::Pod;

use super::{Cache, CacheShape, CacheType, Geometry, Storage};
use crate::kernels::LANES;

impl Cache {
    /// How many positions a cache of `shape` remembers for later queries after `length` of them.
    pub(crate) fn remembered(shape: &CacheShape, length: u64) -> u64 {
        // The next query is at `length` and is itself one of its window.
        let window = shape.window as u64 - 1;
        length.min(shape.sinks as u64) + length.saturating_sub(shape.sinks as u64).min(window)
    }

    /// Bytes of one position.
    pub(crate) fn position_bytes(shape: &CacheShape, kind: CacheType) -> usize {
        2 * kind.bytes() * shape.layers * shape.heads * shape.width
    }

    /// Appends everything that is remembered.
    pub(crate) fn write(&self, output: &mut Vec<u8>) {
        match &self.storage {
            Storage::F32(keys, values) => write(&self.geometry, keys, values, output),
            Storage::F16(keys, values) => write(&self.geometry, keys, values, output),
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
            Storage::F32(keys, values) => read(&self.geometry, keys, values, bytes),
            Storage::F16(keys, values) => read(&self.geometry, keys, values, bytes),
        }
    }
}

impl Geometry {
    /// The remembered positions, oldest first.
    pub(crate) fn remembered(&self) -> impl Iterator<Item = u64> + use<> {
        let length = self.length;
        (0..length.min(self.shape.sinks as u64)).chain(self.window_start(length)..length)
    }
}

/// Where the keys and values of a head begin and what a position's place in them is: the key's elements are
/// `LANES` apart from the first, the value's next to each other.
fn places(geometry: &Geometry, slot: usize) -> impl Iterator<Item = (usize, usize)> {
    let CacheShape { layers, heads, width, .. } = geometry.shape;
    let slots = geometry.slots;
    (0..layers * heads).map(move |head| {
        let base = head * slots * width;
        (base + slot / LANES * LANES * width + slot % LANES, base + slot * width)
    })
}

fn write<E: Pod>(geometry: &Geometry, keys: &[E], values: &[E], output: &mut Vec<u8>) {
    let width = geometry.shape.width;
    for position in geometry.remembered() {
        for (key, value) in places(geometry, geometry.slot(position)) {
            for element in keys[key..].iter().step_by(LANES).take(width) {
                output.extend_from_slice(bytemuck::bytes_of(element));
            }
            output.extend_from_slice(bytemuck::cast_slice(&values[value..value + width]));
        }
    }
}

fn read<E: Pod>(geometry: &Geometry, keys: &mut [E], values: &mut [E], bytes: &[u8]) {
    let width = geometry.shape.width;
    let mut elements = bytes.chunks_exact(size_of::<E>()).map(bytemuck::pod_read_unaligned::<E>);
    let mut next = || elements.next().expect("the length was checked");
    for position in geometry.remembered() {
        for (key, value) in places(geometry, geometry.slot(position)) {
            keys[key..].iter_mut().step_by(LANES).take(width).for_each(|element| *element = next());
            values[value..value + width].iter_mut().for_each(|element| *element = next());
        }
    }
    assert!(elements.next().is_none(), "more bytes than positions");
}
