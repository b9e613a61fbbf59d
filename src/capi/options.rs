//! Structs that begin with their size, so that programs and libraries of different age understand each other.

use std::ffi::c_void;
use std::time::Duration;

use super::boundary::quietly;
use super::error::Failure;
use crate::MemoryEstimate;
use crate::cache::CacheType;
use crate::generation::sampler::SamplerOptions;
use crate::{Alignment, GenerateOptions, SessionOptions};

/// Called while a model is opened: with 0 bytes first, with all of them at last.
///
/// @param done Bytes that have been checked.
/// @param total Bytes that will be.
/// @param user_data What the options say.
/// @return 0 to go on; anything else ends the call with CINDER_INTERRUPTED.
pub type cinder_progress_fn =
    Option<unsafe extern "C" fn(done: u64, total: u64, user_data: *mut c_void) -> i32>;

/// Called with a line for a log, by the thread that is inside a call with the model or one of its sessions.
///
/// @param level CINDER_LOG_ERROR or CINDER_LOG_INFO; later versions may add some.
/// @param message UTF-8, without a line break; lives during the call.
/// @param user_data What the options say.
pub type cinder_log_fn =
    Option<unsafe extern "C" fn(level: i32, message: *const std::ffi::c_char, user_data: *mut c_void)>;

/// Level of a line for a log: a defect in this library.
pub const CINDER_LOG_ERROR: i32 = 1;
/// Level of a line for a log: what the library does.
pub const CINDER_LOG_INFO: i32 = 2;

/// Called with each generated token, before the text that it completes.
///
/// @param token Its id.
/// @param logprob The natural logarithm of the probability that the model gave it, before anything that the sampler
/// does.
/// @param user_data What the options say.
/// @return 0 to go on; anything else ends the text with CINDER_END_CALLER.
pub type cinder_token_fn =
    Option<unsafe extern "C" fn(token: u32, logprob: f32, user_data: *mut c_void) -> i32>;

/// How a first text that does not fill whole blocks is laid out: as the model was trained.
pub const CINDER_ALIGN_AUTO: i32 = 0;
/// The first block is filled up from the left.
pub const CINDER_ALIGN_LEFT: i32 = 1;
/// The last block is left open.
pub const CINDER_ALIGN_TAIL: i32 = 2;

/// Type of the cache: the one that fits the model.
pub const CINDER_CACHE_AUTO: i32 = 0;
/// Type of the cache: single precision.
pub const CINDER_CACHE_F32: i32 = 1;
/// Type of the cache: half precision.
pub const CINDER_CACHE_F16: i32 = 2;
/// Type of the cache: integers of 8 bits, in about half the bytes of half precision.
pub const CINDER_CACHE_Q8: i32 = 3;

/// Tokens are guessed where that saves time.
pub const CINDER_SPECULATE_AUTO: i32 = 0;
/// Tokens are guessed wherever there is a guess.
pub const CINDER_SPECULATE_ON: i32 = 1;
/// Tokens are never guessed.
pub const CINDER_SPECULATE_OFF: i32 = 2;

/// How a model is opened. Prepare it with cinder_model_options_init.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct cinder_model_options {
    /// Bytes of this struct as the program knows it.
    pub size: usize,
    /// Threads that work for the model's sessions, the calling one included; 0 is as many as machine, affinity and
    /// quota allow. With 1, no thread is ever started, and sessions on different threads do not wait for
    /// each other.
    pub threads: u32,
    /// Not 0 to compare every weight with its checksum, which reads the whole file.
    pub verify: i32,
    /// May be null.
    pub progress: cinder_progress_fn,
    /// Passed to progress.
    pub progress_data: *mut c_void,
    /// May be null. Must stay valid until the model and all its sessions are freed.
    pub log: cinder_log_fn,
    /// Passed to log.
    pub log_data: *mut c_void,
}

/// What a session remembers. Prepare it with cinder_session_options_init.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct cinder_session_options {
    /// Bytes of this struct as the program knows it.
    pub size: usize,
    /// Blocks of tokens that the cache holds, pinned ones included; when it is full, the oldest leaves.
    pub cache_blocks: u64,
    /// First blocks that are never forgotten; fewer than cache_blocks.
    pub sink_blocks: u64,
    /// CINDER_CACHE_AUTO, CINDER_CACHE_F32, CINDER_CACHE_F16 or CINDER_CACHE_Q8.
    pub cache_type: i32,
    /// CINDER_ALIGN_AUTO, CINDER_ALIGN_LEFT or CINDER_ALIGN_TAIL.
    pub alignment: i32,
}

