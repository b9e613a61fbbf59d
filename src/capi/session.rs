//! Sessions: one sequence each, used by one thread at a time.

use std::cell::UnsafeCell;
use std::ffi::c_char;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::boundary::{call, quietly};
use super::error::{CINDER_MISUSE, CINDER_POISONED, Failure, cinder_error, cinder_status};
use super::model::{self, Shared, cinder_model};
use super::options::{self, CINDER_LOG_ERROR, cinder_sampler_options, cinder_session_options};
use super::pointer::{self, Place};
use crate::MemoryEstimate;
use crate::error::{Error, ErrorKind};
use crate::{Generator, Interrupt, SamplerOptions, SessionOptions, Speculate};

/// A text and what is needed to continue it. It belongs to one thread at a time; only cinder_session_cancel may be
/// called by any thread while another call is running. Two calls at once are refused with CINDER_MISUSE.
pub struct cinder_session {
    shared: Arc<Shared>,
    interrupt: Interrupt,
    /// The process that made it; a forked child may only free it.
    process: u32,
    /// Whether a call is using `generator`. Taking it is what makes the access exclusive.
    busy: AtomicBool,
    poisoned: AtomicBool,
    /// Freed by a callback; the call that runs the callback does it when it ends.
    doomed: AtomicBool,
    generator: UnsafeCell<Generator>,
}

/// A session that the running call has to itself. A panic poisons it.
pub(super) struct Held(*const cinder_session);

impl Held {
    /// Takes a session.
    ///
    /// # Safety
    /// Null, or a session that is not freed by another thread while the result lives.
    pub(super) unsafe fn new(session: *const cinder_session) -> Result<Held, Failure> {
        // SAFETY: the caller's promise.
        let Some(it) = (unsafe { pointer::shared(session) }) else {
            return Err(Failure::argument("session", "found null, expected a session"));
        };
        let refuse = |status, problem| Err(Failure::handle(status, "session", problem));
        if it.process != std::process::id() {
            return refuse(
                CINDER_MISUSE,
                "made before a fork by the parent process, which keeps its threads",
            );
        }
        if it.busy.swap(true, Ordering::Acquire) {
            return refuse(CINDER_MISUSE, "another call is using it");
        }
        let held = Held(session);
        if it.poisoned.load(Ordering::Relaxed) {
            return refuse(CINDER_POISONED, "an earlier call met a defect in this library");
        }
        Ok(held)
    }

    fn session(&self) -> &cinder_session {
        // SAFETY: alive, by the promise made to `new`.
        unsafe { &*self.0 }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.session().shared
    }
}

impl Deref for Held {
    type Target = Generator;

    fn deref(&self) -> &Generator {
        // SAFETY: `busy` was taken by `new` and is given back by `drop`, so nobody else looks at it.
        unsafe { &*self.session().generator.get() }
    }
}

impl DerefMut for Held {
    fn deref_mut(&mut self) -> &mut Generator {
        // SAFETY: as in `deref`.
        unsafe { &mut *self.session().generator.get() }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let session = self.session();
        if std::thread::panicking() {
            session.poisoned.store(true, Ordering::Relaxed);
            session.shared.log(CINDER_LOG_ERROR, "a defect in this library has poisoned a session");
        }
        if session.doomed.load(Ordering::Relaxed) {
            // SAFETY: `cinder_session_free` was called inside a callback of this very call and left it to us.
            drop(unsafe { pointer::owned(self.0.cast_mut()) });
        } else {
            session.busy.store(false, Ordering::Release);
        }
    }
}

/// Makes the handle of a session and stores it.
pub(super) fn store(shared: &Arc<Shared>, generator: Generator, place: &Place<*mut cinder_session>) {
    let session = cinder_session {
        shared: Arc::clone(shared),
        interrupt: generator.interrupt().clone(),
        process: std::process::id(),
        busy: AtomicBool::new(false),
        poisoned: AtomicBool::new(false),
        doomed: AtomicBool::new(false),
        generator: UnsafeCell::new(generator),
    };
    place.set(Box::into_raw(Box::new(session)));
}

