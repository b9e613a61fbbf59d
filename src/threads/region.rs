//! The team at one thread's command: how work is handed out.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::ptr::null;

use super::divide::{Divide, Pieces};
use super::idle;
use super::jobs::Jobs;
use super::phases::Phases;
use super::sync::thread_local;

thread_local! {
    /// The team that this thread leads, or follows, at the moment.
    static TEAM: Cell<*const Jobs> = const { Cell::new(null()) };
}

/// Proof that the team is at the caller's command; hands out work.
///
/// It is neither [`Send`] nor [`Sync`]: a job is published by the thread that leads, between two chunks and never
/// inside one.
///
/// ```
/// # fn main() -> cinderblock::Result<()> {
/// let team = cinderblock::Team::new(2)?;
/// team.region(|region| region.run(8, |chunk| assert!(chunk < 8)));
/// # Ok(())
/// # }
/// ```
///
/// A chunk cannot hand out work:
///
/// ```compile_fail,E0277
/// # fn main() -> cinderblock::Result<()> {
/// let team = cinderblock::Team::new(2)?;
/// team.region(|region| region.run(8, |_| region.run(8, |chunk| assert!(chunk < 8))));
/// # Ok(())
/// # }
/// ```
///
/// Nor can another thread:
///
/// ```compile_fail,E0277
/// # fn main() -> cinderblock::Result<()> {
/// let team = cinderblock::Team::new(2)?;
/// team.region(|region| {
///     std::thread::scope(|scope| {
///         scope.spawn(|| region.run(8, |chunk| assert!(chunk < 8)));
///     });
/// });
/// # Ok(())
/// # }
/// ```
pub struct Region<'t> {
    jobs: &'t Jobs,
    phases: Option<&'t RefCell<Phases>>,
    /// Of the next phase.
    label: Cell<Option<&'static str>>,
    /// Makes it neither `Send` nor `Sync`.
    thread: PhantomData<*const ()>,
}

/// Notes the team of this thread until it is dropped.
pub(super) struct Membership(*const Jobs);

impl Membership {
    /// # Panics
    /// If this thread works for the team already: it would wait for itself.
    pub(super) fn new(jobs: &Jobs) -> Membership {
        assert!(
            TEAM.with(Cell::get) != &raw const *jobs,
            "a region of this team was asked for inside another of it"
        );
        Membership(TEAM.with(|team| team.replace(jobs)))
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        TEAM.with(|team| team.set(self.0));
    }
}

impl<'t> Region<'t> {
    /// Runs `body` as the leader of the team.
    ///
    /// # Safety
    /// No other region of the team lives.
    pub(super) unsafe fn enter<R>(
        jobs: &'t Jobs,
        phases: Option<&'t RefCell<Phases>>,
        body: impl FnOnce(&Region<'t>) -> R,
    ) -> R {
        let result = body(&Region { jobs, phases, label: Cell::new(None), thread: PhantomData });
        idle::rest();
        result
    }

    /// Number of threads that share the work.
    pub fn threads(&self) -> usize {
        self.jobs.threads()
    }

    /// Calls `job` once for every chunk below `chunks`, on any thread, and returns when all have finished.
    ///
    /// # Panics
    /// If a chunk panicked, after the others have finished.
    pub fn run(&self, chunks: usize, job: impl Fn(usize) + Sync) {
        self.start(chunks, |_, chunk| job(chunk));
    }

    /// Calls `job` with the index of each part and the part.
    ///
    /// # Panics
    /// As [`Region::run`].
    pub(crate) fn run_parts<D: Divide>(&self, parts: D, job: impl Fn(usize, D::Part) + Sync) {
        self.start(parts.parts(), |_, index| {
            // SAFETY: a chunk runs once, and `parts` is used for nothing else.
            job(index, unsafe { parts.part(index) });
        });
    }

    /// [`Region::run_parts`] for two kinds of parts, in one phase.
    pub(crate) fn run_both<A: Divide, B: Divide>(
        &self,
        (first, first_job): (A, impl Fn(usize, A::Part) + Sync),
        (second, second_job): (B, impl Fn(usize, B::Part) + Sync),
    ) {
        let count = first.parts();
        self.start(count + second.parts(), |_, chunk| match chunk.checked_sub(count) {
            // SAFETY: as `run_parts`.
            None => first_job(chunk, unsafe { first.part(chunk) }),
            // SAFETY: as `run_parts`.
            Some(chunk) => second_job(chunk, unsafe { second.part(chunk) }),
        });
    }

    /// [`Region::run_parts`] with scratch that a thread has for itself while it works on a part.
    ///
    /// # Panics
    /// As [`Region::run`], and if there is not scratch for each thread.
    pub(crate) fn run_with<S: Send, D: Divide>(
        &self,
        scratch: &mut [S],
        parts: D,
        job: impl Fn(&mut S, usize, D::Part) + Sync,
    ) {
        let threads = self.threads();
        assert!(scratch.len() >= threads, "scratch for {} of {threads} threads", scratch.len());
        let scratch = Pieces::new(scratch);
        self.start(parts.parts(), |thread, index| {
            // SAFETY: a thread runs one chunk at a time, and threads of a team have different numbers.
            let own = unsafe { scratch.piece(thread..thread + 1) };
            // SAFETY: as `run_parts`.
            job(&mut own[0], index, unsafe { parts.part(index) });
        });
    }

    /// Names the next phase where phases are measured, unless it has a name.
    pub fn label(&self, name: &'static str) {
        self.label.set(self.label.get().or(Some(name)));
    }

    fn start(&self, chunks: usize, job: impl Fn(usize, usize) + Sync) {
        let label = self.label.take();
        match self.phases {
            None => self.hand_out(chunks, &job),
            Some(phases) => {
                let hand_out = |job: &(dyn Fn(usize, usize) + Sync)| self.hand_out(chunks, job);
                phases.borrow_mut().measure(label.unwrap_or("other"), &job, hand_out);
            }
        }
    }

    fn hand_out(&self, chunks: usize, job: &(dyn Fn(usize, usize) + Sync)) {
        if chunks > 1 && self.threads() > 1 {
            // SAFETY: this is the team's only region, and it can be used neither by another thread nor inside a job,
            // which is `Sync`.
            unsafe { self.jobs.publish(chunks, job) };
        } else {
            (0..chunks).for_each(|chunk| job(0, chunk));
        }
    }
}