/// How a token is chosen. Prepare it with cinder_sampler_options_init, which gives plain sampling.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct cinder_sampler_options {
    /// Bytes of this struct as the program knows it.
    pub size: usize,
    /// Seed of the draws; the same one gives the same text.
    pub seed: u64,
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// Keeps the most likely tokens that together reach this probability; more than 0, up to 1.
    pub top_p: f32,
    /// Keeps tokens at least this probable, relative to the most likely one; 0 to 1.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of recent tokens; more than 0, 1 is none.
    pub repetition_penalty: f32,
    /// Keeps so many of the most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// How many of the last tokens are recent.
    pub repetition_window: u32,
}

/// How text is generated. Prepare it with cinder_generate_options_init.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct cinder_generate_options {
    /// Bytes of this struct as the program knows it.
    pub size: usize,
    /// Tokens at most.
    pub max_tokens: u64,
    /// Not 0 to go on past the token that ends a text.
    pub ignore_end: i32,
    /// 0.
    pub reserved: i32,
    /// No token is begun after so many milliseconds; 0 for no limit.
    pub time_limit_ms: u64,
    /// Gets each token with its log-probability, which costs a little time; may be null.
    pub token: cinder_token_fn,
    /// Passed to token.
    pub token_data: *mut c_void,
}

/// What came of generating. Set size before the call; the library writes no more than that.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct cinder_generation {
    /// Bytes of this struct as the program knows it.
    pub size: usize,
    /// Tokens that were added to the session.
    pub tokens: u64,
    /// Why it ended: CINDER_END_LENGTH and so on.
    pub end: i32,
    /// 0.
    pub reserved: i32,
}

/// Facts about a model. Set size before the call; the library writes no more than that.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct cinder_model_info {
    /// Bytes of this struct as the program knows it.
    pub size: usize,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Identifies the model: a hash of its header, which holds the checksum of every tensor.
    pub fingerprint: u64,
    /// Blocks of the contexts that the model was trained with.
    pub trained_blocks: u64,
    /// Number of tokens, and of logits.
    pub vocabulary: u32,
    /// Tokens of a block.
    pub block_length: u32,
    /// The token that ends a text; -1 if the model names none.
    pub end_token: i32,
    /// 1 if the model carries a tokenizer and this build can use it.
    pub has_tokenizer: i32,
    /// Layers of the decoder over blocks.
    pub block_layers: u32,
    /// Width of the decoder over blocks.
    pub block_hidden: u32,
    /// Layers of the decoder over the tokens of a block.
    pub token_layers: u32,
    /// Width of the decoder over the tokens of a block.
    pub token_hidden: u32,
}

/// What a session needs of memory, in bytes. Set size before the call; the library writes no more than that.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct cinder_memory_estimate {
    /// Bytes of this struct as the program knows it.
    pub size: usize,
    /// Bytes of the model's file, shared by all sessions and, if it is mapped, by all processes.
    pub weights: u64,
    /// Bytes of the cache.
    pub cache: u64,
    /// Bytes of all buffers.
    pub scratch: u64,
    /// All of it.
    pub total: u64,
}

/// A struct that begins with its size.
///
/// # Safety
/// `repr(C)`, begins with a `usize` that `size_field` gives, valid with any bytes in it (no references, no enums, no
/// `bool`; a pointer to a function is an `Option`), and without padding, so that every byte of it is initialized.
pub(super) unsafe trait Sized: Copy {
    /// What a program gets that sets nothing.
    fn default() -> Self;
}

macro_rules! sized {
    ($type:ident, $($field:ident: $value:expr),*) => {
        // SAFETY: the fields are numbers, pointers and optional functions, and the assertion below counts
        // their bytes on 64-bit machines.
        unsafe impl Sized for $type {
            fn default() -> Self {
                $type { size: size_of::<Self>(), $($field: $value),* }
            }
        }
    };
}

const _: () = assert!(
    size_of::<usize>() != 8
        || size_of::<cinder_model_options>() == 48
            && size_of::<cinder_session_options>() == 32
            && size_of::<cinder_sampler_options>() == 40
            && size_of::<cinder_generate_options>() == 48
            && size_of::<cinder_generation>() == 24
            && size_of::<cinder_model_info>() == 64
            && size_of::<cinder_memory_estimate>() == 40
);

