//! YAML: any document gives a value or an error, of bounded size.

use super::check;

pub fn run(bytes: &[u8]) {
    check(cinderblock_tools::unstable::yaml(bytes));
}
