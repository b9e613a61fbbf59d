//! Calls that save and load sessions.

use std::ptr::{null, null_mut};

use cinderblock::capi::failure::*;
use cinderblock::capi::state::*;

use super::Caller;
use super::answer::call;
use super::memory::{Buffer, UNTOUCHED};

impl Caller<'_> {
    pub fn save(&mut self) {
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

    pub fn load(&mut self) {
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

    pub fn files(&mut self) {
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
