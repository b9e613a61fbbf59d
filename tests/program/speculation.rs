//! What is guessed, and whether, changes nothing but the number of passes.

use std::collections::BTreeMap;

use crate::common::{CASES, Golden, case, demo_model, draft_lists, quantize, with_lists};

use cinderblock::{
    ErrorKind, GenerateOptions, Generator, Model, Runtime, SamplerOptions, SessionOptions, Speculate,
};

fn best(logits: &[f32]) -> u32 {
    logits.iter().zip(0..).max_by(|a, b| a.0.total_cmp(b.0).then(b.1.cmp(&a.1))).unwrap().1
}

/// The logits behind guesses that are right, wrong, both in turn, or too many are, to the bit, those of a session that
/// guesses nothing: for every shape, in a cache that rolls, and in the middle of a block.
#[test]
fn guesses_do_not_change_logits() {
    for name in CASES {
        let golden = Golden::read(name);
        for kind in ["q4", "q8", "f32"] {
            let (_folder, file) = quantize(&case(name), kind);
            let runtime = Runtime::new(Model::open(&file).unwrap(), 2).unwrap();
            let (length, vocabulary) =
                (runtime.model().config().block_length, runtime.model().config().vocabulary as u32);
            let options = SessionOptions { cache_blocks: Some(5), sink_blocks: 1, ..Default::default() };
            for prompt in [1, length, 2 * length + 1] {
                let start = || {
                    let mut session = runtime.session(&options).unwrap();
                    session.append(&golden.tokens[..prompt]).unwrap();
                    session
                };
                let mut plain = start();
                let (mut text, mut expected) = (Vec::new(), Vec::new());
                for _ in 0..6 * length + 3 {
                    expected.push(plain.logits().unwrap().to_vec());
                    text.push(best(plain.logits().unwrap()));
                    plain.append(&text[text.len() - 1..]).unwrap();
                }
                for wrong in ["never", "always", "at times"] {
                    let mut session = start();
                    let mut passes = 0;
                    for (at, token) in text.iter().enumerate() {
                        let guess: Vec<u32> = text[at..]
                            .iter()
                            .zip(at..)
                            .map(|(token, at)| match wrong {
                                "always" => (token + 1) % vocabulary,
                                "at times" if at * 7 % 3 == 1 => (token + 1) % vocabulary,
                                _ => *token,
                            })
                            .collect();
                        passes += usize::from(!session.has_logits());
                        let logits = session.logits_with_guess(&guess).unwrap();
                        assert!(logits == expected[at], "{name} {kind} {prompt} {wrong} at {at}");
                        session.append(std::slice::from_ref(token)).unwrap();
                    }
                    match wrong {
                        "never" => assert!(passes <= text.len().div_ceil(length) + 1, "{passes}"),
                        "always" => assert_eq!(passes, text.len()),
                        _ => {}
                    }
                }
            }
        }
    }
}

