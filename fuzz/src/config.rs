//! A trainer configuration, or the `config.json` of a part.

use super::{check, scratch};

pub fn run(bytes: &[u8]) {
    let path = scratch("config.yaml");
    std::fs::write(&path, bytes).expect("a file");
    check(cinderblock_tools::unstable::trainer_config(&path));
    check(cinderblock_tools::unstable::part_config(&path));
}
