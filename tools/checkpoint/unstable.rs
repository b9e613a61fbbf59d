//! The readers of a checkpoint's files, one by one.

use std::path::Path;

use cinderblock::Result;

use super::config::{Facts, Ignored, Kind, StackFacts};
use super::safetensors::Tensors;
use super::yaml::Value;

/// Reads a document.
pub fn yaml(bytes: &[u8]) -> Result<()> {
    let value = Value::parse(bytes)?;
    let _ = (value.to_string(), value.as_text(), value.as_u64(), value.as_f64(), value.as_bool());
    Ok(())
}

/// Reads a configuration as that of a model of either kind.
pub fn trainer_config(path: &Path) -> Result<()> {
    let read = |kind| Facts::read(path, kind, &Ignored::new(&[])).map(drop);
    read(Kind::Block).or_else(|_| read(Kind::Vanilla))
}

/// Reads the `config.json` of a decoder, and merges it with itself.
pub fn part_config(path: &Path) -> Result<()> {
    let facts = StackFacts::read(path, &Ignored::new(&[]))?;
    facts.clone().merge(&facts, "config.json")
}

/// Opens a safetensors file and reads every tensor of floats.
pub fn safetensors(path: &Path) -> Result<()> {
    let mut tensors = Tensors::default();
    tensors.add_file(path.to_path_buf(), "")?;
    let (mut bytes, mut values) = (Vec::new(), Vec::new());
    let mut names: Vec<String> = tensors.names().map(String::from).collect();
    names.sort_unstable();
    for name in names {
        let count = tensors.check_floats(&name)?.shape.iter().product();
        tensors.read(&name, 0, count, &mut bytes, &mut values)?;
    }
    tensors.equals(&tensors).map(drop)
}
