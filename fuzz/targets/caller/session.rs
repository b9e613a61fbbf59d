//! Calls that create a session, set it up and give it a text.

use std::ffi::{CString, c_char};
use std::ptr::{null, null_mut};

use cinderblock::capi::failure::*;
use cinderblock::capi::options::*;
use cinderblock::capi::session::*;
use cinderblock::capi::settings::*;
use cinderblock::capi::tokens::*;

use super::Caller;
use super::answer::call;
use super::callback::on_progress;
use super::memory::{Buffer, Room, room};

impl Caller<'_> {
    pub fn session_options(&mut self) -> Option<Room> {
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

    pub fn create(&mut self) {
        let (model, options) = (self.model(), self.session_options());
        let options = options.as_ref().map_or(null(), |options| options.as_ptr().cast());
        let mut session = null_mut();
        call!(self, cinder_session_create(model, options, &raw mut session));
        self.keep(session);
    }

    pub fn set_sampler(&mut self) {
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

    pub fn set_stops(&mut self) {
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

    pub fn append(&mut self) {
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

    pub fn read_tokens(&mut self) {
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
}
