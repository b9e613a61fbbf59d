//! Opening a model, and facts about it.

use std::ffi::{CString, c_char, c_void};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use super::boundary::{call, quietly};
use super::error::{self, Failure, cinder_error, cinder_status};
use super::options::{
    self, CINDER_LOG_INFO, cinder_log_fn, cinder_memory_estimate, cinder_model_info, cinder_model_options,
    cinder_session_options,
};
use super::pointer;
use crate::MemoryEstimate;
use crate::error::{Error, ErrorKind};
use crate::{Model, Runtime, Team, Tokenizer};

/// A model that is ready to run. Any number of threads may use it at the same time. Its sessions keep what they need
/// of it, so the order in which they are freed does not matter.
pub struct cinder_model(pub(super) Arc<Shared>);

/// What a model's handle and its sessions have in common.
pub(super) struct Shared {
    pub(super) model: Arc<Model>,
    name: CString,
    isa: CString,
    threads: usize,
    /// The threads, while a session needs them, and the process that they belong to.
    team: Mutex<(u32, Weak<Team>)>,
    tokenizer: OnceLock<Result<Tokenizer, (ErrorKind, String)>>,
    log: Log,
}

/// The host's log.
pub(super) struct Log {
    function: cinder_log_fn,
    data: *mut c_void,
}

// SAFETY: the header asks that the function may be called by every thread that uses the model.
unsafe impl Send for Log {}
// SAFETY: as above.
unsafe impl Sync for Log {}

impl Log {
    pub(super) fn line(&self, level: i32, line: &str) {
        if let Some(function) = self.function {
            let line = error::text(line.replace(['\n', '\r'], " ").as_bytes());
            // SAFETY: the host's function, with the host's data and a string that lives during the call.
            unsafe { function(level, line.as_ptr(), self.data) };
        }
    }
}

impl Shared {
    /// The runtime of a session.
    pub(super) fn runtime(&self) -> Result<Runtime, Failure> {
        Ok(Runtime::with_team(Arc::clone(&self.model), self.team()?))
    }

