//! The float routines, written once over arrays of 16 lanes. Each instruction set compiles them again with
//! its own features, and the compiler turns the lanes into its registers.
//!
//! Every result has one fixed order of operations that depends on the lengths alone: neither on the number of
//! columns that are computed together nor on the thread that computes them.

use super::activations::ColumnWriter;
use super::{Attention, KeyValue, LANES};
use crate::quant::{GROUP, SPAN};

/// Sixteen floats: one AVX-512 register, two of AVX2, four of NEON or SSE2.
type Lanes = [f32; LANES];

/// What the routines need of an instruction set.
pub(super) trait Simd {
    /// Whether multiply-add is one instruction; without it `mul_add` would be a library call.
    const FMA: bool;
    /// Half precision to single.
    fn widen(bits: &[u16; LANES]) -> Lanes;
    /// Single precision to half, to nearest even.
    fn narrow(values: &Lanes) -> [u16; LANES];
}

/// The table of an instruction set's float kernels, compiled with its features.
macro_rules! float_kernels {
    ($($features:literal)?; $simd:ty) => {
        use crate::kernels::{Attention, FloatKernels, generic};

        pub(super) const FLOAT: FloatKernels = FloatKernels {
            rows_f32, rows_f16, rows_bf16, quantize, layer_norm, gelu, narrow, narrow_q8, attend_f32, attend_f16,
            attend_q8,
        };

        $(#[target_feature(enable = $features)])?
        unsafe fn rows_f32(rows: &[f32], columns: usize, input: &[f32], tile: &mut [[f32; 16]]) {
            generic::rows::<$simd, f32>(rows, columns, input, tile)
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn rows_f16(rows: &[u16], columns: usize, input: &[f32], tile: &mut [[f32; 16]]) {
            generic::rows::<$simd, generic::F16>(bytemuck::cast_slice(rows), columns, input, tile)
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn rows_bf16(rows: &[u16], columns: usize, input: &[f32], tile: &mut [[f32; 16]]) {
            generic::rows::<$simd, generic::Bf16>(bytemuck::cast_slice(rows), columns, input, tile)
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn quantize(input: &[f32], output: &mut crate::kernels::activations::ColumnWriter) {
            generic::quantize(input, output)
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn layer_norm(input: &[f32], weight: &[f32], bias: &[f32], epsilon: f32, output: &mut [f32]) {
            generic::layer_norm::<$simd>(input, weight, bias, epsilon, output)
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn gelu(values: &mut [f32]) {
            generic::gelu::<$simd>(values)
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn narrow(values: &[f32], bits: &mut [u16]) {
            generic::narrow::<$simd>(values, bits)
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn narrow_q8(values: &[f32], inverse: f32, output: &mut [i8]) {
            generic::narrow_q8(values, inverse, output)
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn attend_f32(attention: &Attention<'_, f32>, scores: &mut [f32], output: &mut [f32]) {
            generic::attend::<$simd, f32>(attention, scores, output)
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn attend_f16(attention: &Attention<'_, u16>, scores: &mut [f32], output: &mut [f32]) {
            generic::attend::<$simd, u16>(attention, scores, output)
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn attend_q8(attention: &Attention<'_, i8>, scores: &mut [f32], output: &mut [f32]) {
            generic::attend::<$simd, i8>(attention, scores, output)
        }
    };
}
pub(super) use float_kernels;

/// A stored element that is read as a float.
pub(super) trait Element: Copy + Default {
    fn load<S: Simd>(values: &[Self; LANES]) -> Lanes;
}

impl Element for f32 {
    #[inline(always)]
    fn load<S: Simd>(values: &[f32; LANES]) -> Lanes {
        *values
    }
}

/// In the cache, `u16` holds the bits of a half.
impl Element for u16 {
    #[inline(always)]
    fn load<S: Simd>(values: &[u16; LANES]) -> Lanes {
        S::widen(values)
    }
}

impl Element for i8 {
    #[inline(always)]
    fn load<S: Simd>(values: &[i8; LANES]) -> Lanes {
        values.map(f32::from)
    }
}

/// The bits of a half-precision weight.
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub(super) struct F16(u16);

impl Element for F16 {
    #[inline(always)]
    fn load<S: Simd>(values: &[F16; LANES]) -> Lanes {
        S::widen(bytemuck::cast_ref(values))
    }
}

/// The bits of a bfloat16 weight.
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub(super) struct Bf16(u16);

impl Element for Bf16 {
    #[inline(always)]
    fn load<S: Simd>(values: &[Bf16; LANES]) -> Lanes {
        values.map(|value| f32::from_bits(u32::from(value.0) << 16))
    }
}

#[inline(always)]
fn fma<S: Simd>(a: f32, b: f32, c: f32) -> f32 {
    if S::FMA { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn map(a: &Lanes, f: impl Fn(f32) -> f32) -> Lanes {
    let mut out = [0.0; LANES];
    for lane in 0..LANES {
        out[lane] = f(a[lane]);
    }
    out
}

/// `a * b + c`, lane by lane.
#[inline(always)]
fn fma_lanes<S: Simd>(a: &Lanes, b: &Lanes, c: &Lanes) -> Lanes {
    let mut out = [0.0; LANES];
    for lane in 0..LANES {
        out[lane] = fma::<S>(a[lane], b[lane], c[lane]);
    }
    out
}

/// Reduces the lanes as a balanced tree.
#[inline(always)]
fn reduce(lanes: &Lanes, f: impl Fn(f32, f32) -> f32) -> f32 {
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
fn partial<E: Copy>(values: &[E], fill: E) -> [E; LANES] {
    let mut out = [fill; LANES];
    out[..values.len()].copy_from_slice(values);
    out
}

/// Products of up to 16 rows with columns of `input` (`[tile.len(), columns]`): `tile[c][r] = row r . column c`.
#[inline(always)]
pub(super) fn rows<S: Simd, E: Element>(rows: &[E], columns: usize, input: &[f32], tile: &mut [Lanes]) {
    for (r, row) in rows.chunks_exact(columns).enumerate() {
        let mut inputs = input.chunks_exact(columns * 4);
        let mut tiles = tile.chunks_exact_mut(4);
        for (input, tile) in (&mut inputs).zip(&mut tiles) {
            let sums = dot::<S, E, 4>(row, input, columns);
            for (sum, tile) in sums.iter().zip(tile) {
                tile[r] = *sum;
            }
        }
        for (input, tile) in inputs.remainder().chunks_exact(columns).zip(tiles.into_remainder()) {
            [tile[r]] = dot::<S, E, 1>(row, input, columns);
        }
    }
}

#[inline(always)]
fn dot<S: Simd, E: Element, const N: usize>(row: &[E], input: &[f32], columns: usize) -> [f32; N] {
    let mut sums = [[0.0; LANES]; N];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for (index, chunk) in chunks.iter().enumerate() {
        let weights = E::load::<S>(chunk);
        for n in 0..N {
            let values = &input[n * columns + index * LANES..][..LANES];
            sums[n] = fma_lanes::<S>(&weights, &partial(values, 0.0), &sums[n]);
        }
    }
    if !rest.is_empty() {
        let weights = E::load::<S>(&partial(rest, E::default()));
        for n in 0..N {
            let values = &input[n * columns + chunks.len() * LANES..(n + 1) * columns];
            sums[n] = fma_lanes::<S>(&weights, &partial(values, 0.0), &sums[n]);
        }
    }
    std::array::from_fn(|n| reduce(&sums[n], |a, b| a + b))
}

/// Adding and subtracting 1.5 x 2^23 rounds to the nearest integer, ties to even, and leaves it in the low bits.
const ROUND: f32 = 12582912.0;

/// Activations to int8: per span of 128, `scale = max |x| / 127`, and per group of 32 the sum of the integers. What
/// lies beyond the input is 0.
#[inline(always)]
pub(super) fn quantize(input: &[f32], output: &mut ColumnWriter) {
    let (whole, rest) = input.as_chunks::<SPAN>();
    // A plain loop: an iterator's closure would be compiled without the features of the caller.
    for floats in whole {
        quantize_span(floats, output);
    }
    if output.spans() > 0 {
        let mut floats = [0.0; SPAN];
        floats[..rest.len()].copy_from_slice(rest);
        quantize_span(&floats, output);
    }
}

/// The largest magnitude. Magnitudes compare like their bits, where NaN is largest: it ends up in the scale and is
/// noticed.
#[inline(always)]
pub(super) fn most(floats: &[f32]) -> f32 {
    f32::from_bits(floats.iter().map(|float| float.abs().to_bits()).fold(0, u32::max))
}

#[inline(always)]
fn round_q8(value: f32) -> i32 {
    let value = (value + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    value.clamp(-127, 127)
}

#[inline(always)]
fn quantize_span(floats: &[f32; SPAN], output: &mut ColumnWriter) {
    let most = most(floats);
    let inverse = if most > 0.0 { 127.0 / most } else { 0.0 };
    let mut values = [0i8; SPAN];
    let mut sums = [0; SPAN / GROUP];
    let groups = values.as_chunks_mut::<GROUP>().0.iter_mut().zip(floats.as_chunks::<GROUP>().0);
    for (sum, (values, floats)) in sums.iter_mut().zip(groups) {
        let mut rounded = [0i32; GROUP];
        for (rounded, float) in rounded.iter_mut().zip(floats) {
            *rounded = round_q8(float * inverse);
        }
        for (value, rounded) in values.iter_mut().zip(&rounded) {
            *value = *rounded as i8;
        }
        // Two sums of halves, so that the loop is one of lanes.
        let (halves, _) = rounded.as_chunks::<LANES>();
        let mut lanes = halves[0];
        for (lane, value) in lanes.iter_mut().zip(&halves[1]) {
            *lane = lane.wrapping_add(*value);
        }
        *sum = lanes.into_iter().fold(0, i32::wrapping_add);
    }
    // Whole in memory, or the compiler takes the quads out of the register byte by byte.
    let values = std::hint::black_box(&values);
    output.put(values, most / 127.0, sums);
}

/// LayerNorm with bias: `(x - mean) / sqrt(variance + epsilon) * weight + bias`.
#[inline(always)]
pub(super) fn layer_norm<S: Simd>(x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32, output: &mut [f32]) {
    let sum_of = |f: &dyn Fn(f32) -> f32| sum_lanes(x, f);
    let mean = sum_of(&|v| v) / x.len() as f32;
    let variance = sum_of(&|v| (v - mean) * (v - mean)) / x.len() as f32;
    let inverse = 1.0 / (variance + epsilon).sqrt();
    for (((out, x), weight), bias) in output.iter_mut().zip(x).zip(weight).zip(bias) {
        *out = fma::<S>((x - mean) * inverse, *weight, *bias);
    }
}

#[inline(always)]
fn sum_lanes(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            sums[lane] += f(chunk[lane]);
        }
    }
    for (sum, value) in sums.iter_mut().zip(rest) {
        *sum += f(*value);
    }
    reduce(&sums, |a, b| a + b)
}

/// e^x for x <= 88, to 2e-7 relative; 0 would be reached below -87, where it stays at e^-87.
///
/// x = n ln 2 + r; the polynomial for e^r is that of the Cephes library (`expf`).
#[inline(always)]
fn exp<S: Simd>(x: f32) -> f32 {
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = fma::<S>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fma::<S>(n, -0.693_359_4, x);
    let r = fma::<S>(n, 2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        p = fma::<S>(p, r, c);
    }
    let p = fma::<S>(p * r, r, r + 1.0);
    let power = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    p * f32::from_bits(power)
}

/// Exact GELU, `x Phi(x)`, to 1e-6 relative in both tails.
///
/// `Phi(-a) = exp(-a^2 / 2) Q(a)` where `Q(a) = erfcx(a / sqrt 2) / 2` is smooth: a polynomial of degree 9 in
/// `t = (a - 3) / (a + 3)`, fitted on 0..13.5 for least relative error (7e-9). The rounding error of `a^2` is
/// put back, because the exponential would multiply it.
#[inline(always)]
fn gelu_of<S: Simd>(x: f32) -> f32 {
    let a = x.abs();
    let a = if a < 13.0 { a } else { 13.0 };
    let t = (a - 3.0) / (a + 3.0);
    let mut q = 5.416_116_2e-5;
    for c in [
        1.160_548_6e-4,
        -3.399_127e-4,
        -9.841_96e-4,
        2.904_700_4e-3,
        6.132_186_3e-3,
        -4.621_331_3e-2,
        0.123_225_02,
        -0.206_402_62,
        0.121_513_95,
    ] {
        q = fma::<S>(q, t, c);
    }
    let square = a * a;
    let lost =
        if S::FMA { a.mul_add(a, -square) } else { (f64::from(a) * f64::from(a) - f64::from(square)) as f32 };
    let tail = exp::<S>(-0.5 * square) * fma::<S>(lost, -0.5, 1.0) * q;
    x * if x < 0.0 { tail } else { 1.0 - tail }
}

/// [`gelu_of`] on every element.
#[inline(always)]
pub(super) fn gelu<S: Simd>(values: &mut [f32]) {
    let (chunks, rest) = values.as_chunks_mut::<LANES>();
    for chunk in chunks {
        *chunk = map(chunk, gelu_of::<S>);
    }
    let done = map(&partial(rest, 0.0), gelu_of::<S>);
    rest.copy_from_slice(&done[..rest.len()]);
}

/// Singles to halves.
#[inline(always)]
pub(super) fn narrow<S: Simd>(values: &[f32], bits: &mut [u16]) {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let (outputs, last) = bits.as_chunks_mut::<LANES>();
    for (chunk, output) in chunks.iter().zip(outputs) {
        *output = S::narrow(chunk);
    }
    last.copy_from_slice(&S::narrow(&partial(rest, 0.0))[..rest.len()]);
}

/// Singles times `inverse` to integers of 8 bits.
#[inline(always)]
pub(super) fn narrow_q8(values: &[f32], inverse: f32, output: &mut [i8]) {
    for (output, value) in output.iter_mut().zip(values) {
        *output = round_q8(value * inverse) as i8;
    }
}

#[inline(always)]
fn multiply_lanes(rows: &mut [Lanes], factors: &Lanes) {
    for row in rows {
        for lane in 0..LANES {
            row[lane] *= factors[lane];
        }
    }
}

/// The scales of a block's keys (`which` 0) or values (1).
#[inline(always)]
fn scales(scales: &[f32], block: usize, which: usize) -> &Lanes {
    &scales.as_chunks::<LANES>().0[2 * block + which]
}

/// Softmax attention of up to four queries at consecutive positions.
///
/// A position's lane is its slot modulo 16 and never changes, and positions are added one after the other, so
/// the result of a query does not depend on which queries it shares the pass with: what it does not see has
/// weight 0.
#[inline(always)]
pub(super) fn attend<S: Simd, E: Element + KeyValue>(
    attention: &Attention<'_, E>,
    scores: &mut [f32],
    output: &mut [f32],
) {
    match output.len() / attention.width {
        1 => attend_some::<S, E, 1>(attention, scores, output),
        2 => attend_some::<S, E, 2>(attention, scores, output),
        3 => attend_some::<S, E, 3>(attention, scores, output),
        _ => attend_some::<S, E, 4>(attention, scores, output),
    }
}

/// Sixteen slots with the queries that meet them there, and the lanes that hold visible positions.
struct SlotBlock<'a> {
    queries: &'a [f32],
    index: usize,
    lanes: std::ops::Range<usize>,
    /// Whether these are pinned positions, which the windows do not limit.
    pinned: bool,
    /// Position of lane 0.
    position: u64,
}

/// The blocks that a run of slots touches, in order.
#[inline(always)]
fn blocks<'a>(
    queries: &'a [f32],
    slots: &std::ops::Range<usize>,
    pinned: bool,
    position: u64,
) -> impl Iterator<Item = SlotBlock<'a>> {
    let (start, end) = (slots.start, slots.end);
    let first = start / LANES;
    let last = if start < end { end.div_ceil(LANES) } else { first };
    (first..last).map(move |index| {
        let base = index * LANES;
        let lanes = start.max(base) - base..end.min(base + LANES) - base;
        // Lane 0 may lie before the run; its position is not used then.
        let position = position.wrapping_add(base as u64).wrapping_sub(start as u64);
        SlotBlock { queries, index, lanes, pinned, position }
    })
}

#[inline(always)]
fn attend_some<S: Simd, E: Element + KeyValue, const N: usize>(
    attention: &Attention<'_, E>,
    scores: &mut [f32],
    output: &mut [f32],
) {
    let Attention { keys, values, visible, windows, .. } = attention;
    let scaled = E::SCALES == 2;
    let width = output.len() / N;
    let [older, newer] = &visible.window;
    let all = || {
        blocks(attention.sink_queries, &visible.sinks, true, 0)
            .chain(blocks(attention.queries, &older.slots, false, older.position))
            .chain(blocks(attention.queries, &newer.slots, false, newer.position))
    };

    // Scores of a block: [block][query][lane]; what a query does not see is minus infinity.
    let mut most = [[f32::NEG_INFINITY; LANES]; N];
    let mut count = 0;
    for (block, scores) in all().zip(scores.as_chunks_mut::<LANES>().0.chunks_exact_mut(N)) {
        count += N;
        let keys = &keys[block.index * LANES * width..][..LANES * width];
        let queries = &block.queries[..N * width];
        let mut sums = [[0.0; LANES]; N];
        for (dimension, key) in keys.as_chunks::<LANES>().0.iter().enumerate() {
            let key = E::load::<S>(key);
            for n in 0..N {
                sums[n] = fma_lanes::<S>(&[queries[n * width + dimension]; LANES], &key, &sums[n]);
            }
        }
        if scaled {
            multiply_lanes(&mut sums, scales(attention.scales, block.index, 0));
        }
        let start = |n: usize| if block.pinned { 0 } else { windows[n].0 };
        let whole =
            (0..N).all(|n| start(n) <= block.position && block.position.wrapping_add(15) <= windows[n].1);
        if block.lanes.len() == LANES && whole {
            for n in 0..N {
                for lane in 0..LANES {
                    let score = sums[n][lane] * attention.scale;
                    most[n][lane] = if score > most[n][lane] { score } else { most[n][lane] };
                    scores[n][lane] = score;
                }
            }
            continue;
        }
        for n in 0..N {
            let (from, to) = (start(n), windows[n].1);
            for lane in 0..LANES {
                let inside = block.lanes.start <= lane && lane < block.lanes.end;
                let position = block.position.wrapping_add(lane as u64);
                let seen = from <= position && position <= to;
                let score = sums[n][lane] * attention.scale;
                let score = if inside && seen { score } else { f32::NEG_INFINITY };
                most[n][lane] = if score > most[n][lane] { score } else { most[n][lane] };
                scores[n][lane] = score;
            }
        }
    }

    let scores = &mut scores.as_chunks_mut::<LANES>().0[..count];
    let mut totals = [[0.0; LANES]; N];
    let most: [f32; N] = std::array::from_fn(|n| reduce(&most[n], |a, b| if a > b { a } else { b }));
    for (block, scores) in all().zip(scores.chunks_exact_mut(N)) {
        for n in 0..N {
            for lane in 0..LANES {
                let score = scores[n][lane];
                let weight = exp::<S>(score - most[n]);
                // A score that is not a number stays one, and is noticed in the end.
                let weight = if score == f32::NEG_INFINITY { 0.0 } else { weight };
                totals[n][lane] += weight;
                scores[n][lane] = weight;
            }
        }
        if scaled {
            multiply_lanes(scores, scales(attention.scales, block.index, 1));
        }
    }
    let inverse: [f32; N] = std::array::from_fn(|n| 1.0 / reduce(&totals[n], |a, b| a + b));

    // Four sets of lanes at a time stay in registers while all positions pass.
    let mut first = 0;
    while first < width {
        let sets = ((width - first) / LANES).min(4);
        let mut sums = [[[0.0; LANES]; 4]; N];
        for (block, weights) in all().zip(scores.chunks_exact(N)) {
            for lane in block.lanes.clone() {
                let value = &values[(block.index * LANES + lane) * width + first..][..sets * LANES];
                for (set, value) in value.as_chunks::<LANES>().0.iter().enumerate() {
                    let value = E::load::<S>(value);
                    for n in 0..N {
                        sums[n][set] = fma_lanes::<S>(&[weights[n][lane]; LANES], &value, &sums[n][set]);
                    }
                }
            }
        }
        for n in 0..N {
            let output = &mut output[n * width + first..][..sets * LANES];
            for (output, sum) in output.as_chunks_mut::<LANES>().0.iter_mut().zip(&sums[n]) {
                *output = map(sum, |value| value * inverse[n]);
            }
        }
        first += sets * LANES;
    }
}