/// Where a block is one token, a guess goes with the token before it: right, wrong or both, across the end of a cache
/// that rolls, the logits stay those of a session that guesses nothing, to the bit.
#[test]
fn guesses_of_whole_blocks_do_not_change_logits() {
    for name in ["vanilla", "neox_hf", "neox_sequential"] {
        let golden = Golden::read(name);
        for kind in ["q4", "q8", "f32"] {
            let (_folder, file) = quantize(&case(name), kind);
            let runtime = Runtime::new(Model::open(&file).unwrap(), 2).unwrap();
            let vocabulary = runtime.model().config().vocabulary as u32;
            let options = SessionOptions { cache_blocks: Some(9), sink_blocks: 1, ..Default::default() };
            let start = || {
                let mut session = runtime.session(&options).unwrap();
                session.append(&golden.tokens[..5]).unwrap();
                session
            };
            let mut plain = start();
            let (mut text, mut expected) = (Vec::new(), Vec::new());
            for _ in 0..90 {
                expected.push(plain.logits().unwrap().to_vec());
                text.push(best(plain.logits().unwrap()));
                plain.append(&text[text.len() - 1..]).unwrap();
            }
            for (wrong, passes) in [(usize::MAX, 6), (1, 90), (5, 20)] {
                let mut session = start();
                let mut made = 0;
                for (at, token) in text.iter().enumerate() {
                    made += usize::from(!session.has_logits());
                    let label = format!("{name} {kind} {wrong} at {at}");
                    assert!(session.logits().unwrap() == expected[at], "{label}");
                    // Not all that was guessed is used: a copy of the session goes another way.
                    let mut guess = text[at + 1..].to_vec();
                    guess.iter_mut().skip(wrong - 1).step_by(wrong).for_each(|t| *t = (*t + 1) % vocabulary);
                    session.append_with_guess(*token, &guess).unwrap();
                    assert_eq!(session.recent(1), [*token], "{label}");
                    if at % 7 == 3 {
                        let blocks = session.blocks();
                        assert!(session.can_rewind(blocks - 32.min(blocks)), "{label}");
                        session.rewind(blocks - 2).unwrap();
                        session.append(&text[at - 1..=at]).unwrap();
                    }
                }
                // Those of a rewind are lost with it.
                assert!(made <= passes + 2 * 90 / 7, "{name} {kind} {wrong}: {made} passes");
                assert!(session.logits().unwrap() == plain.logits().unwrap());
            }
            let mut session = start();
            assert!(session.append_with_guess(1, &[vocabulary]).is_err());
            assert!(session.logits().unwrap() == start().logits().unwrap());
        }
    }
}

/// Several guessed tokens may be added at once, and a text may leave the guess anywhere.
#[test]
fn text_may_depart_from_a_guess_anywhere() {
    let (_folder, file) = quantize(&case("block8"), "q8");
    let runtime = Runtime::new(Model::open(&file).unwrap(), 2).unwrap();
    let start = || {
        let mut session = runtime.session(&SessionOptions::default()).unwrap();
        session.append(&[9; 8]).unwrap();
        session
    };
    let guess = [1, 2, 3, 4, 5, 6, 7];
    for agreeing in 0..=7 {
        for more in [&[][..], &[9], &[9, 8], &[9; 9]] {
            let mut session = start();
            session.logits_with_guess(&guess).unwrap();
            let text: Vec<u32> = guess[..agreeing].iter().chain(more).copied().collect();
            session.append(&text).unwrap();
            assert_eq!(session.has_logits(), more.is_empty());
            let mut plain = start();
            plain.append(&text).unwrap();
            assert!(session.logits().unwrap() == plain.logits().unwrap(), "{agreeing} {more:?}");
            // And from there on with another guess.
            session.append(&[3]).unwrap();
            plain.append(&[3]).unwrap();
            assert!(session.logits_with_guess(&[4, 4]).unwrap() == plain.logits().unwrap());
        }
    }
    let mut session = start();
    let too_large = runtime.model().config().vocabulary as u32;
    assert!(session.logits_with_guess(&[too_large]).is_err());
    assert!(session.logits().unwrap() == start().logits().unwrap());
}

/// How texts are sampled in the tests below: greedily, and in every way that a sampler knows.
fn samplings() -> Vec<SamplerOptions> {
    let default = SamplerOptions::plain();
    let greedy = SamplerOptions { temperature: 0.0, ..default.clone() };
    vec![
        SamplerOptions { repetition_penalty: 1.3, repetition_window: 5, ..greedy.clone() },
        greedy,
        SamplerOptions { seed: 3, ..default.clone() },
        SamplerOptions {
            temperature: 0.7,
            top_k: 40,
            top_p: 0.9,
            min_p: 0.01,
            repetition_penalty: 1.1,
            seed: 11,
            logit_bias: vec![(0, f32::NEG_INFINITY), (7, 1.5)],
            ..default
        },
    ]
}

