//! Any sequence of calls of the C interface that its header allows: handles that are null or alive, buffers as long as
//! they are said to be, structs of any declared size.
#![no_main]

mod harness;

use std::ffi::{CString, c_char, c_void};
use std::ptr::{null, null_mut};
use std::sync::OnceLock;

use cinderblock::capi::batch::cinder_batch_decode;
use cinderblock::capi::error::*;
use cinderblock::capi::failure::*;
use cinderblock::capi::generate::*;
use cinderblock::capi::model::*;
use cinderblock::capi::options::*;
use cinderblock::capi::session::*;
use cinderblock::capi::settings::*;
use cinderblock::capi::state::*;
use cinderblock::capi::text::*;
use cinderblock::capi::tokens::*;
use cinderblock_fuzz::{Choices, scratch, tiny};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| harness::run(|| Caller::new(bytes).run()));

const MOST_CALLS: usize = 40;
/// Bytes of the memory that a struct is given, whatever size it declares; the library refuses larger ones.
const STRUCT: usize = 4096;
/// What a buffer holds where nothing was written.
const UNTOUCHED: u8 = 0xa5;

struct Caller<'b> {
    choices: Choices<'b>,
    models: [*mut cinder_model; 2],
    sessions: [*mut cinder_session; 3],
    saved: Vec<u8>,
    /// A model file, and a name that is free.
    path: CString,
    free: CString,
}

/// What a callback does.
struct Callback {
    session: *mut cinder_session,
    act: u8,
    /// Calls until it ends the text.
    left: u32,
    freed: bool,
}

impl Callback {
    fn called(&mut self) -> i32 {
        if self.left == 0 {
            return 1;
        }
        self.left -= 1;
        match self.act {
            1 => return 7,
            // SAFETY: the session is alive: it is in use by the call that calls this.
            2 => unsafe { cinder_session_cancel(self.session) },
            3 => {
                let mut length = 0;
                // SAFETY: as above, with a place for the result.
                let status = unsafe { cinder_session_length(self.session, &raw mut length, null_mut()) };
                assert_eq!((status, length), (CINDER_MISUSE, 0));
            }
            4 if !self.freed => {
                self.freed = true;
                // SAFETY: as above; the caller forgets the handle.
                unsafe { cinder_session_free(self.session) };
            }
            _ => {}
        }
        0
    }
}

/// A callback may be given without data.
///
/// # Safety
/// `data` is null or a callback.
unsafe fn called(data: *mut c_void) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { data.cast::<Callback>().as_mut() }.map_or(0, Callback::called)
}

unsafe extern "C" fn on_token(token: u32, logprob: f32, data: *mut c_void) -> i32 {
    assert!((token as usize) < tiny::VOCABULARY && logprob <= 0.0);
    // SAFETY: given with this function.
    unsafe { called(data) }
}

unsafe extern "C" fn on_text(text: *const c_char, size: usize, data: *mut c_void) -> i32 {
    // SAFETY: text and its end, as the header says.
    let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), size + 1) };
    assert!(size > 0 && bytes[size] == 0 && std::str::from_utf8(&bytes[..size]).is_ok());
    // SAFETY: given with this function.
    unsafe { called(data) }
}

unsafe extern "C" fn on_progress(done: u64, total: u64, data: *mut c_void) -> i32 {
    assert!(total == 0 || done <= total);
    // SAFETY: given with this function.
    unsafe { called(data) }
}

unsafe extern "C" fn on_log(_: i32, message: *const c_char, _: *mut c_void) {
    // SAFETY: a string, as the header says.
    assert!(unsafe { std::ffi::CStr::from_ptr(message) }.to_str().is_ok_and(|line| !line.contains('\n')));
}

/// Memory for a struct of any declared size.
fn room<T>(value: T, size: Option<usize>) -> Box<[u64; STRUCT / 8]> {
    let mut room = Box::new([0; STRUCT / 8]);
    // SAFETY: the room is larger, and aligned for any of the structs.
    unsafe { room.as_mut_ptr().cast::<T>().write(value) };
    if let Some(size) = size {
        room[0] = size as u64;
    }
    room
}

/// A buffer with untouched bytes after it.
struct Buffer<T>(Vec<T>, usize);

