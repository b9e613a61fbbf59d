//! The output that `batch` resumes: taken with answers of its own, or left as it is.

use super::{check, scratch};

pub fn run(bytes: &[u8]) {
    let path = scratch("journal");
    std::fs::write(&path, bytes).expect("a file");
    let taken = check(cinderblock_tools::unstable::journal(&path));
    let left = std::fs::read(&path).expect("a file");
    match taken {
        // A last line may be torn, and errors that another answer has replaced are taken out.
        Some(()) => assert!(left.is_empty() || left.ends_with(b"\n")),
        None => assert!(left == bytes, "a file that is refused was changed"),
    }
}
