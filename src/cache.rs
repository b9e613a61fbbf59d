//! The rolling cache: keys and values of the last positions and of the pinned first ones, in memory that is
//! allocated once.
//!
//! A position below `sinks` keeps its slot for ever; later positions share a ring of `window` slots, so the
//! oldest leaves when a new one comes. Keys are stored rotated at their absolute position and never rewritten.

use crate::error::{Error, ErrorKind, Result};
use crate::kernels::KeyValue;

/// Shape of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Layers of the stack.
    pub layers: usize,
    /// Heads of a layer.
    pub heads: usize,
    /// Dimensions of a head, padded to whole lanes.
    pub width: usize,
    /// Positions that are never forgotten.
    pub sinks: usize,
    /// Latest positions beside them; at least 1.
    pub window: usize,
}

impl CacheShape {
    fn slots(&self) -> usize {
        self.sinks + self.window
    }

    /// Elements of the keys, and as many of the values; `None` when that overflows.
    pub fn elements(&self) -> Option<usize> {
        let slots = self.sinks.checked_add(self.window)?;
        slots.checked_mul(self.width)?.checked_mul(self.heads)?.checked_mul(self.layers)
    }
}

/// Cached keys and values of one sequence: `[layers, heads, slots, width]` each.
pub struct Cache<E> {
    shape: CacheShape,
    keys: Vec<E>,
    values: Vec<E>,
    length: u64,
}

/// Which cached positions a query sees, as ranges of slots in order of position.
#[derive(Clone, Debug, PartialEq)]
pub struct Visible {
    /// Slots of pinned positions that are behind the window: met by the query of the sinks.
    pub sinks: std::ops::Range<usize>,
    /// Slots of the window, in two runs where the ring wraps.
    pub window: [std::ops::Range<usize>; 2],
}

impl<E: KeyValue> Cache<E> {
    /// An empty cache. Its memory is reserved now and becomes resident as it fills.
    ///
    /// # Errors
    /// If the memory is not to be had.
    pub fn new(shape: CacheShape) -> Result<Self> {
        let elements = shape.elements();
        let bytes = elements.and_then(|elements| elements.checked_mul(2 * size_of::<E>()));
        let allocate = |elements: usize| {
            // `vec!` gets zeroed pages without touching them but aborts where there are none: ask first.
            Vec::<E>::new().try_reserve_exact(elements).ok()?;
            Some(vec![E::default(); elements])
        };
        let buffers =
            bytes.and(elements).and_then(|elements| Some((allocate(elements)?, allocate(elements)?)));
        let (keys, values) = buffers.ok_or_else(|| {
            let bytes =
                bytes.map_or("more bytes than there are addresses".to_string(), |b| format!("{b} bytes"));
            Error::new(
                ErrorKind::Resource,
                format!("a cache of {} positions needs {bytes}, which cannot be allocated", shape.slots()),
            )
        })?;
        Ok(Cache { shape, keys, values, length: 0 })
    }

    /// The shape.
    pub fn shape(&self) -> &CacheShape {
        &self.shape
    }

    /// Positions seen so far, forgotten ones included.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.length = 0;
    }

    /// Counts positions whose keys and values have been stored in every layer.
    pub(crate) fn advance(&mut self, positions: usize) {
        self.length += positions as u64;
    }

    /// Keys and values of a head, `[slots, width]`.
    pub(crate) fn head(&self, layer: usize, head: usize) -> (&[E], &[E]) {
        let size = self.shape.slots() * self.shape.width;
        let start = (layer * self.shape.heads + head) * size;
        (&self.keys[start..start + size], &self.values[start..start + size])
    }

    fn slot(&self, position: u64) -> usize {
        let CacheShape { sinks, window, .. } = self.shape;
        match position.checked_sub(sinks as u64) {
            Some(later) => sinks + (later % window as u64) as usize,
            None => position as usize,
        }
    }

    /// Stores keys and values (`[positions, width]`) of consecutive positions from `first` on. Where they
    /// are more than the window, the last ones stay.
    pub(crate) fn store(&mut self, layer: usize, head: usize, first: u64, keys: &[E], values: &[E]) {
        let width = self.shape.width;
        let base = (layer * self.shape.heads + head) * self.shape.slots() * width;
        for (index, (key, value)) in keys.chunks_exact(width).zip(values.chunks_exact(width)).enumerate() {
            let at = base + self.slot(first + index as u64) * width;
            self.keys[at..at + width].copy_from_slice(key);
            self.values[at..at + width].copy_from_slice(value);
        }
    }

    /// The oldest position of the window of a query at `position`.
    pub(crate) fn window_start(&self, position: u64) -> u64 {
        (position + 1).saturating_sub(self.shape.window as u64)
    }

    /// The position at which a query meets the sinks: they seem to stand just outside the window.
    pub(crate) fn sink_position(&self, position: u64) -> u64 {
        position.min((self.shape.sinks + self.shape.window - 1) as u64)
    }

    /// What a query at `position` sees of the cache, which holds positions below [`Cache::length`].
    pub(crate) fn visible(&self, position: u64) -> Visible {
        let CacheShape { sinks, window, .. } = self.shape;
        let pinned = self.length.min(sinks as u64) as usize;
        let start = self.window_start(position).max(sinks as u64);
        let count = self.length.saturating_sub(start) as usize;
        let first = self.slot(start);
        let until_wrap = count.min(sinks + window - first);
        Visible { sinks: 0..pinned, window: [first..first + until_wrap, sinks..sinks + count - until_wrap] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shape(sinks: usize, window: usize) -> CacheShape {
        CacheShape { layers: 1, heads: 1, width: 16, sinks, window }
    }

    proptest! {
        /// The visible slots hold exactly the sinks and the window, in order.
        #[test]
        fn visible_positions_are_the_sinks_and_the_window(
            sinks in 0usize..4, window in 1usize..6, length in 0u64..30, ahead in 0u64..4
        ) {
            let mut cache = Cache::<f32>::new(shape(sinks, window)).unwrap();
            for position in 0..length {
                let row = [position as f32; 16];
                cache.store(0, 0, position, &row, &row);
                cache.advance(1);
            }
            let query = length + ahead;
            let visible = cache.visible(query);
            let [first, second] = visible.window;
            let slots = visible.sinks.chain(first).chain(second);
            let found: Vec<u64> = slots.map(|slot| cache.head(0, 0).0[slot * 16] as u64).collect();
            let expected: Vec<u64> = (0..length)
                .filter(|&p| p < sinks as u64 || p + window as u64 > query)
                .collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let huge = CacheShape { layers: 1000, heads: 1000, width: 128, sinks: 4, window: usize::MAX / 2 };
        assert_eq!(Cache::<u16>::new(huge).err().unwrap().kind(), ErrorKind::Resource);
        let large = CacheShape { window: 1 << 36, ..huge };
        assert_eq!(Cache::<u16>::new(large).err().unwrap().kind(), ErrorKind::Resource);
    }
}
