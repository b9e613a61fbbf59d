//! Settings of a session: sampling, logit biases, speculation and stop strings.

use std::ffi::c_char;

use super::boundary::call;
use super::failure::{Failure, cinder_error, cinder_status};
use super::options::{self, cinder_sampler_options};
use super::pointer;
use super::session::{Held, cinder_session};
use super::size_prefixed;
use crate::SamplerOptions;

/// Sets the sampling options. The sampler starts again from the seed; logit biases stay.
///
/// @param options Null for the defaults.
/// @param error Null, or receives an error on failure; free it with cinder_error_free.
/// @return CINDER_OK, CINDER_ARGUMENT, CINDER_MISUSE or CINDER_POISONED. Call from: the session's thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_set_sampler(
    session: *mut cinder_session,
    options: *const cinder_sampler_options,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header requires.
        let (mut held, options) = unsafe { (Held::new(session)?, size_prefixed::read(options, "options")?) };
        let bias = held.sampler_options().logit_bias.clone();
        Ok(held.set_sampler(options.options(bias))?)
    })
}

/// Sets logit biases, which replace earlier ones. The sampler starts again from the seed.
///
/// @param tokens Token ids, less than the vocabulary.
/// @param biases Value to add to the logit of each token; negative infinity forbids the token.
/// @param count Number of tokens; 0 removes all biases.
/// @param error Null, or receives an error on failure; free it with cinder_error_free.
/// @return CINDER_OK, CINDER_ARGUMENT, CINDER_MISUSE or CINDER_POISONED. Call from: the session's thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_set_logit_bias(
    session: *mut cinder_session,
    tokens: *const u32,
    biases: *const f32,
    count: usize,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header requires.
        let (mut held, tokens, biases) = unsafe {
            (
                Held::new(session)?,
                pointer::values(tokens, count, "tokens")?,
                pointer::values(biases, count, "biases")?,
            )
        };
        let logit_bias = tokens.iter().copied().zip(biases.iter().copied()).collect();
        let options = SamplerOptions { logit_bias, ..held.sampler_options().clone() };
        Ok(held.set_sampler(options)?)
    })
}

/// Sets the speculation mode. With speculation, the library guesses the next tokens from the text so far and
/// from the draft table if the file has one, computes them in one pass and keeps the right guesses. This is faster
/// and gives exactly the same tokens.
///
/// @param mode CINDER_SPECULATE_AUTO, the default, CINDER_SPECULATE_ON or CINDER_SPECULATE_OFF.
/// @param error Null, or receives an error on failure; free it with cinder_error_free.
/// @return CINDER_OK, CINDER_ARGUMENT, CINDER_MISUSE or CINDER_POISONED. Call from: the session's thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_set_speculation(
    session: *mut cinder_session,
    mode: i32,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header requires.
        let mut held = unsafe { Held::new(session) }?;
        held.set_speculation(options::speculation(mode)?);
        Ok(())
    })
}

/// Sets the stop strings, which replace earlier ones. Generated text ends before the first of them.
///
/// @param stops Null-terminated UTF-8, copied; empty strings are ignored.
/// @param count Number of strings; 0 for none.
/// @param error Null, or receives an error on failure; free it with cinder_error_free.
/// @return CINDER_OK, CINDER_ARGUMENT, CINDER_MISUSE or CINDER_POISONED. Call from: the session's thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_set_stops(
    session: *mut cinder_session,
    stops: *const *const c_char,
    count: usize,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header requires.
        let (mut held, stops) = unsafe { (Held::new(session)?, pointer::values(stops, count, "stops")?) };
        let copy = |stop: &*const c_char| {
            // SAFETY: null or a string, as the header requires.
            let stop = unsafe { pointer::string(*stop, "stops") }?;
            let text = stop.to_str();
            text.map(str::to_string)
                .map_err(|_| Failure::argument("stops", "found invalid bytes, expected UTF-8"))
        };
        held.set_stops(stops.iter().map(copy).collect::<Result<_, _>>()?);
        Ok(())
    })
}
