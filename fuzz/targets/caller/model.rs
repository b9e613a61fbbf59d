//! Calls with a model.

use std::ffi::CStr;
use std::ptr::{null, null_mut};
use std::sync::OnceLock;

use cinderblock::capi::failure::*;
use cinderblock::capi::model::*;
use cinderblock::capi::options::*;
use cinderblock::capi::text::*;
use cinderblock_fuzz::tiny;

use super::Caller;
use super::answer::call;
use super::callback::{Callback, on_log, on_progress};
use super::memory::{Buffer, UNTOUCHED, room};

/// A model that all sequences of calls may use, and none frees.
pub fn shared_model() -> *mut cinder_model {
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

impl Caller<'_> {
    pub fn open(&mut self) {
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

    pub fn describe(&mut self) {
        let model = self.model();
        // SAFETY: null or alive; the strings live as long as the model.
        unsafe {
            for text in [cinder_model_name(model), cinder_model_isa(model)] {
                assert!(text.is_null() || CStr::from_ptr(text).to_str().is_ok());
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

    pub fn tokenize(&mut self) {
        let (model, text) = (self.model(), self.choices.some(24));
        let capacity = self.choices.below(32);
        let mut buffer = Buffer::new(u32::MAX, capacity);
        let (tokens, mut count) = (buffer.pointer(), 0);
        let text_at = text.as_ptr().cast();
        let status =
            call!(self, cinder_tokenize(model, text_at, text.len(), tokens, capacity, &raw mut count));
        buffer.check(if status == CINDER_OK { count } else { 0 });
    }

    pub fn detokenize(&mut self) {
        let (model, tokens) = (self.model(), self.tokens());
        let capacity = self.choices.below(64);
        let mut buffer = Buffer::new(UNTOUCHED, capacity);
        let (text, mut size) = (buffer.pointer().cast(), 0);
        let at = tokens.as_ptr();
        let status = call!(self, cinder_detokenize(model, at, tokens.len(), text, capacity, &raw mut size));
        buffer.check(if status == CINDER_OK { size } else { 0 });
    }
}
