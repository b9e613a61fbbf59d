//! Attention over a rolling cache: what the model calls, with all lengths checked.

use super::{Kernels, LANES, generic};
use crate::cache::Visible;

/// Queries that share each pass over keys and values.
pub const QUERIES: usize = 4;

/// Up to four queries at consecutive positions, and what they see.
pub struct Attention<'a, E> {
    /// Dimensions of a head, a multiple of 16.
    pub width: usize,
    /// `[queries, width]`, rotated at their own positions.
    pub queries: &'a [f32],
    /// `[queries, width]`, rotated at the positions where they meet the sinks.
    pub sink_queries: &'a [f32],
    /// Keys of a head, `[slots / 16, width, 16]`.
    pub keys: &'a [E],
    /// Values of a head, `[slots, width]`.
    pub values: &'a [E],
    /// Scales of a head, `[slots / 16, key | value, 16]` if the type has scales, else empty.
    pub scales: &'a [f32],
    /// The slots that the queries see between them.
    pub visible: Visible,
    /// For each query, the first position of its window, and its own, which is the last that it sees.
    pub windows: [(u64, u64); QUERIES],
    /// Factor of the scores.
    pub scale: f32,
}

/// A type in which keys and values are kept.
pub trait KeyValue: Copy + Default + Send + Sync + 'static {
    /// Scales of a position: none, or one for the key and one for the value.
    const SCALES: usize = 0;

    /// The scale with which `values` are stored.
    fn scale(_values: &[f32]) -> f32 {
        1.0
    }

    /// Stores floats, divided by `scale`.
    ///
    /// # Panics
    /// If the lengths differ.
    fn narrow(kernels: &Kernels, values: &[f32], scale: f32, output: &mut [Self]);

    /// Stores a value, `[width]`, and gives its scale.
    ///
    /// # Panics
    /// If the lengths differ.
    fn store(kernels: &Kernels, values: &[f32], output: &mut [Self]) -> f32 {
        let scale = Self::scale(values);
        Self::narrow(kernels, values, scale, output);
        scale
    }

    /// Stores a key, `[width]`, in a slot of the keys of a head, `[slots / 16, width, 16]`, and gives its scale.
    fn store_key(kernels: &Kernels, key: &[f32], slot: usize, keys: &mut [Self]) -> f32 {
        let scale = Self::scale(key);
        let block = &mut keys[slot / LANES * LANES * key.len()..][..LANES * key.len()];
        let mut stored = [Self::default(); LANES];
        for (part, block) in key.chunks_exact(LANES).zip(block.chunks_exact_mut(LANES * LANES)) {
            Self::narrow(kernels, part, scale, &mut stored);
            for (value, lanes) in stored.iter().zip(block.chunks_exact_mut(LANES)) {
                lanes[slot % LANES] = *value;
            }
        }
        scale
    }

    /// Where the scales of a slot are in those of its head: the key's, then the value's.
    fn scale_places(slot: usize) -> impl Iterator<Item = usize> {
        let first = slot / LANES * LANES * Self::SCALES + slot % LANES;
        (0..Self::SCALES).map(move |which| first + which * LANES)
    }

    /// `output = softmax(query . keys x scale) . values` for each query, over what it sees.
    ///
    /// `scores` is scratch; [`score_floats`] says how long.
    ///
    /// # Panics
    /// If lengths disagree, the width is not a multiple of 16, or slots are seen that do not exist.
    fn attend(kernels: &Kernels, attention: &Attention<'_, Self>, scores: &mut [f32], output: &mut [f32]);
}

/// Floats of scratch for queries that see `slots` slots between them.
pub fn score_floats(slots: usize) -> usize {
    // Each of the three runs may begin and end inside a block.
    slots.saturating_add(7 * LANES).saturating_mul(QUERIES)
}

fn check<E: KeyValue>(attention: &Attention<'_, E>, scores: &[f32], output: &[f32]) {
    let count = attention.queries.len().min(output.len());
    let slots =
        attention.visible.sinks.len() + attention.visible.window.iter().map(|r| r.slots.len()).sum::<usize>();
    assert!(
        output.len() == count && attention.queries.len() == count && attention.sink_queries.len() == count
    );
    assert!(slots > 0 && scores.len() >= score_floats(slots));
    assert!(attention.keys.len() == attention.values.len());
    assert!(attention.scales.len() * attention.width == attention.keys.len() * E::SCALES);
    assert!(attention.width > 0 && attention.width.is_multiple_of(LANES));
    assert!(count.is_multiple_of(attention.width) && (1..=QUERIES).contains(&(count / attention.width)));
}

impl KeyValue for f32 {
    fn narrow(_kernels: &Kernels, values: &[f32], _scale: f32, output: &mut [f32]) {
        output.copy_from_slice(values);
    }

    fn attend(kernels: &Kernels, attention: &Attention<'_, f32>, scores: &mut [f32], output: &mut [f32]) {
        check(attention, scores, output);
        // SAFETY: the instruction set is available (`Kernels::for_isa`); the routine is otherwise safe code.
        unsafe { (kernels.float.attend_f32)(attention, scores, output) }
    }
}

/// The bits of a half.
impl KeyValue for u16 {
    fn narrow(kernels: &Kernels, values: &[f32], _scale: f32, output: &mut [u16]) {
        assert_eq!(values.len(), output.len());
        // SAFETY: as above.
        unsafe { (kernels.float.narrow)(values, output) }
    }

    fn attend(kernels: &Kernels, attention: &Attention<'_, u16>, scores: &mut [f32], output: &mut [f32]) {
        check(attention, scores, output);
        // SAFETY: as above.
        unsafe { (kernels.float.attend_f16)(attention, scores, output) }
    }
}

impl KeyValue for i8 {
    const SCALES: usize = 2;

    fn scale(values: &[f32]) -> f32 {
        generic::most(values) / 127.0
    }

    fn narrow(kernels: &Kernels, values: &[f32], scale: f32, output: &mut [i8]) {
        assert_eq!(values.len(), output.len());
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        // SAFETY: as above.
        unsafe { (kernels.float.narrow_q8)(values, inverse, output) }
    }

    fn attend(kernels: &Kernels, attention: &Attention<'_, i8>, scores: &mut [f32], output: &mut [f32]) {
        check(attention, scores, output);
        // SAFETY: as above.
        unsafe { (kernels.float.attend_q8)(attention, scores, output) }
    }
}
