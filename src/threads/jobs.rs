//! The protocol of a team: how a job is published, taken chunk by chunk, finished, and waited for.
//!
//! The leader is the thread that calls: it publishes a job, everyone takes chunks of it, and the leader continues when
//! every chunk is *finished*. It never waits for a thread that took none, so a thread that the scheduler keeps away
//! delays nobody. Waiting spins briefly, then yields, then parks: more threads than cores slow down gently, and an
//! idle team costs nothing. Nothing is allocated after the team has been made.
//!
//! Each thread has a queue, an atomic word that counts through a range of consecutive chunks, and takes from
//! the others' when its own is empty. Neighbouring chunks are neighbouring memory: two threads that take turns in
//! one stream of weights defeat the prefetchers and read a third less a second than two streams do.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::PoisonError;

use super::idle;
use super::sync::{
    AtomicBool, AtomicU64, AtomicUsize, Condvar, Mutex, MutexGuard, Ordering, UnsafeCell, fence,
};
use super::sync::{SPINS, YIELDS, spin, yield_now};

/// Low half of a queue: next chunk. High half: the chunk after its last.
const NEXT: u64 = (1 << 32) - 1;
/// More chunks than this would let late arrivals overflow the counter.
const MAX_CHUNKS: usize = 1 << 30;

/// Takes the thread, below the team's number of threads, and the chunk.
type Job = *const (dyn Fn(usize, usize) + Sync);

/// Keeps two words that different threads write in different cache lines.
#[repr(align(128))]
struct CachePadded<T>(T);

/// One job at a time, and the threads that work on it.
pub(super) struct Jobs {
    /// One for each thread, the leader's first.
    queues: Box<[CachePadded<AtomicU64>]>,
    /// Chunks of the current job.
    chunks: AtomicUsize,
    /// Those of them that are finished.
    finished: CachePadded<AtomicUsize>,
    job: UnsafeCell<Option<Job>>,
    panicked: AtomicBool,
    closed: AtomicBool,
    /// Threads that wait, or are about to, on `wake`.
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `job` is written only by the leader while no chunk is outstanding (`publish`) and read only by a thread
// that has taken a chunk of the job it belongs to; the queue's release and acquire order the two. The pointee is
// `Sync`, and `publish` does not return before the last chunk is finished.
unsafe impl Sync for Jobs {}
// SAFETY: as above; the pointer is never dereferenced without a chunk.
unsafe impl Send for Jobs {}

/// Locks a mutex whose data is sound at any time, so that a panic while it was held broke nothing.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Jobs {
    /// No job yet, for `threads` threads.
    pub(super) fn new(threads: usize) -> Jobs {
        Jobs {
            queues: (0..threads).map(|_| CachePadded(AtomicU64::new(0))).collect(),
            chunks: AtomicUsize::new(0),
            finished: CachePadded(AtomicUsize::new(0)),
            job: UnsafeCell::new(None),
            panicked: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        }
    }

    /// Number of threads, the leader included.
    pub(super) fn threads(&self) -> usize {
        self.queues.len()
    }

    /// Lets `job` be called with a thread and each chunk below `chunks`, by the leader, which calls this, and by all
    /// that follow. Returns when every chunk is finished.
    ///
    /// # Safety
    /// One thread publishes at a time, and not from inside a job.
    ///
    /// # Panics
    /// If a chunk panicked, after the others have finished.
    pub(super) unsafe fn publish(&self, chunks: usize, job: &(dyn Fn(usize, usize) + Sync)) {
        assert!(chunks <= MAX_CHUNKS, "{chunks} chunks in one job");
        self.finished.0.store(0, Ordering::Relaxed);
        // SAFETY: the lifetime is erased; this call returns only when all chunks of the new job are finished.
        let job = unsafe { std::mem::transmute::<*const (dyn Fn(usize, usize) + Sync + '_), Job>(job) };
        // SAFETY: no chunk is outstanding (the previous call saw all of them finished, and the caller promises that
        // there is no other), so no thread reads `job`.
        self.job.with_mut(|place| unsafe { *place = Some(job) });
        self.chunks.store(chunks, Ordering::Relaxed);
        let threads = self.threads();
        for (thread, queue) in self.queues.iter().enumerate() {
            let [start, end] = [thread, thread + 1].map(|edge| (edge * chunks / threads) as u64);
            queue.0.store(end << 32 | start, Ordering::Release);
        }
        self.notify();
        self.work(0);
        self.wait(|| self.finished.0.load(Ordering::Acquire) == chunks);
        if self.panicked.swap(false, Ordering::Relaxed) {
            resume_unwind(Box::new("a chunk of parallel work panicked"));
        }
    }

    /// Works on jobs as thread `own` until [`Jobs::close`].
    pub(super) fn follow(&self, own: usize) {
        while !self.closed.load(Ordering::Relaxed) {
            self.work(own);
            self.wait(|| self.has_chunks() || self.closed.load(Ordering::Relaxed));
        }
    }

    /// Ends the threads that follow.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.notify();
    }

    /// Wakes every parked thread. The condition must have been stored before.
    fn notify(&self) {
        // The fence in `wait` is its pair: this thread sees the sleeper, or the sleeper sees the condition, or both.
        fence(Ordering::SeqCst);
        if self.sleepers.load(Ordering::Relaxed) > 0 {
            let _guard = lock(&self.lock);
            self.wake.notify_all();
        }
    }

    /// Waits until `ready` holds: spins, yields, parks.
    fn wait(&self, ready: impl Fn() -> bool) {
        for round in 0..SPINS + YIELDS {
            if ready() {
                return;
            }
            if round < SPINS { spin() } else { yield_now() }
        }
        idle::rest();
        self.sleepers.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let mut guard = lock(&self.lock);
        while !ready() {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        drop(guard);
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
    }

    fn has_chunks(&self) -> bool {
        self.queues.iter().any(CachePadded::has_chunks)
    }

    /// Takes chunks and runs them until none is left, those of queue `own` first.
    fn work(&self, own: usize) {
        let (before, after) = self.queues.split_at(own);
        for queue in after.iter().chain(before) {
            while let Some(chunk) = queue.take() {
                // SAFETY: this thread has taken a chunk, so the leader is inside `publish` until the chunk is counted
                // below: the pointer was stored before the queue that was acquired, and its pointee lives.
                let job =
                    self.job.with(|job| unsafe { &*(*job).expect("a job is stored before its queues") });
                if catch_unwind(AssertUnwindSafe(|| job(own, chunk))).is_err() {
                    self.panicked.store(true, Ordering::Relaxed);
                }
                // The count cannot change while this chunk is missing; afterwards it may.
                let chunks = self.chunks.load(Ordering::Relaxed);
                if self.finished.0.fetch_add(1, Ordering::AcqRel) + 1 == chunks {
                    self.notify();
                }
            }
        }
    }
}

impl CachePadded<AtomicU64> {
    fn has_chunks(&self) -> bool {
        let word = self.0.load(Ordering::Relaxed);
        (word & NEXT) < word >> 32
    }

    fn take(&self) -> Option<usize> {
        // Late arrivals look before they count, so that they never count far beyond the end.
        if !self.has_chunks() {
            return None;
        }
        let word = self.0.fetch_add(1, Ordering::Acquire);
        ((word & NEXT) < word >> 32).then_some((word & NEXT) as usize)
    }
}
