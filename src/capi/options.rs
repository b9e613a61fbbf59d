//! The options and results of calls, with their constants and callbacks.

use std::ffi::{c_char, c_void};
use std::time::Duration;

use super::failure::Failure;
use super::size_prefixed::{SizePrefixed, initialize, size_prefixed};
use crate::{
    Alignment, CacheType, GenerateOptions, MemoryEstimate, SamplerOptions, SessionOptions, Speculate,
};

/// Reports the progress of opening a model, in bytes, or of appending a long text, in tokens. Called first with 0 done
/// and last with all done. While a text is tokenized, its total is unknown and given as 0.
///
/// @param done Work done so far.
/// @param total All of the work.
/// @param user_data The pointer given with the callback.
/// @return 0 to continue; anything else ends the call with CINDER_INTERRUPTED.
pub type cinder_progress_fn =
    Option<unsafe extern "C" fn(done: u64, total: u64, user_data: *mut c_void) -> i32>;

/// Receives a line for a log, on the thread that is inside a call with the model or one of its sessions.
///
/// @param level CINDER_LOG_ERROR or CINDER_LOG_INFO; later versions may add some.
/// @param message UTF-8 without a line break; valid during the call.
/// @param user_data The pointer given with the callback.
pub type cinder_log_fn =
    Option<unsafe extern "C" fn(level: i32, message: *const c_char, user_data: *mut c_void)>;

/// Log level: a defect in this library.
pub const CINDER_LOG_ERROR: i32 = 1;
/// Log level: normal operation.
pub const CINDER_LOG_INFO: i32 = 2;

/// Receives each generated token, before the text that it completes.
///
/// @param token The token id.
/// @param logprob Natural logarithm of the probability that the model gave the token, before sampling options apply.
/// @param user_data The pointer given with the callback.
/// @return 0 to continue; anything else ends the text with CINDER_END_CALLER.
pub type cinder_token_fn =
    Option<unsafe extern "C" fn(token: u32, logprob: f32, user_data: *mut c_void) -> i32>;

/// Layout of a first text that does not fill whole blocks: as in the training of the model.
pub const CINDER_ALIGN_AUTO: i32 = 0;
/// The first block is padded on the left.
pub const CINDER_ALIGN_LEFT: i32 = 1;
/// The last block stays open.
pub const CINDER_ALIGN_TAIL: i32 = 2;

/// Type of the cache: f32 for a model of f32 weights, f16 for any other.
pub const CINDER_CACHE_AUTO: i32 = 0;
/// Single precision.
pub const CINDER_CACHE_F32: i32 = 1;
/// Half precision.
pub const CINDER_CACHE_F16: i32 = 2;
/// 8-bit integers, in about half the bytes of half precision.
pub const CINDER_CACHE_Q8: i32 = 3;

/// Speculation where it saves time.
pub const CINDER_SPECULATE_AUTO: i32 = 0;
/// Speculation wherever tokens can be guessed.
pub const CINDER_SPECULATE_ON: i32 = 1;
/// No speculation.
pub const CINDER_SPECULATE_OFF: i32 = 2;

/// Options for opening a model. Initialize them with cinder_model_options_init.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct cinder_model_options {
    /// Size of this struct in bytes.
    pub size: usize,
    /// Threads for the sessions of the model, including the calling thread; 0 for one for each performance core that
    /// the
    /// affinity mask and the CPU quota leave. With 1, no thread is ever started, and sessions on different threads do
    /// not wait for each other.
    pub threads: u32,
    /// Nonzero to compare all weights with their checksums, which reads the whole file.
    pub verify: i32,
    /// May be null.
    pub progress: cinder_progress_fn,
    /// Passed to progress.
    pub progress_data: *mut c_void,
    /// May be null. Must stay valid until the model and all its sessions are freed.
    pub log: cinder_log_fn,
    /// Passed to log.
    pub log_data: *mut c_void,
    /// Nonzero to read the file into memory instead of mapping it. Opening takes longer, and the memory is not shared
    /// with other processes, but the file may then change or disappear.
    pub in_memory: i32,
    /// Must be 0.
    pub reserved: i32,
}

