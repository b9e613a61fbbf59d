//! Texts that are written together are those that each would be alone, whoever comes and goes.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::common::{case, cases, demo_model, emulated, quantize};
use cinderblock::unstable::kernels::Kernels;
use cinderblock::{
    Alignment, BatchOptions, CacheType, End, ErrorKind, Event, GenerateOptions, MemoryEstimate, Model,
    Request, Runtime, SamplerOptions, SessionOptions, Speculate, Step, Tokenizer,
};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % bound
    }
}

/// What a text came to.
#[derive(Debug, Default, PartialEq)]
struct Written {
    tokens: Vec<cinderblock::Token>,
    text: String,
    end: Option<End>,
}

impl Written {
    fn take(&mut self, step: Step) {
        self.tokens.extend(step.token);
        self.text += &step.text;
    }
}

fn request(random: &mut Random, model: &Model, text: bool) -> Request {
    let vocabulary = model.config().vocabulary as u64;
    let mut prompt: Vec<u32> = (0..1 + random.below(60)).map(|_| random.below(vocabulary) as u32).collect();
    if random.below(8) == 0 {
        // Longer than a pass.
        prompt = (0..150 * model.config().block_length as u64 + random.below(300))
            .map(|_| random.below(vocabulary) as u32)
            .collect();
    }
    if random.below(3) == 0 && prompt.len() < 100 {
        // What several begin with.
        let start = (0..40 + 4 * random.below(100)).map(|token| (7 * token % vocabulary) as u32);
        prompt = start.chain(prompt).collect();
    }
    let stops = ["the", " and", ".", "\n", "Mr"];
    Request {
        prompt,
        sampler: SamplerOptions {
            temperature: [0.0, 0.8, 1.2][random.below(3) as usize],
            top_k: [0, 40][random.below(2) as usize],
            repetition_penalty: [1.0, 1.2][random.below(2) as usize],
            seed: random.below(1000),
            ..SamplerOptions::plain()
        },
        generate: GenerateOptions {
            max_tokens: random.below(40) as usize,
            logprobs: [None, Some(2)][random.below(2) as usize],
            ignore_end: random.below(2) == 0,
            ..Default::default()
        },
        stops: if text && random.below(3) == 0 {
            vec![stops[random.below(stops.len() as u64) as usize].to_string()]
        } else {
            Vec::new()
        },
        ..Default::default()
    }
}

fn alone(runtime: &Runtime, tokenizer: Option<&Tokenizer>, request: &Request) -> Written {
    alone_with(runtime, &SessionOptions::default(), tokenizer, request)
}

fn alone_with(
    runtime: &Runtime,
    session: &SessionOptions,
    tokenizer: Option<&Tokenizer>,
    request: &Request,
) -> Written {
    let mut generator = runtime.generator(session).unwrap();
    generator.set_sampler(request.sampler.clone()).unwrap();
    generator.set_stops(request.stops.clone());
    generator.append(&request.prompt).unwrap();
    let mut written = Written::default();
    let each = |step| {
        written.take(step);
        ControlFlow::Continue(())
    };
    let (end, _) = generator.generate(tokenizer, &request.generate, each).unwrap();
    written.end = Some(end);
    written
}

