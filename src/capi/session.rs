//! The handle of a session, which one thread uses at a time.

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::boundary::{call, quietly};
use super::failure::{CINDER_MISUSE, CINDER_POISONED, Failure, cinder_error, cinder_status};
use super::model::{self, Shared, cinder_model};
use super::options::{CINDER_LOG_ERROR, cinder_session_options};
use super::pointer::{self, Place};
use super::size_prefixed;
use crate::MemoryEstimate;
use crate::error::{Error, ErrorKind};
use crate::{Generator, Interrupt, SessionOptions};

/// A sequence of tokens and the state to continue it. It belongs to one thread at a time; only cinder_session_cancel may
/// be called on any thread during another call. The second of two simultaneous calls returns CINDER_MISUSE.
pub struct cinder_session {
    shared: Arc<Shared>,
    interrupt: Interrupt,
    /// The process that created it; a forked child may only free it.
    process: u32,
    /// Whether a call is using `generator`. Setting it makes the access exclusive.
    busy: AtomicBool,
    poisoned: AtomicBool,
    /// Freed by a callback; the call that runs the callback frees it when it ends.
    doomed: AtomicBool,
    generator: UnsafeCell<Generator>,
}

/// Exclusive use of a session by a call. A panic poisons the session.
pub(super) struct Held(*const cinder_session);

impl Held {
    /// Takes a session.
    ///
    /// # Safety
    /// Null, or a session that no other thread frees during the lifetime of the result.
    pub(super) unsafe fn new(session: *const cinder_session) -> Result<Held, Failure> {
        // SAFETY: the caller's promise.
        let Some(it) = (unsafe { pointer::shared(session) }) else {
            return Err(Failure::argument("session", "found null, expected a session"));
        };
        let refuse = |status, problem| Err(Failure::with_status(status, "session", problem));
        if it.process != std::process::id() {
            return refuse(
                CINDER_MISUSE,
                "found a session of the parent process, expected one created after the fork",
            );
        }
        if it.busy.swap(true, Ordering::Acquire) {
            return refuse(CINDER_MISUSE, "found it in use by another call");
        }
        let held = Held(session);
        if it.poisoned.load(Ordering::Relaxed) {
            return refuse(CINDER_POISONED, "found it poisoned by a defect in this library");
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
        // SAFETY: `new` has set `busy` and `drop` clears it, so there is no other access.
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
            // SAFETY: `cinder_session_free` was called inside a callback of this very call and left the rest to this one.
            drop(unsafe { pointer::owned(self.0.cast_mut()) });
        } else {
            session.busy.store(false, Ordering::Release);
        }
    }
}

/// Creates the handle of a session and stores it.
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

/// Refuses a session whose buffers cannot be allocated; they grow later, when the failure could not be reported.
pub(super) fn check_memory(shared: &Shared, options: &SessionOptions) -> Result<(), Failure> {
    options.cache_shape(&shared.model)?;
    let scratch = MemoryEstimate::new(&shared.model, options).scratch;
    let size = usize::try_from(scratch).unwrap_or(usize::MAX);
    Vec::<u8>::new().try_reserve_exact(size).map_err(|_| {
        Error::new(ErrorKind::Resource, format!("session: found no memory for {scratch} bytes of buffers"))
            .into()
    })
}

/// Creates an empty session. The first session of a model starts the threads; freeing the last session ends them.
///
/// @param model The session keeps the parts it needs alive.
/// @param options Null for the defaults.
/// @param session Receives the session on success; free it with cinder_session_free.
/// @param error Null, or receives an error on failure; free it with cinder_error_free.
/// @return CINDER_OK; CINDER_RESOURCE if memory cannot be allocated or threads cannot be started; CINDER_ARGUMENT.
/// Call from: any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_create(
    model: *const cinder_model,
    options: *const cinder_session_options,
    session: *mut *mut cinder_session,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header requires.
        let (shared, options, place) = unsafe {
            (
                model::shared(model)?,
                size_prefixed::read(options, "options")?,
                pointer::place(session, "session")?,
            )
        };
        let options = options.options()?;
        check_memory(shared, &options)?;
        let generator = shared.runtime()?.generator(&options)?;
        store(shared, generator, &place);
        Ok(())
    })
}

/// Copies a session: its tokens, cache, sampler, stop strings and speculation mode. The copy continues exactly as the
/// original would, and the two do not affect each other.
///
/// @param copy Receives the copy on success; free it with cinder_session_free.
/// @param error Null, or receives an error on failure; free it with cinder_error_free.
/// @return CINDER_OK, CINDER_RESOURCE, CINDER_ARGUMENT, CINDER_MISUSE or CINDER_POISONED. Call from: the session's
/// thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_copy(
    session: *const cinder_session,
    copy: *mut *mut cinder_session,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header requires.
        let (held, place) = unsafe { (Held::new(session)?, pointer::place(copy, "copy")?) };
        let shared = held.shared();
        check_memory(shared, &held.options())?;
        let mut copied = shared.runtime()?.load(&held.save()?)?;
        copied.set_stops(held.stops().to_vec());
        copied.set_speculation(held.speculation());
        store(shared, copied, &place);
        Ok(())
    })
}

/// Frees a session. In a callback of the same session, the session is freed when the call that runs the callback ends.
///
/// @param session May be null. No other thread may be using it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_free(session: *mut cinder_session) {
    quietly((), || {
        // SAFETY: null or valid, as the header requires.
        let Some(it) = (unsafe { pointer::shared(session) }) else { return };
        if it.busy.swap(true, Ordering::Acquire) {
            it.doomed.store(true, Ordering::Relaxed);
            return;
        }
        // SAFETY: created by `store`, not freed, and not in use: `busy` was not set.
        drop(unsafe { pointer::owned(session) });
    });
}

/// Requests the current call of a session, or else the next one, to end with CINDER_INTERRUPTED, which takes at most the
/// time of a layer. The request ends with that. It applies to tokenizing text to append, appending at least one
/// whole block, logits, decoding and generating.
///
/// @param session May be null. Call from: any thread and any signal handler, also during another call, but not while
/// the session is
/// being freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_cancel(session: *const cinder_session) {
    // Without the boundary: a signal handler may do no more than this, and nothing here can panic.
    // SAFETY: null or valid, as the header requires.
    if let Some(session) = unsafe { pointer::shared(session) } {
        session.interrupt.trigger();
    }
}
