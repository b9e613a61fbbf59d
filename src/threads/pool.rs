//! The threads beside the leader's: rayon starts them once, and they run one function until it returns.

use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;

use crate::error::{Error, ErrorKind, Result};

/// Threads that have been started. They end when their function returns.
pub(super) struct Pool {
    pool: rayon::ThreadPool,
    handles: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts `threads` - 1 threads, which call `body` with the numbers from 1, and waits until they run.
    ///
    /// # Errors
    /// If the operating system does not give the threads.
    pub(super) fn start(threads: usize, body: impl Fn(usize) + Send + Sync + 'static) -> Result<Pool> {
        let builder = rayon::ThreadPoolBuilder::new().num_threads(threads - 1);
        let mut handles = Vec::new();
        // Rayon does not wait for its threads when it lets them go; a library that is unloaded must.
        let spawn = |thread: rayon::ThreadBuilder| {
            let builder = std::thread::Builder::new().name(format!("cinderblock-{}", thread.index()));
            handles.push(builder.spawn(|| thread.run())?);
            Ok(())
        };
        let pool = builder.spawn_handler(spawn).build().map_err(|error| {
            Error::new(ErrorKind::Resource, format!("cannot start {threads} threads: {error}"))
        })?;
        // A thread that starts late would allocate in the middle of somebody's step.
        let arrived = Arc::new(Barrier::new(threads));
        let arrival = Arc::clone(&arrived);
        pool.spawn_broadcast(move |context| {
            arrival.wait();
            body(context.index() + 1);
        });
        arrived.wait();
        Ok(Pool { pool, handles })
    }

    /// Waits for the threads, whose function must be about to return.
    pub(super) fn join(self) {
        drop(self.pool);
        for handle in self.handles {
            // A thread that panicked has ended as well.
            let _ = handle.join();
        }
    }
}
