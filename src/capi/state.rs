//! Saving and loading sessions.

use std::ffi::{c_char, c_void};

use super::boundary::call;
use super::failure::{Failure, cinder_error, cinder_status};
use super::model::{self, cinder_model};
use super::options::cinder_session_options;
use super::pointer;
use super::session::{Held, check_memory, cinder_session, store};
use super::size_prefixed;
use crate::error::{Error, ErrorKind};
use crate::generation::snapshot::Snapshot;

/// Saves a session to memory: its tokens, cache and sampler, at any token. A session loaded from it continues exactly as
/// this one would. Stop strings and the speculation mode are not saved.
///
/// @param buffer Receives the bytes; may be null if capacity is 0.
/// @param capacity Number of bytes that fit in buffer.
/// @param size Receives the number of bytes, also with CINDER_BUFFER: call with capacity 0 first.
/// @param error Null, or receives an error on failure; free it with cinder_error_free.
/// @return CINDER_OK; CINDER_BUFFER if the buffer is too small; CINDER_RESOURCE, CINDER_ARGUMENT, CINDER_MISUSE,
/// CINDER_POISONED. Call from: the session's thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_save(
    session: *const cinder_session,
    buffer: *mut c_void,
    capacity: usize,
    size: *mut usize,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header requires.
        let (held, needed) = unsafe { (Held::new(session)?, pointer::place(size, "size")?) };
        let bytes = held.saved_bytes()?;
        needed.set(usize::try_from(bytes).unwrap_or(usize::MAX));
        pointer::check_capacity(bytes, capacity)?;
        // SAFETY: null or valid for `capacity` bytes, as the header requires.
        unsafe { pointer::copy_out(held.save()?.bytes(), buffer.cast(), capacity, None) }
    })
}

/// Saves a session to a file as cinder_session_save does. The file has the old or the new content, whatever happens, and
/// only its owner may read it.
///
/// @param path Path of the file: UTF-8 on Windows, any bytes elsewhere.
/// @param error Null, or receives an error on failure; free it with cinder_error_free.
/// @return CINDER_OK; CINDER_IO, also if path is empty, a folder or a special file; CINDER_RESOURCE, CINDER_ARGUMENT,
/// CINDER_MISUSE, CINDER_POISONED. Call from: the session's thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_save_file(
    session: *const cinder_session,
    path: *const c_char,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header requires.
        let (held, path) = unsafe { (Held::new(session)?, pointer::path(path, "path")?) };
        Ok(held.save()?.write(path)?)
    })
}

/// Creates a session from the bytes of cinder_session_save. Damaged bytes, and those of another version or model, are
/// refused. Bytes from an untrusted source can make the session generate anything but do no other harm.
///
/// @param model The model that the session was saved with.
/// @param data The bytes; they may be freed afterwards.
/// @param size Number of bytes.
/// @param options Null, or the options that the session must have been created with, which limits its memory.
/// @param session Receives the session on success; free it with cinder_session_free.
/// @param error Null, or receives an error on failure; free it with cinder_error_free.
/// @return CINDER_OK, CINDER_FORMAT, CINDER_ARGUMENT or CINDER_RESOURCE. Call from: any thread.
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
        // SAFETY: null or valid, as the header requires.
        unsafe {
            load(model, options, session, |model| {
                Ok(Snapshot::from_bytes(model, pointer::values(data.cast::<u8>(), size, "data")?)?)
            })
        }
    })
}

/// Creates a session from a file as cinder_session_load does.
///
/// @param model The model that the session was saved with.
/// @param path Path of the file: UTF-8 on Windows, any bytes elsewhere.
/// @param options Null, or the options that the session must have been created with, which limits its memory.
/// @param session Receives the session on success; free it with cinder_session_free.
/// @param error Null, or receives an error on failure; free it with cinder_error_free.
/// @return CINDER_OK, CINDER_IO, CINDER_FORMAT, CINDER_ARGUMENT or CINDER_RESOURCE. Call from: any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_load_file(
    model: *const cinder_model,
    path: *const c_char,
    options: *const cinder_session_options,
    session: *mut *mut cinder_session,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header requires.
        unsafe {
            load(model, options, session, |model| Ok(Snapshot::read(model, pointer::path(path, "path")?)?))
        }
    })
}

/// # Safety
/// The pointers are null or valid, as the header requires.
unsafe fn load<'b>(
    model: *const cinder_model,
    options: *const cinder_session_options,
    session: *mut *mut cinder_session,
    read: impl FnOnce(&crate::Model) -> Result<Snapshot<'b>, Failure>,
) -> Result<(), Failure> {
    // SAFETY: null or valid, as the header requires.
    let (shared, place) = unsafe { (model::shared(model)?, pointer::place(session, "session")?) };
    let snapshot = read(&shared.model)?;
    let saved = snapshot.options();
    if !options.is_null() {
        // SAFETY: valid for its size, as the header requires.
        let wanted = unsafe { size_prefixed::read(options, "options") }?.options()?;
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
    // Valid checksums do not make the tokens and the sampler of a forged file valid.
    let damaged = |error: Error| match error.kind() {
        ErrorKind::Argument => Error::format(format!("session file: {}", error.detail())),
        _ => error,
    };
    let generator = shared.runtime()?.load(&snapshot).map_err(damaged)?;
    store(shared, generator, &place);
    Ok(())
}