/// Options for creating a session. Initialize them with cinder_session_options_init.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct cinder_session_options {
    /// Size of this struct in bytes.
    pub size: usize,
    /// Capacity of the cache in blocks of tokens, including pinned blocks; 0 for the context of the training. When it
    /// is full, the oldest block that is not pinned leaves.
    pub cache_blocks: u64,
    /// Number of first blocks to pin, which never leave; less than cache_blocks.
    pub sink_blocks: u64,
    /// CINDER_CACHE_AUTO, CINDER_CACHE_F32, CINDER_CACHE_F16 or CINDER_CACHE_Q8.
    pub cache_type: i32,
    /// CINDER_ALIGN_AUTO, CINDER_ALIGN_LEFT or CINDER_ALIGN_TAIL.
    pub alignment: i32,
}

/// Options for sampling. Initialize them with cinder_sampler_options_init. The defaults are those of the command line:
/// temperature 0.8, top-k 40, top-p 0.95, min-p 0.05, no penalty, seed 0.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct cinder_sampler_options {
    /// Size of this struct in bytes.
    pub size: usize,
    /// Seed of the random numbers. Equal seeds give equal text.
    pub seed: u64,
    /// Divides the logits; 0 selects the most likely token.
    pub temperature: f32,
    /// Keeps the most likely tokens whose probabilities add up to this value; more than 0, at most 1 (keeps all).
    pub top_p: f32,
    /// Keeps tokens with at least this probability relative to the most likely token; 0 (keeps all) to 1.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of recent tokens; more than 0, 1 for no penalty.
    pub repetition_penalty: f32,
    /// Keeps this number of most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Number of last tokens that count as recent.
    pub repetition_window: u32,
}

/// Options for generating text. Initialize them with cinder_generate_options_init.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct cinder_generate_options {
    /// Size of this struct in bytes.
    pub size: usize,
    /// Maximum number of tokens.
    pub max_tokens: u64,
    /// Nonzero to continue after the token that ends a text.
    pub ignore_end: i32,
    /// Must be 0.
    pub reserved: i32,
    /// No token is started after this number of milliseconds; 0 for no limit.
    pub time_limit_ms: u64,
    /// Receives each token with its log-probability, which takes a little time; may be null.
    pub token: cinder_token_fn,
    /// Passed to token.
    pub token_data: *mut c_void,
}

/// The result of generating text. Set size before the call; the library writes at most that number of bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct cinder_generation {
    /// Size of this struct in bytes.
    pub size: usize,
    /// Number of tokens added to the session.
    pub tokens: u64,
    /// The reason for the end: CINDER_END_LENGTH or another CINDER_END constant.
    pub end: i32,
    /// 0.
    pub reserved: i32,
}

/// Properties of a model. Set size before the call; the library writes at most that number of bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct cinder_model_info {
    /// Size of this struct in bytes.
    pub size: usize,
    /// Size of the model file in bytes.
    pub file_bytes: u64,
    /// Identifies the model: a hash of the file's header, which contains the checksums of all tensors.
    pub fingerprint: u64,
    /// Context length of the training, in blocks.
    pub trained_blocks: u64,
    /// Number of tokens in the vocabulary, and of logits.
    pub vocabulary: u32,
    /// Tokens in a block.
    pub block_length: u32,
    /// The token that ends a text, or -1 if the file names none.
    pub end_token: i32,
    /// 1 if the model contains a tokenizer and this build supports it.
    pub has_tokenizer: i32,
    /// Layers of the block decoder.
    pub block_layers: u32,
    /// Hidden size of the block decoder.
    pub block_hidden: u32,
    /// Layers of the token decoder.
    pub token_layers: u32,
    /// Hidden size of the token decoder.
    pub token_hidden: u32,
}

/// Memory that a session needs, in bytes. Set size before the call; the library writes at most that number of bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct cinder_memory_estimate {
    /// Size of this struct in bytes.
    pub size: usize,
    /// The model file, shared by all sessions and, if it is mapped, by all processes.
    pub weights: u64,
    /// The cache.
    pub cache: u64,
    /// All buffers.
    pub scratch: u64,
    /// The sum.
    pub total: u64,
}

