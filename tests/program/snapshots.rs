//! A saved session continues exactly where it was, and bytes that are not one are refused.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use crate::common::{Golden, case, cases, demo_model, emulated, quantize};
use cinderblock::{
    Alignment, CacheType, ErrorKind, GenerateOptions, Generator, Model, Runtime, Sampler, SamplerOptions,
    SessionOptions, Snapshot, Step,
};
use tempfile::TempDir;

/// At every token, inside blocks and at their ends, before and after the cache rolls, for every variant of the
/// architecture: the same logits, to the bit, now and later.
#[test]
fn a_loaded_session_continues_to_the_bit() {
    for name in cases() {
        let golden = Golden::read(name);
        for (kind, cache_type) in [("q4", CacheType::F16), ("f32", CacheType::F32), ("q8", CacheType::Q8)] {
            let (_folder, file) = quantize(&case(name), kind);
            let runtime = Runtime::new(Model::open(&file).unwrap(), 1).unwrap();
            for (cache_blocks, sink_blocks) in [(512, 4), (3, 1), (5, 0)] {
                let options = SessionOptions {
                    cache_blocks: Some(cache_blocks),
                    sink_blocks,
                    cache_type: Some(cache_type),
                    ..Default::default()
                };
                let mut session = runtime.session(&options).unwrap();
                session.append(&golden.tokens[..3]).unwrap();
                for (at, pair) in golden.tokens[3..].windows(2).enumerate() {
                    // Sometimes the logits are known when the session is saved.
                    if at % 3 == 0 {
                        session.logits().unwrap();
                    }
                    let saved = Snapshot::save(&session, None).unwrap();
                    let loaded = Snapshot::from_bytes(runtime.model(), saved.bytes()).unwrap();
                    let (mut copy, sampler) = loaded.restore(&runtime).unwrap();
                    assert!(sampler.is_none() && copy.length() == session.length());
                    assert!(Snapshot::save(&copy, None).unwrap().bytes() == saved.bytes());
                    for token in pair {
                        let what = || format!("{name} {kind} {cache_blocks} at {at}");
                        assert!(copy.logits().unwrap() == session.logits().unwrap(), "{}", what());
                        copy.append(&[*token]).unwrap();
                        if token == &pair[0] {
                            session.append(&[*token]).unwrap();
                        } else {
                            break;
                        }
                    }
                }
            }
        }
    }
}

/// With penalty, seed and a cache that has rolled, a text goes on as if nothing had happened.
#[test]
fn a_loaded_text_continues_with_its_sampler() {
    let runtime = Runtime::new(Model::open(demo_model()).unwrap(), 1).unwrap();
    let options = SessionOptions { cache_blocks: Some(9), sink_blocks: 2, ..Default::default() };
    let mut generator = runtime.generator(&options).unwrap();
    let sampling =
        SamplerOptions { repetition_penalty: 1.2, repetition_window: 16, seed: 5, ..SamplerOptions::plain() };
    generator.set_sampler(sampling).unwrap();
    generator.append(&[300, 301, 302, 303, 304]).unwrap();
    let empty = runtime.generator(&options).unwrap();
    let loaded = runtime.load(&empty.save().unwrap()).unwrap();
    assert_eq!(loaded.length(), 0);
    let mut snapshots = Vec::new();
    let mut tokens = Vec::new();
    for _ in 0..60 {
        let snapshot = generator.save().unwrap();
        assert_eq!(snapshot.bytes().len() as u64, generator.saved_bytes().unwrap());
        snapshots.push(snapshot);
        tokens.push(generator.next_token().unwrap());
    }
    let step = if emulated() { 7 } else { 1 };
    for (at, snapshot) in snapshots.iter().enumerate().step_by(step) {
        let mut copy = runtime.load(snapshot).unwrap();
        tokens[at..].iter().for_each(|token| assert_eq!(copy.next_token().unwrap(), *token, "saved at {at}"));
    }
}

/// A small model with a session of it that has everything.
fn saved(folder: &Path) -> (Runtime, Vec<u8>) {
    let (_folder, file) = quantize(&case("main"), "q4");
    let path = folder.join("model.gguf");
    fs::copy(file, &path).unwrap();
    let runtime = Runtime::new(Model::open(path).unwrap(), 1).unwrap();
    let options = SessionOptions { cache_blocks: Some(4), sink_blocks: 1, ..Default::default() };
    let mut session = runtime.session(&options).unwrap();
    session.append(&(1..30).collect::<Vec<_>>()).unwrap();
    session.append(&[7, 8]).unwrap();
    let sampling = SamplerOptions {
        repetition_penalty: 1.2,
        repetition_window: 3,
        logit_bias: vec![(9, -2.5)],
        ..SamplerOptions::plain()
    };
    let mut sampler = Sampler::new(sampling, runtime.model().config().vocabulary).unwrap();
    (1..6).for_each(|token| sampler.accept(token));
    let bytes = Snapshot::save(&session, Some(&sampler)).unwrap().bytes().to_vec();
    (runtime, bytes)
}

