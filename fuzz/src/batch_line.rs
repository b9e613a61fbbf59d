//! Lines of `batch`: each becomes a request or an error, and none disturbs another.

use cinderblock_tools::unstable;

use super::{check, tiny};

const MOST_LINES: usize = 4;
const MOST_TOKENS: usize = 12;

pub fn run(bytes: &[u8]) {
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').take(MOST_LINES).collect();
    let answers = check(unstable::batch(tiny::runtime(), &lines, MOST_TOKENS)).expect("errors are answers");
    assert!(answers.iter().all(|answer| !answer.contains('\n')));
}
