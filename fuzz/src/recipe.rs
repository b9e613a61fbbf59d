//! A recipe's rules, and the types that they give to a model's tensors.

use super::{check, scratch};

pub fn run(bytes: &[u8]) {
    let path = scratch("recipe");
    std::fs::write(&path, bytes).expect("a file");
    let specs = cinderblock::unstable::model::tensors(&super::tiny::config());
    check(cinderblock_tools::unstable::recipe(&path, &specs));
}
