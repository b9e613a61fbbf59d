//! The rolling cache: keys and values of the last positions and of the pinned first ones, in memory that is
//! allocated once.
//!
//! A position below `sinks` keeps its slot for ever; later positions share a ring, so the oldest leaves when
//! a new one comes. Keys are stored rotated at their absolute position and never rewritten. The ring has a few
//! slots more than the window, so that several positions can be stored before the first of them is attended
//! from. Keys lie in slot groups of 16, `[slots / 16, width, 16]`, so that the scores of 16 positions are one
//! register; values are rows, `[slots, width]`. In int8, each key and each value of a head has a scale of its own;
//! those of a slot group lie together, `[slots / 16, key | value, 16]`.

#![forbid(unsafe_code)]

mod contents;

use std::ops::Range;

use bytemuck::{Zeroable, try_zeroed_vec};

use crate::error::{Error, ErrorKind, Result};
use crate::kernels::{LANES, Run, Stored, Visible};
use crate::memory::copy;

/// The type in which keys and values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheType {
    /// f32: exact, for comparisons.
    F32,
    /// f16.
    F16,
    /// Integers of 8 bits, and an f32 scale for the key and one for the value of each head and position.
    Q8,
}

impl CacheType {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            CacheType::F32 => "f32",
            CacheType::F16 => "f16",
            CacheType::Q8 => "q8",
        }
    }

    /// Every type.
    pub const ALL: [CacheType; 3] = [CacheType::F32, CacheType::F16, CacheType::Q8];

    /// Bytes of the key and the value of a head at one position.
    pub fn bytes(self, width: usize) -> usize {
        match self {
            CacheType::F32 => entry_bytes::<f32>(width),
            CacheType::F16 => entry_bytes::<u16>(width),
            CacheType::Q8 => entry_bytes::<i8>(width),
        }
    }
}

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
    /// Latest positions beside them, that of the query included; at least 1.
    pub window: usize,
    /// Positions that can always be stored together once the cache rolls; 0 if it never does.
    pub slack: usize,
}

impl CacheShape {
    /// Slots that the later positions share. Whole slot groups, so that a position's lane never changes.
    fn ring(&self) -> Option<usize> {
        self.window.checked_add(self.slack)?.checked_next_multiple_of(LANES)
    }

    fn slots(&self) -> Option<usize> {
        self.sinks.checked_add(self.ring()?)?.checked_next_multiple_of(LANES)
    }

    /// Keys, and likewise values.
    fn entries(&self) -> Option<usize> {
        self.slots()?.checked_mul(self.heads)?.checked_mul(self.layers)
    }

    /// Bytes of keys and values; `None` when that overflows.
    pub fn bytes(&self, kind: CacheType) -> Option<usize> {
        self.entries()?.checked_mul(kind.bytes(self.width))
    }
}

/// Where positions are and who sees them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    shape: CacheShape,
    ring: usize,
    slots: usize,
    length: u64,
    /// Later positions before this one are forgotten: their slots have been given away, or never filled.
    oldest: u64,
}

/// Cached keys and values of one sequence.
pub struct Cache {
    geometry: Geometry,
    storage: Storage,
}

pub(crate) enum Storage {
    F32(Entries<f32>),
    F16(Entries<u16>),
    Q8(Entries<i8>),
}

/// Keys and values of all layers.
pub(crate) struct Entries<E> {
    /// `[layers, heads, slots / 16, width, 16]`
    pub(crate) keys: Vec<E>,
    /// `[layers, heads, slots, width]`
    pub(crate) values: Vec<E>,
    /// `[layers, heads, slots / 16, key | value, 16]` if the type has scales, else empty.
    pub(crate) scales: Vec<f32>,
}

fn entry_bytes<E: Stored>(width: usize) -> usize {
    2 * width * size_of::<E>() + E::SCALES * size_of::<f32>()
}

impl<E: Stored + Zeroable> Entries<E> {
    fn new(count: usize, width: usize) -> Option<Self> {
        let elements = count.checked_mul(width)?;
        // Pages that are not touched yet.
        let scales = try_zeroed_vec(count.checked_mul(E::SCALES)?).ok()?;
        Some(Entries { keys: try_zeroed_vec(elements).ok()?, values: try_zeroed_vec(elements).ok()?, scales })
    }
}

impl<E: Stored> Entries<E> {
    fn try_clone(&self) -> Result<Self> {
        let (keys, values) = (copy(&self.keys, "keys")?, copy(&self.values, "values")?);
        Ok(Entries { keys, values, scales: copy(&self.scales, "scales")? })
    }
}

