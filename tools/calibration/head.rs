//! The vocabulary head. An error in a logit matters as much as the token is in doubt, so every cluster of similar
//! tokens is rounded for the samples in which its tokens are likely.

use cinderblock::unstable::quant::{GROUP, Rounded, WeightType};
use rayon::prelude::*;

use super::matrix::Matrix;
use super::tensor::{Calibrated, Inputs, Method, calibrate};

/// Tokens of a cluster on average.
const CLUSTER: usize = 64;
/// Most clusters: each takes the moments of all samples.
const MOST_CLUSTERS: usize = 64;
/// Part of the mean weight that every sample has at least.
const FLOOR: f32 = 0.1;
/// Samples whose logits are in memory at once.
const SLAB: usize = 512;

/// Rounds the head for the inputs of the samples.
pub fn calibrate_head(kind: WeightType, weights: &Matrix, inputs: Inputs<'_>) -> Calibrated {
    let clusters = clusters(weights, (weights.rows / CLUSTER).clamp(1, MOST_CLUSTERS));
    let doubts = doubts(weights, inputs.exact, &clusters);
    let groups_of_row = weights.columns.div_ceil(GROUP);
    let mut whole = Calibrated {
        kind,
        groups: vec![Rounded::ZERO; if kind.is_quantized() { weights.rows * groups_of_row } else { 0 }],
        values: Matrix::zeros(weights.rows, weights.columns),
        bias: Vec::new(),
        method: Method::Nearest,
        nearest_error: 0.0,
        error: 0.0,
    };
    for (cluster, rows) in clusters.iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
        let scale = |x: &Matrix| {
            let mut scaled = x.clone();
            let rows = scaled.data.chunks_exact_mut(x.columns);
            for (row, doubt) in rows.zip(doubts.data.chunks_exact(doubts.columns)) {
                row.iter_mut().for_each(|value| *value *= doubt[cluster].sqrt());
            }
            scaled
        };
        let (exact, rounded) = (scale(inputs.exact), scale(inputs.rounded));
        let data = rows.iter().flat_map(|&row| weights.row(row)).copied().collect();
        let part = Matrix::new(rows.len(), weights.columns, data);
        let scaled = Inputs { exact: &exact, rounded: &rounded, held_out: inputs.held_out };
        let found = calibrate(kind, &part, &[], scaled);
        for (at, &row) in rows.iter().enumerate() {
            whole.values.row_mut(row).copy_from_slice(found.values.row(at));
            if !found.groups.is_empty() {
                let groups = &found.groups[at * groups_of_row..][..groups_of_row];
                whole.groups[row * groups_of_row..][..groups_of_row].copy_from_slice(groups);
            }
        }
        if found.method != Method::Nearest {
            whole.method = found.method;
        }
        let share = rows.len() as f64 / weights.rows as f64;
        whole.nearest_error += share * found.nearest_error;
        whole.error += share * found.error;
    }
    whole
}

/// Rows in clusters of similar direction: k-means on unit rows, from evenly spaced ones.
fn clusters(weights: &Matrix, count: usize) -> Vec<Vec<usize>> {
    let unit = |row: &[f32]| {
        let norm = row.iter().map(|value| value * value).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
        row.iter().map(|value| value / norm).collect::<Vec<f32>>()
    };
    let rows = Matrix::new(
        weights.rows,
        weights.columns,
        weights.data.chunks_exact(weights.columns).flat_map(unit).collect(),
    );
    let data = (0..count).flat_map(|at| rows.row(at * rows.rows / count)).copied().collect();
    let mut centres = Matrix::new(count, rows.columns, data);
    let mut clusters = Vec::new();
    for _ in 0..6 {
        let nearness = rows.view().times(centres.view().transposed());
        clusters = vec![Vec::new(); count];
        for (row, nearness) in nearness.data.chunks_exact(count).enumerate() {
            let best = (1..count).fold(0, |best, at| if nearness[at] > nearness[best] { at } else { best });
            clusters[best].push(row);
        }
        for (cluster, members) in clusters.iter().enumerate() {
            let mut sum = vec![0.0; rows.columns];
            for &row in members {
                sum.iter_mut().zip(rows.row(row)).for_each(|(sum, value)| *sum += value);
            }
            centres.row_mut(cluster).copy_from_slice(&unit(&sum));
        }
    }
    clusters
}

/// `[samples, clusters]`: the sum of `p (1 - p)` over the tokens of a cluster, relative to its mean.
fn doubts(weights: &Matrix, x: &Matrix, clusters: &[Vec<usize>]) -> Matrix {
    let mut cluster_of = vec![0; weights.rows];
    for (cluster, rows) in clusters.iter().enumerate() {
        rows.iter().for_each(|&row| cluster_of[row] = cluster);
    }
    let mut doubts = Matrix::zeros(x.rows, clusters.len());
    for first in (0..x.rows).step_by(SLAB) {
        let samples = SLAB.min(x.rows - first);
        let logits = x.rows(first, samples).times(weights.view().transposed());
        let output = &mut doubts.data[first * clusters.len()..][..samples * clusters.len()];
        let rows = output.par_chunks_mut(clusters.len()).zip(logits.data.par_chunks(weights.rows));
        rows.for_each(|(output, logits)| {
            let most = logits.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
            let sum: f32 = logits.iter().map(|logit| (logit - most).exp()).sum();
            for (logit, &cluster) in logits.iter().zip(&cluster_of) {
                let p = (logit - most).exp() / sum;
                output[cluster] += p * (1.0 - p);
            }
        });
    }
    for cluster in 0..clusters.len() {
        let column = |row: usize| row * clusters.len() + cluster;
        let mean = (0..x.rows).map(|row| doubts.data[column(row)]).sum::<f32>() / x.rows as f32;
        for row in 0..x.rows {
            let doubt = &mut doubts.data[column(row)];
            *doubt = if mean > 0.0 { *doubt / mean + FLOOR } else { 1.0 };
        }
    }
    doubts
}
