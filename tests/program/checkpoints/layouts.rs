//! Folders and files that hold a checkpoint.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value as Json, json};

use super::{HEAD, Place, TABLE};
use crate::common::tensors::{Tensors, floats, read_tensors, write_tensors};
use crate::common::{case, cinderblock};

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