impl<T: Copy> Buffer<T> {
    fn new(untouched: T, capacity: usize) -> Buffer<T> {
        Buffer(vec![untouched; capacity + 8], capacity)
    }

    fn pointer(&mut self) -> *mut T {
        if self.1 == 0 { null_mut() } else { self.0.as_mut_ptr() }
    }

    fn check(&self, written: usize)
    where
        T: PartialEq,
    {
        let untouched = self.0[self.1];
        assert!(written <= self.1 && self.0[written..].iter().all(|value| *value == untouched));
    }
}

/// Calls a function with an error object or without, and checks what it answers.
macro_rules! call {
    ($caller:ident, $function:ident($($argument:expr),* $(,)?)) => {{
        let mut error: *mut cinder_error = null_mut();
        let place = if $caller.choices.byte().is_multiple_of(4) { null_mut() } else { &raw mut error };
        // SAFETY: the arguments are null or valid, as the header requires.
        let status = unsafe { $function($($argument,)* place) };
        judge(stringify!($function), status, place, error);
        status
    }};
}

fn judge(function: &str, status: cinder_status, place: *mut *mut cinder_error, error: *mut cinder_error) {
    assert!((CINDER_OK..=CINDER_BUFFER).contains(&status), "{function}: status {status}");
    assert!(place.is_null() || (status == CINDER_OK) == error.is_null(), "{function}: status {status}");
    // SAFETY: null, or an error that was just created, whose strings live as long as it.
    unsafe {
        let message = std::ffi::CStr::from_ptr(cinder_error_message(error)).to_str().expect("UTF-8");
        assert!(status != CINDER_INTERNAL && status != CINDER_POISONED, "{function}: {message}");
        if !error.is_null() {
            assert_eq!(cinder_error_status(error), status);
            assert!(!message.is_empty() && !message.chars().any(char::is_control), "{message:?}");
        }
        let _ = (cinder_error_file(error), cinder_error_subject(error));
        cinder_error_free(error);
    }
}

/// A model that all sequences of calls may use, and none frees.
fn shared_model() -> *mut cinder_model {
    static SHARED: OnceLock<usize> = OnceLock::new();
    let address = SHARED.get_or_init(|| {
        let (bytes, mut model) = (tiny::mixed(), null_mut());
        let data = bytes.as_ptr().cast();
        // SAFETY: the bytes of a file, defaults, and a place for the model.
        let status =
            unsafe { cinder_model_open_memory(data, bytes.len(), null(), &raw mut model, null_mut()) };
        assert_eq!(status, CINDER_OK);
        model.expose_provenance()
    });
    std::ptr::with_exposed_provenance_mut(*address)
}

impl<'b> Caller<'b> {
    fn new(bytes: &'b [u8]) -> Self {
        let path = scratch("capi.gguf");
        if !path.exists() {
            std::fs::write(&path, tiny::mixed()).expect("a file");
        }
        let text = |path: std::path::PathBuf| {
            CString::new(path.into_os_string().into_encoded_bytes()).expect("a name")
        };
        Caller {
            choices: Choices(bytes),
            models: [null_mut(); 2],
            sessions: [null_mut(); 3],
            saved: Vec::new(),
            path: text(path),
            free: text(scratch("capi.session")),
        }
    }

    fn run(mut self) {
        // Most sequences begin with a model and a session. To open one takes far longer than to use it.
        let kind = self.choices.byte() % 16;
        if kind > 2 {
            self.models[0] = shared_model();
        } else if kind > 0 {
            self.open();
        }
        if kind > 0 {
            self.create();
        }
        for _ in 0..MOST_CALLS {
            if self.choices.is_empty() {
                break;
            }
            self.step();
        }
        // In either order: sessions keep what they need.
        let first = self.choices.byte().is_multiple_of(2);
        if first {
            self.free_models();
        }
        // SAFETY: null, or alive and forgotten after this.
        self.sessions.iter().for_each(|session| unsafe { cinder_session_free(*session) });
        if !first {
            self.free_models();
        }
    }

    fn free_models(&mut self) {
        (0..self.models.len()).for_each(|at| self.replace_model(at, null_mut()));
    }

    /// Frees the model in a place, unless it is shared, and puts another one there.
    fn replace_model(&mut self, at: usize, model: *mut cinder_model) {
        let old = std::mem::replace(&mut self.models[at], model);
        if old != shared_model() {
            // SAFETY: null, or alive and forgotten after this.
            unsafe { cinder_model_free(old) };
        }
    }

