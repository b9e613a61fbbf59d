//! What tensors say by their names and shapes: the authors' models, and weights without a configuration.

use std::fs;
use std::path::Path;

use serde_json::{Value as Json, json};

use super::{HEAD, Place};
use crate::common::cinderblock;

/// The names of the authors' configurations, and the shape of each: layers and width of the block
/// decoder, of the token decoder, vectors a context, and the width of the embedder's table where it has a projection.
/// Of a vanilla model: layers, width, and that of the feed-forward network.
const PUBLISHED: [(&str, [usize; 6]); 25] = [
    ("block_main_b4_5", [3, 256, 3, 256, 2, 0]),
    ("block_main_b4_19", [3, 512, 3, 512, 2, 0]),
    ("block_main_b4_85", [6, 768, 6, 768, 2, 0]),
    ("block_main_b4_300", [12, 1024, 12, 1024, 2, 0]),
    ("block_main_b4_800", [8, 2048, 8, 2048, 2, 0]),
    ("block_main_b4_1.2b", [12, 2048, 12, 2048, 2, 0]),
    ("block_main_b4_85_flop_v70", [6, 768, 6, 768, 2, 0]),
    ("block_main_b4_300_flop_v70", [12, 1024, 12, 1024, 2, 0]),
    ("block_main_b4_800_flop_v70", [8, 2048, 8, 2048, 2, 0]),
    ("block_main_b4_1.2b_flop_v70", [12, 2048, 12, 2048, 2, 0]),
    ("block_uptrain_b4_85_10", [6, 768, 6, 768, 2, 768]),
    ("block_uptrain_b4_300_10", [12, 1024, 12, 1024, 2, 1024]),
    ("block_uptrain_b4_800_10", [8, 2048, 8, 2048, 2, 2048]),
    ("block_megabyte_b4_5", [5, 256, 4, 128, 4, 0]),
    ("block_megabyte_b4_19", [5, 512, 4, 256, 4, 0]),
    ("block_megabyte_b4_85", [11, 768, 4, 512, 4, 0]),
    ("block_ablation_b4_85_lookup_prefix", [6, 768, 6, 768, 1, 0]),
    ("block_ablation_b4_85_roberta_prefix", [6, 768, 6, 768, 1, 0]),
    ("block_ablation_b4_85_cls_sum", [6, 768, 6, 768, 4, 0]),
    ("block_ablation_b4_85_cls_cross_attn", [6, 768, 6, 768, 4, 0]),
    ("block_vanilla_ablation_b1_85", [6, 768, 6, 768, 1, 0]),
    ("vanilla_31", [6, 256, 4096, 0, 0, 0]),
    ("vanilla_70", [6, 512, 2048, 0, 0, 0]),
    ("vanilla_160", [12, 768, 3072, 0, 0, 0]),
    ("vanilla_410", [24, 1024, 4096, 0, 0, 0]),
];

/// Shapes of all tensors of a GPT-NeoX stack.
fn stack_shapes(
    prefix: &str,
    vocabulary: usize,
    [layers, hidden, wide]: [usize; 3],
) -> Vec<(String, Vec<usize>)> {
    let mut all = Vec::new();
    let mut add =
        |name: &str, shape: &[usize]| all.push((format!("{prefix}gpt_neox.{name}"), shape.to_vec()));
    add("embed_in.weight", &[vocabulary, hidden]);
    for norm in ["final_layer_norm.weight", "final_layer_norm.bias"] {
        add(norm, &[hidden]);
    }
    for layer in 0..layers {
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            add(&format!("layers.{layer}.{norm}.weight"), &[hidden]);
            add(&format!("layers.{layer}.{norm}.bias"), &[hidden]);
        }
        for (matrix, rows, columns) in [
            ("attention.query_key_value", 3 * hidden, hidden),
            ("attention.dense", hidden, hidden),
            ("mlp.dense_h_to_4h", wide, hidden),
            ("mlp.dense_4h_to_h", hidden, wide),
        ] {
            add(&format!("layers.{layer}.{matrix}.weight"), &[rows, columns]);
            add(&format!("layers.{layer}.{matrix}.bias"), &[rows]);
        }
    }
    all
}

/// Shapes of all tensors of a vanilla model.
fn vanilla_shapes(vocabulary: usize, [layers, hidden, wide, ..]: [usize; 6]) -> Vec<(String, Vec<usize>)> {
    let mut all = stack_shapes("", vocabulary, [layers, hidden, wide]);
    all.push(("embed_out.weight".to_string(), vec![vocabulary, hidden]));
    all
}

