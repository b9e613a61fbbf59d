//! What the cache and the attention need of the kernels, for each type of cache element.

use super::{Kernels, LANES};

/// Keys and values of consecutive positions, and the query that meets them.
pub struct Segment<'a, E> {
    /// `[width]`, rotated for these positions.
    pub query: &'a [f32],
    /// `[positions, width]`.
    pub keys: &'a [E],
    /// `[positions, width]`.
    pub values: &'a [E],
}

/// A type in which keys and values are kept.
pub trait KeyValue: Copy + Default + Send + Sync + 'static {
    /// Stores floats.
    fn store(kernels: &Kernels, values: &[f32], output: &mut [Self]);

    /// `output` = softmax(query . keys x scale) . values, over all segments in their order.
    ///
    /// `scores` is scratch of at least one float a position.
    ///
    /// # Panics
    /// If lengths disagree or the width (that of `output`) is not a multiple of 16.
    fn attend(
        kernels: &Kernels,
        segments: &[Segment<'_, Self>],
        scale: f32,
        scores: &mut [f32],
        output: &mut [f32],
    );
}

fn check<E>(segments: &[Segment<'_, E>], scores: &[f32], output: &[f32]) {
    let width = output.len();
    assert!(width > 0 && width.is_multiple_of(LANES));
    let mut positions = 0;
    for segment in segments {
        assert!(segment.query.len() == width && segment.keys.len() == segment.values.len());
        assert!(segment.keys.len().is_multiple_of(width));
        positions += segment.keys.len() / width;
    }
    assert!(positions > 0 && scores.len() >= positions);
}

impl KeyValue for f32 {
    fn store(_kernels: &Kernels, values: &[f32], output: &mut [f32]) {
        output.copy_from_slice(values);
    }

    fn attend(kernels: &Kernels, s: &[Segment<'_, f32>], scale: f32, scores: &mut [f32], output: &mut [f32]) {
        check(s, scores, output);
        // SAFETY: the instruction set is available (`Kernels::for_isa`); the routine is otherwise safe code.
        unsafe { (kernels.float.attend_f32)(s, scale, scores, output) }
    }
}

/// The bits of a half.
impl KeyValue for u16 {
    fn store(kernels: &Kernels, values: &[f32], output: &mut [u16]) {
        assert_eq!(values.len(), output.len());
        // SAFETY: as above.
        unsafe { (kernels.float.narrow)(values, output) }
    }

    fn attend(kernels: &Kernels, s: &[Segment<'_, u16>], scale: f32, scores: &mut [f32], output: &mut [f32]) {
        check(s, scores, output);
        // SAFETY: as above.
        unsafe { (kernels.float.attend_f16)(s, scale, scores, output) }
    }
}
