//! Signals that ask to stop (Ctrl-C, termination, hang-up): the first one stops the work at the next safe place, the
//! second one ends the program at once.

use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use cinderblock::{Error, ErrorKind, Interrupt, Result};

use crate::{partial, signals};

/// What the program is doing, which decides what a signal does.
#[derive(Clone, Copy, PartialEq)]
#[repr(u8)]
pub enum Activity {
    /// Work that ends the program: the first signal stops it, the second one ends the program at once.
    Work,
    /// An answer in a line editor: Ctrl-C stops the answer alone.
    Answer,
    /// A line editor: Ctrl-C is one of its keys.
    Editor,
    /// A wait for input, which no signal can stop: each one ends the program.
    Input,
}

static ACTIVITY: AtomicU8 = AtomicU8::new(Activity::Work as u8);
/// The signal that has asked to stop; 0 is none.
static ASKED: AtomicI32 = AtomicI32::new(0);
/// The session that is to stop as well.
static SESSION: Mutex<Option<Interrupt>> = Mutex::new(None);

const ANSWER: u8 = Activity::Answer as u8;
const EDITOR: u8 = Activity::Editor as u8;
const INPUT: u8 = Activity::Input as u8;

fn stop(signal: i32) {
    let again = ASKED.swap(signal, Ordering::SeqCst) != 0;
    let by_key = signal == signals::INTERRUPT;
    let activity = ACTIVITY.load(Ordering::SeqCst);
    let ends = match activity {
        ANSWER => again && !by_key,
        EDITOR => !by_key,
        INPUT => true,
        _ => again,
    };
    if ends {
        partial::abandon();
        signals::die(signal);
    }
    if let Some(session) = &*SESSION.lock().unwrap_or_else(PoisonError::into_inner) {
        session.trigger();
    }
}

/// From now on the program does something else.
pub fn begin(activity: Activity) {
    ACTIVITY.store(activity as u8, Ordering::SeqCst);
}

/// A wait for input; then what was before.
pub struct Waiting(u8);

/// Begins a wait for input, such as that for the other end of a pipe, which lasts until the answer is dropped.
pub fn wait_for_input() -> Waiting {
    Waiting(ACTIVITY.swap(INPUT, Ordering::SeqCst))
}

impl Drop for Waiting {
    fn drop(&mut self) {
        ACTIVITY.store(self.0, Ordering::SeqCst);
    }
}

/// Starts to listen. Where no handler can be installed, signals keep their usual meaning.
pub fn listen() {
    static LISTENING: Once = Once::new();
    LISTENING.call_once(|| drop(signals::listen(stop)));
}

/// Starts to listen, and passes requests on to a session.
pub fn listen_for(session: &Interrupt) {
    *SESSION.lock().unwrap_or_else(PoisonError::into_inner) = Some(session.clone());
    listen();
    if asked() {
        session.trigger();
    }
}

/// Asks to stop as Ctrl-C does.
pub fn ask() {
    ASKED.store(signals::INTERRUPT, Ordering::SeqCst);
}

/// Forgets a request that was obeyed.
pub fn forget() {
    ASKED.store(0, Ordering::SeqCst);
    if let Some(session) = &*SESSION.lock().unwrap_or_else(PoisonError::into_inner) {
        session.clear();
    }
}

/// Whether the user has asked to stop.
pub fn asked() -> bool {
    signal().is_some()
}

/// The signal that has asked to stop.
pub fn signal() -> Option<i32> {
    Some(ASKED.load(Ordering::SeqCst)).filter(|&signal| signal != 0)
}

/// An error if the user has asked to stop.
pub fn check() -> Result<()> {
    if asked() { Err(Error::new(ErrorKind::Interrupted, "interrupted")) } else { Ok(()) }
}

/// The end of a verb that was interrupted and has reported so itself.
pub fn reported() -> Error {
    Error::new(ErrorKind::Interrupted, "")
}