impl Cache {
    /// An empty cache. Its memory is reserved now and becomes resident as it fills.
    ///
    /// # Errors
    /// If the memory cannot be allocated.
    pub fn new(kind: CacheType, shape: CacheShape) -> Result<Self> {
        let bytes = shape.bytes(kind).filter(|&bytes| isize::try_from(bytes).is_ok());
        let storage = bytes.and(shape.entries()).and_then(|count| {
            Some(match kind {
                CacheType::F32 => Storage::F32(Entries::new(count, shape.width)?),
                CacheType::F16 => Storage::F16(Entries::new(count, shape.width)?),
                CacheType::Q8 => Storage::Q8(Entries::new(count, shape.width)?),
            })
        });
        let (Some(storage), Some(ring), Some(slots)) = (storage, shape.ring(), shape.slots()) else {
            let bytes =
                bytes.map_or("more memory than there is".to_string(), |bytes| format!("{bytes} bytes"));
            let blocks = shape.sinks.saturating_add(shape.window);
            let detail = format!("a cache of {blocks} blocks needs {bytes}, which cannot be allocated");
            return Err(Error::new(ErrorKind::Resource, detail));
        };
        Ok(Cache { geometry: Geometry { shape, ring, slots, length: 0, oldest: 0 }, storage })
    }

    /// A copy.
    ///
    /// # Errors
    /// If its memory cannot be allocated.
    pub(crate) fn try_clone(&self) -> Result<Self> {
        let storage = match &self.storage {
            Storage::F32(entries) => Storage::F32(entries.try_clone()?),
            Storage::F16(entries) => Storage::F16(entries.try_clone()?),
            Storage::Q8(entries) => Storage::Q8(entries.try_clone()?),
        };
        Ok(Cache { geometry: self.geometry, storage })
    }

    /// Positions seen so far, forgotten ones included.
    pub fn length(&self) -> u64 {
        self.geometry.length
    }

    /// Its shape.
    pub(crate) fn shape(&self) -> &CacheShape {
        &self.geometry.shape
    }

    /// The type of its elements.
    pub(crate) fn kind(&self) -> CacheType {
        match self.storage {
            Storage::F32(..) => CacheType::F32,
            Storage::F16(..) => CacheType::F16,
            Storage::Q8(..) => CacheType::Q8,
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        (self.geometry.length, self.geometry.oldest) = (0, 0);
    }

    /// Counts positions whose keys and values have been stored in every layer.
    pub(crate) fn advance(&mut self, positions: usize) {
        self.mark_overwritten(positions);
        self.geometry.length += positions as u64;
    }

    /// Counts the slots of the next positions as overwritten, although the pass was interrupted.
    pub(crate) fn mark_overwritten(&mut self, positions: usize) {
        let geometry = &mut self.geometry;
        let end = geometry.length + positions as u64;
        geometry.oldest = geometry.oldest.max(end.saturating_sub(geometry.ring as u64));
    }

    /// Forgets the positions from `length` on.
    pub(crate) fn rewind(&mut self, length: u64) {
        let geometry = &mut self.geometry;
        geometry.length = geometry.length.min(length);
        if geometry.length <= geometry.shape.sinks as u64 {
            geometry.oldest = 0;
        }
    }

    /// Number of positions that can be stored next before a query at the first of them has looked.
    pub(crate) fn room(&self) -> usize {
        self.geometry.room()
    }

    pub(crate) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    pub(crate) fn storage(&self) -> &Storage {
        &self.storage
    }

    pub(crate) fn parts(&mut self) -> (&Geometry, &mut Storage) {
        (&self.geometry, &mut self.storage)
    }
}

impl Geometry {
    /// Positions stored so far.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Number of positions that can be stored next before a query at the first of them has looked.
    pub(crate) fn room(&self) -> usize {
        let unused = ((self.shape.sinks + self.ring) as u64).saturating_sub(self.length);
        (self.ring - self.shape.window + 1).max(usize::try_from(unused).unwrap_or(usize::MAX))
    }

    /// The smallest length, beside the pinned positions, whose last position still sees its whole window.
    pub(crate) fn first_end(&self) -> u64 {
        if self.oldest <= self.shape.sinks as u64 { 1 } else { self.oldest + self.shape.window as u64 }
    }

    /// Whether everything that the last of the first `length` positions sees is there.
    pub(crate) fn whole(&self, length: u64) -> bool {
        (1..=self.length).contains(&length)
            && (length <= self.shape.sinks as u64 || length >= self.first_end())
    }

    /// Slots of a head.
    pub(crate) fn slots(&self) -> usize {
        self.slots
    }

    /// A layer's part of all keys, values or scales, where each entry has `size` of them.
    pub(crate) fn layer(&self, layer: usize, size: usize) -> Range<usize> {
        let size = self.shape.heads * self.slots * size;
        layer * size..(layer + 1) * size
    }

