//! After the first block, generating allocates nothing: a device that runs for days must not creep.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cinderblock::{Model, Runtime, Sampler, SamplerOptions, SessionOptions};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn decoding_allocates_nothing() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/classics.q4.gguf");
    let model = Arc::new(Model::open(file).unwrap());
    for threads in [1, 2, 4] {
        let runtime = Runtime::new(Arc::clone(&model), threads).unwrap();
        let options = SessionOptions { cache_blocks: Some(16), ..Default::default() };
        let mut session = runtime.session(&options).unwrap();
        let options =
            SamplerOptions { top_k: 40, top_p: 0.95, repetition_penalty: 1.1, ..SamplerOptions::plain() };
        let mut sampler = Sampler::new(options, model.config().vocabulary).unwrap();
        session.append(&[300, 301, 302, 303, 304]).unwrap();
        let mut generate = |tokens: usize| {
            for _ in 0..tokens {
                let token = sampler.sample(session.logits().unwrap());
                sampler.accept(token);
                session.append(&[token]).unwrap();
            }
        };
        generate(8);
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        // Far past the capacity of the cache.
        generate(400);
        assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0, "{threads} threads");
    }
}