    fn step(&mut self) {
        match self.choices.below(26) {
            0 => self.open(),
            1 => {
                let at = self.choices.below(2);
                self.replace_model(at, null_mut());
            }
            2 => self.describe(),
            3 => self.create(),
            4 => {
                let session = self.session();
                let mut copy = null_mut();
                call!(self, cinder_session_copy(session, &raw mut copy));
                self.keep(copy);
            }
            5 => {
                let at = self.choices.below(3);
                // SAFETY: null, or alive and forgotten after this.
                unsafe { cinder_session_free(std::mem::replace(&mut self.sessions[at], null_mut())) };
            }
            // SAFETY: null or alive.
            6 => unsafe { cinder_session_cancel(self.session()) },
            7 => self.set_sampler(),
            8 => {
                let session = self.session();
                let tokens = self.tokens();
                let biases: Vec<f32> = tokens.iter().map(|_| self.choices.float()).collect();
                call!(
                    self,
                    cinder_session_set_logit_bias(session, tokens.as_ptr(), biases.as_ptr(), tokens.len())
                );
            }
            9 => {
                let (session, mode) = (self.session(), i32::from(self.choices.byte()) - 2);
                call!(self, cinder_session_set_speculation(session, mode));
            }
            10 => self.set_stops(),
            11 => self.save(),
            12 => self.load(),
            13 => self.tokenize(),
            14 => self.detokenize(),
            15 | 16 => self.append(),
            17 => self.read_tokens(),
            18 => {
                let session = self.session();
                call!(self, cinder_session_reset(session));
            }
            19 => {
                let (session, blocks) = (self.session(), self.choices.size());
                call!(self, cinder_session_rewind(session, blocks));
            }
            20 => self.decode(),
            21 => self.logits(),
            22 | 23 => self.generate(),
            24 => self.decode_batch(),
            _ => self.files(),
        }
    }

    fn model(&mut self) -> *mut cinder_model {
        if self.choices.byte() % 16 == 15 { null_mut() } else { self.models[self.choices.below(2)] }
    }

    fn session(&mut self) -> *mut cinder_session {
        if self.choices.byte() % 16 == 15 { null_mut() } else { self.sessions[self.choices.below(3)] }
    }

    fn keep(&mut self, session: *mut cinder_session) {
        if session.is_null() {
            return;
        }
        let at = self.choices.below(3);
        // SAFETY: null, or alive and replaced.
        unsafe { cinder_session_free(std::mem::replace(&mut self.sessions[at], session)) };
    }

    fn tokens(&mut self) -> Vec<u32> {
        let some = self.choices.some(24);
        // A few are not in the vocabulary.
        some.iter()
            .map(|byte| if *byte > 250 { u32::MAX - u32::from(*byte) } else { u32::from(byte % 12) })
            .collect()
    }

    /// The size that a struct declares; mostly its own.
    fn declared(&mut self) -> Option<usize> {
        (self.choices.byte() % 4 == 3).then(|| self.choices.size() as usize)
    }

