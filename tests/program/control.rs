//! What a caller decides about a text: how it is laid out, what is reused and pinned, what is likely, and when it ends.

use std::fs;
use std::time::Duration;

use crate::common::{case, cinderblock, demo_model, ids, quantize};
use cinderblock::{
    Alignment, End, GenerateOptions, Generator, Model, Runtime, SamplerOptions, SessionOptions, Step,
};
use serde_json::Value as Json;

fn generator(options: &SessionOptions) -> Generator {
    let runtime = Runtime::new(Model::open(demo_model()).unwrap(), 1).unwrap();
    let mut generator = runtime.generator(options).unwrap();
    greedy(&mut generator, Vec::new());
    generator
}

fn greedy(generator: &mut Generator, logit_bias: Vec<(u32, f32)>) {
    let options = SamplerOptions { temperature: 0.0, logit_bias, ..SamplerOptions::plain() };
    generator.set_sampler(options).unwrap();
}

fn collect(generator: &mut Generator, options: &GenerateOptions) -> (End, Vec<Step>) {
    let mut steps = Vec::new();
    let (end, count) = generator
        .generate(None, options, |step| {
            steps.push(step);
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(count, steps.len());
    (end, steps)
}

fn text(length: u32) -> Vec<u32> {
    (0..length).map(|i| 300 + i * 17 % 3000).collect()
}

/// The most of a prompt that was read before is not read again, and what follows is the same.
#[test]
fn a_prompt_cache_reuses_the_common_prefix() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("prompt");
    let file = file.to_str().unwrap();
    let run = |tokens: &[u32], more: &[&str]| -> Json {
        let tokens = ids(tokens);
        let plain = ["run", "--tokens", &tokens, "-n", "20", "--temp", "0", "--json"];
        cinderblock(&[&plain[..], more].concat()).json()
    };
    let base = text(203);
    let other = [&base[..150], &text(77)[..]].concat();
    // The prompt, and how many of its tokens are reused from the prompts before it.
    for (prompt, reused) in
        [(&base, 0), (&base, 200), (&other, 148), (&other, 224), (&base[..90].to_vec(), 88), (&other, 224)]
    {
        let cached = run(prompt, &["--prompt-cache", file]);
        assert_eq!(cached["reused_tokens"], reused);
        assert_eq!(cached["tokens"], run(prompt, &[])["tokens"]);
    }
    // A ring that has rolled knows nothing but its own text.
    let small = ["--prompt-cache", file, "--cache-blocks", "20"];
    for reused in [0, 224] {
        let cached = run(&other, &small);
        assert_eq!(cached["reused_tokens"], reused);
        assert_eq!(cached["tokens"], run(&other, &small[2..])["tokens"]);
    }
    let (_folder, model) = quantize(&case("main"), "q4");
    let foreign =
        cinderblock(&["run", "-m", model.to_str().unwrap(), "--tokens", "5", "--prompt-cache", file]);
    assert!(foreign.code == Some(1) && foreign.stderr.contains("another model"), "{foreign:?}");
    let bytes = fs::read(file).unwrap();
    for damaged in [&bytes[..bytes.len() - 1], &[&bytes[..], b"x"].concat(), b"not a session"] {
        fs::write(file, damaged).unwrap();
        let outcome = cinderblock(&["run", "--tokens", "5,6,7", "--prompt-cache", file]);
        assert!(outcome.code == Some(1) && outcome.stderr.lines().count() == 1, "{outcome:?}");
        assert!(outcome.stderr.contains(file) && fs::read(file).unwrap() == damaged, "{outcome:?}");
    }
}

#[test]
fn a_pinned_prompt_is_never_forgotten() {
    let model = Model::open(demo_model()).unwrap();
    let base = SessionOptions { cache_blocks: Some(40), ..Default::default() };
    assert_eq!(base.clone().pin_prompt(&model, 101).sink_blocks, 26);
    assert_eq!(base.clone().pin_prompt(&model, 3).sink_blocks, base.sink_blocks);
    let mut pinned = generator(&base.pin_prompt(&model, 101));
    pinned.append(&text(101)).unwrap();
    pinned.append(&vec![9; 2000]).unwrap();
    assert!((0..=26).all(|blocks| pinned.can_rewind(blocks)) && !pinned.can_rewind(27));
    let prompt = ids(&text(101));
    let run = |cache_blocks| {
        cinderblock(&[
            "run",
            "--tokens",
            &prompt,
            "-n",
            "400",
            "--pin-prompt",
            "--cache-blocks",
            cache_blocks,
        ])
    };
    run("27").success();
    let outcome = run("26");
    assert!(outcome.code == Some(2) && outcome.stderr.contains("more than the 26 pinned"), "{outcome:?}");
}

/// What follows a whole number of blocks is the same; what a model was trained with is the default.
#[test]
fn alignment_affects_ragged_prompts_only() {
    for (length, same) in [(8, true), (9, false)] {
        let logits = Alignment::ALL.map(|alignment| {
            let mut generator =
                generator(&SessionOptions { alignment: Some(alignment), ..Default::default() });
            generator.append(&text(length)).unwrap();
            (generator.length(), generator.logits().unwrap().to_vec())
        });
        assert_eq!(logits[0] == logits[1], same);
        assert_eq!(logits[0].0, u64::from(length.next_multiple_of(4)));
        assert_eq!(logits[1].0, u64::from(length));
    }
    assert_eq!(generator(&SessionOptions::default()).options().alignment, Some(Alignment::Tail));
    let (_folder, main) = quantize(&case("main"), "q4");
    assert_eq!(Model::open(main).unwrap().config().alignment, Alignment::Left);
}

#[test]
fn log_probabilities_are_independent_of_sampling() {
    let mut generator = generator(&SessionOptions::default());
    generator.append(&text(30)).unwrap();
    let logits: Vec<f64> = generator.logits().unwrap().iter().map(|logit| f64::from(*logit)).collect();
    let sum = logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();
    // What the sampler does comes later.
    greedy(&mut generator, vec![(77, 1000.0)]);
    let options = GenerateOptions { max_tokens: 1, logprobs: Some(5), ..Default::default() };
    let (_, steps) = collect(&mut generator, &options);
    let token = steps[0].token.as_ref().unwrap();
    assert!(token.id == 77 && (f64::from(token.logprob.unwrap()) - (logits[77] - sum)).abs() < 1e-4);
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
    assert!(token.top.iter().map(|top| top.0).eq(order[..5].iter().copied()));
    for (id, logprob) in &token.top {
        assert!((f64::from(*logprob) - (logits[*id as usize] - sum)).abs() < 1e-4);
    }
    let arguments = ["run", "--tokens", "5,6,7,8", "-n", "3", "--temp", "0", "--json", "--logprobs", "2"];
    let json = cinderblock(&arguments).json();
    let each = json["logprobs"].as_array().unwrap();
    assert_eq!(each.len(), 3);
    for (token, id) in each.iter().zip(json["tokens"].as_array().unwrap()) {
        assert!(token["top"][0][0] == *id && token["top"][0][1] == token["logprob"], "{token}");
    }
}

#[test]
fn biases_force_and_forbid_tokens() {
    let run = |more: &[&str]| {
        let plain = ["run", "--tokens", "300,301,302,303", "-n", "1", "--temp", "0", "--json"];
        cinderblock(&[&plain[..], more].concat()).json()["tokens"][0].as_u64().unwrap()
    };
    let first = run(&[]);
    let forbidden = format!("{first}=-inf");
    let second = run(&["--logit-bias", &forbidden]);
    assert_ne!(first, second);
    assert_eq!(run(&["--logit-bias", &forbidden, "--logit-bias", "9=1000"]), 9);
    let usage = cinderblock(&["run", "--tokens", "5", "--logit-bias", "4096=1"]);
    assert!(usage.code == Some(2) && usage.stderr.contains("4096"), "{usage:?}");
}

#[test]
fn a_time_limit_ends_a_text() {
    let mut generator = generator(&SessionOptions::default());
    generator.append(&text(4)).unwrap();
    let options = GenerateOptions { time_limit: Some(Duration::ZERO), ..Default::default() };
    assert_eq!(collect(&mut generator, &options), (End::Time, Vec::new()));
    let limited = ["run", "-n", "100000000", "--ignore-end", "--time-limit", "0.2", "--json", "-p", "It"];
    let json = cinderblock(&limited).json();
    assert!(json["end"] == "time" && json["generated_tokens"].as_u64() > Some(0), "{json}");
}
