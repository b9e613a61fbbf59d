//! Tests that need several parts of the interface.

use std::ffi::{CString, c_void};
use std::path::Path;
use std::ptr::{null, null_mut};

use super::boundary::call;
use super::failure::*;
use super::generate::{cinder_session_decode_token, cinder_session_logits};
use super::model::*;
use super::options::*;
use super::session::*;
use super::settings::cinder_session_set_sampler;
use super::size_prefixed::SizePrefixed;
use super::state::{cinder_session_load, cinder_session_save, cinder_session_save_file};
use super::text::cinder_tokenize;
use super::tokens::*;
use crate::{Error, ErrorKind};

/// The demo model, which the repository contains.
fn demo() -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/classics.q4.gguf")).unwrap()
}

/// A model and two of its sessions, which have a token.
struct Handles {
    model: *mut cinder_model,
    sessions: [*mut cinder_session; 2],
}

impl Handles {
    fn new() -> Handles {
        let (bytes, mut handles) = (demo(), Handles { model: null_mut(), sessions: [null_mut(); 2] });
        // SAFETY: all pointers are null or to locals.
        unsafe {
            let (data, model) = (bytes.as_ptr().cast(), &raw mut handles.model);
            assert_eq!(cinder_model_open_memory(data, bytes.len(), null(), model, null_mut()), CINDER_OK);
            for session in &mut handles.sessions {
                assert_eq!(cinder_session_create(handles.model, null(), session, null_mut()), CINDER_OK);
                assert_eq!(cinder_session_append_tokens(*session, [5u32].as_ptr(), 1, null_mut()), CINDER_OK);
            }
        }
        handles
    }
}

impl Drop for Handles {
    fn drop(&mut self) {
        // SAFETY: created by `new` and freed once.
        unsafe {
            self.sessions.into_iter().for_each(|session| cinder_session_free(session));
            cinder_model_free(self.model);
        }
    }
}

fn decode(session: *mut cinder_session) -> cinder_status {
    let mut token = 0;
    // SAFETY: a session of `Handles`, and a local.
    unsafe { cinder_session_decode_token(session, &raw mut token, null_mut()) }
}

#[test]
fn a_panic_poisons_its_session_and_nothing_else() {
    let handles = Handles::new();
    let [first, second] = handles.sessions;
    let status = call(null_mut(), || {
        // SAFETY: a session of `handles`.
        let held = unsafe { Held::new(first) }?;
        // As if a product had found slices that do not fit, on all threads of the team.
        let team = held.shared().team()?;
        team.region(|region| region.run(64, |chunk| assert_ne!(chunk, 33)));
        Ok(())
    });
    assert_eq!(status, CINDER_INTERNAL);
    assert_eq!([decode(first), decode(second)], [CINDER_POISONED, CINDER_OK]);
    // SAFETY: a session of `handles`.
    assert_eq!(unsafe { cinder_session_reset(first, null_mut()) }, CINDER_POISONED);
}

#[test]
fn every_kind_of_error_has_a_status() {
    let kinds = [
        (ErrorKind::Io, CINDER_IO),
        (ErrorKind::Format, CINDER_FORMAT),
        (ErrorKind::Unsupported, CINDER_UNSUPPORTED),
        (ErrorKind::Argument, CINDER_ARGUMENT),
        (ErrorKind::Resource, CINDER_RESOURCE),
        (ErrorKind::Numeric, CINDER_NUMERIC),
        (ErrorKind::Internal, CINDER_INTERNAL),
        (ErrorKind::Interrupted, CINDER_INTERRUPTED),
    ];
    for (kind, status) in kinds {
        assert_eq!(Failure::from(Error::new(kind, "detail")).status, status, "{kind:?}");
    }
}