/// Refuses a session whose buffers there is no memory for; they grow later, where that could not be refused.
pub(super) fn check_memory(shared: &Shared, options: &SessionOptions) -> Result<(), Failure> {
    let scratch = MemoryEstimate::new(&shared.model, options).scratch;
    let size = usize::try_from(scratch).unwrap_or(usize::MAX);
    Vec::<u8>::new().try_reserve_exact(size).map_err(|_| {
        Error::new(
            ErrorKind::Resource,
            format!("a session needs {scratch} bytes of buffers, which cannot be allocated"),
        )
        .into()
    })
}

/// Starts an empty session. The first session of a model starts its threads, the last one to be freed ends them.
///
/// @param model Kept alive by the session.
/// @param options Null for the defaults.
/// @param session Gets the session on success, to be freed with cinder_session_free.
/// @param error Null, or gets an error on failure, to be freed with cinder_error_free.
/// @return CINDER_OK, CINDER_ARGUMENT, or CINDER_RESOURCE if memory or threads are not to be had. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_create(
    model: *const cinder_model,
    options: *const cinder_session_options,
    session: *mut *mut cinder_session,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header asks.
        let (shared, options, place) = unsafe {
            (model::shared(model)?, options::read(options, "options")?, pointer::place(session, "session")?)
        };
        let options = options.options()?;
        check_memory(shared, &options)?;
        let generator = shared.runtime()?.generator(&options)?;
        store(shared, generator, &place);
        Ok(())
    })
}

/// Frees a session. Inside a callback of the session itself, it is freed when the call that runs the callback ends.
///
/// @param session May be null. No other thread may be using it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_free(session: *mut cinder_session) {
    quietly((), || {
        // SAFETY: null or valid, as the header asks.
        let Some(it) = (unsafe { pointer::shared(session) }) else { return };
        if it.busy.swap(true, Ordering::Acquire) {
            it.doomed.store(true, Ordering::Relaxed);
            return;
        }
        // SAFETY: made by `store`, not freed, and no call is using it: `busy` was free.
        drop(unsafe { pointer::owned(session) });
    });
}

/// Adds text. The session's alignment says what becomes of a first text that does not fill whole blocks.
///
/// @param text UTF-8; need not end with a null.
/// @param size Bytes of text; 0 adds nothing.
/// @param error Null, or gets an error on failure, to be freed with cinder_error_free.
/// @return CINDER_OK; CINDER_UNSUPPORTED if the model carries no tokenizer or this build has none;
/// CINDER_INTERRUPTED if cancelled, then the blocks that were done have been added; CINDER_ARGUMENT, CINDER_FORMAT,
/// CINDER_MISUSE, CINDER_POISONED, and then nothing was added. The session's thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_append_text(
    session: *mut cinder_session,
    text: *const c_char,
    size: usize,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header asks.
        let (mut held, text) = unsafe { (Held::new(session)?, pointer::utf8(text, size, "text")?) };
        let tokens = super::text::encode(held.shared(), text)?;
        Ok(held.append(&tokens)?)
    })
}

/// Adds tokens.
///
/// @param tokens Ids, less than the vocabulary.
/// @param count How many; 0 adds nothing.
/// @param error Null, or gets an error on failure, to be freed with cinder_error_free.
/// @return CINDER_OK; CINDER_INTERRUPTED if cancelled, then the blocks that were done have been added;
/// CINDER_ARGUMENT, CINDER_MISUSE, CINDER_POISONED, and then nothing was added. The session's thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_append_tokens(
    session: *mut cinder_session,
    tokens: *const u32,
    count: usize,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header asks.
        let (mut held, tokens) = unsafe { (Held::new(session)?, pointer::values(tokens, count, "tokens")?) };
        Ok(held.append(tokens)?)
    })
}

