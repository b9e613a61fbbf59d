//! A checkpoint as trainers leave it: weights in any of their forms, a configuration or what the tensors say of it,
//! and perhaps a tokenizer.

mod config;
mod published;
mod safetensors;
mod shapes;
mod source;
mod tokenizer;
pub(crate) mod unstable;
mod yaml;

use std::path::{Path, PathBuf};

use cinderblock::unstable::model::{Alignment, Config, EmbedderConfig, Role, TensorSpec, TokenDecoderConfig};
use cinderblock::{Error, Result};

use config::{Facts, Ignored, Kind, StackFacts};
use safetensors::Tensors;
use shapes::Shapes;
use source::{Source, Weights};
pub use tokenizer::{
    EndToken, Lexicon, check_vocabulary, describe as describe_tokenizer, end_token as find_end_token,
    read_tokenizer,
};
pub use yaml::without_mark;

/// What a person may say of a checkpoint beside its path.
#[derive(Default)]
pub struct CheckpointOptions {
    /// The trainer configuration, wherever the checkpoint has another or none.
    pub config: Option<PathBuf>,
    /// The `tokenizer.json`, or the folder that holds it.
    pub tokenizer: Option<PathBuf>,
    /// The token that ends a text.
    pub end_token: Option<EndToken>,
    pub alignment: Option<Alignment>,
    /// A name for the model.
    pub name: Option<String>,
    /// Keys of the configuration to pass over.
    pub ignore_keys: Vec<String>,
}

