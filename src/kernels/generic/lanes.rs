//! Sixteen floats at a time: how stored elements are loaded as lanes, and what is done with lanes.

use crate::kernels::operands::LANES;

/// Sixteen floats: one AVX-512 register, two of AVX2, four of NEON or SSE2.
pub(super) type Lanes = [f32; LANES];

/// The part of an instruction set that the routines cannot express in plain Rust.
pub(in crate::kernels) trait Simd {
    /// Whether multiply-add is one instruction; without it `mul_add` would be a library call.
    const FMA: bool;
    /// Whether 16 sums of 16 lanes fit in the registers; if not, four do.
    const WIDE: bool;
    /// f16 to f32.
    fn f16_to_f32(bits: &[u16; LANES]) -> Lanes;
    /// f32 to f16, to nearest even.
    fn f32_to_f16(values: &Lanes) -> [u16; LANES];
}

/// A stored element that is read as a float.
pub(in crate::kernels) trait Element: Copy + Default {
    fn load<S: Simd>(values: &[Self; LANES]) -> Lanes;
}

impl Element for f32 {
    #[inline(always)]
    fn load<S: Simd>(values: &[f32; LANES]) -> Lanes {
        *values
    }
}

/// In the cache, `u16` holds the bits of an f16.
impl Element for u16 {
    #[inline(always)]
    fn load<S: Simd>(values: &[u16; LANES]) -> Lanes {
        S::f16_to_f32(values)
    }
}

impl Element for i8 {
    #[inline(always)]
    fn load<S: Simd>(values: &[i8; LANES]) -> Lanes {
        values.map(f32::from)
    }
}

/// The bits of an f16 weight.
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub(in crate::kernels) struct F16(u16);

impl Element for F16 {
    #[inline(always)]
    fn load<S: Simd>(values: &[F16; LANES]) -> Lanes {
        S::f16_to_f32(bytemuck::cast_ref(values))
    }
}

/// The bits of a bfloat16 weight.
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub(in crate::kernels) struct Bf16(u16);

impl Element for Bf16 {
    #[inline(always)]
    fn load<S: Simd>(values: &[Bf16; LANES]) -> Lanes {
        values.map(|value| f32::from_bits(u32::from(value.0) << 16))
    }
}

#[inline(always)]
pub(super) fn fma<S: Simd>(a: f32, b: f32, c: f32) -> f32 {
    if S::FMA { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
pub(super) fn map(a: &Lanes, f: impl Fn(f32) -> f32) -> Lanes {
    let mut out = [0.0; LANES];
    for lane in 0..LANES {
        out[lane] = f(a[lane]);
    }
    out
}

/// `a * b + c`, lane by lane.
#[inline(always)]
pub(super) fn fma_lanes<S: Simd>(a: &Lanes, b: &Lanes, c: &Lanes) -> Lanes {
    let mut out = [0.0; LANES];
    for lane in 0..LANES {
        out[lane] = fma::<S>(a[lane], b[lane], c[lane]);
    }
    out
}

/// Reduces the lanes as a balanced tree.
#[inline(always)]
pub(super) fn reduce(lanes: &Lanes, f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = *lanes;
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = f(lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// A full set of lanes from a slice of at most 16, the rest filled up.
#[inline(always)]
pub(super) fn partial<E: Copy>(values: &[E], fill: E) -> [E; LANES] {
    let mut out = [fill; LANES];
    out[..values.len()].copy_from_slice(values);
    out
}
