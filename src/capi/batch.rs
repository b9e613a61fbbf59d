//! Several sessions that advance together.

use super::boundary::call;
use super::failure::{cinder_error, cinder_status};
use super::pointer;
use super::session::{Held, cinder_session};
use crate::Generator;

/// Samples the next token of each of several sessions of one model and appends it. They share every pass over the
/// weights, so several sessions take hardly more time than one. Each session gets the token that it would get alone.
///
/// @param sessions Sessions created with the same cinder_model, none of them empty and none listed twice.
/// @param count Number of sessions; 0 does nothing.
/// @param tokens Receives one token id for each session on success.
/// @param error Null, or receives an error on failure; free it with cinder_error_free.
/// @return As cinder_session_decode_token; CINDER_INTERRUPTED if one of the sessions was cancelled. On failure nothing was
/// appended to any session. Call from: the thread of all the sessions.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_batch_decode(
    sessions: *const *mut cinder_session,
    count: usize,
    tokens: *mut u32,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header requires.
        let sessions = unsafe { pointer::values(sessions, count, "sessions") }?;
        // SAFETY: each null or valid, as the header requires.
        let held = sessions.iter().map(|session| unsafe { Held::new(*session) });
        let mut held = held.collect::<Result<Vec<_>, _>>()?;
        let mut generators: Vec<&mut Generator> = held.iter_mut().map(|held| &mut **held).collect();
        if count > 0 {
            // SAFETY: null or valid, as the header requires.
            unsafe { pointer::place(tokens, "tokens") }?;
        }
        let mut decoded = Vec::with_capacity(count);
        Generator::next_tokens(&mut generators, &mut decoded)?;
        // SAFETY: null or valid for `count` tokens, as the header requires.
        unsafe { pointer::copy_out(&decoded, tokens, count, None) }
    })
}