/// Shapes of all tensors of a model, `block_decoder.gpt_neox.embed_in` included, which nobody uses.
pub fn shapes(vocabulary: usize, block_length: usize, shape: [usize; 6]) -> Vec<(String, Vec<usize>)> {
    let [block_layers, block_hidden, token_layers, token_hidden, expansion, projected] = shape;
    let width = if projected > 0 { projected } else { block_hidden / block_length };
    let mut all = vec![("embedder.embeddings.weight".to_string(), vec![vocabulary, width])];
    if projected > 0 {
        all.push(("embedder.projection_layer.weight".to_string(), vec![block_hidden, width, block_length]));
        all.push(("embedder.projection_layer.bias".to_string(), vec![block_hidden]));
    }
    for (part, layers, hidden) in
        [("block_decoder.", block_layers, block_hidden), ("token_decoder.", token_layers, token_hidden)]
    {
        all.extend(stack_shapes(part, vocabulary, [layers, hidden, 4 * hidden]));
    }
    let wide = expansion * token_hidden;
    all.push(("token_decoder.expansion_layer.weight".to_string(), vec![wide, block_hidden, 1]));
    all.push(("token_decoder.expansion_layer.bias".to_string(), vec![wide]));
    all.push((HEAD.to_string(), vec![vocabulary, token_hidden]));
    all
}

/// Replaces the embedder by an encoder of 3 layers of 256 whose `outputs` outputs are projected.
fn with_encoder(mut shapes: Vec<(String, Vec<usize>)>, outputs: usize) -> Vec<(String, Vec<usize>)> {
    shapes.retain(|(name, _)| !name.starts_with("embedder."));
    let mut add = |name: &str, shape: &[usize]| shapes.push((format!("embedder.{name}"), shape.to_vec()));
    add("projection_layer.weight", &[768, 256, outputs]);
    add("projection_layer.bias", &[768]);
    for (table, rows) in [("word", 50304), ("position", 514), ("token_type", 1)] {
        add(&format!("embeddings.{table}_embeddings.weight"), &[rows, 256]);
    }
    let mut norms = vec!["embeddings.LayerNorm".to_string()];
    for layer in 0..3 {
        let part = |part: &str| format!("encoder.layer.{layer}.{part}");
        norms.extend([part("attention.output.LayerNorm"), part("output.LayerNorm")]);
        for (name, rows, columns) in [
            ("attention.self.query", 256, 256),
            ("attention.self.key", 256, 256),
            ("attention.self.value", 256, 256),
            ("attention.output.dense", 256, 256),
            ("intermediate.dense", 3072, 256),
            ("output.dense", 256, 3072),
        ] {
            add(&part(&format!("{name}.weight")), &[rows, columns]);
            add(&part(&format!("{name}.bias")), &[rows]);
        }
    }
    for norm in norms {
        add(&format!("{norm}.weight"), &[256]);
        add(&format!("{norm}.bias"), &[256]);
    }
    shapes
}

/// Replaces the token decoder by a T5 decoder of 6 layers of 768, 12 heads, and an expansion to 4.
fn with_t5(mut shapes: Vec<(String, Vec<usize>)>) -> Vec<(String, Vec<usize>)> {
    shapes.retain(|(name, _)| !name.contains("token_decoder.gpt_neox") && name != HEAD);
    let mut add =
        |name: &str, shape: &[usize]| shapes.push((format!("token_decoder.{name}"), shape.to_vec()));
    for table in ["shared", "decoder.embed_tokens", "lm_head"] {
        add(&format!("{table}.weight"), &[50304, 768]);
    }
    add("decoder.final_layer_norm.weight", &[768]);
    add("decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", &[32, 12]);
    for layer in 0..6 {
        for (part, names) in [(0, "SelfAttention"), (1, "EncDecAttention"), (2, "")] {
            let part = format!("decoder.block.{layer}.layer.{part}");
            add(&format!("{part}.layer_norm.weight"), &[768]);
            for name in ["q", "k", "v", "o"].iter().filter(|_| !names.is_empty()) {
                add(&format!("{part}.{names}.{name}.weight"), &[768, 768]);
            }
        }
        let part = format!("decoder.block.{layer}.layer.2.DenseReluDense");
        add(&format!("{part}.wi.weight"), &[3072, 768]);
        add(&format!("{part}.wo.weight"), &[768, 3072]);
    }
    shapes
}

