//! Ctrl-C and termination: the first asks to stop at the next safe place, the second stops at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use cinderblock::Interrupt;
use cinderblock::error::{Error, ErrorKind, Result};

static ASKED: AtomicBool = AtomicBool::new(false);
/// Whether the program goes on after what was stopped, so that a second request is no other than the first.
static PATIENT: AtomicBool = AtomicBool::new(false);
/// The session that is to stop as well.
static SESSION: Mutex<Option<Interrupt>> = Mutex::new(None);

/// Starts to listen.
pub fn listen() {
    // Where no handler can be installed, Ctrl-C keeps its usual meaning.
    let _ = ctrlc::set_handler(|| {
        if ASKED.swap(true, Ordering::SeqCst) && !PATIENT.load(Ordering::SeqCst) {
            crate::output::abandon();
            std::process::exit(130);
        }
        if let Some(session) = &*SESSION.lock().unwrap_or_else(PoisonError::into_inner) {
            session.trigger();
        }
    });
}

/// Starts to listen, and passes requests on to a session.
pub fn listen_for(session: &Interrupt) {
    *SESSION.lock().unwrap_or_else(PoisonError::into_inner) = Some(session.clone());
    listen();
    if asked() {
        session.trigger();
    }
}

/// Forgets a request that was obeyed; from now on no request ends the program.
pub fn forget() {
    PATIENT.store(true, Ordering::SeqCst);
    ASKED.store(false, Ordering::SeqCst);
    if let Some(session) = &*SESSION.lock().unwrap_or_else(PoisonError::into_inner) {
        session.clear();
    }
}

/// Whether the user has asked to stop.
pub fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}

/// An error if the user has asked to stop.
pub fn check() -> Result<()> {
    if asked() { Err(Error::new(ErrorKind::Interrupted, "interrupted")) } else { Ok(()) }
}
