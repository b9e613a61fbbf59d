//! Files of tensors, read and written by other code than the program's.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value as Json, json};

/// Tensors by name: type, shape and bytes.
pub type Tensors = BTreeMap<String, (String, Vec<usize>, Vec<u8>)>;

pub fn read_tensors(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: BTreeMap<String, Json> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let tensor = |entry: &Json| {
        let [start, end] = [0, 1].map(|at| 8 + length + entry["data_offsets"][at].as_u64().unwrap() as usize);
        let shape = serde_json::from_value(entry["shape"].clone()).unwrap();
        (entry["dtype"].as_str().unwrap().to_string(), shape, bytes[start..end].to_vec())
    };
    let named = header.iter().filter(|(name, _)| *name != "__metadata__");
    named.map(|(name, entry)| (name.clone(), tensor(entry))).collect()
}

pub fn write_tensors(path: &Path, tensors: &Tensors) {
    let (mut header, mut data) = (json!({}), Vec::new());
    for (name, (kind, shape, bytes)) in tensors {
        header[name] =
            json!({"dtype": kind, "shape": shape, "data_offsets": [data.len(), data.len() + bytes.len()]});
        data.extend(bytes);
    }
    let header = header.to_string();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()).unwrap();
}

/// The folders that an export has a file of tensors in each.
pub const PARTS: [&str; 3] = ["embedder", "block_decoder", "token_decoder"];

/// Writes the tensors of each part into its folder, under their names in it.
pub fn write_parts(folder: &Path, tensors: &Tensors) {
    for part in PARTS {
        let prefix = format!("{part}.");
        let own = tensors
            .iter()
            .filter_map(|(name, tensor)| Some((name.strip_prefix(&prefix)?.to_string(), tensor.clone())));
        write_tensors(&folder.join(part).join("model.safetensors"), &own.collect());
    }
}

pub fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