/// Lets `count` random texts come, be written and be cancelled at random, and compares each with what it is alone.
fn together(model: &Arc<Model>, count: u64, sequences: usize, seed: u64) {
    // Each way to guess is taken in turn.
    let speculate = Speculate::ALL[(count + seed) as usize % 3];
    // Every other run keeps prefixes.
    let prefix_cache = if seed.is_multiple_of(2) { 8 << 20 } else { 0 };
    let mut random = Random(seed);
    let [one, two] = [1, 2].map(|threads| Runtime::new(Arc::clone(model), threads).unwrap());
    let tokenizer = model.tokenizer_json().map(|json| Arc::new(Tokenizer::from_json(json).unwrap()));
    let session = SessionOptions::default();
    let small = SessionOptions { cache_blocks: Some(64), ..session.clone() };
    // Room for a few of them.
    let memory =
        MemoryEstimate::of_batch(model, &small, 20).total() + MemoryEstimate::new(model, &session).total();
    let options = BatchOptions { session, sequences, memory: Some(memory), prefix_cache, speculate };
    let mut batch = two.batch(tokenizer.clone(), options).unwrap();
    let mut requests = Vec::new();
    let mut written: BTreeMap<u64, Written> = BTreeMap::new();
    let mut most = 0;
    while (requests.len() as u64) < count || batch.waiting() + batch.running() > 0 {
        for _ in 0..random.below(6).min(count - requests.len() as u64) {
            let request = request(&mut random, model, tokenizer.is_some());
            assert_eq!(batch.submit(request.clone()).unwrap(), requests.len() as u64);
            requests.push(request);
        }
        if !requests.is_empty() && random.below(4) == 0 {
            requests[random.below(requests.len() as u64) as usize].interrupt.trigger();
        }
        if random.below(5) == 0 {
            batch.interrupt().trigger();
        }
        let outcome = batch.advance(|id, event| {
            let written = written.entry(id).or_default();
            assert_eq!(written.end, None, "text {id} goes on after its end");
            match event {
                Event::Step(step) => written.take(step),
                Event::Ended(end, tokens) => {
                    assert_eq!(tokens, written.tokens.len());
                    written.end = Some(end);
                }
                Event::Failed(error) => panic!("text {id}: {error}"),
            }
        });
        if let Err(error) = outcome {
            assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
        }
        assert!(batch.memory() <= memory && batch.running() <= sequences);
        most = most.max(batch.running());
    }
    assert!(most > 1 || sequences == 1 || count < 8);
    let prefixes = batch.prefixes();
    assert!(prefixes.bytes <= prefix_cache && (prefixes.hits > 0 || prefix_cache == 0 || count < 64));
    let (mut cancelled, mut stopped) = (0, 0);
    for (request, written) in requests.iter().zip(written.values()) {
        let alone = alone(&one, tokenizer.as_deref(), request);
        stopped += usize::from(written.end == Some(End::Stop));
        if written.end == Some(End::Caller) {
            cancelled += 1;
            assert_eq!(written.tokens[..], alone.tokens[..written.tokens.len()]);
        } else {
            assert_eq!(*written, alone);
        }
    }
    assert_eq!(written.len() as u64, count);
    println!("{count} texts, {most} at a time, {cancelled} cancelled, {stopped} stopped, {prefixes:?}");
}

#[test]
fn batch_neighbours_do_not_change_results() {
    let model = Arc::new(Model::open(demo_model()).unwrap());
    together(&model, 64, 64, 1);
    for seed in 2..5 {
        together(&model, 64, 5, seed);
        together(&model, 24, 3, seed);
        together(&model, 8, 1, seed);
    }
}

#[test]
fn batch_neighbours_do_not_change_results_on_any_instruction_set() {
    let models = [
        ("main", "q4"),
        ("main", "f32"),
        ("megabyte", "q8"),
        ("block8", "q4"),
        ("block1", "q4"),
        ("roberta_prefix", "q8"),
        ("cls_sum", "q4"),
        ("cls_cross_attn", "q4"),
    ];
    // Under an emulator, which is slow, fewer texts come and go.
    let texts = if emulated() { 5 } else { 12 };
    for (name, kind) in models.into_iter().filter(|(name, _)| cases().any(|case| case == *name)) {
        let (_folder, file) = quantize(&case(name), kind);
        for kernels in Kernels::all() {
            let model = Arc::new(Model::open(&file).unwrap().with_kernels(kernels));
            together(&model, texts, 8, 4);
        }
    }
}

fn plain(prompt: Vec<u32>, max_tokens: usize) -> Request {
    let generate = GenerateOptions { max_tokens, ignore_end: true, ..Default::default() };
    Request { prompt, generate, ..Default::default() }
}

