//! What the phases of a team's passes take, by name and by thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The phases of one name.
#[derive(Clone, Debug)]
pub struct Phase {
    /// As given to [`Region::label`](super::Region::label), `other` without.
    pub name: &'static str,
    /// Time from handing out their work to its end.
    pub time: Duration,
    /// The part of it in which each thread had work; waiting is the rest.
    pub busy: Vec<Duration>,
}

/// The phases so far, and the clocks of the threads in the current one.
pub(super) struct Phases {
    phases: Vec<Phase>,
    /// Nanoseconds of work, by thread.
    clocks: Box<[AtomicU64]>,
}

impl Phases {
    /// None yet, for a team of `threads`.
    pub(super) fn new(threads: usize) -> Phases {
        Phases { phases: Vec::new(), clocks: (0..threads).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Hands out a job by `hand_out`, and adds its time.
    pub(super) fn measure(
        &mut self,
        name: &'static str,
        job: &(dyn Fn(usize, usize) + Sync),
        hand_out: impl FnOnce(&(dyn Fn(usize, usize) + Sync)),
    ) {
        let Phases { phases, clocks } = self;
        let started = Instant::now();
        hand_out(&|thread, chunk| {
            let started = Instant::now();
            job(thread, chunk);
            clocks[thread].fetch_add(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
        });
        let time = started.elapsed();
        let index = phases.iter().position(|phase| phase.name == name).unwrap_or_else(|| {
            phases.push(Phase { name, time: Duration::ZERO, busy: vec![Duration::ZERO; clocks.len()] });
            phases.len() - 1
        });
        let phase = &mut phases[index];
        phase.time += time;
        for (busy, clock) in phase.busy.iter_mut().zip(clocks) {
            *busy += Duration::from_nanos(clock.swap(0, Ordering::Relaxed));
        }
    }

    /// The phases so far, which begin anew.
    pub(super) fn take(&mut self) -> Vec<Phase> {
        std::mem::take(&mut self.phases)
    }
}
