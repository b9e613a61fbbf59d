//! Where a checkpoint's weights are: a file, shards, a run with its checkpoints, or the last export of a training.

use std::path::{Path, PathBuf};

use cinderblock::{Error, Result};

use super::safetensors::Tensors;

pub const SINGLE: &str = "model.safetensors";
pub const INDEX: &str = "model.safetensors.index.json";
/// The folders of the parts in an export, which are also the first words of the tensors' names.
pub const PARTS: [&str; 3] = ["embedder", "block_decoder", "token_decoder"];

/// One set of weights.
#[derive(Clone, Debug, PartialEq)]
pub enum Weights {
    /// One file.
    File(PathBuf),
    /// Shards, by their index.
    Shards(PathBuf),
    /// A folder with the three parts, each a file or shards of its own.
    Parts(PathBuf),
}

impl Weights {
    /// As a person would name it.
    pub fn path(&self) -> &Path {
        match self {
            Weights::File(path) | Weights::Shards(path) | Weights::Parts(path) => path,
        }
    }

    /// Opens the tensors, under the names that they have in the whole model.
    pub fn open(&self) -> Result<Tensors> {
        let mut tensors = Tensors::default();
        match self {
            Weights::File(path) => tensors.add_file(path.clone(), "")?,
            Weights::Shards(index) => tensors.add_shards(index, "")?,
            Weights::Parts(folder) => {
                for part in PARTS {
                    let (folder, prefix) = (folder.join(part), format!("{part}."));
                    match folder.join(SINGLE) {
                        single if single.exists() => tensors.add_file(single, &prefix)?,
                        _ => tensors.add_shards(&folder.join(INDEX), &prefix)?,
                    }
                }
            }
        }
        Ok(tensors)
    }
}

/// The weights that a path leads to, and what surrounds them.
pub struct Source {
    pub weights: Weights,
    /// Folders in which a configuration and a tokenizer may lie, nearest first.
    pub folders: Vec<PathBuf>,
    /// The folder that is named after the run; else the file.
    pub run: PathBuf,
}

impl Source {
    /// Finds the weights; `say` gets a line where that takes long.
    ///
    /// # Errors
    /// If there are none, if they are in a form that is not read, or if there are two sets that differ.
    pub fn find(path: &Path, say: &dyn Fn(&str) -> Result<()>) -> Result<Source> {
        let metadata = std::fs::metadata(path).map_err(|error| Error::io(path, &error))?;
        if !metadata.is_dir() {
            let weights = file(path)?;
            let folder = parent(path);
            let generic = path.file_name().is_some_and(|name| name == SINGLE || name == INDEX);
            let (folders, run) = around(&folder);
            return Ok(Source { weights, folders, run: if generic { run } else { path.to_path_buf() } });
        }
        let found = offers(path)?;
        let Some(weights) = found.first() else { return Err(nothing(path)) };
        for other in &found[1..] {
            same(weights, other, say)?;
        }
        let folder = match weights {
            Weights::Parts(folder) => folder.clone(),
            other => parent(other.path()),
        };
        let (folders, run) = around(&folder);
        Ok(Source { weights: weights.clone(), folders, run })
    }

    /// The name of the run.
    pub fn name(&self) -> Option<String> {
        // `.` and `..` have no name of their own.
        let run = std::fs::canonicalize(&self.run).unwrap_or_else(|_| self.run.clone());
        let name = run.file_name()?.to_str()?;
        Some(name.strip_suffix(".safetensors").unwrap_or(name).to_string())
    }
}

/// The folder of a file.
fn parent(path: &Path) -> PathBuf {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf()
}

/// The number of a folder `checkpoint-N`.
fn step(folder: &Path) -> Option<u64> {
    folder.file_name()?.to_str()?.strip_prefix("checkpoint-")?.parse().ok()
}

/// The folders that belong to weights in a folder, and which of them is the run's.
fn around(folder: &Path) -> (Vec<PathBuf>, PathBuf) {
    let folder = if folder.file_name().is_none() {
        std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_path_buf())
    } else {
        folder.to_path_buf()
    };
    match step(&folder) {
        None => (vec![folder.clone()], folder),
        Some(_) => {
            // A relative path may begin with the checkpoint's folder itself.
            let whole = std::fs::canonicalize(&folder).unwrap_or_else(|_| folder.clone());
            let run = if folder.components().count() > 1 { parent(&folder) } else { parent(&whole) };
            (vec![folder, run.clone()], run)
        }
    }
}

/// The weights that a file holds or lists.
fn file(path: &Path) -> Result<Weights> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if let Some(step) = refusal(name) {
        return Err(Error::unsupported(step).in_file(path));
    }
    if name.ends_with(".safetensors.index.json") {
        return Ok(Weights::Shards(path.to_path_buf()));
    }
    if !name.ends_with(".safetensors") {
        let expected = "a folder with config.yaml and model.safetensors, or a file of type .safetensors";
        return Err(Error::mismatch("checkpoint", "a file of another type", expected).in_file(path));
    }
    if is_shard(name) {
        let detail = "a shard holds a part of the weights: name its folder or the index instead";
        return Err(Error::unsupported(detail).in_file(path));
    }
    Ok(Weights::File(path.to_path_buf()))
}

