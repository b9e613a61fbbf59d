//! A checkpoint in the authors' layout: `config.yaml`, `model.safetensors` and perhaps `tokenizer.json`.

mod config;
mod safetensors;

use std::path::{Path, PathBuf};

use cinderblock::error::{Error, Result};
use cinderblock::generation::tokenizer::Tokenizer;
use cinderblock::model::{Config, Projection, Role, StackConfig, Strategy, TensorSpec};

use config::{StackSection, TrainerConfig};
use safetensors::Tensors;

/// An opened checkpoint: its shape is known and checked, its weights are still in the files.
pub struct Checkpoint {
    pub config: Config,
    /// The tokenizer's JSON text, and the token that ends a text.
    pub tokenizer: Option<(String, Option<u32>)>,
    tensors: Tensors,
    folder: PathBuf,
}

/// Authors' names of the layers' parts, beside ours.
const LAYER_PARTS: [(&str, &str); 6] = [
    ("attention_norm", "input_layernorm"),
    ("feed_forward_norm", "post_attention_layernorm"),
    ("attention.qkv", "attention.query_key_value"),
    ("attention.output", "attention.dense"),
    ("feed_forward.up", "mlp.dense_h_to_4h"),
    ("feed_forward.down", "mlp.dense_4h_to_h"),
];

/// Authors' names of everything else.
const OTHERS: [(&str, &str); 7] = [
    ("embedder.embeddings", "embedder.embeddings"),
    ("embedder.projection", "embedder.projection_layer"),
    ("block_decoder.final_norm", "block_decoder.gpt_neox.final_layer_norm"),
    ("token_decoder.expansion", "token_decoder.expansion_layer"),
    ("token_decoder.embeddings", "token_decoder.gpt_neox.embed_in"),
    ("token_decoder.final_norm", "token_decoder.gpt_neox.final_layer_norm"),
    ("token_decoder.head", "token_decoder.embed_out"),
];

/// The authors' name of one of our tensors.
fn source_name(name: &str) -> String {
    let (stem, kind) = name.rsplit_once('.').unwrap_or((name, ""));
    if let Some((_, source)) = OTHERS.iter().find(|(ours, _)| *ours == stem) {
        return format!("{source}.{kind}");
    }
    for (ours, source) in LAYER_PARTS {
        // decoder.layers.N.part
        if let Some(layer) = stem.strip_suffix(ours) {
            return format!("{}{source}.{kind}", layer.replacen(".layers", ".gpt_neox.layers", 1));
        }
    }
    name.to_string()
}

impl Checkpoint {
    /// Opens a folder.
    pub fn open(folder: &Path) -> Result<Checkpoint> {
        let metadata = std::fs::metadata(folder).map_err(|error| Error::io(folder, &error))?;
        if !metadata.is_dir() {
            let error =
                Error::mismatch("checkpoint", "a file", "a folder with config.yaml and model.safetensors");
            return Err(error.in_file(folder));
        }
        let trainer = TrainerConfig::read(&folder.join("config.yaml"))?;
        let tensors = Tensors::open(folder)?;
        let config_path = folder.join("config.yaml");
        let config = Shapes { tensors: &tensors }.config(&trainer, &config_path)?;
        config.validate().map_err(|error| error.in_file(&config_path))?;
        let tokenizer = read_tokenizer(&folder.join("tokenizer.json"), config.vocabulary)?;
        Ok(Checkpoint { config, tokenizer, tensors, folder: folder.to_path_buf() })
    }

