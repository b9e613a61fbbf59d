//! Loom's primitives in the place of `src/threads/sync.rs`, with a switch that weakens one ordering or drops one fence.

use std::panic::Location;
use std::sync::OnceLock;

pub(crate) use loom::cell::UnsafeCell;
pub(crate) use loom::sync::atomic::Ordering;
pub(crate) use loom::sync::{Condvar, MutexGuard};

/// Nothing is learned from waiting longer before a thread parks.
pub(crate) const SPINS: u32 = 0;
pub(crate) const YIELDS: u32 = 0;

pub(crate) fn spin() {}

pub(crate) fn yield_now() {
    loom::thread::yield_now();
}

/// The line of `jobs.rs` to weaken; everything is as written without.
pub const WEAKEN: &str = "CINDERBLOCK_WEAKEN";

/// Whether the caller's place is the one to weaken.
fn is_weak(place: &Location) -> bool {
    static WEAK: OnceLock<Option<String>> = OnceLock::new();
    let weak = WEAK.get_or_init(|| std::env::var(WEAKEN).ok());
    weak.as_ref().is_some_and(|weak| place.file().ends_with("jobs.rs") && *weak == place.line().to_string())
}

#[track_caller]
fn weaken(ordering: Ordering) -> Ordering {
    if ordering != Ordering::Relaxed && is_weak(Location::caller()) { Ordering::Relaxed } else { ordering }
}

#[track_caller]
pub(crate) fn fence(ordering: Ordering) {
    if !is_weak(Location::caller()) {
        loom::sync::atomic::fence(ordering);
    }
}

macro_rules! atomic {
    ($name:ident, $value:ty) => {
        pub(crate) struct $name(loom::sync::atomic::$name);

        impl $name {
            pub(crate) fn new(value: $value) -> Self {
                $name(loom::sync::atomic::$name::new(value))
            }

            #[track_caller]
            pub(crate) fn load(&self, ordering: Ordering) -> $value {
                self.0.load(weaken(ordering))
            }

            /// A swap: loom puts a store and a read-modify-write of an older value in no order, and lets a load
            /// return the latter when it has seen the former.
            #[track_caller]
            pub(crate) fn store(&self, value: $value, ordering: Ordering) {
                self.0.swap(value, weaken(ordering));
            }

            #[track_caller]
            pub(crate) fn swap(&self, value: $value, ordering: Ordering) -> $value {
                self.0.swap(value, weaken(ordering))
            }
        }
    };
}
atomic!(AtomicBool, bool);
atomic!(AtomicU64, u64);
atomic!(AtomicUsize, usize);

macro_rules! count {
    ($name:ident, $value:ty) => {
        impl $name {
            #[track_caller]
            pub(crate) fn fetch_add(&self, value: $value, ordering: Ordering) -> $value {
                self.0.fetch_add(value, weaken(ordering))
            }

            #[track_caller]
            pub(crate) fn fetch_sub(&self, value: $value, ordering: Ordering) -> $value {
                self.0.fetch_sub(value, weaken(ordering))
            }
        }
    };
}
count!(AtomicU64, u64);
count!(AtomicUsize, usize);

/// `std::thread_local!` with a constant, by loom's.
macro_rules! local {
    ($(#[$attribute:meta])* static $name:ident: $value:ty = const $init:block $(;)?) => {
        loom::thread_local! {
            $(#[$attribute])*
            static $name: $value = $init;
        }
    };
}
pub(crate) use local as thread_local;

pub(crate) const PARENT: u32 = 1;
const CHILD: u32 = 2;

std::thread_local! {
    static PROCESS: std::cell::Cell<u32> = const { std::cell::Cell::new(PARENT) };
}

/// The number of the process, which [`fork`] changes.
pub(crate) fn process() -> u32 {
    PROCESS.get()
}

/// Runs `child` as in a child process.
pub(crate) fn fork(child: impl FnOnce()) {
    PROCESS.set(CHILD);
    child();
    PROCESS.set(PARENT);
}

/// A mutex that a child process must not lock: a thread of the parent may have held it when the child was made.
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Mutex(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> std::sync::LockResult<MutexGuard<'_, T>> {
        assert_ne!(process(), CHILD, "a child process locks what its parent may hold");
        self.0.lock()
    }
}
