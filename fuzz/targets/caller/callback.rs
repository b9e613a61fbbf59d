//! Callbacks, which may use the session that calls them, and free it.

use std::ffi::{c_char, c_void};
use std::ptr::null_mut;

use cinderblock::capi::failure::*;
use cinderblock::capi::session::*;
use cinderblock::capi::tokens::*;
use cinderblock_fuzz::tiny;

/// What a callback does.
pub struct Callback {
    pub session: *mut cinder_session,
    pub act: u8,
    /// Calls until it ends the text.
    pub left: u32,
    pub freed: bool,
}

impl Callback {
    fn called(&mut self) -> i32 {
        if self.left == 0 {
            return 1;
        }
        self.left -= 1;
        match self.act {
            1 => return 7,
            // SAFETY: the session is alive: it is in use by the call that calls this.
            2 => unsafe { cinder_session_cancel(self.session) },
            3 => {
                let mut length = 0;
                // SAFETY: as above, with a place for the result.
                let status = unsafe { cinder_session_length(self.session, &raw mut length, null_mut()) };
                assert_eq!((status, length), (CINDER_MISUSE, 0));
            }
            4 if !self.freed => {
                self.freed = true;
                // SAFETY: as above; the caller forgets the handle.
                unsafe { cinder_session_free(self.session) };
            }
            _ => {}
        }
        0
    }
}

/// A callback may be given without data.
///
/// # Safety
/// `data` is null or a callback.
unsafe fn called(data: *mut c_void) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { data.cast::<Callback>().as_mut() }.map_or(0, Callback::called)
}

pub unsafe extern "C" fn on_token(token: u32, logprob: f32, data: *mut c_void) -> i32 {
    assert!((token as usize) < tiny::VOCABULARY && logprob <= 0.0);
    // SAFETY: given with this function.
    unsafe { called(data) }
}

pub unsafe extern "C" fn on_text(text: *const c_char, size: usize, data: *mut c_void) -> i32 {
    // SAFETY: text and its end, as the header says.
    let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), size + 1) };
    assert!(size > 0 && bytes[size] == 0 && std::str::from_utf8(&bytes[..size]).is_ok());
    // SAFETY: given with this function.
    unsafe { called(data) }
}

pub unsafe extern "C" fn on_progress(done: u64, total: u64, data: *mut c_void) -> i32 {
    assert!(total == 0 || done <= total);
    // SAFETY: given with this function.
    unsafe { called(data) }
}

pub unsafe extern "C" fn on_log(_: i32, message: *const c_char, _: *mut c_void) {
    // SAFETY: a string, as the header says.
    assert!(unsafe { std::ffi::CStr::from_ptr(message) }.to_str().is_ok_and(|line| !line.contains('\n')));
}
