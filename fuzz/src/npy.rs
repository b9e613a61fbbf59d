//! The header of a NumPy file; one that is taken is the one that would be written.

use cinderblock_tools::unstable;

use super::check;

pub fn run(bytes: &[u8]) {
    if let Some(Some((rows, columns))) = check(unstable::npy(bytes)) {
        let written = unstable::npy_header(rows, columns);
        assert_eq!(check(unstable::npy(&written)).flatten(), Some((rows, columns)));
    }
}
