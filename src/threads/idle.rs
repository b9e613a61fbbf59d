//! A hook for each thread, called once, when the thread next has nothing to do.

use std::cell::Cell;

use super::sync::thread_local;

thread_local! {
    static HOOK: Cell<Option<fn()>> = const { Cell::new(None) };
}

/// Lets `hook` be called on this thread before the thread parks or leaves its region. There is one hook a thread: the
/// last registered replaces the others.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only AMX has something to give back"))]
pub(crate) fn at_rest(hook: fn()) {
    HOOK.with(|place| place.set(Some(hook)));
}

/// Calls this thread's hook, if one has been registered since the last call.
pub(super) fn rest() {
    if let Some(hook) = HOOK.with(Cell::take) {
        hook();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_is_called_once() {
        thread_local!(static CALLS: Cell<u32> = const { Cell::new(0) });
        rest();
        at_rest(|| CALLS.set(CALLS.get() + 1));
        rest();
        rest();
        assert_eq!(CALLS.get(), 1);
    }
}
