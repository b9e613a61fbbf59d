//! Softmax attention of up to four queries at consecutive positions.
//!
//! A position's lane is its slot modulo 16 and never changes, and positions are added one after the other, so
//! the result of a query does not depend on which queries it shares the pass with: what it does not see has
//! weight 0, and is not even multiplied by it, as keys and values that it does not see may not be finite.

use std::ops::Range;

use super::functions::exp;
use super::lanes::{Element, Lanes, Simd, fma_lanes, map, reduce};
use crate::kernels::operands::{Attention, LANES, Stored};

/// `output = softmax(query . keys x scale) . values` for each query.
#[inline(always)]
pub(in crate::kernels) fn attend<S: Simd, E: Element + Stored>(
    attention: &Attention<'_, E>,
    scores: &mut [f32],
    output: &mut [f32],
) {
    // Queries times sets are accumulators of 16 lanes: as many as the registers hold.
    match output.len() / attention.width {
        1 => attend_some::<S, E, 1, 4>(attention, scores, output),
        2 if S::WIDE => attend_some::<S, E, 2, 4>(attention, scores, output),
        2 => attend_some::<S, E, 2, 2>(attention, scores, output),
        3 if S::WIDE => attend_some::<S, E, 3, 4>(attention, scores, output),
        3 => attend_some::<S, E, 3, 1>(attention, scores, output),
        _ if S::WIDE => attend_some::<S, E, 4, 4>(attention, scores, output),
        _ => attend_some::<S, E, 4, 1>(attention, scores, output),
    }
}

/// The same for `N` queries, with `SETS` sets of lanes of the values at a time. Each step is a walk over the slot groups.
#[inline(always)]
fn attend_some<S: Simd, E: Element + Stored, const N: usize, const SETS: usize>(
    attention: &Attention<'_, E>,
    scores: &mut [f32],
    output: &mut [f32],
) {
    let scores = scores.as_chunks_mut::<LANES>().0;
    let (max, count) = score::<S, E, N>(attention, scores);
    let scores = &mut scores[..count];
    let totals = weigh::<S, E, N>(attention, max, scores);
    sum_values::<S, E, N, SETS>(attention, totals, scores, output);
}

/// Scores, `[slot group][query][lane]`, and minus infinity where a query does not see the slot; with the largest of
/// each query, and the number of sets of lanes.
#[inline(always)]
fn score<S: Simd, E: Element + Stored, const N: usize>(
    attention: &Attention<'_, E>,
    scores: &mut [Lanes],
) -> ([f32; N], usize) {
    let Attention { keys, windows, width, .. } = attention;
    let mut max = [[f32::NEG_INFINITY; LANES]; N];
    let mut count = 0;
    for (group, scores) in slot_groups(attention).zip(scores.chunks_exact_mut(N)) {
        count += N;
        let keys = &keys[group.index * LANES * width..][..LANES * width];
        let mut sums = products::<S, E, N>(keys.as_chunks().0, &group.queries[..N * width]);
        if E::SCALES == 2 {
            multiply_lanes(&mut sums, scales(attention.scales, group.index, 0));
        }
        let start = |n: usize| if group.pinned { 0 } else { windows[n].0 };
        let whole =
            (0..N).all(|n| start(n) <= group.position && group.position.wrapping_add(15) <= windows[n].1);
        if group.lanes.len() == LANES && whole {
            for n in 0..N {
                for lane in 0..LANES {
                    let score = sums[n][lane] * attention.scale;
                    max[n][lane] = if score > max[n][lane] { score } else { max[n][lane] };
                    scores[n][lane] = score;
                }
            }
            continue;
        }
        for n in 0..N {
            let (from, to) = (start(n), windows[n].1);
            for lane in 0..LANES {
                let inside = group.lanes.start <= lane && lane < group.lanes.end;
                let position = group.position.wrapping_add(lane as u64);
                let seen = from <= position && position <= to;
                let score = sums[n][lane] * attention.scale;
                let score = if inside && seen { score } else { f32::NEG_INFINITY };
                max[n][lane] = if score > max[n][lane] { score } else { max[n][lane] };
                scores[n][lane] = score;
            }
        }
    }
    (std::array::from_fn(|n| reduce(&max[n], |a, b| if a > b { a } else { b })), count)
}