    /// The slot of a position.
    pub(crate) fn slot(&self, position: u64) -> usize {
        let sinks = self.shape.sinks;
        match position.checked_sub(sinks as u64) {
            Some(later) => sinks + (later % self.ring as u64) as usize,
            None => position as usize,
        }
    }

    /// The oldest position of the window of a query at `position`.
    pub(crate) fn window_start(&self, position: u64) -> u64 {
        (position + 1).saturating_sub(self.shape.window as u64).max(self.shape.sinks as u64)
    }

    /// The position at which a query meets the sinks: they seem to stand just outside the window.
    pub(crate) fn sink_position(&self, position: u64) -> u64 {
        position.min((self.shape.sinks + self.shape.window - 1) as u64)
    }

    /// The slots that queries at `first..=last` see between them, each up to its own position; all are stored.
    pub(crate) fn visible(&self, first: u64, last: u64) -> Visible {
        let sinks = self.shape.sinks;
        let start = self.window_start(first);
        let count = (last + 1).saturating_sub(start) as usize;
        let slot = self.slot(start);
        let until_wrap = count.min(sinks + self.ring - slot);
        Visible {
            sinks: 0..(last + 1).min(sinks as u64) as usize,
            window: [
                Run { slots: slot..slot + until_wrap, position: start },
                Run { slots: sinks..sinks + count - until_wrap, position: start + until_wrap as u64 },
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shape(sinks: usize, window: usize) -> CacheShape {
        CacheShape { layers: 1, heads: 1, width: 16, sinks, window, slack: 32 }
    }

    proptest! {
        /// However many positions are stored at once, their queries see exactly the sinks and their windows.
        #[test]
        fn visible_positions_are_the_sinks_and_the_window(
            sinks in 0usize..20, window in 1usize..60, steps in proptest::collection::vec(1usize..50, 1..20)
        ) {
            let mut cache = Cache::new(CacheType::F16, shape(sinks, window)).unwrap();
            let mut held = vec![u64::MAX; cache.geometry().slots()];
            for step in steps {
                let geometry = *cache.geometry();
                let first = geometry.length();
                let last = first + step.min(geometry.room()) as u64 - 1;
                (first..=last).for_each(|position| held[geometry.slot(position)] = position);
                let visible = geometry.visible(first, last);
                let mut found: Vec<u64> = visible.sinks.map(|slot| held[slot]).collect();
                for run in visible.window {
                    let positions: Vec<u64> = run.slots.map(|slot| held[slot]).collect();
                    let expected: Vec<u64> = (run.position..).take(positions.len()).collect();
                    prop_assert_eq!(&positions, &expected);
                    found.extend(positions);
                }
                let seen = |p: u64| p < sinks as u64 || p + window as u64 > first;
                let expected: Vec<u64> = (0..=last).filter(|&p| seen(p)).collect();
                prop_assert_eq!(found, expected);
                cache.advance((last - first + 1) as usize);
            }
        }
    }

    proptest! {
        /// After any rewind that is allowed, the query of the last position that is left still sees its whole window.
        #[test]
        fn a_rewind_leaves_whole_windows(
            sinks in 0usize..20, window in 1usize..60,
            steps in proptest::collection::vec((1usize..50, 0u64..80), 1..20)
        ) {
            let mut cache = Cache::new(CacheType::F16, shape(sinks, window)).unwrap();
            let mut held = vec![u64::MAX; cache.geometry().slots()];
            for (step, back) in steps {
                let geometry = *cache.geometry();
                let first = geometry.length();
                let count = step.min(geometry.room());
                (first..first + count as u64).for_each(|position| held[geometry.slot(position)] = position);
                // A pass that was interrupted has overwritten slots as well.
                if back % 5 == 0 { cache.mark_overwritten(count) } else { cache.advance(count) }
                let geometry = *cache.geometry();
                let end = geometry.length().saturating_sub(back);
                if !geometry.whole(end) {
                    continue;
                }
                let seen = (0..(sinks as u64).min(end)).chain(geometry.window_start(end - 1)..end);
                for position in seen {
                    prop_assert_eq!(held[geometry.slot(position)], position);
                }
                cache.rewind(end);
            }
        }
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let huge = CacheShape { layers: 1000, heads: 1000, width: 128, ..shape(4, usize::MAX / 2) };
        for shape in [huge, CacheShape { window: 1 << 36, ..huge }, CacheShape { window: usize::MAX, ..huge }]
        {
            assert_eq!(Cache::new(CacheType::F16, shape).err().unwrap().kind(), ErrorKind::Resource);
        }
    }
}
