//! The team: threads owned by rayon that stay together for the life of the team.
//!
//! A fork-join costs more than the product of a small matrix, so rayon starts the threads once and they wait
//! for jobs themselves.

use std::sync::{Arc, Barrier, Mutex};
use std::thread::JoinHandle;

use super::jobs::{Jobs, lock};
use super::processors::Processors;
use super::region::{Membership, Region};
use crate::error::{Error, ErrorKind, Result};

/// A fixed set of threads.
pub struct Team {
    /// The threads beside the caller's; `None` for a team of one.
    pool: Option<rayon::ThreadPool>,
    handles: Vec<JoinHandle<()>>,
    /// The process that started the threads: a forked child has none of them.
    process: u32,
    jobs: Arc<Jobs>,
    region: Mutex<()>,
}

impl Team {
    /// A team of `threads`, or of [`Processors::threads`] for 0. The threads have ended when the team has been dropped.
    ///
    /// # Errors
    /// If the operating system does not give the threads.
    pub fn new(threads: usize) -> Result<Team> {
        let threads = if threads == 0 { Processors::detect().threads() } else { threads };
        let jobs = Arc::new(Jobs::new(threads));
        let mut handles = Vec::new();
        let pool = if threads == 1 { None } else { Some(start(&jobs, &mut handles)?) };
        Ok(Team { pool, handles, process: std::process::id(), jobs, region: Mutex::new(()) })
    }

    /// Number of threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.jobs.threads()
    }

    /// Runs `body` on the caller's thread, as the leader of the team. Regions of one team exclude each other.
    ///
    /// # Panics
    /// If `body` panics or a chunk of its work does, and inside another region of the same team.
    pub fn region<R>(&self, body: impl FnOnce(&Region<'_>) -> R) -> R {
        let _membership = Membership::new(&self.jobs);
        let _region = lock(&self.region);
        // SAFETY: the lock is held as long as the region lives.
        unsafe { Region::enter(&self.jobs, body) }
    }
}

/// Starts the threads beside the caller's and waits until they are there.
fn start(jobs: &Arc<Jobs>, handles: &mut Vec<JoinHandle<()>>) -> Result<rayon::ThreadPool> {
    let threads = jobs.threads();
    let builder = rayon::ThreadPoolBuilder::new().num_threads(threads - 1);
    // Rayon does not wait for its threads when it lets them go; a library that is unloaded must.
    let spawn = |thread: rayon::ThreadBuilder| {
        let builder = std::thread::Builder::new().name(format!("cinderblock-{}", thread.index()));
        handles.push(builder.spawn(|| thread.run())?);
        Ok(())
    };
    let pool = builder.spawn_handler(spawn).build().map_err(|error| {
        Error::new(ErrorKind::Resource, format!("cannot start {threads} threads: {error}"))
    })?;
    let jobs = Arc::clone(jobs);
    // A thread that starts late would allocate in the middle of somebody's step.
    let arrived = Arc::new(Barrier::new(threads));
    let arrival = Arc::clone(&arrived);
    pool.spawn_broadcast(move |context| {
        let _membership = Membership::new(&jobs);
        arrival.wait();
        jobs.follow(context.index() + 1);
    });
    arrived.wait();
    Ok(pool)
}

impl Drop for Team {
    fn drop(&mut self) {
        if std::process::id() != self.process {
            // Nobody is there to end, and a lock may have been copied while a thread of the parent held it.
            std::mem::forget((self.pool.take(), std::mem::take(&mut self.handles)));
            return;
        }
        self.jobs.close();
        drop(self.pool.take());
        for handle in self.handles.drain(..) {
            // A thread that panicked has ended as well.
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::threads::Chunks;

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
                    region.run_parts(Chunks::of(&mut items, 10), |index, part| part.fill(index + 1));
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

    #[test]
    fn a_region_inside_another_of_the_same_team_panics() {
        let (team, other) = (Team::new(2).unwrap(), Team::new(2).unwrap());
        let nested = || team.region(|_| team.region(|_| ()));
        assert!(catch_unwind(AssertUnwindSafe(nested)).is_err());
        let chunk = || team.region(|region| region.run(4, |_| team.region(|_| ())));
        assert!(catch_unwind(AssertUnwindSafe(chunk)).is_err());
        team.region(|_| other.region(|region| region.run(4, |_| ())));
        team.region(|region| region.run(4, |_| ()));
    }

    #[test]
    fn scratch_belongs_to_one_thread_at_a_time() {
        let team = Team::new(3).unwrap();
        let mut sums = vec![0; team.threads()];
        team.region(|region| region.run_with(&mut sums, 0..1000, |sum, _, number| *sum += number));
        assert_eq!(sums.iter().sum::<usize>(), 999 * 1000 / 2);
    }
}
