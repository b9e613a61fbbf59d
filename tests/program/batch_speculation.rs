//! Guesses change nothing about the texts of a batch but the number of passes.

use std::collections::BTreeMap;

use crate::common::{case, demo_model, quantize};
use cinderblock::{
    Batch, BatchOptions, Constraint, End, ErrorKind, Event, GenerateOptions, Model, Request, Result, Runtime,
    SamplerOptions, SessionOptions, Speculate, SpeculationCounts, Token,
};

/// Allows every token whose number has the remainder 1 or 2 by 3.
struct Thirds(Vec<u32>);

impl Thirds {
    fn boxed(vocabulary: usize) -> Box<dyn Constraint> {
        let mut words = vec![0; vocabulary.div_ceil(32)];
        (0..vocabulary)
            .filter(|token| !token.is_multiple_of(3))
            .for_each(|token| words[token / 32] |= 1 << (token % 32));
        Box::new(Thirds(words))
    }
}

impl Constraint for Thirds {
    fn allowed(&mut self) -> Result<Option<&[u32]>> {
        Ok(Some(&self.0))
    }

    fn accept(&mut self, token: u32) -> Result<()> {
        assert!(!token.is_multiple_of(3));
        Ok(())
    }

    fn copy(&self) -> Box<dyn Constraint> {
        Box::new(Thirds(self.0.clone()))
    }
}

/// Texts by number: tokens with their probabilities, and the end.
type Written = BTreeMap<u64, (Vec<Token>, Option<End>)>;

fn advance(batch: &mut Batch, written: &mut Written) -> Result<()> {
    batch.advance(|id, event| {
        let (tokens, ended) = written.entry(id).or_default();
        match event {
            Event::Step(step) => tokens.extend(step.token),
            Event::Ended(end, count) => {
                assert_eq!(count, tokens.len());
                *ended = Some(end);
            }
            Event::Failed(error) => panic!("{error}"),
        }
    })
}

fn options(sequences: usize, speculate: Speculate) -> BatchOptions {
    let session = SessionOptions { cache_blocks: Some(200), ..Default::default() };
    BatchOptions { session, sequences, speculate, ..Default::default() }
}

/// Request `number` of a test: a text that repeats itself, sampled and restricted in one of several ways.
fn request(model: &Model, number: usize) -> Request {
    let vocabulary = model.config().vocabulary;
    let plain = SamplerOptions::plain();
    let period = 3 + number % 5;
    // Likely to repeat itself, and never sure to.
    let repeats: Vec<u32> = (0..period as u32).map(|at| 7 + 2 * at + number as u32).collect();
    let likely = repeats.iter().map(|token| (*token, 9.0)).collect();
    let sampler = match number % 4 {
        0 => SamplerOptions { temperature: 0.0, ..plain },
        1 => SamplerOptions { seed: number as u64, top_k: 5, ..plain },
        2 => SamplerOptions { seed: 9, temperature: 0.7, logit_bias: likely, ..plain },
        _ => SamplerOptions { temperature: 0.0, repetition_penalty: 1.2, repetition_window: 6, ..plain },
    };
    let constraint = (number % 5 == 3).then(|| Thirds::boxed(vocabulary));
    let forced = match number % 3 {
        2 if constraint.is_none() => (0..13).map(|at| (at * 5 % vocabulary) as u32).collect(),
        _ => Vec::new(),
    };
    Request {
        prompt: repeats.iter().copied().cycle().take(20 + 3 * number).collect(),
        constraint,
        forced,
        sampler,
        generate: GenerateOptions {
            max_tokens: 30 + 7 * (number % 4),
            ignore_end: true,
            logprobs: Some(2),
            ..Default::default()
        },
        ..Default::default()
    }
}

/// Lets `count` texts join one after the other and all be written, while passes are interrupted.
fn write(runtime: &Runtime, count: usize, speculate: Speculate) -> (Written, SpeculationCounts) {
    let mut batch = runtime.batch(None, options(count, speculate)).unwrap();
    let mut written = Written::new();
    let mut rounds = 0;
    for number in 0..2 * count {
        batch.submit(request(runtime.model(), number)).unwrap();
        for _ in 0..if number < count { 2 } else { 0 } {
            advance(&mut batch, &mut written).unwrap();
        }
    }
    while batch.waiting() + batch.running() > 0 {
        rounds += 1;
        if rounds % 6 == 5 {
            batch.interrupt().trigger();
            assert_eq!(advance(&mut batch, &mut written).unwrap_err().kind(), ErrorKind::Interrupted);
        }
        advance(&mut batch, &mut written).unwrap();
    }
    (written, batch.speculation_counts())
}

#[test]
fn speculation_changes_no_text_of_a_batch() {
    for name in ["main", "block8", "block1", "vanilla", "neox_hf", "roberta_prefix", "cls_cross_attn"] {
        let (_folder, file) = quantize(&case(name), "q4");
        let runtime = Runtime::new(Model::open(&file).unwrap(), 2).unwrap();
        for count in [1, 2, 3, 5] {
            let (expected, plain) = write(&runtime, count, Speculate::Off);
            assert!(expected.len() == 2 * count && plain.guessed == 0, "{name} {count}");
            for mode in [Speculate::On, Speculate::Auto] {
                let (written, counts) = write(&runtime, count, mode);
                assert!(written == expected, "{name} {count} {mode:?}");
                assert_eq!(counts.tokens, plain.tokens, "{name} {count} {mode:?}");
                let config = runtime.model().config();
                if mode == Speculate::On && config.block_length + config.guesses_ahead() > 1 {
                    assert!(counts.guessed > 0, "{name} {count}: {counts:?}");
                    let fewer = if count == 1 { plain.passes - 1 } else { plain.passes };
                    assert!(counts.passes <= fewer, "{name} {count}: {counts:?} {plain:?}");
                }
            }
        }
    }
}

