//! Opening the demo model, choosing a token, and whole steps of decoding and prefill, on the best instruction set.

use std::hint::black_box;

use cinderblock::{Model, Runtime, Sampler, SamplerOptions, SessionOptions};
use criterion::{Criterion, Throughput};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/classics.q4.gguf");

pub fn runtime(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("demo");
    group.bench_function("open", |bencher| bencher.iter(|| Model::open(MODEL).expect("the demo model")));
    let model = Model::open(MODEL).expect("the demo model");
    let vocabulary = model.config().vocabulary;
    let logits: Vec<f32> = (0..vocabulary).map(|i| (i * 7919 % 4001) as f32 / 400.0).collect();
    for (name, options) in [
        ("greedy", SamplerOptions { temperature: 0.0, ..SamplerOptions::plain() }),
        ("default", SamplerOptions::default()),
    ] {
        let mut sampler = Sampler::new(options, vocabulary).expect("options in range");
        group.bench_function(format!("sample {name}"), |bencher| {
            bencher.iter(|| sampler.sample(black_box(&logits)));
        });
    }
    let runtime = Runtime::new(model, 1).expect("one thread");
    let mut session = runtime.session(&SessionOptions::default()).expect("a session");
    session.append(&[5, 6, 7, 8]).expect("tokens of the vocabulary");
    group.throughput(Throughput::Elements(1));
    group.bench_function("decode a token", |bencher| {
        bencher.iter(|| {
            session.append(&[9]).expect("a token of the vocabulary");
            black_box(session.logits().expect("logits").len())
        });
    });
    let prompt: Vec<u32> = (0..512).collect();
    group.throughput(Throughput::Elements(prompt.len() as u64));
    group.bench_function("read 512 tokens", |bencher| {
        bencher.iter(|| {
            session.clear();
            session.append(&prompt).expect("tokens of the vocabulary");
        });
    });
}
