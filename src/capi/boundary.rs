//! The end of Rust: no panic leaves a call, and none prints to standard error.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::sync::{Once, OnceLock};

use super::failure::{CINDER_OK, Failure, cinder_error, cinder_status};
use crate::error::{Error, ErrorKind};

thread_local! {
    /// Depth of nested calls on this thread. It has no destructor, so that it does not keep the library loaded.
    static INSIDE: Cell<usize> = const { Cell::new(0) };
}

type Hook = Box<dyn Fn(&PanicHookInfo<'_>) + Send + Sync>;

/// The previous hook. Outside the closure, which then needs no memory that unloading would leak.
static PREVIOUS: OnceLock<Hook> = OnceLock::new();

/// Silences panics inside calls and in the worker threads; other panics still reach the previous hook.
fn silence() {
    static SILENCE: Once = Once::new();
    SILENCE.call_once(|| {
        let _ = PREVIOUS.set(take_hook());
        set_hook(Box::new(|info| {
            let ours = || std::thread::current().name().is_some_and(|name| name.starts_with("cinderblock-"));
            if INSIDE.get() == 0
                && !ours()
                && let Some(previous) = PREVIOUS.get()
            {
                previous(info);
            }
        }));
    });
}

fn guarded<T>(body: impl FnOnce() -> T) -> Result<T, Box<dyn Any + Send>> {
    silence();
    INSIDE.set(INSIDE.get() + 1);
    let result = catch_unwind(AssertUnwindSafe(body));
    INSIDE.set(INSIDE.get() - 1);
    result
}

/// Runs the body of a function. A failure becomes a status and, unless `error` is null, an object in `*error`.
pub(super) fn call(
    error: *mut *mut cinder_error,
    body: impl FnOnce() -> Result<(), Failure>,
) -> cinder_status {
    let failure = match guarded(body) {
        Ok(Ok(())) => return CINDER_OK,
        Ok(Err(failure)) => failure,
        Err(payload) => Failure::from(defect(payload)),
    };
    if !error.is_null() {
        let object = Box::into_raw(Box::new(cinder_error::new(&failure)));
        // SAFETY: not null, so valid for writing a pointer, as the header requires.
        unsafe { error.write(object) };
    }
    failure.status
}

/// Runs the body of a function that returns no status; returns `otherwise` if it panics.
pub(super) fn quietly<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    guarded(body).unwrap_or_else(|payload| {
        drop(defect(payload));
        otherwise
    })
}

fn defect(payload: Box<dyn Any + Send>) -> Error {
    let text = match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => match payload.downcast::<&'static str>() {
            Ok(text) => text.to_string(),
            Err(payload) => {
                // Its destructor may panic again.
                std::mem::forget(payload);
                "unknown".to_string()
            }
        },
    };
    Error::new(ErrorKind::Internal, format!("a defect in this library: {text}"))
}

#[cfg(test)]
mod tests {
    use super::super::failure::CINDER_INTERNAL;
    use super::*;

    #[test]
    fn a_panic_becomes_a_status_with_its_text() {
        let mut error = std::ptr::null_mut();
        let status = call(&mut error, || panic!("seven"));
        assert_eq!(status, CINDER_INTERNAL);
        // SAFETY: `call` has stored a new object.
        let error = unsafe { Box::from_raw(error) };
        assert_eq!(error.message.to_str(), Ok("a defect in this library: seven"));
        // Of no size, so that what is kept takes no memory.
        assert_eq!(quietly(3, || std::panic::panic_any(())), 3);
        assert_eq!(INSIDE.get(), 0);
    }
}
