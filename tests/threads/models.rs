//! Uses of a team, each checked over all its interleavings.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use loom::cell::UnsafeCell;

use crate::idle;
use crate::jobs::Jobs;
use crate::sync;
use crate::team::Team;

/// Preemptions to explore beyond those that a test takes.
const MORE: &str = "CINDERBLOCK_MORE_PREEMPTIONS";

/// Runs `model` in every interleaving with at most `preemptions` switches away from a thread that could go on, and
/// prints how many there were.
fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let more = std::env::var(MORE).map_or(0, |more| more.parse().expect("a number"));
    let preemptions = preemptions + more;
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    let executions = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&executions);
    let start = Instant::now();
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        model();
    });
    let executions = executions.load(Ordering::Relaxed);
    eprintln!(
        "{executions} executions with {preemptions} preemptions, {:.1} s",
        start.elapsed().as_secs_f64()
    );
}

/// One word for each chunk, which the chunk writes and the leader reads without synchronization of their own.
struct Work(Vec<UnsafeCell<usize>>);

// SAFETY: loom checks each access.
unsafe impl Sync for Work {}

impl Work {
    fn new(chunks: usize) -> Work {
        Work((0..chunks).map(|_| UnsafeCell::new(0)).collect())
    }

    /// What a chunk does.
    fn count(&self, chunk: usize) {
        // SAFETY: loom reports a chunk that runs twice at once, or that a reader does not wait for.
        self.0[chunk].with_mut(|count| unsafe { *count += 1 });
    }

    fn assert_all(&self, count: usize) {
        for (chunk, cell) in self.0.iter().enumerate() {
            // SAFETY: as in `count`.
            let found = cell.with(|count| unsafe { *count });
            assert_eq!(found, count, "runs of chunk {chunk}");
        }
    }
}

/// A leader and `threads` - 1 others; the leader publishes one job for each number of chunks.
pub fn jobs(threads: usize, preemptions: usize, rounds: &'static [usize]) {
    check(preemptions, move || {
        let jobs = Arc::new(Jobs::new(threads));
        let follow = |thread| {
            let jobs = Arc::clone(&jobs);
            loom::thread::spawn(move || jobs.follow(thread))
        };
        let followers: Vec<_> = (1..threads).map(follow).collect();
        for &chunks in rounds {
            let work = Work::new(chunks);
            // SAFETY: this thread alone publishes.
            unsafe {
                jobs.publish(chunks, &|thread, chunk| {
                    assert!(thread < threads);
                    if threads == 2 {
                        // A switch here costs no preemption.
                        sync::yield_now();
                    }
                    work.count(chunk);
                })
            };
            work.assert_all(1);
        }
        jobs.close();
        for follower in followers {
            follower.join().unwrap();
        }
    });
}

/// A chunk panics: the others finish, the leader has the panic, and the next job runs.
pub fn panic(threads: usize, preemptions: usize) {
    check(preemptions, move || {
        let team = Team::new(threads).unwrap();
        let work = Work::new(2);
        // Caught inside the region: loom's mutexes do not survive a panic while they are held.
        let result = team.region(|region| {
            catch_unwind(AssertUnwindSafe(|| {
                region.run(2, |chunk| {
                    work.count(chunk);
                    if chunk == 1 {
                        resume_unwind(Box::new("a chunk's own panic"));
                    }
                });
            }))
        });
        let payload = result.expect_err("the chunk panicked");
        assert_eq!(payload.downcast_ref(), Some(&"a chunk of parallel work panicked"));
        work.assert_all(1);
        team.region(|region| region.run(2, |chunk| work.count(chunk)));
        work.assert_all(2);
    });
}

/// Two threads ask for a region of one team at a time.
pub fn regions(preemptions: usize) {
    check(preemptions, || {
        let team = Arc::new(Team::new(2).unwrap());
        let work = Arc::new(Work::new(2));
        let other = {
            let (team, work) = (Arc::clone(&team), Arc::clone(&work));
            loom::thread::spawn(move || team.region(|region| region.run(2, |chunk| work.count(chunk))))
        };
        team.region(|region| region.run(2, |chunk| work.count(chunk)));
        other.join().unwrap();
        work.assert_all(2);
    });
}

/// A team that is dropped ends its threads, whatever they are doing.
pub fn dropped(threads: usize, preemptions: usize) {
    check(preemptions, move || drop(Team::new(threads).unwrap()));
}

/// Dropping a team in a child process takes no lock that a thread of the parent could hold, and ends nobody.
pub fn forked(threads: usize, preemptions: usize) {
    check(preemptions, move || {
        let team = Team::new(threads).unwrap();
        // SAFETY: the copy stands for the child's memory. It gives back one count of the jobs, which is added here.
        let copy = unsafe {
            Arc::increment_strong_count(Arc::as_ptr(&team.jobs));
            std::ptr::read(&team)
        };
        sync::fork(move || drop(copy));
        let work = Work::new(2);
        team.region(|region| region.run(2, |chunk| work.count(chunk)));
        work.assert_all(1);
    });
}

sync::thread_local! {
    static HELD: Cell<bool> = const { Cell::new(false) };
}

/// A thread that parks or leaves its region has given back what a chunk left in it.
pub fn rest(threads: usize, preemptions: usize) {
    check(preemptions, move || {
        let team = Team::new(threads).unwrap();
        team.region(|region| {
            region.run(2, |_| {
                HELD.with(|held| held.set(true));
                idle::at_rest(|| HELD.with(|held| held.set(false)));
            });
        });
        HELD.with(|held| assert!(!held.get(), "the leader left its region with something held"));
    });
}