    /// The files that it is read from, and those that the next run would read if they were there.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        let described = |name: &Path| {
            let kind = name.extension().and_then(|kind| kind.to_str());
            kind.is_some_and(|kind| ["json", "safetensors", "yaml", "yml"].contains(&kind))
        };
        let entries =
            std::fs::read_dir(&self.folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let names = ["config.yaml", "tokenizer.json", "model.safetensors", "model.safetensors.index.json"];
        let known = names.map(|name| self.folder.join(name));
        let tensors = self.tensors.files().map(Path::to_path_buf);
        known.into_iter().chain(tensors).chain(entries.filter(move |path| described(path)))
    }

    /// Checks a tensor's shape before anything is written.
    pub fn check(&self, spec: &TensorSpec) -> Result<()> {
        let name = source_name(&spec.name);
        let entry = self.tensors.get(&name)?;
        let expected = match (spec.role, self.axes(spec)) {
            (Role::Vector, _) => vec![spec.width],
            (_, Axes::Plain) => vec![spec.rows, spec.width],
            (_, Axes::OneTap) => vec![spec.rows, spec.width, 1],
            (_, Axes::Taps) => {
                let taps = self.config.block_length;
                vec![spec.rows, spec.width / taps, taps]
            }
        };
        if entry.shape != expected {
            let error = Error::mismatch(
                format!("tensor {name:?}"),
                format!("shape {:?}", entry.shape),
                format!("{expected:?}"),
            );
            return Err(error.in_file(self.tensors.path(entry)));
        }
        Ok(())
    }

    /// Reads rows `first..first + rows` of a tensor as floats, in the order of this project's layout.
    pub fn read_rows(
        &self,
        spec: &TensorSpec,
        first: usize,
        rows: usize,
        bytes: &mut Vec<u8>,
        output: &mut Vec<f32>,
    ) -> Result<()> {
        let columns = spec.width;
        self.tensors.read(&source_name(&spec.name), first * columns, rows * columns, bytes, output)?;
        if self.axes(spec) == Axes::Taps {
            // A Conv1d kernel is [out, in, tap]; the concatenated block is [tap, in].
            let taps = self.config.block_length;
            let width = columns / taps;
            let mut row = vec![0.0; columns];
            for kernel in output.chunks_exact_mut(columns) {
                for (at, value) in row.iter_mut().enumerate() {
                    *value = kernel[at % width * taps + at / width];
                }
                kernel.copy_from_slice(&row);
            }
        }
        Ok(())
    }

    /// Names of the checkpoint's tensors that a model does not use.
    pub fn unused(&self, specs: &[TensorSpec]) -> Vec<String> {
        let used: std::collections::HashSet<String> = specs.iter().map(|s| source_name(&s.name)).collect();
        let mut unused: Vec<String> =
            self.tensors.names().filter(|name| !used.contains(*name)).map(String::from).collect();
        unused.sort_unstable();
        unused
    }

    fn axes(&self, spec: &TensorSpec) -> Axes {
        match spec.name.as_str() {
            "embedder.projection.weight" => Axes::Taps,
            "token_decoder.expansion.weight" => Axes::OneTap,
            _ => Axes::Plain,
        }
    }
}

/// How the authors store a matrix.
#[derive(PartialEq)]
enum Axes {
    Plain,
    OneTap,
    Taps,
}

fn read_tokenizer(path: &Path, vocabulary: usize) -> Result<Option<(String, Option<u32>)>> {
    if !path.exists() {
        return Ok(None);
    }
    let io = |error: std::io::Error| Error::io(path, &error);
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(Error::mismatch("file type", "no regular file", "a tokenizer").in_file(path));
    }
    let text = std::fs::read_to_string(path).map_err(io)?;
    let tokenizer = Tokenizer::from_json(&text).map_err(|error| error.in_file(path))?;
    let end = tokenizer.end_token().filter(|&token| (token as usize) < vocabulary);
    Ok(Some((text, end)))
}

/// Derives a model's shape from its tensors, and compares it with what the configuration repeats.
struct Shapes<'t> {
    tensors: &'t Tensors,
}

