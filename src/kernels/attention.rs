//! Attention over a rolling cache: the entry points of the model, with all lengths checked.

use super::generic;
use super::operands::{Attention, LANES, QUERIES, Stored, score_floats};
use super::table::Kernels;

/// How a type of keys and values is stored and attended to.
pub trait KeyValue: Stored {
    /// The scale with which `values` are stored.
    fn scale(_values: &[f32]) -> f32 {
        1.0
    }

    /// Stores floats, divided by `scale`.
    ///
    /// # Panics
    /// If the lengths differ.
    fn convert(kernels: &Kernels, values: &[f32], scale: f32, output: &mut [Self]);

    /// Stores a value, `[width]`, and gives its scale.
    ///
    /// # Panics
    /// If the lengths differ.
    fn store(kernels: &Kernels, values: &[f32], output: &mut [Self]) -> f32 {
        let scale = Self::scale(values);
        Self::convert(kernels, values, scale, output);
        scale
    }

    /// Stores a key, `[width]`, in a slot of the keys of a head, `[slots / 16, width, 16]`, and gives its scale.
    fn store_key(kernels: &Kernels, key: &[f32], slot: usize, keys: &mut [Self]) -> f32 {
        let scale = Self::scale(key);
        let group = &mut keys[slot / LANES * LANES * key.len()..][..LANES * key.len()];
        let mut stored = [Self::default(); LANES];
        for (part, group) in key.chunks_exact(LANES).zip(group.chunks_exact_mut(LANES * LANES)) {
            Self::convert(kernels, part, scale, &mut stored);
            for (value, lanes) in stored.iter().zip(group.chunks_exact_mut(LANES)) {
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
    /// `scores` is scratch; its length is [`score_floats`].
    ///
    /// # Panics
    /// If lengths disagree, the width is not a multiple of 16, or slots are seen that do not exist.
    fn attend(kernels: &Kernels, attention: &Attention<'_, Self>, scores: &mut [f32], output: &mut [f32]);
}

fn check<E: Stored>(attention: &Attention<'_, E>, scores: &[f32], output: &[f32]) {
    let count = attention.queries.len().min(output.len());
    let slots = attention.visible.slots();
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
    fn convert(_kernels: &Kernels, values: &[f32], _scale: f32, output: &mut [f32]) {
        output.copy_from_slice(values);
    }

    fn attend(kernels: &Kernels, attention: &Attention<'_, f32>, scores: &mut [f32], output: &mut [f32]) {
        check(attention, scores, output);
        // SAFETY: the instruction set is available (`Kernels::for_isa`); the routine is otherwise safe code.
        unsafe { (kernels.float.attend_f32)(attention, scores, output) }
    }
}

impl KeyValue for u16 {
    fn convert(kernels: &Kernels, values: &[f32], _scale: f32, output: &mut [u16]) {
        assert_eq!(values.len(), output.len());
        // SAFETY: as above.
        unsafe { (kernels.float.f32_to_f16)(values, output) }
    }

    fn attend(kernels: &Kernels, attention: &Attention<'_, u16>, scores: &mut [f32], output: &mut [f32]) {
        check(attention, scores, output);
        // SAFETY: as above.
        unsafe { (kernels.float.attend_f16)(attention, scores, output) }
    }
}

impl KeyValue for i8 {
    fn scale(values: &[f32]) -> f32 {
        generic::max_magnitude(values) / 127.0
    }

    fn convert(kernels: &Kernels, values: &[f32], scale: f32, output: &mut [i8]) {
        assert_eq!(values.len(), output.len());
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        // SAFETY: as above.
        unsafe { (kernels.float.f32_to_q8)(values, inverse, output) }
    }

    fn attend(kernels: &Kernels, attention: &Attention<'_, i8>, scores: &mut [f32], output: &mut [f32]) {
        check(attention, scores, output);
        // SAFETY: as above.
        unsafe { (kernels.float.attend_q8)(attention, scores, output) }
    }
}