/// The products of queries, `[N, width]`, with the 16 keys of a slot group, `[width][lane]`.
#[inline(always)]
fn products<S: Simd, E: Element, const N: usize>(keys: &[[E; LANES]], queries: &[f32]) -> [Lanes; N] {
    let width = keys.len();
    // Rows of one length, so that no access is checked while the sums are in registers.
    let mut rows: [&[f32]; N] = [&[]; N];
    for (n, row) in rows.iter_mut().enumerate() {
        *row = &queries[n * width..][..width];
    }
    let mut sums = [[0.0; LANES]; N];
    for (dimension, key) in keys.iter().enumerate() {
        let key = E::load::<S>(key);
        for n in 0..N {
            sums[n] = fma_lanes::<S>(&[rows[n][dimension]; LANES], &key, &sums[n]);
        }
    }
    sums
}

/// Turns scores into weights, the scales of the values included; with the total of each query.
#[inline(always)]
fn weigh<S: Simd, E: Element + Stored, const N: usize>(
    attention: &Attention<'_, E>,
    max: [f32; N],
    scores: &mut [Lanes],
) -> [f32; N] {
    let mut totals = [[0.0; LANES]; N];
    for (group, scores) in slot_groups(attention).zip(scores.chunks_exact_mut(N)) {
        for n in 0..N {
            for lane in 0..LANES {
                let score = scores[n][lane];
                let weight = exp::<S>(score - max[n]);
                // A score that is not a number stays one, and is noticed in the end.
                let weight = if score == f32::NEG_INFINITY { 0.0 } else { weight };
                totals[n][lane] += weight;
                scores[n][lane] = weight;
            }
        }
        if E::SCALES == 2 {
            multiply_lanes(scores, scales(attention.scales, group.index, 1));
        }
    }
    std::array::from_fn(|n| reduce(&totals[n], |a, b| a + b))
}

/// The weighted values, divided by the totals. The sums of `SETS` sets of lanes stay in registers while all positions pass.
#[inline(always)]
fn sum_values<S: Simd, E: Element + Stored, const N: usize, const SETS: usize>(
    attention: &Attention<'_, E>,
    totals: [f32; N],
    weights: &[Lanes],
    output: &mut [f32],
) {
    let width = output.len() / N;
    let mut first = 0;
    while first + SETS * LANES <= width {
        sum_sets::<S, E, N, SETS>(attention, totals, weights, first, output);
        first += SETS * LANES;
    }
    while first < width {
        sum_sets::<S, E, N, 1>(attention, totals, weights, first, output);
        first += LANES;
    }
}

/// The same for `SETS` sets of lanes, from dimension `first` on.
#[inline(always)]
fn sum_sets<S: Simd, E: Element + Stored, const N: usize, const SETS: usize>(
    attention: &Attention<'_, E>,
    totals: [f32; N],
    weights: &[Lanes],
    first: usize,
    output: &mut [f32],
) {
    let width = attention.width;
    let mut sums = [[[0.0; LANES]; SETS]; N];
    for (group, weights) in slot_groups(attention).zip(weights.chunks_exact(N)) {
        let mut lanes = [[0.0; N]; LANES];
        for (n, weights) in weights.iter().enumerate() {
            for (lane, weight) in lanes.iter_mut().zip(weights) {
                lane[n] = *weight;
            }
        }
        let values = attention.values[group.index * LANES * width..].chunks_exact(width).zip(&lanes);
        if N == 1 || group.is_seen_by_all(&attention.windows[..N]) {
            for (value, weights) in values.skip(group.lanes.start).take(group.lanes.len()) {
                add_value::<S, E, N, SETS>(&value[first..], weights, [true; N], &mut sums);
            }
        } else {
            for (lane, (value, weights)) in values.enumerate().take(group.lanes.end).skip(group.lanes.start) {
                let mut sees = [false; N];
                for (sees, window) in sees.iter_mut().zip(attention.windows) {
                    *sees = group.is_seen(lane, window);
                }
                add_value::<S, E, N, SETS>(&value[first..], weights, sees, &mut sums);
            }
        }
    }
    for n in 0..N {
        let output = &mut output[n * width + first..][..SETS * LANES];
        for (output, sum) in output.as_chunks_mut::<LANES>().0.iter_mut().zip(&sums[n]) {
            *output = map(sum, |value| value * (1.0 / totals[n]));
        }
    }
}

