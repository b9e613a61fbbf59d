//! Opening a model, and its properties.

use std::ffi::{CString, c_char, c_void};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use super::boundary::{call, quietly};
use super::failure::{Failure, c_string, cinder_error, cinder_status};
use super::options::{
    self, CINDER_LOG_INFO, cinder_log_fn, cinder_memory_estimate, cinder_model_info, cinder_model_options,
    cinder_session_options,
};
use super::pointer;
use super::size_prefixed::{self, SizePrefixed};
use crate::MemoryEstimate;
use crate::error::{Error, ErrorKind};
use crate::{Model, OpenOptions, Runtime, Team, Tokenizer};

/// An open model. Any number of threads may use it at the same time. Its sessions keep the parts they need alive, so
/// models and sessions may be freed in any order.
pub struct cinder_model(pub(super) Arc<Shared>);

/// The part of a model that its handle and its sessions share.
pub(super) struct Shared {
    pub(super) model: Arc<Model>,
    name: CString,
    isa: CString,
    threads: usize,
    /// The threads, while a session needs them, and the process they belong to.
    team: Mutex<(u32, Weak<Team>)>,
    tokenizer: OnceLock<Result<Tokenizer, (ErrorKind, String)>>,
    log: Log,
}

/// The log callback of the caller.
pub(super) struct Log {
    function: cinder_log_fn,
    data: *mut c_void,
}

// SAFETY: the header requires that every thread that uses the model may call the function.
unsafe impl Send for Log {}
// SAFETY: as above.
unsafe impl Sync for Log {}

impl Log {
    pub(super) fn line(&self, level: i32, line: &str) {
        if let Some(function) = self.function {
            let line = c_string(line.replace(['\n', '\r'], " ").as_bytes());
            // SAFETY: the caller's function, with the caller's data and a string that is valid during the call.
            unsafe { function(level, line.as_ptr(), self.data) };
        }
    }
}

impl Shared {
    /// The runtime of a session.
    pub(super) fn runtime(&self) -> Result<Runtime, Failure> {
        Ok(Runtime::with_team(Arc::clone(&self.model), self.team()?))
    }

    /// The threads for a session: one team for all sessions, or the calling thread alone.
    pub(super) fn team(&self) -> Result<Arc<Team>, Failure> {
        if self.threads == 1 {
            // A team of one starts no thread, and sessions with a team each do not wait for each other.
            return Ok(Arc::new(Team::new(1)?));
        }
        let mut team = self.team.lock().unwrap_or_else(PoisonError::into_inner);
        let process = std::process::id();
        if team.0 == process
            && let Some(team) = team.1.upgrade()
        {
            return Ok(team);
        }
        let started = Arc::new(Team::new(self.threads)?);
        *team = (process, Arc::downgrade(&started));
        drop(team);
        self.log.line(CINDER_LOG_INFO, &format!("a team of {} threads", started.threads()));
        Ok(started)
    }

    pub(super) fn log(&self, level: i32, line: &str) {
        self.log.line(level, line);
    }

    /// The tokenizer, parsed on first use.
    pub(super) fn tokenizer(&self) -> Result<&Tokenizer, Failure> {
        let read =
            || Tokenizer::of_model(&self.model).map_err(|error| (error.kind(), error.detail().to_string()));
        let result = self.tokenizer.get_or_init(read).as_ref();
        result.map_err(|(kind, detail)| {
            Error::new(*kind, detail.clone()).about(crate::model::keys::TOKENIZER).into()
        })
    }
}

/// The model of a handle.
///
/// # Safety
/// Null, or a model that outlives the result.
pub(super) unsafe fn shared<'a>(model: *const cinder_model) -> Result<&'a Arc<Shared>, Failure> {
    // SAFETY: the caller's promise.
    let model = unsafe { pointer::shared(model) };
    model.map(|model| &model.0).ok_or_else(|| Failure::argument("model", "found null, expected a model"))
}