/// An opened checkpoint: its shape is known and checked, its weights are still in the files.
pub struct Checkpoint {
    pub config: Config,
    /// Why prompts are aligned as they are.
    pub alignment_reason: String,
    /// The tokenizer's JSON text.
    pub tokenizer: Option<String>,
    /// The token that ends a text.
    pub end_token: Option<u32>,
    /// Where everything was found, and what was inferred: what it is, and a line.
    pub notes: Vec<(&'static str, String)>,
    /// Files that were read.
    files: Vec<PathBuf>,
    /// Folders in which the next run would look for files.
    folders: Vec<PathBuf>,
    tensors: Tensors,
    kind: Kind,
    /// The vocabulary head is the table of the decoder that it follows.
    tied: bool,
}

/// The configuration of a model on the Hub.
const HUB_CONFIG: &str = "config.json";

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

/// Authors' names of the parts of an encoder's layers, beside ours.
const ENCODER_PARTS: [(&str, &str); 8] = [
    ("attention.query", "attention.self.query"),
    ("attention.key", "attention.self.key"),
    ("attention.value", "attention.self.value"),
    ("attention.output", "attention.output.dense"),
    ("attention_norm", "attention.output.LayerNorm"),
    ("feed_forward.up", "intermediate.dense"),
    ("feed_forward.down", "output.dense"),
    ("feed_forward_norm", "output.LayerNorm"),
];

/// Authors' names of everything else in an encoder.
const ENCODER_OTHERS: [(&str, &str); 4] = [
    ("embedder.embeddings", "embedder.embeddings.word_embeddings"),
    ("embedder.positions", "embedder.embeddings.position_embeddings"),
    ("embedder.token_types", "embedder.embeddings.token_type_embeddings"),
    ("embedder.norm", "embedder.embeddings.LayerNorm"),
];

/// The authors' name of one of our tensors, if it is one of an encoder.
fn encoder_source_name(name: &str) -> Option<String> {
    let (stem, kind) = name.rsplit_once('.')?;
    if let Some((_, source)) = ENCODER_OTHERS.iter().find(|(ours, _)| *ours == stem) {
        return Some(format!("{source}.{kind}"));
    }
    let (layer, part) = stem.strip_prefix("embedder.layers.")?.split_once('.')?;
    let (_, source) = ENCODER_PARTS.iter().find(|(ours, _)| *ours == part)?;
    Some(format!("embedder.encoder.layer.{layer}.{source}.{kind}"))
}

/// Authors' names of the parts of a T5 decoder's layers, beside ours.
const T5_PARTS: [(&str, &str); 13] = [
    ("attention.query", "0.SelfAttention.q"),
    ("attention.key", "0.SelfAttention.k"),
    ("attention.value", "0.SelfAttention.v"),
    ("attention.output", "0.SelfAttention.o"),
    ("attention_norm", "0.layer_norm"),
    ("cross_attention.query", "1.EncDecAttention.q"),
    ("cross_attention.key", "1.EncDecAttention.k"),
    ("cross_attention.value", "1.EncDecAttention.v"),
    ("cross_attention.output", "1.EncDecAttention.o"),
    ("cross_attention_norm", "1.layer_norm"),
    ("feed_forward.up", "2.DenseReluDense.wi"),
    ("feed_forward.down", "2.DenseReluDense.wo"),
    ("feed_forward_norm", "2.layer_norm"),
];

/// Our name of a T5 decoder's table of relative positions, and the authors'.
const POSITION_BIAS: [&str; 2] = [
    "token_decoder.position_bias",
    "token_decoder.decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
];

/// Authors' names of the table of embeddings of a T5 decoder, any of which may be in a file; the last is the vocabulary
/// head, which is the same unless it is not tied.
const T5_TABLES: [&str; 3] = [
    "token_decoder.shared.weight",
    "token_decoder.decoder.embed_tokens.weight",
    "token_decoder.lm_head.weight",
];

/// The authors' name of one of our tensors, if it is one of a T5 decoder's layers or follows them.
fn t5_source_name(name: &str) -> Option<String> {
    if name == POSITION_BIAS[0] {
        return Some(POSITION_BIAS[1].to_string());
    }
    if name == "token_decoder.final_norm.weight" {
        return Some("token_decoder.decoder.final_layer_norm.weight".to_string());
    }
    let (layer, part) = name.strip_prefix("token_decoder.layers.")?.split_once('.')?;
    let (part, kind) = part.rsplit_once('.')?;
    let (_, source) = T5_PARTS.iter().find(|(ours, _)| *ours == part)?;
    Some(format!("token_decoder.decoder.block.{layer}.layer.{source}.{kind}"))
}

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

/// The name in a GPT-NeoX of one of our tensors.
fn vanilla_name(name: &str) -> String {
    if name == "embedder.embeddings.weight" {
        return "gpt_neox.embed_in.weight".to_string();
    }
    let name = source_name(name);
    let parts = ["block_decoder.", "token_decoder."];
    parts.iter().find_map(|part| name.strip_prefix(part)).unwrap_or(&name).to_string()
}

/// The origin of a configuration.
fn describe_configuration(path: Option<&Path>, inferring: bool, name: &str) -> String {
    match path {
        Some(path) => path.display().to_string(),
        None if inferring => "none found; the tensors' shapes and names decide".to_string(),
        None => format!("that of {name} in the authors' repository, built in"),
    }
}

impl Checkpoint {
    /// Opens a checkpoint; `say` gets a line where that takes long.
    ///
    /// # Errors
    /// The first thing that is missing, contradictory or not supported.
    pub fn open(
        path: &Path,
        options: &CheckpointOptions,
        say: &dyn Fn(&str) -> Result<()>,
    ) -> Result<Checkpoint> {
        let source = Source::find(path, say)?;
        let ignored = Ignored::new(&options.ignore_keys);
        let mut notes = vec![("weights", source.weights.path().display().to_string())];
        let name = source.name().unwrap_or_else(|| "block-transformer".to_string());
        let tensors = source.weights.open()?;
        let kind =
            shapes::find_kind(&tensors).map_err(|error| other_architecture(&source).unwrap_or(error))?;
        let (mut facts, config_path) =
            find_config(options.config.as_deref(), &source, (&name, kind), &ignored)?;
        let mut files: Vec<PathBuf> = tensors.files().map(Path::to_path_buf).collect();
        if let Weights::Parts(folder) = &source.weights {
            files.extend(merge_parts(&mut facts, folder, &ignored)?);
        }
        ignored.check()?;
        let inferring = config_path.is_none() && facts.block_length.is_none();
        notes.push(("configuration", describe_configuration(config_path.as_deref(), inferring, &name)));
        let place = config_path.clone().unwrap_or_else(|| source.weights.path().to_path_buf());
        let mut shapes = Shapes::new(&tensors);
        let mut config = match kind {
            Kind::Block => shapes.config(&facts, &name, &place)?,
            Kind::Vanilla => shapes.vanilla(&facts, &name, &place)?,
        };
        let reason;
        (config.alignment, reason) = alignment(options.alignment, kind, &facts);
        if let Some(name) = &options.name {
            config.name.clone_from(name);
        }
        config.validate().map_err(|error| error.in_file(&place))?;
        if inferring {
            notes.extend(shapes.inferred.drain(..).map(|line| ("inferred", line)));
        }
        notes.push(("alignment", format!("{}: {reason}", config.alignment.name())));

        let mut folders = source.folders.clone();
        folders.extend(config_path.iter().filter_map(|path| Some(path.parent()?.to_path_buf())));
        let found = tokenizer::find(options.tokenizer.as_deref(), &folders)?;
        let (tokenizer, lexicon) = match found {
            None => (None, None),
            Some((path, json, lexicon)) => {
                tokenizer::check_vocabulary(&path, &json, config.vocabulary)?;
                notes.push(("tokenizer", tokenizer::describe(&path, &lexicon, config.vocabulary)));
                // What lies beside the tokenizer speaks of it.
                folders.splice(0..0, path.parent().map(Path::to_path_buf));
                files.push(path);
                (Some(json), Some(lexicon))
            }
        };
        if lexicon.is_none() {
            notes.push(("tokenizer", tokenizer::none(facts.tokenizer.as_deref())));
        } else if let Weights::Parts(folder) = &source.weights {
            folders.push(folder.join("token_decoder"));
        }
        let end =
            tokenizer::end_token(options.end_token.as_ref(), lexicon.as_ref(), &folders, config.vocabulary)?;
        notes.push(("end token", end.1));
        files.extend(config_path);
        Ok(Checkpoint {
            config,
            alignment_reason: reason,
            tokenizer,
            end_token: end.0,
            notes,
            files,
            folders,
            tensors,
            kind,
            tied: facts.is_tied(kind),
        })
    }

