//! The next token, the next block, text.

use std::ffi::{c_char, c_void};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::boundary::call;
use super::error::{Failure, cinder_error, cinder_status};
use super::options::{self, cinder_generate_options, cinder_generation};
use super::pointer;
use super::session::{Held, cinder_session};
use crate::{End, Step};

/// Called with a piece of text: whole characters of UTF-8, at least one, ending with a null that size does not count.
///
/// It may call any function; those that use this session answer CINDER_MISUSE, but for cinder_session_cancel and
/// cinder_session_free. It must return: neither longjmp nor an exception may leave it.
///
/// @param text Lives during the call.
/// @param size Bytes of text.
/// @param user_data What was given with the callback.
/// @return 0 to go on; anything else ends the text with CINDER_END_CALLER.
pub type cinder_text_fn =
    Option<unsafe extern "C" fn(text: *const c_char, size: usize, user_data: *mut c_void) -> i32>;

/// The text ended because it has as many tokens as were asked for.
pub const CINDER_END_LENGTH: i32 = 0;
/// The text ended because the model ended it.
pub const CINDER_END_OF_TEXT: i32 = 1;
/// The text ended because of a stop string, which is not part of it.
pub const CINDER_END_STOP: i32 = 2;
/// The text ended because the callback asked for it.
pub const CINDER_END_CALLER: i32 = 3;
/// The text ended because its time was over.
pub const CINDER_END_TIME: i32 = 4;

/// Samples the next token and adds it to the session.
///
/// @param token Gets its id on success.
/// @param error Null, or gets an error on failure, to be freed with cinder_error_free.
/// @return CINDER_OK; CINDER_ARGUMENT if the session is empty; CINDER_NUMERIC if the weights are damaged;
/// CINDER_INTERRUPTED if cancelled, then nothing was added; CINDER_MISUSE, CINDER_POISONED. The session's thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_decode_token(
    session: *mut cinder_session,
    token: *mut u32,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header asks.
        let (mut held, place) = unsafe { (Held::new(session)?, pointer::place(token, "token")?) };
        place.set(held.next_token()?);
        Ok(())
    })
}

/// Samples tokens until the open block is complete and adds them to the session.
///
/// @param tokens Gets their ids; with room for the model's block_length it is never too small.
/// @param capacity Tokens that there is room for.
/// @param count Gets the number of tokens that were added, also on failure; with CINDER_BUFFER the number that
/// there must be room for.
/// @param error Null, or gets an error on failure, to be freed with cinder_error_free.
/// @return As cinder_session_decode_token; CINDER_BUFFER if there is no room for all, then nothing was added.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_decode_block(
    session: *mut cinder_session,
    tokens: *mut u32,
    capacity: usize,
    count: *mut usize,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header asks.
        let (mut held, place) = unsafe { (Held::new(session)?, pointer::place(count, "count")?) };
        let left = held.left_in_block();
        place.set(left);
        pointer::room(left as u64, capacity)?;
        let mut decoded = Vec::with_capacity(left);
        let result = (0..left).try_for_each(|_| held.next_token().map(|token| decoded.push(token)));
        // SAFETY: null or valid for `capacity` tokens, as the header asks.
        unsafe { pointer::copy_out(&decoded, tokens, capacity, Some(place)) }?;
        Ok(result?)
    })
}

/// The logits of the next token.
///
/// @param logits Gets one for each token of the vocabulary.
/// @param capacity Logits that there is room for.
/// @param error Null, or gets an error on failure, to be freed with cinder_error_free.
/// @return CINDER_OK; CINDER_BUFFER if there is no room for all; CINDER_ARGUMENT if the session is empty;
/// CINDER_NUMERIC if the weights are damaged; CINDER_INTERRUPTED if cancelled; CINDER_MISUSE, CINDER_POISONED. The
/// session's thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_logits(
    session: *mut cinder_session,
    logits: *mut f32,
    capacity: usize,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header asks.
        let mut held = unsafe { Held::new(session) }?;
        pointer::room(held.model().config().vocabulary as u64, capacity)?;
        // SAFETY: null or valid for `capacity` logits, as the header asks.
        unsafe { pointer::copy_out(held.logits()?, logits, capacity, None) }
    })
}

/// Generates text and passes it on in pieces. Every token becomes part of the session but the one that ends the
/// text, so that more can be appended and generated.
///
/// @param options Null for the defaults: 256 tokens at most.
/// @param function Gets the pieces; null to throw them away.
/// @param user_data Passed to function.
/// @param generation Null, or gets what came of it on success; set its size before.
/// @param error Null, or gets an error on failure, to be freed with cinder_error_free.
/// @return CINDER_OK, also if function ended it; CINDER_INTERRUPTED if cancelled, then text that was held back is
/// lost and the tokens stay; CINDER_UNSUPPORTED if the model carries no tokenizer or this build has none;
/// CINDER_ARGUMENT, CINDER_NUMERIC, CINDER_MISUSE, CINDER_POISONED. The session's thread, which also runs function.
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
        // SAFETY: null or valid, as the header asks.
        let (held, options) = unsafe { (Held::new(session)?, options::read(options, "options")?) };
        if !generation.is_null() {
            // SAFETY: valid for its size, as the header asks.
            unsafe { options::check(generation, "generation") }?;
        }
        let result = run(held, &options, function, user_data)?;
        if generation.is_null() {
            return Ok(());
        }
        // SAFETY: valid for its size, as the header asks.
        unsafe { options::write(generation, &result, "generation") }
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
            // SAFETY: the host's function, with the host's data.
            answer = unsafe { function(token.id, logprob, options.token_data) };
        }
        if let (Some(function), 0, false) = (function, answer, step.text.is_empty()) {
            piece.clear();
            piece.extend_from_slice(step.text.as_bytes());
            piece.push(0);
            // SAFETY: the host's function, with the host's data and text that lives during the call.
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
    Ok(cinder_generation { size: size_of::<cinder_generation>(), tokens: tokens as u64, end, reserved: 0 })
}