size_prefixed!(
    cinder_model_options,
    56,
    threads: 0,
    verify: 0,
    progress: None,
    progress_data: std::ptr::null_mut(),
    log: None,
    log_data: std::ptr::null_mut(),
    in_memory: 0,
    reserved: 0,
);
size_prefixed!(
    cinder_session_options,
    32,
    cache_blocks: 0,
    sink_blocks: SessionOptions::default().sink_blocks as u64,
    cache_type: CINDER_CACHE_AUTO,
    alignment: CINDER_ALIGN_AUTO,
);
size_prefixed!(
    cinder_sampler_options,
    40,
    seed: SamplerOptions::default().seed,
    temperature: SamplerOptions::default().temperature,
    top_p: SamplerOptions::default().top_p,
    min_p: SamplerOptions::default().min_p,
    repetition_penalty: SamplerOptions::default().repetition_penalty,
    top_k: SamplerOptions::default().top_k as u32,
    repetition_window: SamplerOptions::default().repetition_window as u32,
);
size_prefixed!(
    cinder_generate_options,
    48,
    max_tokens: GenerateOptions::default().max_tokens as u64,
    ignore_end: 0,
    reserved: 0,
    time_limit_ms: 0,
    token: None,
    token_data: std::ptr::null_mut(),
);
size_prefixed!(cinder_generation, 24, tokens: 0, end: 0, reserved: 0);
size_prefixed!(
    cinder_model_info,
    64,
    file_bytes: 0,
    fingerprint: 0,
    trained_blocks: 0,
    vocabulary: 0,
    block_length: 0,
    end_token: -1,
    has_tokenizer: 0,
    block_layers: 0,
    block_hidden: 0,
    token_layers: 0,
    token_hidden: 0,
);
size_prefixed!(cinder_memory_estimate, 40, weights: 0, cache: 0, scratch: 0, total: 0);

/// Initializes options with the defaults and their size.
///
/// @param options May be null.
/// @param size sizeof(cinder_model_options).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_model_options_init(options: *mut cinder_model_options, size: usize) {
    // SAFETY: null or valid for `size` bytes, as the header requires.
    unsafe { initialize(options, size) };
}

/// Initializes options with the defaults and their size.
///
/// @param options May be null.
/// @param size sizeof(cinder_session_options).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_session_options_init(options: *mut cinder_session_options, size: usize) {
    // SAFETY: null or valid for `size` bytes, as the header requires.
    unsafe { initialize(options, size) };
}

/// Initializes options with the defaults and their size.
///
/// @param options May be null.
/// @param size sizeof(cinder_sampler_options).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_sampler_options_init(options: *mut cinder_sampler_options, size: usize) {
    // SAFETY: null or valid for `size` bytes, as the header requires.
    unsafe { initialize(options, size) };
}

/// Initializes options with the defaults and their size.
///
/// @param options May be null.
/// @param size sizeof(cinder_generate_options).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cinder_generate_options_init(options: *mut cinder_generate_options, size: usize) {
    // SAFETY: null or valid for `size` bytes, as the header requires.
    unsafe { initialize(options, size) };
}

/// Refuses values that have no meaning in this version.
pub(super) fn reserved(value: i32) -> Result<(), Failure> {
    if value == 0 {
        return Ok(());
    }
    Err(Failure::argument("reserved", format!("found {value}, expected 0")))
}

/// A number that must fit a `usize`.
fn size(value: u64, name: &'static str) -> Result<usize, Failure> {
    usize::try_from(value).map_err(|_| Failure::argument(name, format!("found {value}, expected less")))
}

/// The meaning of a constant; `choices` begins with that of 0.
fn choice<T: Copy>(value: i32, name: &'static str, choices: &[T]) -> Result<T, Failure> {
    let found = usize::try_from(value).ok().and_then(|index| choices.get(index).copied());
    found
        .ok_or_else(|| Failure::argument(name, format!("found {value}, expected 0 to {}", choices.len() - 1)))
}

/// The meaning of a CINDER_SPECULATE constant.
pub(super) fn speculation(mode: i32) -> Result<Speculate, Failure> {
    choice(mode, "mode", &[Speculate::Auto, Speculate::On, Speculate::Off])
}

impl cinder_session_options {
    pub(super) fn options(&self) -> Result<SessionOptions, Failure> {
        let cache_types = [None, Some(CacheType::F32), Some(CacheType::F16), Some(CacheType::Q8)];
        let alignments = [None, Some(Alignment::Left), Some(Alignment::Tail)];
        Ok(SessionOptions {
            cache_blocks: Some(size(self.cache_blocks, "cache_blocks")?).filter(|&blocks| blocks > 0),
            sink_blocks: size(self.sink_blocks, "sink_blocks")?,
            cache_type: choice(self.cache_type, "cache_type", &cache_types)?,
            alignment: choice(self.alignment, "alignment", &alignments)?,
        })
    }
}

impl cinder_sampler_options {
    /// `logit_bias` has a function of its own.
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
        cinder_memory_estimate { weights, cache, scratch, total: estimate.total(), ..Self::initial() }
    }
}