/// Opens a model with `open` and stores its handle.
///
/// # Safety
/// The pointers are null or valid, as the header requires.
unsafe fn open_with(
    options: *const cinder_model_options,
    model: *mut *mut cinder_model,
    error: *mut *mut cinder_error,
    open: impl FnOnce(OpenOptions) -> Result<Model, Failure>,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header requires.
        let (place, options) =
            unsafe { (pointer::place(model, "model")?, size_prefixed::read(options, "options")?) };
        if options.threads > MAX_THREADS {
            let detail = format!("found {}, expected at most {MAX_THREADS}", options.threads);
            return Err(Failure::argument("threads", detail));
        }
        options::reserved(options.reserved)?;
        let model = open(OpenOptions { map: options.in_memory == 0 })?;
        check(&model, &options)?;
        let threads = if options.threads == 0 {
            crate::threads::Processors::detect().threads()
        } else {
            options.threads as usize
        };
        let log = Log { function: options.log, data: options.log_data };
        let (name, isa) = (&model.config().name, model.kernels().isa().name());
        log.line(CINDER_LOG_INFO, &format!("model {name:?}: {} bytes, {isa} kernels", model.file_bytes()));
        let shared = Shared {
            name: c_string(name.as_bytes()),
            isa: c_string(isa.as_bytes()),
            model: Arc::new(model),
            threads,
            team: Mutex::new((0, Weak::new())),
            tokenizer: OnceLock::new(),
            log,
        };
        place.set(Box::into_raw(Box::new(cinder_model(Arc::new(shared)))));
        Ok(())
    })
}

/// More threads than any machine has.
const MAX_THREADS: u32 = 1024;

/// Reports progress, and verifies the weights if that is requested.
fn check(model: &Model, options: &cinder_model_options) -> Result<(), Failure> {
    let progress = |done, total| match options.progress {
        // SAFETY: the caller's function with the caller's data.
        Some(function) if unsafe { function(done, total, options.progress_data) } != 0 => {
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    };
    if options.verify != 0 {
        return Ok(model.verify_with(progress)?);
    }
    let total = model.file_bytes() as u64;
    if progress(0, total).is_break() || progress(total, total).is_break() {
        return Err(Error::new(ErrorKind::Interrupted, "opening was interrupted").into());
    }
    Ok(())
}

/// Opens a model file. The file is mapped, which takes a few milliseconds. It must not be truncated or overwritten while
/// the model or one of its sessions exists: replace it by renaming a new file over it, or set in_memory in the options.
///
/// @param path Path of the file: UTF-8 on Windows, any bytes elsewhere.
/// @param options Null for the defaults.
/// @param model Receives the model on success; free it with cinder_model_free.
/// @param error Null, or receives an error on failure; free it with cinder_error_free.
/// @return CINDER_OK; CINDER_IO, CINDER_FORMAT or CINDER_UNSUPPORTED for the file; CINDER_INTERRUPTED by progress;
/// CINDER_RESOURCE if memory cannot be allocated; CINDER_ARGUMENT. Call from: any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_model_open(
    path: *const c_char,
    options: *const cinder_model_options,
    model: *mut *mut cinder_model,
    error: *mut *mut cinder_error,
) -> cinder_status {
    // SAFETY: null or valid, as the header requires.
    unsafe {
        open_with(options, model, error, |how| Ok(Model::open_with(pointer::path(path, "path")?, how)?))
    }
}

/// Opens a model in an open file or in part of one, such as an archive. The file is mapped. The descriptor may be closed
/// afterwards, and its position does not change. POSIX systems only.
///
/// @param descriptor A readable regular file.
/// @param offset First byte of the model; a multiple of 64.
/// @param length Bytes of the model; 0 for all bytes up to the end of the file.
/// @param options Null for the defaults.
/// @param model Receives the model on success; free it with cinder_model_free.
/// @param error Null, or receives an error on failure; free it with cinder_error_free.
/// @return As cinder_model_open; CINDER_UNSUPPORTED on other systems. Call from: any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_model_open_fd(
    descriptor: i32,
    offset: u64,
    length: u64,
    options: *const cinder_model_options,
    model: *mut *mut cinder_model,
    error: *mut *mut cinder_error,
) -> cinder_status {
    // SAFETY: null or valid, as the header requires.
    unsafe { open_with(options, model, error, |how| open_descriptor(descriptor, offset, length, how)) }
}

#[cfg(unix)]
fn open_descriptor(descriptor: i32, offset: u64, length: u64, how: OpenOptions) -> Result<Model, Failure> {
    use std::os::fd::BorrowedFd;
    if descriptor < 0 {
        return Err(Failure::argument("descriptor", format!("found {descriptor}, expected an open file")));
    }
    // SAFETY: not -1; it is only duplicated, and the system refuses a number that is not an open file.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    let io = |error: std::io::Error| Error::io_text(&error).about("descriptor");
    let file = std::fs::File::from(borrowed.try_clone_to_owned().map_err(io)?);
    let end = if length == 0 {
        file.metadata().map_err(io)?.len()
    } else {
        let overflow = || {
            Failure::argument(
                "length",
                format!("found {length} bytes after offset {offset}, expected less than 2^64"),
            )
        };
        offset.checked_add(length).ok_or_else(overflow)?
    };
    Ok(Model::open_file_with(&file, Some(offset..end), how)?)
}

