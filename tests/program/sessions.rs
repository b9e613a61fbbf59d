//! A session's state depends on its text alone: not on how it came in, on threads, or on what was there before.

use std::sync::Arc;

use crate::common::{Golden, case, cases, demo_model, quantize};
use cinderblock::{
    Alignment, Append, CacheType, Model, Runtime, Sampler, SamplerOptions, Session, SessionOptions,
};

fn logits(session: &mut Session) -> Vec<f32> {
    session.logits().unwrap().to_vec()
}

/// The text is shorter than a block, so its padding is known only when its logits are asked for.
#[test]
fn masked_padding_survives_rewinding() {
    for name in ["roberta_prefix", "cls_sum", "cls_cross_attn"] {
        let golden = Golden::read(name);
        let (_folder, file) = quantize(&case(name), "q8");
        let runtime = Runtime::new(Model::open(&file).unwrap(), 2).unwrap();
        for alignment in Alignment::ALL {
            let options = SessionOptions { alignment: Some(alignment), ..Default::default() };
            let mut session = runtime.session(&options).unwrap();
            session.append(&golden.tokens[2..5]).unwrap();
            let expected = session.logits().unwrap().to_vec();
            session.append(&golden.tokens[5..20]).unwrap();
            session.rewind(1).unwrap();
            assert_eq!(session.logits().unwrap(), expected, "{name}, {}", alignment.name());

            // The same tokens as a text, not as padding, are another text.
            let mut text = vec![0];
            text.extend(&golden.tokens[2..5]);
            assert_eq!(session.common_prefix(&text), (0, 0));
            session.clear();
            session.append(&text).unwrap();
            assert_ne!(session.logits().unwrap(), expected, "{name}, {}", alignment.name());
        }
    }
}

