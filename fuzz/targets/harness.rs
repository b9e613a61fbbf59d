//! The surroundings of every target: memory that runs out, panics that count, and counters of bytes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;
use std::sync::atomic::Ordering::Relaxed;

use cinderblock_fuzz::{ALLOCATED, PEAK};

/// Bytes of one allocation, and of all, that the system gives. What asks for more without a plan for failure aborts,
/// which is a finding.
const LARGEST: usize = 256 << 20;
const MOST: usize = 1 << 30;

struct Limited;

#[global_allocator]
static LIMITED: Limited = Limited;

fn fits(bytes: usize) -> bool {
    bytes <= LARGEST && ALLOCATED.load(Relaxed).saturating_add(bytes) <= MOST
}

fn count(pointer: *mut u8, freed: usize, taken: usize) -> *mut u8 {
    if !pointer.is_null() {
        let before = ALLOCATED.fetch_add(taken.wrapping_sub(freed), Relaxed);
        PEAK.fetch_max(before.wrapping_add(taken).wrapping_sub(freed), Relaxed);
    }
    pointer
}

// SAFETY: every call is passed on to the system's allocator, or fails.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !fits(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        count(unsafe { System.alloc(layout) }, 0, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !fits(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        count(unsafe { System.alloc_zeroed(layout) }, 0, layout.size())
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !fits(size) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        count(unsafe { System.realloc(pointer, layout, size) }, layout.size(), size)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) };
    }
}

/// A panic of this project is a finding even where it is caught; the tokenizers crate panics on some files, and the
/// library answers that.
fn judge(info: &PanicHookInfo<'_>) {
    let file = info.location().map_or("", |location| location.file());
    if !file.contains("/registry/") && !file.starts_with("/rustc/") {
        eprintln!("{info}\n{}", Backtrace::force_capture());
        std::process::abort();
    }
}

/// Runs a target on the bytes of the fuzzer.
pub fn run(target: impl FnOnce()) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| panic::set_hook(Box::new(judge)));
    if panic::catch_unwind(AssertUnwindSafe(target)).is_err() {
        eprintln!("a panic of a dependency left the library");
        std::process::abort();
    }
}