/// Small texts that keep coming do not overtake one that has to wait until all the memory is free.
#[test]
fn long_prompts_are_admitted_in_order() {
    let runtime = Runtime::new(Model::open(demo_model()).unwrap(), 2).unwrap();
    let session = SessionOptions { cache_blocks: Some(512), ..Default::default() };
    // The buffers for several are a little larger than those for one.
    let memory = MemoryEstimate::new(runtime.model(), &session).total() + (1 << 16);
    let options =
        BatchOptions { session, sequences: 8, memory: Some(memory), prefix_cache: 0, ..Default::default() };
    let mut batch = runtime.batch(None, options).unwrap();
    let (mut big, mut order) = (None, Vec::new());
    for round in 0..200 {
        if round == 5 {
            big = Some(batch.submit(plain(vec![300; 2000], 40)).unwrap());
        }
        batch.submit(plain(vec![400 + round], 1 + round as usize % 7)).unwrap();
        batch
            .advance(|id, event| {
                if matches!(event, Event::Ended(..)) {
                    order.push(id);
                }
            })
            .unwrap();
        assert!(batch.memory() <= memory);
    }
    let big = big.unwrap();
    let place = order.iter().position(|id| *id == big).expect("the big text ended");
    assert!(order[..place].iter().all(|id| *id < big), "{order:?}");
    // Those that wait longest come next.
    assert!(order[place + 1..].iter().take(8).all(|id| *id <= big + 16), "{order:?}");
}

#[test]
fn copies_of_a_start_are_independent() {
    let runtime = Runtime::new(Model::open(demo_model()).unwrap(), 2).unwrap();
    let prompt: Vec<u32> = (300..403).collect();
    let mut batch = runtime.batch(None, BatchOptions::default()).unwrap();
    let start = batch.begin(&prompt, 30).unwrap();
    let request = |seed, prompt| Request {
        sampler: SamplerOptions { seed, repetition_penalty: 1.3, ..SamplerOptions::plain() },
        ..plain(prompt, 30)
    };
    for seed in 0..5 {
        batch.submit(Request { start: Some(start.clone()), ..request(seed, Vec::new()) }).unwrap();
    }
    let mut written = [const { Vec::new() }; 5];
    while batch.running() + batch.waiting() > 0 {
        batch
            .advance(|id, event| {
                if let Event::Step(step) = event {
                    written[id as usize].extend(step.token);
                }
            })
            .unwrap();
    }
    for (seed, written) in (0..).zip(&written) {
        assert_eq!(*written, alone(&runtime, None, &request(seed, prompt.clone())).tokens);
    }
    assert_ne!(written[0], written[1]);
}

/// What a beginning has in common with others that wait, run or have ended is not read again, and its texts are the same.
/// Prefixes are given up where beginnings need their memory.
#[test]
fn beginnings_that_begin_alike_are_read_once() {
    let runtime = Runtime::new(Model::open(demo_model()).unwrap(), 2).unwrap();
    let prompt =
        |number: u32| -> Vec<u32> { (300..363).chain((0..number).map(|i| 500 + 20 * number + i)).collect() };
    let request = |number: u32, prompt| Request {
        sampler: SamplerOptions { seed: number.into(), ..SamplerOptions::plain() },
        ..plain(prompt, 8)
    };
    for (alignment, kind) in [(Alignment::Tail, CacheType::F16), (Alignment::Left, CacheType::Q8)] {
        let session =
            SessionOptions { alignment: Some(alignment), cache_type: Some(kind), ..Default::default() };
        let small = SessionOptions { cache_blocks: Some(24), ..session.clone() };
        let memory = MemoryEstimate::of_batch(runtime.model(), &small, 8).total();
        for memory in [None, Some(memory)] {
            let options = BatchOptions {
                session: session.clone(),
                sequences: 4,
                memory,
                prefix_cache: 1 << 30,
                ..BatchOptions::default()
            };
            let mut batch = runtime.batch(None, options).unwrap();
            let mut written: BTreeMap<u64, Written> = BTreeMap::new();
            let (mut begun, mut most) = (0, 0);
            while begun < 20 || batch.waiting() + batch.running() > 0 {
                while begun < 20 && batch.waiting() < 4 && batch.has_room(prompt(begun).len(), 8) {
                    let start = Some(batch.begin(&prompt(begun), 8).unwrap());
                    batch.submit(Request { start, ..request(begun, Vec::new()) }).unwrap();
                    begun += 1;
                }
                let each = |id, event| match event {
                    Event::Step(step) => written.entry(id).or_default().take(step),
                    Event::Ended(end, _) => written.entry(id).or_default().end = Some(end),
                    Event::Failed(error) => panic!("text {id}: {error}"),
                };
                batch.advance(each).unwrap();
                most = most.max(batch.memory());
            }
            // Alignment on the left shifts the blocks: four kinds of lengths share nothing.
            let first = if alignment == Alignment::Left { 4 } else { 1 };
            let counts = batch.prefixes();
            assert!(counts.hits == 20 - first || memory.is_some() && counts.hits > 10, "{counts:?}");
            assert!(counts.tokens >= counts.hits * 57, "{counts:?}");
            assert!(memory.is_none_or(|memory| most <= memory), "{most}");
            for (number, written) in (0..).zip(written.values()) {
                let alone = alone_with(&runtime, &session, None, &request(number, prompt(number)));
                assert_eq!(*written, alone, "text {number}, {alignment:?}");
            }
            assert_eq!(written.len(), 20);
        }
    }
}

