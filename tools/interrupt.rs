//! Ctrl-C and termination: the first asks to stop at the next safe place, the second stops at once.

use std::sync::atomic::{AtomicBool, Ordering};

use cinderblock::error::{Error, ErrorKind, Result};

static ASKED: AtomicBool = AtomicBool::new(false);

/// Starts to listen.
pub fn listen() {
    // Where no handler can be installed, Ctrl-C keeps its usual meaning.
    let _ = ctrlc::set_handler(|| {
        if ASKED.swap(true, Ordering::SeqCst) {
            crate::output::abandon();
            std::process::exit(130);
        }
    });
}

/// Whether the user has asked to stop.
pub fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}

/// An error if the user has asked to stop.
pub fn check() -> Result<()> {
    if asked() { Err(Error::new(ErrorKind::Interrupted, "interrupted")) } else { Ok(()) }
}
