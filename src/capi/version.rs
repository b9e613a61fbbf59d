//! The versions of the header and of the library.

use std::ffi::c_char;

/// Major version of this header. It changes when programs must be adapted.
pub const CINDER_VERSION_MAJOR: u32 = 0;
/// Minor version of this header. It changes when something is added and, while the major version is 0, when programs
/// must be adapted.
pub const CINDER_VERSION_MINOR: u32 = 1;
/// Patch version of this header. It changes with every other release.
pub const CINDER_VERSION_PATCH: u32 = 0;
/// Version of this header as one number: 1000000 x major + 1000 x minor + patch.
pub const CINDER_VERSION_NUMBER: u32 = 1000;

/// The version of the library at run time, as text: "major.minor.patch".
///
/// @return A static string. Call from: any thread. Never fails.
#[unsafe(no_mangle)]
pub extern "C" fn cinder_version() -> *const c_char {
    const VERSION: &[u8] = concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes();
    VERSION.as_ptr().cast()
}

/// The version of the library at run time, for comparison with CINDER_VERSION_NUMBER.
///
/// @return 1000000 x major + 1000 x minor + patch. Call from: any thread. Never fails.
#[unsafe(no_mangle)]
pub extern "C" fn cinder_version_number() -> u32 {
    CINDER_VERSION_MAJOR * 1_000_000 + CINDER_VERSION_MINOR * 1_000 + CINDER_VERSION_PATCH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_has_the_version_of_the_package() {
        let parts = [CINDER_VERSION_MAJOR, CINDER_VERSION_MINOR, CINDER_VERSION_PATCH].map(|n| n.to_string());
        assert_eq!(parts.join("."), env!("CARGO_PKG_VERSION"));
        assert_eq!(cinder_version_number(), CINDER_VERSION_NUMBER);
    }
}