/// Tokens so far, those included that filled up the first block.
///
/// @param length Gets the number on success.
/// @param error Null, or gets an error on failure, to be freed with cinder_error_free.
/// @return CINDER_OK, CINDER_ARGUMENT, CINDER_MISUSE or CINDER_POISONED. The session's thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_length(
    session: *const cinder_session,
    length: *mut u64,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header asks.
        let (held, place) = unsafe { (Held::new(session)?, pointer::place(length, "length")?) };
        place.set(held.length());
        Ok(())
    })
}

/// Forgets the text; memory is kept. The sampler starts again from its seed; its options and the stop strings stay. A
/// request to cancel is forgotten.
///
/// @param error Null, or gets an error on failure, to be freed with cinder_error_free.
/// @return CINDER_OK, CINDER_ARGUMENT, CINDER_MISUSE or CINDER_POISONED. The session's thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_reset(
    session: *mut cinder_session,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header asks.
        Ok(unsafe { Held::new(session) }?.clear()?)
    })
}

/// Asks the session to stop: the call that is running, or the next one that can be stopped, ends with
/// CINDER_INTERRUPTED, and then the request is gone. What can be stopped: appending a whole block or more, logits,
/// decoding and generating. It takes the time of a layer.
///
/// @param session May be null. Any thread and any signal handler, also while another call is running, but not while
/// it is freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_cancel(session: *const cinder_session) {
    // Without the boundary, because a signal handler may do no more than this, and nothing here can panic.
    // SAFETY: null or valid, as the header asks.
    if let Some(session) = unsafe { pointer::shared(session) } {
        session.interrupt.trigger();
    }
}

/// Samples differently from now on, starting from the seed.
///
/// @param options Null for the defaults.
/// @param error Null, or gets an error on failure, to be freed with cinder_error_free.
/// @return CINDER_OK, CINDER_ARGUMENT, CINDER_MISUSE or CINDER_POISONED. The session's thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_set_sampler(
    session: *mut cinder_session,
    options: *const cinder_sampler_options,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header asks.
        let (mut held, options) = unsafe { (Held::new(session)?, options::read(options, "options")?) };
        let bias = held.sampler_options().logit_bias.clone();
        Ok(held.set_sampler(options.options(bias))?)
    })
}

/// Adds to the logits of some tokens before one is sampled, from now on; the sampler starts
/// again from its seed.
///
/// @param tokens Ids, less than the vocabulary.
/// @param biases One for each token; negative infinity forbids it.
/// @param count How many; 0 takes all back.
/// @param error Null, or gets an error on failure, to be freed with cinder_error_free.
/// @return CINDER_OK, CINDER_ARGUMENT, CINDER_MISUSE or CINDER_POISONED. The session's thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_set_logit_bias(
    session: *mut cinder_session,
    tokens: *const u32,
    biases: *const f32,
    count: usize,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header asks.
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

/// Guesses the next tokens from the text so far, or no more, from now on. The library computes guessed tokens together
/// and keeps those that come true, which is faster and gives exactly the tokens that it gives without.
///
/// @param when CINDER_SPECULATE_AUTO, which a session begins with, CINDER_SPECULATE_ON or CINDER_SPECULATE_OFF.
/// @param error Null, or gets an error on failure, to be freed with cinder_error_free.
/// @return CINDER_OK, CINDER_ARGUMENT, CINDER_MISUSE or CINDER_POISONED. The session's thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_set_speculation(
    session: *mut cinder_session,
    when: i32,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header asks.
        let mut held = unsafe { Held::new(session) }?;
        let mode = match when {
            options::CINDER_SPECULATE_AUTO => Speculate::Auto,
            options::CINDER_SPECULATE_ON => Speculate::On,
            options::CINDER_SPECULATE_OFF => Speculate::Off,
            _ => return Err(Failure::argument("when", format!("found {when}, expected 0, 1 or 2"))),
        };
        held.set_speculation(mode);
        Ok(())
    })
}

