//! Saving and loading sessions.

use std::ffi::{c_char, c_void};

use super::boundary::call;
use super::error::{Failure, cinder_error, cinder_status};
use super::model::{self, cinder_model};
use super::options::{self, cinder_session_options};
use super::pointer;
use super::session::{Held, check_memory, cinder_session, store};
use crate::generation::snapshot::Snapshot;

/// Saves the session's text, its cache and its sampler to memory. A session that is loaded from it continues exactly as
/// this one would, at any token; stop strings are not saved.
///
/// @param buffer Gets the bytes; may be null if capacity is 0.
/// @param capacity Bytes that there is room for.
/// @param size Gets the number of bytes, also with CINDER_BUFFER: ask with capacity 0 first.
/// @param error Null, or gets an error on failure, to be freed with cinder_error_free.
/// @return CINDER_OK; CINDER_BUFFER if there is no room for all; CINDER_RESOURCE, CINDER_ARGUMENT, CINDER_MISUSE,
/// CINDER_POISONED. The session's thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_save(
    session: *const cinder_session,
    buffer: *mut c_void,
    capacity: usize,
    size: *mut usize,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header asks.
        let (held, needed) = unsafe { (Held::new(session)?, pointer::place(size, "size")?) };
        let bytes = held.saved_bytes()?;
        needed.set(usize::try_from(bytes).unwrap_or(usize::MAX));
        pointer::room(bytes, capacity)?;
        // SAFETY: null or valid for `capacity` bytes, as the header asks.
        unsafe { pointer::copy_out(held.save()?.bytes(), buffer.cast(), capacity, None) }
    })
}

/// Saves the session to a file as cinder_session_save does. Under the path is the old content or the new one,
/// whatever happens; only the file's owner may read it.
///
/// @param path The file; UTF-8 on Windows, the system's bytes elsewhere.
/// @param error Null, or gets an error on failure, to be freed with cinder_error_free.
/// @return CINDER_OK, CINDER_IO, CINDER_RESOURCE, CINDER_ARGUMENT, CINDER_MISUSE, CINDER_POISONED. The session's
/// thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_save_file(
    session: *const cinder_session,
    path: *const c_char,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header asks.
        let (held, path) = unsafe { (Held::new(session)?, pointer::path(path, "path")?) };
        Ok(held.save()?.write(path)?)
    })
}

/// Starts a session from what cinder_session_save stored. Damaged bytes, and those of another version or model, are
/// refused; so bytes from a stranger can make a session say anything but do no harm.
///
/// @param model The model that the session was saved with.
/// @param data The bytes; they may be freed afterwards.
/// @param size How many.
/// @param options Null, or the session must have been created with these, which limits its memory.
/// @param session Gets the session on success, to be freed with cinder_session_free.
/// @param error Null, or gets an error on failure, to be freed with cinder_error_free.
/// @return CINDER_OK, CINDER_FORMAT, CINDER_ARGUMENT or CINDER_RESOURCE. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_load(
    model: *const cinder_model,
    data: *const c_void,
    size: usize,
    options: *const cinder_session_options,
    session: *mut *mut cinder_session,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header asks.
        unsafe {
            load(model, options, session, |model| {
                Ok(Snapshot::from_bytes(model, pointer::values(data.cast::<u8>(), size, "data")?)?)
            })
        }
    })
}

/// Starts a session from a file as cinder_session_load does.
///
/// @param model The model that the session was saved with.
/// @param path The file; UTF-8 on Windows, the system's bytes elsewhere.
/// @param options Null, or the session must have been created with these, which limits its memory.
/// @param session Gets the session on success, to be freed with cinder_session_free.
/// @param error Null, or gets an error on failure, to be freed with cinder_error_free.
/// @return CINDER_OK, CINDER_IO, CINDER_FORMAT, CINDER_ARGUMENT or CINDER_RESOURCE. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_load_file(
    model: *const cinder_model,
    path: *const c_char,
    options: *const cinder_session_options,
    session: *mut *mut cinder_session,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header asks.
        unsafe {
            load(model, options, session, |model| Ok(Snapshot::read(model, pointer::path(path, "path")?)?))
        }
    })
}

/// # Safety
/// The pointers are null or valid, as the header asks.
unsafe fn load<'b>(
    model: *const cinder_model,
    options: *const cinder_session_options,
    session: *mut *mut cinder_session,
    read: impl FnOnce(&crate::Model) -> Result<Snapshot<'b>, Failure>,
) -> Result<(), Failure> {
    // SAFETY: null or valid, as the header asks.
    let (shared, place) = unsafe { (model::shared(model)?, pointer::place(session, "session")?) };
    let snapshot = read(&shared.model)?;
    let saved = snapshot.options();
    if !options.is_null() {
        // SAFETY: valid for its size, as the header asks.
        let wanted = unsafe { options::read(options, "options") }?.options()?;
        let describe = |options: &crate::SessionOptions| {
            let kind = options.cache_type_for(&shared.model).name();
            let blocks = options.cache_blocks_for(&shared.model);
            format!("{blocks} blocks, {} of them pinned, in {kind}", options.sink_blocks)
        };
        let (found, expected) = (describe(&saved), describe(&wanted));
        if found != expected {
            return Err(Failure::argument("options", format!("found {found}, expected {expected}")));
        }
    }
    check_memory(shared, &saved)?;
    store(shared, shared.runtime()?.load(&snapshot)?, &place);
    Ok(())
}