    fn open(&mut self) {
        let mut progress =
            Callback { session: null_mut(), act: self.choices.byte() % 2, left: 9, freed: false };
        let mut options = room([0u64; 7], None);
        // SAFETY: room for the struct.
        unsafe { cinder_model_options_init(options.as_mut_ptr().cast(), size_of::<cinder_model_options>()) };
        // SAFETY: initialized above.
        let fields = unsafe { &mut *options.as_mut_ptr().cast::<cinder_model_options>() };
        fields.threads = self.choices.pick(&[1, 1, 1, 1, 1, 2, 1025, u32::MAX]);
        fields.verify = i32::from(self.choices.byte() % 4);
        fields.in_memory = i32::from(self.choices.byte() % 2);
        fields.reserved = i32::from(self.choices.byte() == 255);
        if self.choices.byte() % 2 == 1 {
            fields.progress = Some(on_progress);
            fields.progress_data = (&raw mut progress).cast();
            fields.log = Some(on_log);
        }
        if let Some(size) = self.declared() {
            options[0] = size as u64;
        }
        let options = options.as_ptr().cast();
        let mut model = null_mut();
        match self.choices.below(4) {
            0 => {
                let path = self.choices.pick(&[self.path.as_ptr(), self.free.as_ptr(), c"".as_ptr(), null()]);
                call!(self, cinder_model_open(path, options, &raw mut model));
            }
            1 => {
                use std::os::fd::AsRawFd;
                let file = std::fs::File::open(self.path.to_str().expect("UTF-8")).expect("written before");
                let descriptor = if self.choices.byte() % 8 == 7 { -1 } else { file.as_raw_fd() };
                let (offset, length) = (self.choices.size(), self.choices.size());
                call!(self, cinder_model_open_fd(descriptor, offset, length, options, &raw mut model));
            }
            _ => {
                let mut bytes = tiny::mixed();
                if self.choices.byte() % 4 == 3 {
                    let at = usize::from(u16::from_le_bytes(self.choices.number())) % bytes.len();
                    bytes[at] ^= self.choices.byte();
                }
                let size =
                    if self.choices.byte() % 8 == 7 { self.choices.below(bytes.len()) } else { bytes.len() };
                let data = if size == 0 { null() } else { bytes.as_ptr().cast() };
                call!(self, cinder_model_open_memory(data, size, options, &raw mut model));
            }
        }
        if !model.is_null() {
            let at = self.choices.below(2);
            self.replace_model(at, model);
        }
    }

    fn session_options(&mut self) -> Option<Box<[u64; STRUCT / 8]>> {
        if self.choices.byte().is_multiple_of(4) {
            return None;
        }
        let options = cinder_session_options {
            size: size_of::<cinder_session_options>(),
            cache_blocks: self.choices.size(),
            sink_blocks: if self.choices.byte() % 4 == 3 { self.choices.size() } else { 1 },
            cache_type: i32::from(self.choices.byte() % 6) - 1,
            alignment: i32::from(self.choices.byte() % 5) - 1,
        };
        let declared = self.declared();
        Some(room(options, declared))
    }

    fn create(&mut self) {
        let (model, options) = (self.model(), self.session_options());
        let options = options.as_ref().map_or(null(), |options| options.as_ptr().cast());
        let mut session = null_mut();
        call!(self, cinder_session_create(model, options, &raw mut session));
        self.keep(session);
    }

    fn describe(&mut self) {
        let model = self.model();
        // SAFETY: null or alive; the strings live as long as the model.
        unsafe {
            for text in [cinder_model_name(model), cinder_model_isa(model)] {
                assert!(text.is_null() || std::ffi::CStr::from_ptr(text).to_str().is_ok());
            }
        }
        let declared = self.declared();
        let mut info = room([size_of::<cinder_model_info>()], declared);
        call!(self, cinder_model_get_info(model, info.as_mut_ptr().cast()));
        let options = self.session_options();
        let options = options.as_ref().map_or(null(), |options| options.as_ptr().cast());
        let declared = self.declared();
        let mut estimate = room([size_of::<cinder_memory_estimate>()], declared);
        call!(self, cinder_model_estimate(model, options, estimate.as_mut_ptr().cast()));
    }

    fn set_sampler(&mut self) {
        let session = self.session();
        let options = cinder_sampler_options {
            size: size_of::<cinder_sampler_options>(),
            seed: self.choices.size(),
            temperature: self.choices.float(),
            top_p: self.choices.float(),
            min_p: self.choices.float(),
            repetition_penalty: self.choices.float(),
            top_k: self.choices.size() as u32,
            repetition_window: self.choices.size() as u32,
        };
        let declared = self.declared();
        let options = room(options, declared);
        let options = if self.choices.byte() % 8 == 7 { null() } else { options.as_ptr().cast() };
        call!(self, cinder_session_set_sampler(session, options));
    }

    fn set_stops(&mut self) {
        let session = self.session();
        let texts: Vec<CString> = (0..self.choices.below(4))
            .map(|_| CString::new(self.choices.some(4).to_vec()).unwrap_or_else(|_| c"ab".into()))
            .collect();
        let mut stops: Vec<*const c_char> = texts.iter().map(|text| text.as_ptr()).collect();
        if self.choices.byte() % 8 == 7 {
            stops.push(null());
        }
        call!(self, cinder_session_set_stops(session, stops.as_ptr(), stops.len()));
    }

