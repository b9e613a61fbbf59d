//! The forward pass of a RoBERTa embedder while its matrices are rounded. All blocks are whole: none is padded.

use cinderblock::Result;
use cinderblock::unstable::kernels::Activation;
use cinderblock::unstable::model::{EncoderConfig, Projection};

use super::forward::activate;
use super::matrix::Matrix;
use super::{Calibrator, Streams};

impl Calibrator<'_> {
    /// The streams before the block decoder, `[blocks, hidden]`.
    pub(super) fn encode(
        &mut self,
        tokens: &[u32],
        config: &EncoderConfig,
        projection: Projection,
    ) -> Result<Streams> {
        let (hidden, epsilon, kernels) = (config.hidden, config.epsilon, self.kernels);
        let (block, start) = (self.config.block_length, config.start_tokens);
        let mut identity = Matrix::zeros(hidden, hidden);
        (0..hidden).for_each(|i| identity.data[i * hidden + i] = 1.0);
        let words = self.table("embedder.embeddings.weight", &identity)?;
        // Small tables, which are rounded to nearest; here they are exact.
        let positions = self.matrix("embedder.positions.weight")?.0;
        let kinds = self.matrix("embedder.token_types.weight")?.0;
        let sums = words.map(|words| {
            let mut data = Vec::new();
            for tokens in tokens.chunks_exact(block) {
                for (id, position) in config.columns(tokens) {
                    let rows = words.row(id as usize).iter().zip(positions.row(position)).zip(kinds.row(0));
                    data.extend(rows.map(|((word, position), kind)| word + position + kind));
                }
            }
            Matrix::new(data.len() / hidden, hidden, data)
        });
        let norm = self.norm("embedder.norm")?;
        let mut x = sums.map(|x| norm.apply(kernels, epsilon, x));
        for layer in 0..config.layers {
            let part = |part: &str| format!("embedder.layers.{layer}.{part}");
            let query = self.linear(&part("attention.query"), &x)?;
            let key = self.linear(&part("attention.key"), &x)?;
            let value = self.linear(&part("attention.value"), &x)?;
            let length = start + block;
            let attended = Streams {
                exact: attention(config.heads, length, [&query.exact, &key.exact, &value.exact]),
                rounded: attention(config.heads, length, [&query.rounded, &key.rounded, &value.rounded]),
            };
            let sum = self.linear(&part("attention.output"), &attended)?;
            self.add_and_norm(&mut x, &sum, &part("attention_norm"), epsilon)?;
            let mut wide = self.linear(&part("feed_forward.up"), &x)?;
            activate(kernels, Activation::Gelu, &mut wide.exact);
            activate(kernels, Activation::Gelu, &mut wide.rounded);
            let down = self.linear(&part("feed_forward.down"), &wide)?;
            self.add_and_norm(&mut x, &down, &part("feed_forward_norm"), epsilon)?;
        }
        let outputs = config.outputs(block) * hidden;
        let embedded = x.map(|x| {
            let blocks = x.data.chunks_exact((start + block) * hidden);
            let data: Vec<f32> = blocks.flat_map(|block| &block[..outputs]).copied().collect();
            Matrix::new(data.len() / outputs, outputs, data)
        });
        match projection {
            Projection::Concat => Ok(embedded),
            Projection::Linear => self.linear("embedder.projection", &embedded),
        }
    }

    fn add_and_norm(&self, x: &mut Streams, branch: &Streams, name: &str, epsilon: f32) -> Result<()> {
        x.exact.add(&branch.exact);
        x.rounded.add(&branch.rounded);
        let norm = self.norm(name)?;
        *x = x.map(|x| norm.apply(self.kernels, epsilon, x));
        Ok(())
    }
}

/// Attention of all columns of a block to each other; `[query, key, value]` are `[blocks x length, hidden]`.
fn attention(heads: usize, length: usize, [query, key, value]: [&Matrix; 3]) -> Matrix {
    let hidden = query.columns;
    let width = hidden / heads;
    let mut output = Matrix::zeros(query.rows, hidden);
    let scale = 1.0 / (width as f32).sqrt();
    for (column, output) in output.data.chunks_exact_mut(hidden).enumerate() {
        let block = column / length * length..(column / length + 1) * length;
        for (head, output) in output.chunks_exact_mut(width).enumerate() {
            let part = head * width..(head + 1) * width;
            let own = &query.row(column)[part.clone()];
            let dot = |at: usize| own.iter().zip(&key.row(at)[part.clone()]).map(|(a, b)| a * b).sum::<f32>();
            let scores: Vec<f32> = block.clone().map(|at| dot(at) * scale).collect();
            let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let weights: Vec<f32> = scores.iter().map(|score| (score - max).exp()).collect();
            let total: f32 = weights.iter().sum();
            for (at, weight) in block.clone().zip(&weights) {
                let value = &value.row(at)[part.clone()];
                output.iter_mut().zip(value).for_each(|(output, value)| *output += weight / total * value);
            }
        }
    }
    output
}
