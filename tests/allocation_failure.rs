//! Every buffer whose size a model file, an option or an input decides is asked for, and an error if there is none: the
//! first allocation that is large fails, then the second, and so on, and what failed works afterwards.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cinderblock::unstable::model::{EmbedderConfig, EncoderConfig, T5Config, TokenDecoderConfig};
use cinderblock::unstable::quant::WeightType;
use cinderblock::{
    Activation, BatchOptions, Config, ErrorKind, Event, GenerateOptions, Model, Projection, Request,
    Residual, Result, Runtime, SessionOptions, Snapshot, StackConfig, Strategy,
};

#[path = "../fuzz/src/tiny.rs"]
#[allow(dead_code, reason = "shared with the fuzz targets")]
mod tiny;

/// Bytes from which on an allocation may fail. What is smaller is the bookkeeping of a call.
const LARGE: usize = 16 << 10;

struct Failing;

/// Large allocations until one fails; 0 is never.
static LEFT: AtomicUsize = AtomicUsize::new(0);

fn fails(bytes: usize) -> bool {
    let count = |left: usize| left.checked_sub(1);
    bytes >= LARGE && LEFT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count) == Ok(1)
}

// SAFETY: every call is passed on to the system's allocator, or fails.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if fails(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if fails(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if fails(size) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static FAILING: Failing = Failing;

/// Does some work on an object until no allocation is left to fail. After each failure, `again` shows that the object
/// works. Returns the number of failures.
fn each_failure<S, T>(
    name: &str,
    mut fresh: impl FnMut() -> S,
    mut work: impl FnMut(&mut S) -> Result<T>,
    mut again: impl FnMut(&mut S),
) -> usize {
    for count in 1.. {
        let mut state = fresh();
        LEFT.store(count, Ordering::Relaxed);
        let result = work(&mut state);
        let failed = LEFT.swap(0, Ordering::Relaxed) == 0;
        match result {
            Ok(_) if !failed => return count - 1,
            // Where there is another way without the memory.
            Ok(_) => {}
            Err(error) => {
                assert!(failed && error.kind() == ErrorKind::Resource, "{name} {count}: {error}");
                assert!(!error.to_string().contains('\n'), "{error}");
            }
        }
        again(&mut state);
    }
    unreachable!()
}

fn stack(hidden: usize) -> StackConfig {
    StackConfig {
        layers: 2,
        hidden,
        heads: 2,
        feed_forward: 256,
        rotary: 8,
        rotary_base: 10000.0,
        epsilon: 1e-5,
        residual: Residual::Parallel,
        activation: Activation::Gelu,
        attention_bias: true,
    }
}

