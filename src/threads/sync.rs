//! The primitives that the protocol of the team is made of. The model check in `tests/threads` compiles the protocol
//! with loom's primitives in their place.

pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
pub(super) use std::thread_local;

use std::cell;

/// Rounds of spinning before a thread that waits yields.
pub(super) const SPINS: u32 = 2000;
/// Rounds of yielding before a thread that waits parks.
pub(super) const YIELDS: u32 = 20;

/// One round of waiting without giving up the processor.
pub(super) fn spin() {
    std::hint::spin_loop();
}

/// One round of waiting while others run.
pub(super) fn yield_now() {
    std::thread::yield_now();
}

/// The number of this process.
pub(super) fn process() -> u32 {
    std::process::id()
}

/// A cell that threads share under a protocol of their own.
pub(super) struct UnsafeCell<T>(cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    pub(super) fn new(value: T) -> Self {
        UnsafeCell(cell::UnsafeCell::new(value))
    }

    /// Calls `read` with the value's address. The caller sees to it that nobody writes meanwhile.
    #[inline]
    pub(super) fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
        read(self.0.get())
    }

    /// Calls `write` with the value's address. The caller sees to it that nobody reads or writes meanwhile.
    #[inline]
    pub(super) fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
        write(self.0.get())
    }
}
