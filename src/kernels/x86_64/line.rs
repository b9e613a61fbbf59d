//! A panel line of 16 rows x 4 columns, and the loop over a panel that every instruction set shares whose
//! dot product adds to int32 sums.
//!
//! An instruction set says how it loads a line and multiplies it by four broadcast activations, with int32 sums
//! that are exact, and how sums become floats.

/// What the loop needs of an instruction set.
///
/// # Safety
/// Every method may be called only where the instruction set is available. Addresses hold a line of 64 bytes, for
/// `scales` 16 halves, for `store` room for 16 floats; none needs to be aligned.
pub(super) trait Line {
    /// 64 bytes, or 16 sums.
    type Ints: Copy;
    /// Sixteen floats.
    type Floats: Copy;
    /// Most columns that share the weights: what the registers hold.
    const COLUMNS: usize;
    /// Whether `dot_q8` subtracts the zero point itself, so that sums start at 0.
    const SIGNED_Q8: bool;

    unsafe fn zero() -> Self::Floats;
    unsafe fn start(value: i32) -> Self::Ints;
    unsafe fn bytes(line: *const u8) -> Self::Ints;
    /// The low nibbles of a line, and the high ones.
    unsafe fn nibbles(line: *const u8) -> (Self::Ints, Self::Ints);
    unsafe fn dot_q4(sums: Self::Ints, weights: Self::Ints, values: i32) -> Self::Ints;
    unsafe fn dot_q8(sums: Self::Ints, weights: Self::Ints, values: i32) -> Self::Ints;
    unsafe fn scales(halves: *const u8) -> Self::Floats;
    /// `sums * (weights * activations) + floats`
    unsafe fn accumulate(
        sums: Self::Ints,
        weights: Self::Floats,
        activations: f32,
        floats: Self::Floats,
    ) -> Self::Floats;
    unsafe fn store(floats: Self::Floats, output: *mut f32);
}

/// The panel kernels of an instruction set, compiled with its features.
macro_rules! panel_kernels {
    ($features:literal; $line:ty) => {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

        use crate::kernels::x86_64::line::Line;
        use crate::kernels::{PanelKernels, QuantizedBlock};
        use crate::quant::{PANEL_ROWS, Q4_RECORD, Q8_RECORD};

        pub(in crate::kernels::x86_64) const PANELS: PanelKernels = PanelKernels { q4, q8 };

        #[target_feature(enable = $features)]
        unsafe fn q4(panel: &[u8], input: QuantizedBlock<'_>, tile: &mut [[f32; PANEL_ROWS]]) {
            // SAFETY: the caller's promise is passed on.
            unsafe { multiply::<Q4_RECORD>(panel, input, input.q4_starts, tile) }
        }

        #[target_feature(enable = $features)]
        unsafe fn q8(panel: &[u8], input: QuantizedBlock<'_>, tile: &mut [[f32; PANEL_ROWS]]) {
            // SAFETY: the caller's promise is passed on.
            unsafe { multiply::<Q8_RECORD>(panel, input, input.q8_starts, tile) }
        }

        /// # Safety
        /// `panel` has the records of `input.groups` groups; the slices of `input`, `starts` and `tile` have the
        /// lengths of its groups and columns.
        #[target_feature(enable = $features)]
        unsafe fn multiply<const RECORD: usize>(
            panel: &[u8],
            input: QuantizedBlock<'_>,
            starts: &[i32],
            tile: &mut [[f32; PANEL_ROWS]],
        ) {
            let mut column = 0;
            while column < input.columns {
                // SAFETY: the columns asked for exist.
                column += unsafe {
                    match (input.columns - column).min(<$line>::COLUMNS) {
                        16.. => columns::<RECORD, 16>(panel, input, starts, column, tile),
                        8.. => columns::<RECORD, 8>(panel, input, starts, column, tile),
                        4.. => columns::<RECORD, 4>(panel, input, starts, column, tile),
                        2.. => columns::<RECORD, 2>(panel, input, starts, column, tile),
                        _ => columns::<RECORD, 1>(panel, input, starts, column, tile),
                    }
                };
            }
        }

        /// One panel with columns `first..first + N` of the block; returns `N`.
        ///
        /// # Safety
        /// As `multiply`; the columns exist.
        #[target_feature(enable = $features)]
        unsafe fn columns<const RECORD: usize, const N: usize>(
            panel: &[u8],
            input: QuantizedBlock<'_>,
            starts: &[i32],
            first: usize,
            tile: &mut [[f32; PANEL_ROWS]],
        ) -> usize {
            let stride = input.columns;
            // SAFETY: the instruction set is available, by the caller's promise.
            let mut floats = [unsafe { <$line>::zero() }; N];
            // SAFETY: every address lies inside the panel's records or inside the block's slices, by the
            // caller's promise; loads are unaligned.
            unsafe {
                let mut values = input.values.as_ptr().cast::<i32>().add(first);
                let mut starts = starts.as_ptr().add(first);
                let mut activation_scales = input.scales.as_ptr().add(first);
                let mut record = panel.as_ptr();
                let panel_bytes = input.groups / 2 * RECORD;
                for _ in 0..input.groups / 2 {
                    // With many columns a panel takes long enough for the next one to arrive meanwhile. With few
                    // the memory is the limit and more requests only disturb it.
                    if N >= 8 && first == 0 {
                        let next = record.wrapping_add(panel_bytes);
                        for line in 0..RECORD / 64 {
                            _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(line * 64).cast());
                        }
                    }
                    let mut lines = record.add(64);
                    for half in 0..2 {
                        let weight_scale = <$line>::scales(record.add(half * 32));
                        let mut sums = [<$line>::start(0); N];
                        if RECORD == Q4_RECORD || !<$line>::SIGNED_Q8 {
                            for n in 0..N {
                                sums[n] = <$line>::start(*starts.add(n));
                            }
                        }
                        for _ in 0..4 {
                            let (even, odd) = if RECORD == Q4_RECORD {
                                let pair = <$line>::nibbles(lines);
                                lines = lines.add(64);
                                pair
                            } else {
                                let pair = (<$line>::bytes(lines), <$line>::bytes(lines.add(64)));
                                lines = lines.add(128);
                                pair
                            };
                            for weights in [even, odd] {
                                for n in 0..N {
                                    let value = values.add(n).read_unaligned();
                                    sums[n] = if RECORD == Q4_RECORD {
                                        <$line>::dot_q4(sums[n], weights, value)
                                    } else {
                                        <$line>::dot_q8(sums[n], weights, value)
                                    };
                                }
                                values = values.add(stride);
                            }
                        }
                        for n in 0..N {
                            let scale = *activation_scales.add(n);
                            floats[n] = <$line>::accumulate(sums[n], weight_scale, scale, floats[n]);
                        }
                        starts = starts.add(stride);
                        activation_scales = activation_scales.add(stride);
                    }
                    record = record.add(RECORD);
                }
                for n in 0..N {
                    <$line>::store(floats[n], tile.get_unchecked_mut(first + n).as_mut_ptr());
                }
            }
            N
        }
    };
}
pub(super) use panel_kernels;
