//! Text to tokens and back.

use std::ffi::c_char;

use super::boundary::call;
use super::error::{Failure, cinder_error, cinder_status};
use super::model::{self, Shared, cinder_model};
use super::pointer;

pub(super) fn encode(shared: &Shared, text: &str) -> Result<Vec<u32>, Failure> {
    if text.is_empty() { Ok(Vec::new()) } else { Ok(shared.tokenizer()?.encode(text)?) }
}

fn decode(shared: &Shared, tokens: &[u32]) -> Result<String, Failure> {
    shared.model.check_tokens(tokens)?;
    Ok(shared.tokenizer()?.decode(tokens)?)
}

/// The tokens of a text, without special tokens.
///
/// @param text UTF-8; need not end with a null.
/// @param size Bytes of text.
/// @param tokens Gets them; may be null if capacity is 0.
/// @param capacity Tokens that there is room for.
/// @param count Gets the number of tokens, also with CINDER_BUFFER; size bytes never make more than size tokens.
/// @param error Null, or gets an error on failure, to be freed with cinder_error_free.
/// @return CINDER_OK; CINDER_BUFFER if there is no room for all; CINDER_UNSUPPORTED if the model carries no tokenizer
/// or this build has none; CINDER_ARGUMENT; CINDER_FORMAT if the tokenizer is damaged. Any thread.
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
        // SAFETY: null or valid, as the header asks.
        let (shared, text, needed) = unsafe {
            (model::shared(model)?, pointer::utf8(text, size, "text")?, pointer::place(count, "count")?)
        };
        let found = encode(shared, text)?;
        // SAFETY: null or valid for `capacity` tokens, as the header asks.
        unsafe { pointer::copy_out(&found, tokens, capacity, Some(needed)) }
    })
}

/// The text of tokens, without special tokens. Bytes that are not UTF-8 become U+FFFD, so pieces of a text should be
/// decoded together, or generated with cinder_session_generate, which never splits a character.
///
/// @param tokens Ids, less than the vocabulary.
/// @param count How many.
/// @param text Gets UTF-8 without a null at the end; may be null if capacity is 0.
/// @param capacity Bytes that there is room for.
/// @param size Gets the number of bytes, also with CINDER_BUFFER.
/// @param error Null, or gets an error on failure, to be freed with cinder_error_free.
/// @return As cinder_tokenize. Any thread.
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
        // SAFETY: null or valid, as the header asks.
        let (shared, tokens, needed) = unsafe {
            (model::shared(model)?, pointer::values(tokens, count, "tokens")?, pointer::place(size, "size")?)
        };
        let found = decode(shared, tokens)?;
        // SAFETY: null or valid for `capacity` bytes, as the header asks.
        unsafe { pointer::copy_out(found.as_bytes(), text.cast(), capacity, Some(needed)) }
    })
}
