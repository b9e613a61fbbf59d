//! Appending tokens and text to a session, reading tokens back, and removing them.

use std::ffi::{c_char, c_void};

use super::boundary::call;
use super::failure::{Failure, cinder_error, cinder_status};
use super::options::cinder_progress_fn;
use super::pointer;
use super::session::{Held, cinder_session};
use super::text;
use crate::{Error, ErrorKind};

/// Appends text. The alignment option of the session decides the layout of a first text that does not fill whole blocks.
///
/// @param text UTF-8; need not end with a null.
/// @param size Bytes of text; 0 appends nothing.
/// @param error Null, or receives an error on failure; free it with cinder_error_free.
/// @return CINDER_OK; CINDER_INTERRUPTED if cancelled, and then the blocks completed so far stay appended; on any other
/// failure nothing was appended: CINDER_UNSUPPORTED if the model or this build has no tokenizer, CINDER_FORMAT if the
/// tokenizer is damaged, CINDER_ARGUMENT, CINDER_RESOURCE, CINDER_MISUSE, CINDER_POISONED. Call from: the session's
/// thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_append_text(
    session: *mut cinder_session,
    text: *const c_char,
    size: usize,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header requires.
        let (mut held, text) = unsafe { (Held::new(session)?, pointer::utf8(text, size, "text")?) };
        let tokens = text::encode_until(held.shared(), text, held.interrupt())?;
        Ok(held.append(&tokens)?)
    })
}

/// Appends tokens.
///
/// @param tokens Token ids, less than the vocabulary.
/// @param count Number of tokens; 0 appends nothing.
/// @param error Null, or receives an error on failure; free it with cinder_error_free.
/// @return CINDER_OK; CINDER_INTERRUPTED if cancelled, and then the blocks completed so far stay appended; on any other
/// failure nothing was appended: CINDER_ARGUMENT, CINDER_RESOURCE, CINDER_MISUSE, CINDER_POISONED. Call from: the
/// session's thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_append_tokens(
    session: *mut cinder_session,
    tokens: *const u32,
    count: usize,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header requires.
        let (mut held, tokens) = unsafe { (Held::new(session)?, pointer::values(tokens, count, "tokens")?) };
        Ok(held.append(tokens)?)
    })
}

/// Appends text as cinder_session_append_text does, and reports the progress in tokens.
///
/// @param text UTF-8; need not end with a null.
/// @param size Bytes of text; 0 appends nothing.
/// @param progress May be null. While it runs, the session is in use: cinder_session_cancel and cinder_session_free are
/// allowed, other functions return CINDER_MISUSE for it.
/// @param user_data Passed to progress.
/// @param error Null, or receives an error on failure; free it with cinder_error_free.
/// @return As cinder_session_append_text; CINDER_INTERRUPTED also by progress.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_append_text_with_progress(
    session: *mut cinder_session,
    text: *const c_char,
    size: usize,
    progress: cinder_progress_fn,
    user_data: *mut c_void,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header requires.
        let (mut held, text) = unsafe { (Held::new(session)?, pointer::utf8(text, size, "text")?) };
        report(progress, user_data, 0, 0)?;
        let tokens = text::encode_until(held.shared(), text, held.interrupt())?;
        append(&mut held, &tokens, progress, user_data)
    })
}

/// Appends tokens as cinder_session_append_tokens does, and reports the progress in tokens.
///
/// @param tokens Token ids, less than the vocabulary.
/// @param count Number of tokens; 0 appends nothing.
/// @param progress May be null. While it runs, the session is in use: cinder_session_cancel and cinder_session_free are
/// allowed, other functions return CINDER_MISUSE for it.
/// @param user_data Passed to progress.
/// @param error Null, or receives an error on failure; free it with cinder_error_free.
/// @return As cinder_session_append_tokens; CINDER_INTERRUPTED also by progress.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_append_tokens_with_progress(
    session: *mut cinder_session,
    tokens: *const u32,
    count: usize,
    progress: cinder_progress_fn,
    user_data: *mut c_void,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header requires.
        let (mut held, tokens) = unsafe { (Held::new(session)?, pointer::values(tokens, count, "tokens")?) };
        append(&mut held, tokens, progress, user_data)
    })
}