/// Sets bytes and makes the checksum right again.
fn forged(bytes: &[u8], at: usize, value: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + value.len()].copy_from_slice(value);
    let end = bytes.len() - 4;
    let checksum = crc32fast::hash(&bytes[..end]).to_le_bytes();
    bytes[end..].copy_from_slice(&checksum);
    bytes
}

#[test]
fn a_damaged_session_is_refused() {
    let folder = TempDir::new().unwrap();
    let (runtime, bytes) = saved(folder.path());
    let model = runtime.model();
    let refused = |bytes: &[u8], expected: &str| {
        let error = Snapshot::from_bytes(model, bytes).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
        let path = folder.path().join("session");
        fs::write(&path, bytes).unwrap();
        let error = Snapshot::read(model, &path).err().unwrap();
        assert!(error.to_string().contains(expected) && error.path() == Some(&path), "{error}");
    };
    for length in 0..bytes.len() {
        assert!(Snapshot::from_bytes(model, &bytes[..length]).is_err());
    }
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(Snapshot::from_bytes(model, &bytes).is_err(), "bit {bit}");
    }
    refused(&bytes[..71], "71 bytes");
    refused(&[&bytes[..], &[0]].concat(), "bytes, expected");
    let cases: &[(usize, &[u8], &str)] = &[
        (0, b"GGUF", "start of session file"),
        (8, &[1], "session file version: found 1, expected 2"),
        (12, &[7], "cache type: found 7"),
        (16, &[0; 8], "model of the session"),
        (24, &[0; 8], "model of the session"),
        (32, &[1, 0, 0, 0], "cache blocks: found 1, expected more than the 1 pinned"),
        (32, &[255; 8], "expected"),
        (40, &[255; 8], "expected more than"),
        (48, &[255; 8], "blocks of the session"),
        (48, &[0; 8], "tokens of the open block: found 2, expected at most 0"),
        (56, &[4], "tokens of the open block: found 4, expected at most 3"),
        (60, &[255; 4], "recent tokens"),
        (64, &[2], "alignment: found 2, expected 0 (left) or 1 (tail)"),
        (68, &[255; 4], "biased tokens: found 4294967295, expected at most 260"),
    ];
    for (at, value, expected) in cases {
        refused(&forged(&bytes, *at, value), expected);
    }
    // What only shows when it is used.
    let sampler = bytes.len() - 4 - 8 - 3 * 4 - 64;
    let context = 8 + 4 * model.config().block_decoder.hidden;
    for (at, value) in [
        (72 + context, [255; 8]),
        (sampler - 24, [255; 8]),
        (sampler + 76, [255; 8]),
        (sampler, [0, 0, 0xc0, 0x7f, 0, 0, 0x80, 0x3f]),
        (sampler + 48, [255; 8]),
        (sampler + 48, [3, 0, 0, 0, 0, 0, 0, 0]),
        (sampler + 56, [1; 8]),
        (sampler + 64, [255; 8]),
        (sampler + 24, [2, 0, 0, 0, 0, 0, 0, 0]),
    ] {
        let bytes = forged(&bytes, at, &value);
        let snapshot = Snapshot::from_bytes(model, &bytes[..]).unwrap();
        assert!(snapshot.restore(&runtime).is_err(), "{at} {value:?}");
    }
    // The length of the session decides what is in the cache; the largest one works.
    let snapshot = forged(&bytes, 48, &(1u64 << 48).to_le_bytes());
    let (mut session, _) = Snapshot::from_bytes(model, snapshot).unwrap().restore(&runtime).unwrap();
    session.append(&[1, 2, 3, 4, 5]).unwrap();
    let _ = session.logits();
    // Numbers that are none are noticed.
    let snapshot = forged(&bytes, 80, &f32::NAN.to_le_bytes());
    let (mut session, _) = Snapshot::from_bytes(model, snapshot).unwrap().restore(&runtime).unwrap();
    assert_eq!(session.logits().unwrap_err().kind(), ErrorKind::Numeric);
}

