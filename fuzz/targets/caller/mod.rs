//! Any sequence of calls of the C interface that its header allows: handles that are null or alive, buffers as long as
//! they are said to be, structs of any declared size.

mod answer;
mod callback;
mod generate;
mod memory;
mod model;
mod session;
mod state;

use std::ffi::CString;
use std::ptr::null_mut;

use cinderblock::capi::model::*;
use cinderblock::capi::session::*;
use cinderblock::capi::settings::*;
use cinderblock::capi::tokens::*;
use cinderblock_fuzz::{Choices, scratch, tiny};

use answer::call;
use callback::Callback;
use model::shared_model;

const MOST_CALLS: usize = 40;

/// The handles that are alive, and what decides the next call.
pub struct Caller<'b> {
    choices: Choices<'b>,
    models: [*mut cinder_model; 2],
    sessions: [*mut cinder_session; 3],
    saved: Vec<u8>,
    /// A model file, and a name that is free.
    path: CString,
    free: CString,
}

impl<'b> Caller<'b> {
    pub fn new(bytes: &'b [u8]) -> Self {
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

    pub fn run(mut self) {
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
}
