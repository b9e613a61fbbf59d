//! A saved session: loaded, saved again, continued.

use std::ops::ControlFlow;

use cinderblock::{GenerateOptions, Snapshot};

use super::{check, tiny};

/// Where a saved session has the fingerprint and the size of its model.
const MODEL: std::ops::Range<usize> = 16..32;
/// Whole blocks that a cache may have here.
const MOST_BLOCKS: u64 = 64;

pub fn run(bytes: &[u8]) {
    let model = tiny::runtime().model();
    let _ = check(Snapshot::from_bytes(model, bytes).map(drop));
    // Most changes are found by the checksum, so it is made to be right.
    let mut bytes = bytes.to_vec();
    let Some(end) = bytes.len().checked_sub(4).filter(|end| *end >= MODEL.end) else { return };
    let identity = [model.fingerprint(), model.file_bytes() as u64];
    bytes[MODEL].copy_from_slice(&identity.map(u64::to_le_bytes).concat());
    let checksum = crc32fast::hash(&bytes[..end]);
    bytes[end..].copy_from_slice(&checksum.to_le_bytes());
    if let Some(snapshot) = check(Snapshot::from_bytes(model, &bytes)) {
        drive(&snapshot);
    }
}

fn drive(snapshot: &Snapshot) {
    let Some(mut generator) = check(tiny::runtime().load(snapshot)) else { return };
    let saved = generator.save().expect("memory");
    let again = Snapshot::from_bytes(generator.model(), saved.bytes()).expect("just saved");
    let again = tiny::runtime().load(&again).expect("just saved").save().expect("memory");
    assert!(again.bytes() == saved.bytes(), "a loaded session is saved differently");
    let saved_sampler = generator.sampler_options().clone();
    check(generator.append(&[1, 2, 3]));
    check(generator.logits().map(drop));
    let limits = GenerateOptions { max_tokens: 5, ..Default::default() };
    check(generator.generate(None, &limits, |_| ControlFlow::Continue(())));
    for blocks in 0..generator.blocks().min(MOST_BLOCKS) {
        if generator.can_rewind(blocks) {
            check(generator.rewind(blocks));
            check(generator.logits().map(drop));
        }
    }
    check(generator.set_sampler(saved_sampler)).expect("it had these options");
    let _ = (generator.recent(usize::MAX), generator.common_prefix(&[1, 2, 3, 4]));
}
