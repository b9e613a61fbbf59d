//! The team: threads that stay together for its life.
//!
//! A fork-join costs more than the product of a small matrix, so the threads are started once and wait for jobs
//! themselves.

use std::cell::RefCell;
use std::sync::Arc;

use super::jobs::{Jobs, lock};
use super::phases::{Phase, Phases};
use super::pool::Pool;
use super::processors::Processors;
use super::region::{Membership, Region};
use super::sync::{Mutex, process};
use crate::error::Result;

/// A fixed set of threads.
pub struct Team {
    /// The threads beside the caller's; `None` for a team of one.
    pool: Option<Pool>,
    /// The process that started the threads: a forked child has none of them.
    process: u32,
    pub(super) jobs: Arc<Jobs>,
    /// Held by the region that lives. The phases, if they are measured.
    region: Mutex<Option<RefCell<Phases>>>,
}

impl Team {
    /// A team of `threads`, or of [`Processors::threads`] for 0. The threads have ended when the team has been dropped.
    ///
    /// # Errors
    /// If the operating system does not give the threads.
    pub fn new(threads: usize) -> Result<Team> {
        let threads = if threads == 0 { Processors::detect().threads() } else { threads };
        let jobs = Arc::new(Jobs::new(threads));
        let followed = Arc::clone(&jobs);
        let follow = move |thread| {
            let _membership = Membership::new(&followed);
            followed.follow(thread);
        };
        let pool = if threads == 1 { None } else { Some(Pool::start(threads, follow)?) };
        Ok(Team { pool, process: process(), jobs, region: Mutex::new(None) })
    }

    /// Number of threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.jobs.threads()
    }

    /// Runs `body` on the caller's thread, as the leader of the team. Regions of one team exclude each other.
    ///
    /// # Panics
    /// If `body` panics or a chunk of its work does, and directly inside another region of the same team. With a region of
    /// another team between the two it waits for ever.
    pub fn region<R>(&self, body: impl FnOnce(&Region<'_>) -> R) -> R {
        let _membership = Membership::new(&self.jobs);
        let phases = lock(&self.region);
        // SAFETY: the lock is held as long as the region lives.
        unsafe { Region::enter(&self.jobs, phases.as_ref(), body) }
    }
}

/// From now on, measures the phases of a team's regions, which costs two readings of the clock a phase and a chunk.
pub fn measure_phases(team: &Team) {
    *lock(&team.region) = Some(RefCell::new(Phases::new(team.threads())));
}

/// The phases since the last call, by name.
pub fn take_phases(team: &Team) -> Vec<Phase> {
    lock(&team.region).as_ref().map(|phases| phases.borrow_mut().take()).unwrap_or_default()
}

impl Drop for Team {
    fn drop(&mut self) {
        let Some(pool) = self.pool.take() else { return };
        if process() != self.process {
            // Nobody is there to end, and a lock may have been copied while a thread of the parent held it.
            std::mem::forget(pool);
            return;
        }
        self.jobs.close();
        pool.join();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

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
    fn phases_are_measured_by_name_and_thread_once_asked_for() {
        let team = Team::new(2).unwrap();
        let millisecond = Duration::from_millis(1);
        let pass = || {
            team.region(|region| {
                region.label("named");
                region.label("too late");
                region.run(4, |_| std::thread::sleep(millisecond));
                region.run(1, |_| std::thread::sleep(millisecond));
            });
        };
        pass();
        assert!(take_phases(&team).is_empty());
        measure_phases(&team);
        pass();
        pass();
        let phases = take_phases(&team);
        assert_eq!(phases.iter().map(|phase| phase.name).collect::<Vec<_>>(), ["named", "other"]);
        for (phase, chunks) in phases.iter().zip([8, 2]) {
            let busy: Duration = phase.busy.iter().sum();
            assert!(busy >= chunks * millisecond && 2 * phase.time >= busy, "{phase:?}");
            assert!(phase.busy.len() == 2 && phase.busy.iter().all(|&busy| busy <= phase.time), "{phase:?}");
        }
        assert!(take_phases(&team).is_empty());
    }

    #[test]
    fn scratch_belongs_to_one_thread_at_a_time() {
        let team = Team::new(3).unwrap();
        let mut sums = vec![0; team.threads()];
        team.region(|region| region.run_with(&mut sums, 0..1000, |sum, _, number| *sum += number));
        assert_eq!(sums.iter().sum::<usize>(), 999 * 1000 / 2);
    }
}
