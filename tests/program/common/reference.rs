//! The forward pass in plain loops of f64, straight from the checkpoint: no cache, no batch, no ring. What is cached and
//! in which order it came cannot matter to it, because it computes everything anew.

use std::collections::HashMap;
use std::path::Path;

use cinderblock::Model;
use cinderblock::unstable::model::TokenDecoderConfig;
use safetensors::SafeTensors;

/// A checkpoint of the layout `main`: concatenated embeddings, prefix.
pub struct Reference {
    tensors: HashMap<String, Vec<f64>>,
    block_length: usize,
    block_heads: usize,
    token_heads: usize,
    hidden: usize,
}

type Columns = Vec<Vec<f64>>;

fn add(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Rotates the halves of the first quarter of a head.
fn rotate(head: &[f64], position: usize) -> Vec<f64> {
    let mut out = head.to_vec();
    let half = head.len() / 8;
    for i in 0..half {
        let angle = position as f64 * 10000f64.powf(-(i as f64) / half as f64);
        let (sin, cos) = angle.sin_cos();
        out[i] = head[i] * cos - head[i + half] * sin;
        out[i + half] = head[i + half] * cos + head[i] * sin;
    }
    out
}

impl Reference {
    /// Reads the f32 checkpoint in a folder; `model` is made of it and knows its shape.
    pub fn read(folder: &Path, model: &Model) -> Reference {
        let bytes = std::fs::read(folder.join("model.safetensors")).expect("checkpoint");
        let file = SafeTensors::deserialize(&bytes).expect("safetensors");
        let values = |data: &[u8]| {
            data.as_chunks::<4>().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect()
        };
        let config = model.config();
        let TokenDecoderConfig::Neox { stack, .. } = &config.token_decoder else { panic!("{config:?}") };
        Reference {
            tensors: file.iter().map(|(name, tensor)| (name.to_string(), values(tensor.data()))).collect(),
            block_length: config.block_length,
            block_heads: config.block_decoder.heads,
            token_heads: stack.heads,
            hidden: stack.hidden,
        }
    }

    fn row(&self, table: &str, row: u32, width: usize) -> &[f64] {
        &self.tensors[table][row as usize * width..][..width]
    }

    fn linear(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let rows = self.tensors[&format!("{name}.weight")].chunks_exact(x.len());
        let product: Vec<f64> = rows.map(|row| dot(row, x)).collect();
        self.tensors.get(&format!("{name}.bias")).map_or(product.clone(), |bias| add(&product, bias))
    }

    fn norm(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let count = x.len() as f64;
        let mean = x.iter().sum::<f64>() / count;
        let variance = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / count;
        let scaled = x.iter().map(|v| (v - mean) / (variance + 1e-5).sqrt());
        let scaled = scaled.zip(&self.tensors[&format!("{name}.weight")]).map(|(v, weight)| v * weight);
        add(&scaled.collect::<Vec<_>>(), &self.tensors[&format!("{name}.bias")])
    }

    /// All columns of a stack that attends to the last `window` positions and the first `sinks`.
    fn stack(&self, prefix: &str, heads: usize, mut x: Columns, window: usize, sinks: usize) -> Columns {
        let layers = (0..).take_while(|layer| {
            self.tensors.contains_key(&format!("{prefix}.layers.{layer}.input_layernorm.weight"))
        });
        for layer in layers {
            let name = |part: &str| format!("{prefix}.layers.{layer}.{part}");
            let width = x[0].len() / heads;
            let qkv: Columns = x
                .iter()
                .map(|x| {
                    self.linear(&name("attention.query_key_value"), &self.norm(&name("input_layernorm"), x))
                })
                .collect();
            let part = |column: usize, head: usize, which: usize| {
                &qkv[column][(3 * head + which) * width..][..width]
            };
            let mut out = Vec::new();
            for (i, x) in x.iter().enumerate() {
                let mut attended = Vec::new();
                for head in 0..heads {
                    let near = rotate(part(i, head, 0), i);
                    let far = rotate(part(i, head, 0), i.min((sinks + window).saturating_sub(1)));
                    let seen = (0..=i).filter(|&p| p < sinks || p + window > i);
                    let scores: Vec<(usize, f64)> = seen
                        .map(|p| {
                            let query = if p < sinks { &far } else { &near };
                            (p, dot(query, &rotate(part(p, head, 1), p)) / (width as f64).sqrt())
                        })
                        .collect();
                    let most = scores.iter().map(|score| score.1).fold(f64::NEG_INFINITY, f64::max);
                    let sum: f64 = scores.iter().map(|score| (score.1 - most).exp()).sum();
                    let mut value = vec![0.0; width];
                    for (p, score) in scores {
                        let weight = (score - most).exp() / sum;
                        value.iter_mut().zip(part(p, head, 2)).for_each(|(v, part)| *v += weight * part);
                    }
                    attended.extend(value);
                }
                let attended = self.linear(&name("attention.dense"), &attended);
                let hidden = self.norm(&name("post_attention_layernorm"), x);
                let gelu = |v: f64| 0.5 * v * (1.0 + libm::erf(v / 2f64.sqrt()));
                let hidden: Vec<f64> =
                    self.linear(&name("mlp.dense_h_to_4h"), &hidden).into_iter().map(gelu).collect();
                out.push(add(&add(x, &attended), &self.linear(&name("mlp.dense_4h_to_h"), &hidden)));
            }
            x = out;
        }
        x.iter().map(|x| self.norm(&format!("{prefix}.final_layer_norm"), x)).collect()
    }

    /// Logits of the token after `text`, which has at least one whole block and is not padded.
    pub fn logits(&self, text: &[u32], window: usize, sinks: usize) -> Vec<f64> {
        let blocks = text.chunks_exact(self.block_length);
        let open = blocks.remainder();
        let table = "embedder.embeddings.weight";
        let width = self.hidden_of_blocks() / self.block_length;
        let embedded =
            blocks.map(|block| block.iter().flat_map(|t| self.row(table, *t, width).to_vec()).collect());
        let contexts =
            self.stack("block_decoder.gpt_neox", self.block_heads, embedded.collect(), window, sinks);
        let expanded = self.linear("token_decoder.expansion_layer", contexts.last().expect("a whole block"));
        let mut x: Columns = expanded.chunks_exact(self.hidden).map(<[f64]>::to_vec).collect();
        x.extend(
            open.iter().map(|t| self.row("token_decoder.gpt_neox.embed_in.weight", *t, self.hidden).to_vec()),
        );
        let last = self.stack("token_decoder.gpt_neox", self.token_heads, x, usize::MAX / 2, 0);
        self.linear("token_decoder.embed_out", last.last().expect("the prefix"))
    }

    fn hidden_of_blocks(&self) -> usize {
        self.tensors["block_decoder.gpt_neox.final_layer_norm.weight"].len()
    }
}