    /// The threads of a session: one team for all, or none where the caller's thread is enough.
    pub(super) fn team(&self) -> Result<Arc<Team>, Failure> {
        if self.threads == 1 {
            // Such a team is no thread at all, and sessions with one each do not wait for each other.
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

    /// The tokenizer, read when it is first needed.
    pub(super) fn tokenizer(&self) -> Result<&Tokenizer, Failure> {
        let read =
            || Tokenizer::of_model(&self.model).map_err(|error| (error.kind(), error.detail().to_string()));
        let result = self.tokenizer.get_or_init(read).as_ref();
        result.map_err(|(kind, detail)| {
            Error::new(*kind, detail.clone()).about(crate::model::keys::TOKENIZER).into()
        })
    }
}

/// The model behind a handle.
///
/// # Safety
/// Null, or a model that lives as long as the result.
pub(super) unsafe fn shared<'a>(model: *const cinder_model) -> Result<&'a Arc<Shared>, Failure> {
    // SAFETY: the caller's promise.
    let model = unsafe { pointer::shared(model) };
    model.map(|model| &model.0).ok_or_else(|| Failure::argument("model", "found null, expected a model"))
}

/// Opens a model with `open` and stores its handle.
///
/// # Safety
/// The pointers are null or valid, as the header asks.
unsafe fn open_with(
    options: *const cinder_model_options,
    model: *mut *mut cinder_model,
    error: *mut *mut cinder_error,
    open: impl FnOnce() -> Result<Model, Failure>,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header asks.
        let (place, options) =
            unsafe { (pointer::place(model, "model")?, options::read(options, "options")?) };
        if options.threads > MAX_THREADS {
            let detail = format!("found {}, expected at most {MAX_THREADS}", options.threads);
            return Err(Failure::argument("threads", detail));
        }
        let model = open()?;
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
            name: error::text(name.as_bytes()),
            isa: error::text(isa.as_bytes()),
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

/// More than any machine has.
const MAX_THREADS: u32 = 1024;

/// Calls the host's progress function, and verifies the weights if that is asked for.
fn check(model: &Model, options: &cinder_model_options) -> Result<(), Failure> {
    let progress = |done, total| match options.progress {
        // SAFETY: the host's function with the host's data.
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

/// Opens a model file. The file is mapped, so this takes a few milliseconds; it must not be truncated or written to
/// while the model lives. Replace it by renaming a new file over it.
///
/// @param path The file; UTF-8 on Windows, the system's bytes elsewhere.
/// @param options Null for the defaults.
/// @param model Gets the model on success, to be freed with cinder_model_free.
/// @param error Null, or gets an error on failure, to be freed with cinder_error_free.
/// @return CINDER_OK; CINDER_IO, CINDER_FORMAT or CINDER_UNSUPPORTED for the file; CINDER_INTERRUPTED if progress
/// asked for it; CINDER_ARGUMENT. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_model_open(
    path: *const c_char,
    options: *const cinder_model_options,
    model: *mut *mut cinder_model,
    error: *mut *mut cinder_error,
) -> cinder_status {
    // SAFETY: null or valid, as the header asks.
    unsafe { open_with(options, model, error, || Ok(Model::open(pointer::path(path, "path")?)?)) }
}

/// Opens a model that is an open file or a part of one, such as an asset in an archive. The file is mapped; the
/// descriptor may be closed afterwards and its position is left alone. POSIX systems only.
///
/// @param descriptor A descriptor of a regular file that can be read.
/// @param offset First byte of the model; a multiple of 64.
/// @param length Bytes of the model; 0 is up to the end of the file.
/// @param options Null for the defaults.
/// @param model Gets the model on success, to be freed with cinder_model_free.
/// @param error Null, or gets an error on failure, to be freed with cinder_error_free.
/// @return As cinder_model_open. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_model_open_fd(
    descriptor: i32,
    offset: u64,
    length: u64,
    options: *const cinder_model_options,
    model: *mut *mut cinder_model,
    error: *mut *mut cinder_error,
) -> cinder_status {
    // SAFETY: null or valid, as the header asks.
    unsafe { open_with(options, model, error, || open_descriptor(descriptor, offset, length)) }
}

#[cfg(unix)]
fn open_descriptor(descriptor: i32, offset: u64, length: u64) -> Result<Model, Failure> {
    use std::os::fd::BorrowedFd;
    if descriptor < 0 {
        return Err(Failure::argument("descriptor", format!("found {descriptor}, expected an open file")));
    }
    // SAFETY: not -1; it is only duplicated, and the system refuses a number that is no open file.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    let io = |error: std::io::Error| Error::io_text(&error).about("descriptor");
    let file = std::fs::File::from(borrowed.try_clone_to_owned().map_err(io)?);
    let end = if length == 0 {
        file.metadata().map_err(io)?.len()
    } else {
        let overflow = || Failure::argument("length", format!("found {length} bytes behind offset {offset}"));
        offset.checked_add(length).ok_or_else(overflow)?
    };
    Ok(Model::open_file(&file, Some(offset..end))?)
}

#[cfg(not(unix))]
fn open_descriptor(_: i32, _: u64, _: u64) -> Result<Model, Failure> {
    Err(Error::unsupported("file descriptors are a matter of POSIX systems: open a path").into())
}

/// Opens a model from the bytes of a file, which are copied.
///
/// @param data The bytes; they may be freed afterwards.
/// @param size How many.
/// @param options Null for the defaults.
/// @param model Gets the model on success, to be freed with cinder_model_free.
/// @param error Null, or gets an error on failure, to be freed with cinder_error_free.
/// @return As cinder_model_open; CINDER_RESOURCE if there is no memory for the copy. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_model_open_memory(
    data: *const c_void,
    size: usize,
    options: *const cinder_model_options,
    model: *mut *mut cinder_model,
    error: *mut *mut cinder_error,
) -> cinder_status {
    // SAFETY: null or valid, as the header asks.
    unsafe {
        open_with(options, model, error, || {
            Ok(Model::from_bytes(pointer::values(data.cast(), size, "data")?)?)
        })
    }
}

/// Frees a model. Its sessions go on.
///
/// @param model May be null. No other call may be using this handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_model_free(model: *mut cinder_model) {
    quietly((), || {
        // SAFETY: null, or made by `open_with` and not freed, as the header asks.
        drop(unsafe { pointer::owned(model) });
    });
}

/// Facts about a model.
///
/// @param info Gets them; set its size before.
/// @param error Null, or gets an error on failure, to be freed with cinder_error_free.
/// @return CINDER_OK or CINDER_ARGUMENT. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_model_get_info(
    model: *const cinder_model,
    info: *mut cinder_model_info,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header asks.
        let shared = unsafe { shared(model) }?;
        let (model, config) = (&shared.model, shared.model.config());
        let facts = cinder_model_info {
            size: size_of::<cinder_model_info>(),
            file_bytes: model.file_bytes() as u64,
            fingerprint: model.fingerprint(),
            trained_blocks: config.trained_blocks as u64,
            vocabulary: config.vocabulary as u32,
            block_length: config.block_length as u32,
            end_token: model.end_token().map_or(-1, |token| token as i32),
            has_tokenizer: i32::from(Tokenizer::AVAILABLE && model.tokenizer_json().is_some()),
            block_layers: config.block_decoder.layers as u32,
            block_hidden: config.block_decoder.hidden as u32,
            token_layers: config.token_decoder.layers as u32,
            token_hidden: config.token_decoder.hidden as u32,
        };
        // SAFETY: null or valid for its size, as the header asks.
        unsafe { options::write(info, &facts, "info") }
    })
}

/// The name that the model's file gives it, UTF-8.
///
/// @param model May be null.
/// @return Lives as long as the handle; "" for null. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_model_name(model: *const cinder_model) -> *const c_char {
    quietly(c"".as_ptr(), || {
        // SAFETY: null or valid, as the header asks.
        unsafe { pointer::shared(model) }.map_or(c"".as_ptr(), |model| model.0.name.as_ptr())
    })
}

/// The instruction set whose kernels run the model, such as "avx2".
///
/// @param model May be null.
/// @return Lives as long as the handle; "" for null. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_model_isa(model: *const cinder_model) -> *const c_char {
    quietly(c"".as_ptr(), || {
        // SAFETY: null or valid, as the header asks.
        unsafe { pointer::shared(model) }.map_or(c"".as_ptr(), |model| model.0.isa.as_ptr())
    })
}

/// What a session would need of memory, before anything is allocated.
///
/// @param options Null for the defaults.
/// @param estimate Gets it; set its size before.
/// @param error Null, or gets an error on failure, to be freed with cinder_error_free.
/// @return CINDER_OK or CINDER_ARGUMENT. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_model_estimate(
    model: *const cinder_model,
    options: *const cinder_session_options,
    estimate: *mut cinder_memory_estimate,
    error: *mut *mut cinder_error,
) -> cinder_status {
    call(error, || {
        // SAFETY: null or valid, as the header asks.
        let (shared, options) = unsafe { (shared(model)?, options::read(options, "options")?) };
        let found = MemoryEstimate::new(&shared.model, &options.options()?);
        // SAFETY: null or valid for its size, as the header asks.
        unsafe { options::write(estimate, &(&found).into(), "estimate") }
    })
}
