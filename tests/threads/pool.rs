//! Loom's threads in the place of `src/threads/pool.rs`.

use std::sync::Arc;

use loom::thread::JoinHandle;

use crate::error::Result;
use crate::sync::{PARENT, process};

pub(crate) struct Pool(Vec<JoinHandle<()>>);

impl Pool {
    pub(crate) fn start(threads: usize, body: impl Fn(usize) + Send + Sync + 'static) -> Result<Pool> {
        let body = Arc::new(body);
        let start = |thread| {
            let body = Arc::clone(&body);
            loom::thread::spawn(move || body(thread))
        };
        Ok(Pool((1..threads).map(start).collect()))
    }

    pub(crate) fn join(self) {
        assert_eq!(process(), PARENT, "a child process has no threads to wait for");
        for thread in self.0 {
            thread.join().expect("a thread that follows does not panic");
        }
    }
}
