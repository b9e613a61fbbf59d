//! A value that many threads use in turn.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use cinderblock::{Error, Result};

use crate::work::{PATIENCE, Signals};

/// A place for one value, which is empty while a thread uses it.
pub struct Slot<T> {
    state: Mutex<State<T>>,
    returned: Condvar,
}

struct State<T> {
    value: Option<T>,
    /// Who has taken the value; `None` is a stream, which returns it only when it ends.
    holder: Option<ThreadId>,
}

/// The value while it is used.
pub struct Held<T> {
    slot: Arc<Slot<T>>,
    value: Option<T>,
}

impl<T> Slot<T> {
    pub fn new(value: T) -> Arc<Slot<T>> {
        let state = Mutex::new(State { value: Some(value), holder: None });
        Arc::new(Slot { state, returned: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the value, after those who were first. Called without the interpreter.
    ///
    /// # Errors
    /// If a stream has it, or this thread, which is then in the handler of a signal; `Interrupted` by a signal.
    pub fn take(self: &Arc<Self>, signals: &mut Signals) -> Result<Held<T>> {
        let me = thread::current().id();
        let mut state = self.lock();
        loop {
            if let Some(value) = state.value.take() {
                state.holder = Some(me);
                return Ok(Held { slot: Arc::clone(self), value: Some(value) });
            }
            if state.holder.is_none_or(|holder| holder == me) {
                return Err(Error::argument(
                    "session: found it in use by a stream, expected one that has ended",
                ));
            }
            state = self.returned.wait_timeout(state, PATIENCE).unwrap_or_else(PoisonError::into_inner).0;
            // Whoever has the interpreter may be about to return the value.
            drop(state);
            signals.poll()?;
            state = self.lock();
        }
    }
}

impl<T> Slot<T> {
    /// The value, if nobody has it.
    pub fn get_mut(&mut self) -> Option<&mut T> {
        self.state.get_mut().unwrap_or_else(PoisonError::into_inner).value.as_mut()
    }
}

impl<T> Held<T> {
    /// Passes the value on to the thread of a stream.
    pub fn lend(self) -> Held<T> {
        self.slot.lock().holder = None;
        self
    }
}

impl<T> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect("held until it is dropped")
    }
}

impl<T> DerefMut for Held<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("held until it is dropped")
    }
}

impl<T> Drop for Held<T> {
    fn drop(&mut self) {
        self.slot.lock().value = self.value.take();
        self.slot.returned.notify_one();
    }
}