    /// The files that it is read from, and those that the next run would read if they were there.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        let described = |name: &Path| {
            let kind = name.extension().and_then(|kind| kind.to_str());
            kind.is_some_and(|kind| ["json", "safetensors", "yaml", "yml"].contains(&kind))
        };
        let names = ["config.yaml", "tokenizer.json", "model.safetensors", "model.safetensors.index.json"];
        let known = self.folders.iter().flat_map(move |folder| names.map(|name| folder.join(name)));
        let entries =
            self.folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
        let entries = entries.map(|entry| entry.path()).filter(move |path| described(path));
        known.chain(self.files.iter().cloned()).chain(entries)
    }

    /// The name in the checkpoint of the tensor that holds one of ours.
    fn source_of(&self, spec: &TensorSpec) -> String {
        if matches!(self.config.embedder, EmbedderConfig::Roberta { .. })
            && let Some(name) = encoder_source_name(&spec.name)
        {
            return name;
        }
        if matches!(self.config.token_decoder, TokenDecoderConfig::T5 { .. }) {
            let is_table = spec.name == "token_decoder.embeddings.weight";
            match t5_source_name(&spec.name) {
                Some(name) => return name,
                None if is_table || spec.role == Role::Head => return self.t5_table(is_table).to_string(),
                None => {}
            }
        }
        let tied = self.tied && spec.role == Role::Head;
        match self.kind {
            Kind::Block => source_name(if tied { "token_decoder.embeddings.weight" } else { &spec.name }),
            Kind::Vanilla => vanilla_name(if tied { "embedder.embeddings.weight" } else { &spec.name }),
        }
    }

    /// The name in the checkpoint of a T5 decoder's table of embeddings, or of its vocabulary head.
    fn t5_table(&self, is_table: bool) -> &'static str {
        let names = match (self.tied, is_table) {
            (true, _) => &T5_TABLES[..],
            (false, true) => &T5_TABLES[..2],
            (false, false) => &T5_TABLES[2..],
        };
        names.iter().find(|name| self.tensors.get(name).is_ok()).unwrap_or(&names[0])
    }

    /// Checks a tensor's shape before anything is written.
    pub fn check(&self, spec: &TensorSpec) -> Result<()> {
        let name = self.source_of(spec);
        let entry = self.tensors.check_floats(&name)?;
        let expected = match (spec.role, self.axes(spec)) {
            (Role::Vector, Axes::Buckets) => {
                let buckets = match &self.config.token_decoder {
                    TokenDecoderConfig::T5 { decoder, .. } => decoder.buckets,
                    _ => 1,
                };
                vec![buckets, spec.width / buckets]
            }
            (Role::Vector, _) => vec![spec.width],
            (_, Axes::Plain | Axes::Buckets) => vec![spec.rows, spec.width],
            (_, Axes::OneTap) => vec![spec.rows, spec.width, 1],
            (_, Axes::Taps) => {
                let taps = self.taps();
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
        let name = self.source_of(spec);
        self.tensors.read(&name, first * columns, rows * columns, bytes, output)?;
        if self.axes(spec) == Axes::Taps {
            // A Conv1d kernel is [out, in, tap]; the concatenated block is [tap, in].
            let taps = self.taps();
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

    /// The checkpoint's name of a tensor, and the place of its element `index` there.
    pub fn origin(&self, spec: &TensorSpec, index: usize) -> (String, usize) {
        let name = self.source_of(spec);
        if self.axes(spec) != Axes::Taps {
            return (name, index);
        }
        let taps = self.taps();
        let (row, at, width) = (index / spec.width, index % spec.width, spec.width / taps);
        (name, row * spec.width + at % width * taps + at / width)
    }

    /// Names of the checkpoint's tensors that a model does not use.
    pub fn unused(&self, specs: &[TensorSpec]) -> Vec<String> {
        let used: std::collections::HashSet<String> = specs.iter().map(|spec| self.source_of(spec)).collect();
        let mut unused: Vec<String> =
            self.tensors.names().filter(|name| !used.contains(*name)).map(String::from).collect();
        unused.sort_unstable();
        unused
    }

    /// Inputs of the projection layer: the outputs of an embedder for a block.
    fn taps(&self) -> usize {
        match &self.config.embedder {
            EmbedderConfig::Lookup { .. } => self.config.block_length,
            EmbedderConfig::Roberta { encoder, .. } => encoder.outputs(self.config.block_length),
        }
    }

    fn axes(&self, spec: &TensorSpec) -> Axes {
        match spec.name.as_str() {
            "embedder.projection.weight" => Axes::Taps,
            "token_decoder.expansion.weight" => Axes::OneTap,
            name if name == POSITION_BIAS[0] => Axes::Buckets,
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
    /// A vector here: rows of one table, one after the other.
    Buckets,
}

/// Why the prompt is aligned as it is: as the model was trained, if that is known.
fn alignment(asked: Option<Alignment>, kind: Kind, facts: &Facts) -> (Alignment, String) {
    let published = facts.name.as_deref().and_then(|name| Some((name, published::padded(name)?)));
    match (asked, facts.padded, published) {
        (Some(alignment), ..) => (alignment, "chosen with --align".to_string()),
        _ if kind == Kind::Vanilla => (Alignment::Tail, "every token is a block".to_string()),
        (_, Some(padded), _) => {
            let alignment = if padded { Alignment::Left } else { Alignment::Tail };
            (alignment, format!("random_pad_first_block is {padded}"))
        }
        (_, None, Some((name, true))) => {
            (Alignment::Left, format!("{name} was trained with random padding on the left"))
        }
        (_, None, Some((name, false))) => (Alignment::Tail, format!("{name} was trained without padding")),
        (_, None, None) => {
            let reason = "random_pad_first_block is not given; whole blocks from the first token on suit either training";
            (Alignment::Tail, reason.to_string())
        }
    }
}

/// The error for tensors of another architecture that a `config.json` beside them names.
fn other_architecture(source: &Source) -> Option<Error> {
    let path = source.folders.iter().map(|folder| folder.join(HUB_CONFIG)).find(|path| path.exists())?;
    let found = config::model_type(&path).filter(|found| found != "gpt_neox")?;
    let detail = format!(
        "model_type: found {found}, only gpt_neox is supported, and Block Transformers of the authors' trainer"
    );
    Some(Error::unsupported(detail).in_file(&path))
}

/// Finds what describes the model, and the file that it is from, if it is from one.
fn find_config(
    given: Option<&Path>,
    source: &Source,
    (name, kind): (&str, Kind),
    ignored: &Ignored,
) -> Result<(Facts, Option<PathBuf>)> {
    let beside = source.run.parent().unwrap_or(Path::new(""));
    let own = format!("{name}.yaml");
    let mut places: Vec<PathBuf> = Vec::new();
    for folder in &source.folders {
        places.extend(["config.yaml", ".hydra/config.yaml", &own].map(|file| folder.join(file)));
    }
    places.push(beside.join(&own));
    // In the authors' repository, runs are in results/ and configurations in conf/trainer/.
    places.push(beside.join("../conf/trainer").join(&own));
    if kind == Kind::Vanilla {
        places.extend(source.folders.iter().map(|folder| folder.join(HUB_CONFIG)));
    }
    let place = match given {
        Some(path) => Some(path.to_path_buf()),
        None => places.into_iter().find(|path| path.exists()),
    };
    if let Some(path) = place {
        return Ok((Facts::read(&path, kind, ignored)?, Some(path)));
    }
    Ok((published::facts(name, kind).unwrap_or_default(), None))
}

/// Adds what the `config.json` files of an export give; answers which of them were read.
fn merge_parts(facts: &mut Facts, folder: &Path, ignored: &Ignored) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for part in ["block_decoder", "token_decoder"] {
        let path = folder.join(part).join("config.json");
        if !path.exists() {
            continue;
        }
        if let (Some(t5), "token_decoder") = (&mut facts.t5, part) {
            t5.merge(&path, ignored)?;
            files.push(path);
        } else {
            let found = StackFacts::read(&path, ignored)?;
            let own =
                if part == "block_decoder" { &mut facts.block_decoder } else { &mut facts.token_decoder };
            own.merge(&found, &path.display().to_string())?;
            files.push(path);
        }
    }
    Ok(files)
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
