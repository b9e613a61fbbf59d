//! The authors' implementation is the oracle: every case, on every instruction set that this machine has.

use crate::common::{CASES, Golden, case, cinderblock, ids, quantize, read_npy, root};

use cinderblock::unstable::kernels::Kernels;
use cinderblock::{Model, Runtime, Sampler, SamplerOptions, SessionOptions, negative_log_likelihood};

fn whole_text(tokens: &[u32]) -> SessionOptions {
    SessionOptions { cache_blocks: Some(tokens.len()), sink_blocks: 0, ..Default::default() }
}

fn greedy(runtime: &Runtime, prompt: &[u32], new: usize) -> Vec<u32> {
    let mut session = runtime.session(&SessionOptions::default()).unwrap();
    let options = SamplerOptions { temperature: 0.0, ..SamplerOptions::plain() };
    let mut sampler = Sampler::new(options, runtime.model().config().vocabulary).unwrap();
    session.append(prompt).unwrap();
    let mut tokens = Vec::new();
    while tokens.len() < new {
        let token = sampler.sample(session.logits().unwrap());
        session.append(&[token]).unwrap();
        tokens.push(token);
    }
    tokens
}

#[test]
fn f32_models_reproduce_the_reference() {
    for name in CASES {
        let golden = Golden::read(name);
        let (_folder, file) = quantize(&case(name), "f32");
        for kernels in Kernels::all() {
            let runtime = Runtime::new(Model::open(&file).unwrap().with_kernels(kernels), 2).unwrap();
            let label = format!("{name} on {}", kernels.isa());
            let mut scorer = runtime.scorer(&whole_text(&golden.tokens)).unwrap();
            let (mut found, mut nll) = (Vec::new(), Vec::new());
            scorer
                .score(&golden.tokens, |token, logits| {
                    found.extend_from_slice(logits);
                    nll.push(negative_log_likelihood(logits, token));
                    Ok(())
                })
                .unwrap();
            assert_eq!(found.len(), golden.logits.len(), "{label}");
            let worst = found.iter().zip(&golden.logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-3, "{label}: logits differ by {worst}");
            let nll = nll.iter().sum::<f64>() / nll.len() as f64;
            assert!((nll - golden.nll).abs() < 1e-4, "{label}: nll {nll}, expected {}", golden.nll);
            for (length, expected) in &golden.greedy {
                let found = greedy(&runtime, &golden.tokens[..*length], expected.len());
                assert_eq!(&found, expected, "{label}, prompt of {length}");
            }
        }
    }
}

/// Contexts are those of `contexts/generate.py`. They are what the logits are computed from: equal bits whatever follows.
#[test]
fn contexts_are_those_of_the_reference() {
    for name in CASES {
        let tokens = Golden::read(name).tokens;
        let expected = read_npy(&root().join(format!("tests/contexts/{name}.npy"))).1;
        let (_folder, file) = quantize(&case(name), "f32");
        for kernels in Kernels::all() {
            let runtime = Runtime::new(Model::open(&file).unwrap().with_kernels(kernels), 2).unwrap();
            let label = format!("{name} on {}", kernels.isa());
            let mut scorer = runtime.scorer(&whole_text(&tokens)).unwrap();
            let mut contexts = |tokens: &[u32]| {
                let mut found = Vec::new();
                let each = |context: &[f32]| {
                    found.extend_from_slice(context);
                    Ok(())
                };
                scorer.contexts(tokens, each).unwrap();
                found
            };
            let found = contexts(&tokens);
            assert_eq!(found.len(), expected.len(), "{label}");
            let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-3, "{label}: contexts differ by {worst}");
            // The first blocks, padded alike.
            let length = runtime.model().config().block_length;
            let shorter = contexts(&tokens[..tokens.len() - 3 * length]);
            assert_eq!(shorter, found[..shorter.len()], "{label}");
            assert_eq!(contexts(&[]), Vec::<f32>::new());
            assert!(scorer.contexts(&[u32::MAX], |_| Ok(())).is_err(), "{label}");
        }
    }
}

/// Quantized models must be near the reference on every instruction set, and near each other.
#[test]
fn quantized_models_agree_between_instruction_sets() {
    for name in CASES {
        let golden = Golden::read(name);
        for (kind, worst_nll) in [("q8", 0.2), ("q4", 2.5), ("bf16", 0.2), ("f16", 0.05)] {
            let (_folder, file) = quantize(&case(name), kind);
            let mut first: Option<Vec<f32>> = None;
            for kernels in Kernels::all() {
                let runtime = Runtime::new(Model::open(&file).unwrap().with_kernels(kernels), 2).unwrap();
                let label = format!("{name} in {kind} on {}", kernels.isa());
                let mut scorer = runtime.scorer(&whole_text(&golden.tokens)).unwrap();
                let (mut logits, mut nll) = (Vec::new(), 0.0);
                scorer
                    .score(&golden.tokens, |token, row| {
                        nll += negative_log_likelihood(row, token);
                        logits.extend_from_slice(row);
                        Ok(())
                    })
                    .unwrap();
                let nll = nll / (golden.tokens.len() - runtime.model().config().block_length) as f64;
                assert!((nll - golden.nll).abs() < worst_nll, "{label}: nll {nll}, expected {}", golden.nll);
                let first = first.get_or_insert_with(|| logits.clone());
                // An activation on the edge between two integers may fall on either side.
                let worst = first.iter().zip(&logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst < 0.5, "{label}: logits differ by {worst} from scalar");
            }
        }
    }
}

#[test]
fn the_program_reproduces_the_reference() {
    for name in CASES {
        let golden = Golden::read(name);
        let (folder, file) = quantize(&case(name), "f32");
        let file = file.to_str().unwrap();
        let output = folder.path().join("logits.npy");
        let tokens = ids(&golden.tokens);
        cinderblock(&["logits", "-m", file, "--tokens", &tokens, "-o", output.to_str().unwrap()]).success();
        let (shape, logits) = read_npy(&output);
        let (rows, vocabulary) = (logits.len() / golden.logits.len(), golden.logits.len());
        assert!(rows == 1 && vocabulary > 0, "{name}: {shape}");
        let worst = logits.iter().zip(&golden.logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-3, "{name}: logits differ by {worst}");

        let ids_file = folder.path().join("ids.u16");
        let bytes: Vec<u8> = golden.tokens.iter().flat_map(|&id| (id as u16).to_le_bytes()).collect();
        std::fs::write(&ids_file, bytes).unwrap();
        let found =
            cinderblock(&["perplexity", "-m", file, "--tokens-file", ids_file.to_str().unwrap(), "--json"])
                .json();
        assert!((found["nll"].as_f64().unwrap() - golden.nll).abs() < 1e-4, "{name}: {found}");

        for (length, expected) in &golden.greedy {
            let (prompt, count) = (ids(&golden.tokens[..*length]), expected.len().to_string());
            let run = ["run", "-m", file, "--tokens", &prompt, "-n", &count, "--temp", "0", "--json"];
            assert_eq!(cinderblock(&run).json()["tokens"], serde_json::json!(expected), "{name} {length}");
        }
    }
}
