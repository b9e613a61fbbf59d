//! Several sessions that advance together.

use super::boundary::call;
use super::error::{cinder_error, cinder_status};
use super::pointer;
use super::session::{Held, cinder_session};
use crate::Generator;

/// Samples the next token of each of several sessions of one model and adds it. They share every pass over the
/// weights, so many sessions take hardly longer than one; each gets the token that it would get alone.
///
/// @param sessions None of them empty, none twice, all made with the same cinder_model.
/// @param count How many; 0 does nothing.
/// @param tokens Gets one id for each session on success.
/// @param error Null, or gets an error on failure, to be freed with cinder_error_free.
/// @return As cinder_session_decode_token, then nothing was added to any; CINDER_INTERRUPTED if one of them was
/// cancelled. The thread that all the sessions belong to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_batch_decode(
    sessions: *const *mut cinder_session,
    count: usize,
    tokens: *mut u32,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header asks.
        let sessions = unsafe { pointer::values(sessions, count, "sessions") }?;
        // SAFETY: each null or valid, as the header asks.
        let held = sessions.iter().map(|session| unsafe { Held::new(*session) });
        let mut held = held.collect::<Result<Vec<_>, _>>()?;
        let mut generators: Vec<&mut Generator> = held.iter_mut().map(|held| &mut **held).collect();
        if count > 0 {
            // SAFETY: null or valid, as the header asks.
            unsafe { pointer::place(tokens, "tokens") }?;
        }
        let mut decoded = Vec::with_capacity(count);
        Generator::next_tokens(&mut generators, &mut decoded)?;
        // SAFETY: null or valid for `count` tokens, as the header asks.
        unsafe { pointer::copy_out(&decoded, tokens, count, None) }
    })
}