#[test]
fn a_session_of_another_model_is_refused() {
    let folder = TempDir::new().unwrap();
    let (_, bytes) = saved(folder.path());
    for (name, kind) in [("main", "q8"), ("block1", "q4")] {
        let (_folder, file) = quantize(&case(name), kind);
        let error = Snapshot::from_bytes(&Model::open(file).unwrap(), &bytes[..]).err().unwrap();
        assert!(error.to_string().contains("model of the session"), "{error}");
    }
}

#[test]
fn a_file_is_replaced_whole_or_not_at_all() {
    let folder = TempDir::new().unwrap();
    let (runtime, bytes) = saved(folder.path());
    let model = runtime.model();
    let snapshot = Snapshot::from_bytes(model, &bytes[..]).unwrap();
    let path = folder.path().join("session");
    for _ in 0..2 {
        snapshot.write(&path).unwrap();
        assert!(Snapshot::read(model, &path).unwrap().bytes() == bytes);
    }
    for wrong in
        [folder.path().to_path_buf(), folder.path().join("none/session"), "/dev/null".into(), "".into()]
    {
        assert!(snapshot.write(&wrong).is_err(), "{wrong:?}");
        assert!(Snapshot::read(model, &wrong).is_err(), "{wrong:?}");
    }
    // A file that claims little and is long is not read.
    let sparse = fs::File::create(&path).unwrap();
    sparse.set_len(1 << 40).unwrap();
    assert!(Snapshot::read(model, &path).is_err());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        snapshot.write(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn an_interrupt_stops_one_call() {
    let runtime = Runtime::new(Model::open(demo_model()).unwrap(), 1).unwrap();
    let mut generator = runtime.generator(&SessionOptions::default()).unwrap();
    let long = vec![300; 4096];
    generator.append(&[300, 301]).unwrap();
    let length = generator.length();
    generator.interrupt().trigger();
    assert_eq!(generator.append(&long).unwrap_err().kind(), ErrorKind::Interrupted);
    let block = runtime.model().config().block_length as u64;
    assert_eq!(generator.length(), length);
    generator.append(&long).unwrap();
    assert_eq!(generator.length(), length + 4096);
    // From another thread, in the middle.
    let interrupt = generator.interrupt().clone();
    let other = std::thread::spawn(move || interrupt.trigger());
    let mut before = generator.length();
    while generator.append(&long).is_ok() {
        before = generator.length();
    }
    other.join().unwrap();
    // Stopped before its first block, an append has added nothing to the open one.
    assert!(generator.length() == before || generator.length().is_multiple_of(block));
    generator.next_token().unwrap();
    generator.interrupt().trigger();
    assert_eq!(generator.next_token().unwrap_err().kind(), ErrorKind::Interrupted);
    generator.interrupt().trigger();
    generator.clear().unwrap();
    generator.append(&[300]).unwrap();
    generator.next_token().unwrap();
}

/// The tokens that an interrupted append has added are recent ones, as if no others had been asked for: those that the
/// cache has forgotten by then too.
#[test]
fn an_interrupted_append_counts_for_the_repetition_penalty() {
    let runtime = Runtime::new(Model::open(demo_model()).unwrap(), 1).unwrap();
    let generator = || {
        // A pass of 128 blocks is remembered in part.
        let alignment = Some(Alignment::Left);
        let options = SessionOptions { cache_blocks: Some(40), alignment, ..Default::default() };
        let mut generator = runtime.generator(&options).unwrap();
        let options = SamplerOptions {
            temperature: 0.0,
            repetition_penalty: 1e6,
            repetition_window: 4096,
            ..SamplerOptions::plain()
        };
        generator.set_sampler(options).unwrap();
        generator
    };
    // The first block begins with padding.
    let tokens: Vec<u32> = (1..4094).rev().collect();
    let started = Instant::now();
    generator().append(&tokens).unwrap();
    let whole = started.elapsed();
    let stopped = |percent: u32| {
        let mut stopped = generator();
        let interrupt = stopped.interrupt().clone();
        let other = std::thread::spawn(move || {
            std::thread::sleep(whole * percent / 100);
            interrupt.trigger();
        });
        let failed = stopped.append(&tokens).is_err();
        other.join().unwrap();
        (failed && stopped.length() > 0).then_some(stopped)
    };
    // It depends on the machine when it is in the middle.
    let mut stopped = (0..40)
        .map(|turn| 20 + turn * 17 % 80)
        .find_map(stopped)
        .expect("an append that is stopped in the middle");
    let (first, rest) = tokens.split_at(tokens.len() % 4);
    let mut expected = generator();
    expected.append(first).unwrap();
    expected.append(&rest[..stopped.length() as usize - 4]).unwrap();
    for _ in 0..32 {
        assert_eq!(stopped.next_token().unwrap(), expected.next_token().unwrap());
    }
}

/// Wherever it is stopped, in the middle of a layer stack too, a session is as long as it says and goes on from there.
#[test]
fn an_interrupted_call_can_be_resumed() {
    let runtime = Runtime::new(Model::open(demo_model()).unwrap(), 1).unwrap();
    let options = SessionOptions { cache_blocks: Some(40), ..Default::default() };
    let start = || runtime.session(&options).unwrap();
    let text: Vec<u32> = (0..4001).map(|i| i * 31 % 4000 + 2).collect();
    let mut whole = start();
    whole.append(&text).unwrap();
    let expected = whole.logits().unwrap();
    let mut stopped = 0;
    // A pass takes seconds where ARM is emulated.
    let step = if cfg!(target_arch = "aarch64") { 12 } else { 1 };
    for delay in (0..60).step_by(step) {
        let mut session = start();
        let interrupt = session.interrupt().clone();
        let other = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_micros(delay * delay * 20));
            interrupt.trigger();
        });
        let mut done = 0;
        while done < text.len() {
            stopped += usize::from(session.append(&text[done..]).is_err());
            done = session.length() as usize;
        }
        other.join().unwrap();
        session.interrupt().clear();
        assert!(session.logits().unwrap() == expected, "after {delay}");
    }
    println!("stopped {stopped} times");
}