    fn save(&mut self) {
        let session = self.session();
        let mut size = usize::MAX;
        let status = call!(self, cinder_session_save(session, null_mut(), 0, &raw mut size));
        if status != CINDER_BUFFER {
            return;
        }
        let capacity = if self.choices.byte() % 4 == 3 { self.choices.below(size) } else { size };
        let mut buffer = Buffer::new(UNTOUCHED, capacity);
        let pointer = buffer.pointer().cast();
        let status = call!(self, cinder_session_save(session, pointer, capacity, &raw mut size));
        assert_eq!(status == CINDER_OK, capacity >= size);
        buffer.check(if status == CINDER_OK { size } else { 0 });
        if status == CINDER_OK {
            buffer.0.truncate(size);
            self.saved = buffer.0;
        }
    }

    fn load(&mut self) {
        let model = self.model();
        let mut bytes = self.saved.clone();
        if self.choices.byte() % 2 == 1 && bytes.len() > 80 {
            let at = usize::from(u16::from_le_bytes(self.choices.number())) % (bytes.len() - 4);
            let change = self.choices.some(8);
            let end = bytes.len().min(at + change.len());
            bytes[at..end].copy_from_slice(&change[..end - at]);
            let end = bytes.len() - 4;
            let checksum = crc32fast::hash(&bytes[..end]);
            bytes[end..].copy_from_slice(&checksum.to_le_bytes());
        }
        let options = self.session_options();
        let options = options.as_ref().map_or(null(), |options| options.as_ptr().cast());
        let mut session = null_mut();
        let data = bytes.as_ptr().cast();
        call!(self, cinder_session_load(model, data, bytes.len(), options, &raw mut session));
        self.keep(session);
    }

    fn tokenize(&mut self) {
        let (model, text) = (self.model(), self.choices.some(24));
        let capacity = self.choices.below(32);
        let mut buffer = Buffer::new(u32::MAX, capacity);
        let (tokens, mut count) = (buffer.pointer(), 0);
        let text_at = text.as_ptr().cast();
        let status =
            call!(self, cinder_tokenize(model, text_at, text.len(), tokens, capacity, &raw mut count));
        buffer.check(if status == CINDER_OK { count } else { 0 });
    }

    fn detokenize(&mut self) {
        let (model, tokens) = (self.model(), self.tokens());
        let capacity = self.choices.below(64);
        let mut buffer = Buffer::new(UNTOUCHED, capacity);
        let (text, mut size) = (buffer.pointer().cast(), 0);
        let at = tokens.as_ptr();
        let status = call!(self, cinder_detokenize(model, at, tokens.len(), text, capacity, &raw mut size));
        buffer.check(if status == CINDER_OK { size } else { 0 });
    }

    /// A callback for calls with a session, and the session.
    fn callback(&mut self) -> Callback {
        Callback { session: self.session(), act: self.choices.byte() % 6, left: 8, freed: false }
    }

    /// Forgets a session that a callback has freed.
    fn forget(&mut self, callback: &Callback) {
        if callback.freed {
            self.sessions.iter_mut().filter(|it| **it == callback.session).for_each(|it| *it = null_mut());
        }
    }

    fn append(&mut self) {
        let mut callback = self.callback();
        let (session, data) = (callback.session, (&raw mut callback).cast());
        let progress: cinder_progress_fn =
            if self.choices.byte().is_multiple_of(4) { None } else { Some(on_progress) };
        match self.choices.below(4) {
            0 => {
                let text = self.choices.some(24);
                call!(self, cinder_session_append_text(session, text.as_ptr().cast(), text.len()));
            }
            1 => {
                let tokens = self.tokens();
                call!(self, cinder_session_append_tokens(session, tokens.as_ptr(), tokens.len()));
            }
            2 => {
                let text = self.choices.some(24);
                let at = text.as_ptr().cast();
                call!(
                    self,
                    cinder_session_append_text_with_progress(session, at, text.len(), progress, data)
                );
            }
            _ => {
                let tokens = self.tokens();
                let (at, count) = (tokens.as_ptr(), tokens.len());
                call!(self, cinder_session_append_tokens_with_progress(session, at, count, progress, data));
            }
        }
        self.forget(&callback);
    }