/// Text appended in any pieces gives the same logits, to the bit, for quantized and float weights, with and
/// without forgetting.
#[test]
fn logits_do_not_depend_on_how_text_is_divided() {
    for name in cases() {
        let golden = Golden::read(name);
        for kind in ["q4", "f32"] {
            let (_folder, file) = quantize(&case(name), kind);
            let runtime = Runtime::new(Model::open(&file).unwrap(), 2).unwrap();
            let length = runtime.model().config().block_length;
            for (cache_blocks, sink_blocks) in [(512, 4), (3, 1), (5, 0), (2, 1)] {
                let options =
                    SessionOptions { cache_blocks: Some(cache_blocks), sink_blocks, ..Default::default() };
                let mut whole = runtime.session(&options).unwrap();
                let mut pieces = runtime.session(&options).unwrap();
                let mut at = 0;
                // The first piece is whole blocks: only the first text is padded.
                for piece in [length, 1, 1, 2, 3, 5, 7, 11].iter().cycle() {
                    let end = (at + piece).min(golden.tokens.len());
                    pieces.append(&golden.tokens[at..end]).unwrap();
                    whole.clear();
                    whole.append(&golden.tokens[..end - end % length]).unwrap();
                    whole.append(&golden.tokens[end - end % length..end]).unwrap();
                    assert_eq!(pieces.length(), end as u64);
                    assert!(
                        logits(&mut pieces) == logits(&mut whole),
                        "{name} {kind} {cache_blocks} at {end}"
                    );
                    at = end;
                    if at == golden.tokens.len() {
                        break;
                    }
                }
            }
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_text_with_any_number_of_threads() {
    let model = Arc::new(Model::open(demo_model()).unwrap());
    let generate = |threads: usize, seed: u64, cache_type| {
        let runtime = Runtime::new(Arc::clone(&model), threads).unwrap();
        let options = SessionOptions { cache_type: Some(cache_type), ..Default::default() };
        let mut session = runtime.session(&options).unwrap();
        let options =
            SamplerOptions { temperature: 0.9, top_k: 50, top_p: 0.95, seed, ..SamplerOptions::plain() };
        let mut sampler = Sampler::new(options, model.config().vocabulary).unwrap();
        session.append(&[300, 301, 302, 303, 304]).unwrap();
        let mut tokens = Vec::new();
        for _ in 0..60 {
            let token = sampler.sample(session.logits().unwrap());
            session.append(&[token]).unwrap();
            tokens.push(token);
        }
        tokens
    };
    for cache_type in [CacheType::F16, CacheType::Q8] {
        let first = generate(1, 7, cache_type);
        for threads in [2, 3, 8] {
            assert_eq!(generate(threads, 7, cache_type), first, "{threads} threads");
        }
        assert_ne!(generate(2, 8, cache_type), first);
    }
}

#[test]
fn refused_requests_leave_the_session_unchanged() {
    let (_folder, file) = quantize(&case("main"), "q4");
    let runtime = Runtime::new(Model::open(&file).unwrap(), 1).unwrap();
    let options = |cache_blocks, sink_blocks| SessionOptions {
        cache_blocks: Some(cache_blocks),
        sink_blocks,
        ..Default::default()
    };
    assert!(runtime.session(&options(4, 4)).is_err());
    assert!(runtime.session(&options(0, 0)).is_err());
    assert!(runtime.session(&options(usize::MAX, 0)).is_err());
    let mut session = runtime.session(&options(8, 1)).unwrap();
    assert!(session.logits().is_err(), "an empty session has no next token");
    session.append(&[]).unwrap();
    assert!(session.logits().is_err());
    session.append(&[1, 2, 3]).unwrap();
    let before = logits(&mut session);
    assert!(session.append(&[5, 260]).unwrap_err().to_string().contains("260"));
    assert!(logits(&mut session) == before && session.length() == 4);
}

/// A sequence of another model, of another shape too, is an error wherever an engine takes one.
#[test]
fn engines_refuse_the_sequences_of_other_models() {
    let open = |name: &str| {
        let (folder, file) = quantize(&case(name), "q4");
        (folder, Runtime::new(Model::open(&file).unwrap(), 1).unwrap())
    };
    let ((_one, own), (_other, other)) = (open("main"), open("wide_heads"));
    let mut engine = own.engine();
    let mut foreign = other.sequence(&SessionOptions::default()).unwrap();
    other.engine().append(&mut foreign, &[1, 2, 3, 4, 5]).unwrap();
    let refused = |result: cinderblock::Result<()>| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains("another model's"), "{error}");
    };
    refused(engine.append(&mut foreign, &[6]));
    refused(engine.append_pass(&mut [Append { sequence: &mut foreign, tokens: &[6; 8] }], 2));
    refused(engine.append_each(&mut [&mut foreign], &[6]));
    refused(engine.rewind(&mut foreign, 1));
    refused(engine.logits(&mut [&mut foreign], &[&[]]).map(|_| ()));
    assert_eq!(foreign.length(), 8);
}

/// Rolling caches of half precision and of int8 stay close to one of single precision.
#[test]
fn cache_types_agree_within_their_precision() {
    let golden = Golden::read("main");
    let (_folder, file) = quantize(&case("main"), "q8");
    let runtime = Runtime::new(Model::open(&file).unwrap(), 1).unwrap();
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>().sqrt();
    for (cache_blocks, sink_blocks, count) in
        [(2, 0, 21), (2, 1, 90), (3, 1, 5), (5, 1, 34), (6, 0, 37), (7, 0, 83), (11, 1, 62), (11, 0, 18)]
    {
        let run = |kind| {
            let options = SessionOptions {
                cache_blocks: Some(cache_blocks),
                sink_blocks,
                cache_type: Some(kind),
                ..Default::default()
            };
            let mut session = runtime.session(&options).unwrap();
            session.append(&golden.tokens[..count]).unwrap();
            logits(&mut session)
        };
        let exact = run(CacheType::F32);
        for (kind, limit) in [(CacheType::F16, 0.03), (CacheType::Q8, 0.15)] {
            let rounded = run(kind);
            let error =
                norm(&mut exact.iter().zip(&rounded).map(|(a, b)| a - b)) / norm(&mut exact.iter().copied());
            eprintln!("{kind:?} {cache_blocks} {sink_blocks} {count} {error}");
            assert!(
                error < limit,
                "{kind:?}: {error} with {cache_blocks} blocks, {sink_blocks} sinks, {count} tokens"
            );
        }
    }
}