#[test]
fn impossible_requests_are_refused_at_once() {
    let (_folder, file) = quantize(&case("main"), "q4");
    let runtime = Runtime::new(Model::open(&file).unwrap(), 1).unwrap();
    let batch = |options| runtime.batch(None, options);
    let session = SessionOptions { cache_blocks: Some(8), ..Default::default() };
    assert!(batch(BatchOptions { sequences: 0, ..Default::default() }).is_err());
    let no_window = SessionOptions { cache_blocks: Some(4), sink_blocks: 4, ..Default::default() };
    assert!(batch(BatchOptions { session: no_window, ..Default::default() }).is_err());
    let none = BatchOptions { session: session.clone(), memory: Some(0), ..Default::default() };
    let error =
        batch(BatchOptions { sequences: 1, ..none }).unwrap().submit(plain(vec![5], 100)).unwrap_err();
    let needed =
        error.to_string().split_once("at least ").unwrap().1.split(' ').next().unwrap().parse().unwrap();
    // With memory for guesses, which are given up where there is none.
    let estimated = MemoryEstimate::of_batch(runtime.model(), &session, 1).total();
    assert!(needed < estimated && estimated < needed + (1 << 20), "{needed} {estimated}");
    for (memory, kind) in [(needed, None), (needed - 1, Some(ErrorKind::Resource))] {
        let options = BatchOptions {
            session: session.clone(),
            sequences: 1,
            memory: Some(memory),
            prefix_cache: 0,
            ..Default::default()
        };
        let mut batch = batch(options).unwrap();
        assert_eq!(batch.submit(plain(vec![5], 100)).err().map(|error| error.kind()), kind);
        for (request, text) in [
            (plain(Vec::new(), 1), "found 0 tokens"),
            (plain(vec![5; 33], 1), "found 33 tokens, expected at most 32"),
            (plain(vec![5, 260], 1), "260"),
            (
                Request {
                    sampler: SamplerOptions { temperature: -1.0, ..SamplerOptions::plain() },
                    ..plain(vec![5], 1)
                },
                "temperature",
            ),
        ] {
            let error = batch.submit(request).unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}

/// Each request that cannot be is refused, and the others are written as they are alone.
#[test]
fn a_request_that_cannot_be_stops_no_other() {
    let [runtime, other] = [(); 2].map(|()| Runtime::new(Model::open(demo_model()).unwrap(), 2).unwrap());
    let mut batch = runtime.batch(None, BatchOptions::default()).unwrap();
    let good = || Request {
        prompt: vec![300, 301, 302, 303, 304],
        generate: GenerateOptions { max_tokens: 9, ignore_end: true, ..Default::default() },
        ..Default::default()
    };
    let expected = alone(&runtime, None, &good());
    let first = batch.submit(good()).unwrap();
    let nothing = batch.begin(&[], 4).unwrap();
    let foreign = other.batch(None, BatchOptions::default()).unwrap().begin(&[5, 6], 4).unwrap();
    for (start, text) in [(nothing, "found 0 tokens"), (foreign, "another model")] {
        let request = Request { start: Some(start), prompt: Vec::new(), ..good() };
        let error = batch.submit(request).unwrap_err();
        assert!(error.kind() == ErrorKind::Argument && error.to_string().contains(text), "{error}");
    }
    // The logits of this one have been computed, and are computed again.
    let mut engine = runtime.engine();
    let mut start = runtime.sequence(&SessionOptions::default()).unwrap();
    engine.append(&mut start, &good().prompt).unwrap();
    engine.logits(std::slice::from_mut(&mut start), &[]).unwrap();
    let request = Request { start: Some(Arc::new(start)), prompt: Vec::new(), ..good() };
    let second = batch.submit(request).unwrap();
    let mut written: BTreeMap<u64, Written> = BTreeMap::new();
    while batch.waiting() + batch.running() > 0 {
        let advanced = batch.advance(|id, event| match event {
            Event::Step(step) => written.entry(id).or_default().take(step),
            Event::Ended(end, _) => written.entry(id).or_default().end = Some(end),
            Event::Failed(error) => panic!("{error}"),
        });
        advanced.unwrap();
    }
    assert_eq!(written.len(), 2);
    assert!(written[&first] == expected && written[&second] == expected, "{written:?}");
}

#[test]
fn limits_without_end_do_not_overflow() {
    for case_name in ["block1", "main"] {
        let (_folder, path) = quantize(&case(case_name), "q4");
        let runtime = Runtime::new(Model::open(path).unwrap(), 1).unwrap();
        let mut batch = runtime.batch(None, BatchOptions::default()).unwrap();
        let generate = GenerateOptions { max_tokens: usize::MAX, ignore_end: true, ..Default::default() };
        let request = Request { prompt: vec![5, 6, 7], generate, ..Default::default() };
        let (interrupt, mut tokens) = (request.interrupt.clone(), 0);
        batch.submit(request).unwrap();
        batch.begin(&[1], usize::MAX).unwrap();
        while batch.waiting() + batch.running() > 0 {
            batch
                .advance(|_, event| match event {
                    Event::Step(_) => tokens += 1,
                    Event::Ended(end, _) => assert_eq!(end, End::Caller),
                    Event::Failed(error) => panic!("{error}"),
                })
                .unwrap();
            if tokens > 20 {
                interrupt.trigger();
            }
        }
    }
}

/// Beginnings count, and a request that they keep out for good fails instead of waiting.
#[test]
fn shared_beginnings_stay_within_the_memory() {
    let runtime = Runtime::new(Model::open(demo_model()).unwrap(), 1).unwrap();
    let prompt: Vec<u32> = (0..400).map(|i| 300 + i % 2000).collect();
    let free = runtime.batch(None, BatchOptions::default()).unwrap().memory();
    let one = {
        let mut batch = runtime.batch(None, BatchOptions::default()).unwrap();
        let _start = batch.begin(&prompt, 4).unwrap();
        batch.memory() - free
    };
    // Beside its sequence, a text may have logits in order and a window of recent tokens.
    let text = 100_000;
    // What guesses take is more than that.
    let memory = Some(free + 3 * one + text);
    let options = BatchOptions { memory, speculate: Speculate::Off, ..Default::default() };
    let mut batch = runtime.batch(None, options).unwrap();
    let starts = [batch.begin(&prompt, 4).unwrap(), batch.begin(&prompt, 4).unwrap()];
    assert!(batch.memory() == free + 2 * one && !batch.has_room(prompt.len(), 4));
    assert_eq!(batch.begin(&prompt, 4).err().unwrap().kind(), ErrorKind::Resource);
    let request = |prompt: &[u32], start| Request {
        prompt: prompt.to_vec(),
        start,
        generate: GenerateOptions { max_tokens: 4, ..Default::default() },
        ..Default::default()
    };
    let long = [&prompt[..], &prompt].concat();
    let kept_out = batch.submit(request(&long, None)).unwrap();
    let follows = batch.submit(request(&[], Some(Arc::clone(&starts[0])))).unwrap();
    let (mut failed, mut ended, mut most) = (Vec::new(), Vec::new(), 0);
    while batch.waiting() + batch.running() > 0 {
        batch
            .advance(|id, event| match event {
                Event::Step(_) => {}
                Event::Ended(..) => ended.push(id),
                Event::Failed(_) => failed.push(id),
            })
            .unwrap();
        most = most.max(batch.memory());
    }
    assert_eq!((failed, ended), (vec![kept_out], vec![follows]));
    assert!(most <= free + 3 * one + text && text < one / 2, "{most} {free} {one}");
    drop(starts);
    assert!(batch.memory() == free && batch.has_room(prompt.len(), 4));
}
