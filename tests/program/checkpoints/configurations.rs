//! Keys of a configuration, and how people write them.

use super::{HEAD, Place, TABLE};
use crate::common::tensors::read_tensors;
use crate::common::{case, cinderblock, ids, program, run};

/// Ids that every reference case knows.
fn text_of_ids() -> String {
    ids(&(0..40).map(|i| 2 + i * i * 7 % 41).collect::<Vec<u32>>())
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
