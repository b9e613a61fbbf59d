//! The team: threads owned by rayon that stay together for the life of the team.
//!
//! A fork-join costs more than the product of a small matrix, so rayon starts the threads once and they wait
//! for jobs themselves. The leader is the thread that calls: it publishes a job, everyone takes chunks of it, and
//! the leader goes on when every chunk is *finished*. It never waits for a thread that took none, so a thread that
//! the scheduler keeps away delays nobody. Waiting spins briefly, then yields, then parks: more threads than cores
//! slow down gently, and an idle team costs nothing. Nothing is allocated after the team has been made.
//!
//! Each thread has a queue, an atomic word that counts through a range of consecutive chunks, and takes from
//! the others' when its own is empty. Neighbouring chunks are neighbouring memory: two threads that take turns in
//! one stream of weights defeat the prefetchers and read a third less a second than two streams do.

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Barrier, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::error::{Error, ErrorKind, Result};
use crate::threads::Processors;

/// Rounds of waiting before the next, gentler way of waiting.
const SPINS: u32 = 2000;
const YIELDS: u32 = 20;
/// Low half of a queue: next chunk. High half: the chunk behind its last.
const NEXT: u64 = (1 << 32) - 1;
/// More chunks than this would let late arrivals overflow the counter.
const MAX_CHUNKS: usize = 1 << 30;

/// Takes the thread, below the team's number of threads, and the chunk.
type Job = *const (dyn Fn(usize, usize) + Sync);

/// Keeps two words that different threads write in different cache lines.
#[repr(align(128))]
struct Line<T>(T);

struct Shared {
    /// One for each thread, the leader's first.
    queues: Box<[Line<AtomicU64>]>,
    /// Chunks of the current job.
    chunks: AtomicUsize,
    /// Those of them that are finished.
    finished: Line<AtomicUsize>,
    job: UnsafeCell<Option<Job>>,
    panicked: AtomicBool,
    closed: AtomicBool,
    /// Threads that wait, or are about to, on `wake`.
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `job` is written only by the leader while no chunk is outstanding (`Region::publish`) and read only
// by a thread that has taken a chunk of the job it belongs to; the queue's release and acquire order the two.
// The pointee is `Sync`, and `Region::publish` does not return before the last chunk is finished.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is never dereferenced without a chunk.
unsafe impl Send for Shared {}

/// A fixed set of threads.
pub struct Team {
    /// The threads beside the caller's; `None` for a team of one.
    pool: Option<rayon::ThreadPool>,
    handles: Vec<JoinHandle<()>>,
    /// The process that started the threads: a forked child has none of them.
    process: u32,
    shared: Arc<Shared>,
    threads: usize,
    region: Mutex<()>,
}

/// Proof that the team is at the caller's command; hands out work.
pub struct Region<'t> {
    shared: Option<&'t Shared>,
    threads: usize,
}

fn lock(mutex: &Mutex<()>) -> MutexGuard<'_, ()> {
    // The mutexes guard no data, so a panic while one was held broke nothing.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Team {
    /// A team of `threads`, or of [`Processors::threads`] for 0. The threads have ended when the team has been dropped.
    ///
    /// # Errors
    /// If the operating system does not give the threads.
    pub fn new(threads: usize) -> Result<Team> {
        let threads = if threads == 0 { Processors::detect().threads() } else { threads };
        let shared = Arc::new(Shared {
            queues: (0..threads).map(|_| Line(AtomicU64::new(0))).collect(),
            chunks: AtomicUsize::new(0),
            finished: Line(AtomicUsize::new(0)),
            job: UnsafeCell::new(None),
            panicked: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        });
        let mut handles = Vec::new();
        let pool = if threads == 1 {
            None
        } else {
            let builder = rayon::ThreadPoolBuilder::new().num_threads(threads - 1);
            // Rayon does not wait for its threads when it lets them go; a library that is unloaded must.
            let spawn = |thread: rayon::ThreadBuilder| {
                let builder = std::thread::Builder::new().name(format!("cinderblock-{}", thread.index()));
                handles.push(builder.spawn(|| thread.run())?);
                Ok(())
            };
            let pool = builder.spawn_handler(spawn).build();
            let pool = pool.map_err(|error| {
                Error::new(ErrorKind::Resource, format!("cannot start {threads} threads: {error}"))
            })?;
            let followed = Arc::clone(&shared);
            // A thread that starts late would allocate in the middle of somebody's step.
            let arrived = Arc::new(Barrier::new(threads));
            let arrival = Arc::clone(&arrived);
            pool.spawn_broadcast(move |context| {
                arrival.wait();
                followed.follow(context.index() + 1);
            });
            arrived.wait();
            Some(pool)
        };
        Ok(Team { pool, handles, process: std::process::id(), shared, threads, region: Mutex::new(()) })
    }

    /// Number of threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `body` on the caller's thread, as the leader of the team. Regions of one team exclude each other and
    /// do not nest.
    pub fn region<R>(&self, body: impl FnOnce(&Region) -> R) -> R {
        let _region = lock(&self.region);
        let shared = (self.threads > 1).then_some(&*self.shared);
        let result = body(&Region { shared, threads: self.threads });
        crate::kernels::rest();
        result
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        if std::process::id() != self.process {
            // Nobody is there to end, and a lock may have been copied while a thread of the parent held it.
            std::mem::forget((self.pool.take(), std::mem::take(&mut self.handles)));
            return;
        }
        self.shared.closed.store(true, Ordering::SeqCst);
        self.shared.notify();
        drop(self.pool.take());
        for handle in self.handles.drain(..) {
            // A thread that panicked has ended as well.
            let _ = handle.join();
        }
    }
}