sized!(
    cinder_model_options, threads: 0, verify: 0, progress: None, progress_data: std::ptr::null_mut(), log: None,
    log_data: std::ptr::null_mut()
);
sized!(
    cinder_session_options, cache_blocks: 0,
    sink_blocks: SessionOptions::default().sink_blocks as u64, cache_type: CINDER_CACHE_AUTO,
    alignment: CINDER_ALIGN_AUTO
);
sized!(
    cinder_sampler_options, seed: SamplerOptions::default().seed,
    temperature: SamplerOptions::default().temperature, top_p: SamplerOptions::default().top_p,
    min_p: SamplerOptions::default().min_p, repetition_penalty: SamplerOptions::default().repetition_penalty,
    top_k: SamplerOptions::default().top_k as u32,
    repetition_window: SamplerOptions::default().repetition_window as u32
);
sized!(
    cinder_generate_options, max_tokens: 256, ignore_end: 0, reserved: 0, time_limit_ms: 0, token: None,
    token_data: std::ptr::null_mut()
);
sized!(cinder_generation, tokens: 0, end: 0, reserved: 0);
sized!(
    cinder_model_info, file_bytes: 0, fingerprint: 0, trained_blocks: 0, vocabulary: 0, block_length: 0,
    end_token: -1, has_tokenizer: 0, block_layers: 0, block_hidden: 0, token_layers: 0, token_hidden: 0
);
sized!(cinder_memory_estimate, weights: 0, cache: 0, scratch: 0, total: 0);

/// More bytes than a struct of any version has.
const MAX_SIZE: usize = 4096;

/// The size that a program says its struct has.
///
/// # Safety
/// `pointer` is valid for reads of a `usize`.
unsafe fn size_of_given<T>(pointer: *const T, name: &'static str) -> Result<usize, Failure> {
    // SAFETY: the caller's promise; every such struct begins with its size.
    let size = unsafe { pointer.cast::<usize>().read_unaligned() };
    // All versions end between two words, so that no field is ever split.
    if size < size_of::<usize>() || size > MAX_SIZE || !size.is_multiple_of(size_of::<usize>()) {
        let detail =
            format!("found size {size}, expected {} (set it with its _init function)", size_of::<T>());
        return Err(Failure::argument(name, detail));
    }
    Ok(size)
}

/// Options as this version knows them: what an older program does not know has its default, and what this version
/// does not know must be zero.
///
/// # Safety
/// Null, or valid for reads of the size that the struct begins with.
pub(super) unsafe fn read<T: Sized>(pointer: *const T, name: &'static str) -> Result<T, Failure> {
    let mut options = T::default();
    if pointer.is_null() {
        return Ok(options);
    }
    // SAFETY: not null, and valid for at least its size field.
    let size = unsafe { size_of_given(pointer, name) }?;
    let known = size.min(size_of::<T>());
    // SAFETY: valid for `size` bytes by the caller's promise.
    let rest = unsafe { std::slice::from_raw_parts(pointer.cast::<u8>().add(known), size - known) };
    if rest.iter().any(|&byte| byte != 0) {
        return Err(Failure::argument(name, "found a field that this version of the library does not know"));
    }
    // SAFETY: both are valid for `known` bytes, and any bytes make a valid `T` (the trait).
    unsafe { std::ptr::copy_nonoverlapping(pointer.cast::<u8>(), (&raw mut options).cast::<u8>(), known) };
    Ok(options)
}

/// Stores a result in as much of a struct as the program knows, and zeros behind what this version knows.
///
/// # Safety
/// Null, or valid for writes of the size that the struct begins with.
pub(super) unsafe fn write<T: Sized>(pointer: *mut T, value: &T, name: &'static str) -> Result<(), Failure> {
    if pointer.is_null() {
        return Err(Failure::argument(name, "found null, expected a struct for the result"));
    }
    // SAFETY: not null, and valid for at least its size field.
    let size = unsafe { size_of_given(pointer, name) }?;
    // SAFETY: valid for `size` bytes, by the caller's promise.
    unsafe { fill(pointer, value, size) };
    Ok(())
}

/// Fills `size` bytes but the size field.
///
/// # Safety
/// `pointer` is valid for writes of `size` bytes, a size that [`size_of_given`] accepts.
unsafe fn fill<T: Sized>(pointer: *mut T, value: &T, size: usize) {
    let (word, known) = (size_of::<usize>(), size.min(size_of::<T>()));
    let (to, from) = (pointer.cast::<u8>(), (&raw const *value).cast::<u8>());
    // SAFETY: `word <= known <= size`; `value` is initialized in every byte (the trait) and has at least `known`.
    unsafe {
        std::ptr::copy_nonoverlapping(from.add(word), to.add(word), known - word);
        std::ptr::write_bytes(to.add(known), 0, size - known);
    }
}

/// Checks that a result can be stored before work is done for it; null is refused.
///
/// # Safety
/// Null, or valid for reads of a `usize`.
pub(super) unsafe fn check<T: Sized>(pointer: *const T, name: &'static str) -> Result<(), Failure> {
    if pointer.is_null() {
        return Err(Failure::argument(name, "found null, expected a struct for the result"));
    }
    // SAFETY: not null, and the caller's promise.
    unsafe { size_of_given(pointer, name) }.map(|_| ())
}

