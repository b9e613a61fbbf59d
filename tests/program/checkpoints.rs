//! Checkpoints as people have them: where weights, configuration and tokenizer are found, and what is refused.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::common::{Golden, Outcome, case, cinderblock, ids, program, run};

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

pub fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A folder to lay checkpoints out in, with the tensors and the configuration of the case `main`.
struct Place {
    folder: TempDir,
    tensors: Tensors,
    config: String,
}

const HEAD: &str = "token_decoder.embed_out.weight";
const TABLE: &str = "token_decoder.gpt_neox.embed_in.weight";

impl Place {
    fn new() -> Place {
        let source = case("main");
        Place {
            folder: TempDir::new().unwrap(),
            tensors: read_tensors(&source.join("model.safetensors")),
            config: fs::read_to_string(source.join("config.yaml")).unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_string()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn tensors(&self, name: &str) {
        write_tensors(&self.path(name), &self.tensors);
    }

    /// A folder with `config.yaml` and `model.safetensors`.
    fn plain(&self, name: &str) {
        self.tensors(&format!("{name}/model.safetensors"));
        self.write(&format!("{name}/config.yaml"), &self.config);
    }

    /// Weights that differ, under the same names.
    fn other_tensors(&self, name: &str) {
        let mut tensors = self.tensors.clone();
        tensors.get_mut(HEAD).unwrap().2.fill(0);
        write_tensors(&self.path(name), &tensors);
    }

    /// The three folders of an export.
    fn parts(&self, name: &str) {
        for part in ["embedder", "block_decoder", "token_decoder"] {
            let prefix = format!("{part}.");
            let own = self
                .tensors
                .iter()
                .filter_map(|(name, tensor)| Some((name.strip_prefix(&prefix)?.to_string(), tensor.clone())));
            write_tensors(&self.path(&format!("{name}/{part}/model.safetensors")), &own.collect());
            let settings = json!({
                "model_type": "gpt_neox", "hidden_act": "gelu", "num_attention_heads": 2, "rotary_pct": 0.25,
                "rope_scaling": null, "layer_norm_eps": 1e-5, "use_parallel_residual": true, "attention_bias": true,
                "tie_word_embeddings": false, "eos_token_id": 0, "transformers_version": "4.39.3"
            });
            self.write(&format!("{name}/{part}/config.json"), &settings.to_string());
            self.write(&format!("{name}/{part}/generation_config.json"), r#"{"eos_token_id": 0}"#);
        }
    }

    fn quantize(&self, checkpoint: &str, arguments: &[&str]) -> Outcome {
        let (checkpoint, output) = (self.text(checkpoint), self.text("m.gguf"));
        let kind = if arguments.contains(&"--type") { &[][..] } else { &["--type", "f32"] };
        let _ = fs::remove_file(&output);
        cinderblock(&[&["quantize", &checkpoint, "-o", &output], kind, arguments].concat())
    }

    /// The model file of a checkpoint, and what was printed.
    fn model(&self, checkpoint: &str, arguments: &[&str]) -> (Vec<u8>, String) {
        let printed = self.quantize(checkpoint, arguments).success();
        (fs::read(self.path("m.gguf")).unwrap(), printed)
    }

    /// Checks that a checkpoint is refused in one line that has `expected`.
    fn refused(&self, checkpoint: &str, arguments: &[&str], expected: &str) {
        let outcome = self.quantize(checkpoint, arguments);
        let line = outcome.stderr.trim_end();
        assert!(
            matches!(outcome.code, Some(1 | 2)) && line.lines().count() == 1,
            "{checkpoint}: {outcome:?}"
        );
        assert!(line.contains(expected), "{checkpoint}: expected {expected:?} in {line:?}");
        assert!(!self.path("m.gguf").exists(), "{checkpoint}");
    }
}

#[test]
fn every_layout_gives_the_same_file() {
    let place = Place::new();
    place.plain("plain");
    let (plain, _) = place.model("plain", &[]);

    // A stopped run, whose last checkpoint is not the last one in alphabetical order, and what a trainer leaves beside.
    place.other_tensors("results/main/checkpoint-5/model.safetensors");
    place.tensors("results/main/checkpoint-10/model.safetensors");
    for file in ["latest", "rng_state_0.pth", "training_args.bin", "global_step10/mp_rank_00_model_states.pt"]
    {
        place.write(&format!("results/main/checkpoint-10/{file}"), "left over");
    }
    place.write("results/main.yaml", &place.config);
    let (run, printed) = place.model("results/main", &[]);
    assert!(run == plain && printed.contains("checkpoint-10/model.safetensors"), "{printed}");
    for path in ["results/main/checkpoint-10", "results/main/checkpoint-10/model.safetensors"] {
        assert!(place.model(path, &[]).0 == plain, "{path}");
    }
    // A finished run has an export beside its checkpoints.
    place.parts("results/main");
    assert!(place.model("results/main", &[]).0 == plain);

    fs::remove_file(place.path("results/main.yaml")).unwrap();
    for config in ["conf/trainer/main.yaml", "results/main/.hydra/config.yaml", "results/main/main.yaml"] {
        place.write(config, &place.config);
        let (model, printed) = place.model("results/main", &[]);
        assert!(model == plain && printed.contains(config.rsplit('/').next().unwrap()), "{printed}");
        fs::remove_file(place.path(config)).unwrap();
    }

    place.parts("export");
    place.write("elsewhere/any.yaml", &place.config);
    let config = place.text("elsewhere/any.yaml");
    assert!(place.model("export", &["--config", &config]).0 == plain);

    let mut shards: [Tensors; 2] = Default::default();
    let mut map = json!({});
    for (index, (name, tensor)) in place.tensors.iter().enumerate() {
        // As saved from a compiled, distributed model.
        let name = format!("module._orig_mod.{name}").replace("block_decoder.", "block_decoder._orig_mod.");
        map[&name] = json!(format!("model-0000{}-of-00002.safetensors", index % 2 + 1));
        shards[index % 2].insert(name, tensor.clone());
    }
    for (index, tensors) in shards.iter().enumerate() {
        write_tensors(&place.path(&format!("shards/model-0000{}-of-00002.safetensors", index + 1)), tensors);
    }
    place.write("shards/model.safetensors.index.json", &json!({"weight_map": map}).to_string());
    place.write("shards/config.yaml", &place.config);
    for path in ["shards", "shards/model.safetensors.index.json"] {
        assert!(place.model(path, &[]).0 == plain, "{path}");
    }
    place.tensors("other-name/weights.safetensors");
    assert!(place.model("other-name", &["--config", &config]).0 == plain);
}

#[test]
fn what_is_no_checkpoint_is_refused_with_the_step_that_helps() {
    let place = Place::new();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    for (file, text, expected) in [
        ("lfs/model.safetensors", pointer, "git lfs pull"),
        ("pickle/pytorch_model.bin", "PK", "safetensors.torch.save_file"),
        ("pickles/pytorch_model.bin.index.json", "{}", "safetensors.torch.save_file"),
        ("flax/flax_model.msgpack", "", "save them again as model.safetensors"),
        ("adapter/adapter_model.safetensors", "", "merge it into its base"),
        ("deepspeed/zero_to_fp32.py", "", "python zero_to_fp32.py . . --safe_serialization"),
        ("run/checkpoint-3/zero_to_fp32.py", "", "checkpoint-3: only DeepSpeed's own state"),
        ("shard/model-00001-of-00002.safetensors", "", "without model.safetensors.index.json"),
        ("half/embedder/model.safetensors", "", "without block_decoder/model.safetensors"),
        ("nothing/README.md", "", "weights: found none, expected model.safetensors"),
    ] {
        place.write(file, text);
        let folder = file.split('/').next().unwrap();
        place.write(&format!("{folder}/config.yaml"), &place.config);
        place.refused(folder, &[], expected);
    }
    for (file, expected) in [
        ("pickle/pytorch_model.bin", "a pickle, which can run code"),
        ("shard/model-00001-of-00002.safetensors", "a shard holds a part of the weights"),
        ("nothing/README.md", "a file of another type"),
    ] {
        place.refused(file, &[], expected);
    }
    place.parts("export");
    for part in ["embedder", "block_decoder", "token_decoder"] {
        place.refused(&format!("export/{part}"), &[], "one part of a model");
    }
    let vanilla = [("gpt_neox.embed_in.weight", TABLE), ("embed_out.weight", HEAD)];
    let vanilla = vanilla.map(|(name, from)| (name.to_string(), place.tensors[from].clone()));
    write_tensors(&place.path("pythia/model.safetensors"), &vanilla.clone().into());
    place.refused("pythia", &[], "num_attention_heads is missing");
    place.write("pythia/config.yaml", &place.config);
    place.refused("pythia", &[], "found that of a Block Transformer, expected that of a GPT-NeoX");
    let llama = [("model.embed_tokens.weight".to_string(), vanilla[0].1.clone())];
    write_tensors(&place.path("llama/model.safetensors"), &llama.into());
    place.refused("llama", &[], "found \"model.embed_tokens.weight\", expected those of a Block Transformer");
    place.write("llama/config.json", r#"{"model_type": "llama"}"#);
    place.refused("llama", &[], "model_type: found llama, only gpt_neox is supported");
}

#[test]
fn two_sets_of_weights_are_refused_unless_they_are_one() {
    let place = Place::new();
    place.plain("two");
    place.tensors("two/shard.safetensors");
    let map: BTreeMap<&String, &str> = place.tensors.keys().map(|name| (name, "shard.safetensors")).collect();
    place.write("two/model.safetensors.index.json", &json!({"weight_map": map}).to_string());
    let (_, printed) = place.model("two", &[]);
    assert!(printed.contains("comparing the weights of") && printed.contains("model.safetensors.index.json"));
    place.other_tensors("two/shard.safetensors");
    let outcome = place.quantize("two", &[]);
    assert_eq!(outcome.code, Some(1));
    for name in ["two/model.safetensors ", "two/model.safetensors.index.json "] {
        assert!(outcome.stderr.contains(name), "{outcome:?}");
    }
    place.model("two/model.safetensors", &[]);

    place.plain("run");
    place.other_tensors("run/checkpoint-7/model.safetensors");
    place.refused("run", &[], "checkpoint-7");
}

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
fn shapes(vocabulary: usize, block_length: usize, shape: [usize; 6]) -> Vec<(String, Vec<usize>)> {
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
fn sparse(path: &Path, shapes: &[(String, Vec<usize>)]) -> (u64, u64) {
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

#[test]
fn keys_that_change_the_mathematics_are_obeyed_or_refused() {
    let mut place = Place::new();
    place.plain("ck");
    let (plain, _) = place.model("ck", &[]);
    let config = place.config.clone();
    let with = |line: &str| {
        config.replacen("    num_hidden_layers", &format!("    {line}\n    num_hidden_layers"), 1)
    };
    for line in [
        "rope_theta: 10000",
        "partial_rotary_factor: 0.25",
        "rope_parameters: {rope_type: default, rope_theta: 10000, partial_rotary_factor: 0.25}",
        "rope_scaling: null",
        "layer_norm_eps: '1e-05'",
        "hidden_act: gelu",
        "use_parallel_residual: yes",
        "hidden_dropout: 0.1",
        "tie_word_embeddings: false",
    ] {
        place.write("ck/config.yaml", &with(line));
        assert!(place.model("ck", &[]).0 == plain, "{line}");
    }
    for line in [
        "rotary_emb_base: 500",
        "rope_theta: 500",
        "rotary_pct: 0.5",
        "layer_norm_eps: 1e-3",
        "use_parallel_residual: false",
        "hidden_act: gelu_fast",
        "hidden_act: relu",
    ] {
        place.write("ck/config.yaml", &with(line));
        assert!(place.model("ck", &[]).0 != plain, "{line}");
    }
    for (line, expected) in [
        ("rope_scaling: {type: linear, factor: 2.0}", "rope_scaling.type: found linear"),
        ("rope_parameters: {rope_type: yarn}", "rope_parameters.rope_type: found yarn"),
        ("rope_parameters: {rope_theta: 5}\n    rope_theta: 6", "found 5, expected 6"),
        ("hidden_act: silu", "hidden_act: found silu"),
        ("sliding_window: 8", "unknown key block_decoder.config.sliding_window"),
    ] {
        place.write("ck/config.yaml", &with(line));
        place.refused("ck", &[], expected);
    }
    place.write("ck/config.yaml", &with("sliding_window: 8"));
    assert!(place.model("ck", &["--ignore-key", "sliding_window"]).0 == plain);
    place.refused("ck", &["--ignore-key", "sliding_window", "--ignore-key", "slide"], "no key \"slide\"");
    for (from, to, expected) in [
        (
            "block_length: 4\n",
            "block_length: 4\nblock_split: {distribution: random}\n",
            "found random, only fixed",
        ),
        ("embedder: pythia", "embedder: roberta", "a token mapper"),
        ("expansion_method: expansion_layer", "expansion_method: null", "expansion_method: found null"),
        (
            "  projection_method: concat",
            "  projection_method: projection_layer",
            "there is no embedder.projection",
        ),
        ("EleutherAI/pythia-410m-deduped", "EleutherAI/gpt-neox-20b", "whose settings are not known here"),
        ("  expansion_method", "  n_heads: 2\n  expansion_method", "unknown key token_decoder.n_heads"),
    ] {
        let changed = config.replacen(from, to, 1);
        assert_ne!(changed, config, "{from}");
        place.write("ck/config.yaml", &changed);
        place.refused("ck", &[], expected);
    }

    // A tied head is the table, whether the file has it or not.
    let table = place.tensors[TABLE].clone();
    place.tensors.insert(HEAD.to_string(), table);
    place.plain("ck");
    let (explicit, _) = place.model("ck", &[]);
    place.tensors.remove(HEAD);
    let tied = format!("{config}    tie_word_embeddings: true\n");
    place.plain("ck");
    place.refused("ck", &[], "embed_out.weight\" is missing");
    place.write("ck/config.yaml", &tied);
    assert!(place.model("ck", &[]).0 == explicit);

    // Without biases in attention it is as with biases of 0.
    let bias = |name: &String| {
        name.contains("token_decoder.") && name.contains(".attention.") && name.ends_with("bias")
    };
    place.tensors = read_tensors(&case("main").join("model.safetensors"));
    place.tensors.iter_mut().filter(|(name, _)| bias(name)).for_each(|(_, tensor)| tensor.2.fill(0));
    place.plain("ck");
    let tokens = text_of_ids();
    let loss = |place: &Place| {
        let model = place.text("m.gguf");
        cinderblock(&["perplexity", "-m", &model, "--tokens", &tokens, "--json"]).json()["nll"].clone()
    };
    place.model("ck", &[]);
    let zeros = loss(&place);
    place.tensors.retain(|name, _| !bias(name));
    place.plain("ck");
    place.write("ck/config.yaml", &format!("{config}    attention_bias: false\n"));
    place.model("ck", &[]);
    assert_eq!(loss(&place), zeros);
}

/// Ids that every reference case knows.
fn text_of_ids() -> String {
    ids(&(0..40).map(|i| 2 + i * i * 7 % 41).collect::<Vec<u32>>())
}

#[test]
fn hub_folders_are_read_as_they_are() {
    let place = Place::new();
    let source = case("neox_hf");
    let config = fs::read_to_string(source.join("config.json")).unwrap();
    let mut tensors = read_tensors(&source.join("model.safetensors"));
    let write = |tensors: &Tensors, config: &str| {
        write_tensors(&place.path("hub/model.safetensors"), tensors);
        place.write("hub/config.json", config);
    };
    write(&tensors, &config);
    place.write("hub/generation_config.json", r#"{"eos_token_id": 7}"#);
    let (plain, printed) = place.model("hub", &[]);
    for expected in ["hub/config.json", "alignment      tail: every token is a block", "7, from"] {
        assert!(printed.contains(expected), "{expected}: {printed}");
    }
    let model = place.text("m.gguf");
    let facts = cinderblock(&["inspect", &model, "--json"]).json();
    assert!(
        facts["block_length"] == 1 && facts["trained_blocks"] == 2048 && facts["name"] == "hub",
        "{facts}"
    );

    // Other ways to say the same.
    let with = |changes: &[(&str, Json)]| {
        let mut json: Json = serde_json::from_str(&config).unwrap();
        for (key, value) in changes {
            if value.is_null() {
                json.as_object_mut().unwrap().remove(*key);
            } else {
                json[*key] = value.clone();
            }
        }
        json.to_string()
    };
    let rope = json!({"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25});
    let no = Json::Null;
    for changes in [
        vec![("rotary_pct", no.clone()), ("rotary_emb_base", no.clone()), ("rope_parameters", rope)],
        vec![("rotary_pct", no.clone()), ("partial_rotary_factor", json!(0.25))],
        vec![("rotary_emb_base", no.clone()), ("rope_theta", json!(10000))],
        vec![("attention_bias", no.clone()), ("use_parallel_residual", no.clone())],
    ] {
        write(&tensors, &with(&changes));
        assert!(place.model("hub", &[]).0 == plain, "{changes:?}");
    }
    // Buffers of older files are no weights.
    let mut older = tensors.clone();
    for (name, kind) in
        [("attention.bias", "BOOL"), ("attention.masked_bias", "F32"), ("rotary_emb.inv_freq", "F32")]
    {
        let bytes = if kind == "BOOL" { vec![1; 4] } else { floats(&[-1e9; 4]) };
        older.insert(format!("gpt_neox.layers.0.{name}"), (kind.to_string(), vec![1, 1, 2, 2], bytes));
    }
    write(&older, &config);
    assert!(place.model("hub", &[]).0 == plain);
    for (key, value, expected) in [
        ("num_attention_heads", no.clone(), "num_attention_heads is missing"),
        ("model_type", json!("mamba"), "model_type: found mamba, only gpt_neox is supported"),
        ("hidden_act", json!("silu"), "hidden_act: found silu"),
        ("vocab_size", json!(272), "vocab_size: found 272, expected 271"),
        ("intermediate_size", json!(321), "intermediate_size: found 321"),
        ("rope_scaling", json!({"type": "linear", "factor": 2.0}), "rope_scaling.type: found linear"),
        ("sliding_window", json!(8), "unknown key sliding_window"),
    ] {
        write(&tensors, &with(&[(key, value)]));
        place.refused("hub", &[], expected);
    }
    // A tied head is the table.
    let table = tensors["gpt_neox.embed_in.weight"].clone();
    tensors.insert("embed_out.weight".to_string(), table);
    write(&tensors, &config);
    let (explicit, _) = place.model("hub", &[]);
    tensors.remove("embed_out.weight");
    write(&tensors, &config);
    place.refused("hub", &[], "one part of a model");
    write(&tensors, &with(&[("tie_word_embeddings", json!(true))]));
    assert!(place.model("hub", &[]).0 == explicit);
}

#[test]
fn prompts_are_aligned_as_the_model_was_trained() {
    let place = Place::new();
    place.tensors("ck/model.safetensors");
    let named = place.config.replace("name: main", "name: block_main_b4_300");
    for (config, option, expected, reason) in [
        (place.config.clone(), None, "tail", "random_pad_first_block is not given"),
        (format!("random_pad_first_block: true\n{named}"), None, "left", "random_pad_first_block is true"),
        (format!("random_pad_first_block: false\n{named}"), None, "tail", "random_pad_first_block is false"),
        (named, None, "tail", "block_main_b4_300 was trained without padding"),
        (
            place.config.replace("main", "block_main_b4_5"),
            None,
            "left",
            "block_main_b4_5 was trained with random",
        ),
        (place.config.clone(), Some("left"), "left", "chosen with --align"),
    ] {
        place.write("ck/config.yaml", &config);
        let option: Vec<&str> = option.iter().flat_map(|option| ["--align", option]).collect();
        place.model("ck", &option);
        let model = place.text("m.gguf");
        let inspected = cinderblock(&["inspect", &model, "--json"]).json();
        assert_eq!(inspected["prompt_alignment"], expected, "{config}");
        assert!(inspected["prompt_alignment_reason"].as_str().unwrap().starts_with(reason), "{inspected}");
        let shown = cinderblock(&["inspect", &model]).success();
        assert!(shown.contains(&format!("aligned {expected}: {reason}")), "{shown}");
    }
}

/// A tokenizer of single letters, whose last token has a name of its own.
fn tokenizer(last: &str) -> String {
    let letters: Vec<String> =
        ('a'..='z').enumerate().map(|(id, c)| format!("\"{c}\": {}", id + 2)).collect();
    format!(
        r#"{{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {{"type": "Split", "pattern": {{"String": ""}}, "behavior": "Isolated", "invert": false}},
        "post_processor": null, "decoder": null,
        "model": {{"type": "WordLevel", "vocab": {{"?": 1, {}, "{last}": 28}}, "unk_token": "?"}}}}"#,
        letters.join(", ")
    )
}

#[test]
fn tokenizer_and_end_token_are_found_or_named() {
    let place = Place::new();
    place.plain("ck");
    let end = |arguments: &[&str]| {
        let (_, printed) = place.model("ck", arguments);
        let line = printed.lines().find(|line| line.starts_with("end token")).unwrap().to_string();
        let inspected = cinderblock(&["inspect", &place.text("m.gguf"), "--json"]).json();
        (inspected["end_token"].as_u64(), line)
    };
    assert_eq!(end(&[]).0, None);
    assert_eq!(end(&["--end-token", "7"]).0, Some(7));
    place.refused("ck", &["--end-token", "z"], "found text but no tokenizer");
    place.refused("ck", &["--end-token", "260"], "found 260, expected less than 260");

    // Elsewhere, with a byte order mark.
    place.write("tok/tokenizer.json", &format!("\u{feff}{}", tokenizer("<|stop|>")));
    let (file, folder) = (place.text("tok/tokenizer.json"), place.text("tok"));
    let (found, line) = end(&["--tokenizer", &file]);
    assert!(found.is_none() && line.contains("--end-token names one"), "{line}");
    assert_eq!(end(&["--tokenizer", &folder, "--end-token", "<|stop|>"]).0, Some(28));
    place.refused("ck", &["--tokenizer", &file, "--end-token", "<|x|>"], "has no token \"<|x|>\"");

    // What the files beside it say, in this order.
    for (name, text, expected) in [
        ("generation_config.json", r#"{"eos_token_id": [9, 10]}"#, 9),
        ("special_tokens_map.json", r#"{"eos_token": {"content": "<|stop|>", "lstrip": false}}"#, 28),
        ("tokenizer_config.json", r#"{"eos_token": "b"}"#, 3),
    ] {
        place.write(&format!("tok/{name}"), text);
        let (found, line) = end(&["--tokenizer", &file]);
        assert!(found == Some(expected) && line.contains(name), "{line}");
    }
    assert_eq!(end(&["--tokenizer", &file, "--end-token", "none"]).0, None);
    place.write("ck/tokenizer.json", &tokenizer("<|end_of_text|>"));
    let (found, line) = end(&[]);
    assert!(found == Some(28) && line.contains("by its usual name"), "{line}");
}

#[test]
fn a_tokenizer_has_no_more_tokens_than_the_model_but_added_ones() {
    let place = Place::new();
    place.plain("ck");
    place.model("ck", &[]);
    let model = place.text("base.gguf");
    fs::rename(place.path("m.gguf"), &model).unwrap();
    let vocabulary = |count: usize, added: &str| {
        let words: Vec<String> = (0..count).map(|id| format!("\"w{id}\": {id}")).collect();
        format!(
            r#"{{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [{added}], "normalizer": null,
            "pre_tokenizer": {{"type": "WhitespaceSplit"}}, "post_processor": null, "decoder": null,
            "model": {{"type": "WordLevel", "vocab": {{{}}}, "unk_token": "w0"}}}}"#,
            words.join(", ")
        )
    };
    let pieces: Vec<Json> = (0..261).map(|id| json!([format!("w{id}"), -1.0])).collect();
    let unigram = vocabulary(1, "").replace(
        r#"{"type": "WordLevel", "vocab": {"w0": 0}, "unk_token": "w0"}"#,
        &json!({"type": "Unigram", "vocab": pieces, "unk_id": 0}).to_string(),
    );
    let (tokens, copy) = (place.text("t/tokenizer.json"), place.text("c.gguf"));
    for larger in [vocabulary(261, ""), unigram] {
        place.write("t/tokenizer.json", &larger);
        let expected = "tokenizer.json: tokenizer: found 261 tokens, expected at most the model's 260";
        place.refused("ck", &["--tokenizer", &tokens], expected);
        let edit = cinderblock(&["edit", &model, "-o", &copy, "--tokenizer", &tokens]);
        assert!(edit.code == Some(1) && edit.stderr.contains(expected), "{edit:?}");
        assert!(!Path::new(&copy).exists());
    }

    let added = r#"{"id": 260, "content": "<pad>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true}"#;
    place.write("t/tokenizer.json", &vocabulary(260, added));
    let line = cinderblock(&["edit", &model, "-o", &copy, "--tokenizer", &tokens]).success();
    assert!(line.contains("261 tokens, of which the model has the first 260"), "{line}");
    let printed = place.model("ck", &["--tokenizer", &tokens]).1;
    assert!(printed.contains("261 tokens, of which the model has the first 260"), "{printed}");
    let tokenize = |text: &str| cinderblock(&["tokenize", "-m", &copy, "-p", text, "--json"]);
    assert_eq!(tokenize("w3 w259").json()["tokens"], json!([3, 259]));
    for text in ["w3 <pad>", "<pad>"] {
        for verb in ["tokenize", "run", "perplexity"] {
            let outcome = cinderblock(&[verb, "-m", &copy, "-p", text]);
            let expected = "token id: found 260, expected less than 260";
            let fine = outcome.code == Some(2) && outcome.stderr.contains(expected);
            assert!(fine && outcome.stderr.lines().count() == 1, "{verb}: {outcome:?}");
        }
    }
}

#[test]
fn values_that_a_type_cannot_hold_are_refused_by_name() {
    let mut place = Place::new();
    let name = "block_decoder.gpt_neox.layers.0.attention.dense.weight";
    place.tensors.get_mut(name).unwrap().2[4 * 70..4 * 71].copy_from_slice(&1e5f32.to_le_bytes());
    place.plain("ck");
    let expected = format!("tensor \"{name}\", element 70: found 100000, expected at most 65504 in f16");
    place.refused("ck", &["--type", "f16"], &expected);
    place.refused("ck", &["--type", "f16"], "types that hold it: q4, q8, bf16, f32");
    for kind in ["q4", "q8", "bf16", "f32"] {
        place.model("ck", &["--type", kind]);
    }
}

#[test]
fn a_cache_of_f16_that_overflows_says_which_type_holds_it() {
    let mut place = Place::new();
    // A bias that makes every key of a head large, which changes no score by more than rounding.
    let bias = &mut place
        .tensors
        .get_mut("block_decoder.gpt_neox.layers.0.attention.query_key_value.bias")
        .unwrap()
        .2;
    bias[4 * 63..4 * 64].copy_from_slice(&floats(&[1e5]));
    place.plain("ck");
    place.model("ck", &["--type", "q8"]);
    let model = place.text("m.gguf");
    let tokens = ids(&Golden::read("main").tokens[..20]);
    let base = ["run", "-m", &model, "--tokens", &tokens, "-n", "4", "--temp", "0", "--json"];
    let outcome = cinderblock(&base);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(
        outcome.stderr.contains("--cache-type f32") && !outcome.stderr.contains("damaged"),
        "{outcome:?}"
    );
    cinderblock(&[&base[..], &["--cache-type", "f32"]].concat()).success();
}

#[test]
fn edit_changes_what_is_asked_and_nothing_else() {
    let place = Place::new();
    place.plain("ck");
    place.model("ck", &["--type", "q4"]);
    place.write("tok/tokenizer.json", &tokenizer("<|endoftext|>"));
    let (model, copy, tokens) =
        (place.text("m.gguf"), place.text("copy.gguf"), place.text("tok/tokenizer.json"));
    let edit = |arguments: &[&str]| cinderblock(&[&["edit", &model, "-o", &copy][..], arguments].concat());
    edit(&["--tokenizer", &tokens, "--align", "left", "--name", "other"]).success();
    let [before, after] =
        [&model, &copy].map(|file| cinderblock(&["inspect", file, "--json", "--verify"]).json());
    assert_eq!((&after["name"], &after["end_token"]), (&json!("other"), &json!(28)));
    assert_eq!(after["prompt_alignment"], "left");
    for key in ["tensors", "weights", "block_decoder", "token_decoder", "trained_blocks"] {
        assert_eq!(before[key], after[key], "{key}");
    }
    let crc = "blocktransformer.tensor.crc32";
    assert_eq!(before["metadata"][crc], after["metadata"][crc]);
    assert!(before["metadata"].as_object().unwrap().keys().all(|key| after["metadata"].get(key).is_some()));
    let run = ["run", "-m", &copy, "-p", "abcdefgh", "-n", "8", "--temp", "0", "--ignore-end"];
    cinderblock(&run).success();

    // A name is shown without what a terminal would obey.
    let shown = edit(&["--name", "a\n\u{1b}[2Jb"]);
    assert!(shown.stdout.ends_with("name a??[2Jb\n"), "{shown:?}");

    edit(&["--end-token", "none"]).success();
    assert_eq!(cinderblock(&["inspect", &copy, "--json"]).json()["end_token"], Json::Null);
    // A second copy without changes of weight is the same as the first.
    edit(&["--align", "tail"]).success();
    let first = fs::read(&copy).unwrap();
    edit(&["--align", "tail"]).success();
    assert!(fs::read(&copy).unwrap() == first);

    assert_eq!(edit(&[]).code, Some(2));
    let same = cinderblock(&["edit", &model, "-o", &model, "--align", "left"]);
    assert!(
        same.code == Some(2) && same.stderr.contains("another file than those that are read"),
        "{same:?}"
    );
    // Damage is not copied under a checksum that hides it.
    let mut damaged = fs::read(&model).unwrap();
    let last = damaged.len() - 5;
    damaged[last] ^= 1;
    fs::write(place.path("m.gguf"), damaged).unwrap();
    assert!(edit(&["--align", "left"]).stderr.contains("checksum of tensor"));
}

#[test]
fn what_can_fail_early_fails_before_the_weights_are_read() {
    let mut place = Place::new();
    // Reading this tensor would fail.
    place.tensors.get_mut(TABLE).unwrap().2[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    place.plain("ck");
    let quantize = |output: &str| cinderblock(&["quantize", &place.text("ck"), "-o", output]);
    let failed = |output: &str, expected: &str| {
        let outcome = quantize(output);
        assert!(outcome.code != Some(0) && outcome.stderr.contains(expected), "{outcome:?}");
        assert!(!outcome.stderr.contains("NaN"), "{outcome:?}");
    };
    failed(&place.text("absent/m.gguf"), "no such file");
    failed(&place.text("ck"), "directory");
    for input in ["config.yaml", "model.safetensors"] {
        failed(&place.text(&format!("ck/{input}")), "another file than those that are read");
        fs::hard_link(place.path(&format!("ck/{input}")), place.path(&format!("link-{input}"))).unwrap();
        failed(&place.text(&format!("link-{input}")), "another file than those that are read");
    }
    assert!(quantize(&place.text("m.gguf")).stderr.contains("NaN"));
    // A checkpoint that is larger than any disk here.
    sparse(&place.path("big/model.safetensors"), &shapes(64, 4, [1, 64, 1, 64, 2, 0]));
    let dry = cinderblock(&["quantize", &place.text("big"), "--dry-run"]).success();
    assert!(dry.contains("nothing written"), "{dry}");
}

#[test]
fn quantize_takes_a_number_of_threads_and_gives_the_same_file() {
    let place = Place::new();
    place.plain("ck");
    let files = ["1", "2"].map(|threads| place.model("ck", &["--type", "q4", "--threads", threads]).0);
    assert!(files[0] == files[1]);
}

#[test]
fn configurations_as_people_and_pyyaml_write_them_are_read() {
    let place = Place::new();
    place.plain("ck");
    let (plain, _) = place.model("ck", &[]);
    let config = &place.config;
    let shared = config.replacen("  config:\n    num_hidden", "  config: &id001\n    num_hidden", 1);
    let at = shared.rfind("  config:").unwrap();
    for text in [
        format!("# *** main run ***\n{config}"),
        format!("notes: \"fish &chips\"\n{config}"),
        format!("\u{feff}{config}"),
        format!("{}  config: *id001\n", &shared[..at]),
        format!("---\n{config}...\n"),
        config.replace('\n', "\r\n"),
    ] {
        place.write("ck/config.yaml", &text);
        assert!(place.model("ck", &[]).0 == plain, "{text}");
    }
    let recipe = place.text("recipe");
    place.write("recipe", "\u{feff}*.head.weight=q8\n");
    place.model("ck", &["--recipe", &recipe]);
}

#[test]
fn the_cache_is_as_long_as_the_context_in_training() {
    let place = Place::new();
    for (file, blocks) in [("max_length: 2048", 512), ("max_length: 800", 200)] {
        place.plain("ck");
        place.write("ck/config.yaml", &place.config.replace("max_length: 2048", file));
        place.model("ck", &[]);
        let inspected = run(program().args(["inspect", &place.text("m.gguf"), "--json"])).json();
        assert_eq!(inspected["memory"]["cache_blocks"], blocks);
    }
}