impl Shared {
    /// Wakes whoever is parked. The condition must have been stored before.
    fn notify(&self) {
        fence(Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
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
            if round < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        crate::kernels::rest();
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let mut guard = lock(&self.lock);
        while !ready() {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        drop(guard);
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    fn has_chunks(&self) -> bool {
        self.queues.iter().any(Line::has_chunks)
    }

    /// Takes chunks and runs them until none is left, those of queue `own` first.
    fn work(&self, own: usize) {
        let (before, after) = self.queues.split_at(own);
        for queue in after.iter().chain(before) {
            while let Some(chunk) = queue.take() {
                // SAFETY: this thread has taken a chunk, so the leader is inside `Region::publish` until the chunk
                // is counted below: the pointer was stored before the queue that was acquired, and its pointee
                // lives.
                let job = unsafe { &*(*self.job.get()).expect("a job is stored before its queues") };
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

    fn follow(&self, own: usize) {
        while !self.closed.load(Ordering::SeqCst) {
            self.work(own);
            self.wait(|| self.has_chunks() || self.closed.load(Ordering::SeqCst));
        }
    }
}

impl Line<AtomicU64> {
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

impl Region<'_> {
    /// Number of threads that share the work.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Calls `job` once for every chunk below `chunks`, on any thread, and returns when all have finished.
    ///
    /// # Panics
    /// If a chunk panicked, after the others have finished.
    pub fn run(&self, chunks: usize, job: impl Fn(usize) + Sync) {
        self.start(chunks, |_, chunk| job(chunk));
    }

    /// [`Region::run`] for two kinds of chunks, in one phase.
    pub fn run_both(
        &self,
        (first, first_job): (usize, impl Fn(usize) + Sync),
        (second, second_job): (usize, impl Fn(usize) + Sync),
    ) {
        self.run(first + second, |chunk| match chunk.checked_sub(first) {
            None => first_job(chunk),
            Some(chunk) => second_job(chunk),
        });
    }

    /// [`Region::run`] with scratch that a thread has for itself while it runs a chunk.
    ///
    /// # Panics
    /// If there is not scratch for each thread.
    pub fn run_with<T: Send>(&self, scratch: &mut [T], chunks: usize, job: impl Fn(&mut T, usize) + Sync) {
        assert!(scratch.len() >= self.threads, "scratch for {} of {} threads", scratch.len(), self.threads);
        let scratch = Pieces::new(scratch);
        self.start(chunks, |thread, chunk| {
            // SAFETY: a thread runs one chunk at a time, and threads of a team have different numbers.
            let own = unsafe { scratch.piece(thread..thread + 1) };
            job(&mut own[0], chunk);
        });
    }

    fn start(&self, chunks: usize, job: impl Fn(usize, usize) + Sync) {
        match self.shared {
            Some(shared) if chunks > 1 => Self::publish(shared, chunks, &job),
            _ => (0..chunks).for_each(|chunk| job(0, chunk)),
        }
    }

    fn publish(shared: &Shared, chunks: usize, job: &(dyn Fn(usize, usize) + Sync)) {
        assert!(chunks <= MAX_CHUNKS, "{chunks} chunks in one job");
        shared.finished.0.store(0, Ordering::Relaxed);
        // SAFETY: the lifetime is erased. No chunk is outstanding (the previous call saw all of them finished),
        // so no thread reads `job`; and this call returns only when all chunks of the new job are finished.
        unsafe {
            *shared.job.get() =
                Some(std::mem::transmute::<*const (dyn Fn(usize, usize) + Sync + '_), Job>(job))
        };
        shared.chunks.store(chunks, Ordering::Relaxed);
        let threads = shared.queues.len();
        for (thread, queue) in shared.queues.iter().enumerate() {
            let [start, end] = [thread, thread + 1].map(|edge| (edge * chunks / threads) as u64);
            queue.0.store(end << 32 | start, Ordering::Release);
        }
        shared.notify();
        shared.work(0);
        shared.wait(|| shared.finished.0.load(Ordering::Acquire) == chunks);
        if shared.panicked.swap(false, Ordering::Relaxed) {
            resume_unwind(Box::new("a chunk of parallel work panicked"));
        }
    }

    /// Splits `items` into pieces of `size` and calls `job` with each piece's index and the piece.
    pub fn split<T: Send>(&self, items: &mut [T], size: usize, job: impl Fn(usize, &mut [T]) + Sync) {
        let length = items.len();
        let items = Pieces::new(items);
        self.run(length.div_ceil(size), |chunk| {
            let start = chunk * size;
            // SAFETY: `run` hands out every chunk once, and their pieces are disjoint.
            job(chunk, unsafe { items.piece(start..length.min(start + size)) });
        });
    }
}

/// A slice whose disjoint pieces go to different threads.
pub(crate) struct Pieces<'a, T> {
    start: *mut T,
    length: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: a piece is a mutable borrow that another thread may have, as `T: Send` says; that the pieces are
// disjoint is promised by the callers of `piece`.
unsafe impl<T: Send> Sync for Pieces<'_, T> {}

impl<'a, T> Pieces<'a, T> {
    /// The slice is borrowed for as long as pieces of it live.
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Pieces { start: slice.as_mut_ptr(), length: slice.len(), slice: PhantomData }
    }

    /// A piece of the slice.
    ///
    /// # Safety
    /// No element of the range may be in a piece that is still in use.
    ///
    /// # Panics
    /// If the range reaches beyond the slice.
    #[allow(clippy::mut_from_ref, reason = "the caller promises that pieces do not overlap")]
    pub(crate) unsafe fn piece(&self, range: Range<usize>) -> &mut [T] {
        assert!(
            range.start <= range.end && range.end <= self.length,
            "{range:?} of {} elements",
            self.length
        );
        // SAFETY: the range lies inside the slice, which is borrowed mutably for 'a; the caller promises the rest.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn every_chunk_runs_once_with_any_number_of_threads() {
        for threads in [1, 2, 3, 8] {
            let team = Team::new(threads).unwrap();
            for round in 0..20 {
                team.region(|region| {
                    for chunks in [0, 1, 2, 7, 100 + round] {
                        let counts: Vec<AtomicU32> = (0..chunks).map(|_| AtomicU32::new(0)).collect();
                        region.run(chunks, |chunk| {
                            counts[chunk].fetch_add(1, Ordering::Relaxed);
                        });
                        assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
                    }
                    let mut items = vec![0; 103];
                    region.split(&mut items, 10, |piece, values| values.fill(piece + 1));
                    assert!(items.iter().enumerate().all(|(i, &value)| value == i / 10 + 1));
                });
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_survives() {
        let team = Team::new(3).unwrap();
        for _ in 0..5 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                team.region(|region| region.run(64, |chunk| assert_ne!(chunk, 33)));
            }));
            assert!(result.is_err());
            assert_eq!(team.region(|region| region.threads()), 3);
        }
    }

    #[test]
    fn parked_threads_wake_up() {
        let team = Team::new(2).unwrap();
        team.region(|region| {
            for _ in 0..3 {
                std::thread::sleep(std::time::Duration::from_millis(20));
                region.run(4, |_| std::thread::sleep(std::time::Duration::from_millis(5)));
            }
        });
    }
}