/// A model of each kind of embedder and of token decoder, with buffers that are large.
fn configs() -> [(&'static str, Config); 4] {
    let lookup = |block: usize| EmbedderConfig::Lookup { width: 128 / block, projection: Projection::Concat };
    let encoder = EncoderConfig {
        layers: 1,
        hidden: 64,
        heads: 2,
        feed_forward: 128,
        positions: 16,
        start_tokens: 2,
        epsilon: 1e-5,
    };
    let t5 = T5Config {
        layers: 2,
        hidden: 64,
        heads: 2,
        head_dim: 32,
        feed_forward: 256,
        buckets: 32,
        max_distance: 128,
        epsilon: 1e-6,
        output_scale: 1.0,
        summation: false,
    };
    let neox = TokenDecoderConfig::Neox { stack: stack(64), strategy: Strategy::Prefix, expansion: 2 };
    let config = |block_length, embedder, token_decoder| Config {
        block_length,
        vocabulary: 6000,
        embedder,
        token_decoder,
        block_decoder: stack(128),
        ..tiny::config()
    };
    let roberta = EmbedderConfig::Roberta { encoder, projection: Projection::Linear };
    [
        ("lookup", config(4, lookup(4), neox.clone())),
        ("roberta", config(4, roberta, neox)),
        ("t5", config(4, lookup(4), TokenDecoderConfig::T5 { decoder: t5, expansion: 4 })),
        ("vanilla", config(1, lookup(1), TokenDecoderConfig::Head { hidden: 128 })),
    ]
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

// One test: the allocator is that of the process.
#[test]
fn memory_that_is_not_there_is_an_error_and_what_asked_for_it_works_afterwards() {
    #[cfg(unix)]
    the_tables_of_a_long_empty_file_take_no_memory();
    for (name, config) in configs() {
        let kinds = [WeightType::Q8, WeightType::F16];
        let file = tiny::file(&config, None, |index| kinds[index % 2]);
        let failures = each_failure(
            "open",
            || (),
            |()| Model::from_bytes(&file),
            |()| drop(Model::from_bytes(&file).unwrap()),
        );
        assert!(failures > 0, "{name}");
        let model = Arc::new(Model::from_bytes(&file).unwrap());
        // With assertions a pass takes several times as long.
        for threads in if cfg!(debug_assertions) { 2..=2 } else { 1..=2 } {
            let runtime = Runtime::new(Arc::clone(&model), threads).unwrap();
            sessions(name, &runtime);
            batches(name, &runtime);
        }
    }
}

fn sessions(name: &str, runtime: &Runtime) {
    let options = SessionOptions { cache_blocks: Some(300), ..Default::default() };
    let vocabulary = runtime.model().config().vocabulary as u32;
    let tokens: Vec<u32> = (0..1203).map(|at| at * 7 % vocabulary).collect();
    let session = || runtime.session(&options).unwrap();
    let mut whole = session();
    whole.append(&tokens).unwrap();
    let expected = bits(whole.logits().unwrap());

    let failures = each_failure(name, || (), |()| runtime.session(&options), |()| drop(session()));
    assert!(failures > 2, "{name}: {failures}");

    let failures = each_failure(
        name,
        session,
        |session| {
            session.append(&tokens)?;
            session.logits().map(|_| ())
        },
        |session| {
            session.clear();
            session.append(&tokens).unwrap();
            assert!(bits(session.logits().unwrap()) == expected, "{name}");
        },
    );
    assert!(failures > 5, "{name}: {failures}");

    // The tokens are there, and only their logits failed.
    let read = || {
        let mut session = session();
        session.append(&tokens).unwrap();
        session
    };
    let again = |session: &mut cinderblock::Session| {
        assert!(bits(session.logits().unwrap()) == expected, "{name}");
    };
    each_failure(name, read, |session| session.logits().map(|_| ()), again);

    let scores = |scorer: &mut cinderblock::Scorer| {
        let mut sum = 0.0;
        scorer.score(&tokens, |_, logits| {
            sum += logits[0];
            Ok(())
        })?;
        scorer.contexts(&tokens, |context| {
            sum += context[0];
            Ok(())
        })?;
        Ok(sum)
    };
    let scorer = || runtime.scorer(&options).unwrap();
    let expected_sum = scores(&mut scorer()).unwrap();
    each_failure(name, || (), |()| runtime.scorer(&options), |()| drop(scorer()));
    let failures = each_failure(name, scorer, scores, |scorer| {
        assert_eq!(scores(scorer).unwrap(), expected_sum);
    });
    assert!(failures > 5, "{name}: {failures}");

    each_failure(name, || (), |()| runtime.generator(&options), |()| ());
    let generator = || {
        let mut generator = runtime.generator(&options).unwrap();
        generator.append(&tokens).unwrap();
        generator
    };
    let saved = generator().save().unwrap().bytes().to_vec();
    let failures = each_failure(
        name,
        generator,
        |generator| generator.save(),
        |generator| assert!(generator.save().unwrap().bytes() == saved, "{name}"),
    );
    assert!(failures > 0, "{name}");
    let load = || runtime.load(&Snapshot::from_bytes(runtime.model(), &saved[..])?);
    let failures = each_failure(
        name,
        || (),
        |()| load(),
        |()| {
            assert!(bits(load().unwrap().logits().unwrap()) == expected, "{name}");
        },
    );
    assert!(failures > 2, "{name}");
}

/// What becomes of four texts, two of which share their beginning.
fn batches(name: &str, runtime: &Runtime) {
    let start = |batch: &mut cinderblock::Batch| {
        let beginning: Vec<u32> = (0..400).collect();
        let start = batch.begin(&beginning, 20)?;
        for at in 0..4u32 {
            let prompt: Vec<u32> = (at * 100..at * 100 + 150).collect();
            let start = (at % 2 == 0).then(|| Arc::clone(&start));
            let generate = GenerateOptions { max_tokens: 9, ..Default::default() };
            batch.submit(Request { prompt, start, generate, ..Default::default() })?;
        }
        Ok(())
    };
    let finish = |batch: &mut cinderblock::Batch| {
        let (mut tokens, mut failed) = (Vec::new(), false);
        // A pass that failed can be tried again.
        let mut result = Ok(());
        while result.is_ok() && batch.waiting() + batch.running() > 0 {
            result = batch.advance(|id, event| match event {
                Event::Step(step) => tokens.extend(step.token.map(|token| (id, token.id))),
                Event::Failed(error) => {
                    assert_eq!(error.kind(), ErrorKind::Resource);
                    failed = true;
                }
                Event::Ended(..) => {}
            });
        }
        (tokens, failed, result)
    };
    let session = SessionOptions { cache_blocks: Some(600), ..Default::default() };
    let options = BatchOptions { session, sequences: 4, ..Default::default() };
    let batch = || runtime.batch(None, options.clone()).unwrap();
    let sorted = |mut tokens: Vec<(u64, u32)>| {
        tokens.sort_by_key(|(id, _)| *id);
        tokens
    };
    let mut alone = batch();
    start(&mut alone).unwrap();
    let (expected, failed, result) = finish(&mut alone);
    let expected = sorted(expected);
    assert!(!failed && result.is_ok() && expected.len() == 36);
    each_failure(name, || (), |()| runtime.batch(None, options.clone()), |()| ());
    let mut tokens = Vec::new();
    let failures = each_failure(
        name,
        batch,
        |batch| {
            tokens.clear();
            start(batch)?;
            let (some, _, result) = finish(batch);
            tokens = some;
            result
        },
        |batch| {
            // What was submitted goes on, whichever pass failed; then all of it once more.
            let (_, failed, result) = finish(batch);
            assert!(!failed && result.is_ok(), "{name}");
            start(batch).unwrap();
            let (some, failed, result) = finish(batch);
            assert!(!failed && result.is_ok(), "{name}");
            let first = some.iter().map(|(id, _)| *id).min().unwrap();
            let some = some.into_iter().map(|(id, token)| (id - first, token)).collect();
            assert!(sorted(some) == expected, "{name}");
        },
    );
    assert!(failures > 5, "{name}: {failures}");
}

/// A file with holes is as long as it says, and takes neither a disk nor memory.
#[cfg(unix)]
fn the_tables_of_a_long_empty_file_take_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let counts = |tensors: u64, keys: u64| {
        let mut start = b"GGUF\x03\0\0\0".to_vec();
        start.extend(tensors.to_le_bytes());
        start.extend(keys.to_le_bytes());
        start
    };
    for (tensors, keys) in [(1 << 34, 0), (0, 1 << 34), (1 << 34, 1 << 34)] {
        std::fs::write(&path, counts(tensors, keys)).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(Model::open(&path).err().unwrap().kind(), ErrorKind::Format);
    }
}