/// Writes a bf16 checkpoint of zeros, in a sparse file; where its data begins, and how long it is.
pub fn sparse(path: &Path, shapes: &[(String, Vec<usize>)]) -> (u64, u64) {
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in shapes {
        let start = end;
        end += 2 * shape.iter().product::<usize>() as u64;
        header.insert(name.clone(), json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}));
    }
    let header = Json::from(header).to_string();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()).unwrap();
    let start = 8 + header.len() as u64;
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(start + end).unwrap();
    (start, end)
}

/// `CINDERBLOCK_WRITE_TABLES=1` writes the table anew.
#[test]
fn every_published_configuration_is_read() {
    let place = Place::new();
    let mut table = String::from("| configuration | prompts |\n|---|---|\n");
    for (name, shape) in PUBLISHED {
        let path = place.path(&format!("{name}/checkpoint-1000/model.safetensors"));
        let block_length = if name.contains("_b1_") { 1 } else { 4 };
        let shape = if name.starts_with("vanilla") {
            vanilla_shapes(50304, shape)
        } else {
            shapes(50304, block_length, shape)
        };
        let shape = match name {
            "block_ablation_b4_85_roberta_prefix" => with_encoder(shape, 4),
            "block_ablation_b4_85_cls_sum" => with_encoder(shape, 3),
            "block_ablation_b4_85_cls_cross_attn" => with_t5(with_encoder(shape, 3)),
            _ => shape,
        };
        sparse(&path, &shape);
        let outcome = cinderblock(&["quantize", &place.text(name), "--dry-run", "--json"]);
        fs::remove_dir_all(place.path(name)).unwrap();
        let source = outcome.json()["source"].clone();
        assert!(source["configuration"].as_str().unwrap().contains("built in"), "{source}");
        table += &format!("| `{name}` | {} |\n", source["alignment"].as_str().unwrap());
    }
    let document = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/checkpoints.md"));
    let text = fs::read_to_string(document).unwrap();
    let start = text.find("| configuration |").expect("the table");
    let end = start + text[start..].find("\n\n").map_or(text.len() - start, |end| end + 1);
    if std::env::var_os("CINDERBLOCK_WRITE_TABLES").is_some() {
        fs::write(document, [&text[..start], &table, &text[end..]].concat()).unwrap();
    } else {
        assert_eq!(&text[start..end], table, "CINDERBLOCK_WRITE_TABLES=1 writes it anew");
    }
}

/// As a public checkpoint is: weights and a tokenizer's vocabulary, beside a configuration that says nothing.
#[test]
fn weights_without_a_configuration_are_understood_by_their_shapes() {
    let place = Place::new();
    let path = place.path("hub/model.safetensors");
    let (start, bytes) = sparse(&path, &shapes(50304, 4, [2, 256, 1, 256, 2, 0]));
    let mut state = 1u32;
    let weights = (0..bytes / 2).flat_map(|_| {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        // The upper half of a float from -1/16 to 1/16.
        (((state >> 8) as f32 / (1 << 24) as f32 - 0.5) / 8.0).to_le_bytes().split_at(2).1.to_vec()
    });
    let file = fs::read(&path).unwrap();
    fs::write(&path, file[..start as usize].iter().copied().chain(weights).collect::<Vec<u8>>()).unwrap();
    place.write("hub/config.json", "{}");
    let (_, printed) = place.model("hub", &["--type", "q8"]);
    for expected in [
        "inferred       blocks of 4 tokens (width 256 of the block decoder / 64 of the embedder)",
        "inferred       a prefix of 2",
        "inferred       block_decoder: 8 heads of 32 (the authors' rule for 256)",
        "inferred       block_decoder: 2 layers of 256, feed-forward 1024",
        "alignment      tail: random_pad_first_block is not given",
        "tokenizer      none found",
    ] {
        assert!(printed.contains(expected), "{expected}: {printed}");
    }
    let model = place.text("m.gguf");
    let run = ["run", "-m", &model, "--tokens", "50,5000,50277", "-n", "9", "--temp", "0", "--json"];
    assert_eq!(cinderblock(&run).json()["tokens"].as_array().unwrap().len(), 9);
    assert_eq!(cinderblock(&["inspect", &model, "--json"]).json()["vocabulary"], 50304);

    // As many vectors a context as tokens in a block: both strategies look so.
    sparse(&path, &shapes(64, 4, [1, 64, 1, 64, 4, 0]));
    place.refused("hub", &[], "fits prefix and summation alike; give the configuration with --config");
}
