//! Generating tokens, blocks and text.

use std::ffi::{c_char, c_void};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::boundary::call;
use super::failure::{Failure, cinder_error, cinder_status};
use super::options::{cinder_generate_options, cinder_generation};
use super::pointer;
use super::session::{Held, cinder_session};
use super::size_prefixed::{self, SizePrefixed};
use crate::{End, Step};

/// Receives a piece of generated text: one or more whole characters of UTF-8 and a terminating null, which size does not
/// count.
///
/// The callback may call any function, but for the same session only cinder_session_cancel and cinder_session_free have
/// an effect; others return CINDER_MISUSE. The callback must return: neither longjmp nor an exception may leave it.
///
/// @param text Valid during the call.
/// @param size Bytes of text.
/// @param user_data The pointer given with the callback.
/// @return 0 to continue; anything else ends the text with CINDER_END_CALLER.
pub type cinder_text_fn =
    Option<unsafe extern "C" fn(text: *const c_char, size: usize, user_data: *mut c_void) -> i32>;

/// The text ended at the maximum number of tokens.
pub const CINDER_END_LENGTH: i32 = 0;
/// The text ended at the model's end token.
pub const CINDER_END_OF_TEXT: i32 = 1;
/// The text ended at a stop string, which is not part of it.
pub const CINDER_END_STOP: i32 = 2;
/// The text ended at the request of a callback.
pub const CINDER_END_CALLER: i32 = 3;
/// The text ended at its time limit.
pub const CINDER_END_TIME: i32 = 4;

/// Samples the next token and appends it.
///
/// @param token Receives the token id on success.
/// @param error Null, or receives an error on failure; free it with cinder_error_free.
/// @return CINDER_OK; CINDER_ARGUMENT if the session is empty; CINDER_NUMERIC if the weights are damaged;
/// CINDER_INTERRUPTED if cancelled; CINDER_RESOURCE, CINDER_MISUSE, CINDER_POISONED. On failure nothing was appended.
/// The session's thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_decode_token(
    session: *mut cinder_session,
    token: *mut u32,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header requires.
        let (mut held, place) = unsafe { (Held::new(session)?, pointer::place(token, "token")?) };
        place.set(held.next_token()?);
        Ok(())
    })
}

/// Samples and appends tokens until the open block is complete.
///
/// @param tokens Receives the token ids. A buffer for the model's block_length is always large enough.
/// @param capacity Number of ids that fit in tokens.
/// @param count Receives the number of tokens appended, also on failure; with CINDER_BUFFER the required capacity.
/// @param error Null, or receives an error on failure; free it with cinder_error_free.
/// @return As cinder_session_decode_token, but tokens before the failure stay appended; CINDER_BUFFER if the buffer is
/// too small, and then nothing was appended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_decode_block(
    session: *mut cinder_session,
    tokens: *mut u32,
    capacity: usize,
    count: *mut usize,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header requires.
        let (mut held, place) = unsafe { (Held::new(session)?, pointer::place(count, "count")?) };
        let left = held.left_in_block();
        place.set(left);
        pointer::check_capacity(left as u64, capacity)?;
        let mut decoded = Vec::with_capacity(left);
        let result = (0..left).try_for_each(|_| held.next_token().map(|token| decoded.push(token)));
        // SAFETY: null or valid for `capacity` tokens, as the header requires.
        unsafe { pointer::copy_out(&decoded, tokens, capacity, Some(place)) }?;
        Ok(result?)
    })
}

/// Computes the logits of the next token.
///
/// @param logits Receives one value for each token of the vocabulary.
/// @param capacity Number of values that fit in logits.
/// @param error Null, or receives an error on failure; free it with cinder_error_free.
/// @return CINDER_OK; CINDER_BUFFER if the buffer is too small; CINDER_ARGUMENT if the session is empty; CINDER_NUMERIC if
/// the weights are damaged; CINDER_INTERRUPTED if cancelled; CINDER_RESOURCE, CINDER_MISUSE, CINDER_POISONED.
/// Call from: the session's thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_logits(
    session: *mut cinder_session,
    logits: *mut f32,
    capacity: usize,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header requires.
        let mut held = unsafe { Held::new(session) }?;
        pointer::check_capacity(held.model().config().vocabulary as u64, capacity)?;
        // SAFETY: null or valid for `capacity` logits, as the header requires.
        unsafe { pointer::copy_out(held.logits()?, logits, capacity, None) }
    })
}

/// Generates text and delivers it in pieces. All tokens except an end token are appended to the session, so that it can
/// continue with more text.
///
/// @param options Null for the defaults: at most 256 tokens.
/// @param function Receives the pieces; null to discard them.
/// @param user_data Passed to function.
/// @param generation Null, or receives the result on success; set its size before the call.
/// @param error Null, or receives an error on failure; free it with cinder_error_free.
/// @return CINDER_OK, also if function ended the text; CINDER_INTERRUPTED if cancelled: the tokens so far stay appended,
/// and text that was held back, such as half a character, is lost; CINDER_UNSUPPORTED if the model or this build has no
/// tokenizer; CINDER_FORMAT if the tokenizer is damaged; CINDER_ARGUMENT, CINDER_NUMERIC, CINDER_RESOURCE,
/// CINDER_MISUSE, CINDER_POISONED. The session's thread, which also runs function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_generate(
    session: *mut cinder_session,
    options: *const cinder_generate_options,
    function: cinder_text_fn,
    user_data: *mut c_void,
    generation: *mut cinder_generation,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header requires.
        let (held, options) = unsafe { (Held::new(session)?, size_prefixed::read(options, "options")?) };
        if !generation.is_null() {
            // SAFETY: valid for its size, as the header requires.
            unsafe { size_prefixed::check(generation, "generation") }?;
        }
        let result = run(held, &options, function, user_data)?;
        if generation.is_null() {
            return Ok(());
        }
        // SAFETY: valid for its size, as the header requires.
        unsafe { size_prefixed::write(generation, &result, "generation") }
    })
}

fn run(
    mut held: Held,
    options: &cinder_generate_options,
    function: cinder_text_fn,
    user_data: *mut c_void,
) -> Result<cinder_generation, Failure> {
    let shared = Arc::clone(held.shared());
    let mut piece = Vec::new();
    let each = |step: Step| {
        let mut answer = 0;
        if let (Some(function), Some(token)) = (options.token, step.token) {
            let logprob = token.logprob.unwrap_or(f32::NAN);
            // SAFETY: the caller's function, with the caller's data.
            answer = unsafe { function(token.id, logprob, options.token_data) };
        }
        if let (Some(function), 0, false) = (function, answer, step.text.is_empty()) {
            piece.clear();
            piece.extend_from_slice(step.text.as_bytes());
            piece.push(0);
            // SAFETY: the caller's function, with the caller's data and text that is valid during the call.
            answer = unsafe { function(piece.as_ptr().cast(), step.text.len(), user_data) };
        }
        if answer == 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let (end, tokens) = held.generate(Some(shared.tokenizer()?), &options.options()?, each)?;
    let end = match end {
        End::Length => CINDER_END_LENGTH,
        End::EndOfText => CINDER_END_OF_TEXT,
        End::Stop => CINDER_END_STOP,
        End::Caller => CINDER_END_CALLER,
        End::Time => CINDER_END_TIME,
    };
    Ok(cinder_generation { tokens: tokens as u64, end, ..cinder_generation::initial() })
}