fn generator(runtime: &Runtime, sampling: &SamplerOptions, mode: Speculate) -> Generator {
    let options = SessionOptions { cache_blocks: Some(7), sink_blocks: 2, ..Default::default() };
    let mut generator = runtime.generator(&options).unwrap();
    generator.set_sampler(sampling.clone()).unwrap();
    generator.set_speculation(mode);
    generator
}

/// The same tokens with every mode, for every shape and sampling, while the text is rewound, continued, saved and loaded.
#[test]
fn speculation_modes_generate_the_same_tokens() {
    for name in CASES {
        let golden = Golden::read(name);
        let (_folder, file) = quantize(&case(name), "q4");
        let runtime = Runtime::new(Model::open(&file).unwrap(), 2).unwrap();
        for sampling in samplings() {
            let run = |mode: Speculate| {
                let mut generator = generator(&runtime, &sampling, mode);
                let mut tokens = Vec::new();
                let prompt = [&golden.tokens[..9], &golden.tokens[..5]].concat();
                generator.append(&prompt).unwrap();
                for round in 0..6 {
                    tokens.extend((0..13 + round).map(|_| generator.next_token().unwrap()));
                    match round {
                        0 => generator.append(&golden.tokens[..3]).unwrap(),
                        1 => generator.rewind(generator.blocks() - 2).unwrap(),
                        2 => {
                            let saved = generator.save().unwrap();
                            generator = runtime.load(&saved).unwrap();
                            generator.set_speculation(mode);
                        }
                        3 => {
                            generator.interrupt().trigger();
                            let error = generator.next_token().unwrap_err();
                            assert_eq!(error.kind(), ErrorKind::Interrupted);
                        }
                        4 => {
                            generator.clear().unwrap();
                            generator.append(&prompt[..1]).unwrap();
                        }
                        _ => {}
                    }
                }
                let counts = generator.speculation_counts();
                assert!(counts.passes <= counts.tokens + 1, "{counts:?}");
                assert!(mode != Speculate::Off || counts.guessed == 0);
                tokens
            };
            let expected = run(Speculate::Off);
            assert_eq!(run(Speculate::On), expected, "{name} {sampling:?}");
            assert_eq!(run(Speculate::Auto), expected, "{name} {sampling:?}");
        }
    }
}

/// A draft table of wrong and right guesses changes the number of passes alone, in every kind of model.
#[test]
fn a_draft_table_changes_no_token() {
    for name in CASES {
        let golden = Golden::read(name);
        let (_folder, file) = quantize(&case(name), "q4");
        let plain = std::fs::read(&file).unwrap();
        let runtime = |file: &[u8]| Runtime::new(Model::from_bytes(file).unwrap(), 2).unwrap();
        for sampling in samplings() {
            let write = |runtime: &Runtime, mode: Speculate| {
                let mut generator = generator(runtime, &sampling, mode);
                generator.append(&golden.tokens[..9]).unwrap();
                let tokens: Vec<u32> = (0..40).map(|_| generator.next_token().unwrap()).collect();
                let logits = generator.logits().unwrap().to_vec();
                (tokens, logits, generator.speculation_counts())
            };
            let (expected, logits, _) = write(&runtime(&plain), Speculate::On);
            let text = [&golden.tokens[..9], &expected].concat();
            // Every third entry is wrong, and every other one is right for the second time.
            let mut table = BTreeMap::new();
            for (at, window) in text.windows(3).enumerate() {
                let token = if at % 3 == 0 { 0 } else { window[2] as u16 };
                let tokens = if at % 2 == 0 { [token, 1] } else { [1, token] };
                table.insert(window[0] << 16 | window[1], (tokens, (at * 37) as u8));
                table.insert(0xffff << 16 | window[1], ([token, 1], 100));
            }
            let entries: Vec<_> =
                table.into_iter().map(|(context, (tokens, share))| (context, tokens, share)).collect();
            let lists = draft_lists(&entries);
            let lists = lists.each_ref().map(|(key, element, bytes)| (*key, *element, &bytes[..]));
            let drafted = runtime(&with_lists(&plain, &lists));
            for mode in Speculate::ALL {
                let (tokens, last, counts) = write(&drafted, mode);
                assert_eq!(tokens, expected, "{name} {mode:?} {sampling:?}");
                assert!(last == logits, "{name} {mode:?} {sampling:?}");
                // A single token with a token decoder of its own leaves nothing to guess.
                let config = drafted.model().config();
                let guesses = config.block_length > 1 || config.guesses_ahead() > 0;
                match mode {
                    Speculate::On if guesses => {
                        assert!(counts.guessed > 0, "{name} {counts:?}");
                    }
                    Speculate::Off => assert_eq!(counts.guessed, 0),
                    Speculate::On | Speculate::Auto => {}
                }
            }
        }
    }
}