impl Shapes<'_> {
    /// A dimension of a tensor of a known rank.
    fn dimension(&self, name: &str, rank: usize, axis: usize) -> Result<usize> {
        let entry = self.tensors.get(name)?;
        let positive = entry.shape.iter().all(|&n| n > 0);
        if entry.shape.len() != rank || !positive {
            let found = format!("shape {:?}", entry.shape);
            let error =
                Error::mismatch(format!("tensor {name:?}"), found, format!("{rank} positive dimensions"));
            return Err(error.in_file(self.tensors.path(entry)));
        }
        Ok(entry.shape[axis])
    }

    fn stack(&self, name: &str, section: &StackSection) -> Result<StackConfig> {
        let prefix = format!("{name}.gpt_neox");
        let hidden = self.dimension(&format!("{prefix}.final_layer_norm.weight"), 1, 0)?;
        let up = format!("{prefix}.layers.0.mlp.dense_h_to_4h.weight");
        let feed_forward = self.dimension(&up, 2, 0)?;
        let beyond = format!("{prefix}.layers.{}.", section.layers);
        if let Some(extra) = self.tensors.names().find(|tensor| tensor.starts_with(&beyond)) {
            let found = format!("{}, but the checkpoint has {extra:?}", section.layers);
            return Err(Error::mismatch(format!("{name}.config.num_hidden_layers"), found, "every layer"));
        }
        agree(&format!("{name}.config.hidden_size"), section.hidden, hidden)?;
        agree(&format!("{name}.config.intermediate_size"), section.feed_forward, feed_forward)?;
        let heads = section.heads.unwrap_or(StackConfig::default_heads(hidden));
        if heads == 0 || !hidden.is_multiple_of(heads) {
            let expected = format!("a divisor of the hidden size {hidden}");
            return Err(Error::mismatch(format!("{name}: attention heads"), heads, expected));
        }
        Ok(StackConfig {
            layers: section.layers,
            hidden,
            heads,
            feed_forward,
            rotary: ((hidden / heads) as f64 * section.rotary_fraction) as usize,
            rotary_base: section.rotary_base as f32,
            epsilon: section.epsilon as f32,
        })
    }

    fn config(&self, trainer: &TrainerConfig, path: &Path) -> Result<Config> {
        let named = |error: Error| error.in_file(path);
        let embeddings = "embedder.embeddings.weight";
        let vocabulary = self.dimension(embeddings, 2, 0)?;
        let embedding = self.dimension(embeddings, 2, 1)?;
        let block_decoder = self.stack("block_decoder", &trainer.block_decoder).map_err(named)?;
        let token_decoder = self.stack("token_decoder", &trainer.token_decoder).map_err(named)?;
        agree("embedder.config.hidden_size", trainer.embedding, embedding).map_err(named)?;
        agree("token_decoder.config.vocab_size", trainer.token_decoder.vocabulary, vocabulary)
            .map_err(named)?;
        let wide = self.dimension("token_decoder.expansion_layer.weight", 3, 0)?;
        let expansion = wide / token_decoder.hidden;
        if trainer.strategy == Strategy::Prefix {
            agree("token_decoder.expansion_ratio", trainer.expansion_ratio, expansion).map_err(named)?;
        }
        if expansion == 0 || !wide.is_multiple_of(token_decoder.hidden) {
            let found = format!("{wide} rows");
            let expected = format!("a multiple of the hidden size {}", token_decoder.hidden);
            return Err(Error::mismatch("tensor \"token_decoder.expansion_layer.weight\"", found, expected));
        }
        Ok(Config {
            name: trainer.name.clone(),
            block_length: trainer.block_length,
            vocabulary,
            trained_blocks: (trainer.max_length.unwrap_or(2048) / trainer.block_length).max(1),
            embedding,
            projection: if trainer.projection_layer { Projection::Linear } else { Projection::Concat },
            strategy: trainer.strategy,
            alignment: trainer.alignment,
            expansion,
            block_decoder,
            token_decoder,
        })
    }
}

/// A size that the configuration repeats must be that of the tensors.
fn agree(key: &str, given: Option<usize>, tensors: usize) -> Result<()> {
    match given {
        Some(given) if given != tensors => {
            Err(Error::mismatch(key, given, format!("{tensors}, as the tensors have it")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_map_to_the_authors() {
        for (ours, source) in [
            ("embedder.embeddings.weight", "embedder.embeddings.weight"),
            ("embedder.projection.bias", "embedder.projection_layer.bias"),
            (
                "block_decoder.layers.11.attention.qkv.weight",
                "block_decoder.gpt_neox.layers.11.attention.query_key_value.weight",
            ),
            (
                "token_decoder.layers.0.feed_forward_norm.bias",
                "token_decoder.gpt_neox.layers.0.post_attention_layernorm.bias",
            ),
            ("token_decoder.head.weight", "token_decoder.embed_out.weight"),
        ] {
            assert_eq!(source_name(ours), source);
        }
    }
}