    fn read_tokens(&mut self) {
        let session = self.session();
        let mut length = 0;
        call!(self, cinder_session_length(session, &raw mut length));
        let capacity = self.choices.below(64);
        let mut buffer = Buffer::new(u32::MAX, capacity);
        let (tokens, mut count) = (buffer.pointer(), 0);
        let status = call!(self, cinder_session_tokens(session, tokens, capacity, &raw mut count));
        buffer.check(if status == CINDER_OK { count } else { 0 });
        assert!(status != CINDER_OK || count as u64 <= length);
    }

    fn decode(&mut self) {
        let session = self.session();
        if self.choices.byte().is_multiple_of(2) {
            let mut token = u32::MAX;
            let status = call!(self, cinder_session_decode_token(session, &raw mut token));
            assert_eq!(status == CINDER_OK, (token as usize) < tiny::VOCABULARY);
        } else {
            let capacity = self.choices.below(4);
            let mut buffer = Buffer::new(u32::MAX, capacity);
            let (tokens, mut count) = (buffer.pointer(), 0);
            let status = call!(self, cinder_session_decode_block(session, tokens, capacity, &raw mut count));
            buffer.check(if status == CINDER_BUFFER { 0 } else { count.min(capacity) });
        }
    }

    fn logits(&mut self) {
        let session = self.session();
        let capacity = tiny::VOCABULARY - usize::from(self.choices.byte() % 8 == 7);
        let mut buffer = Buffer::new(f32::MAX, capacity);
        let logits = buffer.pointer();
        let status = call!(self, cinder_session_logits(session, logits, capacity));
        buffer.check(if status == CINDER_OK { tiny::VOCABULARY } else { 0 });
        if status == CINDER_OK {
            assert!(buffer.0[..tiny::VOCABULARY].iter().all(|logit| logit.is_finite()));
        }
    }

    fn generate(&mut self) {
        let mut callback = self.callback();
        let (session, data) = (callback.session, (&raw mut callback).cast());
        let mut options = cinder_generate_options {
            size: size_of::<cinder_generate_options>(),
            max_tokens: u64::from(self.choices.byte() % 10),
            ignore_end: i32::from(self.choices.byte() % 2),
            reserved: i32::from(self.choices.byte() == 255),
            time_limit_ms: if self.choices.byte() % 8 == 7 { self.choices.size() } else { 0 },
            token: None,
            token_data: data,
        };
        let declared = self.declared();
        if self.choices.byte() % 2 == 1 {
            options.token = Some(on_token);
            // The callback ends what has no other end, unless the struct is too short for it.
            if declared.is_none() && self.choices.byte() % 4 == 3 {
                options.max_tokens = self.choices.size();
            }
        }
        let options = room(options, declared);
        let function: cinder_text_fn =
            if self.choices.byte().is_multiple_of(4) { None } else { Some(on_text) };
        let declared = self.declared();
        let mut generation = room([size_of::<cinder_generation>()], declared);
        let generation =
            if self.choices.byte() % 8 == 7 { null_mut() } else { generation.as_mut_ptr().cast() };
        let options = options.as_ptr().cast();
        call!(self, cinder_session_generate(session, options, function, data, generation));
        self.forget(&callback);
    }

    fn decode_batch(&mut self) {
        let count = self.choices.below(4);
        let mut sessions: Vec<*mut cinder_session> = (0..count).map(|_| self.session()).collect();
        // The header forbids to list one twice.
        if self.choices.byte() % 8 != 7 {
            sessions.sort_unstable();
            sessions.dedup();
        }
        let mut buffer = Buffer::new(u32::MAX, sessions.len());
        let (at, tokens) = (sessions.as_ptr(), buffer.pointer());
        let status = call!(self, cinder_batch_decode(at, sessions.len(), tokens));
        buffer.check(if status == CINDER_OK { sessions.len() } else { 0 });
    }

    fn files(&mut self) {
        let session = self.session();
        let path = self.choices.pick(&[self.free.as_ptr(), c"".as_ptr(), c"/dev/null".as_ptr(), null()]);
        call!(self, cinder_session_save_file(session, path));
        let (model, options) = (self.model(), self.session_options());
        let options = options.as_ref().map_or(null(), |options| options.as_ptr().cast());
        let path = self.choices.pick(&[self.free.as_ptr(), self.path.as_ptr(), c"".as_ptr(), null()]);
        let mut session = null_mut();
        call!(self, cinder_session_load_file(model, path, options, &raw mut session));
        self.keep(session);
    }
}
