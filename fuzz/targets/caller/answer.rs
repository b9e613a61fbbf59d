//! What every call answers: a status of the list, and an error object exactly where it failed.

use cinderblock::capi::error::*;
use cinderblock::capi::failure::*;

/// Calls a function with an error object or without, and checks what it answers.
macro_rules! call {
    ($caller:ident, $function:ident($($argument:expr),* $(,)?)) => {{
        let mut error: *mut cinderblock::capi::failure::cinder_error = std::ptr::null_mut();
        let place = if $caller.choices.byte().is_multiple_of(4) { std::ptr::null_mut() } else { &raw mut error };
        // SAFETY: the arguments are null or valid, as the header requires.
        let status = unsafe { $function($($argument,)* place) };
        $crate::caller::answer::judge(stringify!($function), status, place, error);
        status
    }};
}

pub(crate) use call;

/// Checks a status and its error object.
pub fn judge(function: &str, status: cinder_status, place: *mut *mut cinder_error, error: *mut cinder_error) {
    assert!((CINDER_OK..=CINDER_BUFFER).contains(&status), "{function}: status {status}");
    assert!(place.is_null() || (status == CINDER_OK) == error.is_null(), "{function}: status {status}");
    // SAFETY: null, or an error that was just created, whose strings live as long as it.
    unsafe {
        let message = std::ffi::CStr::from_ptr(cinder_error_message(error)).to_str().expect("UTF-8");
        assert!(status != CINDER_INTERNAL && status != CINDER_POISONED, "{function}: {message}");
        if !error.is_null() {
            assert_eq!(cinder_error_status(error), status);
            assert!(!message.is_empty() && !message.chars().any(char::is_control), "{message:?}");
        }
        let _ = (cinder_error_file(error), cinder_error_subject(error));
        cinder_error_free(error);
    }
}
