//! The forward pass of a T5 token decoder while its matrices are rounded: each context meets the block after it.

use cinderblock::Result;
use cinderblock::unstable::kernels::{Activation, Kernels};
use cinderblock::unstable::model::T5Config;
use rayon::prelude::*;

use super::forward::{activate, softmax};
use super::matrix::Matrix;
use super::{Calibrator, Streams};

/// The token before a block's first one.
const START: u32 = 1;

/// Columns of a block that attend, and the rows that they attend to.
#[derive(Clone, Copy)]
struct Shape<'a> {
    decoder: &'a T5Config,
    positions: usize,
    /// Rows of a block.
    rows: usize,
    /// `[buckets, heads]`, for attention to the positions up to the own one; without it there is no mask.
    bias: Option<&'a [f32]>,
}

impl Calibrator<'_> {
    /// The inputs of the vocabulary head.
    pub(super) fn t5(
        &mut self,
        contexts: Streams,
        tokens: &[u32],
        decoder: &T5Config,
        expansion: usize,
    ) -> Result<Streams> {
        let (hidden, kernels, positions) = (decoder.hidden, self.kernels, self.config.block_length);
        let vectors = self.linear("token_decoder.expansion", &contexts)?;
        drop(contexts);
        let mut x = self.t5_tokens(&vectors, tokens, decoder)?;
        // The last context has no block after it.
        let vectors = vectors.map(|vectors| {
            let rows = x.exact.rows / positions * expansion;
            Matrix::new(rows, hidden, vectors.data[..rows * hidden].to_vec())
        });
        let bias = self.matrix("token_decoder.position_bias")?.0.data;
        let own = Shape { decoder, positions, rows: positions, bias: Some(&bias) };
        let cross = Shape { rows: expansion, bias: None, ..own };
        for layer in 0..decoder.layers {
            let part = |part: &str| format!("token_decoder.layers.{layer}.{part}");
            let normed = self.rms_norm(&part("attention_norm"), decoder, &x)?;
            let sum = self.t5_attention(&part("attention"), own, &normed, &normed)?;
            x.add(&sum);
            let normed = self.rms_norm(&part("cross_attention_norm"), decoder, &x)?;
            let sum = self.t5_attention(&part("cross_attention"), cross, &normed, &vectors)?;
            x.add(&sum);
            let normed = self.rms_norm(&part("feed_forward_norm"), decoder, &x)?;
            let mut wide = self.linear(&part("feed_forward.up"), &normed)?;
            drop(normed);
            activate(kernels, Activation::Relu, &mut wide.exact);
            activate(kernels, Activation::Relu, &mut wide.rounded);
            let down = self.linear(&part("feed_forward.down"), &wide)?;
            x.add(&down);
        }
        let mut outputs = self.rms_norm("token_decoder.final_norm", decoder, &x)?;
        for output in [&mut outputs.exact, &mut outputs.rounded] {
            output.data.iter_mut().for_each(|value| *value *= decoder.output_scale);
        }
        Ok(outputs)
    }

    /// The streams before the first layer, `[(blocks - 1) x block_length, hidden]`.
    fn t5_tokens(&mut self, vectors: &Streams, tokens: &[u32], decoder: &T5Config) -> Result<Streams> {
        let (hidden, length) = (decoder.hidden, self.config.block_length);
        let mut identity = Matrix::zeros(hidden, hidden);
        (0..hidden).for_each(|i| identity.data[i * hidden + i] = 1.0);
        let table = self.table("token_decoder.embeddings.weight", &identity)?;
        let columns = |table: &Matrix, vectors: &Matrix| {
            let mut data = Vec::new();
            let blocks = tokens[length..].chunks_exact(length);
            for (block, vectors) in blocks.zip(vectors.data.chunks_exact(vectors.columns)) {
                let before = std::iter::once(&START).chain(&block[..length - 1]);
                for (position, &token) in before.enumerate() {
                    let row = table.row(token as usize).iter();
                    if decoder.summation {
                        let added = &vectors[position * hidden..][..hidden];
                        data.extend(row.zip(added).map(|(token, added)| token + added));
                    } else {
                        data.extend(row);
                    }
                }
            }
            Matrix::new(data.len() / hidden, hidden, data)
        };
        Ok(Streams {
            exact: columns(&table.exact, &vectors.exact),
            rounded: columns(&table.rounded, &vectors.rounded),
        })
    }

    fn rms_norm(&self, name: &str, decoder: &T5Config, x: &Streams) -> Result<Streams> {
        let weight = self.matrix(&format!("{name}.weight"))?.0.data;
        Ok(x.map(|x| rms_norm(self.kernels, &weight, decoder.epsilon, x)))
    }

    /// The output of an attention whose queries are of `x` and whose keys and values are of `seen`.
    fn t5_attention(&mut self, name: &str, shape: Shape<'_>, x: &Streams, seen: &Streams) -> Result<Streams> {
        let query = self.linear(&format!("{name}.query"), x)?;
        let key = self.linear(&format!("{name}.key"), seen)?;
        let value = self.linear(&format!("{name}.value"), seen)?;
        let attended = Streams {
            exact: attention(shape, [&query.exact, &key.exact, &value.exact]),
            rounded: attention(shape, [&query.rounded, &key.rounded, &value.rounded]),
        };
        self.linear(&format!("{name}.output"), &attended)
    }
}

/// RMSNorm of every row.
fn rms_norm(kernels: &Kernels, weight: &[f32], epsilon: f32, x: &Matrix) -> Matrix {
    let mut output = Matrix::zeros(x.rows, x.columns);
    let rows = output.data.par_chunks_mut(x.columns).zip(x.data.par_chunks(x.columns));
    rows.for_each(|(output, row)| kernels.rms_norm(row, weight, epsilon, output));
    output
}

/// Attention inside each block; queries are `[blocks x positions, heads, head_dim]`, keys and values
/// `[blocks x rows, heads, head_dim]`.
fn attention(shape: Shape<'_>, [query, key, value]: [&Matrix; 3]) -> Matrix {
    let Shape { decoder, positions, rows, bias } = shape;
    let head_dim = decoder.head_dim;
    let mut output = Matrix::zeros(query.rows, query.columns);
    output.data.par_chunks_mut(query.columns).enumerate().for_each(|(column, output)| {
        let (block, position) = (column / positions * rows, column % positions);
        let seen = if bias.is_some() { position + 1 } else { rows };
        for (head, output) in output.chunks_exact_mut(head_dim).enumerate() {
            let part = head * head_dim..(head + 1) * head_dim;
            let own = &query.row(column)[part.clone()];
            let score = |row: usize| {
                let key = &key.row(block + row)[part.clone()];
                let product = own.iter().zip(key).map(|(a, b)| a * b).sum::<f32>();
                let bias = bias.map(|bias| bias[decoder.bucket(position - row) * decoder.heads + head]);
                product + bias.unwrap_or(0.0)
            };
            let mut scores: Vec<f32> = (0..seen).map(score).collect();
            softmax(&mut scores, 1.0);
            for (row, weight) in scores.iter().enumerate() {
                let value = &value.row(block + row)[part.clone()];
                output.iter_mut().zip(value).for_each(|(output, value)| *output += weight * value);
            }
        }
    });
    output
}