#[cfg(not(unix))]
fn open_descriptor(_: i32, _: u64, _: u64, _: OpenOptions) -> Result<Model, Failure> {
    Err(Error::unsupported("descriptor: found a system other than POSIX, expected a path").into())
}

/// Opens a model from the bytes of a file in memory, which are copied.
///
/// @param data The bytes; they may be freed afterwards.
/// @param size Number of bytes.
/// @param options Null for the defaults.
/// @param model Receives the model on success; free it with cinder_model_free.
/// @param error Null, or receives an error on failure; free it with cinder_error_free.
/// @return As cinder_model_open. Call from: any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_model_open_memory(
    data: *const c_void,
    size: usize,
    options: *const cinder_model_options,
    model: *mut *mut cinder_model,
    error: *mut *mut cinder_error,
) -> cinder_status {
    // SAFETY: null or valid, as the header requires.
    unsafe {
        open_with(options, model, error, |_| {
            Ok(Model::from_bytes(pointer::values(data.cast(), size, "data")?)?)
        })
    }
}

/// Frees a model. Its sessions stay usable.
///
/// @param model May be null. No other call may be using the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_model_free(model: *mut cinder_model) {
    quietly((), || {
        // SAFETY: null, or created by `open_with` and not freed, as the header requires.
        drop(unsafe { pointer::owned(model) });
    });
}

/// Reads the properties of a model.
///
/// @param info Receives the properties; set its size before the call.
/// @param error Null, or receives an error on failure; free it with cinder_error_free.
/// @return CINDER_OK or CINDER_ARGUMENT. Call from: any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_model_get_info(
    model: *const cinder_model,
    info: *mut cinder_model_info,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header requires.
        let shared = unsafe { shared(model) }?;
        let (model, config) = (&shared.model, shared.model.config());
        let facts = cinder_model_info {
            file_bytes: model.file_bytes() as u64,
            fingerprint: model.fingerprint(),
            trained_blocks: config.trained_blocks as u64,
            vocabulary: config.vocabulary as u32,
            block_length: config.block_length as u32,
            end_token: model.end_token().map_or(-1, |token| token as i32),
            has_tokenizer: i32::from(Tokenizer::AVAILABLE && model.tokenizer_json().is_some()),
            block_layers: config.block_decoder.layers as u32,
            block_hidden: config.block_decoder.hidden as u32,
            token_layers: config.token_decoder.layers() as u32,
            token_hidden: config.token_decoder.hidden() as u32,
            ..cinder_model_info::initial()
        };
        // SAFETY: null or valid for its size, as the header requires.
        unsafe { size_prefixed::write(info, &facts, "info") }
    })
}

/// The name of the model in its file, UTF-8.
///
/// @param model May be null.
/// @return Valid until the handle is freed; "" for null. Call from: any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_model_name(model: *const cinder_model) -> *const c_char {
    quietly(c"".as_ptr(), || {
        // SAFETY: null or valid, as the header requires.
        unsafe { pointer::shared(model) }.map_or(c"".as_ptr(), |model| model.0.name.as_ptr())
    })
}

/// The instruction set of the kernels that run the model, such as "avx2".
///
/// @param model May be null.
/// @return Valid until the handle is freed; "" for null. Call from: any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_model_isa(model: *const cinder_model) -> *const c_char {
    quietly(c"".as_ptr(), || {
        // SAFETY: null or valid, as the header requires.
        unsafe { pointer::shared(model) }.map_or(c"".as_ptr(), |model| model.0.isa.as_ptr())
    })
}

/// Computes the memory that a session needs, without allocating any.
///
/// @param options Null for the defaults.
/// @param estimate Receives the estimate; set its size before the call.
/// @param error Null, or receives an error on failure; free it with cinder_error_free.
/// @return CINDER_OK; CINDER_RESOURCE if it is more than an address space; CINDER_ARGUMENT. Call from: any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_model_estimate(
    model: *const cinder_model,
    options: *const cinder_session_options,
    estimate: *mut cinder_memory_estimate,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header requires.
        let (shared, options) = unsafe { (shared(model)?, size_prefixed::read(options, "options")?) };
        let options = options.options()?;
        options.cache_shape(&shared.model)?;
        let found = MemoryEstimate::new(&shared.model, &options);
        if [found.cache, found.scratch, found.total()].iter().any(|bytes| *bytes >= usize::MAX as u64) {
            let detail = format!(
                "session: found a cache of {} blocks, expected one that fits in memory",
                found.cache_blocks
            );
            return Err(Error::new(ErrorKind::Resource, detail).into());
        }
        // SAFETY: null or valid for its size, as the header requires.
        unsafe { size_prefixed::write(estimate, &(&found).into(), "estimate") }
    })
}