/// The body of the `_init` functions. A size that no version has is ignored.
///
/// # Safety
/// Null, or valid for writes of `size` bytes.
unsafe fn initialize<T: Sized>(pointer: *mut T, size: usize) {
    quietly((), || {
        let word = size_of::<usize>();
        if pointer.is_null() || size < word || size > MAX_SIZE || !size.is_multiple_of(word) {
            return;
        }
        // SAFETY: not null and valid for `size` bytes, which are at least a word.
        unsafe {
            pointer.cast::<usize>().write_unaligned(size);
            fill(pointer, &T::default(), size);
        }
    });
}

/// Prepares options: all defaults, and the size.
///
/// @param options May be null.
/// @param size sizeof(cinder_model_options).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_model_options_init(options: *mut cinder_model_options, size: usize) {
    // SAFETY: null or valid for `size` bytes, as the header asks.
    unsafe { initialize(options, size) };
}

/// Prepares options: all defaults, and the size.
///
/// @param options May be null.
/// @param size sizeof(cinder_session_options).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_options_init(options: *mut cinder_session_options, size: usize) {
    // SAFETY: null or valid for `size` bytes, as the header asks.
    unsafe { initialize(options, size) };
}

/// Prepares options: all defaults, and the size.
///
/// @param options May be null.
/// @param size sizeof(cinder_sampler_options).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_sampler_options_init(options: *mut cinder_sampler_options, size: usize) {
    // SAFETY: null or valid for `size` bytes, as the header asks.
    unsafe { initialize(options, size) };
}

/// Prepares options: all defaults, and the size.
///
/// @param options May be null.
/// @param size sizeof(cinder_generate_options).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_generate_options_init(options: *mut cinder_generate_options, size: usize) {
    // SAFETY: null or valid for `size` bytes, as the header asks.
    unsafe { initialize(options, size) };
}

/// Refuses what this version gives no meaning.
fn reserved(value: i32) -> Result<(), Failure> {
    if value == 0 {
        return Ok(());
    }
    Err(Failure::argument("reserved", format!("found {value}, expected 0")))
}

/// A number that must fit a `usize`.
fn size(value: u64, name: &'static str) -> Result<usize, Failure> {
    usize::try_from(value).map_err(|_| Failure::argument(name, format!("found {value}, expected less")))
}

impl cinder_session_options {
    pub(super) fn options(&self) -> Result<SessionOptions, Failure> {
        let cache_type = match self.cache_type {
            CINDER_CACHE_AUTO => None,
            CINDER_CACHE_F32 => Some(CacheType::F32),
            CINDER_CACHE_F16 => Some(CacheType::F16),
            CINDER_CACHE_Q8 => Some(CacheType::Q8),
            other => return Err(Failure::argument("cache_type", format!("found {other}, expected 0 to 3"))),
        };
        let alignment = match self.alignment {
            CINDER_ALIGN_AUTO => None,
            CINDER_ALIGN_LEFT => Some(Alignment::Left),
            CINDER_ALIGN_TAIL => Some(Alignment::Tail),
            other => return Err(Failure::argument("alignment", format!("found {other}, expected 0 to 2"))),
        };
        Ok(SessionOptions {
            cache_blocks: Some(size(self.cache_blocks, "cache_blocks")?).filter(|&blocks| blocks > 0),
            sink_blocks: size(self.sink_blocks, "sink_blocks")?,
            cache_type,
            alignment,
        })
    }
}

impl cinder_sampler_options {
    /// `logit_bias` is set with a function of its own.
    pub(super) fn options(&self, logit_bias: Vec<(u32, f32)>) -> SamplerOptions {
        SamplerOptions {
            temperature: self.temperature,
            top_k: self.top_k as usize,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            repetition_window: self.repetition_window as usize,
            seed: self.seed,
            logit_bias,
        }
    }
}

impl cinder_generate_options {
    pub(super) fn options(&self) -> Result<GenerateOptions, Failure> {
        reserved(self.reserved)?;
        Ok(GenerateOptions {
            max_tokens: size(self.max_tokens, "max_tokens")?,
            time_limit: (self.time_limit_ms > 0).then(|| Duration::from_millis(self.time_limit_ms)),
            ignore_end: self.ignore_end != 0,
            logprobs: self.token.map(|_| 0),
        })
    }
}

impl From<&MemoryEstimate> for cinder_memory_estimate {
    fn from(estimate: &MemoryEstimate) -> Self {
        let MemoryEstimate { weights, cache, scratch, .. } = *estimate;
        cinder_memory_estimate { weights, cache, scratch, total: estimate.total(), ..Sized::default() }
    }
}