/// Whether a name is like `model-00001-of-00002.safetensors`.
fn is_shard(name: &str) -> bool {
    let Some((_, count)) = name.trim_end_matches(".safetensors").rsplit_once("-of-") else { return false };
    !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit())
}

/// Why a file of this name is not read, and the step that helps.
fn refusal(name: &str) -> Option<&'static str> {
    let end = |end: &str| name.ends_with(end);
    if name.starts_with("adapter_") {
        return Some("an adapter, not a model: merge it into its base (merge_and_unload) and save that");
    }
    if end(".bin") || end(".pt") || end(".pth") || end(".ckpt") || end(".pkl") || end(".bin.index.json") {
        return Some(
            "a pickle, which can run code, is not read: load it in Python and save it again with \
             safetensors.torch.save_file",
        );
    }
    if end(".h5") || end(".msgpack") {
        return Some("weights of TensorFlow or Flax are not read: save them again as model.safetensors");
    }
    if end(".gguf") {
        return Some("a model file is quantized already: name the checkpoint that it was made from");
    }
    None
}

/// Names of the entries of a folder, in order.
fn entries(folder: &Path) -> Result<Vec<String>> {
    let io = |error: std::io::Error| Error::io(folder, &error);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        names.extend(entry.map_err(io)?.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}

/// Every set of weights that a folder offers, the preferred one first.
fn offers(folder: &Path) -> Result<Vec<Weights>> {
    let mut found = Vec::new();
    let (single, index) = (folder.join(SINGLE), folder.join(INDEX));
    if single.exists() {
        found.push(Weights::File(single));
    }
    if index.exists() {
        found.push(Weights::Shards(index));
    }
    let names = entries(folder)?;
    let runs = names.iter().map(|name| folder.join(name)).filter(|path| path.is_dir());
    if let Some((_, last)) = runs.filter_map(|path| Some((step(&path)?, path))).max() {
        let inside = offers(&last)?;
        if inside.is_empty() {
            return Err(nothing(&last));
        }
        found.extend(inside);
    }
    let part = |name: &str| {
        let folder = folder.join(name);
        folder.join(SINGLE).exists() || folder.join(INDEX).exists()
    };
    match PARTS.map(part) {
        [true, true, true] => found.push(Weights::Parts(folder.to_path_buf())),
        parts if found.is_empty() && parts != [false; 3] => {
            let missing = PARTS.iter().zip(parts).find(|(_, there)| !there).map_or("", |(name, _)| name);
            let detail = format!(
                "an export without {missing}/{SINGLE}: expected embedder, block_decoder and token_decoder"
            );
            return Err(Error::format(detail).in_file(folder));
        }
        _ => {}
    }
    if !found.is_empty() {
        return Ok(found);
    }
    // Any other name is as good, as long as there is one.
    let others = names.iter().filter(|name| {
        name.ends_with(".safetensors")
            && !is_shard(name)
            && refusal(name).is_none()
            && *name != "optimizer.safetensors"
    });
    Ok(others.map(|name| Weights::File(folder.join(name))).collect())
}

/// Why a folder without weights is refused.
fn nothing(folder: &Path) -> Error {
    let names = entries(folder).unwrap_or_default();
    if names.iter().any(|name| name == "zero_to_fp32.py") {
        let detail =
            "only DeepSpeed's own state: run python zero_to_fp32.py . . --safe_serialization in this folder";
        return Error::unsupported(detail).in_file(folder);
    }
    if let Some(name) = names.iter().find(|name| name.starts_with("adapter_")) {
        return Error::unsupported(refusal(name).unwrap_or_default()).in_file(&folder.join(name));
    }
    if let Some(name) = names.iter().find(|name| is_shard(name) && name.ends_with(".safetensors")) {
        let detail = format!("a shard without {INDEX}: download that as well");
        return Error::format(detail).in_file(&folder.join(name));
    }
    // Optimizer state and the like are leftovers, not weights.
    let weights = |name: &&String| {
        let model =
            ["pytorch_model", "model", "tf_model", "flax_model"].iter().any(|stem| name.starts_with(stem));
        model && refusal(name).is_some()
    };
    if let Some(name) = names.iter().find(weights) {
        return Error::unsupported(refusal(name).unwrap_or_default()).in_file(&folder.join(name));
    }
    let expected =
        format!("{SINGLE}, {INDEX}, checkpoint-N/ or embedder/, block_decoder/ and token_decoder/");
    Error::mismatch("weights", "none", expected).in_file(folder)
}

/// Refuses a second set of weights unless it is the first one once more.
fn same(first: &Weights, second: &Weights, say: &dyn Fn(&str) -> Result<()>) -> Result<()> {
    let (a, b) = (first.path().display().to_string(), second.path().display().to_string());
    say(&format!("comparing the weights of {a} and {b}"))?;
    if first.open()?.equals(&second.open()?)? {
        return Ok(());
    }
    Err(Error::format(format!(
        "found two sets of weights that differ: name {a} or {b} instead of the folder"
    )))
}
