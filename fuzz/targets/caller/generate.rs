//! Calls that generate.

use std::ptr::null_mut;

use cinderblock::capi::batch::cinder_batch_decode;
use cinderblock::capi::failure::*;
use cinderblock::capi::generate::*;
use cinderblock::capi::options::*;
use cinderblock::capi::session::cinder_session;
use cinderblock_fuzz::tiny;

use super::Caller;
use super::answer::call;
use super::callback::{on_text, on_token};
use super::memory::{Buffer, room};

impl Caller<'_> {
    pub fn decode(&mut self) {
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

    pub fn logits(&mut self) {
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

    pub fn generate(&mut self) {
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

    pub fn decode_batch(&mut self) {
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
}
