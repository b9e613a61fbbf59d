//! The version of the header and that of the library.

use std::ffi::c_char;

/// Version of this header, first part: changes when a program must be changed.
pub const CINDER_VERSION_MAJOR: u32 = 0;
/// Version of this header, second part: changes when something is added. While the first part is 0, this one
/// changes when a program must be changed.
pub const CINDER_VERSION_MINOR: u32 = 1;
/// Version of this header, third part.
pub const CINDER_VERSION_PATCH: u32 = 0;
/// Version of this header as one number: 1000000 x major + 1000 x minor + patch.
pub const CINDER_VERSION_NUMBER: u32 = 1000;

/// The version of the library that the program runs with, for people: "major.minor.patch".
///
/// @return A static string. Any thread. Never fails.
#[unsafe(no_mangle)]
pub extern "C" fn cinder_version() -> *const c_char {
    const VERSION: &[u8] = concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes();
    VERSION.as_ptr().cast()
}

/// The version of the library that the program runs with, to be compared with CINDER_VERSION_NUMBER.
///
/// @return 1000000 x major + 1000 x minor + patch. Any thread. Never fails.
#[unsafe(no_mangle)]
pub extern "C" fn cinder_version_number() -> u32 {
    CINDER_VERSION_MAJOR * 1_000_000 + CINDER_VERSION_MINOR * 1_000 + CINDER_VERSION_PATCH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_package() {
        let parts = [CINDER_VERSION_MAJOR, CINDER_VERSION_MINOR, CINDER_VERSION_PATCH].map(|n| n.to_string());
        assert_eq!(parts.join("."), env!("CARGO_PKG_VERSION"));
        assert_eq!(cinder_version_number(), CINDER_VERSION_NUMBER);
    }
}
