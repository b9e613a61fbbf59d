//! Text to tokens and back.

use std::ffi::c_char;

use super::boundary::call;
use super::failure::{Failure, cinder_error, cinder_status};
use super::model::{self, Shared, cinder_model};
use super::pointer;
use crate::Interrupt;

fn encode(shared: &Shared, text: &str) -> Result<Vec<u32>, Failure> {
    if text.is_empty() { Ok(Vec::new()) } else { Ok(shared.tokenizer()?.encode(text)?) }
}

/// As [`encode`], stopping on request.
pub(super) fn encode_until(shared: &Shared, text: &str, interrupt: &Interrupt) -> Result<Vec<u32>, Failure> {
    if text.is_empty() { Ok(Vec::new()) } else { Ok(shared.tokenizer()?.encode_until(text, interrupt)?) }
}

fn decode(shared: &Shared, tokens: &[u32]) -> Result<String, Failure> {
    shared.model.check_tokens(tokens)?;
    Ok(shared.tokenizer()?.decode(tokens)?)
}

/// Converts text to tokens, without adding special tokens.
///
/// @param text UTF-8; need not end with a null.
/// @param size Bytes of text.
/// @param tokens Receives the token ids; may be null if capacity is 0.
/// @param capacity Number of ids that fit in tokens. With most tokenizers, size ids are enough; one that rewrites the text
/// before it is split may need more.
/// @param count Receives the number of tokens, also with CINDER_BUFFER.
/// @param error Null, or receives an error on failure; free it with cinder_error_free.
/// @return CINDER_OK; CINDER_BUFFER if the buffer is too small; CINDER_UNSUPPORTED if the model or this build has no
/// tokenizer; CINDER_FORMAT if the tokenizer is damaged; CINDER_ARGUMENT. Call from: any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_tokenize(
    model: *const cinder_model,
    text: *const c_char,
    size: usize,
    tokens: *mut u32,
    capacity: usize,
    count: *mut usize,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header requires.
        let (shared, text, needed) = unsafe {
            (model::shared(model)?, pointer::utf8(text, size, "text")?, pointer::place(count, "count")?)
        };
        let found = encode(shared, text)?;
        // SAFETY: null or valid for `capacity` tokens, as the header requires.
        unsafe { pointer::copy_out(&found, tokens, capacity, Some(needed)) }
    })
}

/// Converts tokens to text, without special tokens. Bytes that are not UTF-8 become U+FFFD, so decode the tokens of a
/// text together, or use cinder_session_generate, which never splits a character.
///
/// @param tokens Token ids, less than the vocabulary.
/// @param count Number of tokens.
/// @param text Receives UTF-8 without a terminating null; may be null if capacity is 0.
/// @param capacity Number of bytes that fit in text.
/// @param size Receives the number of bytes, also with CINDER_BUFFER.
/// @param error Null, or receives an error on failure; free it with cinder_error_free.
/// @return As cinder_tokenize. Call from: any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_detokenize(
    model: *const cinder_model,
    tokens: *const u32,
    count: usize,
    text: *mut c_char,
    capacity: usize,
    size: *mut usize,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header requires.
        let (shared, tokens, needed) = unsafe {
            (model::shared(model)?, pointer::values(tokens, count, "tokens")?, pointer::place(size, "size")?)
        };
        let found = decode(shared, tokens)?;
        // SAFETY: null or valid for `capacity` bytes, as the header requires.
        unsafe { pointer::copy_out(found.as_bytes(), text.cast(), capacity, Some(needed)) }
    })
}
