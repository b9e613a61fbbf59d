//! The embedders and token decoders of the paper's ablations: a RoBERTa encoder inside each block, and a T5 decoder.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::common::tensors::{Tensors, floats, read_tensors, write_parts, write_tensors};
use crate::common::{Golden, case, cinderblock, ids, quantize};
use cinderblock::unstable::kernels::{Isa, Kernels};
use cinderblock::{Alignment, Model, Runtime, Sampler, SamplerOptions, Sequence, SessionOptions};

/// The cases with padding that is masked.
const ENCODED: [&str; 3] = ["cls_cross_attn", "cls_sum", "roberta_prefix"];

/// Prompts that do not fill whole blocks, with both alignments and also shorter than a block: padding id, positions and
/// mask are those of the training.
#[test]
fn partial_blocks_are_those_of_the_training() {
    for name in ["prefix1"].into_iter().chain(ENCODED) {
        let golden = Golden::read(name);
        let text = fs::read_to_string(case(name).join("golden.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let (_folder, file) = quantize(&case(name), "f32");
        for kernels in Kernels::all() {
            let runtime = Runtime::new(Model::open(&file).unwrap().with_kernels(kernels), 2).unwrap();
            for (key, alignment) in [("greedy_left", Alignment::Left), ("greedy_tail", Alignment::Tail)] {
                let options = SessionOptions { alignment: Some(alignment), ..Default::default() };
                for (length, expected) in json[key].as_object().unwrap() {
                    let mut session = runtime.session(&options).unwrap();
                    session.append(&golden.tokens[..length.parse().unwrap()]).unwrap();
                    let greedy = SamplerOptions { temperature: 0.0, ..SamplerOptions::plain() };
                    let mut sampler = Sampler::new(greedy, runtime.model().config().vocabulary).unwrap();
                    let mut found = Vec::new();
                    for _ in expected.as_array().unwrap() {
                        let token = sampler.sample(session.logits().unwrap());
                        session.append(&[token]).unwrap();
                        found.push(token);
                    }
                    assert_eq!(&serde_json::json!(found), expected, "{name} {key} {length}");
                }
            }
        }
    }
}

/// Quantized models give the same bits alone and in a batch, where some first blocks are padded and others not, with
/// any number of threads and on all instruction sets with a fused multiply-add.
#[test]
fn logits_depend_on_the_text_alone() {
    for (name, kind) in ENCODED.iter().flat_map(|name| [(name, "q4"), (name, "q8")]) {
        let golden = Golden::read(name);
        let (_folder, file) = quantize(&case(name), kind);
        // Shorter than a block, whole, and with a rest; several of each, and more blocks than pass together.
        let prompts: Vec<&[u32]> = [3, 4, 5, 1, 23, 40, 2, 96, 7, 8]
            .iter()
            .map(|length| &golden.tokens[golden.tokens.len() - length..])
            .collect();
        let mut fused: Option<Vec<Vec<f32>>> = None;
        for kernels in Kernels::all() {
            let label = format!("{name} {kind} on {}", kernels.isa());
            let mut of_threads: Option<Vec<Vec<f32>>> = None;
            for threads in [1, 3] {
                let model = Model::open(&file).unwrap().with_kernels(kernels);
                let runtime = Runtime::new(model, threads).unwrap();
                let mut engine = runtime.engine();
                let options = SessionOptions { alignment: Some(Alignment::Left), ..Default::default() };
                let mut alone = Vec::new();
                for prompt in &prompts {
                    let mut sequence = runtime.sequence(&options).unwrap();
                    engine.append(&mut sequence, prompt).unwrap();
                    let mut own = Vec::new();
                    for token in [5, 1, 0, 60, 7, 1, 9] {
                        own.extend_from_slice(
                            engine.logits(&mut [&mut sequence], &[]).unwrap().row(0).unwrap(),
                        );
                        engine.append(&mut sequence, &[token]).unwrap();
                    }
                    alone.push(own);
                }
                let mut sequences: Vec<Sequence> =
                    prompts.iter().map(|_| runtime.sequence(&options).unwrap()).collect();
                for (sequence, prompt) in sequences.iter_mut().zip(&prompts) {
                    engine.append(sequence, prompt).unwrap();
                }
                let mut together = vec![Vec::new(); prompts.len()];
                for token in [5, 1, 0, 60, 7, 1, 9] {
                    let logits = engine.logits(&mut sequences, &[]).unwrap();
                    for (row, own) in together.iter_mut().enumerate() {
                        own.extend_from_slice(logits.row(row).unwrap());
                    }
                    engine.append_each(&mut sequences, &vec![token; prompts.len()]).unwrap();
                }
                assert!(together == alone, "{label}: neighbours count");
                assert!(*of_threads.get_or_insert_with(|| alone.clone()) == alone, "{label}: threads count");
                if kernels.isa() != Isa::Scalar {
                    assert!(*fused.get_or_insert_with(|| alone.clone()) == alone, "{label}: other bits");
                }
            }
        }
    }
}

/// Logits of a text, as the checkpoint in a folder gives them with `f32` weights.
fn logits_of(checkpoint: &Path) -> Vec<f32> {
    let (_folder, file) = quantize(checkpoint, "f32");
    let runtime = Runtime::new(Model::open(file).unwrap(), 1).unwrap();
    let mut logits = Vec::new();
    let tokens: Vec<u32> = (0..40).map(|i| (i * i * 7 + 3) % 120).collect();
    let mut scorer = runtime.scorer(&SessionOptions::default()).unwrap();
    scorer
        .score(&tokens, |_, row| {
            logits.extend_from_slice(row);
            Ok(())
        })
        .unwrap();
    logits
}

/// A checkpoint that is made of a case, in a folder of its own.
struct Variant {
    folder: TempDir,
    tensors: Tensors,
    config: String,
}

impl Variant {
    fn of(name: &str) -> Variant {
        Variant {
            folder: TempDir::new().unwrap(),
            tensors: read_tensors(&case(name).join("model.safetensors")),
            config: fs::read_to_string(case(name).join("config.yaml")).unwrap(),
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Replaces text of the configuration.
    fn with(&mut self, from: &str, to: &str) {
        let changed = self.config.replacen(from, to, 1);
        assert_ne!(changed, self.config, "{from}");
        self.config = changed;
    }

    fn write(&self) {
        write_tensors(&self.path().join("model.safetensors"), &self.tensors);
        fs::write(self.path().join("config.yaml"), &self.config).unwrap();
    }

    /// Writes it, and computes logits.
    fn logits(&self) -> Vec<f32> {
        self.write();
        logits_of(self.path())
    }

    /// Checks that `quantize` refuses it in one line that has `expected`.
    fn refused(&self, expected: &str) {
        self.write();
        let path = self.path().to_str().unwrap();
        let outcome = cinderblock(&["quantize", path, "--dry-run"]);
        let line = outcome.stderr.trim_end();
        assert!(outcome.code == Some(1) && line.lines().count() == 1, "{expected}: {outcome:?}");
        assert!(line.contains(expected), "expected {expected:?} in {line:?}");
    }

    fn tensor(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        self.tensors.insert(name.to_string(), ("F32".to_string(), shape.to_vec(), floats(values)));
    }
}

/// Concatenated outputs are those of a projection by the identity.
#[test]
fn outputs_of_an_encoder_may_be_concatenated() {
    // An encoder 16 wide, whose 4 outputs are as wide as the block decoder.
    let mut variant = Variant::of("roberta_prefix");
    let shapes: Vec<(String, Vec<usize>)> = variant
        .tensors
        .iter()
        .filter(|(name, _)| name.starts_with("embedder.") && !name.contains("projection"))
        .map(|(name, tensor)| (name.clone(), tensor.1.clone()))
        .collect();
    let mut state = 1u32;
    for (name, mut shape) in shapes {
        let narrow = |size: usize| match size {
            64 => 16,
            256 => 48,
            other => other,
        };
        shape.iter_mut().for_each(|size| *size = narrow(*size));
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|_| {
                state = state.wrapping_mul(1664525).wrapping_add(1013904223);
                (state >> 8) as f32 / (1 << 24) as f32 - 0.5
            })
            .collect();
        variant.tensor(&name, &shape, &values);
    }
    variant.with("hidden_size: 64", "hidden_size: 16\n    num_attention_heads: 2");
    let mut identity = vec![0.0; 64 * 16 * 4];
    for row in 0..64 {
        identity[(row * 16 + row % 16) * 4 + row / 16] = 1.0;
    }
    variant.tensor("embedder.projection_layer.weight", &[64, 16, 4], &identity);
    variant.tensor("embedder.projection_layer.bias", &[64], &[0.0; 64]);
    let projected = variant.logits();
    variant.tensors.retain(|name, _| !name.contains("projection_layer"));
    variant.with("projection_method: null", "projection_method: concat");
    assert!(variant.logits() == projected);
}

const SHARED: &str = "token_decoder.shared.weight";
const TIED: [&str; 2] = ["token_decoder.decoder.embed_tokens.weight", "token_decoder.lm_head.weight"];

/// Where each vector of a context is the same for all contexts, adding it to the embeddings is a change of their table.
/// The head is not that table then.
#[test]
fn vectors_of_a_context_may_be_added_to_the_tokens_of_a_t5_decoder() {
    let mut variant = Variant::of("cls_cross_attn");
    variant.with("    num_heads: 2", "    num_heads: 2\n    tie_word_embeddings: false");
    let vector: Vec<f32> = (0..64).map(|i| (i * i % 17) as f32 / 8.0 - 1.0).collect();
    variant.tensor("token_decoder.expansion_layer.weight", &[256, 64, 1], &[0.0; 256 * 64]);
    variant.tensor("token_decoder.expansion_layer.bias", &[256], &vector.repeat(4));
    let attended = variant.logits();
    variant.with("decoding_strategy: cross_attention", "decoding_strategy: summation");
    let added = variant.logits();
    assert!(added != attended);
    variant.with("decoding_strategy: summation", "decoding_strategy: cross_attention");
    // bf16 is the upper half of an f32.
    let table = variant.tensors[SHARED].2.as_chunks::<2>().0.iter();
    let table = table.map(|half| f32::from_bits(u32::from(u16::from_le_bytes(*half)) << 16));
    let sum: Vec<f32> = table.zip(vector.iter().cycle()).map(|(row, vector)| row + vector).collect();
    variant.tensor(SHARED, &[149, 64], &sum);
    variant.tensors.remove(TIED[0]);
    assert!(variant.logits() == added);
}

/// The three names of a tied table are one matrix, of which a file may have any.
#[test]
fn a_t5_decoder_has_its_table_under_any_of_its_names() {
    let mut variant = Variant::of("cls_cross_attn");
    let expected = variant.logits();
    let table = variant.tensors[SHARED].clone();
    for name in [SHARED, TIED[0], TIED[1]] {
        variant.tensors.retain(|name, _| name != SHARED && !TIED.contains(&name.as_str()));
        variant.tensors.insert(name.to_string(), table.clone());
        assert!(variant.logits() == expected, "{name}");
    }
    variant.with("    num_heads: 2", "    num_heads: 2\n    tie_word_embeddings: false");
    variant.refused("shared.weight\" is missing");
}

/// The last export of a training has each part in a folder, a tied table once, and a `config.json` that must agree.
#[test]
fn an_exported_t5_decoder_is_read() {
    let mut variant = Variant::of("cls_cross_attn");
    let expected = variant.logits();
    variant.tensors.retain(|name, _| !TIED.contains(&name.as_str()));
    fs::remove_file(variant.path().join("model.safetensors")).unwrap();
    write_parts(variant.path(), &variant.tensors);
    let settings = serde_json::json!({
        "model_type": "t5", "d_model": 64, "d_kv": 64, "d_ff": 256, "num_layers": 3, "num_decoder_layers": 2,
        "num_heads": 2, "vocab_size": 149, "relative_attention_num_buckets": 32, "layer_norm_epsilon": 1e-6,
        "relative_attention_max_distance": 128, "feed_forward_proj": "relu", "dense_act_fn": "relu",
        "is_gated_act": false, "dropout_rate": 0.1, "initializer_factor": 1.0, "n_positions": 512,
        "output_past": true, "eos_token_id": 1, "pad_token_id": 0, "decoder_start_token_id": 0,
    });
    let settings = settings.to_string();
    let path = variant.path().join("token_decoder/config.json");
    fs::write(&path, &settings).unwrap();
    assert!(logits_of(variant.path()) == expected);
    fs::write(&path, settings.replace("\"d_ff\":256", "\"d_ff\":128")).unwrap();
    let outcome = cinderblock(&["quantize", variant.path().to_str().unwrap(), "--dry-run"]);
    assert!(outcome.stderr.contains("d_ff: found 128, expected 256"), "{outcome:?}");
}

/// What the authors' code accepts and is not implemented, or contradicts the tensors, is refused by name.
#[test]
fn other_parts_of_the_authors_code_are_refused_by_name() {
    for (from, to, expected) in [
        ("n_embedding_tokens: 1", "n_embedding_tokens: 3", "n_embedding_tokens: found 3, only 1"),
        ("cls: roberta_cls", "cls: t5", "embedder.cls: found t5, only lookup and roberta and roberta_cls"),
        ("cls: gpt-neo-x", "cls: gpt-neo", "block_decoder.cls: found gpt-neo, only gpt-neo-x"),
        ("cls: t5", "cls: gpt-neo", "token_decoder.cls: found gpt-neo, only gpt-neo-x and t5"),
        (
            "cls: t5\n  model_name_or_path: t5-small",
            "cls: gpt-neo-x",
            "found cross_attention, only prefix and summation",
        ),
        ("t5-small", "google/t5-v1_1-small", "found google/t5-v1_1-small, only t5-small"),
        (
            "decoding_strategy: cross_attention",
            "decoding_strategy: prefix",
            "found prefix, only cross_attention",
        ),
        (
            "    d_model: 64",
            "    d_model: 64\n    feed_forward_proj: gated-gelu",
            "found gated-gelu, only relu",
        ),
        (
            "    d_model: 64",
            "    d_model: 64\n    decoder_start_token: 0",
            "unknown key token_decoder.config.",
        ),
        ("    d_model: 64", "    d_model: 32", "d_model: found 32, expected 64"),
        ("    d_model: 64", "    d_model: 64\n    d_kv: 32", "d_kv: found 32, expected 64"),
        ("d_ff: 256", "d_ff: 128", "d_ff: found 128, expected 256"),
        ("num_decoder_layers: 2", "num_decoder_layers: 3", "num_decoder_layers: found 3, expected 2"),
        ("num_heads: 2", "num_heads: 4", "num_heads: found 4, expected 2"),
        (
            "    d_model: 64",
            "    d_model: 64\n    relative_attention_max_distance: 16",
            "largest distance: found 16, expected more than 16",
        ),
        ("    d_model: 64", "    d_model: 64\n    layer_norm_epsilon: 0", "epsilon: found 0, expected"),
        ("expansion_method: expansion_layer", "expansion_method: null", "expansion_method: found null"),
    ] {
        let mut variant = Variant::of("cls_cross_attn");
        variant.with(from, to);
        variant.refused(expected);
    }
    for (name, expected) in [
        ("block_decoder.transformer.h.0.ln_1.weight", "a block decoder that is a GPT-Neo"),
        ("token_decoder.transformer.h.0.ln_1.weight", "a token decoder that is a GPT-Neo"),
        ("embedder.encoder.block.0.layer.0.layer_norm.weight", "an embedder that is a T5 encoder"),
        ("token_decoder.decoder.block.0.layer.2.DenseReluDense.wi_0.weight", "a T5 with gates"),
    ] {
        let mut variant = Variant::of("cls_cross_attn");
        variant.tensor(name, &[1], &[1.0]);
        variant.refused(expected);
    }
    let mut variant = Variant::of("cls_cross_attn");
    variant.write();
    fs::remove_file(variant.path().join("config.yaml")).unwrap();
    let outcome = cinderblock(&["quantize", variant.path().to_str().unwrap(), "--dry-run"]);
    assert!(outcome.stderr.contains("give one with --config"), "{outcome:?}");
    variant.tensors.retain(|name, _| !name.contains("relative_attention_bias"));
    variant.refused("relative_attention_bias.weight\" is missing");
}

/// Every shape can be synthesized, and runs.
#[test]
fn shapes_of_the_ablations_can_be_synthesized() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("m.gguf");
    let file = file.to_str().unwrap();
    for (name, embedder, strategy) in [
        ("lookup_prefix", "lookup", "prefix"),
        ("roberta_prefix", "roberta", "prefix"),
        ("cls_sum", "roberta", "summation"),
        ("cls_cross_attn", "roberta", "cross_attention"),
    ] {
        let preset = format!("block_ablation_b4_85_{name}");
        cinderblock(&["synthesize", "--preset", &preset, "--type", "q4", "-o", file]).success();
        let shape = cinderblock(&["inspect", file, "--json"]).json();
        assert_eq!(shape["embedder"]["type"], embedder, "{shape}");
        assert_eq!(shape["token_decoder"]["strategy"], strategy, "{shape}");
        let prompt = ids(&[5, 6, 7, 8, 9]);
        let run = ["run", "-m", file, "--tokens", &prompt, "-n", "6", "--json"];
        assert_eq!(cinderblock(&run).json()["tokens"].as_array().unwrap().len(), 6);
    }
}