/// Texts of which all guesses come true take a pass a block, and one that is alone guesses as far as a session does.
#[test]
fn texts_that_repeat_themselves_take_one_pass_a_block() {
    let runtime = Runtime::new(Model::open(demo_model()).unwrap(), 2).unwrap();
    for texts in 1..=5 {
        let mut batch = runtime.batch(None, options(texts, Speculate::On)).unwrap();
        let mut written = Written::new();
        for number in 0..texts as u32 {
            let sampler = SamplerOptions { logit_bias: vec![(300 + number, 1e6)], ..SamplerOptions::plain() };
            let generate = GenerateOptions { max_tokens: 64, ignore_end: true, ..Default::default() };
            let prompt = vec![300 + number; 8];
            batch.submit(Request { prompt, sampler, generate, ..Default::default() }).unwrap();
        }
        while batch.running() + batch.waiting() > 0 {
            advance(&mut batch, &mut written).unwrap();
        }
        let counts = batch.speculation_counts();
        let tokens = 64 * texts as u64;
        let (passes, guessed) = if texts == 5 { (64, 0) } else { (16, 48 * texts as u64) };
        assert_eq!((counts.tokens, counts.passes, counts.guessed), (tokens, passes, guessed), "{texts}");
    }
}

/// Texts that wait for their turn, and not for memory, are no reason to guess nothing.
#[test]
fn a_full_batch_guesses() {
    let runtime = Runtime::new(Model::open(demo_model()).unwrap(), 2).unwrap();
    let mut batch = runtime.batch(None, options(1, Speculate::On)).unwrap();
    let mut written = Written::new();
    for number in 0..3 {
        let sampler = SamplerOptions { logit_bias: vec![(300 + number, 1e6)], ..SamplerOptions::plain() };
        let generate = GenerateOptions { max_tokens: 64, ignore_end: true, ..Default::default() };
        batch
            .submit(Request { prompt: vec![300 + number; 8], sampler, generate, ..Default::default() })
            .unwrap();
    }
    while batch.running() + batch.waiting() > 0 {
        advance(&mut batch, &mut written).unwrap();
    }
    assert_eq!(batch.speculation_counts().passes, 3 * 16);
}

/// Tokens that are given are known before: no pass is needed for each of them.
#[test]
fn given_tokens_are_scored_in_one_pass_a_block() {
    let runtime = Runtime::new(Model::open(demo_model()).unwrap(), 2).unwrap();
    let forced: Vec<u32> = (0..40).map(|at| 300 + at * at % 97).collect();
    let score = |speculate: Speculate| {
        let mut batch = runtime.batch(None, options(2, speculate)).unwrap();
        for start in [0, 7] {
            let forced = forced[start..].to_vec();
            let generate = GenerateOptions {
                max_tokens: forced.len(),
                ignore_end: true,
                logprobs: Some(1),
                ..Default::default()
            };
            batch.submit(Request { prompt: vec![400; 8], forced, generate, ..Default::default() }).unwrap();
        }
        let mut written = Written::new();
        while batch.running() + batch.waiting() > 0 {
            advance(&mut batch, &mut written).unwrap();
        }
        (written, batch.speculation_counts().passes)
    };
    let (expected, passes) = score(Speculate::Off);
    assert_eq!(passes, 40);
    let (written, passes) = score(Speculate::On);
    assert!(written == expected);
    assert_eq!(passes, 10);
}

/// Guesses take memory only where no text needs it.
#[test]
fn guesses_stay_within_the_memory() {
    let runtime = Runtime::new(Model::open(demo_model()).unwrap(), 2).unwrap();
    let text = |number: u32, max_tokens: usize| Request {
        prompt: vec![300 + number; 8],
        generate: GenerateOptions { max_tokens, ignore_end: true, ..Default::default() },
        ..Default::default()
    };
    let (small, large) = (text(1, 40), text(2, 700));
    let used = |requests: &[&Request], speculate: Speculate| {
        let mut batch = runtime.batch(None, options(4, speculate)).unwrap();
        for request in requests {
            batch.submit((*request).clone()).unwrap();
        }
        advance(&mut batch, &mut Written::new()).unwrap();
        batch.memory()
    };
    let plain = used(&[&small], Speculate::Off);
    let guesses = used(&[&small], Speculate::On) - plain;
    assert!(guesses > 450_000, "{guesses}");
    let both = used(&[&small, &large], Speculate::Off);
    for memory in [both, both + guesses, both + 2 * guesses] {
        let options = BatchOptions { memory: Some(memory), ..options(4, Speculate::On) };
        let mut batch = runtime.batch(None, options).unwrap();
        let mut written = Written::new();
        batch.submit(small.clone()).unwrap();
        advance(&mut batch, &mut written).unwrap();
        assert_eq!(batch.memory() - plain, if memory > plain + guesses { guesses } else { 0 });
        batch.submit(large.clone()).unwrap();
        advance(&mut batch, &mut written).unwrap();
        assert_eq!((batch.running(), batch.memory()), (2, memory));
        while batch.running() > 0 {
            advance(&mut batch, &mut written).unwrap();
            assert!(batch.memory() <= memory);
        }
    }
}
