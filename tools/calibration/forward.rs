//! The mathematics of a decoder on many samples at once, in floats: LayerNorm, causal attention with rotary
//! embedding. Products are elsewhere; they are what calibration changes.

use cinderblock::unstable::kernels::{Activation, Kernels};
use cinderblock::unstable::model::StackConfig;
use rayon::prelude::*;

use super::matrix::Matrix;

/// Weight and bias of a LayerNorm.
pub struct Norm {
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
}

impl Norm {
    /// LayerNorm of every row.
    pub fn apply(&self, kernels: &Kernels, epsilon: f32, x: &Matrix) -> Matrix {
        let mut output = Matrix::zeros(x.rows, x.columns);
        let rows = output.data.par_chunks_mut(x.columns).zip(x.data.par_chunks(x.columns));
        rows.for_each(|(output, row)| kernels.layer_norm(row, &self.weight, &self.bias, epsilon, output));
        output
    }
}

/// An activation function in place.
pub fn activate(kernels: &Kernels, activation: Activation, x: &mut Matrix) {
    x.data.par_chunks_mut(x.columns).for_each(|row| kernels.activate(activation, row));
}

/// Causal self-attention within every `length` consecutive rows; the last sequence may be shorter. `qkv` is
/// `[samples, heads, q|k|v, head_dim]`, the output `[samples, hidden]`.
pub fn attention(config: &StackConfig, qkv: &Matrix, length: usize) -> Matrix {
    let (hidden, head_dim) = (config.hidden, config.head_dim());
    let mut output = Matrix::zeros(qkv.rows, hidden);
    let sequences = output.data.par_chunks_mut(length * hidden).zip(qkv.data.par_chunks(length * 3 * hidden));
    sequences.for_each(|(output, qkv)| {
        let samples = qkv.len() / (3 * hidden);
        let part = |sample: usize, head: usize, which: usize| {
            &qkv[((sample * config.heads + head) * 3 + which) * head_dim..][..head_dim]
        };
        let (mut queries, mut keys) = (vec![0.0; head_dim], vec![0.0; samples * head_dim]);
        let mut scores = vec![0.0; samples];
        for head in 0..config.heads {
            for (position, key) in keys.chunks_exact_mut(head_dim).enumerate() {
                rotate(config, part(position, head, 1), position, key);
            }
            for position in 0..samples {
                rotate(config, part(position, head, 0), position, &mut queries);
                let scores = &mut scores[..=position];
                for (score, key) in scores.iter_mut().zip(keys.chunks_exact(head_dim)) {
                    *score = queries.iter().zip(key).map(|(q, k)| q * k).sum::<f32>();
                }
                softmax(scores, 1.0 / (head_dim as f32).sqrt());
                let output = &mut output[position * hidden + head * head_dim..][..head_dim];
                for (seen, score) in scores.iter().enumerate() {
                    let value = part(seen, head, 2);
                    output.iter_mut().zip(value).for_each(|(output, value)| *output += score * value);
                }
            }
        }
    });
    output
}

/// Rotate-half: dimension `i` pairs with `i + rotary / 2`; those beyond `rotary` are copied.
fn rotate(config: &StackConfig, input: &[f32], position: usize, output: &mut [f32]) {
    output.copy_from_slice(input);
    let half = config.rotary / 2;
    for i in 0..half {
        let exponent = -((2 * i) as f64) / config.rotary as f64;
        let angle = position as f64 * f64::from(config.rotary_base).powf(exponent);
        let (sine, cosine) = (angle.sin() as f32, angle.cos() as f32);
        output[i] = input[i] * cosine - input[i + half] * sine;
        output[i + half] = input[i + half] * cosine + input[i] * sine;
    }
}

pub fn softmax(scores: &mut [f32], scale: f32) {
    let most = scores.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = ((*score - most) * scale).exp();
        sum += *score;
    }
    scores.iter_mut().for_each(|score| *score /= sum);
}