/// Each of several generators gets the tokens that it would get alone.
#[test]
fn generators_in_one_pass_get_the_tokens_of_separate_ones() {
    let runtime = Runtime::new(Model::open(demo_model()).unwrap(), 1).unwrap();
    let start = |seed: u32| {
        let mut generator = runtime.generator(&SessionOptions::default()).unwrap();
        generator.set_sampler(SamplerOptions { seed: seed.into(), ..SamplerOptions::plain() }).unwrap();
        generator.append(&[300 + seed, 301, 302, 303, 304][..=seed as usize % 5]).unwrap();
        generator
    };
    let mut alone: Vec<Generator> = (0..5).map(start).collect();
    let mut together: Vec<Generator> = (0..5).map(start).collect();
    // One of them has its logits already.
    together[2].logits().unwrap();
    let mut tokens = Vec::new();
    for _ in 0..13 {
        Generator::next_tokens(&mut together.iter_mut().collect::<Vec<_>>(), &mut tokens).unwrap();
        let expected: Vec<u32> = alone.iter_mut().map(|generator| generator.next_token().unwrap()).collect();
        assert_eq!(tokens, expected);
    }
    let (mut empty, mut other) = (start(0), start(1));
    empty.clear().unwrap();
    let length = other.length();
    assert!(Generator::next_tokens(&mut [&mut other, &mut empty], &mut tokens).is_err());
    assert_eq!(other.length(), length);
}

#[test]
fn generation_ends_at_lengths_stops_and_callers() {
    use cinderblock::End;
    use cinderblock::Tokenizer;
    let runtime = Runtime::new(Model::open(demo_model()).unwrap(), 1).unwrap();
    let tokenizer = Tokenizer::of_model(runtime.model()).unwrap();
    let start = |stops: &[&str]| {
        let mut generator = runtime.generator(&SessionOptions::default()).unwrap();
        generator.set_sampler(SamplerOptions { temperature: 0.0, ..SamplerOptions::plain() }).unwrap();
        generator.set_stops(stops.iter().map(|stop| stop.to_string()).collect());
        generator.append(&tokenizer.encode("The old house").unwrap()).unwrap();
        generator
    };
    let mut text = String::new();
    let options = GenerateOptions { max_tokens: 30, ignore_end: true, ..Default::default() };
    let mut collect = |step: Step| {
        text.push_str(&step.text);
        ControlFlow::Continue(())
    };
    assert_eq!(start(&[]).generate(Some(&tokenizer), &options, &mut collect).unwrap(), (End::Length, 30));
    let stop = text.chars().skip(20).take(4).collect::<String>();
    let expected = text.split(&stop).next().unwrap().to_string();
    let mut cut = String::new();
    let (end, _) = start(&[&stop])
        .generate(Some(&tokenizer), &options, |step| {
            cut.push_str(&step.text);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!((end, cut), (End::Stop, expected));
    let (end, count) = start(&[]).generate(Some(&tokenizer), &options, |_| ControlFlow::Break(())).unwrap();
    assert!(end == End::Caller && count < 30);
}
