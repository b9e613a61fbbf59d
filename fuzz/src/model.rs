//! A model file: opened, checked, run, saved and loaded.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cinderblock::{
    GenerateOptions, MemoryEstimate, Model, Result, Runtime, SamplerOptions, Session, SessionOptions,
    Snapshot, Tokenizer,
};

use super::{ALLOCATED, PEAK, check};

/// Bytes of buffers up to which a model is run.
const MOST_BYTES: u64 = 32 << 20;
/// Weights times positions of one pass up to which a model is run.
const MOST_WORK: usize = 1 << 20;
/// Bytes that a text takes beside the buffers whose size the model or an option decides.
const SMALL_CHANGE: u64 = 256 << 10;

pub fn run(bytes: &[u8]) {
    if let Some(model) = check(Model::from_bytes(bytes)) {
        drive(model);
    }
}

/// Everything that can be done with a model, within bounds of work.
pub fn drive(model: Model) {
    check(model.verify());
    let _ = (model.types(), model.fingerprint(), model.end_token());
    for (_, value) in model.index().metadata() {
        let _ = value.to_string();
    }
    let tokenizer = model.tokenizer_json().and_then(|json| check(Tokenizer::from_json(json)));
    let model = Arc::new(model);
    let options = SessionOptions { cache_blocks: Some(4), sink_blocks: 1, ..Default::default() };
    let estimate = MemoryEstimate::new(&model, &options);
    let config = model.config();
    let work = model.file_bytes().saturating_mul(config.token_positions());
    let (block, vocabulary) = (config.block_length, config.vocabulary as u32);
    let Some(runtime) = check(Runtime::new(Arc::clone(&model), 1)) else { return };
    if estimate.total() > MOST_BYTES || work > MOST_WORK {
        check(runtime.session(&options));
        return;
    }
    let tokens: Vec<u32> = (0..6 * block as u32 + 1).map(|at| at * 7 % vocabulary).collect();
    let before = ALLOCATED.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    whole_and_in_pieces(&runtime, &options, &tokens);
    let taken = PEAK.load(Ordering::Relaxed).saturating_sub(before) as u64;
    // Two sessions.
    let expected = 2 * (estimate.cache + estimate.scratch) + SMALL_CHANGE;
    assert!(taken <= expected, "took {taken} bytes, expected at most {expected}: {estimate:?}");
    generate(&runtime, &options, &tokens, tokenizer.as_ref());
}

fn logits(session: &mut Session) -> Result<Vec<u32>> {
    Ok(session.logits()?.iter().map(|logit| logit.to_bits()).collect())
}

/// However a text comes, its logits are the same to the bit.
fn whole_and_in_pieces(runtime: &Runtime, options: &SessionOptions, tokens: &[u32]) {
    let block = runtime.model().config().block_length;
    let Some(mut whole) = check(runtime.session(options)) else { return };
    check(whole.append(&tokens[..6 * block])).expect("tokens of the vocabulary");
    check(whole.append(&tokens[6 * block..])).expect("tokens of the vocabulary");
    let whole = check(logits(&mut whole));
    let mut pieces = check(runtime.session(options)).expect("made before");
    // A first text that is whole blocks has no padding.
    check(pieces.append(&tokens[..block])).expect("tokens of the vocabulary");
    for piece in tokens[block..].chunks(block / 2 + 1) {
        check(pieces.append(piece)).expect("tokens of the vocabulary");
    }
    assert!(check(logits(&mut pieces)) == whole, "logits depend on how the text came");
}

fn generate(runtime: &Runtime, options: &SessionOptions, tokens: &[u32], tokenizer: Option<&Tokenizer>) {
    let Some(mut generator) = check(runtime.generator(options)) else { return };
    check(generator.set_sampler(SamplerOptions { repetition_penalty: 1.5, ..Default::default() }));
    check(generator.append(tokens));
    let limits = GenerateOptions { max_tokens: 3, logprobs: Some(2), ..Default::default() };
    let result = generator.generate(tokenizer, &limits, |_| ControlFlow::Continue(()));
    if check(result).is_none() {
        return;
    }
    let saved = generator.save().expect("memory");
    let snapshot = Snapshot::from_bytes(runtime.model(), saved.bytes()).expect("just saved");
    let mut copy = runtime.load(&snapshot).expect("just saved");
    let next = check(generator.next_token());
    assert_eq!(check(copy.next_token()), next, "a loaded session continues differently");
    let _ = generator.rewind(1);
    check(generator.next_token());
}