/// Adds `SETS` sets of lanes of a value, times its weights, to the sums of the queries that see it. An unseen value may
/// not be finite, and would spoil the sum even with the weight 0.
#[inline(always)]
fn add_value<S: Simd, E: Element, const N: usize, const SETS: usize>(
    value: &[E],
    weights: &[f32; N],
    sees: [bool; N],
    sums: &mut [[Lanes; SETS]; N],
) {
    let value = &value.as_chunks::<LANES>().0[..SETS];
    for set in 0..SETS {
        let value = E::load::<S>(&value[set]);
        for n in 0..N {
            if sees[n] {
                sums[n][set] = fma_lanes::<S>(&[weights[n]; LANES], &value, &sums[n][set]);
            }
        }
    }
}

/// Sixteen slots with the queries that meet them there, and the lanes that hold visible positions.
struct SlotGroup<'a> {
    queries: &'a [f32],
    index: usize,
    lanes: Range<usize>,
    /// Whether these are pinned positions, which the windows do not limit.
    pinned: bool,
    /// Position of lane 0.
    position: u64,
}

impl SlotGroup<'_> {
    /// Whether a query whose window is `from..=to` sees a lane that holds a visible position.
    #[inline(always)]
    fn is_seen(&self, lane: usize, (from, to): (u64, u64)) -> bool {
        let position = self.position.wrapping_add(lane as u64);
        (self.pinned || from <= position) && position <= to
    }

    /// Whether all lanes hold positions that the queries with these windows, at consecutive positions, all see.
    #[inline(always)]
    fn is_seen_by_all(&self, windows: &[(u64, u64)]) -> bool {
        self.lanes.len() == LANES
            && self.is_seen(0, windows[windows.len() - 1])
            && self.is_seen(LANES - 1, windows[0])
    }
}

/// All slot groups that the queries see: those of the sinks, then those of the two runs of the window.
#[inline(always)]
fn slot_groups<'a, E>(attention: &'a Attention<'_, E>) -> impl Iterator<Item = SlotGroup<'a>> {
    let [older, newer] = &attention.visible.window;
    groups_of_run(attention.sink_queries, &attention.visible.sinks, true, 0)
        .chain(groups_of_run(attention.queries, &older.slots, false, older.position))
        .chain(groups_of_run(attention.queries, &newer.slots, false, newer.position))
}

/// The slot groups that a run of slots touches, in order.
#[inline(always)]
fn groups_of_run<'a>(
    queries: &'a [f32],
    slots: &Range<usize>,
    pinned: bool,
    position: u64,
) -> impl Iterator<Item = SlotGroup<'a>> {
    let (start, end) = (slots.start, slots.end);
    let first = start / LANES;
    let last = if start < end { end.div_ceil(LANES) } else { first };
    (first..last).map(move |index| {
        let base = index * LANES;
        let lanes = start.max(base) - base..end.min(base + LANES) - base;
        // Lane 0 may lie before the run; its position is not used then.
        let position = position.wrapping_add(base as u64).wrapping_sub(start as u64);
        SlotGroup { queries, index, lanes, pinned, position }
    })
}

#[inline(always)]
fn multiply_lanes(rows: &mut [Lanes], factors: &Lanes) {
    for row in rows {
        for lane in 0..LANES {
            row[lane] *= factors[lane];
        }
    }
}

/// The scales of a slot group's keys (`which` 0) or values (1).
#[inline(always)]
fn scales(scales: &[f32], group: usize, which: usize) -> &Lanes {
    &scales.as_chunks::<LANES>().0[2 * group + which]
}
