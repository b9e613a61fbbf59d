//! Checkpoints as people have them: where weights, configuration and tokenizer are found, and what is refused.

mod configurations;
mod edit;
mod layouts;
mod quantize;
mod shapes;
mod tokenizers;

use std::fs;
use std::path::PathBuf;

use serde_json::json;
use tempfile::TempDir;

use crate::common::tensors::{PARTS, Tensors, read_tensors, write_parts, write_tensors};
use crate::common::{Outcome, case, cinderblock};

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
        write_parts(&self.path(name), &self.tensors);
        for part in PARTS {
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