/// A text that ends in the middle of a guess ends as it would without: the session goes on as if it had not been guessed.
#[test]
fn an_end_inside_a_guess_leaves_no_trace() {
    let runtime = Runtime::new(Model::open(demo_model()).unwrap(), 2).unwrap();
    let greedy = SamplerOptions { temperature: 0.0, ..SamplerOptions::plain() };
    let prompt: Vec<u32> = (300..312).cycle().take(80).collect();
    let run = |mode: Speculate, max_tokens: usize| {
        let mut generator = generator(&runtime, &greedy, mode);
        generator.append(&prompt).unwrap();
        let options = GenerateOptions { max_tokens, ignore_end: true, ..Default::default() };
        let mut tokens = Vec::new();
        generator
            .generate(None, &options, |step| {
                tokens.extend(step.token.map(|token| token.id));
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
        // What is saved does not know of guesses either.
        let bytes = generator.save().unwrap().bytes().to_vec();
        generator.append(&[300, 301]).unwrap();
        tokens.push(generator.next_token().unwrap());
        (tokens, bytes)
    };
    for max_tokens in 1..10 {
        assert!(run(Speculate::On, max_tokens) == run(Speculate::Off, max_tokens), "{max_tokens}");
    }
}

/// On a text that is certain to repeat itself, every pass gives a block.
#[test]
fn repeated_text_takes_one_pass_per_block() {
    let runtime = Runtime::new(Model::open(demo_model()).unwrap(), 2).unwrap();
    let forced = SamplerOptions { logit_bias: vec![(300, 1e6)], ..SamplerOptions::plain() };
    let mut generator = generator(&runtime, &forced, Speculate::On);
    generator.append(&[300; 8]).unwrap();
    (0..64).for_each(|_| assert_eq!(generator.next_token().unwrap(), 300));
    let counts = generator.speculation_counts();
    assert_eq!((counts.tokens, counts.passes, counts.guessed), (64, 16, 48));
    assert_eq!(counts.tokens_per_pass(), 4.0);
}

/// Together with others, a generator that has guessed gets the tokens that it would get alone.
#[test]
fn speculating_generators_can_share_a_pass() {
    let runtime = Runtime::new(Model::open(demo_model()).unwrap(), 2).unwrap();
    let start = |seed: u64, mode: Speculate| {
        let sampling = SamplerOptions { seed, temperature: 0.5, ..SamplerOptions::plain() };
        let mut generator = generator(&runtime, &sampling, mode);
        generator.append(&[300, 301, 302, 303, 300, 301, 302, 303, 300][..6 + seed as usize]).unwrap();
        generator
    };
    let mut alone: Vec<Generator> = (0..3).map(|seed| start(seed, Speculate::Off)).collect();
    let mut together: Vec<Generator> = (0..3).map(|seed| start(seed, Speculate::On)).collect();
    let mut tokens = Vec::new();
    for round in 0..40 {
        let expected: Vec<u32> = alone.iter_mut().map(|generator| generator.next_token().unwrap()).collect();
        if round % 7 < 3 {
            tokens = together.iter_mut().map(|generator| generator.next_token().unwrap()).collect();
        } else {
            Generator::next_tokens(&mut together.iter_mut().collect::<Vec<_>>(), &mut tokens).unwrap();
        }
        assert_eq!(tokens, expected, "round {round}");
    }
}