fn append(
    held: &mut Held,
    tokens: &[u32],
    progress: cinder_progress_fn,
    user_data: *mut c_void,
) -> Result<(), Failure> {
    let report = |done, total| report(progress, user_data, done, total);
    Ok(held.append_with_progress(tokens, report)?)
}

/// Calls the progress function, if there is one.
fn report(progress: cinder_progress_fn, user_data: *mut c_void, done: u64, total: u64) -> crate::Result<()> {
    match progress {
        // SAFETY: the caller's function, with the caller's data.
        Some(function) if unsafe { function(done, total, user_data) } != 0 => {
            Err(Error::new(ErrorKind::Interrupted, "appending was interrupted"))
        }
        _ => Ok(()),
    }
}

/// The number of tokens in a session, padding included. A first block that was padded on the left counts as whole. A
/// first text shorter than a block is padded when its next token is computed, so until then its length counts the given
/// tokens alone. cinder_session_tokens leaves padding out.
///
/// @param length Receives the number on success.
/// @param error Null, or receives an error on failure; free it with cinder_error_free.
/// @return CINDER_OK, CINDER_ARGUMENT, CINDER_MISUSE or CINDER_POISONED. Call from: the session's thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_length(
    session: *const cinder_session,
    length: *mut u64,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header requires.
        let (held, place) = unsafe { (Held::new(session)?, pointer::place(length, "length")?) };
        place.set(held.length());
        Ok(())
    })
}

/// Reads the last tokens of a session back, without padding. All tokens are available until the cache is full; afterwards
/// those that have not left it since, without the pinned ones before the gap.
///
/// @param tokens Receives the token ids, oldest first; may be null if capacity is 0.
/// @param capacity Number of ids that fit in tokens.
/// @param count Receives the number of tokens, also with CINDER_BUFFER: call with capacity 0 first.
/// @param error Null, or receives an error on failure; free it with cinder_error_free.
/// @return CINDER_OK; CINDER_BUFFER if the buffer is too small; CINDER_ARGUMENT, CINDER_MISUSE, CINDER_POISONED.
/// Call from: the session's thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_tokens(
    session: *const cinder_session,
    tokens: *mut u32,
    capacity: usize,
    count: *mut usize,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header requires.
        let (held, needed) = unsafe { (Held::new(session)?, pointer::place(count, "count")?) };
        // SAFETY: null or valid for `capacity` tokens, as the header requires.
        unsafe { pointer::copy_out(&held.recent(usize::MAX), tokens, capacity, Some(needed)) }
    })
}

/// Removes all tokens from a session and keeps its memory. The sampler starts again from its seed; its options, stop
/// strings and speculation mode stay. A pending request to cancel is dropped.
///
/// @param error Null, or receives an error on failure; free it with cinder_error_free.
/// @return CINDER_OK, CINDER_ARGUMENT, CINDER_MISUSE or CINDER_POISONED. Call from: the session's thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_reset(
    session: *mut cinder_session,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header requires.
        Ok(unsafe { Held::new(session) }?.clear()?)
    })
}

/// Removes all tokens after the first blocks of a session, as if they had not been appended. The sampler's random numbers
/// are not reset.
///
/// @param blocks Number of whole blocks to keep: 0, at most the number of pinned blocks, all blocks, or a number whose
/// last block can be computed again from the cache. A full cache allows at least the last 32.
/// @param error Null, or receives an error on failure; free it with cinder_error_free.
/// @return CINDER_OK; CINDER_ARGUMENT if the session cannot go back to that number, and then nothing has changed;
/// CINDER_RESOURCE, CINDER_MISUSE, CINDER_POISONED. Call from: the session's thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_rewind(
    session: *mut cinder_session,
    blocks: u64,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header requires.
        Ok(unsafe { Held::new(session) }?.rewind(blocks)?)
    })
}