#[test]
fn calls_return_their_documented_statuses() {
    let handles = Handles::new();
    let (model, [session, other]) = (handles.model, handles.sessions);
    let (mut opened, mut loaded, mut logit, mut size) = (null_mut(), null_mut(), 0f32, 0);
    let cold = cinder_sampler_options { temperature: -1.0, ..SizePrefixed::initial() };
    let large = cinder_session_options { cache_blocks: u64::MAX, ..SizePrefixed::initial() };
    let pinned = cinder_session_options { cache_blocks: 4, sink_blocks: 4, ..SizePrefixed::initial() };
    let mut estimate = cinder_memory_estimate::initial();
    // SAFETY: handles that are not freed, null, and pointers to locals.
    unsafe {
        let none = null_mut::<*mut cinder_error>();
        let missing = cinder_model_open(c"/no/such/file".as_ptr(), null(), &raw mut opened, none);
        let empty = cinder_model_open_memory(null(), 0, null(), &raw mut opened, none);
        assert_eq!([missing, empty], [CINDER_IO, CINDER_FORMAT]);
        assert_eq!(cinder_session_set_sampler(session, &raw const cold, none), CINDER_ARGUMENT);
        assert_eq!(cinder_session_logits(session, &raw mut logit, 1, none), CINDER_BUFFER);
        for (options, status) in [(&large, CINDER_RESOURCE), (&pinned, CINDER_ARGUMENT)] {
            assert_eq!(cinder_model_estimate(model, options, &raw mut estimate, none), status);
            assert_eq!(cinder_session_create(model, options, &raw mut loaded, none), status);
        }
        let folder = tempfile::tempdir().unwrap();
        let path = CString::new(folder.path().to_str().unwrap()).unwrap();
        for path in [c"", c"/", &path, c"/dev/full"] {
            assert_eq!(cinder_session_save_file(session, path.as_ptr(), none), CINDER_IO, "{path:?}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        cinder_session_cancel(other);
        assert_eq!([decode(other), decode(other)], [CINDER_INTERRUPTED, CINDER_OK]);
        let held = Held::new(other);
        assert_eq!(decode(other), CINDER_MISUSE);
        drop(held);
        assert_eq!(cinder_session_save(session, null_mut(), 0, &raw mut size, none), CINDER_BUFFER);
        let mut saved = vec![0u8; size];
        let data: *mut c_void = saved.as_mut_ptr().cast();
        assert_eq!(cinder_session_save(session, data, size, &raw mut size, none), CINDER_OK);
        // A sampler of no temperature, with a checksum that is right.
        let end = size - 4;
        saved[end - 64..end - 60].copy_from_slice(&(-1f32).to_le_bytes());
        let checksum = crc32fast::hash(&saved[..end]).to_le_bytes();
        saved[end..].copy_from_slice(&checksum);
        let status = cinder_session_load(model, saved.as_ptr().cast(), size, null(), &raw mut loaded, none);
        assert_eq!(status, CINDER_FORMAT);
        assert!(opened.is_null() && loaded.is_null());
    }
}

extern "C" fn count_calls(done: u64, total: u64, user_data: *mut c_void) -> i32 {
    assert!(done <= total);
    // SAFETY: the tests pass a counter.
    unsafe { *user_data.cast::<u32>() += 1 };
    0
}

#[test]
fn a_copy_of_a_long_session_has_its_tokens_and_continues_alike() {
    let handles = Handles::new();
    let options = cinder_session_options { cache_blocks: 512, ..SizePrefixed::initial() };
    let mut session = null_mut();
    let tokens: Vec<u32> = (0..1501).map(|i| 300 + i % 1000).collect();
    let (mut found, mut count, mut calls, mut copy) = (vec![0; 1501], 0, 0u32, null_mut());
    // SAFETY: handles that are not freed, null, and pointers to locals.
    unsafe {
        let status = cinder_session_create(handles.model, &raw const options, &raw mut session, null_mut());
        assert_eq!(status, CINDER_OK);
        let data = (&raw mut calls).cast();
        let status = cinder_session_append_tokens_with_progress(
            session,
            tokens.as_ptr(),
            tokens.len(),
            Some(count_calls),
            data,
            null_mut(),
        );
        assert_eq!((status, calls), (CINDER_OK, 4));
        assert_eq!(cinder_session_copy(session, &raw mut copy, null_mut()), CINDER_OK);
        let status = cinder_session_tokens(copy, found.as_mut_ptr(), found.len(), &raw mut count, null_mut());
        assert_eq!((status, count), (CINDER_OK, tokens.len()));
        assert!(found == tokens);
        for _ in 0..6 {
            let mut next = [0; 2];
            for (session, token) in [session, copy].into_iter().zip(&mut next) {
                assert_eq!(cinder_session_decode_token(session, token, null_mut()), CINDER_OK);
            }
            assert_eq!(next[0], next[1]);
        }
        cinder_session_free(copy);
        cinder_session_free(session);
    }
}

#[test]
fn tokenizing_for_a_session_can_be_cancelled_and_gives_the_same_tokens() {
    if !crate::Tokenizer::AVAILABLE {
        return;
    }
    let handles = Handles::new();
    let session = handles.sessions[0];
    let text = "The old café stood  at the end\n\nof the lane, \u{1f600} it's 1851. ".repeat(20);
    let (mut expected, mut found, mut count, mut length) = (vec![0u32; 2000], vec![0u32; 2000], 0, 9);
    // SAFETY: handles that are not freed, null, and pointers to locals.
    unsafe {
        let data = text.as_ptr().cast();
        let place = expected.as_mut_ptr();
        let status =
            cinder_tokenize(handles.model, data, text.len(), place, 2000, &raw mut count, null_mut());
        assert_eq!(status, CINDER_OK);
        expected.truncate(count);
        assert_eq!(cinder_session_reset(session, null_mut()), CINDER_OK);
        cinder_session_cancel(session);
        let append = || cinder_session_append_text(session, data, text.len(), null_mut());
        assert_eq!(append(), CINDER_INTERRUPTED);
        assert_eq!(cinder_session_length(session, &raw mut length, null_mut()), CINDER_OK);
        assert_eq!((length, append()), (0, CINDER_OK));
        let status = cinder_session_tokens(session, found.as_mut_ptr(), 2000, &raw mut count, null_mut());
        assert_eq!(status, CINDER_OK);
        assert!(found[..count] == expected, "{count} tokens, expected {}", expected.len());
    }
}
