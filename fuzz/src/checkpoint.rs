//! A checkpoint's folder: configuration, header of the tensors, shard index and tokenizer, with bytes 0xff between them.
//! Tensors hold as many zeros as the header wants, within bounds.

use std::fs;

use cinderblock_tools::unstable;
use serde_json::Value as Json;

use super::{check, scratch};

/// Bytes of tensors.
const MOST_DATA: u64 = 64 << 10;

pub fn run(bytes: &[u8]) {
    let folder = scratch("checkpoint");
    fs::create_dir_all(&folder).expect("a folder");
    let mut parts = bytes.splitn(4, |byte| *byte == 0xff);
    let mut part = || parts.next().unwrap_or_default();
    let (config, header, index, tokenizer) = (part(), part(), part(), part());
    let put = |name: &str, content: Option<&[u8]>| match content {
        Some(content) => fs::write(folder.join(name), content).expect("a file"),
        None => drop(fs::remove_file(folder.join(name))),
    };
    let some = |content| Some(content).filter(|content: &&[u8]| !content.is_empty());
    let tensors = tensors(header);
    put("config.yaml", some(config));
    put("model.safetensors", Some(&*tensors).filter(|_| index.is_empty()));
    put("shard.safetensors", Some(&*tensors).filter(|_| !index.is_empty()));
    put("model.safetensors.index.json", some(index));
    put("tokenizer.json", some(tokenizer));
    check(unstable::checkpoint(&folder));
}

/// A safetensors file with this header.
fn tensors(header: &[u8]) -> Vec<u8> {
    let end = |json: Json| {
        let ends = json.as_object()?.values().filter_map(|entry| entry.get("data_offsets")?.get(1)?.as_u64());
        ends.max()
    };
    let end = serde_json::from_slice(header).ok().and_then(end).unwrap_or(0).min(MOST_DATA);
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.resize(file.len() + end as usize, 0);
    file
}