/// Goes back to the first whole blocks of a session, as if nothing had been added since; but the sampler's random
/// numbers go on.
///
/// @param blocks Blocks to keep: 0, pinned ones, all of them, or as many as can be computed from what is remembered; a
/// full cache can go back by at least 32.
/// @param error Null, or gets an error on failure, to be freed with cinder_error_free.
/// @return CINDER_OK; CINDER_ARGUMENT if that is forgotten or there are fewer blocks, then nothing has changed;
/// CINDER_MISUSE, CINDER_POISONED. The session's thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_rewind(
    session: *mut cinder_session,
    blocks: u64,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header asks.
        Ok(unsafe { Held::new(session) }?.rewind(blocks)?)
    })
}

/// Ends generated text before any of these strings. They are copied.
///
/// @param stops UTF-8, each ending with a null; empty ones are ignored.
/// @param count How many; 0 for none.
/// @param error Null, or gets an error on failure, to be freed with cinder_error_free.
/// @return CINDER_OK, CINDER_ARGUMENT, CINDER_MISUSE or CINDER_POISONED. The session's thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_set_stops(
    session: *mut cinder_session,
    stops: *const *const c_char,
    count: usize,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header asks.
        let (mut held, stops) = unsafe { (Held::new(session)?, pointer::values(stops, count, "stops")?) };
        let copy = |stop: &*const c_char| {
            // SAFETY: null or a string, as the header asks.
            let stop = unsafe { pointer::string(*stop, "stops") }?;
            let text = stop.to_str();
            text.map(str::to_string).map_err(|_| Failure::argument("stops", "found bytes that are not UTF-8"))
        };
        held.set_stops(stops.iter().map(copy).collect::<Result<_, _>>()?);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::ptr::{null, null_mut};

    use super::*;
    use crate::capi::error::{CINDER_INTERNAL, CINDER_OK};
    use crate::capi::generate::cinder_session_decode_token;
    use crate::capi::model::{cinder_model_free, cinder_model_open_memory};

    /// A panic poisons the session in which it happened and nothing else.
    #[test]
    fn a_panic_poisons_its_session() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/classics.q4.gguf");
        let bytes = std::fs::read(file).unwrap();
        let (mut model, mut sessions) = (null_mut(), [null_mut(); 2]);
        // SAFETY: all pointers are null or to locals, and each handle is freed once, at the end.
        unsafe {
            let place = (&raw mut model, null_mut());
            let status =
                cinder_model_open_memory(bytes.as_ptr().cast(), bytes.len(), null(), place.0, place.1);
            assert_eq!(status, CINDER_OK);
            for session in &mut sessions {
                assert_eq!(cinder_session_create(model, null(), session, null_mut()), CINDER_OK);
                assert_eq!(cinder_session_append_tokens(*session, [5u32].as_ptr(), 1, null_mut()), CINDER_OK);
            }
            let status = call(null_mut(), || {
                let held = Held::new(sessions[0])?;
                // As if a product had found slices that do not fit, on all threads of the team.
                let team = held.shared().team()?;
                team.region(|region| region.run(64, |chunk| assert_ne!(chunk, 33)));
                Ok(())
            });
            assert_eq!(status, CINDER_INTERNAL);
            let mut token = 0;
            let mut decode = |session| cinder_session_decode_token(session, &raw mut token, null_mut());
            assert_eq!([decode(sessions[0]), decode(sessions[1])], [CINDER_POISONED, CINDER_OK]);
            assert_eq!(cinder_session_reset(sessions[0], null_mut()), CINDER_POISONED);
            sessions.into_iter().for_each(|session| cinder_session_free(session));
            cinder_model_free(model);
        }
    }
}
